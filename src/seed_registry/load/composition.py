"""Puts a load together: database, first look, locks, ledger, recorder, writers; in this order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from seed_registry.embedded.database import database
from seed_registry.load.conclusion import LoadConclusion
from seed_registry.load.context import RunContext
from seed_registry.load.deferred_indexes import DeferredIndexes
from seed_registry.load.index_steps import LoadIndexSteps
from seed_registry.load.inspection import Inspection
from seed_registry.load.main_session import main_session
from seed_registry.load.outcomes import OutcomeRecorder
from seed_registry.load.resume import make_rejects_file, open_ledger
from seed_registry.load.sessions import LoadSessions
from seed_registry.load.source_cache import SourceCache
from seed_registry.load.target import Target


def open_load(run: RunContext) -> AbstractAsyncContextManager[Target]:
    """The target of a load. On the embedded server its tables are created, elsewhere they have to be there.

    Raises:
        EmbeddedServerFailed, StorageFailed: there is no place for the rejects file.

    Raises, when entered:
        DatabaseUnavailable: there is no connection.
        DatabaseRefused: another load has one of the indexes.
        SchemaMismatch: the tables are missing or cannot take the records.
    """
    run.rejects = make_rejects_file(run)
    return _open(run)


@asynccontextmanager
async def _open(run: RunContext) -> AsyncIterator[Target]:
    settings, tally, progress, rejects = run.settings, run.tally, run.progress, run.rejects
    assert rejects is not None
    run.log_unverified()
    async with database(settings) as url, AsyncExitStack() as stack:
        inspection = Inspection(run, url)
        state = await inspection.inspect()
        main = await stack.enter_async_context(main_session(run, state))
        ledger = await open_ledger(main, run, state.tables, rejects)
        is_empty = state.is_empty and not settings.only_newer  # see `DeferredIndexes.new_held_assets`
        recorder = OutcomeRecorder(settings, tally, progress, run.rejects, state.tables, is_empty=is_empty)
        recorder.expectation.only_newer = run.only_newer
        stack.callback(recorder.listed_keys.close)
        deferred = DeferredIndexes(run, state, main)
        await deferred.drop(ledger)
        held = deferred.new_held_assets()
        stack.callback(held.close)
        sessions = LoadSessions(run, state, ledger, recorder, stack, sets_hint_bits=True)
        yield Target(
            database=inspection.database,
            tables=state.tables,
            recorder=recorder,
            writer=sessions.new_writer(main),
            open_writer=sessions.pool.open_writer,
            held=held,
            source_cache=SourceCache(settings.source_cache, url, settings.provider),
            indexes=LoadIndexSteps(run, state, main, ledger, sessions.check_commits),
            conclusion=LoadConclusion(run, state, main, ledger, recorder),
            state=state,
            main=main,
            ledger=ledger,
            deferred=deferred,
        )
