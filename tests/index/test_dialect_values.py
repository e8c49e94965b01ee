"""What a record has in the fields that a dialect reads is in its row, or is counted: nothing becomes null silently.

Which field of a record may fill which column is found out by trying; a new dialect is tested without a change here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from dialect_samples import changed, decoder_of, good_records, read_fields, row
from hypothesis import given, settings
from hypothesis import strategies as st

from seed_registry.index.dialects import DIALECTS
from seed_registry.records import Asset, RawBlock, RawRecord, checked

Path = tuple[str, ...]

COLUMNS = ("name", "description", "url", "updated_at")
PROBES = ("https://probe.example/p", "2001-02-03T04:05:06Z", 981_173_106, 981_173_106_000)
# An identifier, which is the URL of a page only where it looks like one.
IDENTIFIERS = {("@id",)}
ABOUT = {"@type", "type", "@language", "language", "lang", "xml:lang"}

word = st.text('abcé公{["\\ \n', min_size=1, max_size=12)
texts = st.one_of(
    word, st.just("Trees"), st.sampled_from(["", " ", "\t\n", "{", "{}", '{"en": "Trees"}', '{"de": ""}'])
)
dates = st.sampled_from([
    *("2024", "2024-05", "2024-05-06", "2024-05-06T07:08:09Z", "2024-05-06 07:08:09.123456", "20240506"),
    *("2024-05-06T07:08:09+02:00", "2024-W05-1", " 2024-05-06 ", "06/05/2024", "R/P1Y", "0001-01-01", "6 May 2024"),
])  # fmt: skip
numbers = st.one_of(
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False, allow_infinity=False),
    st.just(1_371_737_836),
    st.booleans(),
)
urls = st.sampled_from(["https://d.example/x", "http://d.example", "//d.example/x", "d.example", "mailto:a@b.example"])
scalars = st.one_of(st.none(), texts, dates, numbers, urls)
by_language = st.dictionaries(st.sampled_from(["en", "de", "de-CH", "fr", "", "@none"]), texts | st.none(), max_size=3)
of_json_ld = st.one_of(
    st.builds(lambda value: {"@value": value}, scalars),
    st.builds(lambda value, tag: {"@value": value, "@language": tag}, texts, st.sampled_from(["en", "de"])),
    st.builds(lambda value: {"@id": value}, urls | texts),
    st.builds(lambda value: {"@type": "Document", "accessURL": value}, urls | st.none()),
)
objects = st.one_of(
    by_language, of_json_ld, st.dictionaries(st.sampled_from(["x", "key", "value"]), scalars, max_size=2)
)
values = st.one_of(scalars, objects, st.lists(scalars | objects, max_size=3))


def has_content(value: Any) -> bool:
    """Whether a value says anything, in any language."""
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, list):
        return any(map(has_content, value))
    if isinstance(value, dict):
        return any(has_content(inner) for name, inner in value.items() if name not in ABOUT)
    return value is not None


def decoded(name: str, record: dict[str, Any]) -> Any:
    return decoder_of(name, "json").decode(RawRecord(json.dumps(record).encode(), 1, 0, "asset"))


@cache
def bare_record(name: str) -> dict[str, Any]:
    """A good record without all that only fills columns: what its row has then, it has from key and portal."""
    record: dict[str, Any] = json.loads(good_records(name, "json")[0])
    whole = decoded(name, record)
    for path in read_fields(DIALECTS[name].wire):
        less = changed(json.dumps(record).encode(), path, None)
        asset = decoded(name, less)
        if isinstance(asset, Asset) and (asset.key, asset.source_key) == (whole.key, whole.source_key):
            record = less
    return record


@cache
def filled(name: str) -> dict[Path, set[str]]:
    """The columns that each field fills if nothing else does."""
    found: dict[Path, set[str]] = {}
    bare = bare_record(name)
    before = decoded(name, bare)
    for path in [path for path in read_fields(DIALECTS[name].wire) if path not in IDENTIFIERS]:
        for probe in PROBES:
            asset = decoded(name, changed(json.dumps(bare).encode(), path, probe))
            if isinstance(asset, Asset) and (asset.key, asset.source_key) == (before.key, before.source_key):
                columns = {column for column in COLUMNS if getattr(asset, column) != getattr(before, column)}
                found.setdefault(path, set()).update(columns)
    return {path: columns for path, columns in found.items() if columns}


def value_at(record: Any, path: Path) -> Any:
    for key in path:
        record = record.get(key) if isinstance(record, dict) else None
    return record


def lost(name: str, record: dict[str, Any], asset: Asset) -> Iterator[str]:
    """The columns that are empty, and not counted, although the record has something for them."""
    for column in COLUMNS:
        if any(column in columns and has_content(value_at(record, path)) for path, columns in filled(name).items()):
            is_counted = asset.date_ignored if column == "updated_at" else column in asset.texts_ignored
            if not has_content(getattr(asset, column)) and not is_counted:
                yield column


@pytest.mark.parametrize("name", DIALECTS)
def test_every_column_is_filled_from_some_field(name: str) -> None:
    """Otherwise the next test says nothing about it; but a URL may be made of portal and key alone."""
    columns = set().union(*filled(name).values())
    has_url = decoded(name, bare_record(name)).url is not None
    assert columns | ({"url"} if has_url else set()) == set(COLUMNS)


@pytest.mark.parametrize("name", DIALECTS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_what_a_record_has_is_in_its_row_or_counted(name: str, data: st.DataObject) -> None:
    require_nothing_lost(name, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", DIALECTS)
@settings(deadline=None, max_examples=1_500)
@given(data=st.data())
def test_what_a_record_has_is_in_its_row_or_counted_in_many_cases(name: str, data: st.DataObject) -> None:
    require_nothing_lost(name, data)


def require_nothing_lost(name: str, data: st.DataObject) -> None:
    record = bare_record(name)
    for path in filled(name):
        if (value := data.draw(values, label=".".join(path))) is not None:
            record = changed(json.dumps(record).encode(), path, value)
    asset = decoded(name, record)
    if isinstance(asset, Asset):
        assert not list(lost(name, record, asset)), asset
    # Many at a time the same.
    decoder, raw = decoder_of(name, "json"), json.dumps(record).encode()
    assets, _ = decoder.decode_ordinary(RawBlock([raw], [1], [0], "asset"))
    assert [row(one) for one in assets] in ([], [row(asset)])
    assert [row(checked(one)) for one in assets] in ([], [row(asset)])
