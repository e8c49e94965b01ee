"""What a load costs through a Dask cluster on this machine, against as many processes of the command itself."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import psutil
from msgspec import Struct

import tables
from ground import Command, Ground
from programs import CURRENT

MOST_CLIENT = 1.1  # times the client CPU of a record by processes, without starts
_WAYS = ("processes", "dask")


class Cost(Struct):
    """What a load took: CPU seconds of the command and of the cluster, and wall time."""

    command: float
    cluster: float
    seconds: float


class Costs(Struct):
    """Client CPU seconds of each round, of whole loads and of the start of the command and its processes."""

    whole: list[float] = []
    start: list[float] = []
    seconds: list[float] = []

    def per_record(self, records: int) -> list[float]:
        """Microseconds a record, without the start."""
        return [(whole - start) / records * 1e6 for whole, start in zip(self.whole, self.start, strict=True)]


class _Cluster(Struct):
    address: str
    processes: list[psutil.Process]

    @property
    def cpu(self) -> float:
        """What scheduler and workers have used by now."""
        times = [process.cpu_times() for process in self.processes]
        return float(sum(one.user + one.system for one in times))


async def compare(ground: Ground, index: Path, small: Path, records: int, options: argparse.Namespace) -> str:
    """First loads and reloads by both ways, which take turns; each beside one of a `small` index, for its start."""
    results = {(way, name): Costs([], [], []) for name in ("first", "again") for way in _WAYS}
    idle: list[float] = []  # CPU seconds a second of the cluster, while the processes load
    with _cluster(ground, options.dask) as cluster:
        flags = ["--batch-size", str(options.batch_size), "--json", "--shard-bytes"]
        for turn in range(-1, options.repeat):  # one round that does not count: workers import at their first step
            for way in _WAYS:
                by = ["--processes", str(options.dask)] if way == "processes" else ["--scheduler", cluster.address]
                await ground.empty(CURRENT.command("schema", "apply"))
                for name in ("first", "again"):
                    whole = await _cost(
                        ground, CURRENT.command("load", index, *by, *flags, options.shard_bytes), cluster
                    )
                    start = await _cost(ground, CURRENT.command("load", small, *by, *flags, "64KiB"), cluster)
                    if way == "processes":
                        idle.append(whole.cluster / whole.seconds)
                        whole.cluster = start.cluster = 0
                    print(f"{turn}: {way}, {name}: {whole}, start {start}", file=sys.stderr)
                    if turn >= 0:
                        results[way, name].whole.append(whole.command + whole.cluster)
                        results[way, name].start.append(start.command + start.cluster)
                        results[way, name].seconds.append(whole.seconds - start.seconds)
                    await ground.settle()
    return _described(results, records, options.dask, median(idle))


async def _cost(ground: Ground, command: Command, cluster: _Cluster) -> Cost:
    before = cluster.cpu
    measurement = await ground.measure([command])
    if not measurement.report["verification"]["passed"]:
        sys.exit(f"{command}: {measurement.report['verification']}")
    return Cost(measurement.client_cpu, cluster.cpu - before, measurement.seconds)


def _described(results: dict[tuple[str, str], Costs], records: int, count: int, idle: float) -> str:
    rows, verdicts = [], []
    for name in ("first", "again"):
        one, other = (results[way, name].per_record(records) for way in _WAYS)
        for way, costs in zip(_WAYS, (one, other), strict=True):
            found = results[way, name]
            row = [f"{way}, {name}", tables.ranged(costs), _middle(found.start), _middle(found.whole)]
            rows.append([*row, _middle(found.seconds)])
        unused = [idle * seconds / records * 1e6 for seconds in results["dask", name].seconds]
        for title, less in (("", [0.0] * len(unused)), (", without what it uses idle", unused)):
            ratios = [(theirs - no) / ours for ours, theirs, no in zip(one, other, less, strict=True)]
            met = median(ratios) <= MOST_CLIENT
            title = f"client CPU a record, {name}, dask against --processes {count}{title}"  # noqa: PLW2901
            verdicts.append([title, tables.ranged(ratios), f"<= {MOST_CLIENT}", tables.verdict(met=met)])
    header = ["way", "client CPU µs, without start", "start s", "all s", "wall s"]
    found_idle = f"Scheduler and workers use {idle:.3f} s of CPU a second while they do nothing."
    target = tables.table(["target", "measured", "wanted", "met"], verdicts)
    return f"{tables.table(header, rows)}\n\n{found_idle}\n\n{target}"


def _middle(values: Sequence[float]) -> str:
    return f"{median(values):.2f}"


@contextmanager
def _cluster(ground: Ground, count: int) -> Iterator[_Cluster]:
    """A scheduler and workers with one thread each."""
    file = ground.directory / "scheduler.json"
    started: list[subprocess.Popen[bytes]] = []

    def start(program: str, *arguments: object) -> None:
        command = [sys.executable, "-m", f"distributed.cli.dask_{program}", "--host", "127.0.0.1"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(ground.directory), "DATABASE_URL": ground.url}
        environment["DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED"] = "False"  # as docs/operations.md recommends
        started.append(
            subprocess.Popen([*command, *map(str, arguments)], env=environment, cwd=ground.directory, **quiet)  # type: ignore[call-overload]
        )

    try:
        start("scheduler", "--port", 0, "--no-dashboard", "--scheduler-file", file)
        address = ""
        while not address:
            time.sleep(0.1)
            with suppress(FileNotFoundError, ValueError):
                address = json.loads(file.read_text("utf-8"))["address"]
        for _ in range(count):
            start("worker", address, "--nthreads", 1, "--no-nanny", "--no-dashboard", "--memory-limit", 0)
        time.sleep(5)
        yield _Cluster(address, [psutil.Process(process.pid) for process in started])
    finally:
        for process in started:
            process.kill()
            process.wait()
