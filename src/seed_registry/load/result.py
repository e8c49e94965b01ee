"""The result of a run: what its end is called, and whether its report is that of a success."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from seed_registry.errors import (
    IndexesFailed,
    IndexesIncomplete,
    NotRetired,
    SeedRegistryError,
    TooManyRejects,
    VerificationFailed,
)
from seed_registry.escape import printable
from seed_registry.report import Counts, Incomplete, Report, UnreadRecords
from seed_registry.shortfall import gaps
from seed_registry.words import counted

# Failures of runs that were read to their end, and have a report.
WITH_REPORT: Final = (VerificationFailed, IndexesFailed, TooManyRejects, NotRetired)


def raise_if_not_retired(report: Report) -> Report:
    """Return the report of a run that did all that was asked for.

    Raises:
        NotRetired: it retired nothing, for a reason.
    """
    retirement = report.retirement
    if retirement is None or retirement.reason is None:
        return report
    would = "would be" if report.dry_run else "was"
    fix = "\nif their portals removed them: raise --max-retire" if retirement.unlisted else ""
    rest = "" if report.dry_run else "; the load itself is done"
    raise NotRetired(f"nothing {would} retired: {retirement.reason}{rest}{fix}", report)


def obstacle(
    report: Report, verdict: SeedRegistryError | None, declared: Sequence[tuple[str, int, int]], unreadable: int
) -> str | None:
    """Why the indexes of a run do not show what their portals no longer list, in words; None if they do.

    Args:
        report: of the run, so far.
        verdict: on its counts, from `OutcomeRecorder.verdict`.
        declared: header fields of the indexes, each with its value and what was read.
        unreadable: how many records were rejected whose keys are not known.
    """
    if report.verification is not None and not report.verification.passed:
        return "the verification failed"
    if bad := [part for part in report.per_index if part.error]:
        return f"{printable(bad[0].index, 1_000)} could not be read to its end"
    if verdict is not None:
        return "too many records were not loaded"
    if gap := next(gaps(report), None):
        return gap
    for name, says, read in declared:
        if says != read:
            return f"an index declares {printable(name)} {says:,}, and has {read:,}"
    if unreadable:
        what = f"{counted(unreadable, 'record')} rejected without a known key may be what is missing"
        return f"{what} (--retire-despite-rejects)"
    return None


def raise_on_failure(report: Report, verdict: SeedRegistryError | None = None, *, complete: bool = False) -> Report:
    """Return the report, unless it shows a failure, or the `verdict` on its counts is one.

    Args:
        report: of a run that was read to its end.
        verdict: on its counts, from `OutcomeRecorder.verdict`.
        complete: whether it is a failure that records are known to be missing.

    Raises:
        VerificationFailed, TooManyRejects, IndexesFailed, IndexesIncomplete: it failed; they hold the report.
    """
    failed = _failed_indexes(report)
    if report.verification is not None and not report.verification.passed:
        facts = "; ".join(str(check) for check in report.verification.checks if not check.passed)
        lines = [f"verification failed: {facts}", str(verdict or "").partition("\n")[0], failed]
        raise VerificationFailed("\n".join(filter(None, lines)), report)
    if verdict is not None:
        verdict.args = ("\n".join(filter(None, [str(verdict), failed])),)
        raise verdict
    if failed:
        raise IndexesFailed(failed, report)
    if complete and (report.incomplete or report.unread_records):
        facts = "; ".join([*map(_incomplete, report.incomplete[:5]), *map(_unread, report.unread_records[:5])])
        raise IndexesIncomplete(f"the indexes are not complete: {facts}\nload all pages together", report)
    return report


def _incomplete(one: Incomplete) -> str:
    return f"{printable(one.index)}: the portal has {one.declared:,} records, read were {one.read:,}"


def _unread(one: UnreadRecords) -> str:
    return f"{printable(one.index)}: {one.count:,} at {printable(one.path)} look like records and are not read"


def _failed_indexes(report: Report) -> str:
    """Which of several indexes failed, in words; empty if none did."""
    bad = [part for part in report.per_index if part.error]
    if not bad:
        return ""
    names = ", ".join(printable(part.index) for part in bad[:5])
    more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""  # noqa: PLR2004  # as many as fit a line
    count = len(report.per_index)
    rest = "; the others are loaded" if len(bad) < count else ""
    return f"{len(bad)} of {count} indexes failed: {names}{more}{rest}"


def outcome_of(exc: BaseException) -> str:
    """The ledger's word for the end of a run that failed."""
    if isinstance(exc, VerificationFailed):
        return "verification_failed"
    if isinstance(exc, TooManyRejects):
        return "too_many_rejects"
    if isinstance(exc, NotRetired):
        return "not_retired"
    return "failed" if isinstance(exc, Exception) else "interrupted"


def count_fields(counts: Counts) -> dict[str, int]:
    """The fields of the event with the counts of a table."""
    skipped = counts.read - counts.inserted - counts.updated
    return {"processed": counts.read, "inserted": counts.inserted, "updated": counts.updated, "skipped": skipped}
