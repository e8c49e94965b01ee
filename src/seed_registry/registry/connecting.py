"""Connecting: a database URL to a session set up for loading, and foreign errors to ours, once, at this border.

Messages are built from SQLSTATE and the message of the server; DETAIL and CONTEXT hold record text and are never shown.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import asyncpg

from seed_registry.errors import DatabaseRefused, DatabaseUnavailable, SchemaMissing, SeedRegistryError, SettingsInvalid
from seed_registry.settings import DatabaseUrl

CONNECT_TIMEOUT_SECONDS: Final = 30

# Every name in our SQL is qualified; with this nothing in another schema can stand in for a function or a table.
_SESSION: Final = {
    "application_name": "seed-registry",
    "search_path": "pg_catalog, pg_temp",
    "timezone": "UTC",
    # a role's own limits are meant for interactive sessions, not for loads
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": "60s",
    # JIT compiles statements that run for milliseconds
    "jit": "off",
}
# So are these limits, but servers before 14 and 17 would refuse to be told of them.
_NO_LIMITS: Final = """
select pg_catalog.set_config(name, '0', false) from pg_catalog.pg_settings
where name in ('idle_session_timeout', 'transaction_timeout') and setting <> '0'
"""
# libpq knows these, asyncpg would send them to the server as settings, which refuses them.
_LIBPQ_ONLY: Final = {
    "channel_binding", "connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count",
    "tcp_user_timeout", "gssencmode", "application_name", "fallback_application_name", "load_balance_hosts",
    "client_encoding",
}  # fmt: skip
# What a database raises for a record that it cannot take, and asyncpg's encoders for a value that they cannot send.
REFUSALS: Final = (asyncpg.PostgresError, ValueError, TypeError, OverflowError)
# SQLSTATE classes that a record is guilty of: data exception, integrity violation, program limit exceeded.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_RECORDS_FAULT: Final = ("22", "23", "54")


async def connect(url: DatabaseUrl, *, read_only: bool = False) -> asyncpg.Connection[Any]:
    """Open a session for loading.

    Raises:
        DatabaseUnavailable: there is no connection to be had; the message tells host and cause.
        SettingsInvalid: the URL is none.
    """
    settings = {**_SESSION, **({"default_transaction_read_only": "on"} if read_only else {})}
    with_problem = f"cannot connect to {url}"
    try:
        connection = await asyncpg.connect(_for_asyncpg(url), timeout=CONNECT_TIMEOUT_SECONDS, server_settings=settings)
        try:
            await connection.execute(_NO_LIMITS, timeout=CONNECT_TIMEOUT_SECONDS)
        except BaseException:  # also cancelled: uvloop does not close as long as a connection is left over
            connection.terminate()
            raise
    except (asyncpg.ClientConfigurationError, ValueError, OverflowError) as exc:
        raise SettingsInvalid(
            f"--database-url is not usable: {type(exc).__name__}; it looks like postgresql://user:password@host:5432/database"
        ) from None  # that error may quote the password
    except asyncpg.InvalidPasswordError as exc:
        raise DatabaseUnavailable(f"{with_problem}: the server refused the login; check user and password") from exc
    except asyncpg.InvalidCatalogNameError as exc:
        raise DatabaseUnavailable(f"{with_problem}: the database does not exist; create it with createdb") from exc
    except asyncpg.PostgresError as exc:
        raise DatabaseUnavailable(f"{with_problem}: {exc.args[0]} (SQLSTATE {exc.sqlstate})") from exc
    except TimeoutError as exc:
        raise DatabaseUnavailable(
            f"{with_problem}: no answer within {CONNECT_TIMEOUT_SECONDS} s; check host and port"
        ) from exc
    except (OSError, ssl.SSLError, asyncpg.InterfaceError, asyncpg.InternalClientError) as exc:
        reason = getattr(exc, "strerror", None) or type(exc).__name__
        raise DatabaseUnavailable(f"{with_problem}: {reason}; is the server running, are host and port right?") from exc
    return connection


@asynccontextmanager
async def session(url: DatabaseUrl, *, read_only: bool = False) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A session that is closed properly on success, and cut off without waiting on any failure.

    Raises:
        SeedRegistryError: whatever asyncpg raises inside comes out as one of the family.
    """
    connection = await connect(url, read_only=read_only)
    try:
        yield connection
        await connection.close(timeout=CONNECT_TIMEOUT_SECONDS)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as exc:
        raise translated(exc, url) from exc
    finally:
        # In a cancelled scope an awaited close never finishes; the server rolls back when the socket is gone.
        if not connection.is_closed():
            connection.terminate()


def refusal(exc: Exception) -> str | None:
    """Why the database cannot take a record, for one of `REFUSALS`; None if no record is to blame."""
    if not isinstance(exc, asyncpg.PostgresError):
        return f"it cannot be sent: {type(exc).__name__}"
    if exc.sqlstate is not None and exc.sqlstate[:2] not in _RECORDS_FAULT:
        return None
    return f"{exc.args[0]} (SQLSTATE {exc.sqlstate})"


def translated(exc: BaseException, url: DatabaseUrl) -> SeedRegistryError:
    """Our error for one of asyncpg's or the operating system's, by SQLSTATE."""
    if isinstance(exc, (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.InvalidSchemaNameError)):
        return SchemaMissing(f"{exc.args[0]}\ncreate what is missing with `seed-registry schema apply`")
    if isinstance(exc, asyncpg.InsufficientPrivilegeError):
        return DatabaseRefused(
            f"{exc.args[0]}\nlet the tables' owner run the output of `seed-registry schema grants ROLE`",
            sqlstate=exc.sqlstate,
        )
    if isinstance(exc, asyncpg.DiskFullError):
        return DatabaseRefused(
            f"the disk of {url} is full: {exc.args[0]}\nmake room, then load again", sqlstate=exc.sqlstate
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


def _for_asyncpg(url: DatabaseUrl) -> str:
    """The URL without what only libpq understands; `postgres://` and `postgresql+driver://` are accepted."""
    parts = urlsplit(url.reveal)
    scheme = parts.scheme.partition("+")[0]
    if scheme not in ("postgres", "postgresql"):
        raise ValueError("not a postgresql:// URL")
    if not parts.netloc and parts.path[:1] not in ("", "/"):
        raise ValueError("no // after postgresql:")
    # asking raises ValueError above 65535, which uvloop would take modulo 65536
    if "," not in parts.netloc and parts.port == 0:
        raise ValueError("no port")
    # as in libpq, and unlike in forms of web pages, a plus is no space
    given = parse_qsl(parts.query.replace("+", "%2B"), keep_blank_values=True)
    query = [(name, value) for name, value in given if name not in _LIBPQ_ONLY]
    return urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(query, quote_via=quote), ""))
