"""The plan: what a load would do, as `seed-registry plan` tells it."""

from __future__ import annotations

from msgspec import Struct


class Change(Struct, frozen=True):
    """A row that a load would change, and the fields that it would change in it."""

    key: str
    fields: list[str]


class Examples(Struct, frozen=True):
    """The first keys of each kind, in order; a few of however many there are."""

    new: list[str]
    changed: list[Change]
    unchanged: list[str]
    duplicate: list[str]
    missing_source: list[str]


class TablePlan(Struct, frozen=True):
    """What would become of one table; each record read counts once.

    Attributes:
        new: rows that a load would insert.
        changed: rows that it would update.
        unchanged: rows that it would leave as they are.
        duplicate: records that repeat the key of another.
        rejected: records that it would not take, see `Plan.rejects`.
        missing_source: assets whose source their index does not list.
        fields: how often each field changes.
        examples: a few keys of each kind.
    """

    new: int
    changed: int
    unchanged: int
    duplicate: int
    rejected: int
    missing_source: int
    fields: dict[str, int]
    examples: Examples


class RejectExample(Struct, frozen=True):
    """Where a record is that a load would reject, and its key, if that can be told."""

    index: str
    line: int
    offset: int
    key: str | None


class RejectPlan(Struct, frozen=True):
    """The records rejected for one reason, and where some of them are."""

    reason: str
    count: int
    examples: list[RejectExample]


class MissingPlan(Struct, frozen=True):
    """Assets that the registry has of the sources met, and that the indexes no longer have; a load leaves them."""

    count: int
    examples: list[str]


class Misdeclared(Struct, frozen=True):
    """A header field that declares a number of records, what it says, and how many there are."""

    name: str
    declared: int
    read: int


class Estimate(Struct, frozen=True):
    """What a load would take, guessed.

    Attributes:
        seconds: None where this database's ledger holds no run to go by.
        records_per_second: of the `runs` that it was guessed from.
        wal_bytes: of write-ahead log.
    """

    seconds: float | None
    records_per_second: float | None
    runs: int
    wal_bytes: int


class Plan(Struct, frozen=True):
    """What a load would do.

    Attributes:
        database: what the indexes were compared with, None where there is none.
        empty_because: why the registry was taken for an empty one, None where it was asked.
        missing_upstream: None of an empty registry, or where an index could not be read to its end.
        rekeyed: those of them whose key an earlier version gave to a record that now has another.
        misdeclared: the headers whose count is not that of their index: a load's verification would fail.
    """

    database: str | None
    empty_because: str | None
    sources: TablePlan
    assets: TablePlan
    rejects: list[RejectPlan]
    missing_upstream: MissingPlan | None
    rekeyed: MissingPlan | None
    misdeclared: list[Misdeclared]
    estimate: Estimate

    @property
    def has_changes(self) -> bool:
        """Whether a load would write anything."""
        return any(count for table in (self.sources, self.assets) for count in (table.new, table.changed))
