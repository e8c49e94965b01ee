"""Whether there is a history that this role may read, and what to do if not."""

from __future__ import annotations

from typing import Any

import asyncpg

from seed_registry.errors import DatabaseRefused, SchemaMissing
from seed_registry.postgres.identifiers import quoted
from seed_registry.postgres.sql_files import statement


async def require_history(connection: asyncpg.Connection[Any], *, to_write: bool = False) -> None:
    """Check that there are tables of changes that this role may read, or write.

    Raises:
        SchemaMissing: there are none.
        DatabaseRefused: the role lacks the privilege.
    """
    row = await connection.fetchrow(statement("changes/readable"))
    assert row is not None  # an aggregate
    if not (row["has_ledger"] and row["is_current"]):
        why = "was made by an earlier version" if row["has_ledger"] else "does not exist"
        raise SchemaMissing(
            f"there are no tables of changes: the ledger {why}\nhave its owner run `seed-registry schema upgrade`, "
            "then load with --history"
        )
    if not row["is_readable"]:
        role = quoted(row["role"])
        raise DatabaseRefused(
            "this role may not read the tables of changes\nhave their owner run: "
            f"grant usage on schema seed_registry to {role}; "
            f"grant select on all tables in schema seed_registry to {role};"
        )
    if to_write and not row["is_writable"]:
        raise DatabaseRefused(
            "this role may not delete changes\n"
            "let the tables' owner run the output of `seed-registry schema grants ROLE`"
        )
