"""What is kept in memory of the assets of one key."""

from __future__ import annotations

from datetime import UTC, datetime

from conftest import make_asset
from seed_registry.shards.settlement import KeyGroup

_NEW = datetime(2030, 1, 1, tzinfo=UTC)


def test_a_key_with_many_large_records_is_kept_within_the_bytes_of_a_batch() -> None:
    group = KeyGroup(1, limit=1_000, max_bytes=10_000)
    group.add(0, make_asset("a", raw=b"x" * 4_000, updated_at=_NEW))
    for number in range(500):
        group.add(0, make_asset("a", raw=b"x" * 4_000, name=f"n{number}"))
        assert sum(len(asset.raw) for _, asset in group.places) <= 16_000
    assert group.places[-1][1].name == "n499"
    assert group.places[0][1].updated_at == _NEW  # the newest moment counts, whatever is dropped
