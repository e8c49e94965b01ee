"""`seed-registry doctor`: what it finds on a real Postgres, and that its fixes work."""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg
import pytest

from conftest import Cli
from seed_registry.doctor import processes
from seed_registry.doctor.database import check_database
from seed_registry.doctor.local import Finding, check_disks, check_program
from seed_registry.postgres import process_budget
from seed_registry.postgres.identifiers import quoted
from seed_registry.settings import DatabaseUrl, Settings

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

CANARY = "cAnArY"


async def found(url: DatabaseUrl, **columns: str) -> dict[str, list[Finding]]:
    """Check a database; return the findings by name. Each is one line, and has a fix unless all is well."""
    findings: dict[str, list[Finding]] = {}
    for finding in await check_database(
        url, {f"assets.{field}": name for field, name in columns.items()}, "registry", "auto"
    ):
        assert "\n" not in finding.finding + finding.fix
        assert CANARY not in finding.finding + finding.fix
        assert finding.fix or finding.state == "ok"
        findings.setdefault(finding.name, []).append(finding)
    return findings


def failing(findings: dict[str, list[Finding]]) -> list[str]:
    """The names of what fails."""
    return [finding.name for same in findings.values() for finding in same if finding.state == "fail"]


def by(url: DatabaseUrl, user: str, password: str = CANARY) -> DatabaseUrl:
    """The same database by another user."""
    split = urlsplit(url.reveal)
    netloc = f"{quote(user)}:{password}@{split.netloc.rpartition('@')[2]}"
    return DatabaseUrl(urlunsplit(split._replace(netloc=netloc)))


@pytest.fixture
async def role(plain_connection: asyncpg.Connection[Any]) -> Any:
    """A role with no rights, whose name wants quoting."""
    name = f"Powerless {secrets.token_hex(4)}"
    await plain_connection.execute(f"create role {quoted(name)} login")
    await plain_connection.execute(
        "do $$ begin execute format('revoke temporary on database %I from public', current_database()); end $$"
    )
    yield name
    await plain_connection.execute(f"drop owned by {quoted(name)}; drop role {quoted(name)}")


# --- the command --------------------------------------------------------------------------------------------------


def test_a_healthy_database_passes(database_url: DatabaseUrl, cli: Cli) -> None:
    done = cli("doctor", url=database_url)
    assert done.returncode == 0, done.stdout
    assert done.stderr == b""
    lines = done.stdout.decode().splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "warn"}
    for wanted in ("seed-registry ", "Postgres ", "has all privileges that a load needs", "upserts use", "GB free"):
        assert any(wanted in line for line in lines), wanted


def test_json_has_the_same_findings(database_url: DatabaseUrl, cli: Cli) -> None:
    findings = json.loads(cli("doctor", "--json", url=database_url).stdout)["findings"]
    assert {tuple(finding) for finding in findings} == {("name", "state", "finding", "mend")}
    assert {"program", "connection", "tls", "pooler", "server", "privileges", "schema", "rejects"} <= {
        finding["name"] for finding in findings
    }


@pytest.mark.parametrize(
    ("url", "said", "fix"),
    [
        (f"postgresql://u:{CANARY}@no.such.host.invalid/d", "cannot connect to postgresql://u@no.such.host", "host"),
        (f"postgresql://u:{CANARY}@127.0.0.1:1/d", "cannot connect to postgresql://u@127.0.0.1:1/d", "running"),
        (f"postgresql://u:{CANARY}@h/d?channel_binding=require", "channel_binding", "sslmode=verify-full"),
        (f"host=h password={CANARY}", "key=value pairs are not supported", "postgresql://h/"),
    ],
)
def test_a_host_that_cannot_be_reached_fails(url: str, said: str, fix: str, cli: Cli) -> None:
    for options in ((), ("--json",)):
        done = cli("doctor", *options, env={"DATABASE_URL": url})
        assert done.returncode == 1
        (line,) = [line for line in done.stdout.decode().replace("}", "\n").splitlines() if "fail" in line]
        assert said in line
        assert fix in line
        assert CANARY not in done.stdout.decode() + done.stderr.decode()


def test_missing_tables_fail_with_the_command_that_creates_them(bare_database_url: DatabaseUrl, cli: Cli) -> None:
    done = cli("doctor", url=bare_database_url)
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.decode().splitlines() if line.startswith("fail")]
    assert "there is no table registry.sources" in line
    assert "seed-registry schema apply" in line
    assert cli("schema", "apply", url=bare_database_url).returncode == 0
    assert cli("doctor", url=bare_database_url).returncode == 0


def test_no_embedded_database_yet_is_no_failure_and_makes_none(cli: Cli, home: Path) -> None:
    done = cli("doctor")
    assert done.returncode == 0
    assert "there is no database yet" in done.stdout.decode()
    assert list(home.iterdir()) == []


@pytest.mark.slow
def test_the_embedded_server_is_examined_and_left_as_it_was(cli: Cli, home: Path) -> None:
    home.chmod(0o711)  # as root, the server's own user has to pass through
    assert cli("db", "start").returncode == 0
    try:
        running = cli("doctor")
        assert running.returncode == 1, "its tables are made by the first load"
        assert "running as process" in running.stdout.decode()
        assert "until db stop" in cli("db", "status").stdout.decode()
    finally:
        assert cli("db", "stop").returncode == 0
    stopped = cli("doctor")
    assert "not running, a load starts it" in stopped.stdout.decode()
    assert "Postgres 18" in stopped.stdout.decode()
    assert "not running" in cli("db", "status").stdout.decode()


async def test_a_name_in_the_database_cannot_write_on_the_terminal(
    database_url: DatabaseUrl, plain_connection: asyncpg.Connection[Any], cli: Cli
) -> None:
    await plain_connection.execute('create schema "seed_registry_bench_\x1b[31m\u202e"')
    done = cli("doctor", url=database_url)
    text = done.stdout.decode()
    assert "drop schema" in text
    assert all(char.isprintable() or char == "\n" for char in text)


# --- what is found ------------------------------------------------------------------------------------------------


async def test_a_role_without_rights_is_given_the_grants_and_that_suffices(
    database_url: DatabaseUrl, plain_connection: asyncpg.Connection[Any], role: str
) -> None:
    url = by(database_url, role)
    findings = await found(url)
    (lacking,) = findings["privileges"]
    assert lacking.state == "fail"
    assert "temporary on database" in lacking.finding
    assert "select, insert, update on table assets" in lacking.finding
    assert lacking.fix.startswith("as the owner: grant ")
    await plain_connection.execute(lacking.fix.removeprefix("as the owner: "))
    assert failing(await found(url)) == []


async def test_sequences_of_serial_ids_need_a_grant(
    database_url: DatabaseUrl, plain_connection: asyncpg.Connection[Any], role: str
) -> None:
    await plain_connection.execute(
        "create sequence registry.own owned by registry.assets.id;"
        f"grant temporary on database {quoted(urlsplit(database_url.reveal).path[1:])} to {quoted(role)};"
        f"grant usage on schema registry to {quoted(role)};"
        f"grant select, insert, update on registry.sources, registry.assets to {quoted(role)}"
    )
    (lacking,) = (await found(by(database_url, role)))["privileges"]
    assert lacking.fix == f'as the owner: grant usage on sequence "registry"."own" to {quoted(role)};'


async def test_a_session_that_cannot_write_fails(
    database_url: DatabaseUrl, plain_connection: asyncpg.Connection[Any]
) -> None:
    """And nothing else does, so that an examination needs to write nothing."""
    name = f"reader_{secrets.token_hex(4)}"
    await plain_connection.execute(
        f"create role {name} login superuser; alter role {name} set default_transaction_read_only = on"
    )
    try:
        findings = await found(by(database_url, name))
        assert failing(findings) == ["read-only"]
        await plain_connection.execute(findings["read-only"][0].fix.partition(";")[0])
        assert failing(await found(by(database_url, name))) == []
    finally:
        await plain_connection.execute(f"drop role {name}")


async def test_a_wrong_password_fails(database_url: DatabaseUrl, demanding_role: tuple[str, str]) -> None:
    (login,) = (await found(by(database_url, demanding_role[0])))["connection"]
    assert (login.state, login.fix) == ("fail", "check user and password")


async def test_a_table_without_a_unique_index_fails_with_the_statement_that_makes_it(
    database_url: DatabaseUrl, plain_connection: asyncpg.Connection[Any]
) -> None:
    await plain_connection.execute("alter table registry.assets drop constraint assets_asset_key_key")
    (schema,) = (await found(database_url))["schema"]
    assert schema.state == "fail"
    assert "no unique index" in schema.finding
    await plain_connection.execute(schema.fix.removeprefix("run: "))
    assert failing(await found(database_url)) == []


async def test_columns_that_are_left_out_are_named(
    database_url: DatabaseUrl, plain_connection: asyncpg.Connection[Any]
) -> None:
    await plain_connection.execute("alter table registry.assets drop column description")
    sources, assets = (await found(database_url))["schema"]
    assert sources.state == "ok"
    assert (assets.state, "no column for description" in assets.finding) == ("warn", True)


async def test_what_slows_or_endangers_a_table_is_warned_of(
    database_url: DatabaseUrl, plain_connection: asyncpg.Connection[Any], role: str
) -> None:
    assert not {"indexes", "triggers", "row security", "unlogged"} & (await found(database_url)).keys()
    await plain_connection.execute(
        f"""
        create function registry.nothing() returns trigger language plpgsql as 'begin return new; end';
        create trigger slow before insert on registry.assets for each row execute function registry.nothing();
        drop index registry.assets_source_id_idx;
        create index on registry.sources (name); create index on registry.sources (url);
        create index on registry.sources (created_at); create index on registry.sources (updated_at);
        create index on registry.sources (provider);
        alter table registry.assets set unlogged;
        alter table registry.sources enable row level security;
        grant usage on schema registry to {quoted(role)};
        """
    )
    findings = await found(database_url)
    assert failing(findings) == []
    assert {finding.finding for finding in findings["indexes"]} == {
        "registry.sources has 7, all written for every row",
        "registry.assets has no index that begins with source_id",
    }
    assert "registry.assets has slow" in findings["triggers"][0].finding
    assert "is emptied by a crash" in findings["unlogged"][0].finding
    assert "row security" not in findings, "a superuser sees all rows"
    assert "registry.sources" in (await found(by(database_url, role)))["row security"][0].finding


async def test_settings_that_slow_a_load_are_warned_of(
    database_url: DatabaseUrl, plain_connection: asyncpg.Connection[Any]
) -> None:
    name = f"chatty_{secrets.token_hex(4)}"
    await plain_connection.execute(
        f"create role {name} login superuser; alter role {name} set log_statement = 'all';"
        f"alter role {name} connection limit 3"
    )
    try:
        findings = await found(by(database_url, name))
        assert any("logs every statement" in finding.finding for finding in findings["settings"])
    finally:
        await plain_connection.execute(f"drop role {name}")


async def test_a_database_that_cannot_hold_every_text_fails(
    server: str, plain_connection: asyncpg.Connection[Any]
) -> None:
    name = f"ascii_{secrets.token_hex(4)}"
    await plain_connection.execute(
        f"create database {name} encoding 'SQL_ASCII' template template0 lc_collate 'C' lc_ctype 'C'"
    )
    try:
        findings = await found(DatabaseUrl(urlunsplit(urlsplit(server)._replace(path=f"/{name}"))))
        assert failing(findings) == ["encoding", "schema"]
    finally:
        await plain_connection.execute(f"drop database {name}")


async def test_few_sessions_left_are_warned_of(
    database_url: DatabaseUrl, plain_connection: asyncpg.Connection[Any], role: str
) -> None:
    await plain_connection.execute(f"alter role {quoted(role)} connection limit 3")
    (sessions,) = (await found(by(database_url, role)))["sessions"]
    assert sessions.state == "warn"
    assert "--concurrency 2" in sessions.fix


async def test_schemas_of_benchmarks_are_leftovers_once_their_owner_is_gone(
    database_url: DatabaseUrl, plain_connection: asyncpg.Connection[Any]
) -> None:
    name = f"seed_registry_bench_{secrets.token_hex(4)}"
    lock = f"(hashtext('seed_registry.bench'), hashtext('{name}'))"
    await plain_connection.execute(f"create schema {name}; select pg_advisory_lock{lock}")
    assert [finding.state for finding in (await found(database_url))["leftovers"]] == ["ok"]
    await plain_connection.execute(f"select pg_advisory_unlock{lock}")
    (leftover,) = (await found(database_url))["leftovers"]
    assert leftover.state == "warn"
    await plain_connection.execute(leftover.fix)
    assert [finding.state for finding in (await found(database_url))["leftovers"]] == ["ok"]


def test_a_disk_without_space_fails() -> None:
    if sys.platform != "linux":
        pytest.skip("there is no disk that is always full")
    (finding,) = check_disks({"rejects": Path("/proc/sys/no/such/directory")})
    assert (finding.state, finding.name) == ("fail", "rejects")
    (finding,) = check_disks({"temporary files": Path(__file__).parent / "to" / "be" / "made"})
    assert finding.state in ("ok", "warn")


def test_versions_are_reported() -> None:
    assert check_program("1.2.3").finding.startswith("seed-registry 1.2.3, Python 3.")


# --- several processes --------------------------------------------------------------------------------------------


async def test_processes_that_the_server_has_no_sessions_for_are_told_with_a_number_that_it_has(
    database_url: DatabaseUrl, monkeypatch: pytest.MonkeyPatch, connection: asyncpg.Connection[Any]
) -> None:
    for module in (process_budget, processes):
        monkeypatch.setattr(module, "cores", lambda: 10_000)
    (finding,) = (await found(database_url))["processes"]
    assert finding.state == "warn"
    assert "raise max_connections" in finding.fix
    room = int(finding.fix.rpartition("--processes ")[2])
    settings = Settings(processes=room)
    free = await process_budget.free_sessions(connection)
    assert process_budget.sessions_of(settings, room) <= free + 1 < process_budget.sessions_of(settings, room + 2)


async def test_processes_that_the_memory_is_too_small_for_are_told(
    database_url: DatabaseUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (process_budget, processes):
        monkeypatch.setattr(module, "cores", lambda: 8)
    monkeypatch.setattr(processes, "free_memory", lambda: 300_000_000)
    (finding,) = (await found(database_url))["processes"]
    assert finding.state == "warn"
    assert finding.finding.startswith("8 cores: --processes auto starts ")
    assert finding.fix.startswith("load with --processes 2")


async def test_processes_that_fit_need_no_fix(database_url: DatabaseUrl, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (process_budget, processes):
        monkeypatch.setattr(module, "cores", lambda: 2)
    (finding,) = (await found(database_url))["processes"]
    assert (finding.state, finding.fix) == ("ok", "")
