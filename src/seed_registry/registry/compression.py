"""Compression: how the server packs the large values of a table, and what our own tables ask it for.

Postgres compresses values of rows that are longer than 2 KB; with pglz that is a third to a half of a load's work on
the server. https://www.postgresql.org/docs/current/storage-toast.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import asyncpg

from seed_registry.errors import SettingsInvalid
from seed_registry.registry.identifiers import quoted
from seed_registry.registry.sql import statement

# What can be asked for: `auto` leaves it to `chosen`, `none` stores values as they are.
Compression = Literal["auto", "lz4", "pglz", "none"]
# What a column is created with; `default` says nothing of it, so that `default_toast_compression` decides.
Method = Literal["default", "lz4", "pglz", "none"]

# What follows the type of a column in CREATE TABLE; STORAGE may only stand there from Postgres 16 on.
CLAUSES: Final[dict[Method, str]] = {"default": "", "lz4": " compression lz4", "pglz": " compression pglz", "none": ""}


async def chosen(connection: asyncpg.Connection[Any], wanted: Compression, *, is_embedded: bool) -> Method:
    """The method of `raw` in a table that is created now.

    `auto` is lz4 where the server has it, unless somebody set `default_toast_compression` to something else. Without
    lz4 it is `none` on the embedded server, which has its disk to itself and neither standbys nor a network before
    them, and otherwise what that server does by default: there, larger tables cost their owner backups, write-ahead log
    and replication as well, so that whoever pays for these should be the one to say `none`.

    Raises:
        SettingsInvalid: lz4 is asked for, and the server was built without it.
    """
    server = await connection.fetchrow(statement("compression_offered"))
    assert server is not None
    if wanted == "lz4" and not server["has_lz4"]:
        raise SettingsInvalid(
            "--compression lz4: this server was built without lz4\n"
            "take --compression none (more disk, less CPU) or --compression pglz (less disk, more CPU)"
        )
    if wanted == "auto":
        if server["has_lz4"]:
            return "default" if server["is_set_otherwise"] else "lz4"
        return "none" if is_embedded else "default"
    if wanted == "pglz" and not server["has_choice"]:
        return "default"  # which is nothing else there
    return wanted


async def has_lz4(connection: asyncpg.Connection[Any]) -> bool:
    """Whether the server was built with lz4."""
    server = await connection.fetchrow(statement("compression_offered"))
    assert server is not None
    return bool(server["has_lz4"])


async def used(connection: asyncpg.Connection[Any], table: str, columns: Sequence[str]) -> dict[str, str]:
    """How values that this session writes to these columns are compressed: lz4, pglz or none, by column.

    Args:
        connection: any session; what it has set counts.
        table: the schema-qualified, quoted name.
        columns: the names of columns, as the catalog has them.
    """
    rows = await connection.fetch(statement("compression_used"), table, list(columns))
    return {row["column_name"]: row["method"] for row in rows}


def change(table: str, column: str, method: Method, *, is_stored_plain: bool = False) -> str:
    """The statement that gives a column another method, for values that are written from then on.

    Args:
        table: the schema-qualified, quoted name.
        column: the name of the column, as the catalog has it.
        method: what it gets.
        is_stored_plain: whether its values are not compressed so far.
    """
    name = quoted(column)
    if method == "none":
        return f"alter table {table} alter column {name} set storage external;"
    extended = f"alter column {name} set storage extended, " if is_stored_plain else ""
    return f"alter table {table} {extended}alter column {name} set compression {method};"
