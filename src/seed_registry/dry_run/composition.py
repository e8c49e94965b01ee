"""Puts a dry run together: a load whose writers only count, without locks, ledger and rejects file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext

from seed_registry.dry_run.collector import PlanCollector
from seed_registry.dry_run.plan import DryRunConclusion
from seed_registry.dry_run.recorder import DryRunRecorder
from seed_registry.dry_run.registry import find_registry
from seed_registry.dry_run.sessions import DryRunSessions
from seed_registry.dry_run.writer import DryRunWriter
from seed_registry.load.context import FoundRegistry, RunContext
from seed_registry.load.held_assets import HeldAssets
from seed_registry.load.source_cache import SourceCache
from seed_registry.load.target import IndexSteps, Target
from seed_registry.registry.batch import Writer


@asynccontextmanager
async def open_dry_run(run: RunContext) -> AsyncIterator[Target]:
    """The target of a dry run; without a database, or without tables, it compares with an empty registry.

    Raises:
        DatabaseUnavailable: there is no connection.
        SchemaMismatch: the tables cannot take the records.
    """
    async with AsyncExitStack() as stack:
        yield await compose(run, await find_registry(run, stack), stack)


async def compose(run: RunContext, found: FoundRegistry, stack: AsyncExitStack) -> Target:
    """The target of a dry run that compares with what was found; all is closed with `stack`.

    Raises:
        DatabaseUnavailable: there is no connection.
    """
    settings = run.settings
    collector = PlanCollector(only_newer=settings.only_newer)
    stack.callback(collector.close)
    tables = found.state.tables if found.state else None
    recorder = DryRunRecorder(
        settings,
        run.tally,
        run.progress,
        collector,
        tables,
    )
    stack.callback(recorder.listed_keys.close)
    main = None
    open_writer: Callable[[], AbstractAsyncContextManager[Writer]]
    if found.state is None:
        writer: Writer = DryRunWriter(None, None, collector)
        open_writer = lambda: nullcontext(writer)  # noqa: E731  # it keeps no session
    else:
        sessions = DryRunSessions(run, found.state, collector, recorder, stack)
        main = await stack.enter_async_context(sessions.main_session())
        writer, open_writer = sessions.new_writer(main), sessions.pool.open_writer
    return Target(
        database=found.database,
        tables=tables,
        recorder=recorder,
        writer=writer,
        open_writer=open_writer,
        held=HeldAssets(),
        source_cache=SourceCache(settings.source_cache, found.url, settings.provider, is_saved=False),
        indexes=IndexSteps(),
        conclusion=DryRunConclusion(run, recorder, collector, found, main),
        state=found.state,
        main=main,
    )
