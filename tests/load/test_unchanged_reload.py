"""What makes a load light: an unchanged reload, one wait for the disk, a chunk that is read while one is decoded."""

# ruff: noqa: ASYNC110  # a test may wait by polling: nothing else runs in its event loop
from __future__ import annotations

import asyncio
import gc
import gzip
import json
import os
import threading
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, TypeAlias
from unittest.mock import patch

import anyio
import anyio.lowlevel
import asyncpg
import pytest
import zstandard
from msgspec.structs import asdict

from seed_registry import DatabaseUrl, MaxRejects, Report, Settings, ingest
from seed_registry.errors import IndexUnreadable, TooManyRejects
from seed_registry.index import byte_stream
from seed_registry.index.byte_stream import open_index
from seed_registry.index.inputs import IndexRef
from seed_registry.index.open import read_index
from seed_registry.postgres.connection import flush, session
from seed_registry.records import Asset
from seed_registry.report import AssetCounts, Tally
from seed_registry.settings import PoolerName

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]

Connection: TypeAlias = "asyncpg.Connection[Any]"

VERSIONS = """
    select 'source', source_key, xmin::text, ctid::text from registry.sources
    union all select 'asset', asset_key, xmin::text, ctid::text from registry.assets order by 1, 2
"""
WRITTEN = "select sum(n_tup_ins + n_tup_upd + n_tup_del) from pg_stat_user_tables where schemaname = 'registry'"
INSERTED = "select pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
FLUSHED = "select pg_current_wal_flush_lsn() - '0/0'::pg_lsn"


@pytest.fixture
async def database_url(emptied_url: DatabaseUrl) -> DatabaseUrl:
    """A database with the registry's tables, empty."""
    return emptied_url


class Told:
    """Keeps the tally and the batches' sizes, and meddles at the first event of a name, while the load stands still."""

    def __init__(self, event: str = "", meddle: Callable[[], Awaitable[Any]] | None = None) -> None:
        self.batches: list[int] = []
        self.tally = Tally()
        self._event = event
        self._meddle = meddle

    def began(self, tally: Tally) -> None:
        """The load begins."""
        self.tally = tally

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Something happened."""
        if event == "batch_merged":
            self.batches.append(fields["records"])
        if event == self._event and self._meddle is not None:
            meddle, self._meddle = self._meddle, None
            thread = threading.Thread(target=lambda: asyncio.run(_awaited(meddle)))
            thread.start()
            thread.join()


async def _awaited(meddle: Callable[[], Awaitable[Any]]) -> None:
    await meddle()


SOURCE = b'{"type":"source","source_key":"a.org"}\n'


def lines(count: int, start: int = 0, **fields: Any) -> bytes:
    """NDJSON of assets that hardly compress."""
    chance = Random(start)
    return b"".join(
        json.dumps({"type": "asset", "asset_key": f"{number:06}", "source_key": "a.org", "description": noise} | fields)
        .encode() + b"\n"
        for number, noise in ((start + each, chance.randbytes(40).hex()) for each in range(count))
    )  # fmt: skip


def index(directory: Path, content: bytes) -> str:
    path = directory / "index.json"
    path.write_bytes(content)
    return str(path)


async def loaded(url: DatabaseUrl, path: str, progress: Told | None = None, **settings: Any) -> Report:
    return await ingest([path], Settings(database_url=url, **settings), progress)


async def number(url: DatabaseUrl, query: str) -> int:
    connection = await asyncpg.connect(url.reveal)
    try:
        return int(await connection.fetchval(query))
    finally:
        await connection.close()


# --- reloading -----------------------------------------------------------------------------------------------------


async def test_an_unchanged_reload_writes_no_row_and_takes_no_lock(
    database_url: DatabaseUrl, plain_connection: Connection, tmp_path: Path
) -> None:
    path = index(tmp_path, SOURCE + lines(2_000))
    await loaded(database_url, path)
    versions, rows = await plain_connection.fetch(VERSIONS), await written_rows(plain_connection)
    assert rows == 2_001
    async with plain_connection.transaction():
        await plain_connection.execute("select from registry.assets for update")
        await plain_connection.execute("select from registry.sources for update")
        with anyio.fail_after(30):
            report = await loaded(database_url, path)
    assert report.assets == AssetCounts(read=2_000, unchanged=2_000)
    assert await plain_connection.fetch(VERSIONS) == versions
    assert await written_rows(plain_connection) == rows


@pytest.mark.parametrize("workers", [1, 4])
async def test_an_unchanged_reload_writes_next_to_nothing_to_the_log(
    database_url: DatabaseUrl, plain_connection: Connection, tmp_path: Path, workers: int
) -> None:
    path = index(tmp_path, SOURCE + lines(2_000))
    await loaded(database_url, path)
    await alone(plain_connection)
    before = int(await plain_connection.fetchval(INSERTED))
    await loaded(database_url, path, concurrency=workers)
    await alone(plain_connection)
    assert int(await plain_connection.fetchval(INSERTED)) - before < 200_000


async def alone(connection: Connection) -> None:
    """Until no other session is connected; the server needs a moment to notice."""
    others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    with anyio.fail_after(10):
        while await connection.fetchval(others):
            await anyio.sleep(0.02)


async def written_rows(connection: Connection) -> int:
    """How many row versions all sessions together have written to the registry."""
    await alone(connection)  # a session's statistics are out before it leaves pg_stat_activity
    await connection.execute("select pg_stat_clear_snapshot()")
    return int(await connection.fetchval(WRITTEN))


async def test_the_stages_of_a_load_tell_where_its_time_went(database_url: DatabaseUrl, tmp_path: Path) -> None:
    await loaded(database_url, index(tmp_path, SOURCE))
    path, first, again = index(tmp_path, SOURCE + lines(2_000)), Told(), Told()
    await loaded(database_url, path, first)
    await loaded(database_url, path, again)
    for told in (first, again):
        stages = asdict(told.tally.stages)
        assert len(stages) == 8
        assert min(stages.values()) >= 0
        assert min(stages[name] for name in ("reading", "decoding", "waiting")) > 0
    assert first.tally.stages.copying > 0
    assert first.tally.stages.merging == 0, "it went straight"
    assert again.tally.stages.filtering > 0
    assert (again.tally.stages.copying, again.tally.stages.merging, again.tally.stages.committing) == (0, 0, 0)


async def test_only_what_changed_is_copied_and_merged(database_url: DatabaseUrl, tmp_path: Path) -> None:
    await loaded(database_url, index(tmp_path, SOURCE + lines(20)))
    told = Told()
    report = await loaded(database_url, index(tmp_path, SOURCE + lines(19) + lines(1, 19, name="new")), told)
    assert report.assets == AssetCounts(read=20, updated=1, unchanged=19)
    stages = told.tally.stages
    assert min(stages.copying, stages.merging, stages.committing) > 0


@pytest.mark.parametrize(
    ("told", "sizes"),
    [({"batch_size": 7}, [7, 7, 7, 2]), ({"batch_bytes": 1 << 10}, [7, 7, 7, 2]), ({"batch_size": 23}, [23])],
    ids=str,
)
async def test_a_batch_is_sent_as_soon_as_it_is_full(
    database_url: DatabaseUrl, tmp_path: Path, told: dict[str, int], sizes: list[int]
) -> None:
    progress = Told()
    content = SOURCE + lines(23)
    if "batch_bytes" in told:
        told = {"batch_bytes": max(1 << 10, len(content.splitlines()[1]) * 6 + 1)}
    report = await loaded(database_url, index(tmp_path, content), progress, concurrency=1, **told)
    assert progress.batches == sizes
    assert report.assets == AssetCounts(read=23, inserted=23)


# --- the disk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooler", ["auto", "transaction"])
async def test_no_session_of_a_load_waits_for_the_disk_at_every_commit(
    database_url: DatabaseUrl, plain_connection: Connection, pooler: PoolerName
) -> None:
    name = database_url.reveal.partition("?")[0].rpartition("/")[2]
    await plain_connection.execute(f"alter database {name} set synchronous_commit to on")
    try:
        async with session(database_url, pooler=pooler) as connection:
            assert await connection.fetchval("show synchronous_commit") == "off"
    finally:
        await plain_connection.execute(f"alter database {name} reset synchronous_commit")


async def test_flushing_waits_until_what_any_session_committed_is_on_disk(
    connection: Connection, database_url: DatabaseUrl
) -> None:
    for round_ in range(20):
        async with asyncio.timeout(20):
            await write(database_url, f"portal {round_}")
            before = int(await connection.fetchval(INSERTED))
            await flush(connection)
            assert int(await connection.fetchval(FLUSHED)) >= before
    assert await connection.fetchval("show synchronous_commit") == "off"


async def write(url: DatabaseUrl, key: str) -> None:
    connection = await asyncpg.connect(url.reveal, server_settings={"synchronous_commit": "off"})
    await connection.execute("insert into registry.sources (provider, source_key) values ('socrata', $1)", key)
    await connection.close()


async def test_a_load_that_is_done_is_on_disk(database_url: DatabaseUrl, tmp_path: Path) -> None:
    before: list[int] = []

    async def note() -> None:
        before.append(await number(database_url, INSERTED))

    for round_ in range(5):
        path = index(tmp_path, SOURCE + lines(20, name=f"round {round_}"))
        await loaded(database_url, path, Told("index_finished", note), verify=False, concurrency=1)
        assert await number(database_url, FLUSHED) >= before[round_]


async def test_a_dry_run_writes_nothing_not_even_to_the_log(
    database_url: DatabaseUrl, plain_connection: Connection, tmp_path: Path
) -> None:
    await loaded(database_url, index(tmp_path, SOURCE + lines(20)))
    versions = await plain_connection.fetch(VERSIONS)
    path = index(tmp_path, SOURCE + lines(19) + lines(1, 19, name="new") + lines(5, 20))
    grown = []
    for _ in range(5):  # the server itself may write something meanwhile, but hardly every time
        await alone(plain_connection)
        before = int(await plain_connection.fetchval(INSERTED))
        report = await loaded(database_url, path, dry_run=True)
        assert report.assets == AssetCounts(read=25, inserted=5, updated=1, unchanged=19)
        await alone(plain_connection)
        grown.append(int(await plain_connection.fetchval(INSERTED)) - before)
    assert min(grown) == 0
    assert await plain_connection.fetch(VERSIONS) == versions


# --- reading ahead -------------------------------------------------------------------------------------------------


@pytest.fixture
def small_chunks() -> Iterator[None]:
    with patch.multiple(byte_stream, CHUNK_BYTES=1_000, HEAD_BYTES=1_000):
        yield


@asynccontextmanager
async def nothing_left_over() -> AsyncIterator[None]:
    """No task, no open file, and nothing for the event loop to complain of, stays behind what is done inside."""
    complaints: list[Any] = []
    loop = asyncio.get_running_loop()

    def complain(_: Any, context: dict[str, Any]) -> None:
        # A connection that dies as its task is cancelled leaves a future of asyncpg, no task, that nobody asks.
        if "future" not in context or isinstance(context["future"], asyncio.Task):
            complaints.append(context)

    loop.set_exception_handler(complain)
    tasks, files = asyncio.all_tasks(), open_files()
    yield
    with anyio.fail_after(10):
        while not (asyncio.all_tasks() <= tasks and open_files() <= files):
            await anyio.sleep(0.02)
    gc.collect()
    await anyio.lowlevel.checkpoint()
    assert not complaints


def open_files() -> Counter[str]:
    found: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  # names are all that is wanted
        with suppress(OSError):  # the listing's own
            found[os.readlink(f"/proc/self/fd/{name}")] += 1  # noqa: PTH115
    return found


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": lambda data: gzip.compress(data, 1),
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}


@pytest.fixture(params=[*PACKERS, "pipe"])
def unending(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An index of which there is more to come, whatever was read; of a pipe that is waited for in vain."""
    content = SOURCE + b"{}\n" * 200 + lines(400)
    if request.param != "pipe":
        yield index(tmp_path, PACKERS[request.param](content))
        return
    path = tmp_path / "pipe"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR)
    os.write(descriptor, content[:40_000])
    yield str(path)
    os.close(descriptor)


async def test_one_chunk_is_read_ahead_and_no_more(tmp_path: Path, small_chunks: None) -> None:
    content = SOURCE + lines(100)
    async with nothing_left_over(), open_index(IndexRef.of(index(tmp_path, content))) as opened:
        chunks = opened.chunks()
        assert [await anext(chunks), await anext(chunks)] == [content[:1_000], content[1_000:2_000]]
        with anyio.fail_after(10):
            while opened.position < 3_000:
                await anyio.sleep(0.01)
        await anyio.sleep(0.1)
        assert opened.position == 3_000
        assert b"".join([chunk async for chunk in chunks]) == content[2_000:]


@pytest.mark.parametrize("how", ["closed", "forgotten", "index closed first"])
@pytest.mark.sampled(6)
async def test_an_index_left_in_the_middle_leaves_nothing_behind(unending: str, small_chunks: None, how: str) -> None:
    async with nothing_left_over():
        async with read_index(IndexRef.of(unending), Settings()) as reader:
            records: Any = reader.records()
            for _ in range(3):
                assert await anext(records)
            if how == "closed":
                await records.aclose()
            elif how == "forgotten":
                del records
        if how == "index closed first":
            await records.aclose()


async def test_a_load_with_too_many_rejects_leaves_nothing_behind(
    database_url: DatabaseUrl, unending: str, small_chunks: None
) -> None:
    async with nothing_left_over():
        with pytest.raises(TooManyRejects):
            await loaded(database_url, unending, max_rejects=MaxRejects(records=150), dialect="seed")


@pytest.mark.parametrize("event", ["index_opened", "batch_merged"])
@pytest.mark.sampled(6)
async def test_a_cancelled_load_leaves_nothing_behind(
    database_url: DatabaseUrl, unending: str, small_chunks: None, event: str
) -> None:
    class Cancelling(Told):
        task: asyncio.Task[Report]

        def tell(self, level: str, name: str, /, **fields: Any) -> None:
            if name == event:
                self.task.cancel()

    told = Cancelling()
    async with nothing_left_over():
        settings = Settings(database_url=database_url, batch_size=10, dialect="seed")
        told.task = asyncio.create_task(ingest([unending], settings, told))
        with suppress(asyncio.CancelledError):
            await told.task
        assert told.task.cancelled()
        del told


@pytest.mark.parametrize("is_slow", [False, True])
@pytest.mark.parametrize("kind", ["zstd", "gzip"])
async def test_an_error_in_the_chunk_read_ahead_comes_after_the_records_in_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, is_slow: bool
) -> None:
    monkeypatch.setattr(byte_stream, "CHUNK_BYTES", 20_000)
    packed = PACKERS[kind](SOURCE + lines(2_500))[:-2_000]
    unpacker = zlib.decompressobj(31) if kind == "gzip" else zstandard.ZstdDecompressor().decompressobj()
    readable = unpacker.decompress(packed)
    assert len(readable) > byte_stream.HEAD_BYTES + 3 * byte_stream.CHUNK_BYTES
    whole = [line for line in readable.splitlines(keepends=True)[1:] if line.endswith(b"\n")]
    expected = [json.loads(line)["asset_key"] for line in whole]
    found: list[str] = []
    async with nothing_left_over(), read_index(IndexRef.of(index(tmp_path, packed)), Settings()) as reader:
        with pytest.raises(IndexUnreadable, match="damaged or cut off"):  # noqa: PT012  # it is the loop that raises
            async for records in reader.records():
                if is_slow:
                    await anyio.sleep(0.02)  # what is read ahead has failed long before it is asked for
                found += [record.key for record in records if isinstance(record, Asset)]
    assert found == expected
    assert all(one < other for one, other in pairwise(found))


async def test_an_error_read_ahead_that_nobody_asks_for_is_no_matter(tmp_path: Path, small_chunks: None) -> None:
    path, count = index(tmp_path, gzip.compress(SOURCE + lines(50), 1)[:-500]), 0
    async with open_index(IndexRef.of(path)) as opened:
        with pytest.raises(IndexUnreadable):  # noqa: PT012  # it is the loop that raises
            async for _ in opened.chunks():
                count += 1
    assert count > 2
    async with nothing_left_over(), open_index(IndexRef.of(path)) as opened:
        chunks: Any = opened.chunks()
        for _ in range(count):
            await anext(chunks)
        await anyio.sleep(0.1)  # it has failed by now
        await chunks.aclose()


async def test_who_wants_no_more_chunks_of_a_silent_pipe_waits_for_none(tmp_path: Path, small_chunks: None) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR)
    os.write(descriptor, (SOURCE + lines(50))[:3_000])
    async with open_index(IndexRef.of(path)) as opened:
        tasks = asyncio.all_tasks()
        chunks: Any = opened.chunks()
        for _ in range(3):
            await anext(chunks)
        assert asyncio.all_tasks() > tasks
        await chunks.aclose()
        with anyio.fail_after(10):
            while asyncio.all_tasks() != tasks:
                await anyio.sleep(0.01)
    os.close(descriptor)
