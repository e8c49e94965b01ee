"""Identifiers and literals: names of tables and columns, as SQL and as people write them, and values in SQL."""

from __future__ import annotations


def quoted(identifier: str) -> str:
    """An identifier, quoted for SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def display_name(name: str) -> str:
    """A quoted, qualified name without its quotes, for messages."""
    return name.replace('"', "")


def literal(value: str | bytes | int) -> str:
    """A value, as SQL: nothing in a text can end it, whatever the session's settings are."""
    if isinstance(value, int):
        return str(value)
    data = value if isinstance(value, bytes) else value.encode()
    hexadecimal = f"pg_catalog.decode('{data.hex()}', 'hex')"
    return hexadecimal if isinstance(value, bytes) else f"pg_catalog.convert_from({hexadecimal}, 'UTF8')"
