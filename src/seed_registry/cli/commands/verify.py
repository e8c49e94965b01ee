"""`seed-registry verify`: compare the database with an index at any time, without loading."""

from __future__ import annotations

from typing import Annotated, Final

import typer
from msgspec.structs import replace

from seed_registry.cli.audit_runner import run_audit
from seed_registry.cli.config.flags import Changed, takes_settings
from seed_registry.cli.config.options import (
    DEFAULT_INDEX,
    TABLE,
    Indexes,
    IndexesFrom,
    IndexOption,
    LogFormat,
    LogFormatOption,
    Output,
    Quiet,
    Verbose,
)
from seed_registry.cli.progress.sinks import open_audit_sink
from seed_registry.cli.render.audit import failures_of, print_audit
from seed_registry.cli.render.messages import print_error
from seed_registry.cli.render.output import print_output
from seed_registry.cli.signals import run_interruptibly
from seed_registry.errors import VerificationFailed
from seed_registry.index.inputs import read_list
from seed_registry.settings import OUTPUT, Settings
from seed_registry.verify.audit_report import MOST_LISTED

# Asking is cheaper than writing: larger batches than a load's save round trips.
_BATCH_SIZE: Final = 1000


@takes_settings(
    *("database_url", "pooler", "dialect", "headers", "domain", "language", "provider", "records_at"),
    *("derive_sources", "columns", "full", "verify_sample", "max_record_bytes", "max_unpacked_bytes", "max_sources"),
    *("keys", "processes", "scheduler", "shard_bytes"),
    derive_sources=Changed("As the load: expect sources that the index does not list."),
    keys=Changed("Compare only the assets of one part of the keys, like 3/8."),
    full=Changed("Compare every field, trust no content hash."),
    processes=Changed("Processes that compare; auto: one for each core."),
    scheduler=Changed("Of the Dask cluster that compares, like tcp://host:8786."),
    shard_bytes=Changed("Of an index that several processes compare, what one takes at a time."),
    verify_sample=Changed("Assets to compare field by field in any case, at least.", default=20),
)
def verify(
    indexes: Indexes = None,
    *,
    index: IndexOption = DEFAULT_INDEX,
    settings: Settings,
    limit: Annotated[
        int,
        typer.Option(
            min=0,
            max=MOST_LISTED,
            rich_help_panel=OUTPUT,
            help="Differences and sources to list; --json lists 10,000.",
        ),
    ] = 20,
    indexes_from: IndexesFrom = None,
    output: Output = TABLE,
    log_format: LogFormatOption = LogFormat.auto,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare the database with indexes, and write nothing; exit 4 if a record is missing or differs."""
    settings = replace(settings, batch_size=_BATCH_SIZE)
    named = [*(indexes or []), *(read_list(indexes_from) if indexes_from else [])] or [index]

    with open_audit_sink(log_format, indexes=len(named), quiet=quiet, verbose=verbose) as progress:
        report = run_interruptibly(lambda: run_audit(named, settings, progress), "nothing was written")
    print_output(report, lambda: print_audit(report, limit), output=output)
    if not report.verification.passed:
        print_error(f"verification failed: {failures_of(report)}")
        raise typer.Exit(VerificationFailed.exit_code)
