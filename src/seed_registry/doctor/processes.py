"""Check what `load --processes` would have: cores, memory, sessions."""

from __future__ import annotations

from typing import Any

import asyncpg

from seed_registry.doctor.local import Finding
from seed_registry.postgres.identity import identify
from seed_registry.postgres.process_budget import (
    PROCESS_BYTES,
    cores,
    free_memory,
    free_sessions,
    processes_for,
    processes_of,
    sessions_of,
)
from seed_registry.settings import AUTO, Settings
from seed_registry.words import size


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
