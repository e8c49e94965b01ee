"""The envelope of a document: the objects around its arrays, and the layout that says which of them hold records."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

# Envelopes nest two levels in practice.
MAX_DEPTH: Final = 64
# In the place of a key, in an array that is kept; no key has this character as it is.
_IN_ARRAY: Final = "\0"
# Of each key in the path of a message, and of the path.
_PLACE_CHARACTERS: Final = 200


class Problem(Struct, frozen=True):
    """Why reading a document cannot go on; `offset` counts bytes of the unpacked index."""

    message: str
    offset: int


class Broken(Exception):  # noqa: RUF100  # never leaves the framer
    """Reading the document cannot go on."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.problem = Problem(message, offset)


Path = tuple[str, ...]


class Layout(Struct, frozen=True):
    """The paths of records in a document.

    Attributes:
        arrays: the paths of the arrays that hold records, and their kind; `()` is a document that is an array itself.
        nested: the paths of objects, or of arrays of objects, that hold records in their turn, each with the path that
            it is read as: with `{("catalog",): ()}` a catalog in a catalog is read like the document itself.
        singles: where one object may stand in place of an array of them; `()` is a document that is a record itself.
        links: those of the arrays in which a text is no record, but names one that stands elsewhere.
        is_sequence: whether further documents may follow the first one.
        kept: the arrays that are values of the header; all others are empty in it.
    """

    arrays: Mapping[Path, str]
    nested: Mapping[Path, Path] = {}
    singles: frozenset[Path] = frozenset()
    links: frozenset[Path] = frozenset()
    is_sequence: bool = False
    kept: frozenset[Path] = frozenset()


class Envelope:
    """The objects around the arrays, or those of one element of an array that is read like a document of its own.

    Attributes:
        path: the current key of each open object.
        closed: whether the outermost object, or the only value, has ended.
        root: the path in the layout that the envelope as a whole is read as.
        place: its path in the document, for messages: `catalog[]`.
        skeleton: its bytes so far.
        met: the paths of its arrays and objects with records so far.
    """

    def __init__(self, max_bytes: int, *, outside: Envelope | None = None, root: Path = (), place: str = "") -> None:
        self.path: list[str] = []
        self.closed = False
        self.root = root
        self.place = place
        self.met: set[Path] = set()
        self._max = max_bytes
        # The bytes of the envelopes around this one count as well.
        self._held, self._depth = outside.extent if outside else (0, 0)
        self.skeleton = bytearray()
        self._splices: list[tuple[int, int]] = []  # (length of the skeleton, offset in the index) where they run on
        self._last_string = b""

    @property
    def at(self) -> Path:
        """The path in the layout of the next value."""
        return self.root + tuple(self.path)

    @property
    def extent(self) -> tuple[int, int]:
        """The numbers of bytes held and of open objects, the envelopes around this one included."""
        return self._held + len(self.skeleton), self._depth + len(self.path)

    def named(self, *, in_array: bool = False) -> str:
        """The path in the document of the next value, for messages, cut to the length of a line."""
        keys = ".".join(key[:_PLACE_CHARACTERS] for key in self.path)
        dot = "." if self.place and keys else ""
        return f"{self.place}{dot}{keys}"[:_PLACE_CHARACTERS] + "[]" * in_array

    def take(self, token: re.Match[bytes], text: bytes, offset: int) -> None:
        """Take the next token, with the white space before it."""
        self.pass_over(text, offset)
        match token[0]:
            case b"{" | b"[":
                self.path.append("" if token[0] == b"{" else _IN_ARRAY)
                if self._depth + len(self.path) > MAX_DEPTH:
                    raise Broken(f"nested deeper than {MAX_DEPTH} levels", offset)
            case b"}" | b"]" if self.path and (token[0] == b"]") == (self.path[-1] == _IN_ARRAY):
                self.path.pop()
                self.closed = not self.path
            case b"]" | b"}":
                raise Broken("a bracket closes what was never opened", offset + len(text) - 1)
            case b":" if self.path:
                self.path[-1] = self._last_string.decode("utf-8", "replace")
            case _ if token.lastindex == 1:
                self._last_string = token[0][1:-1]
            case _ if not self.path and token.lastindex == 3:  # noqa: PLR2004  # a document that is one scalar
                self.closed = True

    def pass_over(self, text: bytes, offset: int) -> None:
        """Keep a token, but do not follow it: the framer reads the array or object that it opens, up to `resume`."""
        self._extend(text, offset)
        if self._held + len(self.skeleton) > self._max:
            raise Broken(f"more than {self._max:,} bytes outside the records", offset)

    def skip(self, space: bytes, offset: int) -> None:
        """Skip white space that may go on in the next chunk; one byte of it still separates tokens."""
        self._extend(space[:1], offset)

    def resume(self, bracket: str, offset: int) -> None:
        """Go on at `offset`, after an array or object that the framer read."""
        self.skeleton += bracket.encode()
        self._splices.append((len(self.skeleton), offset))
        self.closed = not self.path

    def decode(self) -> dict[str, Any]:
        """Decode the header of a complete envelope."""
        return self._decode(bytes(self.skeleton))

    def decode_open(self) -> dict[str, Any]:
        """Decode the header so far, as if the document ended in the array or object that begins here."""
        closing = b"}" if self.skeleton.endswith(b"{") else b"]"
        return self._decode(bytes(self.skeleton) + closing + b"}" * len(self.path))

    def _extend(self, text: bytes, offset: int) -> None:
        length, begun = self._splices[-1] if self._splices else (0, -1)
        if offset != begun + len(self.skeleton) - length:
            self._splices.append((len(self.skeleton), offset))
        self.skeleton += text

    def _decode(self, skeleton: bytes) -> dict[str, Any]:
        try:
            value = msgspec.json.decode(skeleton.decode())  # as text: for invalid UTF-8 msgspec gives no position
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            position = error_position(exc)
            length, offset = max((splice for splice in self._splices if splice[0] <= position), default=(0, 0))
            raise Broken(error_text(exc), offset + position - length) from exc
        return value if isinstance(value, dict) else {}


def error_position(exc: Exception) -> int:
    """The position in a decoding error, 0 if it has none."""
    if isinstance(exc, UnicodeDecodeError):
        return exc.start
    match = re.search(r"\(byte (\d+)\)", str(exc))
    return int(match[1]) if match else 0


def error_text(exc: Exception) -> str:
    """The message of a decoding error without its position, which is relative to the skeleton."""
    if isinstance(exc, UnicodeDecodeError):
        return "not UTF-8"
    return re.sub(r" \(byte \d+\)|^JSON is malformed: ", "", str(exc))
