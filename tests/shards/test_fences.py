"""An attempt to load a shard that was overtaken by another one commits nothing any more."""

from __future__ import annotations

from typing import Any, TypeAlias

import asyncpg
import pytest
from msgspec.structs import replace

from conftest import make_asset, make_source
from seed_registry.checkpoint import Checkpoint, FileState
from seed_registry.errors import CommitsLost
from seed_registry.ledger.runs import create
from seed_registry.ledger.shard_checkpoints import REPEATS, ShardLedger, ShardTaken, find_counts
from seed_registry.ledger.shards import FINISHED, ShardRow, ShardStore
from seed_registry.postgres.connection import session
from seed_registry.registry.batch import Batch, SourceBatch
from seed_registry.registry.introspection import introspect
from seed_registry.registry.merge import Merger
from seed_registry.report import MergeCounts
from seed_registry.settings import DatabaseUrl
from seed_registry.spill import PARTS

pytestmark = pytest.mark.anyio
_FILE = FileState(1, 1, 1, b"")
_PLACE = (0, 0)
Connection: TypeAlias = "asyncpg.Connection[Any]"


@pytest.fixture
async def store(connection: Connection) -> ShardStore:
    """A run with one shard."""
    await create(connection)
    await connection.execute("insert into seed_registry.runs (run_id, key, indexes) values ('run', 'key', '{}')")
    store = ShardStore("run")
    await store.plan(connection, [ShardRow(0, 0, "index", 0, 100, b"")])
    return store


async def _attempt(store: ShardStore, connection: Connection, *, is_empty: bool = False) -> tuple[Merger, ShardLedger]:
    """Begin an attempt through a session."""
    ledger = ShardLedger("run")
    async with connection.transaction():
        ledger.begin(0, 0, await store.claim(connection, _PLACE, "worker"))
        await ledger.claim(connection, [(0, 0, 0), (0, 2, 0), (0, 2, 1)])
    merger = Merger(connection, await introspect(connection), ledger=ledger)
    await merger.prepare(is_empty=is_empty)
    return merger, ledger


async def _batch(merger: Merger, *keys: str, offset: int = 10) -> Batch:
    _, rows = await merger.write_sources(SourceBatch([make_source()]))
    checkpoint = Checkpoint("index", 1, 2, 1, offset, 1, _FILE)
    return Batch([make_asset(key) for key in keys], rows, checkpoint)


@pytest.mark.parametrize("is_empty", [True, False])
async def test_an_overtaken_attempt_writes_nothing(
    connection: Connection, database_url: DatabaseUrl, store: ShardStore, is_empty: bool
) -> None:
    stale, _ = await _attempt(store, connection, is_empty=is_empty)
    batch = await _batch(stale, "aaaa-0001")
    async with session(database_url) as other:
        current, _ = await _attempt(store, other)
        with pytest.raises(asyncpg.UndefinedObjectError, match="shard_has_another_attempt"):
            await stale.write(batch)
        assert not await connection.fetchval("select count(*) from registry.assets")
        assert (await current.write(batch)).inserted == 1
    assert await find_counts(connection, "run", 0) == {0: MergeCounts(inserted=1)}


async def test_nothing_is_written_once_the_run_is_fenced(connection: Connection, store: ShardStore) -> None:
    merger, ledger = await _attempt(store, connection)
    batch = await _batch(merger, "aaaa-0001")
    await store.fence(connection)
    with pytest.raises(asyncpg.UndefinedObjectError):
        await merger.write(batch)
    with pytest.raises(ShardTaken):
        await store.finish(connection, _PLACE, ledger.attempt, b"", "{}")
    with pytest.raises(ShardTaken):
        await store.show_progress(connection, _PLACE, ledger.attempt, "{}")


async def test_a_checkpoint_that_is_saved_later_does_not_move_a_lane_back(
    connection: Connection, store: ShardStore
) -> None:
    merger, ledger = await _attempt(store, connection)
    await merger.write(await _batch(merger, "aaaa-0001", offset=500))
    again, ledger = await _attempt(store, connection)
    await again.write(await _batch(again, "aaaa-0002", offset=10))
    saved = {one.lane: one.offset for one in await ledger.checkpoints(connection, "0") if one.lanes == 2}
    assert saved == {0: -1, 1: 500}


async def test_counts_of_all_attempts_add_up(connection: Connection, store: ShardStore) -> None:
    merger, _ = await _attempt(store, connection)
    await merger.write(await _batch(merger, "aaaa-0001", "aaaa-0002"))
    merger, ledger = await _attempt(store, connection)
    await merger.write(await _batch(merger, "aaaa-0003", offset=20))
    unchanged = await _batch(merger, "aaaa-0003", offset=30)
    await merger.write(unchanged)
    await merger.write(unchanged)  # a moment later: its checkpoint is left out
    async with connection.transaction():
        await ledger.save_rest(connection)
    assert await ledger.counts(connection) == MergeCounts(inserted=3, unchanged=2)


async def test_a_worker_sees_whether_its_coordinator_is_at_work(connection: Connection, store: ShardStore) -> None:
    _, ledger = await _attempt(store, connection)
    await store.announce(connection)
    assert await store.show_progress(connection, _PLACE, ledger.attempt, "{}")
    await connection.execute("update seed_registry.runs set seen_at = now() - interval '61 seconds'")
    assert not await store.show_progress(connection, _PLACE, ledger.attempt, "{}")


async def test_emptied_tables_are_noticed_wherever_they_are_relied_on(
    connection: Connection, store: ShardStore
) -> None:
    await store.mark(connection)
    await store.mark(connection)  # a step may be repeated
    assert await store.keys(connection, [0]) == []
    assert await store.repeats(connection, _PLACE) == []
    assert await store.parked(connection, 0, None, 10, 1 << 20) == []
    await connection.execute("truncate seed_registry.shard_keys, seed_registry.shard_repeats, seed_registry.parked")
    for read in (
        store.keys(connection, [0]),
        store.repeats(connection, _PLACE),
        store.parked(connection, 0, None, 10, 1 << 20),
    ):
        with pytest.raises(CommitsLost):
            await read


async def test_a_part_of_a_batch_is_not_taken_for_the_one_before_it(connection: Connection, store: ShardStore) -> None:
    merger, ledger = await _attempt(store, connection)
    batch = await _batch(merger, "aaaa-0001", "aaaa-0002", offset=50)
    assert batch.checkpoint is not None
    first, second = batch.checkpoint.of_part(1, 10), batch.checkpoint.of_part(2, 20)
    await merger.write(replace(batch, assets=batch.assets[:1], checkpoint=first))
    assert await ledger.has(connection, first)
    assert not await ledger.has(connection, second)
    following = await _batch(merger, "aaaa-0003", offset=50)
    assert following.checkpoint is not None
    await merger.write(replace(batch, assets=batch.assets[1:], checkpoint=second))
    assert await ledger.has(connection, second)
    assert not await ledger.has(connection, following.checkpoint)


async def test_the_answer_to_a_lost_commit_is_found_by_its_position(connection: Connection, store: ShardStore) -> None:
    merger, ledger = await _attempt(store, connection)
    batch = await _batch(merger, "aaaa-0001", offset=50)
    assert batch.checkpoint is not None
    assert not await ledger.has(connection, batch.checkpoint)
    await merger.write(batch)
    assert await ledger.has(connection, batch.checkpoint)


async def test_parts_are_settled_once_all_their_lanes_are(connection: Connection, store: ShardStore) -> None:
    ledger = ShardLedger("run")
    ledger.begin(0, REPEATS, await store.claim_parts(connection))
    await ledger.claim(connection, [(0, PARTS, 7), (1, PARTS, 7), (0, PARTS, 8)])
    await store.finish_parts(connection, [7], ledger.attempt)
    assert await store.settled_parts(connection) == {7}
    assert (await ledger.positions(connection))[1, 7] == FINISHED
    with pytest.raises(ShardTaken):
        await store.finish_parts(connection, [8], ledger.attempt - 1)
