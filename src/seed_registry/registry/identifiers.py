"""Identifiers: names of tables and columns, as SQL and as people write them."""

from __future__ import annotations


def quoted(identifier: str) -> str:
    """An identifier, quoted for SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def shown(name: str) -> str:
    """A quoted, qualified name without its quotes, for messages."""
    return name.replace('"', "")
