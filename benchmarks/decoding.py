"""How fast an index becomes records, without a database: lines, the same records as a document, and ijson's way.

    python benchmarks/decoding.py [--megabytes 300] [--dialect discovery] [--repeat 3]

Each way reads the same records from a file in the page cache; ways take turns; medians are printed.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import ijson

from seed_registry.index.inputs import IndexRef
from seed_registry.index.open import read_index
from seed_registry.settings import Settings
from seed_registry.synthetic.index import Workload, generate

RECORD_BYTES = 2_700


def lines_or_document(path: Path) -> int:
    """Our reader, the event loop and threads included."""

    async def run() -> int:
        async with read_index(IndexRef.of(path), Settings()) as reader:
            return sum([len(records) async for records in reader.records()])

    return asyncio.run(run())


def with_ijson(path: Path) -> int:
    """What ijson needs to hand out the same records as Python objects."""
    with path.open("rb") as file:
        return sum(1 for _ in ijson.items(file, "results.item", use_float=True))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    records = options.megabytes * 1_000_000 // RECORD_BYTES
    with tempfile.TemporaryDirectory() as directory:
        paths = {}
        for form in ("ndjson", "json"):
            paths[form] = Path(directory) / f"index.{form}"
            workload = Workload(records=records, dialect="discovery", format=cast("Any", form))
            with paths[form].open("wb") as file:
                file.writelines(generate(workload))
        ways: dict[str, tuple[Callable[[Path], int], Path]] = {
            "lines": (lines_or_document, paths["ndjson"]),
            "document": (lines_or_document, paths["json"]),
            "document, ijson": (with_ijson, paths["json"]),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.repeat):
            for name, (way, path) in ways.items():
                started = time.perf_counter()
                count = way(path)
                seconds[name].append(time.perf_counter() - started)
                assert count == records, (name, count, records)
        print(f"{records:,} records, {paths['json'].stat().st_size / 1e6:,.0f} MB")
        base = statistics.median(seconds["lines"])
        for name, (_, path) in ways.items():
            middle = statistics.median(seconds[name])
            print(
                f"{name:16} {path.stat().st_size / 1e6 / middle:7,.0f} MB/s {middle / records * 1e6:6.2f} µs/record "
                f"{base / middle:5.2f} of the lines' rate"
            )


if __name__ == "__main__":
    main()
