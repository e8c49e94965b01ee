"""Check JSON for what Postgres refuses and msgspec does not report: depth, UTF-8, U+0000 and lone surrogates."""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Final

# A record nested deeper is rejected, so that the stacks of programs that read the registry suffice.
MAX_DEPTH: Final = 500
# How JSON escapes U+0000; a backslash before it makes it ordinary text.
NUL: Final = b"\\u0000"

_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_ALL_BUT_STRUCTURE = bytes(set(range(256)) - set(b'{}[]"'))
_AS_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_STEPS: Final = dict(zip(b"[]", (1, -1), strict=True))
_HIGH_SURROGATES = range(0xD800, 0xDC00)
_LOW_SURROGATES = range(0xDC00, 0xE000)


def is_utf8(data: bytes) -> bool:
    """Return whether the bytes are UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def may_be_deep(data: bytes) -> bool:
    """Return whether a record has more brackets than `MAX_DEPTH`: the quick check before `depth`."""
    if len(data) <= 2 * MAX_DEPTH:
        return False
    # replace() goes from one to the next in half the time in which count() looks at every byte.
    without = len(data.replace(b"{", b"")) + len(data.replace(b"[", b""))
    return 2 * len(data) - without > MAX_DEPTH


def depth(data: bytes) -> int:
    """Return how many brackets are open at most, of JSON or of its beginning."""
    # Only quotes and brackets are kept. Strings become "" and are removed; one with brackets is an odd part of the
    # split at quotes.
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    structure = data.translate(_AS_ONE_KIND, _ALL_BUT_STRUCTURE).replace(b'""', b"")
    brackets = b"".join(structure.split(b'"')[::2])
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def without_nul(data: bytes) -> bytes:
    r"""Replace escaped U+0000 by U+FFFD; `\\u0000` is a backslash and text, and stays."""
    return _ESCAPE.sub(lambda match: b"\\ufffd" if match[1] == b"0000" else match[0], data)


def has_lone_surrogate(data: bytes) -> bool:
    """Return whether an escape is half a surrogate pair without the other half."""
    awaited = -1  # where the low half of a pair has to begin
    for match in _ESCAPE.finditer(data):
        unit = int(match[1], 16) if match[1] else 0
        if unit in _LOW_SURROGATES:
            if match.start() != awaited:
                return True
            awaited = -1
        elif awaited >= 0:
            return True
        elif unit in _HIGH_SURROGATES:
            awaited = match.end()
    return awaited >= 0
