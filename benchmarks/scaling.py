"""Whether a first load takes the same time a record and the same memory at any size, and what more workers bring.

    python benchmarks/scaling.py [--records 200000,1000000,5000000,20000000] [--concurrency 4] [--size 700]
                                 [--batch-size 2000] [--workers 1,2,4,8,16] [--repeat 3] [--write-docs SECTION]
    python benchmarks/scaling.py --defer-indexes [--records 200000,5000000] …
    python benchmarks/scaling.py --processes 1,2,4 [--records 2000000] [--shard-bytes 64MiB] …
    python benchmarks/scaling.py --dask 2 [--records 400000] [--shard-bytes 64MiB] …

The sizes first, then the curve over workers at the smallest of them; with --defer-indexes every size without and with
that flag of `load`. An index above a million records is loaded once, between two rounds of the smaller ones: the
machine may be another one an hour later. How much disk it takes is said before anything is loaded. Prints Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

from msgspec import Struct

import clusters
import processes
import tables
from ground import Ground, Measurement, fresh_ground
from programs import CURRENT
from seed_registry.synthetic.index import Workload, generate
from ways import load

LIMIT_BYTES = 110e6  # of memory, at any size
FLAT_FROM, SPREAD = 1_000_000, 1.1  # records; from there on at most between the peaks of two sizes
SLOWDOWN = 1.1  # at most, in time a record, of a larger index against the smallest
ONCE_ABOVE = 1_000_000  # records; minutes each
# In medians: a line is 1.5, a row with indexes 2.2 where raw is compressed, 3 where not; and up to 4 GB of WAL.
FACTOR, WAL_BYTES = 4.5, 5e9


class Size(Struct):
    """What first loads of so many records took, and the bytes of the table that they leave."""

    records: int
    measurements: list[Measurement]
    table_bytes: int = 0
    defers_indexes: bool = False

    @property
    def title(self) -> str:
        """The records, and the way if it is not the plain one."""
        return f"{self.records:,}{', indexes deferred' if self.defers_indexes else ''}"

    @property
    def peak_bytes(self) -> int:
        """The most memory of any round."""
        return max(measurement.peak_bytes for measurement in self.measurements)

    @property
    def record_seconds(self) -> float:
        """The median time of a record by the program's own time: its start is the same for every size."""
        return median(measurement.own_seconds for measurement in self.measurements) / self.records


async def measured(
    ground: Ground,
    index: Path,
    records: int,
    workers: int,
    options: argparse.Namespace,
    *,
    defers_indexes: bool = False,
) -> Measurement:
    """One first load."""
    await ground.empty(CURRENT.command("schema", "apply"))
    commands = load(CURRENT, index, workers, options.batch_size)
    if defers_indexes:
        commands = [[*command, "--defer-indexes"] for command in commands]
    measurement = await ground.measure(commands)
    count = await ground.count("registry.assets")
    if count != records:
        sys.exit(f"{workers} workers left {count:,} assets, not {records:,}")
    way = ", indexes deferred" if defers_indexes else ""
    print(f"{records:,} records, {workers} workers{way}: {measurement.seconds:.2f} s", file=sys.stderr)
    return measurement


async def sizes(ground: Ground, options: argparse.Namespace) -> list[Size]:
    """Every size with the same workers; one load of the smallest, which does not count, goes before."""
    ways = [False, True] if options.defer_indexes else [False]
    results = [Size(records, [], defers_indexes=way) for records in options.records for way in ways]
    for turn in range(-1, options.repeat):
        for size in results[:1] if turn < 0 else results:
            if turn > 0 and size.records > ONCE_ABOVE:
                continue
            index = write_index(ground.directory, size.records, options.size)
            measurement = await measured(
                ground, index, size.records, options.concurrency, options, defers_indexes=size.defers_indexes
            )
            if turn >= 0:
                size.measurements.append(measurement)
                size.table_bytes = await ground.table_bytes("registry.assets")
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
    """The index, in lines; it is kept until one of another size needs its room."""
    path = directory / f"{records}.ndjson"
    if path.exists():
        return path
    for other in directory.glob("*.ndjson"):
        other.unlink()
    with path.open("wb") as file:
        file.writelines(generate(Workload(records=records, size=size, format="ndjson")))
    return path


def sizes_table(results: list[Size]) -> str:
    """Per record, and next to the smallest index."""
    rows = [
        [
            size.title,
            tables.seconds(size.measurements, lambda m: m.seconds),
            f"{size.records / median(m.seconds for m in size.measurements):,.0f}",
            f"{size.record_seconds * 1e6:.1f}",
            f"{size.record_seconds / results[0].record_seconds:.2f}",
            tables.microseconds(size.measurements, lambda m: m.client_cpu, size.records),
            tables.microseconds(size.measurements, lambda m: m.server_cpu, size.records),
            f"{median(m.wal_bytes for m in size.measurements) / size.records:,.0f}",
            f"{size.table_bytes / size.records:,.0f}",
            f"{size.peak_bytes / size.records:,.1f}",
            tables.megabytes(size.peak_bytes),
            str(len(size.measurements)),
        ]
        for size in results
    ]
    header = ["records", "s", "records/s", "µs, own time", f"against {results[0].records:,}", "client CPU µs"]
    header += ["server CPU µs", "WAL bytes", "table bytes", "peak memory bytes", "peak MB", "rounds"]
    return tables.table(header, rows)


def targets_table(results: list[Size]) -> str:
    """Every size against the smallest; of the peaks those of large indexes."""
    rows: list[tuple[str, str, str, bool]] = []
    for size in results[1:]:
        slowdown = size.record_seconds / results[0].record_seconds
        title = f"time a record, {size.title} against {results[0].records:,}"
        rows.append((title, f"{slowdown:.2f}", f"<= {SLOWDOWN:.2f}", slowdown <= SLOWDOWN))
    peak = max(size.peak_bytes for size in results)
    rows.append(("peak memory, MB", tables.megabytes(peak), f"<= {LIMIT_BYTES / 1e6:g}", peak <= LIMIT_BYTES))
    large = [size.peak_bytes for size in results if size.records >= FLAT_FROM]
    if len(large) > 1:
        spread = max(large) / min(large)
        title = f"between the peaks from {FLAT_FROM:,} records on"
        rows.append((title, f"{spread:.2f}", f"<= {SPREAD}", spread <= SPREAD))
    return tables.table(
        ["target", "measured", "wanted", "met"], [[*row, tables.verdict(met=met)] for *row, met in rows]
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
            tables.megabytes(max(m.peak_bytes for m in measurements)),
        ]
        for workers, measurements in results.items()
    ]
    header = ["workers", "records/s", f"of {min(results)}", "client CPU s", "server CPU s", "peak MB"]
    return tables.table(header, rows)


def say_disk(records: int, size: int) -> None:
    """Say what the largest index takes, and refuse to begin where there is less: the last minutes are too late."""
    needed, free = records * size * FACTOR + WAL_BYTES, shutil.disk_usage(tempfile.gettempdir()).free
    have = f"{needed / 1e9:.0f} GB in {tempfile.gettempdir()}, which has {free / 1e9:.0f} GB free"
    if needed > free:
        sys.exit(f"{records:,} records of {size} bytes need {have}: choose a smaller --records, or another TMPDIR")
    print(f"{records:,} records of {size} bytes take {have}", file=sys.stderr)


async def run(options: argparse.Namespace) -> str:
    """Measure, and tell."""
    say_disk(max(options.records), options.size)
    async with fresh_ground() as ground:
        environment = await ground.collect_environment()
        if options.processes:
            records = min(options.records)
            index = write_index(ground.directory, records, options.size)
            results = await processes.curve(ground, index, records, options)
            heading = (
                f"{records:,} records in lines, median {options.size} bytes, batches of {options.batch_size:,}, shards "
                f"of {options.shard_bytes}, medians of {options.repeat} rounds. {tables.machine(environment)}"
            )
            return f"{heading}\n\n{processes.described(results, records)}"
        if options.dask:
            records = min(options.records)
            index = write_index(ground.directory, records, options.size)
            small = write_index(ground.directory, 400, options.size)
            heading = (
                f"{records:,} records in lines, median {options.size} bytes, batches of {options.batch_size:,}, shards "
                f"of {options.shard_bytes}, {options.repeat} rounds. {tables.machine(environment)}"
            )
            return f"{heading}\n\n{await clusters.compare(ground, index, small, records, options)}"
        by_size = await sizes(ground, options)
        by_workers = await curve(ground, options) if options.workers else {}
    heading = (
        f"First loads of lines, median record {options.size} bytes, batches of {options.batch_size:,}, "
        f"{options.concurrency} workers where nothing else is said; all but s, records/s and MB for each record. "
        f"{tables.machine(environment)}"
    )
    paragraphs = [heading, sizes_table(by_size), targets_table(by_size)]
    if by_workers:
        paragraphs += [f"{min(options.records):,} records:", curve_table(by_workers, min(options.records))]
    return "\n\n".join(paragraphs)


def main() -> None:
    """Parse and go."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=_numbers, default=[200_000, 1_000_000, 5_000_000, 20_000_000])
    parser.add_argument(
        "--size", type=int, default=700, help="median bytes of a record; the mean is half as much again"
    )
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=2_000)
    parser.add_argument("--workers", type=_numbers, default=[1, 2, 4, 8, 16], help="of the curve; '' leaves it out")
    parser.add_argument("--defer-indexes", action="store_true", help="load every size without and with it")
    parser.add_argument("--processes", type=_numbers, default=[], help="compare these, and nothing else")
    parser.add_argument("--dask", type=int, default=0, help="so many workers against as many processes, nothing else")
    parser.add_argument("--shard-bytes", default="64MiB")
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--write-docs", choices=tables.sections(), help=f"the section of {tables.PAGE.name} to write")
    options = parser.parse_args()
    tables.report(asyncio.run(run(options)), options.write_docs)


def _numbers(text: str) -> list[int]:
    return sorted({int(number) for number in text.split(",") if number})


if __name__ == "__main__":
    main()
