"""Retires assets: marks those that the registry holds of the sources of a run, and that none of its indexes lists.

All of it comes after the load and its verification, and may be repeated: a run that is resumed reads its indexes again,
or has their keys in the ledger, and finds what is not marked yet. How many a run has retired is in the ledger,
committed with the marks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from seed_registry.errors import DatabaseRefused
from seed_registry.ledger.checkpoints import Ledger
from seed_registry.ledger.run_sources import (
    Begin,
    find_begin,
    find_others,
    find_published,
    lock_sources,
    publish_keys,
    read_keys,
    source_name,
)
from seed_registry.load.context import RegistryState, RunContext, new_change_records
from seed_registry.load.guard import Guard, not_begun
from seed_registry.load.listed_keys import ListedKeys
from seed_registry.load.retry import Connection, RetryingSession
from seed_registry.load.unlisted import UnlistedAssets, UnlistedQuery
from seed_registry.records import SourceRow
from seed_registry.registry.marks import take_marks
from seed_registry.registry.queries import retire
from seed_registry.report import LeftAlone, Retirement

if TYPE_CHECKING:
    from seed_registry.spill import DistinctHashes


class Retirer:
    """Retires assets at the end of one run, and notes at its begin what it needs for that."""

    def __init__(
        self, run: RunContext, state: RegistryState, main: RetryingSession, ledger: Ledger, listed_keys: ListedKeys
    ) -> None:
        self._run = run
        self._state = state
        self._main = main
        self._ledger = ledger
        self._listed_keys = listed_keys
        self._records = new_change_records(run.settings, state, ledger.run_id)
        self._begin: Begin | None = None
        self._known: list[str] = []  # other runs whose keys are known

    async def begin(self) -> Begin:
        """Note the begin of the run, and return it.

        Raises:
            DatabaseRefused: there is no ledger.
        """
        if not self._ledger.is_kept:
            raise DatabaseRefused(
                "--retire needs the ledger, which this role may not use\n"
                "have its owner run `seed-registry schema upgrade` and `seed-registry schema grants ROLE`"
            )
        self._begin = await self._main.do(lambda connection: find_begin(connection, self._ledger.run_id))
        return self._begin

    def begin_earlier(self, begin: Begin) -> None:
        """Take this for the begin: some of what the run lists was read by an earlier attempt."""
        self._begin = begin

    async def take_marks_of_rejects(self, sources: Mapping[str, SourceRow]) -> None:
        """Take the mark from the rows of rejected records: they are listed."""
        run, tables = self._run, self._state.tables
        if tables.assets.retired is None or not self._listed_keys.has_rejected:
            return
        ids, seconds = [row.id for row in sources.values()], run.settings.io_timeout_seconds
        run.tally.assets.returned += await self._main.do(
            lambda connection: take_marks(connection, tables, self._listed_keys.rejected, ids, seconds, self._records),
            is_limited=False,
        )

    async def retire(self, sources: Mapping[str, SourceRow], obstacle: str | None) -> Retirement:
        """Mark what is no longer listed, within the guard, unless there is an obstacle."""
        settings = self._run.settings
        if obstacle:
            return not_begun(settings, obstacle)
        self._run.progress.tell("info", "retiring")
        self._listed_keys.settle()
        others = await self._main.do(self._exchange_keys, is_limited=False)
        query = UnlistedQuery(
            self._state.tables,
            sources,
            self._listed_keys,
            others=others,
            part=settings.keys,
            seconds=settings.io_timeout_seconds,
            is_written=True,
        )
        unlisted = await self._main.do(query.find, is_limited=False)
        others.close()
        try:
            guard = Guard(settings.max_retire, sources, unlisted)
            left: dict[Any, LeftAlone] = {}
            if (reason := guard.reason) is None and guard.count:
                left = await self._mark(sources, unlisted)
        finally:
            unlisted.close()
        self._run.tally.assets.retired = await self._main.do(self._retired)
        return guard.retirement(reason, sorted(left.values(), key=lambda one: one.source))

    async def _exchange_keys(self, connection: Connection) -> DistinctHashes:
        """Show the keys that this run lists to others that are at work, and return those that such runs list."""
        run_id = self._ledger.run_id
        assert self._begin is not None
        if not self._listed_keys.has_skipped:  # what is skipped has no hash of the unique key
            await publish_keys(connection, run_id, self._listed_keys.parts())
        self._known = await find_published(connection, run_id, self._begin)
        return await read_keys(connection, self._known)

    async def _mark(self, sources: Mapping[str, SourceRow], unlisted: UnlistedAssets) -> dict[Any, LeftAlone]:
        names = {row.id: key for key, row in sources.items() if row.id is not None}
        ids = {id_ if isinstance(id_, int) else str(id_): id_ for id_ in names}
        left: dict[Any, LeftAlone] = {}
        for batch in unlisted.batches(self._run.settings.batch_size):
            found, count = await self._main.do(partial(self._mark_batch, batch=batch, ids=ids))
            for id_, run_id in found.items():
                if id_ not in left:
                    left[id_] = LeftAlone(names[id_], run_id)
                    note = "another run was loading it meanwhile; load again"
                    self._run.progress.tell("warning", "not_retired", source=names[id_], run_id=run_id, note=note)
            self._run.tally.assets.retired += count
            self._run.progress.tell("debug", "batch_retired", assets=count)
        return left

    async def _mark_batch(
        self, connection: Connection, *, batch: Sequence[Sequence[Any]], ids: Mapping[Any, Any]
    ) -> tuple[dict[Any, str], int]:
        """Mark assets of a batch; return the sources that are left alone, with the run that lists them, and a count."""
        assert self._begin is not None
        table, run_id = self._state.tables.assets, self._ledger.run_id
        wanted = {source_name(self._state.tables.sources.schema, ids[row[-1]]): ids[row[-1]] for row in batch}
        columns = [
            [ids[value] for value in values] if field == "source_id" else list(values)
            for field, values in zip(table.key, zip(*(row[:-1] for row in batch), strict=True), strict=True)
        ]
        async with connection.transaction():
            await lock_sources(connection, list(wanted))
            others = await find_others(connection, run_id, list(wanted), self._begin, self._known)
            allowed = [id_ for name, id_ in wanted.items() if name not in others]
            query = retire(table, self._state.tables.sources.id_type or "int8", self._records)
            count: int = await connection.fetchval(query, *columns, str(self._begin.xid), allowed)
            await connection.execute(
                "update seed_registry.runs set retired = retired + $2 where run_id = $1", run_id, count
            )
        return {wanted[name]: other for name, other in others.items()}, count

    async def _retired(self, connection: Connection) -> int:
        """How many the run retired, in all its attempts."""
        count: int = await connection.fetchval(
            "select retired from seed_registry.runs where run_id = $1", self._ledger.run_id
        )
        return count
