"""Check after a load whether the database holds what the index says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncpg

from seed_registry.postgres.identifiers import quoted
from seed_registry.postgres.sql_files import statement
from seed_registry.records import SourceRow
from seed_registry.registry.table_reader import TableReader
from seed_registry.registry.tables import Tables
from seed_registry.registry.values import asset_values
from seed_registry.report import Check, Progress, Stages, Tally, Verification
from seed_registry.shortfall import Expectation


async def verify(
    connection: asyncpg.Connection[Any],
    tables: Tables,
    sources: Mapping[str, SourceRow],
    tally: Tally,
    loaded: Expectation,
    progress: Progress,
) -> Verification:
    """Run the checks; rows of earlier loads are no failure, but logged.

    Args:
        connection: any session.
        tables: the registry's.
        sources: all that the indexes named, by key.
        tally: what was counted.
        loaded: what else the load read and sent.
        progress: receives an event for every difference.
    """
    checks = [
        # Every record read has exactly one outcome.
        _equal("sources_conserved", tally.sources.read, tally.sources.outcomes),
        _equal("assets_conserved", tally.assets.read, tally.assets.outcomes),
        *(_equal(f"declared_{name}", declared, read) for name, declared, read in loaded.declared),
        *await _present(connection, tables, [row.id for row in sources.values()], tally, loaded, progress),
        await _orphans(connection, tables),
    ]
    if loaded.sample:
        checks.append(await _sample_equal(connection, tables, loaded, progress))
    return Verification(all(check.passed for check in checks), checks)


async def _sample_equal(
    connection: asyncpg.Connection[Any],
    tables: Tables,
    loaded: Expectation,
    progress: Progress,
) -> Check:
    reader = TableReader(connection, tables.assets, full=False, stages=Stages(), only_newer=loaded.only_newer)
    differing = 0
    # By provider: if the table does not store it, a source may have another one in each index.
    for provider in {source.provider for source, _ in loaded.sample.values()}:
        sample = [(source, asset) for source, asset in loaded.sample.values() if source.provider == provider]
        sources = {asset.source_key: source for source, asset in sample}
        assets = [asset for _, asset in sample]
        found = await reader.compare(assets, asset_values(sources))
        for asset, fields in zip(assets, found, strict=True):
            if fields:
                progress.tell("error", "sample_differs", key=asset.key, fields=fields, line=asset.line)
                differing += 1
    return _equal("sample_equal", len(loaded.sample), len(loaded.sample) - differing)


async def _present(
    connection: asyncpg.Connection[Any],
    tables: Tables,
    ids: list[Any],
    tally: Tally,
    loaded: Expectation,
    progress: Progress,
) -> list[Check]:
    sources = await connection.fetchval(
        statement("registry/count_sources").format(
            table=tables.sources.name, id_column=quoted("id"), id_type=tables.sources.id_type
        ),
        ids,
    )
    assets = await connection.fetchval(
        statement("verify/count_assets").format(
            table=tables.assets.name, source_column=tables.assets.column("source_id"), id_type=tables.sources.id_type
        ),
        ids,
    )
    wanted = max(loaded.distinct_assets - loaded.refused_assets, tally.assets.inserted)
    if assets > wanted:
        progress.tell(
            "info", "more_in_registry", assets=assets - wanted, note="assets of these sources from earlier loads"
        )
    return [_equal("sources_present", len(ids), sources), Check("assets_present", assets >= wanted, wanted, assets)]


async def _orphans(connection: asyncpg.Connection[Any], tables: Tables) -> Check:
    """Count assets without a source; a validated foreign key makes that needless, and it reads all rows."""
    if tables.tied:
        return Check("assets_without_source", passed=True, expected=0, actual=0)
    query = statement("verify/count_orphans").format(
        assets=tables.assets.name,
        sources=tables.sources.name,
        id_column=quoted("id"),
        source_column=tables.assets.column("source_id"),
    )
    return _equal("assets_without_source", 0, await connection.fetchval(query))


def _equal(name: str, expected: int, actual: int) -> Check:
    return Check(name, actual == expected, expected, actual)
