"""Undoes a run as a run of its own: its checks, its locks, its entry in the ledger."""

from __future__ import annotations

from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Final

import anyio

from seed_registry.changes.undo import Undo
from seed_registry.changes.undo_report import UndoIncomplete, UndoReport
from seed_registry.changes.undo_target import UndoTarget, find_target
from seed_registry.embedded.database import database
from seed_registry.errors import SeedRegistryError
from seed_registry.ledger.undone import begin_undo
from seed_registry.load.context import new_retry_policy, new_run_id
from seed_registry.load.main_session import locking_session
from seed_registry.postgres.connection import session
from seed_registry.registry.change_records import ChangeRecords
from seed_registry.report import Progress, Silent, Tally
from seed_registry.words import counted

if TYPE_CHECKING:
    from seed_registry.ledger.checkpoints import Ledger
    from seed_registry.load.retry import RetryingSession
    from seed_registry.settings import DatabaseUrl, Settings

# An undo that failed may take this long to note it in the ledger.
_FAREWELL_SECONDS: Final = 5.0


async def undo(run_id: str, settings: Settings, progress: Progress | None = None, *, keeps: bool = False) -> UndoReport:
    """Take back what a run with history changed, where nothing else has changed it since.

    Args:
        run_id: of the run.
        settings: the database, the size of batches, the limits of time; with `dry_run` nothing is written.
        progress: of its events.
        keeps: whether assets that the run created are retired instead of deleted, and its sources stay.

    Raises:
        UndoIncomplete: rows were left alone; the exception has the report.
        SettingsInvalid: there is no such run.
        DatabaseRefused: its changes are not known, or it is at work.
        SeedRegistryError: it failed; the same call goes on.
    """
    progress = progress or Silent()
    async with database(settings, must_exist=True) as url:
        target = await find_target(url, settings, run_id, keeps=keeps)
        report = await _UndoRun(url, settings, progress, target, keeps=keeps).execute()
    if report.conflicts:
        count = report.sources.conflicts + report.assets.conflicts
        rows, were = counted(count, "row"), "would be" if report.dry_run else "were"
        raise UndoIncomplete(f"{rows} {were} left alone: the report says which, and why", report)
    return report


class _UndoRun:
    def __init__(
        self, url: DatabaseUrl, settings: Settings, progress: Progress, target: UndoTarget, *, keeps: bool
    ) -> None:
        self._url = url
        self._settings = settings
        self._progress = progress
        self._run = target.run
        self._tables = target.tables
        self._keeps = keeps
        self._run_id = new_run_id()
        self._started = monotonic()

    async def execute(self) -> UndoReport:
        run, settings, url = self._run, self._settings, self._url
        policy = new_retry_policy(settings, url, settings.pooler, tally := Tally(), self._progress)
        self._progress.began(tally)
        names = [] if settings.dry_run else [f"undo {run.run_id}", *run.locked_names]
        async with locking_session(policy, settings, names, lambda: self._run_id) as main:
            if settings.dry_run:
                return self._finished(await self._undo(main).run())
            seconds = settings.io_timeout_seconds
            ledger = await main.do(
                lambda connection: begin_undo(connection, run, self._run_id, keeps=self._keeps, seconds=seconds),
                is_limited=False,
            )
            self._run_id = ledger.run_id
            self._progress.tell("info", "undo_started", run_id=self._run_id, undoes=run.run_id)
            try:
                report = self._finished(await self._undo(main).run())
            except BaseException as exc:
                await self._end_badly(ledger, exc)
                raise
            outcome = "conflicts" if report.conflicts else "done"
            await main.do(lambda connection: ledger.end(connection, outcome, report, None))
        return report

    def _undo(self, main: RetryingSession) -> Undo:
        return Undo(
            main,
            ChangeRecords(self._run_id, self._tables),
            self._run.run_id,
            self._progress,
            batch_size=self._settings.batch_size,
            keeps=self._keeps,
            is_dry=self._settings.dry_run,
        )

    def _finished(self, report: UndoReport) -> UndoReport:
        report.seconds = round(monotonic() - self._started, 3)
        self._progress.tell("info", "undo_finished", run_id=report.run_id, undoes=report.undoes, seconds=report.seconds)
        return report

    async def _end_badly(self, ledger: Ledger, exc: BaseException) -> None:
        outcome = "failed" if isinstance(exc, Exception) else "interrupted"
        error = str(exc) if isinstance(exc, SeedRegistryError) else None
        with anyio.move_on_after(_FAREWELL_SECONDS, shield=True), suppress(SeedRegistryError):
            async with session(self._url, pooler=self._settings.pooler) as connection:
                await ledger.end(connection, outcome, None, error)
