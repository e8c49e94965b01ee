"""Looks at what is to be undone, before anything is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from seed_registry.errors import DatabaseRefused, SchemaMismatch
from seed_registry.ledger.undone import UndoneRun, find_run
from seed_registry.load.context import session_settings
from seed_registry.postgres.connection import session
from seed_registry.registry.introspection import introspect
from seed_registry.registry.tables import Tables

if TYPE_CHECKING:
    from seed_registry.settings import DatabaseUrl, Settings


class UndoTarget(Struct, frozen=True):
    """A run, and the tables that it changed."""

    run: UndoneRun
    tables: Tables


async def find_target(url: DatabaseUrl, settings: Settings, run_id: str, *, keeps: bool) -> UndoTarget:
    """Find a run, and the tables; with `keeps` assets will be retired.

    Raises:
        SettingsInvalid: there is no such run.
        DatabaseRefused: its changes are not known, or policies may hide rows, which would be left without a word.
        SchemaMismatch: there are no tables, or there is no column for the marks of retired assets.
    """
    own = session_settings(settings, is_reading=True)
    async with session(url, own, pooler=settings.pooler) as connection:
        run = await find_run(connection, run_id)
        tables = await introspect(connection, settings.columns, settings.schema)
    if tables.sources.is_divided or tables.assets.is_divided:
        raise DatabaseRefused("undo: tables that Citus divides are not supported")
    for caution in (*tables.sources.cautions, *tables.assets.cautions):
        if caution.event == "row_security":
            raise DatabaseRefused(
                f"undo: {caution.finding}, and what is hidden would not be taken back\n"
                "undo as the owner, or as a role with bypassrls"
            )
    assets = tables.assets
    if keeps and assets.retired is None:
        raise SchemaMismatch(
            f"--keep: {assets.schema}.{assets.relation} has no column retired_at for the marks\n"
            "run `seed-registry schema upgrade`, or name it with --column assets.retired_at=COLUMN"
        )
    return UndoTarget(run, tables)
