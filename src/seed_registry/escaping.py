"""Escaping: the one place that makes a stranger's text fit to be seen, in messages, logs and on terminals."""

from __future__ import annotations

from typing import Final

# Long enough for a name or a reason, short enough that no record floods a screen.
SHOWN_CHARACTERS: Final = 200


def printable(text: object, limit: int = SHOWN_CHARACTERS) -> str:
    r"""The text with everything escaped that is not a visible character or a space, cut at `limit` characters.

    Control characters, line breaks, bidirectional overrides, zero-width characters and lone surrogates are escaped
    (CWE-150, CWE-117): `\x1b`, `\n`, `\u202e`.
    """
    plain = str(text)
    if len(plain) > limit:
        plain = plain[:limit] + "…"
    if plain.isprintable():
        return plain
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in plain)
