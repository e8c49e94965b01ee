"""Adds up what became of the shards of a run, and of its repeated keys, as if one process had loaded it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from seed_registry.report import Counts, MergeCounts, Stages, Tally
from seed_registry.shards.facts import ShardLoaded, decoded

if TYPE_CHECKING:
    from seed_registry.ledger.shards import ShardRow


class IndexTotals(Struct):
    """The outcomes of the records of one index."""

    sources: Counts
    assets: Counts
    loaded: list[tuple[ShardRow, ShardLoaded]]


def index_totals(
    rows: Sequence[ShardRow], listed: Counts, listed_keys: Collection[str], settled: MergeCounts, rejected: int
) -> IndexTotals:
    """Add up an index.

    Args:
        rows: its shards.
        listed: the outcomes of the sources that it lists.
        listed_keys: their keys.
        settled: those of repeated keys whose last record is in this index.
        rejected: how many records of repeated keys were rejected.
    """
    loaded = [(row, decoded(row.loaded, ShardLoaded)) for row in rows if row.loaded and row.state == "loaded"]
    assets, sources = Counts(), replace(listed)
    for _, one in loaded:
        _add(assets, one.assets)
        _add(sources, replace(one.sources, read=one.sources.rejected, unchanged=0))
    parked = sum(one.parked for _, one in loaded)
    assets.inserted += settled.inserted
    assets.updated += settled.updated
    assets.unchanged += settled.unchanged
    assets.rejected += rejected
    assets.returned += settled.returned
    assets.older += settled.older
    assets.updated_by_older += settled.updated_by_older
    # Every other record of a repeated key is one: how many there are of a key is not kept.
    kept = settled.inserted + settled.updated + settled.unchanged + settled.older
    assets.duplicate += parked - rejected - kept
    derived = {key for _, one in loaded for key in one.source_keys}.difference(listed_keys)
    written = sum(one.sources.inserted + one.sources.updated for _, one in loaded)
    sources.read += len(derived)
    sources.unchanged += len(derived) - written
    return IndexTotals(sources, assets, loaded)


def add_up(tally: Tally, totals: IndexTotals) -> None:
    """Add the outcomes of an index to those of its run."""
    _add(tally.sources, totals.sources)
    _add(tally.assets, totals.assets)
    for _, one in totals.loaded:
        tally.bytes_read += one.bytes_read
        _add_details(tally, one)


def add_up_assets(tally: Tally, of_shard: Tally) -> None:
    """Add the outcomes of the assets of a shard to those of its run, with the sources that were rejected."""
    _add(tally.assets, of_shard.assets)
    rejected = of_shard.sources.rejected
    _add(tally.sources, Counts(read=rejected, rejected=rejected))
    _add_details(tally, of_shard)


def _add_details(tally: Tally, one: ShardLoaded | Tally) -> None:
    tally.assets_by_source.update(one.assets_by_source)
    tally.rejects.update(one.rejects)
    tally.ignored_fields.update(one.ignored_fields)
    for name in ("batches", "repaired", "dates_ignored", "texts_ignored"):
        setattr(tally, name, getattr(tally, name) + getattr(one, name))
    for stage in Stages.__struct_fields__:
        setattr(tally.stages, stage, getattr(tally.stages, stage) + getattr(one.stages, stage))


def _add(counts: Counts, other: Counts) -> None:
    for name in Counts.__struct_fields__:
        setattr(counts, name, getattr(counts, name) + getattr(other, name))
