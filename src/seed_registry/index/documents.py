"""Framing documents: chunks of one JSON value (RFC 8259) to the exact bytes of the elements of its arrays.

A document is an *envelope* of nested objects around arrays. The envelope without the arrays' elements is small: it is
kept (the *skeleton*), decoded as a whole, and answers for the syntax and the header fields. The elements are found in
two ways that always agree:

- by the block: up to the last place that looks like a seam between two elements (the same bytes as between the two
  before), everything is given to msgspec as one array of raw values. It checks every byte, so if that is an array, the
  seam was one; about 1 GB/s.
- by the token: brackets are counted outside strings, whatever the bytes are and wherever the chunks are cut; some ten
  times slower, and only needed at the beginning, at the end, and where no seam is found.

Pure, fed bytes. Holds one chunk, one element (capped) and the skeleton (capped).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from seed_registry.index.envelope import Broken, Envelope, Problem, error_position
from seed_registry.index.framing import EXCERPT_BYTES
from seed_registry.records import RawRecord

_SPACE = re.compile(rb"[ \t\r\n]*+")
_TOKEN = re.compile(rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")|([{}\[\],:])|([^ \t\r\n"{}\[\],:]++)', re.DOTALL)
_SCALAR = re.compile(rb'[^ \t\r\n"{}\[\],:]*+')
_BRACKET = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["{}\[\]]', re.DOTALL)
_REST_OF_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_SEPARATOR = re.compile(rb"[ \t\r\n]*+,[ \t\r\n]*+")
_FIRST_KEY = re.compile(rb'\{[ \t\r\n]{0,64}"[^"\\]{1,64}"')
_QUOTE, _COMMA, _CLOSE = b'",]'
_OPENING = b"{["
# A record that is too long to keep is followed to its end by the token; one that opens brackets only has none.
_MAX_OPEN_BRACKETS = 1_000_000

_decode_block = msgspec.json.Decoder(list[msgspec.Raw]).decode
_check = msgspec.json.Decoder(msgspec.Raw).decode


class DocumentFramer:
    """Cuts the elements out of the arrays at the given paths, e.g. `{("sources",): "source", ("assets",): "asset"}`.

    `()` is the path of a document that is an array itself. Elements of other arrays are checked and dropped.

    Attributes:
        problem: set once the document is found broken; the records returned before and with it are good.
        header: the envelope's fields, as far as they have been read when an array begins, complete at the end.
    """

    def __init__(self, arrays: Mapping[tuple[str, ...], str], *, max_record_bytes: int, offset: int = 0) -> None:
        self.problem: Problem | None = None
        self.header: dict[str, Any] = {}
        self._found: dict[tuple[str, ...], _Elements] = {}
        self.arrays = arrays
        self._max = max_record_bytes
        self._buffer = b""
        self._base = offset  # of the buffer's first byte
        self._line = 1  # of the byte `_counted`
        self._counted = 0
        self._envelope = Envelope(max_record_bytes)
        self._elements: _Elements | None = None  # the array that is being read

    @property
    def counts(self) -> dict[tuple[str, ...], int]:
        """The wanted arrays that were there, by path, and how many elements they had so far."""
        return {path: elements.count for path, elements in self._found.items()}

    @property
    def closed(self) -> bool:
        """Whether the document has ended, so that `header` is complete."""
        return self._envelope.closed

    def feed(self, chunk: bytes) -> list[RawRecord]:
        """The records that end in this chunk, as far as the document is sound."""
        self._buffer += chunk
        return self._advance(final=False)

    def finish(self) -> list[RawRecord]:
        """The last records; afterwards `problem` tells whether the document was whole."""
        records = self._advance(final=True)
        if self.problem is None and not self._envelope.closed:
            self.problem = Problem("the document is cut off", self._base + len(self._buffer))
        return records

    def _advance(self, *, final: bool) -> list[RawRecord]:
        records: list[RawRecord] = []
        position = 0
        try:
            while self.problem is None:
                if self._elements is None:
                    position = self._walk_envelope(position, final=final)
                if self._elements is None:
                    break
                position = self._walk_elements(self._elements, position, records, final=final)
                if self._elements is not None:
                    break
        except Broken as broken:
            self.problem = broken.problem
        self._line_at(position)
        self._buffer = self._buffer[position:]
        self._base += position
        self._counted -= position
        return records

    def _walk_envelope(self, position: int, *, final: bool) -> int:
        """Read on to the next array or as far as the buffer goes; returns where."""
        buffer, envelope = self._buffer, self._envelope
        while True:
            start = position
            position = _space_after(buffer, position)
            if position == len(buffer):
                envelope.skip(buffer[start:position], self._base + start)
                break
            if envelope.closed:
                raise Broken("the document has ended, but something follows", self._base + position)
            token = _TOKEN.match(buffer, position)
            if token is None or (token.end() == len(buffer) and token.lastindex == 3 and not final):  # noqa: PLR2004
                if len(buffer) - position > self._max:
                    raise Broken(f"a text longer than {self._max:,} bytes outside the records", self._base + position)
                return start  # cut by the end of the chunk
            envelope.take(token, buffer[start : token.end()], self._base + start)
            position = token.end()
            if token[0] == b"[":
                path = tuple(envelope.path)
                if path in self.arrays and path not in self._found:
                    self.header = envelope.decode_open()
                self._elements = _Elements(self.arrays.get(path))
                if path in self.arrays:
                    self._elements.count = self.counts.get(path, 0)
                    self._found[path] = self._elements
                return position
        if envelope.closed:
            self.header = envelope.decode()
        return position

    def _walk_elements(self, array: _Elements, position: int, records: list[RawRecord], *, final: bool) -> int:
        """Read elements to the array's end or as far as the buffer goes; returns where."""
        separator = _SEPARATOR.match(self._buffer, position) if array.after_element else None
        if separator:
            array.after_element, array.after_comma = False, True
            position = separator.end()
        block_end = self._take_block(array, position, records)
        if block_end > position and not final:
            return block_end  # what is left is less than an element or so: cheaper when the next chunk is there
        position = block_end
        buffer = self._buffer
        while True:
            if array.scan is None:
                position = _space_after(buffer, position)
                if position == len(buffer):
                    return position
                if self._between_elements(array, position):
                    position += 1
                    if self._elements is None:
                        return position
                    continue
                array.scan = _Scan(self._base + position, self._line_at(position))
            end = array.scan.find_end(buffer, position, final=final)
            if end is None:
                return self._hold_open(array.scan, position)
            if end == position and not array.scan.dropped:
                raise Broken("a value is expected here", self._base + position)
            self._emit(array, buffer[position:end], array.scan, records)
            array.learn_seam(buffer, position, end)
            position = end

    def _between_elements(self, array: _Elements, position: int) -> bool:
        """Whether the byte there is the array's own comma or bracket; an element follows where it is not."""
        byte = self._buffer[position]
        if byte == _CLOSE and not array.after_comma:
            self._envelope.resume("]", self._base + position + 1)
            self._elements = None
            return True
        if not array.after_element:
            return False
        if byte != _COMMA:
            raise Broken("expected ',' or ']' after a record", self._base + position)
        array.after_element, array.after_comma = False, True
        return True

    def _take_block(self, array: _Elements, position: int, records: list[RawRecord]) -> int:
        """Take all elements up to the last seam in one go; returns where, or `position` if that did not work."""
        buffer = self._buffer
        if array.seam is None or array.after_element or (array.scan is not None and array.scan.dropped):
            return position
        cut = buffer.rfind(array.seam, position) + 1
        if cut <= position:
            return position
        try:
            values = _decode_block(b"[" + buffer[position:cut] + b"]")
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return position
        array.scan = None
        position = _space_after(buffer, position)
        for value in values:
            data = bytes(value)
            scan = _Scan(self._base + position, self._line_at(position))
            self._emit(array, data, scan, records)
            position += len(data)
            if position < cut:
                separator = _SEPARATOR.match(buffer, position)
                assert separator is not None, "msgspec took this for an array"
                position = separator.end()
        return cut

    def _emit(self, array: _Elements, data: bytes, scan: _Scan, records: list[RawRecord]) -> None:
        array.scan, array.after_element, array.after_comma = None, True, False
        array.count += 1
        length = scan.dropped + len(data)
        if array.kind is None:
            self._check_ignored(data, scan, length)
        elif length > self._max:
            excerpt = scan.excerpt or data[:EXCERPT_BYTES]
            records.append(RawRecord(excerpt, scan.line, scan.offset, array.kind, length))
        else:
            records.append(RawRecord(data, scan.line, scan.offset, array.kind))

    def _check_ignored(self, data: bytes, scan: _Scan, length: int) -> None:
        """An element of an array that nobody wants must be JSON all the same, where it is short enough to tell."""
        if length > self._max:
            return
        try:
            _check(data)
        except RecursionError:
            return
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise Broken(str(exc), scan.offset + error_position(exc)) from exc

    def _hold_open(self, scan: _Scan, position: int) -> int:
        """Keep an element that goes on in the next chunk, or only its excerpt if it is too long already."""
        if not scan.dropped and len(self._buffer) - position <= self._max:
            return position
        scan.drop(self._buffer, position)
        if scan.depth > _MAX_OPEN_BRACKETS:
            raise Broken(f"a record nested deeper than {_MAX_OPEN_BRACKETS:,} levels", scan.offset)
        return len(self._buffer) - scan.unread

    def _line_at(self, position: int) -> int:
        self._line += self._buffer.count(b"\n", self._counted, position)
        self._counted = position
        return self._line


class _Scan:
    """The search for the end of one element, by the token, across chunks."""

    def __init__(self, offset: int, line: int) -> None:
        self.offset = offset
        self.line = line
        self.dropped = 0  # bytes of it no longer in the buffer
        self.excerpt = b""
        self.unread = 0  # bytes at the buffer's end that cannot be judged yet (a dangling backslash)
        self._scanned = 0  # bytes of it in the buffer already judged
        self.depth = 0  # brackets that are open
        self._in_string = False
        self._is_scalar = False

    def find_end(self, buffer: bytes, start: int, *, final: bool) -> int | None:  # noqa: C901  # a state machine
        """Where the element that begins at `start` ends, None if that is not in the buffer."""
        position = start + self._scanned
        if position == start and not self.dropped:
            self._is_scalar = buffer[start] not in b'{["'
        if self._is_scalar:
            end = _matched_to(_SCALAR, buffer, position)
            if end < len(buffer) or final:
                return end
            self._judged(buffer, start, end)
            return None
        if self._in_string:
            position = self._leave_string(buffer, start, position)
            if self._in_string or not self.depth:
                return None if self._in_string else position
        for match in _BRACKET.finditer(buffer, position):
            byte = buffer[match.start()]
            if byte in _OPENING:
                self.depth += 1
            elif byte != _QUOTE:
                self.depth -= 1
            elif match.end() - match.start() == 1:  # a string that does not end here
                self._in_string = True
                self._leave_string(buffer, start, match.end())
                return None
            if self.depth <= 0:
                return match.end()
        self._judged(buffer, start, len(buffer))
        return None

    def _leave_string(self, buffer: bytes, start: int, position: int) -> int:
        """Go on to the end of the string, if that is in the buffer."""
        position = _matched_to(_REST_OF_STRING, buffer, position)
        if position < len(buffer) and buffer[position] == _QUOTE:
            self._in_string = False
            return position + 1
        self._judged(buffer, start, position)
        return position

    def drop(self, buffer: bytes, start: int) -> None:
        """Forget the bytes judged so far, but for an excerpt."""
        self.excerpt = self.excerpt or buffer[start : start + EXCERPT_BYTES]
        self.dropped += self._scanned
        self._scanned = 0

    def _judged(self, buffer: bytes, start: int, position: int) -> None:
        self._scanned = position - start
        self.unread = len(buffer) - position


class _Elements:
    """An array that is being read."""

    def __init__(self, kind: str | None) -> None:
        self.count = 0
        self.kind = kind  # of its elements, None where nobody wants them
        self.after_element = False
        self.after_comma = False
        self.scan: _Scan | None = None
        self.seam: bytes | None = None

    def learn_seam(self, buffer: bytes, start: int, end: int) -> None:
        """Note the bytes from the end of this element to the first key of the next one."""
        separator = _SEPARATOR.match(buffer, end)
        key = separator and _FIRST_KEY.match(buffer, separator.end())
        if key and buffer[end - 1 : end] == b"}" and end > start:
            self.seam = buffer[end - 1 : key.end()]


def _matched_to(pattern: re.Pattern[bytes], buffer: bytes, position: int) -> int:
    match = pattern.match(buffer, position)
    assert match is not None, "the pattern matches the empty string"
    return match.end()


def _space_after(buffer: bytes, position: int) -> int:
    return _matched_to(_SPACE, buffer, position)
