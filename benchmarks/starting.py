"""What starting costs: the CPU and the time of `seed-registry --version` and of a load of few records.

    python benchmarks/starting.py [--records 762] [--repeat 9] [--against COMMIT] [--write-docs SECTION]

The records are those of a Directory index, as real ones are, loaded with all defaults into an empty registry. Prints
Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

import programs
import tables
from ground import Command, Ground, Measurement, fresh_ground
from programs import CURRENT, Program
from seed_registry.synthetic.index import Workload, generate

VERSION, LOAD = "--version", "a load of {records} records"
CPU_SECONDS = {VERSION: 0.10, LOAD: 0.40}  # at most


async def rounds(
    ground: Ground, commands: dict[str, Command], programs_: Sequence[Program], repeat: int
) -> dict[tuple[str, str], list[Measurement]]:
    """Every command of every program, which take turns; by command and by the program's label."""
    results: dict[tuple[str, str], list[Measurement]] = {}
    for turn in range(repeat + 1):  # the first does not count: it compiles modules
        for name, arguments in commands.items():
            for program in programs_:
                await ground.empty(program.command("schema", "apply"))
                measurement = await ground.measure([program.command(*arguments)])
                if turn:
                    results.setdefault((name, program.label), []).append(measurement)
    return results


def table(results: dict[tuple[str, str], list[Measurement]], records: int) -> str:
    """Medians, and what is wanted of this checkout."""
    rows = []
    for (name, label), measurements in results.items():
        cpu = tables.middle(measurements, lambda m: m.client_cpu) or 0
        wanted = CPU_SECONDS[name]
        rows.append(
            [
                (f"{label}, " if label else "") + name.format(records=records),
                f"{cpu:.3f}",
                f"{tables.middle(measurements, lambda m: m.seconds) or 0:.3f}",
                tables.megabytes(max(measurement.peak_bytes for measurement in measurements)),
                "" if label else f"<= {wanted:.2f}",
                "" if label else tables.verdict(met=cpu <= wanted),
            ]
        )
    return tables.table(["command", "CPU s", "s", "peak MB", "wanted, CPU s", "met"], rows)


async def run(options: argparse.Namespace) -> str:
    """Measure, and tell."""
    commits = [programs.at_commit(commit) for commit in options.against]
    async with fresh_ground() as ground:
        index = ground.directory / "index.json"
        with index.open("wb") as file:
            file.writelines(generate(Workload(records=options.records, dialect="directory")))
        environment = await ground.collect_environment()
        commands: dict[str, Command] = {VERSION: ["--version"], LOAD: ["load", index, "--json"]}
        results = await rounds(ground, commands, [CURRENT, *commits], options.repeat)
    return f"Medians of {options.repeat} rounds. {tables.machine(environment)}\n\n{table(results, options.records)}"


def main() -> None:
    """Parse and go."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=762)
    parser.add_argument("--repeat", type=int, default=9, help="rounds")
    parser.add_argument("--against", action="append", default=[], metavar="COMMIT", help="measure this commit as well")
    parser.add_argument("--write-docs", choices=tables.sections(), help=f"the section of {tables.PAGE.name} to write")
    options = parser.parse_args()
    tables.report(asyncio.run(run(options)), options.write_docs)


if __name__ == "__main__":
    main()
