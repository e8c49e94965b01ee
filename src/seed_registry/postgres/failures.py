"""Classify a failure of the database by SQLSTATE and exception type: what to do about it.

https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, Final

import asyncpg

from seed_registry.errors import DatabaseRefused, DatabaseUnavailable, PoolerExhausted


class FailureAction(Enum):
    """What may help."""

    REPEAT = auto()  # the transaction, on the same connection
    RECONNECT = auto()  # the transaction, on a new connection
    BISECT = auto()  # a record of the batch is to blame
    STOP = auto()  # nothing


# The longest prefix of a SQLSTATE that is listed here decides; one that is not listed stops the load.
_BY_SQLSTATE: Final = {
    "40001": FailureAction.REPEAT,  # serialization failure
    "40P01": FailureAction.REPEAT,  # deadlock
    "55P03": FailureAction.REPEAT,  # lock not available
    "57014": FailureAction.REPEAT,  # canceled, and not by us
    "08": FailureAction.RECONNECT,
    "57P01": FailureAction.RECONNECT,  # terminated by an administrator
    "57P02": FailureAction.RECONNECT,  # crash shutdown
    "57P03": FailureAction.RECONNECT,  # starting up
    "57P05": FailureAction.RECONNECT,  # idle session timeout
    "25P03": FailureAction.RECONNECT,  # idle in transaction timeout
    "25P04": FailureAction.RECONNECT,  # transaction timeout
    "53300": FailureAction.RECONNECT,  # too many connections
    "53100": FailureAction.STOP,  # disk full
    "21000": FailureAction.BISECT,
    "22": FailureAction.BISECT,
    "23": FailureAction.BISECT,
    "54": FailureAction.BISECT,
}
_DISK_FULL: Final[str] = asyncpg.DiskFullError.sqlstate
_LOCK_TIMEOUT: Final[str] = asyncpg.LockNotAvailableError.sqlstate
_STARTING_OR_FULL: Final = {asyncpg.TooManyConnectionsError.sqlstate, asyncpg.CannotConnectNowError.sqlstate}
# PgBouncer refuses a client too many as a protocol violation, Supavisor as an internal error.
_NO_ROOM: Final = {
    asyncpg.TooManyConnectionsError.sqlstate,
    asyncpg.ProtocolViolationError.sqlstate,
    asyncpg.InternalServerError.sqlstate,
}
# What a session may raise besides our own errors and those of a value that cannot be encoded. InternalClientError: it
# was used between the server's last message and the end of the connection.
CONNECTION_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
# What asyncpg's encoders raise for a value that they cannot send; nothing of the batch was sent then.
_ENCODING: Final = (ValueError, TypeError, OverflowError)


class RowsKeptOut(Exception):
    """Rows were written without an error, and the table does not hold them: a trigger returned none."""


class CommitUnknown(Exception):
    """A COMMIT was sent, and the connection was `lost` before its answer; `counts` are the batch's, if it succeeded."""

    def __init__(self, counts: Any, lost: Exception) -> None:
        super().__init__("the connection was lost while a batch was committed")
        self.counts = counts
        self.lost = lost


def sqlstate_of(exc: BaseException | None) -> str:
    """Return the server's code, of an error of asyncpg's or of ours; empty if there is none."""
    return getattr(exc, "sqlstate", None) or ""


def is_disk_full(exc: BaseException) -> bool:
    """Whether the server's disk is full; it may go down after it said so, and asyncpg raises that instead."""
    return _DISK_FULL in (sqlstate_of(exc), sqlstate_of(exc.__cause__))


def is_lock_timeout(exc: BaseException) -> bool:
    """Whether a lock was not released within `lock_timeout`."""
    return sqlstate_of(exc) == _LOCK_TIMEOUT


def has_no_room(exc: BaseException) -> bool:
    """Whether the server, a role or a pooler has as many connections as it may."""
    return isinstance(exc, PoolerExhausted) or (isinstance(exc, DatabaseUnavailable) and sqlstate_of(exc) in _NO_ROOM)


def is_starting_or_full(exc: BaseException) -> bool:
    """Whether a server refused the first connection for a reason that may pass: it exists, and is no mistake."""
    return isinstance(exc, DatabaseUnavailable) and sqlstate_of(exc) in _STARTING_OR_FULL


def classify(exc: BaseException) -> FailureAction:
    """Return what may help against a failure of a batch, of a connection, or of a new connection."""
    if is_disk_full(exc) or isinstance(exc, DatabaseRefused):
        return FailureAction.STOP
    if state := sqlstate_of(exc):
        return _BY_SQLSTATE.get(state) or _BY_SQLSTATE.get(state[:2], FailureAction.STOP)
    if isinstance(exc, (DatabaseUnavailable, CommitUnknown)):
        return FailureAction.RECONNECT
    if isinstance(exc, (RowsKeptOut, *_ENCODING)):
        return FailureAction.BISECT
    # asyncpg: the connection is closed, or ended between two messages. OSError: sockets, and TimeoutError.
    if isinstance(exc, (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)):
        return FailureAction.RECONNECT
    return FailureAction.STOP
