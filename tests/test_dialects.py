from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seed_registry.errors import IndexNotUnderstood
from seed_registry.index.decoding import Decoder
from seed_registry.index.detecting import look_at
from seed_registry.index.dialects import DIALECTS, DIRECTORY, DISCOVERY, SEED, choose
from seed_registry.index.opening import HEAD_BYTES
from seed_registry.records import Asset, RawRecord, Source
from seed_registry.settings import Settings

SEED_SOURCE = {"type": "source", "source_key": "d.org", "name": "Portal"}
SEED_ASSET = {"type": "asset", "asset_key": "k", "source_key": "d.org"}
DATASET = {"id": "abcd-1234", "name": "n", "permalink": "https://d.org/d/abcd-1234"}
RESULT = {"resource": {"id": "abcd-1234"}, "metadata": {"domain": "d.org"}, "permalink": "https://d.org/d/x"}
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
}


def chosen(data: bytes, **options: Any) -> tuple[str, bool]:
    dialect, lines = choose(look_at(data[:HEAD_BYTES], "x.json"), Settings(**options), "x.json")
    return dialect.name, lines


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
        return {key: lengthened(item) if isinstance(item, list) else item for key, item in value.items()}

    if thing != [] and next(iter(thing), "") not in ("sources", "assets"):
        assert chosen(json.dumps(lengthened(thing)).encode()) == (dialect, False)


@pytest.mark.parametrize(
    ("records", "dialect"),
    [([SEED_SOURCE, SEED_ASSET], "seed"), ([SEED_ASSET, SEED_ASSET], "seed"), ([RESULT, RESULT], "discovery")],
)
def test_lines_are_known_by_their_first_record(records: list[Any], dialect: str) -> None:
    assert chosen(lines_of(*records)) == (dialect, True)
    assert chosen(b'{"broken": \n' + lines_of(*records)) == (dialect, True)
    reordered = [dict(reversed(record.items())) for record in records]
    assert chosen(lines_of(*reordered)) == (dialect, True)


@pytest.mark.parametrize(("record", "dialect"), [(SEED_SOURCE, "seed"), (SEED_ASSET, "seed"), (RESULT, "discovery")])
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
    ],
)
def test_real_index_files_are_known(shared_data: Path, name: str, dialect: str, lines: bool) -> None:
    assert chosen((shared_data / name).read_bytes()) == (dialect, lines)


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("views_array.json", ["the array of", "approvals", "averageRating"]),
        ("view_single.json", ["it has attribution", "columns of", "and 21 more"]),
        ("dcat_us_portal.json", ["conformsTo", "dataset of", "accessLevel", "identifier"]),
        ("pod10_data.sfgov.org.json", ["the array of accessLevel", "identifier"]),
    ],
)
def test_an_unknown_real_file_is_refused_by_naming_what_is_in_it(shared_data: Path, name: str, seen: list[str]) -> None:
    with pytest.raises(IndexNotUnderstood) as caught:
        chosen((shared_data / name).read_bytes())
    message = str(caught.value)
    assert "x.json is a document of a shape that no dialect knows" in message
    assert "--dialect seed|discovery|directory" in message
    assert "--records-at" in message
    assert all(text in message for text in seen), message


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


def test_a_chosen_dialect_still_tells_one_line_from_a_document() -> None:
    assert chosen(lines_of(SEED_ASSET), dialect="seed") == ("seed", True)
    assert chosen(lines_of({"assets": []}), dialect="seed") == ("seed", False)


def test_a_named_array_is_known_by_its_elements() -> None:
    data = json.dumps({"result": {"results": [RESULT]}, "assets": [SEED_ASSET]}).encode()
    assert chosen(data, records_at="result.results") == ("discovery", False)
    data = json.dumps({"result": {"results": [DATASET]}}).encode()
    assert chosen(data, records_at="result.results") == ("directory", False)
    assert chosen(data, records_at="result.results", dialect="discovery") == ("discovery", False)


def test_a_named_array_of_unknown_elements_is_refused_by_their_keys() -> None:
    with pytest.raises(IndexNotUnderstood, match="the array of what, why"):
        chosen(b'{"a": {"b": [{"what": 1, "why": 2}]}}', records_at="a.b")


# the mappings of the field tables


def mapped(dialect: Any, record: dict[str, Any], domain: str = "", kind: str = "asset") -> Any:
    return Decoder(dialect, domain=domain).decode(RawRecord(json.dumps(record).encode(), 1, 0, kind))


def asset(dialect: Any, record: dict[str, Any], domain: str = "") -> Asset:
    found = mapped(dialect, record, domain)
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
        ({"id": "b"}, ("b", "header", None, None)),
    ],
)
def test_the_fields_of_a_seed_asset(record: dict[str, Any], expected: tuple[Any, ...]) -> None:
    found = asset(SEED, record, "header")
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
    ("record", "domain", "expected"),
    [
        ({"id": "k", "domain": "d"}, "header", ("d", "https://d/d/k")),
        ({"id": "k"}, "header", ("header", "https://header/d/k")),
        ({"id": "k", "permalink": "https://P.org/d/k"}, "", ("p.org", "https://P.org/d/k")),
        ({"id": "k", "permalink": "https://p.org/d/k"}, "header", ("header", "https://p.org/d/k")),
        ({"id": "k", "resource_url": "https://r.org:8080/k.json"}, "", ("r.org", "https://r.org/d/k")),
        ({"id": "k", "permalink": "http://[", "resource_url": "https://r.org/"}, "", ("r.org", "http://[")),
    ],
)
def test_the_fields_of_a_directory_record(record: dict[str, Any], domain: str, expected: tuple[str, str]) -> None:
    found = asset(DIRECTORY, record, domain)
    assert (found.source_key, found.url) == expected


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
    found = asset(DISCOVERY, record, "header")
    assert (found.key, found.source_key, found.name, found.description, found.url) == ("k", "d.org", "n", "t", "p")
    assert (found.updated_at.day if found.updated_at else None) == day


def test_a_discovery_result_without_metadata_is_the_headers() -> None:
    assert asset(DISCOVERY, {"resource": {"id": "k"}}, "header").source_key == "header"
    assert mapped(DISCOVERY, {"metadata": {"domain": "d"}}).reason == "no_key"
    assert mapped(DISCOVERY, {"resource": None, "metadata": None}).reason == "no_key"


def test_every_dialect_that_the_settings_know_exists() -> None:
    assert DIALECTS.keys() == {"seed", "directory", "discovery"}
    assert all(dialect.name == name for name, dialect in DIALECTS.items())
    assert [dialect.lists_sources for dialect in (SEED, DIRECTORY, DISCOVERY)] == [True, False, False]
