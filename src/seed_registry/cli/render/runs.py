"""Draw the runs of the ledger."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import typer
from rich.text import Text

from seed_registry.cli.render.changes import summary_in_words
from seed_registry.cli.render.console import digest_lines, print_rows, unbroken
from seed_registry.cli.render.shards import ShardEntry, entries_of_ledger, entries_of_report, print_shards
from seed_registry.escape import printable
from seed_registry.ledger.history import RunRecord
from seed_registry.ledger.shards import ShardProgress
from seed_registry.report import AssetCounts, Database, MergeCounts, Report, SourceCounts
from seed_registry.words import counted

_COLUMNS: Final = ("run", "outcome", "s", "read", "inserted", "updated", "rejected", "records/s", "index")
# Shown where a run has it and there is room.
_HISTORY: Final = "history"
# What fits 80 columns.
_FEWER_COLUMNS: Final = ("run", "outcome", "read", "inserted", "rejected", "index")
_NUMBERS: Final = {"s", "read", "inserted", "updated", "rejected", "records/s"}
_WIDE: Final = 110
_WIDER: Final = 120
_NUMBERS_OF_LATER_VERSIONS: Final = {"dates_ignored": 0, "texts_ignored": 0}


class RunEntry(msgspec.Struct):
    """A run as `--json` prints it; the report is that of `load --json`."""

    run_id: str
    indexes: list[str]
    started_at: str
    finished_at: str | None
    resumed: int
    outcome: str
    error: str | None
    rejects: str | None
    report: Any
    committed: MergeCounts | None
    shards: list[ShardEntry]
    history: str | None
    undoes: str | None


def print_runs(runs: list[RunRecord], where: Database, shards: list[ShardProgress], *, is_one: bool) -> None:
    """Print a list of runs, or one in full with its shards."""
    if is_one:
        _print_run(runs[0], where)
        print_shards(_shards(runs[0], shards))
    elif not runs:
        typer.echo(f"no load has run yet in {printable(where)}")
    else:
        columns = _COLUMNS if unbroken().width >= _WIDE else _FEWER_COLUMNS
        if unbroken().width >= _WIDER and any(run.history for run in runs):
            columns = (*columns[:-1], _HISTORY, columns[-1])
        rows = [[row[name] for name in columns] for row in map(_row, runs)]
        unbroken().print(Text(f"database: {printable(where)}"))
        print_rows("the last runs", columns, rows, numbers=_NUMBERS)


def _shards(run: RunRecord, unfinished: list[ShardProgress]) -> list[ShardEntry]:
    """The shards of a run: of one that is done its report has them."""
    if unfinished:
        return entries_of_ledger(unfinished)
    report = _report(run)
    return entries_of_report(report.shards) if report else []


def _row(run: RunRecord) -> dict[str, str]:
    what = run.indexes[0].rpartition("/")[2] + (f" and {len(run.indexes) - 1} more" if len(run.indexes) > 1 else "")
    outcome = run.outcome.replace("_", " ") + (f" ({run.resumed}x resumed)" if run.resumed else "")
    row = dict.fromkeys(_COLUMNS, "") | {"run": run.run_id, "outcome": outcome, "index": what}
    row[_HISTORY] = run.history or ""
    if report := _report(run):
        row |= {name: f"{getattr(report.assets, name):,}" for name in ("read", "inserted", "updated", "rejected")}
        row |= {"s": f"{report.seconds:,.1f}", "records/s": f"{report.records_per_second:,.0f}"}
    return row


def run_entry(run: RunRecord, shards: list[ShardProgress]) -> RunEntry:
    """A run with its shards."""
    finished = run.finished_at.isoformat() if run.finished_at else None
    report = msgspec.json.decode(run.report) if run.report else None
    return RunEntry(
        run.run_id, run.indexes, run.started_at.isoformat(), finished, run.resumed, run.outcome, run.error,
        run.rejects, report, run.committed, _shards(run, shards), run.history, run.undoes,
    )  # fmt: skip


def _print_run(run: RunRecord, where: Database) -> None:
    rows = [
        ("database", str(where)),
        *((" " if number else "indexes", index) for number, index in enumerate(run.indexes)),
        ("started", f"{run.started_at:%Y-%m-%d %H:%M:%S %Z}"),
        ("finished", f"{run.finished_at:%Y-%m-%d %H:%M:%S %Z}" if run.finished_at else "no"),
        ("outcome", run.outcome),
        ("resumed", f"{run.resumed} times" if run.resumed else "no"),
    ]
    rows += [(" " if number else "error", line) for number, line in enumerate((run.error or "").splitlines())]
    report = _report(run)
    if report:
        rows.append(("dialect", report.dialect))
        rows += [("sources", _facts(report.sources)), ("assets", _facts(report.assets))]
        rows.append(("speed", f"{report.seconds:,.2f} s, {report.records_per_second:,.0f} records/s"))
        batches = counted(report.batches, "batch", "batches")
        rows.append(("batches", f"{batches}, {counted(report.retries, 'retry', 'retries')}"))
        if report.verification:
            checks = report.verification.checks
            rows.append(("verified", f"{sum(check.passed for check in checks)} of {len(checks)} checks passed"))
            rows += [("failed", str(check)) for check in checks if not check.passed]
        if report.digest:
            rows += [("digest of", line) for line in digest_lines(report.digest)]
        if report.rejects_file:
            rows.append(("rejects file", report.rejects_file))
    if run.undoes:
        rows.append(("takes back", f"run {run.undoes}"))
    if run.history:
        rows.append(("history", run.history))
    if report and report.changes:
        rows.append(("changes", summary_in_words(report.changes)))
    if run.committed:  # only of a run that did not end, or had several attempts
        committed = f"{run.committed.inserted:,} assets inserted, {run.committed.updated:,} updated"
        rows.append(("committed", f"{committed}, in all attempts together"))
    print_rows(f"run {run.run_id}", ("", ""), rows)


def _facts(counts: SourceCounts | AssetCounts) -> str:
    facts = msgspec.structs.asdict(counts).items()
    return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in facts if value)


def _report(run: RunRecord) -> Report | None:
    """The report, unless another version wrote one that this one cannot read."""
    if run.report is None:
        return None
    try:
        return msgspec.convert(_NUMBERS_OF_LATER_VERSIONS | msgspec.json.decode(run.report), Report)
    except (msgspec.DecodeError, TypeError):
        return None
