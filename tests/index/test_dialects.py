from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seed_registry.errors import IndexNotUnderstood
from seed_registry.index.byte_stream import HEAD_BYTES
from seed_registry.index.choice import choose, weigh
from seed_registry.index.decoder import Decoder
from seed_registry.index.dialects import DIALECTS
from seed_registry.index.dialects.arcgis_hub import ARCGIS_HUB
from seed_registry.index.dialects.base import Portal, first, host_of, hosts_of, page, socrata_id
from seed_registry.index.dialects.ckan import CKAN
from seed_registry.index.dialects.data_json import DATA_JSON
from seed_registry.index.dialects.dataverse import DATAVERSE
from seed_registry.index.dialects.dcat_ap import DCAT_AP
from seed_registry.index.dialects.directory import DIRECTORY
from seed_registry.index.dialects.discovery import DISCOVERY
from seed_registry.index.dialects.opendatasoft import OPENDATASOFT
from seed_registry.index.dialects.seed import SEED
from seed_registry.index.dialects.udata import UDATA
from seed_registry.index.dialects.views import VIEWS
from seed_registry.index.sniff import sniff
from seed_registry.records import Asset, RawRecord, Reject, Source
from seed_registry.settings import DialectName, Settings

SEED_SOURCE = {"type": "source", "source_key": "d.org", "name": "Portal"}
SEED_ASSET = {"type": "asset", "asset_key": "k", "source_key": "d.org"}
DATASET = {"id": "abcd-1234", "name": "n", "permalink": "https://d.org/d/abcd-1234"}
RESULT = {"resource": {"id": "abcd-1234"}, "metadata": {"domain": "d.org"}, "permalink": "https://d.org/d/x"}
VIEW = {"id": "abcd-2345", "name": "n", "rowsUpdatedAt": 1371737836, "viewLastModified": 1371737838}
COLUMNS = {"id": "abcd-2345", "name": "n", "columns": [{"id": 1, "name": "Week"}]}
DATA_SET = {"identifier": "https://d.org/api/views/abcd-2345", "title": "t", "accessLevel": "public"}
OLD_DATA_SET = {"accessLevel": "public", "title": "t", "description": "its identifier comes later"}
PACKAGE = {"id": "2c6c6c58-0c3f", "name": "trees", "title": "Trees", "metadata_modified": "2024-01-02T03:04:05.6"}
OLD_PACKAGE = {"id": "2c6c6c58-0c3f", "name": "trees", "title": "Trees", "resources": [{"id": "r", "name": "x"}]}
# Packages of many portals carry fields of DCAT.
DCAT_PACKAGE = {"identifier": "trees@city", "title": {"de": "Bäume"}, "type": "dataset", **PACKAGE, "resources": []}
HUB_FIELDS = {"itemId": "15c9fe9deaaf405ca361cd632cc7cfba", "snippet": "s", "modified": 1563974432000}
HUB_LINKS = {"self": "https://opendata.arcgis.com/api/v3/datasets/15c9fe9deaaf405ca361cd632cc7cfba_0"}
HUB_ITEM = {
    "id": "15c9fe9deaaf405ca361cd632cc7cfba_0",
    "type": "dataset",
    "attributes": {"name": "Trees", **HUB_FIELDS},
    "links": HUB_LINKS,
}
HUB_RECORD = {
    "id": "15c9fe9deaaf405ca361cd632cc7cfba_0",
    "type": "Feature",
    "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]},
    "properties": {"title": "Trees", "name": "Trees_2", **HUB_FIELDS},
    "links": [{"rel": "self", "href": "https://d.org/api/search/v1/collections/dataset/items/15c9_0"}],
}
HUB_PAGE = {"type": "FeatureCollection", "numberMatched": 1, "numberReturned": 1, "features": [HUB_RECORD]}
STATS = {"queryParameters": {}, "stats": {"count": 1, "totalCount": 1, "aggs": {}}}
ODS_TEXTS = {"title": "Trees", "description": "d", "modified": "2024-01-02T03:04:05+00:00", "publisher": "City"}
ODS_DATASET = {"dataset_id": "trees", "dataset_uid": "da_1", "has_records": True, "metas": {"default": ODS_TEXTS}}
ODS_LINKS = [{"href": "https://d.org/api/v2/catalog/datasets", "rel": "self"}]
ODS_ENTRY = {"links": ODS_LINKS, "dataset": ODS_DATASET}
ODS_OLD = {"datasetid": "trees", "has_records": True, "metas": ODS_TEXTS, "fields": [{"name": "height"}]}
UDATA_DATASET = {
    "id": "5b7ffc618b4c4169d30727e0",
    "title": "Trees",
    "slug": "trees",
    "description": "d",
    "created_at": "2018-08-24T14:38:57.262000+00:00",
    "last_modified": "2024-09-01T06:41:23.766000+00:00",
    "resources": [{"id": "r", "title": "x", "url": "https://files.org/1"}],
    "organization": {"id": "o", "name": "City", "uri": "https://d.org/api/1/organizations/o/"},
    "frequency": "monthly",
    "uri": "https://d.org/api/1/datasets/trees/",
    "page": "https://d.org/fr/datasets/trees/",
}
UDATA_LINK = {"rel": "subsection", "href": "https://d.org/api/2/datasets/5b7f/resources/", "type": "GET", "total": 18}
UDATA_DATASET_2 = UDATA_DATASET | {"resources": UDATA_LINK, "last_update": "2024-09-01T06:41:18+00:00"}
UDATA_PAGE = {"data": [UDATA_DATASET], "next_page": None, "page": 1, "page_size": 20, "total": 1}
DV_DATASET = {
    "name": "Trees",
    "type": "dataset",
    "url": "https://doi.org/10.70122/FK2/MB5VGR",
    "global_id": "doi:10.70122/FK2/MB5VGR",
    "description": "d",
    "published_at": "2019-12-11T15:26:10Z",
    "publisher": "Garden",
    "fileCount": 3,
    "updatedAt": "2019-12-12T15:26:10Z",
}
DV_COLLECTION = {"name": "Garden", "type": "dataverse", "url": "https://d.org/dataverse/g", "identifier": "g"}
DV_COLLECTION |= {"published_at": "2016-05-10T12:53:38Z"}
DV_FILE = {"name": "t.png", "type": "file", "url": "https://d.org/api/access/datafile/12", "file_id": "12"}


def dv_page(*items: Any, total: int = 1) -> dict[str, Any]:
    data = {"q": "*", "total_count": total, "start": 0, "spelling_alternatives": {}, "items": list(items)}
    return {"status": "OK", "data": data | {"count_in_response": len(items)}}


ANSWER = {"help": "https://d.org/api/3/action/help_show?name=package_search", "success": True}
KNOWN = {
    "seed, sources first": ({"sources": [SEED_SOURCE], "assets": [SEED_ASSET]}, "seed"),
    "seed, assets first": ({"assets": [SEED_ASSET], "sources": [SEED_SOURCE]}, "seed"),
    "seed, empty": ({"sources": [], "assets": []}, "seed"),
    "seed, assets alone": ({"assets": []}, "seed"),
    "directory": ({"source": "socrata", "domain": "d.org", "datasets": [DATASET]}, "directory"),
    "directory, array first": ({"datasets": [DATASET], "domain": "d.org"}, "directory"),
    "directory, kept": ({"keptCount": 1, "kept": [DATASET]}, "directory"),
    "directory, empty": ({"datasets": []}, "directory"),
    "directory, bare": ([DATASET], "directory"),
    "directory, bare with a domain": ([{"id": "k", "domain": "d.org"}], "directory"),
    "nothing at all": ([], "directory"),
    "discovery": ({"results": [RESULT], "resultSetSize": 1}, "discovery"),
    "discovery, array last": ({"resultSetSize": 1, "results": [RESULT]}, "discovery"),
    "discovery, empty": ({"results": []}, "discovery"),
    "discovery, bare": ([RESULT], "discovery"),
    "views": ([VIEW, COLUMNS], "views"),
    "views, of columns alone": ([COLUMNS], "views"),
    "views, of a type alone": ([{"id": "abcd-2345", "viewType": "tabular"}], "views"),
    "a view": (VIEW, "views"),
    "a view, of columns alone": (COLUMNS, "views"),
    "data-json": (
        {"conformsTo": "https://x.org", "@id": "https://d.org/data.json", "dataset": [DATA_SET]},
        "data-json",
    ),
    "data-json, array first": ({"dataset": [DATA_SET], "conformsTo": "https://x.org"}, "data-json"),
    "data-json, empty": ({"conformsTo": "https://x.org", "dataset": []}, "data-json"),
    "data-json, with a title and an identifier": (
        {"title": "t", "identifier": "i", "dataset": [DATA_SET]},
        "data-json",
    ),
    "data-json, bare": ([DATA_SET], "data-json"),
    "data-json, bare and old": ([OLD_DATA_SET], "data-json"),
    "ckan, found": (ANSWER | {"result": {"count": 1, "facets": {}, "results": [PACKAGE]}}, "ckan"),
    "ckan, empty": (ANSWER | {"result": {"count": 0, "results": []}}, "ckan"),
    "ckan, listed": (ANSWER | {"result": [PACKAGE]}, "ckan"),
    "ckan, listed, old": (ANSWER | {"result": [OLD_PACKAGE]}, "ckan"),
    "ckan, the result alone": ({"count": 1, "facets": {}, "results": [PACKAGE]}, "ckan"),
    "ckan, the result alone, empty": ({"count": 0, "facets": {}, "results": []}, "ckan"),
    "ckan, bare": ([PACKAGE], "ckan"),
    "ckan, bare, with fields of DCAT": ([DCAT_PACKAGE], "ckan"),
    "arcgis-hub": ({"data": [HUB_ITEM], "meta": STATS}, "arcgis-hub"),
    "arcgis-hub, array last": ({"meta": STATS, "data": [HUB_ITEM]}, "arcgis-hub"),
    "arcgis-hub, empty": ({"data": [], "meta": STATS}, "arcgis-hub"),
    "arcgis-hub, bare": ([HUB_ITEM], "arcgis-hub"),
    "arcgis-hub, one item": ({"data": HUB_ITEM}, "arcgis-hub"),
    "arcgis-hub, records": (HUB_PAGE, "arcgis-hub"),
    "arcgis-hub, records, total last": (dict(reversed(HUB_PAGE.items())), "arcgis-hub"),
    "arcgis-hub, records, empty": (HUB_PAGE | {"features": []}, "arcgis-hub"),
    "arcgis-hub, records, bare": ([HUB_RECORD], "arcgis-hub"),
    "opendatasoft 2.1": ({"total_count": 1, "results": [ODS_DATASET]}, "opendatasoft"),
    "opendatasoft 2.1, empty": ({"total_count": 0, "results": []}, "opendatasoft"),
    "opendatasoft 2.1, exported": ([ODS_DATASET], "opendatasoft"),
    "opendatasoft 2.0": ({"total_count": 1, "links": ODS_LINKS, "datasets": [ODS_ENTRY]}, "opendatasoft"),
    "opendatasoft 2.0, empty": ({"total_count": 0, "links": ODS_LINKS, "datasets": []}, "opendatasoft"),
    "opendatasoft 2.0, bare": ([ODS_ENTRY], "opendatasoft"),
    "opendatasoft 1": ({"nhits": 1, "parameters": {}, "datasets": [ODS_OLD]}, "opendatasoft"),
    "opendatasoft 1, total last": ({"datasets": [ODS_OLD], "nhits": 1}, "opendatasoft"),
    "opendatasoft 1, empty": ({"nhits": 0, "parameters": {}, "datasets": []}, "opendatasoft"),
    "opendatasoft 1, bare": ([ODS_OLD], "opendatasoft"),
    "udata": (UDATA_PAGE, "udata"),
    "udata, version 2": (UDATA_PAGE | {"data": [UDATA_DATASET_2]}, "udata"),
    "udata, empty": (UDATA_PAGE | {"data": [], "total": 0}, "udata"),
    "udata, bare": ([UDATA_DATASET], "udata"),
    "dataverse": (dv_page(DV_DATASET), "dataverse"),
    "dataverse, collections first": (dv_page(DV_COLLECTION, DV_FILE, DV_DATASET, total=3), "dataverse"),
    "dataverse, collections alone": (dv_page(DV_COLLECTION), "dataverse"),
    "dataverse, files alone": (dv_page(DV_FILE), "dataverse"),
    "dataverse, empty": (dv_page(total=0), "dataverse"),
    "dataverse, bare": ([DV_DATASET], "dataverse"),
}


def chosen(data: bytes, **options: Any) -> tuple[str, bool]:
    dialect, shape = choose(sniff(data[:HEAD_BYTES], "x.json"), Settings(**options), "x.json")
    return dialect.name, shape.lines


def lines_of(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(("thing", "dialect"), KNOWN.values(), ids=KNOWN)
def test_a_document_is_known_by_its_shape(thing: Any, dialect: str, indent: int | None) -> None:
    data = json.dumps(thing, indent=indent).encode()
    assert chosen(data) == (dialect, False)
    assert chosen(data + b"\n") == (dialect, False)


@pytest.mark.parametrize(("thing", "dialect"), [case for name, case in KNOWN.items() if "empty" not in name])
def test_a_document_is_known_by_its_first_64_kib(thing: Any, dialect: str) -> None:
    def lengthened(value: Any) -> Any:
        if isinstance(value, list):
            return [item | {"text": "x" * 100_000} for item in value]
        if "id" in value:
            return value | {"text": "x" * 100_000}
        return {
            key: lengthened(item) if key != "links" and isinstance(item, (list, dict)) and item else item
            for key, item in value.items()
        }

    if thing != [] and next(iter(thing), "") not in ("sources", "assets"):
        assert chosen(json.dumps(lengthened(thing)).encode()) == (dialect, False)


@pytest.mark.parametrize(
    ("records", "dialect"),
    [
        ([SEED_SOURCE, SEED_ASSET], "seed"),
        ([SEED_ASSET, SEED_ASSET], "seed"),
        ([RESULT, RESULT], "discovery"),
        ([VIEW, VIEW], "views"),
        ([COLUMNS, VIEW], "views"),
        ([DATA_SET, DATA_SET], "data-json"),
        ([OLD_DATA_SET, DATA_SET], "data-json"),
        ([PACKAGE, PACKAGE], "ckan"),
        ([OLD_PACKAGE, PACKAGE], "ckan"),
        ([DCAT_PACKAGE, PACKAGE], "ckan"),
        ([SEED_ASSET | COLUMNS, SEED_ASSET], "seed"),
        ([HUB_ITEM, HUB_ITEM], "arcgis-hub"),
        ([HUB_RECORD, HUB_RECORD], "arcgis-hub"),
        ([ODS_DATASET, ODS_DATASET], "opendatasoft"),
        ([ODS_ENTRY, ODS_ENTRY], "opendatasoft"),
        ([ODS_OLD, ODS_OLD], "opendatasoft"),
        ([UDATA_DATASET, UDATA_DATASET_2], "udata"),
        ([DV_DATASET, DV_FILE], "dataverse"),
        ([DV_COLLECTION, DV_DATASET], "dataverse"),
    ],
)
def test_lines_are_known_by_their_first_record(records: list[Any], dialect: str) -> None:
    assert chosen(lines_of(*records)) == (dialect, True)
    assert chosen(b'{"broken": \n' + lines_of(*records)) == (dialect, True)
    reordered = [dict(reversed(record.items())) for record in records]
    assert chosen(lines_of(*reordered)) == (dialect, True)


@pytest.mark.parametrize(
    ("record", "dialect"),
    [
        (SEED_SOURCE, "seed"),
        (SEED_ASSET, "seed"),
        (SEED_ASSET | COLUMNS, "seed"),
        (RESULT, "discovery"),
        (DATA_SET, "data-json"),
        (OLD_DATA_SET, "data-json"),
        (PACKAGE, "ckan"),
        (OLD_PACKAGE, "ckan"),
        (DCAT_PACKAGE, "ckan"),
        (HUB_ITEM, "arcgis-hub"),
        (HUB_RECORD, "arcgis-hub"),
        (ODS_DATASET, "opendatasoft"),
        (ODS_ENTRY, "opendatasoft"),
        (ODS_OLD, "opendatasoft"),
        (UDATA_DATASET, "udata"),
        (DV_DATASET, "dataverse"),
    ],
)
def test_one_line_alone_is_ndjson_where_no_document_looks_like_it(record: Any, dialect: str) -> None:
    assert chosen(lines_of(record)) == (dialect, True)
    assert chosen(json.dumps(record | {"text": "x" * 100_000}).encode()) == (dialect, True)


@pytest.mark.parametrize(
    ("name", "dialect", "lines"),
    [
        ("directory_sf.json", "directory", False),
        ("directory_sf_kept.json", "directory", False),
        ("directory_sf_v1_array.json", "directory", False),
        ("empty_array.json", "directory", False),
        ("discovery_page_us.json", "discovery", False),
        ("discovery_page_eu.json", "discovery", False),
        ("discovery_page_2018.json", "discovery", False),
        ("views_array.json", "views", False),
        ("view_single.json", "views", False),
        ("dcat_us_portal.json", "data-json", False),
        ("pod10_data.sfgov.org.json", "data-json", False),
        ("portals/arcgis_hub_search.json", "arcgis-hub", False),
        ("portals/ckan_search_first_page.json", "ckan", False),
    ],
)
def test_real_index_files_are_known(shared_data: Path, name: str, dialect: str, lines: bool) -> None:
    assert chosen((shared_data / name).read_bytes()) == (dialect, lines)


@pytest.mark.parametrize(
    ("thing", "seen"),
    [
        (
            {"kind": "FeatureCollection", "features": [{"geometry": 1, "properties": {}}]},
            ["it has features, kind", "of geo"],
        ),
        ([{"what": 1, "why": 2}], ["it has no keys", "the array of what, why"]),
        (
            {"type": "Features", "features": [{"id": 1, "properties": {"title": "t", "modified": 1}}]},
            ["features of id, properties"],
        ),
        (
            HUB_PAGE
            | {"type": "", "features": [{"id": 1, "properties": {"title": "Oak", "owner": "City", "height": 3}}]},
            ["features of id, properties"],
        ),
        (
            {"data": [{"id": "1", "type": "articles", "attributes": {"title": "t", "modified": 1, "body": "b"}}]},
            ["data of attributes, id, type"],
        ),
        ({"total_count": 1, "results": [{"dataset_id": "x", "height": 3}]}, ["results of dataset_id, height"]),
        (
            {"data": [{"id": "r", "title": "a reuse", "page": "https://d.org/r"}], "total": 1},
            ["data of id, page, title"],
        ),
        ({"data": {"items": [{"x": 1}]}}, ["it has data", "data.items of x"]),
        ({"success": True, "result": [1, 2], "x": []}, ["it has result, success, x", "no array of objects"]),
        ({f"k{number:02}": [{"x": 1}] for number in range(14)}, ["k00, k01", "k11 and 2 more"]),
        ([{"id": "x", "title": "no dates and no resources"}], ["the array of id, title"]),
        ([{"identifier": "alone"}], ["the array of identifier"]),
    ],
)
def test_a_document_of_another_shape_is_refused_by_naming_what_is_in_it_and_how_to_point_it(
    thing: Any, seen: list[str]
) -> None:
    with pytest.raises(IndexNotUnderstood) as caught:
        chosen(json.dumps(thing, indent=1).encode())
    first, second = str(caught.value).split("\n")
    assert first.startswith("x.json is a document of a shape that no dialect knows")
    assert all(text in first for text in seen), first
    assert "--records-at" in second
    assert f"--dialect {'|'.join(DIALECTS)}" in second


def test_unknown_lines_are_refused_by_naming_the_keys_of_the_first() -> None:
    with pytest.raises(IndexNotUnderstood, match="NDJSON of a shape that no dialect knows; its first record has a, b"):
        chosen(b'{"b": 1, "a": 2}\n{"c": 3}\n')


@pytest.mark.parametrize("key", ["\x1b[2J\x07", "a\nb", "\u202eevil", "\u200b", "\u2028", "\x9b31m"])
def test_hostile_keys_are_escaped_where_they_are_named(key: str) -> None:
    for thing in ({key: 1}, {"list": [{key: 1}]}, {key: [{"a": 1}]}, {"x": {key: [{"a": 1}]}}):
        for data in (
            json.dumps(thing).encode(),
            json.dumps(thing, ensure_ascii=False).encode(),
            lines_of(thing, thing),
        ):
            with pytest.raises(IndexNotUnderstood) as caught:
                chosen(data)
            assert all(line.isprintable() for line in str(caught.value).split("\n"))
            assert str(caught.value).count("\n") == 1


def test_a_refusal_names_no_more_than_a_screen_of_keys() -> None:
    thing = {f"key-{number:04}" * 20: [{f"inner-{n}" * 20: 1 for n in range(50)}] for number in range(20)}
    with pytest.raises(IndexNotUnderstood) as caught:
        chosen(json.dumps(thing).encode())
    assert len(str(caught.value)) < 1000


def test_the_settings_choose_the_dialect_whatever_the_shape() -> None:
    anything = b'{"b": 1, "a": 2}'
    for name in DIALECTS:
        assert chosen(anything, dialect=name) == (name, False)
        assert chosen(lines_of({"b": 1}, {"a": 2}), dialect=name) == (name, True)


def test_a_chosen_dialect_still_distinguishes_one_line_from_a_document() -> None:
    assert chosen(lines_of(SEED_ASSET), dialect="seed") == ("seed", True)
    assert chosen(lines_of({"assets": []}), dialect="seed") == ("seed", False)
    assert chosen(lines_of(VIEW), dialect="views") == ("views", False), "one view is a document of its own"
    assert chosen(lines_of(ANSWER | {"result": [PACKAGE]}), dialect="ckan") == ("ckan", False)
    assert chosen(lines_of(PACKAGE), dialect="ckan") == ("ckan", True)


def test_a_named_array_is_known_by_its_elements() -> None:
    data = json.dumps({"result": {"results": [RESULT]}, "assets": [SEED_ASSET]}).encode()
    assert chosen(data, records_at="result.results") == ("discovery", False)
    data = json.dumps({"result": {"results": [DATASET]}}).encode()
    assert chosen(data, records_at="result.results") == ("directory", False)
    assert chosen(data, records_at="result.results", dialect="directory") == ("directory", False)
    with pytest.raises(IndexNotUnderstood, match="of the dialect directory, not of discovery"):
        chosen(data, records_at="result.results", dialect="discovery")
    for record, dialect in ((VIEW, "views"), (DATA_SET, "data-json"), (PACKAGE, "ckan"), (DCAT_PACKAGE, "ckan")):
        data = json.dumps({"one": {"id": "x", "columns": [1], "packages": [record]}}).encode()
        assert chosen(data, records_at="one.packages") == (dialect, False)


def test_a_named_array_of_unknown_elements_is_refused_by_their_keys() -> None:
    with pytest.raises(IndexNotUnderstood, match="the array of what, why"):
        chosen(b'{"a": {"b": [{"what": 1, "why": 2}]}}', records_at="a.b")


# the mappings of the field tables


def mapped(dialect: Any, record: dict[str, Any], domain: str = "", kind: str = "asset", *, header: str = "") -> Any:
    decoder = Decoder(dialect, domain=domain)
    decoder.portal = Portal(header, domain)
    return decoder.decode(RawRecord(json.dumps(record).encode(), 1, 0, kind))


def asset(dialect: Any, record: dict[str, Any], domain: str = "", *, header: str = "") -> Asset:
    found = mapped(dialect, record, domain, header=header)
    assert isinstance(found, Asset), found
    return found


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"asset_key": "a", "id": "b", "source_key": "s"}, ("a", "s", None, None)),
        ({"asset_key": "", "id": "b", "domain": "s"}, ("b", "s", None, None)),
        ({"id": "b", "source_key": "", "domain": "s", "url": "u", "permalink": "p"}, ("b", "s", "u", None)),
        ({"id": "b", "domain": "s", "permalink": "p", "link": "l"}, ("b", "s", "p", None)),
        ({"id": "b", "domain": "s", "link": "l", "updatedAt": "2024-01-02"}, ("b", "s", "l", 2)),
        ({"id": "b", "domain": "s", "modified": "2024-01-03"}, ("b", "s", None, 3)),
        ({"id": "b", "domain": "s", "updated_at": "2024-01-01", "modified": "2024-01-03"}, ("b", "s", None, 1)),
    ],
)
def test_the_fields_of_a_seed_asset(record: dict[str, Any], expected: tuple[Any, ...]) -> None:
    found = asset(SEED, record)
    day = found.updated_at.day if found.updated_at else None
    assert (found.key, found.source_key, found.url, day) == expected


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"source_key": "S.org", "domain": "d"}, ("s.org", "https://s.org")),
        ({"domain": "d", "url": "u", "link": "l"}, ("d", "u")),
        ({"source_key": None, "domain": "d", "link": "l"}, ("d", "l")),
    ],
)
def test_the_fields_of_a_seed_source(record: dict[str, Any], expected: tuple[str, str]) -> None:
    found = mapped(SEED, record, kind="source")
    assert isinstance(found, Source)
    assert (found.key, found.url) == expected


@pytest.mark.parametrize(
    ("record", "header", "expected"),
    [
        ({"id": "k", "domain": "d"}, "header", ("d", "https://d/d/k")),
        ({"id": "k"}, "header", ("header", "https://header/d/k")),
        ({"id": "k", "permalink": "https://P.org/d/k"}, "", ("p.org", "https://P.org/d/k")),
        ({"id": "k", "permalink": "https://p.org/d/k"}, "header", ("header", "https://p.org/d/k")),
        ({"id": "k", "resource_url": "https://r.org:8080/k.json"}, "", ("r.org", "https://r.org/d/k")),
        ({"id": "k", "permalink": "http://[", "resource_url": "https://r.org/"}, "", ("r.org", "http://[")),
        ({"id": " k ", "domain": " D.org "}, "", ("d.org", "https://d.org/d/k")),
    ],
)
def test_the_fields_of_a_directory_record(record: dict[str, Any], header: str, expected: tuple[str, str]) -> None:
    found = asset(DIRECTORY, record, header=header)
    assert (found.source_key, found.url) == expected


def test_a_directory_is_of_the_given_portal_except_records_that_name_theirs() -> None:
    for record in (
        {"id": "k"},
        {"id": "k", "permalink": "https://p.org/d/k"},
        {"id": "k", "resource_url": "https://r.org/"},
    ):
        assert asset(DIRECTORY, record, "Told.org", header="header.org").source_key == "told.org"
        assert asset(DIRECTORY, record, "Told.org").source_key == "told.org"
    assert asset(DIRECTORY, {"id": "k", "domain": "own.org"}, "told.org", header="header.org").source_key == "own.org"


@pytest.mark.parametrize(
    ("resource", "day"),
    [
        ({"updatedAt": "2024-01-01", "data_updated_at": "2024-01-02"}, 1),
        ({"updatedAt": None, "data_updated_at": "2024-01-02"}, 2),
        ({}, None),
    ],
)
def test_the_fields_of_a_discovery_result(resource: dict[str, Any], day: int | None) -> None:
    record = {
        "resource": {"id": "k", "name": "n", "description": "t"} | resource,
        "metadata": {"domain": "D.org"},
        "permalink": "p",
    }
    found = asset(DISCOVERY, record)
    assert (found.key, found.source_key, found.name, found.description, found.url) == ("k", "d.org", "n", "t", "p")
    assert (found.updated_at.day if found.updated_at else None) == day


def test_a_discovery_result_without_its_portal_or_its_id_is_a_reject() -> None:
    assert mapped(DISCOVERY, {"resource": {"id": "k"}}).reason == "no_source"
    assert mapped(DISCOVERY, {"metadata": {"domain": "d"}}).reason == "no_key"
    assert mapped(DISCOVERY, {"resource": None, "metadata": None}).reason == "no_key"


MOMENT = datetime(2013, 6, 20, 14, 17, 16, tzinfo=UTC)


@pytest.mark.parametrize(
    ("fields", "moment"),
    [
        ({"rowsUpdatedAt": 1371737836, "viewLastModified": 1}, MOMENT),
        ({"rowsUpdatedAt": None, "viewLastModified": 1371737836}, MOMENT),
        ({"viewLastModified": 1371737836.0}, MOMENT),
        ({"createdAt": 1371737836}, None),
        ({"rowsUpdatedAt": "2013-06-20T14:17:16Z"}, MOMENT),
    ],
)
def test_the_fields_of_a_view(fields: dict[str, Any], moment: datetime | None) -> None:
    found = asset(VIEWS, {"id": "abcd-2345", "name": "n", "description": "t"} | fields, "D.org")
    assert (found.key, found.source_key, found.name, found.description) == ("abcd-2345", "d.org", "n", "t")
    assert found.url == "https://d.org/d/abcd-2345"
    assert found.updated_at == moment
    assert not found.date_ignored


@pytest.mark.parametrize(
    "seconds",
    [1371737836000, -62135596800, -2208988801, 7258118400, 10**30, -(10**30), 1e300, 10**400, "1371737836", True, [1]],
)
def test_seconds_of_an_absurd_year_are_no_date_and_are_reported(seconds: Any) -> None:
    found = asset(VIEWS, {"id": "abcd-2345", "rowsUpdatedAt": seconds}, "d.org")
    assert (found.updated_at, found.date_ignored) == (None, True)


def test_seconds_of_the_first_and_the_last_year_that_can_be_are_dates() -> None:
    for seconds, year in ((-2208988800, 1900), (0, 1970), (7258118399, 2199)):
        found = asset(VIEWS, {"id": "abcd-2345", "rowsUpdatedAt": seconds}, "d.org")
        assert found.updated_at is not None
        assert (found.updated_at.year, found.date_ignored) == (year, False)


IDENTIFIERS = {
    "a 4x4 id": ("abcd-2345", "", "abcd-2345"),
    "a URL with a 4x4 id": ("https://d.org/api/views/abcd-2345", "", "abcd-2345"),
    "a URL with more behind it": ("https://d.org/d/abcd-2345/about?x=1#y", "", "abcd-2345"),
    "a file of a 4x4 id": ("https://d.org/resource/abcd-2345.json", "", "abcd-2345"),
    "the rows of a 4x4 id": ("http://D.org:80/api/views/abcd-2345/rows.csv", "", "abcd-2345"),
    "a 4x4 id behind another": ("https://d.org/d/abcd-2345/wxyz-6789", "", "https://d.org/d/abcd-2345/wxyz-6789"),
    "a file that a 4x4 id has": (
        "https://d.org/api/views/abcd-2345/files/1?filename=a.pdf",
        "",
        "https://d.org/api/views/abcd-2345/files/1?filename=a.pdf",
    ),
    "some of its rows": ("https://d.org/resource/abcd-2345.json?y=1", "", "https://d.org/resource/abcd-2345.json?y=1"),
    "a 4x4 id on another host": ("https://other.org/d/abcd-2345", "", "https://other.org/d/abcd-2345"),
    "a 4x4 id on another port": ("https://d.org:8443/d/abcd-2345", "", "https://d.org:8443/d/abcd-2345"),
    "a section like a 4x4 id": ("https://d.org/data-sets/1", "", "https://d.org/data-sets/1"),
    "a host like a 4x4 id": ("https://data-city.d.org/1", "", "https://data-city.d.org/1"),
    "a landing page with a 4x4 id": ("https://d.org/1", "https://d.org/d/abcd-2345", "https://d.org/1"),
    "no 4x4 id: it has look-alikes": ("https://d.org/dataset/road-1oll", "", "https://d.org/dataset/road-1oll"),
    "no 4x4 id: it is a part": ("https://d.org/dataset/xabcd-2345", "", "https://d.org/dataset/xabcd-2345"),
    "a UUID": ("2c6c6c58-0c3f-4a11-b6a9-0a1b2c3d4e5f", "", "2c6c6c58-0c3f-4a11-b6a9-0a1b2c3d4e5f"),
    "a text": (" Trees, 2014 ", "", "Trees, 2014"),
    "a number": (17, "", "17"),
    "an object with a value": ({"@type": "xsd:string", "@value": "https://d.org/d/abcd-2345"}, "", "abcd-2345"),
    "an object of a database": ({"$oid": "5f1e"}, "", "5f1e"),
    "an object with an id": ({"@id": "https://d.org/x", "other": 1}, "", "https://d.org/x"),
    "a list of one": (["x"], "", "x"),
    "agency and notation": ({"schemaAgency": "A", "notation": "N-1", "version": "2"}, "", '["A","N-1"]'),
    "agency and a typed notation": ({"schemaAgency": {"name": "A"}, "notation": {"@value": 7}}, "", '["A","7"]'),
    "a notation alone": ({"notation": "N-1"}, "", "N-1"),
    "a text like agency and notation": (
        '["A","N-1"]',
        "",
        json.dumps([json.dumps(["A", "N-1"], separators=(",", ":"))]),
    ),
}


@pytest.mark.parametrize(("identifier", "page", "key"), IDENTIFIERS.values(), ids=IDENTIFIERS)
def test_the_key_of_a_data_set_is_its_4x4_id_else_its_identifier(identifier: Any, page: str, key: str) -> None:
    assert asset(DATA_JSON, {"identifier": identifier, "landingPage": page}, "d.org").key == key


@pytest.mark.parametrize(
    "identifier",
    [
        None,
        "",
        " ",
        [],
        ["x", "y"],
        {},
        {"what": "x"},
        {"@value": {"@value": "x"}},
        True,
        1.5,
        {"schemaAgency": "A"},
        {"schemaAgency": ["A"], "notation": "N"},
        {"schemaAgency": "A", "notation": True},
    ],
)
def test_a_data_set_without_an_identifier_is_a_reject(identifier: Any) -> None:
    found = mapped(DATA_JSON, {"identifier": identifier, "title": "t"}, "d.org")
    assert isinstance(found, Reject)
    assert found.reason == "no_key"


@pytest.mark.parametrize(
    ("identifier", "page", "header", "expected"),
    [
        ("https://agency.gov/1", "https://other.gov/2", "Portal.gov", "portal.gov"),
        ("https://agency.gov/1", "https://Page.gov:8443/2", "", "page.gov"),
        ("https://Agency.gov/1", None, "", "agency.gov"),
        ("https://agency.gov/1", "see below", "", "agency.gov"),
        ("HTTPS://agency.gov/1", "ftp://page.gov", "", "agency.gov"),
        ({"@id": "https://agency.gov/1"}, None, "", "agency.gov"),
        ("https://agency.gov/1", {"@type": "Document", "accessURL": "https://page.gov/1"}, "", "page.gov"),
        ("abcd-2345", None, "", "no_source"),
        ("https://[broken", "http://", "", "no_source"),
    ],
)
def test_the_source_of_a_data_set_is_the_portal_else_where_its_page_is(
    identifier: Any, page: Any, header: str, expected: str
) -> None:
    record = {"identifier": identifier, "landingPage": page}
    found = mapped(DATA_JSON, record, header=header)
    assert (found.source_key if isinstance(found, Asset) else found.reason) == expected
    assert asset(DATA_JSON, record, "Told.gov", header=header).source_key == "told.gov"


def test_the_other_fields_of_a_data_set() -> None:
    record = {
        "identifier": "abcd-2345",
        "title": "t",
        "description": "<p>d\r\n",
        "landingPage": "https://d.org/d/abcd-2345",
        "modified": "2020-07-22",
    }
    found = asset(DATA_JSON, record)
    assert (found.name, found.description, found.url) == ("t", "<p>d\r\n", "https://d.org/d/abcd-2345")
    assert found.updated_at == datetime(2020, 7, 22, tzinfo=UTC)
    assert asset(DATA_JSON, {"identifier": "https://d.org/1"}).url is None


@pytest.mark.parametrize("modified", ["R/P1D", "R/PT1S", "R/2013-01-01/P1W", "3013-01-01", "0001-01-01", "soon"])
def test_a_repeating_interval_is_no_moment_and_is_reported(modified: str) -> None:
    found = asset(DATA_JSON, {"identifier": "abcd-2345", "modified": modified}, "d.org")
    assert (found.updated_at, found.date_ignored) == (None, True)


@pytest.mark.parametrize(
    "identifier", ["https://d.org/data.json", " https://d.org/x/data.json/ ", {"@id": "https://d.org/data.json"}]
)
def test_the_row_of_the_catalogue_itself_is_nothing(identifier: Any) -> None:
    assert mapped(DATA_JSON, {"identifier": identifier, "title": "Project Open Data, /data.json file"}, "d.org") is None


@pytest.mark.parametrize(
    "identifier",
    [
        "data.json",
        "https://d.org/trees/data.json",
        "https://d.org/mydata.json",
        "https://d.org/data.json.gz",
        "https://d.org/data.json#1",
    ],
)
def test_what_only_looks_like_the_row_of_the_catalogue_is_an_asset(identifier: str) -> None:
    assert asset(DATA_JSON, {"identifier": identifier}, "d.org").key == identifier


def test_the_fields_of_a_package() -> None:
    record = PACKAGE | {"notes": "# n", "url": "https://agency.gov/trees"}
    found = asset(CKAN, record, header="D.org")
    assert (found.key, found.source_key, found.name, found.description) == ("2c6c6c58-0c3f", "d.org", "Trees", "# n")
    assert found.url == "https://d.org/dataset/trees"
    assert found.updated_at == datetime(2024, 1, 2, 3, 4, 5, 600_000, tzinfo=UTC)
    bare = asset(CKAN, {"id": "k", "name": "trees", "title": ""}, "d.org")
    assert (bare.name, bare.url, bare.updated_at) == ("trees", "https://d.org/dataset/trees", None)
    assert asset(CKAN, {"id": "k"}, "d.org").url == "https://d.org/dataset/k"
    assert mapped(CKAN, {"name": "trees"}, "d.org").reason == "no_key"


EXTRAS = {
    "of a list": [
        {"key": "other", "value": "https://no.org"},
        {"key": "portal_url", "value": "https://Harvested.org/x"},
    ],
    "in their order of trust": [
        {"key": "guid", "value": "https://no.org"},
        {"key": "harvest_url", "value": "http://harvested.org"},
    ],
    "the first that is a URL": [
        {"key": "source_url", "value": "x"},
        {"key": "guid", "value": "https://harvested.org/1"},
    ],
    "of an object": {"url": "https://harvested.org", "portal_url": 7},
    "among rubbish": [
        None,
        7,
        {},
        {"key": ["x"], "value": 1},
        {"key": "guid"},
        {"key": "url", "value": "https://harvested.org"},
    ],
}


@pytest.mark.parametrize("extras", EXTRAS.values(), ids=EXTRAS)
def test_the_source_of_a_harvested_package_is_in_its_extras(extras: Any) -> None:
    found = asset(CKAN, {"id": "k", "extras": extras, "url": "https://agency.gov/x"})
    assert found.source_key == "harvested.org"
    assert asset(CKAN, {"id": "k", "extras": extras}, "told.org").source_key == "told.org"


@pytest.mark.parametrize("extras", [None, [], {}, "https://no.org", 7, [["portal_url", "https://no.org"]]])
def test_the_source_of_a_package_is_the_given_domain_else_the_answers_portal_else_where_it_points(extras: Any) -> None:
    package = {"id": "k", "name": "n", "url": "https://agency.gov/x", "extras": extras}
    told = asset(CKAN, package, "told.org", header="portal.org")
    assert (told.source_key, told.url) == ("told.org", "https://told.org/dataset/n")
    portals = asset(CKAN, package, header="portal.org")
    assert (portals.source_key, portals.url) == ("portal.org", "https://portal.org/dataset/n")
    pointed = asset(CKAN, package)
    assert (pointed.source_key, pointed.url) == ("agency.gov", "https://agency.gov/x"), "no path of ours on their host"
    assert mapped(CKAN, package | {"url": "www.agency.gov"}).reason == "no_source"
    assert mapped(CKAN, package | {"url": None}).reason == "no_source"


def test_only_an_extra_about_the_portal_gives_a_page_on_it() -> None:
    package = {"id": "k", "name": "n", "url": "https://agency.gov/x"}
    for key, url in (("portal_url", "https://p.org/dataset/n"), ("guid", "https://agency.gov/x")):
        assert asset(CKAN, package | {"extras": [{"key": key, "value": "https://P.org/1"}]}).url == url


@pytest.mark.parametrize(
    ("dialect", "header", "portal"),
    [
        (CKAN, {"help": "https://D.org/api/3/action/help_show?name=x"}, "d.org"),
        (CKAN, {"help": "Search packages"}, ""),
        (CKAN, {"help": 7}, ""),
        (DATA_JSON, {"@id": "https://D.org:443/data.json"}, "d.org"),
        (DATA_JSON, {"@id": "data.json"}, ""),
        (DATA_JSON, {"@id": ["https://d.org"]}, ""),
        (ARCGIS_HUB, {"links": [{"rel": "next", "href": "https://n.org"}, *HUB_RECORD["links"]]}, "d.org"),
        (ARCGIS_HUB, {"links": [{"rel": "self", "href": "https://hub.arcgis.com/api/search/v1"}]}, ""),
        (ARCGIS_HUB, {"links": HUB_LINKS}, ""),
        (ARCGIS_HUB, {"links": "https://d.org"}, ""),
        (OPENDATASOFT, {"links": ODS_LINKS}, "d.org"),
        (OPENDATASOFT, {"links": [None, {"rel": "self"}, {"rel": "self", "href": 7}, *ODS_LINKS]}, "d.org"),
        (OPENDATASOFT, {"links": {"rel": "self", "href": "https://d.org"}}, ""),
        (DIRECTORY, {"domain": "D.org"}, "D.org"),
        (DIRECTORY, {"domain": ["d.org"]}, ""),
        *((dialect, {}, "") for dialect in DIALECTS.values()),
    ],
)
def test_the_portal_in_a_header(dialect: Any, header: dict[str, Any], portal: str) -> None:
    assert dialect.portal(header) == portal


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://D.org/x", "d.org"),
        (" http://user:word@d.org:8080 ", "d.org"),
        ("https://[::1]/", "::1"),
        ("https://[::1", None),
        ("https://", None),
        ("//d.org", None),
        ("d.org", None),
        ("javascript://d.org", None),
        ("https://d.org:port/", "d.org"),
        (None, None),
        (7, None),
    ],
)
def test_the_host_of_a_url(url: Any, host: str | None) -> None:
    assert host_of(url) == host
    if isinstance(url, str):
        assert hosts_of([url, url]) in ([host, host], [None, None]), "those that are not found so are looked at again"


@given(
    st.lists(st.sampled_from([*"htps:/?#@.[]%a \n", "https://", "http://", "d.org", "e.org"]), max_size=9).map("".join)
)
def test_the_host_of_one_of_many_urls_is_that_of_the_url_or_unknown(url: str) -> None:
    assert hosts_of([url])[0] in (host_of(url), None)


def test_the_hosts_of_many_urls_are_found() -> None:
    urls = ["https://D.org/x/1", "https://d.org", "http://u:p@e.org:80/x?y=https://f.org", "d.org/x", ""]
    assert hosts_of(urls) == ["d.org", "d.org", "e.org", None, None]


@pytest.mark.parametrize(
    "text", [None, 7, "", "abcd2345", "ABCD-2345", "abcd-234", "abcd-23456", "abcd-234l", "?id=abcd-2345"]
)
def test_what_is_no_4x4_id(text: Any) -> None:
    assert socrata_id(text) is None


TEXTS = {
    "HTML": "<p>Trees &amp; <b>more</b></p>",
    "CRLF": "one\r\ntwo\r",
    "zero-width": "\u200bzero\u200d\ufeffwidth\u2060",
    "a replacement character": "caf\ufffd",
    "UTF-8 encoded twice": "cafÃ©â€™s",
    "only spaces": "   ",
    "a tab and a no-break space": "\t\u00a0",
    "combining marks": "e\u0301 \u202eevil",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_texts_of_the_real_world_are_kept_exactly(text: str) -> None:
    common = {"id": "abcd-2345", "name": text, "description": text, "domain": "d.org"}
    for dialect, record in (
        (SEED, common),
        (DIRECTORY, common),
        (DISCOVERY, {"resource": common, "metadata": {"domain": "d.org"}}),
        (VIEWS, common),
        (DATA_JSON, {"identifier": "abcd-2345", "title": text, "description": text}),
        (CKAN, {"id": "k", "title": text, "notes": text}),
        (ARCGIS_HUB, {"id": "k", "attributes": {"name": text, "description": text}}),
        (OPENDATASOFT, {"dataset_id": "k", "metas": {"default": {"title": text, "description": text}}}),
        (UDATA, {"id": "k", "title": text, "description": text}),
        (DATAVERSE, {"global_id": "k", "name": text, "description": text}),
        (DCAT_AP, {"@type": "dcat:Dataset", "@id": "k", "dct:title": text, "dct:description": text}),
    ):
        found = asset(dialect, record, "d.org")
        assert (found.name, found.description) == (text, text)
        assert json.loads(found.raw) == record


def test_every_dialect_that_the_settings_know_exists() -> None:
    assert DIALECTS.keys() == set(get_args(DialectName))
    assert all(dialect.name == name for name, dialect in DIALECTS.items())
    assert [name for name, dialect in DIALECTS.items() if dialect.lists_sources] == ["seed"]
    assert [name for name, dialect in DIALECTS.items() if dialect.needs_domain] == ["views"]
    providers = {name: dialect.provider for name, dialect in DIALECTS.items() if dialect.provider != "socrata"}
    own = {name: name for name in ("ckan", "opendatasoft", "udata", "dataverse")}
    assert providers == own | {"arcgis-hub": "arcgis", "data-json": "dcat", "dcat-ap": "dcat"}


# ArcGIS Hub, Opendatasoft, udata and Dataverse


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ({"title": "t", "name": "n", "description": "d", "snippet": "s"}, ("t", "d")),
        ({"title": "", "name": "n", "description": None, "searchDescription": "sd", "snippet": "s"}, ("n", "sd")),
        ({"name": "n", "description": "", "snippet": "s"}, ("n", "s")),
        ({}, (None, None)),
    ],
)
@pytest.mark.parametrize("place", ["attributes", "properties"])
def test_the_texts_of_a_hubs_item(place: str, details: dict[str, Any], expected: tuple[str, str]) -> None:
    found = asset(ARCGIS_HUB, {"id": "15c9_0", place: details | {"url": "https://services.org/x/0"}}, "D.org")
    assert (found.name, found.description) == expected
    assert (found.key, found.source_key, found.url) == ("15c9_0", "d.org", "https://d.org/datasets/15c9_0")


@pytest.mark.parametrize(
    ("links", "source"),
    [
        (HUB_RECORD["links"], "d.org"),
        ([{"rel": "collection", "href": "https://d.org"}], "no_source"),
        ({"self": "https://d.org/api/v3/datasets/x"}, "d.org"),
        (HUB_LINKS, "no_source"),
        ({"self": "https://www.arcgis.com/x"}, "no_source"),
        (["https://d.org"], "no_source"),
        (7, "no_source"),
        (None, "no_source"),
    ],
)
def test_the_source_of_a_hubs_item_is_the_given_domain_else_the_site_in_its_links(links: Any, source: str) -> None:
    record = {"id": "15c9_0", "attributes": {"source": "City", "url": "https://services.org/x"}, "links": links}
    found = mapped(ARCGIS_HUB, record)
    assert (found.source_key if isinstance(found, Asset) else found.reason) == source
    assert asset(ARCGIS_HUB, record, header="page.org").source_key == "page.org"
    assert asset(ARCGIS_HUB, record, "told.org", header="page.org").source_key == "told.org"


@pytest.mark.parametrize(
    ("modified", "moment", "is_ignored"),
    [
        (1563974432000, datetime(2019, 7, 24, 13, 20, 32, tzinfo=UTC), False),
        (1526034248691, datetime(2018, 5, 11, 10, 24, 8, 691_000, tzinfo=UTC), False),
        (0, datetime(1970, 1, 1, tzinfo=UTC), False),
        (1563974432000.0, datetime(2019, 7, 24, 13, 20, 32, tzinfo=UTC), False),
        ("2019-07-24T13:20:32Z", datetime(2019, 7, 24, 13, 20, 32, tzinfo=UTC), False),
        (None, None, False),
        (10**30, None, True),
        (10**400, None, True),
        (1e300, None, True),
        (-62135596800000, None, True),
        (7258118400000, None, True),
        ("1563974432000", None, True),
        (True, None, True),
    ],
)
def test_milliseconds_of_a_hubs_item_are_a_date_or_counted(
    modified: Any, moment: datetime | None, is_ignored: bool
) -> None:
    found = asset(ARCGIS_HUB, {"id": "15c9_0", "attributes": {"modified": modified}}, "d.org")
    assert (found.updated_at, found.date_ignored) == (moment, is_ignored)


def test_records_in_an_array_of_the_same_name_are_not_taken_for_another_portals() -> None:
    """Where `--dialect` names the wrong one, no row loses its texts."""
    for dialect, record in ((UDATA, HUB_ITEM), (ARCGIS_HUB, UDATA_DATASET)):
        assert mapped(dialect, record, "d.org").reason == "no_key"


@pytest.mark.parametrize("record", [ODS_DATASET, ODS_ENTRY, ODS_OLD])
def test_a_dataset_of_opendatasoft_is_the_same_in_all_versions(record: dict[str, Any]) -> None:
    found = asset(OPENDATASOFT, record, "Told.org", header="d.org")
    assert (found.key, found.source_key, found.name, found.description) == ("trees", "told.org", "Trees", "d")
    assert found.url == "https://told.org/explore/dataset/trees/"
    assert found.updated_at == datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_the_source_of_a_dataset_of_opendatasoft_is_where_it_was_asked_for_not_where_it_came_from() -> None:
    metas = {"default": {"source_domain_address": "origin.org", "source_domain": "origin"}, "domain": "origin"}
    dataset = {"dataset_id": "trees@origin", "metas": metas}
    found = asset(OPENDATASOFT, {"links": ODS_LINKS, "dataset": dataset})
    assert (found.key, found.source_key) == ("trees@origin", "d.org")
    assert found.url == "https://d.org/explore/dataset/trees@origin/"
    assert mapped(OPENDATASOFT, dataset).reason == "no_source"
    assert mapped(OPENDATASOFT, {"links": ODS_LINKS, "dataset": {"metas": metas}}).reason == "no_key"


@pytest.mark.parametrize(
    ("fields", "source", "day"),
    [
        ({}, "d.org", 1),
        ({"page": None}, "d.org", 1),
        ({"page": "https://People.org/fr/datasets/trees/"}, "people.org", 1),
        ({"page": "/fr/datasets/trees/", "last_modified": "", "last_update": "2024-09-02"}, "d.org", 2),
        ({"page": "", "last_modified": None, "last_update": "2024-09-02"}, "d.org", 2),
        ({"page": None, "uri": None, "last_modified": None}, "no_source", None),
    ],
)
def test_the_fields_of_a_dataset_of_udata(fields: dict[str, Any], source: str, day: int | None) -> None:
    record = UDATA_DATASET | fields
    found = mapped(UDATA, record)
    assert (found.source_key if isinstance(found, Asset) else found.reason) == source
    told = asset(UDATA, record, "told.org")
    assert (told.key, told.source_key, told.name, told.description) == (record["id"], "told.org", "Trees", "d")
    assert told.url == record["page"]
    assert (told.updated_at.day if told.updated_at else None) == day


@pytest.mark.parametrize(
    ("fields", "source", "day"),
    [
        ({"image_url": "https://d.org/api/access/dsCardImage/2"}, "d.org", 11),
        ({"url": "https://hdl.handle.net/1902.1/1", "published_at": None}, "no_source", 12),
        ({"url": "http://dx.doi.org/10.5072/FK2/G2VPE7", "published_at": "", "updatedAt": None}, "no_source", None),
        ({"url": "https://D.org/citation?persistentId=perma:1"}, "d.org", 11),
        ({"url": None}, "no_source", 11),
    ],
)
def test_the_fields_of_a_dataset_of_dataverse(fields: dict[str, Any], source: str, day: int | None) -> None:
    record = DV_DATASET | fields
    found = mapped(DATAVERSE, record)
    assert (found.source_key if isinstance(found, Asset) else found.reason) == source
    told = asset(DATAVERSE, record, "told.org")
    assert (told.key, told.source_key, told.name) == ("doi:10.70122/FK2/MB5VGR", "told.org", "Trees")
    assert (told.url, told.description) == (record["url"], "d")
    assert (told.updated_at.day if told.updated_at else None) == day


def test_collections_and_files_of_dataverse_are_no_assets() -> None:
    assert mapped(DATAVERSE, DV_COLLECTION, "told.org") is None
    assert mapped(DATAVERSE, DV_FILE, "told.org") is None
    untold = {name: value for name, value in DV_DATASET.items() if name != "type"}
    assert asset(DATAVERSE, untold, "told.org").key == DV_DATASET["global_id"]
    assert mapped(DATAVERSE, DV_DATASET | {"global_id": None}, "told.org").reason == "no_key"


def test_a_homepage_names_no_portal_where_the_portal_is_known() -> None:
    package = PACKAGE | {"url": "https://homepage.org/trees"}
    for found in (asset(CKAN, package, "told.org"), asset(CKAN, package, header="told.org")):
        assert (found.source_key, found.url) == ("told.org", "https://told.org/dataset/trees")


# the choice among them


def test_of_dialects_that_fit_the_one_with_most_of_its_fields_is_taken() -> None:
    package = PACKAGE | {"resources": [], "notes": "n", "organization": {}}
    both = package | {"identifier": "i"}  # a key of data-json, too
    assert chosen(json.dumps([both]).encode())[0] == "ckan"
    dataset = DATA_SET | {"modified": "2024", "keyword": [], "publisher": {}, "contactPoint": {}, "distribution": []}
    assert chosen(json.dumps([{"id": "1", "metadata_modified": "2024"} | dataset]).encode())[0] == "data-json"


def test_two_dialects_that_fit_equally_well_are_an_error_that_names_both() -> None:
    record = {"id": "1", "metadata_modified": "2024", "identifier": "i", "title": "t"}
    assert len(CKAN.typical & record.keys()) > len(DATA_JSON.typical & record.keys())
    record |= {"accessLevel": "public", "title": "t"}
    found = {name: len(DIALECTS[name].typical & record.keys()) for name in ("ckan", "data-json")}
    assert found == {"ckan": 3, "data-json": 3}
    for data in (json.dumps([record]).encode(), json.dumps(record).encode() + b"\n{}\n"):
        with pytest.raises(IndexNotUnderstood, match="data-json or ckan: its records fit both") as caught:
            chosen(data)
        assert "--dialect" in str(caught.value).splitlines()[1]
        assert chosen(data, dialect="data-json")[0] == "data-json"


def test_an_index_without_records_is_of_the_first_dialect_that_fits() -> None:
    assert chosen(b'{"datasets": []}')[0] == "directory"


def test_the_evidence_says_what_records_have_of_each_dialect() -> None:
    shape = choose(sniff(json.dumps({"dataset": [DATA_SET]}).encode(), "x"), Settings(), "x")[1]
    best, *others = weigh(shape)
    assert (best.dialect, best.fits, best.found) == ("data-json", True, ["accessLevel", "identifier", "title"])
    assert "landingPage" in best.missing
    assert not any(one.fits for one in others)
    assert [one.found for one in others if one.dialect == "ckan"] == [["title"]]


@pytest.mark.parametrize("nothing", [None, "", " ", "\xa0", [], {}, [None, ""], {"en": " "}, {"@language": "en"}])
def test_what_says_nothing_hides_no_other_field(nothing: Any) -> None:
    assert first(nothing, "x") == "x"
    assert first(nothing, 0) == 0
    assert first(nothing, nothing) in (nothing, None)


@pytest.mark.parametrize("something", [0, False, 0.0, "x", [0], {"en": "x"}])
def test_the_first_field_that_says_something_is_taken(something: Any) -> None:
    assert first(something, "x") is something


def test_the_page_of_a_number_is_that_of_its_text() -> None:
    assert page("D.org ", "d", 7) == page("d.org", "d", " 7") == "https://d.org/d/7"
    assert page("d.org", "d", True) is page("d.org", "d", " ") is page(7, "d", "x") is None


def test_a_package_with_a_name_that_is_none_has_the_page_of_its_id() -> None:
    names: list[Any] = [None, "", " ", {}, []]
    for name in names:
        record = json.dumps({"id": "abc", "name": name, "url": "https://other.org"}).encode()
        asset = Decoder(CKAN, domain="d.org").decode(RawRecord(record, 1, 0, "asset"))
        assert isinstance(asset, Asset)
        assert asset.url == "https://d.org/dataset/abc"


@pytest.mark.parametrize("lines", [False, True])
def test_a_named_dialect_that_does_not_fit_is_refused_where_another_does(lines: bool) -> None:
    data = lines_of(PACKAGE, PACKAGE) if lines else json.dumps([PACKAGE]).encode()
    with pytest.raises(IndexNotUnderstood) as caught:
        chosen(data, dialect="udata")
    first_line, fix = str(caught.value).split("\n")
    assert "is an index of the dialect ckan, not of udata: its records have id, metadata_modified, name" in first_line
    assert fix == "leave --dialect out"
    assert chosen(data)[0] == "ckan", "the fix"
