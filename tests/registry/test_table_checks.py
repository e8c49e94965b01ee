"""Tables of any shape: what `schema check` says of one is what `plan` says and what a load does."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
from pathlib import Path
from threading import Thread
from typing import Any, TypeAlias

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct, field
from msgspec.structs import asdict

from conftest import Cli, _login
from seed_registry import DatabaseUrl, MaxRejects, Report, Settings, ingest
from seed_registry.doctor.database import check_database
from seed_registry.errors import DatabaseRefused, SchemaMismatch, SeedRegistryError
from seed_registry.postgres.connection import session
from seed_registry.registry.introspection import introspect
from seed_registry.registry.preflight import rehearse
from seed_registry.report import Tally

pytestmark = pytest.mark.anyio

Connection: TypeAlias = "asyncpg.Connection[Any]"

# A column of assets: its type, and what it says of NULL. Each takes any text of the records, none tells two of them
# from each other by chance.
TEXTS = ["text", "varchar", "varchar(60)", "char(60)", "registry.words", "registry.short_words"]
NULLS = ["", "not null default ''", "not null default 'n/a'", "not null default 'at ' || pg_catalog.now()::text"]
MOMENTS = ["timestamptz", "timestamptz(0)", "timestamp", "timestamp(3)", "registry.moments"]
MOMENT_NULLS = ["", "not null default 'epoch'", "not null default pg_catalog.now()"]
DOCUMENTS = ["jsonb", "json", "text", "registry.documents"]
DOCUMENT_NULLS = ["", "not null default '{}'"]
DOMAINS = """
create schema registry;
create domain registry.words as text;
create domain registry.short_words as varchar(60) not null default 'none';
create domain registry.moments as timestamptz;
create domain registry.documents as jsonb;
create function registry.meddle() returns trigger language plpgsql as 'begin return new; end';
"""


class Shape(Struct, frozen=True):
    """A table of assets, and what else there is about it; `None` of a column that it does not have."""

    name: tuple[str, str] | None = ("text", "")
    description: tuple[str, str] | None = ("text", "")
    url: tuple[str, str] | None = ("text", "")
    updated_at: tuple[str, str] | None = ("timestamptz", "")
    raw: tuple[str, str] | None = ("jsonb", "")
    content_hash: str | None = ""
    ids: str = "generated always as identity"
    sources: str = ""
    key: str = "asset_key"
    index: str = ""  # what is said of the unique index of the key
    persistence: str = ""
    extras: frozenset[str] = field(default_factory=frozenset)

    @property
    def refused(self) -> bool:
        """Whether no upsert could go into it, by what Postgres' manual says."""
        # ON CONFLICT takes every index of the key's columns, whatever their order.
        is_ambiguous = "a deferrable constraint" in self.extras and self.key != "asset_key"
        return bool(self.index) or is_ambiguous or bool(self.extras & HOSTILE.keys())

    @property
    def ddl(self) -> str:
        """The statements that make it."""
        columns = [f"id bigint {self.ids}", "asset_key text not null", "source_id bigint not null"]
        fields = {name: getattr(self, name) for name in ("name", "description", "url", "updated_at", "raw")}
        columns += [f"{name} {' '.join(declared)}" for name, declared in fields.items() if declared is not None]
        if self.content_hash is not None:
            columns.append(f"content_hash bytea {self.content_hash}")
        if self.index == "deferrable":
            columns.append(f"unique ({self.key}) deferrable")
        index = f"create unique index the_key on registry.assets ({self.key})"
        if self.index:
            index += " where asset_key <> ''"
        sources = (
            "create table registry.sources (id bigint generated always as identity primary key, "
            f"provider text not null, source_key text not null, name text, url text {self.sources}, "
            "raw jsonb not null default '{}', unique (provider, source_key))"
        )
        return ";".join(
            (
                DOMAINS,
                sources,
                f"create {self.persistence} table registry.assets ({', '.join(columns)})",
                "" if self.index == "deferrable" else index,
                *((HARMLESS | HOSTILE)[extra] for extra in sorted(self.extras)),
            )
        )


RULE = "create rule {name} as on {event} to registry.assets {what}"
HARMLESS = {
    "a second unique index": "create unique index second on registry.assets (lower(asset_key), source_id)",
    "a partial unique index": "create unique index partial on registry.assets (asset_key) where source_id > 0",
    "a deferrable constraint": "alter table registry.assets add unique (asset_key, source_id) deferrable",
    "a foreign key": "alter table registry.assets add foreign key (source_id) references registry.sources",
    "a rule on DELETE": RULE.format(name="keep", event="delete", what="do also select 1"),
    "a disabled rule on INSERT": RULE.format(name="idle", event="insert", what="do also select 1")
    + "; alter table registry.assets disable rule idle",
    "a trigger": "create trigger meddle before insert or update on registry.assets for each row "
    "execute function registry.meddle()",
    "a deferred trigger": "create constraint trigger late after insert on registry.assets initially deferred "
    "for each row execute function registry.meddle()",
    "a computed column": "alter table registry.assets add shout text generated always as (upper(asset_key)) stored",
    "a check": "alter table registry.assets add check (asset_key <> '' and source_id > 0)",
    "more columns": "alter table registry.assets add note text not null default 'x', add gone int; "
    "alter table registry.assets drop gone",
    "row level security": "alter table registry.assets enable row level security",
    "a parent": "create table registry.all_things (asset_key text not null); "
    "alter table registry.assets inherit registry.all_things",
    "published inserts": "create publication {schema}_inserts for table registry.assets with (publish = 'insert')",
    "published, with an identity": "alter table registry.assets replica identity full; "
    "create publication {schema}_all for table registry.assets",
}
HOSTILE = {
    "a rule on INSERT": RULE.format(name="copy_inserts", event="insert", what="do also select 1"),
    "a rule on UPDATE": RULE.format(name="copy_updates", event="update", what="do also select 1"),
    "a disabled rule on UPDATE": RULE.format(name="idle_too", event="update", what="do also select 1")
    + "; alter table registry.assets disable rule idle_too",
    "a child": "create table registry.old_assets () inherits (registry.assets)",
    "published, without an identity": "alter table registry.assets replica identity nothing; "
    "create publication {schema}_updates for table registry.assets",
    "a required column": "alter table registry.assets add licence text not null",
    "a required domain": "create domain registry.needed as text not null; "
    "alter table registry.assets add permit registry.needed",
    "a link elsewhere": "create table registry.portals (id bigint primary key); "
    "alter table registry.assets add foreign key (source_id) references registry.portals",
}


def column(types: list[str], nulls: list[str]) -> st.SearchStrategy[tuple[str, str] | None]:
    return st.none() | st.tuples(st.sampled_from(types), st.sampled_from(nulls))


texts = column(TEXTS, NULLS)
shapes = st.builds(
    Shape,
    name=texts,
    description=texts,
    url=texts,
    updated_at=column(MOMENTS, MOMENT_NULLS),
    raw=column(DOCUMENTS, DOCUMENT_NULLS),
    content_hash=st.sampled_from([None, "", "not null default ''"]),
    ids=st.sampled_from(["generated always as identity", "generated by default as identity primary key", ""]),
    sources=st.sampled_from(["", "not null default ''", "not null default 'at ' || pg_catalog.now()::text"]),
    key=st.sampled_from(["asset_key", "source_id, asset_key", "asset_key, source_id"]),
    index=st.sampled_from(["", "", "", "", "", "deferrable", "partial"]),
    persistence=st.sampled_from(["", "", "unlogged"]),
    extras=st.frozensets(st.sampled_from([*HARMLESS, *HARMLESS, *HOSTILE]), max_size=3),
).filter(lambda shape: not (shape.persistence and any("published" in extra for extra in shape.extras)))


def records(version: str) -> list[dict[str, Any]]:
    """Some with every field, some with none; of another version all differ, whatever columns there are."""
    return [
        {"type": "source", "source_key": "a.org", "name": "A", "url": None, "v": version},
        {"type": "source", "source_key": "b.org", "url": "https://b.org", "v": version},
        *(
            {
                "type": "asset",
                "asset_key": f"key-{number}",
                "source_key": "ab"[number % 2] + ".org",
                "name": f"Name {version} {number}" if number % 3 else None,
                "description": f"What it is, {version}  " if number % 4 else None,
                "url": f"https://a.org/{version}/{number}" if number % 5 else None,
                "updated_at": f"20{20 + len(version)}-01-0{number}T10:00:00.{number}47Z" if number % 2 else None,
                "v": version,
            }
            for number in range(1, 8)
        ),
    ]


class Target:
    """The module's database, in which one shape after the other is made."""

    def __init__(self, url: DatabaseUrl, directory: Path) -> None:
        self.url = url
        self.indexes = {}
        for version in ("1", "22"):
            path = directory / f"{version}.ndjson"
            path.write_text("".join(json.dumps(record) + "\n" for record in records(version)))
            self.indexes[version] = str(path)

    async def make(self, connection: Connection, shape: Shape) -> None:
        """Its tables instead of those that were there."""
        name = f"p{os.getpid()}"
        for (publication,) in await connection.fetch("select pubname::text from pg_publication"):
            await connection.execute(f'drop publication "{publication}"')
        await connection.execute("drop schema if exists registry cascade; drop schema if exists seed_registry cascade")
        await connection.execute(shape.ddl.replace("{schema}", name))

    async def run(self, version: str, **options: Any) -> Report | SeedRegistryError:
        """A load, or what stopped it."""
        try:
            return await ingest([self.indexes[version]], self._settings(**options), Told())
        except SeedRegistryError as exc:
            return exc

    def _settings(self, **options: Any) -> Settings:
        return Settings(database_url=self.url, rejects=self.indexes["1"] + ".rejects", concurrency=1, **options)


class Told:
    """Keeps the events; at the first of one name it runs a function, while the load waits."""

    def __init__(self, event: str = "", statement: str = "", url: DatabaseUrl | None = None) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._wanted = (event, statement, url)

    def began(self, tally: Tally) -> None:
        """The load begins."""

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Something happened."""
        self.events.append((event, fields))
        wanted, statement, url = self._wanted
        if event == wanted and url is not None:
            self._wanted = ("", "", None)
            thread = Thread(target=lambda: asyncio.run(executed(url, statement)))
            thread.start()
            thread.join()

    def of(self, event: str) -> list[dict[str, Any]]:
        """Return the fields of the events of this name."""
        return [fields for name, fields in self.events if name == event]


async def executed(url: DatabaseUrl, statement: str) -> None:
    """Done by somebody else."""
    connection = await asyncpg.connect(url.reveal)
    await connection.execute(statement)
    await connection.close()


@pytest.fixture(scope="module")
def target(workshop_url: DatabaseUrl, tmp_path_factory: pytest.TempPathFactory) -> Target:
    return Target(workshop_url, tmp_path_factory.mktemp("targets"))


async def checked(connection: Connection) -> str | None:
    """What `schema check` refuses the tables for."""
    try:
        await rehearse(connection, await introspect(connection))
    except SchemaMismatch as exc:
        return str(exc)
    return None


def changed(report: Report | SeedRegistryError) -> dict[str, int]:
    """The counts of a run that went well, those that are 0 left out."""
    assert isinstance(report, Report), report
    assert report.verification is None or report.verification.passed, report.verification
    return {name: count for name, count in asdict(report.assets).items() if count and name != "read"}


async def agree(target: Target, shape: Shape) -> None:
    async with session(target.url) as connection:
        await target.make(connection, shape)
        refused = await checked(connection)
        assert (refused is not None) is shape.refused, refused
        doctor = [
            one.finding for one in await check_database(target.url, {}, "registry", "auto") if one.state == "fail"
        ]
        assert bool(doctor) is shape.refused, doctor
        planned = await target.run("1", dry_run=True)
        loaded = await target.run("1")
        if refused is not None:
            assert (str(planned), str(loaded)) == (refused, refused)
            assert await connection.fetchval("select count(*) from only registry.sources") == 0
            return
        assert changed(planned) == changed(loaded) == {"inserted": 7}
        await check_values(connection, shape)
        for options in ({"dry_run": True}, {}, {"full": True}, {"full": True, "dry_run": True}):
            assert changed(await target.run("1", **options)) == {"unchanged": 7}, options
        planned, updated = await target.run("22", dry_run=True), await target.run("22")
        assert changed(planned) == changed(updated)
        if shape.raw is not None:
            assert changed(updated) == {"updated": 7}
        assert changed(await target.run("22", full=True)) == {"unchanged": 7}
        assert changed(await target.run("22", dry_run=True)) == {"unchanged": 7}


async def check_values(connection: Connection, shape: Shape) -> None:
    """A text is what the record says, or the default that its column has for want of one."""
    for name in ("name", "description", "url"):
        if (declared := getattr(shape, name)) is None:
            continue
        type_, nulls = declared
        missing = {"": None, "not null default ''": "", "not null default 'n/a'": "n/a"}
        rows = await connection.fetch(f"select asset_key, {name}::text as text from registry.assets order by asset_key")
        for row, record in zip(rows, records("1")[2:], strict=True):
            text = record[name]
            if text is None and type_ == "registry.short_words" and not nulls:
                assert row["text"] == "none"
            elif text is not None or nulls in missing:
                wanted = text if text is not None else missing[nulls]
                assert row["text"] == (wanted.rstrip() if wanted and type_ == "char(60)" else wanted)
            else:
                assert row["text"].startswith("at ")


SCALE = int(os.environ.get("EXAMPLES_SCALE", "1"))
HEALTH = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]


@settings(max_examples=8, deadline=None, suppress_health_check=HEALTH)
@given(shape=shapes)
@pytest.mark.slow
def test_check_plan_and_load_agree_about_any_table(target: Target, shape: Shape) -> None:
    asyncio.run(agree(target, shape))


@pytest.mark.slow
@settings(max_examples=50 * SCALE, deadline=None, suppress_health_check=HEALTH)
@given(shape=shapes)
def test_check_plan_and_load_agree_about_any_of_many_tables(target: Target, shape: Shape) -> None:
    asyncio.run(agree(target, shape))


@pytest.mark.parametrize("extra", [*(pytest.param(extra, marks=pytest.mark.slow) for extra in HARMLESS), *HOSTILE])
def test_check_plan_and_load_agree_about_a_table_with(target: Target, extra: str) -> None:
    asyncio.run(agree(target, Shape(extras=frozenset([extra]))))


# --- one by one ---------------------------------------------------------------------------------------------------

SOURCES = """create schema registry; create table registry.sources (
  id bigint generated always as identity primary key, source_key text not null unique, name text, url text);"""
ASSETS = """create table registry.assets (
  id bigint generated always as identity primary key, source_id bigint not null references registry.sources,
  asset_key text not null unique, name text, description text, url text, updated_at timestamptz, raw jsonb,
  content_hash bytea);"""


def index(directory: Path, *assets: dict[str, Any], name: str = "index.json") -> str:
    """An index of one portal."""
    header = {"source": "socrata", "domain": "data.example.org", "datasets": assets}
    (directory / name).write_text(json.dumps(header))
    return str(directory / name)


async def load(url: DatabaseUrl, path: str, told: Told | None = None, **options: Any) -> Report:
    options = {"rejects": f"{path}.rejects", "concurrency": 1, **options}
    return await ingest([path], Settings(database_url=url, **options), told or Told())


async def test_columns_that_are_not_null_with_a_default_get_it_in_every_way_of_writing(
    bare_database_url: DatabaseUrl, bare_connection: Connection, tmp_path: Path
) -> None:
    """The case not_null_default_columns.sql."""
    assets = ASSETS.replace(
        "name text, description text", "name text not null default '', description text not null default 'none'"
    )
    await bare_connection.execute(SOURCES + assets)
    one = {"id": "aaaa-2222", "name": "A", "description": "what"}
    two, three = {"id": "bbbb-3333", "name": "B"}, {"id": "cccc-4444"}
    path = index(tmp_path, one, two, three)
    texts = "select asset_key, name, description from registry.assets order by asset_key"
    assert (await load(bare_database_url, path)).assets.inserted == 3  # copied, for none is there
    assert [tuple(row) for row in await bare_connection.fetch(texts)] == [
        ("aaaa-2222", "A", "what"), ("bbbb-3333", "B", "none"), ("cccc-4444", "", "none"),
    ]  # fmt: skip
    again: list[dict[str, Any]] = [{}, {"full": True}, {"dry_run": True, "full": True}]
    for options in again:
        assert (await load(bare_database_url, path, **options)).assets.unchanged == 3
    path = index(tmp_path, {"id": "aaaa-2222"}, {"id": "bbbb-3333", "name": "B", "description": "none"}, three)
    report = await load(bare_database_url, path)
    assert (report.assets.updated, report.assets.unchanged) == (2, 1)
    rows = await bare_connection.fetch(texts)
    assert tuple(rows[0]) == ("aaaa-2222", "", "none")
    assert report.verification
    assert report.verification.passed


FIXES = {
    "rules": "create rule a as on insert to registry.assets do also select 1; "
    "create rule b as on update to registry.assets do also select 1",
    "children": "create table registry.old () inherits (registry.assets)",
    "publications": "create publication {name} for table registry.assets; "
    "alter table registry.assets replica identity nothing",
    "deferrable keys": "alter table registry.assets drop constraint assets_asset_key_key; "
    "alter table registry.assets add unique (asset_key) deferrable",
    "ids without a default": "alter table registry.assets drop constraint assets_source_id_fkey; "
    "alter table registry.sources alter id drop identity; alter table registry.sources drop constraint sources_pkey; "
    "alter table registry.sources alter id drop not null",
    "citext": "alter table registry.assets alter asset_key type citext",
    "nondeterministic collations": "create collation registry.folded "
    "(provider = icu, locale = 'und-u-ks-level2', deterministic = false); "
    "alter table registry.assets alter asset_key type text collate registry.folded",
}


@pytest.mark.parametrize("obstacle", FIXES)
async def test_the_fix_that_an_obstacle_is_refused_with_removes_it(
    obstacle: str, database_url: DatabaseUrl, connection: Connection, tmp_path: Path
) -> None:
    if obstacle == "citext":
        try:
            await connection.execute("create extension citext schema pg_catalog")
        except asyncpg.PostgresError:
            pytest.skip("the server has no citext")
    try:
        await connection.execute(FIXES[obstacle].format(name=f"p{os.getpid()}"))
    except (asyncpg.FeatureNotSupportedError, asyncpg.UndefinedObjectError, asyncpg.InvalidParameterValueError):
        pytest.skip("the server has no such collation")
    path = index(tmp_path, {"id": "aaaa-2222"})
    with pytest.raises(SchemaMismatch) as refused:
        await load(database_url, path)
    assert await connection.fetchval("select count(*) from registry.sources") == 0
    await connection.execute(re.split("run:", str(refused.value))[-1])
    assert (await load(database_url, path)).assets.inserted == 1
    assert (await load(database_url, index(tmp_path, {"id": "aaaa-2222", "name": "A"}))).assets.updated == 1


async def test_unlogged_tables_are_warned_of_by_load_plan_check_and_doctor(
    database_url: DatabaseUrl, connection: Connection, tmp_path: Path, cli: Cli
) -> None:
    await connection.execute("alter table registry.assets set unlogged")
    for dry_run in (True, False):
        told = Told()
        await load(database_url, index(tmp_path, {"id": "aaaa-2222"}), told, dry_run=dry_run)
        (warning,) = told.of("unlogged_tables")
        assert warning["table"] == '"registry"."assets"'
        assert "emptied by a crash" in warning["note"]
    for command in (("schema", "check"), ("doctor",)):
        done = cli(*command, url=database_url)
        assert (done.returncode, b"emptied by a crash" in done.stdout) == (0, True)


async def test_rows_that_a_trigger_keeps_out_are_rejected_and_nothing_is_counted_that_is_not_there(
    database_url: DatabaseUrl, connection: Connection, tmp_path: Path
) -> None:
    await connection.execute(
        """create function registry.keep_out() returns trigger language plpgsql as $$ begin
             if new.name = 'no' then return null; end if;
             new.description := 'by trigger'; return new; end $$;
           create trigger keep_out before insert or update on registry.assets for each row
           execute function registry.keep_out()"""
    )
    path = index(tmp_path, *({"id": f"aaaa-000{n}", "name": "no" if n == 3 else "yes"} for n in range(6)))
    report = await load(database_url, path, verify_sample=0, max_rejects=MaxRejects(records=1))
    assert (report.assets.inserted, report.assets.rejected, report.assets.unchanged) == (5, 1, 0)
    rejects = Path(f"{path}.rejects").read_text()  # noqa: ASYNC240
    assert "a trigger of registry.assets keeps it out" in rejects
    path = index(tmp_path, {"id": "aaaa-0001", "name": "no"}, {"id": "aaaa-0002", "name": "yes"})
    report = await load(database_url, path, verify_sample=0, max_rejects=MaxRejects(records=1))
    assert (report.assets.updated, report.assets.unchanged, report.assets.rejected) == (0, 1, 1)


async def test_a_row_that_a_trigger_makes_what_it_is_already_is_unchanged(
    database_url: DatabaseUrl, connection: Connection, tmp_path: Path
) -> None:
    await connection.execute(
        """create function registry.trim() returns trigger language plpgsql as
           'begin new.name := trim(new.name); return new; end';
           create trigger trim before insert or update on registry.assets
           for each row execute function registry.trim()"""
    )
    assets = [{"id": f"aaaa-000{n}", "name": f" {n} "} for n in range(5)]
    told = Told()
    assert (await load(database_url, index(tmp_path, *assets), told, verify_sample=0)).assets.inserted == 5
    assert "trim: rows that a trigger changes differ from the index" in told.of("triggers")[0]["note"]
    versions = "select asset_key, ctid::text from registry.assets order by asset_key"
    path = tmp_path / "index.json"
    path.write_text(path.read_text().replace('"name": ', '"name":   '))
    report = await load(database_url, str(path), verify_sample=0)
    assert (report.assets.unchanged, report.assets.rejected) == (5, 0)
    renewed = await connection.fetch(versions)  # by now the rows have the hashes of these bytes
    assert await connection.fetchval("select bool_and(name = trim(name)) from registry.assets")
    report = await load(database_url, str(path), verify_sample=0)
    assert (report.assets.unchanged, report.assets.rejected) == (5, 0)
    assert await connection.fetch(versions) == renewed


async def test_a_column_whose_type_is_changed_during_a_load_stops_it_and_nothing_wrong_is_stored(
    database_url: DatabaseUrl, connection: Connection, tmp_path: Path
) -> None:
    path = index(tmp_path, *({"id": f"aaaa-000{n}", "name": "A"} for n in range(9)))
    alter = "alter table registry.assets alter raw type text using raw::text"
    with pytest.raises(SchemaMismatch, match=r"the columns of registry\.assets were changed during the load"):
        await load(database_url, path, Told("batch_merged", alter, database_url), batch_size=2)
    assert (await load(database_url, path)).verification
    assert await connection.fetchval("select bool_and(left(raw, 1) = '{') and count(*) = 9 from registry.assets")


async def test_numbers_that_only_json_can_hold_stay_as_they_are(
    database_url: DatabaseUrl, connection: Connection, tmp_path: Path
) -> None:
    """What a first load took by COPY, a later one must be able to compare."""
    await connection.execute("alter table registry.assets alter raw type json")
    path = tmp_path / "index.ndjson"
    path.write_text('{"type":"asset","asset_key":"a","source_key":"a.org","x":1e999999}')
    assert (await load(database_url, str(path), derive_sources=True)).assets.inserted == 1
    assert (await load(database_url, str(path), derive_sources=True, full=True)).assets.unchanged == 1


FOLDED = {
    "citext": "create extension citext schema pg_catalog; alter table registry.assets alter name type citext",
    "a nondeterministic collation": "create collation registry.folded "
    "(provider = icu, locale = 'und-u-ks-level2', deterministic = false); "
    "alter table registry.assets alter name type text collate registry.folded",
}


@pytest.mark.parametrize("has_hashes", [True, False])
@pytest.mark.parametrize("folding", FOLDED)
async def test_a_text_that_changes_in_case_only_is_updated_whatever_its_column_takes_for_equal(
    folding: str, has_hashes: bool, database_url: DatabaseUrl, connection: Connection, tmp_path: Path
) -> None:
    try:
        await connection.execute(FOLDED[folding])
    except asyncpg.PostgresError:
        pytest.skip("the server has none")
    await connection.execute("alter table registry.assets drop raw")
    if not has_hashes:
        await connection.execute("alter table registry.assets drop content_hash")
    assert (await load(database_url, index(tmp_path, {"id": "aaaa-2222", "name": "Air"}))).assets.inserted == 1
    path = index(tmp_path, {"id": "aaaa-2222", "name": "AIR"})
    assert (await load(database_url, path, dry_run=True)).assets.updated == 1
    assert (await load(database_url, path)).assets.updated == 1
    assert await connection.fetchval("select name::text from registry.assets") == "AIR"
    for full in (False, True):
        assert (await load(database_url, path, full=full)).assets.unchanged == 1


@pytest.mark.parametrize(
    "revoked",
    ["update (url) on registry.assets", "insert (name) on registry.sources", "select (raw) on registry.assets"],
)
async def test_a_role_that_may_not_write_a_column_is_refused_before_the_first_write(
    revoked: str, database_url: DatabaseUrl, connection: Connection, tmp_path: Path, cli: Cli
) -> None:
    """COPY into an empty table asks for less than the upsert of the next load."""
    role = f"columns_{secrets.token_hex(4)}"
    privilege, column, table = re.findall(r"(\w+) \((\w+)\) on (\S+)", revoked)[0]
    columns = await connection.fetchval(
        "select string_agg(attname::text, ', ') from pg_attribute where attrelid = $1::text::regclass and attnum > 0 "
        "and attname <> $2",
        table,
        column,
    )
    await connection.execute(
        f"create role {role} login; grant usage on schema registry to {role}; "
        f"grant select, insert, update on registry.sources, registry.assets to {role}; "
        f"revoke {privilege} on {table} from {role}; grant {privilege} ({columns}) on {table} to {role}"
    )
    limited = DatabaseUrl(_login(database_url.reveal, role, ""))
    path = index(tmp_path, {"id": "aaaa-2222"})
    try:
        with pytest.raises(
            DatabaseRefused, match=r"permission denied for table .*\n.*seed-registry schema grants ROLE"
        ):
            await load(limited, path)
        assert await connection.fetchval("select count(*) from registry.sources") == 0
        checked = cli("schema", "check", url=limited)
        assert (checked.returncode, b"permission denied" in checked.stderr) == (1, True)
    finally:
        await connection.execute(f"drop owned by {role}; drop role {role}")
