"""How the ways compare, and what is wanted of that."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import median

from msgspec import Struct

import tables
from ground import Measurement
from programs import Program
from ways import OURS

Results = dict[str, list[Measurement]]

_COMPARED = ["comparison", "times as fast", "by own time", "client CPU of the other's", "server CPU of the other's"]
_JUDGED = ["wanted", "met"]


class Target(Struct, frozen=True):
    """How two ways compare, and what is wanted of that.

    Attributes:
        title: for the table.
        ours: the name of a way.
        other: of the one that it is compared with.
        faster: how many times as fast it has to be at least; None where nothing is wanted.
        server_cpu: the most of the other's server CPU that it may take; None where nothing is wanted.
    """

    title: str
    ours: str
    other: str
    faster: float | None = None
    server_cpu: float | None = None


TARGETS = [
    Target("first load, of the psql floor's rate", "first", "floor", 0.85),
    Target("first load, of the psql limit's rate", "first", "limit", 0.65),
    Target("first load, document against lines", "document", "first"),
    Target("the same index again, against the first load", "unchanged", "first"),
    Target("changed, against the same index again", "changed", "unchanged"),
    Target("first load, against Node", "first", "node", 1.7),
    Target("first load of a document, against Node", "document", "node-document"),
    Target("the same index again, against Node", "unchanged", "node-again", 4),
    Target("first load, against psycopg", "first", "psycopg", 3),
    Target("first load, against ADBC", "first", "adbc", 3.3),
    Target("first load, against dlt", "first", "dlt", 14),
]
# The commit that issue 12 compares with, and how many times as fast as that one each way has to be.
BASELINE = "5c752f0"
FASTER = {"first": 1.8, "document": 1.75, "unchanged": 2.2, "document-unchanged": 2.0}
FASTER_ALL_CHANGED = {"changed": 1.5}
EXISTING_SERVER_CPU = {"first": 0.6}  # of the baseline's, where the table was there before
CLIENT_MICROSECONDS = {"first": 15, "unchanged": 8}  # of CPU, a record of 1.5 KB
UNCHANGED_WAL_BYTES = 0.2e6  # whatever the number of records: none of it is theirs


def targets(options: argparse.Namespace, commits: Sequence[Program]) -> list[Target]:
    """What is compared; of older commits only the baseline is one that something is wanted against."""
    faster = FASTER | (FASTER_ALL_CHANGED if options.changed == 100 else {})
    server_cpu = EXISTING_SERVER_CPU if options.existing_table else {}
    against = []
    for program in commits:
        is_baseline = program.label == BASELINE
        against += [
            Target(
                f"{name}, against {program.label}",
                name,
                f"{program.label}/{name}",
                faster.get(name) if is_baseline and not options.existing_table else None,
                server_cpu.get(name) if is_baseline else None,
            )
            for name in OURS
        ]
    return TARGETS + against


def comparisons_table(results: Results, compared: Sequence[Target]) -> str:
    """What was aimed at, and what came of it."""
    met = [target for target in compared if target.ours in results and target.other in results]
    return tables.table([*_COMPARED, *_JUDGED], [_compared(target, results) for target in met])


def costs_table(results: Results, options: argparse.Namespace) -> str:
    """What is wanted of a way alone; CPU only for the records that the targets were set for."""
    rows = []
    for name, wanted in CLIENT_MICROSECONDS.items():
        if name in results and options.size == "1000" and options.dialect == "seed":
            value = (tables.middle(results[name], lambda m: m.client_cpu) or 0) / options.records * 1e6
            verdict = tables.verdict(met=value <= wanted)
            rows.append([f"{name}: client CPU, µs a record, start included", f"{value:.1f}", f"<= {wanted}", verdict])
    if "unchanged" in results:
        wal = max(measurement.wal_bytes for measurement in results["unchanged"])
        met = tables.verdict(met=wal < UNCHANGED_WAL_BYTES)
        rows.append(["unchanged: WAL, MB", f"{wal / 1e6:.3f}", f"< {UNCHANGED_WAL_BYTES / 1e6:g}", met])
    return tables.table(["cost", "measured", *_JUDGED], rows) if rows else ""


def _compared(target: Target, results: dict[str, list[Measurement]]) -> list[str]:
    """The row of a target; whole processes are compared, as a user waits for them."""
    ours, other = results[target.ours], results[target.other]
    faster = tables.ratios(other, ours, lambda m: m.seconds)
    server_cpu = tables.ratios(ours, other, lambda m: m.server_cpu)
    wanted, met = [], True
    if target.faster is not None:
        wanted.append(f">= {target.faster:g} times")
        met = met and median(faster) >= target.faster
    if target.server_cpu is not None:
        wanted.append(f"server <= {target.server_cpu:g}")
        met = met and bool(server_cpu) and median(server_cpu) <= target.server_cpu
    return [
        target.title,
        tables.ranged(faster),
        tables.ranged(tables.ratios(other, ours, lambda m: m.own_seconds)),
        tables.ranged(tables.ratios(ours, other, lambda m: m.client_cpu)),
        tables.ranged(server_cpu),
        ", ".join(wanted),
        tables.verdict(met=met) if wanted else "",
    ]
