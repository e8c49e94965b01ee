"""The envelope of a document: the objects around its arrays."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from msgspec import Struct

# Envelopes nest two levels in practice; Postgres takes 13,000, Python's decoders about 1,000.
MAX_DEPTH: Final = 64


class Problem(Struct, frozen=True):
    """Why a document cannot be read on, and where; `offset` counts bytes of the unpacked index."""

    message: str
    offset: int


class Broken(Exception):  # noqa: RUF100  # never leaves the framer
    """The document cannot be read on."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.problem = Problem(message, offset)


class Envelope:
    """The objects around the arrays."""

    def __init__(self, max_bytes: int) -> None:
        self.path: list[str] = []  # the current key of each open object
        self.closed = False
        self._max = max_bytes
        self._skeleton = bytearray()
        self._splices: list[tuple[int, int]] = []  # (length of the skeleton, offset in the index) where they run on
        self._last_string = b""

    def take(self, token: re.Match[bytes], text: bytes, offset: int) -> None:
        """The next token, with the white space before it."""
        self._extend(text, offset)
        if len(self._skeleton) > self._max:
            raise Broken(f"more than {self._max:,} bytes outside the records", offset)
        match token[0]:
            case b"{":
                self.path.append("")
                if len(self.path) > MAX_DEPTH:
                    raise Broken(f"nested deeper than {MAX_DEPTH} levels", offset)
            case b"}" if self.path:
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

    def skip(self, space: bytes, offset: int) -> None:
        """White space that may go on in the next chunk: one byte of it still keeps apart what it kept apart."""
        self._extend(space[:1], offset)

    def resume(self, bracket: str, offset: int) -> None:
        """An array has ended; the envelope goes on at `offset`."""
        self._skeleton += bracket.encode()
        self._splices.append((len(self._skeleton), offset))
        self.closed = not self.path

    def decode(self) -> dict[str, Any]:
        """The header, of a complete envelope."""
        return self._decode(bytes(self._skeleton))

    def decode_open(self) -> dict[str, Any]:
        """The header so far: the envelope as if everything ended in the array that begins here."""
        return self._decode(bytes(self._skeleton) + b"]" + b"}" * len(self.path))

    def _extend(self, text: bytes, offset: int) -> None:
        length, begun = self._splices[-1] if self._splices else (0, -1)
        if offset != begun + len(self._skeleton) - length:
            self._splices.append((len(self._skeleton), offset))
        self._skeleton += text

    def _decode(self, skeleton: bytes) -> dict[str, Any]:
        try:
            value = msgspec.json.decode(skeleton.decode())  # as text: msgspec tells no place of what is not UTF-8
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            position = error_position(exc)
            length, offset = max((splice for splice in self._splices if splice[0] <= position), default=(0, 0))
            raise Broken(error_text(exc), offset + position - length) from exc
        return value if isinstance(value, dict) else {}


def error_position(exc: Exception) -> int:
    """The byte that a decoding error names, 0 where it names none."""
    if isinstance(exc, UnicodeDecodeError):
        return exc.start
    match = re.search(r"\(byte (\d+)\)", str(exc))
    return int(match[1]) if match else 0


def error_text(exc: Exception) -> str:
    """What a decoding error says, without the position: that one is told relative to the index."""
    if isinstance(exc, UnicodeDecodeError):
        return "not UTF-8"
    return re.sub(r" \(byte \d+\)|^JSON is malformed: ", "", str(exc))
