"""What was measured, as Markdown that can go into README."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from ground import Measurement
from seed_registry.bench.results import Environment


class Target:
    """How many times as fast a way has to be as another; `wanted` is the least that is good."""

    def __init__(self, title: str, ours: str, other: str, wanted: float) -> None:
        self.title, self.ours, self.other, self.wanted = title, ours, other, wanted


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, all columns but the first to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(environment: Environment) -> str:
    """Where and when, in a line."""
    settings = environment.postgres_settings
    return (
        f"Measured {environment.started_at:%Y-%m-%d} on {environment.cores} cores ({environment.cpu}), "
        f"{environment.memory_bytes / 2**30:.0f} GiB, {environment.platform.partition('-')[0]}, {environment.python}, "
        f"Postgres {environment.postgres} (embedded, same machine; shared_buffers {settings['shared_buffers']}, "
        f"fsync {settings['fsync']}, wal_level {settings['wal_level']}), load average {environment.load_average:.1f} "
        "before."
    )


def megabytes(size: float) -> str:
    """Bytes as MB, with a decimal where that says something."""
    return f"{size / 1e6:,.1f}" if size < 1e7 else f"{size / 1e6:,.0f}"


def seconds(measurements: Sequence[Measurement], of: Callable[[Measurement], float | None]) -> str:
    """The median, or a dash where it could not be measured."""
    values = [value for measurement in measurements if (value := of(measurement)) is not None]
    return f"{median(values):.2f}" if values else "-"


def ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    """How many times as fast, the median of the rounds that both took part in: rounds differ more than ways."""
    return median(one / other for one, other in zip(slower, faster, strict=False))


def verdict(*, met: bool) -> str:
    """Whether a target is met."""
    return "yes" if met else "**no**"
