"""Ground: a server of its own, its registry put into the state that a load begins with, and programs measured there.

The server is set up as `seed-registry` sets up the embedded one, with one exception: autovacuum is off, for it would
fall into one load and not into another. What it would have done by the next day is done between a load and its reload.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import asyncpg
from msgspec import Struct

from seed_registry.bench.environment import ServerCpu, collect_environment, find_server_cpu, wal_position
from seed_registry.bench.results import Environment
from servers import EMBEDDED, running

Command = Sequence[str | Path]

_LAUNCHER = Path(__file__).with_name("launching.py")
_DATABASE = {"DATABASE_URL", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE"}
_SETTLE_SECONDS = 0.05  # after a session's end its process still has to be buried by the server
# Everything that any of the programs makes: this one's tables and ledger, and dlt's.
_SCHEMAS = "registry, seed_registry, dlt_registry, dlt_registry_staging"
# `raw` of a table that was there before, with no compression method of its own: pglz, unless a session says otherwise.
_OTHERS_RAW = """
alter table registry.assets alter column raw set compression default, alter column raw set storage extended,
  alter column description set storage extended, reset (toast_tuple_target)
"""
# Row by row, for no aggregate may be larger than 1 GB.
_FINGERPRINT = """
select md5(string_agg(md5((asset_key, name, description, url, updated_at, raw)::text), '' order by asset_key))
from {table}
"""


class Measurement(Struct, frozen=True):
    """What a load took, all its processes together.

    `seconds` is from starting the programs to the end of the last; `own_seconds` what the program itself says, which
    leaves its start out. `server_cpu` is None where the server's processes cannot be seen.
    """

    seconds: float
    own_seconds: float
    client_cpu: float
    server_cpu: float | None
    wal_bytes: int
    peak_bytes: int
    report: dict[str, Any]


class Ground:
    """The server and one session to look after it."""

    def __init__(
        self, server: str, url: str, connection: asyncpg.Connection[Any], cpu: ServerCpu | None, directory: Path
    ) -> None:
        self.server = server
        self.url = url
        self.directory = directory
        self._environment = _environment(url, directory)
        self._connection = connection
        self._cpu = cpu

    async def empty(self, apply: Command, *, others_raw: bool = False) -> None:
        """A registry as on the first day, nothing of the last load left to write out.

        `apply` is what makes the tables: a program's `schema apply`. With `others_raw` their `raw` is then altered to
        what a table has that this program did not make: Postgres' own default compression.
        """
        await self._connection.execute(f"drop schema if exists {_SCHEMAS} cascade")
        environment = dict(self._environment)
        if self.server == EMBEDDED:
            # A program that is told of no other takes the embedded one, and may make other tables there than elsewhere.
            environment = {name: environment[name] for name in environment if name not in _DATABASE}
        await asyncio.to_thread(
            subprocess.run, apply, env=environment, cwd=self.directory, stdout=subprocess.DEVNULL, check=True
        )
        if others_raw:
            await self._connection.execute(_OTHERS_RAW)
        await self._connection.execute("checkpoint")

    async def settle(self) -> None:
        """A registry as on the day after a load."""
        await self._connection.execute("vacuum (analyze) registry.assets")
        await self._connection.execute("vacuum (analyze) registry.sources")
        await self._connection.execute("checkpoint")

    async def add_sources(self, rows: Sequence[Sequence[Any]]) -> None:
        """Insert (provider, source_key, name, url, raw) for those that load assets only; ids count from 1."""
        await self._connection.executemany(
            "insert into registry.sources (provider, source_key, name, url, raw) values ($1, $2, $3, $4, $5)", rows
        )

    async def count(self, table: str) -> int:
        """How many rows there are."""
        return int(await self._connection.fetchval(f"select count(*) from {table}"))

    async def table_bytes(self, table: str) -> int:
        """The size of a table on disk, with its indexes and what lies out of line."""
        return int(await self._connection.fetchval(f"select pg_total_relation_size('{table}')"))

    async def fingerprint(self, table: str) -> str:
        """The same for the same assets, whoever loaded them."""
        return str(await self._connection.fetchval(_FINGERPRINT.format(table=table)))

    async def collect_environment(self) -> Environment:
        """Machine and server."""
        return await collect_environment(self._connection, self.server, self._cpu)

    async def measure(self, commands: Sequence[Command]) -> Measurement:
        """Run the programs side by side; a failure of theirs ends the benchmark with their last words."""
        wal, cpu = await wal_position(self._connection), self._cpu_seconds()
        used, output = await self._launch(commands)
        await asyncio.sleep(_SETTLE_SECONDS)
        wal_now, cpu_now = await wal_position(self._connection), self._cpu_seconds()
        assert wal is not None
        assert wal_now is not None
        report: dict[str, Any] = json.loads(output) if output.startswith(b"{") else {}
        return Measurement(
            seconds=used["seconds"],
            own_seconds=report.get("seconds", used["seconds"]),
            client_cpu=used["client_cpu"],
            server_cpu=None if cpu is None or cpu_now is None else cpu_now - cpu,
            wal_bytes=wal_now - wal,
            peak_bytes=used["peak_bytes"],
            report=report,
        )

    def _cpu_seconds(self) -> float | None:
        return None if self._cpu is None else self._cpu.seconds()

    async def _launch(self, commands: Sequence[Command]) -> tuple[dict[str, Any], bytes]:
        result = self.directory / "used.json"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", _LAUNCHER, result, json.dumps(commands, default=str)),
            env=self._environment,
            cwd=self.directory,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, complaints = await process.communicate()
        if process.returncode:
            sys.exit(f"{commands[0][0]} ended with {process.returncode}:\n{complaints.decode()[-2_000:]!a}")
        used: dict[str, Any] = json.loads(result.read_text("ascii"))
        return used, output


@asynccontextmanager
async def fresh_ground(server: str = EMBEDDED) -> AsyncIterator[Ground]:
    """A server and a directory, gone afterwards."""
    with _directory() as directory, running(server, directory) as url:
        connection = await asyncpg.connect(url)
        await connection.execute("alter system set autovacuum = off")
        await connection.execute("select pg_reload_conf()")
        yield Ground(server, url, connection, await find_server_cpu(connection), directory)
        await connection.close()


@contextmanager
def _directory() -> Iterator[Path]:
    # In the temporary directory, not below a home: as root the server's own user has to reach it.
    with tempfile.TemporaryDirectory(prefix="sr-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        yield directory


def _environment(url: str, directory: Path) -> Mapping[str, str]:
    """Of all programs: where the server is, by DATABASE_URL and for psql; without settings of the user's."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    # Of PYTHON* one that forbids to keep compiled modules would have every start of a program compile them.
    dropped = ("PG", "PYTHON", "SEED_REGISTRY_")
    others = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return others | {
        "DATABASE_URL": url,
        "SEED_REGISTRY_HOME": str(directory / "home"),
        "PGHOST": query["host"],
        "PGPORT": query["port"],
        "PGUSER": parts.username or "",
        "PGDATABASE": parts.path[1:],
    }
