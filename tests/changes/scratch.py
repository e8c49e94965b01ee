"""A registry of the test's own, indexes for it, and what is in it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit

import anyio
import asyncpg
from msgspec import Struct
from site_of_assets import ALL, Site, Watch, kill

from partitions import create_tables
from seed_registry.changes.undo_report import UndoIncomplete, UndoReport
from seed_registry.changes.undo_run import undo
from seed_registry.report import Progress, Report
from seed_registry.settings import DatabaseUrl, Settings

_ASSETS = """
select asset.asset_key, asset.id, source.source_key, asset.name, asset.description, asset.url, asset.updated_at,
  asset.raw::text, asset.retired_at is not null
from registry.assets as asset join registry.sources as source on source.id = asset.source_id
"""
_SOURCES = "select source_key, id, provider, name, url, raw::text from registry.sources"


class KilledAt(Watch):
    """A `Progress` that kills the run at the n-th event of a kind."""

    def __init__(self, event: str, number: int) -> None:
        super().__init__(event, number, kill)


class Snapshot(Struct, frozen=True):
    """All rows by key: their ids, and the values that a digest covers."""

    sources: dict[str, tuple[Any, ...]]
    assets: dict[str, tuple[Any, ...]]


class Scratch(Site):
    """A registry, and a directory with indexes for it, which are loaded with history."""

    async def empty(self) -> None:
        """Drop the ledger as well."""
        connection = await asyncpg.connect(self.url.reveal)
        await connection.execute("drop schema if exists registry, seed_registry cascade")
        await create_tables(connection)
        await connection.close()

    async def load(self, *indexes: str, progress: Watch | None = None, **settings: Any) -> Report:
        """Load these indexes with history, in small batches."""
        return await super().load(*indexes, progress=progress, **({"max_retire": ALL, "history": True} | settings))

    async def undo(
        self, run: str, *, keeps: bool = False, progress: Progress | None = None, **settings: Any
    ) -> UndoReport:
        """The report of an undo, also of one with conflicts."""
        options = {"batch_size": 7} | settings
        try:
            return await undo(run, Settings(database_url=self.url, **options), progress, keeps=keeps)
        except UndoIncomplete as exc:
            return exc.report

    async def snapshot(self) -> Snapshot:
        """What is in the registry, once no other session is at work."""
        await self.settle()
        return Snapshot(
            {row[0]: row[1:] for row in await self.do(_SOURCES)}, {row[0]: row[1:] for row in await self.do(_ASSETS)}
        )

    async def settle(self) -> None:
        """Wait until the sessions of a run that was killed are gone: one may be about to commit."""
        query = (
            "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() "
            "and backend_type = 'client backend'"
        )
        for _ in range(1_000):
            if await self.do(query) == [(0,)]:
                return
            await anyio.sleep(0.01)
        raise AssertionError("a session stays")

    async def changes(self, run: str, relation: str = "assets") -> list[Any]:
        """The changes of a run: kind, asset or source key, fields, values before."""
        return await self.do(
            "select kind, coalesce(asset_key, source_key), fields, before::text from seed_registry.changes "
            "where run_id = $1 and relation = $2 order by id",
            run,
            relation,
        )


def as_role(url: DatabaseUrl, role: str) -> DatabaseUrl:
    """The same database for another role, whom the server trusts."""
    parts = urlsplit(url.reveal)
    return DatabaseUrl(urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}")))
