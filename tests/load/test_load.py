"""A load from end to end, in this process: `ingest` on small indexes, against a real Postgres."""

# ruff: noqa: ASYNC110, ASYNC240  # a test may look at files and wait by polling: nothing else runs in its event loop
from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import re
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from fcntl import fcntl
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import anyio
import asyncpg
import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from conftest import Cli
from seed_registry import DatabaseUrl, MaxRejects, Report, Settings, ingest
from seed_registry.errors import (
    DatabaseUnavailable,
    IndexBroken,
    IndexesFailed,
    IndexNotUnderstood,
    IndexUnreadable,
    SchemaMismatch,
    SchemaMissing,
    StorageFailed,
    TooManyRejects,
    VerificationFailed,
)
from seed_registry.index import byte_stream
from seed_registry.report import AssetCounts, SourceCounts, Tally
from seed_registry.synthetic.index import Workload, expected, generate

pytestmark = pytest.mark.usefixtures("at_home")

Json = dict[str, Any]
Index = Callable[..., str]

A, B, C = "data.a.example", "data.b.example", "data.c.example"
UVLOOP = {"use_uvloop": True}
SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ of fcntl(2)

TABLE = """
    select asset_key, source_key, asset.name, description, asset.url, asset.updated_at, asset.raw
    from registry.assets as asset join registry.sources as source on source.id = asset.source_id
    order by asset_key collate "C"
"""
SOURCES = 'select source_key, name, url from registry.sources order by source_key collate "C"'
VERSIONS = """
    select 'source', source_key, xmin::text, ctid::text, updated_at from registry.sources
    union all select 'asset', asset_key, xmin::text, ctid::text, created_at from registry.assets
    order by 1, 2
"""


# What the tests say


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Write an index and get its path."""

    def write(content: bytes | Any, name: str = "index.json") -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return str(path)

    return write


class Told:
    """Notes what a load tells, and meddles at the first event of a name."""

    def __init__(self, event: str = "", meddle: Callable[[], None] = lambda: None) -> None:
        self.events: list[tuple[str, str, Json]] = []
        self._event = event
        self._meddle = meddle

    def began(self, tally: Tally) -> None:
        """The load begins."""
        self.tally = tally

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Something happened."""
        first = event == self._event and not any(name == event for _, name, _ in self.events)
        self.events.append((level, event, fields))
        if first:
            self._meddle()

    def of(self, event: str) -> list[Json]:
        """The facts of all events of a name."""
        return [fields for _, name, fields in self.events if name == event]


def source(key: str = A, **fields: Any) -> Json:
    return {"source_key": key, "name": f"Portal {key}", **fields}


def asset(key: str, source_key: str = A, **fields: Any) -> Json:
    return {"asset_key": key, "source_key": source_key, "name": f"Asset {key}", **fields}


def lines(*records: Json | bytes) -> bytes:
    """NDJSON of sources and assets; bytes go in as they are."""
    return b"".join(
        (record if isinstance(record, bytes) else json.dumps(typed(record)).encode()) + b"\n" for record in records
    )


def typed(record: Json) -> Json:
    return {"type": "asset" if "asset_key" in record else "source", **record}


def conserved(report: Report) -> Report:
    """The law of every report: each record read has exactly one outcome."""
    for counts in (report.sources, report.assets):
        outcomes = [getattr(counts, name) for name in counts.__struct_fields__ if name != "read"]
        assert counts.read == sum(outcomes), counts
    return report


async def load(url: DatabaseUrl | None, *indexes: str, progress: Told | None = None, **settings: Any) -> Report:
    settings.setdefault("retry_for_seconds", 0)
    settings.setdefault("max_rejects", MaxRejects(percent=100))
    report = conserved(await ingest(indexes, Settings(database_url=url, **settings), progress))
    if url is not None and settings.get("verify", True) and not settings.get("dry_run"):
        assert report.verification
        assert report.verification.passed
    return report


async def ask(url: DatabaseUrl, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url.reveal)
    try:
        return [tuple(row) for row in await connection.fetch(query, *arguments)]
    finally:
        await connection.close()


async def value(url: DatabaseUrl, query: str) -> Any:
    return (await ask(url, query))[0][0]


def from_outside(url: DatabaseUrl, query: str) -> None:
    """Run a statement from another thread, while the event loop stands still."""
    thread = threading.Thread(target=lambda: asyncio.run(ask(url, query)))
    thread.start()
    thread.join()


def ignore_orphans() -> None:
    """A connection that dies as its task is cancelled leaves a future of asyncpg that nobody asks."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)


async def keys(url: DatabaseUrl) -> list[str]:
    return [row[0] for row in await ask(url, TABLE)]


async def nothing_left(url: DatabaseUrl) -> None:
    """No session but ours is connected, and no temporary table stayed; the server needs a moment to notice."""
    query = """
        select (select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()),
               (select count(*) from pg_class where relpersistence = 't')
    """
    with anyio.fail_after(10):
        while (await ask(url, query)) != [(0, 0)]:
            await anyio.sleep(0.02)


async def written_rows(url: DatabaseUrl) -> int:
    """How many row versions all sessions together have written to the registry, by the statistics."""
    await nothing_left(url)  # a session's statistics are out before it leaves pg_stat_activity
    connection = await asyncpg.connect(url.reveal)
    await connection.execute("select pg_stat_force_next_flush()")
    count = await connection.fetchval(
        "select sum(n_tup_ins + n_tup_upd + n_tup_del) from pg_stat_user_tables where schemaname = 'registry'"
    )
    await connection.close()
    return int(count)


# Order, chunks, batches and concurrency change nothing

records = st.lists(
    st.one_of(
        st.builds(source, st.sampled_from([A, B, C]), name=st.sampled_from(["one", "two", None])),
        st.builds(
            asset,
            st.sampled_from(["aaaa-0001", "aaaa-0002", "aaaa-0003", "aaaa-0004", "aaaa-0005"]),
            st.sampled_from([A, B, C, "data.unlisted.example"]),
            name=st.sampled_from(["one", "two", "three"]),
            updated_at=st.sampled_from([None, "2020-01-01", "2021-06-01T00:00:00Z", "2022-01-01T01:00:00+01:00"]),
        ),
    ),
    min_size=1,
    max_size=40,
)


def model(found: Sequence[Json]) -> tuple[list[Any], list[Any], int]:
    """What the tables should hold, and how many assets miss their source: dicts, and the last one wins."""
    listed = {record["source_key"]: record["name"] for record in found if "asset_key" not in record}
    assets: dict[str, tuple[str, str, datetime | None]] = {}
    missing = 0
    for record in found:
        if "asset_key" not in record:
            continue
        if listed and record["source_key"] not in listed:
            missing += 1
            continue
        before = assets.get(record["asset_key"], ("", "", None))[2]
        moments = [moment for moment in (before, date(record["updated_at"])) if moment]
        assets[record["asset_key"]] = (record["source_key"], record["name"], max(moments, default=None))
    sources = listed or dict.fromkeys(record["source_key"] for record in found)
    rows = sorted((key, *fields) for key, fields in assets.items())
    return [(key, name) for key, name in sorted(sources.items())], rows, missing


def date(text: str | None) -> datetime | None:
    moment = datetime.fromisoformat(text) if text else None
    return moment and (moment if moment.tzinfo else moment.replace(tzinfo=UTC))


@pytest.mark.slow
@hypothesis_settings(
    max_examples=15,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    found=records,
    form=st.sampled_from(["lines", "sources first", "assets first"]),
    chunk=st.sampled_from([7, 100, 1 << 18]),
    batch_size=st.sampled_from([1, 2, 7, 500]),
    concurrency=st.sampled_from([1, 2, 5]),
)
def test_any_order_of_records_and_any_cut_into_chunks_and_batches_gives_the_table_of_a_plain_dict(
    database_url: DatabaseUrl, index: Index, found: list[Json], form: str, chunk: int, batch_size: int, concurrency: int
) -> None:
    if form == "lines":
        path = index(lines(*found))
    else:
        parts = {
            "sources": [record for record in found if "asset_key" not in record],
            "assets": [record for record in found if "asset_key" in record],
        }
        path = index(dict(sorted(parts.items(), reverse=form == "sources first")))

    async def loaded() -> Report:
        await ask(database_url, "truncate registry.sources, registry.assets")
        try:
            return await load(database_url, path, batch_size=batch_size, concurrency=concurrency)
        except VerificationFailed as exc:
            if not str(exc).startswith("nothing was loaded: "):
                raise
            report: Report = exc.report
            return report

    with patch.multiple(byte_stream, CHUNK_BYTES=chunk, HEAD_BYTES=300):
        report = anyio.run(loaded, backend_options=UVLOOP)
    sources, assets, missing = model(found)
    assert anyio.run(ask, database_url, SOURCES.replace(", url", "")) == sources
    assert [
        (key, *fields) for key, *fields in anyio.run(ask, database_url, TABLE.replace("description, asset.url,", ""))
    ] == [(*row, raw) for row, (*_, raw) in zip(assets, anyio.run(ask, database_url, TABLE), strict=True)]
    counts = report.assets
    assert counts.read == sum("asset_key" in record for record in found)
    assert (counts.inserted, counts.missing_source) == (len(assets), missing)
    assert counts.updated + counts.unchanged + counts.duplicate == counts.read - len(assets) - missing


@pytest.mark.slow
@pytest.mark.anyio
async def test_batches_and_workers_do_not_change_the_table_of_an_index_with_many_repeats(
    database_url: DatabaseUrl, index: Index
) -> None:
    path = index(b"".join(generate(Workload(records=400, duplicates=40, sources=7, dialect="discovery", size=1300))))
    tables = []
    for size, workers in ((1, 1), (7, 3), (5_000, 8)):
        await ask(database_url, "truncate registry.sources, registry.assets")
        await load(database_url, path, batch_size=size, concurrency=workers)
        tables.append(await ask(database_url, TABLE))
    assert len(tables[0]) == 240
    assert tables[0] == tables[1] == tables[2]


@pytest.mark.anyio
async def test_the_date_of_an_asset_does_not_depend_on_whether_its_repeats_share_a_batch(
    database_url: DatabaseUrl, index: Index
) -> None:
    path = index(
        lines(
            source(),
            asset("aaaa-0001", name="first", updated_at="2022-01-01"),
            asset("aaaa-0001", name="last", updated_at="2020-01-01"),
            asset("aaaa-0002", updated_at="2022-01-01"),
            asset("aaaa-0002", updated_at=None),
        )
    )
    moment = datetime(2022, 1, 1, tzinfo=UTC)
    for size in (1, 500):
        await ask(database_url, "truncate registry.sources, registry.assets")
        await load(database_url, path, batch_size=size)
        rows = await ask(database_url, TABLE)
        assert [(row[2], row[5]) for row in rows] == [("last", moment), ("Asset aaaa-0002", moment)]


@pytest.mark.anyio
async def test_the_last_of_a_key_wins_also_when_only_the_first_had_to_wait_for_its_source(
    database_url: DatabaseUrl, index: Index
) -> None:
    path = index(
        lines(source(A), asset("aaaa-0001", B, name="first"), asset("aaaa-0001", A, name="last"), source(B)),
    )
    with patch.multiple(byte_stream, CHUNK_BYTES=20, HEAD_BYTES=20):
        report = await load(database_url, path, batch_size=1, dialect="seed")
    assert [row[:3] for row in await ask(database_url, TABLE)] == [("aaaa-0001", A, "last")]
    assert report.assets.read == 2


@pytest.mark.anyio
async def test_several_indexes_load_one_after_the_other_and_the_last_wins(
    database_url: DatabaseUrl, index: Index
) -> None:
    first = index(lines(source(A), asset("aaaa-0001", name="old"), asset("aaaa-0002")), "first.ndjson")
    page = {"resource": {"id": "bbbb-0001", "name": "Page"}, "metadata": {"domain": B}}
    second = index({"results": [page]}, "second.json")
    third = index(lines(source(A), asset("aaaa-0001", name="new")), "third.ndjson")
    report = await load(database_url, first, second, third)
    assert (report.indexes, report.dialect) == ([first, second, third], "seed, discovery")
    assert report.bytes_read == sum(Path(path).stat().st_size for path in (first, second, third))
    assert (report.assets.inserted, report.assets.duplicate) == (3, 1)
    assert [row[:3] for row in await ask(database_url, TABLE)] == [
        ("aaaa-0001", A, "new"),
        ("aaaa-0002", A, "Asset aaaa-0002"),
        ("bbbb-0001", B, "Page"),
    ]


@pytest.mark.anyio
async def test_an_index_is_committed_whole_before_the_next_one_turns_out_to_be_none(
    database_url: DatabaseUrl, index: Index
) -> None:
    good = index(lines(source(), *(asset(f"aaaa-{number:04}") for number in range(50))))
    with pytest.raises(IndexNotUnderstood, match="PNG"):
        await load(database_url, good, index(b"\x89PNG\r\n\x1a\n" + bytes(100), "image.png"), batch_size=5)
    assert len(await keys(database_url)) == 50


# Several indexes


def summed(report: Report) -> Report:
    """The parts of a report are the whole."""
    assert [part.index for part in report.per_index] == report.indexes
    for table in ("sources", "assets"):
        for name in getattr(report, table).__struct_fields__:
            parts = sum(getattr(getattr(part, table), name) for part in report.per_index)
            assert parts == getattr(getattr(report, table), name), f"{table} {name}"
    assert sum(part.bytes_read for part in report.per_index) == report.bytes_read
    return report


def three(index: Index) -> list[str]:
    page = {"resource": {"id": "bbbb-0001"}, "metadata": {"domain": B}}
    package = {"id": "cccc-0001", "name": "c", "metadata_modified": "never", "url": f"https://{C}/x"}
    return [
        index(lines(source(A), asset("aaaa-0001"), asset("aaaa-0001"), b"{}", asset("aaaa-0002", B)), "1.ndjson"),
        index({"results": [page, page]}, "2.json"),
        index([package], "3.json"),
    ]


@pytest.mark.anyio
async def test_the_report_of_several_indexes_tells_what_became_of_each_and_their_sum_is_the_whole(
    database_url: DatabaseUrl, index: Index
) -> None:
    paths = three(index)
    told = Told()
    report = summed(await load(database_url, *paths, progress=told))
    first, second, third = report.per_index
    assert first.assets == AssetCounts(read=4, inserted=1, duplicate=1, rejected=1, missing_source=1)
    assert first.sources == SourceCounts(read=1, inserted=1)
    assert second.assets == AssetCounts(read=2, inserted=1, duplicate=1)
    assert third.assets == AssetCounts(read=1, inserted=1)
    assert [part.dialect for part in report.per_index] == ["seed", "discovery", "ckan"]
    assert [part.provider for part in report.per_index] == ["socrata", "socrata", "ckan"]
    assert [part.error for part in report.per_index] == [None] * 3
    assert (report.dialect, report.provider) == ("seed, discovery, ckan", "socrata, ckan")
    assert [fields["index"] for fields in told.of("index_finished")] == paths
    again = summed(await load(database_url, *reversed(paths)))
    assert again.per_index[0].assets == AssetCounts(read=1, unchanged=1)
    assert again.sources == SourceCounts(read=3, unchanged=3)


@pytest.mark.anyio
async def test_the_report_of_one_index_has_no_parts(database_url: DatabaseUrl, index: Index) -> None:
    report = await load(database_url, index(lines(source(), asset("aaaa-0001"))))
    assert report.per_index == []
    assert b"per_index" not in msgspec.json.encode(report)
    assert b"per_index" in msgspec.json.encode(await load(database_url, *three(index)))


@pytest.mark.anyio
async def test_a_portal_of_two_dialects_is_one_source(database_url: DatabaseUrl, index: Index) -> None:
    views = index([{"id": "abcd-2345", "name": "View", "columns": []}], "views.json")
    packages = index([{"id": "k-1", "name": "package", "metadata_modified": "2024-01-01"}], "packages.json")
    report = summed(await load(database_url, views, packages, domain=A))
    assert report.sources == SourceCounts(read=2, inserted=1, unchanged=1)
    query = """
        select asset_key, provider, source_key, asset.url from registry.assets as asset
        join registry.sources as source on source.id = asset.source_id order by 1
    """
    assert await ask(database_url, query) == [
        ("abcd-2345", "socrata", A, f"https://{A}/d/abcd-2345"),
        ("k-1", "socrata", A, f"https://{A}/dataset/package"),
    ]


@pytest.mark.anyio
async def test_patterns_and_directories_load_the_files_that_they_mean(
    database_url: DatabaseUrl, index: Index, tmp_path: Path
) -> None:
    (tmp_path / "more").mkdir()
    paths = [
        index(lines(source(), asset(f"aaaa-{number:04}")), name)
        for number, name in enumerate(["p2.ndjson", "p1.ndjson", "more/b.json", "more/a.jsonl", "more/no.txt"])
    ]
    second, first, b, a, _ = paths
    report = await load(database_url, str(tmp_path / "p?.ndjson"), str(tmp_path / "more"))
    assert report.indexes == [first, second, a, b]
    assert summed(report).assets.inserted == 4
    assert await keys(database_url) == [f"aaaa-{number:04}" for number in range(4)]


BAD_INDEXES: dict[str, tuple[bytes | None, str, int]] = {  # content, what is said of it, what is loaded of it
    "no such file": (None, "no such file", 0),
    "empty": (b"", "is empty", 0),
    "no index": (b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG", 0),
    "of an unknown shape": (b'{"features": [{"x": 1}]}', "no dialect knows; it has features", 0),
    "without a domain": (b'[{"id": "abcd-2345", "columns": []}]', "--domain", 0),
    "cut off": (
        json.dumps({"sources": [source()], "assets": [asset("bad-0001"), asset("bad-0002")]}).encode()[:-9],
        "cut off",
        1,
    ),
    "cut off before its sources": (
        json.dumps({"assets": [asset("bad-0001")]}).encode()[:-1] + b', "sources": [',
        "cut off",
        0,
    ),
    "damaged": (gzip.compress(Random(1).randbytes(500), mtime=0)[:-9], "damaged", 0),
    "with too many sources": (
        lines(*(source(f"{number}.example") for number in range(9)), asset("bad-0001", "1.example")),
        "--max-sources",
        0,
    ),
    "with too many derived sources": (
        json.dumps({"assets": [asset(f"bad-{number:04}", f"{number}.example") for number in range(9)]}).encode(),
        "--max-sources",
        0,
    ),
}


@pytest.mark.anyio
@pytest.mark.parametrize(("content", "said", "loaded"), BAD_INDEXES.values(), ids=BAD_INDEXES)
@pytest.mark.sampled(5)
async def test_with_keep_going_a_bad_index_is_told_with_the_report_and_the_others_are_loaded(
    database_url: DatabaseUrl, index: Index, tmp_path: Path, content: bytes | None, said: str, loaded: int
) -> None:
    good, last = (
        index(lines(source(), asset(f"{name}-0001"), asset(f"{name}-0002")), f"{name}.ndjson")
        for name in ("good", "last")
    )
    bad = str(tmp_path / "bad.json") if content is None else index(content, "bad.json")
    told = Told()
    with pytest.raises(IndexesFailed) as raised:
        await load(database_url, good, bad, last, keep_going=True, max_sources=5, progress=told)
    assert raised.value.exit_code == 1
    assert str(raised.value) == f"1 of 3 indexes failed: {bad}; the others are loaded"
    report = summed(conserved(raised.value.report))
    assert report.verification
    assert report.verification.passed
    assert [part.error is None for part in report.per_index] == [True, False, True]
    assert said in (report.per_index[1].error or "")
    assert [fields["index"] for fields in told.of("index_failed")] == [bad]
    assert told.of("index_failed")[0]["reason"] == report.per_index[1].error
    found = await keys(database_url)
    assert [key for key in found if not key.startswith("bad")] == ["good-0001", "good-0002", "last-0001", "last-0002"]
    assert len(found) == 4 + loaded == report.assets.inserted
    await nothing_left(database_url)


@pytest.mark.anyio
@pytest.mark.parametrize(("content", "said", "loaded"), BAD_INDEXES.values(), ids=BAD_INDEXES)
@pytest.mark.sampled(4)
async def test_without_keep_going_a_bad_index_ends_the_load(
    database_url: DatabaseUrl, index: Index, tmp_path: Path, content: bytes | None, said: str, loaded: int
) -> None:
    good, last = (index(lines(source(), asset(f"{name}-0001")), f"{name}.ndjson") for name in ("good", "last"))
    bad = str(tmp_path / "bad.json") if content is None else index(content, "bad.json")
    with pytest.raises((IndexBroken, IndexNotUnderstood, IndexUnreadable)) as raised:
        await load(database_url, good, bad, last, max_sources=5)
    assert said in str(raised.value)
    found = await keys(database_url)
    assert [key for key in found if not key.startswith("bad")] == ([] if content is None else ["good-0001"])
    assert len(found) == (0 if content is None else 1 + loaded), "a file that is not there ends it before it begins"
    await nothing_left(database_url)


@pytest.mark.anyio
@pytest.mark.parametrize(("content", "said", "loaded"), BAD_INDEXES.values(), ids=BAD_INDEXES)
@pytest.mark.sampled(4)
async def test_the_only_index_of_a_load_fails_it_also_with_keep_going(
    database_url: DatabaseUrl, index: Index, tmp_path: Path, content: bytes | None, said: str, loaded: int
) -> None:
    bad = str(tmp_path / "bad.json") if content is None else index(content, "bad.json")
    with pytest.raises((IndexBroken, IndexNotUnderstood, IndexUnreadable)) as raised:
        await load(database_url, bad, keep_going=True, max_sources=5)
    assert said in str(raised.value)
    assert len(await keys(database_url)) == loaded


@pytest.mark.anyio
async def test_keep_going_changes_nothing_where_every_index_is_good(database_url: DatabaseUrl, index: Index) -> None:
    report = summed(await load(database_url, *three(index), keep_going=True))
    assert report.assets.inserted == 3


@pytest.mark.anyio
async def test_of_many_bad_indexes_the_first_five_are_named(database_url: DatabaseUrl, index: Index) -> None:
    paths = [index(b"", f"{number}.json") for number in range(8)]
    with pytest.raises(IndexesFailed) as raised:
        await load(database_url, *paths, index(lines(source())), keep_going=True)
    assert str(raised.value).startswith(f"8 of 9 indexes failed: {', '.join(paths[:5])} and 3 more;")


@pytest.mark.anyio
async def test_too_many_rejects_and_a_lost_database_end_a_load_that_keeps_going(
    database_url: DatabaseUrl, index: Index
) -> None:
    paths = [index(lines(source(), b"{}", b"{}"), "1.ndjson"), index(lines(source(), asset("aaaa-0001")), "2.ndjson")]
    with pytest.raises(TooManyRejects):
        await load(database_url, *paths, keep_going=True, max_rejects=MaxRejects.parse("1"))
    with pytest.raises(DatabaseUnavailable):
        await load(DatabaseUrl("postgresql://nobody@127.0.0.1:1/nowhere"), *paths, keep_going=True)
    assert await keys(database_url) == []


@pytest.mark.anyio
async def test_a_missing_file_is_told_before_the_database_is_asked(index: Index, home: Path, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.json")
    for url in (DatabaseUrl("postgresql://nobody@127.0.0.1:1/nowhere"), None):
        for paths in ([missing], [index(lines(source())), missing]):
            with pytest.raises(IndexUnreadable, match=r"missing\.json: no such file"):
                await load(url, *paths)
    assert list(home.iterdir()) == [], "no embedded server was set up"


# The same records in every container

DIGEST = """
    select md5(string_agg(md5(row(
      asset_key, provider, source_key, source.name, source.url, asset.name, description, asset.url,
      asset.updated_at, asset.raw)::text), '' order by asset_key collate "C")), count(*)
    from registry.assets as asset join registry.sources as source on source.id = asset.source_id
"""
MANY = range(700)
TEXT = "<p>caf\ufffd Ã©\r\n\u200b</p>  "
SETS: dict[str, list[Json]] = {
    "discovery": [
        {"resource": {"id": f"k-{n}", "name": TEXT, "updatedAt": "2024-01-02"}, "metadata": {"domain": (A, B)[n % 2]}}
        for n in MANY
    ],
    "directory": [{"id": f"k-{n}", "name": TEXT, "domain": A, "description": "   "} for n in MANY],
    "views": [{"id": f"k-{n}", "name": TEXT, "rowsUpdatedAt": 1371737836 + n} for n in MANY],
    "data-json": [
        {
            "identifier": f"https://{A}/{n}",
            "title": TEXT,
            "accessLevel": "public",
            "modified": ("R/P1D", "2024-01-02")[n % 2],
        }
        for n in MANY
    ],
    "ckan": [
        {"id": f"k-{n}", "name": f"n-{n}", "title": TEXT, "metadata_modified": "2024-01-02T03:04:05.678"} for n in MANY
    ],
}
NESTED: dict[str, Callable[[list[Json]], Json]] = {
    "discovery": lambda records: {"resultSetSize": 7, "results": records},
    "directory": lambda records: {"datasets": records, "domain": A},
    "data-json": lambda records: {"dataset": records, "@id": f"https://{A}/data.json"},
    "ckan": lambda records: {"help": f"https://{A}/api/3", "success": True, "result": {"results": records}},
}


def containers(dialect: str, records: list[Json]) -> dict[str, bytes]:
    def form(thing: Any, **options: Any) -> bytes:
        return json.dumps(thing, **options).encode()

    by_line = b"".join(form(record) + b"\n" for record in records)
    found = {
        "lines": by_line,
        "lines with carriage returns and blanks": by_line.replace(b"\n", b"\r\n\r\n"),
        "lines, packed with gzip": gzip.compress(by_line),
        "lines, packed with zstd": zstandard.compress(by_line),
        "array": form(records),
        "array, pretty-printed, not ASCII": b"\xef\xbb\xbf" + form(records, indent="\t", ensure_ascii=False),
    }
    if dialect == "directory":
        found = {name: data for name, data in found.items() if "lines" not in name}
    if nest := NESTED.get(dialect):
        found |= {
            "document": form(nest(records)),
            "document, pretty-printed": form(nest(records), indent=2),
            "document, header last": form(dict(reversed(nest(records).items()))),
            "document, packed with zstd": zstandard.compress(form(nest(records))),
        }
    if dialect == "ckan":
        found["document, listed"] = form({"help": f"https://{A}/api/3", "result": records})
    return found


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("dialect", SETS)
async def test_the_same_records_in_every_container_give_the_same_table(
    database_url: DatabaseUrl, index: Index, cli: Cli, dialect: str
) -> None:
    found = containers(dialect, SETS[dialect])
    domain = None if dialect == "discovery" else A  # its records name their portal
    digests = {}
    for name, data in found.items():
        await ask(database_url, "truncate registry.sources, registry.assets")
        report = await load(database_url, index(data, "index"), domain=domain)
        assert (report.dialect, report.assets) == (dialect, AssetCounts(read=700, inserted=700)), name
        digests[name] = (await ask(database_url, DIGEST))[0]
        again = await load(database_url, index(data, "index"), domain=domain, full=True)
        assert again.assets.unchanged == 700
    await ask(database_url, "truncate registry.sources, registry.assets")
    named = ["--domain", domain] if domain else []
    done = await asyncio.to_thread(cli, "load", "-", *named, url=database_url, input=gzip.compress(found["array"]))
    assert done.returncode == 0, done.stderr
    digests["stdin"] = (await ask(database_url, DIGEST))[0]
    assert len(set(digests.values())) == 1, digests
    assert digests["stdin"][1] == 700


@pytest.mark.anyio
async def test_sources_before_among_and_after_their_assets_give_the_same_table(
    database_url: DatabaseUrl, index: Index
) -> None:
    sources = [typed(source(key)) for key in (A, B, C)]
    assets = [typed(asset(f"k-{n}", (A, B, C)[n % 3], name="a\0b" if n % 7 == 0 else TEXT)) for n in MANY]
    forms = {
        "document": json.dumps({"sources": sources, "assets": assets}).encode(),
        "document, sources last": json.dumps({"assets": assets, "sources": sources}, indent=1).encode(),
        "lines": lines(*sources, *assets),
        "lines, sources last": zstandard.compress(lines(*assets, *sources)),
        "lines, sources among them": lines(*assets[:300], *sources, *assets[300:]),
    }
    digests = {}
    for name, data in forms.items():
        await ask(database_url, "truncate registry.sources, registry.assets")
        report = await load(database_url, index(data), dialect="seed")
        assert report.assets == AssetCounts(read=700, inserted=700), name
        assert report.repaired == 100, f"{name}: the parked ones are counted, too"
        digests[name] = (await ask(database_url, DIGEST))[0]
    assert len(set(digests.values())) == 1, digests
    assert digests["document"][1] == 700


@pytest.mark.anyio
@pytest.mark.parametrize("dialect", ["directory", "data-json", "ckan"])
async def test_content_hashes_are_the_same_wherever_the_header_stands_and_so_nothing_is_written_again(
    database_url: DatabaseUrl, index: Index, dialect: str
) -> None:
    records = [{key: text for key, text in record.items() if key != "domain"} for record in SETS[dialect]]
    document = NESTED[dialect](records)
    first, last = (dict(sorted(document.items(), key=lambda item: item[0] in ends)) for ends in (
        ("datasets", "dataset", "result"), ("domain", "@id", "help"),
    ))  # fmt: skip
    assert list(first) != list(last)
    await load(database_url, index(first))
    query = "select asset_key, content_hash from registry.assets order by 1"
    hashes, written = await ask(database_url, query), await written_rows(database_url)
    assert len({row[1] for row in hashes}) == 700
    assert (await load(database_url, index(last))).assets == AssetCounts(read=700, unchanged=700)
    assert await written_rows(database_url) == written
    await ask(database_url, "truncate registry.sources, registry.assets")
    await load(database_url, index(last))
    assert await ask(database_url, query) == hashes


@pytest.mark.anyio
async def test_the_same_bytes_under_another_header_are_other_records(database_url: DatabaseUrl, index: Index) -> None:
    records = [{"id": "k-1", "name": "One"}]
    await load(database_url, index({"domain": A, "datasets": records}))
    report = await load(database_url, index({"datasets": records, "domain": B}))
    assert report.assets == AssetCounts(read=1, updated=1)
    assert [row[:2] for row in await ask(database_url, TABLE)] == [("k-1", B)]


@pytest.mark.anyio
async def test_the_row_of_a_catalogue_itself_is_no_asset_and_not_counted(
    database_url: DatabaseUrl, index: Index
) -> None:
    row = {"accessLevel": "Public", "identifier": f"https://{A}/data.json", "title": "/data.json file"}
    data_set = {"accessLevel": "Public", "identifier": "abcd-2345", "title": "One", "modified": "R/P1D"}
    told = Told()
    report = await load(database_url, index([row, data_set]), domain=B, progress=told)
    assert report.assets == AssetCounts(read=1, inserted=1)
    assert report.sources == SourceCounts(read=1, inserted=1)
    assert told.tally.dates_ignored == 1
    assert [row[:3] for row in await ask(database_url, TABLE)] == [("abcd-2345", B, "One")]


@pytest.mark.anyio
async def test_a_federated_catalogue_is_of_the_portal_that_publishes_it(
    database_url: DatabaseUrl, index: Index
) -> None:
    records = [
        {"identifier": f"https://agency{n}.gov/{n}", "title": "t", "landingPage": f"https://{C}/{n}"} for n in range(9)
    ]
    report = await load(database_url, index({"@id": f"https://{A}/data.json", "dataset": records}))
    assert report.sources == SourceCounts(read=1, inserted=1)
    rows = await ask(database_url, TABLE)
    assert {row[1] for row in rows} == {A}
    assert [row[4] for row in rows] == [f"https://{C}/{n}" for n in range(9)]


# Loading again


@pytest.mark.anyio
async def test_loading_the_same_again_writes_not_a_single_row_version(database_url: DatabaseUrl, index: Index) -> None:
    path = index(b"".join(generate(Workload(records=300, sources=5))))
    await load(database_url, path)
    versions, written = await ask(database_url, VERSIONS), await written_rows(database_url)
    assert (len(versions), written) == (305, 305)
    report = await load(database_url, path, batch_size=11, concurrency=2)
    assert (report.sources.unchanged, report.assets.unchanged) == (5, 300)
    assert await ask(database_url, VERSIONS) == versions
    assert await written_rows(database_url) == written


@pytest.mark.anyio
async def test_only_what_changed_is_written_again(database_url: DatabaseUrl, index: Index) -> None:
    first, second = source(), asset("aaaa-0002", updated_at="2022-01-01")
    await load(database_url, index(lines(first, asset("aaaa-0001"), second, asset("aaaa-0003"))))
    before = await ask(database_url, VERSIONS)
    changed = asset("aaaa-0002", name="Other", updated_at="2021-01-01")
    report = await load(
        database_url, index(lines(first, asset("aaaa-0001"), changed, asset("aaaa-0003"), asset("aaaa-0004")))
    )
    assert report.assets == AssetCounts(read=4, inserted=1, updated=1, unchanged=2)
    after = await ask(database_url, VERSIONS)
    assert {row[1] for row in set(after) - set(before)} == {"aaaa-0002", "aaaa-0004"}
    row = (await ask(database_url, TABLE))[1]
    assert (row[2], row[5]) == ("Other", datetime(2022, 1, 1, tzinfo=UTC)), "a portal's moment never goes backwards"


@pytest.mark.anyio
async def test_other_bytes_of_the_same_values_are_unchanged(database_url: DatabaseUrl, index: Index) -> None:
    await load(database_url, index(lines(source(), asset("aaaa-0001"))))
    table = await ask(database_url, TABLE)
    spaced = b'{"type": "asset",   "name": "Asset aaaa\\u002d0001", "source_key": "%b", "asset_key": "aaaa-0001"}'
    path = index(lines(source(), spaced % A.encode()))
    assert (await load(database_url, path)).assets.unchanged == 1
    assert await ask(database_url, TABLE) == table
    versions = await ask(database_url, VERSIONS)  # by now the row has the hash of these bytes
    assert (await load(database_url, path)).assets.unchanged == 1
    assert await ask(database_url, VERSIONS) == versions


@pytest.mark.anyio
async def test_full_finds_what_was_edited_by_hand_and_without_it_the_hashes_are_trusted(
    database_url: DatabaseUrl, index: Index
) -> None:
    path = index(lines(source(), asset("aaaa-0001"), asset("aaaa-0002")))
    await load(database_url, path)
    await ask(database_url, "update registry.assets set name = 'edited' where asset_key = 'aaaa-0001'")
    await ask(database_url, "update registry.sources set url = 'edited'")
    trusting = await load(database_url, path, verify_sample=0)
    assert (trusting.sources.unchanged, trusting.assets.unchanged) == (1, 2)
    comparing = await load(database_url, path, full=True)
    assert (comparing.sources.updated, comparing.assets.updated, comparing.assets.unchanged) == (1, 1, 1)
    assert [row[2] for row in await ask(database_url, TABLE)] == ["Asset aaaa-0001", "Asset aaaa-0002"]


@pytest.mark.anyio
async def test_an_edited_row_that_hashes_hide_is_found_by_the_verification(
    database_url: DatabaseUrl, index: Index
) -> None:
    path = index(lines(source(), asset("aaaa-0001")))
    await load(database_url, path)
    await ask(database_url, "update registry.assets set name = 'edited'")
    told = Told()
    with pytest.raises(VerificationFailed, match="sample_equal: expected 1, found 0") as raised:
        await load(database_url, path, progress=told)
    assert raised.value.report.assets.unchanged == 1
    assert [(fields["key"], fields["fields"]) for fields in told.of("sample_differs")] == [("aaaa-0001", ["name"])]


# Sources and assets


@pytest.mark.anyio
async def test_assets_of_an_unlisted_source_are_counted_told_and_not_loaded(
    database_url: DatabaseUrl, index: Index
) -> None:
    told = Told()
    path = index({"sources": [source(A)], "assets": [asset("aaaa-0001", B), asset("aaaa-0002", A)]})
    report = await load(database_url, path, progress=told)
    assert report.assets == AssetCounts(read=2, inserted=1, missing_source=1)
    assert await keys(database_url) == ["aaaa-0002"]
    (warning,) = told.of("source_missing")
    assert (warning["key"], warning["source"], warning["reason"]) == ("aaaa-0001", B, "missing_source")


@pytest.mark.anyio
async def test_a_source_is_listed_by_its_own_index_alone(database_url: DatabaseUrl, index: Index) -> None:
    await load(database_url, index(lines(source(A), source(B)), "first.ndjson"))
    second = index(lines(source(A), asset("aaaa-0002", A), asset("aaaa-0001", B)), "second.ndjson")
    report = await load(database_url, second)
    assert (report.assets.missing_source, report.assets.inserted) == (1, 1)


@pytest.mark.anyio
@pytest.mark.parametrize("form", ["lines", "document", "assets first"])
async def test_derive_sources_creates_the_unlisted_ones(database_url: DatabaseUrl, index: Index, form: str) -> None:
    listed, first, second = source(A), asset("aaaa-0001", B), asset("aaaa-0002", A)
    content: dict[str, Any] = {
        "lines": lines(first, listed, second),
        "document": {"sources": [listed], "assets": [first, second]},
        "assets first": {"assets": [first, second], "sources": [listed]},
    }
    report = await load(database_url, index(content[form]), derive_sources=True)
    assert report.assets == AssetCounts(read=2, inserted=2)
    assert report.sources.inserted == 2
    assert await ask(database_url, SOURCES) == [(A, f"Portal {A}", f"https://{A}"), (B, None, f"https://{B}")]


@pytest.mark.anyio
@pytest.mark.parametrize("empty", [{}, {"sources": []}])
async def test_an_index_that_lists_no_sources_derives_them_and_never_touches_known_ones(
    database_url: DatabaseUrl, index: Index, empty: Json
) -> None:
    await load(database_url, index(lines(source(A, name="Known"))))
    report = await load(database_url, index({**empty, "assets": [asset("aaaa-0001", A), asset("aaaa-0002", B)]}))
    assert report.sources == SourceCounts(read=2, inserted=1, unchanged=1)
    assert report.assets.inserted == 2
    assert await ask(database_url, SOURCES) == [(A, "Known", f"https://{A}"), (B, None, f"https://{B}")]


@pytest.mark.anyio
@pytest.mark.parametrize("where", ["before", "after"])
async def test_the_header_names_the_domain_of_records_without_one_wherever_it_stands(
    database_url: DatabaseUrl, index: Index, where: str
) -> None:
    datasets = [
        {"id": "aaaa-0001", "name": "One"},
        {"id": "aaaa-0002", "domain": B},
        {"id": "aaaa-0003", "permalink": f"https://{C}/d/aaaa-0003"},
    ]
    header = {"source": "socrata", "domain": A.upper()}
    content = {**header, "datasets": datasets} if where == "before" else {"datasets": datasets, **header}
    report = await load(database_url, index(content), batch_size=1)
    assert report.assets.inserted == 3
    rows = [(row[0], row[1], row[4]) for row in await ask(database_url, TABLE)]
    assert rows[1:] == [
        ("aaaa-0002", B, f"https://{B}/d/aaaa-0002"),
        ("aaaa-0003", A, f"https://{C}/d/aaaa-0003"),
    ]
    assert rows[0][:2] == ("aaaa-0001", A)
    versions = await ask(database_url, VERSIONS)
    assert (await load(database_url, index(content))).assets.unchanged == 3
    assert await ask(database_url, VERSIONS) == versions


@pytest.mark.anyio
async def test_domain_is_the_portal_of_records_that_name_none(database_url: DatabaseUrl, index: Index) -> None:
    path = index([{"id": "aaaa-0001", "name": "One"}, {"id": "aaaa-0002", "domain": B}])
    told = Told()
    report = await load(database_url, path, dialect="directory", progress=told)
    assert (report.assets.inserted, [fields["reason"] for fields in told.of("record_rejected")]) == (1, ["no_source"])
    report = await load(database_url, path, dialect="directory", domain=A)
    assert [row[:2] for row in await ask(database_url, TABLE)] == [("aaaa-0001", A), ("aaaa-0002", B)]


@pytest.mark.anyio
async def test_records_at_names_the_array_of_a_document_that_no_dialect_knows(
    database_url: DatabaseUrl, index: Index
) -> None:
    page = {"resource": {"id": "aaaa-0001", "name": "Page"}, "metadata": {"domain": A}}
    path = index({"help": "…", "items": [1, {"x": []}], "result": {"count": 1, "results": [page]}})
    with pytest.raises(IndexNotUnderstood, match=r"--records-at"):
        await load(database_url, path)
    report = await load(database_url, path, records_at="result.results")
    assert (report.dialect, report.assets.inserted) == ("discovery", 1)
    with pytest.raises(IndexNotUnderstood, match="nowhere"):
        await load(database_url, path, records_at="nowhere", dialect="discovery")


@pytest.mark.anyio
async def test_tables_with_other_columns_are_adapted_to_and_what_has_no_column_is_told_once(
    bare_database_url: DatabaseUrl, index: Index
) -> None:
    statements = (
        "create schema registry",
        "create table registry.sources (id integer generated always as identity primary key, host text unique)",
        """
        create table registry.assets (
          id integer generated always as identity primary key, external_id text unique,
          source_id integer not null references registry.sources, title text, payload json
        )
        """,
    )
    for statement in statements:
        await ask(bare_database_url, statement)
    path = index(lines(source(), asset("aaaa-0001"), asset("aaaa-0002")))
    with pytest.raises(SchemaMismatch, match=r"--column assets\.asset_key=COLUMN"):
        await load(bare_database_url, path)
    told = Told()
    report = await load(bare_database_url, path, columns={"assets.asset_key": "external_id"}, progress=told)
    assert report.assets.inserted == 2
    rows = await ask(bare_database_url, "select external_id, title, host from registry.assets, registry.sources")
    assert sorted(rows) == [(key, f"Asset {key}", A) for key in ("aaaa-0001", "aaaa-0002")]
    left_out = {fields["table"]: fields["fields"] for fields in told.of("columns_left_out")}
    assert left_out['"registry"."assets"'] == ["description", "url", "updated_at", "content_hash"]
    again = await load(bare_database_url, path, columns={"assets.asset_key": "external_id"})
    assert again.assets.unchanged == 2


# Bad records

LARGE = asset("aaaa-0009", description="x" * 3_000)
BAD_LINES: list[tuple[str, bytes, str | None]] = [  # reason, line, key
    ("no_key", b'{"type":"asset","source_key":"data.a.example"}', None),
    ("not_json", b'{"type":"asset","asset_key":"aaaa-0002","na', None),
    ("not_an_object", b"42", None),
    ("bad_unicode", b'{"type":"asset","asset_key":"aaaa-0003","source_key":"data.a.example","x":"\\ud800"}', None),
    ("bad_utf8", b'{"type":"asset","asset_key":"aaaa-0004","source_key":"data.a.example","x":"\xff\xfe"}', None),
    ("nul_in_key", b'{"type":"asset","asset_key":"aaaa\\u0000","source_key":"data.a.example"}', "aaaa\0"),
    ("key_too_long", b'{"type":"asset","asset_key":"%b","source_key":"data.a.example"}' % (b"k" * 1001), "k" * 1001),
    ("record_too_large", json.dumps(typed(LARGE)).encode(), None),
    ("too_deep", b'{"type":"asset","asset_key":"aaaa-0005","x":%b1%b}' % (b"[" * 600, b"]" * 600), None),
    ("no_type", b'{"asset_key":"aaaa-0006","source_key":"data.a.example"}', None),
    ("no_source", b'{"type":"asset","asset_key":"aaaa-0007"}', "aaaa-0007"),
    (
        "database_refused",
        b'{"type":"asset","asset_key":"aaaa-0008","source_key":"data.a.example","x":1e131072}',
        "aaaa-0008",
    ),
]


@pytest.mark.anyio
@pytest.mark.parametrize("workers", [1, 4])
async def test_each_bad_record_is_rejected_alone_with_its_reason_and_its_neighbours_are_loaded(
    database_url: DatabaseUrl, index: Index, tmp_path: Path, workers: int
) -> None:
    good = [asset(f"good-{number:04}") for number in range(len(BAD_LINES) + 1)]
    pieces: list[Json | bytes] = [source(), good[0]]
    for (_, line, _), neighbour in zip(BAD_LINES, good[1:], strict=True):
        pieces += [line, neighbour]
    content, rejects, told = lines(*pieces), tmp_path / "rejects.ndjson", Told()
    path = index(content)
    report = await load(
        database_url, path, rejects=str(rejects), max_record_bytes=2048, concurrency=workers, progress=told
    )
    assert await keys(database_url) == [record["asset_key"] for record in good]
    assert report.assets == AssetCounts(read=len(pieces) - 1, inserted=len(good), rejected=len(BAD_LINES))
    assert report.rejects_file == str(rejects)
    assert stat.S_IMODE(rejects.stat().st_mode) == 0o600

    found = sorted((json.loads(line) for line in rejects.read_bytes().splitlines()), key=lambda line: line["line"])
    for entry, (position, (reason, line, key)) in zip(found, enumerate(BAD_LINES), strict=True):
        assert set(entry) == {"index", "line", "offset", "reason", "detail", "record"} | ({"key"} if key else set()) | (
            {"encoding"} if reason == "bad_utf8" else set()
        )
        number = 3 + 2 * position
        assert (entry["index"], entry["line"], entry["reason"], entry.get("key")) == (path, number, reason, key)
        assert content[entry["offset"] :].startswith(line), "the offset is where the record begins"
        if reason == "bad_utf8":
            assert (base64.b64decode(entry["record"]), entry["encoding"]) == (line, "base64")
        elif reason == "record_too_large":
            assert line.startswith(entry["record"].encode())
            assert len(entry["record"]) == 1024
        else:
            assert entry["record"].encode() == line
    assert "SQLSTATE 22003" in found[-1]["detail"]
    assert {fields["reason"] for fields in told.of("record_rejected")} == {reason for reason, _, _ in BAD_LINES}


@pytest.mark.anyio
async def test_a_batch_is_halved_until_only_the_refused_records_are_left_out(
    database_url: DatabaseUrl, index: Index, tmp_path: Path
) -> None:
    refused = (3, 4, 17, 49)
    found = [asset(f"aaaa-{number:04}", number="NUMBER" if number in refused else number) for number in range(50)]
    content = lines(source(), *found).replace(b'"NUMBER"', b"1e131072")
    for attempt in range(2):
        report = await load(database_url, index(content), concurrency=1, rejects=str(tmp_path / f"rejects.{attempt}"))
        assert report.assets.rejected == len(refused)
        assert (report.assets.inserted, report.assets.unchanged) == ((46, 0) if attempt == 0 else (0, 46))
    assert await keys(database_url) == [f"aaaa-{number:04}" for number in range(50) if number not in refused]


@pytest.mark.anyio
async def test_a_source_that_the_database_refuses_is_rejected_alone(database_url: DatabaseUrl, index: Index) -> None:
    bad = b'{"type":"source","source_key":"data.b.example","x":1e131072}'
    told = Told()
    path = index(lines(source(A), bad, source(C), asset("aaaa-0001", A), asset("aaaa-0002", B), asset("aaaa-0003", C)))
    report = await load(database_url, path, progress=told)
    assert report.sources == SourceCounts(read=3, inserted=2, rejected=1)
    assert report.assets == AssetCounts(read=3, inserted=2, missing_source=1)
    (warning,) = told.of("record_rejected")
    assert (warning["reason"], warning["key"], warning["line"]) == ("database_refused", B, 2)


@pytest.mark.anyio
async def test_a_bad_date_is_left_out_and_counted_and_its_record_is_loaded(
    database_url: DatabaseUrl, index: Index
) -> None:
    told = Told()
    path = index(lines(source(), asset("aaaa-0001", updated_at="yesterday"), asset("aaaa-0002", updated_at=[])))
    report = await load(database_url, path, progress=told)
    assert report.assets == AssetCounts(read=2, inserted=2)
    assert report.rejects_file is None
    assert told.tally.dates_ignored == 2
    assert [fields["key"] for fields in told.of("date_ignored")] == ["aaaa-0001", "aaaa-0002"]
    assert [row[5] for row in await ask(database_url, TABLE)] == [None, None]


@pytest.mark.anyio
async def test_an_escaped_nul_is_repaired_in_text_and_raw_and_an_escaped_backslash_is_let_alone(
    database_url: DatabaseUrl, index: Index
) -> None:
    line = b'{"type":"asset","asset_key":"aaaa-0001","source_key":"data.a.example","name":"a\\u0000b","x":"\\\\u0000"}'
    report = await load(database_url, index(lines(source(), line)))
    assert (report.repaired, report.assets.inserted) == (1, 1)
    ((_, _, name, _, _, _, raw),) = await ask(database_url, TABLE)
    assert name == "a\ufffdb"
    assert (json.loads(raw)["name"], json.loads(raw)["x"]) == ("a\ufffdb", "\\u0000")


@pytest.mark.anyio
async def test_without_rejects_there_is_no_rejects_file_and_with_them_it_is_in_the_home_directory(
    database_url: DatabaseUrl, index: Index, home: Path
) -> None:
    report = await load(database_url, index(lines(source(), asset("aaaa-0001"))))
    assert (report.rejects_file, list(home.glob("rejects/*"))) == (None, [])
    report = await load(database_url, index(lines(source(), asset("aaaa-0001"), b"{}")))
    assert [str(path) for path in home.glob("rejects/*")] == [report.rejects_file]
    assert report.run_id in str(report.rejects_file)


@pytest.mark.anyio
@pytest.mark.parametrize("trouble", ["not a directory", "exists"])
async def test_a_rejects_file_that_cannot_be_made_ends_the_load_with_its_name(
    database_url: DatabaseUrl, index: Index, tmp_path: Path, trouble: str
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("somebody's")
    rejects = taken if trouble == "exists" else taken / "rejects.ndjson"
    with pytest.raises(StorageFailed, match="name another with --rejects") as raised:
        await load(database_url, index(lines(source(), b"{}")), rejects=str(rejects))
    assert str(rejects) in str(raised.value)
    assert taken.read_text() == "somebody's"
    await nothing_left(database_url)


@pytest.mark.anyio
async def test_too_many_rejects_end_the_load_and_what_was_committed_stays(
    database_url: DatabaseUrl, index: Index
) -> None:
    good = [asset(f"aaaa-{number:04}", description="x" * 1_000) for number in range(1_000)]
    path = index(lines(source(), *good, *[b"{}"] * 12))
    with pytest.raises(TooManyRejects, match="--max-rejects 10 allows; most often: no_type") as raised:
        await load(database_url, path, max_rejects=MaxRejects.parse("10"), batch_size=10, concurrency=2)
    assert raised.value.exit_code == 3
    committed = len(await keys(database_url))
    assert 0 < committed <= 1_000
    await nothing_left(database_url)
    report = await load(database_url, path, max_rejects=MaxRejects.parse("12"))
    assert (report.assets.inserted, report.assets.unchanged, report.assets.rejected) == (
        1_000 - committed,
        committed,
        12,
    )


@pytest.mark.anyio
async def test_a_percentage_of_rejects_stops_the_load_only_once_a_thousand_records_were_read_but_counts_at_its_end(
    database_url: DatabaseUrl, index: Index
) -> None:
    for bad, is_whole in ((997, True), (998, False)):
        path = index(lines(source(), asset("aaaa-0001"), *[b"{}"] * bad))
        told = f"{bad} of {bad + 2:,} records rejected, more than --max-rejects 10% allows; most often: no_type"
        with pytest.raises(TooManyRejects, match=told) as raised:
            await load(database_url, path, max_rejects=MaxRejects())
        assert raised.value.is_whole is is_whole
        assert raised.value.report is not None
        assert (raised.value.report.verification is not None) is is_whole
    path = index(lines(source(), *(asset(f"{number}") for number in range(8)), b"{}"))
    assert (await load(database_url, path, max_rejects=MaxRejects())).assets.rejected == 1, "it is 10 %, not more"


@pytest.mark.anyio
@pytest.mark.parametrize("limit", ["100%", "1000"])
@pytest.mark.parametrize(
    ("rejected", "missing", "error", "told"),
    [
        (2, 0, TooManyRejects, "2 of 2 assets rejected (no_type): name the shape of the index with --dialect"),
        (0, 2, VerificationFailed, "2 of 2 assets of sources that are not listed: create their sources with"),
        (1, 2, VerificationFailed, "2 of 3 assets of sources that are not listed, 1 rejected (no_type): create"),
        (2, 1, TooManyRejects, "2 of 3 assets rejected (no_type), 1 of sources that are not listed: name"),
        (1, 1, TooManyRejects, "1 of 2 assets rejected (no_type), 1 of sources that are not listed: name"),
    ],
)
@pytest.mark.sampled(4)
async def test_a_load_that_reads_assets_and_keeps_none_fails_by_the_more_frequent_reason(
    database_url: DatabaseUrl,
    index: Index,
    limit: str,
    rejected: int,
    missing: int,
    error: type[Exception],
    told: str,
) -> None:
    path = index(lines(source(), *[b"{}"] * rejected, *(asset(f"b-{number}", B) for number in range(missing))))
    with pytest.raises(error, match=re.escape(f"nothing was loaded: {told}")) as raised:
        await load(database_url, path, max_rejects=MaxRejects.parse(limit))
    report = getattr(raised.value, "report", None)
    assert isinstance(report, Report)
    assert report.verification is not None
    assert (report.assets.rejected, report.assets.missing_source, report.sources.read) == (rejected, missing, 1)


@pytest.mark.anyio
async def test_a_load_that_reads_only_sources_and_keeps_none_fails(database_url: DatabaseUrl, index: Index) -> None:
    with pytest.raises(TooManyRejects, match="nothing was loaded: 2 of 2 sources rejected"):
        await load(database_url, index({"sources": [{}, {"name": "x"}], "assets": []}))
    await load(database_url, index({"sources": [], "assets": []}))
    await load(database_url, index({"sources": [source()], "assets": []}))


@pytest.mark.anyio
async def test_a_percentage_of_rejects_counts_the_good_records_around_them(
    database_url: DatabaseUrl, index: Index
) -> None:
    short = b'{"type":"asset","asset_key":"%08d","source_key":"data.a.example"}'
    found = [b"{}" if number % 12 == 0 else short % number for number in range(12_000)]
    report = await load(database_url, index(lines(source(), *found)), batch_size=5_000)
    assert (report.assets.inserted, report.assets.rejected) == (11_000, 1_000)


@pytest.mark.anyio
async def test_of_each_reason_the_first_twenty_warnings_are_told_and_the_others_counted(
    database_url: DatabaseUrl, index: Index
) -> None:
    told = Told()
    path = index(lines(source(), *[b"{}"] * 30, *[b"4"] * 3, *(asset(f"{n:04}", B) for n in range(25))))
    with pytest.raises(TooManyRejects) as raised:
        await load(database_url, path, progress=told)
    report = raised.value.report
    assert report is not None
    assert (report.assets.rejected, report.assets.missing_source) == (33, 25)
    reasons = Counter(fields["reason"] for level, _, fields in told.events if level == "warning")
    assert reasons == {"no_type": 21, "not_an_object": 3, "missing_source": 21}
    assert [fields["reason"] for fields in told.of("warnings_end")] == ["no_type", "missing_source"]
    assert told.tally.rejects == {"no_type": 30, "not_an_object": 3}


# Bad indexes


@pytest.mark.anyio
@pytest.mark.parametrize("cut", ["in a record", "between records"])
async def test_of_a_document_that_is_cut_off_everything_before_is_committed_and_the_whole_one_completes_it(
    database_url: DatabaseUrl, index: Index, cut: str
) -> None:
    found = [asset(f"aaaa-{number:04}", description="x" * 500) for number in range(1_500)]
    whole = json.dumps({"sources": [source()], "assets": found}).encode()
    end = whole.index(b'"aaaa-1200"') if cut == "in a record" else whole.index(b', {"asset_key": "aaaa-1200"')
    with pytest.raises(IndexBroken, match=f"broken at byte {end:}") as raised:
        await load(database_url, index(whole[:end]), batch_size=100)
    assert raised.value.offset == end
    assert await keys(database_url) == [f"aaaa-{number:04}" for number in range(1_200)]
    await nothing_left(database_url)
    report = await load(database_url, index(whole))
    assert report.assets == AssetCounts(read=1_500, inserted=300, unchanged=1_200)


@pytest.mark.anyio
async def test_of_a_document_that_is_broken_in_the_middle_everything_before_is_committed(
    database_url: DatabaseUrl, index: Index
) -> None:
    found = [asset(f"aaaa-{number:04}") for number in range(30)]
    whole = json.dumps({"sources": [source()], "assets": found}).encode()
    at = whole.index(b'{"asset_key": "aaaa-0020"') + 1
    with pytest.raises(IndexBroken) as raised:
        await load(database_url, index(whole[:at] + b"!" + whole[at:]))
    assert raised.value.offset == at
    assert len(await keys(database_url)) == 20


@pytest.mark.anyio
async def test_of_a_truncated_gzip_what_can_be_unpacked_is_committed_and_the_whole_one_completes_it(
    database_url: DatabaseUrl, index: Index
) -> None:
    noise = Random(7)
    found = [asset(f"aaaa-{number:04}", description=noise.randbytes(300).hex()) for number in range(2_000)]
    packed = gzip.compress(lines(source(), *found))
    with pytest.raises(IndexUnreadable, match=rf"damaged or cut off near byte {len(packed) // 2} of the file"):
        await load(database_url, index(packed[: len(packed) // 2]), batch_size=50)
    committed = await keys(database_url)
    assert 900 < len(committed) < 1_100
    assert committed == [f"aaaa-{number:04}" for number in range(len(committed))]
    report = await load(database_url, index(packed))
    assert (report.assets.inserted, report.assets.unchanged) == (2_000 - len(committed), len(committed))
    assert report.bytes_read == len(packed)


@pytest.mark.anyio
async def test_a_declared_count_that_lies_fails_the_verification_with_the_report(
    database_url: DatabaseUrl, index: Index
) -> None:
    path = index({"source": "socrata", "domain": A, "totalCount": 5, "datasets": [{"id": "aaaa-0001"}]})
    with pytest.raises(VerificationFailed, match="declared_totalCount: expected 5, found 1") as raised:
        await load(database_url, path)
    assert raised.value.exit_code == 4
    report = conserved(raised.value.report)
    assert report.verification
    assert [check.name for check in report.verification.checks if not check.passed] == ["declared_totalCount"]
    assert report.assets.inserted == 1
    assert (await load(database_url, path, verify=False)).verification is None


# Dry runs


async def contents(url: DatabaseUrl) -> list[Any]:
    counts = "select relname, n_live_tup from pg_stat_user_tables where schemaname <> 'registry'"
    return [await ask(url, VERSIONS), await ask(url, counts)]


@pytest.mark.anyio
async def test_a_dry_run_says_what_a_load_would_do_and_writes_nothing(
    database_url: DatabaseUrl, index: Index, home: Path, tmp_path: Path
) -> None:
    await load(database_url, index(lines(source(A), *(asset(f"aaaa-{number:04}") for number in range(10)))))
    before, written = await contents(database_url), await written_rows(database_url)
    changed = [asset(f"aaaa-{number:04}", name="Other") for number in range(4)]
    same = [asset(f"aaaa-{number:04}") for number in range(4, 10)]
    new = [asset(f"bbbb-{number:04}", B) for number in range(5)]
    path = index(lines(source(A), source(B), *changed, *new, *same, *new, b"{}", asset("cccc-0001", C)))
    rejects = tmp_path / "rejects"
    plan = await load(database_url, path, dry_run=True, batch_size=2, concurrency=2, rejects=str(rejects))
    assert plan.dry_run
    assert plan.sources == SourceCounts(read=2, inserted=1, unchanged=1)
    assert plan.assets == AssetCounts(
        read=22, inserted=5, updated=4, unchanged=6, duplicate=5, rejected=1, missing_source=1
    )
    assert (plan.rejects_file, plan.verification) == (None, None)
    assert not rejects.exists()
    assert list(home.iterdir()) == []
    assert (await contents(database_url), await written_rows(database_url)) == (before, written)
    real = await load(database_url, path)
    assert (real.assets.inserted, real.assets.updated, real.assets.missing_source) == (5, 4, 1)
    assert real.sources == plan.sources


@pytest.mark.anyio
@pytest.mark.parametrize("database", ["embedded", "bare"])
async def test_a_dry_run_needs_no_tables_and_counts_repeats_across_batches(
    index: Index, home: Path, bare_database_url: DatabaseUrl, database: str
) -> None:
    workload = Workload(records=400, duplicates=30, invalid=5, sources=6)
    path = index(b"".join(generate(workload)))
    urls = {"embedded": None, "bare": bare_database_url}
    told = Told()
    plan = await load(urls[database], path, dry_run=True, batch_size=7, progress=told)
    wanted = expected(workload)
    assert plan.sources == SourceCounts(read=6, inserted=6)
    assert plan.assets == AssetCounts(
        read=400, inserted=wanted.distinct_keys, duplicate=wanted.duplicates, rejected=wanted.invalid
    )
    (fields,) = told.of("no_database")
    assert fields["note"] == "compared with an empty registry"
    assert list(home.iterdir()) == []


@pytest.mark.anyio
async def test_a_dry_run_against_a_database_that_cannot_be_reached_fails_as_the_load_would(
    index: Index, home: Path
) -> None:
    path = index(b"".join(generate(Workload(records=40))))
    url = DatabaseUrl("postgresql://nobody:canary@127.0.0.1:1/nowhere")
    told = Told()
    with pytest.raises(DatabaseUnavailable, match=r"^cannot connect to postgresql://nobody@127\.0\.0\.1:1/nowhere: "):
        await load(url, path, dry_run=True, progress=told)
    assert told.of("no_database") == []
    assert told.of("index_opened") == []
    assert "canary" not in str(told.events)
    assert list(home.iterdir()) == []


# Failures in the middle


@pytest.mark.anyio
async def test_a_terminated_session_in_the_middle_ends_the_load_with_one_error_and_no_session(
    database_url: DatabaseUrl, index: Index
) -> None:
    path = index(b"".join(generate(Workload(records=3_000, size=500))))
    kill = """
        select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and application_name = 'seed-registry'
    """
    ignore_orphans()
    told = Told("batch_merged", partial(from_outside, database_url, kill))
    with pytest.raises(DatabaseUnavailable, match=r"was lost.*\n.*what was committed stays"):
        await load(database_url, path, batch_size=20, progress=told)
    await nothing_left(database_url)
    committed = len(await keys(database_url))
    assert 0 < committed < 3_000
    report = await load(database_url, path)
    assert (report.assets.inserted, report.assets.resumed) == (3_000 - committed, committed)


@pytest.mark.anyio
@pytest.mark.parametrize("workers", [1, 4])
async def test_one_lost_worker_is_enough(database_url: DatabaseUrl, index: Index, workers: int) -> None:
    path = index(b"".join(generate(Workload(records=3_000, size=500))))
    kill_one = """
        select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and application_name = 'seed-registry' order by backend_start desc limit 1
    """
    ignore_orphans()
    told = Told("batch_merged", partial(from_outside, database_url, kill_one))
    with pytest.raises(DatabaseUnavailable):
        await load(database_url, path, batch_size=20, concurrency=workers, progress=told)
    await nothing_left(database_url)


@pytest.mark.anyio
async def test_a_table_dropped_in_the_middle_ends_the_load_with_the_mend(
    database_url: DatabaseUrl, index: Index
) -> None:
    path = index(b"".join(generate(Workload(records=1_000, size=500))))
    told = Told("batch_merged", partial(from_outside, database_url, "drop table registry.assets"))
    with pytest.raises(SchemaMissing, match="seed-registry schema apply"):
        await load(database_url, path, batch_size=20, concurrency=1, progress=told)
    await nothing_left(database_url)


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_load_that_ends_while_its_workers_connect_leaves_no_session(
    database_url: DatabaseUrl, index: Index
) -> None:
    path = index(lines(*[b"{}"] * 5))
    for _ in range(20):
        with pytest.raises(TooManyRejects):
            await load(database_url, path, dialect="seed", max_rejects=MaxRejects.parse("0"), concurrency=3)
    await nothing_left(database_url)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[tuple[str, Callable[[bytes], None]]]:
    """A named pipe that stays open, and a way to fill it."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    fcntl(descriptor, SET_PIPE_SIZE, 1 << 20)
    yield str(path), lambda data: [os.write(descriptor, data)].clear()
    os.close(descriptor)


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["anyio scope", "asyncio task"])
async def test_a_cancelled_load_leaves_no_session_and_keeps_what_was_committed(
    database_url: DatabaseUrl, pipe: tuple[str, Callable[[bytes], None]], way: str
) -> None:
    path, fill = pipe
    fill(lines(source(), *(asset(f"{number:08}") for number in range(2_000))))
    told = Told()
    settings = Settings(database_url=database_url, batch_size=50)
    task = asyncio.ensure_future(ingest([path], settings, told))
    scope = anyio.CancelScope()

    async def wait_and_cancel() -> None:
        with anyio.fail_after(20):
            while len(told.of("batch_merged")) < 10:  # the first of each worker but one is smaller
                await anyio.sleep(0.01)
        if way == "anyio scope":
            scope.cancel()
        else:
            task.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(wait_and_cancel)
        with scope:
            try:
                await task
            except asyncio.CancelledError:
                if way == "anyio scope":
                    raise
    assert task.cancelled()
    await nothing_left(database_url)
    merged = [batch["records"] for batch in told.of("batch_merged")]
    assert len(await keys(database_url)) >= sum(merged) >= 400


# From standard input


@pytest.mark.anyio
async def test_assets_before_their_sources_from_stdin_packed_give_the_table_of_the_lines(
    database_url: DatabaseUrl, index: Index, cli: Cli
) -> None:
    noise = Random(3)
    sources = [source(f"data.{letter}.example") for letter in "abcd"]
    assets = [
        asset(f"aaaa-{noise.randrange(400):04}", f"data.{noise.choice('abcde')}.example", name=f"Version {number}")
        for number in range(900)
    ]
    told = Told()
    by_lines = await load(database_url, index(lines(*sources, *assets)), progress=told)
    table = await ask(database_url, TABLE.replace(", asset.raw", ""))
    await ask(database_url, "truncate registry.sources, registry.assets")
    document = gzip.compress(json.dumps({"assets": assets, "sources": sources}).encode())
    done = await asyncio.to_thread(
        cli, "load", "-", "--json", "--batch-size", 9, "--concurrency", 3, url=database_url, input=document
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["assets"]["read"], report["assets"]["missing_source"]) == (900, by_lines.assets.missing_source)
    assert report["assets"]["inserted"] == by_lines.assets.inserted == len(table)
    assert report["bytes_read"] == len(document)
    assert await ask(database_url, TABLE.replace(", asset.raw", "")) == table
