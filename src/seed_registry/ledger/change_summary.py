"""What a run with history changed, in a few numbers."""

from __future__ import annotations

from typing import Any, Final

import asyncpg
import msgspec

from seed_registry.postgres.sql_files import statement
from seed_registry.report import ChangeSummary, SourceChanges

# As they are listed.
CHANGE_KINDS: Final = ("inserted", "updated", "retired", "returned", "undone")
_MOST_SOURCES: Final = 20


async def summarize_changes(connection: asyncpg.Connection[Any], run_id: str) -> ChangeSummary:
    """Count what a run has changed so far, in all its attempts; this reads each of its changes, twice."""
    row = await connection.fetchrow(statement("ledger/summarize_changes"), run_id, _MOST_SOURCES)
    assert row is not None  # aggregates
    fields = await connection.fetch(statement("ledger/count_fields"), run_id)
    return ChangeSummary(
        assets=_sorted(msgspec.json.decode(row["assets"], type=dict[str, int])),
        sources=_sorted(msgspec.json.decode(row["sources"], type=dict[str, int])),
        created=row["created"],
        fields={one["field"]: one["changes"] for one in fields},
        source_count=row["source_count"],
        per_source=msgspec.json.decode(row["per_source"], type=list[SourceChanges]),
    )


def _sorted(kinds: dict[str, int]) -> dict[str, int]:
    return {kind: kinds[kind] for kind in CHANGE_KINDS if kind in kinds}
