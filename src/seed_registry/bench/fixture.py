"""Prepare the tables for a cell, run one load in a child process, and measure it."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import asyncpg
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from seed_registry.bench.environment import ServerCpu, checkpoint, find_server_cpu, wal_position
from seed_registry.bench.index_file import BenchIndex
from seed_registry.bench.results import COPY_MERGE, Cell, Job, Reply
from seed_registry.bench.scratch_schema import Scratch, leftovers, scratch_schema
from seed_registry.embedded.database import database
from seed_registry.errors import DatabaseRefused, SeedRegistryError
from seed_registry.postgres.connection import session
from seed_registry.postgres.pooler import is_pooled
from seed_registry.settings import DatabaseUrl, Settings

_COMMAND: Final = (sys.executable, "-m", "seed_registry.bench.child")
# The load before the reloads is not measured; it only has to be quick.
_PRIOR_BATCH_SIZE: Final = 2_000
_PRIOR_CONCURRENCY: Final = 2
# The server reaps a session's process some milliseconds after the session ended.
_REAPING_SECONDS: Final = 0.05


class Fixture(Struct, frozen=True, kw_only=True):
    """What a run needs; `directory` is temporary."""

    url: DatabaseUrl
    connection: asyncpg.Connection[Any]
    scratch: Scratch
    subject: BenchIndex
    settings: Settings
    batch_bytes: int
    directory: Path
    server_cpu: ServerCpu | None
    verbose: bool

    async def prepare_reloads(self) -> None:
        """Load the index once, so that reloads find its rows.

        Raises:
            SeedRegistryError: the load failed.
        """
        prior = Cell(COPY_MERGE, _PRIOR_BATCH_SIZE, _PRIOR_CONCURRENCY, None, self.subject.name)
        reply = await self._load(prior)
        if reply.run is None:
            raise SeedRegistryError(reply.failed or "the load before the reloads was not possible")
        await self.scratch.keep()

    async def measure(self, cell: Cell) -> Reply:
        """One run of a cell, from a state that is the same every time."""
        if cell.changed is None:
            await self.scratch.empty()
        else:
            await self.scratch.refill(cell.changed)
        await checkpoint(self.connection)
        wal, cpu = await wal_position(self.connection), await self._server_cpu_seconds()
        reply = await self._load(cell)
        if reply.run is None:
            return reply
        wal_bytes = _difference(await wal_position(self.connection), wal)
        cpu_seconds = _difference(await self._server_cpu_seconds(), cpu)
        return Reply(run=replace(reply.run, wal_bytes=wal_bytes, server_cpu_seconds=cpu_seconds))

    async def _load(self, cell: Cell) -> Reply:
        job = Job(
            database_url=self.url.reveal,
            is_embedded=self.url.is_embedded,
            schema=self.scratch.name,
            index=os.fsencode(self.subject.path),
            rejects=str(self.directory / f"rejects.{secrets.token_hex(4)}"),
            strategy=cell.strategy,
            batch_size=cell.batch_size,
            batch_bytes=self.batch_bytes,
            concurrency=cell.concurrency,
            dialect=self.settings.dialect,
            domain=self.settings.domain,
            records_at=self.settings.records_at,
        )
        # In a session of its own: Ctrl-C reaches only this process, and a cancelled wait kills the child.
        done = await anyio.run_process(
            _COMMAND,
            input=msgspec.json.encode(job),
            stderr=None if self.verbose else subprocess.DEVNULL,
            check=False,
            start_new_session=True,
        )
        _forget(job.rejects)
        if done.returncode:
            return Reply(
                failed=f"the loading process ended with code {done.returncode}; --verbose shows its last words"
            )
        return msgspec.json.decode(done.stdout, type=Reply)

    async def _server_cpu_seconds(self) -> float | None:
        if self.server_cpu is None:
            return None
        await anyio.sleep(_REAPING_SECONDS)
        return self.server_cpu.seconds()


@asynccontextmanager
async def open_fixture(
    subject: BenchIndex, settings: Settings, batch_bytes: int, tell: Callable[[str], None], *, verbose: bool
) -> AsyncIterator[Fixture]:
    """Open a session and a scratch schema, which is dropped at the end.

    Raises:
        DatabaseRefused: a pooler is in front of the database, or the role may not create schemas.
        SeedRegistryError: as for a load.
    """
    async with database(settings) as url, session(url) as connection:
        if is_pooled(connection):
            raise DatabaseRefused("bench needs sessions of its own: name the database itself, not a pooler before it")
        for name in await leftovers(connection):
            tell(f'left by a bench that was killed; to be rid of it: drop schema "{name}" cascade')
        server_cpu = await find_server_cpu(connection)
        with tempfile.TemporaryDirectory(prefix="seed-registry-bench-") as directory:
            async with scratch_schema(url, connection, tell) as scratch:
                yield Fixture(
                    url=url,
                    connection=connection,
                    scratch=scratch,
                    subject=subject,
                    settings=settings,
                    batch_bytes=batch_bytes,
                    directory=Path(directory),
                    server_cpu=server_cpu,
                    verbose=verbose,
                )


def _forget(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _difference(after: Any, before: Any) -> Any:
    return None if after is None or before is None else after - before
