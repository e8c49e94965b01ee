"""Checks that are left to Postgres: what is loaded is the same as if every record had been checked before.

Ordinary records are decoded many at a time, without what Postgres checks as well, and where the registry has most of
them, only their keys. Each of these ways is compared with decoding and checking every record by itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from conftest import _clone
from seed_registry import DatabaseUrl, MaxRejects, Report, Settings, ingest
from seed_registry.index.decoder import Decoder
from seed_registry.index.dialects import DIALECTS
from seed_registry.index.dialects.base import Dialect
from seed_registry.load.context import RegistryState
from seed_registry.postgres.connection import session
from seed_registry.records import Asset, NotOrdinary, RawBlock, Record, Reject
from seed_registry.registry.digest import digest
from seed_registry.registry.introspection import introspect
from seed_registry.report import AssetCounts

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]
SCALE = int(os.environ.get("EXAMPLES_SCALE", "1"))

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

# --- values that a field may have, as JSON ---------------------------------------------------------------------------

NESTED, DEEP = (b"[" * levels + b"]" * levels for levels in (70, 600))
texts = st.sampled_from([
    b'"a name"', b'""', b"null", b"7", b"1.50", b'["x"]', b'{"en": "x", "de": "y"}', b'"{\\"en\\": \\"x\\"}"', b'"{"',
    b'"a\\u0000b"', b'"\\ud800"', b'"\xff"', b'"\\\\u0000"', b'"  blank "', b'"\\ud83d\\ude00"', b'"\xc3\xa9"',
])  # fmt: skip
unread = st.sampled_from([
    b"1", b'"x"', b"1e400000", b"-0.0", NESTED, DEEP, b'"\\u0000"', b'"\xff"', b'"\\ud800"', b'"\\ud83d\\ude00"', b"[]",
    b'{"a":{"\\u0000":1}}', b'"\xed\xa0\x80"', b"123456789012345678901234567890", b'{"x":1,"x":2}',
])  # fmt: skip
dates = st.sampled_from([
    b'"2024-05-06T07:08:09Z"', b'"2024-05-06"', b'"2024"', b'"2024-05-06 07:08:09+02:00"', b'"soon"', b"null", b'""',
    b"1700000000", b'"2024-05-06T07:08:09.123456789Z"', b'"0001-01-01"', b'["2024-05-06"]', b'"2024-05-06t07:08:09z"',
    b'"9999-12-31T23:59:59-12:00"', b"1.5",
])  # fmt: skip
keys = st.one_of(
    st.sampled_from([
        b'"abcd-2345"', b'"wxyz-9876"', b'"k1"', b'"k2"', b'" k1 "', b'"k\\u0000"', b'""', b"null", b"12", b'"\xff"',
        b'"https://data.example.org/d/abcd-2345"', b'"https://data.example.org/data.json"', b'["k1"]',
        b'{"@value":"k1"}',
    ]),
    st.builds(lambda length: json.dumps("k" * length).encode(), st.integers(240, 260)),
    st.builds(lambda length: json.dumps("k" * length).encode(), st.integers(990, 1_010)),
)  # fmt: skip
hosts = st.sampled_from([
    b'"a.org"', b'" A.org "', b'"b.org"', b'""', b"null", b"5", b'"c\\u0000.org"', b'"https://a.org/x"',
])  # fmt: skip
pages = st.sampled_from([
    b'"https://a.org/d/1"', b'"https://A.org"', b'" https://b.org/x"', b'"https://doi.org/10.1/x"', b'"http://[/"',
    b'""', b'"c"', b"null", b"5", b'"https://a.org?x=/"', b'"http:///a"',
])  # fmt: skip
links = st.sampled_from([
    b'[{"rel":"self","href":"https://a.org/api"}]', b'{"self":"https://b.org/x"}', b'{"self":"https://hub.arcgis.com/x"}',
    b"[null]", b"null", b"7", b'[{"rel":"self"},{"rel":"next","href":"https://c.org"}]',
])  # fmt: skip


def inner(*fields: tuple[str, st.SearchStrategy[bytes]]) -> st.SearchStrategy[bytes]:
    """An object with some of these fields, or something else."""
    some = st.tuples(*(st.tuples(st.just(name), values | st.none()) for name, values in fields))
    objects = some.map(lambda pairs: object_of([(name, value) for name, value in pairs if value is not None]))
    return objects | st.sampled_from([b"null", b"{}", b"[]", b"7"])


milliseconds = st.sampled_from([b"1563974432000", b"1e300", b"-1"])
details = inner(
    ("title", texts), ("name", texts), ("description", texts), ("searchDescription", texts), ("snippet", texts),
    ("modified", dates | milliseconds),
)  # fmt: skip
old_metas = (("title", texts), ("description", texts), ("modified", dates))
metas = inner(("default", inner(*old_metas)), *old_metas)
literals = st.one_of(
    texts,
    st.builds(lambda text: b'{"@value":%s}' % text, texts),
    st.builds(lambda text: b'[{"@value":%s,"@language":"de"}]' % text, texts),
    st.builds(lambda one, other: b'[{"@value":%s,"@language":"de"},%s]' % (one, other), texts, texts),
)
landing_pages = st.sampled_from([
    b'"https://a.org/x"', b'"hello"', b'{"@id":"https://a.org/x"}', b'[{"@id":"_:b"}]', b'[{"@value":"x"}]', b'""',
    b'{"@id":"_:b","foaf:page":"https://a.org/p"}', b'[{"@id":"a:x","@value":"https://a.org/y"}]', b"7", b"null", b"{}",
])  # fmt: skip
FIELDS: dict[str, list[tuple[str, st.SearchStrategy[bytes]]]] = {
    "seed": [
        ("asset_key", keys), ("id", keys), ("source_key", hosts), ("domain", hosts), ("name", texts),
        ("description", texts), ("url", texts), ("permalink", texts), ("updated_at", dates), ("modified", dates),
    ],
    "directory": [
        ("id", keys), ("domain", hosts), ("name", texts), ("description", texts), ("permalink", texts),
        ("resource_url", hosts), ("updatedAt", dates),
    ],
    "ckan": [
        ("id", keys), ("name", texts), ("title", texts), ("title_translated", texts), ("notes", texts),
        ("notes_translated", texts), ("url", hosts), ("metadata_modified", dates),
        ("extras", st.sampled_from([b'[{"key":"portal_url","value":"https://p.org"}]', b"null", b"[]"])),
    ],
    "data-json": [
        ("identifier", keys), ("@id", keys), ("title", texts), ("description", texts), ("landingPage", hosts),
        ("modified", dates), ("seriesMember", st.sampled_from([b"null", b"[]", b'[{"identifier":"inner"}]'])),
    ],
    "arcgis-hub": [("id", keys), ("attributes", details), ("properties", details), ("links", links)],
    "opendatasoft": [
        ("dataset_id", keys), ("datasetid", keys), ("metas", metas), ("links", links),
        ("dataset", inner(("dataset_id", keys), ("datasetid", keys), ("metas", metas)) | st.just(b"null")),
    ],
    "udata": [
        ("id", keys), ("title", texts), ("description", texts), ("page", pages), ("uri", pages),
        ("last_modified", dates), ("last_update", dates),
    ],
    "dataverse": [
        ("type", st.sampled_from([b'"dataset"', b'"dataset"', b'"file"', b'"dataverse"', b"null", b"7", b'""'])),
        ("global_id", keys), ("name", texts), ("description", texts), ("url", pages), ("image_url", pages),
        ("published_at", dates), ("updatedAt", dates),
    ],
    "dcat-ap": [
        ("@type", st.sampled_from([b'"dcat:Dataset"', b'["x","http://www.w3.org/ns/dcat#Dataset"]', b'"Dataset"',
                                   b'"dcat:Distribution"', b'["dcat:Catalog","dcat:Dataset"]', b"null", b"[]"])),
        ("@id", keys), ("dct:identifier", keys | literals), ("http://purl.org/dc/terms/identifier", literals),
        ("adms:identifier", st.sampled_from([b'{"skos:notation":"n"}', b"null"])), ("dct:title", literals),
        ("title", texts), ("http://purl.org/dc/terms/description", literals), ("dcterms:modified", dates | literals),
        ("dcat:landingPage", landing_pages),
    ],
    "views": [
        ("id", keys), ("name", texts), ("description", texts), ("rowsUpdatedAt", dates), ("viewLastModified", dates),
    ],
}  # fmt: skip


def object_of(fields: Sequence[tuple[str, bytes]]) -> bytes:
    return b"{" + b", ".join(json.dumps(name).encode() + b": " + value for name, value in fields) + b"}"


@st.composite
def records(draw: st.DrawFn, dialect: str) -> bytes:
    """A record of a dialect: most of its fields are ordinary, and any of them may be something else."""
    if dialect == "discovery":
        resource = [("id", draw(keys)), ("name", draw(texts)), ("description", draw(texts)), ("updatedAt", draw(dates))]
        fields = [
            ("resource", draw(st.sampled_from([object_of(resource), object_of(resource[:2]), b"null", b"[]"]))),
            ("metadata", draw(st.sampled_from([b'{"domain":"a.org"}', b'{"domain":""}', b"{}", b"null"]))),
            ("permalink", draw(texts)),
        ]
    else:
        fields = [(name, draw(values)) for name, values in FIELDS[dialect] if draw(st.integers(0, 3))]
    if draw(st.booleans()):
        fields.append(("z", draw(unread)))
    if dialect == "seed" and draw(st.integers(0, 5)):
        fields.append(("type", draw(st.sampled_from([b'"asset"', b'"asset"', b'"source"', b'"other"', b"null"]))))
    whole = object_of(fields)
    cut = draw(st.integers(0, len(whole)))
    return draw(st.sampled_from([whole, whole, whole, whole, whole[:cut], whole + b"}", b"[]", b"7"]))


# --- decoding --------------------------------------------------------------------------------------------------------


def bare(record: Record | None) -> Record | None:
    """A record without how it was decoded."""
    return replace(record, unchecked=None, is_unread=False) if type(record) is Asset else record


def without_texts(asset: Asset) -> Asset:
    return replace(asset, name=None, description=None, url=None, updated_at=None)


def check_block(dialect: Dialect, data: list[bytes], *, kind: str, domain: str, header: str, complete: bool) -> None:
    def decoder() -> Decoder:
        made = Decoder(dialect, domain=domain, header_complete=complete, is_lines=not kind)
        made.portal = replace(made.portal, header=header)
        return made

    block = RawBlock(data, range(1, len(data) + 1), [10 * number for number in range(len(data))], kind)
    truth = [decoder().decode(raw) for raw in block]
    for keys_only in (False, True):
        lazy = decoder()
        assets, others = lazy.decode_ordinary(block, keys_only=keys_only)
        assert sorted([asset.line - 1 for asset in assets] + others) == list(range(len(data)))
        lazy.portal = replace(lazy.portal, header="another.org")  # a later page's
        for asset in assets:
            assert asset.unchecked is not None
            strict = truth[asset.line - 1]
            assert bare(asset.unchecked.check(asset)) == strict
            if type(strict) is not Asset:
                continue
            assert (asset.key, asset.source_key, asset.own_key, asset.content_hash) == (
                strict.key, strict.source_key, strict.own_key, strict.content_hash,
            )  # fmt: skip
            assert asset.raw == data[asset.line - 1]
            if keys_only:
                try:
                    (read,) = asset.unchecked.with_texts([asset])
                except NotOrdinary:
                    continue
            else:
                read = asset
            assert not read.is_unread
            if strict.repaired:
                strict, read = replace(without_texts(strict), repaired=None, raw=read.raw), without_texts(read)
            assert bare(read) == strict


@pytest.mark.parametrize("name", DIALECTS)
@given(data=st.data())
@settings(relaxed, max_examples=60 * SCALE)
def test_an_ordinary_record_is_what_decoding_it_by_itself_makes_of_it(name: str, data: st.DataObject) -> None:
    check_block(
        DIALECTS[name],
        data.draw(st.lists(records(name), min_size=1, max_size=6)),
        kind=data.draw(st.sampled_from(["", "asset"])),
        domain=data.draw(st.sampled_from(["", "told.org"])),
        header=data.draw(st.sampled_from(["", "data.example.org"])),
        complete=data.draw(st.booleans()),
    )


ORDINARY = {
    "seed": b'{"type":"asset","asset_key":"k","source_key":"a.org","name":"n","updated_at":"2024-05-06T07:08:09Z"}',
    "directory": b'{"id":"abcd-2345","domain":"a.org","name":"n","permalink":"https://a.org/d/abcd-2345"}',
    "discovery": b'{"resource":{"id":"abcd-2345","name":"n"},"metadata":{"domain":"a.org"},"permalink":"https://a.org"}',
    "ckan": b'{"id":"k","name":"n","title":"t","notes":"d","metadata_modified":"2024-05-06"}',
    "data-json": b'{"identifier":"k","title":"t","landingPage":"https://a.org/x","modified":"2024-05-06"}',
    "arcgis-hub": b'{"id":"k","type":"dataset","attributes":{"name":"n","modified":1700000000000}}',
    "opendatasoft": b'{"dataset_id":"k","metas":{"default":{"title":"t","modified":"2024-05-06"}}}',
    "udata": b'{"id":"k","title":"t","page":"https://a.org/x","uri":null,"last_modified":"2024-05-06"}',
    "dataverse": b'{"type":"dataset","global_id":"doi:10.1234/x","url":"https://doi.org/10.1234/x","name":"n"}',
    "dcat-ap": b'{"@type":["dcat:Dataset"],"@id":"_:b","dct:identifier":[{"@value":"k"}],"dct:title":"t"}',
    "views": b'{"id":"abcd-2345","name":"n","rowsUpdatedAt":1700000000}',
}


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_has_ordinary_records(name: str) -> None:
    decoder = Decoder(DIALECTS[name], domain="told.org", is_lines=True)
    for keys_only in (False, True):
        assets, others = decoder.decode_ordinary(RawBlock([ORDINARY[name]], [1], [0]), keys_only=keys_only)
        assert (len(assets), others) == (1, [])
        assert assets[0].is_unread == keys_only


# ruff: noqa: ASYNC240  # nothing else runs in a test's event loop
# --- loading ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def urls(server: str, template: str) -> Iterator[tuple[DatabaseUrl, DatabaseUrl]]:
    with _clone(server, template) as one, _clone(server, template) as other:
        yield one, other


class Outcome(msgspec.Struct):
    """What a load left."""

    report: Report
    rejects: list[dict[str, Any]]
    rows: Any
    sources: list[Any]


async def loaded(url: DatabaseUrl, path: Path, rejects: Path, **options: Any) -> Outcome:
    rejects.unlink(missing_ok=True)
    some = Settings(
        database_url=url,
        rejects=str(rejects),
        max_rejects=MaxRejects(records=10**9, percent=None),
        resume=False,
        domain=None,
        **options,
    )
    try:
        report = await ingest([str(path)], some)
    except Exception as exc:
        if getattr(exc, "report", None) is None:
            raise
        report = exc.report  # type: ignore[attr-defined]
    lines = [msgspec.json.decode(line) for line in rejects.read_bytes().splitlines()] if rejects.exists() else []
    async with session(url) as connection:
        rows = await digest(connection, await introspect(connection))
        sources = [row["source_key"] for row in await connection.fetch("select source_key from registry.sources")]
    # Within a batch the order of what is found late differs; nothing else does.
    lines.sort(key=lambda line: (line["offset"], line["reason"]))
    return Outcome(report, lines, rows, sorted(sources))


async def loaded_strictly(url: DatabaseUrl, path: Path, rejects: Path, **options: Any) -> Outcome:
    with patch.object(RegistryState, "checks_records", new=False):
        return await loaded(url, path, rejects, **options)


async def emptied(url: DatabaseUrl) -> None:
    connection = await asyncpg.connect(url.reveal)
    await connection.execute("truncate registry.assets, registry.sources restart identity")
    await connection.close()


def without_order(counts: AssetCounts) -> tuple[int, ...]:
    """Counts that no border between two batches moves."""
    return (counts.read, counts.inserted, counts.rejected, counts.missing_source,
            counts.updated + counts.unchanged + counts.duplicate)  # fmt: skip


steps = st.lists(
    st.tuples(st.lists(records("seed"), min_size=1, max_size=12), st.integers(1, 3), st.booleans()),
    min_size=1,
    max_size=3,
)
GOOD, BAD = ORDINARY["seed"], ORDINARY["seed"][:-1] + b',"z":"\xff"}'


@example([([BAD, GOOD], 1, True)])
@example([([GOOD, BAD], 2, True)])
@example([([GOOD], 1, True), ([BAD, GOOD.replace(b'"n"', b'"m"')], 1, False)])
@given(steps)
@settings(relaxed, max_examples=8 * SCALE)
async def test_a_load_is_the_same_as_with_all_checks_first(
    urls: tuple[DatabaseUrl, DatabaseUrl], tmp_path: Path, steps: list[tuple[list[bytes], int, bool]]
) -> None:
    for url in urls:
        await emptied(url)
    for data, concurrency, is_one_batch in steps:
        path = tmp_path / "index.ndjson"
        path.write_bytes(b"\n".join([b'{"type":"source","source_key":"a.org"}', *data]))
        options: dict[str, Any] = {"concurrency": concurrency, "batch_size": 1_000 if is_one_batch else 3}
        lazily = await loaded(urls[0], path, tmp_path / "lazily", **options)
        strictly = await loaded_strictly(urls[1], path, tmp_path / "strictly", **options)
        assert lazily.rejects == strictly.rejects
        assert (lazily.rows, lazily.sources) == (strictly.rows, strictly.sources)
        one, other = lazily.report.assets, strictly.report.assets
        assert without_order(one) == without_order(other)
        if is_one_batch:
            assert one == other
            assert lazily.report.sources == strictly.report.sources


BLOCK = [b'{"type":"asset","asset_key":"%03d","source_key":"a.org","name":"n"}' % number for number in range(60)]


def with_bad(positions: Sequence[int]) -> list[bytes]:
    return [line[:-1] + b',"z":"\xff"}' if at in positions else line for at, line in enumerate(BLOCK)]


async def test_after_three_refused_batches_an_index_is_checked_before_it_is_sent(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    path = tmp_path / "index.ndjson"
    path.write_bytes(b"\n".join([b'{"type":"source","source_key":"a.org"}', *with_bad([1, 11, 21, 31, 41])]))
    refused = await _refused_statements(database_url, path, batch_size=10)
    assert refused == 3


async def _refused_statements(url: DatabaseUrl, path: Path, **options: Any) -> int:
    """How many batches the server refused."""
    from seed_registry.load.worker import DeferredChecks  # noqa: PLC0415  # it is spied on

    refused = 0
    of_refused = DeferredChecks.of_refused

    def counted(checks: DeferredChecks, assets: list[Asset], reason: Exception) -> list[Asset]:
        nonlocal refused
        refused += 1
        return of_refused(checks, assets, reason)

    with patch.object(DeferredChecks, "of_refused", counted):
        outcome = await loaded(url, path, path.with_suffix(".rejects"), concurrency=1, **options)
    assert (outcome.report.assets.inserted, outcome.report.assets.rejected) == (55, 5)
    return refused


async def test_rejects_that_postgres_finds_are_kept_before_their_batch_is_committed(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    path, rejects = tmp_path / "index.ndjson", tmp_path / "rejects"
    path.write_bytes(b"\n".join([b'{"type":"source","source_key":"a.org"}', *with_bad([5])]))
    kept: list[int] = []

    class Told:
        def began(self, tally: Any) -> None:
            del tally

        def tell(self, level: str, event: str, /, **fields: Any) -> None:
            if event == "record_rejected":
                kept.append(0)

    await ingest([str(path)], Settings(database_url=database_url, rejects=str(rejects), concurrency=1), Told())
    assert [msgspec.json.decode(line)["reason"] for line in rejects.read_bytes().splitlines()] == ["bad_utf8"]
    assert kept == [0]


@pytest.mark.parametrize("is_first", [True, False])
async def test_what_a_reload_finds_held_is_not_decoded_further(
    database_url: DatabaseUrl, tmp_path: Path, is_first: bool
) -> None:
    path = tmp_path / "index.ndjson"
    path.write_bytes(b"\n".join([b'{"type":"source","source_key":"a.org"}', *BLOCK]))
    if not is_first:
        await loaded(database_url, path, tmp_path / "rejects")
    read: list[int] = []
    with_texts = Decoder.with_texts

    def counted(decoder: Decoder, assets: Sequence[Asset], portal: Any) -> list[Asset]:
        read.append(len(assets))
        return with_texts(decoder, assets, portal)

    with patch.object(Decoder, "with_texts", counted):
        outcome = await loaded(database_url, path, tmp_path / "rejects")
    assert read == []
    assert outcome.report.assets.unchanged == (0 if is_first else 60)


async def test_of_a_reload_with_a_few_changes_only_these_are_decoded_further(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    path = tmp_path / "index.ndjson"
    path.write_bytes(b"\n".join([b'{"type":"source","source_key":"a.org"}', *BLOCK]))
    await loaded(database_url, path, tmp_path / "rejects")
    changed = [line.replace(b'"n"', b'"m"') if at in (3, 7) else line for at, line in enumerate(BLOCK)]
    path.write_bytes(b"\n".join([b'{"type":"source","source_key":"a.org"}', *changed]))
    outcome = await loaded(database_url, path, tmp_path / "rejects")
    assert (outcome.report.assets.updated, outcome.report.assets.unchanged) == (2, 58)
    connection = await asyncpg.connect(database_url.reveal)
    names = await connection.fetch("select asset_key from registry.assets where name = 'm' order by 1")
    await connection.close()
    assert [row["asset_key"] for row in names] == ["003", "007"]


@pytest.mark.parametrize("is_strict", [False, True])
async def test_a_repaired_asset_is_hashed_and_counted_alike_whether_it_waits_for_its_source_or_not(
    database_url: DatabaseUrl, tmp_path: Path, is_strict: bool
) -> None:
    path, load = tmp_path / "index.json", loaded_strictly if is_strict else loaded
    assets = [b'{"asset_key":"%d","source_key":"b.org","name":"x\\u0000y"}' % number for number in range(3)]
    array, sources = b'"assets":[' + b",".join(assets) + b"]", b'"sources":[{"source_key":"b.org"}]'
    connection = await asyncpg.connect(database_url.reveal)
    seen: set[bytes] = set()
    for parts in ((array, sources), (sources, array)):
        path.write_bytes(b"{" + b",".join(parts) + b"}")
        outcome = await load(database_url, path, tmp_path / "rejects")
        assert outcome.report.repaired in (3, 0 if seen else 3)  # held ones are not looked at again
        seen |= {row["content_hash"] for row in await connection.fetch("select content_hash from registry.assets")}
    await connection.close()
    assert len(seen) == 3


async def test_what_is_wrong_with_a_record_goes_before_whose_key_it_has(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    path = tmp_path / "index.ndjson"
    good = b'{"id":"population","name":"n","title":"t","metadata_modified":"2024-05-06"}'
    path.write_bytes(good)
    options: dict[str, Any] = {"dialect": "ckan"}
    await ingest([str(path)], Settings(database_url=database_url, domain="one.org", **options))
    path.write_bytes(b"\n".join([good.replace(b"population", b"other"), good[:-1] + b',"z":"\xff"}']))
    rejects = tmp_path / "rejects"
    options |= {"rejects": str(rejects), "max_rejects": MaxRejects(records=9, percent=None)}
    some = Settings(database_url=database_url, domain="two.org", batch_size=1, **options)
    await ingest([str(path)], some)
    assert [msgspec.json.decode(line)["reason"] for line in rejects.read_bytes().splitlines()] == ["bad_utf8"]


def test_a_reject_of_a_checked_asset_is_that_of_the_record() -> None:
    decoder = Decoder(DIALECTS["seed"], is_lines=True)
    (asset,), _ = decoder.decode_ordinary(RawBlock([BAD], [3], [40]))
    assert asset.unchecked is not None
    reject = asset.unchecked.check(asset)
    assert type(reject) is Reject
    assert (reject.reason, reject.line, reject.offset) == ("bad_utf8", 3, 40)
