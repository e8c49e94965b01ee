"""How fast an index gets into Postgres: this program, the floor that Postgres sets, and others' ways.

    python benchmarks/loading.py [--records 200000] [--size 1000|real] [--repeat 3] [--concurrency 2]
                                 [--batch-size 2000] [--ways floor,first,…] [--dialect seed|discovery]

Every way gets the same records into the same tables; they take turns in one run, each from a state that is the same
every time, in processes of their own (whose start counts). The peers are those of `make bench-peers`. Prints Markdown;
fails when a way leaves other rows than the others.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import floor
import peering
import tables
from ground import Ground, Measurement, fresh_ground
from seed_registry.bench.workloads import Workload, generate
from tables import Target
from ways import NAMES, PEERS, Indexes, Way, ways

Results = dict[str, list[Measurement]]

TARGETS = [
    Target("first load, of the psql floor's rate", "first", "floor", 0.95),
    Target("first load, of the psql limit's rate", "first", "limit", 0.75),
    Target("first load, document against lines", "document", "first", 0.95),
    Target("the same index again, against the first load", "unchanged", "first", 4),
    Target("1 % changed, against the same index again", "changed", "unchanged", 0.7),
    Target("first load, against Node", "first", "node", 2.2),
    Target("first load of a document, against Node", "document", "node-document", 2.2),
    Target("the same index again, against Node", "unchanged", "node-again", 8),
    Target("first load, against psycopg", "first", "psycopg", 2.2),
    Target("first load, against ADBC", "first", "adbc", 2.5),
    Target("first load, against dlt", "first", "dlt", 10),
]
UNCHANGED_WAL_BYTES = 1e6  # whatever the number of records: none of it is theirs


class Contest:
    """Ways on a ground, and the rows they leave."""

    def __init__(self, ground: Ground, records: int) -> None:
        self.fingerprints: dict[str, str] = {}
        self.results: Results = {}
        self._ground = ground
        self._records = records

    async def run(self, chosen: Sequence[Way], sources: Sequence[Sequence[Any]], repeat: int) -> None:
        """All rounds."""
        for turn in range(repeat):
            for way in chosen:
                if turn and way.once:
                    continue
                await (self._ground.settle() if way.after else self._ground.empty())
                if way.only_assets:
                    await self._ground.add_sources(sources)
                measurement = await self._ground.measure(way.commands)
                self.results.setdefault(way.name, []).append(measurement)
                print(f"round {turn + 1} of {repeat}: {way.name} {measurement.seconds:.2f} s", file=sys.stderr)
                await self._check(way, measurement)

    async def _check(self, way: Way, measurement: Measurement) -> None:
        count = await self._ground.count(way.table)
        if count != self._records:
            sys.exit(f"{way.name} left {count:,} assets, not {self._records:,}")
        if way.outcome and not measurement.report["assets"][way.outcome]:
            sys.exit(f"{way.name} counts none as {way.outcome}: {measurement.report['assets']}")
        if way.same_rows and way.name not in self.fingerprints:
            self.fingerprints[way.name] = await self._ground.fingerprint(way.table)
            if len(set(self.fingerprints.values())) > 1:
                sys.exit(f"{way.name} left other rows than the ways before it: {self.fingerprints}")


def results_table(results: Results, titles: dict[str, str], records: int) -> str:
    """What each way took: medians, and the range of the rates."""
    rows = []
    for name, measurements in results.items():
        rates = [records / measurement.seconds for measurement in measurements]
        rows.append(
            [
                titles[name],
                f"{median(rates):,.0f}",
                f"{min(rates):,.0f} to {max(rates):,.0f}",
                tables.seconds(measurements, lambda m: m.seconds),
                tables.seconds(measurements, lambda m: m.own_seconds),
                tables.seconds(measurements, lambda m: m.client_cpu),
                tables.seconds(measurements, lambda m: m.server_cpu),
                tables.megabytes(max(measurement.wal_bytes for measurement in measurements)),
                tables.megabytes(max(measurement.peak_bytes for measurement in measurements)),
                str(len(measurements)),
            ]
        )
    header = ["way", "records/s", "slowest to fastest", "s", "s, own", "client CPU s", "server CPU s"]
    return tables.table([*header, "WAL MB", "peak MB", "rounds"], rows)


def targets_table(results: Results) -> str:
    """What was aimed at, and what came of it; whole processes are compared, as a user waits for them."""
    rows = []
    for target in TARGETS:
        if target.ours in results and target.other in results:
            ours, other = results[target.ours], results[target.other]
            whole = tables.ratio([m.seconds for m in other], [m.seconds for m in ours])
            own = tables.ratio([m.own_seconds for m in other], [m.own_seconds for m in ours])
            met = tables.verdict(met=whole >= target.wanted)
            rows.append([target.title, f"{whole:.2f}", f"{own:.2f}", f">= {target.wanted:g}", met])
    if "unchanged" in results:
        wal = max(measurement.wal_bytes for measurement in results["unchanged"])
        met = tables.verdict(met=wal < UNCHANGED_WAL_BYTES)
        rows.append(
            ["WAL of the same index again, MB", f"{wal / 1e6:.3f}", "", f"< {UNCHANGED_WAL_BYTES / 1e6:g}", met]
        )
    return tables.table(["target", "measured", "by own time", "wanted", "met"], rows)


def choose(options: argparse.Namespace) -> list[str]:
    """The names of the ways that can take part; says which cannot, and why."""
    chosen = []
    for name in options.ways:
        peer = PEERS.get(name)
        lack = peering.missing(peer) if peer else None
        if peer and options.dialect != "seed":
            lack = "the peers know the dialect seed only"
        if lack:
            print(f"skipped {name}: {lack}", file=sys.stderr)
        else:
            chosen.append(name)
    return chosen


def write_indexes(directory: Path, options: argparse.Namespace) -> list[Path]:
    """The lines, the lines with 1 % changed, the document."""
    size = None if options.size == "real" else int(options.size)
    base = {"records": options.records, "size": size, "dialect": options.dialect}
    paths = []
    for name, how in (
        ("index.ndjson", {"format": "ndjson"}),
        ("changed.ndjson", {"format": "ndjson", "changed": 1}),
        ("index.json", {"format": "json"}),
    ):
        path = directory / name
        with path.open("wb") as file:
            file.writelines(generate(Workload(**base, **how)))
        paths.append(path)
    return paths


async def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    names = choose(options)
    async with fresh_ground() as ground:
        lines, changed, document = write_indexes(ground.directory, options)
        rows = await floor.prepare(lines, options.concurrency, ground.directory)
        indexes = Indexes(lines, changed, document, rows)
        everything = ways(indexes, options.concurrency, options.batch_size)
        needed = {way.after for way in everything if way.name in names} | set(names)
        chosen = [way for way in everything if way.name in needed]
        environment = await ground.look_around()
        contest = Contest(ground, options.records)
        await contest.run(chosen, rows.sources, options.repeat)
        mean = lines.stat().st_size / options.records
    titles = {way.name: way.title for way in chosen}
    print(
        f"{options.records:,} records of {mean:,.0f} bytes on average ({options.dialect}), this program with "
        f"{options.concurrency} workers and batches of {options.batch_size:,}. {tables.machine(environment)}\n"
    )
    print(results_table(contest.results, titles, options.records) + "\n")
    print(targets_table(contest.results) + "\n")
    for fingerprint in set(contest.fingerprints.values()):
        print(f"The same rows (md5 {fingerprint}): {', '.join(contest.fingerprints)}.")


def main() -> None:
    """Parse and go."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument(
        "--size", default="1000", help="median bytes of a record (the mean is half as much again); real"
    )
    parser.add_argument("--dialect", choices=["seed", "discovery"], default="seed")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=2_000)
    parser.add_argument("--ways", type=_names, default=NAMES, help=",".join(NAMES))
    asyncio.run(run(parser.parse_args()))


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(NAMES):
        raise argparse.ArgumentTypeError(f"no such way: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return names


if __name__ == "__main__":
    main()
