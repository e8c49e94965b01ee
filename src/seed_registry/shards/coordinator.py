"""Leads a run by shards: plan, scan, sieve, load, settle.

What is done is in the ledger: any step may be repeated, and a resumed run goes on from there.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import anyio

from seed_registry.errors import IndexNotUnderstood, IndexUnreadable, SeedRegistryError, first_cause
from seed_registry.index.shards import Cut, Shard, rejoined, with_portal
from seed_registry.ledger.shards import SECONDS_OF_ABSENCE, ShardProgress, ShardRow, ShardStore
from seed_registry.load.portal_warnings import warn_of_portals
from seed_registry.registry.hint_bits import HintBits
from seed_registry.shards.cuts import SHARDS_A_WORKER, can_be_read_twice, cut_index
from seed_registry.shards.facts import IndexFacts, ShardLoaded, ShardScanned, decoded, encoded
from seed_registry.shards.progress import COMPARING, LOADING, SCANNING, SETTLING, take_progress
from seed_registry.shards.tasks import Engine, Failure, Job, Place, Result, Task
from seed_registry.spill import PARTS

if TYPE_CHECKING:
    from seed_registry.ledger.run_sources import Begin
    from seed_registry.load.context import RegistryState, RunContext
    from seed_registry.load.outcomes import OutcomeRecorder
    from seed_registry.load.retry import RetryingSession

_SECONDS_BETWEEN_LOOKS: Final = 1.0
_LOOKS_BETWEEN_SIGNS: Final = 2
_LONG_LOOK_SECONDS: Final = 10.0
_SECONDS_FOR_HINTS: Final = 0.5  # between two looks, at most
_SECONDS_OF_FAREWELL: Final = 5.0
# A step for parts of the keys is worth its round trips from so many on, and holds 8 bytes of memory for each key.
_LEAST_OF_A_STEP: Final = 10_000
_SIEVED_KEYS: Final = 1_000_000
_SETTLED_ASSETS: Final = 100_000


class Coordinator:
    """Leads one run.

    Attributes:
        problems: why an index could not be read on, by its position, and in which shard.
        unsplittable: whether the user was told of an index that cannot be split.
        job: what workers need to know of the run.
    """

    def __init__(
        self,
        run: RunContext,
        state: RegistryState,
        main: RetryingSession,
        recorder: OutcomeRecorder,
        engine: Engine,
        processes: int,
        begin: Begin | None = None,
    ) -> None:
        """`begin` is of this attempt of a run that retires."""
        self.store = ShardStore(run.run_id)
        self.problems: dict[int, tuple[int, Failure]] = {}
        self.unsplittable = False
        self._run = run
        self._main = main
        self._recorder = recorder
        self._engine = engine
        self._processes = processes
        self._hints = HintBits(state.tables.assets)
        self._loading: set[Place] = set()  # given to workers, and not done yet
        # Workers do not retry a whole run, nor print: what they share with this process is in the ledger.
        self.job = Job(
            run.run_id,
            run.settings,
            list(run.indexes),
            state.url,
            state.is_empty,
            state.tables.salt,
            os.getpid(),
            begin,
        )

    async def plan(self) -> list[ShardRow]:
        """The shards of the run: those that it was begun with, or new ones, in the ledger if there are several.

        Raises:
            SeedRegistryError: an index cannot be read.
        """
        for index in self._run.indexes:
            if not await can_be_read_twice(index):  # what is read of it here would be missing there
                reason = "a pipe or standard input cannot be read at several places"
                self._run.progress.tell(
                    "warning", "not_splittable", index=index.report_name, reason=reason, note="load it from a file"
                )
                self.unsplittable = True
                return []
        cuts = [await self._cut(number) for number in range(len(self._run.indexes))]
        if sum(len(one.shards) for one in cuts) > 1:  # else the load by one process says it
            for index, one in zip(self._run.indexes, cuts, strict=True):
                warn_of_portals(self._run.progress, index.report_name, one.hosts, names_portals=one.names_portals)
        rows = await self.rows()
        planned = _files((row.index, decoded(row.shard, Shard)) for row in rows)
        found = _files((number, shard) for number, one in enumerate(cuts) for shard in one.shards)
        if rows and planned == found and not any(_was_changed(row) for row in rows):
            return rows
        new = [
            ShardRow(number, shard.number, index.report_name, shard.first, shard.last, encoded(shard))
            for number, (index, one) in enumerate(zip(self._run.indexes, cuts, strict=True))
            for shard in one.shards
        ]
        if rows:
            self._run.progress.tell("warning", "index_changed", index=rows[0].name, note="the run begins anew")
        await self._main.do(lambda connection: self.store.plan(connection, new if len(new) > 1 else []))
        return new

    async def rows(self) -> list[ShardRow]:
        """The shards of the run, as the ledger has them."""
        return await self._main.do(self.store.shards)

    async def _cut(self, number: int) -> Cut:
        try:
            run = self._run
            one, is_told = await cut_index(run.indexes[number], run.settings, run.progress, self._processes)
        except (IndexNotUnderstood, IndexUnreadable) as exc:
            if not self._run.settings.keep_going or len(self._run.indexes) == 1:
                raise
            self.problems[number] = (-1, Failure.of(exc))
            return Cut([])
        self.unsplittable |= is_told
        return one

    @asynccontextmanager
    async def leading(self) -> AsyncIterator[None]:
        """Show the workers that this process is at work; if it ends early, no attempt of theirs commits any more."""
        await self._main.do(self.store.announce)
        await self._main.do(self.store.release)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch)
                yield
                tasks.cancel_scope.cancel()
        except BaseException as exc:
            with anyio.move_on_after(_SECONDS_OF_FAREWELL, shield=True), suppress(SeedRegistryError):
                await self._main.do(self.store.fence)
            if isinstance(exc, BaseExceptionGroup):
                raise first_cause(exc) from exc
            raise

    async def scan(self) -> None:
        """Scan all shards that are not scanned yet; join those that do not end where records end."""
        await self._main.do(self.store.mark)
        await self._main.do(self._recover_parked)
        await self._recover_keys()
        async with self._step(SCANNING):
            while planned := [row for row in await self.rows() if row.state == "planned"]:
                await self._perform([Task("scan", row.index, row.number) for row in planned])
                for number in range(len(self._run.indexes)):
                    await self._join(number)
        rows = await self.rows()
        for number in range(len(self._run.indexes)):
            await self._note_problem(number, [row for row in rows if row.index == number])

    async def _recover_keys(self) -> None:
        """Scan again where a crash of the server has emptied the table of the keys, or reading failed before."""
        found = await self._main.do(self.store.count_keys)
        rows = await self.rows()
        unread = [
            (row.index, row.number)
            for row in rows
            if row.state == "scanned" and row.scanned
            and (problem := decoded(row.scanned, ShardScanned).problem) and problem.kind == IndexUnreadable.__name__
        ]  # fmt: skip
        await self._main.do(lambda connection: self.store.set_state(connection, unread, "planned"))
        lost = [
            row
            for row in rows
            if row.scanned and decoded(row.scanned, ShardScanned).keys != found.get((row.index, row.number), 0)
        ]
        if all(row.state == "loaded" for row in rows):
            return  # nothing is sieved any more
        places = [(row.index, row.number) for row in lost if row.state == "scanned"]
        await self._main.do(lambda connection: self.store.set_state(connection, places, "planned"))
        # What is loaded stays so, but a key of it may be in a shard that is not loaded yet.
        await self._perform([Task("scan", row.index, row.number) for row in lost if row.state == "loaded"])

    async def _join(self, number: int) -> None:
        """Join shards of an index that do not end where records end with those behind them."""
        rows = [row for row in await self.rows() if row.index == number]
        shards = [decoded(row.shard, Shard) for row in rows]
        states = {row.number: row for row in rows}
        for position, row in enumerate(rows[:-1]):
            assert row.scanned is not None
            scanned = decoded(row.scanned, ShardScanned)
            if scanned.soundness == "sound":
                continue
            new = [
                states[shard.number]
                if shard.number != row.number
                else ShardRow(number, shard.number, row.name, shard.first, shard.last, encoded(shard))
                for shard in rejoined(shards, position, scanned.soundness)
            ]
            await self._main.do(partial(self.store.replace, index=number, rows=new))
            return

    async def _note_problem(self, number: int, rows: Sequence[ShardRow]) -> None:
        """Note where an index cannot be read on: what comes before is loaded."""
        for row in rows:
            assert row.scanned is not None
            if problem := decoded(row.scanned, ShardScanned).problem:
                self.problems[number] = (row.number, problem)
                return

    async def save_facts(self, number: int, rows: Sequence[ShardRow], listed: Sequence[str]) -> None:
        """Save what the loads of an index need to know of all its shards, and the sources that it lists."""
        scans = [decoded(row.scanned or b"", ShardScanned) for row in rows]
        shards = [decoded(row.shard, Shard) for row in rows]
        portal = next((scan.portal for scan in scans if scan.portal is not None), None)
        if portal is not None:
            shards = with_portal(shards, portal)
        saved, line = dict[int, tuple[int, bytes]](), 1
        for row, shard, scan in zip(rows, shards, scans, strict=True):
            saved[row.number] = (line, encoded(shard))
            line += scan.lines
        facts = encoded(IndexFacts(scans[0].provider, list(listed)))
        await self._main.do(lambda connection: self.store.save_facts(connection, number, saved, facts))

    async def sieve(self) -> None:
        """Find the keys that occur more than once."""
        if all(row.state == "loaded" for row in await self.rows()):
            return
        keys = sum((await self._main.do(self.store.count_keys)).values())
        groups = self._groups(dict.fromkeys(range(PARTS), max(keys // PARTS, 1)), _SIEVED_KEYS)
        async with self._step(COMPARING):
            await self._perform([Task("sieve", parts=parts) for parts in groups])
        keys, repeated = await self._main.do(self.store.count_repeats)
        self._run.progress.tell("info", "keys_sieved", keys=keys, repeated=repeated)

    async def load(self) -> None:
        """Load all shards that are not loaded, but for those behind a break of their index."""
        rows = [
            row
            for row in await self.rows()
            if row.state != "loaded" and row.number <= self.problems.get(row.index, (row.number, None))[0]
        ]
        async with self._step(LOADING):
            await self._perform([Task("load", row.index, row.number) for row in rows])
        for row in reversed(await self.rows()):
            if row.loaded and (problem := decoded(row.loaded, ShardLoaded).problem):
                self.problems[row.index] = (row.number, problem)

    async def _recover_parked(self, connection: Any) -> None:
        """Load again where a crash of the server has emptied the table of the repeated keys."""
        found = await self.store.count_parked(connection)
        lost = [
            (row.index, row.number)
            for row in await self.store.shards(connection)
            if row.state == "loaded" and row.loaded
            and decoded(row.loaded, ShardLoaded).parked != found.get((row.index, row.number), 0)
        ]  # fmt: skip
        await self.store.set_state(connection, lost, "scanned")

    async def settle(self) -> None:
        """Write the repeated keys."""
        parked = await self._main.do(self.store.count_parked)
        await self._main.do(self.store.require_mark)
        if not parked:
            return
        counts = await self._main.do(self.store.count_parts)
        for part in await self._main.do(self.store.settled_parts):
            counts.pop(part, None)
        async with self._step(SETTLING):
            self._run.progress.tell("info", "settling", records=sum(parked.values()))
            await self._perform([Task("settle", parts=parts) for parts in self._groups(counts, _SETTLED_ASSETS)])

    def _groups(self, counts: Mapping[int, int], most: int) -> list[tuple[int, ...]]:
        """The parts in groups for the workers, each of about as many as there are in all for some of each worker."""
        wished = min(max(sum(counts.values()) // (SHARDS_A_WORKER * self._processes), _LEAST_OF_A_STEP), most)
        groups: list[tuple[int, ...]] = []
        group: list[int] = []
        for part in counts:
            group.append(part)
            if sum(counts[one] for one in group) >= wished:
                groups.append(tuple(group))
                group = []
        return [*groups, tuple(group)] if group else groups

    async def _perform(self, tasks: Sequence[Task]) -> None:
        run = self._run

        def done(task: Task, result: Result) -> None:
            self._loading.discard(task.place)
            run.tally.retries += result.retries
            name, seconds = run.indexes[task.index].report_name, round(result.seconds, 3)
            if task.step == "scan":
                run.progress.tell("debug", "shard_scanned", index=name, shard=task.number, seconds=seconds)
            elif task.step == "load":
                run.progress.tell("info", "shard_loaded", index=name, shard=task.number, seconds=seconds)

        def lost(task: Task, reason: str) -> None:
            name = run.indexes[task.index].report_name if task.step in ("scan", "load") else ""
            run.progress.tell("warning", "shard_retried", index=name, shard=task.number, step=task.step, reason=reason)

        self._loading = {task.place for task in tasks if task.step == "load"}
        await self._engine.perform(self.job, tasks, done, lost)

    async def _watch(self) -> None:
        """Show the workers that this process is at work, and count what they show."""
        looks, looked, calm_until = 0, monotonic(), 0.0
        while True:
            await anyio.sleep(_SECONDS_BETWEEN_LOOKS)
            if looks % _LOOKS_BETWEEN_SIGNS == 0:
                await self._main.do(self.store.announce)
            looks += 1
            await self._follow()
            rows = await self._count()
            if monotonic() - looked > _LONG_LOOK_SECONDS:  # the server was away, and so it was for the workers
                calm_until = monotonic() + SECONDS_OF_ABSENCE
            looked = monotonic()
            if looked < calm_until:
                continue
            self._engine.end_silent(
                [
                    row.worker
                    for row in rows
                    if row.is_silent and row.worker and (row.index, row.number) in self._loading
                ]
            )

    async def _follow(self) -> None:
        """Set the hint bits of what the workers have written."""
        started = monotonic()
        while self._hints.is_due and monotonic() - started < _SECONDS_FOR_HINTS:
            await self._main.do(self._hints.follow)

    async def _count(self) -> list[ShardProgress]:
        """Show what the ledger has, and stop when there are too many rejects."""
        rows = await self._main.do(self.store.progress)
        take_progress(self._run.tally, rows)
        self._run.progress.tell("debug", "shards_counted", step=self._run.tally.step, **self._run.tally.shards)
        self._recorder.require_few_rejects()
        return rows

    @asynccontextmanager
    async def _step(self, name: str) -> AsyncIterator[None]:
        """Show that a step begins, and how far it came."""
        self._run.tally.step = name
        await self._count()
        yield
        await self._count()
        self._run.tally.step = ""


def _files(shards: Iterable[tuple[int, Shard]]) -> set[tuple[int, int, int, str]]:
    return {(index, shard.size, shard.modified, shard.etag) for index, shard in shards}


def _was_changed(row: ShardRow) -> bool:
    """Whether the load of a shard could not read what its scan had read."""
    if not (row.scanned and row.loaded):
        return False
    found, later = decoded(row.scanned, ShardScanned).problem, decoded(row.loaded, ShardLoaded).problem
    return found is not later if found is None else not found.is_same(later)
