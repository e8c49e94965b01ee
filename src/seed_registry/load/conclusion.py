"""The end of a load: its verification, its digest, and its entry in the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio

from seed_registry.errors import SeedRegistryError
from seed_registry.ledger.checkpoints import Ledger
from seed_registry.load.context import RegistryState, RunContext
from seed_registry.load.outcomes import OutcomeRecorder
from seed_registry.load.retirement import Retirer
from seed_registry.load.retry import RetryingSession
from seed_registry.load.target import Conclusion
from seed_registry.postgres.connection import flush, session
from seed_registry.records import SourceRow
from seed_registry.registry.digest import digest
from seed_registry.report import ChangeSummary, Digest, Report, Retirement, Verification
from seed_registry.verify.checks import verify

if TYPE_CHECKING:
    from seed_registry.ledger.run_sources import Begin

# A run that failed may take this long to note it in the ledger.
_FAREWELL_SECONDS: Final = 5.0


class LoadConclusion(Conclusion):
    """The `Conclusion` of a load."""

    def __init__(
        self,
        run: RunContext,
        state: RegistryState,
        main: RetryingSession,
        ledger: Ledger,
        recorder: OutcomeRecorder,
    ) -> None:
        self._retirer = Retirer(run, state, main, ledger, recorder.listed_keys)
        self._run = run
        self._state = state
        self._main = main
        self._ledger = ledger
        self._recorder = recorder

    async def begin(self) -> Begin | None:
        """Note what retiring needs to know of the begin of the run."""
        return await self._retirer.begin() if self._run.settings.retire else None

    def begin_earlier(self, begin: Begin) -> None:
        """Take this for the begin of a run that retires."""
        self._retirer.begin_earlier(begin)

    async def verify(self, sources: Mapping[str, SourceRow]) -> Verification | None:
        """Bring everything to disk, and compare the database with what was read."""
        run, tables, expectation = self._run, self._state.tables, self._recorder.expectation
        await self._main.do(flush)
        if not run.settings.verify:
            return None
        run.progress.tell("info", "verifying")
        return await self._main.do(
            lambda connection: verify(connection, tables, sources, run.tally, expectation, run.progress),
            is_limited=False,
        )

    async def retire(self, sources: Mapping[str, SourceRow], obstacle: str | None) -> Retirement | None:
        """Take the marks of rejected records, which are listed, and retire what is not, if the settings ask for it."""
        await self._retirer.take_marks_of_rejects(sources)
        return await self._retirer.retire(sources, obstacle) if self._run.settings.retire else None

    async def complete(self, sources: Mapping[str, SourceRow], *, is_whole: bool) -> tuple[None, Digest | None]:
        """The digest of the registry, if the settings ask for it."""
        del sources, is_whole
        if not self._run.settings.digest:
            return None, None
        self._run.progress.tell("info", "digesting")
        tables = self._state.tables
        return None, await self._main.do(lambda connection: digest(connection, tables), is_limited=False)

    async def summarize_changes(self) -> ChangeSummary | None:
        """What the run changed, if it records that."""
        if not self._ledger.has_history:
            return None
        return await self._main.do(self._ledger.summarize_changes, is_limited=False)

    async def end(self, report: Report) -> None:
        """Note in the ledger that the run is done."""
        await self._main.do(lambda connection: self._ledger.end(connection, "done", report, None))

    async def end_badly(self, outcome: str, report: Report, error: str | None) -> None:
        """Note in the ledger how the run failed, if that takes but a moment, on a session that nothing else uses."""
        if not self._ledger.is_kept:
            return
        with anyio.move_on_after(_FAREWELL_SECONDS, shield=True), suppress(SeedRegistryError):
            async with session(self._state.url, pooler=self._run.settings.pooler) as connection:
                await self._ledger.end(connection, outcome, report, error)
