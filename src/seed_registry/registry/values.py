"""Read records by columns: the values of a field of many sources or assets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, TypeVar

from seed_registry.records import Asset, Source, SourceRow

Record = TypeVar("Record", Source, Asset)
# The values of a field, one for each record.
Values = Callable[[str, Sequence[Record]], list[Any]]

_ATTRIBUTES: Final = {"source_key": "key", "asset_key": "key"}
_source_key = attrgetter("source_key")


def plain_values(field: str, records: Sequence[Source | Asset]) -> list[Any]:
    """Return the values of a field that the records themselves hold."""
    return list(map(attrgetter(_ATTRIBUTES.get(field, field)), records))


def asset_values(sources: Mapping[str, SourceRow]) -> Values[Asset]:
    """Return a function like `plain_values` for assets whose id and provider are those of their `sources`, by key."""

    def values(field: str, assets: Sequence[Asset]) -> list[Any]:
        if field not in ("source_id", "provider"):
            return plain_values(field, assets)
        keys = list(map(_source_key, assets))
        rows = {key: sources[key] for key in set(keys)}
        found = {key: row.id if field == "source_id" else row.provider for key, row in rows.items()}
        return list(map(found.__getitem__, keys))

    return values
