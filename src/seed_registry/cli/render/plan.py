"""Draw the plan of a dry run for people."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from seed_registry.cli.render.console import left_out, of_part, print_shortfall
from seed_registry.escape import printable
from seed_registry.report import Change, Estimate, Plan, RejectExample, Report, Retirement, TablePlan, Tally
from seed_registry.shortfall import empty_handed, gaps
from seed_registry.words import counted, guessed_duration, guessed_size

# A file has no width; this fits most editors.
_FILE_COLUMNS: Final = 120
# Keys are short; one that is not may not push the others out.
_KEY_CHARACTERS: Final = 60
_SOURCES_SHOWN: Final = 10


def print_plan(report: Report, plan: Plan, tally: Tally) -> None:
    """Print the changes that a load would make to each table, and its effort."""
    console = Console(
        file=sys.stdout,
        highlight=False,
        width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else _FILE_COLUMNS,
    )
    names = [printable(index, 200) for index in report.indexes]
    what = names[0] if len(names) == 1 else f"{len(names)} indexes"
    print_shortfall(console, report, tally)
    console.print(
        Text(f"would load {what} ({of_part(report)}{report.dialect or 'no records'})", "bold"), soft_wrap=True
    )
    compared = f"an empty registry: {plan.empty_because}" if plan.empty_because else printable(report.database or "")
    console.print(Text(f"compared with {compared}", "yellow" if plan.empty_because else "dim"), soft_wrap=True)
    for part in report.per_index:
        if part.error:
            console.print(Text(f"FAILED {printable(part.error)}", "red"), soft_wrap=True)
    console.print()
    for line in _lines(list(_rows(report, plan, several=len(names) > 1)), console.width):
        console.print(line, soft_wrap=True)
    console.print()
    for sentence in _verdict(report, plan, tally):
        for text in textwrap.wrap(sentence.plain, console.width):
            console.print(Text(text, sentence.style), soft_wrap=True)


class _Row(Struct, frozen=True):
    """A line of the table: what, how many, and examples of it."""

    name: str
    count: int | None = None
    examples: Sequence[str] = ()
    style: str = ""


def _lines(rows: Sequence[_Row], width: int) -> Iterator[Text]:
    """The rows in columns, each with as many examples as its line has room for."""
    names = max(len(row.name) for row in rows)
    counts = max(len(f"{row.count:,}") for row in rows if row.count is not None)
    for row in rows:
        if row.count is None:
            yield Text(row.name, row.style)
            continue
        line = Text(row.name.ljust(names), row.style if row.count else "dim")
        line.append(f"  {row.count:>{counts},}")
        if row.examples:
            line.append(f"  {_fitting(row.examples, row.count, width - names - counts - 4)}", "dim")
        yield line


def _fitting(examples: Sequence[str], count: int, width: int) -> str:
    shown = [printable(example, _KEY_CHARACTERS) for example in examples]
    while True:
        more = ", …" if count > len(shown) else ""
        text = ", ".join(shown) + more
        if cell_len(text) <= width or len(shown) == 1:
            return text
        shown.pop()


def _rows(report: Report, plan: Plan, *, several: bool) -> Iterator[_Row]:
    yield from _rows_of_table("assets", plan.assets)
    for reject in plan.rejects:
        places = [_place(example, several=several) for example in reject.examples]
        yield _Row(f"    {reject.reason}", reject.count, places, "red")
    if report.assets.returned:
        yield _Row("  returned", report.assets.returned, style="green")
    if report.retirement is not None:
        yield from _rows_of_retirement(report.retirement)
    elif plan.missing_upstream is not None:
        yield _Row("  missing upstream", plan.missing_upstream.count, plan.missing_upstream.examples, "yellow")
    yield _Row("")
    yield from _rows_of_table("sources", plan.sources)


def _rows_of_retirement(retirement: Retirement) -> Iterator[_Row]:
    style = "yellow" if retirement.reason is None else "red"
    name = "  retired" if retirement.reason is None else "  no longer listed"
    yield _Row(name, retirement.unlisted, style=style)
    for one in retirement.per_source[:_SOURCES_SHOWN]:
        yield _Row(
            f"    {printable(one.source, _KEY_CHARACTERS)}", one.unlisted, one.keys, "red" if one.is_over else style
        )


def _rows_of_table(name: str, table: TablePlan) -> Iterator[_Row]:
    examples = table.examples
    yield _Row(name, style="bold")
    yield _Row("  new", table.new, examples.new, "green")
    yield _Row("  changed", table.changed, [_change(change) for change in examples.changed], "cyan")
    for field, count in table.fields.items():
        yield _Row(f"    {field}", count, style="dim")
    yield _Row("  unchanged", table.unchanged, examples.unchanged)
    if table.duplicate:
        yield _Row("  duplicate", table.duplicate, examples.duplicate)
    if table.older:
        yield _Row("  older", table.older, examples.older)
    if table.missing_source:
        yield _Row("  missing source", table.missing_source, examples.missing_source, "yellow")
    if table.rejected:
        yield _Row("  rejected", table.rejected, style="red")


def _change(change: Change) -> str:
    return f"{change.key} ({', '.join(change.fields)})"


def _place(example: RejectExample, *, several: bool) -> str:
    where = f"{example.index.rpartition('/')[2]}: " if several else ""
    return f"{where}line {example.line} (byte {example.offset})" + (f" {example.key}" if example.key else "")


def _verdict(report: Report, plan: Plan, tally: Tally) -> Iterator[Text]:
    if plan.missing_upstream is not None and plan.missing_upstream.count and report.retirement is None:
        yield Text("Missing upstream: in the registry, but not in what was read. A load leaves it.")
    if plan.rekeyed is not None and plan.rekeyed.count:
        rows = counted(plan.rekeyed.count, "row")
        yield Text(
            f"{rows} of it ({_fitting(plan.rekeyed.examples, plan.rekeyed.count, _FILE_COLUMNS // 2)}) "
            "have keys that an earlier version gave to records of this index: they stay, and their records come as new "
            "rows. docs/operations.md says how to re-key.",
            "yellow",
        )
    if any(part.error for part in report.per_index):
        yield Text("What is missing upstream was not counted: an index could not be read to its end.", "yellow")
    for one in plan.misdeclared:
        name = printable(one.name)
        says = f"The index declares {name} {one.declared:,}, and has {one.read:,}"
        yield Text(f"{says}: a load's verification would fail.", "red")
    for note in gaps(report):
        yield Text(f"{note[0].upper()}{note[1:]}.", "yellow")
    if report.has_changes:
        yield Text(f"A load would {_deeds(report, plan)}.", "bold")
        yield Text(f"It would {_effort(plan.estimate)}.")
    elif not empty_handed(report):
        yield Text("Nothing to do: a load would change nothing.", "bold")
    facts = [counted(tally.read, "record"), guessed_size(report.bytes_read), f"{report.seconds:,.1f} s"]
    facts += [f"{report.repaired:,} repaired"] if report.repaired else []
    facts += [f"{left_out(report.ignored_fields)} left out"] if report.ignored_fields else []
    yield Text(f"Nothing was written. Read: {', '.join(facts)}.", "dim")


def _deeds(report: Report, plan: Plan) -> str:
    assets, sources = plan.assets, plan.sources
    deeds = [
        f"{verb} {counted(count, what)}"
        for verb, count, what in (
            ("create", sources.new, "source"),
            ("update", sources.changed, "source"),
            ("insert", assets.new, "asset"),
            ("update", assets.changed, "asset"),
            ("retire", report.assets.retired, "asset"),
            ("take the mark from", report.assets.returned, "retired asset"),
        )
        if count
    ]
    return " and ".join([", ".join(deeds[:-1]), deeds[-1]] if len(deeds) > 1 else deeds)


def _effort(estimate: Estimate) -> str:
    wal = f"write about {guessed_size(estimate.wal_bytes)} of WAL"
    if estimate.seconds is None or estimate.records_per_second is None:
        return f"{wal}; how long it takes is not known, for no load like it has run here yet"
    runs = "the last load" if estimate.runs == 1 else f"the last {estimate.runs} loads"
    return (
        f"take about {guessed_duration(estimate.seconds)}, as {runs} here at {estimate.records_per_second:,.0f} "
        f"records/s, and {wal}"
    )
