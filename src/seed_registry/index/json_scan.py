"""Find where the elements of a JSON array end: token by token, or many at once, at the seams between them."""

from __future__ import annotations

import re

from seed_registry.index.json_envelope import Path
from seed_registry.index.ndjson import EXCERPT_BYTES

SEPARATOR = re.compile(rb"[ \t\r\n]*+,[ \t\r\n]*+")
_SPACE = re.compile(rb"[ \t\r\n]*+")
_SCALAR = re.compile(rb'[^ \t\r\n"{}\[\],:]*+')
_BRACKET = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["{}\[\]]', re.DOTALL)
_REST_OF_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_FIRST_KEY = re.compile(rb'\{[ \t\r\n]{0,64}"[^"\\]{1,64}"')
_QUOTE = ord('"')
_OPENING = b"{["


class ElementScan:
    """The search for the end of one element, by the token, across chunks."""

    def __init__(self, offset: int, line: int) -> None:
        self.offset = offset
        self.line = line
        self.dropped = 0  # bytes of it no longer in the buffer
        self.excerpt = b""
        self.unread = 0  # bytes at the buffer's end that depend on the next one (a dangling backslash)
        self._scanned = 0  # bytes of it in the buffer already scanned
        self.depth = 0  # brackets that are open
        self._in_string = False
        self._is_scalar = False

    def find_end(self, buffer: bytes, start: int, *, final: bool) -> int | None:  # noqa: C901  # a state machine
        """Return where the element that begins at `start` ends, None if that is not in the buffer."""
        position = start + self._scanned
        if position == start and not self.dropped:
            self._is_scalar = buffer[start] not in b'{["'
        if self._is_scalar:
            end = _matched_to(_SCALAR, buffer, position)
            if end < len(buffer) or final:
                return end
            self._mark_scanned(buffer, start, end)
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
        self._mark_scanned(buffer, start, len(buffer))
        return None

    def _leave_string(self, buffer: bytes, start: int, position: int) -> int:
        """Go on to the end of the string, if that is in the buffer."""
        position = _matched_to(_REST_OF_STRING, buffer, position)
        if position < len(buffer) and buffer[position] == _QUOTE:
            self._in_string = False
            return position + 1
        self._mark_scanned(buffer, start, position)
        return position

    def drop(self, buffer: bytes, start: int) -> None:
        """Drop the bytes scanned so far, and keep an excerpt."""
        self.excerpt = self.excerpt or buffer[start : start + EXCERPT_BYTES]
        self.dropped += self._scanned
        self._scanned = 0

    def _mark_scanned(self, buffer: bytes, start: int, position: int) -> None:
        self._scanned = position - start
        self.unread = len(buffer) - position


class OpenArray:
    """An array that is being read, or a record that stands where an array of them may stand."""

    def __init__(self, path: Path, kind: str | None, *, is_walked: bool = False, is_single: bool = False) -> None:
        self.path = path
        self.count = 0
        self.kind = kind  # of its elements, None for an array that is not read
        self.is_walked = is_walked  # each object in it is read like a document of its own
        self.is_single = is_single
        self.has_links = False  # a text in it is no record
        self.after_element = False
        self.after_comma = False
        self.scan: ElementScan | None = None
        self.seam: bytes | None = None

    def end_element(self) -> None:
        """An element has ended."""
        self.scan, self.after_element, self.after_comma = None, True, False

    def learn_seam(self, buffer: bytes, start: int, end: int) -> None:
        """Note the bytes from the end of this element to the first key of the next one."""
        separator = SEPARATOR.match(buffer, end)
        key = separator and _FIRST_KEY.match(buffer, separator.end())
        if key and buffer[end - 1 : end] == b"}" and end > start:
            self.seam = buffer[end - 1 : key.end()]

    def split(self, block: bytes) -> tuple[list[bytes], bytes]:
        """Split a block of whole elements; returns them, and the bytes between two of them."""
        assert self.seam is not None
        head = self.seam[self.seam.index(b"{") :]
        first, *rest = block.split(self.seam)
        if not rest:
            return [first], b""
        last = rest.pop()
        between = self.seam[1 : -len(head)]
        return [first + b"}", *[head + part + b"}" for part in rest], head + last], between


def _matched_to(pattern: re.Pattern[bytes], buffer: bytes, position: int) -> int:
    match = pattern.match(buffer, position)
    assert match is not None, "the pattern matches the empty string"
    return match.end()


def space_after(buffer: bytes, position: int) -> int:
    """Return the position behind white space."""
    return _matched_to(_SPACE, buffer, position)
