"""Check that the tables have what the options of a load need."""

from __future__ import annotations

from typing import Any

import asyncpg

from seed_registry.errors import SchemaMismatch
from seed_registry.registry.citus import require_supported
from seed_registry.registry.marks import require_column
from seed_registry.registry.tables import Tables
from seed_registry.registry.upgrade import add_column
from seed_registry.settings import DatabaseUrl, Settings


async def require_options(
    connection: asyncpg.Connection[Any], tables: Tables, settings: Settings, url: DatabaseUrl
) -> None:
    """Check tables in the database of this URL.

    Raises:
        SchemaMismatch: a column is missing; the message has the statement to run.
        DatabaseRefused: Citus divides the tables, and an option is not supported there.
    """
    require_supported(tables, url, retires=settings.retire, records=settings.history)
    if settings.retire:
        await require_column(connection, tables)
    if settings.only_newer:
        _require_moments(tables)


def _require_moments(tables: Tables) -> None:
    """Check that there is a column for the portal's own moment of an asset."""
    assets = tables.assets
    if "updated_at" not in assets.columns:
        raise SchemaMismatch(
            f"--only-newer: {assets.schema}.{assets.relation} has no column updated_at (timestamptz) to compare with\n"
            f"run: {add_column(assets.schema, assets.relation, 'updated_at', 'timestamptz')} "
            "or name another column with --column assets.updated_at=COLUMN"
        )
