"""How many worker processes a run may have: by the cores of this machine, and by the sessions that are free."""

from __future__ import annotations

import os
from typing import Any, Final

import asyncpg

from seed_registry.errors import DatabaseRefused
from seed_registry.load.context import RunContext
from seed_registry.postgres.sql_files import statement
from seed_registry.report import Database
from seed_registry.settings import AUTO, Settings

# The run's own session, and one to watch it.
_OWN_SESSIONS: Final = 2


def sessions_of(settings: Settings) -> int:
    """How many sessions a worker process has."""
    return settings.workers + 1


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


async def count_processes(connection: asyncpg.Connection[Any], context: RunContext, database: Database | None) -> int:
    """How many worker processes to start.

    Raises:
        DatabaseRefused: the server has no room for one.
    """
    settings = context.settings
    wanted = settings.processes
    if wanted == AUTO:
        is_local = database is None or database.embedded or not database.host or database.host.startswith("/")
        wanted = max(cores() // 2, 1) if is_local else cores()
    free = await connection.fetchval(statement("postgres/sessions_free"))
    room = (free - _OWN_SESSIONS) // sessions_of(settings)
    if room >= wanted:
        return wanted
    needed = wanted * sessions_of(settings) + _OWN_SESSIONS
    if room < 1:
        raise DatabaseRefused(
            f"the server has {max(free, 0)} sessions free, and {wanted} processes need {needed}\n"
            "raise max_connections, or load with fewer --processes or a smaller --concurrency"
        )
    reason = f"the server has {free} sessions free, and {wanted} processes need {needed}"
    context.progress.tell("warning", "fewer_workers", workers=room, wanted=wanted, reason=reason)
    return int(room)
