"""Find what the tables of an earlier version lack, and the statements that add it.

Only tables of our own making are altered. They have a comment that says so; before there were comments, a table with
just our columns is taken for one.
"""

from __future__ import annotations

import re
from typing import Any, Final

import asyncpg
from msgspec import Struct

from seed_registry.errors import SettingsInvalid
from seed_registry.escape import quote_text
from seed_registry.postgres.identifiers import quoted
from seed_registry.postgres.sql_files import statement
from seed_registry.registry.fields import RETIRED_AT
from seed_registry.registry.tables import SCHEMA

_KEY: Final = re.compile(r"[^\s/'\\]{1,253}")
_PROVIDER: Final = re.compile("[a-z][a-z0-9_-]{0,62}")
_COMMENT_START: Final = "seed-registry:"
OWN_COMMENT: Final = f"{_COMMENT_START} made by this program; its command schema upgrade may add columns"
_FIRST_COLUMNS: Final = {
    "sources": {
        "id", "provider", "source_key", "name", "url", "raw", "content_hash", "created_at", "updated_at",
    },
    "assets": {
        "id", "asset_key", "source_id", "name", "description", "url", "updated_at", "raw", "content_hash", "created_at",
    },
}  # fmt: skip
_ADDED_COLUMNS: Final = {"assets": {RETIRED_AT: "timestamptz"}}


class Upgrade(Struct, frozen=True):
    """What an upgrade would do.

    Attributes:
        statements: for tables of our own making.
        foreign: for tables of others, whose owner may run them.
    """

    statements: list[str]
    foreign: list[str]


async def find_upgrade(connection: asyncpg.Connection[Any], schema: str = SCHEMA) -> Upgrade:
    """Return the statements that bring the tables, those that exist, up to this version."""
    upgrade = Upgrade([], [])
    for relation, first in _FIRST_COLUMNS.items():
        row = await connection.fetchrow(statement("registry/made_by"), schema, relation)
        if row is None:
            continue
        columns, comment = set(row["columns"]), row["comment"] or ""
        is_like_ours = columns == first and not row["is_partitioned"]
        is_own = comment.startswith(_COMMENT_START) or (not comment and is_like_ours)
        statements = upgrade.statements if is_own else upgrade.foreign
        for column, type_ in _ADDED_COLUMNS.get(relation, {}).items():
            if column not in columns:
                statements.append(add_column(schema, relation, column, type_))
        if is_own and not comment:
            name = f"{quoted(schema)}.{quoted(relation)}"
            statements.append(f"comment on table {name} is '{OWN_COMMENT}';")
    return upgrade


def renaming(source_key: str, provider: str, schema: str = SCHEMA) -> str:
    """Return the statement that renames the provider of a source, which is found by its key whatever it is.

    Raises:
        SettingsInvalid: one of them is no name; so the statement can be read, and has nothing to escape.
    """
    key = source_key.strip().lower()
    if not (_KEY.fullmatch(key) and key.isprintable() and _PROVIDER.fullmatch(provider)):
        given = quote_text(f"{source_key}={provider}")
        raise SettingsInvalid(f"--rename-provider takes SOURCE=NAME like data.example.org=ckan, got {given}")
    sources = f"{quoted(schema)}.{quoted('sources')}"
    return f"update {sources} set provider = '{provider}' where source_key = '{key}' and provider <> '{provider}';"


def add_retired_at(schema: str = SCHEMA) -> str:
    """Return the statement that adds the column for `--retire`."""
    return add_column(schema, "assets", RETIRED_AT, _ADDED_COLUMNS["assets"][RETIRED_AT])


def add_column(schema: str, relation: str, column: str, type_: str) -> str:
    """Return the statement that adds a column; it rewrites no row."""
    return f"alter table {quoted(schema)}.{quoted(relation)} add column {quoted(column)} {type_};"
