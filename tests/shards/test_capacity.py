"""How many processes a load gets, and what it says where it cannot have any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest

from seed_registry import DatabaseRefused, Settings
from seed_registry.index.inputs import resolve
from seed_registry.index.open import read_index
from seed_registry.load.context import RunContext
from seed_registry.postgres import process_budget
from seed_registry.registry.introspection import introspect
from seed_registry.report import Database, Silent
from seed_registry.settings import AUTO, DatabaseUrl
from seed_registry.shards.capacity import count_processes
from seed_registry.shards.context import WorkerContext
from seed_registry.shards.tasks import Job

pytestmark = pytest.mark.anyio
_LOCAL = Database(host="/run", port=5432, name="db", user="u", server="18", embedded=False)
_REMOTE = Database(host="db.example", port=5432, name="db", user="u", server="18", embedded=False)


class _Told(Silent):
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Keep the event."""
        del level
        self.events.append((event, fields))


def _context(tmp_path: Path, progress: Silent | None = None, **settings: Any) -> RunContext:
    path = tmp_path / "index.ndjson"
    path.write_text('{"type": "asset", "asset_key": "a", "source_key": "s"}\n' * 3000, encoding="utf-8")
    return RunContext(resolve(str(path)), Settings(**settings), progress or Silent(), read_index)


@pytest.mark.parametrize(("database", "count"), [(_LOCAL, 4), (_REMOTE, 8)])
async def test_a_server_on_this_machine_keeps_half_of_the_cores(
    connection: asyncpg.Connection[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    database: Database,
    count: int,
) -> None:
    monkeypatch.setattr(process_budget, "cores", lambda: 8)
    assert await count_processes(connection, _context(tmp_path, processes=AUTO), database) == count


@pytest.fixture
async def limited_role(connection: asyncpg.Connection[Any]) -> Any:
    """A role that may have 20 sessions."""
    await connection.execute("create role twenty login connection limit 20")
    yield "twenty"
    await connection.execute("drop owned by twenty; drop role twenty")


async def test_a_server_without_room_is_loaded_with_less(
    connection: asyncpg.Connection[Any], database_url: DatabaseUrl, tmp_path: Path, limited_role: str
) -> None:
    url = database_url.reveal.replace("//registry@", f"//{limited_role}@")
    limited = await asyncpg.connect(url)
    try:
        told = _Told()
        # Of 20 sessions one is this, two are the run's own: five workers of three sessions each fit.
        assert await count_processes(limited, _context(tmp_path, told, processes=9), None) == 5
        assert told.events[0][0] == "fewer_workers"
        with pytest.raises(DatabaseRefused, match="with fewer --processes or a smaller --concurrency"):
            await count_processes(limited, _context(tmp_path, processes=9, concurrency=30), None)
        assert await count_processes(limited, _context(tmp_path, processes=2, concurrency=4), None) == 2
    finally:
        await limited.close()


@pytest.mark.slow
async def test_a_worker_waits_until_another_one_has_closed_its_sessions(
    connection: asyncpg.Connection[Any], database_url: DatabaseUrl, tmp_path: Path, limited_role: str, cli: Any
) -> None:
    run = _context(tmp_path)
    assert cli("load", run.indexes[0].path, url=database_url).returncode == 0  # creates the ledger
    await connection.execute(f"grant registry to {limited_role}")
    url = DatabaseUrl(database_url.reveal.replace("//registry@", f"//{limited_role}@"))
    tables = await introspect(connection, run.settings.columns, run.settings.schema)
    job = Job(run.run_id, run.settings, list(run.indexes), url, is_empty=False, salt=tables.salt, parent=0)
    worker = WorkerContext(job)
    await worker.open()
    others = [await asyncpg.connect(url.reveal) for _ in range(19)]  # with that of the worker all that there may be
    is_open = False

    async def write() -> None:
        nonlocal is_open
        async with worker.open_writer():
            is_open = True

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(write)
            with anyio.fail_after(20):
                while not worker.run.tally.retries:  # noqa: ASYNC110  # there is no event
                    await anyio.sleep(0.01)
            assert not is_open
            await others.pop().close()
        assert is_open
    finally:
        for other in others:
            await other.close()
        await worker.close()


@pytest.mark.slow
async def test_a_role_without_the_tables_of_shards_is_granted_them(
    connection: asyncpg.Connection[Any], database_url: DatabaseUrl, tmp_path: Path, cli: Any
) -> None:
    lines = [{"type": "asset", "asset_key": f"k{n}", "source_key": "s.example", "name": "x" * 200} for n in range(1000)]
    path = tmp_path / "index.ndjson"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert cli("load", path, url=database_url).returncode == 0  # creates the ledger
    await connection.execute("create role loader login")
    await connection.execute(
        "grant usage on schema registry, seed_registry to loader; "
        "grant select, insert, update on registry.sources, registry.assets to loader; "
        "grant select, insert, update, delete on seed_registry.runs, seed_registry.checkpoints to loader"
    )
    url = DatabaseUrl(database_url.reveal.replace("//registry@", "//loader@"))
    options = ("--processes", 2, "--shard-bytes", "64KiB", "--json")
    try:
        refused = cli("load", path, *options, url=url)
        assert refused.returncode == 1
        assert b"seed-registry schema grants ROLE" in refused.stderr
        assert cli("load", path, "--json", url=url).returncode == 0  # one process needs none of it
        granted = cli("schema", "grants", "loader", url=database_url).stdout.decode()
        database = await connection.fetchval("select current_database()")
        await connection.execute(granted.replace(':"DBNAME"', database))
        assert cli("load", path, *options, url=url).returncode == 0
    finally:
        await connection.execute("drop owned by loader; drop role loader")
