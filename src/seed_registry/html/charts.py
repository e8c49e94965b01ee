"""Charts of the page about a load. They stretch with the page, so all their text stands beside them as text."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

from seed_registry.html.document import html_text
from seed_registry.html.recorder import Latencies, ProgressSample
from seed_registry.words import duration

OUTCOMES: Final = ("inserted", "updated", "unchanged", "other")
_MOST_COLUMNS: Final = 60
# With fewer of them a chart adds nothing to the summary.
_FEWEST_SAMPLES: Final = 8
_HEIGHT: Final = 100


def rate_chart(samples: Sequence[ProgressSample], seconds: float, retried_at: Sequence[float]) -> str | None:
    """Assets per second from the beginning to `seconds`, by outcome; None with too few samples."""
    if len(samples) < _FEWEST_SAMPLES or seconds <= 0:
        return None
    columns = min(_MOST_COLUMNS, len(samples) - 1)
    width = seconds / columns
    edges = [_at(samples, column * width) for column in range(columns + 1)]
    rates = [
        [max(now - then, 0) / width for then, now in zip(before, after, strict=True)]
        for before, after in pairwise(edges)
    ]
    top = max(map(sum, rates)) or 1.0
    step = 1000 / columns
    shapes = []
    for number, column in enumerate(rates):
        y, x = float(_HEIGHT), number * step
        title = f"{duration(number * width)} to {duration((number + 1) * width)}: {sum(column):,.0f} a second"
        for name, rate in zip(OUTCOMES, column, strict=True):
            height = rate / top * _HEIGHT
            y -= height
            if height:
                shapes.append(_rect(f"o-{name}", x + step * 0.04, y, step * 0.92, height, title))
    shapes += [
        _rect("retry", at / seconds * 1000 - 1.5, 0, 3, _HEIGHT, f"retried after {duration(at)}")
        for at in retried_at
        if at <= seconds
    ]
    label = "assets a second over time"
    return _plot(shapes, f"{top:,.0f} a second", ["0 s", duration(seconds / 2), duration(seconds)], label)


def latency_chart(latencies: Latencies) -> str | None:
    """A histogram of the time of batches; None with too few."""
    columns = latencies.columns()
    if not columns or latencies.count < _FEWEST_SAMPLES:
        return None
    top, step = max(count for _, _, count in columns), 1000 / max(len(columns), 8)
    shapes = [
        _rect(
            "bar", number * step + step * 0.04, _HEIGHT - count / top * _HEIGHT, step * 0.92, count / top * _HEIGHT,
            f"{duration(start)} to {duration(end)}: {count:,}",
        )
        for number, (start, end, count) in enumerate(columns)
        if count
    ]  # fmt: skip
    start = columns[0][0]
    drawn = max(len(columns), 8) / 2  # doublings
    ends = [duration(start), duration(start * 2 ** (drawn / 2)), duration(start * 2**drawn)]
    return _plot(shapes, f"{top:,} batches", ends, "batches by the time they took")


def share_bar(shares: Mapping[str, int], label: str) -> str:
    """The outcomes of the records, as parts of one bar."""
    total, x, shapes = sum(shares.values()) or 1, 0.0, []
    for name, count in shares.items():
        width = count / total * 1000
        if count:
            words = f"{name.replace('_', ' ')}: {count:,}, {percent(count, total)}"
            shapes.append(_rect(f"o-{name}", x, 0, width, 10, words))
        x += width
    return _svg("share", "0 0 1000 10", label, shapes)


def length_bar(count: int, of: int) -> str:
    """A bar for one row of a table."""
    return _svg("length", "0 0 1000 10", f"{count:,}", [_rect("bar", 0, 0, count / max(of, 1) * 1000, 10)])


def percent(count: float, total: float) -> str:
    """A share that is never rounded to nothing or to everything."""
    share = count / total * 100 if total else 0.0
    if 0 < share < 0.1:  # noqa: PLR2004  # of a percent
        return "< 0.1 %"
    if 99.9 < share < 100:  # noqa: PLR2004  # percent
        return "> 99.9 %"
    return f"{share:.1f} %" if share < 100 else "100 %"  # noqa: PLR2004  # percent


def _at(samples: Sequence[ProgressSample], at: float) -> tuple[float, ...]:
    """The counts at a time between two samples."""
    right = bisect_right(samples, at, key=lambda sample: sample.at)
    if right in (0, len(samples)):
        sample = samples[min(right, len(samples) - 1)]
        return tuple(getattr(sample, name) for name in OUTCOMES)
    before, after = samples[right - 1], samples[right]
    part = (at - before.at) / (after.at - before.at)
    return tuple(getattr(before, name) + (getattr(after, name) - getattr(before, name)) * part for name in OUTCOMES)


def _plot(shapes: Iterable[str], top: str, ticks: Sequence[str], label: str) -> str:
    axis = "".join(f"<span>{html_text(tick)}</span>" for tick in ticks)
    return (
        f'<div class="plot"><p class="soft top-tick">{html_text(top)}</p>'
        f'{_svg("columns", f"0 0 1000 {_HEIGHT}", label, shapes)}<p class="soft ticks">{axis}</p></div>'
    )


def _svg(name: str, box: str, label: str, shapes: Iterable[str]) -> str:
    head = f'<svg class="{name}" viewBox="{box}" preserveAspectRatio="none" role="img" aria-label="{html_text(label)}">'
    return "".join([head, *shapes, "</svg>"])


def _rect(name: str, x: float, y: float, width: float, height: float, title: str = "") -> str:
    shape = f'<rect class="{name}" x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}"'
    return f"{shape}><title>{html_text(title)}</title></rect>" if title else f"{shape}/>"
