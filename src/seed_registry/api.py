"""Ingesting: the whole of a load, from the settings to the report. What the command line can do, `ingest` can do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import anyio

from seed_registry.errors import CommitsLost, IndexBroken, IndexNotUnderstood, IndexUnreadable
from seed_registry.headers import see_that_each_has_one_origin
from seed_registry.index.inputs import IndexRef, Name, require_files, resolve
from seed_registry.index.open import read_index
from seed_registry.load.run import LoadRun
from seed_registry.load.target import open_target
from seed_registry.report import Progress, Report, Silent
from seed_registry.settings import Settings

# How often a run goes on after a server that crashed and forgot.
_MOST_PASSES = 10


async def ingest(
    indexes: Name | Sequence[Name], settings: Settings | None = None, progress: Progress | None = None
) -> Report:
    """Load portal indexes into the registry.

    Args:
        indexes: one or several: paths, glob patterns, directories, `http(s)://` URLs, `-` for standard input; loaded
            one after the other.
        settings: what to do and how; the default loads into the embedded server.
        progress: is told what happens.

    Returns:
        What became of every record. In a dry run, what would.

    Raises:
        SeedRegistryError: one of the family in `seed_registry.errors`. What was committed stays, and the same call
            again finishes the job. VerificationFailed and IndexesFailed hold the report.
    """
    settings = settings or Settings()
    progress = progress or Silent()
    found = resolve(indexes)
    see_that_each_has_one_origin(settings.headers, [index.path for index in found])
    if not settings.keep_going or len(found) == 1:
        require_files(found)
    await _see_that_domain_fits(found, settings)
    can_repeat = all(index.kind != "stdin" for index in found)
    return await run_through(lambda: LoadRun(found, settings, progress), can_repeat=can_repeat)


async def _see_that_domain_fits(indexes: Sequence[IndexRef], settings: Settings) -> None:
    """Look at all files before the first of them is loaded; whatever else is wrong with one is told in its turn.

    Raises:
        SettingsInvalid: `--domain` cannot be used with one of them.
    """
    for index in indexes if settings.domain else ():
        if index.kind == "file" and await anyio.Path(index.path).is_file():  # what is a pipe can be read only once
            with contextlib.suppress(IndexBroken, IndexNotUnderstood, IndexUnreadable):
                async with read_index(index, settings):
                    pass


async def run_through(new_run: Callable[[], LoadRun], *, can_repeat: bool = True) -> Report:
    """One run to its end; once more, from what is there, where the server crashed and forgot what it had confirmed.

    Raises:
        SeedRegistryError: as `ingest` does.
    """
    retries = 0
    for passes_left in reversed(range(_MOST_PASSES)):
        run = new_run()
        run.tally.retries = retries
        try:
            async with open_target(run.settings, run.progress, run.tally, run.held) as registry:
                return await run.load(registry)
        except CommitsLost as exc:
            if not (passes_left and can_repeat and run.settings.resume):
                raise
            retries = run.tally.retries + 1
            run.progress.tell("warning", "run_restarted", reason=str(exc).splitlines()[0])
    raise AssertionError("the last pass returns or raises")


def ingest_sync(
    indexes: Name | Sequence[Name], settings: Settings | None = None, progress: Progress | None = None
) -> Report:
    """`ingest` for callers without an event loop: scripts, notebooks' worker threads, task queues.

    Raises:
        SeedRegistryError: as `ingest` does.
        RuntimeError: this thread has a running event loop; there `await ingest(…)`.
    """
    return anyio.run(ingest, indexes, settings, progress)
