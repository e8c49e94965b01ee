"""Escape text of unknown origin for messages, logs and terminals."""

from __future__ import annotations

import unicodedata
from typing import Final

# Long enough for a name or a reason, short enough that no record floods a screen.
SHOWN_CHARACTERS: Final = 200
# No script stacks as many on one letter; hundreds of them are drawn over the lines above and below.
_MARKS_IN_A_ROW: Final = 8


def printable(text: object, limit: int = SHOWN_CHARACTERS) -> str:
    r"""The text with everything escaped that is not a visible character or a space, cut at `limit` characters.

    Control characters, line breaks, bidirectional overrides, zero-width characters, lone surrogates and floods of
    combining marks are escaped (CWE-150, CWE-117): `\x1b`, `\n`, `\u202e`.
    """
    plain = str(text)
    if len(plain) > limit:
        plain = plain[:limit] + "…"
    if plain.isprintable() and plain.isascii():
        return plain
    shown, marks = [], 0
    for char in plain:
        marks = marks + 1 if unicodedata.combining(char) else 0
        is_visible = char.isprintable() and marks <= _MARKS_IN_A_ROW
        shown.append(char if is_visible else char.encode("unicode_escape").decode())
    return "".join(shown)


def encodable(path: str) -> str:
    """Return a path with its bytes that are not UTF-8 escaped: JSON and Postgres take no others."""
    return path.encode(errors="backslashreplace").decode()


def quote_text(text: object) -> str:
    """Return a text of any origin for a message: printable, and in quotes."""
    return f"'{printable(text)}'"
