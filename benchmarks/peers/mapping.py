"""What every Python peer makes of an NDJSON index of the seed dialect: rows of registry.sources and registry.assets.

The mapping is this program's own: keys trimmed, domains lower-cased, the moment parsed, the whole record kept as text.
It is written for speed and checks less: a record that is not as expected raises.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import orjson  # type: ignore[import-not-found]  # of the peers' environment

UPSERT_SOURCE = """
insert into registry.sources (provider, source_key, name, url, raw) values ($1, $2, $3, $4, $5::jsonb)
on conflict (provider, source_key) do update
set name = excluded.name, url = excluded.url, raw = excluded.raw, updated_at = now()
"""
# What a staged batch, its columns those of `Asset`, becomes.
UPSERT_ASSETS = """
insert into registry.assets as existing (asset_key, source_id, name, description, url, updated_at, raw)
select asset_key, source_id, name, description, url, updated_at, raw::jsonb from staged order by asset_key
on conflict (asset_key) do update set
  source_id = excluded.source_id, name = excluded.name, description = excluded.description, url = excluded.url,
  updated_at = greatest(existing.updated_at, excluded.updated_at), raw = excluded.raw
"""


class Source(NamedTuple):
    """A row of registry.sources."""

    provider: str
    source_key: str
    name: str | None
    url: str | None
    raw: str


class Asset(NamedTuple):
    """A row of registry.assets, its source still by key."""

    asset_key: str
    source_key: str
    name: str | None
    description: str | None
    url: str | None
    updated_at: datetime | None
    raw: str


def read(path: Path) -> Iterator[Source | Asset]:
    """The records of an index, in its order."""
    with path.open("rb") as lines:
        for line in lines:
            record = orjson.loads(line)
            raw = line.rstrip().decode()
            source_key = record["source_key"].strip().lower()
            if record["type"] == "source":
                provider = record.get("provider", "socrata")
                yield Source(provider, source_key, record.get("name"), record.get("url"), raw)
                continue
            moment = record.get("updated_at")
            yield Asset(
                record["asset_key"].strip(),
                source_key,
                record.get("name"),
                record.get("description"),
                record.get("url"),
                datetime.fromisoformat(moment) if moment else None,
                raw,
            )


def report(load: Callable[[Path], None]) -> None:
    """Run a peer on the index that the command line names, and print its time without that of starting Python."""
    started = time.perf_counter()
    load(Path(sys.argv[1]))
    print(orjson.dumps({"seconds": time.perf_counter() - started}).decode())
