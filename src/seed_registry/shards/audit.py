"""Leads an audit by several processes: the report is that of one process, whatever the shards.

Nothing is written to the database, so what is done is known to this process only: workers compare shards within its
snapshot, and this process takes what they found in the order of the indexes.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import Event
from msgspec import Struct, field
from msgspec.structs import replace

from seed_registry.errors import IndexBroken, first_cause
from seed_registry.index.shard_reader import ShardSummary, combined
from seed_registry.index.shards import UNKNOWN, Shard, rejoined, with_portal
from seed_registry.shards.audit_engine import AuditProcesses
from seed_registry.shards.audit_tasks import AuditEngine, AuditJob, AuditTask, ShardAudited, read_assets
from seed_registry.shards.capacity import count_audit_processes
from seed_registry.shards.cuts import cut_index
from seed_registry.shards.shared_files import private_directory
from seed_registry.verify.audit_run import AuditContext, AuditRun, broken
from seed_registry.verify.findings import PartFound

if TYPE_CHECKING:
    from seed_registry.index.inputs import IndexRef
    from seed_registry.verify.snapshot import RegistrySnapshot


class _Step(Struct):
    """A step that is performed, and its result once it is `done`."""

    task: AuditTask
    done: Event = field(default_factory=Event)
    result: ShardAudited = field(default_factory=ShardAudited)


class ShardedAudit(AuditRun):
    """One audit by several processes."""

    def __init__(
        self,
        snapshot: RegistrySnapshot,
        context: AuditContext,
        new_engine: Callable[[int], AuditEngine] = AuditProcesses,
    ) -> None:
        """Begin the audit; `new_engine` gets the number of workers."""
        super().__init__(snapshot, context)
        self._new_engine = new_engine
        self._has_unsplittable = False
        self._engine: AuditEngine
        self._job: AuditJob

    async def _read_all(self, indexes: Sequence[IndexRef]) -> None:
        context, snapshot, settings = self._context, self._snapshot, self._settings
        if settings.scheduler is None:
            count = await count_audit_processes(snapshot.connection, settings, self._progress, context.database)
            await self._read_by(self._new_engine(count), count, indexes)
        else:
            from seed_registry.shards.audit_cluster import open_audit_cluster  # noqa: PLC0415  # others do without

            async with open_audit_cluster(indexes, snapshot, context, self._tally) as engine:
                await self._read_by(engine, engine.workers, indexes, fewest=1)

    async def _read_by(
        self, engine: AuditEngine, processes: int, indexes: Sequence[IndexRef], *, fewest: int = 2
    ) -> None:
        """Read the indexes by shards; in this process where there is only one, or fewer processes than so many."""
        is_divided = processes >= fewest
        plan = [await self._plan(index, processes) for index in indexes] if is_divided else []
        if sum(map(len, plan)) < 2:  # noqa: PLR2004  # one process does it as well
            if is_divided and not self._has_unsplittable:
                self._progress.tell("info", "one_shard", note="too small to be divided: read by one process")
            await super()._read_all(indexes)
            return
        self._engine = engine
        with private_directory() as directory:
            name = await self._snapshot.export()
            url = self._context.url
            self._job = AuditJob(self._settings, url, self._tables, name, list(indexes), directory, os.getpid())
            await self._compare(await self._sound(plan))

    async def _plan(self, index: IndexRef, processes: int) -> list[Shard]:
        """The shards of an index; none if it is a pipe, which only this process can read, and only once."""
        if index.kind == "stdin" or (index.kind == "file" and not await anyio.Path(index.path).is_file()):
            name, reason = index.report_name, "it can be read only once"
            self._progress.tell("warning", "not_splittable", index=name, reason=reason, note="")
            self._has_unsplittable = True
            return []
        one, is_told = await cut_index(index, self._settings, self._progress, processes)
        self._has_unsplittable |= is_told
        return one.shards

    async def _sound(self, plan: list[list[Shard]]) -> list[list[Shard]]:
        """Join shards of documents that do not end where records end, and tell all the portal of the last header.

        Shards of lines always end with a line.
        """
        plan, scanned = list(plan), dict[tuple[int, Shard], ShardAudited]()
        while new := [
            _Step(AuditTask("scan", part, shard))
            for part, shards in enumerate(plan)
            for shard in shards
            if shard.dress and (part, shard) not in scanned
        ]:
            async with self._performing(new):
                for step in new:
                    await step.done.wait()
                    scanned[step.task.index, step.task.shard] = step.result
            for part, shards in enumerate(plan):
                plan[part] = _joined(shards, [scanned.get((part, shard), ShardAudited()) for shard in shards])
        for part, shards in enumerate(plan):
            results = [scanned[part, shard] for shard in shards if shard.dress]
            for result in results:
                _require_read(result)
            portal = next((result.portal for result in results if result.portal is not None), None)
            plan[part] = shards if portal is None else with_portal(shards, portal)
        return plan

    async def _compare(self, plan: Sequence[Sequence[Shard]]) -> None:
        """Let the workers compare all shards, and take their findings in the order of the shards."""
        steps = [[_Step(AuditTask("compare", part, shard)) for shard in shards] for part, shards in enumerate(plan)]
        async with self._performing([step for of_part in steps for step in of_part]):
            for index, of_part in zip(self._job.indexes, steps, strict=True):
                if of_part:
                    await self._take(index, of_part)
                else:
                    await self._read(index)

    @asynccontextmanager
    async def _performing(self, steps: Sequence[_Step]) -> AsyncIterator[None]:
        """Perform steps, the first ones first, while the body waits for one after the other."""
        try:
            async with anyio.create_task_group() as group:
                for step in steps:
                    group.start_soon(self._perform, step)
                yield
        except BaseExceptionGroup as failures:
            raise first_cause(failures) from failures

    async def _perform(self, step: _Step) -> None:
        task = step.task
        name, number = self._job.indexes[task.index].report_name, task.shard.number

        def lost(reason: str) -> None:
            self._progress.tell("warning", "shard_retried", index=name, shard=number, step=task.step, reason=reason)

        step.result = await self._engine.audit(self._job, task, lost)
        step.done.set()

    async def _take(self, index: IndexRef, steps: Sequence[_Step]) -> None:
        """Take what was found in the shards of an index."""
        tally, found, line = self._tally, PartFound(), 0
        summaries: list[ShardSummary] = []
        for step in steps:
            await step.done.wait()
            result = step.result
            _require_read(result)
            assert result.summary is not None
            if not summaries:
                size = step.task.shard.size
                self._open(index.display_name, result.summary.dialect, None if size == UNKNOWN else size)
            summaries.append(result.summary)
            tally.sources, tally.assets = tally.sources.plus(result.sources), tally.assets.plus(result.assets)
            tally.rejects.update(result.rejects)
            tally.bytes_read += result.position
            tally.index_position += result.position
            await self._take_assets(Path(result.file), result.provider, line)
            names = [*result.found.listed, *sorted(result.found.named)]  # also of assets of other parts of the keys
            await self._findings.sources.add(result.provider, dict.fromkeys(names), index.display_name)
            found.named |= result.found.named
            for key, source in result.found.listed.items():
                found.listed[key] = replace(source, line=line + source.line)
            line += result.lines
        await self._close(found, lists_sources=steps[0].result.lists_sources)
        numbers = combined(summaries)
        self._note(numbers.declared, numbers.unread)

    async def _take_assets(self, file: Path, provider: str, line: int) -> None:
        """Take the assets of a shard that begins behind so many lines; their file is deleted."""
        findings, numbers, name = self._findings, list[int](), self._names[-1]
        for keys, assets in read_assets(file):
            await findings.sources.add(provider, keys, name)
            numbers.extend(map(findings.sources.number, keys))
            await findings.take(
                len(self._names) - 1,
                provider,
                [
                    (offset, line + of_shard, key, numbers[source], marks, differs)
                    for offset, of_shard, key, source, marks, differs in assets
                ],
            )
        await anyio.Path(file).unlink()


def _joined(shards: list[Shard], scanned: Sequence[ShardAudited]) -> list[Shard]:
    """The shards, the first one that does not end where a record ends joined with those behind it."""
    for position, result in enumerate(scanned[:-1]):
        if result.soundness != "sound":
            return rejoined(shards, position, result.soundness)
    return shards


def _require_read(result: ShardAudited) -> None:
    """Raise why a shard could not be read or compared."""
    if result.failure is not None:
        error = result.failure.error()
        raise broken(error) if isinstance(error, IndexBroken) else error
