"""A scan of the shards of an index finds the key of every asset that a load of the index would find."""

from __future__ import annotations

import json
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sharded import sharded, whole
from test_shards import SCALE, SOURCE, eighth, hostile_document, line, pieces_of_lines, real_indexes, saved, untimed

from seed_registry.index.inputs import IndexRef
from seed_registry.index.key_scan import scan_keys
from seed_registry.index.open_shard import read_shard
from seed_registry.key_hashes import hash_key
from seed_registry.records import Source
from seed_registry.settings import Settings

pytestmark = pytest.mark.anyio


async def scanned(path: Path, shard_bytes: int, **options: Any) -> tuple[Counter[int], list[Source]]:
    """The hashes of all shards, and the sources."""
    hashes: Counter[int] = Counter()
    sources: list[Source] = []
    for shard in (await sharded(path, shard_bytes, **options)).shards:
        async with read_shard(IndexRef.of(path), shard, Settings(**options)) as reader:
            async for chunk in scan_keys(reader):
                hashes.update(chunk.hashes)
                sources += chunk.sources
            assert reader.soundness == "sound"
    return hashes, sources


async def found_in(path: Path, shard_bytes: int, **options: Any) -> Counter[int]:
    """The hashes that the scan finds besides those of the index's assets."""
    hashes, sources = await scanned(path, shard_bytes, **options)
    records = (await whole(path, **options)).records
    wanted = Counter(hash_key(record[1]) for record in records if record[0] == "Asset")
    assert wanted <= hashes, "a key was missed"
    assert [(source.key, source.offset) for source in sources] == [
        (record[1], record[3]) for record in records if record[0] == "Source"
    ]
    return hashes - wanted


async def test_every_asset_is_found_once_and_no_source(tmp_path: Path) -> None:
    assets = [line(f"k{number % 90}", name="n" * 40) for number in range(200)]
    path = saved(tmp_path, b"\n".join([SOURCE, *assets[:50], SOURCE, *assets[50:], b"{", line("")]))
    assert not await found_in(path, 1000)


async def test_keys_that_depend_on_a_header_behind_the_records_are_found(tmp_path: Path) -> None:
    datasets = [
        {"identifier": f"https://{host}/d/abcd-22{number}", "title": "t" * 40, "landingPage": page, "modified": "2020"}
        for number in map("".join, product("23456789", repeat=2))
        for host in ("a.org", "b.org")
        for page in (None, f"https://{host}/x", "https://c.org/x")
    ]
    for host in ("a.org", "b.org", "c.org", "other.org"):
        thing = {"conformsTo": "x", "dataset": datasets, "@id": f"https://{host}/data.json"}
        more = await found_in(saved(tmp_path, json.dumps(thing).encode()), 4000)
        assert more, "keys that another header would give count, too"
    told = {"@id": "https://a.org/data.json", "conformsTo": "x", "dataset": datasets}
    assert not await found_in(saved(tmp_path, json.dumps(told).encode()), 4000)


@pytest.mark.parametrize("where", ["before", "behind", "nowhere"])
async def test_all_dialects_with_a_header_are_scanned(tmp_path: Path, where: str) -> None:
    packages = [
        {"id": f"p{n}", "name": f"n{n}", "metadata_modified": "2020", "url": "https://d.org"} for n in range(99)
    ]
    records = [{"id": f"k{number}", "permalink": f"https://d.org/d/{number}", "name": "n"} for number in range(99)]
    for header, envelope in (
        ({"help": "https://d.org/api/3/action/help_show"}, {"result": {"results": packages}}),
        ({"domain": "d.org"}, {"datasets": records}),
    ):
        before, behind = (header, {}) if where == "before" else ({}, header if where == "behind" else {})
        path = saved(tmp_path, json.dumps({**before, **envelope, **behind}).encode())
        assert not await found_in(path, 1000)


@untimed
@given(pieces_of_lines, st.integers(1, 200))
def test_no_key_of_any_lines_is_missed(tmp_path: Path, parts: list[bytes], shard_bytes: int) -> None:
    anyio.run(found_in, saved(tmp_path, b"\n".join([SOURCE, line("first"), *parts])), shard_bytes)


@settings(untimed, max_examples=12 * SCALE)
@given(st.randoms(use_true_random=False), st.integers(300, 3000))
def test_no_key_of_a_hostile_document_is_missed(tmp_path: Path, rng: Any, shard_bytes: int) -> None:
    anyio.run(found_in, saved(tmp_path, hostile_document(rng)), shard_bytes)


async def test_no_key_of_a_real_index_is_missed(shared_data: Path) -> None:
    for path in real_indexes(shared_data):
        needs_domain = path.name.startswith(("view", "pod10"))
        await found_in(path, eighth(path), domain="told.example.org" if needs_domain else None)
