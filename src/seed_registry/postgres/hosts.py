"""Connect to the first host that answers and is of the wanted kind, as libpq does, and set the session up."""

from __future__ import annotations

import math
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from seed_registry.errors import DatabaseRefused, PoolerExhausted
from seed_registry.postgres.conninfo import ConnInfo
from seed_registry.postgres.pooler import PooledConnection
from seed_registry.postgres.session_settings import set_up
from seed_registry.postgres.timeouts import io_timeout
from seed_registry.settings import DatabaseUrl, PoolerName

# The options of the socket that libpq's parameters set, where the operating system has them.
_SOCKET_OPTIONS: Final = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}
# How much a Unix socket may hold that the server has not read yet.
_SEND_BYTES: Final = 2 << 20
# With the operating system's own a dead connection is noticed after two hours.
_KEEPALIVES: Final = {"keepalives_idle": 60, "keepalives_interval": 10, "keepalives_count": 6}


async def open_session(
    url: DatabaseUrl,
    conninfo: ConnInfo,
    *,
    pooler: PoolerName,
    own: dict[str, str],
    timeout_seconds: float,
    answer_seconds: float | None = None,
) -> asyncpg.Connection[Any]:
    """Open a session that is set up for loading; behind a pooler every transaction sets itself up.

    Raises:
        DatabaseRefused: the pooler assigns servers to statements.
        PoolerExhausted: the login is accepted, but the first statement is not answered.
        OSError: no host answers; the caller translates it, like asyncpg's own errors.
    """
    longest = timeout_seconds if conninfo.timeout_seconds is None else conninfo.timeout_seconds
    seconds = None if longest == math.inf else longest
    answer_seconds = answer_seconds or seconds  # after the login
    if pooler != "transaction" and not (conninfo.is_pooled and pooler == "auto"):
        connection = await _connect(conninfo, seconds)
        try:
            async with _answered(url):
                if await set_up(connection, own, unless_pooled=pooler == "auto", seconds=answer_seconds):
                    return connection
        except BaseException:  # also cancelled: uvloop does not close as long as a connection is left over
            connection.terminate()
            raise
        await connection.close(timeout=seconds)
    # A statement prepared in one server session would be executed in another: no cache.
    connection = await _connect(conninfo, seconds, connection_class=PooledConnection, statement_cache_size=0)
    connection.own_settings = own
    # Before it queries types asyncpg turns JIT off for the session, which the next client gets, too.
    connection._server_caps = connection._server_caps._replace(jit=False)  # noqa: SLF001
    try:
        async with _answered(url):
            await connection.execute("select", timeout=answer_seconds)  # is there a server behind the pooler?
        async with io_timeout(connection, seconds):
            await _check_transactions(connection, url)
    except BaseException:
        connection.terminate()
        raise
    return connection


@asynccontextmanager
async def _answered(url: DatabaseUrl) -> AsyncIterator[None]:
    try:
        yield
    except TimeoutError as exc:
        raise PoolerExhausted(
            f"cannot connect to {url}: the login is accepted, but the pooler has no server connection left: "
            "its pool is too small, or in use\nset its size to at least one more than --concurrency (PgBouncer: "
            "default_pool_size, pool_size, max_db_connections), or use fewer workers (--concurrency)"
        ) from exc


async def _check_transactions(connection: asyncpg.Connection[Any], url: DatabaseUrl) -> None:
    try:
        async with connection.transaction():
            pass
    except asyncpg.PostgresConnectionError as exc:
        raise DatabaseRefused(
            f"the pooler at {url} allows no transactions: it pools statements\n"
            "set its pool_mode to transaction or session, or name the server itself",
            sqlstate=exc.sqlstate,
        ) from exc


async def _connect(conninfo: ConnInfo, seconds: float | None, **options: Any) -> asyncpg.Connection[Any]:
    """Try one host after the other, each with the whole timeout."""
    hosts = random.sample(conninfo.hosts, len(conninfo.hosts)) if conninfo.is_shuffled else conninfo.hosts
    wanted = conninfo.session_attributes
    failure: BaseException | None = None
    for attributes in ("standby", "any") if wanted == "prefer-standby" else (wanted,):
        for host, port in hosts:
            try:
                connection = await asyncpg.connect(
                    conninfo.tls.dsn,
                    host=host,
                    port=port,
                    **conninfo.login,
                    ssl=conninfo.tls.argument,
                    direct_tls=conninfo.tls.direct,
                    target_session_attrs=attributes,
                    server_settings=conninfo.server_settings,
                    timeout=seconds,
                    **options,
                )
            except (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched) as exc:
                failure = exc
            else:
                _tune(connection, conninfo)
                return connection
    assert failure is not None, "there is at least one host"
    raise failure


def _tune(connection: asyncpg.Connection[Any], conninfo: ConnInfo) -> None:
    """Enlarge the buffer of a Unix socket to hold a batch, and set TCP keepalives, unless the URL says otherwise.

    TCP sizes its buffers itself.
    """
    own: Any = connection._transport.get_extra_info("socket")  # noqa: SLF001  # asyncpg has no public way to it
    if own is not None and own.family == socket.AF_UNIX:
        # The server reads on while this process decodes: the system's own 200 KB last some milliseconds.
        own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
    if own is None or own.family not in (socket.AF_INET, socket.AF_INET6):
        return
    if conninfo.keepalives.get("keepalives", 1) != 0:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    wanted = _KEEPALIVES | conninfo.keepalives
    for name, option in _SOCKET_OPTIONS.items():
        if wanted.get(name, 0) > 0 and hasattr(socket, option):
            own.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), wanted[name])
