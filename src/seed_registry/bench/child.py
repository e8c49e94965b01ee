"""Cell: one load in a process of its own, so that its CPU time and memory are nobody else's.

    python -m seed_registry.bench.child

The job comes as JSON on standard input, the database's URL with it: arguments are for everybody to see.
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
from msgspec import Struct

from seed_registry.bench.results import Measurement
from seed_registry.bench.strategies import CellImpossible, load
from seed_registry.errors import SeedRegistryError
from seed_registry.report import Tally
from seed_registry.settings import DatabaseUrl, DialectName, MaxRejects, Settings


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

    def settings(self) -> Settings:
        """The settings of the load."""
        return Settings(
            database_url=DatabaseUrl(self.database_url, is_embedded=self.is_embedded),
            schema=self.schema,
            batch_size=self.batch_size,
            batch_bytes=self.batch_bytes,
            concurrency=self.concurrency,
            dialect=self.dialect,
            domain=self.domain,
            records_at=self.records_at,
            rejects=self.rejects,
            max_rejects=MaxRejects(percent=100.0),
            verify=False,
        )


class Reply(Struct, frozen=True):
    """What came of it: one of the three."""

    run: Measurement | None = None
    skipped: str | None = None
    failed: str | None = None


class Watch:
    """The `Progress` that only takes the times."""

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
    """Do the job and tell what it took.

    Raises:
        SeedRegistryError: it cannot be done.
    """
    watch, settings = Watch(), job.settings()
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


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all do not exceed; 0 where there are none."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)] if values else 0.0


def peak_rss_bytes() -> int:
    """The most memory that this process had in use."""
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
    """Job in, reply out."""
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
