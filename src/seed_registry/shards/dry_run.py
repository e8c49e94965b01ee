"""One dry run by many processes: a `LoadRun` that writes nothing, and whose indexes are read by shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, cast

from seed_registry.dry_run.composition import open_dry_run
from seed_registry.load import pipeline
from seed_registry.load.run import LoadRun
from seed_registry.shards.capacity import count_processes
from seed_registry.shards.dry_run_coordinator import DryRunCoordinator
from seed_registry.shards.dry_run_engine import DryRunProcesses
from seed_registry.shards.dry_run_tasks import new_job
from seed_registry.shards.listed_sources import merge_listed
from seed_registry.shards.read_index import ReadIndex
from seed_registry.shards.shared_files import SharedFiles, private_directory
from seed_registry.shards.totals import add_up_assets

if TYPE_CHECKING:
    from seed_registry.checkpoint import ResumePoint
    from seed_registry.dry_run.recorder import DryRunRecorder
    from seed_registry.index.inputs import IndexRef
    from seed_registry.index.reader import IndexReader
    from seed_registry.load.context import RunContext
    from seed_registry.load.sources import SourceResolver
    from seed_registry.load.target import Target
    from seed_registry.records import Asset
    from seed_registry.shards.dry_run_tasks import ShardOutcome
    from seed_registry.shards.tasks import Engine, Place


class DryRun(LoadRun):
    """One dry run, by one process or many."""

    def __init__(self, context: RunContext, new_engine: Callable[[int], Engine] = DryRunProcesses) -> None:
        """Begin the run; `new_engine` gets the number of workers.

        Raises:
            SeedRegistryError: the target cannot be opened.
        """
        super().__init__(context, open_dry_run)
        self._new_engine = new_engine
        self._coordinator: DryRunCoordinator | None = None
        self._number = -1  # of the index that is being read
        self._files = SharedFiles("")

    async def _load_indexes(self, target: Target) -> None:
        """Read the indexes by shards; where there is only one shard, in this process."""
        context = self.context
        if not context.settings.is_sharded:
            await super()._load_indexes(target)
        elif context.settings.scheduler is None:
            count = partial(count_processes, context=context, database=target.database)
            processes = await (target.main.do(count) if target.main else count(None))
            await self._load_by(self._new_engine(processes), processes, target)
        else:
            from seed_registry.shards.dry_run_cluster import open_dry_run_cluster  # noqa: PLC0415  # others do without

            async with open_dry_run_cluster(context, target.main) as engine:
                await self._load_by(engine, engine.workers, target)

    async def _load_by(self, engine: Engine, processes: int, target: Target) -> None:
        context = self.context
        with private_directory() as directory:
            self._files = SharedFiles(directory)
            job = new_job(context, target.state, directory)
            coordinator = DryRunCoordinator(context, job, engine, processes)
            if await coordinator.plan():
                await coordinator.scan()
                await coordinator.sieve()
                self._coordinator = coordinator
            elif not coordinator.unsplittable:
                context.progress.tell("info", "one_shard", note="too small to be divided: read by one process")
            await super()._load_indexes(target)

    async def _load_index(self, index: IndexRef, target: Target, *, is_last: bool) -> None:
        self._number += 1
        await super()._load_index(index, target, is_last=is_last)

    async def _read_records(
        self, reader: IndexReader, target: Target, sources: SourceResolver, resume_point: ResumePoint | None
    ) -> None:
        """Add up what workers found in the shards of an index, and settle its repeated keys here."""
        coordinator, number = self._coordinator, self._number
        if coordinator is None or not (shards := coordinator.shards(number)):
            await super()._read_records(reader, target, sources, resume_point)
            return
        coordinator.know({key: row for key, row in self._known.items() if row.id is None})
        await coordinator.load(number)
        listed = await merge_listed([scan for _, scan in shards], number, self.context, target, self._known)
        target.recorder.start_index(reader.name, lambda _: None)  # workers know the former keys
        await sources.find(listed.keys)
        outcomes: list[ShardOutcome] = []
        parked: list[Iterator[Asset]] = []
        problem = None
        for place, scanned in shards:
            outcomes.append(coordinator.outcomes.pop(place))
            parked.append(self._files.read_parked(place))
            self._take(place, outcomes[-1], target)
            if problem := outcomes[-1].problem or scanned.problem:
                break
        await sources.create(key for one in outcomes for key in one.source_keys)
        await pipeline.run(
            ReadIndex(reader, outcomes, chain.from_iterable(parked), problem),
            self.context.settings,
            target.recorder,
            sources,
            target.open_writer,
            shared=target.writer,
            held=target.held,
            listed=(),
        )
        target.recorder.require_few_rejects()  # only now all assets are read that repeat a key

    def _take(self, place: Place, one: ShardOutcome, target: Target) -> None:
        recorder = cast("DryRunRecorder", target.recorder)
        add_up_assets(recorder.tally, one.tally)
        recorder.keys.send_once(one.sent)
        recorder.take_examples(one.rejects)
        listed_keys = recorder.listed_keys
        listed_keys.unreadable += one.unreadable
        if listed_keys.keeps_keys:
            for hashes in self._files.read_hashes("sent", place):
                listed_keys.send(hashes)
            for hashes in self._files.read_hashes("skipped", place):
                listed_keys.take_skipped(hashes)
        recorder.collector.take(one.part)
        for kind in recorder.collector.hashes():
            for hashes in self._files.read_hashes(kind, place):
                recorder.collector.take_hashes(kind, hashes)
