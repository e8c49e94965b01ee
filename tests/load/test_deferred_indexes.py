"""A first load without indexes leaves what any other leaves; whatever cuts it off, the indexes come back."""
# ruff: noqa: ASYNC240  # small files, and nothing else waits

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_retry import Told

import partitions
from conftest import Cli
from seed_registry import DatabaseUrl, MaxRejects, Settings, ingest
from seed_registry.api import replay
from seed_registry.errors import (
    DatabaseRefused,
    IndexBroken,
    IndexTaken,
    SchemaMismatch,
    SeedRegistryError,
    SettingsInvalid,
    TooManyRejects,
)
from seed_registry.key_hashes import KeyPart, hash_key
from seed_registry.load.repeated_keys import SeenKeys
from seed_registry.postgres.connection import session
from seed_registry.registry import ddl
from seed_registry.registry.digest import digest
from seed_registry.registry.introspection import introspect
from seed_registry.report import Report

pytestmark = pytest.mark.anyio

Json = Mapping[str, Any]
# All that describes the indexes and constraints of the assets.
INDEXES = """
select pg_get_indexdef(indexrelid) from pg_index where indrelid = 'registry.assets'::regclass
union all
select conname || ' ' || pg_get_constraintdef(oid) || ' ' || convalidated
from pg_constraint where conrelid = 'registry.assets'::regclass
order by 1
"""
DROPPED = "select name from seed_registry.deferred_indexes order by position"
ALL = ["assets_asset_key_key", "assets_source_id_idx", "assets_source_id_fkey", "assets_asset_key_key"]
EMPTY = "truncate registry.assets, registry.sources"
REFUSE = "alter table registry.assets add constraint refuse check (name <> 'refused')"
MOMENTS = [None, "2020-01-01T00:00:00Z", "2021-01-01T00:00:00Z", "2022-01-01T00:00:00Z", "never"]


@pytest.fixture
async def database_url(emptied_url: DatabaseUrl) -> DatabaseUrl:
    """A database with the registry's tables and the ledger, empty."""
    if partitions.are_on():
        pytest.skip("a partitioned table keeps its indexes")
    connection = await asyncpg.connect(emptied_url.reveal)
    await connection.execute("drop schema if exists seed_registry cascade")
    await partitions.create_tables(connection)
    await connection.close()
    return emptied_url


async def execute(url: DatabaseUrl, *statements: str) -> None:
    connection = await asyncpg.connect(url.reveal)
    try:
        for one in statements:
            await connection.execute(one)
    finally:
        await connection.close()


async def ask(url: DatabaseUrl, sql: str) -> list[Any]:
    connection = await asyncpg.connect(url.reveal)
    try:
        return [row[0] for row in await connection.fetch(sql)]
    finally:
        await connection.close()


async def digested(url: DatabaseUrl) -> object:
    async with session(url) as connection:
        return await digest(connection, await introspect(connection))


def asset(key: str, name: str = "n", of: str = "a.org", **fields: Any) -> Json:
    return {"type": "asset", "asset_key": key, "source_key": of, "name": name, **fields}


def index(directory: Path, records: Sequence[Json | bytes], name: str = "index.ndjson") -> str:
    sources = [{"type": "source", "source_key": key} for key in ("a.org", "b.org")]
    lines = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in (*sources, *records)]
    path = directory / name
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return str(path)


async def load(url: DatabaseUrl, *paths: str, told: Told | None = None, **options: Any) -> Report:
    some: dict[str, Any] = {
        "max_rejects": MaxRejects(percent=100),
        "rejects": str(Path(paths[0]).parent / "rejects"),
        "defer_indexes": True,
        "batch_size": 3,
        "concurrency": 2,
    }
    return await ingest(list(paths), Settings(database_url=url, **(some | options)), told)


def rejects(report: Report) -> list[str]:
    """What was rejected and why, in any order."""
    if report.rejects_file is None:
        return []
    lines = [json.loads(line) for line in Path(report.rejects_file).read_bytes().splitlines()]
    return sorted(f"{line['offset']} {line['reason']}" for line in lines)


async def left(url: DatabaseUrl, *paths: str, **options: Any) -> dict[str, Any]:
    """What a first load leaves and tells."""
    await execute(url, EMPTY)
    report = await load(url, *paths, resume=False, **options)
    assert report.verification is not None
    assert report.verification.passed
    return {
        "assets": report.assets,
        "sources": report.sources,
        "by index": [part.assets for part in report.per_index],
        "rejects": rejects(report),
        "digest": await digested(url),
    }


# As any other load

# Of few keys, so that most come again: sources and texts that change, moments that go back, records that are refused.
ASSETS = st.builds(
    asset,
    st.sampled_from("abcdefgh"),
    st.sampled_from(["one", "two", "\0"]),
    st.sampled_from(["a.org", "a.org", "b.org", "c.org"]),
    updated_at=st.sampled_from(MOMENTS),
)
BAD = st.sampled_from(
    [b"{", b"[]", b'{"type":"asset","source_key":"a.org"}']
    + [b'{"type":"asset","asset_key":"%c","source_key":"a.org","n":1e400000}' % key for key in b"yz"]
    + [b'{"type":"asset","asset_key":"%c","source_key":"a.org","n":"\\ud800"}' % key for key in b"cdz"]
)
FILES = st.lists(st.lists(st.one_of(ASSETS, ASSETS, BAD), max_size=30), min_size=1, max_size=3)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=FILES, batch_size=st.sampled_from([1, 2, 7, 500]))
async def test_rows_counts_and_rejects_are_those_of_a_load_with_indexes(
    database_url: DatabaseUrl, tmp_path: Path, files: list[list[Json | bytes]], batch_size: int
) -> None:
    paths = [index(tmp_path, records, f"{number}.ndjson") for number, records in enumerate(files)]
    options: dict[str, Any] = {"batch_size": batch_size, "derive_sources": True}
    try:
        expected = await left(database_url, *paths, defer_indexes=False, **options)
    except TooManyRejects:  # nothing else was there
        with pytest.raises(TooManyRejects):
            await left(database_url, *paths, **options)
        return
    assert await left(database_url, *paths, **options) == expected


async def test_all_indexes_and_constraints_are_dropped_and_come_back_as_they_were(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    await execute(
        database_url,
        'create index "By "" Name" on registry.assets using hash (name)',
        "create index on registry.assets (lower(url)) where url is not null",
        "create unique index by_key_too on registry.assets (asset_key)",
        "create unique index by_url on registry.assets (url)",
        "create unique index partly on registry.assets (asset_key) where name is null",
        "create table registry.notes (asset_key text references registry.assets (asset_key))",
    )
    before = await ask(database_url, INDEXES)
    told = Told()
    await load(database_url, index(tmp_path, [asset("x"), asset("x", "m")]), told=told)
    (dropped,) = told.of("indexes_dropped")
    named = dropped["indexes"].split(", ")
    assert {"assets_source_id_fkey", "assets_source_id_idx", 'By " Name', "assets_lower_idx"} <= set(named)
    assert not {"by_url", "partly", "assets_pkey"} & set(named), "these are not the key's, or not all of it"
    assert len({"assets_asset_key_key", "by_key_too"} & set(named)) == 1, "the notes depend on one of them"
    assert await ask(database_url, INDEXES) == before
    assert await ask(database_url, DROPPED) == []


async def test_a_record_that_only_the_database_refuses_is_rejected_when_the_indexes_are_there(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    await execute(database_url, REFUSE)
    records = [asset(f"{number}", "refused" if number % 4 == 0 else "n") for number in range(20)]
    path = index(tmp_path, [*records, asset("0", "later"), asset("1", "refused")])
    expected = await left(database_url, path, defer_indexes=False, batch_size=1)
    assert expected["assets"].rejected == 6
    for batch_size in (1, 3, 500):
        found = await left(database_url, path, batch_size=batch_size)
        assert found["digest"] == expected["digest"]
        # An earlier record of a key is only tried where a later one is refused, as in one batch.
        assert (found["assets"].inserted, found["assets"].rejected) == (16, 5)
        assert found["assets"].read == 22


async def test_a_table_that_refuses_everything_is_found_out_early(database_url: DatabaseUrl, tmp_path: Path) -> None:
    await execute(database_url, "alter table registry.assets add constraint none check (false)")
    with pytest.raises(DatabaseRefused, match=r"refuses all records: .*23514.*\n.*without --defer-indexes"):
        await load(database_url, index(tmp_path, [asset(f"{number}") for number in range(500)]))
    for defers in (True, False):
        with pytest.raises(DatabaseRefused, match="refuses every record"):
            await load(database_url, index(tmp_path, [asset("0")]), defer_indexes=defers)


async def test_another_unique_index_refuses_the_same_records(database_url: DatabaseUrl, tmp_path: Path) -> None:
    await execute(database_url, "create unique index by_url on registry.assets (url)")
    path = index(tmp_path, [asset(f"{number}", url=f"https://a.org/{number % 5}") for number in range(20)])
    other = index(tmp_path, [asset(f"other {number}", url=f"https://b.org/{number}") for number in range(4)], "other")
    found = await left(database_url, path, other)
    assert [(part.inserted, part.rejected) for part in found["by index"]] == [(5, 15), (4, 0)]


async def test_a_key_of_another_portal_is_rejected(database_url: DatabaseUrl, tmp_path: Path) -> None:
    paths = []
    for portal in ("a.org", "b.org"):
        record = {"identifier": "1", "title": portal, "landingPage": f"https://{portal}/1", "accessLevel": "public"}
        paths.append(str(tmp_path / portal))
        Path(paths[-1]).write_text(json.dumps([record]))
    found = await left(database_url, *paths)
    assert found == await left(database_url, *paths, defer_indexes=False)
    assert (found["assets"].inserted, found["assets"].rejected) == (1, 1)


@pytest.mark.parametrize("size", [None, 1])
def test_of_the_keys_that_came_before_none_is_missed(size: int | None) -> None:
    hashes, seen = [hash_key(f"{number}") for number in range(3_000)], SeenKeys(size)
    assert sum(seen.add(hashes)) < 30
    assert all(seen.add(hashes))


# When it does not apply


async def test_a_table_with_rows_is_loaded_with_its_indexes_every_night(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    path, told = index(tmp_path, [asset("x")]), Told()
    await load(database_url, path)
    report = await load(database_url, path, told=told)
    assert report.assets.unchanged == 1
    await load(database_url, path, told=told, only_newer=True)
    reasons = [kept["reason"] for kept in told.of("indexes_kept")]
    assert reasons == ["registry.assets has rows", "every record is compared with its row, to keep newer ones"]


async def test_a_part_of_the_keys_is_the_same(database_url: DatabaseUrl, tmp_path: Path) -> None:
    path, keys = index(tmp_path, [asset(f"{number % 40}", f"{number}") for number in range(50)]), KeyPart.parse("2/3")
    found = await left(database_url, path, keys=keys)
    assert found == await left(database_url, path, keys=keys, defer_indexes=False)
    assert 0 < found["assets"].inserted < 40


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("alter table registry.assets alter raw type json using raw::json", "need conversions"),
        ("alter table registry.assets alter name set default '', alter name set not null", "need conversions or def"),
        (
            """create function registry.same() returns trigger language plpgsql as $$ begin return new; end $$;
            create trigger same before insert on registry.assets for each row execute function registry.same()""",
            "has row triggers",
        ),
    ],
)
async def test_a_table_that_copy_cannot_fill_is_refused_before_anything_is_dropped(
    database_url: DatabaseUrl, tmp_path: Path, statement: str, message: str
) -> None:
    await execute(database_url, statement)
    before = await ask(database_url, INDEXES)
    with pytest.raises(DatabaseRefused, match=f"--defer-indexes: .*{message}.*load"):
        await load(database_url, index(tmp_path, [asset("x")]))
    assert await ask(database_url, INDEXES) == before


async def test_several_processes_and_rejects_are_usage_errors(database_url: DatabaseUrl, tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="--defer-indexes needs one process"):
        Settings(defer_indexes=True, processes=2)
    report = await load(database_url, index(tmp_path, [asset("x"), b'{"type":"asset","source_key":"a.org"}']))
    assert report.rejects_file is not None
    with pytest.raises(SettingsInvalid, match="leave out --defer-indexes"):
        await replay(report.rejects_file, Settings(database_url=database_url, defer_indexes=True))
    settings = Settings(database_url=database_url, dialect="seed", rejects=str(tmp_path / "again"))
    with pytest.raises(TooManyRejects, match="1 of 1"):
        await replay(report.rejects_file, settings)


# Others


@pytest.fixture
async def loader(database_url: DatabaseUrl) -> AsyncIterator[DatabaseUrl]:
    """A role that may load, and owns nothing."""
    role, parts = f"loader_{secrets.token_hex(4)}", urlsplit(database_url.reveal)
    name = parts.path[1:]
    await execute(database_url, f"create role {role} login", ddl.grants(role).replace(':"DBNAME"', f'"{name}"'))
    yield DatabaseUrl(urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}")))
    await execute(database_url, f"drop owned by {role}", f"drop role {role}")


async def test_it_needs_the_ledger_and_a_session_of_its_own(
    database_url: DatabaseUrl, loader: DatabaseUrl, tmp_path: Path
) -> None:
    path = index(tmp_path, [asset("x")])
    with pytest.raises(DatabaseRefused, match="--defer-indexes needs a session of its own: name the server"):
        await load(database_url, path, pooler="transaction")
    await execute(database_url, "revoke all on schema seed_registry from public")
    role = urlsplit(loader.reveal).username
    await execute(database_url, f"revoke all on schema seed_registry from {role}")
    with pytest.raises(DatabaseRefused, match=r"--defer-indexes needs the ledger, .* leave it out"):
        await load(loader, path)
    assert (await load(loader, path, defer_indexes=False)).assets.inserted == 1


async def test_the_history_of_a_first_load_is_the_same(database_url: DatabaseUrl, tmp_path: Path) -> None:
    path = index(tmp_path, [asset(f"{number % 15}", f"{number}") for number in range(20)])
    told = Told()
    found = await left(database_url, path, history=True, told=told)
    assert told.of("indexes_built")
    assert found == await left(database_url, path, history=True, defer_indexes=False)
    await execute(database_url, EMPTY, "alter table registry.assets drop column created_at")
    await load(database_url, path, history=True, told=told, resume=False)
    assert "row by row" in told.of("indexes_kept")[0]["reason"]


async def cut_off(url: DatabaseUrl, path: str, *, told: Told | None = None, **options: Any) -> None:
    """A load that ends before its indexes are built."""
    await execute(url, "alter table registry.assets add constraint broken check (name <> 'end')")
    with pytest.raises((IndexBroken, TooManyRejects)):
        await load(url, path, told=told, **({"max_rejects": MaxRejects(records=0, percent=None)} | options))
    await execute(url, "alter table registry.assets drop constraint broken")
    assert await ask(url, DROPPED) == ALL


def bad_index(tmp_path: Path) -> str:
    return index(tmp_path, [asset("x"), asset("y"), asset("z"), asset("z", "again"), b"{"])


async def test_only_the_owner_drops_and_builds(
    database_url: DatabaseUrl, loader: DatabaseUrl, tmp_path: Path, cli: Cli
) -> None:
    before, path = await ask(database_url, INDEXES), bad_index(tmp_path)
    with pytest.raises(DatabaseRefused, match="only the owner of tables and ledger can drop indexes: load as"):
        await load(loader, path)
    await cut_off(database_url, path)
    for defers in (True, False):
        with pytest.raises(DatabaseRefused, match=r"lacks assets_asset_key_key, .* was cut off\n.*schema apply"):
            await load(loader, path, defer_indexes=defers)
    with pytest.raises(SchemaMismatch, match=r"lacks assets_asset_key_key.*its owner builds them with"):
        await load(loader, path, dry_run=True)
    checked = await asyncio.to_thread(cli, "schema", "check", url=database_url)
    assert (checked.returncode, b"lacks assets_asset_key_key" in checked.stderr) == (1, True)
    doctor = await asyncio.to_thread(cli, "doctor", url=database_url)
    assert b"lacks assets_asset_key_key" in doctor.stdout
    applied = await asyncio.to_thread(cli, "schema", "apply", url=database_url)
    assert applied.returncode == 0
    assert b"built assets_asset_key_key, assets_source_id_idx, assets_source_id_fkey, which a load" in applied.stdout
    assert await ask(database_url, INDEXES) == before
    report = await load(loader, path, defer_indexes=False)
    assert report.assets.read == 5


async def test_a_role_that_loads_cannot_write_what_the_owner_will_execute(
    database_url: DatabaseUrl, loader: DatabaseUrl
) -> None:
    insert = (
        "insert into seed_registry.deferred_indexes (schema, position, kind, name, definition, run_id) "
        "values ('registry', 0, 'index', 'x', '{}', 'r')"
    )
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await execute(loader, insert.format("select 1"))
    await execute(database_url, insert.format("select 1; drop table registry.assets"))
    with pytest.raises(SeedRegistryError):
        async with session(database_url) as connection:
            await ddl.apply(connection)
    assert await ask(database_url, "select count(*) from registry.assets") == [0]


async def test_what_is_built_has_no_more_power_than_the_owner_of_the_tables(
    database_url: DatabaseUrl, loader: DatabaseUrl
) -> None:
    role = urlsplit(loader.reveal).username
    tables = ["registry.assets", "registry.sources", "seed_registry.runs", "seed_registry.deferred_indexes"]
    await execute(
        database_url,
        "create schema evil; create table evil.private ()",
        f"grant create on schema registry to {role}; grant usage on schema evil to {role}",
        *(f"alter table {table} owner to {role}" for table in tables),
    )
    await execute(
        loader,
        "insert into seed_registry.deferred_indexes (schema, position, kind, name, definition, run_id) "
        "values ('registry', 0, 'index', 'x', 'drop table evil.private', 'r')",
    )
    try:
        with pytest.raises(DatabaseRefused, match="must be owner of table private"):
            async with session(database_url) as connection:  # of a superuser
                await ddl.apply(connection)
    finally:
        await execute(database_url, *(f"alter table {table} owner to current_user" for table in tables))
    assert await ask(database_url, "select count(*) from evil.private") == [0]


async def test_no_other_load_runs_meanwhile_and_none_is_disturbed(database_url: DatabaseUrl, tmp_path: Path) -> None:
    path = index(tmp_path, [asset(f"{number}") for number in range(50)])
    other = index(tmp_path, [asset(f"{number}", "other") for number in range(50)], name="other.ndjson")
    errors: list[BaseException] = []

    class AtDrop(Told):
        def tell(self, level: str, event: str, /, **fields: Any) -> None:
            super().tell(level, event, **fields)
            if event == "indexes_dropped":
                for defers in (True, False):
                    try:
                        in_thread(load(database_url, other, defer_indexes=defers))
                    except SeedRegistryError as exc:
                        errors.append(exc)

    report = await load(database_url, path, told=AtDrop())
    assert report.assets.inserted == 50
    assert [type(error) for error in errors] == [IndexTaken, IndexTaken]
    assert "registry.assets lacks its indexes until the load with --defer-indexes" in str(errors[0])
    assert (await load(database_url, other)).assets.updated == 50


async def test_while_another_load_runs_the_indexes_stay(database_url: DatabaseUrl, tmp_path: Path) -> None:
    path = index(tmp_path, [asset(f"{number}") for number in range(50)])
    other = index(tmp_path, [asset(f"{number}", "other") for number in range(50)], name="other.ndjson")
    before, inner = await ask(database_url, INDEXES), Told()

    class AtOpen(Told):
        def tell(self, level: str, event: str, /, **fields: Any) -> None:
            super().tell(level, event, **fields)
            if event == "index_opened":
                in_thread(load(database_url, other, told=inner))

    report = await load(database_url, path, told=AtOpen(), defer_indexes=False)
    assert [kept["reason"] for kept in inner.of("indexes_kept")] == ["another load is running"]
    assert report.assets.updated == 50
    assert await ask(database_url, INDEXES) == before


def in_thread(awaited: Any) -> None:
    """Await this while the event loop of the test stands still."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, awaited).result()


# What is cut off


async def test_after_a_failure_the_next_load_builds_them_first(database_url: DatabaseUrl, tmp_path: Path) -> None:
    before, path, told, again = await ask(database_url, INDEXES), bad_index(tmp_path), Told(), Told()
    await cut_off(database_url, path, told=told)
    (missing,) = told.of("indexes_missing")
    assert "schema apply" in missing["note"]
    report = await load(database_url, path, defer_indexes=False, told=again)
    assert [len(again.of(event)) for event in ("building_indexes", "indexes_built")] == [1, 1]
    assert (report.assets.read, report.assets.rejected) == (5, 1)
    assert await ask(database_url, INDEXES) == before
    assert await ask(database_url, "select name from registry.assets where asset_key = 'z'") == ["again"]


async def test_an_index_that_breaks_off_is_settled_with_its_indexes(database_url: DatabaseUrl, tmp_path: Path) -> None:
    before, path = await ask(database_url, INDEXES), tmp_path / "broken.json"
    assets = ",".join(json.dumps(asset("x", name)) for name in ("one", "two"))
    path.write_text('{"sources":[{"source_key":"a.org"}],"assets":[' + assets + ',{"asset_key":"z"')
    with pytest.raises(IndexBroken):
        await load(database_url, str(path))
    assert await ask(database_url, INDEXES) == before
    assert await ask(database_url, "select name from registry.assets") == ["two"]


async def test_what_somebody_has_built_by_hand_is_not_built_again(database_url: DatabaseUrl, tmp_path: Path) -> None:
    before, path = await ask(database_url, INDEXES), bad_index(tmp_path)
    await cut_off(database_url, path)
    await execute(
        database_url,
        "alter table registry.assets add unique (asset_key)",
        "create index assets_source_id_idx on registry.assets (source_id)",
    )
    await load(database_url, path)
    assert await ask(database_url, INDEXES) == before


async def test_tables_that_were_dropped_need_no_indexes(database_url: DatabaseUrl, tmp_path: Path) -> None:
    await cut_off(database_url, bad_index(tmp_path))
    await execute(database_url, "drop table registry.assets")
    async with session(database_url) as connection:
        await ddl.apply(connection)
    assert await ask(database_url, DROPPED) == []


async def test_keys_that_another_program_wrote_twice_are_named(
    database_url: DatabaseUrl, tmp_path: Path, cli: Cli
) -> None:
    path = bad_index(tmp_path)
    await cut_off(database_url, path)
    await execute(
        database_url,
        "insert into registry.sources (provider, source_key) values ('one', 'one'), ('two', 'two')",
        "insert into registry.assets (asset_key, source_id) select e'x\\n\\x1b[1m', id from registry.sources "
        "where provider in ('one', 'two')",
    )
    message = r"several rows of a key.*: x\\n\\x1b\[1m\ndelete all but one row of each, then run `seed-registry schema"
    with pytest.raises(DatabaseRefused, match=message):
        await load(database_url, path)
    assert await ask(database_url, DROPPED) == ALL
    await execute(
        database_url,
        "delete from registry.assets as one using registry.assets as other "
        "where one.asset_key = other.asset_key and one.id > other.id",
    )
    assert (await asyncio.to_thread(cli, "schema", "apply", url=database_url)).returncode == 0
    assert await ask(database_url, DROPPED) == []


async def test_assets_whose_source_another_program_deleted_are_an_error(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    path = bad_index(tmp_path)
    await cut_off(database_url, path)
    await execute(database_url, "insert into registry.assets (asset_key, source_id) values ('lost', 424242)")
    with pytest.raises(DatabaseRefused, match=r"belong to sources that are not there.*\ndelete these assets, then run"):
        await load(database_url, path)
    await execute(database_url, "delete from registry.assets where source_id = 424242")
    await load(database_url, path)
    assert await ask(database_url, DROPPED) == []
