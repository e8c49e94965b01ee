"""The digest: equal for equal registries, whatever the way there, and another one for any other value."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Cli
from seed_registry import DatabaseUrl, Settings, ingest
from seed_registry.errors import SeedRegistryError
from seed_registry.postgres.connection import session
from seed_registry.registry import ddl
from seed_registry.registry.digest import digest
from seed_registry.registry.introspection import introspect
from seed_registry.report import Digest, TableDigest
from seed_registry.synthetic.index import Workload, generate

pytestmark = pytest.mark.anyio

MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
OF_SOURCES = ["provider", "source_key", "name", "url", "raw"]
OF_ASSETS = ["provider", "source_key", "asset_key", "name", "description", "url", "updated_at", "retired", "raw"]


# The definition, once more: what the module says, in plain Python


def summed(rows: Sequence[Sequence[str | None]]) -> str:
    return f"{sum(map(hash_of, rows)) % 2**128:032x}"


def hash_of(values: Sequence[str | None]) -> int:
    message = [number(1), number(int(None in values)), number(25), number(len(values)), number(1)]
    for value in values:
        data = b"" if value is None else value.encode()
        message += [number(-1 if value is None else len(data)), data]
    return int.from_bytes(hashlib.sha256(b"".join(message)).digest()[:16], "big")


def number(value: int) -> bytes:
    return value.to_bytes(4, "big", signed=True)


def as_jsonb(value: Any) -> str:
    if isinstance(value, dict):
        items = sorted(value.items(), key=lambda item: (len(item[0].encode()), item[0].encode()))
        return "{" + ", ".join(f"{as_jsonb(key)}: {as_jsonb(item)}" for key, item in items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_jsonb, value)) + "]"
    if isinstance(value, Decimal):
        return f"{value:f}"
    return json.dumps(value, ensure_ascii=False)


def microseconds(moment: datetime | None) -> str | None:
    return None if moment is None else str((moment - EPOCH) // MICROSECOND)


# Asking


async def asked(url: DatabaseUrl, columns: Mapping[str, str] | None = None, source: str | None = None) -> Digest:
    async with session(url) as connection:
        return await digest(connection, await introspect(connection, columns), source)


def sums(found: Digest) -> tuple[tuple[int, str], tuple[int, str]]:
    return (found.sources.count, found.sources.sum), (found.assets.count, found.assets.sum)


async def execute(url: DatabaseUrl, *statements: str) -> None:
    connection = await asyncpg.connect(url.reveal)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@asynccontextmanager
async def made(server: str, options: str) -> AsyncIterator[DatabaseUrl]:
    """A database that was created with these options."""
    name = f"digest_{secrets.token_hex(6)}"
    await execute(DatabaseUrl(server), f"create database {name} template template0 {options}")
    try:
        yield DatabaseUrl(urlunsplit(urlsplit(server)._replace(path=f"/{name}")))
    finally:
        await execute(DatabaseUrl(server), f"drop database {name} with (force)")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    path = tmp_path / "index.json"
    work = Workload(seed=7, records=400, size=600, duplicates=4, invalid=1, dialect="seed", format="json")
    path.write_bytes(b"".join(generate(work)))
    return path


async def load(url: DatabaseUrl, index: Path, **options: Any) -> None:
    await ingest(str(index), Settings(database_url=url, rejects=str(index) + ".rejects", **options))


# The definition

TEXTS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12)
MAYBE = st.none() | TEXTS
NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=3)
DOCUMENTS = st.dictionaries(
    TEXTS,
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**20), 10**20) | NUMBERS | TEXTS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)
MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001
ROWS = st.lists(
    st.tuples(TEXTS, MAYBE, MAYBE, MAYBE, st.none() | MOMENTS, st.none() | DOCUMENTS),
    max_size=5,
    unique_by=lambda r: r[0],
)


@pytest.fixture(scope="module")
def tables_url(workshop_url: DatabaseUrl) -> DatabaseUrl:
    """A database with the registry's tables, for many examples."""

    async def apply() -> None:
        async with session(workshop_url) as connection:
            await ddl.apply(connection)

    asyncio.run(apply())
    return workshop_url


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(rows=ROWS, source=st.tuples(TEXTS, TEXTS, MAYBE, MAYBE, DOCUMENTS))
def test_a_digest_is_what_its_definition_says(
    rows: list[Any], source: tuple[Any, ...], tables_url: DatabaseUrl
) -> None:
    async def found() -> Digest:
        connection = await asyncpg.connect(tables_url.reveal, server_settings={"TimeZone": "Asia/Kathmandu"})
        await connection.execute("truncate registry.sources, registry.assets")
        id_ = await connection.fetchval(
            "insert into registry.sources (provider, source_key, name, url, raw) "
            "values ($1, $2, $3, $4, $5) returning id",
            *source[:4],
            as_jsonb(source[4]),
        )
        await connection.executemany(
            "insert into registry.assets (asset_key, name, description, url, updated_at, raw, source_id) "
            "values ($1, $2, $3, $4, $5, $6, $7)",
            [(*row[:5], None if row[5] is None else as_jsonb(row[5]), id_) for row in rows],
        )
        values = await digest(connection, await introspect(connection))
        await connection.close()
        return values

    provider, key, name, url, raw = source
    of_source = [provider, key, name, url, as_jsonb(raw)]
    of_assets = [
        [provider, key, *row[:4], microseconds(row[4]), "0", None if row[5] is None else as_jsonb(row[5])]
        for row in rows
    ]
    assert asyncio.run(found()) == Digest(
        TableDigest(1, summed([of_source]), OF_SOURCES), TableDigest(len(rows), summed(of_assets), OF_ASSETS)
    )


async def test_the_digest_of_a_row_is_known(tables_url: DatabaseUrl) -> None:
    """By number, so that no later version computes another one unnoticed."""
    await execute(
        tables_url,
        "truncate registry.sources, registry.assets",
        """insert into registry.sources (provider, source_key, raw)
           values ('socrata', 'data.example.org', '{"b": 1.0, "a": "é"}')""",
        "insert into registry.assets (source_id, asset_key, name, updated_at) "
        "select id, 'aaaa-0001', '', '2026-11-23 10:15:00.000001+02' from registry.sources",
    )
    of_source, of_asset = sums(await asked(tables_url))
    source = ["socrata", "data.example.org", None, None, '{"a": "é", "b": 1.0}']
    asset = ["socrata", "data.example.org", "aaaa-0001", "", None, None, "1795421700000001", "0", None]
    assert (of_source, of_asset) == ((1, summed([source])), (1, summed([asset])))
    assert of_asset == (1, "b4598cfa28aa467d13afe642470bb813")


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        ("infinity", "infinity"),
        ("-infinity", "-infinity"),
        ("0044-03-15 00:00:00.000001+00 BC", "-63517823999999999"),
        ("294276-12-31 23:59:59.999999+00", "9224318015999999999"),
        ("1969-12-31 23:59:59.999999+00", "-1"),
    ],
)
async def test_a_moment_is_exact_however_far_it_is(tables_url: DatabaseUrl, moment: str, text: str) -> None:
    await execute(
        tables_url,
        "truncate registry.sources, registry.assets",
        "insert into registry.sources (provider, source_key) values ('p', 's')",
        "insert into registry.assets (source_id, asset_key, updated_at) "
        f"select id, 'a', '{moment}' from registry.sources",
    )
    row = ["p", "s", "a", None, None, None, text, "0", None]
    assert sums(await asked(tables_url))[1] == (1, summed([row]))


# What it covers


@pytest.mark.parametrize(
    "change",
    [
        *(f"update registry.assets set {change} where asset_key = 'a'" for change in (
            "asset_key = 'b'", "name = 'other'", "name = null", "description = ''", "url = 'https://other'",
            "updated_at = updated_at + interval '1 microsecond'", "updated_at = null", "raw = '{\"a\": 2}'",
            "raw = null", "raw = '{\"a\": 1.0}'", "source_id = (select max(id) from registry.sources)",
        )),
        *(f"update registry.sources set {change} where source_key = 's'" for change in (
            "source_key = 'z'", "provider = 'ckan'", "name = 'other'", "url = ''", "raw = '{\"a\": []}'",
        )),
        "delete from registry.assets where asset_key = 'a'",
        "delete from registry.sources where source_key = 't'",
        "insert into registry.sources (provider, source_key) values ('socrata', 'u')",
        "update registry.assets set name = description, description = name where asset_key = 'a'",
    ],
)  # fmt: skip
async def test_another_value_is_another_digest(tables_url: DatabaseUrl, change: str) -> None:
    await fill(tables_url)
    before = sums(await asked(tables_url))
    await execute(tables_url, change)
    assert sums(await asked(tables_url)) != before


@pytest.mark.parametrize(
    "change",
    [
        "update registry.assets set created_at = '2001-01-01', content_hash = '\\x00'",
        "update registry.sources set created_at = '2001-01-01', updated_at = '2001-01-01', content_hash = '\\x00'",
        "update registry.sources set id = default",
        """update registry.assets set raw = ' {"a":1,  "a":1}'""",
        """create temporary table other as select * from registry.assets; delete from registry.assets;
           insert into registry.assets (source_id, asset_key, name, description, url, updated_at, raw)
           select source_id, asset_key, name, description, url, updated_at, raw from other order by asset_key desc""",
    ],
)
async def test_what_only_tells_of_a_way_of_loading_is_not_covered(tables_url: DatabaseUrl, change: str) -> None:
    await fill(tables_url)
    before = await asked(tables_url)
    tie = "assets_source_id_fkey"
    await execute(
        tables_url,
        f"alter table registry.assets drop constraint {tie}, "
        f"add constraint {tie} foreign key (source_id) references registry.sources on update cascade",
        change,
    )
    assert await asked(tables_url) == before


async def fill(url: DatabaseUrl) -> None:
    await execute(
        url,
        "truncate registry.sources, registry.assets",
        """insert into registry.sources (provider, source_key, name, url, raw)
           values ('socrata', 's', 'S', 'https://s', '{"a": 1}'), ('socrata', 't', 'T', 'https://t', '{"a": 1}')""",
        """insert into registry.assets (source_id, asset_key, name, description, url, updated_at, raw)
           select min(id), key, 'N', 'D', 'https://a', '2026-01-01', '{"a": 1}'
           from registry.sources, unnest(array['a', 'c']) as key group by key""",
    )


async def test_of_one_source_it_is_as_if_there_were_no_other(
    tables_url: DatabaseUrl, database_url: DatabaseUrl
) -> None:
    await fill(tables_url)
    of_one = await asked(tables_url, source="s")
    assert (of_one.source, of_one.sources.count, of_one.assets.count) == ("s", 1, 2)
    await fill(database_url)
    await execute(database_url, "delete from registry.sources where source_key = 't'")
    assert sums(await asked(database_url)) == sums(of_one)
    assert sums(await asked(tables_url, source="t"))[1] == (0, "0" * 32)


# Ways of loading, servers, tables


async def test_whatever_the_way_of_loading_the_digest_is_one(
    index: Path, database_url: DatabaseUrl, bare_database_url: DatabaseUrl
) -> None:
    await load(database_url, index, batch_size=40, concurrency=3)  # copied into empty tables
    expected = await asked(database_url)
    assert expected.assets.count > 350
    await load(database_url, index, full=True)
    assert await asked(database_url) == expected
    async with session(bare_database_url) as connection:
        await ddl.apply(connection)
    await execute(
        bare_database_url,
        "insert into registry.sources (provider, source_key) values ('x', 'x')",
        "insert into registry.assets (asset_key, source_id) select 'x', id from registry.sources",
    )
    await load(bare_database_url, index, batch_size=7, concurrency=1)  # upserted
    await execute(
        bare_database_url,
        "delete from registry.assets where asset_key = 'x'",
        "delete from registry.sources where source_key = 'x'",
    )
    assert await asked(bare_database_url) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    ["encoding 'UTF8' locale 'C'", "encoding 'SQL_ASCII' locale 'C'", "encoding 'LATIN1' locale 'C'"],
)
async def test_encoding_and_collation_make_no_difference(server: str, database_url: DatabaseUrl, options: str) -> None:
    await fill_accented(database_url)
    async with made(server, options) as url:
        async with session(url) as connection:
            await ddl.apply(connection)
        await fill_accented(url)
        assert await asked(url) == await asked(database_url)


async def fill_accented(url: DatabaseUrl) -> None:
    """Enough rows that the server would do it in parallel."""
    await execute(
        url,
        "insert into registry.sources (provider, source_key, name) values ('socrata', 's', 'Zürich')",
        """insert into registry.assets (source_id, asset_key, name, raw)
           select id, 'é' || number, 'Straßen ' || number, '{"key": "naïve"}'
           from registry.sources, generate_series(1, 20000) as number""",
        "alter table registry.assets set (parallel_workers = 2)",
        "analyze registry.assets",
        *(
            f'alter role current_user in database "{urlsplit(url.reveal).path[1:]}" set {name} = 0'
            for name in ("parallel_setup_cost", "parallel_tuple_cost", "min_parallel_table_scan_size")
        ),
    )


ADAPTED = """
create schema registry;
create table registry.sources (
  id {id}, {provider} domain text not null unique, title text, url text, metadata {raw}
);
create table registry.assets (
  id {id}, external_id text not null unique, source_id {tie} not null references registry.sources,
  {provider} title varchar(500), description text, url text, updated_at {moment}, payload {raw}
);
"""


@pytest.mark.parametrize("raw", ["jsonb", "json", "text"])
@pytest.mark.parametrize("moment", ["timestamptz", "timestamp"])
@pytest.mark.parametrize("provider", ["provider text,", ""])
@pytest.mark.sampled(3)
async def test_tables_of_other_shapes_with_the_same_values_have_the_same_digest(
    index: Path, database_url: DatabaseUrl, bare_database_url: DatabaseUrl, raw: str, moment: str, provider: str
) -> None:
    uuid = {"id": "uuid primary key default gen_random_uuid()", "tie": "uuid"}
    await execute(bare_database_url, ADAPTED.format(raw=raw, moment=moment, provider=provider, **uuid))
    columns = {"assets.asset_key": "external_id"}
    await load(database_url, index)
    await load(bare_database_url, index, columns=columns)
    ours, theirs = await asked(database_url), await asked(bare_database_url, columns)
    if provider:
        assert theirs == ours
    else:
        assert theirs.assets.fields == OF_ASSETS[1:]
        assert theirs.sources.fields == OF_SOURCES[1:]
        assert theirs.assets.sum != ours.assets.sum


async def test_a_document_that_is_none_is_reported(bare_database_url: DatabaseUrl, cli: Cli) -> None:
    shape = {"id": "bigserial primary key", "tie": "bigint", "raw": "text", "moment": "timestamptz", "provider": ""}
    await execute(
        bare_database_url, ADAPTED.format(**shape), "insert into registry.sources (domain, metadata) values ('s', 'no')"
    )
    done = cli("digest", "--column", "assets.asset_key=external_id", url=bare_database_url)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith(b"error: a raw document of schema registry is no JSON")


async def test_rows_that_a_policy_hides_are_an_error(database_url: DatabaseUrl) -> None:
    role = f"reader_{secrets.token_hex(4)}"
    await execute(
        database_url,
        f"create role {role} login",
        f"grant usage on schema registry to {role}; grant select on all tables in schema registry to {role}",
        "alter table registry.assets enable row level security",
    )
    try:
        parts = urlsplit(database_url.reveal)
        url = DatabaseUrl(urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}")))
        with pytest.raises(SeedRegistryError, match="row-level security"):
            await asked(url)
    finally:
        await execute(database_url, f"drop owned by {role}; drop role {role}")


# The commands


def test_the_command_prints_two_lines(cli: Cli, database_url: DatabaseUrl, index: Path) -> None:
    done = cli("load", index, "--digest", "--json", url=database_url)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    lines = [
        f"{name} {part['count']} {part['sum']} {','.join(part['fields'])}" for name, part in report["digest"].items()
    ]
    printed = cli("digest", url=database_url)
    assert (printed.returncode, printed.stdout.decode().splitlines(), printed.stderr) == (0, lines, b"")
    assert json.loads(cli("digest", "--json", url=database_url).stdout) == report["digest"]
    reported = cli("runs", report["run_id"], url=database_url).stdout.decode()
    assert all(line in reported for line in lines)
    shown = cli("load", index, "--digest", url=database_url)
    assert shown.stdout.decode().splitlines()[-2:] == [f"digest of {line}" for line in lines]
    finished = json.loads(shown.stderr.splitlines()[-1])
    assert (finished["event"], finished["digest"]) == ("run_finished", report["digest"])


def test_the_command_tells_of_which_source_it_is(cli: Cli, database_url: DatabaseUrl, index: Path) -> None:
    cli("load", index, url=database_url)
    (source, *_) = json.loads(index.read_bytes())["sources"]
    key = source.get("source_key") or source["domain"]
    lines = cli("digest", "--source", key, url=database_url).stdout.decode().splitlines()
    assert [line.split(" ")[:4] for line in lines] == [
        ["sources", "of", key, "1"],
        ["assets", "of", key, lines[1].split(" ")[3]],
    ]
    assert json.loads(cli("digest", "--source", key, "--json", url=database_url).stdout)["source"] == key


def test_the_command_says_what_is_missing(cli: Cli, database_url: DatabaseUrl, bare_database_url: DatabaseUrl) -> None:
    done = cli("digest", "--source", "nobody\x1b", url=database_url)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"error: there is no source nobody\\x1b in registry.sources\n"
    done = cli("digest", url=bare_database_url)
    assert done.returncode == 1
    assert b"seed-registry schema apply" in done.stderr
    done = cli("digest")
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, b"error: there is no embedded database yet")


def test_a_load_without_digest_has_none(cli: Cli, database_url: DatabaseUrl, index: Path) -> None:
    assert "digest" not in json.loads(cli("load", index, "--json", url=database_url).stdout)
