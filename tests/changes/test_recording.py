"""What a run with history records: each change once, in the transaction that makes it, and none that was not made."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import asyncpg
import pytest
from scratch import KilledAt, Scratch, as_role
from site_of_assets import A, B, Killed, asset, assets, source

from conftest import make_asset
from seed_registry.errors import DatabaseRefused
from seed_registry.registry.batch import Batch
from seed_registry.registry.change_records import ChangeRecords
from seed_registry.registry.digest import digest
from seed_registry.registry.introspection import introspect
from seed_registry.registry.merge import Merger
from seed_registry.settings import DatabaseUrl

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]


@pytest.fixture
async def scratch(emptied_url: DatabaseUrl, tmp_path: Path) -> Scratch:
    """The test's own registry."""
    scratch = Scratch(emptied_url, tmp_path)
    await scratch.empty()
    return scratch


async def test_one_entry_stands_for_all_assets_of_a_first_load(scratch: Scratch) -> None:
    report = await scratch.load(scratch.write(*assets(range(40)), *assets(range(5))))
    rows = "select kind, rows, asset_key, fields, before from seed_registry.changes where relation = 'assets'"
    assert await scratch.do(rows) == [("inserted", 40, None, [], None)]
    assert [change[:2] for change in await scratch.changes(report.run_id, "sources")] == [("inserted", A)]


async def test_a_reload_that_changes_nothing_records_nothing(scratch: Scratch) -> None:
    index = scratch.write(*assets(range(40)))
    await scratch.load(index)
    report = await scratch.load(index)
    assert await scratch.changes(report.run_id) == []
    assert await scratch.changes(report.run_id, "sources") == []
    assert await scratch.do("select count(*) from seed_registry.change_sets where run_id = $1", report.run_id) == [(0,)]


async def test_a_load_without_history_records_nothing(scratch: Scratch) -> None:
    await scratch.load(scratch.write(*assets(range(10))), history=False)
    await scratch.load(scratch.write(*assets(range(10), name="new")), history=False)
    for table in ("changes", "created", "change_sets"):
        assert await scratch.do(f"select count(*) from seed_registry.{table}") == [(0,)]


async def test_what_changed_is_recorded_with_what_it_was(scratch: Scratch) -> None:
    old = {"name": "old", "updated_at": "2022-01-01T00:00:00.000001Z"}
    await scratch.load(scratch.write(asset("1", **old), asset("2", **old)))
    await scratch.load(scratch.write(asset("1", **old), asset("2", **old), asset("3")))
    new = {"name": None, "description": "d", "updated_at": "2023-01-01T00:00:00Z"}
    report = await scratch.load(scratch.write(asset("1", **old), asset("2", B, **new), asset("3")))
    ((kind, key, fields, before),) = await scratch.changes(report.run_id)
    assert (kind, key) == ("updated", "2")
    assert sorted(fields) == ["description", "name", "raw", "source_id", "updated_at"]
    values = json.loads(before)
    assert (values["name"], values["description"]) == ("old", None)
    assert values["updated_at"] == "2022-01-01T00:00:00.000001+00:00"
    assert json.loads(values["raw"]) == asset("2", **old)
    ((first,),) = await scratch.do("select id::text from registry.sources where source_key = $1", A)
    assert values["source_id"] == first


async def test_a_source_that_changed_is_recorded(scratch: Scratch) -> None:
    await scratch.load(scratch.write(source(A, name="old"), asset("1")))
    report = await scratch.load(scratch.write(source(A, name="new"), asset("1")))
    ((kind, key, fields, before),) = await scratch.changes(report.run_id, "sources")
    assert (kind, key, sorted(fields)) == ("updated", A, ["name", "raw"])
    assert json.loads(before)["name"] == "old"


async def test_assets_that_are_retired_and_return_are_recorded(scratch: Scratch) -> None:
    await scratch.load(scratch.write(*assets(range(20))))
    gone = await scratch.load(scratch.write(*assets(range(18))), retire=True)
    assert [change[:3] for change in await scratch.changes(gone.run_id)] == [
        ("retired", "a0018", ["retired_at"]),
        ("retired", "a0019", ["retired_at"]),
    ]
    back = await scratch.load(scratch.write(*assets(range(19)), asset("a0019", name="new")))
    changes = sorted(await scratch.changes(back.run_id))
    assert [change[:2] for change in changes] == [
        ("returned", "a0018"),
        ("returned", "a0019"),
        ("updated", "a0019"),
    ]
    assert json.loads(changes[0][3])["retired_at"]


async def test_the_mark_that_a_rejected_record_takes_is_recorded(scratch: Scratch) -> None:
    await scratch.load(scratch.write(*assets(range(20))))
    await scratch.load(scratch.write(*assets(range(19))), retire=True)
    bad = b'{"type":"asset","asset_key":"a0019","source_key":"a.example","n":1e999999}'
    report = await scratch.load(scratch.write(*assets(range(19)), bad))
    assert [change[:2] for change in await scratch.changes(report.run_id)] == [("returned", "a0019")]


@pytest.mark.parametrize("full", [False, True])
async def test_a_hash_that_is_renewed_is_no_change(scratch: Scratch, *, full: bool) -> None:
    index = scratch.write(*assets(range(20)))
    await scratch.load(index)
    await scratch.do("update registry.assets set content_hash = 'x' where asset_key < 'a0010'")
    report = await scratch.load(index, full=full)
    assert report.assets.unchanged == 20
    assert await scratch.changes(report.run_id) == []


async def test_the_hash_of_a_change_is_that_of_the_digest(scratch: Scratch) -> None:
    await scratch.load(scratch.write(asset("1"), source(A)), history=False)
    await scratch.load(scratch.write(asset("1", name="new"), source(A, name="new")))
    found = await scratch.do("select relation, encode(hash, 'hex') from seed_registry.changes")
    connection = await asyncpg.connect(scratch.url.reveal)
    whole = await digest(connection, await introspect(connection))
    await connection.close()
    # one row each: the sum is the hash
    assert dict(found) == {"assets": whole.assets.sum, "sources": whole.sources.sum}


async def test_changes_that_a_trigger_takes_back_are_not_recorded(scratch: Scratch) -> None:
    await scratch.load(scratch.write(*assets(range(10))))
    await scratch.do("create function registry.keep() returns trigger language plpgsql as 'begin return old; end'")
    await scratch.do(
        "create trigger keep before update on registry.assets for each row execute function registry.keep()"
    )
    report = await scratch.load(scratch.write(*assets(range(10), name="new")), verify=False)
    assert await scratch.changes(report.run_id) == []


async def test_a_row_that_another_session_inserts_meanwhile_is_recorded_as_it_was(scratch: Scratch) -> None:
    await scratch.load(scratch.write(*assets(range(10))))
    await scratch.do(
        "create function registry.pause() returns trigger language plpgsql as $$ begin "
        "if new.name = 'ours' then perform pg_advisory_xact_lock(42); end if; return new; end $$"
    )
    await scratch.do(
        "create trigger pause before insert on registry.assets for each row execute function registry.pause()"
    )
    other = await asyncpg.connect(scratch.url.reveal)
    try:
        await other.execute("select pg_advisory_lock(42)")
        index = scratch.write(*assets(range(10)), asset("b0001", name="ours"))
        load = asyncio.create_task(scratch.load(index, verify=False))
        waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        for _ in range(1_000):
            if await other.fetchval(waiting):
                break
            await asyncio.sleep(0.01)
        # Its batch has read the rows that exist, and is about to insert this one.
        await other.execute(
            "insert into registry.assets (asset_key, source_id, name) "
            "select 'b0001', id, 'theirs' from registry.sources"
        )
    finally:
        await other.close()
    report = await load
    assert report.retries == 1
    ((kind, key, _, before),) = await scratch.changes(report.run_id)
    assert (kind, key, json.loads(before)["name"]) == ("updated", "b0001", "theirs")


@pytest.mark.parametrize(("event", "number"), [("batch_merged", 1), ("batch_merged", 4), ("run_finished", 1)])
async def test_a_run_that_is_killed_records_each_change_once(scratch: Scratch, event: str, number: int) -> None:
    await scratch.load(scratch.write(*assets(range(60))))
    index = scratch.write(*assets(range(60), name="new"), *assets(range(20), B))
    with pytest.raises(Killed):
        await scratch.load(index, progress=KilledAt(event, number))
    await scratch.settle()
    report = await scratch.load(index)
    changes = await scratch.changes(report.run_id)
    assert sorted(change[:2] for change in changes) == sorted(
        [("updated", f"a{n:04}") for n in range(60)] + [("inserted", f"b{n:04}") for n in range(20)]
    )
    # Every change is in one set.
    query = (
        "select count(*), count(distinct id) from seed_registry.changes join seed_registry.change_sets "
        "using (run_id) where id between first_id and last_id"
    )
    ((count,),) = await scratch.do("select count(*) from seed_registry.changes")
    assert await scratch.do(query) == [(count, count)]


async def test_a_killed_first_load_is_whole_in_the_history_after_it_was_resumed(scratch: Scratch) -> None:
    index = scratch.write(*assets(range(100)))
    with pytest.raises(Killed):
        await scratch.load(index, progress=KilledAt("batch_merged", 3))
    await scratch.settle()
    report = await scratch.load(index)
    ((rows,),) = await scratch.do("select sum(rows) from seed_registry.changes where relation = 'assets'")
    assert rows == 100
    assert report.assets.inserted + report.assets.resumed == 100


async def test_a_run_with_history_does_not_resume_one_without(scratch: Scratch) -> None:
    await scratch.load(scratch.write(*assets(range(10))), history=False)
    index = scratch.write(*assets(range(10, 70)))
    with pytest.raises(Killed):
        await scratch.load(index, history=False, progress=KilledAt("batch_merged", 3))
    await scratch.settle()
    report = await scratch.load(index)
    assert report.assets.resumed == 0
    assert len(await scratch.changes(report.run_id)) == report.assets.inserted < 60


async def test_several_processes_record_as_one_does(scratch: Scratch) -> None:
    first = scratch.write(*assets(range(400), description="x" * 300))
    await scratch.load(first, processes=2, shard_bytes=1 << 16)
    ((rows,),) = await scratch.do("select sum(rows) from seed_registry.changes where relation = 'assets'")
    assert rows == 400
    report = await scratch.load(
        scratch.write(*assets(range(400), description="y" * 300)), processes=2, shard_bytes=1 << 16
    )
    changes = await scratch.changes(report.run_id)
    assert sorted(change[1] for change in changes) == [f"a{n:04}" for n in range(400)]
    assert {change[0] for change in changes} == {"updated"}


async def test_without_a_ledger_of_this_version_history_is_refused(scratch: Scratch) -> None:
    index = scratch.write(*assets(range(10)))
    await scratch.load(index, history=False)
    await scratch.do("create role without_changes login")
    try:
        await scratch.do("grant usage on schema registry, seed_registry to without_changes")
        await scratch.do("grant select, insert, update on all tables in schema registry to without_changes")
        await scratch.do(
            "grant select, insert, update, delete on all tables in schema seed_registry to without_changes"
        )
        await scratch.do("revoke all on seed_registry.changes from without_changes")
        role = Scratch(as_role(scratch.url, "without_changes"), Path(index).parent)
        with pytest.raises(DatabaseRefused, match="schema upgrade"):
            await role.load(index)
        assert (await role.load(index, history=False)).assets.unchanged == 10
    finally:
        await scratch.do("drop owned by without_changes")
        await scratch.do("drop role without_changes")


async def test_a_mark_that_two_records_of_a_key_take_is_recorded_once(scratch: Scratch) -> None:
    await scratch.load(scratch.write(*assets(range(1))))
    await scratch.do("update registry.assets set retired_at = now()")
    connection = await asyncpg.connect(scratch.url.reveal)
    try:
        tables = await introspect(connection)
        merger = Merger(connection, tables, records=ChangeRecords("run", tables))
        await merger.prepare()
        sources = await merger.find_sources([A])
        counts = await merger.write(Batch([], sources, marked=[make_asset("a0000", A), make_asset("a0000", A)]))
    finally:
        await connection.close()
    assert counts.returned == 1
    assert [change[:2] for change in await scratch.changes("run")] == [("returned", "a0000")]
