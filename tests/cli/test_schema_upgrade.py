"""`schema upgrade`: what it shows, what it adds, and what it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from conftest import Cli
from seed_registry.registry.upgrade import OWN_COMMENT
from seed_registry.settings import DatabaseUrl

pytestmark = pytest.mark.anyio

ADDED = 'alter table "registry"."assets" add column "retired_at" timestamptz;'
COMMENT = "select obj_description('registry.assets'::regclass, 'pg_class')"
COLUMNS = "select count(*) from pg_attribute where attrelid = 'registry.assets'::regclass and attname = 'retired_at'"


async def test_new_tables_need_nothing(
    database_url: DatabaseUrl, connection: asyncpg.Connection[Any], cli: Cli
) -> None:
    assert await connection.fetchval(COMMENT) == OWN_COMMENT
    done = cli("schema", "upgrade", url=database_url)
    assert (done.returncode, done.stdout) == (0, b"nothing to do\n")


@pytest.mark.parametrize("comment", [OWN_COMMENT, None])
async def test_a_table_of_an_earlier_version_gets_the_column_once_that_is_allowed(
    database_url: DatabaseUrl, connection: asyncpg.Connection[Any], cli: Cli, comment: str | None
) -> None:
    await connection.execute("alter table registry.assets drop column retired_at")
    if comment is None:
        await connection.execute("comment on table registry.assets is null; comment on table registry.sources is null")
    asked = cli("schema", "upgrade", url=database_url, input=b"n\n")
    assert asked.returncode == 1
    assert ADDED in asked.stdout.decode()
    assert await connection.fetchval(COLUMNS) == 0
    done = cli("schema", "upgrade", "--yes", url=database_url)
    assert (done.returncode, done.stdout.decode().splitlines()[-1]) == (0, "upgraded")
    assert await connection.fetchval(COLUMNS) == 1
    assert await connection.fetchval(COMMENT) == OWN_COMMENT
    assert cli("schema", "upgrade", url=database_url).stdout == b"nothing to do\n"


async def test_a_table_of_another_program_is_not_altered(
    database_url: DatabaseUrl, connection: asyncpg.Connection[Any], cli: Cli
) -> None:
    await connection.execute("alter table registry.assets drop column retired_at, add column owner text")
    await connection.execute("comment on table registry.assets is 'ours'")
    done = cli("schema", "upgrade", "--yes", url=database_url)
    assert done.returncode == 1
    assert ADDED in done.stderr.decode()
    assert await connection.fetchval(COLUMNS) == 0
    assert await connection.fetchval(COMMENT) == "ours"


async def test_a_ledger_of_an_earlier_version_is_upgraded(
    database_url: DatabaseUrl, connection: asyncpg.Connection[Any], cli: Cli
) -> None:
    await connection.execute(
        "drop table seed_registry.run_sources; alter table seed_registry.checkpoints "
        "drop column returned, drop column older, drop column updated_by_older; "
        "alter table seed_registry.runs drop column retired"
    )
    asked = cli("schema", "upgrade", url=database_url, input=b"n\n")
    assert (asked.returncode, b"tables of schema seed_registry" in asked.stdout) == (1, True)
    assert cli("runs", url=database_url).returncode == 0
    assert cli("schema", "upgrade", "-y", url=database_url).returncode == 0
    assert await connection.fetchval("select count(*) from seed_registry.run_sources") == 0
    assert cli("schema", "upgrade", url=database_url).stdout == b"nothing to do\n"


async def test_the_provider_of_a_source_is_renamed_and_its_next_load_creates_no_other(
    database_url: DatabaseUrl, connection: asyncpg.Connection[Any], cli: Cli, tmp_path: Path
) -> None:
    await connection.execute("insert into registry.sources (provider, source_key) values ('socrata', 'd.org')")
    done = cli("schema", "upgrade", "--yes", "--rename-provider", "D.org=ckan", url=database_url)
    assert done.returncode == 0
    assert "set provider = 'ckan' where source_key = 'd.org'" in done.stdout.decode()
    assert await connection.fetch("select provider, source_key from registry.sources") == [("ckan", "d.org")]
    package = {"id": "k", "name": "trees", "metadata_modified": "2024-01-02", "resources": []}
    (tmp_path / "i.json").write_text(json.dumps([package]))
    assert cli("load", "i.json", "--domain", "d.org", url=database_url).returncode == 0
    assert await connection.fetch("select provider, source_key from registry.sources") == [("ckan", "d.org")]


@pytest.mark.parametrize(
    "text", ["ckan", "=ckan", "d.org=", "d.org=it's", "d.org=CKAN", "d'x=ckan", "d\\=ckan", "d\x1bx=ckan", "a/b=ckan"]
)
@pytest.mark.sampled(3)
def test_what_is_no_source_and_provider_is_a_usage_error(database_url: DatabaseUrl, cli: Cli, text: str) -> None:
    done = cli("schema", "upgrade", "--yes", "--rename-provider", text, url=database_url)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"SOURCE=NAME" in done.stderr
