"""What was measured, as Markdown: printed, and written into docs/benchmarks.md."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import programs
from ground import Measurement
from seed_registry.bench.results import Environment, spread

PAGE = Path(__file__).parents[1] / "docs/benchmarks.md"

Figure = Callable[[Measurement], float | None]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, all columns but the first to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(environment: Environment) -> str:
    """What was measured, where and when, in a line."""
    settings = environment.postgres_settings
    return (
        f"Measured {environment.started_at:%Y-%m-%d} at {programs.described()} on {environment.cores} cores "
        f"({environment.cpu}), {environment.memory_bytes / 2**30:.0f} GiB, {environment.platform.partition('-')[0]}, "
        f"{environment.python}, Postgres {environment.postgres} ({environment.database}, same machine; shared_buffers "
        f"{settings['shared_buffers']}, fsync {settings['fsync']}, wal_level {settings['wal_level']}, data_checksums "
        f"{settings['data_checksums']}), load average {environment.load_average:.1f} before."
    )


def megabytes(size: float) -> str:
    """Bytes as MB, with decimals where they say something."""
    return f"{size / 1e6:,.2f}" if size < 1e6 else f"{size / 1e6:,.1f}" if size < 1e7 else f"{size / 1e6:,.0f}"


def seconds(measurements: Sequence[Measurement], of: Figure) -> str:
    """The median, or a dash where it could not be measured."""
    value = middle(measurements, of)
    return "-" if value is None else f"{value:.2f}"


def microseconds(measurements: Sequence[Measurement], of: Figure, records: int) -> str:
    """The median for each of the records, or a dash where it could not be measured."""
    value = middle(measurements, of)
    return "-" if value is None else f"{value / records * 1e6:.1f}"


def middle(measurements: Sequence[Measurement], of: Figure) -> float | None:
    """The median, None where it could not be measured."""
    values = [value for measurement in measurements if (value := of(measurement)) is not None]
    return median(values) if values else None


def ratios(numerators: Sequence[Measurement], denominators: Sequence[Measurement], of: Figure) -> list[float]:
    """Round by round, as many as both took part in: rounds differ more than ways. Without those not to be measured."""
    pairs = [(of(one), of(other)) for one, other in zip(numerators, denominators, strict=False)]
    return [one / other for one, other in pairs if one is not None and other]


def ranged(values: Sequence[float]) -> str:
    """The median and between what it lies; a dash where there are none."""
    if not values:
        return "-"
    found = spread(values)
    return f"{found.median:.2f}" + (f" [{found.low:.2f} - {found.high:.2f}]" if len(values) > 1 else "")


def verdict(*, met: bool) -> str:
    """Whether a target is met."""
    return "yes" if met else "**no**"


def report(text: str, section: str | None, page: Path = PAGE) -> None:
    """Print what was measured; and write it into a section of the page, with the command that did it."""
    print(text)
    if section is not None:
        command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
        page.write_text(with_section(page.read_text("utf-8"), section, f"`{command}`\n\n{text}"), "utf-8")


def sections(page: Path = PAGE) -> list[str]:
    """The names of the sections that can be written."""
    lines = page.read_text("utf-8").splitlines()
    return [line.removeprefix("<!-- begin ").removesuffix(" -->") for line in lines if line.startswith("<!-- begin ")]


def with_section(page: str, section: str, text: str) -> str:
    """The page with other text between the marks of a section."""
    begin, end = f"<!-- begin {section} -->\n", f"<!-- end {section} -->\n"
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"there are no lines {begin.strip()} and {end.strip()}")
    return f"{before}{begin}\n{text.strip()}\n\n{end}{after}"
