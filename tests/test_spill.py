from __future__ import annotations

import random
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seed_registry import spill
from seed_registry.errors import StorageFailed
from seed_registry.records import Asset, RawRecord
from seed_registry.spill import DistinctHashes, ParkedAssets

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine fails no test


def asset(number: int, size: int = 10) -> Asset:
    raw = b'{"id":%d,"x":"%b"}' % (number, b"y" * size)
    return Asset(f"k{number}", "", "name", None, None, datetime.now(UTC), raw, b"h" * 16, number + 1, number * 100)


def test_parked_assets_come_back_in_their_order_as_their_own_bytes() -> None:
    parked = ParkedAssets()
    assets = [asset(number % 7, number) for number in range(300)]
    for number, one in enumerate(assets):
        parked.park(one, number)
    assert parked.count == 300
    assert list(parked.take_all()) == [RawRecord(one.raw, one.line, one.offset, "asset") for one in assets]
    assert parked.count == 0


def test_parked_assets_go_to_disk_when_they_are_many(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(spill, "_SPOOL_MEMORY_BYTES", 1000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    parked = ParkedAssets()
    for number in range(200):
        parked.park(asset(number, 100_000 if number == 50 else 50), number)
    assert parked._file is not None
    assert parked._file._rolled  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == [], "the file has no name"
    assert [record.line for record in parked.take_all()] == list(range(1, 201))


def test_a_key_that_was_parked_is_held_and_hardly_another() -> None:
    parked = ParkedAssets()
    rng = random.Random(2)
    hashes = [*range(40), *(rng.getrandbits(64) for _ in range(2000))]
    assert not any(map(parked.holds, hashes))
    for one in hashes:
        parked.park(asset(1), one)
    assert all(map(parked.holds, hashes))
    assert sum(parked.holds(rng.getrandbits(64)) for _ in range(10_000)) < 20
    parked.close()


@pytest.mark.parametrize("key_hash", [0, 7, 8, spill._FILTER_BITS - 1, (1 << 64) - 1])
def test_any_hash_can_be_parked(key_hash: int) -> None:
    parked = ParkedAssets()
    parked.park(asset(1), key_hash)
    assert parked.holds(key_hash)
    assert not parked.holds(key_hash ^ 1)
    parked.close()


def test_after_taking_all_nothing_is_held_and_parking_begins_anew() -> None:
    parked = ParkedAssets()
    assert list(parked.take_all()) == []
    parked.park(asset(1), 1)
    assert len(list(parked.take_all())) == 1
    assert not parked.holds(1)
    parked.park(asset(2), 2)
    assert not parked.holds(1)
    assert [record.line for record in parked.take_all()] == [3]
    assert list(parked.take_all()) == []


def test_closing_gives_the_file_back() -> None:
    parked = ParkedAssets()
    parked.park(asset(1), 1)
    file = parked._file
    assert file is not None
    parked.close()
    parked.close()
    assert file.closed


def test_a_full_disk_is_an_error_that_names_the_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(tempfile, "SpooledTemporaryFile", lambda _: full)
        with pytest.raises(
            StorageFailed, match=r"temporary file in .* cannot be written: No space left .*; set TMPDIR"
        ):
            ParkedAssets().park(asset(1), 1)


hashes = st.one_of(st.integers(0, 40), st.integers(0, (1 << 64) - 1))


@given(st.lists(hashes), st.integers(1, 9))
@untimed
def test_distinct_hashes_are_counted_exactly_however_often_they_spill(values: list[int], block: int) -> None:
    distinct = DistinctHashes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill, "_BLOCK_HASHES", block)
        for value in values:
            distinct.add(value)
    assert distinct.count() == len(set(values))
    assert (distinct._file is not None) == (len(values) >= block)
    distinct.close()


def test_counting_in_between_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "_BLOCK_HASHES", 100)
    distinct, rng = DistinctHashes(), random.Random(4)
    seen: set[int] = set()
    for number in range(1050):
        value = rng.getrandbits(64) if rng.random() < 0.7 or not seen else rng.choice(sorted(seen))
        seen.add(value)
        distinct.add(value)
        if number % 130 == 0:
            assert distinct.count() == distinct.count() == len(seen)
    assert distinct.count() == len(seen)
    distinct.close()
    distinct.close()


def test_many_hashes_spill_with_the_real_block_size() -> None:
    distinct = DistinctHashes()
    for value in range(spill._BLOCK_HASHES + 1000):
        distinct.add(value)
        if value % 3 == 0:
            distinct.add(value)
    assert distinct._file is not None
    assert distinct.count() == spill._BLOCK_HASHES + 1000
    assert len(distinct._new) < spill._BLOCK_HASHES, "what was spilled is no longer held"
    distinct.close()
