"""Begins a run: its rejects file, and its entry in the ledger, or that of the run that ended early and is resumed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import xxhash

from seed_registry import __version__
from seed_registry.embedded.home import make_home_directory
from seed_registry.errors import DatabaseRefused, EmbeddedServerFailed, StorageFailed
from seed_registry.ledger.change_sets import has_history
from seed_registry.ledger.checkpoints import Ledger, NullLedger
from seed_registry.ledger.runs import NewRun, begin, create
from seed_registry.load.context import RunContext
from seed_registry.load.retry import Connection, RetryingSession
from seed_registry.postgres.database_url import choose_url
from seed_registry.registry.tables import Tables
from seed_registry.rejects.writer import RejectsFile


def make_rejects_file(run: RunContext) -> RejectsFile:
    """The rejects file of a run, by default not in the current directory, where an unattended run may not write.

    Raises:
        EmbeddedServerFailed, StorageFailed: there is no home directory for it.
    """
    if run.settings.rejects is not None:
        return run.new_rejects_file(Path(run.settings.rejects).absolute())
    try:
        home = make_home_directory()
    except EmbeddedServerFailed as exc:
        if choose_url(run.settings.database_url) is None:
            raise
        raise StorageFailed(f"{exc}, or name the file for rejected records with --rejects") from exc
    return run.new_rejects_file(home / "rejects" / f"{run.run_id}.ndjson", own_directory=True)


async def open_ledger(main: RetryingSession, run: RunContext, tables: Tables, rejects: RejectsFile) -> Ledger:
    """Enter the run in the ledger, or resume the one that ended early; then the run gets its id and rejects file.

    Raises:
        IndexTaken: another run works on one of the indexes.
        DatabaseRefused: there is no ledger for the history that the settings ask for.
        StorageFailed: the rejects file cannot be continued.
    """
    settings = run.settings
    if settings.history and not await main.do(_has_history):
        raise DatabaseRefused(
            "--history needs the ledger, which this role may not use\n"
            "have its owner run `seed-registry schema upgrade` and `seed-registry schema grants ROLE`"
        )
    if note := await main.do(create):
        run.progress.tell("warning", "no_ledger", note=note)
        return NullLedger(run.run_id)
    names = [index.ledger_name for index in run.indexes]
    new = NewRun(run.run_id, _run_key(run, tables.salt), names, rejects.report_name, settings.history)
    # With `full` rows may have been edited, standard input cannot be read twice, and a crash empties unlogged tables:
    # then checkpoints prove nothing.
    resume = settings.resume and not (settings.full or run.reads_stdin or tables.is_unlogged)
    ledger = await main.do(
        lambda connection: begin(connection, new, resume=resume, seconds=settings.io_timeout_seconds), is_limited=False
    )
    if (unfinished := ledger.unfinished) is None:
        rejects.keep_older()  # or this run, if it is resumed, would take them for its own
        return ledger
    run.run_id = unfinished.run_id
    if unfinished.rejects and settings.rejects is None:
        run.rejects = rejects = run.new_rejects_file(Path(unfinished.rejects), own_directory=True)
    if unfinished.rejects in (new.rejects, rejects.report_name):
        rejects.resume()
    run.progress.tell("info", "run_resumed", run_id=run.run_id, ended=unfinished.outcome, error=unfinished.error)
    return ledger


async def _has_history(connection: Connection) -> bool:
    await create(connection)
    return await has_history(connection)


def _run_key(run: RunContext, salt: str) -> str:
    """A text that is equal for two commands of which the second can resume the first."""
    settings = run.settings
    asked = (
        settings.schema, settings.dialect, settings.domain, settings.language, settings.provider, settings.records_at,
        settings.derive_sources, settings.only_newer, settings.max_record_bytes,
        f"replay {salt}" if run.is_replay else salt, __version__,
        *run.locked_names, *(["history"] if settings.history else []), *([run.run_id] if run.reads_stdin else []),
        *([] if settings.keys.is_whole else [f"keys {settings.keys}"]),
    )  # fmt: skip
    return xxhash.xxh3_128_hexdigest(msgspec.json.encode(asked))
