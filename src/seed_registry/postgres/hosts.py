"""Reaching: a connection to the first host of a target that is there and of the kind that is wanted."""

from __future__ import annotations

import math
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from seed_registry.errors import DatabaseRefused
from seed_registry.postgres.conninfo import ConnInfo
from seed_registry.postgres.failures import NoServerLent
from seed_registry.postgres.pooler import PooledConnection, set_up
from seed_registry.postgres.timeouts import io_timeout
from seed_registry.settings import DatabaseUrl, PoolerName

# What of the socket libpq's parameters set, where the operating system has it.
_SOCKET_OPTIONS: Final = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}
# What a Unix socket may hold that the server has not read yet.
_SEND_BYTES: Final = 2 << 20
# The operating system's own would let two hours pass.
_KEEPALIVES: Final = {"keepalives_idle": 60, "keepalives_interval": 10, "keepalives_count": 6}


async def open_session(
    url: DatabaseUrl,
    target: ConnInfo,
    *,
    pooler: PoolerName,
    own: dict[str, str],
    timeout_seconds: float,
    answer_seconds: float | None = None,
) -> asyncpg.Connection[Any]:
    """A session that is set up for loading: behind a pooler anew in every transaction.

    Raises:
        DatabaseRefused: the pooler lends a server for one statement only.
        NoServerLent: the login is accepted, but nothing is answered.
        OSError: nobody is there; like asyncpg's own errors it is the caller's to translate.
    """
    longest = timeout_seconds if target.timeout_seconds is None else target.timeout_seconds
    seconds = None if longest == math.inf else longest
    answer_seconds = answer_seconds or seconds  # after the login
    if pooler != "transaction" and not (target.is_pooled and pooler == "auto"):
        connection = await _reach(target, seconds)
        try:
            async with _answered():
                if await set_up(connection, own, unless_pooled=pooler == "auto", seconds=answer_seconds):
                    return connection
        except BaseException:  # also cancelled: uvloop does not close as long as a connection is left over
            connection.terminate()
            raise
        await connection.close(timeout=seconds)
    # What is prepared for a session would be asked of another one.
    connection = await _reach(target, seconds, connection_class=PooledConnection, statement_cache_size=0)
    connection.own_settings = own
    # Before it asks for types asyncpg turns JIT off for the session, which is the next client's, too.
    connection._server_caps = connection._server_caps._replace(jit=False)  # noqa: SLF001
    try:
        async with _answered():
            await connection.execute("select", timeout=answer_seconds)  # is there a server behind the pooler?
        async with io_timeout(connection, seconds):
            await _begin(connection, url)
    except BaseException:
        connection.terminate()
        raise
    return connection


@asynccontextmanager
async def _answered() -> AsyncIterator[None]:
    try:
        yield
    except TimeoutError as exc:
        raise NoServerLent from exc


async def _begin(connection: asyncpg.Connection[Any], url: DatabaseUrl) -> None:
    try:
        async with connection.transaction():
            pass
    except asyncpg.PostgresConnectionError as exc:
        raise DatabaseRefused(
            f"the pooler at {url} allows no transactions: it pools statements\n"
            "let it pool transactions or sessions (pool_mode), or name the server itself",
            sqlstate=exc.sqlstate,
        ) from exc


async def _reach(target: ConnInfo, seconds: float | None, **options: Any) -> asyncpg.Connection[Any]:
    """One host after the other, as libpq does: each with the whole timeout, the next one when this is not there."""
    hosts = random.sample(target.hosts, len(target.hosts)) if target.is_shuffled else target.hosts
    wanted = target.session_attributes
    failure: BaseException | None = None
    for attributes in ("standby", "any") if wanted == "prefer-standby" else (wanted,):
        for host, port in hosts:
            try:
                connection = await asyncpg.connect(
                    target.tls.dsn,
                    host=host,
                    port=port,
                    **target.login,
                    ssl=target.tls.argument,
                    direct_tls=target.tls.direct,
                    target_session_attrs=attributes,
                    server_settings=target.server_settings,
                    timeout=seconds,
                    **options,
                )
            except (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched) as exc:
                failure = exc
            else:
                _tune(connection, target)
                return connection
    assert failure is not None, "there is at least one host"
    raise failure


def _tune(connection: asyncpg.Connection[Any], target: ConnInfo) -> None:
    """Give the socket room for a batch, and let the system notice a server that went away without a word.

    The latter unless the URL says otherwise. TCP finds the room that it needs by itself.
    """
    own: Any = connection._transport.get_extra_info("socket")  # noqa: SLF001  # asyncpg has no other way to it
    if own is not None and own.family == socket.AF_UNIX:
        # A batch goes on while this process decodes: the system's own 200 KB last a server for some milliseconds.
        own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
    if own is None or own.family not in (socket.AF_INET, socket.AF_INET6):
        return
    if target.keepalives.get("keepalives", 1) != 0:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    wanted = _KEEPALIVES | target.keepalives
    for name, option in _SOCKET_OPTIONS.items():
        if wanted.get(name, 0) > 0 and hasattr(socket, option):
            own.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), wanted[name])
