"""Running: the whole grid, its cells taking turns.

What a machine does beside a bench changes over the minutes. So the cells are not measured one after the other: every
round measures each of them once.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from msgspec import Struct, field

from seed_registry.bench.child import Reply
from seed_registry.bench.environment import collect_environment, find_server_cpu
from seed_registry.bench.fixture import Fixture
from seed_registry.bench.grid import Grid, impossible
from seed_registry.bench.index_file import BenchIndex
from seed_registry.bench.labels import Tell, described
from seed_registry.bench.results import Cell, CellResult, GridFacts, Measurement, Results, summarised
from seed_registry.bench.scratch_schema import leftovers, scratch_schema
from seed_registry.embedded.database import database
from seed_registry.errors import DatabaseRefused, SeedRegistryError
from seed_registry.index.inputs import IndexRef
from seed_registry.index.open import read_index
from seed_registry.postgres.connection import session
from seed_registry.postgres.errors import CONNECTION_ERRORS, to_our_error
from seed_registry.postgres.pooler import is_pooled
from seed_registry.settings import DatabaseUrl, Settings

# What ends all measuring and not only that of a cell: the server or the bench's own session is gone.
_LOST: Final = (*CONNECTION_ERRORS, SeedRegistryError)


async def run(subject: BenchIndex, grid: Grid, settings: Settings, tell: Tell, *, verbose: bool = False) -> Results:
    """Measure every cell of the grid.

    Args:
        subject: what to load.
        grid: how.
        settings: `database_url`, `dialect`, `domain` and `records_at` of the loads.
        tell: is told a line for each run; nothing in it is escaped.
        verbose: let the tracebacks of the loads through to stderr.

    Raises:
        SeedRegistryError: nothing can be measured at all. A failure after something was measured is told in its cell.
    """
    async with read_index(IndexRef.of(subject.path), settings) as reader:
        dialect = reader.dialect.name
    async with database(settings) as url, session(url) as connection:
        if is_pooled(connection):
            raise DatabaseRefused("bench needs sessions of its own: name the database itself, not a pooler before it")
        for name in await leftovers(connection):
            tell(f'left by a bench that was killed; to be rid of it: drop schema "{name}" cascade')
        server_cpu = await find_server_cpu(connection)
        shown = "embedded server" if url.is_embedded else str(url)
        environment = await collect_environment(connection, shown, server_cpu)
        with tempfile.TemporaryDirectory(prefix="seed-registry-bench-") as directory:
            async with scratch_schema(url, connection, tell) as scratch:
                stand = Fixture(
                    url=url,
                    connection=connection,
                    scratch=scratch,
                    subject=subject,
                    settings=settings,
                    batch_bytes=grid.batch_bytes,
                    directory=Path(directory),
                    server_cpu=server_cpu,
                    verbose=verbose,
                )
                cells = await _Rounds(stand, grid, subject, tell).measured(url)
    facts = GridFacts(
        index=subject.name,
        dialect=dialect,
        index_bytes=subject.size_bytes(),
        batch_sizes=grid.batch_sizes,
        concurrencies=grid.concurrencies,
        strategies=grid.strategies,
        changed=grid.changed,
        repeat=grid.repeat,
        batch_bytes=grid.batch_bytes,
    )
    return Results(environment, facts, cells)


class _Course(Struct):
    """What became of a cell so far."""

    runs: list[Measurement] = field(default_factory=list)
    skipped: str | None = None
    failed: str | None = None


class _Rounds:
    """All cells, `repeat` times."""

    def __init__(self, stand: Fixture, grid: Grid, subject: BenchIndex, tell: Tell) -> None:
        self._stand = stand
        self._grid = grid
        self._tell = tell
        self._courses = {cell: _Course(skipped=impossible(cell)) for cell in grid.cells(subject.name)}
        self._turns = grid.repeat * sum(course.skipped is None for course in self._courses.values())
        self._left_behind: str | None = None

    async def measured(self, url: DatabaseUrl) -> list[CellResult]:
        """The results, in the grid's order.

        Raises:
            SeedRegistryError: the first cell failed, and so would all others.
        """
        try:
            await self._measure()
        except _LOST as exc:
            reason = exc if isinstance(exc, SeedRegistryError) else to_our_error(exc, url)
            if not self._anything():
                raise reason from exc
            self._tell(f"the bench ends early: {reason}")
            for course in self._courses.values():
                if course.skipped is None and len(course.runs) < self._grid.repeat:
                    course.failed = course.failed or str(reason)
        return [
            summarised(cell, course.runs, skipped=course.skipped, failed=course.failed)
            for cell, course in self._courses.items()
        ]

    async def _measure(self) -> None:
        if any(cell.changed is not None for cell in self._courses):
            self._tell("loading once what the reloads will find")
            await self._stand.prepare_reloads()
        turn = 0
        for _ in range(self._grid.repeat):
            for cell, course in self._courses.items():
                if impossible(cell):
                    continue
                turn += 1
                if course.skipped is None and course.failed is None:
                    outcome = await self._take(cell, course)
                    self._tell(f"[{turn}/{self._turns}] {described(cell)}: {outcome}")

    async def _take(self, cell: Cell, course: _Course) -> str:
        """One run of a cell; what is to be told of it."""
        reply = await self._stand.measure(cell)
        if reply.run is not None:
            reply = self._checked(reply, await self._stand.scratch.fingerprint())
        if reply.failed is not None and not self._anything():
            raise SeedRegistryError(reply.failed)
        course.skipped, course.failed = reply.skipped, reply.failed
        if reply.run is None:
            return f"skipped: {reply.skipped}" if reply.skipped else f"FAILED: {reply.failed}"
        course.runs.append(reply.run)
        return f"{reply.run.records / reply.run.seconds:,.0f} records/s"

    def _checked(self, reply: Reply, left_behind: str) -> Reply:
        """A load that does not leave what the others leave is not measured but wrong."""
        self._left_behind = self._left_behind or left_behind
        if left_behind == self._left_behind:
            return reply
        return Reply(failed=f"it left other rows than the first run: {left_behind} instead of {self._left_behind}")

    def _anything(self) -> bool:
        return any(course.runs for course in self._courses.values())
