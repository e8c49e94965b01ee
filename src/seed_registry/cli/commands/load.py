"""`seed-registry load` and `plan`: flags to `Settings`, an audience, the report."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from seed_registry.api import ingest
from seed_registry.cli.config.headers import headers_of
from seed_registry.cli.config.options import (
    DEFAULT_INDEX,
    DEFAULTS,
    BatchSize,
    Columns,
    Concurrency,
    DatabaseOption,
    DialectOption,
    DomainOption,
    Headers,
    Indexes,
    IndexesFrom,
    IndexOption,
    IoTimeout,
    LanguageOption,
    LogFile,
    LogFormat,
    LogFormatOption,
    MaxRecordBytes,
    MaxRejectsOption,
    MaxSources,
    MaxUnpackedBytes,
    PoolerOption,
    ProviderOption,
    Quiet,
    RecordsAtOption,
    ReportAsJson,
    RetryFor,
    Verbose,
    Verify,
    columns_of,
    database_of,
    dialect_of,
    pooler_of,
)
from seed_registry.cli.garbage import rare_collection
from seed_registry.cli.progress.sinks import open_sinks
from seed_registry.cli.render.result import detailed_exit_code, print_result
from seed_registry.cli.signals import run_interruptibly
from seed_registry.errors import IndexesFailed, TooManyRejects, VerificationFailed
from seed_registry.escape import printable
from seed_registry.index.inputs import read_list
from seed_registry.settings import MaxRejects, Settings, parse_bytes


def load(  # a flag each
    indexes: Indexes = None,
    *,
    index: IndexOption = DEFAULT_INDEX,
    database_url: DatabaseOption = None,
    pooler: PoolerOption = None,
    batch_size: BatchSize = DEFAULTS.batch_size,
    batch_bytes: Annotated[str, typer.Option(help="Bytes a batch.")] = "4MiB",
    concurrency: Concurrency = DEFAULTS.concurrency,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; tell what a load would do.")] = False,
    dialect: DialectOption = None,
    header: Headers = None,
    domain: DomainOption = None,
    language: LanguageOption = None,
    provider: ProviderOption = None,
    records_at: RecordsAtOption = None,
    derive_sources: Annotated[
        bool, typer.Option("--derive-sources", help="Create sources that the index does not list.")
    ] = False,
    column: Columns = None,
    full: Annotated[bool, typer.Option("--full", help="Compare values, not content hashes.")] = False,
    rejects: Annotated[
        str | None, typer.Option(help="The file for rejected records [default: one a run, see the report]")
    ] = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="Exit with 4 where it is known that records were not read.")
    ] = False,
    max_rejects: MaxRejectsOption = "10%",
    max_record_bytes: MaxRecordBytes = "16MiB",
    max_unpacked_bytes: MaxUnpackedBytes = None,
    max_sources: MaxSources = DEFAULTS.max_sources,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on where a run of the same command ended early.")
    ] = True,
    retry_for: RetryFor = DEFAULTS.retry_for_seconds,
    io_timeout: IoTimeout = DEFAULTS.io_timeout_seconds,
    verify: Verify = True,
    sample: Annotated[int, typer.Option(help="Assets that are checked field by field.")] = DEFAULTS.verify_sample,
    source_cache: Annotated[str | None, typer.Option(help="File that keeps the sources' ids between runs.")] = None,
    indexes_from: IndexesFrom = None,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Load the others when an index is bad.")] = False,
    digest: Annotated[bool, typer.Option("--digest", help="Tell the digest of the registry afterwards.")] = False,
    as_json: ReportAsJson = False,
    log_format: LogFormatOption = LogFormat.auto,
    log_file: LogFile = None,
    metrics_file: Annotated[
        str | None, typer.Option(help="Keep metrics in this file, for Prometheus' textfile collector.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page about this load, however it ends.")] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    detailed_exitcode: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit with 2 if a load would change anything, else with 0.")
    ] = False,
) -> None:
    """Load indexes into the registry and verify it."""
    settings = Settings(
        database_url=database_of(database_url),
        pooler=pooler_of(pooler),
        batch_size=batch_size,
        batch_bytes=parse_bytes(batch_bytes),
        concurrency=concurrency,
        dry_run=dry_run,
        dialect=dialect_of(dialect),
        domain=domain,
        language=language,
        provider=provider,
        headers=headers_of(header),
        records_at=records_at,
        derive_sources=derive_sources,
        columns=columns_of(column),
        full=full,
        rejects=rejects,
        complete=complete,
        max_rejects=MaxRejects.parse(max_rejects),
        max_record_bytes=parse_bytes(max_record_bytes),
        max_unpacked_bytes=parse_bytes(max_unpacked_bytes) if max_unpacked_bytes else None,
        max_sources=max_sources,
        resume=resume,
        retry_for_seconds=retry_for,
        io_timeout_seconds=io_timeout,
        digest=digest,
        verify=verify,
        verify_sample=sample,
        source_cache=source_cache,
        keep_going=keep_going,
    )
    named = [*(indexes or []), *(read_list(indexes_from) if indexes_from else [])] or [index]
    following = open_sinks(
        log_format,
        log_file=log_file,
        metrics_file=None if dry_run else metrics_file,  # they tell of what was written
        html=html,
        quiet=quiet,
        verbose=verbose,
    )
    try:
        with following as audience, rare_collection():
            report = run_interruptibly(lambda: ingest(named, settings, audience))
    except (VerificationFailed, IndexesFailed, TooManyRejects) as exc:
        if exc.report is not None:
            is_whole = not isinstance(exc, TooManyRejects) or exc.is_whole
            print_result(exc.report, audience.tally, as_json=as_json, is_whole=is_whole)
        raise
    print_result(report, audience.tally, as_json=as_json)
    if html and not as_json:
        typer.echo(f"page: {printable(html, 1_000)}")
    if detailed_exitcode:
        raise typer.Exit(detailed_exit_code(report))


def plan(**arguments: Any) -> None:
    """Tell what a load would do, and write nothing: load --dry-run."""
    load(**arguments, dry_run=True)


def _without(command: Any, signature: inspect.Signature, *flags: str) -> None:
    """Have a command take what the signature says, but for some flags, in the way of `inspect`."""
    parameters = [parameter for name, parameter in signature.parameters.items() if name not in flags]
    command.__signature__ = signature.replace(parameters=parameters)
    command.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}


_signature = inspect.signature(load, eval_str=True)
_without(load, _signature, "detailed_exitcode")
_without(plan, _signature, "digest", "dry_run", "metrics_file")
