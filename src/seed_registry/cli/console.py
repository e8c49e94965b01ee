"""Console: everything that is drawn for people. Texts are escaped and never read as markup."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from seed_registry.escaping import printable
from seed_registry.report import AssetCounts, Report, SourceCounts, Tally

_STYLES = {"warning": "yellow", "error": "red", "info": "dim"}
# Told by the table at the end, or by the bar itself.
_UNSAID = {"run_started", "run_finished", "sources_loaded", "assets_loaded"}


class BarProgress:
    """A live bar on a terminal; warnings scroll by above it."""

    def __init__(self, *, verbose: bool) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._verbose = verbose
        self._tally = Tally()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            _Records(self._counts),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            get_time=None,
        )
        self._task: TaskID | None = None

    @contextmanager
    def shown(self) -> Iterator[BarProgress]:
        """Draw while the block runs."""
        with self._bar:
            yield self

    def began(self, tally: Tally) -> None:
        """The load begins."""
        self._tally = tally

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Move the bar, and print what is worth a line."""
        if event == "index_opened":
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(printable(fields["index"], 40), total=fields["bytes"])
        elif self._task is not None:
            self._bar.update(self._task, completed=self._tally.index_position)
        if (level == "debug" or event in _UNSAID) and not self._verbose:
            return
        facts = "  ".join(f"{key}={printable(value)}" for key, value in fields.items() if value is not None)
        self._bar.console.print(Text(f"{event.replace('_', ' ')}  ", _STYLES.get(level, "")) + Text(facts, "dim"))

    def _counts(self) -> str:
        tally = self._tally
        parts = [f"{tally.read:,} records"]
        parts += [
            f"{count:,} {name}"
            for name, count in (
                ("new", tally.assets.inserted),
                ("changed", tally.assets.updated),
                ("rejected", tally.rejected),
            )
            if count
        ]
        return ", ".join(parts)


class _Records(TextColumn):
    """Records so far, and how many a second."""

    def __init__(self, counts: Any) -> None:
        super().__init__("", markup=False)
        self._counts = counts

    def render(self, task: Task) -> Text:
        """The column's text."""
        elapsed = task.elapsed or 0
        count = self._counts()
        total = int(count.split(" ", 1)[0].replace(",", ""))
        return Text(f"{count}, {total / elapsed:,.0f}/s" if elapsed else count)


def print_report(report: Report, tally: Tally) -> None:
    """The report as a table on stdout."""
    console = Console(file=sys.stdout, highlight=False)
    title = (
        f"{'would load' if report.dry_run else 'loaded'} {', '.join(printable(index, 60) for index in report.indexes)}"
    )
    console.print(Text(f"{title} ({report.dialect or 'no records'}, run {report.run_id})", "bold"), soft_wrap=True)
    console.print(_counts_table(report.sources, report.assets))
    console.print(
        f"{report.seconds:,.2f} s, {report.records_per_second:,.0f} records/s, {report.bytes_read / 1e6:,.1f} MB read, "
        f"{report.batches:,} batches{f', {report.repaired:,} repaired' if report.repaired else ''}"
        f"{f', {tally.dates_ignored:,} bad dates left out' if tally.dates_ignored else ''}"
    )
    if tally.rejects:
        console.print("rejected: " + ", ".join(f"{count:,} {reason}" for reason, count in tally.rejects.most_common()))
    if report.rejects_file:
        console.print(f"rejects file: {printable(report.rejects_file, 1000)}", soft_wrap=True)
    if report.verification is not None:
        _print_verification(console, report)


def print_rows(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A plain table on stdout."""
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    for name in header:
        table.add_column(Text(name, "dim"))
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(file=sys.stdout, highlight=False).print(table)


def print_error(message: str) -> None:
    """One failure on stderr."""
    console = Console(stderr=True, highlight=False)
    for number, line in enumerate(message.splitlines()):
        text = Text(printable(line, 2_000))
        console.print(Text("error: ", "red bold") + text if number == 0 else Text("       ") + text, soft_wrap=True)


def _counts_table(sources: SourceCounts, assets: AssetCounts) -> Table:
    names = ["read", "inserted", "updated", "unchanged", "duplicate", "rejected", "missing_source"]
    if assets.resumed:
        names.append("resumed")
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in names:
        table.add_column(Text(name.replace("_", " "), "dim"), justify="right")
    for label, counts in (("sources", sources), ("assets", assets)):
        values = [getattr(counts, name, None) for name in names]
        table.add_row(label, *("" if value is None else f"{value:,}" for value in values))
    return table


def _print_verification(console: Console, report: Report) -> None:
    assert report.verification is not None
    checks = report.verification.checks
    if report.verification.passed:
        console.print(Text(f"verified: {len(checks)} of {len(checks)} checks passed", "green"))
        return
    for check in checks:
        verdict = Text("passed", "green") if check.passed else Text("FAILED", "red bold")
        console.print(Text(f"{printable(check.name)}: expected {check.expected}, found {check.actual} ") + verdict)
