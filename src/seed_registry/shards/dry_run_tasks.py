"""The steps of a dry run by shards: what its coordinator gives to workers, and what it gets back through the pipe."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from msgspec import Struct, field

from seed_registry.dry_run.collector import PlanPart
from seed_registry.index.open import read_index
from seed_registry.index.shard_reader import ShardSummary
from seed_registry.index.shards import Shard
from seed_registry.load.context import RunContext
from seed_registry.records import SourceRow
from seed_registry.report import RejectExample, Silent, Tally
from seed_registry.settings import DatabaseUrl
from seed_registry.shards.facts import ShardScanned
from seed_registry.shards.packed_files import PackedFile
from seed_registry.shards.tasks import Failure, Job, Place, Result, Task

if TYPE_CHECKING:
    from seed_registry.load.context import RegistryState


class DryRunJob(Job, frozen=True):
    """A dry run.

    Attributes:
        directory: for the files that its processes share.
        has_registry: whether it compares with a registry that is not empty; else `url` does not count.
        known: the sources that earlier indexes would create, by key.
    """

    directory: str = ""
    has_registry: bool = True
    known: dict[str, SourceRow] = field(default_factory=dict)


class DryRunTask(Task, frozen=True):
    """One step of a dry run for one worker.

    Attributes:
        shard: what to scan or to load.
        line: the number of its first line.
        listed: the providers of the sources that the index lists, by key.
        places: the shards whose keys are sieved.
    """

    shard: Shard | None = None
    line: int = 1
    listed: dict[str, str] = field(default_factory=dict)
    places: tuple[Place, ...] = ()


class ShardOutcome(Struct, frozen=True):
    """What a load would make of a shard, but for the assets that wait to be settled.

    Attributes:
        tally: of its assets, and of the rejects of both tables.
        part: the changes of the assets.
        rejects: the first ones of each reason.
        source_keys: of the sources of its assets, in their order.
        sent: how many assets would be written, compared or found to be equal.
        problem: why the index cannot be read on, if so.
        unreadable: how many records were rejected whose keys are not known.
    """

    tally: Tally
    part: PlanPart
    rejects: dict[str, list[RejectExample]]
    source_keys: list[str]
    sent: int
    summary: ShardSummary
    problem: Failure | None
    unreadable: int


Found = ShardScanned | ShardOutcome | int


class DryRunResult(Result, frozen=True):
    """How a step ended, and what it found; a sieve the number of repeated keys."""

    found: Found | None = None


class PublishedDryRun(Struct, frozen=True):
    """What one step of a dry run needs to know.

    Attributes:
        job: an encoded `SharedJob`, with the index of the step.
        database: the fingerprint of the registry that is compared with; empty of an empty one.
        known: see `DryRunJob`.
        repeated: of the hashes of keys in the shard those that occur more than once in the run, 8 bytes each.
    """

    job: bytes
    database: str
    known: dict[str, SourceRow]
    task: DryRunTask
    repeated: bytes


class PlanFound(Struct, frozen=True):
    """The result of a step, and the files that it wrote."""

    result: DryRunResult
    files: list[PackedFile] = field(default_factory=list)


def new_job(run: RunContext, state: RegistryState | None, directory: str) -> DryRunJob:
    """A dry run that compares with a registry, or with an empty one."""
    return DryRunJob(
        run.run_id,
        run.settings,
        list(run.indexes),
        state.url if state else DatabaseUrl(""),
        is_empty=False,
        salt=state.tables.salt if state else "",
        parent=os.getpid(),
        directory=directory,
        has_registry=state is not None,
    )


def new_run(job: DryRunJob, tally: Tally) -> RunContext:
    """The run in a worker process."""
    return RunContext(job.indexes, job.settings, Silent(), read_index, tally, job.run_id)
