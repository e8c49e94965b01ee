"""Reads the history: which runs there were, how they ended, and how far those came that did not end."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import asyncpg
from msgspec import Struct

from seed_registry.errors import SettingsInvalid
from seed_registry.escape import printable
from seed_registry.postgres.sql_files import statement
from seed_registry.report import MergeCounts

COLUMNS: Final = (
    "run_id, indexes, started_at, resumed, finished_at, outcome, error, rejects, report::pg_catalog.text as report"
)
_COUNTS: Final = ("inserted", "updated", "unchanged", "duplicate", "resumed", "older")
# A ledger of an earlier version does not have all of these columns, nor those below.
_HISTORY: Final = ", ".join(f"pg_catalog.to_jsonb(run) ->> '{name}' as {name}" for name in ("history", "undoes"))
_COMMITTED: Final = ", ".join(
    f"(select pg_catalog.sum(coalesce((pg_catalog.to_jsonb(checkpoint) ->> '{name}')::pg_catalog.int8, 0))"
    "::pg_catalog.int8 from seed_registry.checkpoints as checkpoint "
    f"where checkpoint.run_id = run.run_id) as {name}_before"
    for name in _COUNTS
)


class RunRecord(Struct, frozen=True):
    """A row of `seed_registry.runs`.

    Attributes:
        resumed: how often it was resumed.
        outcome: running, done, failed, interrupted, too_many_rejects, not_retired or verification_failed; a run that
            was killed stays running.
        rejects: the path of its rejects file.
        history: None if its changes are not recorded, else kept or pruned; also of a ledger that cannot say it.
        undoes: the run that it takes back.
        committed: the counts of assets in its checkpoints, of all its attempts together; None if it has none any more.
    """

    run_id: str
    indexes: list[str]
    started_at: datetime
    resumed: int
    finished_at: datetime | None
    outcome: str
    error: str | None
    rejects: str | None
    report: str | None
    committed: MergeCounts | None = None
    history: str | None = None
    undoes: str | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> RunRecord:
        """From a row of `COLUMNS`, and of the counts of its checkpoints if they were selected."""
        columns = dict(row)
        counts = {name: columns.pop(f"{name}_before", None) for name in _COUNTS}
        return cls(**columns, committed=None if None in counts.values() else MergeCounts(**counts))


def unknown_run(run_id: str) -> SettingsInvalid:
    """The error of an id that no run of the ledger has."""
    return SettingsInvalid(f"there is no run {printable(run_id)} in the ledger; `seed-registry runs` lists them")


async def is_usable(connection: asyncpg.Connection[Any]) -> bool:
    """Whether there is a ledger that this role may read and write."""
    row = await connection.fetchrow(statement("ledger/ledger_usable"))
    return row is not None and bool(row["is_there"] and row["is_usable"])


async def list_runs(connection: asyncpg.Connection[Any], run_id: str | None = None, limit: int = 50) -> list[RunRecord]:
    """The last runs, newest first, or the one with this id."""
    rows = await connection.fetch(
        f"select {COLUMNS}, {_COMMITTED}, {_HISTORY} from seed_registry.runs as run "
        "where $1::pg_catalog.text is null or run_id = $1 order by started_at desc limit $2",
        run_id,
        limit,
    )
    return [RunRecord.of(row) for row in rows]
