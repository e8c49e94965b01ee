"""Describe every field of the two tables: the columns that it fits, and the type in which it is staged.

A field of assets is added here, in `records.Asset`, in `sql/schema.sql`, and where decoder and dialects fill it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

TEXT_TYPES: Final = frozenset({"text", "varchar", "bpchar", "citext"})
ID_TYPES: Final = frozenset({"int8", "int4", "uuid"})
MOMENT_TYPES: Final = frozenset({"timestamptz", "timestamp"})
_DOCUMENT_TYPES: Final = frozenset({"jsonb", "json", "text"})
_BYTES: Final = frozenset({"bytea"})


class Field(Struct, frozen=True):
    """What the program knows of a field, whatever the table.

    Attributes:
        types: of the columns that can store it (pg_type.typname).
        staged: the type in which it is staged; None for that of its column.
        straight: the types of columns into which it can be copied as it is staged.
        names: of columns that may store it, in order, where the operator names none; empty for its own.
        is_optional: whether a record may lack it.
        is_large: whether its values are long enough to be compressed.
    """

    types: frozenset[str] = TEXT_TYPES
    staged: str | None = "text"
    straight: frozenset[str] = frozenset({"text", "varchar"})
    names: tuple[str, ...] = ()
    is_optional: bool = False
    is_large: bool = False


FIELDS: Final[Mapping[str, Field]] = {
    "source_key": Field(names=("source_key", "domain", "host", "key", "slug")),
    "asset_key": Field(),
    "source_id": Field(ID_TYPES, staged=None, straight=ID_TYPES),
    "provider": Field(),
    "name": Field(names=("name", "title"), is_optional=True),
    "description": Field(is_optional=True, is_large=True),
    "url": Field(is_optional=True),
    "updated_at": Field(MOMENT_TYPES, "timestamptz", frozenset({"timestamptz"}), is_optional=True),
    # The record's own bytes: nothing re-encodes them, and Postgres parses them once, on their way into the table.
    "raw": Field(
        _DOCUMENT_TYPES,
        "bytea",
        frozenset({"jsonb"}),
        names=("raw", "metadata", "payload", "data"),
        is_large=True,
    ),
    "content_hash": Field(_BYTES, "bytea", _BYTES),
}
SOURCE_FIELDS: Final = ("provider", "source_key", "name", "url", "raw", "content_hash")
ASSET_FIELDS: Final = (
    "asset_key", "source_id", "provider", "name", "description", "url", "updated_at", "raw", "content_hash",
)  # fmt: skip
# Of assets; no record fills it.
RETIRED_AT: Final = "retired_at"
LARGE_FIELDS: Final = tuple(name for name, field in FIELDS.items() if field.is_large)
OPTIONAL_FIELDS: Final = tuple(name for name, field in FIELDS.items() if field.is_optional)
