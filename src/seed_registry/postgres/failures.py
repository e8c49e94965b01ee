"""Remedies: what to do about a failure of the database, by SQLSTATE and exception type, in one table.

https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

import asyncpg

from seed_registry.errors import DatabaseUnavailable
from seed_registry.report import MergeCounts


class FailureAction(Enum):
    """What may help."""

    REPEAT = auto()  # the transaction, on the same connection
    RECONNECT = auto()  # the transaction, on a new connection
    BISECT = auto()  # a record of the batch is guilty
    STOP = auto()  # nothing that we could do


# The longest prefix of a SQLSTATE that is named here decides; what is not named stops the load.
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
    "21000": FailureAction.BISECT,
    "22": FailureAction.BISECT,
    "23": FailureAction.BISECT,
    "54": FailureAction.BISECT,
}
# What asyncpg's encoders raise for a value that they cannot send; nothing of the batch was sent then.
_ENCODING: Final = (ValueError, TypeError, OverflowError)


class RowsKeptOut(Exception):
    """Rows were written without an error, and the table does not hold them: a trigger returned none."""


class CommitUnknown(Exception):
    """A COMMIT was sent and no answer came, for the connection was `lost`; `counts` are the batch's if it was done."""

    def __init__(self, counts: MergeCounts, lost: Exception) -> None:
        super().__init__("the connection was lost while a batch was committed")
        self.counts = counts
        self.lost = lost


class NoServerLent(TimeoutError):
    """The login was accepted, and then the first statement had no answer: a pooler's servers are all lent."""


def is_disk_full(exc: BaseException) -> bool:
    """Whether the server's disk is full; it may be the last word before it goes down."""
    return isinstance(exc, asyncpg.DiskFullError) or isinstance(exc.__cause__, asyncpg.DiskFullError)


def has_no_room(exc: DatabaseUnavailable) -> bool:
    """Whether the server, a role or a pooler has as many connections as it may.

    PgBouncer refuses a client too many as a protocol violation, Supavisor as an internal error.
    """
    return is_lent_none(exc) or isinstance(
        exc.__cause__, (asyncpg.TooManyConnectionsError, asyncpg.ProtocolViolationError, asyncpg.InternalServerError)
    )


def is_lent_none(exc: DatabaseUnavailable) -> bool:
    """Whether a pooler had no server to lend, which takes seconds to find out."""
    return isinstance(exc.__cause__, NoServerLent)


def is_not_yet(exc: BaseException) -> bool:
    """Whether a server that was reached for the first time may be had in a moment."""
    return isinstance(exc, DatabaseUnavailable) and isinstance(
        exc.__cause__, (asyncpg.TooManyConnectionsError, asyncpg.CannotConnectNowError)
    )


def classify(exc: BaseException) -> FailureAction:
    """What may help against a failure of a batch, of a connection, or of connecting anew."""
    if is_disk_full(exc):
        return FailureAction.STOP
    if isinstance(exc, asyncpg.PostgresError):
        state = exc.sqlstate or ""
        return _BY_SQLSTATE.get(state) or _BY_SQLSTATE.get(state[:2], FailureAction.STOP)
    if isinstance(exc, DatabaseUnavailable):
        cause = exc.__cause__
        return classify(cause) if isinstance(cause, asyncpg.PostgresError) else FailureAction.RECONNECT
    if isinstance(exc, CommitUnknown):
        return FailureAction.RECONNECT
    if isinstance(exc, RowsKeptOut):
        return FailureAction.BISECT
    # asyncpg: the connection is closed, or ended between two messages. OSError: sockets, and TimeoutError.
    if isinstance(exc, (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)):
        return FailureAction.BISECT if isinstance(exc, _ENCODING) else FailureAction.RECONNECT
    return FailureAction.BISECT if isinstance(exc, _ENCODING) else FailureAction.STOP
