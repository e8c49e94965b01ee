"""Cut chunks of a JSON document (RFC 8259) into the exact bytes of the elements of its arrays.

A document is an *envelope* of nested objects around arrays. The envelope without the arrays' elements is small: it is
kept (the *skeleton*) and decoded as a whole, for its syntax and its header fields. The elements are found in two ways,
with the same result:

- by the block: everything up to the last place that looks like a seam between two elements (the same bytes as between
  the two before) is split at all such places and decoded. An object ends where its last bracket is closed and nowhere
  before, so what decodes from the end of one element to a seam is the next one. Where one does not, or
  elements need not be decoded, msgspec gets the block as one array of raw values: it checks every byte.
- by the token: brackets are counted outside strings, whatever the bytes are and wherever the chunks are cut; some ten
  times slower, and only needed at the beginning, at the end, and where no seam is found.

Pure, fed bytes. Holds one chunk, one element (capped) and the skeleton (capped).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import msgspec

from seed_registry.index.json_envelope import Broken, Envelope, Layout, Path, Problem, error_position
from seed_registry.index.json_scan import SEPARATOR, ElementScan, OpenArray, space_after
from seed_registry.index.ndjson import EXCERPT_BYTES
from seed_registry.index.server_errors import portal_error_text
from seed_registry.index.unread_arrays import IsRecord, UnreadArrays
from seed_registry.records import Piece, RawBlock, RawRecord

_TOKEN = re.compile(rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")|([{}\[\],:])|([^ \t\r\n"{}\[\],:]++)', re.DOTALL)
_COMMA, _CLOSE, BRACE = b",]{"
# A record that is too long to keep is scanned to its end by token; with more open brackets it has none that is right.
_MAX_OPEN_BRACKETS = 10_000

_decode_block = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode
_decode = msgspec.json.Decoder().decode


Decode = Callable[[list[bytes]], tuple[list[Any], list[int]]]


class DocumentFramer:
    """Cuts the records out of a document, or out of several that follow one another, at the paths of the layout.

    Elements of other arrays are checked and dropped; those that look like records are counted.

    A document of a sequence, and each of an array of documents, is a *page*: `feed` and `finish` return at its end, so
    that its records are decoded with its own header, and are called again while bytes are pending.

    Attributes:
        problem: set once the document is found broken; records before that are good.
        header: the page's fields, as far as they have been read when an array begins, complete at its end.
        closed: whether the page has ended, so that `header` is complete.
        pending: whether bytes that were fed wait behind the end of a page.
        pages: how many pages have begun.
        page_offset: where this one begins.
        has_found: whether this page has an array at a path of the layout, even an empty one.
        line: that of the last byte that was read.
        unread: counts elements elsewhere that look like records.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        max_record_bytes: int,
        offset: int = 0,
        line: int = 1,
        is_record: IsRecord = lambda _: False,
        decode: Decode | None = None,
    ) -> None:
        """`decode` decodes the assets of a block; it returns them and the positions of those that it did not decode."""
        self.layout = layout
        self.problem: Problem | None = None
        self.header: dict[str, Any] = {}
        self.closed = False
        self.pending = False
        self.pages = 0
        self.has_found = False
        self.unread = UnreadArrays(is_record)
        self._decode = decode
        self._counts: dict[Path, int] = {}  # of arrays that have ended
        self._counts_before: dict[Path, int] = {}  # this page
        self._max = max_record_bytes
        self._buffer = b""
        self._start = 0  # of the unread rest
        self._base = offset  # of the buffer's first byte
        self.line = line  # of the byte `_counted`
        self._counted = 0
        self._levels: list[_Level] = []  # from the document to the object that is being read
        self._page: _Level | None = None
        self._first_byte = 0  # of each document
        self.page_offset = offset

    @property
    def counts(self) -> dict[Path, int]:
        """The number of records so far, by the path in the layout; also of empty arrays."""
        array = self._levels[-1].array if self._levels else None
        if array is None or array.kind is None:
            return self._counts
        return self._counts | {array.path: self._counts.get(array.path, 0) + array.count}

    @property
    def position(self) -> int:
        """The offset up to which it is read."""
        return self._base + self._start

    @property
    def seam(self) -> tuple[bytes, Path, bytes] | None:
        """Where the document can be cut: the envelope up to the array of assets that is read, its path, and the seam.

        None in any other place, and in a document that has more than one envelope.
        """
        if len(self._levels) != 1 or self.pages != 1:
            return None
        level = self._levels[0]
        array = level.array
        if array is None or array.seam is None or array.kind != "asset" or array.is_walked or array.is_single:
            return None
        return bytes(level.envelope.skeleton), array.path, array.seam

    @property
    def page_counts(self) -> dict[Path, int]:
        """The same of this page."""
        return {path: count - self._counts_before.get(path, 0) for path, count in self.counts.items()}

    @property
    def nothing_found(self) -> str:
        """Where records were expected, and what the server says instead, if it does."""
        wanted = " or ".join(".".join(path) or "the document itself" for path in self.layout.arrays)
        words = portal_error_text(self.header)
        return f"no array of records at {wanted}" + (f'; the portal\'s server says "{words}"' if words else "")

    def feed(self, chunk: bytes) -> list[Piece]:
        """Return the records that end in this chunk, or in the page that ends in it, up to a problem."""
        if chunk:
            self._drop_read()
            self._buffer += chunk
        return self._advance(final=False)

    def finish(self) -> list[Piece]:
        """Return the last records, up to the end of a page; if nothing is pending then, `problem` is final."""
        records = self._advance(final=True)
        if not self.pending and self.problem is None and (self._levels or not self.pages):
            self.problem = Problem("the document is cut off", self._base + len(self._buffer))
        return records

    def _advance(self, *, final: bool) -> list[Piece]:
        records: list[Piece] = []
        position, goes_on = self._start, self.problem is None
        self.pending = False
        try:
            while goes_on:
                if not self._levels:
                    position, goes_on = self._walk_between_documents(position)
                elif (array := self._levels[-1].array) is None:
                    position, goes_on = self._walk_envelope(position, final=final)
                else:
                    position, goes_on = self._walk_elements(array, position, records, final=final)
        except Broken as broken:
            self.problem = broken.problem
        self._line_at(position)
        self._start = position
        if not self.pending:
            self._drop_read()
        return records

    def _drop_read(self) -> None:
        """Drop the read part of the buffer; not for each of many pages in it, because the rest is copied."""
        self._buffer = self._buffer[self._start :]
        self._base += self._start
        self._counted -= self._start
        self._start = 0

    def _walk_between_documents(self, position: int) -> tuple[int, bool]:
        position = space_after(self._buffer, position)
        if position == len(self._buffer):
            return position, False
        if self.pages:
            is_alike = self._buffer[position] == self._first_byte
            is_page = is_alike and (self._first_byte == BRACE or any(self.page_counts.values()))  # not `[][]`
            if not (self.layout.is_sequence and is_page):
                raise Broken("the document has ended, but something follows", self._base + position)
            self._require_records()
        self._first_byte = self._buffer[position]
        self._begin_page(_Level(Envelope(self._max)), position)
        return position, True

    def _begin_page(self, level: _Level, position: int) -> None:
        self._levels.append(level)
        self._page, self.page_offset = level, self._base + position
        self._counts_before, self.has_found = dict(self.counts), False
        self.header, self.closed = {}, False
        self.pages += 1

    def _require_records(self) -> None:
        """Raise, if the page that has ended holds no array of records, not even an empty one."""
        if not self.has_found:
            words = portal_error_text(self.header)
            answer = f'; the server says "{words}"' if words else ""
            raise Broken(f"the page that begins here has no array of records{answer}", self.page_offset)

    def _walk_envelope(self, position: int, *, final: bool) -> tuple[int, bool]:
        """Read on to the next array, to an object that is a record or holds some, or as far as the buffer goes."""
        buffer, envelope = self._buffer, self._levels[-1].envelope
        while True:
            start = position
            position = space_after(buffer, position)
            if position == len(buffer):
                envelope.skip(buffer[start:position], self._base + start)
                return position, False
            token = _TOKEN.match(buffer, position)
            if token is None or (token.end() == len(buffer) and token.lastindex == 3 and not final):  # noqa: PLR2004
                if len(buffer) - position > self._max:
                    raise Broken(f"a text longer than {self._max:,} bytes outside the records", self._base + position)
                return start, False  # cut by the end of the chunk
            text, offset = buffer[start : token.end()], self._base + start
            position = token.end()
            if token[0] == b"[" and not self._is_kept(envelope):
                envelope.pass_over(text, offset)
                self._open_array(envelope)
                return position, True
            if token[0] == b"{" and self._is_apart(envelope):
                envelope.pass_over(text, offset)
                return self._open_object(envelope, position - 1), True
            envelope.take(token, text, offset)
            if envelope.closed:
                return self._close_level(position)

    def _is_kept(self, envelope: Envelope) -> bool:
        """Whether the array that begins here is a value of the header, or in one."""
        path, root = envelope.at, len(envelope.root)
        return bool(self.layout.kept) and path[: root + 1] in self.layout.kept

    def _is_apart(self, envelope: Envelope) -> bool:
        """Whether the object that begins here is a record, or is read like a document of its own."""
        if not envelope.path and len(self._levels) > 1:
            return False  # it is the envelope's own
        path = envelope.at
        return path in self.layout.singles or (bool(path) and path in self.layout.nested)

    def _open_array(self, envelope: Envelope) -> None:
        layout, path = self.layout, envelope.at
        array = OpenArray(path, layout.arrays.get(path), is_walked=path in layout.nested)
        array.has_links = path in layout.links
        self._levels[-1].array = array
        if array.kind is not None:
            self._meet(envelope, path)
            self._counts.setdefault(path, 0)
        elif array.is_walked:
            self._meet(envelope, path)

    def _open_object(self, envelope: Envelope, position: int) -> int:
        """Open what `_is_apart`; returns where reading goes on."""
        layout, path = self.layout, envelope.at
        self._meet(envelope, path)
        if path in layout.singles:
            array = OpenArray(path, layout.arrays.get(path, ""), is_single=True)
            array.scan = ElementScan(self._base + position, self._line_at(position))
            self._levels[-1].array = array
            self._counts.setdefault(path, 0)
            return position
        inner = Envelope(self._max, outside=envelope, root=layout.nested[path], place=envelope.named())
        self._levels.append(_Level(inner))
        return position

    def _meet(self, envelope: Envelope, path: Path) -> None:
        """Note an array at this path of this envelope; the first time, decode the envelope for the header."""
        self.has_found = True
        if path in envelope.met:
            return
        envelope.met.add(path)
        header = envelope.decode_open()
        if self._page is not None and envelope is self._page.envelope:
            self.header = header

    def _close_level(self, position: int) -> tuple[int, bool]:
        """The object, or a document of any other kind, has ended."""
        level = self._levels.pop()
        header = level.envelope.decode()
        if self._levels:
            outside = self._levels[-1]
            if outside.array is None:
                outside.envelope.resume("}", self._base + position)
            else:
                outside.array.end_element()
        if level is not self._page:
            return position, True
        self.header, self.closed = header, True
        if self.pages > 1 or self._levels:
            self._require_records()
        self.pending = position < len(self._buffer)
        return position, False

    def _walk_elements(self, array: OpenArray, position: int, records: list[Piece], *, final: bool) -> tuple[int, bool]:
        """Read elements to the array's end, to one that is read like a document, or as far as the buffer goes."""
        separator = SEPARATOR.match(self._buffer, position) if array.after_element else None
        if separator:
            array.after_element, array.after_comma = False, True
            position = separator.end()
        block_end = self._take_block(array, position, records)
        if block_end > position and not final:
            # The rest is about one element: cheaper with the next chunk.
            return block_end, False
        position = block_end
        buffer, level = self._buffer, self._levels[-1]
        while array.scan is not None or (position := space_after(buffer, position)) < len(buffer):
            if array.scan is None:
                if self._between_elements(array, position):
                    position += 1
                    if level.array is None:
                        return self._behind_array(level, position)
                    continue
                if array.is_walked and buffer[position] == BRACE:
                    self._open_element(array, position)
                    return position, True
                array.scan = ElementScan(self._base + position, self._line_at(position))
            end = array.scan.find_end(buffer, position, final=final)
            if end is None:
                return self._hold_open(array.scan, position), False
            self._emit(array, position, end, array.scan, records)
            position = end
            if array.is_single:
                self._close_array(array, "}", end)
                return self._behind_array(level, end)
        return position, False

    def _behind_array(self, level: _Level, position: int) -> tuple[int, bool]:
        """Go on behind an array, which was the document or one field of it."""
        return self._close_level(position) if level.envelope.closed else (position, True)

    def _open_element(self, array: OpenArray, position: int) -> None:
        """Read an element of the array like a document of its own; one of an array of documents is one."""
        outside = self._levels[-1].envelope
        root, place = self.layout.nested[array.path], outside.named(in_array=True)
        level = _Level(Envelope(self._max, outside=outside, root=root, place=place))
        if array.path:
            self._levels.append(level)
        else:
            self._begin_page(level, position)

    def _between_elements(self, array: OpenArray, position: int) -> bool:
        """Whether the byte there is the array's own comma or bracket; an element follows where it is not."""
        byte = self._buffer[position]
        if byte == _CLOSE and not array.after_comma:
            self._close_array(array, "]", position + 1)
            return True
        if not array.after_element:
            return False
        if byte != _COMMA:
            raise Broken("expected ',' or ']' after a record", self._base + position)
        array.after_element, array.after_comma = False, True
        return True

    def _close_array(self, array: OpenArray, bracket: str, position: int) -> None:
        if array.kind is not None:
            self._counts[array.path] += array.count
        self._levels[-1].array = None
        self._levels[-1].envelope.resume(bracket, self._base + position)

    def _take_block(self, array: OpenArray, position: int, records: list[Piece]) -> int:
        """Take all elements up to the last seam in one go; returns where, or `position` if that did not work."""
        buffer = self._buffer
        if array.seam is None or array.after_element or (array.scan is not None and array.scan.dropped):
            return position
        cut = buffer.rfind(array.seam, position) + 1
        if cut <= position:
            return position
        start = space_after(buffer, position)
        if self._decode is not None and array.kind == "asset" and self._take_decoded(array, start, cut, records):
            return cut
        try:
            values = _decode_block(b"[" + buffer[position:cut] + b"]")
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return position
        array.scan = None
        position = start
        for value in values:
            data = bytes(value)
            scan = ElementScan(self._base + position, self._line_at(position))
            self._take(array, data, scan, records)
            position += len(data)
            if position < cut:
                separator = SEPARATOR.match(buffer, position)
                assert separator is not None, "msgspec took this for an array"
                position = separator.end()
        return cut

    def _take_decoded(self, array: OpenArray, start: int, cut: int, pieces: list[Piece]) -> bool:
        """Take the elements between these places, decoded; False if they are not all cut right, or not all short."""
        assert self._decode is not None
        data, gap = array.split(self._buffer[start:cut])
        lengths = list(map(len, data))
        if max(lengths) > self._max:
            return False
        decoded, others = self._decode(data)
        try:
            for position in others:
                _decode_raw(data[position])
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return False
        first = self._base + start
        *offsets, _ = accumulate((length + len(gap) for length in lengths), initial=first)
        lines = self._lines(data, gap.count(b"\n"), start, cut)
        array.end_element()
        array.count += len(data)
        pieces.append(RawBlock(data, lines, offsets, "asset", decoded or None))
        return True

    def _lines(self, data: list[bytes], between: int, start: int, cut: int) -> Sequence[int]:
        """The line of each element, with `between` newlines between two."""
        line = self._line_at(start)
        inside = self._line_at(cut) - line - between * (len(data) - 1)
        if not inside:
            return range(line, line + between * len(data), between) if between else [line] * len(data)
        *lines, _ = accumulate((element.count(b"\n") + between for element in data), initial=line)
        return lines

    def _emit(self, array: OpenArray, position: int, end: int, scan: ElementScan, records: list[Piece]) -> None:
        """Take the element, or the rest of one, that ends there."""
        if end == position and not scan.dropped:
            raise Broken("a value is expected here", self._base + position)
        self._take(array, self._buffer[position:end], scan, records)
        if not array.is_walked:
            array.learn_seam(self._buffer, position, end)

    def _take(self, array: OpenArray, data: bytes, scan: ElementScan, records: list[Piece]) -> None:
        array.end_element()
        length = scan.dropped + len(data)
        if array.kind is None or (array.has_links and data[:1] == b'"'):
            self._look_into(data, scan, length)
            return
        array.count += 1
        if length > self._max:
            excerpt = scan.excerpt or data[:EXCERPT_BYTES]
            records.append(RawRecord(excerpt, scan.line, scan.offset, array.kind, length))
        else:
            records.append(RawRecord(data, scan.line, scan.offset, array.kind))

    def _look_into(self, data: bytes, scan: ElementScan, length: int) -> None:
        """Check that an element that is not a record is JSON, and count records in it, if it is short enough."""
        place = self._levels[-1].envelope.named()
        if length > self._max:
            if (scan.excerpt or data)[:1] in (b"{", b"["):
                self.unread.note(place)  # its content is unknown
            return
        try:
            element = _decode(data)
        except RecursionError:
            return
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise Broken(str(exc), scan.offset + error_position(exc)) from exc
        self.unread.look_into(place, element)

    def _hold_open(self, scan: ElementScan, position: int) -> int:
        """Keep an element that goes on in the next chunk, or only its excerpt if it is too long already."""
        if not scan.dropped and len(self._buffer) - position <= self._max:
            return position
        scan.drop(self._buffer, position)
        if scan.depth > _MAX_OPEN_BRACKETS:
            raise Broken(f"a record nested deeper than {_MAX_OPEN_BRACKETS:,} levels", scan.offset)
        return len(self._buffer) - scan.unread

    def _line_at(self, position: int) -> int:
        self.line += self._buffer.count(b"\n", self._counted, position)
        self._counted = position
        return self.line


class _Level:
    """An object that is being read, or the document, and the array that is open in it."""

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope
        self.array: OpenArray | None = None
