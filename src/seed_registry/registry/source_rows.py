"""Find the rows of sources by their key, whatever their provider.

The provider of an index is a guess from its shape, and sometimes wrong: it is stored only with a new source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
from msgspec.structs import replace

from seed_registry.errors import SettingsInvalid
from seed_registry.escape import printable
from seed_registry.postgres.identifiers import quoted
from seed_registry.postgres.sql_files import statement
from seed_registry.records import Source, SourceRow
from seed_registry.registry.tables import Table


async def find_source_rows(
    connection: asyncpg.Connection[Any], table: Table, keys: Sequence[str], provider: str | None = None
) -> dict[str, SourceRow]:
    """Return the rows of those sources that exist, by key.

    Args:
        connection: any session.
        table: that of the sources.
        keys: each once.
        provider: chosen by the operator: it only decides between two sources of one key.

    Raises:
        SettingsInvalid: there are two of a key, and `provider` does not decide.
    """
    has_provider = "provider" in table.columns
    query = statement("registry/source_rows").format(
        table=table.name,
        key_column=table.column("source_key"),
        id_column=quoted("id"),
        provider=table.column("provider") if has_provider else "null",
    )
    found: dict[str, list[SourceRow]] = {}
    for row in await connection.fetch(query, keys):
        found.setdefault(row["key"], []).append(SourceRow(row["id"], row["provider"]))
    return {key: rows[0] if len(rows) == 1 else _decided(key, rows, provider) for key, rows in found.items()}


def with_stored_providers(sources: Sequence[Source], rows: Mapping[str, SourceRow]) -> list[Source]:
    """Return the sources, the existing ones with the provider of their row."""
    stored = {key: row.provider for key, row in rows.items() if row.provider is not None}
    return [
        replace(source, provider=stored[source.key])
        if stored.get(source.key, source.provider) != source.provider
        else source
        for source in sources
    ]


def _decided(key: str, rows: Sequence[SourceRow], provider: str | None) -> SourceRow:
    """Return the row of this provider."""
    for row in rows:
        if provider is not None and row.provider == provider:
            return row
    providers = sorted(str(row.provider) for row in rows)
    raise SettingsInvalid(
        f"the registry has {len(rows)} sources {printable(key)}, of the providers "
        f"{', '.join(map(printable, providers))}\nname the one that is meant with --provider {printable(providers[0])}"
    )
