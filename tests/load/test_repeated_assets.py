"""Assets that may occur more than once can be kept back from the workers, wherever in the index they come from."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from seed_registry import Settings
from seed_registry.index.inputs import resolve
from seed_registry.index.open import read_index
from seed_registry.key_hashes import hash_key
from seed_registry.load import pipeline
from seed_registry.load.outcomes import OutcomeRecorder
from seed_registry.load.sources import SourceResolver
from seed_registry.records import Asset, Source, SourceRow
from seed_registry.registry.batch import Batch, Blame, SourceBatch
from seed_registry.report import MergeCounts, Silent, Tally

pytestmark = pytest.mark.anyio


class _Registry:
    """A `Writer` into memory."""

    def __init__(self) -> None:
        self.written: list[str] = []

    async def write(self, batch: Batch) -> MergeCounts:
        self.written += [asset.key for asset in batch.assets]
        return MergeCounts(inserted=len(batch.assets))

    async def write_sources(self, batch: SourceBatch) -> tuple[MergeCounts, dict[str, SourceRow]]:
        return MergeCounts(inserted=len(batch.sources)), {source.key: SourceRow(1, "seed") for source in batch.sources}

    async def find_sources(self, keys: Sequence[str]) -> dict[str, SourceRow]:
        return {}

    async def probe(self, refused: Source | Asset, reason: Exception, sources: Mapping[str, SourceRow]) -> Blame:
        raise NotImplementedError


class _Kept:
    """Keeps the assets with certain keys."""

    def __init__(self, *keys: str) -> None:
        self.assets: list[tuple[str, str]] = []
        self._hashes = {hash_key(key) for key in keys}

    def held(self, key_hashes: Sequence[int]) -> Collection[int]:
        return self._hashes.intersection(key_hashes)

    def keep(self, asset: Asset, key_hash: int) -> None:
        assert key_hash == hash_key(asset.key)
        self.assets.append((asset.key, json.loads(asset.raw)["name"]))


@pytest.mark.parametrize("has_late_source", [False, True], ids=["source first", "parked until its source comes"])
async def test_assets_that_may_be_repeated_are_kept_in_file_order_and_all_others_written(
    tmp_path: Path, has_late_source: bool
) -> None:
    source = {"type": "source", "source_key": "a.org"}
    keys = ["one", "twice", "two", "twice", "three"]
    assets = [
        {"type": "asset", "asset_key": key, "source_key": "a.org", "name": f"{number}"}
        for number, key in enumerate(keys)
    ]
    path = tmp_path / "index.ndjson"
    path.write_text(
        "".join(json.dumps(one) + "\n" for one in ([*assets, source] if has_late_source else [source, *assets]))
    )
    settings, tally, registry, kept = Settings(concurrency=2, batch_size=2), Tally(), _Registry(), _Kept("twice")
    recorder = OutcomeRecorder(settings, tally, Silent(), None)
    async with read_index(resolve([str(path)])[0], settings) as reader:
        sources = SourceResolver(registry, tally, reader.provider, index=reader.name, max_sources=10)
        recorder.start_index(reader.name, reader.former_key)
        await pipeline.run(reader, settings, recorder, sources, lambda: nullcontext(registry), repeated=kept)
    recorder.close()
    assert kept.assets == [("twice", "1"), ("twice", "3")]
    assert sorted(registry.written) == ["one", "three", "two"]
    assert tally.assets_by_source == {"a.org": 3}
    assert tally.assets.read - tally.assets.outcomes == len(kept.assets)
