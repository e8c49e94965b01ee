"""How fast an index gets into Postgres: this program, its older commits, the floor that Postgres sets, others' ways.

    python benchmarks/loading.py [--records 200000] [--size 1000|real] [--repeat 3] [--concurrency 2]
                                 [--batch-size 2000] [--ways floor,first,…] [--changed 1] [--dialect seed|discovery]
                                 [--against COMMIT] [--server embedded|packaged] [--existing-table]
                                 [--write-docs SECTION]

Every way gets the same records into the same tables; they take turns in one run, each from a state that is the same
every time, in processes of their own (whose start counts). A commit loads into tables that its own `schema apply`
makes. The peers are those of `make bench-peers`. Prints Markdown; fails when a way leaves other rows than the others.
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
import programs
import tables
from ground import Ground, Measurement, fresh_ground
from programs import CURRENT, Program
from seed_registry.synthetic.index import Workload, generate
from servers import EMBEDDED, SERVERS
from targets import comparisons_table, costs_table, targets
from ways import FLOORS, NAMES, PEERS, Index, Indexes, Way, chosen, floors, load, ours, peers


class Contest:
    """Ways on a ground, and the rows they leave."""

    def __init__(self, ground: Ground, options: argparse.Namespace) -> None:
        self.fingerprints: dict[str, dict[str, str]] = {}
        self.table_bytes: dict[str, int] = {}
        self.results: dict[str, list[Measurement]] = {}
        self._ground = ground
        self._options = options

    async def warm_up(self, index: Path) -> None:
        """A load that does not count: it brings the file into memory, compiles modules, and grows the server's WAL."""
        await self._empty(CURRENT)
        await self._ground.measure(load(CURRENT, index, self._options.concurrency, self._options.batch_size))

    async def run(self, ways: Sequence[Way], sources: Sequence[Sequence[Any]]) -> None:
        """All rounds; what follows on another way stays behind it, the rest swaps places."""
        groups: dict[str, list[Way]] = {}
        for way in ways:
            groups.setdefault(way.after or way.name, []).append(way)
        for turn in range(self._options.repeat):
            for group in list(groups.values())[:: -1 if turn % 2 else 1]:
                for way in group:
                    if not turn or not way.once:
                        await self._load(way, sources, turn)

    async def _load(self, way: Way, sources: Sequence[Sequence[Any]], turn: int) -> None:
        await (self._ground.settle() if way.after else self._empty(way.program))
        if way.only_assets:
            await self._ground.add_sources(sources)
        measurement = await self._ground.measure(way.commands)
        self.results.setdefault(way.name, []).append(measurement)
        print(f"round {turn + 1} of {self._options.repeat}: {way.name} {measurement.seconds:.2f} s", file=sys.stderr)
        await self._check(way, measurement)

    async def _empty(self, program: Program) -> None:
        await self._ground.empty(program.command("schema", "apply"), others_raw=self._options.existing_table)

    async def _check(self, way: Way, measurement: Measurement) -> None:
        records = self._options.records
        count = await self._ground.count(way.table)
        if count != records:
            sys.exit(f"{way.name} left {count:,} assets, not {records:,}")
        if way.outcome:
            outcomes = measurement.report["assets"]
            least = 1 if 0 < way.index.changed < 100 else records
            if outcomes[way.outcome] < least:
                sys.exit(f"{way.name} counts too few as {way.outcome}: {outcomes}")
        if way.name not in self.table_bytes:
            self.table_bytes[way.name] = await self._ground.table_bytes(way.table)
            alike = self.fingerprints.setdefault(way.index.path.name, {})
            alike[way.name] = await self._ground.fingerprint(way.table)
            if len(set(alike.values())) > 1:
                sys.exit(f"{way.name} left other rows than the ways before it: {alike}")


def results_table(contest: Contest, ways: Sequence[Way], records: int) -> str:
    """What each way took: medians, and the range of the rates."""
    rows = []
    for way in ways:
        measurements = contest.results[way.name]
        rates = [records / measurement.seconds for measurement in measurements]
        rows.append(
            [
                way.title,
                f"{median(rates):,.0f}",
                f"{min(rates):,.0f} to {max(rates):,.0f}",
                tables.seconds(measurements, lambda m: m.seconds),
                tables.seconds(measurements, lambda m: m.own_seconds),
                tables.microseconds(measurements, lambda m: m.client_cpu, records),
                tables.microseconds(measurements, lambda m: m.server_cpu, records),
                tables.megabytes(max(measurement.wal_bytes for measurement in measurements)),
                tables.megabytes(contest.table_bytes[way.name]),
                tables.megabytes(max(measurement.peak_bytes for measurement in measurements)),
                str(len(measurements)),
            ]
        )
    header = [
        "way",
        "records/s",
        "slowest to fastest",
        "s",
        "s, own",
        "client CPU µs a record",
        "server CPU µs a record",
    ]
    return tables.table([*header, "WAL MB", "table MB", "peak MB", "rounds"], rows)


def choose(options: argparse.Namespace) -> list[str]:
    """The names of the ways that can take part; says which cannot, and why."""
    able = []
    for name in options.ways:
        peer = PEERS.get(name)
        lack = peering.missing(peer) if peer else None
        if peer and options.dialect != "seed":
            lack = "the peers know the dialect seed only"
        if lack:
            print(f"skipped {name}: {lack}", file=sys.stderr)
        else:
            able.append(name)
    return able


def write_index(index: Index, options: argparse.Namespace) -> None:
    """Its records are the same for all forms, but for those that are changed."""
    size = None if options.size == "real" else int(options.size)
    with index.path.open("wb") as file:
        file.writelines(
            generate(
                Workload(
                    records=options.records,
                    size=size,
                    dialect=options.dialect,
                    format=index.form,
                    changed=index.changed,
                )
            )
        )


async def run(options: argparse.Namespace) -> str:
    """Measure, and tell."""
    names = choose(options)
    commits = [programs.at_commit(commit) for commit in options.against]
    async with fresh_ground(options.server) as ground:
        indexes = Indexes.of(ground.directory, options.changed)
        of_programs = (
            ours(program, indexes, options.concurrency, options.batch_size) for program in (CURRENT, *commits)
        )
        # What is compared follows on each other: the machine may be another one minutes later.
        possible = [way for alike in zip(*of_programs, strict=True) for way in alike]
        possible += peers(indexes)
        write_index(indexes.lines, options)
        sources = []
        if set(names) & set(FLOORS):
            settings = await floor.load_settings(ground.url)
            rows = await floor.prepare(indexes.lines.path, options.concurrency, ground.directory, settings)
            possible, sources = floors(rows, indexes.lines, options.concurrency) + possible, rows.sources
        taking_part = chosen(possible, names)
        for index in {way.index.path: way.index for way in taking_part}.values():
            write_index(index, options)
        environment = await ground.collect_environment()
        contest = Contest(ground, options)
        await contest.warm_up(indexes.lines.path)
        await contest.run(taking_part, sources)
        mean = indexes.lines.path.stat().st_size / options.records
    existing = ", raw as in a table that was there before" if options.existing_table else ""
    heading = (
        f"{options.records:,} records of {mean:,.0f} bytes on average ({options.dialect}), this program with "
        f"{options.concurrency} workers and batches of {options.batch_size:,}{existing}. {tables.machine(environment)}"
    )
    paragraphs = [
        heading,
        results_table(contest, taking_part, options.records),
        comparisons_table(contest.results, targets(options, commits)),
        costs_table(contest.results, options),
        *(
            f"The same rows of {index} (md5 {next(iter(alike.values()))}): {', '.join(alike)}."
            for index, alike in contest.fingerprints.items()
        ),
    ]
    return "\n\n".join(filter(None, paragraphs))


def main() -> None:
    """Parse and go."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument(
        "--size", default="1000", help="median bytes of a record (the mean is half as much again); real"
    )
    parser.add_argument("--dialect", choices=["seed", "discovery"], default="seed")
    parser.add_argument("--changed", type=float, default=1, help="percent of the records that the changed ways change")
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--concurrency", type=int, default=2, help="workers, and psql sessions")
    parser.add_argument("--batch-size", type=int, default=2_000)
    parser.add_argument("--ways", type=_names, default=NAMES, help=",".join(NAMES))
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="COMMIT",
        help="measure this commit as well; repeat it for more",
    )
    parser.add_argument("--server", choices=SERVERS, default=EMBEDDED, help="packaged: the distribution's, with lz4")
    parser.add_argument(
        "--existing-table", action="store_true", help="raw without a compression method, as in tables of others"
    )
    parser.add_argument("--write-docs", choices=tables.sections(), help=f"the section of {tables.PAGE.name} to write")
    options = parser.parse_args()
    tables.report(asyncio.run(run(options)), options.write_docs)


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(NAMES):
        raise argparse.ArgumentTypeError(f"no such way: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return names


if __name__ == "__main__":
    main()
