"""How fast an index gets into Postgres, next to the floor that Postgres itself sets.

    python benchmarks/loading.py [--records 50000] [--size 1500] [--repeat 3] [--concurrency 2] [--batch-size 2000]

The floor is the same records, made ready as binary rows beforehand, COPYed by as many psql sessions into a temporary
table and upserted once: the same rows, constraints and statement, with no client to speak of. Ways take turns in one
run, each on an empty registry; medians with their spread are printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg

from seed_registry.bench.workloads import Workload, generate
from seed_registry.index.reading import read_index
from seed_registry.records import Asset, Source
from seed_registry.registry import embedded, schema
from seed_registry.settings import Settings

_EPOCH_SECONDS = 946_684_800  # 2000-01-01, where Postgres' own clock begins

_STAGE = (
    "create temporary table staged (asset_key text, source_id bigint, name text, description text, url text, "
    "updated_at timestamptz, raw jsonb, content_hash bytea);"
)
_MERGE = """
insert into registry.assets as existing (asset_key, source_id, name, description, url, updated_at, raw, content_hash)
select asset_key, source_id, name, description, url, updated_at, raw, content_hash from staged order by asset_key
on conflict (asset_key) do update set
  source_id = excluded.source_id, name = excluded.name, description = excluded.description, url = excluded.url,
  updated_at = greatest(existing.updated_at, excluded.updated_at), raw = excluded.raw,
  content_hash = excluded.content_hash
where existing.content_hash is distinct from excluded.content_hash;
"""


class Contest:
    """The database, the indexes, and the ways to load."""

    def __init__(self, directory: Path, url: str, options: argparse.Namespace) -> None:
        self.url = url
        self.options = options
        self.directory = directory
        self.environment = os.environ | {"DATABASE_URL": url}
        self.index = self._write("index.ndjson", changed=0, form="ndjson")
        self.edited = self._write("edited.ndjson", changed=1, form="ndjson")
        self.document = self._write("index.json", changed=0, form="json")
        self.rows: list[Path] = []

    def _write(self, name: str, *, changed: float, form: Any) -> Path:
        path = self.directory / name
        workload = Workload(records=self.options.records, size=self.options.size, changed=changed, format=form)
        with path.open("wb") as file:
            file.writelines(generate(workload))
        return path

    async def empty(self) -> None:
        """An empty registry, nothing of the last way left to write out."""
        connection = await asyncpg.connect(self.url)
        await schema.apply(connection)
        await connection.execute("truncate registry.assets, registry.sources restart identity")
        await connection.execute("checkpoint")
        await connection.close()

    async def prepare_rows(self) -> None:
        """The floor's input: sources in their table, assets as binary COPY files, one for each session."""
        connection = await asyncpg.connect(self.url)
        parts: list[list[bytes]] = [[] for _ in range(self.options.concurrency)]
        ids: dict[str, int] = {}
        async with read_index(str(self.index), Settings()) as reader:
            async for records in reader.records():
                for record in records:
                    if isinstance(record, Source):
                        ids[record.key] = len(ids) + 1
                    elif isinstance(record, Asset):
                        parts[hash(record.key) % len(parts)].append(_binary_row(record, ids[record.source_key]))
        for number, rows in enumerate(parts):
            path = self.directory / f"rows.{number}"
            path.write_bytes(b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"".join(rows) + b"\xff\xff")
            path.chmod(0o644)
            self.rows.append(path)
        self.source_keys = list(ids)
        await connection.close()

    async def insert_sources(self) -> None:
        """What the floor's assets refer to."""
        connection = await asyncpg.connect(self.url)
        rows = [("socrata", key) for key in self.source_keys]
        await connection.executemany("insert into registry.sources (provider, source_key) values ($1, $2)", rows)
        await connection.close()

    def floor(self) -> None:
        """As many psql sessions as workers: COPY ready rows, upsert once."""

        def session(path: Path) -> None:
            script = f"begin;\n{_STAGE}\n\\copy staged from '{path}' (format binary)\n{_MERGE}\ncommit;\n"
            command = [str(embedded.psql_path()), "-X", "-q", "-v", "ON_ERROR_STOP=1", self.url]
            subprocess.run(command, input=script.encode(), check=True)

        with ThreadPoolExecutor() as pool:
            list(pool.map(session, self.rows))

    def load(self, index: Path) -> dict[str, Any]:
        """Our command, as a user runs it."""
        flags = ["--concurrency", str(self.options.concurrency), "--batch-size", str(self.options.batch_size), "--json"]
        command = [sys.executable, "-m", "seed_registry", "load", str(index), *flags]
        output = subprocess.run(command, env=self.environment, check=True, capture_output=True).stdout
        report: dict[str, Any] = json.loads(output)
        return report


def _binary_row(asset: Asset, source_id: int) -> bytes:
    """A row of `COPY … (format binary)`: https://www.postgresql.org/docs/current/sql-copy.html."""

    def text(value: str | None) -> bytes | None:
        return None if value is None else value.encode()

    moment = asset.updated_at
    microseconds = None if moment is None else struct.pack(">q", int((moment.timestamp() - _EPOCH_SECONDS) * 1e6))
    fields = (
        asset.key.encode(),
        struct.pack(">q", source_id),
        text(asset.name),
        text(asset.description),
        text(asset.url),
        microseconds,
        b"\x01" + asset.raw,
        asset.content_hash,
    )
    parts = [struct.pack(">i", -1) if field is None else struct.pack(">i", len(field)) + field for field in fields]
    return struct.pack(">h", len(fields)) + b"".join(parts)


def measure(contest: Contest) -> dict[str, list[float]]:
    """Seconds of every way and round; the ways take turns."""
    seconds: dict[str, list[float]] = {}

    def timed(name: str, way: Callable[[], object]) -> object:
        started = time.perf_counter()
        result = way()
        seconds.setdefault(name, []).append(time.perf_counter() - started)
        return result

    def loaded(name: str, index: Path, outcome: str) -> None:
        report = contest.load(index)
        # As the report tells it: a process' own start is not what is compared.
        seconds.setdefault(name, []).append(report["seconds"])
        assert report["assets"][outcome] > 0, (name, report)

    asyncio.run(contest.prepare_rows())
    for _ in range(contest.options.repeat):
        asyncio.run(contest.empty())
        asyncio.run(contest.insert_sources())
        timed("psql floor", contest.floor)
        asyncio.run(contest.empty())
        loaded("first load, lines", contest.index, "inserted")
        loaded("unchanged reload", contest.index, "unchanged")
        loaded("1 % changed reload", contest.edited, "updated")
        asyncio.run(contest.empty())
        loaded("first load, document", contest.document, "inserted")
    return seconds


@contextmanager
def contest_of(options: argparse.Namespace) -> Iterator[Contest]:
    """An embedded server of its own, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="sr-") as directory:
        Path(directory).chmod(0o711)
        with embedded.running(Path(directory) / "home") as url:
            yield Contest(Path(directory), url, options)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=1_500, help="median bytes of a record")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=2_000)
    options = parser.parse_args()
    with contest_of(options) as contest:
        mean = contest.index.stat().st_size / options.records
        seconds = measure(contest)
    print(f"{options.records:,} records of {mean:,.0f} bytes on average, {options.concurrency} sessions or workers")
    floor = statistics.median(seconds["psql floor"])
    for name, times in seconds.items():
        middle = statistics.median(times)
        slow, fast = options.records / max(times), options.records / min(times)
        rate = options.records / middle
        print(
            f"{name:22} {rate:9,.0f} records/s ({slow:,.0f} to {fast:,.0f}), {floor / middle:5.2f} of the floor's rate"
        )


if __name__ == "__main__":
    main()
