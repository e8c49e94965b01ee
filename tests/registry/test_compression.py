"""Compression on the server: lz4 in every session of ours unless set otherwise, and how tables are created."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias, cast
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg
import pytest

from conftest import Cli
from seed_registry import Settings, ingest
from seed_registry.doctor.database import check_database
from seed_registry.doctor.local import Finding
from seed_registry.errors import SettingsInvalid
from seed_registry.postgres.connection import session
from seed_registry.registry import ddl
from seed_registry.registry.compression import Compression, Method, change, storage
from seed_registry.registry.digest import digest
from seed_registry.registry.introspection import introspect
from seed_registry.settings import DatabaseUrl, PoolerName
from seed_registry.synthetic.index import Workload, generate

pytestmark = pytest.mark.anyio

Connection: TypeAlias = "asyncpg.Connection[Any]"

SETTING = "default_toast_compression"
# of the catalog: how values of raw and description are stored, the methods of these columns themselves, which are none
# of their own where they are empty, and the options of the table
STORED = """
select
  string_agg(attstorage::text, '' order by attname desc), string_agg(attcompression::text, '' order by attname desc),
  (select array_to_string(reloptions, ',') from pg_class where oid = attrelid)
from pg_attribute where attrelid = 'registry.assets'::regclass and attname in ('raw', 'description') group by attrelid
"""
ON_DISK = "select distinct pg_column_compression(raw) from registry.assets where pg_column_compression(raw) is not null"
# what `none` is, with pages of 8 KB
PLAIN = ("ee", "", "toast_tuple_target=8160")
# of tables that an earlier version made
ONLY_RAW_PLAIN = "alter table registry.assets alter column raw set storage external"


@pytest.fixture
def index(tmp_path: Path) -> str:
    """Records that are long enough to be compressed."""
    path = tmp_path / "index.ndjson"
    path.write_bytes(b"".join(generate(Workload(records=300, sources=3, size=6_000, format="ndjson"))))
    return str(path)


async def execute(url: DatabaseUrl, statements: str) -> None:
    """Run statements as any other program does."""
    connection = await asyncpg.connect(url.reveal)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()


async def stored(url: DatabaseUrl) -> tuple[str, str, str | None]:
    """How the catalog says that `raw` and `description` are stored and compressed, and what is set for the table."""
    async with session(url) as connection:
        row = await connection.fetchrow(STORED)
        assert row is not None
        return row[0], row[1], row[2]


async def methods(connection: Connection, table: str, *columns: str) -> dict[str, str]:
    """How new values of columns are compressed."""
    (found,) = await storage(connection, table, columns)
    return dict(found.methods)


# --- sessions -----------------------------------------------------------------------------------------------------

poolers = pytest.mark.parametrize("pooler", ["none", "transaction"])


@poolers
async def test_sessions_compress_with_lz4_where_the_server_has_it(lz4_url: DatabaseUrl, pooler: PoolerName) -> None:
    async with session(lz4_url, pooler=pooler) as connection:
        assert await connection.fetchval(f"show {SETTING}") == "lz4"


@poolers
async def test_sessions_leave_the_setting_to_a_server_without_lz4(pglz_url: DatabaseUrl, pooler: PoolerName) -> None:
    async with session(pglz_url, pooler=pooler) as connection:
        assert await connection.fetchval(f"show {SETTING}") == "pglz"
        assert await connection.fetchval("show jit") == "off", "the other settings are made"


async def test_behind_a_pooler_the_setting_ends_with_the_transaction(lz4_url: DatabaseUrl) -> None:
    async with session(lz4_url, pooler="transaction") as connection:
        assert await connection.fetchval(f"show {SETTING}") == "lz4"
        # without arguments it goes in no transaction of ours
        await connection.execute(f"do $$ begin assert current_setting('{SETTING}') = 'pglz'; end $$")


@asynccontextmanager
async def by_role(url: DatabaseUrl) -> AsyncIterator[DatabaseUrl]:
    """A role that has its own setting."""
    name = f"careful_{secrets.token_hex(4)}"
    await execute(url, f"create role {name} login superuser; alter role {name} set {SETTING} = 'pglz'")
    split = urlsplit(url.reveal)
    try:
        yield DatabaseUrl(urlunsplit(split._replace(netloc=f"{name}@{split.netloc.rpartition('@')[2]}")))
    finally:
        await execute(url, f"drop role {name}")


@asynccontextmanager
async def by_database(url: DatabaseUrl) -> AsyncIterator[DatabaseUrl]:
    """A database that has its own setting."""
    name = urlsplit(url.reveal).path[1:]
    await execute(url, f"alter database {name} set {SETTING} = 'pglz'")
    yield url


@asynccontextmanager
async def by_configuration(url: DatabaseUrl) -> AsyncIterator[DatabaseUrl]:
    """A server that has the default written down in its configuration."""
    await execute(url, f"alter system set {SETTING} = 'pglz'")
    try:
        await reloaded(url, "configuration file")
        yield url
    finally:
        await execute(url, f"alter system reset {SETTING}")
        await reloaded(url, "default")


async def reloaded(url: DatabaseUrl, source: str) -> None:
    """The server has read its configuration again, and new sessions see where the setting comes from now."""
    async with asyncio.timeout(20):
        found = None
        while found != source:
            connection = await asyncpg.connect(url.reveal)
            await connection.execute("select pg_reload_conf()")
            found = await connection.fetchval("select source from pg_settings where name = $1", SETTING)
            await connection.close()


@asynccontextmanager
async def by_url(url: DatabaseUrl) -> AsyncIterator[DatabaseUrl]:
    """A URL that sets it."""
    yield DatabaseUrl(f"{url.reveal}{'&' if '?' in url.reveal else '?'}options={quote(f'-c {SETTING}=pglz')}")


@asynccontextmanager
async def by_variable(url: DatabaseUrl) -> AsyncIterator[DatabaseUrl]:
    """An environment that sets it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGOPTIONS", f"-c {SETTING}=pglz")
        yield url


@poolers
@pytest.mark.parametrize("choice", [by_role, by_database, by_configuration, by_url, by_variable])
@pytest.mark.sampled(4)
async def test_sessions_leave_what_somebody_has_set(
    lz4_url: DatabaseUrl, pooler: PoolerName, choice: Callable[[DatabaseUrl], Any]
) -> None:
    async with choice(lz4_url) as url, session(url, pooler=pooler) as connection:
        assert await connection.fetchval(f"show {SETTING}") == "pglz"


@poolers
async def test_a_load_into_a_table_that_was_there_writes_lz4(
    lz4_url: DatabaseUrl, pooler: PoolerName, index: str
) -> None:
    """By COPY, and by the upsert of records that changed."""
    await execute(lz4_url, ddl.definition())
    first = await ingest([index], Settings(database_url=lz4_url, pooler=pooler, batch_size=50))
    async with session(lz4_url) as connection:
        assert [row[0] for row in await connection.fetch(ON_DISK)] == ["lz4"]
        await connection.execute("update registry.assets set raw = '{}', content_hash = null")
    second = await ingest([index], Settings(database_url=lz4_url, pooler=pooler, batch_size=50))
    assert second.assets.updated == first.assets.inserted
    async with session(lz4_url) as connection:
        assert [row[0] for row in await connection.fetch(ON_DISK)] == ["lz4"]
    assert await stored(lz4_url) == ("xx", "", None), "the table itself stays as it is"


# --- tables that are created ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "is_embedded", "created"),
    [
        ("auto", False, ("xx", "l", None)),
        ("auto", True, ("xx", "l", None)),
        ("lz4", False, ("xx", "l", None)),
        ("pglz", False, ("xx", "p", None)),
        ("none", False, PLAIN),
    ],
)
async def test_apply_creates_assets_as_asked_for_on_a_server_with_lz4(
    lz4_url: DatabaseUrl, wanted: Compression, is_embedded: bool, created: tuple[str, str, str | None]
) -> None:
    async with session(lz4_url) as connection:
        await ddl.apply(connection, compression=wanted, is_embedded=is_embedded)
    assert await stored(lz4_url) == created


@pytest.mark.parametrize(
    ("wanted", "is_embedded", "created"),
    [
        ("auto", False, ("xx", "", None)),
        ("auto", True, PLAIN),
        ("pglz", True, ("xx", "p", None)),
        ("none", False, PLAIN),
    ],
)
async def test_apply_creates_assets_as_asked_for_on_a_server_without_lz4(
    pglz_url: DatabaseUrl, wanted: Compression, is_embedded: bool, created: tuple[str, str, str | None]
) -> None:
    async with session(pglz_url) as connection:
        await ddl.apply(connection, compression=wanted, is_embedded=is_embedded)
    assert await stored(pglz_url) == created


async def test_apply_leaves_raw_to_what_somebody_has_set(lz4_url: DatabaseUrl) -> None:
    async with by_database(lz4_url), session(lz4_url) as connection:
        await ddl.apply(connection)
        assert await methods(connection, "registry.assets", "raw") == {"raw": "pglz"}


async def test_apply_refuses_lz4_where_the_server_has_none(pglz_url: DatabaseUrl) -> None:
    async with session(pglz_url) as connection:
        with pytest.raises(SettingsInvalid, match=r"built without lz4\n.*--compression none"):
            await ddl.apply(connection, compression="lz4")
        assert await connection.fetchval("select to_regnamespace('registry')") is None


@pytest.mark.parametrize("wanted", ["auto", "lz4", "pglz", "none"])
@pytest.mark.parametrize("there", ["default", "lz4", "pglz", "none", "raw alone is plain"])
@pytest.mark.sampled(6)
async def test_a_table_that_was_there_keeps_its_compression(
    lz4_url: DatabaseUrl, there: str, wanted: Compression
) -> None:
    if there == "raw alone is plain":
        await execute(lz4_url, ddl.definition())
        await execute(lz4_url, ONLY_RAW_PLAIN)
    else:
        await execute(lz4_url, ddl.definition(compression=cast("Method", there)))
    before = await stored(lz4_url)
    async with session(lz4_url) as connection:
        await ddl.apply(connection, compression=wanted, is_embedded=True)
    assert await stored(lz4_url) == before


@pytest.mark.parametrize("name", ["100 %s", "it's", 'a "b"', "$$ $1"])
async def test_rows_are_stored_plain_in_a_schema_of_any_name(pglz_url: DatabaseUrl, name: str) -> None:
    async with session(pglz_url) as connection:
        await ddl.apply(connection, name, compression="none")
        (found,) = await storage(connection, (await introspect(connection, schema=name)).assets.name, ["raw"])
        assert found.is_plain


async def test_the_size_of_rows_is_read_as_the_server_has_it(pglz_url: DatabaseUrl) -> None:
    """With pages of 8 KB: 2,032 bytes unless set, at most 8,160."""
    await execute(pglz_url, ddl.definition())
    async with session(pglz_url) as connection:
        (found,) = await storage(connection, "registry.assets", ["raw"])
        assert (found.target_bytes, found.largest_target_bytes) == (2_032, 8_160)
        with pytest.raises(asyncpg.InvalidParameterValueError, match="8160"):
            await connection.execute("alter table registry.assets set (toast_tuple_target = 8161)")


async def test_stored_plain_rows_stay_whole_however_they_were_written(pglz_url: DatabaseUrl, tmp_path: Path) -> None:
    """By COPY, and by the upsert of records that changed; both `raw` and `description` are long."""
    async with session(pglz_url) as connection:
        await ddl.apply(connection, compression="none")
    for word, counted in (("water ", "inserted"), ("ground ", "updated")):
        path = tmp_path / "index.json"
        assets = [{"id": f"a{number}", "description": word * 400, "domain": "d"} for number in range(50)]
        path.write_text(json.dumps({"sources": [{"domain": "d"}], "assets": assets}))
        done = await ingest([str(path)], Settings(database_url=pglz_url))
        assert getattr(done.assets, counted) == 50
        async with session(pglz_url) as connection:
            (row,) = await connection.fetch(
                """
                select distinct pg_column_compression(raw), pg_column_compression(description),
                  pg_relation_size(reltoastrelid)
                from registry.assets, pg_class where oid = 'registry.assets'::regclass
                """
            )
            assert tuple(row) == (None, None, 0), "compressed, or out of line"


@pytest.mark.slow
async def test_rows_and_digest_are_the_same_however_raw_is_compressed(lz4_url: DatabaseUrl, index: str) -> None:
    every: tuple[Method, ...] = ("default", "lz4", "pglz", "none")
    digests = []
    for method in every:
        await execute(lz4_url, "drop schema if exists registry, seed_registry cascade")
        await execute(lz4_url, ddl.definition(compression=method))
        first = await ingest([index], Settings(database_url=lz4_url))
        again = await ingest([index], Settings(database_url=lz4_url))
        assert (again.assets.inserted, again.assets.updated) == (0, 0)
        assert again.assets.unchanged == first.assets.inserted == 300
        async with session(lz4_url) as connection:
            digests.append(await digest(connection, await introspect(connection)))
            assert [row[0] for row in await connection.fetch(ON_DISK)] == {
                "default": ["lz4"],
                "lz4": ["lz4"],
                "pglz": ["pglz"],
                "none": [],
            }[method]
        full = await ingest([index], Settings(database_url=lz4_url, full=True))
        assert full.assets.unchanged == 300, "compared by value"
    assert all(one == digests[0] for one in digests)


# --- the command line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "created"),
    [((), ("xx", "", None)), (("--compression", "none"), PLAIN), (("--compression", "pglz"), ("xx", "p", None))],
)
async def test_schema_show_prints_statements_that_create_assets_so_and_alter_nothing(
    cli: Cli, pglz_url: DatabaseUrl, arguments: tuple[str, ...], created: tuple[str, str, str | None]
) -> None:
    shown = cli("schema", "show", *arguments).stdout.decode()
    await execute(pglz_url, shown)
    assert await stored(pglz_url) == created
    for method in ("pglz", "none"):
        await execute(pglz_url, cli("schema", "show", "--compression", method).stdout.decode())
    assert await stored(pglz_url) == created


@pytest.mark.slow
async def test_schema_apply_tells_of_a_table_that_keeps_another_compression_what_changes_it(
    cli: Cli, lz4_url: DatabaseUrl
) -> None:
    assert b"note" not in cli("schema", "apply", "--compression", "pglz", url=lz4_url).stdout
    for wanted in ("none", "lz4", "pglz"):
        reported = cli("schema", "apply", "--compression", wanted, url=lz4_url).stdout.decode()
        assert "registry.assets was there before and keeps its compression: description " in reported
        await execute(lz4_url, reported.partition("for rows to come: ")[2])
        async with session(lz4_url) as connection:
            assert await methods(connection, "registry.assets", "raw") == {"raw": wanted}
        assert b"note" not in cli("schema", "apply", "--compression", wanted, url=lz4_url).stdout
        assert (
            await stored(lz4_url)
            == {"none": ("ee", "p", PLAIN[2]), "lz4": ("xx", "l", None), "pglz": ("xx", "p", None)}[wanted]
        )
    assert b"note" not in cli("schema", "apply", url=lz4_url).stdout, "auto asks for nothing"


async def test_schema_apply_tells_of_a_table_of_which_raw_alone_is_plain_what_keeps_rows_whole(
    cli: Cli, pglz_url: DatabaseUrl
) -> None:
    await execute(pglz_url, ddl.definition())
    await execute(pglz_url, ONLY_RAW_PLAIN)
    reported = cli("schema", "apply", "--compression", "none", url=pglz_url).stdout.decode()
    assert "keeps its compression: description pglz, raw none, toast_tuple_target 2032; for rows to come: " in reported
    await execute(pglz_url, reported.partition("for rows to come: ")[2])
    assert await stored(pglz_url) == PLAIN
    assert b"note" not in cli("schema", "apply", "--compression", "none", url=pglz_url).stdout


def test_schema_apply_names_what_a_server_without_lz4_can_do_instead(cli: Cli, pglz_url: DatabaseUrl) -> None:
    failed = cli("schema", "apply", "--compression", "lz4", url=pglz_url)
    assert failed.returncode == 2
    assert b"Traceback" not in failed.stderr
    for method in ("none", "pglz"):
        assert f"--compression {method}".encode() in failed.stderr
        assert cli("schema", "apply", "--compression", method, url=pglz_url).returncode == 0


@pytest.mark.slow  # it makes a server of its own
def test_a_load_into_the_embedded_server_does_not_compress_raw(cli: Cli, home: Path, index: str) -> None:
    home.chmod(0o711)  # as root the server runs as a user of its own
    assert cli("load", index, "-q").returncode == 0
    stored = cli("db", "psql", "-Atc", STORED.replace("\n", " ")).stdout.decode()
    (line,) = [
        finding
        for finding in json.loads(cli("doctor", "--json").stdout)["findings"]
        if finding["name"] == "compression"
    ]
    # a build with lz4 would use it
    assert (stored.strip(), line["state"]) in [("|".join(PLAIN), "ok"), ("xx|l|", "ok")]
    assert "raw none" in line["finding"] or "raw lz4" in line["finding"]


# --- doctor ---------------------------------------------------------------------------------------------------------


async def found(url: DatabaseUrl, *, is_embedded: bool = False) -> Finding:
    """What an examination finds of compression."""
    findings = await check_database(DatabaseUrl(url.reveal, is_embedded=is_embedded), {}, "registry", "auto")
    (finding,) = (finding for finding in findings if finding.name == "compression")
    return finding


async def test_doctor_tells_the_compression_of_large_columns_and_who_cannot_read_lz4(lz4_url: DatabaseUrl) -> None:
    await execute(lz4_url, ddl.definition())
    finding = await found(lz4_url)
    assert (finding.state, finding.fix) == ("ok", "")
    assert finding.finding.startswith(
        "registry.assets: new rows have description lz4, raw lz4, toast_tuple_target 2032; a standby that "
    )


async def test_doctor_knows_the_statement_that_turns_pglz_into_lz4(lz4_url: DatabaseUrl, index: str) -> None:
    await execute(lz4_url, ddl.definition(compression="pglz"))
    finding = await found(lz4_url)
    assert (finding.state, "raw pglz" in finding.finding) == ("warn", True)
    await execute(lz4_url, finding.fix.partition(";")[0])
    assert "raw lz4" in (await found(lz4_url)).finding
    await ingest([index], Settings(database_url=lz4_url))
    async with session(lz4_url) as connection:
        assert [row[0] for row in await connection.fetch(ON_DISK)] == ["lz4"]


@pytest.mark.parametrize(("is_embedded", "state"), [(True, "warn"), (False, "ok")])
async def test_doctor_knows_the_statement_that_leaves_pglz_out_where_there_is_no_lz4(
    pglz_url: DatabaseUrl, index: str, is_embedded: bool, state: str
) -> None:
    await execute(pglz_url, ddl.definition())
    finding = await found(pglz_url, is_embedded=is_embedded)
    assert (finding.state, "raw pglz" in finding.finding) == (state, True)
    await execute(pglz_url, finding.fix.partition(";")[0])
    after = await found(pglz_url, is_embedded=is_embedded)
    assert (after.state, after.fix, "raw none" in after.finding) == ("ok", "", True)
    assert await stored(pglz_url) == PLAIN
    await ingest([index], Settings(database_url=pglz_url))
    async with session(pglz_url) as connection:
        assert [row[0] for row in await connection.fetch(ON_DISK)] == []


@pytest.mark.parametrize(("is_embedded", "state"), [(True, "warn"), (False, "ok")])
@pytest.mark.parametrize(
    "lacking",
    [
        "alter column description set storage extended",
        "reset (toast_tuple_target)",
        "set (toast_tuple_target = 8159)",
        "alter column description set storage extended, reset (toast_tuple_target)",
    ],
)
async def test_doctor_knows_the_statement_that_keeps_rows_whole_where_raw_alone_is_plain(
    pglz_url: DatabaseUrl, lacking: str, is_embedded: bool, state: str
) -> None:
    await execute(pglz_url, ddl.definition(compression="none"))
    assert (await found(pglz_url, is_embedded=is_embedded)).fix == ""
    await execute(pglz_url, f"alter table registry.assets {lacking}")
    finding = await found(pglz_url, is_embedded=is_embedded)
    assert (finding.state, "raw none" in finding.finding) == (state, True)
    assert "less CPU of the server, and 1.1 to 1.3 times the disk" in finding.fix
    await execute(pglz_url, finding.fix.partition(";")[0])
    assert await stored(pglz_url) == PLAIN
    after = await found(pglz_url, is_embedded=is_embedded)
    assert (after.state, after.fix) == ("ok", "")


async def test_doctor_checks_the_columns_that_a_load_writes_to_and_quotes_them(pglz_url: DatabaseUrl) -> None:
    """Also where a column was added with a default, whose value the catalog holds."""
    await execute(pglz_url, ddl.definition())
    await execute(
        pglz_url,
        "alter table registry.assets drop column raw, drop column description;"
        "alter table registry.assets add column payload jsonb default '{}'",
    )
    finding = await found(pglz_url)
    assert "new rows have payload pglz" in finding.finding
    await execute(pglz_url, finding.fix.partition(";")[0])
    assert "payload none" in (await found(pglz_url)).finding
    await execute(pglz_url, "alter table registry.assets drop column payload")
    findings = await check_database(pglz_url, {}, "registry", "auto")
    assert "compression" not in [finding.name for finding in findings]


@pytest.mark.parametrize("set_before", ["storage external", "storage extended"])
@pytest.mark.parametrize("method", ["lz4", "pglz", "none"])
async def test_the_statement_that_changes_a_table_takes_any_name(
    lz4_url: DatabaseUrl, method: Method, set_before: str
) -> None:
    name, column = 's."a b"', 'c "d'
    await execute(lz4_url, f'create schema s; create table {name} ("c ""d" text)')
    await execute(lz4_url, f'alter table {name} alter column "c ""d" set {set_before}')
    async with session(lz4_url) as connection:
        (before,) = await storage(connection, name, [column])
        await connection.execute(change(before, column, method))
        assert await methods(connection, name, column) == {column: method}
