"""Translate asyncpg's and the operating system's errors to ours, in this one place.

Messages hold the SQLSTATE and the message of the server, never DETAIL and CONTEXT, which hold record text.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from seed_registry.errors import DatabaseRefused, DatabaseUnavailable, SchemaMissing, SeedRegistryError
from seed_registry.postgres.failures import FailureAction, RowsKeptOut, classify, is_disk_full, sqlstate_of
from seed_registry.settings import DatabaseUrl

_LOST: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)


def reason_of(exc: BaseException) -> str:
    """Return why a connection failed, in the words of the server or the operating system."""
    return str(getattr(exc, "strerror", None) or (exc.args[0] if exc.args else type(exc).__name__))


def describe_refusal(exc: Exception) -> str:
    """Return why the database does not take a record."""
    if isinstance(exc, asyncpg.PostgresError):
        # A check of a table without a constraint is that of its partitions.
        is_of_partitions = isinstance(exc, asyncpg.CheckViolationError) and exc.table_name and not exc.constraint_name
        fix = "; create a partition that takes it, or a default one, then load again" if is_of_partitions else ""
        return f"{exc.args[0]} (SQLSTATE {exc.sqlstate}){fix}"
    if isinstance(exc, RowsKeptOut):
        return str(exc)
    return f"it cannot be sent: {type(exc).__name__}"


def to_our_error(exc: BaseException, url: DatabaseUrl) -> SeedRegistryError:
    """Return our error for one of `CONNECTION_ERRORS`, by SQLSTATE."""
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
    if isinstance(exc, _LOST) or classify(exc) is FailureAction.RECONNECT:
        return DatabaseUnavailable(
            f"the connection to {url} was lost: {reason_of(exc)}\n"
            "run it again when the server is back; what was committed stays",
            sqlstate=sqlstate_of(exc) or None,
        )
    assert isinstance(exc, asyncpg.PostgresError)
    return DatabaseRefused(f"{url} refused: {exc.args[0]} (SQLSTATE {exc.sqlstate})", sqlstate=exc.sqlstate)
