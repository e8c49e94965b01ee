"""Which database a command goes to, that every report names it, and what the embedded one knows of the environment."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import Cli
from seed_registry import Settings, ingest
from seed_registry.errors import SettingsInvalid
from seed_registry.postgres.database_url import choose_url, parse_url
from seed_registry.postgres.libpq import PLACES, VARIABLES
from seed_registry.settings import DatabaseUrl

CANARY = "cAnArY"
INDEX = {
    "sources": [{"source_key": "data.example.org"}],
    "assets": [{"asset_key": "aaaa-0001", "source_key": "data.example.org"}],
}
# What none of our servers has, or is, in every variable of libpq's.
NONSENSE = {
    "PGHOST": "no.such.host.invalid", "PGHOSTADDR": "192.0.2.1", "PGPORT": "70000", "PGDATABASE": "nonsense",
    "PGUSER": "nobody-here", "PGPASSWORD": CANARY, "PGPASSFILE": "/nonexistent", "PGSERVICE": "nonsense",
    "PGSERVICEFILE": "/nonexistent", "PGOPTIONS": "-c no_such_setting=1", "PGAPPNAME": "another",
    "PGCONNECT_TIMEOUT": "soon", "PGCHANNELBINDING": "require", "PGREQUIREAUTH": "scram-sha-256",
    "PGREQUIREPEER": "nobody", "PGSSLMODE": "verify-full", "PGSSLNEGOTIATION": "direct", "PGSSLROOTCERT": "/none",
    "PGSSLCERT": "/nonexistent", "PGSSLKEY": "/nonexistent", "PGSSLCRL": "/nonexistent", "PGSSLCRLDIR": "/nonexistent",
    "PGSSLMINPROTOCOLVERSION": "SSLv3", "PGSSLMAXPROTOCOLVERSION": "SSLv3", "PGSSLCERTMODE": "require",
    "PGGSSENCMODE": "require", "PGKRBSRVNAME": "nonsense", "PGGSSLIB": "nonsense", "PGTARGETSESSIONATTRS": "standby",
    "PGLOADBALANCEHOSTS": "random",
}  # fmt: skip


@pytest.fixture
def index(tmp_path: Path) -> str:
    path = tmp_path / "index.json"
    path.write_text(json.dumps(INDEX))
    return str(path)


def in_variables(url: DatabaseUrl) -> dict[str, str]:
    """The same database, named by libpq's variables."""
    found = parse_url(url)
    (host, port) = found.hosts[0]
    assert host is not None
    return {
        "PGHOST": host,
        "PGPORT": str(port),
        "PGDATABASE": found.login["database"],
        "PGUSER": found.login["user"],
        "PGPASSWORD": CANARY,
    }


def assets(url: DatabaseUrl) -> int:
    async def run() -> Any:
        connection = await asyncpg.connect(url.reveal)
        try:
            return await connection.fetchval("select count(*) from registry.assets")
        finally:
            await connection.close()

    count: int = asyncio.run(run())
    return count


# --- the choice ----------------------------------------------------------------------------------------------------


def test_the_url_goes_before_database_url_before_the_variables_before_the_embedded_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert choose_url(None) is None
    monkeypatch.setenv("PGHOST", "variables.example.org")
    assert str(choose_url(None)) == "postgresql://variables.example.org/"
    monkeypatch.setenv("DATABASE_URL", "postgresql://database-url.example.org/d")
    assert str(choose_url(None)) == "postgresql://database-url.example.org/d"
    assert str(choose_url(DatabaseUrl("postgresql://flag.example.org/d"))) == "postgresql://flag.example.org/d"
    assert choose_url(DatabaseUrl("embedded")) is None
    monkeypatch.setenv("DATABASE_URL", "embedded")
    assert choose_url(None) is None
    monkeypatch.setenv("DATABASE_URL", "")
    assert str(choose_url(None)) == "postgresql://variables.example.org/"


HARMLESS = dict.fromkeys(VARIABLES, "x") | {
    "PGPORT": "5433",
    "PGSSLMODE": "prefer", "PGSSLNEGOTIATION": "postgres", "PGSSLROOTCERT": "", "PGSERVICE": "loading",
    "PGCHANNELBINDING": "prefer", "PGGSSENCMODE": "prefer", "PGSSLCERTMODE": "allow", "PGREQUIREAUTH": "",
    "PGREQUIREPEER": "", "PGSSLCRLDIR": "", "PGCONNECT_TIMEOUT": "5", "PGTARGETSESSIONATTRS": "any", "PGSSLCERT": "",
    "PGSSLKEY": "", "PGSSLCRL": "", "PGSSLMINPROTOCOLVERSION": "TLSv1.2", "PGSSLMAXPROTOCOLVERSION": "TLSv1.3",
    "PGPASSFILE": "",
}  # fmt: skip


@given(names=st.sets(st.sampled_from(sorted(VARIABLES))))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_server_is_chosen_exactly_where_a_variable_names_a_place(
    names: set[str], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = tmp_path_factory.getbasetemp() / "services"
    service.write_text("[loading]\nhost=service.example.org\n")
    with monkeypatch.context() as patch:
        for name in names:
            patch.setenv(name, str(service) if name == "PGSERVICEFILE" else HARMLESS[name])
        if "PGSERVICE" in names:
            patch.setenv("PGSERVICEFILE", str(service))
        if {"PGHOST", "PGHOSTADDR"} <= names or {"PGSERVICE", "PGHOSTADDR"} <= names:
            return  # see below
        found = choose_url(None)
        assert (found is not None) == bool(names & set(PLACES))


@pytest.mark.parametrize(
    ("variables", "shown", "hosts"),
    [
        ({"PGHOST": "db.example.org"}, "postgresql://db.example.org/", [("db.example.org", 5432)]),
        ({"PGHOST": "h", "PGPORT": "6543", "PGUSER": "a b@c"}, "postgresql://a%20b%40c@h:6543/", [("h", 6543)]),
        ({"PGHOST": "a,b", "PGPORT": "1,2"}, "postgresql://a:1,b:2/", [("a", 1), ("b", 2)]),
        ({"PGHOST": "a,b", "PGPORT": "1"}, "postgresql://a:1,b:1/", [("a", 1), ("b", 1)]),
        ({"PGHOST": "/var/run/x"}, "postgresql://%2Fvar%2Frun%2Fx/", [("/var/run/x", 5432)]),
        ({"PGHOST": "fe80::1%eth0"}, "postgresql://[fe80::1%25eth0]/", [("fe80::1%eth0", 5432)]),
        ({"PGHOSTADDR": "192.0.2.1"}, "postgresql://192.0.2.1/", [("192.0.2.1", 5432)]),
        ({"PGDATABASE": "a/b?c"}, "postgresql:///a%2Fb%3Fc", [(None, 5432)]),
    ],
)
def test_what_the_variables_name_is_reported_and_reached(
    variables: Mapping[str, str], shown: str, hosts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**variables, "PGPASSWORD": CANARY}.items():
        monkeypatch.setenv(name, value)
    url = choose_url(None)
    assert url is not None
    assert str(url) == shown
    found = parse_url(url)
    assert found.hosts == hosts
    assert found.login["password"] == CANARY
    assert found.login.get("database") == variables.get("PGDATABASE")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"PGHOST": "h", "PGHOSTADDR": "192.0.2.1"}, "host and hostaddr together"),
        ({"PGHOST": "h", "PGPORT": "70000"}, "a port is a number"),
        ({"PGHOST": "h", "PGCHANNELBINDING": "require"}, "channel_binding=require is not supported"),
        ({"PGSERVICE": "nonsense", "PGSERVICEFILE": "/nonexistent"}, "there is no service [nonsense]"),
        ({"PGDATABASE": "d", "PGPASSWORD": CANARY, "PGTARGETSESSIONATTRS": "x"}, "target_session_attrs is one of"),
    ],
)
def test_variables_that_cannot_be_are_blamed_by_name_and_not_on_a_flag(
    variables: Mapping[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsInvalid) as caught:
        choose_url(None)
    message = str(caught.value)
    assert said in message
    assert all(name in message for name in variables)
    assert "--database-url" not in message
    assert CANARY not in message


# --- every command -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_command_goes_to_the_server_that_the_variables_name(
    cli: Cli, database_url: DatabaseUrl, index: str, home: Path
) -> None:
    env = in_variables(database_url)
    name = env["PGDATABASE"]
    for command in (
        ("plan", index), ("load", index), ("verify", index), ("runs",), ("schema", "apply"), ("schema", "check"),
        ("digest",),
        ("doctor",),
    ):  # fmt: skip
        done = cli(*command, env=env)
        assert done.returncode == 0, (command, done.stderr)
        assert CANARY.encode() not in done.stdout + done.stderr
        if command[0] not in ("schema", "digest"):
            assert name in done.stdout.decode(), command
    assert assets(database_url) == 1
    assert not (home / "postgres-18").exists()


@pytest.mark.parametrize("by", ["PGSERVICE", "PGHOSTADDR"])
def test_a_service_and_an_address_name_a_server(
    by: str, cli: Cli, database_url: DatabaseUrl, index: str, tmp_path: Path, home: Path
) -> None:
    variables = in_variables(database_url)
    if by == "PGSERVICE":
        (tmp_path / "services").write_text(
            f"[loading]\nhost={variables['PGHOST']}\nport={variables['PGPORT']}\nuser={variables['PGUSER']}\n"
            f"dbname={variables['PGDATABASE']}\n"
        )
        done = cli("load", index, env={"PGSERVICE": "loading", "PGSERVICEFILE": str(tmp_path / "services")})
        assert done.returncode == 0, done.stderr
        assert assets(database_url) == 1
    else:
        done = cli("load", index, "--retry-for", "0", env={"PGHOSTADDR": "127.0.0.1", "PGPORT": "1", "PGUSER": "u"})
        assert done.returncode == 1
        assert b"cannot connect to postgresql://u@127.0.0.1:1" in done.stderr
    assert not (home / "postgres-18").exists()


@pytest.mark.slow
def test_the_embedded_server_knows_nothing_of_the_variables(cli: Cli, index: str, home: Path) -> None:
    home.chmod(0o711)
    env = NONSENSE | {"DATABASE_URL": "postgresql://no.such.host.invalid/d"}
    assert set(NONSENSE) == set(VARIABLES)
    flag = ("--database-url", "embedded")
    started = cli("db", "start", env=env)
    assert started.returncode == 0, started.stderr
    try:
        done = cli("load", index, *flag, "--json", env=env)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["database"]["embedded"] is True
        for command in (("plan", index), ("verify", index), ("runs",), ("schema", "check"), ("doctor",)):
            done = cli(*command, *flag, env=env)
            assert done.returncode == 0, (command, done.stdout, done.stderr)
        asked = cli("db", "psql", "--", "-Atc", "select count(*) from registry.assets", env=env)
        assert asked.stdout.decode().strip() == "1", asked.stderr
        assert cli("db", "url", env=env).stdout.startswith(b"postgresql://registry@/registry")
        bench = ("bench", index, *flag, "--batch-size", "10", "--concurrency", "1", "--repeat", "1", "--json")
        done = cli(*bench, env=env)
        assert done.returncode == 0, done.stderr
    finally:
        assert cli("db", "stop", env=env).returncode == 0


def test_variables_that_name_no_place_leave_the_embedded_server(cli: Cli, index: str, home: Path) -> None:
    home.chmod(0o711)
    env = {name: value for name, value in NONSENSE.items() if name not in PLACES}
    done = cli("load", index, "--json", env=env)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["database"]["embedded"], report["database"]["user"]) == (True, "registry")
    first = json.loads(done.stderr.splitlines()[0])
    assert (first["event"], first["database"]) == ("run_started", "embedded")
    assert CANARY.encode() not in done.stdout + done.stderr


@pytest.mark.anyio
async def test_in_python_settings_without_a_url_mean_the_same(
    database_url: DatabaseUrl, index: str, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setenv("SEED_REGISTRY_HOME", str(home))
    for name, value in in_variables(database_url).items():
        monkeypatch.setenv(name, value)
    report = await ingest(index, Settings())
    assert report.database is not None
    assert (report.database.name, report.database.embedded) == (os.environ["PGDATABASE"], False)


# --- what names it -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_report_names_the_database_and_no_secret(
    cli: Cli, database_url: DatabaseUrl, index: str, tmp_path: Path
) -> None:
    parts = urlsplit(database_url.reveal)
    user = parts.username
    url = DatabaseUrl(parts._replace(netloc=f"{user}:{CANARY}@{parts.netloc.rpartition('@')[2]}").geturl())
    host = parse_url(url).hosts[0][0]
    name = parts.path.removeprefix("/")
    page = tmp_path / "page.html"
    loaded = cli("load", index, "--json", "--html", page, url=url)
    reported = json.loads(loaded.stdout)["database"]
    server = reported.pop("server")
    assert reported == {"host": host, "port": 5432, "name": name, "user": user, "embedded": False}
    assert server.split(".")[0].isdigit()
    first, second = (json.loads(line) for line in loaded.stderr.splitlines()[:2])
    assert (first["event"], first["database"]) == ("run_started", f"postgresql://{user}@/{name}")
    assert second["event"] == "connected"
    assert {**reported, "server": server}.items() <= second.items()
    runs = json.loads(cli("runs", "--json", url=url).stdout)
    assert runs["database"] == reported | {"server": server}
    assert runs["runs"][0]["report"]["database"] == runs["database"]
    assert json.loads(cli("verify", index, "--json", url=url).stdout)["database"] == runs["database"]
    assert json.loads(cli("plan", index, "--json", url=url).stdout)["database"] == runs["database"]
    run_id = runs["runs"][0]["run_id"]
    words = f"{name} on {host} as {user} (Postgres {server})"
    for command in (("load", index), ("plan", index), ("runs",), ("runs", run_id), ("verify", index)):
        done = cli(*command, url=url)
        assert words in done.stdout.decode(), command
        assert CANARY.encode() not in done.stdout + done.stderr
    text = page.read_text()
    assert words in text
    assert CANARY not in text + loaded.stdout.decode() + loaded.stderr.decode()
    assert unquote(words) == words
