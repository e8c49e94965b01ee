"""Poolers: loads through a real PgBouncer in each of its modes; and TLS, which the test server may not offer."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from conftest import Cli
from seed_registry import ingest
from seed_registry.errors import DatabaseRefused, DatabaseUnavailable
from seed_registry.postgres.connection import session
from seed_registry.postgres.database_url import parse_url
from seed_registry.postgres.pooler import is_pooled
from seed_registry.postgres.session_settings import READ_ONLY
from seed_registry.settings import DatabaseUrl, MaxRejects, Settings
from seed_registry.synthetic.index import Workload, generate

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
OPENSSL = shutil.which("openssl")
CANARY = "cAnArY"

pytestmark = [
    pytest.mark.slow,  # each has a pooler of its own
    pytest.mark.anyio,
    pytest.mark.skipif(PGBOUNCER is None, reason="there is no pgbouncer"),
]

# Starts a PgBouncer before the test's database, or another, with these settings; the URL through it.
Pooler = Callable[..., DatabaseUrl]


class Recorder:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, dict[str, Any]]] = []

    def began(self, tally: object) -> None:
        """Ignore it."""

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Remember it."""
        self.told.append((level, event, fields))


@pytest.fixture
def pooler(database_url: DatabaseUrl, place: Path) -> Iterator[Pooler]:
    """PgBouncers of the test's own, stopped afterwards."""
    running = []

    def start(mode: str = "transaction", before: DatabaseUrl = database_url, **settings: object) -> DatabaseUrl:
        directory = Path(tempfile.mkdtemp(dir=place))
        options = {"pool_mode": mode, "listen_addr": "", "listen_port": 6432, **settings}
        url, account = configured(directory, before, options)
        assert PGBOUNCER is not None
        process = subprocess.Popen([PGBOUNCER, directory / "ini"], stderr=subprocess.DEVNULL, **account)
        running.append(process)
        deadline = time.monotonic() + 20
        while not listens(directory / f".s.PGSQL.{options['listen_port']}"):
            assert process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return url

    yield start
    for process in running:
        process.terminate()
        process.wait()


def listens(path: Path) -> bool:
    """Whether a server accepts connections there: the file exists a moment earlier."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def configured(
    directory: Path, database_url: DatabaseUrl, options: dict[str, object]
) -> tuple[DatabaseUrl, dict[str, Any]]:
    """A PgBouncer's files in a directory of its own: the URL of the database through it, and who it has to run as."""
    target = parse_url(database_url)
    ((host, port),) = target.hosts
    user, name = target.login["user"], target.login["database"]
    (directory / "users").write_text(f'"{user}" "{target.login.get("password", "")}"\n')
    own = {"unix_socket_dir": directory, "logfile": directory / "log"}
    trust = {"auth_type": "trust", "auth_file": directory / "users"}
    lines = "\n".join(f"{key} = {value}" for key, value in (own | trust | options).items())
    (directory / "ini").write_text(f"[databases]\n* = host={host} port={port}\n[pgbouncer]\n{lines}\n")
    url = DatabaseUrl(f"postgresql://{quote(user)}@/{name}?host={directory}&port={options['listen_port']}")
    if os.geteuid() != 0:
        return url, {}
    # It refuses to run as root, and the server's socket may be its owner's only.
    owner = Path(host).stat() if host and host.startswith("/") else None
    uid, gid = (owner.st_uid, owner.st_gid) if owner and owner.st_uid else (65534, 65534)
    for path in (directory, *directory.iterdir()):
        os.chown(path, uid, gid)
    return url, {"user": uid, "group": gid, "extra_groups": []}


@pytest.fixture
def index(tmp_path: Path) -> str:
    """An index of 20 sources and 1,000 assets."""
    path = tmp_path / "index.json"
    path.write_bytes(b"".join(generate(Workload(records=1000, sources=20))))
    return str(path)


def settings(url: DatabaseUrl, **others: Any) -> Settings:
    """Many small batches through several connections."""
    return Settings(database_url=url, batch_size=50, concurrency=4, **others)


async def contents(url: DatabaseUrl) -> list[asyncpg.Record]:
    """All assets with their sources, in the order of their keys."""
    async with session(url) as connection:
        rows: list[asyncpg.Record] = await connection.fetch(
            "select source_key, asset_key, asset.name, asset.raw from registry.assets asset "
            "join registry.sources source on source.id = source_id order by asset_key"
        )
        return rows


# --- loads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_a_load_through_a_pooler_is_as_exact_as_without(
    mode: str, pooler: Pooler, database_url: DatabaseUrl, index: str
) -> None:
    first = await ingest([index], settings(pooler(mode)))
    assert first.verification is not None
    assert first.verification.passed
    assert (first.assets.inserted, first.sources.inserted) == (first.assets.read - first.assets.duplicate, 20)
    through = await contents(database_url)
    again = await ingest([index], settings(database_url))
    assert (again.assets.inserted, again.assets.updated, again.sources.updated) == (0, 0, 0)
    assert await contents(database_url) == through


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_a_second_load_through_a_pooler_changes_nothing(mode: str, pooler: Pooler, index: str) -> None:
    url = pooler(mode)
    await ingest([index], settings(url))
    again = await ingest([index], settings(url))
    assert (again.assets.inserted, again.assets.updated) == (0, 0)
    assert again.assets.unchanged == again.assets.read - again.assets.duplicate


@pytest.mark.parametrize("size", [1, 2])
async def test_workers_share_fewer_servers_than_they_are(size: int, pooler: Pooler, index: str) -> None:
    report = await ingest([index], settings(pooler("transaction", default_pool_size=size)))
    assert report.assets.inserted == report.assets.read - report.assets.duplicate


async def test_nothing_is_left_to_the_next_client_of_the_server(
    pooler: Pooler, plain_connection: asyncpg.Connection[Any], index: str
) -> None:
    url = pooler("transaction", default_pool_size=1)
    await ingest([index], settings(url))
    stranger = await asyncpg.connect(url.reveal, statement_cache_size=0)
    try:
        for name in ("search_path", "statement_timeout", "lock_timeout", "jit", "synchronous_commit", "TimeZone"):
            assert await stranger.fetchval(f"show {name}") == await plain_connection.fetchval(f"show {name}"), name
        assert await stranger.fetchval("select count(*) from pg_prepared_statements where not from_sql") <= 1
        assert await stranger.fetchval("select count(*) from pg_class where relpersistence = 't'") == 0
        assert await stranger.fetchval("select count(*) from pg_locks where locktype = 'advisory'") == 0
    finally:
        await stranger.close()


async def test_lz4_is_for_transactions_of_ours_only(pooler: Pooler, lz4_url: DatabaseUrl) -> None:
    url = pooler(before=lz4_url, default_pool_size=1)
    async with session(url) as connection:
        assert is_pooled(connection)
        assert await connection.fetchval("show default_toast_compression") == "lz4"
    stranger = await asyncpg.connect(url.reveal, statement_cache_size=0)
    try:
        assert await stranger.fetchval("show default_toast_compression") == "pglz"
        name = await stranger.fetchval("select current_database()")
        await stranger.execute(f"alter database {name} set default_toast_compression = 'pglz'")
    finally:
        await stranger.close()
    async with session(pooler(before=lz4_url, listen_port=6433)) as connection:
        assert await connection.fetchval("show default_toast_compression") == "pglz", "somebody has set it"


async def test_a_pooler_that_keeps_sessions_is_used_like_a_server_if_the_settings_say_so(
    pooler: Pooler, index: str
) -> None:
    progress = Recorder()
    report = await ingest([index], settings(pooler("session"), pooler="none"), progress)
    assert report.assets.inserted == report.assets.read - report.assets.duplicate
    assert "pooler_found" not in [event for _, event, _ in progress.told]


async def test_a_pooler_that_was_found_is_logged_once(pooler: Pooler, index: str) -> None:
    progress = Recorder()
    await ingest([index], settings(pooler()), progress)
    assert [event for _, event, _ in progress.told].count("pooler_found") == 1


async def test_a_server_can_be_treated_as_a_pooler(database_url: DatabaseUrl, index: str) -> None:
    report = await ingest([index], settings(database_url, pooler="transaction"))
    assert report.assets.inserted == report.assets.read - report.assets.duplicate
    async with session(database_url) as connection:
        assert not is_pooled(connection)


async def test_a_dry_run_through_a_pooler_writes_nothing(
    pooler: Pooler, plain_connection: asyncpg.Connection[Any], index: str
) -> None:
    report = await ingest([index], settings(pooler(), dry_run=True))
    assert report.assets.inserted == report.assets.read - report.assets.duplicate
    assert await plain_connection.fetchval("select count(*) from registry.assets") == 0


async def test_a_record_that_the_database_refuses_is_found_through_a_pooler(
    pooler: Pooler, plain_connection: asyncpg.Connection[Any], index: str, tmp_path: Path
) -> None:
    await plain_connection.execute("alter table registry.assets add check (asset_key not like '%a')")
    report = await ingest(
        [index], settings(pooler(), rejects=str(tmp_path / "rejects"), max_rejects=MaxRejects(percent=100))
    )
    assert 0 < report.assets.rejected < report.assets.read
    assert report.assets.inserted == await plain_connection.fetchval("select count(*) from registry.assets")


async def test_a_server_lost_behind_the_pooler_ends_the_load_which_can_be_repeated(
    pooler: Pooler, plain_connection: asyncpg.Connection[Any], index: str
) -> None:
    url = pooler(default_pool_size=2)
    await plain_connection.execute("begin; lock table registry.assets in share mode")
    load = asyncio.ensure_future(ingest([index], settings(url)))
    blocked = "select pid from pg_locks where not granted and relation = 'registry.assets'::regclass"
    while (pid := await plain_connection.fetchval(blocked)) is None:
        assert not load.done()
        await asyncio.sleep(0.01)
    await plain_connection.execute(f"select pg_terminate_backend({pid})")
    await plain_connection.execute("rollback")
    try:
        await load
    except DatabaseUnavailable:
        report = await ingest([index], settings(url))
        assert report.verification is not None
        assert report.verification.passed


# --- sessions -----------------------------------------------------------------------------------------------------


async def test_statements_alone_go_in_transactions_of_their_own(pooler: Pooler) -> None:
    async with session(pooler()) as connection:
        assert is_pooled(connection)
        for _ in range(3):
            assert await connection.fetchval("select $1::int + 1", 1) == 2
            assert await connection.fetchval("show search_path") == "pg_catalog, pg_temp"
            assert await connection.fetchrow("select $1::text", "x") == ("x",)
            assert await connection.execute("select $1::int", 1) == "SELECT 1"
        assert not connection.is_in_transaction()
        async with connection.transaction():
            assert await connection.fetchval("show lock_timeout") == "1min"
            with pytest.raises(asyncpg.DivisionByZeroError):
                async with connection.transaction():
                    await connection.fetchval("select 1 / $1::int", 0)
            assert await connection.fetchval("show lock_timeout") == "1min"


async def test_a_read_only_session_through_a_pooler_cannot_write(pooler: Pooler) -> None:
    with pytest.raises(DatabaseRefused) as raised:
        async with session(pooler(), READ_ONLY) as connection, connection.transaction():
            await connection.execute("delete from registry.assets")
    assert raised.value.sqlstate == "25006"


# --- pools that are too small ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", ["auto", "none"])
@pytest.mark.parametrize("size", [1, 2, 4, 5])
async def test_a_session_pool_that_is_too_small_leaves_as_many_workers_as_it_has_room_for(
    size: int, chosen: Any, pooler: Pooler, database_url: DatabaseUrl, index: str, tmp_path: Path
) -> None:
    second = tmp_path / "second.json"
    second.write_bytes(b"".join(generate(Workload(records=300, sources=3, seed=5))))
    url, progress = pooler("session", default_pool_size=size), Recorder()
    report = await ingest([index, str(second)], settings(url, pooler=chosen), progress)
    assert report.verification is not None
    assert report.verification.passed
    assert report.assets.inserted + report.assets.updated + report.assets.duplicate == report.assets.read
    assert report.retries == 0
    told = [fields for _, event, fields in progress.told if event == "fewer_workers"]
    assert [fields["workers"] for fields in told] == ([] if size == 5 else [max(size - 1, 1)] * 2)  # of each index
    assert all("default_pool_size" in fields["reason"] for fields in told)
    assert len(await contents(database_url)) == report.assets.inserted
    again = await ingest([index, str(second)], settings(url, pooler=chosen))
    assert (again.assets.inserted, again.assets.updated) == (0, 0)


async def test_a_pool_that_others_use_up_is_named_and_not_the_host(
    pooler: Pooler, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seed_registry.postgres.connection.CONNECT_TIMEOUT_SECONDS", 2)
    url = pooler("session", default_pool_size=1)
    async with session(url, pooler="none"):
        with pytest.raises(DatabaseUnavailable) as raised:
            await ingest([index], settings(url))
    first, second = str(raised.value).splitlines()
    assert first.endswith(
        "the login is accepted, but the pooler has no server connection left: its pool is too small, or in use"
    )
    assert "default_pool_size" in second
    assert "--concurrency" in second


async def test_a_pooler_that_takes_fewer_clients_leaves_fewer_workers(pooler: Pooler, index: str) -> None:
    url, progress = pooler("session", max_client_conn=3), Recorder()
    report = await ingest([index], settings(url), progress)
    assert report.verification is not None
    assert report.verification.passed
    (told,) = [fields for _, event, fields in progress.told if event == "fewer_workers"]
    assert told["workers"] in (1, 2)  # one that was closed a moment ago may count still
    assert "max_client_conn" in told["reason"]


async def test_a_dry_run_shares_the_only_session_of_a_pool(pooler: Pooler, index: str) -> None:
    report = await ingest([index], settings(pooler("session", default_pool_size=1), dry_run=True))
    assert report.plan is not None
    assert report.plan.assets.new == 1000


async def test_a_url_can_say_itself_that_it_leads_to_a_pooler(database_url: DatabaseUrl) -> None:
    async with session(DatabaseUrl(f"{database_url.reveal}&pgbouncer=true")) as connection:
        assert is_pooled(connection)
    async with session(DatabaseUrl(f"{database_url.reveal}&pgbouncer=true"), pooler="none") as connection:
        assert not is_pooled(connection)


@pytest.mark.parametrize("chosen", ["auto", "transaction"])
async def test_a_pooler_of_statements_is_refused_before_the_first_write(
    chosen: Any, pooler: Pooler, plain_connection: asyncpg.Connection[Any], index: str
) -> None:
    with pytest.raises(DatabaseRefused) as raised:
        await ingest([index], settings(pooler("statement"), pooler=chosen))
    first, second = str(raised.value).splitlines()
    assert first.endswith(" allows no transactions: it pools statements")
    assert "pool_mode" in second
    assert await plain_connection.fetchval("select count(*) from registry.sources") == 0


async def test_options_that_a_pooler_does_not_pass_on_are_named(pooler: Pooler) -> None:
    with pytest.raises(DatabaseUnavailable, match="leave options= out of the URL"):
        async with session(DatabaseUrl(f"{pooler().reveal}&options=-c%20geqo%3Doff")):
            pass


@pytest.mark.slow
async def test_a_pooler_without_a_server_is_reported_as_such(pooler: Pooler, database_url: DatabaseUrl) -> None:
    url = pooler()
    missing = DatabaseUrl(url.reveal.replace(parse_url(database_url).login["database"], "no_such_database"))
    for chosen in ("auto", "transaction"):
        with pytest.raises(DatabaseUnavailable, match="cannot connect to "):
            async with session(missing, pooler=chosen):
                pass


def test_commands_work_through_a_pooler(pooler: Pooler, cli: Cli, index: str) -> None:
    url = pooler()
    assert cli("schema", "apply", url=url).returncode == 0
    assert cli("plan", index, url=url).returncode == 0
    assert cli("load", index, "--pooler", "transaction", url=url).returncode == 0
    assert cli("load", index, "--pooler", "perhaps", url=url).returncode == 2
    refused = cli("load", index, url=pooler("statement"))
    assert refused.returncode == 1
    assert b"it pools statements" in refused.stderr


# --- TLS ----------------------------------------------------------------------------------------------------------


@contextmanager
def certified(directory: Path, name: str) -> Iterator[tuple[Path, Path]]:
    """A certificate for a host, signed by itself, and its key."""
    if OPENSSL is None:
        pytest.skip("there is no openssl")
    key, certificate = directory / f"{name}.key", directory / f"{name}.crt"
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    named: list[str | Path] = ["-addext", f"subjectAltName=DNS:{name}", "-keyout", key, "-out", certificate]
    subprocess.run([OPENSSL, *made, *named], check=True, capture_output=True)
    yield certificate, key


@pytest.fixture
def tls_pooler(pooler: Pooler, place: Path) -> Iterator[Callable[[str], tuple[str, Path]]]:
    """Starts a PgBouncer that speaks TLS as a host of that name; its URL by localhost, and its certificate."""
    directory = Path(tempfile.mkdtemp(dir=place))
    directory.chmod(0o755)

    def start(name: str) -> tuple[str, Path]:
        with certified(directory, name) as (certificate, key):
            key.chmod(0o644)
            port = _free_port()
            files = {"client_tls_cert_file": certificate, "client_tls_key_file": key}
            url = pooler(listen_addr="127.0.0.1", listen_port=port, client_tls_sslmode="allow", **files)
        login = parse_url(url).login
        return f"postgresql://{quote(login['user'])}:{CANARY}@localhost:{port}/{login['database']}", certificate

    yield start
    shutil.rmtree(directory)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def encrypted(url: str) -> bool:
    """Whether a session is, if there is one."""
    async with session(DatabaseUrl(url)) as connection:
        assert await connection.fetchval("select 1") == 1
        return connection._transport.get_extra_info("ssl_object") is not None


async def test_sslmode_encrypts_and_verifies_as_far_as_it_says(
    tls_pooler: Callable[[str], tuple[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    url, certificate = tls_pooler("localhost")
    assert not await encrypted(f"{url}?sslmode=disable")
    assert not await encrypted(f"{url}?sslmode=allow")
    assert await encrypted(f"{url}?sslmode=prefer")
    assert await encrypted(f"{url}?sslmode=require")
    assert await encrypted(f"{url}?sslmode=verify-ca&sslrootcert={certificate}")
    assert await encrypted(f"{url}?sslmode=verify-full&sslrootcert={certificate}")
    by_system = await untrusted(f"{url}?sslrootcert=system")
    assert "sslrootcert=FILE" in by_system
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert await encrypted(f"{url}?sslrootcert=system")


async def test_the_certificate_of_another_host_is_good_enough_for_verify_ca_only(
    tls_pooler: Callable[[str], tuple[str, Path]],
) -> None:
    url, certificate = tls_pooler("db.example.org")
    assert await encrypted(f"{url}?sslmode=verify-ca&sslrootcert={certificate}")
    assert "localhost" in await untrusted(f"{url}?sslmode=verify-full&sslrootcert={certificate}")


async def test_a_certificate_of_somebody_else_is_not_trusted(
    tls_pooler: Callable[[str], tuple[str, Path]], tmp_path: Path
) -> None:
    url, _ = tls_pooler("localhost")
    with certified(tmp_path, "localhost") as (other, _):
        for mode in ("require", "verify-ca", "verify-full"):
            await untrusted(f"{url}?sslmode={mode}&sslrootcert={other}")


async def test_a_server_without_tls_is_not_spoken_to_where_tls_is_demanded(pooler: Pooler) -> None:
    port = _free_port()
    login = parse_url(pooler(listen_addr="127.0.0.1", listen_port=port)).login
    url = f"postgresql://{quote(login['user'])}:{CANARY}@127.0.0.1:{port}/{login['database']}"
    assert not await encrypted(f"{url}?sslmode=prefer")
    with pytest.raises(DatabaseUnavailable, match="does not offer TLS") as raised:
        await encrypted(f"{url}?sslmode=require")
    assert CANARY not in str(raised.value)


async def untrusted(url: str) -> str:
    """The message about a certificate that is not trusted."""
    with pytest.raises(DatabaseUnavailable, match="its certificate is not trusted") as raised:
        await encrypted(url)
    assert CANARY not in str(raised.value)
    return str(raised.value)


def test_the_doctor_tells_of_a_pooler(pooler: Pooler, cli: Cli) -> None:
    found = cli("doctor", url=pooler())
    assert found.returncode == 0, found.stdout
    (line,) = [line for line in found.stdout.decode().splitlines() if "pooler " in line[:14]]
    assert line.startswith("warn")
    assert "--pooler none" in line
    refused = cli("doctor", url=pooler("statement"))
    assert refused.returncode == 1
    assert "it pools statements" in refused.stdout.decode()
