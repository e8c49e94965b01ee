"""Open a session that is set up for loading; asyncpg's errors come out of it as ours."""

from __future__ import annotations

import errno
import getpass
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from seed_registry.errors import DatabaseRefused, DatabaseUnavailable, DatabaseUrlInvalid
from seed_registry.postgres.conninfo import ConnInfo
from seed_registry.postgres.database_url import parse_url
from seed_registry.postgres.errors import to_our_error
from seed_registry.postgres.failures import CONNECTION_ERRORS
from seed_registry.postgres.hosts import open_session
from seed_registry.postgres.libpq import FORMAT
from seed_registry.settings import DatabaseUrl, PoolerName

CONNECT_TIMEOUT_SECONDS: Final = 30


async def connect(
    url: DatabaseUrl,
    own: dict[str, str] | None = None,
    *,
    pooler: PoolerName = "auto",
    answer_seconds: float | None = None,
) -> asyncpg.Connection[Any]:
    """Open a session for loading; its `own` settings override those that all sessions have.

    The first statement after the login has to be answered within `answer_seconds`; None for the timeout of connecting.

    Raises:
        DatabaseUnavailable: there is no connection; the message names host and cause.
        DatabaseRefused: the pooler in between cannot be loaded through.
        SettingsInvalid: the URL is not usable.
    """
    conninfo = parse_url(url)
    _check_user(conninfo)
    try:
        return await open_session(
            url,
            conninfo,
            pooler=pooler,
            own=own or {},
            timeout_seconds=CONNECT_TIMEOUT_SECONDS,
            answer_seconds=answer_seconds,
        )
    except ssl.SSLCertVerificationError as exc:  # before ValueError, which it is one of
        raise DatabaseUnavailable(
            f"cannot connect to {url}: its certificate is not trusted: {exc.verify_message}\n"
            "name the issuer's certificate with sslrootcert=FILE, or the host as the certificate does"
        ) from exc
    except (asyncpg.ClientConfigurationError, ValueError, OverflowError) as exc:
        reason = f"{type(exc).__name__}; {FORMAT}"
        raise DatabaseUrlInvalid(reason) from None  # that error may quote the password
    except asyncpg.PostgresError as exc:
        message = f"cannot connect to {url}: {_login_problem(exc, conninfo)}"
        raise DatabaseUnavailable(message, sqlstate=exc.sqlstate) from exc
    except CONNECTION_ERRORS as exc:
        if isinstance(exc, OSError) and exc.errno in (errno.EMFILE, errno.ENFILE):
            raise DatabaseRefused(
                f"cannot connect to {url}: {exc.strerror}\n"
                "allow more open files (ulimit -n), or use fewer workers (--concurrency)"
            ) from exc
        raise DatabaseUnavailable(f"cannot connect to {url}: {_network_problem(exc, conninfo)}") from exc


def _check_user(conninfo: ConnInfo) -> None:
    """Check that the login has a name: without one it is the operating system's, and a container may have none."""
    try:
        conninfo.login.get("user") or getpass.getuser()
    except (KeyError, OSError, ImportError):
        reason = "it names no user, and this user id has no name; write USER@ into it, or set PGUSER"
        raise DatabaseUrlInvalid(reason) from None


def _login_problem(exc: asyncpg.PostgresError, conninfo: ConnInfo) -> str:
    if isinstance(exc, asyncpg.InvalidPasswordError):
        return "the server refused the login; check user and password"
    if isinstance(exc, asyncpg.InvalidCatalogNameError):
        return "the database does not exist; create it with createdb"
    # PgBouncer refuses parameters that it does not pass on as a protocol violation.
    is_option = isinstance(exc, asyncpg.ProtocolViolationError) and "options" in conninfo.server_settings
    fix = "\nleave options= out of the URL: a pooler in between does not pass it on" if is_option else ""
    return f"{exc.args[0]} (SQLSTATE {exc.sqlstate}){fix}"


def _network_problem(exc: BaseException, conninfo: ConnInfo) -> str:
    if isinstance(exc, TimeoutError):
        seconds = CONNECT_TIMEOUT_SECONDS if conninfo.timeout_seconds is None else conninfo.timeout_seconds
        return f"no answer within {seconds} s; check host and port"
    if type(exc) is ConnectionError:  # asyncpg's own, where the server refuses TLS
        return f"the server does not offer TLS, which sslmode={conninfo.tls.mode} requires; is it a Postgres?"
    number = getattr(exc, "errno", None) or 0
    # asyncio has words of its own for errors above 0; those of getaddrinfo are below 0 and have their own.
    reason = os.strerror(number) if number > 0 else getattr(exc, "strerror", None) or type(exc).__name__
    return f"{reason}; is the server running, are host and port right?"


@asynccontextmanager
async def session(
    url: DatabaseUrl,
    own: dict[str, str] | None = None,
    *,
    pooler: PoolerName = "auto",
    answer_seconds: float | None = None,
) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Open a session like `connect`; close it on success, terminate it without waiting on any failure.

    Raises:
        SeedRegistryError: as `connect` does, and in place of asyncpg's errors in the body.
    """
    connection = await connect(url, own, pooler=pooler, answer_seconds=answer_seconds)
    try:
        yield connection
        await connection.close(timeout=CONNECT_TIMEOUT_SECONDS)
    except CONNECTION_ERRORS as exc:
        raise to_our_error(exc, url) from exc
    finally:
        # In a cancelled scope an awaited close never finishes; the server rolls back when the socket is closed.
        if not connection.is_closed():
            connection.terminate()


async def flush(connection: asyncpg.Connection[Any]) -> None:
    """Wait until all transactions committed so far, by any session, are on disk."""
    async with connection.transaction():
        await connection.execute("set local synchronous_commit = on")
        # A commit waits for the write-ahead log up to itself, but only if it wrote to that.
        await connection.execute("select pg_catalog.pg_logical_emit_message(true, 'seed-registry', 'loaded')")
