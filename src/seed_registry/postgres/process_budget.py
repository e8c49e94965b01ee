"""How many worker processes of a load this machine and the server have room for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import asyncpg

from seed_registry.postgres.sql_files import statement
from seed_registry.report import Database
from seed_registry.settings import Settings

# Measured, see docs/operations.md; the same for any index.
PROCESS_BYTES: Final = 120_000_000
# The run's own session, and one to watch it.
_OWN_SESSIONS: Final = 2
# Where Linux limits the memory of a container: https://docs.kernel.org/admin-guide/cgroup-v2.html
_CGROUP: Final = Path("/sys/fs/cgroup")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int | None:
    """How many bytes this machine has free for new processes, or its container; None where that cannot be seen."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        try:
            free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (ValueError, OSError):
            return None
    try:
        limit, used = (int((_CGROUP / name).read_text("ascii")) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no container, or "max"
        return free
    return min(free, max(limit - used, 0))


def processes_of(database: Database | None) -> int:
    """How many processes `--processes auto` starts: one for each core, but half of them if the server needs some."""
    is_local = database is None or database.embedded or not database.host or database.host.startswith("/")
    return max(cores() // 2, 1) if is_local else cores()


def sessions_of(settings: Settings, processes: int) -> int:
    """How many sessions a load by several processes needs: each has those that write, and one."""
    return processes * (settings.workers + 1) + _OWN_SESSIONS


def processes_for(settings: Settings, sessions: int) -> int:
    """How many processes so many sessions are enough for; 0 if not for one."""
    return max((sessions - _OWN_SESSIONS) // (settings.workers + 1), 0)


async def free_sessions(connection: asyncpg.Connection[Any]) -> int:
    """How many more sessions the server, and this role, have room for."""
    free: int = await connection.fetchval(statement("postgres/sessions_free"))
    return free
