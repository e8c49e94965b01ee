"""What a load has written costs the first reader no WAL; where the server cannot have that cheaply, nothing is read."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias
from unittest.mock import patch

import anyio
import asyncpg
import pytest
from local_engine import load_by_shards

from partitions import by_hash
from seed_registry import DatabaseUrl, Settings, ingest
from seed_registry.postgres.sql_files import statement
from seed_registry.registry import hint_bits
from seed_registry.registry.hint_bits import HintBits
from seed_registry.registry.introspection import introspect
from seed_registry.shards import coordinator
from seed_registry.synthetic.index import Workload, generate

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]

Connection: TypeAlias = "asyncpg.Connection[Any]"

INSERT = """
insert into registry.assets (asset_key, source_id, name, raw)
select $1 || number, (select min(id) from registry.sources), repeat('x', 1000), '{}'
from generate_series(1, 1000) as number
"""
COUNT = "select count(*) from registry.assets"
PAGES = 1000 // 7  # about as many hold these rows


@pytest.fixture(autouse=True)
def _at_once() -> Iterator[None]:
    """It is always time to look, and a page is enough."""
    with patch.multiple(hint_bits, _SECONDS_BETWEEN_LOOKS=0.0, _FEWEST_BLOCKS=1):
        yield


@pytest.fixture
async def checked(connection: Connection) -> Connection:
    """A session of a server that logs pages for hint bits; its commits are on disk at once."""
    if not await connection.fetch(statement("registry/heap_blocks"), "registry.sources"):
        pytest.skip("the first look at a row writes no WAL on this server")
    await connection.execute("set synchronous_commit = on")
    await connection.execute("insert into registry.sources (provider, source_key) values ('p', 's')")
    return connection


async def hints_of(connection: Connection) -> HintBits:
    return HintBits((await introspect(connection)).assets)


async def look_twice(hints: HintBits, connection: Connection) -> None:
    """Make what is there now ready: the WAL is on disk."""
    for _ in range(2):
        await connection.execute("select pg_logical_emit_message(true, '', '')")
        await hints.follow(connection)


async def follow(hints: HintBits, connection: Connection) -> None:
    """Read what is there now."""
    await look_twice(hints, connection)
    while hints._ready() is not None:
        await hints.follow(connection)


async def pages_logged_by_a_reader(connection: Connection) -> float:
    """How many pages the next reader of the assets writes to the WAL after a checkpoint, by the bytes of it."""
    # The tests' own server leaves the page itself out of such a record.
    size = 8192 if await connection.fetchval("show full_page_writes") == "on" else 48
    await connection.execute("checkpoint")
    before = await connection.fetchval("select pg_current_wal_insert_lsn()")
    await connection.fetchval(COUNT)
    return float(await connection.fetchval("select pg_current_wal_insert_lsn() - $1::pg_lsn", before)) / size


async def test_the_first_reader_of_rows_that_nobody_followed_writes_their_pages_to_the_wal(checked: Connection) -> None:
    await checked.execute(INSERT, "a")
    assert await pages_logged_by_a_reader(checked) > 0.8 * PAGES


async def test_the_first_reader_of_rows_that_were_followed_writes_no_wal(checked: Connection) -> None:
    hints = await hints_of(checked)
    await follow(hints, checked)
    await checked.execute(INSERT, "a")
    await follow(hints, checked)
    assert await pages_logged_by_a_reader(checked) < 0.1 * PAGES


async def test_rows_that_were_there_before_the_first_look_are_not_read(checked: Connection) -> None:
    await checked.execute(INSERT, "a")
    hints = await hints_of(checked)
    await follow(hints, checked)
    await checked.execute(INSERT, "b")
    await follow(hints, checked)
    assert 0.8 * PAGES < await pages_logged_by_a_reader(checked) < 1.2 * PAGES


async def test_each_partition_is_followed_from_its_own_end(checked: Connection) -> None:
    kind = await checked.fetchval("select relkind from pg_class where oid = 'registry.assets'::regclass")
    if kind == b"r":
        await checked.execute(by_hash(3))
    await checked.execute(INSERT, "a")
    hints = await hints_of(checked)
    await follow(hints, checked)
    await checked.fetchval(COUNT)
    await checked.execute(INSERT, "b")
    await follow(hints, checked)
    assert await pages_logged_by_a_reader(checked) < 0.1 * PAGES


async def test_a_table_that_is_emptied_meanwhile_is_followed_from_its_begin(checked: Connection) -> None:
    hints = await hints_of(checked)
    await follow(hints, checked)
    await checked.execute(INSERT, "a")
    await follow(hints, checked)
    await checked.execute("truncate registry.assets")
    await follow(hints, checked)
    await checked.execute(INSERT, "b")
    await follow(hints, checked)
    assert await pages_logged_by_a_reader(checked) < 0.1 * PAGES


async def test_only_the_wanted_blocks_are_read_of_a_large_table(checked: Connection) -> None:
    for prefix in "abc":
        await checked.execute(INSERT, prefix)
    query = statement("registry/read_blocks").format(table="registry.assets")
    query = query[query.index("select") :].replace("$1", "'(7,0)'").replace("$2", "'(9,0)'")
    plan = "\n".join(row[0] for row in await checked.fetch(f"explain {query}"))
    assert "Seq Scan" not in plan, plan


async def test_nothing_is_read_where_hint_bits_cost_no_wal(connection: Connection) -> None:
    try:
        await connection.execute("alter table registry.assets set unlogged")
    except asyncpg.FeatureNotSupportedError:
        pytest.skip("a partitioned table is logged")
    hints = await hints_of(connection)
    await hints.follow(connection)
    assert not hints.is_due


async def test_a_session_that_is_lost_meanwhile_is_left_to_the_next_batch(
    connection: Connection, database_url: DatabaseUrl
) -> None:
    other = await asyncpg.connect(database_url.reveal)
    hints = await hints_of(other)
    await other.close()
    await hints.follow(other)
    assert not hints.is_due
    await hints.follow(connection)  # which is none of its business any more


async def test_a_role_that_may_not_read_the_table_loads_all_the_same(checked: Connection) -> None:
    hints = await hints_of(checked)
    await follow(hints, checked)
    await checked.execute(INSERT, "a")
    await look_twice(hints, checked)
    await checked.execute("set role pg_monitor")
    await hints.follow(checked)
    await checked.execute("reset role")
    assert not hints.is_due


async def test_a_table_that_somebody_locks_is_not_waited_for(checked: Connection, database_url: DatabaseUrl) -> None:
    hints = await hints_of(checked)
    other = await asyncpg.connect(database_url.reveal)
    async with other.transaction():
        await other.execute("lock table registry.assets in access exclusive mode")
        with anyio.fail_after(20):
            await hints.follow(checked)
    await other.close()
    assert not hints.is_due
    assert await checked.fetchval("show lock_timeout") != "100ms"


class Reads:
    """The blocks that were read, by table."""

    def __init__(self) -> None:
        self.ranges: dict[str, list[tuple[int, int]]] = {}

    def gapless(self) -> bool:
        """Whether each table was read once, block after block."""
        return all(end == following for ranges in self.ranges.values() for (_, end), (following, _) in pairwise(ranges))


@pytest.fixture
def reads() -> Iterator[Reads]:
    """What this test's loads read."""
    reads, read = Reads(), HintBits._read

    async def noting(self: HintBits, connection: Connection, name: str) -> None:
        first = self._done[name]
        await read(self, connection, name)
        reads.ranges.setdefault(name, []).append((first, self._done[name]))

    with patch.object(HintBits, "_read", noting):
        yield reads


def index(tmp_path: Path) -> Path:
    path = tmp_path / "index.ndjson"
    path.write_bytes(b"".join(generate(Workload(records=4_000, size=700, format="ndjson"))))
    return path


async def test_the_workers_of_a_load_follow_it_together(
    checked: Connection, database_url: DatabaseUrl, tmp_path: Path, reads: Reads
) -> None:
    del checked
    settings = Settings(database_url=database_url, batch_size=200, concurrency=3)
    report = await ingest(index(tmp_path), settings)
    assert report.assets.inserted == 4_000
    assert reads.ranges
    assert reads.gapless()


async def test_the_process_that_leads_a_load_by_several_follows_them(
    checked: Connection, database_url: DatabaseUrl, tmp_path: Path, reads: Reads
) -> None:
    del checked
    with patch.object(coordinator, "_SECONDS_BETWEEN_LOOKS", 0.01):
        report = await load_by_shards(
            index(tmp_path), Settings(database_url=database_url, batch_size=100), shard_bytes=300_000
        )
    assert report.assets.inserted == 4_000
    assert reads.ranges
    assert reads.gapless()
