"""Undo: rows are again what they were before a run, where nothing else has changed them; the others are listed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from asyncpg.transaction import Transaction
from scratch import KilledAt, Scratch, as_role
from site_of_assets import A, B, Killed, asset, assets, source

from seed_registry.changes.undo_report import Conflict, UndoCounts, UndoReport
from seed_registry.errors import DatabaseRefused, SchemaMismatch, SettingsInvalid
from seed_registry.ledger.undone import begin_undo, find_run
from seed_registry.settings import DatabaseUrl

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]


@pytest.fixture
async def scratch(emptied_url: DatabaseUrl, tmp_path: Path) -> Scratch:
    """The test's own registry."""
    scratch = Scratch(emptied_url, tmp_path)
    await scratch.empty()
    return scratch


async def test_an_undone_first_load_leaves_nothing(scratch: Scratch) -> None:
    report = await scratch.load(scratch.write(*assets(range(50)), *assets(range(30), B)))
    undone = await scratch.undo(report.run_id)
    assert (undone.assets, undone.sources) == (UndoCounts(deleted=80), UndoCounts(deleted=2))
    snapshot = await scratch.snapshot()
    assert (snapshot.assets, snapshot.sources) == ({}, {})


async def test_undone_loads_leave_the_registry_as_it_was_before_each(scratch: Scratch) -> None:
    old = {"name": "old", "updated_at": "0044-03-15T00:00:00.000001Z"}
    indexes = [
        scratch.write(source(A), source(B), *assets(range(20), **old), *assets(range(20), B)),
        scratch.write(
            source(A, name="A"), source(B), *assets(range(5), **old), *assets(range(5, 18), name="new"),
            *assets(range(10, 30), B, updated_at="2024-02-29T23:59:59.999999+14:00"),
        ),
        scratch.write(source(A), source(B), asset("a0001", B), *assets(range(18), name="x"), *assets(range(20), B)),
        scratch.write(*assets(range(40), name="other")),
    ]  # fmt: skip
    before, runs = [], []
    for index in indexes:
        before.append(await scratch.snapshot())
        runs.append((await scratch.load(index, retire=True)).run_id)
    for run in reversed(runs):
        undone = await scratch.undo(run)
        assert undone.conflicts == []
        assert await scratch.snapshot() == before.pop()


async def test_an_undo_can_be_undone_again_and_again(scratch: Scratch) -> None:
    await scratch.load(scratch.write(*assets(range(30))))
    before = await scratch.snapshot()
    index = scratch.write(source(A), source(B), *assets(range(20), name="n"), *assets(range(20), B))
    run = (await scratch.load(index, retire=True)).run_id
    after = await scratch.snapshot()
    for expected in [before, after, before, after]:
        undone = await scratch.undo(run)
        assert undone.conflicts == []
        assert await scratch.snapshot() == expected
        assert undone.run_id is not None
        run = undone.run_id


async def test_the_first_run_is_undone_after_the_undo_of_a_later_one(scratch: Scratch) -> None:
    first = await scratch.load(scratch.write(*assets(range(30))))
    later = await scratch.load(scratch.write(*assets(range(25), name="new")), retire=True)
    conflicts = await scratch.undo(first.run_id, dry_run=True)
    assert conflicts.assets == UndoCounts(conflicts=30)
    await scratch.undo(later.run_id)
    assert (await scratch.undo(first.run_id)).assets == UndoCounts(deleted=30)


async def test_rows_that_something_else_changed_are_left_alone_and_listed(scratch: Scratch) -> None:
    await scratch.load(scratch.write(*assets(range(10))))
    run = await scratch.load(scratch.write(*assets(range(10), name="new"), *assets(range(5), B)))
    await scratch.load(scratch.write(asset("a0001", name="no history")), history=False)
    await scratch.load(scratch.write(asset("a0002", name="history")))
    await scratch.do("update registry.assets set description = 'by hand' where asset_key in ('a0003', 'b0003')")
    await scratch.do("delete from registry.assets where asset_key in ('a0004', 'b0004')")
    undone = await scratch.undo(run.run_id)
    changed = [Conflict("assets", [key], "it was changed since") for key in ("a0001", "a0002", "a0003", "b0003")]
    rest = [
        Conflict("assets", ["a0004"], "it was deleted since"),
        Conflict("sources", ["socrata", B], "rows of registry.assets refer to it"),
    ]
    assert sorted(undone.conflicts, key=str) == sorted([*changed, *rest], key=str)
    assert undone.assets == UndoCounts(deleted=3, restored=6, conflicts=5)
    assert undone.sources == UndoCounts(conflicts=1)
    names = dict(await scratch.do("select asset_key, name from registry.assets"))
    assert (names["a0000"], names["a0001"], names["a0002"], names["a0003"]) == (None, "no history", "history", "new")
    (outcome,) = await scratch.do("select outcome from seed_registry.runs where run_id = $1", undone.run_id)
    assert outcome == ("conflicts",)


async def test_rows_of_a_first_load_that_were_edited_by_hand_are_left_alone(scratch: Scratch) -> None:
    run = await scratch.load(scratch.write(*assets(range(10))))
    await scratch.do("update registry.assets set name = 'by hand' where asset_key = 'a0003'")
    undone = await scratch.undo(run.run_id)
    assert undone.assets == UndoCounts(deleted=9, conflicts=1)
    assert undone.conflicts[0] == Conflict("assets", ["a0003"], "it was changed since")
    assert list((await scratch.snapshot()).assets) == ["a0003"]


async def test_a_row_that_was_deleted_and_created_again_by_hand_is_not_that_of_the_run(scratch: Scratch) -> None:
    run = await scratch.load(scratch.write(*assets(range(10))))
    await scratch.do("delete from registry.assets where asset_key = 'a0003'")
    await scratch.do("insert into registry.assets (asset_key, source_id) select 'a0003', id from registry.sources")
    undone = await scratch.undo(run.run_id)
    assert undone.assets == UndoCounts(deleted=9)
    assert list((await scratch.snapshot()).assets) == ["a0003"]


@pytest.mark.parametrize("action", ["no action", "cascade", "set null"])
async def test_rows_to_which_other_tables_refer_are_left_alone(scratch: Scratch, action: str) -> None:
    run = await scratch.load(scratch.write(*assets(range(10))))
    await scratch.do(
        f"create table registry.notes (about text references registry.assets (asset_key) on delete {action})"
    )
    await scratch.do("insert into registry.notes values ('a0004')")
    dry = await scratch.undo(run.run_id, dry_run=True)
    undone = await scratch.undo(run.run_id)
    assert undone.conflicts == [
        Conflict("assets", ["a0004"], "rows of registry.notes refer to it"),
        Conflict("sources", ["socrata", A], "rows of registry.assets refer to it"),
    ]
    assert dry.conflicts == undone.conflicts
    assert await scratch.do("select about from registry.notes") == [("a0004",)]


async def test_an_asset_without_its_source_is_not_inserted_again(scratch: Scratch) -> None:
    run = await scratch.load(scratch.write(*assets(range(10))))
    undone = await scratch.undo(run.run_id)
    await scratch.load(scratch.write(*assets(range(5))), history=False)  # the same portal, with another id
    assert undone.run_id is not None
    redone = await scratch.undo(undone.run_id)
    assert redone.sources == UndoCounts(conflicts=1)
    assert redone.assets == UndoCounts(conflicts=10)
    reasons = {one.key[-1]: one.reason for one in redone.conflicts}
    assert reasons["a0004"] == "a row with its key exists again"
    assert reasons["a0007"].endswith("(SQLSTATE 23503)")


async def test_created_assets_are_kept_and_retired_on_demand(scratch: Scratch) -> None:
    await scratch.load(scratch.write(*assets(range(10))))
    run = await scratch.load(scratch.write(*assets(range(10), name="n"), *assets(range(5), B)))
    before = await scratch.snapshot()
    undone = await scratch.undo(run.run_id, keeps=True)
    assert (undone.assets, undone.sources) == (UndoCounts(retired=5, restored=10), UndoCounts())
    snapshot = await scratch.snapshot()
    assert sorted(key for key, row in snapshot.assets.items() if row[-1]) == [f"b{n:04}" for n in range(5)]
    assert undone.run_id is not None
    assert (await scratch.undo(undone.run_id)).conflicts == []
    assert await scratch.snapshot() == before


async def test_a_dry_run_tells_what_an_undo_does_and_writes_nothing(scratch: Scratch) -> None:
    await scratch.load(scratch.write(*assets(range(10))))
    run = await scratch.load(scratch.write(source(B), asset("a0001", B), *assets(range(5), B)))
    before = await scratch.snapshot()
    runs = await scratch.do("select count(*) from seed_registry.runs")
    dry = await scratch.undo(run.run_id, dry_run=True)
    assert await scratch.snapshot() == before
    assert await scratch.do("select count(*) from seed_registry.runs") == runs
    undone = await scratch.undo(run.run_id)
    assert (dry.run_id, dry.assets, dry.sources) == (None, undone.assets, undone.sources)
    assert undone.sources == UndoCounts(deleted=1)  # the asset that it had moved went back as well


async def test_a_run_that_is_undone_is_not_resumed(scratch: Scratch) -> None:
    index = scratch.write(*assets(range(60)))
    with pytest.raises(Killed):
        await scratch.load(index, progress=KilledAt("batch_merged", 3))
    await scratch.settle()
    ((run,),) = await scratch.do("select run_id from seed_registry.runs")
    await scratch.undo(run)
    assert (await scratch.snapshot()).assets == {}
    assert await scratch.do("select count(*) from seed_registry.checkpoints") == [(0,)]
    report = await scratch.load(index)
    assert (report.run_id == run, report.assets.inserted, report.assets.resumed) == (False, 60, 0)


@pytest.mark.parametrize(("event", "number"), [("undo_started", 1), ("batch_undone", 1), ("batch_undone", 5)])
@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.sampled(3)
async def test_an_undo_that_is_killed_goes_on_and_counts_each_row_once(
    scratch: Scratch, event: str, number: int, *, keeps: bool
) -> None:
    await scratch.load(scratch.write(*assets(range(30))))
    before = await scratch.snapshot()
    index = scratch.write(source(A, name="n"), source(B), *assets(range(25), name="n"), *assets(range(20), B))
    run = (await scratch.load(index, retire=True)).run_id
    with pytest.raises(Killed):
        await scratch.undo(run, keeps=keeps, progress=KilledAt(event, number))
    await scratch.settle()
    undone = await scratch.undo(run, keeps=keeps)
    assert undone.conflicts == []
    assert (undone.assets.restored, undone.assets.deleted, undone.assets.retired) == (30, 20 * (not keeps), 20 * keeps)
    assert await scratch.do("select count(*) from seed_registry.runs where undoes = $1", run) == [(1,)]
    if not keeps:
        assert await scratch.snapshot() == before


async def test_a_first_load_is_undone_after_kills(scratch: Scratch) -> None:
    run = (await scratch.load(scratch.write(*assets(range(60))))).run_id
    for number in (1, 3):
        with pytest.raises(Killed):
            await scratch.undo(run, progress=KilledAt("batch_undone", number))
        await scratch.settle()
    undone = await scratch.undo(run)
    assert (undone.assets, undone.conflicts) == (UndoCounts(deleted=60), [])


async def test_two_undos_of_a_run_at_once_undo_each_row_once(scratch: Scratch) -> None:
    run = (await scratch.load(scratch.write(*assets(range(60))))).run_id
    results = await asyncio.gather(*(scratch.undo(run) for _ in range(2)), return_exceptions=True)
    reports = [result for result in results if isinstance(result, UndoReport)]
    # The second one waits a moment for the first, and then is refused, or finds nothing left.
    assert sum(report.assets.deleted for report in reports) == 60
    assert all(report.conflicts == [] for report in reports)
    assert all(isinstance(one, DatabaseRefused) and run in str(one) for one in results if one not in reports)


async def test_a_load_that_runs_meanwhile_is_not_undone(scratch: Scratch) -> None:
    run = (await scratch.load(scratch.write(*assets(range(200))))).run_id
    other = scratch.write(*assets(range(200), name="new"))
    undone, loaded = await asyncio.gather(scratch.undo(run), scratch.load(other), return_exceptions=True)
    assert not isinstance(undone, BaseException)
    if not isinstance(loaded, BaseException):  # its source may be gone when it inserts an asset again
        rows = (await scratch.snapshot()).assets
        assert {row[2] for row in rows.values()} <= {"new"}
        assert len(rows) == 200


async def test_a_lost_commit_is_not_undone_twice(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    await scratch.load(scratch.write(*assets(range(30))))
    run = (await scratch.load(scratch.write(*assets(range(30), name="n")))).run_id
    leave, calls = Transaction.__aexit__, 0

    async def lose(self: Transaction, *exc: Any) -> Any:
        nonlocal calls
        result = await leave(self, *exc)
        if (calls := calls + 1) == 3:
            raise asyncpg.ConnectionDoesNotExistError("lost before the answer to COMMIT")
        return result

    monkeypatch.setattr(Transaction, "__aexit__", lose)
    undone = await scratch.undo(run)
    assert undone.assets == UndoCounts(restored=30)


async def test_what_cannot_be_undone_is_refused_with_a_reason(scratch: Scratch) -> None:
    run = (await scratch.load(scratch.write(*assets(range(5))), history=False)).run_id
    with pytest.raises(SettingsInvalid, match="`seed-registry runs` lists them"):
        await scratch.undo("no-such-run")
    with pytest.raises(DatabaseRefused, match="load with --history"):
        await scratch.undo(run)
    await scratch.do("update seed_registry.runs set history = 'pruned'")
    with pytest.raises(DatabaseRefused, match="was pruned"):
        await scratch.undo(run)
    await scratch.do("update seed_registry.runs set history = 'kept'")
    await scratch.do("alter table registry.assets drop column retired_at")
    with pytest.raises(SchemaMismatch, match="schema upgrade"):
        await scratch.undo(run, keeps=True)
    await scratch.do("drop table seed_registry.changes")
    with pytest.raises(DatabaseRefused, match="schema upgrade"):
        await scratch.undo(run)


async def test_a_run_at_work_is_not_undone(scratch: Scratch) -> None:
    await scratch.load(scratch.write(*assets(range(5))))
    connection = await asyncpg.connect(scratch.url.reveal)
    try:
        await connection.execute("begin; lock registry.assets in share mode")  # it reads, and waits when it writes
        load = asyncio.create_task(scratch.load(scratch.write(*assets(range(9)))))
        query = "select run_id from seed_registry.runs where outcome = 'running'"
        for _ in range(1_000):
            if found := await scratch.do(query):
                break
            await asyncio.sleep(0.01)
        ((run,),) = found
        with pytest.raises(DatabaseRefused, match=run):
            await scratch.undo(run)
    finally:
        await connection.close()
    await load


async def test_a_table_that_this_role_may_not_read_is_named(scratch: Scratch) -> None:
    run = (await scratch.load(scratch.write(*assets(range(5))))).run_id
    await scratch.do("create schema evil")
    await scratch.do("create table evil.notes (about text references registry.assets (asset_key) on delete cascade)")
    name = f"undoing_{id(scratch)}"
    await scratch.do(f"create role {name} login")
    try:
        await scratch.do(f"grant usage on schema registry, seed_registry to {name}")
        await scratch.do(f"grant all on all tables in schema registry, seed_registry to {name}")
        role = Scratch(as_role(scratch.url, name), Path())
        with pytest.raises(DatabaseRefused, match=r"grant select on evil\.notes"):
            await role.undo(run)
    finally:
        await scratch.do(f"drop owned by {name}")
        await scratch.do(f"drop role {name}")


async def test_a_run_that_is_pruned_at_the_last_moment_is_not_undone_in_part(scratch: Scratch) -> None:
    run = (await scratch.load(scratch.write(*assets(range(5))))).run_id
    connection = await asyncpg.connect(scratch.url.reveal)
    try:
        found = await find_run(connection, run)
        await connection.execute("update seed_registry.runs set history = 'pruned'")
        with pytest.raises(DatabaseRefused, match="was pruned"):
            await begin_undo(connection, found, "undo-1", keeps=False, seconds=None)
        assert await connection.fetchval("select outcome from seed_registry.runs where undoes = $1", run) == "failed"
    finally:
        await connection.close()
