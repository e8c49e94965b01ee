"""The cells of a bench, the jobs of its child processes, and the results that are printed, drawn and compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from statistics import median
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import asdict

from seed_registry.errors import SeedRegistryError
from seed_registry.report import Stages
from seed_registry.settings import DialectName

# The strategies: this program's own way to write, and others that one could write with.
COPY_MERGE: Final = "copy-merge"
COPY_DIRECT: Final = "copy-direct"
STRATEGIES: Final = (COPY_MERGE, "insert", "executemany", COPY_DIRECT)


class CellImpossible(SeedRegistryError):
    """A strategy cannot do what the cell asks for; no news about the database."""


class Cell(Struct, frozen=True):
    """One combination of the grid.

    `changed` is the percentage of records that differ from those loaded before; None is a load into empty tables.
    """

    strategy: str
    batch_size: int
    concurrency: int
    changed: float | None
    index: str


class Measurement(Struct, frozen=True):
    """One measured load.

    Attributes:
        records: read from the index, sources and rejects too.
        bytes_read: of the index as it lies on disk.
        client_cpu_seconds: user and system time of the loading process, without its start.
        peak_rss_bytes: of the loading process.
        wal_bytes: written by the whole server meanwhile, also for others.
        server_cpu_seconds: of the whole server meanwhile; None where its processes cannot be seen.
    """

    records: int
    rejected: int
    bytes_read: int
    batches: int
    seconds: float
    client_cpu_seconds: float
    peak_rss_bytes: int
    batch_p50_seconds: float
    batch_p95_seconds: float
    stages: Stages
    wal_bytes: int | None = None
    server_cpu_seconds: float | None = None


class Job(Struct, frozen=True):
    """What to load, where and how; `rejects` is a file that does not exist yet."""

    database_url: str
    is_embedded: bool
    schema: str
    index: bytes  # a path need not be text
    rejects: str
    strategy: str
    batch_size: int
    batch_bytes: int
    concurrency: int
    dialect: DialectName | None = None
    domain: str | None = None
    records_at: str | None = None


class Reply(Struct, frozen=True):
    """The answer to a job: one of the three."""

    run: Measurement | None = None
    skipped: str | None = None
    failed: str | None = None


class Spread(Struct, frozen=True):
    """The median of some measurements, and between what they lie."""

    median: float
    low: float
    high: float

    @property
    def half_range(self) -> float:
        """Half of what lies between the lowest and the highest."""
        return (self.high - self.low) / 2


class Summary(Struct, frozen=True):
    """The runs of a cell taken together: medians, but the greatest `peak_rss_bytes`."""

    records: int
    batches: int
    seconds: Spread
    records_per_second: Spread
    megabytes_per_second: float
    client_cpu_seconds: float
    server_cpu_seconds: float | None
    peak_rss_bytes: int
    wal_bytes: int | None
    batch_p50_seconds: float
    batch_p95_seconds: float
    stages: Stages
    bottleneck: str | None


class CellResult(Struct, frozen=True):
    """A cell with its runs; `skipped` and `failed` are the reasons why it has none, or fewer than asked for."""

    strategy: str
    batch_size: int
    concurrency: int
    changed: float | None
    index: str
    skipped: str | None
    failed: str | None
    summary: Summary | None
    runs: list[Measurement]

    @property
    def cell(self) -> Cell:
        """Which one it is."""
        return Cell(self.strategy, self.batch_size, self.concurrency, self.changed, self.index)


class Environment(Struct, frozen=True):
    """Where and with what was measured.

    Attributes:
        database: without secrets.
        postgres_settings: as the sessions of a load have them.
        checkpoints: whether each run began after a checkpoint.
        server_cpu_visible: whether the server runs where its CPU time can be read.
    """

    started_at: datetime
    program: str
    python: str
    packages: dict[str, str]
    platform: str
    cpu: str
    cores: int
    memory_bytes: int
    load_average: float
    database: str
    postgres: str
    postgres_settings: dict[str, str]
    checkpoints: bool
    server_cpu_visible: bool


class GridFacts(Struct, frozen=True):
    """What was asked for."""

    index: str
    dialect: str
    index_bytes: int
    batch_sizes: list[int]
    concurrencies: list[int]
    strategies: list[str]
    changed: list[float | None]
    repeat: int
    batch_bytes: int


class Results(Struct, frozen=True):
    """Everything."""

    environment: Environment
    grid: GridFacts
    cells: list[CellResult]


def summarised(
    cell: Cell, runs: Sequence[Measurement], *, skipped: str | None = None, failed: str | None = None
) -> CellResult:
    """The result of a cell."""
    summary = _summary(cell, runs) if runs else None
    return CellResult(**asdict(cell), skipped=skipped, failed=failed, summary=summary, runs=list(runs))


def spread(values: Sequence[float]) -> Spread:
    """The spread of at least one value."""
    return Spread(median(values), min(values), max(values))


def best_of(results: Iterable[CellResult]) -> CellResult | None:
    """The cell with the most records per second, None where nothing was measured."""
    measured = [result for result in results if result.summary is not None]
    return max(measured, key=lambda result: result.summary.records_per_second.median, default=None)  # type: ignore[union-attr]  # see above


def _summary(cell: Cell, runs: Sequence[Measurement]) -> Summary:
    seconds = spread([run.seconds for run in runs])
    stages = Stages(**{name: median(getattr(run.stages, name) for run in runs) for name in Stages.__struct_fields__})
    wal_bytes = _median_known([run.wal_bytes for run in runs])
    return Summary(
        records=runs[0].records,
        batches=round(median(run.batches for run in runs)),
        seconds=seconds,
        records_per_second=spread([run.records / run.seconds for run in runs]),
        megabytes_per_second=median(run.bytes_read / run.seconds / 1e6 for run in runs),
        client_cpu_seconds=median(run.client_cpu_seconds for run in runs),
        server_cpu_seconds=_median_known([run.server_cpu_seconds for run in runs]),
        peak_rss_bytes=max(run.peak_rss_bytes for run in runs),
        wal_bytes=None if wal_bytes is None else round(wal_bytes),
        batch_p50_seconds=median(run.batch_p50_seconds for run in runs),
        batch_p95_seconds=median(run.batch_p95_seconds for run in runs),
        stages=stages,
        bottleneck=stages.limit(cell.concurrency),
    )


def _median_known(values: Sequence[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def raise_on_failures(results: Results) -> None:
    """Fail if a cell failed.

    Raises:
        SeedRegistryError: with the first failure.
    """
    failed = [cell for cell in results.cells if cell.failed]
    if failed:
        raise SeedRegistryError(
            f"{len(failed)} of {len(results.cells)} cells failed; the first one: {failed[0].failed}"
        )
