"""`seed-registry rejects`: what a rejects file tells, and what becomes of its records when they are loaded again."""

# ruff: noqa: ASYNC240  # a test may look at files: nothing else runs in its event loop
from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import asyncpg
import msgspec
import pytest
from typer.testing import CliRunner

from conftest import Cli
from partitions import create_tables
from seed_registry import DatabaseUrl, Settings, ingest
from seed_registry.api import replay
from seed_registry.cli.commands.rejects import app
from seed_registry.errors import (
    IndexNotUnderstood,
    IndexUnreadable,
    SettingsInvalid,
    TooManyRejects,
    VerificationFailed,
)
from seed_registry.index.byte_stream import CHUNK_BYTES
from seed_registry.index.dialects import DIALECTS
from seed_registry.index.inputs import IndexRef
from seed_registry.load import only_newer
from seed_registry.rejects.reader import RejectsIndex, parse, read_lines
from seed_registry.report import AssetCounts, Report, Silent, SourceCounts
from seed_registry.settings import MaxRejects

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]

Json: TypeAlias = dict[str, Any]
Write = Callable[..., str]

SITE = "data.example.org"
EARLIER, LATER, LATEST = "2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z"


@pytest.fixture
def database_url(emptied_url: DatabaseUrl) -> DatabaseUrl:
    """The module's database, its tables made anew."""
    return emptied_url


def asset(key: str | None, name: str = "name", at: str | None = None, **fields: Any) -> Json:
    """A record of the dialect seed."""
    record = {"type": "asset", "asset_key": key, "source_key": SITE, "name": name, "updated_at": at, **fields}
    return {field: value for field, value in record.items() if value is not None}


def line(record: Json | bytes | str, number: int = 7, **fields: Any) -> Json:
    """A line of a rejects file."""
    text = json.dumps(record) if isinstance(record, dict) else record
    told: Json = {"index": "sf.json", "line": number, "offset": number * 100, "reason": "database_refused"}
    told |= {"detail": "no", "record": text}
    if isinstance(text, bytes):
        told |= {"record": base64.b64encode(text).decode(), "encoding": "base64"}
    return told | fields


@pytest.fixture
def rejects(tmp_path: Path) -> Write:
    """Write a rejects file and get its path."""

    def write(*lines: Json | bytes, end: bytes = b"\n", name: str = "rejects.ndjson") -> str:
        encoded = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in lines]
        (tmp_path / name).write_bytes(b"\n".join(encoded) + end)
        return str(tmp_path / name)

    return write


async def rows(url: DatabaseUrl, columns: str = "asset_key, name") -> dict[str, Any]:
    connection = await asyncpg.connect(url.reveal)
    found = await connection.fetch(f"select {columns} from registry.assets order by 1")
    await connection.close()
    return {row[0]: row[1] if len(row) == 2 else tuple(row)[1:] for row in found}


async def source_names(url: DatabaseUrl) -> list[str | None]:
    connection = await asyncpg.connect(url.reveal)
    found = await connection.fetch("select name from registry.sources order by 1")
    await connection.close()
    return [row[0] for row in found]


async def execute(url: DatabaseUrl, *statements: str) -> None:
    connection = await asyncpg.connect(url.reveal)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


def rejected(report: Report) -> list[Json]:
    assert report.rejects_file is not None
    return [json.loads(one) for one in Path(report.rejects_file).read_bytes().splitlines()]


async def replayed(path: str, url: DatabaseUrl, **settings: Any) -> Report:
    return await replay(path, Settings(database_url=url, **({"max_rejects": MaxRejects(percent=100)} | settings)))


async def test_what_the_database_refused_is_there_after_the_fix_and_a_replay(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    index = tmp_path / "index.ndjson"
    records = [{"type": "source", "source_key": SITE}, asset("a", "é"), asset("b", "bad"), asset("c", "bad")]
    index.write_bytes(b"\n".join(json.dumps(record).encode() for record in records))
    await execute(database_url, "alter table registry.assets add constraint good check (name <> 'bad')")
    first = await ingest([str(index)], Settings(database_url=database_url, max_rejects=MaxRejects(percent=100)))
    assert (first.assets.inserted, first.assets.rejected) == (1, 2)
    assert first.rejects_file is not None
    before = Path(first.rejects_file).read_bytes()
    await execute(database_url, "alter table registry.assets drop constraint good")
    report = await replayed(first.rejects_file, database_url)
    assert report.assets == AssetCounts(read=2, inserted=2)
    assert report.verification is not None
    assert report.verification.passed
    assert report.rejects_file is None
    assert await rows(database_url) == {"a": "é", "b": "bad", "c": "bad"}
    assert Path(first.rejects_file).read_bytes() == before
    again = await ingest([str(index)], Settings(database_url=database_url, max_rejects=MaxRejects(percent=100)))
    assert (again.assets.unchanged, again.assets.rejected) == (3, 0)


async def test_what_is_rejected_again_keeps_its_first_location(database_url: DatabaseUrl, rejects: Write) -> None:
    lines = [
        line(asset("a"), 1),
        line(asset(None), 12, index="first.json", offset=340, reason="no_key"),
        line(b'{"type": "asset", "id": "\xff"}', 5, index="second.json", reason="bad_utf8"),
        line(asset("x", "refused"), 9),
    ]
    await execute(database_url, "alter table registry.assets add constraint good check (name <> 'refused')")
    report = await replayed(rejects(*lines), database_url)
    assert report.assets == AssetCounts(read=4, inserted=1, rejected=3)
    told = {one["reason"]: one for one in rejected(report)}
    places = {reason: (one["index"], one["line"], one["offset"]) for reason, one in told.items()}
    assert places == {
        "no_key": ("first.json", 12, 340),
        "bad_utf8": ("second.json", 5, 500),
        "database_refused": ("sf.json", 9, 900),
    }
    assert told["bad_utf8"]["encoding"] == "base64"
    assert report.rejects_file is not None
    await execute(database_url, "alter table registry.assets drop constraint good")
    third = await replayed(report.rejects_file, database_url)
    assert third.assets == AssetCounts(read=3, inserted=1, rejected=2)
    assert {(one["index"], one["line"]) for one in rejected(third)} == {("first.json", 12), ("second.json", 5)}


@pytest.mark.parametrize(
    ("row", "record", "wins"),
    [
        (LATER, EARLIER, "row"),
        (LATER, LATER, "row"),
        (LATER, None, "row"),
        (None, None, "row"),
        (EARLIER, LATER, "record"),
        (None, EARLIER, "record"),
    ],
)
async def test_a_record_replaces_a_row_only_if_it_is_newer(
    row: str | None, record: str | None, wins: str, database_url: DatabaseUrl, rejects: Write, tmp_path: Path
) -> None:
    index = tmp_path / "index.ndjson"
    index.write_text(json.dumps(asset("a", "row", row)) + "\n" + json.dumps(asset("b")))
    await ingest([str(index)], Settings(database_url=database_url, max_rejects=MaxRejects(percent=100)))
    path = rejects(line(asset("a", "record", record)), line(asset("new")))
    report = await replayed(path, database_url)
    assert report.verification is not None
    assert report.verification.passed
    assert (report.assets.inserted, report.assets.updated) == (1, wins == "record")
    assert report.assets.unchanged == (wins == "row")
    assert (await rows(database_url))["a"] == wins


@pytest.mark.parametrize("batch_size", [1, 2, 500])
async def test_of_records_of_a_key_the_newest_wins_whatever_the_batches(
    batch_size: int, database_url: DatabaseUrl, rejects: Write
) -> None:
    records = [
        asset("a", "second", LATER),
        asset("a", "newest", LATEST),
        asset("a", "as new", LATEST),
        asset("a", "oldest", EARLIER),
        asset("b", "first"),
        asset("b", "last"),
        asset("c", "without"),
        asset("c", "with", EARLIER),
    ]
    path = rejects(*(line(record, number) for number, record in enumerate(records)))
    report = await replayed(path, database_url, batch_size=batch_size)
    assert await rows(database_url) == {"a": "newest", "b": "first", "c": "with"}
    assert report.verification is not None
    assert report.verification.passed


async def test_a_batch_that_is_bisected_leaves_each_older_record_out_of_the_verification_once(
    database_url: DatabaseUrl, rejects: Write
) -> None:
    older = [asset("a", "kept", LATER), *(asset(key, at=EARLIER) for key in "bcd")]
    path = rejects(*(line(record, number) for number, record in enumerate(older)), name="first")
    assert (await replayed(path, database_url)).assets.inserted == 4
    await execute(database_url, "alter table registry.assets add constraint good check (name <> 'refused')")
    path = rejects(
        line(asset("a", "older", EARLIER)),
        *(line(asset(key, at=LATER), number) for number, key in enumerate("bcd", 8)),
        line(asset("e", "refused", LATER), 11),
    )
    report = await replayed(path, database_url, concurrency=1)
    assert (report.assets.updated, report.assets.unchanged, report.assets.rejected) == (3, 1, 1)
    assert report.verification is not None
    (present,) = (check for check in report.verification.checks if check.name == "assets_present")
    assert present.expected == 3  # of five records, one is older and one was refused


async def test_what_another_load_makes_newer_after_a_replay_has_compared_it_stays(
    database_url: DatabaseUrl, rejects: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    await replayed(rejects(line(asset("a", "newer", LATER)), name="first"), database_url)

    async def as_before(_: Any, __: Any, assets: Sequence[Any], ___: Any) -> tuple[list[Any], list[Any]]:
        return list(assets), []

    monkeypatch.setattr(only_newer, "newer_than_stored", as_before)
    report = await replayed(rejects(line(asset("a", "older", EARLIER))), database_url)
    assert (report.assets.unchanged, report.assets.older) == (1, 0)
    assert await rows(database_url) == {"a": "newer"}


async def test_a_replay_twice_changes_nothing(database_url: DatabaseUrl, rejects: Write) -> None:
    path = rejects(*(line(asset(f"k{number}", at=EARLIER), number) for number in range(50)))
    assert (await replayed(path, database_url)).assets == AssetCounts(read=50, inserted=50)
    before = await rows(database_url, "asset_key, xmin::text, ctid::text")
    assert (await replayed(path, database_url)).assets == AssetCounts(read=50, unchanged=50)
    assert await rows(database_url, "asset_key, xmin::text, ctid::text") == before


async def test_an_asset_that_moved_to_another_source_stays_where_it_is(
    database_url: DatabaseUrl, rejects: Write, tmp_path: Path
) -> None:
    index = tmp_path / "index.ndjson"
    index.write_text(json.dumps(asset("a", "moved", source_key="other.example.org")) + "\n")
    await ingest([str(index)], Settings(database_url=database_url, max_rejects=MaxRejects(percent=100)))
    report = await replayed(rejects(line(asset("a"))), database_url)
    assert report.assets == AssetCounts(read=1, unchanged=1)
    assert report.verification is not None
    assert report.verification.passed


async def test_a_rejected_source_of_a_document_is_a_source_again(database_url: DatabaseUrl, tmp_path: Path) -> None:
    """Neither its records nor those of the assets say what they are: the document said it by the place."""
    index = tmp_path / "index.json"
    source = {"source_key": SITE, "name": "bad", "url": "https://example.org"}
    records = [{"asset_key": "a", "source_key": SITE, "name": "bad"}]
    index.write_text(json.dumps({"sources": [source, {"source_key": "b.example.org"}], "assets": records}))
    await execute(database_url, "alter table registry.sources add constraint good check (name <> 'bad')")
    with pytest.raises(VerificationFailed, match="nothing was loaded: 1 of 1 assets of sources that are not") as raised:
        await ingest([str(index)], Settings(database_url=database_url, max_rejects=MaxRejects(percent=100)))
    first = raised.value.report
    assert first.rejects_file is not None
    assert [one.get("kind") for one in rejected(first)] == ["source"]
    await execute(database_url, "alter table registry.sources drop constraint good")
    with pytest.raises(IndexNotUnderstood, match="--dialect seed"):
        await replayed(first.rejects_file, database_url)
    path = Path(first.rejects_file)
    path.write_bytes(path.read_bytes() + json.dumps(line(records[0])).encode())
    report = await replayed(str(path), database_url, dialect="seed")
    assert (report.sources.inserted, report.sources.rejected) == (1, 0)
    assert report.assets == AssetCounts(read=1, inserted=1)


async def test_a_source_is_taken_where_it_was_only_derived_and_never_over_a_listed_one(
    database_url: DatabaseUrl, rejects: Write, tmp_path: Path
) -> None:
    def source(name: str) -> Json:
        return line({"type": "source", "source_key": SITE, "name": name}, kind="source")

    derived = await replayed(rejects(line(asset("a"))), database_url)
    assert (derived.sources.inserted, derived.assets.inserted) == (1, 1)
    report = await replayed(rejects(line(asset("b")), source("listed"), source("again")), database_url)
    assert (report.sources.updated, report.sources.duplicate, report.assets.inserted) == (1, 1, 1)
    assert await source_names(database_url) == ["listed"]
    second = await replayed(rejects(source("late")), database_url)
    assert second.sources == SourceCounts(read=1, unchanged=1)
    assert await source_names(database_url) == ["listed"]


async def test_what_was_too_large_is_not_in_the_file_and_stays_rejected(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    index = tmp_path / "index.ndjson"
    index.write_text(json.dumps(asset("a")) + "\n" + json.dumps(asset("b", "n" * 5000)) + "\n")
    first = await ingest(
        [str(index)], Settings(database_url=database_url, max_rejects=MaxRejects(percent=100), max_record_bytes=2048)
    )
    assert first.rejects_file is not None
    with pytest.raises(
        TooManyRejects, match=r"nothing was loaded: 1 of 1 assets rejected \(record_too_large\)"
    ) as raised:
        await replayed(first.rejects_file, database_url, dialect="seed")
    again = raised.value.report
    assert again is not None
    assert again.assets == AssetCounts(read=1, rejected=1)
    (told,) = rejected(again)
    assert (told["reason"], told["line"]) == ("record_too_large", 2)
    assert "load its index with a larger --max-record-bytes" in told["detail"]


@pytest.mark.parametrize(
    "junk",
    [
        b'{"index":"sf.json","line":3,"offset":17,"reason":"no_key","detail":"d","rec',
        b"\xff\xfe\x00",
        b'{"index":"x","line":99999999999999999999999,"offset":0,"reason":"r","record":"{}"}',
        b'{"index":"x","line":-1,"offset":0,"reason":"r","record":"{}"}',
        b'{"index":"x","line":1,"offset":0,"reason":"r","record":"%%%","encoding":"base64"}',
        b'{"index":"x","line":1,"offset":0,"reason":"r","record":"\\ud800"}',
        b'{"index":' + b"[" * 2_000,
        b"null",
    ],
    ids=range(8),
)
async def test_a_line_that_is_no_reject_is_rejected_as_it_is_and_the_others_are_loaded(
    junk: bytes, database_url: DatabaseUrl, rejects: Write
) -> None:
    path = rejects(line(asset("a"), 1), junk, line(asset("b"), 2), junk, end=b"")
    report = await replayed(path, database_url)
    assert report.assets == AssetCounts(read=4, inserted=2, rejected=2)
    assert {(one["index"], one["line"]) for one in rejected(report)} == {(path, 2), (path, 4)}
    lines = [one async for part in read_lines(IndexRef.of(path), Settings()) for one in part]
    assert [one is None for one in lines] == [False, True, False, True]


async def test_a_kind_that_the_dialect_does_not_have_is_not_believed(database_url: DatabaseUrl, rejects: Write) -> None:
    record = {"resource": {"id": "abcd-2345", "name": "n"}, "metadata": {"domain": SITE}}
    report = await replayed(rejects(line(record, kind="source"), line(record, kind="\x1b[2J")), database_url)
    assert (report.dialect, report.assets.inserted) == ("discovery", 1)


DETECTED = {
    "seed": asset("a"),
    "discovery": {"resource": {"id": "abcd-2345"}, "metadata": {"domain": SITE}},
    "directory": {"id": "abcd-2345", "permalink": f"https://{SITE}/d/abcd-2345", "domain": SITE},
    "views": {"id": "abcd-2345", "viewType": "tabular"},
    "ckan": {"id": "1", "metadata_modified": LATER},
    "data-json": {"identifier": f"https://{SITE}/d/abcd-2345", "title": "t"},
}


@pytest.mark.parametrize("dialect", DETECTED)
async def test_the_dialect_is_told_by_the_first_record_that_can(
    dialect: str, database_url: DatabaseUrl, rejects: Write
) -> None:
    broken = [line("{", reason="not_json"), line("[]"), line("{}"), line(b"\xff"), line("[" * 2_000), b"junk"]
    path = rejects(*broken, line(DETECTED[dialect]))
    domain = None if DIALECTS[dialect].refuses_domain else SITE
    report = await replayed(path, database_url, domain=domain)
    assert (report.dialect, report.assets.inserted, report.assets.rejected) == (dialect, 1, 6)
    if domain is None:
        with pytest.raises(SettingsInvalid, match="--domain cannot be used"):
            await replayed(path, database_url, domain=SITE)


async def test_a_replay_takes_the_language_that_is_asked_for(database_url: DatabaseUrl, rejects: Write) -> None:
    path = rejects(line({"id": "k", "metadata_modified": LATER, "title": {"en": "Forest", "fr": "Forêt"}}))
    for language, name in ((None, "Forest"), ("fr", "Forêt")):
        await replayed(path, database_url, dialect="ckan", domain=SITE, language=language)
        assert await rows(database_url) == {"k": name}
        await execute(database_url, "truncate registry.assets")  # a replay leaves what is there


async def test_a_dialect_that_nothing_tells_has_to_be_named(database_url: DatabaseUrl, rejects: Write) -> None:
    path = rejects(line({"asset_key": "a", "source_key": SITE}))
    with pytest.raises(IndexNotUnderstood, match=r"records fit no dialect\n.*--dialect seed\|"):
        await replayed(path, database_url)
    assert (await replayed(path, database_url, dialect="seed")).assets.inserted == 1
    with pytest.raises(IndexNotUnderstood, match="--domain"):
        await replayed(rejects(line(DETECTED["views"])), database_url)


async def test_an_index_is_no_rejects_file(database_url: DatabaseUrl, rejects: Write) -> None:
    path = rejects(asset("a"))
    with pytest.raises(IndexNotUnderstood, match=r"is no rejects file.*\n.*seed-registry load"):
        await replayed(path, database_url)
    with pytest.raises(IndexNotUnderstood, match="is no rejects file"):
        await replayed(path, database_url, dialect="seed")


async def test_what_cannot_be_read_twice_is_told(database_url: DatabaseUrl, tmp_path: Path, rejects: Write) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    packed = tmp_path / "rejects.gz"
    packed.write_bytes(gzip.compress(json.dumps(line(asset("a"))).encode()))
    empty = tmp_path / "empty"
    empty.touch()
    for path, message in (
        ("-", "stdin cannot be replayed"),
        (str(pipe), "is no regular file"),
        (str(packed), "is packed: unpack it first"),
        (str(empty), "is empty: there is nothing to replay"),
        (str(tmp_path), "is no regular file"),
        ("nowhere\x1b", r"nowhere\\x1b cannot be read: No such file"),
    ):
        with pytest.raises(IndexUnreadable, match=message):
            await replayed(path, database_url)
    lines = [one async for part in read_lines(IndexRef.of(packed), Settings()) for one in part]
    assert len(lines) == 1
    path = rejects(line(asset("a")))
    with pytest.raises(SettingsInvalid, match="--rejects names the file that is replayed"):
        await replayed(path, database_url, rejects=path)
    assert Path(path).exists()


async def test_a_dry_run_writes_nothing_and_counts_as_the_replay_does(
    database_url: DatabaseUrl, rejects: Write, tmp_path: Path
) -> None:
    index = tmp_path / "index.ndjson"
    index.write_text("\n".join(json.dumps(asset(key, "row", at)) for key, at in (("a", LATER), ("b", EARLIER))))
    await ingest([str(index)], Settings(database_url=database_url, max_rejects=MaxRejects(percent=100)))
    records = [asset("a", at=EARLIER), asset("b", at=LATER), asset("c"), asset(None)]
    path = rejects(*(line(record, number) for number, record in enumerate(records)))
    before = await rows(database_url, "asset_key, xmin::text")
    dry = await replayed(path, database_url, dry_run=True)
    assert await rows(database_url, "asset_key, xmin::text") == before
    assert dry.rejects_file is None
    wet = await replayed(path, database_url)
    assert dry.assets == wet.assets == AssetCounts(read=4, inserted=1, updated=1, unchanged=1, rejected=1)


async def test_a_limit_of_rejects_stops_a_replay_as_it_stops_a_load(database_url: DatabaseUrl, rejects: Write) -> None:
    path = rejects(line(asset("a")), *(line(asset(None), number) for number in range(5)))
    with pytest.raises(TooManyRejects):
        await replayed(path, database_url, max_rejects=MaxRejects(records=3, percent=None))


async def test_a_replay_that_ended_early_goes_on_and_tells_nothing_twice(
    database_url: DatabaseUrl, rejects: Write
) -> None:
    many = [line(asset(f"k{number}", "x" * 2000), number) for number in range(400)]
    path = rejects(line(asset(None), 1000), *many, *(line(asset(None), 2000 + number) for number in range(5)))
    with anyio.CancelScope() as scope:
        await replay(path, Settings(database_url=database_url, batch_size=10), _Stopping(scope))
    assert 0 < len(await rows(database_url)) < 400
    report = await replayed(path, database_url, batch_size=10)
    assert report.assets.resumed
    assert report.assets.inserted + report.assets.resumed + report.assets.unchanged + report.assets.rejected == 406
    assert len(await rows(database_url)) == 400
    told = [one["line"] for one in rejected(report)]
    assert sorted(told) == [1000, *range(2000, 2005)]


async def test_a_huge_file_is_read_with_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "rejects.ndjson"
    one = json.dumps(line(asset("a", "x" * 100_000))).encode() + b"\n"
    with path.open("wb") as file:
        for _ in range(300):
            file.write(one)
    tracemalloc.start()
    count = 0
    async for part in read_lines(IndexRef.of(path), Settings()):
        count += len(part)
    with RejectsIndex(str(path), 16 << 20) as origins:
        assert sum(found is not None for found in origins.first_lines()) == 300
        assert origins.at(len(one) * 299) == parse(one)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 300
    assert peak < 12 * CHUNK_BYTES + 10 * len(one)


class _Stopping(Silent):
    """Ends a run when its third batch is merged."""

    def __init__(self, scope: anyio.CancelScope) -> None:
        self._scope = scope
        self._batches = 0

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Count batches."""
        self._batches += event == "batch_merged"
        if self._batches == 3:
            self._scope.cancel()


# rejects show


def shown(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["show", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.fixture
def mixed(rejects: Write) -> str:
    """Six rejects of three reasons, and half a line."""
    lines: Sequence[Json] = [
        *(line(asset(None), number, reason="no_key", detail="asset has no key") for number in range(1, 5)),
        line(asset("k\x1b[2J"), 5, key="k\x1b[2J", detail="value \x1b]0;x too long [red](22001)"),
        line(
            asset("x"), 6, reason="\x1b[31mother", index="/a/long/path/sf.json", kind="source", key="data.example.org"
        ),
    ]
    return rejects(*lines, b'{"index":"sf.js', end=b"")


def test_show_groups_by_reason_the_most_frequent_first(mixed: str) -> None:
    text = shown(mixed)
    assert text.splitlines()[0] == f"6 rejects in {mixed}"
    assert "4 no_key: has no key" in text
    assert text.index("4 no_key") < text.index("1 database_refused: is refused by the database")
    assert text.count("asset has no key") == 3
    assert "and 1 more" in text
    assert "sf.json: line 1 (byte 100)" in text
    assert "source data.example.org" in text
    assert "1 line is no reject: cut off, or something else" in text
    assert f"seed-registry rejects replay {mixed}" in text


def test_show_escapes_what_strangers_wrote(mixed: str) -> None:
    text = shown(mixed)
    assert "\x1b" not in text + shown(mixed, "--json") + shown(mixed, "--reason", "database_refused")
    assert r"k\x1b[2J" in text
    assert "[red](22001)" in text
    assert r"\x1b[31mother" in text


def test_show_lists_one_reason_up_to_a_limit(mixed: str) -> None:
    text = shown(mixed, "--reason", "no_key")
    assert text.count("asset has no key") == 4
    assert "database_refused" not in text
    text = shown(mixed, "--reason", "no_key", "--limit", "2")
    assert text.count("asset has no key") == 2
    assert "and 2 more: --limit 4 lists them" in text
    with pytest.raises(SettingsInvalid, match=r"no rejects of the reason typo; it has no_key, database_refused, \\x1b"):
        shown(mixed, "--reason", "typo")


def test_show_as_json(mixed: str) -> None:
    told = json.loads(shown(mixed, "--json"))
    assert (told["file"], told["rejects"], told["no_rejects"]) == (mixed, 6, 1)
    assert (told["reasons"][0]["reason"], told["reasons"][0]["count"]) == ("no_key", 4)
    example = {"index": "sf.json", "line": 1, "offset": 100, "detail": "asset has no key"}
    assert told["reasons"][0]["examples"][0] == example
    one = json.loads(shown(mixed, "--json", "--reason", "no_key", "--limit", "4"))
    assert [len(group["examples"]) for group in one["reasons"]] == [4]


def test_show_of_endless_reasons_is_bounded(rejects: Write) -> None:
    told = json.loads(shown(rejects(*(line("{}", number, reason=f"r{number}") for number in range(1000))), "--json"))
    assert len(told["reasons"]) == 101
    assert sum(group["count"] for group in told["reasons"]) == 1000


def test_show_of_something_else_says_what_it_is(rejects: Write) -> None:
    with pytest.raises(IndexNotUnderstood, match=r"is no rejects file.*\n.*seed-registry runs"):
        shown(rejects(asset("a")))


# rejects replay


@pytest.fixture
def replay_command() -> Callable[..., Any]:
    """Run `rejects replay` in this process."""

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["replay", *arguments], catch_exceptions=False)

    return run


def test_the_command_prints_the_report_of_a_load(
    workshop_url: DatabaseUrl, rejects: Write, replay_command: Callable[..., Any]
) -> None:
    async def prepare() -> None:
        connection = await asyncpg.connect(workshop_url.reveal)
        await connection.execute("drop schema if exists registry cascade")
        await create_tables(connection)
        await connection.close()

    asyncio.run(prepare())
    path = rejects(line(asset("a")), line(asset(None), 3))
    flags = ["--database-url", workshop_url.reveal, "--quiet"]
    dry = replay_command(path, *flags, "--dry-run")
    assert (dry.exit_code, "would load" in dry.stdout) == (0, True)
    text = replay_command(path, *flags).stdout
    assert "loaded" in text
    assert text.startswith("1 of 3 records was not loaded: 1 rejected (no_key): ")
    report = msgspec.json.decode(replay_command(path, *flags, "--json").stdout, type=Report)
    assert report.assets == AssetCounts(read=2, unchanged=1, rejected=1)


def test_the_command_is_there(cli: Cli) -> None:
    result = cli("rejects", "--help")
    if b"No such command" in result.stderr:
        pytest.skip("main.py does not have it yet")
    assert b"replay" in result.stdout
