from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seed_registry.index.decoder import MAX_KEY_BYTES, REASONS, Decoder
from seed_registry.index.dialects import DIALECTS
from seed_registry.index.dialects.base import Portal
from seed_registry.index.dialects.ckan import CKAN
from seed_registry.index.dialects.data_json import DATA_JSON
from seed_registry.index.dialects.directory import DIRECTORY
from seed_registry.index.dialects.seed import SEED
from seed_registry.index.dialects.views import VIEWS
from seed_registry.index.json_checks import MAX_DEPTH
from seed_registry.index.ndjson import LineFramer
from seed_registry.records import Asset, RawRecord, Record, Reject, Source, raw_records

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine fails no test
GOOD = b'{"id":"abcd-efgh","domain":"data.example.org","name":"A name","updatedAt":"2024-02-03T04:05:06.000Z","z":null}'
DECODERS = [Decoder(dialect, domain=domain) for dialect in DIALECTS.values() for domain in ("", "header.example.org")]


def decoder_of(**options: Any) -> Decoder:
    dialect, header = options.pop("dialect", DIRECTORY), options.pop("header", "")
    decoder = Decoder(dialect, **options)
    decoder.portal = Portal(header, options.get("domain", ""))
    return decoder


def decoded(data: bytes | dict[str, Any], kind: str = "", **options: Any) -> Record | None:
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    return decoder_of(**options).decode(RawRecord(data, 7, 1234, kind))


def asset(data: bytes | dict[str, Any], **options: Any) -> Asset:
    record = decoded(data, **options)
    assert isinstance(record, Asset), record
    return record


def reason(data: bytes | dict[str, Any], kind: str = "", **options: Any) -> str | None:
    record = decoded(data, kind, **options)
    return record.reason if isinstance(record, Reject) else None


def with_field(value: bytes, name: bytes = b"z") -> bytes:
    return b'{"id":"k","domain":"d.org",%b:%b}' % (json.dumps(name.decode()).encode(), value)


# what a good record becomes


def test_an_asset_is_all_its_fields_and_its_own_bytes() -> None:
    record = asset(GOOD)
    assert (record.key, record.source_key, record.name) == ("abcd-efgh", "data.example.org", "A name")
    assert record.url == "https://data.example.org/d/abcd-efgh"
    assert record.updated_at == datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert record.raw == GOOD
    assert (record.line, record.offset) == (7, 1234)
    assert not record.repaired
    assert not record.date_ignored
    assert record.content_hash is not None
    assert len(record.content_hash) == 16


def test_a_source_is_its_lower_cased_domain_with_a_name_and_a_url() -> None:
    data = b'{"domain":" Data.Example.ORG ","name":"Portal"}'
    record = decoded(data, "source", dialect=SEED)
    assert isinstance(record, Source)
    assert (record.key, record.name, record.url) == ("data.example.org", "Portal", "https://data.example.org")
    assert (record.raw, record.line, record.offset, record.provider) == (data, 7, 1234, "socrata")


def test_keys_are_trimmed_and_domains_lower_cased() -> None:
    record = asset({"id": " \tAbCd-1234\u00a0", "domain": " DATA.Example.org\n"})
    assert (record.key, record.source_key) == ("AbCd-1234", "data.example.org")


@pytest.mark.parametrize(
    ("key", "expected"),
    [(7, "7"), (0, "0"), (-1, "-1"), (10**17, f"{10**17}"), (2**64, f"{2**64}"), (10**30, f"{10**30}")],
)
def test_a_whole_number_is_a_key(key: int, expected: str) -> None:
    assert asset({"id": key, "domain": "d"}).key == expected


@pytest.mark.parametrize("key", [None, True, False, 1.5, "", " \n", [], ["a"], {}, {"a": 1}, "\u200b ".strip("\u200b")])
def test_nothing_else_is_a_key(key: Any) -> None:
    assert reason({"id": key, "domain": "d"}) == "no_key"


@pytest.mark.parametrize("value", [True, False, {"what": "x"}, [[True]], {"a key": "x", "de": "y"}])
def test_a_name_or_a_description_that_is_no_text_is_none_and_is_reported(value: Any) -> None:
    record = asset({"id": "k", "domain": "d", "name": value, "description": value, "permalink": value})
    assert (record.name, record.description, record.url) == (None, None, None)
    assert record.texts_ignored == ("name", "description", "url")


@pytest.mark.parametrize("value", [None, [], {}, [""], {"de": "", "fr": None}, [{"@value": " ", "@language": "de"}]])
def test_where_nothing_is_said_no_text_is_ignored(value: Any) -> None:
    record = asset({"id": "k", "domain": "d", "name": value, "description": value})
    assert (record.name, record.description, record.texts_ignored) == (None, None, ())


def test_the_header_names_the_source_of_a_record_that_names_none() -> None:
    assert asset({"id": "k"}, header="Header.org").source_key == "header.org"
    assert asset({"id": "k", "domain": "own.org"}, header="header.org").source_key == "own.org"


def test_domain_goes_before_a_header_and_a_link_but_not_before_the_records_own_domain() -> None:
    assert asset({"id": "k"}, domain="Told.org").source_key == "told.org"
    assert asset({"id": "k"}, domain="told.org", header="header.org").source_key == "told.org"
    assert asset({"id": "k", "domain": "own.org"}, domain="told.org").source_key == "own.org"
    assert asset({"id": "k", "permalink": "https://link.org/d/k"}, domain="told.org").source_key == "told.org"


def test_an_asset_that_needs_a_header_not_read_yet_has_no_source_key_and_decodes_right_later() -> None:
    decoder = Decoder(DIRECTORY, header_complete=False)
    raw = RawRecord(b'{"id":"k"}', 1, 0, "asset")
    early = decoder.decode(raw)
    assert isinstance(early, Asset)
    assert early.source_key == ""
    decoder.portal, decoder.header_complete = Portal(header="late.org"), True
    later = decoder.decode(raw)
    assert isinstance(later, Asset)
    assert (later.source_key, later.url) == ("late.org", "https://late.org/d/k")
    assert later == decoder_of(header="late.org").decode(raw), "the hash, too, is as if the header had come first"
    assert later.content_hash != early.content_hash


def test_an_asset_with_a_given_domain_waits_for_no_header() -> None:
    for dialect, record in (
        (DIRECTORY, {"id": "k"}),
        (DATA_JSON, {"identifier": "https://agency.gov/k"}),
        (CKAN, {"id": "k", "url": "https://agency.gov/k"}),
    ):
        assert asset(record, dialect=dialect, domain="told.org", header_complete=False).source_key == "told.org"


def test_an_asset_whose_key_the_header_may_change_waits_for_it() -> None:
    record, key = {"identifier": "https://d.org/d/abcd-2345"}, "abcd-2345"
    waiting = asset(record, dialect=DATA_JSON, domain="told.org", header_complete=False)
    assert waiting.source_key == ""
    for header, expected in (("d.org", key), ("other.org", record["identifier"])):
        found = asset(record, dialect=DATA_JSON, domain="told.org", header=header)
        assert (found.key, found.source_key) == (expected, "told.org")
    assert asset(record, dialect=DATA_JSON, domain="d.org", header_complete=False).source_key == "d.org"


def test_what_only_looks_like_a_record_is_none() -> None:
    row = {"identifier": "https://d.org/data.json", "title": "the catalogue itself"}
    assert decoded(row, dialect=DATA_JSON) is None
    assert decoded(row, dialect=DATA_JSON, header_complete=False) is None
    assert reason(row | {"z": "\0" * 3, "identifier": ""}, dialect=DATA_JSON) == "no_key"
    assert reason(b'{"identifier":"https://d.org/data.json","z":"\\ud800"}', dialect=DATA_JSON) == "bad_unicode"


def test_an_asset_that_names_its_source_waits_for_no_header() -> None:
    assert asset({"id": "k", "domain": "own.org"}, header_complete=False).source_key == "own.org"
    waiting = asset({"id": "k", "permalink": "https://link.org/d/k"}, header_complete=False)
    assert waiting.source_key == "", "a header's domain goes before the link's host"


# content hashes


def test_equal_bytes_have_equal_hashes_and_other_bytes_have_others() -> None:
    first = asset(GOOD)
    assert first.content_hash == asset(GOOD).content_hash
    assert first.content_hash != asset(GOOD.replace(b"null", b"true")).content_hash
    assert first.content_hash != asset(GOOD.replace(b":", b": ", 1)).content_hash


def test_a_hash_depends_on_the_other_origins_of_stored_values() -> None:
    data = b'{"id":"k","permalink":"https://x.org/d/k","resource":{"id":"k"},"type":"asset"}'
    hashes = [
        asset(data, **options).content_hash
        for options in (
            {},
            {"header": "one.org"},
            {"header": "two.org"},
            {"domain": "one.org", "dialect": VIEWS},
            {"domain": "two.org", "dialect": VIEWS},
            {"domain": "one.org", "dialect": CKAN},
            {"header": "one.org", "salt": "columns"},
            {"header": "one.org", "language": "de"},
            {"header": "one.org", "language": "fr"},
        )
    ]
    assert len(set(hashes)) == len(hashes)


def test_a_hash_does_not_tell_how_the_source_became_known() -> None:
    data = b'{"id":"k","permalink":"https://one.org/d/k"}'
    hashes = {asset(data, **options).content_hash for options in ({}, {"header": "One.org"}, {"domain": "one.ORG"})}
    assert len(hashes) == 1


def test_the_language_that_is_taken_unasked_changes_no_hash() -> None:
    assert len({asset(GOOD, language=language).content_hash for language in (None, "", "en", "EN")}) == 1
    assert asset(GOOD, language="de-CH").content_hash == asset(GOOD, language="de_ch").content_hash


def test_sources_are_hashed_with_the_salt_too() -> None:
    hashes = [
        record.content_hash
        for salt in ("", "x")
        if isinstance(record := decoded(b'{"domain":"d"}', "source", dialect=SEED, salt=salt), Source)
    ]
    assert len(set(hashes)) == 2


# rejects

REJECTED = {
    "not_json": [
        b"",
        b"x",
        b"{",
        b'{"id":"k",}',
        b'{"id":"k"} x',
        b'{"id" "k"}',
        b"{'id':'k'}",
        b'{"id":"\t"}',
        b'{"z":01}',
    ],
    "not_an_object": [b"1", b"null", b'"id"', b"[]", b"true", b"-1.5", b'["id"]'],
    "bad_utf8": [
        b'{"id":"\xff"}',
        b'{"id":"k","domain":"d","z":"\xc3"}',
        b'{"id":"k","domain":"d","z":"\xc0\xaf"}',
        b'{"id":"k","domain":"d","z":{"\xed\xa0\x80":1}}',
        b'{"id":"k","domain":"d","\xf5":1}',
        b"\xff\xfe{\0",
    ],
    "bad_unicode": [with_field(rb'"\ud800"'), with_field(rb'"x"', b"\\").replace(rb"\\", rb"\udc00")],
    "no_key": [b"{}", b'{"id":null}', b'{"name":"k","domain":"d"}'],
    "no_source": [
        b'{"id":"k"}',
        b'{"id":"k","domain":" "}',
        b'{"id":"k","domain":7.5}',
        b'{"id":"k","permalink":"/d/k"}',
    ],
    "nul_in_key": [b'{"id":"a\\u0000b","domain":"d"}', b'{"id":"k","domain":"d\\u0000"}'],
    "key_too_long": [
        b'{"id":"%b","domain":"d"}' % (b"k" * 1001),
        b'{"id":"k","domain":"%b"}' % (b"d" * 1001),
        '{{"id":"{}","domain":"d"}}'.format("é" * 501).encode(),
        b'{"id":"%b","domain":"d"}' % (rb"\ud83d\ude00" * 251),
    ],
    "too_deep": [
        b'{"z":' + b"[" * 2_000,
        with_field(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH),
        b'{"a":' * 600 + b"1" + b"}" * 600,
    ],
}


@pytest.mark.parametrize(
    ("expected", "data"),
    [pytest.param(r, d, id=f"{r} {n}") for r, several in REJECTED.items() for n, d in enumerate(several)],
)
def test_a_bad_record_is_a_reject_that_says_why_and_where(expected: str, data: bytes) -> None:
    record = decoded(data)
    assert isinstance(record, Reject)
    assert record.reason == expected
    assert (record.data, record.line, record.offset, record.kind) == (data, 7, 1234, "asset")
    assert record.detail
    assert "\n" not in record.detail


def test_a_seed_line_without_a_type_is_a_reject() -> None:
    assert reason({"id": "k", "domain": "d"}, dialect=SEED) == "no_type"
    assert reason({"id": "k", "domain": "d", "type": "Asset"}, dialect=SEED) == "no_type"
    assert reason({"id": "k", "domain": "d", "type": ["asset"]}, dialect=SEED) == "no_type"
    assert reason({"id": "k", "domain": "d", "type": "asset"}, dialect=SEED) is None


def test_a_record_whose_beginning_alone_was_kept_is_too_large() -> None:
    record = Decoder(DIRECTORY).decode(RawRecord(b'{"id":"k', 1, 0, "asset", 20_000_000))
    assert isinstance(record, Reject)
    assert record.reason == "record_too_large"
    assert "20,000,000 bytes" in record.detail
    assert "--max-record-bytes" in record.detail


def test_every_reason_but_the_databases_own_is_tested_here() -> None:
    assert (
        REJECTED.keys() | {"no_type", "record_too_large", "database_refused", "key_of_another_source"} == REASONS.keys()
    )


def test_a_reject_has_the_key_and_the_kind_where_they_are_known() -> None:
    record = decoded({"id": " k "})
    assert isinstance(record, Reject)
    assert (record.reason, record.key, record.kind) == ("no_source", "k", "asset")
    record = decoded({"name": "x"}, "source", dialect=SEED)
    assert isinstance(record, Reject)
    assert (record.reason, record.key, record.kind) == ("no_key", None, "source")


@pytest.mark.parametrize("text", ["k" * 1000, "é" * 500, "😀" * 250])
def test_a_key_as_long_as_the_limit_is_a_key(text: str) -> None:
    assert len(text.encode()) == MAX_KEY_BYTES
    assert asset({"id": f" {text} ", "domain": "d"}).key == text


# depth


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_the_500th_level_is_fine_and_the_501st_is_too_deep(opening: bytes) -> None:
    closing = b"]" if opening == b"[" else b"}"
    for levels, expected in ((MAX_DEPTH - 1, None), (MAX_DEPTH, "too_deep")):
        assert reason(with_field(opening * levels + b"1" + closing * levels)) == expected


@pytest.mark.parametrize("text", ["[" * 500, "{" * 500, '\\"[' * 200, "\\" * 7 + "[{" * 200, "]" * 100 + "[" * 100])
def test_brackets_in_strings_are_no_depth(text: str) -> None:
    assert reason(with_field(json.dumps({"a": [text, {text: text}]}).encode())) is None
    deep = json.dumps(text).encode()
    assert reason(with_field(b"[" * MAX_DEPTH + deep + b"]" * MAX_DEPTH)) == "too_deep"
    assert reason(with_field(b"[" * (MAX_DEPTH - 1) + deep + b"]" * (MAX_DEPTH - 1))) is None


def test_brackets_in_strings_hide_no_depth() -> None:
    for text in (b'"]"', b'"}"', b'"\\"]"', b'"]\\\\"'):
        other = text.replace(b"]", b"[").replace(b"}", b"{")
        deep = (b"[" + text + b",") * MAX_DEPTH + b"1" + (b"," + other + b"]") * MAX_DEPTH
        assert json.loads(deep)
        assert reason(with_field(deep)) == "too_deep"


def test_levels_of_both_kinds_are_counted() -> None:
    deep = b'[{"a":' * (MAX_DEPTH // 2) + b"1" + b"}]" * (MAX_DEPTH // 2)
    assert reason(with_field(deep)) == "too_deep"


def test_many_brackets_side_by_side_are_no_depth() -> None:
    assert reason(with_field(b"[" + b",".join([b"[{}]"] * 5000) + b"]")) is None


def depth(value: Any) -> int:
    levels, open_ones = 0, [value]
    while open_ones := [one for one in open_ones if isinstance(one, dict | list)]:
        levels += 1
        open_ones = [inner for one in open_ones for inner in (one.values() if isinstance(one, dict) else one)]
    return levels


@given(
    st.recursive(st.sampled_from(["[", "{", '"', "\\", 1]), lambda i: st.lists(i) | st.dictionaries(st.just("]"), i))
)
@untimed
def test_depth_is_what_a_recursion_counts(value: Any) -> None:
    for wrapping in (0, MAX_DEPTH - 3, MAX_DEPTH - 2, MAX_DEPTH - 1):
        data = with_field(b"[" * wrapping + json.dumps(value).encode() + b"]" * wrapping)
        assert (reason(data) == "too_deep") == (depth(json.loads(data)) > MAX_DEPTH)


# half a surrogate pair

LONE = {
    "the first half alone": rb'"\ud800"',
    "the second half alone": rb'"\udfff"',
    "the first half before a letter": rb'"\udbffx"',
    "the first half before another escape": rb'"\ud83d\u0041"',
    "the halves the wrong way round": rb'"\udc00\ud800"',
    "two first halves before a second": rb'"\ud800\ud800\udc00"',
    "a backslash between them": rb'"\ud83d\\ude00"',
}


@pytest.mark.parametrize("text", LONE.values(), ids=LONE)
@pytest.mark.parametrize("template", [b'"name":%b', b'"z":%b', b'"z":[{"deep":[%b]}]', b'"z":{%b:1}', b"%b:1"])
def test_half_a_surrogate_pair_is_a_reject_wherever_it_is(text: bytes, template: bytes) -> None:
    assert reason(b'{"id":"k","domain":"d",' + template % text + b"}") == "bad_unicode"


@pytest.mark.parametrize(
    "text", [rb'"\ud83d\ude00"', rb'"\\ud800"', rb'"\uD83D\uDE00\\\ud83d\ude00"', rb'"\\\\ud800\\"']
)
def test_a_whole_pair_and_a_backslash_before_a_u_are_text(text: bytes) -> None:
    assert asset(with_field(text, b"name")).name == json.loads(text)
    assert reason(with_field(text)) is None


UNITS = [r"\ud800", r"\uDBFF", r"\udc00", r"\uDFFF", r"\ud83d\ude00", r"\u0041", r"\\", r"\n", r"\"", "x", "ud800", "é"]


@given(st.lists(st.sampled_from(UNITS), max_size=7), st.sampled_from(["z", "name"]), st.booleans())
@untimed
def test_text_is_refused_exactly_where_it_cannot_be_encoded(units: list[str], name: str, as_key: bool) -> None:
    text = f'"{"".join(units)}"'
    data = with_field((f"{{{text}:1}}" if as_key else text).encode(), name.encode())
    try:
        json.loads(text).encode()
    except UnicodeEncodeError:
        assert reason(data) == "bad_unicode"
    else:
        assert reason(data) is None


# U+0000


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (rb"\u0000", "\ufffd"),
        (rb"\\u0000", r"\u0000"),
        (rb"\\\u0000", "\\\ufffd"),
        (rb"\\\\u0000", r"\\u0000"),
        (rb"a\u0000\u0000b\\u0000", "a\ufffd\ufffdb\\u0000"),
        (rb"\u00000", "\ufffd0"),
        (rb"\"\u0000\"", '"\ufffd"'),
    ],
)
def test_a_nul_is_replaced_by_token(written: bytes, kept: str) -> None:
    data = with_field(b'{"%b":["%b"]}' % (written, written)).replace(b"{", b'{"name":"%b",' % written, 1)
    record = asset(data)
    raw = json.loads(record.raw)
    assert raw["z"] == {kept: [kept]}
    assert raw["name"] == record.name == kept
    assert bool(record.repaired) == ("\ufffd" in kept)
    assert record.repaired or record.raw == data


nul_text = st.text(st.sampled_from('\0\0\\u0a"é'), max_size=8)
nul_values = st.recursive(
    nul_text, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(nul_text, inner, max_size=3)
)


def without_nul(value: Any) -> Any:
    if isinstance(value, dict):
        return {without_nul(key): without_nul(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_nul(inner) for inner in value]
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


@given(nul_values, nul_text, st.booleans())
@untimed
def test_repaired_bytes_are_the_same_value_with_every_nul_replaced(value: Any, name: str, ascii_only: bool) -> None:
    data = json.dumps({"id": "k", "domain": "d", "name": name, "z": value}, ensure_ascii=ascii_only).encode()
    record = asset(data)
    assert json.loads(record.raw) == without_nul(json.loads(data))
    assert record.name == without_nul(name)
    assert record.repaired == (data if "\0" in repr_of_texts(json.loads(data)) else None)
    assert record.repaired or record.raw == data


def repr_of_texts(value: Any) -> str:
    if isinstance(value, dict):
        return "".join(key + repr_of_texts(inner) for key, inner in value.items())
    return "".join(map(repr_of_texts, value)) if isinstance(value, list) else str(value)


def test_a_record_is_hashed_as_it_came_and_not_as_it_was_repaired() -> None:
    broken, mended = with_field(rb'"\u0000"'), with_field(rb'"\ufffd"')
    assert asset(broken).raw == asset(mended).raw
    assert asset(broken).content_hash != asset(mended).content_hash


def test_a_source_is_repaired_too() -> None:
    record = decoded(rb'{"domain":"d","name":"a\u0000","z":"\u0000"}', "source", dialect=SEED)
    assert isinstance(record, Source)
    assert record.name == "a\ufffd"
    assert b"u0000" not in record.raw


# dates


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-02-03T04:05:06Z", datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC)),
        ("2024-02-03T04:05:06.789Z", datetime(2024, 2, 3, 4, 5, 6, 789_000, tzinfo=UTC)),
        ("2024-02-03T04:05:06+02:00", datetime(2024, 2, 3, 2, 5, 6, tzinfo=UTC)),
        ("2024-02-03T00:05:06-0930", datetime(2024, 2, 3, 9, 35, 6, tzinfo=UTC)),
        ("2024-02-03T04:05:06", datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC)),
        ("2024-02-03 04:05", datetime(2024, 2, 3, 4, 5, tzinfo=UTC)),
        ("2024-02-03", datetime(2024, 2, 3, tzinfo=UTC)),
        ("1900-01-01T00:00:00Z", datetime(1900, 1, 1, tzinfo=UTC)),
        ("2199-12-31T23:59:59Z", datetime(2199, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("1899-12-31T23:00:00-02:00", datetime(1900, 1, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_date_is_a_moment_in_utc(text: str, moment: datetime) -> None:
    record = asset({"id": "k", "domain": "d", "updatedAt": text})
    assert record.updated_at == moment
    assert record.updated_at.tzinfo is UTC
    assert not record.date_ignored


@pytest.mark.parametrize(
    "value",
    [
        "yesterday", " ", "2024-13-01", "2024-02-30", "2024-02-03T25:00:00", "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00", "1706933106", 1706933106, 1.5, True, [], {"a": 1}, "2024-02-03\0", "é" * 9,
        "0000-01-01", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "1899-12-31T23:59:59Z", "2200-01-01",
        "1900-01-01T00:00:00+00:01", "2199-12-31T23:59:59-00:01", "R/P1D", "R/PT1S", "R/2013-01-01/P1D", "P1Y",
    ],
)  # fmt: skip
def test_a_bad_date_is_none_and_is_reported(value: Any) -> None:
    record = asset({"id": "k", "domain": "d", "updatedAt": value})
    assert record.updated_at is None
    assert record.date_ignored


@pytest.mark.parametrize("value", [None, ""])
def test_no_date_is_not_a_bad_one(value: Any) -> None:
    record = asset({"id": "k", "domain": "d", "updatedAt": value})
    assert record.updated_at is None
    assert not record.date_ignored


# whatever comes


def check_total(data: bytes) -> None:
    """What is true of every answer to any bytes."""
    for decoder in DECODERS:
        for kind in ("", "asset", "source")[: 3 if decoder.dialect is SEED else 2]:
            record = decoder.decode(RawRecord(data, 1, 0, kind))
            if record is None:
                assert decoder.dialect is DATA_JSON
                assert json.loads(data)
                continue
            assert isinstance(record, get_args(Record))
            if isinstance(record, Reject):
                assert record.reason in REASONS
                assert record.data == data
            else:
                assert record.key
                json.loads(record.raw.decode(), parse_int=float).items()
                assert b"\0" not in json.dumps(record.key).encode()


@given(st.binary(max_size=60))
@untimed
def test_arbitrary_bytes_are_a_record_or_a_reject(data: bytes) -> None:
    check_total(data)


FULL = json.dumps(
    {
        "type": "asset", "id": "k-1", "asset_key": "k-1", "domain": "d.org", "source_key": "d.org",
        "name": "n\0\\u0000",
        "resource": {"id": "k-1", "name": "é", "updatedAt": "2024-01-01"}, "metadata": {"domain": "d.org"},
        "permalink": "https://d.org/d/k-1", "updatedAt": "2024-01-01T00:00:00Z",
        "identifier": {"@value": "https://d.org/d/abcd-2345"}, "landingPage": "https://d.org/x", "modified": "R/P1D",
        "rowsUpdatedAt": 1371737836, "url": "https://d.org/x", "extras": [{"key": "guid", "value": "https://d.org/"}],
        "z": [1, -2.5e3, None, {"😀": "\U0001f600"}],
    }
).encode()  # fmt: skip
change = st.tuples(
    st.integers(0, len(FULL)),
    st.integers(0, 3),
    st.one_of(
        st.binary(max_size=3),
        st.sampled_from(
            [b"\\", b'"', b"\\u0000", b"\\ud800", b"[" * 99, b"9" * 400, b"1e999", b"null", b"\xed\xa0\x80", b"{}"]
        ),
    ),
)


@given(st.lists(change, min_size=1, max_size=3))
@settings(untimed, max_examples=250)
def test_a_mutated_record_is_a_record_or_a_reject(changes: list[tuple[int, int, bytes]]) -> None:
    data = FULL
    for place, removed, put in changes:
        data = data[:place] + put + data[place + removed :]
    check_total(data)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["id", "domain"]), inner),
    max_leaves=4,
)
FIELDS = [*json.loads(FULL), "resource_url", "link", "updated_at", "viewLastModified", "metadata_modified", "title",
          "description", "notes"]  # fmt: skip


@given(st.dictionaries(st.sampled_from(FIELDS), anything))
@settings(untimed, max_examples=150)
def test_any_value_in_any_field_is_a_record_or_a_reject(fields: dict[str, Any]) -> None:
    check_total(json.dumps(fields).replace("Infinity", "1e999").encode())


@pytest.mark.parametrize("digits", [19, 20, 400, 1000, 1001])
@pytest.mark.parametrize("field", ["id", "name", "domain", "updatedAt", "z", "rowsUpdatedAt", "identifier", "modified"])
def test_a_number_of_any_length_is_a_record_or_a_reject(digits: int, field: str) -> None:
    data = b'{"id":"k","domain":"d"}'.replace(b'"%b":"' % field.encode(), b'"old":"')[:-1] + b',"%b":%b}' % (
        field.encode(), b"9" * digits
    )  # fmt: skip
    check_total(data)


# corpora


def good(number: int) -> bytes:
    return b'{"id":"good-%d","domain":"d.org"}' % number


def framed_and_decoded(data: bytes) -> list[Record | None]:
    framer = LineFramer(max_record_bytes=1 << 20)
    decode = Decoder(DIRECTORY).decode
    return [decode(raw) for raw in raw_records([*framer.feed(data), *framer.finish()])]


def test_a_line_of_the_json_test_suite_harms_no_other_line(corpora: Path) -> None:
    paths = sorted((corpora / "jsontestsuite/test_parsing").glob("*.json"))
    assert paths
    for path in paths:
        data = path.read_bytes()
        first, *between, last = framed_and_decoded(good(1) + b"\n" + data + b"\n" + good(2))
        assert isinstance(first, Asset), path.name
        assert isinstance(last, Asset), path.name
        assert (first.key, last.key) == ("good-1", "good-2"), path.name
        refusals = {record.reason for record in between if isinstance(record, Reject)}
        assert refusals <= REASONS.keys(), path.name
        if path.name.startswith("n_"):
            assert len(refusals) > 0 or not data.strip(b" \r\n\t"), path.name
        if path.name.startswith("y_") and b"\n" not in data.strip():
            assert len(between) == 1
            assert refusals <= {"not_an_object", "no_key", "no_source"}, path.name


def test_a_value_of_the_json_test_suite_in_a_good_record_is_judged_as_the_suite_says(corpora: Path) -> None:
    for path in sorted((corpora / "jsontestsuite/test_parsing").glob("*.json")):
        why = reason(with_field(path.read_bytes()))
        assert why is None or why in REASONS
        if path.name.startswith("y_"):
            assert why is None, path.name
        if path.name.startswith("n_"):
            assert why in {"not_json", "bad_utf8", "bad_unicode", "too_deep"}, path.name


def naughty(corpora: Path) -> list[str]:
    texts: list[str] = json.loads((corpora / "blns.json").read_text("utf-8"))
    assert texts
    return texts


def expected_of_key(text: str, missing: str) -> str | None:
    key = text.strip()
    if not key:
        return missing
    return "key_too_long" if len(key.encode()) > MAX_KEY_BYTES else "nul_in_key" if "\0" in key else None


@pytest.mark.parametrize("ascii_only", [True, False])
def test_naughty_strings_come_through_every_field_as_they_are(corpora: Path, ascii_only: bool) -> None:
    lengths = set()
    for text in naughty(corpora):

        def data(text: str = text, **fields: Any) -> bytes:
            fields = {"id": "k", "domain": "d.org"} | fields
            return json.dumps(fields, ensure_ascii=ascii_only).encode()

        record = asset(data(name=text, description=text, permalink=text, meta={text: [text]}))
        assert (record.name, record.description) == (text, text)
        assert record.url == (text if text.strip() else "https://d.org/d/k")
        assert json.loads(record.raw)["meta"] == {text: [text]}
        lengths.add(len(text))

        found = decoded(data(id=text))
        if expected := expected_of_key(text, "no_key"):
            assert isinstance(found, Reject)
            assert found.reason == expected
        else:
            assert isinstance(found, Asset)
            assert found.key == text.strip()

        found = decoded(data(domain=text))
        if expected := expected_of_key(text.lower(), "no_source"):
            assert isinstance(found, Reject)
            assert found.reason == expected
        else:
            assert isinstance(found, Asset)
            assert found.source_key == text.strip().lower()
    assert len(lengths) > 20


def test_the_suites_of_transformations_keep_their_bytes(corpora: Path) -> None:
    paths = sorted((corpora / "jsontestsuite/test_transform").glob("*.json"))
    assert paths
    for path in paths:
        data = with_field(path.read_bytes().strip())
        record = decoded(data)
        if isinstance(record, Asset) and not record.repaired:
            assert record.raw == data, path.name
        elif isinstance(record, Reject):
            assert record.reason in {"bad_unicode", "bad_utf8"}, path.name


def test_random_bytes_by_the_thousand_are_refused_quickly() -> None:
    rng = random.Random(5)
    decode = Decoder(SEED).decode
    for _ in range(5000):
        assert isinstance(decode(RawRecord(rng.randbytes(rng.randrange(40)), 1, 0)), Reject)
