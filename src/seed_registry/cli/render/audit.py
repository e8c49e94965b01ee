"""The result of `seed-registry verify`, drawn for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from seed_registry.cli.render.console import unbroken
from seed_registry.escape import printable
from seed_registry.index.decoder import REASONS
from seed_registry.records import Location
from seed_registry.verify.audit_report import MOST_LISTED, AssetsAudited, AuditReport, Difference, SourceAudit
from seed_registry.words import counted, size

_NUMBERS: Final = ("in_index", "in_database", "missing", "different", "extra")
# Examples of keys without a record.
_EXTRA_SHOWN: Final = 5
_EXTRA_CHARACTERS: Final = 30
_NAME_CHARACTERS: Final = 80
_KEY_CHARACTERS: Final = 40


def print_audit(report: AuditReport, limit: int) -> None:
    """Print the table of an audit, what it does not show, and up to `limit` differences."""
    console = unbroken()
    names = report.indexes
    what = printable(names[0], 200) if len(names) == 1 else f"{len(names)} indexes"
    console.print(Text(f"{what} against {printable(report.database, 200)}", "bold"), soft_wrap=True)
    shown = _shown(report, limit)
    console.print(_table(report, shown))
    if shown and (rest := report.sources.in_index - len(shown)):
        are = "" if len(shown) == limit else ", all as they should be"
        console.print(Text(f"and {rest:,} more source{'s' if rest > 1 else ''}{are}", "dim"))
    for line in _remarks(report):
        console.print(line, soft_wrap=True)
    if report.differences:
        console.print()
        _print_differences(console, report.differences[:limit])
        if note := _more(report, limit):
            console.print(Text(note, "dim"), soft_wrap=True)


def _more(report: AuditReport, limit: int) -> str:
    """How many differences are not listed, and how to get at them."""
    every = report.assets.missing + report.assets.different
    every += sum(difference.table == "sources" for difference in report.differences)
    more = every - min(limit, len(report.differences))
    if every > MOST_LISTED:
        return f"and {more:,} more: --json lists the first {MOST_LISTED:,}"
    return f"and {more:,} more: --limit {every} lists them, --json as well" if more else ""


def _notes(assets: AssetsAudited, rejects: Mapping[str, int]) -> Iterator[str]:
    """Remarks on what needs attention though nothing failed; `rejects` by reason."""
    if rejects and assets.rejected == assets.read:
        reason = max(rejects, key=rejects.__getitem__)
        yield f"every asset was rejected, most often since it {REASONS.get(reason, reason)}"
    if assets.missing_source:
        yield f"{counted(assets.missing_source, 'asset')} of sources that are not listed: --derive-sources creates them"


def _table(report: AuditReport, shown: Sequence[SourceAudit]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(Text("assets of", "dim"), overflow="fold")  # in a narrow place a name breaks, never a number
    names = [*_NUMBERS, *(["retired"] if report.assets.retired else [])]
    for name in names:
        table.add_column(Text(name.replace("_", " "), "dim"), justify="right", no_wrap=True)
    for source in shown:
        table.add_row(_label(source), *_cells(source, names))
    if report.sources.in_index != 1:
        together = "together" if shown else f"{report.sources.in_index:,} sources"
        table.add_row(Text(together, "bold"), *_cells(report.assets, names))
    return table


def _shown(report: AuditReport, limit: int) -> list[SourceAudit]:
    """All sources if they are few, else those with differences."""
    if report.sources.in_index <= max(limit, 1):
        return report.per_source
    return [source for source in report.per_source[:limit] if source.has_failed or source.extra]


def _label(source: SourceAudit) -> Text:
    name = printable(source.source_key, _NAME_CHARACTERS)
    return Text(f"{name} (no such source)", "red") if source.is_missing else Text(name)


def _cells(counts: Any, names: Sequence[str]) -> list[Text]:
    values = {name: getattr(counts, name) for name in names}
    styles = {"missing": "red", "different": "red"}
    return [Text(f"{value:,}", styles.get(name, "") if value else "") for name, value in values.items()]


def _remarks(report: AuditReport) -> Iterator[Text]:
    """Facts that the table does not show."""
    assets, sources = report.assets, report.sources
    left = [
        (assets.duplicate, "repeated later on"),
        (assets.missing_source, "of sources that are not listed"),
        (assets.rejected, "rejected"),
    ]
    if any(count for count, _ in left):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in report.rejects.items())
        why = f" ({reasons})" if reasons else ""
        shown = ", ".join(f"{count:,} {what}" for count, what in left if count)
        yield Text(f"read {assets.read:,} assets: {assets.in_index:,} count, {shown}{why}")
    yield from (Text(note, "yellow") for note in _notes(assets, report.rejects))
    if sources.rejected:
        yield Text(f"read {sources.read:,} sources: {sources.rejected:,} rejected")
    if report.extra:
        keys = _keys([extra.key for extra in report.extra], assets.extra)
        yield Text(f"extra (in the database, not in the index; no failure): {keys}")
    if assets.other_parts or assets.rows_of_other_parts:
        rows = counted(assets.rows_of_other_parts, "row")
        yield Text(f"not compared, of other parts of the keys: {assets.other_parts:,} of the index, {rows}")
    if assets.orphans:
        keys = _keys(report.orphans, assets.orphans)
        yield Text(f"{counted(assets.orphans, 'asset')} of the database without a source: {keys}", "red")
    for check in report.verification.checks:
        if check.name.startswith("declared_") and not check.passed:
            name = printable(check.name.removeprefix("declared_"))
            yield Text(f"the index declares {name} {check.expected}, and has {check.actual}", "red")
    by_value = min(assets.by_value, assets.in_index - assets.missing)
    compared = f"{assets.in_index - assets.missing - by_value:,} compared by content hash, {by_value:,} field by field"
    speed = f"{report.seconds:,.2f} s, {size(report.bytes_read)} read"
    if report.verification.passed:
        yield Text("equal", "green") + Text(f": {compared}; {speed}")
    else:
        yield Text(f"{compared}; {speed}")
    if report.has_edits:
        yield Text(
            "rows were edited in the database: verify --full finds all of them, load --full repairs them", "yellow"
        )


def _keys(keys: Sequence[str], count: int) -> str:
    """The first few keys, and how many more there are."""
    shown = ", ".join(printable(key, _EXTRA_CHARACTERS) for key in keys[:_EXTRA_SHOWN])
    return shown + (f" and {count - _EXTRA_SHOWN:,} more" if count > _EXTRA_SHOWN else "")


def _print_differences(console: Console, differences: Sequence[Difference]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_column(overflow="fold")
    for difference in sorted(differences, key=lambda one: not one.is_missing):
        what = Text("missing" if difference.is_missing else "different", "red")
        kind = "source " if difference.table == "sources" else ""
        name = printable(difference.index.rpartition("/")[2])  # a whole path on every line would only fill them
        where = Text(str(Location(name, difference.line, difference.offset)), "dim")
        fields = "" if difference.is_missing else f": {', '.join(difference.fields)}"
        table.add_row(what, Text(kind + printable(difference.key, _KEY_CHARACTERS)), where + Text(fields, "not dim"))
    console.print(table)


def failures_of(report: AuditReport) -> str:
    """Return what differs, in a line."""
    sources, assets = report.sources, report.assets
    declared = [check for check in report.verification.checks if check.name.startswith("declared_")]
    causes = [
        (sources.missing, "source", "missing"),
        (sources.different, "source", "different"),
        (assets.missing, "asset", "missing"),
        (assets.different, "asset", "different"),
        (assets.orphans, "asset", "without a source"),
        (sum(not check.passed for check in declared), "declared count", "wrong"),
    ]
    return ", ".join(f"{count:,} {what}{'s' if count > 1 else ''} {how}" for count, what, how in causes if count)
