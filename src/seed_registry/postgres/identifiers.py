"""Quote identifiers and literals for SQL, and write identifiers for people."""

from __future__ import annotations


def quoted(identifier: str) -> str:
    """Return an identifier quoted for SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def display_name(name: str) -> str:
    """Return a quoted, qualified name without its quotes, for messages."""
    return name.replace('"', "")


def literal(value: str | bytes | int) -> str:
    """Return a value as SQL: no text can end it, whatever the session's settings are."""
    if isinstance(value, int):
        return str(value)
    data = value if isinstance(value, bytes) else value.encode()
    hexadecimal = f"pg_catalog.decode('{data.hex()}', 'hex')"
    return hexadecimal if isinstance(value, bytes) else f"pg_catalog.convert_from({hexadecimal}, 'UTF8')"
