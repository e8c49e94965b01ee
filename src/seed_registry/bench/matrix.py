"""Measure all cells of a grid in rounds.

The load of a machine changes over the minutes. So the cells are not measured one after the other: every round measures
each of them once.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct, field

from seed_registry.bench.environment import collect_environment
from seed_registry.bench.fixture import Fixture, open_fixture
from seed_registry.bench.grid import Grid, impossible
from seed_registry.bench.index_file import BenchIndex
from seed_registry.bench.labels import Tell, described
from seed_registry.bench.results import Cell, CellResult, GridFacts, Measurement, Reply, Results, summarised
from seed_registry.errors import SeedRegistryError
from seed_registry.postgres.errors import to_our_error
from seed_registry.postgres.failures import CONNECTION_ERRORS
from seed_registry.settings import DatabaseUrl, Settings

# These end the bench and not only a cell: the server or the bench's own session is gone.
_LOST: Final = (*CONNECTION_ERRORS, SeedRegistryError)


async def run(subject: BenchIndex, grid: Grid, settings: Settings, tell: Tell, *, verbose: bool = False) -> Results:
    """Measure every cell of the grid.

    Args:
        subject: what to load.
        grid: how.
        settings: `database_url`, `dialect`, `domain` and `records_at` of the loads.
        tell: receives a line for each run; nothing in it is escaped.
        verbose: let the tracebacks of the loads through to stderr.

    Raises:
        SeedRegistryError: nothing can be measured. A failure after something was measured is in the result of its cell.
    """
    dialect = await subject.detect_dialect(settings)
    async with open_fixture(subject, settings, grid.batch_bytes, tell, verbose=verbose) as fixture:
        shown = "embedded server" if fixture.url.is_embedded else str(fixture.url)
        environment = await collect_environment(fixture.connection, shown, fixture.server_cpu)
        cells = await _Rounds(fixture, grid, subject, tell).measured(fixture.url)
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


class _CellProgress(Struct):
    """The runs of a cell so far."""

    runs: list[Measurement] = field(default_factory=list)
    skipped: str | None = None
    failed: str | None = None


class _Rounds:
    """All cells, `repeat` times."""

    def __init__(self, fixture: Fixture, grid: Grid, subject: BenchIndex, tell: Tell) -> None:
        self._fixture = fixture
        self._grid = grid
        self._tell = tell
        self._progress = {cell: _CellProgress(skipped=impossible(cell)) for cell in grid.cells(subject.name)}
        self._turns = grid.repeat * sum(progress.skipped is None for progress in self._progress.values())
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
            for progress in self._progress.values():
                if progress.skipped is None and len(progress.runs) < self._grid.repeat:
                    progress.failed = progress.failed or str(reason)
        return [
            summarised(cell, progress.runs, skipped=progress.skipped, failed=progress.failed)
            for cell, progress in self._progress.items()
        ]

    async def _measure(self) -> None:
        if any(cell.changed is not None for cell in self._progress):
            self._tell("loading once what the reloads will find")
            await self._fixture.prepare_reloads()
        turn = 0
        for _ in range(self._grid.repeat):
            for cell, progress in self._progress.items():
                if impossible(cell):
                    continue
                turn += 1
                if progress.skipped is None and progress.failed is None:
                    outcome = await self._take(cell, progress)
                    self._tell(f"[{turn}/{self._turns}] {described(cell)}: {outcome}")

    async def _take(self, cell: Cell, progress: _CellProgress) -> str:
        """Run a cell once; return its outcome in words."""
        reply = await self._fixture.measure(cell)
        if reply.run is not None:
            reply = self._checked(reply, await self._fixture.scratch.fingerprint())
        if reply.failed is not None and not self._anything():
            raise SeedRegistryError(reply.failed)
        progress.skipped, progress.failed = reply.skipped, reply.failed
        if reply.run is None:
            return f"skipped: {reply.skipped}" if reply.skipped else f"FAILED: {reply.failed}"
        progress.runs.append(reply.run)
        return f"{reply.run.records / reply.run.seconds:,.0f} records/s"

    def _checked(self, reply: Reply, left_behind: str) -> Reply:
        """Return a failure instead if the load left other rows than the first one did."""
        self._left_behind = self._left_behind or left_behind
        if left_behind == self._left_behind:
            return reply
        return Reply(failed=f"it left other rows than the first run: {left_behind} instead of {self._left_behind}")

    def _anything(self) -> bool:
        return any(progress.runs for progress in self._progress.values())
