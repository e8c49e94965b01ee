"""Bad input that every dialect has to pass: nothing is lost, nothing is invented, and no other exception is raised.

The inputs are made from the synthetic records of each dialect. A new dialect is tested without a change here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import Any

import pytest
from dialect_samples import (
    FORMS,
    HOST,
    SOURCES,
    around,
    changed,
    decoded,
    good_records,
    index_of,
    page_of,
    read_fields,
    row,
    settings_of,
)
from memory_index import Reading, read

from seed_registry.errors import IndexBroken, SettingsInvalid
from seed_registry.index.dialects import DIALECTS
from seed_registry.records import Asset, RawRecord, Record, Reject, Source
from seed_registry.settings import Settings

pytestmark = pytest.mark.anyio

PAGED = [name for name, dialect in DIALECTS.items() if dialect.is_paged]
every_form = pytest.mark.parametrize(("name", "form"), FORMS)

# JSON that Python cannot write.
LITERALS = {b'"<huge>"': b"1e400", b'"<deep>"': b"[" * 600 + b"]" * 600, b'"<many digits>"': b"9" * 4_000}
WRONG: list[Any] = [
    *(0, 7, -1.5, 10**30, "<huge>", "<many digits>", True, False, None),
    *([], [1], [None], ["a", "b"], [{"@value": "v"}], [[["x"]]], "<deep>"),
    *({}, {"x": 1}, {"id": {"id": {"id": None}}}, {"en": "E", "de": None}, {"@value": {"@value": 3}}, {"@id": "_:b0"}),
    *("text", "", " ", "\n\t", "\0", "{", '{"en": "x"}', "https://", "https://[", "2024-13-45", "é" * 600, "\ud800"),
]


def encoded(record: dict[str, Any]) -> bytes:
    data = json.dumps(record).encode()
    for placeholder, literal in LITERALS.items():
        data = data.replace(placeholder, literal)
    return data


def without(record: bytes, *paths: tuple[str, ...]) -> bytes:
    whole = json.loads(record)
    for path in paths:
        place = whole
        for key in path[:-1]:
            place = place.get(key, {})
        place.pop(path[-1], None)
    return json.dumps(whole).encode()


def wrong_records(name: str, form: str, values: Sequence[Any]) -> list[bytes]:
    """A good record with each of these values in each field that the dialect reads."""
    good = good_records(name, form)[1]
    return [encoded(changed(good, path, value)) for path in read_fields(DIALECTS[name].wire) for value in values]


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for one in value:
            yield from texts_in(one)
    elif value is not None:
        yield str(value)


def require_nothing_invented(asset: Asset, known: str) -> None:
    """Key, portal and texts come from the record, the portal else from the index or from `--domain`."""
    texts = list(texts_in(json.loads(asset.raw)))
    key_parts = json.loads(asset.key) if asset.key.startswith('["') else [asset.key]
    assert all(any(part in text for text in texts) for part in key_parts), asset
    assert asset.source_key in known or any(asset.source_key in text.lower() for text in texts), asset
    for text in filter(None, (asset.name, asset.description)):
        assert any(text in one for one in texts) or text.encode() in asset.raw or text in json.dumps(texts), asset


def require_accounted(name: str, form: str, records: Sequence[bytes], reading: Reading) -> None:
    """Every record is an asset, a reject, or what the dialect says is none."""
    assert reading.error is None
    found = [record for record in reading.records if not isinstance(record, Source)]
    listed = len(reading.records) - len(found) - SOURCES * bool(DIALECTS[name].source)
    none = sum(decoded(name, form, record) is None for record in records)
    assert len(found) + listed + none == len(records)


async def read_in_both_ways(data: bytes, settings: Settings) -> Reading:
    """Read it checked, one by one; and by columns, in chunks that end anywhere: the outcome has to be the same."""
    strict = await read(data, settings)
    fast = await read(data, settings, is_strict=False, chunk_bytes=997)
    assert list(map(row, fast.records)) == list(map(row, strict.records))
    assert str(fast.error) == str(strict.error)
    return strict


def require_one_clear_line(error: Exception | None) -> None:
    if error is not None:
        lines = str(error).splitlines()
        assert 1 <= len(lines) <= 2, lines
        assert lines[0].startswith("x.json "), lines
        assert "Traceback" not in lines[0]
        assert lines[0].isprintable()


# Wrong values


@every_form
async def test_a_wrong_value_in_any_field_harms_no_other_record(name: str, form: str) -> None:
    good, wrong = good_records(name, form), wrong_records(name, form, WRONG)
    records = [good[0], *wrong, *good[2:]]
    data = index_of(name, form, records)
    reading = await read_in_both_ways(data, settings_of(name, form))
    require_accounted(name, form, records, reading)
    assert reading.reader is not None
    kind = "asset" if form == "json" else ""
    # Each on its own, with the portal that the index as a whole suggests.
    each = (reading.reader.decode(RawRecord(record, 1, 0, kind)) for record in records)
    alone = [row(one) for one in each if one is not None]
    assert [row(one) for one in reading.records if one.line and not is_listed(one, form)][-len(alone) :] == alone
    assert [row(one) for one in reading.assets[-2:]] == [row(decoded(name, form, one)) for one in good[2:]]
    known = data.decode().lower() + HOST.decode()
    for asset in reading.assets:
        require_nothing_invented(asset, known)


def is_listed(record: Record, form: str) -> bool:
    return isinstance(record, Source) and b"Open Data Portal" in record.raw


@every_form
@pytest.mark.sampled(10)
async def test_an_index_of_one_record_with_a_wrong_value_is_read_or_named(name: str, form: str) -> None:
    """Detection has only this record to go by."""
    for record in wrong_records(name, form, WRONG[::3]):
        reading = await read(index_of(name, form, [record]), settings_of(name, form), is_strict=False)
        require_one_clear_line(reading.error)
        if reading.error is None and reading.reader and reading.reader.dialect.name == name:
            require_accounted(name, form, [record], reading)


@pytest.mark.parametrize("name", [name for name, dialect in DIALECTS.items() if dialect.source])
async def test_a_wrong_value_in_any_field_of_a_source_harms_no_other_record(name: str) -> None:
    listed, assets = around(name, "ndjson", 0)[0].splitlines(), list(good_records(name, "ndjson"))
    paths = list(read_fields(DIALECTS[name].wire))
    wrong = [encoded(changed(listed[1], path, value)) for path in paths for value in WRONG if path != ("type",)]
    data = b"\n".join([listed[0], *wrong, *assets, b""])
    reading = await read_in_both_ways(data, settings_of(name, "ndjson"))
    assert len([one for one in reading.records if not isinstance(one, Asset)]) == 1 + len(wrong)
    # A line that is no JSON counts as an asset.
    assert {(one.kind, one.reason) for one in reading.records if isinstance(one, Reject)} >= {("source", "no_key")}
    assert [row(one) for one in reading.assets] == [row(decoded(name, "ndjson", one)) for one in assets]


@every_form
async def test_a_missing_field_harms_no_other_record(name: str, form: str) -> None:
    good, paths = good_records(name, form), list(read_fields(DIALECTS[name].wire))
    bad = [without(good[1], path) for path in paths] + [without(good[1], *paths), b"{}"]
    records = [good[0], *bad, good[2]]
    reading = await read_in_both_ways(index_of(name, form, records), settings_of(name, form))
    require_accounted(name, form, records, reading)
    assert reading.assets[0].key != reading.assets[-1].key
    assert row(reading.assets[-1]) == row(decoded(name, form, good[2]))
    assert any(isinstance(record, Reject) and record.reason in ("no_key", "no_type") for record in reading.records)


@every_form
@pytest.mark.parametrize("nothing", [None, "", "  \t"])
async def test_a_record_of_nothing_is_a_reject(name: str, form: str, nothing: Any) -> None:
    good = good_records(name, form)
    empty = good[1]
    for path in read_fields(DIALECTS[name].wire):
        if form == "json" or path != ("type",):
            empty = encoded(changed(empty, path, nothing))
    records = [good[0], empty, good[2]]
    reading = await read_in_both_ways(index_of(name, form, records), settings_of(name, form))
    require_accounted(name, form, records, reading)
    assert len(reading.assets) == 2


# Unusual objects


@every_form
async def test_of_a_repeated_field_the_last_one_counts(name: str, form: str) -> None:
    """As jsonb has it: the row agrees with the record that is stored with it."""
    good = good_records(name, form)
    whole = json.loads(good[1])
    for path in read_fields(DIALECTS[name].wire):
        if len(path) > 1 or path[0] not in whole:
            continue
        for value in (b"null", b'"other"', b"7", b"{}"):
            twice = b"{" + json.dumps(path[0]).encode() + b": " + value + b", " + good[1][1:]
            reading = await read_in_both_ways(index_of(name, form, [good[0], twice, good[2]]), settings_of(name, form))
            first, second, third = (one for one in reading.records if not isinstance(one, Source))
            assert isinstance(first, Asset)
            assert isinstance(third, Asset)
            # An object of a wrong type is a reject wherever it stands.
            assert isinstance(second, Reject) or row(second)[:6] == row(decoded(name, form, good[1]))[:6]


@every_form
async def test_a_key_that_comes_twice_is_read_twice(name: str, form: str) -> None:
    good = good_records(name, form)
    records = [good[0], good[1], good[0], good[0]]
    reading = await read_in_both_ways(index_of(name, form, records), settings_of(name, form))
    keys = [asset.key for asset in reading.assets]
    assert keys == [keys[0], keys[1], keys[0], keys[0]]


@every_form
@pytest.mark.parametrize("levels", [400, 600])
@pytest.mark.parametrize("opening", [b"[", b'{"x":'])
async def test_a_deep_field_is_kept_or_its_record_rejected(name: str, form: str, levels: int, opening: bytes) -> None:
    good = good_records(name, form)
    value = opening * levels + (b"1" if opening != b"[" else b"") + (b"]" if opening == b"[" else b"}") * levels
    deep = good[1][:-1] + b', "extra": ' + value + b"}"
    records = [good[0], deep, good[2]]
    reading = await read_in_both_ways(index_of(name, form, records), settings_of(name, form))
    require_accounted(name, form, records, reading)
    assert len(reading.assets) == (3 if levels == 400 else 2)
    assert [one.reason for one in reading.records if isinstance(one, Reject)] == (["too_deep"] if levels > 400 else [])


@every_form
@pytest.mark.sampled(5)
async def test_a_record_of_ten_thousand_fields_is_an_asset(name: str, form: str) -> None:
    """Also in front of those that are read, where the dialect is recognised."""
    good = good_records(name, form)
    extra = b", ".join(b'"extra %d": {"id": %d}' % (number, number) for number in range(10_000))
    wide = [b"{" + extra + b", " + good[0][1:], good[1][:-1] + b", " + extra + b"}"]
    reading = await read(index_of(name, form, [*wide, *good[2:]]), settings_of(name, form), is_strict=False)
    assert reading.error is None
    assert [row(one)[:6] for one in reading.assets] == [row(decoded(name, form, one))[:6] for one in good]


# Cut off


def cuts(data: bytes, step: int) -> list[int]:
    near = range(1, min(100, len(data)))
    return sorted({*near, *(len(data) - cut for cut in near), *range(1, len(data), step)})


async def require_cut_is_noticed(name: str, form: str, step: int) -> None:
    good = good_records(name, form)[:3]
    data = index_of(name, form, good)
    whole = await read(data, settings_of(name, form))
    rows = list(map(row, whole.records))
    assert whole.error is None
    for cut in cuts(data, step):
        reading = await read(data[:cut], settings_of(name, form), is_strict=cut % 2 == 0)
        require_one_clear_line(reading.error)
        if reading.reader is None or reading.reader.dialect.name != name:
            assert not reading.assets, cut
            continue
        if form == "json":
            assert reading.error is not None or cut >= len(data.rstrip()), cut
            assert list(map(row, reading.records)) == rows[: len(reading.records)], cut
            continue
        kept = [row(one) for one in reading.records if not isinstance(one, Reject)]
        assert kept == rows[: len(kept)], cut
        whole_lines = data[:cut].count(b"\n") + (data[cut : cut + 1] == b"\n")
        assert len(kept) == whole_lines or reading.error is not None, cut
        assert len(reading.records) - len(kept) == (data[cut - 1 : cut + 1].find(b"\n") < 0) or reading.error, cut


@every_form
@pytest.mark.sampled(10)
async def test_an_index_cut_off_anywhere_is_read_to_the_cut_and_said_to_be_cut(name: str, form: str) -> None:
    await require_cut_is_noticed(name, form, 97)


@pytest.mark.slow
@every_form
async def test_an_index_cut_off_at_any_byte_is_read_to_the_cut_and_said_to_be_cut(name: str, form: str) -> None:
    await require_cut_is_noticed(name, form, 1)


@pytest.mark.parametrize("name", PAGED)
@pytest.mark.parametrize("between", [b"\n", b" \n\n ", b""])
async def test_a_page_that_is_cut_off_leaves_the_pages_before_it(name: str, between: bytes) -> None:
    good = good_records(name, "json")
    first, second = page_of(name, good[:2]), page_of(name, good[2:])
    settings = settings_of(name, "json")
    whole = await read_in_both_ways(first + between + second, settings)
    if whole.error is not None:  # of some documents no other can follow directly
        pytest.fail(str(whole.error))
    rows = list(map(row, whole.records))
    assert len(rows) == 4
    for cut in range(1, len(second), 41):
        reading = await read(first + between + second[:cut], settings, is_strict=False)
        require_one_clear_line(reading.error)
        assert isinstance(reading.error, IndexBroken), cut
        found = list(map(row, reading.records))
        assert 2 <= len(found) <= 4
        assert found == rows[: len(found)], cut


# Several dialects in one index


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("between", [b"\n", b"\n\n"])
async def test_a_page_of_another_dialect_is_not_lost(name: str, between: bytes) -> None:
    """Its records are assets or rejects, are counted as unread, or the index is said to be broken there."""
    good = good_records(name, "json")
    for other in DIALECTS:
        if other == name:
            continue
        strange = good_records(other, "json")[:3]
        pages = [page_of(name, good[:2]), page_of(other, strange), page_of(name, good[2:])]
        for domain in (None, HOST.decode()):
            try:
                reading = await read(between.join(pages) + b"\n", Settings(domain=domain))
            except SettingsInvalid as exc:
                assert "--domain cannot be used with x.json" in str(exc)  # noqa: PT017  # depends on what was found
                continue
            require_one_clear_line(reading.error)
            if reading.error is None:
                sources = sum(isinstance(one, Source) for one in reading.records)
                assert len(reading.records) - sources + reading.unread == 7, (name, other, domain)
            keys = {row(decoded(name, "json", one))[0] for one in good[:2]}
            if reading.reader is not None and reading.reader.dialect.name == name:
                found = {one.key for one in reading.records if not isinstance(one, Source)}
                assert keys <= found, (name, other)


@pytest.mark.parametrize(("name", "other"), list(permutations([name for name, form in FORMS if form == "ndjson"], 2)))
@pytest.mark.sampled(20)
async def test_lines_of_another_dialect_are_assets_or_rejects(name: str, other: str) -> None:
    good, strange = good_records(name, "ndjson"), good_records(other, "ndjson")
    records = [record for pair in zip(good, strange, strict=True) for record in pair]
    data = around(name, "ndjson", 0)[0] + b"\n".join(records) + b"\n"
    domain = None if DIALECTS[name].refuses_domain else HOST.decode()
    reading = await read_in_both_ways(data, Settings(domain=domain))
    assert reading.reader is not None
    assert reading.reader.dialect.name == name
    found = [record for record in reading.records if not isinstance(record, Source)]
    none = sum(decoded(name, "ndjson", record) is None for record in records)
    assert len(found) + none == len(records)
    expected = {row(decoded(name, "ndjson", one))[0] for one in good}
    assert expected <= {asset.key for asset in reading.assets}
    known = data.decode().lower() + HOST.decode()
    for asset in reading.assets:
        require_nothing_invented(asset, known)
