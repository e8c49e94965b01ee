from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from seed_registry.errors import IndexBroken, IndexNotUnderstood, IndexUnreadable, SeedRegistryError
from seed_registry.index.decoder import REASONS
from seed_registry.index.inputs import IndexRef
from seed_registry.index.open import read_index
from seed_registry.index.reader import PIECE_BYTES, IndexReader
from seed_registry.index.sniff import MAX_LEVELS, MAX_NUMBER_BYTES
from seed_registry.records import Asset, RawRecord, Record, Reject, Source
from seed_registry.settings import Settings

pytestmark = pytest.mark.anyio


class Outcome:
    """What came of reading an index to its end, or to the error that ended it."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.error: SeedRegistryError | None = None
        self.complete_at: list[bool] = []  # `sources_complete` after each part
        self.reader: IndexReader

    @property
    def assets(self) -> list[Asset]:
        """The good ones."""
        return [record for record in self.records if isinstance(record, Asset)]

    @property
    def keys(self) -> list[str | None]:
        """Of all records, the rejected ones included."""
        return [record.key for record in self.records]

    @property
    def reasons(self) -> list[str]:
        """Of the rejected ones."""
        return [record.reason for record in self.records if isinstance(record, Reject)]


async def outcome(path: Path, *, salt: str = "", **options: Any) -> Outcome:
    result = Outcome()
    try:
        async with read_index(IndexRef.of(path), Settings(**options), salt=salt) as reader:
            result.reader = reader
            async for part in reader.records():
                result.records += part
                result.complete_at.append(reader.sources_complete)
    except SeedRegistryError as exc:
        result.error = exc
    return result


async def read(tmp_path: Path, thing: Any, name: str = "x.index.json", **options: Any) -> Outcome:
    path = tmp_path / name
    path.write_bytes(thing if isinstance(thing, bytes) else json.dumps(thing).encode())
    result = await outcome(path, **options)
    if result.error is not None:
        assert all(line.isprintable() for line in str(result.error).split("\n")), "an error is fit to be seen"
        assert str(result.error).count("\n") <= 1
    return result


def dataset(number: int, **fields: Any) -> dict[str, Any]:
    return {"id": f"k-{number}", "name": "n" * 500, **fields}


def many(count: int = 2000, **fields: Any) -> list[dict[str, Any]]:
    """Some chunks full."""
    assert count * 500 > 2 * PIECE_BYTES or count < 2000
    return [dataset(number, **fields) for number in range(count)]


# whole indexes


async def test_a_directory_is_its_datasets_with_the_headers_domain(tmp_path: Path) -> None:
    result = await read(tmp_path, {"domain": "Data.Example.org", "totalCount": 2000, "datasets": many()})
    assert result.error is None
    assert result.keys == [f"k-{number}" for number in range(2000)]
    assert {asset.source_key for asset in result.assets} == {"data.example.org"}
    assert result.reader.position == result.reader.size
    assert result.reader.dialect.name == "directory"


@pytest.mark.parametrize("packed", [bytes, gzip.compress])
async def test_every_record_is_where_it_says(tmp_path: Path, packed: Any) -> None:
    data = b"\xef\xbb\xbf" + json.dumps({"domain": "d.org", "datasets": many()}, indent=1).encode()
    result = await read(tmp_path, packed(data))
    assert len(result.assets) == 2000
    for asset in result.assets:
        assert data[asset.offset :].startswith(asset.raw)
        assert data.count(b"\n", 0, asset.offset) + 1 == asset.line


async def test_lines_are_read_as_lines_whatever_the_name(tmp_path: Path) -> None:
    data = b"\xef\xbb\xbf" + b"\r\n".join(
        json.dumps({"type": "asset", "domain": "d.org", **one}).encode() for one in many()
    )
    for name in ("x.json", "x.ndjson", "x.json.gz"):
        result = await read(tmp_path, data, name)
        assert result.error is None
        assert len(result.assets) == 2000
        assert all(data[asset.offset :].startswith(asset.raw) for asset in result.assets)
        assert [asset.line for asset in result.assets] == list(range(1, 2001))


async def test_gzip_is_recognised_by_content_where_the_name_says_json(tmp_path: Path) -> None:
    result = await read(tmp_path, gzip.compress(json.dumps({"datasets": many(domain="d")}).encode()), "plain.json")
    assert result.error is None
    assert len(result.assets) == 2000


async def test_the_real_index_files_are_read_to_their_end(shared_data: Path) -> None:
    for name, count, sources in (
        ("directory_sf.json", 762, 1),
        ("directory_sf_kept.json", 390, 1),
        ("directory_sf_v1_array.json", 4, 1),
        ("empty_array.json", 0, 0),
        ("discovery_2022-06-07.ndjson.gz", 13_383, 273),
        ("discovery_page_us.json", 10, 0),
        ("discovery_page_eu.json", 10, 0),
        ("discovery_page_2018.json", 7, 0),
        ("views_array.json", 12, 1),
        ("view_single.json", 1, 1),
        ("dcat_us_portal.json", 295, 1),
        ("pod10_data.sfgov.org.json", 369, 1),  # and the catalogue's own row
    ):
        needs_domain = name.startswith(("view", "pod10"))
        result = await outcome(shared_data / name, domain="told.example.org" if needs_domain else None)
        assert result.error is None, name
        assert result.reasons == [], name
        assert len(result.assets) == count, name
        assert not sources or len({asset.source_key for asset in result.assets}) == sources, name
        assert all(found == told for _, told, found in result.reader.declared()), name
        if "ndjson" in name:
            assert len({asset.key for asset in result.assets}) == 13_058
            assert all(isinstance(json.loads(asset.raw), dict) for asset in result.assets)


async def test_the_salt_and_the_domain_go_into_the_hashes(tmp_path: Path) -> None:
    thing = {"datasets": [dataset(1)]}
    hashes = {
        (await read(tmp_path, thing, **options)).assets[0].content_hash
        for options in ({"domain": "a"}, {"domain": "b"}, {"domain": "a", "salt": "x"}, {"domain": "a"})
    }
    assert len(hashes) == 3


# declared counts


async def test_a_declared_count_is_returned_with_the_count_read(tmp_path: Path) -> None:
    for thing, expected in (
        ({"domain": "d", "totalCount": 3, "datasets": many(2)}, [("totalCount", 3, 2)]),
        ({"domain": "d", "datasets": many(2), "totalCount": 2}, [("totalCount", 2, 2)]),
        ({"domain": "d", "keptCount": 0, "kept": []}, [("keptCount", 0, 0)]),
        ({"domain": "d", "kept": many(1), "totalCount": 7, "keptCount": 1}, [("keptCount", 1, 1)]),
        ({"domain": "d", "totalCount": "3", "datasets": []}, []),
        ({"domain": "d", "totalCount": True, "datasets": []}, []),
        ({"domain": "d", "datasets": []}, []),
        ({"resultSetSize": 99, "results": []}, []),
        ([], []),
    ):
        result = await read(tmp_path, thing)
        assert result.error is None
        assert list(result.reader.declared()) == expected


async def test_a_header_without_a_name_declares_nothing(tmp_path: Path) -> None:
    result = await read(tmp_path, {"": 7, "results": [{"resource": {"id": "k"}, "metadata": {"domain": "d"}}]})
    assert result.error is None
    assert list(result.reader.declared()) == []


async def test_rejects_count_as_read_where_a_count_is_declared(tmp_path: Path) -> None:
    result = await read(tmp_path, {"domain": "d", "totalCount": 2, "datasets": [{"name": "no key"}, dataset(1)]})
    assert list(result.reader.declared()) == [("totalCount", 2, 2)]


# the header's domain


async def test_a_domain_behind_the_records_reaches_them_when_they_are_decoded_once_more(tmp_path: Path) -> None:
    result = await read(tmp_path, {"datasets": many(), "domain": "late.org"})
    assert result.error is None
    waiting = [asset for asset in result.assets if not asset.source_key]
    assert len(waiting) > 1000
    again = [result.reader.decode(RawRecord(asset.raw, asset.line, asset.offset, "asset")) for asset in result.assets]
    early = await read(tmp_path, {"domain": "late.org", "datasets": many()})
    assert [one.source_key for one in again if isinstance(one, Asset)] == ["late.org"] * 2000
    for one, other in zip(again, early.assets, strict=True):
        assert isinstance(one, Asset)
        assert (one.key, one.url, one.content_hash) == (other.key, other.url, other.content_hash)


async def test_records_that_name_their_source_do_not_wait_for_the_header(tmp_path: Path) -> None:
    result = await read(tmp_path, {"datasets": many(domain="own.org"), "domain": "late.org"})
    assert {asset.source_key for asset in result.assets} == {"own.org"}


async def test_a_record_that_waited_in_vain_is_a_reject_in_the_end(tmp_path: Path) -> None:
    result = await read(tmp_path, {"datasets": many()})
    assert result.error is None
    waiting = [one for one in result.assets if not one.source_key]
    assert len(waiting) + result.reasons.count("no_source") == 2000
    last = result.reader.decode(RawRecord(waiting[0].raw, 1, 0, "asset"))
    assert isinstance(last, Reject)
    assert last.reason == "no_source"


async def test_the_domain_of_the_settings_goes_before_that_of_the_header(tmp_path: Path) -> None:
    for domain in ("header.org", ["odd"]):
        result = await read(tmp_path, {"domain": domain, "datasets": [dataset(1)]}, domain="Told.org")
        assert result.assets[0].source_key == "told.org"


async def test_a_domain_of_the_settings_waits_for_none_behind_the_records(tmp_path: Path) -> None:
    result = await read(tmp_path, {"datasets": many(), "domain": "late.org"}, domain="told.org")
    assert [asset.source_key for asset in result.assets] == ["told.org"] * 2000


async def test_the_portal_of_a_catalogue_reaches_its_data_sets_wherever_it_stands(tmp_path: Path) -> None:
    data_sets = [{"identifier": f"https://agency{number % 3}.gov/{number}", "title": "t"} for number in range(50)]
    early = await read(tmp_path, {"@id": "https://Portal.gov/data.json", "dataset": data_sets})
    late = await read(tmp_path, {"dataset": data_sets, "@id": "https://portal.gov/data.json"})
    again = [late.reader.decode(RawRecord(one.raw, one.line, one.offset, "asset")) for one in late.assets]
    assert {one.source_key for one in early.assets} == {"portal.gov"}
    assert [(one.key, one.source_key, one.content_hash) for one in again if isinstance(one, Asset)] == [
        (one.key, one.source_key, one.content_hash) for one in early.assets
    ]
    told = await read(tmp_path, {"dataset": data_sets, "@id": "https://portal.gov/data.json"}, domain="told.gov")
    assert {one.source_key for one in told.assets} == {"told.gov"}
    none = await read(tmp_path, {"conformsTo": "x", "dataset": data_sets})
    again = [none.reader.decode(RawRecord(one.raw, one.line, one.offset, "asset")) for one in none.assets]
    assert {one.source_key for one in again if isinstance(one, Asset)} == {"agency0.gov", "agency1.gov", "agency2.gov"}


@pytest.mark.parametrize("is_first", [True, False])
async def test_the_links_of_a_document_name_the_portal_of_records_that_have_none(
    tmp_path: Path, is_first: bool
) -> None:
    links = {"links": [{"rel": "next", "href": "https://n.org"}, {"rel": "self", "href": "https://d.org/api"}]}
    data_set = {"dataset_id": "trees", "metas": {"default": {"title": "Trees"}}}
    item = {"id": "k", "type": "Feature", "properties": {"title": "Trees", "snippet": "s", "modified": 1}}
    pages: list[dict[str, Any]] = [
        {"results": [data_set], "total_count": 1},
        {"datasets": [{"dataset": data_set, "links": []}], "total_count": 1},
        {"type": "FeatureCollection", "features": [item], "numberMatched": 1},
    ]
    for page in pages:
        found = await read(tmp_path, {**links, **page} if is_first else {**page, **links})
        again = [found.reader.decode(RawRecord(one.raw, one.line, one.offset, "asset")) for one in found.assets]
        assert [one.source_key for one in again if isinstance(one, Asset)] == ["d.org"]


LANDED = {"identifier": "https://a.org/d/abcd-2345", "title": "t", "landingPage": "https://a.org/d/abcd-2345"}


@pytest.mark.parametrize(("header", "domain"), [({"@id": "https://portal.gov/data.json"}, None), ({}, "portal.gov")])
async def test_a_key_does_not_depend_on_other_records_where_the_portal_is_named(
    tmp_path: Path, header: dict[str, Any], domain: str | None
) -> None:
    other = {"identifier": "other", "title": "t", "landingPage": "https://b.org/other"}
    alone = await read(tmp_path, {**header, "dataset": [LANDED]}, domain=domain)
    among_others = await read(tmp_path, {**header, "dataset": [LANDED, other]}, domain=domain)
    assert alone.assets[0].key == among_others.assets[0].key == LANDED["identifier"]


@pytest.mark.parametrize(
    ("page", "portal"),
    [
        ("https://a.org:8080/x", "a.org"),
        ("https://a.org", "a.org"),
        ("https://a.org?x", "a.org"),
        ("https://user:word@a.org/x", "a.org"),
        ("https://bücher.example/x", "bücher.example"),
        ("https://a_b.org/x", "a_b.org"),
    ],
)
@pytest.mark.parametrize("is_ascii", [True, False])
async def test_the_portal_that_landing_pages_agree_on_is_their_whole_host(
    tmp_path: Path, page: str, portal: str, is_ascii: bool
) -> None:
    document = {"conformsTo": "x", "dataset": [{"identifier": "k", "title": "t", "landingPage": page}]}
    text = json.dumps(document, ensure_ascii=is_ascii).replace("/", "\\/" if is_ascii else "/")
    found = await read(tmp_path, text.encode())
    again = [found.reader.decode(RawRecord(one.raw, one.line, one.offset, "asset")) for one in found.assets]
    assert [one.source_key for one in again if isinstance(one, Asset)] == [portal]


# views, data-json, ckan

VIEW = {"id": "abcd-2345", "name": "Trees", "rowsUpdatedAt": 1371737836, "columns": [{"id": 1}, {"id": 2}]}
PACKAGE = {"id": "k-1", "name": "trees", "metadata_modified": "2024-01-01", "resources": [{"id": "r"}]}


def forms(record: dict[str, Any]) -> dict[str, bytes]:
    other = record | {"name": "Other"}
    return {
        "an array": json.dumps([record, other]).encode(),
        "an array, pretty-printed": json.dumps([record, other], indent=2).encode(),
        "lines": json.dumps(record).encode() + b"\n" + json.dumps(other).encode() + b"\n",
        "one line": json.dumps(record).encode() + b"\n",
    }


@pytest.mark.parametrize("form", forms(VIEW))
async def test_views_are_read_in_every_form(tmp_path: Path, form: str) -> None:
    result = await read(tmp_path, forms(VIEW)[form], domain="D.org")
    assert result.error is None
    assert [(one.key, one.source_key, one.name) for one in result.assets] == [
        ("abcd-2345", "d.org", "Trees"),
        ("abcd-2345", "d.org", "Other"),
    ][: 1 if form == "one line" else 2]


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\n \n"])
@pytest.mark.parametrize("indent", [None, 1])
async def test_a_document_may_be_one_view(tmp_path: Path, indent: int | None, before: bytes) -> None:
    data = json.dumps(VIEW | {"text": "x" * PIECE_BYTES * 2}, indent=indent).encode()
    result = await read(tmp_path, before + data + b"\n", domain="d.org")
    assert result.error is None
    (found,) = result.assets
    assert found.raw == data
    assert (before + data)[found.offset :].startswith(b"{")
    assert found.line == 1 + before.count(b"\n")


async def test_one_view_that_is_broken_or_followed_by_something_is_an_error(tmp_path: Path) -> None:
    data = json.dumps(VIEW).encode()
    for cut in (1, 5, 20):
        result = await read(tmp_path, data[:-cut], domain="d.org")
        assert isinstance(result.error, IndexBroken)
        assert result.assets == []
    for behind in (b" x", b"]", b","):
        result = await read(tmp_path, data + behind, domain="d.org")
        assert isinstance(result.error, IndexBroken)
        assert len(data) <= result.error.offset <= len(data + behind)
        assert len(result.assets) == 1


@pytest.mark.parametrize("form", forms(VIEW))
async def test_views_without_a_domain_are_an_error_that_says_how_to_name_it(tmp_path: Path, form: str) -> None:
    result = await read(tmp_path, forms(VIEW)[form])
    assert isinstance(result.error, IndexNotUnderstood)
    assert "do not name their portal\nname it with --domain" in str(result.error)
    assert result.records == []


async def test_packages_are_read_in_every_form(tmp_path: Path) -> None:
    answer = {"help": "https://Portal.org/api/3/action/help_show?name=x", "success": True}
    other = PACKAGE | {"id": "k-2"}
    for thing, keys, source in (
        (answer | {"result": {"count": 7, "facets": {}, "results": [PACKAGE, other]}}, ["k-1", "k-2"], "told.org"),
        (answer | {"result": [PACKAGE, other]}, ["k-1", "k-2"], "told.org"),
        (answer | {"result": {"count": 0, "results": []}}, [], ""),
        ([PACKAGE, other], ["k-1", "k-2"], "told.org"),
        (json.dumps(PACKAGE).encode() + b"\n" + json.dumps(other).encode(), ["k-1", "k-2"], "told.org"),
        (json.dumps(PACKAGE).encode(), ["k-1"], "told.org"),
    ):
        result = await read(tmp_path, thing, domain="Told.org")
        assert result.error is None
        assert result.reader.dialect.name == "ckan"
        assert result.keys == keys
        assert {one.source_key for one in result.assets} == ({source} if keys else set())
        assert list(result.reader.declared()) == [], "`count` is the portal's total, not the answer's"


async def test_the_row_of_the_catalogue_itself_is_no_record(tmp_path: Path) -> None:
    row = {"accessLevel": "Public", "identifier": "https://d.org/data.json", "title": "the catalogue"}
    data_set = {"accessLevel": "Public", "identifier": "abcd-2345", "title": "t"}
    for thing in (
        [row, data_set],
        {"dataset": [data_set, row]},
        b"\n".join(json.dumps(x).encode() for x in (row, data_set)),
    ):
        result = await read(tmp_path, thing, domain="d.org")
        assert (result.error, result.keys) == (None, ["abcd-2345"])
    alone = await read(tmp_path, [row], domain="d.org")
    assert (alone.error, alone.records) == (None, [])


async def test_a_header_domain_that_is_no_text_is_none(tmp_path: Path) -> None:
    for odd in (7, None, ["d.org"], {"d": 1}, True):
        assert (await read(tmp_path, {"domain": odd, "datasets": [dataset(1)]})).reasons == ["no_source"]


# sources


async def test_sources_are_complete_once_the_assets_behind_them_are_read(tmp_path: Path) -> None:
    sources = [{"domain": f"d{number}.org"} for number in range(3)]
    assets = many(domain="d1.org")
    result = await read(tmp_path, {"sources": sources, "assets": assets})
    assert [record.key for record in result.records if isinstance(record, Source)] == ["d0.org", "d1.org", "d2.org"]
    assert len(result.assets) == 2000
    assert result.complete_at[-1]
    assert not (await read(tmp_path, {"assets": assets, "sources": sources})).complete_at[-1]
    assert not (await read(tmp_path, {"sources": sources})).complete_at[-1]
    assert not (await read(tmp_path, {"assets": assets})).complete_at[-1]
    lines = b"".join(json.dumps({"type": "asset", **one}).encode() + b"\n" for one in assets)
    assert not (await read(tmp_path, lines)).complete_at[-1]


async def test_sources_are_not_complete_while_they_are_read(tmp_path: Path) -> None:
    sources = [{"domain": f"d{number}.org", "name": "n" * 500} for number in range(2000)]
    result = await read(tmp_path, {"sources": sources, "assets": [dataset(1, domain="d1.org")]})
    assert result.complete_at[0] is False
    assert result.complete_at[-1] is True


async def test_a_bad_source_is_a_rejected_source(tmp_path: Path) -> None:
    result = await read(tmp_path, {"sources": [{"name": "no key"}, 7], "assets": [{"id": "k", "domain": "d"}, 8]})
    assert [(one.kind, one.reason) for one in result.records if isinstance(one, Reject)] == [
        ("source", "no_key"),
        ("source", "not_an_object"),
        ("asset", "not_an_object"),
    ]


# --records-at, --dialect


async def test_records_are_read_where_the_settings_say(tmp_path: Path) -> None:
    thing = {"help": "x", "result": {"count": 1, "results": many(3, domain="d")}, "datasets": [dataset(9, domain="d")]}
    result = await read(tmp_path, thing, records_at="result.results")
    assert result.error is None
    assert result.keys == ["k-0", "k-1", "k-2"]


@pytest.mark.parametrize("path", ["result.items", "result", "datasets.results", "results"])
async def test_no_array_at_the_named_path_is_an_error_that_names_it(tmp_path: Path, path: str) -> None:
    result = await read(tmp_path, {"result": {"results": [dataset(1)]}, "domain": "d"}, records_at=path)
    assert isinstance(result.error, IndexNotUnderstood)
    assert f"has no array of records at {path}: name its path with --records-at" in str(result.error)


async def test_a_document_without_the_dialects_array_is_an_error_that_names_it(tmp_path: Path) -> None:
    result = await read(tmp_path, {"a": [1]}, dialect="directory")
    assert isinstance(result.error, IndexNotUnderstood)
    assert "no array of records at datasets or kept or the document itself" in str(result.error)


async def test_a_dialect_that_is_named_is_used(tmp_path: Path) -> None:
    result = await read(
        tmp_path,
        {"assets": [{"resource": {"id": "k"}, "metadata": {"domain": "d"}}]},
        dialect="discovery",
        records_at="assets",
    )
    assert result.keys == ["k"]
    data = b'{"unknown":1,"id":"k","domain":"d"}\n{"id":"l","domain":"d"}\n'
    assert (await read(tmp_path, data, dialect="directory")).keys == ["k", "l"]


# broken indexes


BREAKS = [
    ("a syntax error in a record", b'{"id" "x"}', 6, "expected ':'"),
    ("a stray character", b"@", 0, "invalid character"),
    ("a bracket of the wrong kind", b'{"id":"x"]', 9, "expected ',' or '}'"),
    ("a missing comma", b'{"id":"x"} {"id":"y"}', 11, "expected ',' or ']'"),
    ("a comma too many", b'{"id":"x"},', 11, "a value is expected"),
    ("a control character", b'{"id":"x\ty"}', 8, "invalid character"),
    ("a number with a zero before it", b'{"id":"x","n":01}', 15, "invalid number"),
]


@pytest.mark.parametrize("before", [0, 3, 1500])
@pytest.mark.parametrize(("wrong", "at", "message"), [case[1:] for case in BREAKS], ids=[case[0] for case in BREAKS])
async def test_a_broken_record_ends_the_reading_at_its_byte(
    tmp_path: Path, wrong: bytes, at: int, message: str, before: int
) -> None:
    good = [json.dumps(one).encode() for one in many(2000, domain="d")]
    start = b'{"domain":"d",\n"datasets":[' + b"".join(one + b",\n" for one in good[:before])
    result = await read(tmp_path, b"\xef\xbb\xbf" + start + wrong + b",\n" + b",".join(good[before:]) + b"]}")
    assert isinstance(result.error, IndexBroken)
    assert result.error.offset == 3 + len(start) + at
    assert f"x.index.json is broken at byte {result.error.offset}: " in str(result.error)
    assert message in str(result.error)
    assert str(result.error).count("byte") == 1, "no second position, of the record"
    whole_ones_in_it = ["x"] if message in ("expected ',' or ']'", "a value is expected") else []
    assert result.keys == [f"k-{number}" for number in range(before)] + whole_ones_in_it


@pytest.mark.parametrize("part", [0.2, 0.6, 0.95])
async def test_a_document_that_is_cut_off_is_broken_at_its_end(tmp_path: Path, part: float) -> None:
    data = json.dumps({"domain": "d", "datasets": many()}).encode()
    cut = data[: int(len(data) * part)]
    result = await read(tmp_path, cut)
    assert isinstance(result.error, IndexBroken)
    assert "cut off" in str(result.error)
    assert result.error.offset == len(cut)
    assert result.keys == [f"k-{number}" for number in range(cut.count(b'"}') )]  # fmt: skip
    assert len(result.keys) > 300


async def test_a_small_document_that_is_cut_off_is_broken_too(tmp_path: Path) -> None:
    result = await read(tmp_path, b'{"domain":"d","datasets":[{"id":"a"},{"id":"b"},{"id"')
    assert isinstance(result.error, IndexBroken)
    assert result.keys == ["a", "b"]


async def test_one_record_a_line_and_a_missing_comma_is_a_broken_document(tmp_path: Path) -> None:
    data = b'{"sources":[\n{"type":"source","domain":"d"}\n],"assets":[\n' + b",\n".join(
        json.dumps(one).encode() for one in many(9, type="asset", domain="d")
    )
    broken = data.replace(b'},\n{"id": "k-7"', b'}\n{"id": "k-7"') + b"\n]}"
    result = await read(tmp_path, broken)
    assert isinstance(result.error, IndexBroken)
    assert result.error.offset == broken.index(b'{"id": "k-7"')
    assert result.keys == ["d", *(f"k-{number}" for number in range(7))]


async def test_a_bad_line_is_a_reject_and_the_next_one_is_read(tmp_path: Path) -> None:
    def line(number: int) -> bytes:
        return b'{"type":"asset","id":"k-%d","domain":"d"}' % number

    bad = [
        b"",
        b"{",
        b"nope",
        b"[1]",
        b'{"id"',
        b"\xff",
        b'{"type":"asset"}',
        b"x" * 5000,
        b'{"type":"asset","id":"\\ud800"}',
    ]
    data = b"\n".join(part for number, wrong in enumerate(bad) for part in (line(number), wrong))
    result = await read(tmp_path, data, max_record_bytes=1024)
    assert result.error is None
    assert [asset.key for asset in result.assets] == [f"k-{number}" for number in range(len(bad))]
    assert result.reasons == [
        "not_json", "not_json", "not_an_object", "not_json", "bad_utf8", "no_key", "record_too_large", "bad_unicode",
    ]  # fmt: skip
    assert all(data[one.offset :].startswith(one.data) for one in result.records if isinstance(one, Reject))


async def test_a_record_that_is_too_long_is_a_reject_and_the_next_one_is_read(tmp_path: Path) -> None:
    thing = {"domain": "d", "datasets": [dataset(1), {"id": "long", "x": "y" * 900_000}, dataset(2), *many()]}
    result = await read(tmp_path, thing, max_record_bytes=1 << 12)
    assert result.error is None
    assert result.reasons == ["record_too_large"]
    assert len(result.assets) == 2002


@pytest.mark.parametrize("behind", [b" x", b"]", b"{}", b"\n[1]", b"\0"])
async def test_something_behind_the_document_is_an_error_after_all_of_it_is_read(tmp_path: Path, behind: bytes) -> None:
    data = json.dumps({"domain": "d", "datasets": many()}, indent=1).encode()
    result = await read(tmp_path, data + behind)
    assert isinstance(result.error, IndexBroken)
    assert result.error.offset == len(data) + len(behind) - len(behind.lstrip())
    assert len(result.assets) == 2000


async def test_damaged_compression_is_an_error_after_the_records_before_it(tmp_path: Path) -> None:
    noise = "".join(map(chr, range(40, 90)))
    data = gzip.compress(
        json.dumps({"domain": "d", "datasets": [dataset(n, x=noise[n % 50 :]) for n in range(20_000)]}).encode()
    )
    result = await read(tmp_path, data[: len(data) // 2])
    assert isinstance(result.error, IndexUnreadable)
    assert len(result.assets) > 1000


@pytest.mark.parametrize("depth", [MAX_LEVELS, MAX_LEVELS + 1, 2_000])
@pytest.mark.parametrize("template", [b"%b", b'{"datasets":%b', b'[{"id":"k","domain":"d"},%b'])
@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
async def test_brackets_without_end_are_an_error(tmp_path: Path, template: bytes, opening: bytes, depth: int) -> None:
    result = await read(tmp_path, template % (opening * depth), dialect="directory")
    assert isinstance(result.error, IndexBroken)


async def test_a_deep_record_is_a_reject_among_good_ones(tmp_path: Path) -> None:
    deep = b'{"id":"deep","z":' + b"[" * 2_000 + b"]" * 2_000 + b"}"
    for before, behind, between in ((b'{"datasets":[', b"]}", b","), (b"", b"", b"\n")):
        good = b'{"id":"%d","domain":"d"}'
        data = before + between.join([good % 1, deep, good % 2]) + behind
        result = await read(tmp_path, data, dialect="directory")
        assert result.error is None
        assert result.keys == ["1", None, "2"]
        assert result.reasons == ["too_deep"]


@pytest.mark.parametrize(
    "number", [b"9" * MAX_NUMBER_BYTES, b"9" * (MAX_NUMBER_BYTES + 1), b"1" * 400, b"1e999", b"-0.0e-99999"]
)
async def test_an_odd_number_does_not_stop_the_reading(tmp_path: Path, number: bytes) -> None:
    for template in (
        b'{"n":%b,"datasets":[{"id":"k","domain":"d"}]}',
        b'{"datasets":[{"id":"k","domain":"d","z":%b}]}',
        b'{"datasets":[%b,{"id":"k","domain":"d"}]}',
        b'{"datasets":[{"id":%b,"domain":"d"},{"id":"k","domain":"d"}]}',
        b'{"id":"k","domain":"d","z":%b}\n{"id":"k","domain":"d"}\n',
    ):
        result = await read(tmp_path, template % number, dialect="directory")
        assert result.error is None or isinstance(result.error, IndexBroken)
        assert result.error or "k" in result.keys


# the JSON test suite


async def test_every_file_of_the_json_test_suite_is_read_or_refused(corpora: Path) -> None:
    paths = sorted((corpora / "jsontestsuite").glob("test_*/*.json"))
    assert paths
    for path in paths:
        detected = await outcome(path)
        assert set(detected.reasons) <= REASONS.keys()
        for options in ({"dialect": "directory"}, {"dialect": "seed"}, {"records_at": "a"}):
            result = await outcome(path, **options)
            assert set(result.reasons) <= REASONS.keys()
            refused = result.error is not None or bool(result.reasons)
            if path.name.startswith("n_"):
                assert refused, f"{path.name} {options}"
            if path.name.startswith("y_") and "records_at" not in options:
                assert not isinstance(result.error, IndexBroken), f"{path.name} {result.error}"
                assert "not_json" not in result.reasons


@pytest.mark.parametrize("where", ["element", "header"])
async def test_a_value_of_the_json_test_suite_inside_a_document_is_judged_as_the_suite_says(
    corpora: Path, tmp_path: Path, where: str
) -> None:
    template = {
        "element": b'{"datasets":[{"id":"a","domain":"d"},%b,{"id":"b","domain":"d"}]}',
        "header": b'{"datasets":[{"id":"a","domain":"d"},{"id":"b","domain":"d"}],"z":%b}',
    }[where]
    for path in sorted((corpora / "jsontestsuite/test_parsing").glob("*.json")):
        result = await read(tmp_path, template % path.read_bytes(), dialect="directory")
        judged = result.error is not None or bool(set(result.reasons) - {"no_key", "no_source"})
        if path.name.startswith("y_"):
            assert result.error is None, f"{path.name} {result.error}"
            assert {"a", "b"} <= set(result.keys), path.name
        if path.name.startswith("n_"):
            assert judged, path.name
