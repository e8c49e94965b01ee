"""`seed-registry`: parse, call, render, exit."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast, get_args

import anyio
import msgspec
import typer

from seed_registry import __version__
from seed_registry.bench import workloads
from seed_registry.bench.workloads import Workload, generate
from seed_registry.cli import db, schema
from seed_registry.cli.bench import bench
from seed_registry.cli.console import BarProgress, print_error, print_report, print_warning
from seed_registry.cli.doctor import doctor
from seed_registry.cli.explain import explain
from seed_registry.cli.logs import LogProgress, logger
from seed_registry.cli.options import (
    Columns,
    DatabaseOption,
    DialectOption,
    DomainOption,
    PoolerOption,
    RecordsAtOption,
    columns_of,
    pooler_of,
)
from seed_registry.cli.runs import show_runs
from seed_registry.cli.secrecy import cover_password
from seed_registry.errors import IndexesFailed, Interrupted, SeedRegistryError, StorageFailed, VerificationFailed
from seed_registry.index.finding import read_list
from seed_registry.ingesting import ingest
from seed_registry.report import Progress, Report, Tally
from seed_registry.settings import DatabaseUrl, DialectName, MaxRejects, Settings, parse_bytes

DEFAULT_INDEX = "./data/registry/socrata/sf.index.json"
_DEFAULTS = Settings()

app = typer.Typer(
    help="Load open-data portal indexes into a Postgres registry.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # its tracebacks show local variables, passwords too
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(schema.app, name="schema")
app.add_typer(db.app, name="db")

# Made from the one list there is.
SampleDialect = StrEnum("SampleDialect", {name: name for name in get_args(workloads.Dialect)})  # type: ignore[misc]


class LogFormat(StrEnum):
    """How a load is told on stderr."""

    auto = "auto"
    console = "console"
    json = "json"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    del version  # its callback has answered


@app.command()
def load(  # a flag each
    indexes: Annotated[
        list[str] | None, typer.Argument(metavar="[INDEX]...", help="Files, patterns, directories, URLs; - is stdin.")
    ] = None,
    *,
    index: Annotated[
        str, typer.Option("--index", envvar="INDEX_PATH", help="The index, where no INDEX is given.")
    ] = DEFAULT_INDEX,
    database_url: DatabaseOption = None,
    pooler: PoolerOption = None,
    batch_size: Annotated[int, typer.Option(help="Records a batch.")] = _DEFAULTS.batch_size,
    batch_bytes: Annotated[str, typer.Option(help="Bytes a batch.")] = "4MiB",
    concurrency: Annotated[int, typer.Option(help="Workers, one connection each.")] = _DEFAULTS.concurrency,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; tell what a load would do.")] = False,
    dialect: DialectOption = None,
    domain: DomainOption = None,
    records_at: RecordsAtOption = None,
    derive_sources: Annotated[
        bool, typer.Option("--derive-sources", help="Create sources that the index does not list.")
    ] = False,
    column: Columns = None,
    full: Annotated[bool, typer.Option("--full", help="Compare values, not content hashes.")] = False,
    rejects: Annotated[
        str | None, typer.Option(help="The file for rejected records [default: one a run, see the report]")
    ] = None,
    max_rejects: Annotated[str, typer.Option(metavar="N|P%", help="Stop with exit code 3 above this.")] = "10%",
    max_record_bytes: Annotated[str, typer.Option(help="Reject longer records.")] = "16MiB",
    max_sources: Annotated[int, typer.Option(help="Stop when an index names more.")] = _DEFAULTS.max_sources,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on where a run of the same command ended early.")
    ] = True,
    retry_for: Annotated[
        float, typer.Option(metavar="SECONDS", help="Try what may pass again for so long, e.g. a lost connection.")
    ] = _DEFAULTS.retry_for_seconds,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Check the database afterwards.")] = True,
    sample: Annotated[int, typer.Option(help="Assets that are checked field by field.")] = _DEFAULTS.verify_sample,
    source_cache: Annotated[str | None, typer.Option(help="File that keeps the sources' ids between runs.")] = None,
    indexes_from: Annotated[str | None, typer.Option(help="A file that names indexes, one a line.")] = None,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Load the others when an index is bad.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The report as one JSON object.")] = False,
    log_format: Annotated[LogFormat, typer.Option(help="Logs on stderr.")] = LogFormat.auto,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell every batch; tracebacks.")] = False,
) -> None:
    """Load indexes into the registry and verify it."""
    settings = Settings(
        database_url=DatabaseUrl(database_url) if database_url else None,
        pooler=pooler_of(pooler),
        batch_size=batch_size,
        batch_bytes=parse_bytes(batch_bytes),
        concurrency=concurrency,
        dry_run=dry_run,
        dialect=cast("DialectName | None", dialect.value if dialect else None),
        domain=domain,
        records_at=records_at,
        derive_sources=derive_sources,
        columns=columns_of(column),
        full=full,
        rejects=rejects,
        max_rejects=MaxRejects.parse(max_rejects),
        max_record_bytes=parse_bytes(max_record_bytes),
        max_sources=max_sources,
        resume=resume,
        retry_for_seconds=retry_for,
        verify=verify,
        verify_sample=sample,
        source_cache=source_cache,
        keep_going=keep_going,
    )
    named = [*(indexes or []), *(read_list(indexes_from) if indexes_from else [])] or [index]
    del verbose  # seen by `main`, which has to know it also when this function is never reached
    progress, drawing = _progress(log_format)
    told = _Remembering(progress)
    try:
        with drawing:
            report = anyio.run(_interruptible, named, settings, told, backend_options={"use_uvloop": _uvloop()})
    except (VerificationFailed, IndexesFailed) as exc:
        _print(exc.report, told.tally, as_json=as_json)
        raise
    _print(report, told.tally, as_json=as_json)


def _plan(**arguments: Any) -> None:
    """Tell what a load would do, and write nothing: load --dry-run."""
    load(**arguments, dry_run=True)


_signature = inspect.signature(load, eval_str=True)
_plan.__signature__ = _signature.replace(  # type: ignore[attr-defined]  # how inspect lets a function say what it takes
    parameters=[parameter for name, parameter in _signature.parameters.items() if name != "dry_run"]
)
_plan.__annotations__ = {name: parameter.annotation for name, parameter in _signature.parameters.items()}
app.command("plan")(_plan)
app.command()(doctor)
app.command()(explain)
app.command("runs")(show_runs)
app.command()(bench)


@app.command()
def sample(
    *,
    records: Annotated[int, typer.Option(help="Assets.")] = 1000,
    sources: Annotated[int, typer.Option(help="Sources.")] = 20,
    dialect: Annotated[SampleDialect, typer.Option(help="Its shape.")] = SampleDialect.seed,  # type: ignore[attr-defined]
    format_: Annotated[str, typer.Option("--format", metavar="json|ndjson", help="A document, or lines.")] = "json",
    duplicates: Annotated[float, typer.Option(help="Percent of records that repeat a key.")] = 0,
    invalid: Annotated[float, typer.Option(help="Percent of records that a load rejects.")] = 0,
    changed: Annotated[float, typer.Option(help="Percent of records edited since the same sample without it.")] = 0,
    size: Annotated[int | None, typer.Option(help="Median bytes of a record [default: like real ones]")] = None,
    seed: Annotated[int, typer.Option(help="The same seed makes the same bytes.")] = 0,
    out: Annotated[Path | None, typer.Option(help="A file instead of stdout.")] = None,
) -> None:
    """Write a synthetic index whose records look and weigh like real ones."""
    workload = Workload(
        records=records,
        sources=sources,
        dialect=cast("Any", dialect.value),
        format=cast("Any", format_),  # checked by Workload
        duplicates=duplicates,
        invalid=invalid,
        seed=seed,
        changed=changed,
        size=size,
    )
    try:
        if out is None:
            for chunk in generate(workload):
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            return
        with out.open("wb") as file:
            for chunk in generate(workload):
                file.write(chunk)
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise StorageFailed(f"{out or 'stdout'} cannot be written: {exc.strerror}") from exc


def main() -> NoReturn:
    """Run the command line and exit."""
    verbose = not {"-v", "--verbose"}.isdisjoint(sys.argv[1:])
    if warning := cover_password(sys.argv[1:]):
        print_warning(warning)
    try:
        code = app(standalone_mode=False)
    except SeedRegistryError as exc:
        if verbose and exc.__cause__ is not None:
            sys.excepthook(type(exc), exc, exc.__traceback__)
        print_error(str(exc))
        code = exc.exit_code
    except typer.Abort:
        code = 1
    except BrokenPipeError:  # whoever read our output went away
        code = 1
    except Exception as exc:
        if hasattr(exc, "exit_code"):  # click's own: usage errors
            exc.show()  # type: ignore[attr-defined]
            code = exc.exit_code
        elif verbose:
            raise
        else:
            print_error(f"unexpected {type(exc).__name__}: a defect; please report it with the output of --verbose")
            code = 1
    _forget_lost_output()
    sys.exit(code or 0)


def _forget_lost_output() -> None:
    """What nobody reads any more would fail once more when Python flushes it at exit, and change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Remembering:
    """Passes everything on, and keeps the tally for the table."""

    def __init__(self, progress: Progress) -> None:
        self.tally = Tally()
        self._progress = progress
        self.tell = progress.tell

    def began(self, tally: Tally) -> None:
        self.tally = tally
        self._progress.began(tally)


def _progress(log_format: LogFormat) -> tuple[Progress, AbstractContextManager[object]]:
    verbose = not {"-v", "--verbose"}.isdisjoint(sys.argv[1:])
    if log_format == LogFormat.console or (log_format == LogFormat.auto and sys.stderr.isatty()):
        if sys.stderr.isatty():
            bar = BarProgress(verbose=verbose)
            return bar, bar.shown()
        return LogProgress(logger(as_json=False, verbose=verbose)), nullcontext()
    return LogProgress(logger(as_json=True, verbose=verbose)), nullcontext()


async def _interruptible(indexes: Sequence[str], settings: Settings, progress: Progress) -> Report:
    """A load that the first signal stops cleanly and the second one at once."""
    received: list[signal.Signals] = []
    scope = anyio.CancelScope()

    def stop(number: signal.Signals) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        scope.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    # A connection killed while it is cancelled leaves a future of asyncpg that nobody asks: no news beside the failure.
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    with scope:
        return await ingest(indexes, settings, progress)
    assert received, "nothing else cancels"
    raise Interrupted(received[0], received[0].name)


def _uvloop() -> bool:
    try:
        import uvloop  # noqa: F401, PLC0415  # not made for every platform
    except ImportError:
        return False
    return True


def _print(report: Report, tally: Tally, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
        sys.stdout.buffer.flush()
    else:
        print_report(report, tally)
