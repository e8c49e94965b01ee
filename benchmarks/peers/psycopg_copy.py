"""The peer `psycopg`: COPY into a temporary table and one upsert for each batch of 2,000, over one connection.

    DATABASE_URL=postgresql://… python psycopg_copy.py index.ndjson

What the documentation of psycopg 3 leads to (https://www.psycopg.org/psycopg3/docs/basic/copy.html), in the shape of
pypgstac's loader. Binary COPY with declared types, the C extension, sources resolved first, one transaction a batch.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psycopg  # type: ignore[import-not-found]  # of the peers' environment
from mapping import UPSERT_ASSETS, UPSERT_SOURCE, Source, read, report

BATCH = 2_000
STAGE = """
create temporary table staged (asset_key text, source_id bigint, name text, description text, url text,
  updated_at timestamptz, raw text) on commit delete rows
"""
TYPES = ["text", "int8", "text", "text", "text", "timestamptz", "text"]


def load(path: Path) -> None:
    """Load an index."""
    source_ids: dict[str, int] = {}
    rows: list[tuple[Any, ...]] = []
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection, psycopg.RawCursor(connection) as cursor:
        cursor.execute(STAGE)

        def merge() -> None:
            with cursor.copy("copy staged from stdin (format binary)") as copy:
                copy.set_types(TYPES)
                for row in rows:
                    copy.write_row(row)
            cursor.execute(UPSERT_ASSETS)
            connection.commit()
            rows.clear()

        for record in read(path):
            if isinstance(record, Source):
                cursor.execute(UPSERT_SOURCE + "returning id", record)
                source_ids[record.source_key] = cursor.fetchone()[0]
                continue
            asset_key, source_key, *rest = record
            rows.append((asset_key, source_ids[source_key], *rest))
            if len(rows) == BATCH:
                merge()
        merge()


if __name__ == "__main__":
    report(load)
