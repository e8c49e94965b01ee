"""Draw reports and tables for people. Texts are escaped and never read as markup."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, JustifyMethod, OverflowMethod
from rich.table import Table
from rich.text import Text

from seed_registry.escape import printable
from seed_registry.records import Location
from seed_registry.report import AssetCounts, Digest, Report, Retirement, ShardReport, SourceCounts, Tally
from seed_registry.shortfall import empty_handed, gaps, shortfall
from seed_registry.words import counted, duration, size

_STYLES = {"warning": "yellow", "error": "red", "info": "dim"}
_FIELDS = {"updated_at": "date", "url": "URL"}
# What the table of counts needs with numbers of nine digits.
_WIDE = 72
# A line this long is not broken where it goes to a file.
_UNBROKEN_COLUMNS = 200
# Of those that have assets which are no longer listed.
_MOST_SOURCES = 10
# Shown where there are any.
_RARE_COUNTS = ("missing_source", "resumed", "older", "not_written", "retired", "returned", "other_parts")


def format_event(level: str, event: str, fields: dict[str, Any]) -> Text:
    """Format an event as a line, which begins with its place if it has one."""
    facts = {key: value for key, value in fields.items() if value is not None}
    line = Text()
    if {"index", "line", "offset"} <= facts.keys():
        location = Location(printable(facts.pop("index")), facts.pop("line"), facts.pop("offset"))
        line.append(f"{location}: ")
    if detail := facts.pop("detail", ""):
        facts.pop("reason", None)  # the same in a word
    note = facts.pop("note", "")
    if event == "not_splittable":
        detail = f"{facts.pop('index')} is loaded by one process: {facts.pop('reason')}"
    line.append(printable(detail or event.replace("_", " ")), _STYLES.get(level, ""))
    if note:
        line.append(f": {printable(note)}")
    if facts:
        line.append("  " + "  ".join(f"{key}={printable(value, 60)}" for key, value in facts.items()), "dim")
    return line


def print_report(report: Report, tally: Tally, *, is_whole: bool = True) -> None:
    """Print the report as a table; one that is not whole is of a load that stopped."""
    console = Console(file=sys.stdout, highlight=False)
    names = [printable(index, 1_000) for index in report.indexes]
    what = names[0] if len(names) == 1 else f"{len(names)} indexes"
    print_shortfall(console, report, tally)
    for note in gaps(report):
        console.print(Text(note, "yellow"), soft_wrap=True)
    title = f"{'stopped loading' if not is_whole else 'read' if empty_handed(report) else 'loaded'} {what}"
    facts = f"{report.dialect or 'no records'}, {of_part(report)}run {report.run_id}"
    console.print(Text(f"{title} ({facts})", "bold"), soft_wrap=True)
    console.print(_counts_table(report) if console.width >= _WIDE else _narrow_counts(report))
    console.print(
        f"{report.seconds:,.2f} s, {report.records_per_second:,.0f} records/s, {size(report.bytes_read)} read, "
        f"{counted(report.batches, 'batch', 'batches')}{f', {report.repaired:,} repaired' if report.repaired else ''}"
        f"{f', {left_out(report.ignored_fields)} left out' if report.ignored_fields else ''}",
        soft_wrap=True,
    )
    _print_changes(console, report)
    if report.shards:
        console.print(_by_processes(report.shards), soft_wrap=True)
    if report.database is not None:
        console.print(f"database: {printable(report.database)}", soft_wrap=True)
    if len(tally.rejects) > 1:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in tally.rejects.most_common())
        console.print(f"rejected: {reasons}", soft_wrap=True)
    if report.rejects_file:
        console.print(f"rejects file: {printable(report.rejects_file, 1000)}", soft_wrap=True)
    if report.verification is not None:
        _print_verification(console, report)
    if report.digest is not None:
        for line in digest_lines(report.digest):
            console.print(f"digest of {line}", soft_wrap=True)


def of_part(report: Report) -> str:
    """Which part of the keys was loaded, for what follows; empty of all."""
    return f"part {report.keys} of the keys, " if report.keys else ""


def _print_changes(console: Console, report: Report) -> None:
    if report.retirement is not None:
        print_retirement(console, report.retirement)
    if report.changes is not None:
        console.print(f"changes: recorded, `seed-registry changes {report.run_id}` shows them", soft_wrap=True)


def print_retirement(console: Console, retirement: Retirement) -> None:
    """Print what was retired of which sources, or would be; and what was left alone."""
    is_refused = retirement.reason is not None
    for one in retirement.per_source[:_MOST_SOURCES]:
        keys = ", ".join(printable(key, 40) for key in one.keys)
        more = ", …" if one.unlisted > len(one.keys) else ""
        style = "red" if one.is_over else "yellow" if is_refused else ""
        text = f"{printable(one.source, 100)}: {one.unlisted:,} of {one.held:,} no longer listed: {keys}{more}"
        console.print(Text(text, style), soft_wrap=True)
    if rest := len(retirement.per_source[_MOST_SOURCES:]):
        console.print(Text(f"and {rest:,} more sources: --json lists them", "dim"), soft_wrap=True)
    for left in retirement.left_alone[:_MOST_SOURCES]:
        text = f"{printable(left.source, 100)}: nothing retired, run {printable(left.run_id)} was loading it meanwhile"
        console.print(Text(text, "yellow"), soft_wrap=True)


def _by_processes(shards: Sequence[ShardReport]) -> str:
    """How many processes loaded how many shards, and which of them took the longest."""
    slowest = max(shards, key=lambda one: one.seconds)
    of_index = (
        f" of {printable(slowest.index.rpartition('/')[2], 40)}" if len({one.index for one in shards}) > 1 else ""
    )
    retried = sum(one.attempts > 1 for one in shards)
    return (
        f"{counted(len({one.worker for one in shards}), 'process', 'processes')}, {counted(len(shards), 'shard')}"
        f"{f' ({retried:,} begun more than once)' if retried else ''}, "
        f"the slowest: shard {slowest.number}{of_index} with {duration(slowest.seconds)}"
    )


def digest_lines(digest: Digest) -> Iterator[str]:
    """A digest in two lines, to compare with those of another registry."""
    of_one = f" of {printable(digest.source, 1_000)}" if digest.source is not None else ""
    yield f"sources{of_one} {digest.sources}"
    yield f"assets{of_one} {digest.assets}"


def print_shortfall(console: Console, report: Report, tally: Tally) -> None:
    """Print what was not loaded and the most likely fix, before anything else."""
    if line := shortfall(report, tally.rejects):
        console.print(Text(line, "red" if empty_handed(report) else "yellow"), soft_wrap=True)


def left_out(fields: Mapping[str, int]) -> str:
    """Return how many values of each field were left out."""
    return ", ".join(counted(count, _FIELDS.get(field, field)) for field, count in fields.items())


def print_rows(
    title: str, header: Sequence[str], rows: Sequence[Sequence[object]], *, numbers: Collection[str] = ()
) -> None:
    """A plain table on stdout; columns of `numbers` are never broken, nor is the first: it is copied elsewhere."""
    table = Table(box=None, pad_edge=False, show_header=any(header))
    for position, name in enumerate(header):
        is_number = name in numbers
        justify: JustifyMethod = "right" if is_number else "left"
        overflow: OverflowMethod = "ellipsis" if position == 0 else "fold"
        table.add_column(Text(name, "dim"), justify=justify, no_wrap=is_number or position == 0, overflow=overflow)
    for row in rows:
        table.add_row(*(Text(printable(cell, 2_000)) for cell in row))
    console = unbroken()
    console.print(Text(title, "italic"), soft_wrap=True)
    console.print(table)


def unbroken() -> Console:
    """Stdout for long lines: what goes to a file or another program has no edge to be broken at."""
    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else _UNBROKEN_COLUMNS)


def _counts_table(report: Report) -> Table:
    names = ["read", "inserted", "updated", "unchanged", "duplicate", "rejected"]
    names += [name for name in _RARE_COUNTS if getattr(report.assets, name)]
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in names:
        table.add_column(Text(name.replace("_", " "), "dim"), justify="right", no_wrap=True)

    def add(label: str, counts: SourceCounts | AssetCounts, style: str = "") -> None:
        values = [getattr(counts, name, None) for name in names]
        table.add_row(Text(label, style), *("" if value is None else f"{value:,}" for value in values))

    for part in report.per_index:
        label = printable(part.index.rpartition("/")[2], 40)
        add(f"FAILED {label}" if part.error else label, part.assets, "red" if part.error else "dim")
    add("sources", report.sources)
    add("assets", report.assets)
    return table


def _narrow_counts(report: Report) -> Table:
    """The two totals side by side, for consoles so narrow that numbers would be cut off."""
    table = Table(box=None, pad_edge=False)
    for name in ("", "sources", "assets"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for name in AssetCounts.__struct_fields__:
        of_sources, of_assets = getattr(report.sources, name, None), getattr(report.assets, name)
        if of_sources is not None or of_assets:
            cells = ("" if value is None else f"{value:,}" for value in (of_sources, of_assets))
            table.add_row(Text(name.replace("_", " "), "dim"), *cells)
    for part in report.per_index:
        if part.error:
            table.add_row(Text(f"FAILED {printable(part.index.rpartition('/')[2], 30)}", "red"))
    return table


def _print_verification(console: Console, report: Report) -> None:
    assert report.verification is not None
    checks = report.verification.checks
    if report.verification.passed:
        style = "" if empty_handed(report) else "green"
        console.print(Text(f"verified: {len(checks)} of {len(checks)} checks passed", style))
        return
    for check in checks:
        verdict = Text("passed", "green") if check.passed else Text("FAILED", "red bold")
        console.print(Text(f"{printable(check)} ") + verdict)
