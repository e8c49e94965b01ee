"""Connecting: a database URL to a session set up for loading, and foreign errors to ours, once, at this border.

Messages are built from SQLSTATE and the message of the server; DETAIL and CONTEXT hold record text and are never shown.
"""

from __future__ import annotations

import errno
import getpass
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from seed_registry.errors import DatabaseRefused, DatabaseUnavailable, SchemaMissing, SeedRegistryError
from seed_registry.escape import printable
from seed_registry.postgres.conninfo import ConnInfo, read
from seed_registry.postgres.failures import NoServerLent, RowsKeptOut, is_disk_full
from seed_registry.postgres.hosts import open_session
from seed_registry.postgres.libpq import LOOKS_LIKE, unusable
from seed_registry.postgres.sql_files import statement
from seed_registry.settings import DatabaseUrl, PoolerName

CONNECT_TIMEOUT_SECONDS: Final = 30


async def connect(
    url: DatabaseUrl,
    own: dict[str, str] | None = None,
    *,
    pooler: PoolerName = "auto",
    answer_seconds: float | None = None,
) -> asyncpg.Connection[Any]:
    """Open a session for loading; its `own` settings go before what all of ours have.

    A pooler that accepts the login may lend a server for the first statement within `answer_seconds`; None for as long
    as connecting may take.

    Raises:
        DatabaseUnavailable: there is no connection to be had; the message tells host and cause.
        DatabaseRefused: a pooler is in between through which nothing can be loaded.
        SettingsInvalid: the URL is none.
    """
    with_problem = f"cannot connect to {url}"
    target = read(url)
    _see_that_there_is_a_user(target)
    try:
        return await open_session(
            url,
            target,
            pooler=pooler,
            own=own or {},
            timeout_seconds=CONNECT_TIMEOUT_SECONDS,
            answer_seconds=answer_seconds,
        )
    except ssl.SSLCertVerificationError as exc:  # before ValueError, which it is one of
        raise DatabaseUnavailable(
            f"{with_problem}: its certificate is not trusted: {exc.verify_message}\n"
            "name who issued it with sslrootcert=FILE, or the host as the certificate does"
        ) from exc
    except (asyncpg.ClientConfigurationError, ValueError, OverflowError) as exc:
        raise unusable(f"{type(exc).__name__}; {LOOKS_LIKE}") from None  # that error may quote the password
    except asyncpg.InvalidPasswordError as exc:
        raise DatabaseUnavailable(f"{with_problem}: the server refused the login; check user and password") from exc
    except asyncpg.InvalidCatalogNameError as exc:
        raise DatabaseUnavailable(f"{with_problem}: the database does not exist; create it with createdb") from exc
    except asyncpg.PostgresError as exc:
        # PgBouncer answers with that code when it does not pass a parameter on.
        is_option = exc.sqlstate == "08P01" and "options" in target.server_settings
        mend = "\nleave options= out of the URL: a pooler in between does not pass it on" if is_option else ""
        raise DatabaseUnavailable(f"{with_problem}: {exc.args[0]} (SQLSTATE {exc.sqlstate}){mend}") from exc
    except TimeoutError as exc:
        raise DatabaseUnavailable(f"{with_problem}: {_silence(exc, target)}") from exc
    except (OSError, ssl.SSLError, asyncpg.InterfaceError, asyncpg.InternalClientError) as exc:
        if type(exc) is ConnectionError:  # asyncpg's own, of a server that it asked for TLS
            reason = f"no TLS came about, which sslmode={target.tls.mode} asks for"
            raise DatabaseUnavailable(f"{with_problem}: {reason}; is it a Postgres, does it offer TLS?") from exc
        number = getattr(exc, "errno", None) or 0
        # asyncio says something else of its own; getaddrinfo has numbers below 0 and words for them.
        reason = os.strerror(number) if number > 0 else getattr(exc, "strerror", None) or type(exc).__name__
        if number in (errno.EMFILE, errno.ENFILE):
            raise DatabaseRefused(
                f"{with_problem}: {reason}\nallow more of them (ulimit -n), or use fewer workers (--concurrency)"
            ) from exc
        raise DatabaseUnavailable(f"{with_problem}: {reason}; is the server running, are host and port right?") from exc


def _see_that_there_is_a_user(target: ConnInfo) -> None:
    """Who comes without a name comes by the operating system's, and in a container that may have none."""
    try:
        target.login.get("user") or getpass.getuser()
    except (KeyError, OSError, ImportError):
        raise unusable("it names no user, and this user id has no name; write USER@ into it, or set PGUSER") from None


def _silence(exc: TimeoutError, target: ConnInfo) -> str:
    if isinstance(exc, NoServerLent):
        return (
            "the login is accepted, but a pooler lends no server: its pool is too small, or in use\n"
            "let it hold one more than --concurrency (PgBouncer: default_pool_size, pool_size, max_db_connections), "
            "or use fewer workers (--concurrency)"
        )
    seconds = CONNECT_TIMEOUT_SECONDS if target.timeout_seconds is None else target.timeout_seconds
    return f"no answer within {seconds} s; check host and port"


async def flush(connection: asyncpg.Connection[Any]) -> None:
    """Wait until everything committed so far, by whatever session, is on disk."""
    async with connection.transaction():
        await connection.execute("set local synchronous_commit = on")
        # A commit waits for the write-ahead log up to itself, but only if it wrote something there.
        await connection.execute("select pg_catalog.pg_logical_emit_message(true, 'seed-registry', 'loaded')")


async def blockers(connection: asyncpg.Connection[Any]) -> str:
    """Who has been holding a lock on a table for longer than one is waited for, in words; empty if nobody has."""
    found = await connection.fetch(statement("postgres/blockers"))
    return ", ".join(f"pid {pid} ({printable(name) or 'unnamed'}, {state})" for pid, name, state, _ in found)


def locked(url: DatabaseUrl, holders: str) -> DatabaseRefused:
    """Our error for a lock that was waited for in vain; `holders` are from `blockers`."""
    who = f"; {holders} holds one" if holders else ""
    return DatabaseRefused(
        f"{url}: a lock was waited for too long{who}\n"
        "let that end, or end it with select pg_terminate_backend(PID), then load again",
        sqlstate=asyncpg.LockNotAvailableError.sqlstate,
    )


@asynccontextmanager
async def session(
    url: DatabaseUrl,
    own: dict[str, str] | None = None,
    *,
    pooler: PoolerName = "auto",
    answer_seconds: float | None = None,
) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A session that is closed properly on success, and cut off without waiting on any failure.

    Raises:
        SeedRegistryError: whatever asyncpg raises inside comes out as one of the family.
    """
    connection = await connect(url, own, pooler=pooler, answer_seconds=answer_seconds)
    try:
        yield connection
        await connection.close(timeout=CONNECT_TIMEOUT_SECONDS)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as exc:
        raise to_our_error(exc, url) from exc
    finally:
        # In a cancelled scope an awaited close never finishes; the server rolls back when the socket is gone.
        if not connection.is_closed():
            connection.terminate()


def refusal(exc: Exception) -> str:
    """Why the database cannot take a record."""
    if isinstance(exc, asyncpg.PostgresError):
        return f"{exc.args[0]} (SQLSTATE {exc.sqlstate})"
    if isinstance(exc, RowsKeptOut):
        return str(exc)
    return f"it cannot be sent: {type(exc).__name__}"


def to_our_error(exc: BaseException, url: DatabaseUrl) -> SeedRegistryError:
    """Our error for one of asyncpg's or the operating system's, by SQLSTATE."""
    if isinstance(exc, (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.InvalidSchemaNameError)):
        return SchemaMissing(f"{exc.args[0]}\ncreate what is missing with `seed-registry schema apply`")
    if isinstance(exc, asyncpg.InsufficientPrivilegeError):
        return DatabaseRefused(
            f"{exc.args[0]}\nlet the tables' owner run the output of `seed-registry schema grants ROLE`",
            sqlstate=exc.sqlstate,
        )
    if is_disk_full(exc):
        return DatabaseRefused(
            f"the disk of {url} is full: {exc.args[0]}\nmake room, then load again",
            sqlstate=asyncpg.DiskFullError.sqlstate,
        )
    lost = (
        asyncpg.PostgresConnectionError,
        asyncpg.OperatorInterventionError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,  # asked for more between the server's last word and the end of the connection
        OSError,
    )
    if isinstance(exc, lost):
        reason = getattr(exc, "strerror", None) or (exc.args[0] if exc.args else type(exc).__name__)
        return DatabaseUnavailable(
            f"the connection to {url} was lost: {reason}\nwhat was committed stays; load again when the server is back"
        )
    assert isinstance(exc, asyncpg.PostgresError)
    return DatabaseRefused(f"{url} refused: {exc.args[0]} (SQLSTATE {exc.sqlstate})", sqlstate=exc.sqlstate)
