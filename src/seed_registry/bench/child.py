"""Run one load in a process of its own, so that its CPU time and memory can be measured.

    python -m seed_registry.bench.child

The job comes as JSON on standard input, the database's URL with it: everybody can read the arguments of a process.
"""

from __future__ import annotations

import math
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import anyio
import msgspec

from seed_registry.api import ingest
from seed_registry.bench.results import COPY_MERGE, CellImpossible, Job, Measurement, Reply
from seed_registry.bench.strategies import load_by_rival
from seed_registry.errors import SeedRegistryError
from seed_registry.report import Progress, Tally
from seed_registry.settings import DatabaseUrl, MaxRejects, Settings


class Watch:
    """The `Progress` that keeps how long batches took."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.batch_seconds: list[float] = []

    def began(self, tally: Tally) -> None:
        """The load begins."""
        self.tally = tally

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Keep how long a batch took."""
        del level
        if event == "batch_merged":
            self.batch_seconds.append(fields["seconds"])


async def measured(job: Job) -> Measurement:
    """Do the job and measure it.

    Raises:
        SeedRegistryError: the load failed.
    """
    watch, settings = Watch(), settings_of(job)
    started, cpu = perf_counter(), process_time()
    await load(job.strategy, os.fsdecode(job.index), settings, watch)
    seconds, cpu = perf_counter() - started, process_time() - cpu
    tally = watch.tally
    return Measurement(
        records=tally.read,
        rejected=tally.rejected,
        bytes_read=tally.bytes_read,
        batches=tally.batches,
        seconds=seconds,
        client_cpu_seconds=cpu,
        peak_rss_bytes=peak_rss_bytes(),
        batch_p50_seconds=percentile(watch.batch_seconds, 50),
        batch_p95_seconds=percentile(watch.batch_seconds, 95),
        stages=tally.stages,
    )


async def load(strategy: str, index: str, settings: Settings, progress: Progress) -> None:
    """Load an index by a strategy.

    Raises:
        CellImpossible: the strategy cannot load this index.
        SeedRegistryError: as for `ingest`.
    """
    if strategy == COPY_MERGE:
        await ingest([index], settings, progress)
    else:
        await load_by_rival(strategy, index, settings, progress)


def settings_of(job: Job) -> Settings:
    """The settings of the load."""
    return Settings(
        database_url=DatabaseUrl(job.database_url, is_embedded=job.is_embedded),
        schema=job.schema,
        batch_size=job.batch_size,
        batch_bytes=job.batch_bytes,
        concurrency=job.concurrency,
        dialect=job.dialect,
        domain=job.domain,
        records_at=job.records_at,
        rejects=job.rejects,
        max_rejects=MaxRejects(percent=100.0),
        verify=False,
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that this percentage of all does not exceed; 0 without values."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)] if values else 0.0


def peak_rss_bytes() -> int:
    """Return the most memory that this process had in use."""
    try:
        # ru_maxrss survives exec, and begins with what the parent had in use when it started us.
        for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def main() -> None:
    """Read a job, write a reply."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    try:
        import uvloop  # noqa: F401, PLC0415  # not made for every platform

        options = {"use_uvloop": True}
    except ImportError:
        options = {}
    try:
        reply = Reply(run=anyio.run(measured, job, backend_options=options))
    except CellImpossible as exc:
        reply = Reply(skipped=str(exc))
    except SeedRegistryError as exc:
        reply = Reply(failed=str(exc))
    sys.stdout.buffer.write(msgspec.json.encode(reply))


if __name__ == "__main__":
    main()
