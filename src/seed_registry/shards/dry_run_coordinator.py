"""Leads a dry run by shards: plan, scan, sieve, load. Nothing is written to the database: state is in shared files."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import Final

from msgspec.structs import replace

from seed_registry.errors import IndexBroken, IndexNotUnderstood, IndexUnreadable
from seed_registry.index.shards import Shard, rejoined, with_portal
from seed_registry.load.context import RunContext
from seed_registry.records import SourceRow
from seed_registry.shards.cuts import cut_index
from seed_registry.shards.dry_run_tasks import DryRunJob, DryRunTask, ShardOutcome
from seed_registry.shards.facts import ShardScanned
from seed_registry.shards.progress import COMPARING, LOADING, SCANNING
from seed_registry.shards.tasks import Engine, Place, Result, Task
from seed_registry.spill import PARTS

# Keys that are sieved at a time; a process holds some 100 bytes of memory for each.
_SIEVED_KEYS: Final = 1_000_000


class DryRunCoordinator:
    """Leads one dry run.

    Attributes:
        scans: what was found in the shards.
        outcomes: what became of them.
        unsplittable: whether the user was told of an index that cannot be split.
    """

    def __init__(self, run: RunContext, job: DryRunJob, engine: Engine, processes: int) -> None:
        self.scans: dict[Place, ShardScanned] = {}
        self.outcomes: dict[Place, ShardOutcome] = {}
        self.unsplittable = False
        self._run = run
        self._job = job
        self._engine = engine
        self._processes = processes
        self._shards: dict[int, list[Shard]] = {}  # by index
        self._repeated = self._loaded = 0

    async def plan(self) -> bool:
        """Cut the indexes into shards; return whether there is more than one, and all can be read twice.

        Raises:
            SeedRegistryError: an index cannot be read.
        """
        run = self._run
        for number, index in enumerate(run.indexes):
            try:
                one, is_told = await cut_index(index, run.settings, run.progress, self._processes)
            except (IndexBroken, IndexNotUnderstood, IndexUnreadable):
                if not run.settings.keep_going or len(run.indexes) == 1:
                    raise
                continue  # the error comes again when its turn comes
            self.unsplittable |= is_told
            if index.kind == "stdin" or (index.kind == "url" and not one.shards[0].etag) or one.size < 0:
                return False
            self._shards[number] = one.shards
        return sum(map(len, self._shards.values())) > 1

    def shards(self, number: int) -> list[tuple[Place, ShardScanned]]:
        """The shards of an index up to where it cannot be read on; none if it cannot be read at all."""
        found = list[tuple[Place, ShardScanned]]()
        for shard in self._shards.get(number, ()):
            place = (number, shard.number)
            found.append((place, self.scans[place]))
            if self.scans[place].problem:
                break
        return found

    async def scan(self) -> None:
        """Scan all shards, and join those that do not end where records end with those behind them."""
        while tasks := [
            DryRunTask("scan", number, shard.number, shard=shard)
            for number, shards in self._shards.items()
            for shard in shards
            if (number, shard.number) not in self.scans
        ]:
            self._show(SCANNING)
            await self._perform(tasks)
            for number, shards in self._shards.items():
                self._shards[number] = self._joined(number, shards)

    def _joined(self, number: int, shards: list[Shard]) -> list[Shard]:
        for position, shard in enumerate(shards[:-1]):
            soundness = self.scans[number, shard.number].soundness
            if soundness != "sound":
                del self.scans[number, shard.number]
                return rejoined(shards, position, soundness)
        return shards

    async def sieve(self) -> None:
        """Find the keys that occur more than once in the run."""
        places = tuple((number, shard.number) for number, shards in self._shards.items() for shard in shards)
        self._show(COMPARING)
        keys = sum(self.scans[place].keys for place in places)
        groups = min(max(keys // _SIEVED_KEYS + 1, self._processes if keys > _SIEVED_KEYS else 1), PARTS)
        size = -(-PARTS // groups)
        await self._perform(
            [
                DryRunTask("sieve", parts=tuple(range(first, min(first + size, PARTS))), places=places)
                for first in range(0, PARTS, size)
            ]
        )
        self._run.progress.tell("info", "keys_sieved", keys=keys, repeated=self._repeated)

    async def load(self, number: int) -> None:
        """Find what a load would make of the shards of an index; where that has no influence, of those behind it, too.

        Raises:
            SeedRegistryError: a worker failed.
        """
        tasks = [task for one in self._alike(number) for task in self._loads(one) if task.place not in self.outcomes]
        self._show(LOADING)
        await self._perform(tasks)
        self._run.tally.step = ""

    def know(self, sources: dict[str, SourceRow]) -> None:
        """Tell the workers the sources that the indexes so far would create."""
        self._job = replace(self._job, known=sources)

    def _alike(self, number: int) -> list[int]:
        """An index and those behind it, as far as all of them give the same provider to the sources that they create.

        Otherwise what an index would create decides about the assets of the next.
        """
        first = self._providers(number)
        if len(first) > 1:
            return [number]
        following = takewhile(lambda one: self._providers(one) <= first, range(number + 1, len(self._run.indexes)))
        return [number, *following]

    def _providers(self, number: int) -> set[str]:
        scans = [scan for _, scan in self.shards(number)]
        return {scan.provider for scan in scans} | {source.provider for scan in scans for source in scan.listed}

    def _loads(self, number: int) -> Iterator[DryRunTask]:
        found = self.shards(number)
        shards = self._shards.get(number, [])
        portal = next((scan.portal for _, scan in found if scan.portal is not None), None)
        if portal is not None:
            shards = with_portal(shards, portal)
        listed = dict[str, str]()
        for _, scan in found:
            for source in scan.listed:
                listed.setdefault(source.key, source.provider)
        if len(listed) > self._run.settings.max_sources:
            return  # an error, when they are written
        line = 1
        for shard, (_, scan) in zip(shards, found, strict=False):
            yield DryRunTask("load", number, shard.number, shard=shard, line=line, listed=listed)
            line += scan.lines

    def _show(self, step: str) -> None:
        """Show how far the run came."""
        tally, planned = self._run.tally, sum(map(len, self._shards.values()))
        tally.step, tally.shards = step, {"planned": planned, "scanned": len(self.scans), "loaded": self._loaded}

    async def _perform(self, tasks: list[DryRunTask]) -> None:
        run, tell = self._run, self._run.progress.tell

        def done(task: Task, result: Result) -> None:
            found, name = getattr(result, "found", None), run.indexes[task.index].report_name
            seconds = round(result.seconds, 3)
            if isinstance(found, ShardScanned):
                self.scans[task.place] = found
                tell("debug", "shard_scanned", index=name, shard=task.number, seconds=seconds)
            elif isinstance(found, ShardOutcome):
                self.outcomes[task.place] = found
                self._loaded += 1
                tell("info", "shard_loaded", index=name, shard=task.number, seconds=seconds)
            elif isinstance(found, int):
                self._repeated += found
            self._show(run.tally.step)

        def lost(task: Task, reason: str) -> None:
            name = run.indexes[task.index].report_name if task.step != "sieve" else ""
            tell("warning", "shard_retried", index=name, shard=task.number, step=task.step, reason=reason)

        await self._engine.perform(self._job, tasks, done, lost)
