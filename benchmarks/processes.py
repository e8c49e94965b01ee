"""What more processes bring, first load and reload, and a model of machines with more cores than this one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

import tables
from ground import Ground, Measurement
from programs import CURRENT

MOST_CLIENT_US = 3.5  # more for each record than one process
MOST_SERVER = 1.05  # times as much as one process
MOST_WALL = 0.90  # of one process, of a reload by two
MODEL_CORES = (8, 16, 32, 64)


class Rounds(Struct):
    """What loads by so many processes took: first loads, and reloads of the same."""

    processes: int
    first: list[Measurement] = []
    again: list[Measurement] = []


async def curve(ground: Ground, index: Path, records: int, options: argparse.Namespace) -> list[Rounds]:
    """Every number of processes, which take turns; a reload after each first load."""
    results = [Rounds(count, [], []) for count in options.processes]
    for turn in range(options.repeat):
        for rounds in results:
            await ground.empty(CURRENT.command("schema", "apply"))
            flags = ["--processes", str(rounds.processes), "--batch-size", str(options.batch_size), "--json"]
            if rounds.processes > 1:
                flags += ["--shard-bytes", options.shard_bytes]
            command = [CURRENT.command("load", index, *flags)]
            for name in ("first", "again"):
                measurement = await ground.measure(command)
                assets = measurement.report["assets"]
                if assets["inserted" if name == "first" else "unchanged"] != records:
                    sys.exit(f"{rounds.processes} processes, {name}: {assets}")
                getattr(rounds, name).append(measurement)
                if name == "first":
                    await ground.settle()
                print(f"{turn}: {rounds.processes} processes, {name}: {measurement.seconds:.2f} s", file=sys.stderr)
    return results


def described(results: Sequence[Rounds], records: int) -> str:
    """The tables: what was measured, the targets, and the model."""
    return "\n\n".join([_measured(results, records), _targets(results, records), _model(results, records)])


def _measured(results: Sequence[Rounds], records: int) -> str:
    rows = []
    for name in ("first", "again"):
        for rounds in results:
            measurements, one = getattr(rounds, name), getattr(results[0], name)
            rows.append(
                [
                    f"{rounds.processes}, {name}",
                    tables.seconds(measurements, lambda m: m.seconds),
                    f"{records / (tables.middle(measurements, lambda m: m.seconds) or 1):,.0f}",
                    tables.ranged(tables.ratios(measurements, one, lambda m: m.seconds)),
                    tables.microseconds(measurements, lambda m: m.client_cpu, records),
                    tables.microseconds(measurements, lambda m: m.server_cpu, records),
                    tables.megabytes(max(m.peak_bytes for m in measurements)),
                ]
            )
    header = ["processes", "s", "records/s", f"s, of {results[0].processes}", "client CPU µs", "server CPU µs"]
    return tables.table([*header, "peak MB of one"], rows)


def _targets(results: Sequence[Rounds], records: int) -> str:
    """The most processes, and two, against one."""
    one, most = results[0], results[-1]
    more = _us(most.first, "client_cpu", records) - _us(one.first, "client_cpu", records)
    server = _us(most.first, "server_cpu", records) / _us(one.first, "server_cpu", records)
    rows = [
        [f"client CPU a record, {most.processes} against 1, µs more", f"{more:.1f}", f"<= {MOST_CLIENT_US}"],
        [f"server CPU a record, {most.processes} against 1", f"{server:.2f}", f"<= {MOST_SERVER}"],
    ]
    met = [more <= MOST_CLIENT_US, server <= MOST_SERVER]
    if two := next((rounds for rounds in results if rounds.processes == 2), None):  # as the target
        wall = tables.ratios(two.again, one.again, lambda m: m.seconds)
        rows.append(["wall time of a reload, 2 against 1", tables.ranged(wall), f"<= {MOST_WALL}"])
        met.append(sorted(wall)[len(wall) // 2] <= MOST_WALL)
    verdicts = [[*row, tables.verdict(met=is_met)] for row, is_met in zip(rows, met, strict=True)]
    return tables.table(["target", "measured", "wanted", "met"], verdicts)


def _model(results: Sequence[Rounds], records: int) -> str:
    """Cores divided by the CPU time of a record, of client and server together, which no core has to wait for."""
    most = results[-1]
    first, again = (
        _us(measurements, "client_cpu", records) + _us(measurements, "server_cpu", records)
        for measurements in (most.first, most.again)
    )
    rows = [
        [
            str(cores),
            f"{cores / first * 1e6:,.0f}",
            f"{cores / again * 1e6:,.0f}",
            f"{1e8 * first / cores / 60e6:,.1f} / {1e8 * again / cores / 60e6:,.1f} min",
        ]
        for cores in MODEL_CORES
    ]
    header = ["cores, client and server together", "first load, records/s", "again, records/s", "10^8 records"]
    return f"A model, not measured: no core waits for another, or for a disk.\n\n{tables.table(header, rows)}"


def _us(measurements: Sequence[Measurement], name: str, records: int) -> float:
    return (tables.middle(measurements, lambda m: getattr(m, name)) or 0) / records * 1e6
