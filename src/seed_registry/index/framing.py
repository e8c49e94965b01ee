"""Framing lines: chunks of an NDJSON index (https://github.com/ndjson/ndjson-spec) to raw records. Pure, fed bytes."""

from __future__ import annotations

from seed_registry.records import RawRecord

# What is kept of a record that is too long, for the rejects file.
EXCERPT_BYTES = 1 << 10
_JSON_WHITESPACE = b" \t\r"


class LineFramer:
    """Cuts lines wherever the chunks are cut. Blank lines are no records; CRLF and a missing last newline are fine.

    Holds at most `max_record_bytes` and one chunk: a longer line is dropped as it comes, and told by its excerpt.
    """

    def __init__(self, *, max_record_bytes: int, offset: int = 0, line: int = 1) -> None:
        self._max = max_record_bytes
        self._pending: list[bytes] = []  # the pieces of the line that is not finished
        self._pending_bytes = 0  # its length, dropped bytes included
        self._line = line
        self._offset = offset

    def feed(self, chunk: bytes) -> list[RawRecord]:
        """The records that end in this chunk."""
        first, *rest = chunk.split(b"\n")
        self._hold(first)
        if not rest:
            return []
        last = rest.pop()
        records: list[RawRecord] = []
        self._end_line(records)
        line, offset, limit = self._line, self._offset, self._max
        for data in rest:
            if len(data) > limit:
                records.append(RawRecord(data[:EXCERPT_BYTES], line, offset, "", len(data)))
            elif stripped := data.strip(_JSON_WHITESPACE):
                records.append(RawRecord(stripped, line, offset))
            line += 1
            offset += len(data) + 1
        self._line, self._offset = line, offset
        self._hold(last)
        return records

    def finish(self) -> list[RawRecord]:
        """The last record, where the last line has no newline."""
        records: list[RawRecord] = []
        if self._pending_bytes:
            self._end_line(records)
        return records

    def _hold(self, piece: bytes) -> None:
        self._pending_bytes += len(piece)
        if self._pending_bytes <= self._max:
            self._pending.append(piece)
        else:  # too long now: keep what the excerpt needs
            self._pending = [b"".join([*self._pending, piece[:EXCERPT_BYTES]])[:EXCERPT_BYTES]]

    def _end_line(self, records: list[RawRecord]) -> None:
        data = b"".join(self._pending)
        if self._pending_bytes > self._max:
            records.append(RawRecord(data[:EXCERPT_BYTES], self._line, self._offset, "", self._pending_bytes))
        elif stripped := data.strip(_JSON_WHITESPACE):
            records.append(RawRecord(stripped, self._line, self._offset))
        self._line += 1
        self._offset += self._pending_bytes + 1
        self._pending, self._pending_bytes = [], 0
