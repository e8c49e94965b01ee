"""The sources of an audit, and their rows in the registry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from seed_registry.errors import IndexNotUnderstood
from seed_registry.records import SourceRow
from seed_registry.registry.key_owners import are_shared
from seed_registry.registry.tables import Tables
from seed_registry.verify.audit_report import Difference
from seed_registry.verify.snapshot import RegistrySnapshot


class AuditSource(Struct):
    """A source that an index lists or an asset names.

    Attributes:
        scope: a number for the part of the unique key of its assets besides the asset key.
        id: None where the database has no such source.
        is_expected: whether a load would have stored it.
        difference: of a source that is listed.
    """

    provider: str
    key: str
    scope: int
    id: Any
    is_expected: bool = False
    difference: Difference | None = None


class AuditSources:
    """The sources of an audit, numbered in the order in which they are found.

    Attributes:
        found: by number.
        rows: by the provider of the index, and by key.
        share_keys: whether two of them cannot both have an asset with one key.
    """

    def __init__(self, snapshot: RegistrySnapshot, tables: Tables, max_sources: int) -> None:
        self.found: list[AuditSource] = []
        self.rows: dict[str, dict[str, SourceRow]] = {}
        self._numbers: dict[str, int] = {}
        self._providers: dict[str | None, int] = {}
        self._snapshot = snapshot
        self.share_keys = are_shared(tables.assets)
        self._asset_key = tables.assets.key
        self._max = max_sources

    async def add(self, provider: str, keys: Iterable[str], index: str) -> None:
        """Number these sources, each given once, and look up their rows; `provider` is that of the index.

        Raises:
            IndexNotUnderstood: there are more than `max_sources`.
            SettingsInvalid: the registry has two sources of a key.
        """
        rows = self.rows.setdefault(provider, {})
        new = [key for key in keys if key not in rows]
        if not new:
            return
        if len(self.found) + len(new) > self._max:
            raise IndexNotUnderstood(
                f"{index} names more than {self._max:,} sources; if that is right, raise --max-sources"
            )
        stored = await self._snapshot.find_sources(new)
        for key in new:
            row = stored.get(key, SourceRow(None, None))
            rows[key] = SourceRow(row.id, row.provider or provider)
            if key not in self._numbers:
                self._numbers[key] = len(self.found)
                self.found.append(
                    AuditSource(row.provider or provider, key, self._scope(row.provider or provider), row.id)
                )

    def set_difference(self, key: str, differs: list[str] | None, index: str, line: int, offset: int) -> None:
        """Store how the row of a source differs: in these fields, None in none of them, empty if it is missing."""
        difference = None
        if differs is not None:
            difference = Difference("sources", key, key, not differs, differs, index, line, offset)
        self.found[self.number(key)].difference = difference

    def number(self, key: str) -> int:
        """Return the number of a source that was added."""
        return self._numbers[key]

    def _scope(self, provider: str) -> int:
        if "source_id" in self._asset_key:
            return len(self.found)
        return self._providers.setdefault(provider, len(self._providers)) if "provider" in self._asset_key else 0
