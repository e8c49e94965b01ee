"""The page of a bench: one HTML file that needs no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from seed_registry.bench.heatmap import STEPS, heat_map, heat_step
from seed_registry.bench.labels import columns_of, flags, kind_of_load, notes, placed, problems
from seed_registry.bench.results import COPY_MERGE, CellResult, Results, best_of
from seed_registry.html.document import document, html_text, stage_bars, stage_legend
from seed_registry.html.files import require_writable, write_page
from seed_registry.words import size

_COLUMNS: Final = (
    "strategy", "batch", "workers", "records/s", "spread", "MB/s", "client CPU", "server CPU", "peak RSS MB", "WAL MB",
    "batch p50 ms", "batch p95 ms", "bottleneck",
)  # fmt: skip
_WORDS: Final = {"strategy", "bottleneck"}


def open_page(path: Path) -> Callable[[Results], None]:
    """Check that a page can be written to a path; return the function that writes it.

    Raises:
        StorageFailed: it cannot be written.
    """
    require_writable(path)
    return lambda results: write_page(path, page(results))


def page(results: Results) -> str:
    """Return the page."""
    title = f"Benchmark of {results.grid.index}"
    body = [
        f"<h1>{html_text(title)}</h1>",
        *_introduction(results),
        *(line for changed in results.grid.changed for line in _section(results, changed)),
        *_environment(results),
    ]
    return document(title, body)


def _introduction(results: Results) -> Iterable[str]:
    grid, environment = results.grid, results.environment
    yield (
        f'<p class="soft">{html_text(grid.dialect)}, {size(grid.index_bytes)}; Postgres '
        f"{html_text(environment.postgres)}; {environment.cores} cores {html_text(environment.cpu)}; "
        f"{environment.started_at:%Y-%m-%d %H:%M} UTC; medians of {grid.repeat} runs, the cells taking turns</p>"
    )
    yield '<div class="cards">'
    for changed in grid.changed:
        cells = [cell for cell in results.cells if cell.changed == changed]
        best, ours = best_of(cells), best_of(cell for cell in cells if cell.strategy == COPY_MERGE)
        yield f'<div class="card">{html_text(kind_of_load(changed))}'
        if best is None or best.summary is None:
            yield "<b>nothing measured</b></div>"
            continue
        yield f"<b>{best.summary.records_per_second.median:,.0f} records/s</b>"
        yield f'<span class="soft">best: {html_text(placed(best))}</span><br>'
        if ours is not None and ours.summary is not None:
            if ours is not best:
                rate = f"{ours.summary.records_per_second.median:,.0f} records/s"
                yield f'<span class="soft">best of {COPY_MERGE}: {html_text(placed(ours))}, {rate}</span><br>'
            shown = html_text(flags(ours, grid) or "").replace(" --", "</span> <span>--")
            yield f"<code>seed-registry load <span>{shown}</span></code>"
        yield "</div>"
    yield "</div>"


def _section(results: Results, changed: float | None) -> Iterable[str]:
    cells = [cell for cell in results.cells if cell.changed == changed]
    best = best_of(cells)
    yield f"<h2>{html_text(kind_of_load(changed).capitalize())}</h2>"
    if best is not None:
        yield "<p>Records per second by batch size and workers: <b>more is better</b>.</p>"
        yield _heat_legend()
    yield '<div class="maps">'
    for strategy in results.grid.strategies:
        own = [cell for cell in cells if cell.strategy == strategy]
        yield f"<figure><figcaption>{html_text(strategy)}</figcaption>"
        if any(cell.summary for cell in own):
            yield heat_map(results.grid, own, best)
        else:
            yield '<p class="soft">not measured</p>'
        yield "</figure>"
    yield "</div>"
    yield from (f'<p class="soft">{html_text(problem)}</p>' for problem in problems(cells))
    yield from _stages(cells)
    yield from _table(cells, best)


def _heat_legend() -> str:
    swatches = "".join(
        f'<svg width="16" height="12" role="img" aria-label="{low}"><rect class="h{heat_step(low / 100)}" width="16" '
        f'height="12"/></svg>{low}{" % or less" if number == 0 else " %"}</span><span>'
        for number, low in enumerate(STEPS)
    )
    return f'<p class="legend"><span>of the best cell:</span><span>{swatches}outlined: the best cell</span></p>'


def _stages(cells: Sequence[CellResult]) -> Iterable[str]:
    measured = [cell for cell in cells if cell.summary is not None]
    if not any(cell.summary and cell.summary.bottleneck for cell in measured):
        return
    yield "<h3>Where the time went</h3>"
    yield (
        '<p class="soft">The whole width is the time of the load. Above: the reader; below: a worker on average. Grey '
        "is waiting for the other side; blank is the start and, for the reader, the end. The fuller bar is the side "
        "that limits the load; its longest stage is named.</p>"
    )
    yield stage_legend()
    for strategy in dict.fromkeys(cell.strategy for cell in measured):
        is_open = " open" if strategy == measured[0].strategy else ""
        yield f'<details{is_open}><summary>{html_text(strategy)}</summary><div class="bars">'
        for cell in measured:
            if cell.strategy == strategy and cell.summary is not None:
                yield f"<span>{cell.batch_size:,} x {cell.concurrency}</span>"
                yield f'<span class="soft">{html_text(cell.summary.bottleneck or "")}</span>'
                label = f"{cell.batch_size} x {cell.concurrency}"
                yield stage_bars(cell.summary.stages, cell.concurrency, cell.summary.seconds.median, label)
        yield "</div></details>"


def _table(cells: Sequence[CellResult], best: CellResult | None) -> Iterable[str]:
    yield '<details><summary>All numbers</summary><div class="scroll"><table><tr>'
    yield "".join(f"<th{_class(name)}>{html_text(name)}</th>" for name in _COLUMNS) + "</tr>"
    for cell in cells:
        texts = zip(_COLUMNS, columns_of(cell), strict=True)
        yield (
            f"<tr{' class=top' if cell is best else ''}>"
            + "".join(f"<td{_class(name)}>{html_text(text)}</td>" for name, text in texts)
            + "</tr>"
        )
    yield "</table></div></details>"


def _class(column: str) -> str:
    return ' class="words"' if column in _WORDS else ""


def _environment(results: Results) -> Iterable[str]:
    environment = results.environment
    facts = {
        "seed-registry": environment.program,
        "Python": environment.python,
        "packages": ", ".join(f"{name} {version}" for name, version in environment.packages.items()),
        "platform": environment.platform,
        "CPU": f"{environment.cores} cores {environment.cpu}, load average {environment.load_average} at the start",
        "memory": f"{environment.memory_bytes / (1 << 30):,.1f} GiB",
        "database": environment.database,
        "Postgres": f"{environment.postgres}; with these settings in the sessions of a load:",
        **environment.postgres_settings,
    }
    yield "<h2>Environment</h2>"
    yield '<table class="facts">'
    yield from (f"<tr><th>{html_text(name)}</th><td>{html_text(value)}</td></tr>" for name, value in facts.items())
    yield "</table>"
    yield from (f'<p class="soft">{html_text(note)}</p>' for note in notes(results))
