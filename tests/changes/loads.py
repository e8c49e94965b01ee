"""Loads with history into a registry of a test's own, and commands on what they changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg

from seed_registry.api import ingest
from seed_registry.report import Report
from seed_registry.settings import DatabaseUrl, MaxRetire, Settings

A, B = "a.example", "b.example"


def source(key: str, **fields: Any) -> dict[str, Any]:
    """A record of a source."""
    return {"type": "source", "source_key": key, **fields}


def asset(key: str, of: str = A, **fields: Any) -> dict[str, Any]:
    """A record of an asset."""
    return {"type": "asset", "asset_key": key, "source_key": of, **fields}


class Site:
    """A registry, and a directory with indexes for it."""

    def __init__(self, url: DatabaseUrl, directory: Path) -> None:
        self.url = url
        self._directory = directory
        self._files = 0

    def write(self, *records: Any, name: str = "") -> str:
        """An index of these records and their two sources."""
        self._files += 1
        path = self._directory / (name or f"{self._files}.ndjson")
        lines = [json.dumps(record) for record in (source(A), source(B), *records)]
        path.write_text("\n".join(lines) + "\n", "utf-8")
        return str(path)

    async def load(self, *records: Any, name: str = "", history: bool = True, **settings: Any) -> Report:
        """Load an index of these records, and retire what it does not list."""
        chosen: dict[str, Any] = {"retire": True, "max_retire": MaxRetire(percent=100.0), "concurrency": 1} | settings
        path = self.write(*records, name=name)
        return await ingest([path], Settings(database_url=self.url, history=history, **chosen))


async def ask(url: DatabaseUrl, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
    """The rows of a query, in a session of its own."""
    connection = await asyncpg.connect(url.reveal)
    try:
        return [tuple(row) for row in await connection.fetch(query, *arguments)]
    finally:
        await connection.close()


def parsed(lines: bytes | str) -> list[dict[str, Any]]:
    """Lines of JSON."""
    return [json.loads(line) for line in lines.splitlines()]


def told(changes: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What changes are of, without ids and moments."""
    return [(one["kind"], one["source_key"], one["asset_key"], one["fields"]) for one in changes]
