"""Loads with history into a registry of a test's own, and commands on what they changed, in this process."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import asyncpg

from conftest import Cli
from seed_registry.api import ingest_sync
from seed_registry.changes.prune import prune
from seed_registry.postgres.connection import session
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

    def load(self, *records: Any, name: str = "", history: bool = True, **settings: Any) -> Report:
        """Load an index of these records, and retire what it does not list."""
        chosen: dict[str, Any] = {"retire": True, "max_retire": MaxRetire(percent=100.0), "concurrency": 1} | settings
        path = self.write(*records, name=name)
        return ingest_sync([path], Settings(database_url=self.url, history=history, **chosen))

    def prune(self, report: Report) -> int:
        """Delete the changes of a run."""

        async def delete() -> int:
            async with session(self.url) as connection:
                return await prune(connection, report.run_id)

        return asyncio.run(delete())


def ask(url: DatabaseUrl, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
    """The rows of a query, in a session of its own."""

    async def asked() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url.reveal)
        try:
            return [tuple(row) for row in await connection.fetch(query, *arguments)]
        finally:
            await connection.close()

    return asyncio.run(asked())


def in_this_process(cli: Cli, call_main: Callable[..., tuple[int, str, str]], home: Path, directory: Path) -> Cli:
    """Run commands in this process, which is faster; those with input in one of their own."""

    def run(*arguments: object, url: DatabaseUrl | None = None, **options: Any) -> subprocess.CompletedProcess[bytes]:
        if options:
            return cli(*arguments, url=url, **options)
        environment = {"PATH": os.environ["PATH"], "SEED_REGISTRY_HOME": str(home), "LANG": "C.UTF-8"}
        if url is not None:
            environment["DATABASE_URL"] = url.reveal
        code, out, err = call_main(arguments, environment, directory)
        return subprocess.CompletedProcess([*map(str, arguments)], code, out.encode(), err.encode())

    return run


def parsed(lines: bytes | str) -> list[dict[str, Any]]:
    """Lines of JSON."""
    return [json.loads(line) for line in lines.splitlines()]


def told(changes: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What changes are of, without ids and moments."""
    return [(one["kind"], one["source_key"], one["asset_key"], one["fields"]) for one in changes]
