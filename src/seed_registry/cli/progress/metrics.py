"""Keep the counts of a load in a file of Prometheus' text format, for the textfile collector of its node exporter.

The names follow https://prometheus.io/docs/practices/naming/; the file is replaced as a whole, so that no reader gets
half of one. Its labels come from fixed sets: nothing of an index is in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from time import monotonic, time
from typing import Any, Final

from msgspec.structs import asdict
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import write_to_textfile
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from seed_registry.errors import StorageFailed
from seed_registry.escape import printable
from seed_registry.report import AssetCounts, Counts, Tally

# As often as Prometheus scrapes at best.
_SECONDS_BETWEEN: Final = 5.0
_PREFIX: Final = "seed_registry_"


class TextfileMetrics:
    """The `Progress` that keeps the file up to date, every few seconds and at the end."""

    def __init__(self, path: str) -> None:
        """Write the file for the first time.

        Raises:
            StorageFailed: it cannot be written.
        """
        self._path = path
        self._tally = Tally()
        self._started, self._ended = time(), 0.0
        self._exit_code: int | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._write()

    def began(self, tally: Tally) -> None:
        """The load begins."""
        self._tally = tally

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Write if the last time is long enough ago; a failure does not stop the load."""
        del level, event, fields
        if monotonic() - self._written >= _SECONDS_BETWEEN:
            with suppress(StorageFailed):
                self._write()

    def ended(self, exit_code: int, error: str | None = None) -> None:
        """Write how the load ended.

        Raises:
            StorageFailed: the file cannot be written any more.
        """
        del error  # an index may have put words into it
        self._ended, self._exit_code = time(), exit_code
        self._write()

    def collect(self) -> Iterator[Metric]:
        """Collect the metrics of the file, as `prometheus_client` does."""
        tally = self._tally
        yield _gauge("run_start_time_seconds", "When the load began.", self._started)
        yield _gauge("run_running", "1 while the load runs.", float(self._exit_code is None))
        if self._exit_code is not None:
            yield _gauge("run_end_time_seconds", "When the load ended.", self._ended)
            yield _gauge(
                "run_exit_code",
                "Its exit code: 0 done, 1 failed, 3 too many rejects, 4 verification failed, 128 + N by signal N.",
                self._exit_code,
            )
        yield _counter("read_bytes_total", "Bytes read of all indexes, as they lie on disk.", tally.bytes_read)
        yield _gauge("index_position_bytes", "Bytes read of the present index.", tally.index_position)
        yield _gauge("index_size_bytes", "Size of the present index, 0 where it is not known.", tally.index_bytes or 0)
        records = CounterMetricFamily(_PREFIX + "records", "Records by outcome.", labels=["table", "outcome"])
        for table, counts in (("sources", tally.sources), ("assets", tally.assets)):
            for outcome in AssetCounts.__struct_fields__:
                records.add_metric([table, outcome], _count(counts, outcome))
        yield records
        rejects = CounterMetricFamily(_PREFIX + "rejects", "Rejected records by reason.", labels=["reason"])
        for reason, count in sorted(tally.rejects.items()):
            rejects.add_metric([reason], count)
        yield rejects
        yield _counter("batches_total", "Batches written.", tally.batches)
        yield _counter("retries_total", "Batches retried.", tally.retries)
        yield _counter("repaired_total", "Records of which a text was repaired.", tally.repaired)
        yield _gauge("workers", "Sessions that write.", tally.workers)
        yield _gauge("processes", "Processes that load.", tally.processes)
        shards = CounterMetricFamily(_PREFIX + "shards", "Shards that came this far.", labels=["state"])
        for state, count in tally.shards.items():
            shards.add_metric([state], count)
        yield shards
        stages = CounterMetricFamily(_PREFIX + "stage_seconds", "Time by stage, of all workers.", labels=["stage"])
        for stage, seconds in asdict(tally.stages).items():
            stages.add_metric([stage], seconds)
        yield stages

    def _write(self) -> None:
        self._written = monotonic()
        try:
            write_to_textfile(self._path, self._registry)
        except OSError as exc:
            raise StorageFailed(
                f"--metrics-file {printable(self._path, 500)} cannot be written: {exc.strerror}"
            ) from exc


def _count(counts: Counts, outcome: str) -> int:
    count: int = getattr(counts, outcome)
    return count


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, text, value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(_PREFIX + name.removesuffix("_total"), text, value)
