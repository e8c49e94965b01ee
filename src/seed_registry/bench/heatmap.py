"""Heat maps as SVG; the colours are in the style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from seed_registry.bench.labels import percent_of_spread
from seed_registry.bench.results import CellResult, GridFacts
from seed_registry.html.document import html_text

# In percent of the best cell. Fixed, so that a grid of nearly equal cells looks like one.
STEPS: Final = (40, 50, 60, 70, 80, 90, 100)
# From here on the ground is so strong that the text on it changes its colour.
_STRONG_STEP: Final = 4

# Pixels of a map that is shown in full size.
_WIDTH, _HEIGHT, _GAP, _LEFT, _TOP = 84, 54, 4, 72, 44
_FEWEST_COLUMNS: Final = 4  # a map of one column would else be blown up to the width of the page


def heat_step(part: float) -> int:
    """Which colour stands for this part of the best cell's rate."""
    return max((number for number, step in enumerate(STEPS) if part >= (step - 5) / 100), default=0)


def heat_map(grid: GridFacts, cells: Sequence[CellResult], best: CellResult | None) -> str:
    """Records per second of one strategy: batch sizes downwards, workers to the right, the best cell outlined."""
    top_rate = best.summary.records_per_second.median if best is not None and best.summary else 0.0
    columns = max(len(grid.concurrencies), _FEWEST_COLUMNS)
    width, height = _LEFT + columns * _WIDTH, _TOP + len(grid.batch_sizes) * _HEIGHT
    label = f'aria-label="records per second of {html_text(cells[0].strategy)} by batch size and workers"'
    parts = [
        f'<svg class="map" viewBox="0 0 {width} {height}" width="{width}" role="img" {label}>',
        f'<text class="axis" x="{_LEFT}" y="14">workers</text><text class="axis" x="0" y="34">batch</text>',
    ]
    for column, concurrency in enumerate(grid.concurrencies):
        x = _LEFT + column * _WIDTH + (_WIDTH - _GAP) / 2
        parts.append(f'<text class="axis" x="{x:g}" y="34" text-anchor="middle">{concurrency}</text>')
    for row, batch_size in enumerate(grid.batch_sizes):
        y = _TOP + row * _HEIGHT + _HEIGHT / 2 + 3
        parts.append(f'<text class="axis" x="0" y="{y:g}">{batch_size:,}</text>')
    outline = ""
    for cell in cells:
        x = _LEFT + grid.concurrencies.index(cell.concurrency) * _WIDTH
        y = _TOP + grid.batch_sizes.index(cell.batch_size) * _HEIGHT
        parts.append(_square(cell, x, y, top_rate))
        if cell is best:
            outline = f'<rect class="best" x="{x}" y="{y}" {_size()} rx="4"/>'
    return "\n".join([*parts, outline, "</svg>"])


def _square(cell: CellResult, x: int, y: int, top_rate: float) -> str:
    middle = x + (_WIDTH - _GAP) / 2
    if cell.summary is None:
        reason = html_text(cell.skipped or cell.failed or "not measured")
        return f'<rect class="none" x="{x}" y="{y}" {_size()} rx="4"><title>{reason}</title></rect>'
    rate = cell.summary.records_per_second
    step = heat_step(rate.median / top_rate)
    ink = "on-high" if step >= _STRONG_STEP else "on-low"
    title = f"{rate.median:,.0f} records/s, {rate.low:,.0f} to {rate.high:,.0f}"
    return (
        f'<rect class="h{step}" x="{x}" y="{y}" {_size()} rx="4"><title>{title}</title></rect>'
        f'<text class="value {ink}" x="{middle:g}" y="{y + 25}" text-anchor="middle">{rate.median:,.0f}</text>'
        f'<text class="spread {ink}" x="{middle:g}" y="{y + 41}" text-anchor="middle">{percent_of_spread(cell)}</text>'
    )


def _size() -> str:
    return f'width="{_WIDTH - _GAP}" height="{_HEIGHT - _GAP}"'
