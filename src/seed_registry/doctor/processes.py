"""Check what `load --processes` would have: cores, memory, sessions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import asyncpg

from seed_registry.doctor.local import Finding
from seed_registry.postgres.identity import identify
from seed_registry.postgres.process_budget import cores, free_sessions, processes_for, processes_of, sessions_of
from seed_registry.settings import AUTO, Settings
from seed_registry.words import size

# Measured, see docs/operations.md; the same for any index.
PROCESS_BYTES: Final = 120_000_000
# Where Linux limits the memory of a container: https://docs.kernel.org/admin-guide/cgroup-v2.html
_CGROUP: Final = Path("/sys/fs/cgroup")


async def check_processes(connection: asyncpg.Connection[Any], *, is_embedded: bool) -> Finding:
    """Return how many processes `--processes auto` starts, and whether memory and sessions are enough for them."""
    settings = Settings(processes=AUTO)
    wanted = processes_of(await identify(connection, is_embedded=is_embedded))
    needed, free, memory = sessions_of(settings, wanted), await free_sessions(connection), free_memory()
    found = f"{cores()} cores: --processes auto starts {wanted}, which need {needed} of {free} free sessions"
    found += f" and {size(wanted * PROCESS_BYTES)}" + (f" of {size(memory)} of memory" if memory is not None else "")
    room = processes_for(settings, free)
    if room < wanted:
        fix = "raise max_connections, or the role's connection limit"
        fix += f"; until then --processes {room}" if room > 1 else "; until then load by one process"
        return Finding("processes", "warn", found, fix)
    if memory is not None and (fitting := memory // PROCESS_BYTES) < wanted:
        return Finding("processes", "warn", found, f"load with --processes {max(fitting, 1)}, or give it more memory")
    return Finding("processes", "ok", found)


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
