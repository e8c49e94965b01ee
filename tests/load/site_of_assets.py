"""A registry, indexes for it, and a `Progress` that ends a load anywhere: for tests of what portals no longer list."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from seed_registry.api import ingest
from seed_registry.errors import NotRetired
from seed_registry.report import Report, Tally
from seed_registry.settings import DatabaseUrl, MaxRejects, MaxRetire, Settings

A, B, C = "a.example", "b.example", "c.example"
ALL = MaxRetire(percent=100.0)


class Killed(BaseException):
    """As if the process had been killed."""


class Watch:
    """A `Progress` that does something at the n-th event of a kind."""

    def __init__(self, event: str = "", number: int = 1, action: Callable[[], None] | None = None) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._event, self._number, self._action = event, number, action

    def began(self, tally: Tally) -> None:
        """The load begins."""
        self.tally = tally

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Something happened."""
        del level
        self.events.append((event, fields))
        if self._action is not None and event == self._event:
            self._number -= 1
            if not self._number:
                self._action()


def kill() -> None:
    raise Killed


def source(key: str, **fields: Any) -> dict[str, Any]:
    return {"type": "source", "source_key": key, **fields}


def asset(key: str, of: str = A, **fields: Any) -> dict[str, Any]:
    return {"type": "asset", "asset_key": key, "source_key": of, **fields}


def assets(keys: Sequence[int], of: str = A, **fields: Any) -> list[dict[str, Any]]:
    return [asset(f"{of[0]}{number:04}", of, **fields) for number in keys]


class Site:
    """A registry, and a directory with indexes for it."""

    def __init__(self, url: DatabaseUrl, place: Path) -> None:
        self.url = url
        self.place = place
        self._files = 0

    def write(self, *records: Any, name: str = "") -> str:
        """An index of these records; one that is bytes is written as it is."""
        self._files += 1
        path = self.place / (name or f"{self._files}.ndjson")
        lines = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
        path.write_bytes(b"\n".join(lines) + b"\n")
        return str(path)

    async def load(self, *indexes: str, progress: Watch | None = None, **settings: Any) -> Report:
        """Load these indexes, in small batches."""
        options: dict[str, Any] = {"batch_size": 7, "concurrency": 2, "max_rejects": MaxRejects(percent=100)} | settings
        return await ingest(indexes, Settings(database_url=self.url, **options), progress)

    async def refused(self, *indexes: str, **settings: Any) -> Report:
        """The report of a load that is done, and retires nothing."""
        with pytest.raises(NotRetired) as caught:
            await self.load(*indexes, retire=True, **settings)
        assert caught.value.exit_code == 3
        assert caught.value.report.assets.retired == 0
        return caught.value.report

    async def do(self, query: str, *arguments: Any) -> list[Any]:
        """The rows of a query."""
        connection = await asyncpg.connect(self.url.reveal)
        try:
            return [tuple(row) for row in await connection.fetch(query, *arguments)]
        finally:
            await connection.close()

    async def retired(self) -> list[str]:
        """The keys that are marked."""
        rows = await self.do("select asset_key from registry.assets where retired_at is not null order by asset_key")
        return [key for (key,) in rows]

    async def count(self) -> int:
        """How many assets there are."""
        return int((await self.do("select count(*) from registry.assets"))[0][0])


UNREADABLE = b'{"type": "asset", "source_key": "a.example", "name": "no key"}'


def bad_number(key: str, of: str = A) -> bytes:
    return json.dumps(asset(key, of)).encode()[:-1] + b', "number": 1e400000}'
