"""Builds the plan at the end of a dry run; nothing is written, so there is nothing to verify."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from seed_registry.dry_run.collector import PlanCollector
from seed_registry.dry_run.estimate import estimate, unguessed, wal_bytes
from seed_registry.dry_run.recorder import DryRunRecorder
from seed_registry.dry_run.upstream import missing_upstream
from seed_registry.load.context import FoundRegistry, RunContext
from seed_registry.load.guard import not_begun, preview
from seed_registry.load.retry import RetryingSession
from seed_registry.load.target import Conclusion
from seed_registry.records import SourceRow
from seed_registry.report import (
    Change,
    Counts,
    Examples,
    Misdeclared,
    MissingPlan,
    Plan,
    RejectPlan,
    Retirement,
    TablePlan,
)

# Besides those that change.
_KINDS: Final = ("new", "unchanged", "duplicate", "missing_source", "older")


class DryRunConclusion(Conclusion):
    """The `Conclusion` of a dry run."""

    def __init__(
        self,
        run: RunContext,
        recorder: DryRunRecorder,
        collector: PlanCollector,
        found: FoundRegistry,
        main: RetryingSession | None,
    ) -> None:
        """`main` is a session to the registry that was `found`, if there is one."""
        self._listed_keys = recorder.listed_keys
        self._run = run
        self._recorder = recorder
        self._collector = collector
        self._found = found
        self._main = main

    async def retire(self, sources: Mapping[str, SourceRow], obstacle: str | None) -> Retirement | None:
        """What a load would retire, if the settings ask for it."""
        settings, state, listed_keys = self._run.settings, self._found.state, self._listed_keys
        if not settings.retire:
            return None
        if obstacle or state is None or self._main is None:
            return not_begun(settings, obstacle)
        self._run.progress.tell("info", "retiring")
        found = await self._main.do(
            lambda connection: preview(connection, state.tables, settings, sources, listed_keys), is_limited=False
        )
        if found.reason is None:
            self._run.tally.assets.retired = found.unlisted
        return found

    async def complete(self, sources: Mapping[str, SourceRow], *, is_whole: bool) -> tuple[Plan, None]:
        """The plan; `sources` are all that the indexes named, by key."""
        self._run.progress.tell("info", "planning")
        tally, collector, found, main = self._run.tally, self._collector, self._found, self._main
        # No batch takes a mark that the next one would miss. Several processes have collectors of their own.
        tally.assets.returned = collector.returned.count() or tally.assets.returned
        new, changed = tally.assets.inserted, tally.assets.updated
        wal = wal_bytes(new, changed, collector.bytes_to_write / max(collector.assets_to_write, 1))
        missing: tuple[MissingPlan | None, MissingPlan | None] = None, None
        guess = unguessed(wal)
        if main is not None and found.state is not None:
            tables = found.state.tables
            guess = await main.do(lambda connection: estimate(connection, tally.read, new + changed, wal))
            if is_whole and not self._run.is_replay:  # a rejects file does not list all assets of its sources
                part, seconds = self._run.settings.keys, self._run.settings.io_timeout_seconds
                missing = await main.do(
                    lambda connection: missing_upstream(
                        connection, tables, sources, collector, part=part, seconds=seconds
                    ),
                    is_limited=False,
                )
        of_sources = Counter(name for changes in collector.sources.values() for name in changes or ())
        collector.offer("sources", "unchanged", _unchanged(sources, collector))
        examples, declared = self._recorder.examples, self._recorder.expectation.declared
        plan = Plan(
            database=str(found.url) if found.url is not None else None,
            empty_because=found.empty_because,
            sources=_table("sources", tally.sources, of_sources, collector),
            assets=_table("assets", tally.assets, collector.fields(), collector),
            rejects=[RejectPlan(reason, count, examples[reason]) for reason, count in _by_count(tally.rejects)],
            missing_upstream=missing[0],
            rekeyed=missing[1],
            misdeclared=[Misdeclared(*one) for one in declared if one[1] != one[2]],
            estimate=guess,
        )
        return plan, None


def _table(name: str, counts: Counts, fields: Mapping[str, int], collector: PlanCollector) -> TablePlan:
    return TablePlan(
        new=counts.inserted,
        changed=counts.updated,
        unchanged=counts.unchanged,
        duplicate=counts.duplicate,
        rejected=counts.rejected,
        missing_source=counts.missing_source,
        older=counts.older,
        fields=dict(_by_count(fields)),
        examples=Examples(
            changed=[Change(key, fields) for key, fields in collector.changes(name).items()],
            **{kind: collector.examples(name, kind) for kind in _KINDS},
        ),
    )


def _by_count(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _unchanged(sources: Mapping[str, SourceRow], collector: PlanCollector) -> list[str]:
    """Sources that exist and were not compared, for the index does not describe them."""
    return [key for key, row in sources.items() if row.id is not None and key not in collector.sources]
