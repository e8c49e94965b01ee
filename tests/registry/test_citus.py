"""Tables for Citus: what can be told of them on a plain server, which knows no shards."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import asyncpg
import pytest
from msgspec.structs import replace
from test_straight_copy import Ways, asset, assets, index, loaded, run, source, ways  # noqa: F401  # a fixture

from conftest import Cli
from seed_registry import DatabaseUrl, Settings, ingest
from seed_registry.doctor.citus import describe
from seed_registry.doctor.database import check_database
from seed_registry.errors import DatabaseRefused, SeedRegistryError
from seed_registry.postgres.connection import session
from seed_registry.registry import citus
from seed_registry.registry.citus import Distribution, Nodes, require_supported
from seed_registry.registry.ddl import distributed_script
from seed_registry.registry.introspection import introspect
from seed_registry.registry.queries import by_value, filter_by_hash, upsert
from seed_registry.registry.tables import Table, Tables
from seed_registry.synthetic.index import Workload, generate
from seed_registry.verify.snapshot import _probe

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]

REFUSES_COPY = """
    create function public.refuse_copy() returns trigger language plpgsql as $$
    begin
      if pg_catalog.current_query() ilike 'copy%' then
        raise exception 'connection to the remote node failed' using errcode = 'XX000';
      end if;
      return new;
    end $$;
    create trigger refuse_copy before insert on registry.assets for each row execute function public.refuse_copy();
"""


@pytest.fixture
async def tables(connection: asyncpg.Connection[Any]) -> Tables:
    return await introspect(connection)


def divided(tables: Tables) -> Tables:
    return Tables(tables.sources, replace(tables.assets, is_divided=True), tables.tied)


@pytest.fixture
def assets_are_divided() -> Iterator[None]:
    """The catalog of a plain server cannot say so."""

    async def is_divided(_: Any, name: str, *, has_citus: bool) -> bool:
        assert not has_citus
        return name.endswith('"assets"')

    with patch("seed_registry.registry.introspection.is_divided", is_divided):
        yield


def statements(table: Table) -> dict[str, str]:
    return {
        "filter_by_hash": filter_by_hash(table),
        **{name: by_value(table, name) for name in ("filter_by_value", "compare", "plan")},
        "probe": _probe(table, [*table.key, "source_id", "content_hash"], by_hash=True),
    }


async def test_batches_are_joined_with_the_assets_by_inner_joins_only(tables: Tables) -> None:
    """For an outer or an anti join Citus copies the whole table to one node, for every batch."""
    for name, text in statements(tables.assets).items():
        assert re.search(r"^join ", text, re.MULTILINE), name
        assert not re.search(r"\b(left|right|full|cross)\b|not exists", text), name


async def test_no_update_of_an_upsert_calls_a_function_of_the_clock(tables: Tables) -> None:
    for table in (tables.sources, tables.assets):
        update = upsert(table, "staged").partition("do update")[2].partition("where")[0]
        assert "now()" not in update
        assert "updated_at" in update


async def test_the_moment_of_a_source_is_that_of_its_last_change(
    database_url: DatabaseUrl, connection: asyncpg.Connection[Any], tmp_path: Path
) -> None:
    async def moments() -> tuple[Any, ...]:
        return tuple(await connection.fetchrow("select created_at, updated_at from registry.sources") or ())

    await loaded(database_url, index(tmp_path, source(), asset("1")))
    created, updated = await moments()
    assert created == updated
    await loaded(database_url, index(tmp_path, source(name="another"), asset("1")))
    again, changed = await moments()
    assert again == created < changed


async def test_the_statements_for_citus_make_tables_that_are_loaded_and_verified(
    bare_database_url: DatabaseUrl, tmp_path: Path, cli: Cli
) -> None:
    script = distributed_script("none")
    plain, count = re.subn(r"^select create_\w+\(.*\);$", "", script, flags=re.MULTILINE)
    assert count == 2
    await run(bare_database_url, plain)
    path = tmp_path / "sample.json"
    path.write_bytes(b"".join(generate(Workload(records=300, duplicates=3.0))))
    first = await ingest(str(path), Settings(database_url=bare_database_url))
    again = await ingest(str(path), Settings(database_url=bare_database_url))
    assert first.assets.inserted == again.assets.unchanged > 250
    assert again.assets.inserted + again.assets.updated == 0
    for command in (["verify", path], ["schema", "apply"], ["schema", "check"], ["doctor"]):
        done = cli(*command, url=bare_database_url)
        assert done.returncode == 0, done.stdout + done.stderr


def test_schema_show_prints_them(cli: Cli) -> None:
    done = cli("schema", "show", "--distributed")
    assert done.returncode == 0
    assert done.stdout.decode() == distributed_script()
    lines = done.stdout.decode().splitlines()
    order = [
        next(number for number, line in enumerate(lines) if line.startswith(start))
        for start in ("select create_reference_table", "select create_distributed_table", "alter table")
    ]
    assert order == sorted(order)
    assert "add foreign key" in lines[order[-1]]


async def test_a_session_switches_off_what_slows_the_catalog_of_citus(database_url: DatabaseUrl) -> None:
    name = "citus.override_table_visibility"
    known = DatabaseUrl(f"{database_url.reveal}{'&' if '?' in database_url.reveal else '?'}options=-c%20{name}%3Don")
    async with session(known) as connection:
        assert await connection.fetchval(f"show {name}") == "off"
    async with session(database_url) as connection:
        assert await connection.fetchval("select current_setting($1, true)", name) is None


@pytest.mark.usefixtures("assets_are_divided")
async def test_what_a_node_refuses_of_a_copy_is_staged(database_url: DatabaseUrl, tmp_path: Path, ways: Ways) -> None:  # noqa: F811
    await run(database_url, REFUSES_COPY)
    report = await loaded(database_url, index(tmp_path, source(), *assets(30)), batch_size=10, concurrency=1)
    assert report.assets.inserted == 30
    assert (ways.failed, ways.straight, ways.staged) == ([10], [], [10, 10, 10])


async def test_an_internal_error_of_a_plain_server_ends_the_load(database_url: DatabaseUrl, tmp_path: Path) -> None:
    await run(database_url, REFUSES_COPY)
    with pytest.raises(SeedRegistryError, match="XX000"):
        await loaded(database_url, index(tmp_path, source(), *assets(30)))


@pytest.mark.parametrize(
    ("options", "url", "says"),
    [
        ({"retires": True}, "postgresql://a/db", "--retire is not supported"),
        ({"records": True}, "postgresql://a/db", "--history is not supported"),
        ({}, "postgresql://a,b/db", "name one node only"),
    ],
)
async def test_what_divided_tables_cannot_do_is_refused(options: Any, url: str, says: str, tables: Tables) -> None:
    with pytest.raises(DatabaseRefused, match=says):
        require_supported(divided(tables), DatabaseUrl(url), **options)
    require_supported(tables, DatabaseUrl(url), **options)
    require_supported(divided(tables), DatabaseUrl("postgresql://a/db"))


@pytest.mark.usefixtures("assets_are_divided")
async def test_a_load_is_refused_before_it_writes(database_url: DatabaseUrl, tmp_path: Path) -> None:
    with pytest.raises(DatabaseRefused, match="--history"):
        await loaded(database_url, index(tmp_path, source(), asset("1")), history=True)
    async with session(database_url) as connection:
        assert not await connection.fetchval("select count(*) from registry.sources")


@pytest.mark.parametrize(
    ("sources", "assets", "state", "says"),
    [
        (None, None, "ok", "registry.assets is on this node alone"),
        (Distribution(False, True, None, 1), Distribution(True, False, "asset_key", 8), "ok", "8 shards by asset_key"),
        (
            Distribution(False, False, None, 1),
            Distribution(True, False, "asset_key", 8),
            "warn",
            "managed, on one node",
        ),
        (Distribution(False, True, None, 1), Distribution(True, False, "asset_key", 32), "warn", "many for a load"),
    ],
)
async def test_doctor_tells_how_citus_keeps_the_tables(
    sources: Distribution | None, assets: Distribution | None, state: str, says: str, tables: Tables
) -> None:
    finding = describe(Nodes("14.0-1", 2), tables, sources, assets)
    assert finding.state == state
    assert "Citus 14.0-1, 2 nodes with shards" in finding.finding
    assert says in finding.finding
    assert bool(finding.fix) == (state == "warn")


async def test_a_plain_server_has_no_nodes(connection: asyncpg.Connection[Any], database_url: DatabaseUrl) -> None:
    assert await citus.find_nodes(connection) is None
    findings = await check_database(database_url, {}, "registry", "auto")
    assert "citus" not in [finding.name for finding in findings]
