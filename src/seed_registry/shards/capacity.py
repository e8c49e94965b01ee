"""How many worker processes a run gets."""

from __future__ import annotations

from typing import Any, Final

import asyncpg

from seed_registry.errors import DatabaseRefused
from seed_registry.load.context import RunContext
from seed_registry.postgres.pooler import is_pooled
from seed_registry.postgres.process_budget import cores, free_sessions, processes_for, processes_of, sessions_of
from seed_registry.report import Database, Progress
from seed_registry.settings import AUTO, Settings

# Of an audit: one for whoever looks at what goes on.
_SPARE_SESSIONS: Final = 1


async def count_processes(
    connection: asyncpg.Connection[Any] | None, context: RunContext, database: Database | None
) -> int:
    """How many worker processes to start; without a connection, as many as the cores of this machine allow.

    Raises:
        DatabaseRefused: the server has no room for one.
    """
    settings = context.settings
    wanted = settings.processes
    if wanted == AUTO:
        wanted = cores() if connection is None else processes_of(database)
    if connection is None:
        return wanted
    return min(await count_room(connection, context, wanted), wanted)


async def count_room(connection: asyncpg.Connection[Any], run: RunContext, wanted: int) -> int:
    """How many worker processes the server has sessions for; the user is told if these are fewer than `wanted`.

    Raises:
        DatabaseRefused: it has no room for one.
    """
    free = await free_sessions(connection)
    room = processes_for(run.settings, free)
    if room >= wanted:
        return room
    needed = sessions_of(run.settings, wanted)
    reason = f"the server has {max(free, 0)} sessions free, and {wanted} processes need {needed}"
    if room < 1:
        fix = "raise max_connections, or load with fewer --processes or a smaller --concurrency"
        if run.settings.scheduler is not None:
            fix = "raise max_connections, or load with a smaller --concurrency"
        raise DatabaseRefused(f"{reason}\n{fix}")
    run.progress.tell("warning", "fewer_workers", workers=room, wanted=wanted, reason=reason)
    return room


async def count_audit_processes(
    connection: asyncpg.Connection[Any], settings: Settings, progress: Progress, database: Database
) -> int:
    """How many processes compare the registry with indexes, each with one session."""
    wanted = processes_of(database) if settings.processes == AUTO else settings.processes
    return await count_audit_sessions(connection, wanted, progress)


async def count_audit_sessions(connection: asyncpg.Connection[Any], wanted: int, progress: Progress) -> int:
    """How many sessions of an audit, up to so many as wanted, can share a snapshot; the user is told of fewer."""
    if is_pooled(connection):
        count, reason = 1, "a pooler is in between, and the sessions behind it may not share a snapshot"
    else:
        free = await free_sessions(connection)
        count = max(min(free - _SPARE_SESSIONS, wanted), 1)
        reason = f"the server has {max(free, 0)} sessions free"
    if count < wanted:
        progress.tell("warning", "fewer_workers", workers=count, wanted=wanted, reason=reason)
    return count
