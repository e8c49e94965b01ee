"""Loads indexes: `ingest` does what `seed-registry load` does, `replay` what `seed-registry rejects replay` does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Final

import anyio

from seed_registry.errors import CommitsLost, IndexBroken, IndexNotUnderstood, IndexUnreadable, SettingsInvalid
from seed_registry.headers import require_one_origin_each
from seed_registry.index.inputs import IndexRef, Name, require_files, resolve
from seed_registry.index.open import read_index
from seed_registry.load.composition import open_load
from seed_registry.load.context import RunContext
from seed_registry.load.replay import replay_contexts
from seed_registry.load.run import LoadRun, OpenTarget
from seed_registry.report import Progress, Report, Silent
from seed_registry.settings import Settings

# How often a load is repeated after lost commits.
_MOST_PASSES: Final = 10


async def ingest(
    indexes: Name | Sequence[Name], settings: Settings | None = None, progress: Progress | None = None
) -> Report:
    """Load portal indexes into the registry.

    Args:
        indexes: one or several: paths, glob patterns, directories, `http(s)://` URLs, `-` for standard input; loaded
            one after the other.
        settings: what to do and how; the default loads into the embedded server.
        progress: gets the events.

    Returns:
        The outcome of every record; of a dry run, the outcome that a load would have.

    Raises:
        SeedRegistryError: one of the family in `seed_registry.errors`. What was committed stays, and the same call
            again finishes the job. VerificationFailed and IndexesFailed hold the report.
    """
    settings = settings or Settings()
    progress = progress or Silent()
    found = resolve(indexes)
    require_one_origin_each(settings.headers, [index.path for index in found])
    if not settings.keep_going or len(found) == 1:
        require_files(found)
    await _check_domain(found, settings)
    can_repeat = all(index.kind != "stdin" for index in found)
    return await _run_passes(lambda: _new_run(RunContext(found, settings, progress, read_index)), can_repeat=can_repeat)


async def _check_domain(indexes: Sequence[IndexRef], settings: Settings) -> None:
    """Detect the dialect of all files before the first of them is loaded; their other errors come later, one by one.

    Raises:
        SettingsInvalid: `--domain` cannot be used with one of them.
    """
    for index in indexes if settings.domain else ():
        if index.kind == "file" and await anyio.Path(index.path).is_file():  # a pipe can be read only once
            with contextlib.suppress(IndexBroken, IndexNotUnderstood, IndexUnreadable):
                async with read_index(index, settings):
                    pass


async def replay(path: str, settings: Settings | None = None, progress: Progress | None = None) -> Report:
    """Load the records of a rejects file again, where the registry has nothing newer.

    Args:
        path: of the rejects file, not compressed; it is not changed.
        settings: as of the load; `dialect`, `domain` and others are those of the indexes of the records.
        progress: gets the events.

    Returns:
        The outcome of every record; `rejects_file` holds those that were rejected again, each under the index, the line
        and the offset that it had at first.

    Raises:
        SeedRegistryError: as of `ingest`.
    """
    settings = settings or Settings()
    if settings.is_sharded:
        flag = "--processes" if settings.scheduler is None else "--scheduler"
        raise SettingsInvalid(f"a replay is one process: leave out {flag}")
    if settings.defer_indexes:
        raise SettingsInvalid("a replay is no first load of an index: leave out --defer-indexes")
    if settings.retire:
        raise SettingsInvalid("rejects are not all that a portal lists: a replay cannot retire")
    with replay_contexts(path, settings, progress or Silent()) as new_context:
        return await _run_passes(lambda: _new_run(new_context()))


async def _run_passes(new_run: Callable[[], LoadRun], *, can_repeat: bool = True) -> Report:
    """Execute a run; after lost commits another one, which goes on from the rows that are left.

    Raises:
        SeedRegistryError: as `ingest` does.
    """
    retries = 0
    for passes_left in reversed(range(_MOST_PASSES)):
        run = new_run()
        context = run.context
        context.tally.retries = retries
        try:
            return await run.execute()
        except CommitsLost as exc:
            if not (passes_left and can_repeat and context.settings.resume):
                raise
            retries = context.tally.retries + 1
            context.progress.tell("warning", "run_restarted", reason=str(exc).splitlines()[0])
    raise AssertionError("the last pass returns or raises")


def _new_run(context: RunContext) -> LoadRun:
    """A dry run is a load with another target: other writers, another recorder, nothing to verify."""
    if context.settings.dry_run:
        from seed_registry.shards.dry_run import DryRun  # noqa: PLC0415  # a load needs none of it

        return DryRun(context)
    if context.settings.is_sharded:
        return _new_sharded_run(context, open_load)
    return LoadRun(context, open_load, None if context.is_replay else _new_sharded_run)


def _new_sharded_run(context: RunContext, open_target: OpenTarget) -> LoadRun:
    from seed_registry.shards.run import ShardedRun  # noqa: PLC0415  # one process needs none of it

    return ShardedRun(context, open_target)


def ingest_sync(
    indexes: Name | Sequence[Name], settings: Settings | None = None, progress: Progress | None = None
) -> Report:
    """`ingest` for callers without an event loop: scripts, notebooks' worker threads, task queues.

    Raises:
        SeedRegistryError: as `ingest` does.
        RuntimeError: this thread has a running event loop; there `await ingest(…)`.
    """
    return anyio.run(ingest, indexes, settings, progress)
