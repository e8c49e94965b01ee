"""What --retire and --history cost: each load without and with them, in rounds that take turns.

    python benchmarks/history.py [--records 200000] [--size 700] [--repeat 5] [--write-docs history]

A first load, the same index again, one with 1 % of the records changed, one with all; each from the same state.
Prints Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from statistics import median

from msgspec import Struct

import tables
from ground import Ground, Measurement, fresh_ground
from programs import CURRENT
from seed_registry.synthetic.index import Workload, generate
from ways import load

# Time with against without, at most.
TARGETS = {"first": 1.03, "again": 1.15, "changed": 1.25}
WAL_OF_UNCHANGED = 0.2e6
TITLES = {
    "first": "first load",
    "again": "the same index again, with --retire",
    "changed": "1 % of the records changed",
    "all": "all records changed",
}
CHANGED = {"first": 0.0, "again": 0.0, "changed": 1.0, "all": 100.0}


class Pair(Struct):
    """A load without and with history."""

    way: str
    without: list[Measurement] = []
    with_history: list[Measurement] = []

    @property
    def ratio(self) -> float:
        """The median time with history against that without, start left out."""
        return median(m.own_seconds for m in self.with_history) / median(m.own_seconds for m in self.without)


async def measured(ground: Ground, way: str, indexes: dict[str, Path], *, history: bool) -> Measurement:
    """One load from the state that it needs."""
    flags = ["--history"] if history else []
    await ground.empty(CURRENT.command("schema", "apply"))
    if way != "first":
        await ground.measure(_load(indexes["first"], flags))
        await ground.settle()
    if way == "again" and history:
        flags.append("--retire")
    return await ground.measure(_load(indexes[way], flags))


def _load(index: Path, flags: list[str]) -> list[list[str | Path]]:
    (command,) = load(CURRENT, index, 4, 2_000)
    return [[*command, *flags]]


async def run(options: argparse.Namespace) -> str:
    """Measure, and tell."""
    async with fresh_ground() as ground:
        environment = await ground.collect_environment()
        indexes = {}
        for way, changed in CHANGED.items():
            indexes[way] = ground.directory / f"{way}.ndjson"
            workload = Workload(records=options.records, size=options.size, format="ndjson", changed=changed)
            with indexes[way].open("wb") as file:
                file.writelines(generate(workload))
        pairs = [Pair(way) for way in TITLES]
        for _ in range(options.repeat):
            for pair in pairs:
                pair.without.append(await measured(ground, pair.way, indexes, history=False))
                pair.with_history.append(await measured(ground, pair.way, indexes, history=True))
    heading = (
        f"{options.records:,} records in lines, median {options.size} bytes, batches of 2,000, 4 workers, medians of "
        f"{options.repeat} rounds. {tables.machine(environment)}"
    )
    return f"{heading}\n\n{_table(pairs)}"


def _table(pairs: list[Pair]) -> str:
    rows = []
    for pair in pairs:
        target = TARGETS.get(pair.way)
        verdict = ["", ""] if target is None else [f"<= {target:.2f}", tables.verdict(met=pair.ratio <= target)]
        rows.append(
            [
                TITLES[pair.way],
                tables.seconds(pair.without, lambda m: m.own_seconds),
                tables.seconds(pair.with_history, lambda m: m.own_seconds),
                f"{pair.ratio:.2f}",
                *verdict,
                *(tables.megabytes(median(m.wal_bytes for m in of)) for of in (pair.without, pair.with_history)),
                *(tables.megabytes(max(m.peak_bytes for m in of)) for of in (pair.without, pair.with_history)),
            ]
        )
    header = ["load", "s without", "s with", "ratio", "wanted", "met", "WAL MB", "with", "peak MB", "with"]
    again = next(pair for pair in pairs if pair.way == "again")
    wal = median(m.wal_bytes for m in again.with_history)
    note = (
        f"The same index again writes {wal / 1e6:.2f} MB of WAL with both (wanted < {WAL_OF_UNCHANGED / 1e6:g}: "
        f"{tables.verdict(met=wal < WAL_OF_UNCHANGED)})."
    )
    return f"{tables.table(header, rows)}\n\n{note}"


def main() -> None:
    """Parse and go."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--size", type=int, default=700, help="median bytes of a record")
    parser.add_argument("--repeat", type=int, default=5, help="rounds")
    parser.add_argument("--write-docs", choices=tables.sections(), help=f"the section of {tables.PAGE.name} to write")
    options = parser.parse_args()
    tables.report(asyncio.run(run(options)), options.write_docs)


if __name__ == "__main__":
    main()
