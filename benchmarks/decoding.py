"""How fast an index becomes records, without a database: lines, the same records as a document, and ijson's way.

    python benchmarks/decoding.py [--megabytes 300] [--dialect discovery] [--repeat 3]
    python benchmarks/decoding.py --dialects [--megabytes 20] [--bytes 2000,4400] [--repeat 3]

Each way reads the same records from a file in the page cache; ways take turns; medians are printed. With `--dialects`
the CPU time of the decode stage is compared: of documents of every dialect, whose records weigh the same on average.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from operator import truediv
from pathlib import Path
from typing import Any, cast

import ijson

import programs
import tables
from seed_registry.index.dialects import DIALECTS
from seed_registry.index.inputs import IndexRef
from seed_registry.index.open import read_index
from seed_registry.records import Source
from seed_registry.report import Stages
from seed_registry.settings import Settings
from seed_registry.synthetic.index import Workload, generate

# On average, by which the number of records of so many megabytes is estimated.
RECORD_BYTES = 4_400
# How often a dialect may take as long as `seed` for records of the same size.
TARGETS = {name: 3.0 if name == "dcat-ap" else 1.5 for name in DIALECTS}


class CpuStages(Stages):
    """The CPU time of this thread in each stage: what else the machine does is not in it."""

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of the block."""
        started = time.thread_time()
        yield
        setattr(self, stage, getattr(self, stage) + time.thread_time() - started)


async def read(path: Path, settings: Settings, *, is_strict: bool, stages: Stages) -> int:
    """Read all assets with our reader; returns their number."""
    count = 0
    async with read_index(IndexRef.of(path), settings, stages=stages) as reader:
        reader.checks.is_strict = is_strict
        async for records in reader.records():
            count += sum(type(record) is not Source for record in records)
    return count


def lines_or_document(path: Path, settings: Settings) -> int:
    """Our reader, the event loop and threads included."""
    return asyncio.run(read(path, settings, is_strict=True, stages=Stages()))


def with_ijson(path: Path, prefix: str) -> int:
    """What ijson needs to hand out the same records as Python objects."""
    with path.open("rb") as file:
        return sum(1 for _ in ijson.items(file, prefix, use_float=True))


def written(workload: Workload, path: Path) -> Path:
    """The index as a file."""
    with path.open("wb") as file:
        file.writelines(generate(workload))
    return path


def records_at(dialect: str, path: Path) -> str:
    """Where the records of a document are, as ijson names it."""
    arrays = [array for array, kind in DIALECTS[dialect].arrays.items() if kind == "asset"]
    return next(prefix for array in arrays if with_ijson(path, prefix := ".".join((*array, "item"))))


def compare_ways(dialect: str, megabytes: int, repeat: int) -> None:
    """Print what lines, a document and ijson take for the same records."""
    records = megabytes * 1_000_000 // RECORD_BYTES
    with tempfile.TemporaryDirectory() as directory:
        workloads = {
            form: Workload(records=records, dialect=cast("Any", dialect), format=cast("Any", form))
            for form in ("ndjson", "json")
            if form == "json" or DIALECTS[dialect].sample.has_lines
        }
        paths = {form: written(workload, Path(directory) / form) for form, workload in workloads.items()}
        settings = {form: Settings(domain=workload.domain) for form, workload in workloads.items()}
        ways: dict[str, tuple[Callable[[], int], Path]] = {
            {"ndjson": "lines", "json": "document"}[form]: (partial(lines_or_document, path, settings[form]), path)
            for form, path in paths.items()
        }
        prefix = records_at(dialect, paths["json"])
        ways["document, ijson"] = partial(with_ijson, paths["json"], prefix), paths["json"]
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeat):
            for name, (way, _) in ways.items():
                started = time.perf_counter()
                count = way()
                seconds[name].append(time.perf_counter() - started)
                assert count == records, (name, count, records)
        print(f"{records:,} records of {dialect}, {paths['json'].stat().st_size / 1e6:,.0f} MB")
        first = next(iter(ways))
        base = statistics.median(seconds[first])
        for name, (_, path) in ways.items():
            middle = statistics.median(seconds[name])
            print(
                f"{name:16} {path.stat().st_size / 1e6 / middle:7,.0f} MB/s {middle / records * 1e6:6.2f} µs/record "
                f"{base / middle:5.2f} of the rate of {first}"
            )


def of_weight(dialect: str, records: int, record_bytes: int) -> Workload:
    """Records that weigh so much on average; the sizes of dialects vary around the median in different ways."""
    median = record_bytes
    for _ in range(4):
        median = max(median, DIALECTS[dialect].sample.fixed_bytes)
        workload = Workload(records=min(records, 2_000), dialect=cast("Any", dialect), size=median)
        median = round(median * record_bytes * workload.records / sum(map(len, generate(workload))))
    return Workload(
        records=records, dialect=cast("Any", dialect), size=max(median, DIALECTS[dialect].sample.fixed_bytes)
    )


def compare_dialects(megabytes: int, repeat: int, record_bytes: int) -> str:
    """A table of the CPU time of the decode stage for records of every dialect, relative to those of `seed`."""
    records = megabytes * 1_000_000 // record_bytes
    ways = {"by columns": False, "one by one": True}
    with tempfile.TemporaryDirectory() as directory:
        indexes = {}
        for name in DIALECTS:
            workload = of_weight(name, records, record_bytes)
            indexes[name] = written(workload, Path(directory) / name), Settings(domain=workload.domain)
        micros: dict[tuple[str, str], list[float]] = {(name, way): [] for name in indexes for way in ways}
        for _ in range(repeat):
            for way, is_strict in ways.items():
                for name, (path, settings) in indexes.items():
                    stages = CpuStages()
                    count = asyncio.run(read(path, settings, is_strict=is_strict, stages=stages))
                    assert count == records, (name, count, records)
                    micros[name, way].append(stages.decoding / records * 1e6)
        sizes = {name: path.stat().st_size / records for name, (path, _) in indexes.items()}
    rows = []
    for name in indexes:
        row, of_seed = [name, f"{sizes[name]:,.0f}"], {}
        for way in ways:
            # Round by round: rounds differ more than dialects.
            of_seed[way] = statistics.median(map(truediv, micros[name, way], micros["seed", way]))
            row += [f"{statistics.median(micros[name, way]):.1f}", f"{of_seed[way]:.2f}"]
        rows.append([*row, f"<= {TARGETS[name]}", tables.verdict(met=of_seed["by columns"] <= TARGETS[name])])
    header = [
        "dialect",
        "bytes a record",
        *(cell for way in ways for cell in (f"{way}, µs", "of seed")),
        "wanted",
        "met",
    ]
    return tables.table(header, rows)


def measured_where(megabytes: int, repeat: int) -> str:
    """What was measured, where and when, in a line."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return (
        f"CPU time of the decode stage for each record: {megabytes} MB of each dialect, as documents; medians of "
        f"{repeat} rounds. Measured {datetime.now(UTC):%Y-%m-%d} at {programs.described()} on {os.cpu_count()} cores, "
        f"{python}, load average {os.getloadavg()[0]:.1f} before."
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--dialect", choices=DIALECTS, default="discovery")
    parser.add_argument("--dialects", action="store_true", help="compare all of them")
    parser.add_argument("--bytes", default=str(RECORD_BYTES), help="of a record on average, with --dialects")
    parser.add_argument("--write-docs", choices=tables.sections(), help=f"the section of {tables.PAGE.name} to write")
    options = parser.parse_args()
    if options.dialects:
        where = measured_where(options.megabytes, options.repeat)
        weights = map(int, options.bytes.split(","))
        found = [compare_dialects(options.megabytes, options.repeat, weight) for weight in weights]
        tables.report("\n\n".join([where, *found]), options.write_docs)
    else:
        compare_ways(options.dialect, options.megabytes, options.repeat)


if __name__ == "__main__":
    main()
