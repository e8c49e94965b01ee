"""The runs of the ledger as far as they have a history."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import asyncpg
import msgspec
from msgspec import Struct

from seed_registry.errors import SettingsInvalid
from seed_registry.escape import printable
from seed_registry.ledger.change_summary import summarize_changes
from seed_registry.ledger.history import unknown_run
from seed_registry.postgres.sql_files import statement
from seed_registry.report import ChangeSummary


class ChangedRun(Struct, frozen=True):
    """A run.

    Attributes:
        history: None if it recorded nothing, else kept or pruned.
        undoes: the run that it takes back.
        ended_at: of its last set; None if it has none.
        summary: JSON of a `ChangeSummary`; None where its report has none.
    """

    run_id: str
    started_at: datetime
    outcome: str
    history: str | None
    undoes: str | None
    ended_at: datetime | None
    summary: str | None


async def newest_runs(connection: asyncpg.Connection[Any], limit: int) -> list[ChangedRun]:
    """The last runs whose changes are shown, the newest first."""
    return [ChangedRun(**row) for row in await connection.fetch(statement("changes/runs"), None, limit)]


async def find_run(connection: asyncpg.Connection[Any], run_id: str) -> ChangedRun:
    """Return a run whose changes are shown.

    Raises:
        SettingsInvalid: there is no such run, or it has no changes to show; the message says why.
    """
    row = await connection.fetchrow(statement("changes/runs"), run_id, 1)
    name = printable(run_id)
    if row is None:
        raise unknown_run(run_id)
    found = ChangedRun(**row)
    if found.history is None:
        raise SettingsInvalid(
            f"run {name} recorded no changes: it was not loaded with --history\n"
            f"`seed-registry runs {name}` shows its counts; load with --history from now on"
        )
    if found.history == "pruned":
        raise SettingsInvalid(
            f"the changes of run {name} were deleted by `seed-registry changes prune`\n"
            f"`seed-registry runs {name}` still shows its counts"
        )
    if found.ended_at is None and found.outcome == "running":
        raise SettingsInvalid(
            f"run {name} has not ended, and its changes are shown when it has\n"
            "if it was killed, the same command resumes it"
        )
    return found


async def counts_of(connection: asyncpg.Connection[Any], run: ChangedRun) -> ChangeSummary:
    """How many changes of each kind a run has: from its report, else they are counted."""
    if run.summary is not None and run.outcome != "running":
        try:
            return msgspec.json.decode(run.summary, type=ChangeSummary)
        except msgspec.DecodeError:  # of another version
            pass
    return await summarize_changes(connection, run.run_id)
