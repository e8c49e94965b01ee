"""The report of `verify`: what the indexes and the database hold, and how they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from seed_registry.report import Check, Database, Verification

# Enough to fix a day's mistakes by, and it fits in memory.
MOST_LISTED: Final = 10_000


class Difference(Struct, frozen=True):
    """A record that the database lacks, or has with other values in these `fields`."""

    table: str
    key: str
    source_key: str
    is_missing: bool
    fields: list[str]
    index: str
    line: int
    offset: int


class SourceAudit(Struct, frozen=True):
    """One source: numbers of its assets in the indexes and in the database."""

    provider: str
    source_key: str
    is_missing: bool
    in_index: int
    in_database: int
    missing: int
    different: int
    extra: int
    retired: int

    @property
    def has_failed(self) -> bool:
        """Whether the database differs from the index."""
        return bool(self.is_missing or self.missing or self.different)


class SourcesAudited(Struct, frozen=True):
    """The sources of an audit; those `in_index` are listed there, or named by its assets."""

    read: int
    rejected: int
    in_index: int
    missing: int
    different: int


class AssetsAudited(Struct, frozen=True):
    """The assets of an audit: `read = in_index + duplicate + rejected + missing_source`.

    `by_value` of those in the index were compared field by field, the others by key and content hash. `extra` ones are
    in the database, from these sources, but not in the index; `retired` ones as well, as it should be. `orphans`
    have no source, whatever index they came from.

    With `--keys`, `other_parts` are records of other parts of the keys, and `rows_of_other_parts` rows that the
    database has of these sources: neither are among the other counts.
    """

    read: int
    rejected: int
    missing_source: int
    duplicate: int
    in_index: int
    in_database: int
    missing: int
    different: int
    extra: int
    retired: int
    orphans: int
    by_value: int
    other_parts: int
    rows_of_other_parts: int


class Extra(Struct, frozen=True):
    """An asset that the indexes do not have."""

    key: str
    source_key: str


class AuditReport(Struct, frozen=True):
    """The result of an audit; lists end at `MOST_LISTED`, counts do not.

    Attributes:
        has_edits: whether a row has other values than its content hash says; not all rows are compared by value.
    """

    indexes: list[str]
    database: Database
    seconds: float
    bytes_read: int
    sources: SourcesAudited
    assets: AssetsAudited
    rejects: dict[str, int]  # by reason
    verification: Verification
    per_source: list[SourceAudit]  # those with differences first
    differences: list[Difference]
    extra: list[Extra]
    orphans: list[str]
    has_edits: bool


def verification_of(
    sources: SourcesAudited, assets: AssetsAudited, declared: Sequence[tuple[str, int, int]]
) -> Verification:
    """Check the counts of an audit; `declared` are header fields, each with its value and what was read."""
    counted = assets.in_index + assets.duplicate + assets.rejected + assets.missing_source
    checks = [
        _equal("assets_conserved", assets.read, counted),
        *(_equal(f"declared_{name}", says, read) for name, says, read in declared),
        _equal("sources_present", sources.in_index, sources.in_index - sources.missing),
        _equal("sources_equal", 0, sources.different),
        _equal("assets_present", assets.in_index, assets.in_index - assets.missing),
        _equal("assets_equal", 0, assets.different),
        _equal("assets_without_source", 0, assets.orphans),
    ]
    return Verification(all(check.passed for check in checks), checks)


def _equal(name: str, expected: int, actual: int) -> Check:
    return Check(name, actual == expected, expected, actual)
