"""Records are gathered into batches of so many rows or bytes, whichever is reached first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from seed_registry.records import RawRecord
from seed_registry.registry.batch import Batcher

RECORDS = st.lists(st.integers(0, 30), max_size=40).map(
    lambda sizes: [RawRecord(b"x" * size, 1, number) for number, size in enumerate(sizes)]
)


def batches(records: list[RawRecord], rows: int, max_bytes: int) -> list[list[RawRecord]]:
    """One record after the other; the last batch may not be full."""
    found: list[list[RawRecord]] = [[]]
    for record in records:
        found[-1].append(record)
        if len(found[-1]) >= rows or sum(len(one.data) for one in found[-1]) >= max_bytes:
            found.append([])
    return found


@given(chunks=st.lists(RECORDS, max_size=4), rows=st.integers(1, 9), max_bytes=st.integers(1, 99))
def test_batches_do_not_depend_on_how_many_records_come_at_once(
    chunks: list[list[RawRecord]], rows: int, max_bytes: int
) -> None:
    batcher = Batcher[RawRecord](rows, max_bytes, "data")
    full = [batch for chunk in chunks for batch in batcher.split(chunk)]
    assert [*full, batcher.take()] == batches([record for chunk in chunks for record in chunk], rows, max_bytes)
    assert batcher.take() == []


@given(records=RECORDS, rows=st.integers(1, 9), max_bytes=st.integers(1, 99))
def test_what_belongs_together_may_be_more_than_a_batch(records: list[RawRecord], rows: int, max_bytes: int) -> None:
    batcher = Batcher[RawRecord](rows, max_bytes, "data")
    batcher.append(records)
    assert batcher.is_full == (len(batches(records, rows, max_bytes)) > 1)
    assert batcher.take() == records
    assert not batcher.is_full


@given(
    chunks=st.lists(RECORDS, max_size=4),
    rows=st.integers(1, 9),
    max_bytes=st.integers(1, 99),
    first=st.sampled_from([0.01, 0.25, 0.5, 1.0]),
)
def test_only_the_first_batch_may_be_smaller(
    chunks: list[list[RawRecord]], rows: int, max_bytes: int, first: float
) -> None:
    records = [record for chunk in chunks for record in chunk]
    batcher = Batcher[RawRecord](rows, max_bytes, "data", first=first)
    full = [batch for chunk in chunks for batch in batcher.split(chunk)]
    found = [*full, batcher.take()]
    start = len(batches(records, max(int(rows * first), 1), max(int(max_bytes * first), 1))[0])
    assert found == [records[:start], *(batches(records[start:], rows, max_bytes) if full else [])]
