"""`Tally`, the running counts of a load, `Report`, its result, and `Plan`, the result of a dry run."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, ClassVar, Final, Protocol

from msgspec import Struct, field
from msgspec.structs import astuple

from seed_registry.records import Reject


class Counts(Struct):
    """The outcomes of the records of one table: `read` is always the sum of the others; and counts of rows.

    With `--keys` records of other parts are in `other_parts` only: they are none of those read.
    """

    read: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    duplicate: int = 0
    rejected: int = 0
    missing_source: int = 0
    resumed: int = 0
    older: int = 0
    not_written: int = 0
    # Beside the law: marked as not listed any more, and the marks taken from listed ones.
    retired: int = 0
    returned: int = 0
    other_parts: int = 0
    # Among the updated: rows that were newer than their records, by the portal's own moment.
    updated_by_older: int = 0

    @property
    def outcomes(self) -> int:
        """Return how many records have an outcome."""
        return (
            self.inserted
            + self.updated
            + self.unchanged
            + self.duplicate
            + self.rejected
            + self.missing_source
            + self.resumed
            + self.older
            + self.not_written
        )

    def since(self, before: Counts) -> Counts:
        """Return what was counted after `before` was copied."""
        return Counts(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))

    def plus(self, other: Counts) -> Counts:
        """Return the sum of both."""
        return Counts(*map(operator.add, astuple(self), astuple(other)))

    def add(self, other: MergeCounts) -> None:
        """Add the counts of a batch, without its rejects: those are recorded one by one."""
        self.inserted += other.inserted
        self.updated += other.updated
        self.unchanged += other.unchanged
        self.duplicate += other.duplicate
        self.resumed += other.resumed
        self.returned += other.returned
        self.older += other.older
        self.updated_by_older += other.updated_by_older

    def stop(self, pending: int = 0) -> None:
        """Count the records that were read and have no outcome as not written, but for those that are `pending`."""
        self.not_written += self.read - self.outcomes - pending


# The numbers of a `MergeCounts`, as they stand in a checkpoint.
MERGE_COUNTS: Final = (
    "inserted", "updated", "unchanged", "duplicate", "resumed", "returned", "older", "updated_by_older",
)  # fmt: skip


class MergeCounts(Struct, frozen=True):
    """The outcomes of the records of one batch.

    Attributes:
        resumed: those that an earlier attempt of the run had committed.
        returned: rows of these records that were marked as retired, and are no longer; beside the other counts.
        older: those that did not change their rows, which are newer, see `Settings.only_newer`.
        updated_by_older: how many of the updated rows were newer than their records, by the portal's own moment.
        rejects: those whose key is another source's.
        new: of a batch that `holds_changed`, those that were written, for the table did not have their keys.
        held: those of it that were not written, for their key has a row that differs; they are not counted. Of a batch
            that is `straight_only`: all of it, if it could not be copied.
    """

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    duplicate: int = 0
    resumed: int = 0
    returned: int = 0
    older: int = 0
    updated_by_older: int = 0
    rejects: tuple[Reject, ...] = ()
    new: Sequence[Any] = ()
    held: Sequence[Any] = ()

    @property
    def numbers(self) -> tuple[int, ...]:
        """Return the counts without the rejects."""
        return tuple(getattr(self, name) for name in MERGE_COUNTS)

    def __add__(self, other: MergeCounts) -> MergeCounts:
        """Return the sum of the counts, without the rejects: those are recorded batch by batch."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in MERGE_COUNTS}
        return MergeCounts(**sums)


class Stages(Struct):
    """Where the time of a load went, in seconds: of its producer, and of all workers together.

    If the producer waits for workers, the database is the limit; if workers wait for batches, reading or decoding is.
    """

    PRODUCER: ClassVar = ("reading", "decoding", "sending")
    WORKER: ClassVar = ("waiting", "filtering", "copying", "merging", "committing")

    reading: float = 0.0  # waited for bytes of the index
    decoding: float = 0.0  # framed, decoded and routed records
    sending: float = 0.0  # waited for a worker to take a batch
    waiting: float = 0.0  # waited for a batch
    filtering: float = 0.0  # asked which records the table holds already
    copying: float = 0.0  # COPY into the staging table
    merging: float = 0.0  # from there into the table
    committing: float = 0.0

    def since(self, before: Stages) -> Stages:
        """What was spent after `before` was copied."""
        return Stages(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))

    def limit(self, workers: int, producers: int = 1) -> str | None:
        """Return the stage that the others waited for, the bottleneck; None without times.

        It is the longest stage of the side that waited less, and so worked more: of the producer, or of one of the
        `workers` on average, as there is one producer in each process.
        """
        producer = {name: getattr(self, name) / producers for name in ("reading", "decoding")}
        worker = {name: getattr(self, name) / max(workers, 1) for name in self.WORKER[1:]}
        if not any(astuple(self)):
            return None
        side = max(producer, worker, key=lambda side: sum(side.values()))
        return max(side, key=side.__getitem__)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds that the block takes."""
        started = monotonic()
        try:
            yield
        finally:
            setattr(self, stage, getattr(self, stage) + monotonic() - started)


class WorkerProgress(Struct, frozen=True):
    """What one of several processes is at.

    Attributes:
        worker: its host and process.
        index: whose shard it loads.
        number: of the shard in its index.
        position, size: bytes of the shard that it has read, and all.
        read: records of the shard.
    """

    worker: str
    index: str
    number: int
    position: int
    size: int
    read: int


class Tally(Struct):
    """The running counts of a load; a `Progress` may read them at any time."""

    sources: Counts = field(default_factory=Counts)
    assets: Counts = field(default_factory=Counts)
    index: str = ""
    index_bytes: int | None = None  # size of the file being read, None where it cannot be known
    index_position: int = 0  # bytes of it read; by several processes, of all indexes in the present step
    bytes_read: int = 0  # of all indexes together, as they lie on disk
    batches: int = 0
    retries: int = 0
    repaired: int = 0
    dates_ignored: int = 0
    texts_ignored: int = 0
    ignored_fields: Counter[str] = field(default_factory=Counter)  # dates and texts ignored, by field
    rejects: Counter[str] = field(default_factory=Counter)  # by reason
    assets_by_source: Counter[str] = field(default_factory=Counter)  # sent to the database, by source key
    stages: Stages = field(default_factory=Stages)
    workers: int = 0  # sessions that write
    processes: int = 1
    step: str = ""  # of a load by several processes, see `shards.progress`
    shards: dict[str, int] = field(default_factory=dict)  # how many were planned, scanned and loaded so far
    worker_progress: list[WorkerProgress] = field(default_factory=list)  # of each that is loading

    @property
    def read(self) -> int:
        """Records read so far, of both tables."""
        return self.sources.read + self.assets.read

    @property
    def rejected(self) -> int:
        """Records rejected so far, of both tables."""
        return self.sources.rejected + self.assets.rejected


class SourceCounts(Struct, frozen=True):
    """The `sources` of a report; `not_written` were read, but the run stopped before they were written."""

    read: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    duplicate: int = 0
    rejected: int = 0
    not_written: int = 0


class AssetCounts(SourceCounts, frozen=True):
    """The `assets` of a report; `retired` and `returned` count rows, not records.

    `other_parts` are records that `--keys` left to other loads; they are not among those `read`.
    """

    missing_source: int = 0
    resumed: int = 0
    older: int = 0
    retired: int = 0
    returned: int = 0
    other_parts: int = 0


class Check(Struct, frozen=True):
    """One question put to the database after a load."""

    name: str
    passed: bool
    expected: str | int
    actual: str | int

    def __str__(self) -> str:
        at_least = "at least " if self.name == "assets_present" else ""  # rows of earlier loads are no failure
        return f"{self.name}: expected {at_least}{self.expected}, found {self.actual}"


class Verification(Struct, frozen=True):
    """All checks, and whether every one passed."""

    passed: bool
    checks: list[Check]


class Database(Struct, frozen=True):
    """The database of a session; it holds no secret.

    Attributes:
        host: that the session was opened to, of several the one that answered; a directory is that of a unix socket.
        user: whose privileges count.
        server: the version of Postgres.
    """

    host: str | None
    port: int | None
    name: str
    user: str
    server: str
    embedded: bool

    def __str__(self) -> str:
        """Return the database, its host and our user, for people."""
        if self.embedded:
            return f"the embedded server (Postgres {self.server})"
        port = f":{self.port}" if self.port and not (self.host or "").startswith("/") else ""
        at = f" on {self.host}{port}" if self.host else ""
        return f"{self.name}{at} as {self.user} (Postgres {self.server})"


class Incomplete(Struct, frozen=True):
    """An index whose portal declares more records than were read; `index` names the first of its pages."""

    index: str
    declared: int
    read: int


class UnreadRecords(Struct, frozen=True):
    """An array of objects in a document that looks like records and was not read."""

    index: str
    path: str
    count: int


class TableDigest(Struct, frozen=True):
    """The digest of a table's rows: `sum` is of 128 bits, in hexadecimal, over the values of `fields`."""

    count: int
    sum: str
    fields: list[str]

    def __str__(self) -> str:
        return f"{self.count} {self.sum} {','.join(self.fields)}"


class Digest(Struct, frozen=True, omit_defaults=True):
    """The digest of a registry, or of one `source` of it by its key; `registry.digest` defines it."""

    sources: TableDigest
    assets: TableDigest
    source: str | None = None


# What a dry run reports


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
    older: list[str]


class TablePlan(Struct, frozen=True):
    """The changes to one table; each record read counts once.

    Attributes:
        new: rows that a load would insert.
        changed: rows that it would update.
        unchanged: rows that it would leave as they are.
        duplicate: records that repeat the key of another.
        rejected: records that it would not take, see `Plan.rejects`.
        missing_source: assets whose source their index does not list.
        older: records that would change newer rows, which `--only-newer` leaves as they are.
        fields: how often each field changes.
        examples: a few keys of each kind.
    """

    new: int
    changed: int
    unchanged: int
    duplicate: int
    rejected: int
    missing_source: int
    older: int
    fields: dict[str, int]
    examples: Examples


class RejectExample(Struct, frozen=True):
    """The place of a record that a load would reject, and its key if it has one."""

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
    """The estimated effort of a load.

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
    """What a load would do, as `seed-registry plan` shows it.

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


# The report


class SourceRetirement(Struct, frozen=True):
    """Of one source: how many assets the registry holds and has not retired, and those that no index lists.

    `keys` are the first few of the latter; `is_over` if they are more than the guard allows.
    """

    source: str
    held: int
    unlisted: int
    keys: list[str]
    is_over: bool


class LeftAlone(Struct, frozen=True):
    """A source of which nothing was retired, for another run listed its assets meanwhile."""

    source: str
    run_id: str


class Retirement(Struct, frozen=True):
    """What `--retire` did, or in a dry run would do.

    Attributes:
        reason: why nothing was retired; None if that was not so.
        max_retire: the guard.
        held: assets of the covered sources that the registry holds and had not retired.
        unlisted: those of them that no index lists.
        per_source: sources with such assets, those with most of them first; at most 1,000.
        left_alone: sources that another run was loading; at most 1,000.
    """

    reason: str | None
    max_retire: str
    held: int
    unlisted: int
    per_source: list[SourceRetirement]
    left_alone: list[LeftAlone]


class SourceChanges(Struct, frozen=True):
    """How many assets of one source changed, by kind, and of each kind the first and the last key."""

    source: str
    kinds: dict[str, int]
    keys: dict[str, list[str]]


class ChangeSummary(Struct, frozen=True):
    """What a run with history changed, in all its attempts.

    Attributes:
        assets, sources: how many changes, by kind.
        created: assets that it created into an empty table, which have no change of their own; part of `assets`.
        fields: how many assets were updated in each field.
        source_count: sources with changed assets, those `created` left out.
        per_source: those with most of them; at most 20.
    """

    assets: dict[str, int]
    sources: dict[str, int]
    created: int
    fields: dict[str, int]
    source_count: int
    per_source: list[SourceChanges]


class IndexReport(Struct, frozen=True):
    """What a load did with one of its indexes; `error` says why it is not whole."""

    index: str
    dialect: str
    provider: str
    bytes_read: int
    sources: SourceCounts
    assets: AssetCounts
    error: str | None = None


class ShardReport(Struct, frozen=True):
    """What one of several processes loaded: a part of an index.

    Attributes:
        number: of the shard in its index.
        first, last: bytes of the file.
        attempts: how often it was begun.
        worker: the host and the process that finished it.
        assets: its counts; those whose keys occur more than once in the run are counted in the report only.
    """

    index: str
    number: int
    first: int
    last: int
    attempts: int
    worker: str
    seconds: float
    assets: AssetCounts


class Report(Struct, frozen=True, omit_defaults=True):
    """What a load did, the same for people and for `--json`; `per_index` only of several, `plan` of a dry run.

    `shards` are those of a load by several processes, `retirement` is of one with `--retire`,
    `changes` of one with `--history`.

    `keys` is the part of the keys that was loaded, None of all.

    `ignored_fields` divides `dates_ignored` and `texts_ignored` by field.
    """

    run_id: str
    indexes: list[str]
    dialect: str
    provider: str
    dry_run: bool
    seconds: float
    bytes_read: int
    records_per_second: float
    batches: int
    retries: int
    repaired: int
    dates_ignored: int
    texts_ignored: int
    sources: SourceCounts
    assets: AssetCounts
    rejects_file: str | None
    verification: Verification | None
    per_index: list[IndexReport] = []
    plan: Plan | None = None
    database: Database | None = None
    incomplete: list[Incomplete] = []
    unread_records: list[UnreadRecords] = []
    digest: Digest | None = None
    ignored_fields: dict[str, int] = {}
    shards: list[ShardReport] = []
    retirement: Retirement | None = None
    keys: str | None = None
    changes: ChangeSummary | None = None

    @property
    def has_changes(self) -> bool:
        """Whether, after a dry run, a load would write anything."""
        marks = self.assets.retired or self.assets.returned
        return self.plan is not None and bool(self.plan.has_changes or marks)


class Progress(Protocol):
    """Receives what a load does: to draw it, log it or count it. The load itself prints nothing."""

    def began(self, tally: Tally) -> None:
        """The load begins; `tally` may be read at any time from now on."""

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Receive an event: a level of `logging` in lower case, a name of `EVENTS`, and its fields (untrusted)."""


class Silent:
    """The `Progress` of callers who only want the report."""

    def began(self, tally: Tally) -> None:
        """Ignore it."""

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Ignore it."""
