"""Verifying: after a load, does the database hold what the index said?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncpg

from seed_registry.accounting import Loaded
from seed_registry.registry.merging import Merger
from seed_registry.registry.schema import Tables, quoted
from seed_registry.registry.sql import statement
from seed_registry.report import Check, Progress, Tally, Verification


async def verify(
    connection: asyncpg.Connection[Any],
    tables: Tables,
    source_ids: Mapping[str, Mapping[str, Any]],
    tally: Tally,
    loaded: Loaded,
    progress: Progress,
) -> Verification:
    """Put the checks to the database; rows of earlier loads are no failure, but told.

    Args:
        connection: any session.
        tables: the registry's.
        source_ids: of all sources that the indexes named, by provider and key.
        tally: what was counted.
        loaded: what else is known of what was read.
        progress: is told of every difference.
    """
    checks = [
        # The law: every record read has exactly one outcome.
        _equal("sources_conserved", tally.sources.read, tally.sources.outcomes),
        _equal("assets_conserved", tally.assets.read, tally.assets.outcomes),
        *(_equal(f"declared_{name}", declared, read) for name, declared, read in loaded.declared),
        *await _present(
            connection, tables, [id_ for ids in source_ids.values() for id_ in ids.values()], tally, loaded, progress
        ),
        await _orphans(connection, tables),
    ]
    if loaded.sample:
        checks.append(await _sample_equal(connection, tables, source_ids, loaded, progress))
    return Verification(all(check.passed for check in checks), checks)


async def _sample_equal(
    connection: asyncpg.Connection[Any],
    tables: Tables,
    source_ids: Mapping[str, Mapping[str, Any]],
    loaded: Loaded,
    progress: Progress,
) -> Check:
    merger, differing = Merger(connection, tables), 0
    for provider, ids in source_ids.items():
        sample = {key: asset for key, (of, asset) in loaded.sample.items() if of == provider}
        for key, fields in (await merger.compare_assets(list(sample.values()), ids, provider)).items():
            progress.tell("error", "sample_differs", key=key, fields=fields, line=sample[key].line)
            differing += 1
    return _equal("sample_equal", len(loaded.sample), len(loaded.sample) - differing)


async def _present(
    connection: asyncpg.Connection[Any],
    tables: Tables,
    ids: list[Any],
    tally: Tally,
    loaded: Loaded,
    progress: Progress,
) -> list[Check]:
    sources = await connection.fetchval(
        statement("count_sources").format(
            table=tables.sources.name, id_column=quoted("id"), id_type=tables.sources.id_type
        ),
        ids,
    )
    assets = await connection.fetchval(
        statement("count_assets").format(
            table=tables.assets.name, source_column=tables.assets.column("source_id"), id_type=tables.sources.id_type
        ),
        ids,
    )
    wanted = max(loaded.distinct_assets - loaded.refused_assets, loaded.inserted_before + tally.assets.inserted)
    if assets > wanted:
        progress.tell(
            "info", "more_in_registry", assets=assets - wanted, note="assets of these sources from earlier loads"
        )
    return [_equal("sources_present", len(ids), sources), Check("assets_present", assets >= wanted, wanted, assets)]


async def _orphans(connection: asyncpg.Connection[Any], tables: Tables) -> Check:
    """With a validated foreign key the database has answered already; counting 10^8 rows would tell nothing new."""
    if tables.tied:
        return Check("assets_without_source", passed=True, expected=0, actual=0)
    query = statement("count_orphans").format(
        assets=tables.assets.name,
        sources=tables.sources.name,
        id_column=quoted("id"),
        source_column=tables.assets.column("source_id"),
    )
    return _equal("assets_without_source", 0, await connection.fetchval(query))


def _equal(name: str, expected: int, actual: int) -> Check:
    return Check(name, actual == expected, expected, actual)
