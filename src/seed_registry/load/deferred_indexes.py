"""A first load without the indexes of the assets: drops them before the first batch, builds them after the last.

Without the unique index nothing stops a key from being written twice. So an asset whose key came before in the run is
held, as one that changes a row is in any other load, and so is what the database refuses; they are written when the
indexes are there again. After a failure the indexes stay away: the next load or `schema apply` builds them.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from seed_registry.errors import DatabaseRefused
from seed_registry.ledger.checkpoints import Ledger
from seed_registry.ledger.locks import admit_loads, may_drop_indexes
from seed_registry.load.context import RegistryState, RunContext
from seed_registry.load.held_assets import HeldAssets
from seed_registry.load.repeated_keys import SeenKeys, find_repeated_keys, find_size
from seed_registry.load.retry import RetryingSession
from seed_registry.postgres.identifiers import display_name
from seed_registry.registry.deferred_indexes import DeferredIndex, build_dropped, drop, find_obstacle, names

_NORMALLY: Final = "loaded with the indexes"
_LEFT: Final = "the next load builds them first, or `seed-registry schema apply`"


class DeferredIndexes:
    """The indexes that this run has dropped."""

    def __init__(self, run: RunContext, state: RegistryState, main: RetryingSession) -> None:
        """`main` keeps other loads out meanwhile."""
        self._run = run
        self._state = state
        self._main = main
        self._dropped: list[DeferredIndex] = []

    async def drop(self, ledger: Ledger) -> bool:
        """Drop them if the settings ask for it, the table is empty and nobody else loads; return whether they are.

        Raises:
            DatabaseRefused: this role, session or table does not allow it.
        """
        run, state = self._run, self._state
        if not run.settings.defer_indexes:
            return False
        if run.settings.only_newer:
            return self._keep("every record is compared with its row, to keep newer ones")
        if not state.is_empty:
            return self._keep(f"{self._title} has rows")
        if state.tables.assets.is_partitioned:
            return self._keep(f"{self._title} is partitioned, and its partitions have indexes of their own")
        if ledger.unfinished is not None and await self._main.do(ledger.is_sharded):
            return self._keep("the run was begun by several processes")
        if run.settings.history and not state.tables.assets.has_creation_time:
            return self._keep(f"the history of {self._title} is recorded row by row, for it has no created_at")
        if state.tables.assets.is_divided:
            return self._keep(f"{self._title} is divided by Citus")
        await self._require_all(ledger)
        if not await self._main.do(lambda connection: may_drop_indexes(connection, run.settings.schema)):
            return self._keep("another load is running")
        run.has_dropped_indexes = True
        self._dropped = await self._main.do(lambda connection: drop(connection, state.tables, run.run_id))
        if not self._dropped:
            await self._admit_loads()
            return self._keep(f"another program has written rows, or {self._title} has no index that can be dropped")
        run.progress.tell("info", "indexes_dropped", table=self._title, indexes=names(self._dropped), note=_LEFT)
        return True

    def new_held_assets(self) -> HeldAssets:
        """The held assets of the run; into a table that was empty at first every key is new, whatever its records.

        With `only_newer` the rows of such a table may be another load's. If the indexes are dropped, nothing else would
        find a key that comes again.
        """
        if self._dropped:
            return HeldAssets(seen=SeenKeys(find_size(self._run.indexes)))
        only_newer = self._run.settings.only_newer
        is_on = only_newer or not self._state.is_empty
        return HeldAssets(partial(find_repeated_keys, self._run), is_on=is_on, only_newer=only_newer)

    async def _require_all(self, ledger: Ledger) -> None:
        """Check what the operator has to change."""
        if not ledger.is_kept:
            raise DatabaseRefused("--defer-indexes needs the ledger, which this role may not use: leave it out")
        if self._state.pooler == "transaction":
            raise DatabaseRefused("--defer-indexes needs a session of its own: name the server, not its pooler")
        tables = self._state.tables
        if obstacle := await self._main.do(lambda connection: find_obstacle(connection, tables)):
            raise DatabaseRefused(f"--defer-indexes: {obstacle}")

    def _keep(self, reason: str) -> bool:
        self._run.progress.tell("info", "indexes_kept", reason=reason, note=_NORMALLY)
        return False

    async def build(self) -> None:
        """Build them again, and admit other loads.

        Raises:
            DatabaseRefused: rows were written meanwhile that do not fit.
        """
        if not self._dropped:
            return
        run, seconds = self._run, self._main.io_seconds
        await self._main.do(
            lambda connection: build_dropped(connection, run.settings.schema, run.progress, seconds), is_limited=False
        )
        self._dropped = []
        await self._admit_loads()

    async def _admit_loads(self) -> None:
        run = self._run
        run.has_dropped_indexes = False
        await self._main.do(lambda connection: admit_loads(connection, run.settings.schema))

    def log_missing(self) -> None:
        """Log that the run ends without them."""
        if self._dropped:
            tell = self._run.progress.tell
            tell("warning", "indexes_missing", table=self._title, indexes=names(self._dropped), note=_LEFT)

    @property
    def _title(self) -> str:
        return display_name(self._state.tables.assets.name)
