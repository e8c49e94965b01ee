"""Whether a first load takes the same time a record and the same memory at any size, and what more workers bring.

    python benchmarks/scaling.py [--records 200000,5000000] [--concurrency 8] [--size 700] [--batch-size 2000]
                                 [--workers 1,2,4,8,16] [--repeat 3]

The sizes first, then the curve over workers at the smallest of them. An index above a million records is loaded once;
5,000,000 records need 17 GB of disk. Prints Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

import tables
from ground import Ground, Measurement, fresh_ground
from seed_registry.bench.workloads import Workload, generate
from ways import load

LIMIT_BYTES = 250e6  # of memory, at any size
SPREAD = 1.1  # at most between the peaks of the smallest and the largest index
SLOWDOWN = 1.3  # at most, in time a record, between these two
ONCE_ABOVE = 1_000_000  # records; minutes each
# The mean record is 1.5 medians; it is on disk as a line and as a row, and the WAL goes up to its 4 GB.
FACTOR, WAL_BYTES = 1.5 * 2.3, 5e9


async def measured(ground: Ground, index: Path, records: int, workers: int, options: argparse.Namespace) -> Measurement:
    """One first load."""
    await ground.empty()
    measurement = await ground.measure(load(index, workers, options.batch_size))
    count = await ground.count("registry.assets")
    if count != records:
        sys.exit(f"{workers} workers left {count:,} assets, not {records:,}")
    print(f"{records:,} records, {workers} workers: {measurement.seconds:.2f} s", file=sys.stderr)
    return measurement


async def sizes(ground: Ground, options: argparse.Namespace) -> dict[int, list[Measurement]]:
    """Every size with the same workers."""
    results: dict[int, list[Measurement]] = {}
    for records in options.records:
        index = write_index(ground.directory, records, options.size)
        turns = 1 if records > ONCE_ABOVE else options.repeat
        results[records] = [await measured(ground, index, records, options.concurrency, options) for _ in range(turns)]
        forget(index)
    return results


async def curve(ground: Ground, options: argparse.Namespace) -> dict[int, list[Measurement]]:
    """The smallest size with every number of workers, which take turns."""
    records = min(options.records)
    index = write_index(ground.directory, records, options.size)
    results: dict[int, list[Measurement]] = {workers: [] for workers in options.workers}
    for _ in range(options.repeat):
        for workers in options.workers:
            results[workers].append(await measured(ground, index, records, workers, options))
    return results


def write_index(directory: Path, records: int, size: int) -> Path:
    """The index, in lines."""
    path = directory / f"{records}.ndjson"
    with path.open("wb") as file:
        file.writelines(generate(Workload(records=records, size=size, format="ndjson")))
    return path


def forget(index: Path) -> None:
    """Make room for the next."""
    index.unlink()


def sizes_table(results: dict[int, list[Measurement]]) -> str:
    """Time a record is by the program's own time: its start is the same for every size."""
    rows = [
        [
            f"{records:,}",
            tables.seconds(measurements, lambda m: m.seconds),
            f"{record_seconds(measurements, records) * 1e6:.1f}",
            f"{records / median(m.seconds for m in measurements):,.0f}",
            tables.megabytes(peak(measurements)),
            str(len(measurements)),
        ]
        for records, measurements in results.items()
    ]
    return tables.table(["records", "s", "µs a record, own time", "records/s", "peak MB", "rounds"], rows)


def targets_table(results: dict[int, list[Measurement]]) -> str:
    """The smallest against the largest index."""
    small, large = min(results), max(results)
    peaks = [peak(results[records]) for records in (small, large)]
    spread = max(peaks) / min(peaks)
    slowdown = record_seconds(results[large], large) / record_seconds(results[small], small)
    rows = [
        ["peak memory, MB", tables.megabytes(max(peaks)), f"< {LIMIT_BYTES / 1e6:g}", max(peaks) < LIMIT_BYTES],
        ["between the two peaks", f"{spread:.2f}", f"<= {SPREAD}", spread <= SPREAD],
        [f"time a record, {large:,} against {small:,}", f"{slowdown:.2f}", f"<= {SLOWDOWN}", slowdown <= SLOWDOWN],
    ]
    return tables.table(
        ["target", "measured", "wanted", "met"], [[*map(str, row), tables.verdict(met=bool(met))] for *row, met in rows]
    )


def curve_table(results: dict[int, list[Measurement]], records: int) -> str:
    """Rates next to that of the fewest workers."""
    first = median(m.seconds for m in results[min(results)])
    rows = [
        [
            str(workers),
            f"{records / median(m.seconds for m in measurements):,.0f}",
            f"{first / median(m.seconds for m in measurements):.2f}",
            tables.seconds(measurements, lambda m: m.client_cpu),
            tables.seconds(measurements, lambda m: m.server_cpu),
            tables.megabytes(peak(measurements)),
        ]
        for workers, measurements in results.items()
    ]
    header = ["workers", "records/s", f"of {min(results)}", "client CPU s", "server CPU s", "peak MB"]
    return tables.table(header, rows)


def peak(measurements: list[Measurement]) -> int:
    """The most memory of any round."""
    return max(measurement.peak_bytes for measurement in measurements)


def record_seconds(measurements: list[Measurement], records: int) -> float:
    """The median time of a record."""
    return median(measurement.own_seconds for measurement in measurements) / records


def refuse_small_disk(records: int, size: int) -> None:
    """Better before the first minutes than after the last."""
    needed, free = records * size * FACTOR + WAL_BYTES, shutil.disk_usage(tempfile.gettempdir()).free
    if needed > free:
        sys.exit(
            f"{records:,} records of {size} bytes need {needed / 1e9:.0f} GB in {tempfile.gettempdir()}, which has "
            f"{free / 1e9:.0f} GB free: choose a smaller --records or --size, or another TMPDIR"
        )


async def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    refuse_small_disk(max(options.records), options.size)
    async with fresh_ground() as ground:
        environment = await ground.look_around()
        by_size = await sizes(ground, options)
        by_workers = await curve(ground, options) if options.workers else {}
    print(
        f"First loads of lines, median record {options.size} bytes, batches of {options.batch_size:,}, "
        f"{options.concurrency} workers where nothing else is said. {tables.machine(environment)}\n"
    )
    print(sizes_table(by_size) + "\n")
    print(targets_table(by_size) + "\n")
    if by_workers:
        print(f"{min(options.records):,} records:\n")
        print(curve_table(by_workers, min(options.records)))


def main() -> None:
    """Parse and go."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=_numbers, default=[200_000, 5_000_000])
    parser.add_argument(
        "--size", type=int, default=700, help="median bytes of a record; the mean is half as much again"
    )
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=2_000)
    parser.add_argument("--workers", type=_numbers, default=[1, 2, 4, 8, 16], help="of the curve; '' leaves it out")
    parser.add_argument("--repeat", type=int, default=3)
    asyncio.run(run(parser.parse_args()))


def _numbers(text: str) -> list[int]:
    return sorted({int(number) for number in text.split(",") if number})


if __name__ == "__main__":
    main()
