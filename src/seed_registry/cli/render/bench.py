"""The results of a bench, and a comparison of two, drawn for people."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from seed_registry.bench.labels import columns_of, flags, kind_of_load, notes, placed, problems
from seed_registry.bench.regressions import FLOOR, Comparison, Pair
from seed_registry.bench.results import COPY_MERGE, CellResult, Results, best_of
from seed_registry.escape import printable
from seed_registry.words import size

_HEADER = (
    "", "strategy", "batch", "workers", "records/s", "", "MB/s", "client", "server", "RSS MB", "WAL MB", "p50 ms",
    "p95 ms", "bottleneck",
)  # fmt: skip
_LEFT = {"", "strategy", "bottleneck", "verdict"}
# Columns of a table that goes to a file.
_WIDE = 160
_VERDICTS = {"slower": "red bold", "faster": "green"}


def print_progress(line: str) -> None:
    """Print a line about a run on stderr."""
    Console(stderr=True, highlight=False).print(Text(printable(line, 1_000), "dim"), soft_wrap=True)


def print_results(results: Results, page: Path | None = None) -> None:
    """Print a table for each kind of load, the best cell, the flags that give it, and the path of the page."""
    console = _console()
    grid, environment = results.grid, results.environment
    console.print(Text(f"{printable(grid.index)} ({grid.dialect}, {size(grid.index_bytes)})", "bold"), soft_wrap=True)
    console.print(
        f"Postgres {printable(environment.postgres)} ({printable(environment.database)}), {environment.cores} cores "
        f"{printable(environment.cpu)}, {environment.python}, seed-registry {environment.program}; "
        f"medians of {grid.repeat}",
        soft_wrap=True,
    )
    for changed in grid.changed:
        cells = [cell for cell in results.cells if cell.changed == changed]
        best = best_of(cells)
        console.print()
        console.print(Text(kind_of_load(changed), "bold"))
        console.print(_table(cells, best))
        for line in _verdict(results, cells, best):
            console.print(line, soft_wrap=True)
    for note in notes(results):
        console.print(Text(note, "dim"), soft_wrap=True)
    if page is not None:
        console.print(f"page: {printable(page, 1_000)}", markup=False, soft_wrap=True)


def print_comparison(comparison: Comparison) -> None:
    """What was measured twice, with ratio and verdict; what differs besides, and what was measured once."""
    console = _console()
    for name, (old, new) in comparison.environment.items():
        console.print(Text(f"not the same: {name}: {printable(old)} -> {printable(new)}", "yellow"), soft_wrap=True)
    header = ("strategy", "batch", "workers", "changed", "old ms/1,000", "new ms/1,000", "ratio", "noise", "verdict")
    table = _empty_table(header)
    for pair in comparison.cells:
        if pair.ratio is not None:
            table.add_row(*_compared(pair))
    console.print(table)
    for verdict in ("only old", "only new"):
        if alone := sum(pair.verdict == verdict for pair in comparison.cells):
            console.print(Text(f"{verdict}: {alone} cells", "dim"))
    if comparison.single_runs:
        console.print(Text("cells with a single run: their noise is not known, only the floor counts", "yellow"))
    count = len(comparison.regressions)
    console.print(
        Text(f"{count} slower than before" if count else "nothing slower than before", "red bold" if count else "green")
        + Text(f" beyond the noise and {FLOOR:.0%}", "")
    )


def _compared(pair: Pair) -> list[Text]:
    texts = [
        pair.strategy,
        f"{pair.batch_size:,}",
        str(pair.concurrency),
        kind_of_load(pair.changed),
        "" if pair.old is None else f"{pair.old * 1e3:,.1f}",
        "" if pair.new is None else f"{pair.new * 1e3:,.1f}",
        "" if pair.ratio is None else f"{pair.ratio:.2f}",
        "" if pair.noise is None else f"±{pair.noise:.0%}",
    ]
    return [*(Text(printable(text)) for text in texts), Text(pair.verdict, _VERDICTS.get(pair.verdict, ""))]


def _table(cells: Sequence[CellResult], best: CellResult | None) -> Table:
    table = _empty_table(_HEADER)
    for cell in cells:
        style = "bold green" if cell is best else ""
        texts = ["*" if cell is best else "", *columns_of(cell)]
        table.add_row(*(Text(printable(text), style) for text in texts))
    return table


def _verdict(results: Results, cells: Sequence[CellResult], best: CellResult | None) -> list[Text]:
    """Which cell is best, the flags that give it or this program's best one, and why cells have no numbers."""
    troubles = [Text(printable(problem, 1_000), "yellow") for problem in problems(cells)]
    if best is None:
        return troubles
    ours = best_of(cell for cell in cells if cell.strategy == COPY_MERGE)
    lines = [Text(f"* best: {placed(best)}")]
    if ours is not None and ours is not best:
        lines.append(Text(f"  best of {COPY_MERGE}: {placed(ours)}"))
    if ours is not None:
        lines.append(Text("  seed-registry load ") + Text(flags(ours, results.grid) or "", "bold"))
    return lines + troubles


def _empty_table(header: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in header:
        is_left = name in _LEFT
        table.add_column(Text(name, "dim"), justify="left" if is_left else "right", no_wrap=True)
    return table


def _console() -> Console:
    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else _WIDE)
