"""Compute the digest of a registry: equal for equal registries, on any server, collation and platform.

It has a line for each table: the number of rows, and the sum of the rows' hashes modulo 2^128, as 32 hexadecimal
digits. A sum has no order. The hash of a row is the first 16 bytes of a SHA-256, read as an unsigned big-endian number.
What is hashed are the row's values as texts, in the order of the covered fields, each with its length before it; NULL
has the length -1, so that it differs from an empty text. All integers are of 32 bits, signed, big-endian:

    1, (1 if a value is NULL, else 0), 25, (number of values), 1,
    then for each value: (its length in bytes, or -1), (its bytes, in UTF-8)

That is the binary form of a Postgres array of texts:
https://github.com/postgres/postgres/blob/REL_18_0/src/backend/utils/adt/arrayfuncs.c (array_send).

The fields of a source are provider, source_key, name, url, raw; those of an asset provider, source_key, asset_key,
name, description, url, updated_at, retired, raw. A field without a column is left out, and is not named in the digest:
digests of unlike fields do not compare. What a field is as a text:

- provider: of an asset its own column, else its source's. source_key: of an asset its source's, NULL without a source.
- updated_at: microseconds since 1970-01-01 00:00:00 UTC, in decimal; or `infinity`, `-infinity`. A column without a
  time zone is in UTC.
- retired: `1` for an asset that its portal no longer lists, else `0`.
- raw: the text of the document as jsonb, whatever the column's type: keys in the order of their length in bytes, then
  of their bytes, the last of equal ones; `": "` and `", "` between; numbers as they are in numeric, so 1.0 is not 1.
  https://www.postgresql.org/docs/current/datatype-json.html
- all others: the text itself.

Ids, content hashes, `created_at` and a source's `updated_at` depend on the loads, not on the portal, and are left out.

A database whose encoding is neither UTF8 nor SQL_ASCII sorts keys outside of ASCII by other lengths: there alone equal
documents may have unlike texts. `doctor` warns of such a database.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import asyncpg

from seed_registry.errors import DatabaseRefused, SettingsInvalid
from seed_registry.escape import printable
from seed_registry.postgres.identifiers import quoted
from seed_registry.postgres.sql_files import statement
from seed_registry.registry.fields import OPTIONAL_FIELDS
from seed_registry.registry.tables import Table, Tables
from seed_registry.report import Digest, TableDigest

_HALF: Final = 1 << 64
# Row-level security would leave rows out silently: with this it is an error.
_ALL_ROWS: Final = "set local row_security = off"
# In parallel workers a text's binary form is in the encoding of the database, not of the client.
_ONE_ENCODING: Final = """
select pg_catalog.set_config('max_parallel_workers_per_gather', '0', true)
where pg_catalog.current_setting('server_encoding') not in ('UTF8', 'SQL_ASCII')
"""


async def digest(connection: asyncpg.Connection[Any], tables: Tables, source: str | None = None) -> Digest:
    """Return the digest of both tables in one snapshot; of one `source` only, by its key.

    Raises:
        SettingsInvalid: the source does not exist.
        DatabaseRefused: a `raw` column of type text holds no JSON.
    """
    of_sources, of_assets = values_of_sources(tables.sources), values_of_assets(tables)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute(_ALL_ROWS)
            await connection.execute(_ONE_ENCODING)
            sources = await _line(connection, f"{tables.sources.name} as source", of_sources, tables, source)
            if source is not None and not sources.count:
                where = f"{tables.sources.schema}.{tables.sources.relation}"
                raise SettingsInvalid(f"there is no source {printable(source)} in {where}")
            assets = await _line(connection, _with_sources(tables), of_assets, tables, source)
    except asyncpg.InvalidTextRepresentationError as exc:
        raise DatabaseRefused(
            f"a raw document of schema {tables.assets.schema} is no JSON: {exc.args[0]}\n"
            "a digest needs documents that are: correct it, or name another column with --column TABLE.raw=COLUMN",
            sqlstate=exc.sqlstate,
        ) from exc
    return Digest(sources, assets, source)


async def _line(
    connection: asyncpg.Connection[Any], rows: str, values: Mapping[str, str], tables: Tables, source: str | None
) -> TableDigest:
    condition = f"where {_text(tables.sources, 'source_key', 'source')} = $1" if source is not None else ""
    query = statement("registry/digest").format(rows=rows, values=", ".join(values.values()), condition=condition)
    # Not fetchrow: it asks for one row at a time, and then the server does without parallel workers.
    ((count, upper, lower, negative),) = await connection.fetch(query, *([source] if source is not None else []))
    total = (int(upper) * _HALF + int(lower) + negative * _HALF) % (_HALF * _HALF)  # halves are summed as signed ones
    return TableDigest(count, f"{total:032x}", list(values))


def _with_sources(tables: Tables) -> str:
    assets, sources = tables.assets, tables.sources
    tie = f"source.{quoted('id')} = asset.{assets.column('source_id')}"
    return f"{assets.name} as asset left join {sources.name} as source on {tie}"


def values_of_sources(table: Table, source: str = "source") -> dict[str, str]:
    """Return for each covered field of a source its value as a text, in SQL; `source` names the row."""
    return {field: _text(table, field, source) for field in table.columns if field != "content_hash"}


def values_of_assets(tables: Tables, asset: str = "asset", source: str = "source") -> dict[str, str]:
    """Return for each covered field of an asset its value as a text, in SQL; the names are those of both rows."""
    assets, sources = tables.assets, tables.sources
    values = {}
    if "provider" in assets.columns:
        values["provider"] = _text(assets, "provider", asset)
    elif "provider" in sources.columns:
        values["provider"] = _text(sources, "provider", source)
    values["source_key"] = _text(sources, "source_key", source)
    for field in ("asset_key", *OPTIONAL_FIELDS):
        if field in assets.columns:
            values[field] = _text(assets, field, asset)
    values["retired"] = f"case when {assets.is_retired(asset)} then '1' else '0' end"
    if "raw" in assets.columns:
        values["raw"] = _text(assets, "raw", asset)
    return values


def hash_of(values: Mapping[str, str]) -> str:
    """Return the hash of a row with these values, in SQL: 16 bytes."""
    texts = f"array[{', '.join(values.values())}]::pg_catalog.text[]"
    return f"pg_catalog.substr(pg_catalog.sha256(pg_catalog.array_send({texts})), 1, 16)"


def _text(table: Table, field: str, alias: str) -> str:
    column = f"{alias}.{table.column(field)}"
    if field == "updated_at":
        return _microseconds(column)
    document = "::pg_catalog.jsonb" if field == "raw" else ""
    return f"{column}{document}::pg_catalog.text"


def _microseconds(column: str) -> str:
    """Exact on every server: before Postgres 14 the whole is a float, of which the last digits are lost."""
    seconds = f"pg_catalog.date_part('epoch', pg_catalog.date_trunc('second', {column}))::pg_catalog.numeric"
    fraction = f"pg_catalog.date_part('microseconds', {column})::pg_catalog.int8 % 1000000"
    return (
        f"case when pg_catalog.isfinite({column}) then ({seconds} * 1000000 + {fraction})::pg_catalog.text "
        f"else {column}::pg_catalog.text end"
    )
