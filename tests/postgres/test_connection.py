"""Connecting: what a URL becomes, how a session is set up and ends, and what is said when something is wrong."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import anyio
import asyncpg
import pytest

from seed_registry.errors import (
    DatabaseRefused,
    DatabaseUnavailable,
    DatabaseUrlInvalid,
    SchemaMissing,
    SeedRegistryError,
    SettingsInvalid,
)
from seed_registry.postgres import connection as connection_module
from seed_registry.postgres.connection import connect, session
from seed_registry.postgres.database_url import parse_url
from seed_registry.postgres.errors import to_our_error
from seed_registry.postgres.identifiers import quoted
from seed_registry.postgres.session_settings import READ_ONLY
from seed_registry.settings import DatabaseUrl

pytestmark = pytest.mark.anyio

Connection: TypeAlias = "asyncpg.Connection[Any]"

# In every message there could be; none may show it.
CANARY = "cAnArY"
URL = DatabaseUrl(f"postgresql://loader:{CANARY}@db.example.org:5432/registry")


def altered(url: DatabaseUrl, **parts: Any) -> DatabaseUrl:
    """The URL with other parts: scheme, user, path, and parameters added to its query."""
    split = urlsplit(url.reveal)
    query = dict(parse_qsl(split.query)) | parts.pop("query", {})
    if (user := parts.pop("user", None)) is not None:
        parts["netloc"] = f"{user}@{split.netloc.rpartition('@')[2]}"
    return DatabaseUrl(urlunsplit(split._replace(query=urlencode(query, quote_via=quote), **parts)))


async def failure(url: DatabaseUrl | str, error: type[SeedRegistryError]) -> str:
    """The message of a connection that fails."""
    with pytest.raises(error) as raised:
        await connect(DatabaseUrl(url) if isinstance(url, str) else url)
    message = str(raised.value)
    assert type(raised.value) is error
    assert CANARY not in message + repr(raised.value)
    assert message.count("\n") <= 1
    return message


# --- URLs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        CANARY,
        f"mysql://u:{CANARY}@h/d",
        f"host=localhost user=u password={CANARY}",
        f"postgresql://u:{CANARY}@h:port/d",
        f"postgresql://u:{CANARY}@127.0.0.1:70000/d",
        f"postgresql://u:{CANARY}@127.0.0.1:0/d",
        f"postgresql://u:{CANARY}@[::1/d",
        f"postgresql://u:{CANARY}/x@h/d",
        f"postgresql://u:{CANARY}@h/d?sslmode=perhaps",
        f"postgresql://u:{CANARY}@h/d?target_session_attrs=perhaps",
        f"postgres:u:{CANARY}@h:{CANARY}",
    ],
)
async def test_a_url_that_is_none_is_a_wrong_setting(url: str) -> None:
    assert "--database-url is not usable" in await failure(url, DatabaseUrlInvalid)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:1/{CANARY}@127.0.0.1:1/d",
        f"postgresql://u:1?{CANARY}@127.0.0.1:1/d",
        f"postgresql://u:1#{CANARY}@127.0.0.1:1/d",
        f"postgresql://u:1@1/{CANARY}@127.0.0.1:1/d",
        f"postgresql://u:1@127.0.0.1:1/d?password={CANARY}",
        f"postgresql://u@127.0.0.1:1/d?passfile={CANARY}",
        f"host=localhost password={CANARY}",
        f"u:{CANARY}@h/d",
        f"postgresql://u:{CANARY}@[::1/d",
    ],
)
def test_a_url_with_its_password_in_the_wrong_place_does_not_show_it(url: str) -> None:
    assert CANARY not in f"{DatabaseUrl(url)} {DatabaseUrl(url)!r}"


def test_a_url_shows_what_tells_databases_apart() -> None:
    assert str(DatabaseUrl("postgresql://u:p@h:5433/d?sslmode=require")) == "postgresql://u@h:5433/d"
    assert str(DatabaseUrl("postgresql://h/d")) == "postgresql://h/d"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg", "postgres+psycopg"])
async def test_the_scheme_may_name_a_driver(scheme: str, database_url: DatabaseUrl) -> None:
    async with session(altered(database_url, scheme=scheme)) as connection:
        assert await connection.fetchval("select 1") == 1


LIBPQ_ONLY = {
    "channel_binding": "prefer",
    "connect_timeout": "10",
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "5",
    "tcp_user_timeout": "1000",
    "gssencmode": "disable",
    "load_balance_hosts": "disable",
    "client_encoding": "latin1",
    "fallback_application_name": "x",
    "application_name": "somebody else",
}


async def test_what_only_libpq_understands_is_translated(database_url: DatabaseUrl) -> None:
    async with session(altered(database_url, query=LIBPQ_ONLY)) as connection:
        assert await connection.fetchval("show application_name") == "somebody else"
        assert await connection.fetchval("select convert_to('é', 'UTF8')") == b"\xc3\xa9"


async def test_an_unknown_parameter_is_named(database_url: DatabaseUrl) -> None:
    assert '"colour"' in await failure(altered(database_url, query={"colour": "blue"}), DatabaseUrlInvalid)


async def test_a_plus_in_a_parameter_is_no_space(database_url: DatabaseUrl) -> None:
    """As in libpq: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS."""
    url = DatabaseUrl(f"{database_url.reveal}&options=-cours.value%3Da+b")
    async with session(url) as connection:
        assert await connection.fetchval("show ours.value") == "a+b"


# --- failures -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def listener(answer: bytes | None) -> AsyncIterator[int]:
    """The port of something that listens and is no Postgres; without an answer it is silent."""
    answered = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer is None:
            await answered.wait()
        else:
            await reader.read(8)
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        answered.set()
        server.close()
        await server.wait_closed()


async def test_no_server_listens() -> None:
    message = await failure(f"postgresql://u:{CANARY}@127.0.0.1:1/d", DatabaseUnavailable)
    assert message.startswith("cannot connect to postgresql://u@127.0.0.1:1/d: ")
    assert "is the server running, are host and port right?" in message


async def test_no_such_host() -> None:
    await failure(f"postgresql://u:{CANARY}@no.such.host.invalid/d", DatabaseUnavailable)


async def test_no_such_socket_directory() -> None:
    message = await failure(f"postgresql://u:{CANARY}@/d?host=/no/such/directory", DatabaseUnavailable)
    assert "No such file or directory" in message


@pytest.mark.parametrize("sslmode", ["disable", "prefer", "require"])
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"N"])
async def test_something_else_listens(answer: bytes, sslmode: str) -> None:
    async with listener(answer) as port:
        url = f"postgresql://u:{CANARY}@127.0.0.1:{port}/d?sslmode={sslmode}"
        await failure(url, DatabaseUnavailable)


async def test_no_server_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "CONNECT_TIMEOUT_SECONDS", 0.2)
    async with listener(None) as port:
        message = await failure(f"postgresql://u:{CANARY}@127.0.0.1:{port}/d?sslmode=disable", DatabaseUnavailable)
    assert "no answer within 0.2 s" in message


async def test_no_such_database(database_url: DatabaseUrl) -> None:
    message = await failure(altered(database_url, path=f"/missing-{CANARY.lower()}"), DatabaseUnavailable)
    assert "the database does not exist; create it with createdb" in message


async def test_no_such_role(database_url: DatabaseUrl) -> None:
    message = await failure(altered(database_url, user=f"nobody:{CANARY}"), DatabaseUnavailable)
    assert '"nobody" does not exist' in message


async def test_no_server_of_the_kind_that_the_url_asks_for(database_url: DatabaseUrl) -> None:
    url = altered(database_url, user=f"registry:{CANARY}", query={"target_session_attrs": "standby"})
    assert "cannot connect to " in await failure(url, DatabaseUnavailable)


async def test_too_many_sessions(database_url: DatabaseUrl, connection: Connection) -> None:
    name = f"limited_{secrets.token_hex(4)}"
    await connection.execute(f"create role {name} login connection limit 0")
    message = await failure(altered(database_url, user=f"{name}:{CANARY}"), DatabaseUnavailable)
    await connection.execute(f"drop role {name}")
    assert "SQLSTATE 53300" in message


async def test_a_wrong_password(database_url: DatabaseUrl, demanding_role: tuple[str, str]) -> None:
    name, password = demanding_role
    message = await failure(altered(database_url, user=f"{name}:{CANARY}"), DatabaseUnavailable)
    assert "the server refused the login; check user and password" in message
    async with session(altered(database_url, user=f"{name}:{password}")) as connection:
        assert await connection.fetchval("select session_user") == name


async def test_no_password_where_one_is_demanded(
    database_url: DatabaseUrl, demanding_role: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSFILE", "/no/such/file")
    monkeypatch.delenv("PGPASSWORD", raising=False)
    message = await failure(altered(database_url, user=demanding_role[0]), DatabaseUnavailable)
    assert "cannot connect to " in message


async def test_a_password_in_the_query_works_and_is_not_shown(
    database_url: DatabaseUrl, demanding_role: tuple[str, str]
) -> None:
    name, password = demanding_role
    url = altered(database_url, user=name, query={"password": password})
    async with session(url) as connection:
        assert await connection.fetchval("select session_user") == name
    assert password not in str(url)
    await failure(altered(url, query={"password": CANARY}), DatabaseUnavailable)


async def test_an_error_in_a_session_does_not_show_the_password(
    database_url: DatabaseUrl, demanding_role: tuple[str, str]
) -> None:
    name, password = demanding_role
    for statement in ("select 1/0", "select pg_terminate_backend(pg_backend_pid())", "select from missing"):
        with pytest.raises(SeedRegistryError) as raised:
            async with session(altered(database_url, user=f"{name}:{password}")) as connection:
                await connection.execute(statement)
        assert password not in str(raised.value)


# --- sessions -----------------------------------------------------------------------------------------------------

SETTINGS = {
    "application_name": "seed-registry",
    "search_path": "pg_catalog, pg_temp",
    "TimeZone": "UTC",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "lock_timeout": "1min",
    "jit": "off",
    "default_transaction_read_only": "off",
}


async def test_a_session_is_set_up_for_loading_whatever_its_role_prefers(
    database_url: DatabaseUrl, connection: Connection
) -> None:
    name = f"impatient_{secrets.token_hex(4)}"
    await connection.execute(f"create role {name} login")
    limits = dict.fromkeys(await timeouts(connection), "1000") | {
        "search_path": "evil",
        "timezone": "Asia/Tokyo",
    }
    for setting, value in limits.items():
        await connection.execute(f"alter role {name} set {setting} to '{value}'")
    async with session(altered(database_url, user=name)) as impatient:
        assert await settings_of(impatient) == SETTINGS
        unset = {setting: await impatient.fetchval(f"show {setting}") for setting in await timeouts(connection)}
    await connection.execute(f"drop role {name}")
    assert unset.pop("lock_timeout") == "1min"
    assert set(unset.values()) == {"0"}


async def timeouts(connection: Connection) -> list[str]:
    """Every limit of this server on how long a session may take for something, by name."""
    rows = await connection.fetch(
        "select name from pg_settings where context = 'user' and category like 'Client Connection Defaults%' "
        "and name like '%timeout' and name <> 'gin_pending_list_limit'"
    )
    names = [name for (name,) in rows]
    assert {"statement_timeout", "idle_in_transaction_session_timeout", "lock_timeout"} <= set(names)
    return names


async def settings_of(connection: Connection) -> dict[str, str]:
    return {name: await connection.fetchval(f"show {name}") for name in SETTINGS}


async def test_a_read_only_session_cannot_write(database_url: DatabaseUrl) -> None:
    with pytest.raises(DatabaseRefused) as raised:
        async with session(database_url, READ_ONLY) as connection:
            await connection.execute("delete from registry.assets")
    assert raised.value.sqlstate == "25006"


async def sessions(observer: Connection) -> int:
    """How many sessions of ours there are besides the observer's."""
    count: int = await observer.fetchval(
        "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() "
        "and application_name = 'seed-registry'"
    )
    return count


async def gone(observer: Connection) -> bool:
    """Whether our sessions end; the server needs a moment to see that a socket is closed."""
    with anyio.move_on_after(20):
        while await sessions(observer):  # noqa: ASYNC110  # the server sends no notice
            await anyio.sleep(0.01)
        return True
    return False


async def test_a_session_that_succeeds_is_closed(database_url: DatabaseUrl, plain_connection: Connection) -> None:
    async with session(database_url) as connection:
        assert await sessions(plain_connection) == 1
    assert connection.is_closed()
    assert await gone(plain_connection)


@pytest.mark.parametrize("exception", [ZeroDivisionError, KeyboardInterrupt, SettingsInvalid])
async def test_a_session_in_which_something_fails_is_cut_off(
    exception: type[BaseException], database_url: DatabaseUrl, plain_connection: Connection
) -> None:
    with pytest.raises(exception):  # noqa: PT012  # it passes through the session
        async with session(database_url) as connection:
            await connection.execute("begin; create table registry.half_done ()")
            raise exception
    assert connection.is_closed()
    assert await gone(plain_connection)
    assert await plain_connection.fetchval("select to_regclass('registry.half_done')") is None


async def test_a_session_whose_statement_fails_raises_one_of_our_errors(
    database_url: DatabaseUrl, plain_connection: Connection
) -> None:
    with pytest.raises(DatabaseRefused, match="division by zero") as raised:
        async with session(database_url) as connection:
            await connection.execute("select 1/0")
    assert raised.value.sqlstate == "22012"
    assert isinstance(raised.value.__cause__, asyncpg.DivisionByZeroError)
    assert await gone(plain_connection)


async def test_a_session_that_is_cancelled_is_cut_off_at_once(
    database_url: DatabaseUrl, plain_connection: Connection
) -> None:
    """It waits for a lock that is not released; an awaited clean-up would never end."""
    async with plain_connection.transaction():
        await plain_connection.execute("lock table registry.assets")
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_count_assets, database_url)
                while not await plain_connection.fetchval("select true from pg_locks where not granted"):  # noqa: ASYNC110
                    await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()
    assert await gone(plain_connection)


async def _count_assets(url: DatabaseUrl) -> None:
    async with session(url) as connection:
        await connection.execute("select count(*) from registry.assets")


async def test_a_session_that_the_server_ends_is_a_lost_connection(
    database_url: DatabaseUrl, plain_connection: Connection
) -> None:
    with pytest.raises(DatabaseUnavailable, match="was lost") as raised:  # noqa: PT012  # one of them finds out
        async with session(database_url) as connection:
            await plain_connection.execute(f"select pg_terminate_backend({connection.get_server_pid()})")
            for _ in range(3):
                await connection.execute("select 1")
    assert "run it again when the server is back" in str(raised.value)


# --- translation --------------------------------------------------------------------------------------------------


def of(sqlstate: str, message: str = "what the server said") -> asyncpg.PostgresError:
    """An error as asyncpg makes it of a server's message, with a record's text in DETAIL and CONTEXT."""
    fields = {"C": sqlstate, "M": message, "D": f"Key (name)=({CANARY}) exists.", "W": f"COPY x, line 1: {CANARY}"}
    error: asyncpg.PostgresError = asyncpg.PostgresError.new(fields)
    return error


TRANSLATED = {
    "42P01": (SchemaMissing, "seed-registry schema apply"),
    "42703": (SchemaMissing, "seed-registry schema apply"),
    "3F000": (SchemaMissing, "seed-registry schema apply"),
    "42501": (DatabaseRefused, "seed-registry schema grants ROLE"),
    "53100": (DatabaseRefused, "the disk of postgresql://loader@db.example.org:5432/registry is full"),
    "57P01": (DatabaseUnavailable, "was lost"),
    "57P02": (DatabaseUnavailable, "was lost"),
    "57P03": (DatabaseUnavailable, "was lost"),
    "08006": (DatabaseUnavailable, "was lost"),
    "25006": (DatabaseRefused, "SQLSTATE 25006"),
    "55P03": (DatabaseRefused, "SQLSTATE 55P03"),
    "40P01": (DatabaseRefused, "SQLSTATE 40P01"),
    "XX000": (DatabaseRefused, "SQLSTATE XX000"),
    "23505": (DatabaseRefused, "SQLSTATE 23505"),
    "ZZ999": (DatabaseRefused, "SQLSTATE ZZ999"),
}


@pytest.mark.parametrize("sqlstate", TRANSLATED)
def test_an_error_is_translated_by_its_sqlstate(sqlstate: str) -> None:
    wanted, message = TRANSLATED[sqlstate]
    error = to_our_error(of(sqlstate), URL)
    assert type(error) is wanted
    assert message in str(error)
    assert "what the server said" in str(error)
    assert CANARY not in str(error)
    if isinstance(error, DatabaseRefused):
        assert error.sqlstate == sqlstate


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
        (BrokenPipeError(), "BrokenPipeError"),
        (TimeoutError(), "TimeoutError"),
        (OSError("no number"), "no number"),
        (asyncpg.InterfaceError("connection is closed"), "connection is closed"),
    ],
)
def test_a_broken_socket_is_a_lost_connection(error: Exception, said: str) -> None:
    lost = to_our_error(error, URL)
    assert type(lost) is DatabaseUnavailable
    assert str(lost).startswith(
        f"the connection to postgresql://loader@db.example.org:5432/registry was lost: {said}\n"
    )


async def test_missing_tables_in_a_session_say_how_to_create_them(bare_database_url: DatabaseUrl) -> None:
    with pytest.raises(SchemaMissing, match="seed-registry schema apply"):
        async with session(bare_database_url) as connection:
            await connection.execute("select from registry.assets")


async def test_missing_privileges_in_a_session_say_how_to_grant_them(
    database_url: DatabaseUrl, connection: Connection
) -> None:
    name = f"powerless {secrets.token_hex(4)}"
    await connection.execute(f"create role {quoted(name)} login")
    with pytest.raises(DatabaseRefused, match="seed-registry schema grants ROLE"):
        async with session(altered(database_url, user=quote(name))) as powerless:
            await powerless.execute("select from registry.assets")
    await connection.execute(f"drop role {quoted(name)}")


# --- sockets and hosts --------------------------------------------------------------------------------------------


async def test_the_kernel_watches_over_a_connection_as_the_url_says(tcp_url: str) -> None:
    told = "keepalives_idle=41&keepalives_interval=7&keepalives_count=3&tcp_user_timeout=9000"
    async with session(DatabaseUrl(f"{tcp_url}?{told}")) as connection:
        assert option(connection, socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert option(connection, socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 41
        assert option(connection, socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 7
        assert option(connection, socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3
        assert option(connection, socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 9000
    async with session(DatabaseUrl(tcp_url)) as connection:
        assert option(connection, socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    async with session(DatabaseUrl(f"{tcp_url}?keepalives=0")) as connection:
        assert option(connection, socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


async def test_the_next_host_is_tried_when_one_is_not_there(tcp_url: str) -> None:
    for dead in ("127.0.0.1:1", "no.such.host.invalid", "%2Fno%2Fsuch%2Fdirectory"):
        async with session(DatabaseUrl(tcp_url.replace("@", f"@{dead},"))) as connection:
            assert await connection.fetchval("select 1") == 1


@pytest.mark.slow
async def test_each_host_has_the_whole_connect_timeout(tcp_url: str) -> None:
    async with listener(None) as port:
        url = tcp_url.replace("@", f"@127.0.0.1:{port},") + "?connect_timeout=2&sslmode=disable"
        async with session(DatabaseUrl(url)) as connection:
            assert await connection.fetchval("select 1") == 1


@pytest.mark.slow
async def test_a_host_that_does_not_answer_is_given_up_as_the_url_says() -> None:
    async with listener(None) as port:
        url = f"postgresql://u:{CANARY}@127.0.0.1:{port}/d?connect_timeout=2&sslmode=disable"
        assert "no answer within 2 s" in await failure(url, DatabaseUnavailable)


async def test_a_standby_is_preferred_but_not_demanded(tcp_url: str) -> None:
    async with session(DatabaseUrl(f"{tcp_url}?target_session_attrs=prefer-standby")) as connection:
        assert not await connection.fetchval("select pg_is_in_recovery()")


async def test_hosts_in_random_order_are_all_tried(tcp_url: str) -> None:
    url = DatabaseUrl(tcp_url.replace("@", "@127.0.0.1:1,") + "?load_balance_hosts=random")
    for _ in range(4):
        async with session(url) as connection:
            assert await connection.fetchval("select 1") == 1


async def test_a_password_file_that_the_url_names_is_used(
    database_url: DatabaseUrl, demanding_role: tuple[str, str], tmp_path: Path
) -> None:
    name, password = demanding_role
    file = tmp_path / "passwords"
    file.write_text(f"*:*:*:{name}:{password}\n")
    file.chmod(0o600)
    async with session(altered(database_url, user=name, query={"passfile": str(file)})) as connection:
        assert await connection.fetchval("select session_user") == name


@pytest.fixture
async def tcp_url(database_url: DatabaseUrl) -> AsyncIterator[str]:
    """The database by 127.0.0.1: what comes in there is passed on to wherever the server listens."""
    target = parse_url(database_url)
    ((host, port),) = target.hosts
    login = quote(target.login["user"]) + ":" + quote(target.login.get("password", ""), safe="")

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if host is not None and host.startswith("/"):
            to_reader, to_writer = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            to_reader, to_writer = await asyncio.open_connection(host, port)
        await asyncio.gather(_copied(reader, to_writer), _copied(to_reader, writer))

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    try:
        address = server.sockets[0].getsockname()
        yield f"postgresql://{login}@127.0.0.1:{address[1]}/{target.login['database']}"
    finally:
        server.close()


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
    writer.close()


def option(connection: Connection, level: int, name: int) -> int:
    """An option of the socket."""
    value: int = connection._transport.get_extra_info("socket").getsockopt(level, name)
    return value
