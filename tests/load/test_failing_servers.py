"""Servers that are sick: full, locked, refusing everything, or forgetful after a crash; no record pays for it."""
# ruff: noqa: ASYNC240  # small files, and nothing else waits

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import asyncpg
import pytest

from seed_registry import ingest
from seed_registry.errors import CommitsLost, DatabaseRefused, DatabaseUnavailable
from seed_registry.report import Report, Tally
from seed_registry.settings import DatabaseUrl, Settings
from seed_registry.synthetic.index import Workload, generate

RECORDS = 1_500
REFUSING = """
create function registry.refuse() returns trigger language plpgsql as
$$ begin raise exception 'not today' using errcode = '22023'; end $$;
create trigger refusing before insert or update on registry.assets for each row execute function registry.refuse();
"""
OWN_SESSIONS = "application_name = 'seed-registry' and datname = current_database()"


class Told:
    """Remembers what happens; at the n-th time of an event something is done, and waited for in `done`."""

    def __init__(self, event: str = "", number: int = 1, action: Callable[[], Any] | None = None) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.done: list[asyncio.Task[Any]] = []
        self._wanted = (event, number, action)

    def began(self, tally: Tally) -> None:
        """The load begins."""
        self.tally = tally

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Something happened."""
        self.events.append((event, fields))
        wanted, number, action = self._wanted
        if event == wanted and len(self.of(event)) == number and action is not None:
            done = action()
            if done is not None:
                self.done.append(asyncio.ensure_future(done))

    def of(self, event: str) -> list[dict[str, Any]]:
        """What was told of these."""
        return [fields for name, fields in self.events if name == event]


def at_once(url: DatabaseUrl, statement: str) -> None:
    """Done by somebody else while the loader's event loop stands still."""

    async def done() -> None:
        connection = await asyncpg.connect(url.reveal)
        await connection.execute(statement)
        await connection.close()

    thread = Thread(target=lambda: asyncio.run(done()))
    thread.start()
    thread.join()


@pytest.fixture
def index(tmp_path: Path) -> str:
    path = tmp_path / "index.ndjson"
    workload = Workload(records=RECORDS, size=1_200, format="ndjson", dialect="discovery")
    path.write_bytes(b"".join(generate(workload)))
    return str(path)


async def load(url: DatabaseUrl, index: str, told: Told | None = None, **settings: Any) -> Report:
    options: dict[str, Any] = {"batch_size": 50, "retry_for_seconds": 20, "rejects": f"{index}.rejects"} | settings
    return await ingest([index], Settings(database_url=url, **options), told)


@pytest.fixture
def limited(plain_connection: asyncpg.Connection[Any], database_url: DatabaseUrl) -> Iterator[tuple[DatabaseUrl, str]]:
    """The database for a role that is no superuser, and that role."""
    role = f"limited_{os.urandom(4).hex()}"
    return DatabaseUrl(re.sub(r"//[^/]*@", f"//{role}@", database_url.reveal)), role  # type: ignore[return-value]


async def grant(connection: asyncpg.Connection[Any], role: str, connections: int) -> None:
    await connection.execute(f"create role {role} login superuser connection limit {connections}")
    # A superuser is let in beyond any limit.
    await connection.execute(f"alter role {role} nosuperuser")
    await connection.execute(f"grant all on schema registry, seed_registry to {role}")
    await connection.execute(f"grant all on all tables in schema registry, seed_registry to {role}")


@pytest.mark.anyio
async def test_a_server_that_refuses_every_record_stops_the_load_and_rejects_none(
    plain_connection: asyncpg.Connection[Any], database_url: DatabaseUrl, index: str
) -> None:
    await plain_connection.execute(REFUSING)
    with pytest.raises(DatabaseRefused, match=r"refuses every record: not today \(SQLSTATE 22023\)") as refused:
        await load(database_url, index)
    assert refused.value.sqlstate == "22023"
    assert not Path(f"{index}.rejects").exists()
    await plain_connection.execute("drop trigger refusing on registry.assets")
    assert (await load(database_url, index)).assets.rejected == 0


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_server_that_falls_sick_during_the_load_stops_it_and_the_same_call_finishes(
    plain_connection: asyncpg.Connection[Any], database_url: DatabaseUrl, index: str
) -> None:
    told = Told("batch_merged", 3, lambda: plain_connection.execute(REFUSING))
    with pytest.raises(DatabaseRefused, match="refuses every record"):
        await load(database_url, index, told, batch_size=10)
    assert not Path(f"{index}.rejects").exists()
    await plain_connection.execute("drop trigger refusing on registry.assets")
    report = await load(database_url, index)
    assert report.assets.resumed > 0
    assert report.assets.read == RECORDS == await plain_connection.fetchval("select count(*) from registry.assets")


@pytest.mark.anyio
async def test_a_source_that_the_database_refuses_stops_the_load_and_is_named(
    plain_connection: asyncpg.Connection[Any], database_url: DatabaseUrl, index: str
) -> None:
    await plain_connection.execute("alter table registry.sources add check (source_key !~ 'austin')")
    with pytest.raises(DatabaseRefused, match=r"the source data\.austin\.example of its assets is refused: "):
        await load(database_url, index)


@pytest.mark.anyio
async def test_a_defect_of_our_own_is_not_taken_for_the_records_fault(
    database_url: DatabaseUrl, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> int:
        raise TypeError("a defect")

    monkeypatch.setattr(asyncpg.Connection, "copy_records_to_table", broken)
    with pytest.raises(DatabaseRefused, match="refuses every record: it cannot be sent: TypeError"):
        await load(database_url, index)
    assert not Path(f"{index}.rejects").exists()


@pytest.mark.anyio
async def test_a_server_with_too_few_connections_gets_as_many_workers_as_it_has_room_for(
    plain_connection: asyncpg.Connection[Any], limited: tuple[DatabaseUrl, str], index: str
) -> None:
    url, role = limited
    await grant(plain_connection, role, 3)
    told = Told()
    try:
        report = await load(url, index, told, concurrency=6)
    finally:
        await plain_connection.execute(f"drop owned by {role}")
        await plain_connection.execute(f"drop role {role}")
    (fewer,) = told.of("fewer_workers")
    assert (fewer["workers"], fewer["wanted"]) == (2, 6)
    assert report.assets.inserted == RECORDS


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_server_that_is_full_at_the_beginning_is_waited_for(
    plain_connection: asyncpg.Connection[Any], limited: tuple[DatabaseUrl, str], index: str
) -> None:
    url, role = limited
    await grant(plain_connection, role, 0)
    told = Told("retrying", 2, lambda: plain_connection.execute(f"alter role {role} connection limit 9"))
    try:
        report = await load(url, index, told)
        await plain_connection.execute(f"alter role {role} connection limit 0")
        with pytest.raises(DatabaseUnavailable, match="too many connections"):
            await load(url, index, retry_for_seconds=0)
    finally:
        await plain_connection.execute(f"drop owned by {role}")
        await plain_connection.execute(f"drop role {role}")
    assert report.retries >= 2
    assert report.assets.inserted == RECORDS


@pytest.mark.anyio
async def test_batches_that_a_crash_took_back_are_loaded_again(
    plain_connection: asyncpg.Connection[Any], database_url: DatabaseUrl, index: str
) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)

    async def crash() -> None:
        """What a crash leaves of a server that does not wait for its disk: nothing of the last transactions."""
        await plain_connection.execute(
            "delete from registry.assets; delete from seed_registry.checkpoints; "
            f"select pg_terminate_backend(pid) from pg_stat_activity where {OWN_SESSIONS}"
        )

    told = Told("batch_merged", 8, crash)
    report = await load(database_url, index, told, batch_size=20)
    await asyncio.gather(*told.done)
    assert len(told.of("run_restarted")) == 1
    assert report.assets.read == RECORDS == await plain_connection.fetchval("select count(*) from registry.assets")
    assert report.verification
    assert report.verification.passed


@pytest.mark.anyio
async def test_a_loss_that_no_worker_met_is_noticed_before_the_index_is_said_to_be_loaded(
    plain_connection: asyncpg.Connection[Any], database_url: DatabaseUrl, index: str
) -> None:
    taken = "with gone as (delete from seed_registry.checkpoints returning 1) delete from registry.assets"
    told = Told("batch_merged", RECORDS // 50, lambda: at_once(database_url, taken))
    with pytest.raises(CommitsLost, match="lacks batches that it had confirmed"):
        await load(database_url, index, told, resume=False, concurrency=1)
    report = await load(database_url, index)
    assert report.assets.read == RECORDS == await plain_connection.fetchval("select count(*) from registry.assets")


@pytest.mark.slow
@pytest.mark.anyio
async def test_who_holds_a_lock_for_too_long_is_named(
    plain_connection: asyncpg.Connection[Any], database_url: DatabaseUrl, index: str
) -> None:
    told = Told()
    pid = plain_connection.get_server_pid()
    async with plain_connection.transaction():
        await plain_connection.execute("lock table registry.assets in share mode")
        with pytest.raises(DatabaseRefused, match=rf"pid {pid} \(.*, idle in transaction\) holds one") as refused:
            await load(database_url, index, told, io_timeout_seconds=1, retry_for_seconds=2)
    assert refused.value.sqlstate == "55P03"
    assert any(f"pid {pid}" in fields.get("blocked_by", "") for fields in told.of("retrying"))
    assert (await load(database_url, index)).assets.inserted == RECORDS
