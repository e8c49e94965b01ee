from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from seed_registry.errors import SettingsInvalid
from seed_registry.index.decoder import Decoder
from seed_registry.index.dialects import DIALECTS
from seed_registry.records import Asset, RawRecord
from seed_registry.settings import DialectName
from seed_registry.synthetic import index
from seed_registry.synthetic.index import Expected, Format, Workload, expected, generate

FORMATS: tuple[Format, ...] = ("json", "ndjson")
SHAPES: list[tuple[DialectName, Format]] = [
    (cast("DialectName", name), form)
    for name, dialect in DIALECTS.items()
    for form in FORMATS
    if form == "json" or dialect.sample.has_lines
]
# Of the dialects that benchmarks were published with.
FINGERPRINTS = {
    ("seed", "json"): "8197757df5c9b94d",
    ("seed", "ndjson"): "1b4ca9f718982ceb",
    ("directory", "json"): "dbf45d79f2739120",
    ("discovery", "json"): "592b23852c4c33ee",
    ("discovery", "ndjson"): "8152dbfe0a4ec250",
}
every_shape = pytest.mark.parametrize(("dialect", "form"), SHAPES)
percent = st.one_of(st.sampled_from([0.0, 1.0, 10.0, 50.0]), st.floats(0, 50))
any_workload = st.builds(
    lambda shape, **options: Workload(dialect=shape[0], format=shape[1], **options),
    st.sampled_from(SHAPES),
    records=st.integers(0, 300),
    sources=st.integers(1, 40),
    duplicates=percent,
    invalid=percent,
    seed=st.integers(0, (1 << 64) - 1),
    changed=st.floats(0, 100),
)


def whole(workload: Workload) -> bytes:
    return b"".join(generate(workload))


def parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def found(workload: Workload) -> tuple[list[Any], list[Any]]:
    """The listed sources and all asset records, read with nothing but `json`."""
    if workload.format == "json":
        listed = json.loads(whole(workload)).get("sources", []) if workload.sample.source else []
        return listed, list(map(parsed, lines_of(workload)))
    records = [parsed(line) for line in whole(workload).splitlines()]
    sources = [r for r in records if workload.sample.source and isinstance(r, dict) and r.get("type") == "source"]
    return sources, records[len(sources) :]


def key_and_domain(dialect: str, record: Any) -> tuple[str, str] | None:
    """What a correct reader takes from a record, or None for one it must reject."""
    if not isinstance(record, dict):
        return None
    if dialect == "seed":
        key, domain = record.get("asset_key", ""), record["source_key"]
    elif dialect == "directory":
        key, domain = record.get("id", ""), record["domain"]
    elif dialect == "discovery":
        key, domain = record["resource"].get("id", ""), record["metadata"]["domain"]
    else:
        asset = decoded(dialect, record)
        return (asset.key, asset.source_key) if isinstance(asset, Asset) else None
    return (key, domain) if key.strip() and "\0" not in key and len(key.encode()) <= 1000 else None


def decoded(dialect: str, record: Any) -> Any:
    """What our own decoder makes of a record of the only portal."""
    decoder = Decoder(DIALECTS[dialect], domain="data.albany.example")
    return decoder.decode(RawRecord(json.dumps(record).encode(), 1, 0, "asset"))


def recount(workload: Workload) -> Expected:
    sources, records = found(workload)
    valid = [pair for record in records if (pair := key_and_domain(workload.dialect, record))]
    keys = {key for key, _ in valid}
    listed = {source["source_key"] for source in sources}
    domains = {domain for _, domain in valid}
    if listed:
        assert domains <= listed
    return Expected(
        sources=len(listed or domains),
        assets=len(records),
        distinct_keys=len(keys),
        duplicates=len(valid) - len(keys),
        invalid=len(records) - len(valid),
    )


def updated(dialect: str, record: Any) -> datetime:
    if dialect in ("seed", "directory", "discovery"):
        record = record.get("resource", record)
        return datetime.fromisoformat(record.get("updated_at") or record["updatedAt"])
    moment: datetime = decoded(dialect, record).updated_at
    return moment


def depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def lines_of(workload: Workload) -> list[bytes]:
    """One asset record each: every form has a record a line."""
    data, sample = whole(workload), workload.sample
    if workload.format == "ndjson":
        return [line for line in data.splitlines() if not (sample.source and line.startswith(b'{"type": "source"'))]
    if sample.source:
        data = data[data.index(sample.before) :]
    names = {b"domain": b"data.albany.example", b"records": workload.records}
    data = data.removeprefix(sample.before % names).removesuffix(sample.after % names)
    return [line.removesuffix(b",") for line in data.splitlines()]


@settings(deadline=None)
@given(any_workload)
@pytest.mark.slow
def test_an_index_holds_exactly_what_is_expected_of_it(workload: Workload) -> None:
    assert recount(workload) == expected(workload)


@settings(deadline=None, max_examples=25)
@given(any_workload)
def test_the_same_workload_gives_the_same_bytes(workload: Workload) -> None:
    assert whole(workload) == whole(workload)


@pytest.mark.parametrize(("dialect", "form"), FINGERPRINTS)
def test_the_bytes_are_these_on_every_platform(dialect: DialectName, form: Format) -> None:
    """A change here makes benchmark results incomparable with older ones: it belongs in the changelog."""
    workload = Workload(records=500, dialect=dialect, format=form, duplicates=10, invalid=10, changed=10, seed=7)
    assert sha256(whole(workload)).hexdigest()[:16] == FINGERPRINTS[dialect, form]


@every_shape
@pytest.mark.sampled(4)
def test_the_chunk_size_does_not_change_the_bytes(
    dialect: DialectName, form: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = Workload(dialect=dialect, format=form, duplicates=5, invalid=5)
    at_once = whole(workload)
    monkeypatch.setattr(index, "CHUNK_BYTES", 1)
    assert whole(workload) == at_once


def test_chunks_are_of_a_size_that_readers_like() -> None:
    sizes = [len(chunk) for chunk in generate(Workload(records=2000))]
    assert all(128 << 10 <= size <= (128 << 10) + 200_000 for size in sizes[:-1])
    assert statistics.median(sizes) < 256 << 10


def test_a_billion_records_begin_at_once() -> None:
    workload = Workload(records=10**9, duplicates=10, invalid=1)
    assert len(list(islice(generate(workload), 3))) == 3
    assert expected(workload) == Expected(20, 10**9, 890_000_000, 100_000_000, 10_000_000)


@every_shape
def test_no_records_is_an_index_too(dialect: DialectName, form: Format) -> None:
    workload = Workload(records=0, dialect=dialect, format=form)
    assert recount(workload) == expected(workload) == Expected(20 if workload.sample.source else 0, 0, 0, 0, 0)


@every_shape
@pytest.mark.sampled(4)
def test_percentages_are_met(dialect: DialectName, form: Format) -> None:
    workload = Workload(records=1000, dialect=dialect, format=form, duplicates=10, invalid=5)
    assert recount(workload) == Expected(20 if workload.sample.has_portals else 1, 1000, 850, 100, 50)


@pytest.mark.parametrize("duplicates", [99.0, 100.0])
def test_even_an_index_of_duplicates_has_an_original(duplicates: float) -> None:
    workload = Workload(records=200, duplicates=duplicates)
    assert recount(workload) == expected(workload)
    assert expected(workload).distinct_keys >= 1


def test_an_index_may_be_wholly_invalid() -> None:
    workload = Workload(records=200, invalid=100, dialect="discovery", format="ndjson")
    assert recount(workload) == expected(workload) == Expected(0, 200, 0, 0, 200)


@every_shape
def test_every_source_has_a_record_when_there_are_enough_records(dialect: DialectName, form: Format) -> None:
    workload = Workload(records=100, sources=100, dialect=dialect, format=form)
    pairs = [key_and_domain(dialect, record) for record in found(workload)[1]]
    assert len({pair[1] for pair in pairs if pair}) == (100 if workload.sample.has_portals else 1)


def test_invalid_lines_are_invalid_in_every_way() -> None:
    workload = Workload(records=70, invalid=100, dialect="discovery", format="ndjson")
    records = [parsed(line) for line in lines_of(workload)]
    assert records.count(None) == records.count(42) == 10
    keys = [record["resource"].get("id") for record in records if isinstance(record, dict)]
    kinds = [keys.count(None), keys.count(""), keys.count(" \t "), sum("\0" in (key or "") for key in keys)]
    assert kinds == [10, 10, 10, 10]
    assert sum(len(key or "") > 1000 for key in keys) == 10


@every_shape
@pytest.mark.sampled(4)
def test_half_of_the_duplicates_repeat_exactly_and_half_are_later_versions(dialect: DialectName, form: Format) -> None:
    lines = lines_of(Workload(records=2000, dialect=dialect, format=form, duplicates=20))
    first: dict[str, tuple[int, bytes]] = {}
    exact, later, distances = 0, 0, set()
    for place, line in enumerate(lines):
        pair = key_and_domain(dialect, json.loads(line))
        assert pair
        if pair[0] not in first:
            first[pair[0]] = place, line
            continue
        original_place, original = first[pair[0]]
        distances.add((place - original_place).bit_length())
        exact += line == original
        later += updated(dialect, json.loads(line)) > updated(dialect, json.loads(original))
    assert (exact, later) == (200, 200)
    assert len(distances) >= 10


def test_a_key_never_goes_back_to_an_older_version() -> None:
    """So the last occurrence is also the latest, and loads agree whatever their batch size."""
    latest: dict[str, datetime] = {}
    for line in lines_of(Workload(records=2000, duplicates=60, format="ndjson")):
        record = json.loads(line)
        assert updated("seed", record) >= latest.get(record["asset_key"], datetime.min.replace(tzinfo=UTC))
        latest[record["asset_key"]] = updated("seed", record)


@every_shape
def test_duplicates_and_invalid_records_leave_the_others_as_they_were(dialect: DialectName, form: Format) -> None:
    plain = Workload(records=600, dialect=dialect, format=form)
    mixed = replace(plain, duplicates=10, invalid=10)
    assert set(lines_of(plain)[: expected(mixed).distinct_keys]) <= set(lines_of(mixed))


@every_shape
@pytest.mark.sampled(4)
def test_changed_records_differ_and_the_others_do_not(dialect: DialectName, form: Format) -> None:
    plain = Workload(records=2000, dialect=dialect, format=form)
    before, after = lines_of(plain), lines_of(replace(plain, changed=10))
    pairs = [(json.loads(a), json.loads(b)) for a, b in zip(before, after, strict=True) if a != b]
    assert 160 <= len(pairs) <= 240
    assert all(updated(dialect, new) > updated(dialect, old) for old, new in pairs)
    assert all(key_and_domain(dialect, new) == key_and_domain(dialect, old) for old, new in pairs)


@pytest.mark.parametrize("changed", [0.0, 100.0])
def test_none_or_all_records_change(changed: float) -> None:
    plain = Workload(records=300, duplicates=20)
    pairs = zip(lines_of(plain), lines_of(replace(plain, changed=changed)), strict=True)
    assert sum(a != b for a, b in pairs) == 3 * changed


@pytest.mark.parametrize("dialect", [name for name, one in DIALECTS.items() if b"%(text)b" in one.sample.record])
@pytest.mark.sampled(3)
def test_records_weigh_what_real_ones_do(dialect: DialectName) -> None:
    sizes = sorted(map(len, lines_of(Workload(records=10_000, dialect=dialect))))
    assert 2000 <= statistics.median(sizes) <= 3200
    assert 80_000 <= sizes[-1] <= 200_000
    assert 6000 <= sizes[9_000] <= 9000
    assert 18_000 <= sizes[9_900] <= 30_000


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_dialect_declares_what_the_fixed_part_of_its_records_weighs(dialect: DialectName) -> None:
    """The message has the number to declare as `Sample.fixed_bytes`."""
    declared = DIALECTS[dialect].sample.fixed_bytes
    # Half of the records are to be smaller, so that there is room for nothing else in them.
    sizes = sorted(map(len, lines_of(Workload(records=400, dialect=dialect, size=declared))))
    assert declared == pytest.approx(sizes[100], rel=0.04)


def test_directory_records_are_small() -> None:
    sizes = sorted(map(len, lines_of(Workload(records=5000, dialect="directory"))))
    assert 420 <= statistics.median(sizes) <= 600
    assert sizes[-1] <= 1000


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("size", [2000, 10_000, 65_536])
@pytest.mark.sampled(4)
def test_the_median_size_can_be_chosen(dialect: DialectName, size: int) -> None:
    sizes = list(map(len, lines_of(Workload(records=400, dialect=dialect, size=size))))
    assert 0.8 * size <= statistics.median(sizes) <= 1.2 * size
    assert max(sizes) < 16 << 20


@every_shape
@pytest.mark.sampled(4)
def test_records_look_like_real_ones(dialect: DialectName, form: Format) -> None:
    workload = Workload(records=300, dialect=dialect, format=form)
    _, records = found(workload)
    keys, domains = zip(*(key_and_domain(dialect, record) or ("", "") for record in records), strict=True)
    assert all(re.fullmatch("[a-z0-9]{4}-[a-z0-9]{4}", key) for key in keys) or workload.sample.key != b"%(id)b"
    assert all(re.fullmatch(r"data\.[a-z0-9-]+\.example", domain) for domain in domains)
    assert all(2008 <= updated(dialect, record).year <= 2020 for record in records)
    assert max(map(depth, records)) <= 6


def test_text_is_as_awkward_as_real_text() -> None:
    text = "".join(record["description"] for record in found(Workload(records=200))[1])
    for awkward in ("<p>", "\r\n", '"', "\\", "é", "東京", "🚲", "\u200b", "\ufeff"):
        assert awkward in text


def test_the_columns_of_a_record_agree() -> None:
    for record in found(Workload(records=200, dialect="discovery"))[1]:
        assert len({len(value) for name, value in record["resource"].items() if name.startswith("columns_")}) == 1


def test_envelopes_count_every_record_also_the_bad_ones() -> None:
    workload = Workload(records=100, duplicates=10, invalid=10, dialect="directory")
    assert json.loads(whole(workload))["totalCount"] == 100
    assert json.loads(whole(replace(workload, dialect="discovery")))["resultSetSize"] == 100


def test_seeds_share_no_keys() -> None:
    def keys(seed: int) -> Iterator[str]:
        return (record["asset_key"] for record in found(Workload(seed=seed))[1])

    assert not {*keys(1)} & {*keys(2)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"duplicates": 120.0}, "--duplicates must be from 0 to 100 percent, got 120"),
        ({"invalid": -1.0}, "--invalid must be from 0 to 100 percent, got -1"),
        ({"changed": float("nan")}, "--changed must be from 0 to 100 percent, got nan"),
        (
            {"duplicates": 60.0, "invalid": 50.5},
            "--duplicates and --invalid together .* at most 100 percent, got 110.5",
        ),
        ({"records": -1}, "--records must be from 0 to 1410554953728, got -1"),
        ({"sources": 0}, "--sources must be from 1 to 4294967296, got 0"),
        ({"seed": -1}, "--seed must be from 0 to 18446744073709551615, got -1"),
        ({"size": 10}, "--size must be from 455 to 65536, got 10"),
        ({"dialect": "csv"}, "--dialect must be one of seed, directory, .*, got csv"),
        ({"format": "csv"}, "--format must be one of json, ndjson, got csv"),
        ({"dialect": "directory", "format": "ndjson"}, "--format ndjson does not go with --dialect directory"),
    ],
)
def test_impossible_workloads_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsInvalid, match=message):
        Workload(**options)
