"""Cut chunks of NDJSON (https://github.com/ndjson/ndjson-spec) into raw records. Pure, fed bytes."""

from __future__ import annotations

from itertools import accumulate

from seed_registry.records import Piece, RawBlock, RawRecord

# Bytes kept of a record that is too long, for the rejects file.
EXCERPT_BYTES = 1 << 10
_JSON_WHITESPACE = b" \t\r"


class LineFramer:
    """Cuts lines wherever the chunks are cut. Blank lines are no records; CRLF and a missing last newline are fine.

    Holds at most `max_record_bytes` and one chunk; of a longer line only an excerpt is kept.

    Attributes:
        line: the number of the line that is not finished.
    """

    def __init__(self, *, max_record_bytes: int, offset: int = 0, line: int = 1) -> None:
        self._max = max_record_bytes
        self._pending: list[bytes] = []  # the pieces of the line that is not finished
        self._pending_bytes = 0  # its length, dropped bytes included
        self.line = line
        self._offset = offset

    def feed(self, chunk: bytes) -> list[Piece]:
        """Return the records that end in this chunk."""
        lines = chunk.split(b"\n")
        if len(lines) == 1:
            self._hold(chunk)
            return []
        last = lines.pop()
        pieces: list[Piece] = []
        if self._pending:
            self._hold(lines[0])
            if self._pending_bytes > self._max:
                self._end_long_line(pieces)
                del lines[0]
            else:
                lines[0] = b"".join(self._pending)
                self._pending, self._pending_bytes = [], 0
        self._take(lines, pieces)
        self._hold(last)
        return pieces

    def finish(self) -> list[Piece]:
        """Return the last record, if the last line has no newline."""
        pieces: list[Piece] = []
        if self._pending_bytes > self._max:
            self._end_long_line(pieces)
        elif self._pending_bytes:
            self._take([b"".join(self._pending)], pieces)
            self._pending, self._pending_bytes = [], 0
        return pieces

    def _take(self, lines: list[bytes], pieces: list[Piece]) -> None:
        """Take whole lines, the first at `_line` and `_offset`."""
        if not lines:
            return
        line, count = self.line, len(lines)
        lengths = list(map(len, lines))
        *offsets, end = accumulate((length + 1 for length in lengths), initial=self._offset)
        self.line, self._offset = line + count, end
        data = [text.strip(_JSON_WHITESPACE) for text in lines]
        if max(lengths) <= self._max and all(data):
            pieces.append(RawBlock(data, range(line, line + count), offsets))
            return
        start = 0
        for position in [at for at in range(count) if lengths[at] > self._max or not data[at]]:
            self._append(pieces, data, offsets, line, slice(start, position))
            if lengths[position] > self._max:
                excerpt = lines[position][:EXCERPT_BYTES]
                pieces.append(RawRecord(excerpt, line + position, offsets[position], "", lengths[position]))
            start = position + 1
        self._append(pieces, data, offsets, line, slice(start, count))

    def _append(self, pieces: list[Piece], data: list[bytes], offsets: list[int], line: int, part: slice) -> None:
        if part.start < part.stop:
            pieces.append(RawBlock(data[part], range(line + part.start, line + part.stop), offsets[part]))

    def _hold(self, piece: bytes) -> None:
        self._pending_bytes += len(piece)
        if self._pending_bytes <= self._max:
            if piece:
                self._pending.append(piece)
        else:  # too long now: keep the excerpt
            self._pending = [b"".join([*self._pending, piece[:EXCERPT_BYTES]])[:EXCERPT_BYTES]]

    def _end_long_line(self, pieces: list[Piece]) -> None:
        excerpt = b"".join(self._pending)
        pieces.append(RawRecord(excerpt, self.line, self._offset, "", self._pending_bytes))
        self.line += 1
        self._offset += self._pending_bytes + 1
        self._pending, self._pending_bytes = [], 0
