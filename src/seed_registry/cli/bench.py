"""`seed-registry bench`: batch sizes x concurrency x strategies on any index, and what became slower since."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import anyio
import msgspec
import typer
from rich.console import Console
from rich.text import Text

from seed_registry.bench.comparing import compare, read_results
from seed_registry.bench.grid import Grid, parse_changed, parse_names, parse_numbers
from seed_registry.bench.page import write_page
from seed_registry.bench.results import Results
from seed_registry.bench.running import run
from seed_registry.bench.strategies import COPY_MERGE, STRATEGIES
from seed_registry.bench.subject import subject_of
from seed_registry.bench.workloads import Workload
from seed_registry.cli.bench_tables import print_comparison, print_results
from seed_registry.cli.options import DatabaseOption, DialectOption, DomainOption, RecordsAtOption
from seed_registry.errors import Interrupted, SeedRegistryError, SettingsInvalid, StorageFailed
from seed_registry.escaping import printable
from seed_registry.settings import DatabaseUrl, DialectName, Settings, parse_bytes

# Large enough that a worker of the default grid gets several batches of most sizes, small enough for minutes.
_RECORDS = 20_000

Result = TypeVar("Result")


def bench(
    index: Annotated[
        str | None,
        typer.Argument(metavar="[INDEX]", help="An index file; without it a synthetic one.", show_default=False),
    ] = None,
    *,
    records: Annotated[
        int | None, typer.Option(help=f"Assets of the synthetic index, {_RECORDS:,} unless told.", show_default=False)
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Median bytes of a synthetic record, like real ones unless told.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the synthetic index.")] = 0,
    database_url: DatabaseOption = None,
    batch_size: Annotated[str, typer.Option(metavar="N,…", help="Records a batch.")] = "100,500,2000,10000",
    concurrency: Annotated[str, typer.Option(metavar="N,…", help="Workers, one connection each.")] = "1,2,4,8",
    strategy: Annotated[
        str, typer.Option(metavar="NAME,…", help=f"Ways to write: {', '.join(STRATEGIES)}.")
    ] = COPY_MERGE,
    changed: Annotated[
        str,
        typer.Option(
            metavar="PERCENT,…",
            help="Reloads of an index of which so many percent changed; first is a load into empty tables.",
        ),
    ] = "first",
    repeat: Annotated[int, typer.Option(help="Runs of each cell; the cells take turns.")] = 3,
    batch_bytes: Annotated[
        str, typer.Option(help="Bytes a batch; unlike a load's, so large that the batch size decides.")
    ] = "256MiB",
    dialect: DialectOption = None,
    domain: DomainOption = None,
    records_at: RecordsAtOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="The results as one JSON object, for --compare.")] = False,
    html: Annotated[Path | None, typer.Option(help="Draw the results into a page of its own.")] = None,
    compared: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--compare",
            metavar="OLD NEW",
            help="Measure nothing; tell which cells of two --json outputs became slower. Exit code 1 if any did.",
            show_default=False,
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tracebacks.")] = False,
) -> None:
    """Measure loads of an index: batch sizes, concurrency, strategies, and how much of it changed.

    Works in a scratch schema that is dropped at the end; the registry's own rows are not touched.

    The WAL and the CPU time of the server are the whole server's: what others do meanwhile is in them.

    Exit code 1 when a cell could not be measured.
    """
    if compared is not None:
        _compare(*compared, as_json=as_json)
        return
    if index is not None and not records is size is None:
        raise SettingsInvalid("--records and --size make a synthetic index; leave them out or leave INDEX out")
    workload = Workload(records=_RECORDS if records is None else records, size=size, seed=seed)
    grid = Grid(
        batch_sizes=parse_numbers("--batch-size", batch_size),
        concurrencies=parse_numbers("--concurrency", concurrency),
        strategies=parse_names("--strategy", strategy),
        changed=parse_changed(changed),
        repeat=repeat,
        batch_bytes=parse_bytes(batch_bytes),
    )
    settings = Settings(
        database_url=DatabaseUrl(database_url) if database_url else None,
        dialect=cast("DialectName | None", dialect.value if dialect else None),
        domain=domain,
        records_at=records_at,
    )
    if html is not None:
        _see_that_it_can_be_written(html)
    with subject_of(index, workload) as subject:
        results = _interruptible(lambda: run(subject, grid, settings, _tell, verbose=verbose))
    if html is not None:
        write_page(html, results)
    if as_json:
        _print_json(results)
    else:
        print_results(results)
        if html is not None:
            typer.echo(f"page: {printable(html, 1_000)}")
    _judge(results)


def _compare(old: Path, new: Path, *, as_json: bool) -> None:
    comparison = compare(read_results(old), read_results(new))
    if as_json:
        _print_json(comparison)
    else:
        print_comparison(comparison)
    if comparison.regressions:
        raise typer.Exit(1)


def _judge(results: Results) -> None:
    failed = [cell for cell in results.cells if cell.failed]
    if failed:
        raise SeedRegistryError(
            f"{len(failed)} of {len(results.cells)} cells failed; the first one: {failed[0].failed}"
        )


def _print_json(value: msgspec.Struct) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


def _see_that_it_can_be_written(path: Path) -> None:
    """Told before the minutes of measuring, not after them."""
    place = path.absolute().parent
    if path.is_dir() or not os.access(path if path.exists() else place, os.W_OK):
        reason = (
            "it is a directory" if path.is_dir() else "no permission" if place.is_dir() else f"no directory {place}"
        )
        raise StorageFailed(f"--html {printable(path)} cannot be written: {printable(reason)}")


def _tell(line: str) -> None:
    Console(stderr=True, highlight=False).print(Text(printable(line, 1_000), "dim"), soft_wrap=True)


def _interruptible(work: Callable[[], Awaitable[Result]]) -> Result:
    """Run it so that the first signal stops it cleanly and the second one at once."""
    received: list[signal.Signals] = []

    async def main() -> Result:
        scope = anyio.CancelScope()

        def stop(number: signal.Signals) -> None:
            if received:
                os._exit(128 + number)
            received.append(number)
            scope.cancel()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop, number)
        # A connection killed while it is cancelled leaves a future of asyncpg that nobody asks.
        loop.set_exception_handler(lambda *_: None)
        with scope:
            return await work()
        stopped: Any = Interrupted(received[0], received[0].name)
        stopped.args = (f"stopped by {received[0].name}; the scratch schema is dropped, nothing else was touched",)
        raise stopped

    return anyio.run(main)
