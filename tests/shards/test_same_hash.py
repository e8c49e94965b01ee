"""Keys that share a hash are settled each by itself, also where the database refuses a record among them."""

from __future__ import annotations

import json
from pathlib import Path

import asyncpg
import pytest
from local_engine import load_by_shards

from seed_registry import Settings
from seed_registry.index import key_scan
from seed_registry.load import producer
from seed_registry.settings import DatabaseUrl, MaxRejects

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]


async def test_all_keys_have_one_hash(
    connection: asyncpg.Connection[object], database_url: DatabaseUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two_bits(keys: object) -> list[int]:
        return [len(key) & 3 for key in keys]  # type: ignore[attr-defined]

    monkeypatch.setattr(producer, "hash_keys", two_bits)
    monkeypatch.setattr(key_scan, "hash_keys", two_bits)
    await connection.execute("alter table registry.assets add check (name <> 'refused')")
    names = ["one", "two", "refused", "three", "refused"]
    lines = [
        {"type": "asset", "asset_key": f"key{number % 7}", "source_key": "s.example", "name": names[number % 5]}
        for number in range(35)
    ]
    path = tmp_path / "index.ndjson"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    report = await load_by_shards(
        path, Settings(database_url=database_url, max_rejects=MaxRejects(100, None), batch_size=3), shard_bytes=200
    )
    rows = await connection.fetch("select asset_key, name from registry.assets")
    last = {line["asset_key"]: line["name"] for line in lines if line["name"] != "refused"}
    assert {row["asset_key"]: row["name"] for row in rows} == last
    assert report.assets.inserted == 7
    assert report.assets.read == 35
