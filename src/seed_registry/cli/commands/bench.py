"""`seed-registry bench`: measure batch sizes x concurrency x strategies, and compare with an earlier bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import typer

from seed_registry.bench.grid import Grid, parse_changed, parse_names, parse_numbers
from seed_registry.bench.index_file import RECORDS, open_bench_index
from seed_registry.bench.matrix import run
from seed_registry.bench.page import open_page
from seed_registry.bench.regressions import compare, read_results
from seed_registry.bench.results import COPY_MERGE, STRATEGIES, raise_on_failures
from seed_registry.cli.config.flags import Changed, takes_settings
from seed_registry.cli.config.options import TABLE, Output, RarePanel
from seed_registry.cli.render.bench import print_comparison, print_progress, print_results
from seed_registry.cli.render.output import print_output
from seed_registry.cli.signals import run_interruptibly
from seed_registry.settings import OUTPUT, THROUGHPUT, Settings, parse_bytes

_SYNTHETIC = "A synthetic index"

Result = TypeVar("Result")


@takes_settings(
    *("database_url", "dialect", "domain", "records_at"),
    dialect=Changed("The shape of the index: of the synthetic one, or if detection fails."),
)
def bench(
    index: Annotated[
        str | None,
        typer.Argument(metavar="[INDEX]", help="An index file; without it a synthetic one.", show_default=False),
    ] = None,
    *,
    records: Annotated[
        int | None,
        typer.Option(rich_help_panel=_SYNTHETIC, help=f"Assets of the synthetic index [default: {RECORDS:,}]"),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(rich_help_panel=_SYNTHETIC, help="Median bytes of a synthetic record [default: like real ones]"),
    ] = None,
    seed: Annotated[int, typer.Option(rich_help_panel=_SYNTHETIC, help="Of the synthetic index.")] = 0,
    settings: Settings,
    batch_size: Annotated[
        str, typer.Option(metavar="N,…", rich_help_panel=THROUGHPUT, help="Records per batch.")
    ] = "100,500,2000,10000",
    concurrency: Annotated[
        str, typer.Option(metavar="N,…", rich_help_panel=THROUGHPUT, help="Workers, one connection each.")
    ] = "1,2,4,8",
    strategy: Annotated[
        str, typer.Option(metavar="NAME,…", rich_help_panel=THROUGHPUT, help=f"Ways to write: {', '.join(STRATEGIES)}.")
    ] = COPY_MERGE,
    changed: Annotated[
        str,
        typer.Option(
            metavar="PERCENT,…",
            rich_help_panel=THROUGHPUT,
            help="Reloads of an index of which this percentage changed; first is a load into empty tables.",
        ),
    ] = "first",
    repeat: Annotated[
        int, typer.Option(rich_help_panel=THROUGHPUT, help="Runs of each cell; the cells take turns.")
    ] = 3,
    batch_bytes: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            rich_help_panel=RarePanel(THROUGHPUT),
            help="Bytes per batch; unlike a load's, so large that the batch size decides.",
        ),
    ] = "256MiB",
    output: Output = TABLE,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", rich_help_panel=OUTPUT, help="Draw the results into an HTML page.")
    ] = None,
    compared: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--compare",
            metavar="OLD NEW",
            rich_help_panel=OUTPUT,
            help="Measure nothing; list which cells of two --json outputs became slower. Exit code 1 if any did.",
            show_default=False,
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", rich_help_panel=OUTPUT, help="Print tracebacks.")] = False,
) -> None:
    """Measure loads of an index: batch sizes, concurrency, strategies, and how much of it changed.

    Works in a scratch schema that is dropped at the end; the registry's own rows are not touched.

    The WAL and the CPU time of the server are the whole server's: what others do meanwhile is in them.

    Exit code 1 when a cell could not be measured.
    """
    if compared is not None:
        _compare(*compared, output=output)
        return
    grid = Grid(
        batch_sizes=parse_numbers("--batch-size", batch_size),
        concurrencies=parse_numbers("--concurrency", concurrency),
        strategies=parse_names("--strategy", strategy),
        changed=parse_changed(changed),
        repeat=repeat,
        batch_bytes=parse_bytes(batch_bytes),
    )
    write_page = open_page(html) if html is not None else None
    with open_bench_index(index, dialect=settings.dialect, records=records, size=size, seed=seed) as subject:
        results = run_interruptibly(
            lambda: run(subject, grid, subject.completed(settings), print_progress, verbose=verbose),
            left="the scratch schema is dropped, nothing else was touched",
        )
    if write_page is not None:
        write_page(results)
    print_output(results, lambda: print_results(results, html), output=output)
    raise_on_failures(results)


def _compare(old: Path, new: Path, *, output: bool) -> None:
    comparison = compare(read_results(old), read_results(new))
    print_output(comparison, lambda: print_comparison(comparison), output=output)
    if comparison.regressions:
        raise typer.Exit(1)
