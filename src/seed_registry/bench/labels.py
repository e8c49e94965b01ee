"""Cells and their numbers in words, the same on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from seed_registry.bench.results import COPY_MERGE, Cell, CellResult, GridFacts, Results
from seed_registry.settings import BATCH_BYTES, format_bytes

# Receives a line for people; nothing in it is escaped.
Tell = Callable[[str], None]


def described(cell: Cell | CellResult) -> str:
    """A cell in a few words."""
    return f"{placed(cell)}, {kind_of_load(cell.changed)}"


def placed(cell: Cell | CellResult) -> str:
    """A cell among those of the same kind of load."""
    return f"{cell.strategy}, batch {cell.batch_size:,} x {cell.concurrency}"


def kind_of_load(changed: float | None) -> str:
    """What of a load's records is new."""
    if changed is None:
        return "first load"
    return f"reload, {changed:g} % changed" if changed else "reload, nothing changed"


def state(cell: CellResult) -> str:
    """What bounds a cell; or that it has no numbers, or not all."""
    if cell.failed:
        return "FAILED"
    if cell.skipped:
        return "skipped"
    return (cell.summary.bottleneck if cell.summary else None) or ""


def columns_of(cell: CellResult) -> list[str]:
    """A cell as the columns of a table: which one, its medians, and what bounds it."""
    name = [cell.strategy, f"{cell.batch_size:,}", str(cell.concurrency)]
    summary = cell.summary
    if summary is None:
        return [*name, *[""] * 9, state(cell)]
    seconds = summary.seconds.median
    return [
        *name,
        f"{summary.records_per_second.median:,.0f}",
        percent_of_spread(cell),
        f"{summary.megabytes_per_second:,.1f}",
        _cpu(summary.client_cpu_seconds, seconds),
        _cpu(summary.server_cpu_seconds, seconds),
        _megabytes(summary.peak_rss_bytes),
        _megabytes(summary.wal_bytes),
        _milliseconds(summary.batch_p50_seconds),
        _milliseconds(summary.batch_p95_seconds),
        state(cell),
    ]


def problems(cells: Iterable[CellResult]) -> list[str]:
    """Why cells were skipped or failed, each reason once."""
    reasons: dict[str, list[CellResult]] = {}
    for cell in cells:
        if cell.skipped or cell.failed:
            reason = f"failed: {cell.failed}" if cell.failed else f"skipped: {cell.skipped}"
            reasons.setdefault(reason, []).append(cell)
    return [f"{_counted(affected)} {reason}" for reason, affected in reasons.items()]


def notes(results: Results) -> list[str]:
    """Remarks that a reader of the numbers needs."""
    lines = ["client and server: CPU time in percent of one core; WAL and server are the whole server's, others' too"]
    if not results.environment.server_cpu_visible:
        lines.append("the server's CPU time cannot be seen from here")
    if not results.environment.checkpoints:
        lines.append("this role may not checkpoint: runs began with what earlier ones left to be written")
    measured = [(cell, cell.summary) for cell in results.cells if cell.summary is not None]
    short = sum(summary.records < cell.batch_size * cell.concurrency for cell, summary in measured)
    if short:
        lines.append(f"too few records to fill one batch of every worker in {short} of {len(measured)} cells")
    if results.grid.repeat == 1:
        lines.append("one run each: how much the numbers vary is not known")
    return lines


def flags(result: CellResult, grid: GridFacts) -> str | None:
    """The flags of `load` that repeat a cell; None for a strategy that is not this program's."""
    if result.strategy != COPY_MERGE or result.summary is None:
        return None
    text = f"--batch-size {result.batch_size} --concurrency {result.concurrency}"
    # A load's own limit on bytes would cut such batches; where that comes into reach the flag is needed.
    mean_bytes = grid.index_bytes / max(result.summary.records, 1)
    if grid.batch_bytes < BATCH_BYTES or result.batch_size * mean_bytes > BATCH_BYTES * 3 / 4:
        text += f" --batch-bytes {format_bytes(grid.batch_bytes)}"
    return text


def percent_of_spread(result: CellResult) -> str:
    """Half of the range of the records per second, in percent of their median."""
    assert result.summary is not None
    rate = result.summary.records_per_second
    return f"±{rate.half_range / rate.median:.0%}" if len(result.runs) > 1 else ""


def _milliseconds(seconds: float) -> str:
    """A short time."""
    return f"{seconds * 1e3:,.0f}" if seconds >= 0.01 else f"{seconds * 1e3:.1f}"  # noqa: PLR2004  # 10 ms


def _megabytes(count: float | None) -> str:
    """A number of bytes in millions; nothing where it is not known."""
    if count is None:
        return ""
    return f"{count / 1e6:,.0f}" if count >= 1e7 else f"{count / 1e6:.1f}"  # noqa: PLR2004  # 10 MB


def _cpu(seconds: float | None, of: float) -> str:
    """CPU time as a share of one core's; nothing where it is not known."""
    return "" if seconds is None else f"{seconds / of:.0%}"


def _counted(cells: Sequence[CellResult]) -> str:
    strategies = ", ".join(dict.fromkeys(cell.strategy for cell in cells))
    return f"{len(cells)} cells of {strategies}" if len(cells) > 1 else placed(cells[0])
