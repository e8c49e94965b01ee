"""What a run did not load: records, why and the most likely fix; and what portals declare beyond their indexes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from seed_registry.escape import printable
from seed_registry.records import Asset, SourceRow
from seed_registry.report import AssetCounts, Incomplete, Report, SourceCounts, UnreadRecords
from seed_registry.words import counted

# For each reason of a reject the most likely fix; `index.decoder.REASONS` explains the reasons.
FIXES: Final[Mapping[str, str]] = {
    "not_json": "is it the right file, is it whole?",
    "not_an_object": "name the array of the records with --records-at",
    "bad_utf8": "convert the index to UTF-8",
    "bad_unicode": "have the portal correct these records",
    "no_type": "name the shape of the index with --dialect",
    "no_key": "is --dialect right, and --records-at?",
    "no_source": "name the portal with --domain",
    "nul_in_key": "have the portal correct these keys",
    "key_too_long": "is --dialect right? Keys as long as these cannot be stored",
    "record_too_large": "raise --max-record-bytes",
    "too_deep": "is --records-at right? Records as deep as these cannot be stored",
    "key_of_another_source": "`seed-registry schema check` shows how to keep both, by a key with source_id",
    "database_refused": "correct the table, or these records",
}
# As many as fit a screen with the rest of a summary.
_GAPS_SHOWN: Final = 5
_NO_SOURCE_LISTED: Final = "create their sources with --derive-sources"


def shortfall(report: Report, rejects: Mapping[str, int]) -> str:
    """Return what was not loaded, in one line; empty if everything was. `rejects` counts them by reason."""
    if counts := empty_handed(report):
        would = "would be" if report.dry_run else "was"
        records = "assets" if isinstance(counts, AssetCounts) else "sources"
        return f"nothing {would} loaded: {_causes(counts, rejects, records)}{_fix(counts, rejects)}"
    sources, assets = report.sources, report.assets
    lost = replace(
        assets,
        rejected=sources.rejected + assets.rejected,
        not_written=sources.not_written + assets.not_written,
    )
    count, read = lost.rejected + lost.missing_source + lost.not_written, sources.read + assets.read
    if not count:
        return ""
    would = "would not be" if report.dry_run else "were not" if count > 1 else "was not"
    return f"{count:,} of {read:,} records {would} loaded: {_causes(lost, rejects)}{_fix(lost, rejects)}"


def gaps(report: Report) -> Iterator[str]:
    """A line for each portal or index that holds more records than were read."""
    for one in report.incomplete[:_GAPS_SHOWN]:
        what = "this index" if len(report.indexes) == 1 else "these indexes"
        yield f"not complete: the portal has {one.declared:,} records, {what} {one.read:,} ({printable(one.index)})"
    for unread in report.unread_records[:_GAPS_SHOWN]:
        what = counted(unread.count, "element")
        yield f"not read: {what} at {printable(unread.path)} look like records ({printable(unread.index)})"
    more = len(report.incomplete[_GAPS_SHOWN:]) + len(report.unread_records[_GAPS_SHOWN:])
    if more:
        yield f"{more:,} more of these are in the report of --json"


def empty_handed(report: Report) -> AssetCounts | SourceCounts | None:
    """The counts of the assets, or where none were read of the sources, if of those read none are in the registry."""
    counts = report.assets if report.assets.read else report.sources
    kept = counts.inserted + counts.updated + counts.unchanged
    if isinstance(counts, AssetCounts):
        kept += counts.resumed + counts.older
    return counts if counts.read and not kept else None


def mostly_missing(counts: AssetCounts | SourceCounts) -> bool:
    """Whether more records lack a source than were rejected."""
    return isinstance(counts, AssetCounts) and counts.missing_source > counts.rejected


def fix_of(rejects: Mapping[str, int]) -> str:
    """The fix for the most frequent reason; empty if none is known."""
    return FIXES.get(_most_frequent(rejects), "")


def _causes(counts: AssetCounts | SourceCounts, rejects: Mapping[str, int], records: str = "") -> str:
    """How many of what, the more frequent cause first; with `records` their name and how many were read."""
    causes = []
    if counts.rejected:
        often = "most often " if len(rejects) > 1 else ""
        why = f" ({often}{_most_frequent(rejects)})" if rejects else ""
        causes.append((counts.rejected, f"rejected{why}"))
    if isinstance(counts, AssetCounts) and counts.missing_source:
        causes.append((counts.missing_source, "of sources that are not listed"))
    if counts.not_written:
        causes.append((counts.not_written, "not written before the run stopped"))
    causes.sort(key=lambda cause: -cause[0])
    of = f" of {counts.read:,} {records}" if records else ""
    return ", ".join(f"{count:,}{of if number == 0 else ''} {what}" for number, (count, what) in enumerate(causes))


def _fix(counts: AssetCounts | SourceCounts, rejects: Mapping[str, int]) -> str:
    fix = _NO_SOURCE_LISTED if mostly_missing(counts) else fix_of(rejects)
    return f": {fix}" if fix else ""


def _most_frequent(rejects: Mapping[str, int]) -> str:
    return max(rejects, key=rejects.__getitem__, default="")


# Indexes that hold less than their portals declare


class Total(Struct, frozen=True):
    """How many records a portal has for one question, as the pages of an index say, and how many those pages hold.

    `portal` is empty where pages do not name it, and where one has records of several.
    """

    dialect: str
    portal: str
    declared: int
    read: int
    index: str = ""


class Expectation(Struct):
    """What the verification of a load compares the database with.

    Attributes:
        distinct_assets: how many different assets were sent to the database.
        refused_assets: how many of the records sent it refused.
        declared: header field, what it said, what was read; for each index that declares something.
        totals: how many records portals have, as the indexes say, and how many were read.
        unread: arrays that look like records and were not read.
        sample: some assets as they should be in the database, by key, each with its source.
        only_newer: whether their rows may be newer.
    """

    distinct_assets: int = 0
    refused_assets: int = 0
    declared: list[tuple[str, int, int]] = field(default_factory=list)
    totals: list[Total] = field(default_factory=list)
    unread: list[UnreadRecords] = field(default_factory=list)
    sample: dict[str, tuple[SourceRow, Asset]] = field(default_factory=dict)
    only_newer: bool = False


def incomplete(totals: Iterable[Total], repeated: int) -> list[Incomplete]:
    """Return the queries whose answers were not read to their end.

    Pages belong together that share dialect, portal and total; those without a portal take in all others of their
    total. A record that repeats the key of another is not one more: a page loaded twice completes nothing. Which
    question it belongs to is not known, so it is missing from each.

    Args:
        totals: of all indexes of a run.
        repeated: how many records of the run had the key of another one.
    """
    return [
        Incomplete(together[0].index, together[0].declared, max(read - repeated, 0) if read >= declared else read)
        for together in _together(totals)
        if (read := sum(total.read for total in together)) - repeated < (declared := together[0].declared)
    ]


def _together(totals: Iterable[Total]) -> Iterable[Sequence[Total]]:
    by_total: dict[tuple[str, int], dict[str, list[Total]]] = {}
    for total in totals:
        by_total.setdefault((total.dialect, total.declared), {}).setdefault(total.portal, []).append(total)
    for by_portal in by_total.values():
        if "" in by_portal:
            yield [total for of_portal in by_portal.values() for total in of_portal]
        else:
            yield from by_portal.values()
