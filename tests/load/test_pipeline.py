"""A batch takes a straight way from its worker to COPY: few frames, no closure."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from seed_registry import DatabaseUrl, Settings, ingest

pytestmark = pytest.mark.anyio
MOST_FRAMES = 7
MOST_FRAMES_OF_HELD = 8


@pytest.fixture
def database_url(emptied_url: DatabaseUrl) -> DatabaseUrl:
    """A database with the registry's tables, empty."""
    return emptied_url


@pytest.mark.parametrize("way", ["straight into the table", "staged", "held until the end"])
async def test_few_functions_lie_between_the_queue_and_copy(
    database_url: DatabaseUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    path, ways = tmp_path / "index.ndjson", set[tuple[str, ...]]()
    copy = asyncpg.Connection.copy_records_to_table

    async def recorded(self: Any, *args: Any, **kwargs: Any) -> str:
        names = [frame.function for frame in inspect.stack()[1:] if "seed_registry" in frame.filename]
        if "work" in names:
            ways.add(tuple(names[: names.index("work") + 1]))
        return str(await copy(self, *args, **kwargs))

    async def load(name: str, first: int) -> None:
        assets = [
            {"type": "asset", "asset_key": f"{first + n}", "source_key": "a.org", "name": name} for n in range(10)
        ]
        path.write_text("".join(json.dumps(one) + "\n" for one in [{"type": "source", "source_key": "a.org"}, *assets]))
        await ingest([str(path)], Settings(database_url=database_url, rejects=str(tmp_path / "rejects")))

    if way != "straight into the table":
        await load("before", 0)
    monkeypatch.setattr(asyncpg.Connection, "copy_records_to_table", recorded)
    await load("now", 100 if way == "staged" else 0)
    assert ways
    most = MOST_FRAMES_OF_HELD if way == "held until the end" else MOST_FRAMES
    assert all(len(names) <= most for names in ways), ways
    assert not any("<" in name for names in ways for name in names), ways
