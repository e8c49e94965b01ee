from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seed_registry.index.ndjson import EXCERPT_BYTES, LineFramer
from seed_registry.records import RawRecord, raw_records

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine fails no test
NO_LIMIT = 1 << 20
# Whole pieces as well as single bytes, so that lines of every kind come up often.
piece = st.one_of(st.binary(max_size=6), st.text("a{} \t\r\n", max_size=12).map(str.encode))
chunks = st.lists(piece, max_size=12)


def framed(parts: Iterable[bytes], limit: int = NO_LIMIT, offset: int = 0) -> list[RawRecord]:
    framer = LineFramer(max_record_bytes=limit, offset=offset)
    pieces = [piece for part in parts for piece in framer.feed(part)]
    return raw_records(pieces + framer.finish())


def model(data: bytes, limit: int = NO_LIMIT) -> list[RawRecord]:
    records, offset = [], 0
    for number, line in enumerate(data.split(b"\n"), 1):
        if len(line) > limit:
            records.append(RawRecord(line[:EXCERPT_BYTES], number, offset, "", len(line)))
        elif line.strip(b" \t\r"):
            records.append(RawRecord(line.strip(b" \t\r"), number, offset))
        offset += len(line) + 1
    return records


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@given(chunks)
@untimed
def test_lines_are_the_same_wherever_the_chunks_are_cut(parts: list[bytes]) -> None:
    assert framed(parts) == model(b"".join(parts))


@given(chunks)
@untimed
def test_an_offset_points_at_the_record_and_a_line_number_counts_newlines(parts: list[bytes]) -> None:
    data = b"".join(parts)
    for record in framed(parts):
        assert data[record.offset :].lstrip(b" \t\r").startswith(record.data)
        assert record.line == data.count(b"\n", 0, record.offset) + 1


@given(chunks, st.integers(1, 9))
@untimed
def test_a_line_is_too_long_wherever_the_chunks_are_cut(parts: list[bytes], limit: int) -> None:
    assert framed(parts, limit) == model(b"".join(parts), limit)


def test_offsets_begin_at_the_given_one() -> None:
    assert [record.offset for record in framed([b"a\nb\n"], offset=3)] == [3, 5]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n \t\n"])
@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_blank_lines_carriage_returns_and_a_missing_last_newline_change_nothing(
    newline: bytes, end: bytes, size: int
) -> None:
    data = newline.join([b'{"a":1}', b"", b"  ", b' {"b":2}\t']) + end
    records = framed(in_pieces(data, size))
    assert [(record.data, record.line) for record in records] == [(b'{"a":1}', 1), (b'{"b":2}', 4)]


def test_nothing_and_blanks_alone_hold_no_record() -> None:
    assert framed([]) == framed([b""]) == framed([b"\n\r\n \t\n", b" "]) == []


def test_finishing_twice_returns_the_last_record_once() -> None:
    framer = LineFramer(max_record_bytes=NO_LIMIT)
    framer.feed(b"a")
    assert len(framer.finish()) == 1
    assert framer.finish() == []


@pytest.mark.parametrize("size", [1, 100, 1023, 1024, 1025, 3000, 100_000])
@pytest.mark.parametrize("before", [b"", b"{}\n"])
@pytest.mark.parametrize("newline", [b"", b"\n"])
def test_a_line_that_is_too_long_keeps_its_beginning_and_its_length(size: int, before: bytes, newline: bytes) -> None:
    line = b"".join(b"%06d" % number for number in range(1000))
    after = b'{"next":1}\n' if newline else b""
    records = framed(in_pieces(before + line + newline + after, size), limit=2048)
    found = records[1 if before else 0]
    assert found == RawRecord(line[:EXCERPT_BYTES], 1 + bool(before), len(before), "", len(line))
    assert [record.data for record in records if not record.excess] == [b"{}"] * bool(before) + (
        [b'{"next":1}'] if newline else []
    )


def test_a_line_as_long_as_the_limit_is_a_record() -> None:
    at_limit, beyond = framed([b"x" * 1024 + b"\n" + b"x" * 1025], limit=1024)
    assert (at_limit.excess, len(at_limit.data), beyond.excess) == (0, 1024, 1025)


@pytest.mark.parametrize("size", [4096, 65_536])
def test_an_endless_line_is_not_held_in_memory(size: int) -> None:
    framer = LineFramer(max_record_bytes=100_000)
    most = 0
    for _ in range(20 << 20 >> 12):
        assert framer.feed(b"x" * size) == []
        most = max(most, sum(map(len, framer._pending)))
    assert 0 < most <= 100_000 + size
    (record,) = raw_records(framer.finish())
    assert record.excess == size * (20 << 20 >> 12)
