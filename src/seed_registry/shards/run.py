"""One run by many processes: a `LoadRun` whose indexes are loaded by shards."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from seed_registry import __version__
from seed_registry.errors import DatabaseRefused, SeedRegistryError, TooManyRejects
from seed_registry.ledger.shards import ShardStore
from seed_registry.load.run import LoadRun, OpenTarget
from seed_registry.shards.capacity import count_processes
from seed_registry.shards.collection import Collection
from seed_registry.shards.coordinator import Coordinator
from seed_registry.shards.engine import Processes
from seed_registry.shards.facts import ShardScanned, decoded, encoded
from seed_registry.shards.listed_keys import begin_of, reopen_shards, take_listed
from seed_registry.shards.listed_sources import ListedSources, merge_listed
from seed_registry.shards.shared_job import require_shareable, share

if TYPE_CHECKING:
    from seed_registry.ledger.shards import ShardRow
    from seed_registry.load.context import RunContext
    from seed_registry.load.retry import RetryingSession
    from seed_registry.load.target import Target
    from seed_registry.shards.tasks import Engine

_NO_LEDGER: Final = (
    "a load by several processes needs the ledger, which this role may not use\n"
    "have its owner run `seed-registry schema apply` and `seed-registry schema grants ROLE`"
)


class ShardedRun(LoadRun):
    """One load by many processes."""

    def __init__(
        self, context: RunContext, open_target: OpenTarget, new_engine: Callable[[int], Engine] = Processes
    ) -> None:
        """Begin the run; `new_engine` gets the number of workers.

        Raises:
            SeedRegistryError: the target cannot be opened.
        """
        if context.settings.scheduler is not None:
            require_shareable(context.indexes, context.settings)
        super().__init__(context, open_target)
        self._new_engine = new_engine

    async def _load_indexes(self, target: Target) -> None:
        """Load the indexes by shards; where there is only one shard, in this process."""
        context, main = self.context, target.main
        assert main is not None
        assert target.ledger is not None
        if not (target.ledger.is_kept and await main.do(ShardStore(context.run_id).is_usable)):
            raise DatabaseRefused(_NO_LEDGER)
        target.ledger.has_shards = True
        if context.settings.scheduler is None:
            processes = await main.do(partial(count_processes, context=context, database=target.database))
            await self._load_by(self._new_engine(processes), processes, target, main)
        else:
            from seed_registry.shards.cluster_engine import open_cluster_engine  # noqa: PLC0415  # others do without

            async with open_cluster_engine(context, main) as engine:
                await self._load_by(engine, engine.workers, target, main)

    async def _load_by(self, engine: Engine, processes: int, target: Target, main: RetryingSession) -> None:
        context, state = self.context, target.state
        assert state is not None
        coordinator = Coordinator(context, state, main, target.recorder, engine, processes, self._begin)
        if len(await coordinator.plan()) < 2:  # noqa: PLR2004  # one shard is the whole index
            if not coordinator.unsplittable:
                context.progress.tell("info", "one_shard", note="too small to be divided: loaded by one process")
            await super()._load_indexes(target)
            return
        context.tally.processes, context.tally.workers = processes, processes * context.settings.workers
        collection = Collection(context, target, coordinator, self._known)
        try:
            listed = await self._load_shards(coordinator, target)
        except SeedRegistryError as exc:
            with suppress(SeedRegistryError):
                await collection.collect_rejects()
            if isinstance(exc, TooManyRejects):
                target.recorder.require_few_rejects()  # the message names their file, which is there now
            raise
        await collection.collect(listed)
        self._parts, self._shards = collection.parts, collection.shards
        self._sources |= collection.sources
        if coordinator.problems and not (context.settings.keep_going and len(context.indexes) > 1):
            raise min(coordinator.problems.items())[1][1].error()
        if self._begin is not None:
            await take_listed(main, coordinator.store, target.recorder.listed_keys)
            target.conclusion.begin_earlier(begin_of(await coordinator.rows(), self._begin))

    async def _load_shards(self, coordinator: Coordinator, target: Target) -> dict[int, ListedSources]:
        """Load all; return the sources that the indexes list, by their positions."""
        begin, main = self._begin, target.main
        assert main is not None
        async with coordinator.leading():
            if self.context.settings.scheduler is not None:
                job = encoded(share(coordinator.job))
                await main.do(lambda connection: coordinator.store.save_job(connection, __version__, job))
            if begin is not None:
                await main.do(lambda connection: reopen_shards(connection, coordinator.store, begin))
            await coordinator.scan()
            rows = await coordinator.rows()
            by_index: dict[int, list[ShardRow]] = {}
            for row in rows:
                by_index.setdefault(row.index, []).append(row)
            listed = {number: await self._merge(number, of, coordinator, target) for number, of in by_index.items()}
            await coordinator.sieve()
            await coordinator.load()
            await coordinator.settle()
        return listed

    async def _merge(
        self, number: int, rows: list[ShardRow], coordinator: Coordinator, target: Target
    ) -> ListedSources:
        """Merge the sources that an index lists, and save what the loads of its shards need to know."""
        scans = [decoded(row.scanned, ShardScanned) for row in rows if row.scanned]
        listed = await merge_listed(scans, number, self.context, target, self._known)
        self._dialects[listed.dialect] = listed.provider
        await coordinator.save_facts(number, rows, listed.keys)
        return listed
