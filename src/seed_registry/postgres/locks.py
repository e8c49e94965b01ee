"""Holders: the sessions that have an advisory lock, in words, with what ends them."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Any, Final

import asyncpg
from msgspec import Struct

from seed_registry.escape import printable
from seed_registry.postgres.sql_files import statement

_HALF_BITS: Final = 32
_HALF: Final = (1 << _HALF_BITS) - 1


AWAITED_STANDBY: Final = (
    "start the standby that the server's synchronous_standby_names wants, or take it out there (alter system set "
    "synchronous_standby_names = ''; select pg_reload_conf())"
)


class Holder(Struct, frozen=True):
    """A session of the server's; what is None is not ours to see.

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
        """Who it is, for messages."""
        facts = [printable(self.application_name or "unnamed", 80)]
        facts += [f"from {self.address}"] if self.address else []
        facts += [f"since {self.backend_start:%Y-%m-%d %H:%M:%S %Z}"] if self.backend_start else []
        facts += (
            ["its COMMIT waits for a synchronous standby (SyncRep)"] if self.waits_for_standby else [self.state or ""]
        )
        return f"the server's session {self.pid} ({', '.join(filter(None, facts))})"


async def find_holders(connection: asyncpg.Connection[Any], number: int) -> list[Holder]:
    """Who else holds the advisory lock with this number, the eldest first."""
    rows = await connection.fetch(statement("postgres/lock_holders"), number >> _HALF_BITS & _HALF, number & _HALF)
    return [Holder(**row) for row in rows]


async def end_session(connection: asyncpg.Connection[Any], pid: int | None) -> None:
    """End a session of this role's own."""
    with suppress(asyncpg.InsufficientPrivilegeError):
        await connection.execute("select pg_catalog.pg_terminate_backend($1)", pid)


def describe_holders(holders: list[Holder]) -> tuple[str, str]:
    """The sessions in words, and what to do about them; of none nothing is known."""
    if not holders:
        return "", "wait until that is done, or stop it"
    more = f" and {len(holders) - 1} more" if len(holders) > 1 else ""
    end = "select " + ", ".join(f"pg_terminate_backend({holder.pid})" for holder in holders)
    awaited = next((holder for holder in holders if holder.waits_for_standby), None)
    mend = (
        f"{AWAITED_STANDBY}; or end it: {end}"
        if awaited
        else f"wait for its end, or stop it; if its loader is gone: {end}"
    )
    return f": {awaited or holders[0]}{more} has it", mend
