"""URLs: what people paste, and what becomes of it; the parameters are libpq's."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seed_registry.errors import SettingsInvalid
from seed_registry.postgres.conninfo import ConnInfo
from seed_registry.postgres.database_url import parse_url, unverified_host_note
from seed_registry.settings import DatabaseUrl

# In every message there could be; none may show it.
CANARY = "cAnArY"


@pytest.fixture(autouse=True)
def _nothing_else_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variables and no files of the user who runs the tests."""
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGSSLMODE", "PGSSLROOTCERT", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def target(url: str) -> ConnInfo:
    return parse_url(DatabaseUrl(url))


def refused(url: str) -> str:
    """The message about a URL that cannot be used."""
    with pytest.raises(SettingsInvalid) as raised:
        target(url)
    message = str(raised.value)
    assert message.startswith("--database-url is not usable: ")
    assert CANARY not in message
    assert "\n" not in message
    return message


# --- where it leads ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://h/d", [("h", 5432)]),
        ("postgresql://h:6543/d", [("h", 6543)]),
        ("postgres://u@h", [("h", 5432)]),
        ("postgresql+asyncpg://h/d", [("h", 5432)]),
        ("POSTGRESQL://h/d", [("h", 5432)]),
        ("jdbc:postgresql://h:1/d", [("h", 1)]),
        ("  postgresql://h/d\n", [("h", 5432)]),
        ("postgresql://[::1]/d", [("::1", 5432)]),
        ("postgresql://[2001:db8::1234]:6543/d", [("2001:db8::1234", 6543)]),
        ("postgresql://[fe80::1%25eth0]/d", [("fe80::1%eth0", 5432)]),
        ("postgresql://a,b:2,[::1]:3/d", [("a", 5432), ("b", 2), ("::1", 3)]),
        ("postgresql:///d?host=a,b&port=1,2", [("a", 1), ("b", 2)]),
        ("postgresql://x:9/d?host=a,b&port=7", [("a", 7), ("b", 7)]),
        ("postgresql:///d", [(None, 5432)]),
        ("postgresql://", [(None, 5432)]),
        ("postgresql://u@:6543/d", [(None, 6543)]),
        ("postgresql://%2Fvar%2Frun%2Fpostgresql/d", [("/var/run/postgresql", 5432)]),
        ("postgresql://%2Fvar%2Frun%20x:6543/d", [("/var/run x", 6543)]),
        ("postgresql:///d?host=/tmp", [("/tmp", 5432)]),
        ("postgresql:///d?hostaddr=10.0.0.1", [("10.0.0.1", 5432)]),
    ],
)
def test_hosts_and_ports_are_found_wherever_they_stand(url: str, hosts: list[Any]) -> None:
    assert target(url).hosts == hosts


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("postgresql://u:p@h/d", {"user": "u", "password": "p", "database": "d"}),
        ("postgresql://u%40x:p%40%2F%3A%3F%23%25@h/d%2Fe", {"user": "u@x", "password": "p@/:?#%", "database": "d/e"}),
        ("postgresql://u:p#q+r@h/d", {"user": "u", "password": "p#q+r", "database": "d"}),
        ("postgresql://u:p@q@h/d", {"user": "u", "password": "p@q", "database": "d"}),
        ("postgresql://u:a:b@h/d", {"user": "u", "password": "a:b", "database": "d"}),
        ("postgresql://u:%C3%A9@h", {"user": "u", "password": "é"}),
        ("postgresql://h?user=u&password=p%26q+r&dbname=d", {"user": "u", "password": "p&q+r", "database": "d"}),
        ("postgresql://u@h/d?user=v&database=e", {"user": "v", "database": "e"}),
        ("postgresql://h/", {}),
    ],
)
def test_a_login_is_read_as_libpq_reads_it(url: str, login: dict[str, str]) -> None:
    found = target(url)
    assert found.login == login
    assert "password" not in repr(found)


@given(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1))
def test_any_password_survives_percent_encoding(password: str) -> None:
    assert target(f"postgresql://u:{quote(password, safe='')}@h/d").login["password"] == password


@given(st.text(max_size=60))
def test_no_text_at_all_raises_anything_else(text: str) -> None:
    for url in (text, f"postgresql://{text}", f"postgresql://u:{CANARY}@h/d?{text}"):
        try:
            target(url)
        except SettingsInvalid as exc:
            assert CANARY not in str(exc)  # noqa: PT017  # most texts are fine


@pytest.mark.parametrize(
    "url",
    [
        "",
        CANARY,
        f"mysql://u:{CANARY}@h/d",
        f"postgresql:u:{CANARY}@h/d",
        f"postgresql://u:{CANARY}@h:port/d",
        f"postgresql://u:{CANARY}@h:0/d",
        f"postgresql://u:{CANARY}@h:70000/d",
        f"postgresql://u:{CANARY}@h:1,2/d?port=1,2,3",
        f"postgresql://u:{CANARY}@[::1/d",
        f"postgresql://u:{CANARY}@::1/d",
        f"postgresql://u:{CANARY}/x@h/d",
        f"postgresql://u:{CANARY}%FF@h/d",
        f"postgresql://u:{CANARY}%00@h/d",
        f"postgresql://u:1?{CANARY}=@h/d",
        f"postgresql://u:1?x={CANARY}@h/d",
        f"postgresql://u@h/d?{CANARY}",
        f"postgresql://u:{CANARY}@h/d?connect_timeout=soon",
        f"postgresql://u:{CANARY}@h/d?keepalives_idle=x",
        f"postgresql://u:{CANARY}@h/d?sslmode=perhaps",
        f"postgresql://u:{CANARY}@h/d?target_session_attrs=perhaps",
        f"postgresql://u:{CANARY}@h/d?host=a&hostaddr=1.2.3.4",
    ],
)
def test_a_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    refused(url)


def test_key_value_pairs_are_answered_with_the_url() -> None:
    message = refused(f"host=db.example.org port=6543 user='the loader' password='{CANARY} \\' x' dbname=registry")
    assert "postgresql://the%20loader@db.example.org:6543/registry" in message
    assert "postgresql://u@/d?host=/tmp" in refused(f"user=u password={CANARY} dbname=d host=/tmp")
    assert "postgresql://[::1]/d" in refused("host=::1 dbname=d")
    assert "key=value pairs are not supported" in refused(f"host=h password={CANARY} with spaces")


def test_an_unknown_parameter_is_named() -> None:
    assert 'parameter "colour"' in refused("postgresql://h/d?colour=blue")
    assert 'parameter "search_path"; settings of the server are given as options=-c' in refused(
        "postgresql://h/d?search_path=x"
    )


# --- parameters ----------------------------------------------------------------------------------------------------


def test_options_and_the_name_of_the_application_reach_the_server() -> None:
    found = target("postgresql://h/d?options=-c%20geqo%3Doff+x&application_name=nightly")
    assert found.server_settings == {"application_name": "nightly", "options": "-c geqo=off+x"}
    assert target("postgresql://h").server_settings == {"application_name": "seed-registry"}
    assert target("postgresql://h?fallback_application_name=f").server_settings == {"application_name": "f"}


@pytest.mark.parametrize(("given_", "seconds"), [("10", 10), ("1", 2), ("0", float("inf")), ("-1", float("inf"))])
def test_connect_timeout_counts_as_in_libpq(given_: str, seconds: float) -> None:
    assert target(f"postgresql://h?connect_timeout={given_}").timeout_seconds == seconds
    assert target("postgresql://h").timeout_seconds is None


def test_a_whole_url_of_a_provider_is_understood() -> None:
    """What Neon, Supabase, Prisma and others show to be copied."""
    neon = target("postgresql://u:p@ep-x-pooler.eu.aws.neon.tech/neondb?sslmode=require&channel_binding=prefer")
    assert neon.tls.mode == "require"
    prisma = target(
        "postgresql://postgres.abc:p@aws-0.pooler.supabase.com:6543/postgres?pgbouncer=true&connection_limit=1"
    )
    assert prisma.is_pooled
    assert prisma.ignored == ["connection_limit"]
    heroku = target("postgres://u:p@ec2-1-2-3-4.compute-1.amazonaws.com:5432/d1?ssl=true")
    assert heroku.tls.mode == "require"


@pytest.mark.parametrize(
    "promise",
    [
        "channel_binding=require",
        "gssencmode=require",
        "require_auth=scram-sha-256",
        "requirepeer=postgres",
        "sslcertmode=require",
        "sslcrldir=/x",
        "replication=database",
    ],
)
def test_what_promises_safety_and_cannot_be_had_is_refused(promise: str) -> None:
    assert promise.partition("=")[0].split("_")[0] in refused(f"postgresql://u:{CANARY}@h/d?{promise}")


def test_channel_binding_by_the_environment_is_refused_just_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCHANNELBINDING", "require")
    assert "sslmode=verify-full&sslrootcert=system" in refused("postgresql://h/d")
    assert target("postgresql://h/d?channel_binding=prefer")


def test_a_parameter_that_promises_nothing_is_ignored_and_listed() -> None:
    quiet = "channel_binding=disable&gssencmode=prefer&sslcertmode=allow&client_encoding=latin1&sslsni=1"
    assert target(f"postgresql://h/d?{quiet}").ignored == ["client_encoding", "sslsni"]


def test_the_environment_fills_what_the_url_leaves_open(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PGHOST": "from.env", "PGPORT": "6543", "PGUSER": "env", "PGDATABASE": "envdb", "PGPASSWORD": CANARY,
        "PGSSLMODE": "disable", "PGAPPNAME": "app", "PGCONNECT_TIMEOUT": "7", "PGOPTIONS": "-c geqo=off",
        "PGTARGETSESSIONATTRS": "primary", "PGLOADBALANCEHOSTS": "random",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    found = target("postgresql://")
    assert found.hosts == [("from.env", 6543)]
    assert found.login == {"user": "env", "database": "envdb", "password": CANARY}
    assert (found.timeout_seconds, found.session_attributes, found.is_shuffled) == (7, "primary", True)
    assert found.server_settings == {"application_name": "app", "options": "-c geqo=off"}
    said = target("postgresql://u:p@h:1/d?sslmode=allow&connect_timeout=9")
    assert (said.hosts, said.tls.mode, said.timeout_seconds) == ([("h", 1)], "allow", 9)
    assert said.login == {"user": "u", "database": "d", "password": "p"}


# --- files ---------------------------------------------------------------------------------------------------------


def test_a_service_file_fills_what_the_url_leaves_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "services.conf"
    file.write_text(
        f"# mine\n[other]\nhost=x\n[loading]\nhost=db.example.org\nport=6543\npassword={CANARY}%\ndbname=d\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    found = target("postgresql://u@/?service=loading&port=1")
    assert found.hosts == [("db.example.org", 1)]
    assert found.login == {"user": "u", "database": "d", "password": f"{CANARY}%"}
    assert "there is no service [missing]" in refused("postgresql:///?service=missing")
    (tmp_path / ".pg_service.conf").write_text(f"password={CANARY}\n")
    monkeypatch.delenv("PGSERVICEFILE")
    assert ".pg_service.conf cannot be read" in refused("postgresql:///?service=loading")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    nowhere, garbage = tmp_path / "nowhere.pem", tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    for name in ("sslrootcert", "sslcert", "sslkey", "sslcrl"):
        message = refused(f"postgresql://u:{CANARY}@h/d?sslmode=require&sslrootcert={garbage}&{name}={nowhere}")
        assert str(nowhere if name == "sslrootcert" else garbage) in message
    for name in ("sslrootcert", "sslcert", "sslkey"):
        message = refused(f"postgresql://u:{CANARY}@h/d?sslmode=require&{name}={nowhere}")
        assert f"{name} names {nowhere}: No such file or directory" in message
    assert f"sslcert names {garbage}" in refused(f"postgresql://h/d?sslcert={garbage}")
    assert f"passfile names {nowhere}: No such file" in refused(f"postgresql://h/d?passfile={nowhere}")
    garbage.chmod(0o644)
    assert f"chmod 600 {garbage}" in refused(f"postgresql://h/d?passfile={garbage}")
    garbage.chmod(0o600)
    assert target(f"postgresql://h/d?passfile={garbage}").login["passfile"] == str(garbage)


# --- TLS -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "mode", "verifies"),
    [
        ("", "prefer", False),
        ("sslmode=disable", "disable", False),
        ("sslmode=allow", "allow", False),
        ("sslmode=require", "require", False),
        ("sslmode=verify-full&sslrootcert=system", "verify-full", True),
        ("sslrootcert=system", "verify-full", True),
        ("sslmode=verify-full&sslrootcert=system&sslnegotiation=direct", "verify-full", True),
    ],
)
def test_sslmode_says_how_the_server_is_trusted(query: str, mode: str, verifies: bool) -> None:
    tls = target(f"postgresql://db.example.org/d?{query}").tls
    assert (tls.mode, tls.is_verified) == (mode, verifies)
    if isinstance(tls.argument, ssl.SSLContext):
        assert tls.argument.check_hostname is verifies
        assert tls.argument.verify_mode == (ssl.CERT_REQUIRED if verifies else ssl.CERT_NONE)
        assert tls.argument.minimum_version == ssl.TLSVersion.TLSv1_2
    else:
        assert tls.argument == {"prefer": "prefer", "allow": "allow", "disable": False}[mode]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("sslmode=verify-full", "add sslrootcert=system or sslrootcert=FILE"),
        ("sslmode=verify-ca", "add sslrootcert=system or sslrootcert=FILE"),
        ("sslmode=require&sslrootcert=system", "requires sslmode=verify-full"),
        ("sslnegotiation=direct", "requires sslmode=require or stronger"),
        ("sslnegotiation=perhaps", "postgres or direct"),
        ("sslmode=require&ssl_min_protocol_version=SSLv3", "supported TLS versions are TLSv1.2 and TLSv1.3"),
    ],
)
def test_what_makes_no_sense_together_is_refused(query: str, said: str) -> None:
    assert said in refused(f"postgresql://u:{CANARY}@h/d?{query}")


def test_a_unix_socket_is_never_encrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert target("postgresql:///d?host=/tmp").tls.argument is False


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///d",
        "postgresql:///d?host=/tmp",
        "postgresql://localhost/d",
        "postgresql://127.0.0.1/d",
        "postgresql://127.8.9.1/d",
        "postgresql://[::1]/d",
        "postgresql://db.example.org/d?sslmode=verify-full&sslrootcert=system",
        "not a url",
    ],
)
def test_this_machine_and_a_verified_host_need_no_warning(url: str) -> None:
    assert unverified_host_note(DatabaseUrl(url)) is None


def test_a_piece_of_a_password_is_no_host_to_be_shown() -> None:
    assert CANARY not in (unverified_host_note(DatabaseUrl(f"postgresql://u:1@{CANARY}/2@db.example.org/d")) or "")


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require"])
def test_a_remote_host_that_proves_nothing_is_warned_of(mode: str) -> None:
    for hosts in ("db.example.org", "10.0.0.1", "[2001:db8::1]", "localhost,db.example.org"):
        warning = unverified_host_note(DatabaseUrl(f"postgresql://u:{CANARY}@{hosts}/d?sslmode={mode}"))
        assert warning is not None
        assert f"sslmode={mode} does not prove the identity of" in warning
        assert "sslmode=verify-full" in warning
        assert CANARY not in warning
