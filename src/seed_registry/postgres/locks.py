"""Describe the sessions that hold a lock, and how to end them."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Any, Final

import asyncpg
from msgspec import Struct

from seed_registry.errors import DatabaseRefused
from seed_registry.escape import printable
from seed_registry.postgres.sql_files import statement

_HALF_BITS: Final = 32
_HALF: Final = (1 << _HALF_BITS) - 1


AWAITED_STANDBY: Final = (
    "start the standby that the server's synchronous_standby_names names, or remove it there (alter system set "
    "synchronous_standby_names = ''; select pg_reload_conf())"
)


class Holder(Struct, frozen=True):
    """A session of the server's; what this role may not see is None.

    Attributes:
        address: of its client; None also through a unix socket.
        waits_for_standby: whether its COMMIT waits for a synchronous standby.
    """

    pid: int
    application_name: str | None
    address: str | None
    backend_start: datetime | None
    state: str | None
    waits_for_standby: bool

    def __str__(self) -> str:
        facts = [printable(self.application_name or "unnamed", 80)]
        facts += [f"from {self.address}"] if self.address else []
        facts += [f"since {self.backend_start:%Y-%m-%d %H:%M:%S %Z}"] if self.backend_start else []
        facts += (
            ["its COMMIT waits for a synchronous standby (SyncRep)"] if self.waits_for_standby else [self.state or ""]
        )
        return f"the server's session {self.pid} ({', '.join(filter(None, facts))})"


async def find_holders(connection: asyncpg.Connection[Any], number: int) -> list[Holder]:
    """Return the other sessions that hold the advisory lock with this number, the oldest first."""
    rows = await connection.fetch(statement("postgres/lock_holders"), number >> _HALF_BITS & _HALF, number & _HALF)
    return [Holder(**row) for row in rows]


async def end_session(connection: asyncpg.Connection[Any], pid: int | None) -> None:
    """Terminate a session of this role."""
    with suppress(asyncpg.InsufficientPrivilegeError):
        await connection.execute("select pg_catalog.pg_terminate_backend($1)", pid)


def describe_holders(holders: list[Holder]) -> tuple[str, str]:
    """Return the sessions in words, and the fix; where none is visible the words are empty."""
    if not holders:
        return "", "wait until that is done, or stop it"
    more = f" and {len(holders) - 1} more" if len(holders) > 1 else ""
    end = "select " + ", ".join(f"pg_terminate_backend({holder.pid})" for holder in holders)
    awaited = next((holder for holder in holders if holder.waits_for_standby), None)
    fix = (
        f"{AWAITED_STANDBY}; or end it: {end}"
        if awaited
        else f"wait for its end, or stop it; if its loader is gone: {end}"
    )
    return f": {awaited or holders[0]}{more} has it", fix


async def blockers(connection: asyncpg.Connection[Any]) -> str:
    """Return the sessions that have held a lock on a table for longer than `lock_timeout`; empty if there are none."""
    found = await connection.fetch(statement("postgres/blockers"))
    return ", ".join(f"pid {pid} ({printable(name) or 'unnamed'}, {state})" for pid, name, state, _ in found)


def lock_timeout_error(database: str, holders: str) -> DatabaseRefused:
    """Return the error of a lock that was not released in time; `holders` are from `blockers`."""
    who = f"; {holders} holds one" if holders else ""
    return DatabaseRefused(
        f"{database}: a lock was not released in time{who}\n"
        "wait for the end of that session, or end it with select pg_terminate_backend(PID), then load again",
        sqlstate=asyncpg.LockNotAvailableError.sqlstate,
    )
