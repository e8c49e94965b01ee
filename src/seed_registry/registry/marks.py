"""The marks of retired assets: the column for them, and taking them from rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Final

import asyncpg

from seed_registry.errors import SchemaMismatch
from seed_registry.postgres.sql_files import statement
from seed_registry.postgres.timeouts import io_timeout
from seed_registry.registry.change_records import ChangeRecords
from seed_registry.registry.queries import clear_marks_of
from seed_registry.registry.tables import Tables
from seed_registry.registry.upgrade import add_retired_at

# What other programs call such a column; it may mean something else there, so it is only suggested.
_LIKE_IT: Final = ("deleted_at", "removed_at")
_KEYS_AT_ONCE: Final = 5_000


async def require_column(connection: asyncpg.Connection[Any], tables: Tables) -> None:
    """Check that there is a column for the marks.

    Raises:
        SchemaMismatch: there is none; the message has the statement to run.
    """
    assets = tables.assets
    if assets.retired is not None:
        return
    rows = await connection.fetch(statement("registry/columns"), assets.schema, assets.relation)
    like_it = [row["name"] for row in rows if row["name"] in _LIKE_IT]
    if_it_means_that = f"; or, if it means that: --column assets.retired_at={like_it[0]}" if like_it else ""
    raise SchemaMismatch(
        f"--retire: {assets.schema}.{assets.relation} has no column retired_at (timestamptz) for the marks\n"
        f"run `seed-registry schema upgrade`, or: {add_retired_at(assets.schema)}{if_it_means_that}"
    )


async def take_marks(
    connection: asyncpg.Connection[Any],
    tables: Tables,
    asset_keys: Iterable[str],
    source_ids: Sequence[Any],
    seconds: float | None,
    records: ChangeRecords | None = None,
) -> int:
    """Take the mark from the rows of these sources with these asset keys; return how many had it.

    Each few thousand keys may take `seconds`. With `records` the changes are recorded.
    """
    query = clear_marks_of(tables.assets, tables.sources.id_type or "int8", records)
    returned, keys = 0, iter(asset_keys)
    while part := list(islice(keys, _KEYS_AT_ONCE)):
        async with io_timeout(connection, seconds):
            returned += await connection.fetchval(query, part, source_ids)
    return returned
