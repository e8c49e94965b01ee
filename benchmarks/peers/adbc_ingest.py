"""The peer `adbc`: Arrow record batches into a temporary table by the bulk ingestion of ADBC, then one upsert.

    DATABASE_URL=postgresql://… python adbc_ingest.py index.ndjson

ADBC ingests and nothing else (https://arrow.apache.org/adbc/current/driver/postgresql.html): the merge is one statement
over everything, on one connection. Batches go through a reader, so that memory does not hold the index.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-not-found]  # of the peers' environment
from adbc_driver_postgresql import dbapi  # type: ignore[import-not-found]
from mapping import UPSERT_ASSETS, UPSERT_SOURCE, Asset, Source, read, report

BATCH = 10_000
COLUMNS = pa.schema(
    [
        ("asset_key", pa.string()),
        ("source_id", pa.int64()),
        ("name", pa.string()),
        ("description", pa.string()),
        ("url", pa.string()),
        ("updated_at", pa.timestamp("us", tz="UTC")),
        ("raw", pa.large_string()),
    ]
)


def batches(assets: Iterator[Source | Asset], source_ids: dict[str, int]) -> Iterator[Any]:
    """The rest of the index, which has assets only."""
    while part := list(islice(assets, BATCH)):
        keys, sources, *rest = zip(*part, strict=True)
        columns = [keys, [source_ids[key] for key in sources], *rest]
        yield pa.record_batch(
            [pa.array(column, type_) for column, type_ in zip(columns, COLUMNS.types, strict=True)], schema=COLUMNS
        )


def load(path: Path) -> None:
    """Load an index."""
    records = read(path)
    with dbapi.connect(os.environ["DATABASE_URL"]) as connection, connection.cursor() as cursor:
        record: Source | Asset | None = None
        for record in records:
            if not isinstance(record, Source):
                break
            cursor.execute(UPSERT_SOURCE, record)
        cursor.execute("select source_key, id from registry.sources where provider = 'socrata'")
        source_ids = dict(cursor.fetchall())
        first = [] if record is None else [record]
        reader = pa.RecordBatchReader.from_batches(COLUMNS, batches(chain(first, records), source_ids))
        cursor.adbc_ingest("staged", reader, mode="create", temporary=True)
        cursor.execute(UPSERT_ASSETS)
        connection.commit()


if __name__ == "__main__":
    report(load)
