"""Check a database in one session: server, privileges, tables, settings, leftovers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import asyncpg

from seed_registry.doctor.local import Finding, State, check_connection, failed
from seed_registry.doctor.processes import check_processes
from seed_registry.doctor.registry import check_registry
from seed_registry.errors import SeedRegistryError
from seed_registry.postgres.connection import session
from seed_registry.postgres.identifiers import quoted
from seed_registry.postgres.sql_files import statement
from seed_registry.settings import DatabaseUrl, PoolerName
from seed_registry.words import size

# Older versions have had no fixes since November 2024: https://www.postgresql.org/support/versioning/
_OLDEST_SERVER: Final = 13
# The workers of a load, its own session, and one to observe it.
_SESSIONS_WANTED: Final = 6
# With less a load of gigabytes waits for checkpoints, and for pages that were just evicted.
_SMALL_WAL_BYTES: Final = 1 << 30
_DEFAULT_BUFFERS_BYTES: Final = 128 << 20
_SETTINGS: Final = (
    "fsync", "autovacuum", "max_wal_size", "shared_buffers",
    "log_statement", "log_min_duration_statement",
)  # fmt: skip


async def check_database(
    url: DatabaseUrl, columns: Mapping[str, str], schema: str, pooler: PoolerName
) -> list[Finding]:
    """Connect and check everything; where there is no session, the only finding says why.

    Args:
        url: the database.
        columns: as in the settings of a load.
        schema: where the tables are.
        pooler: as in the settings of a load.
    """
    try:
        async with session(url, pooler=pooler) as connection:
            findings = await check_connection(connection, url)
            findings += await _server(connection)
            findings.append(await check_processes(connection, is_embedded=url.is_embedded))
            findings += await check_registry(connection, columns, schema, is_embedded=url.is_embedded)
            findings += await _settings(connection)
            findings += await _leftovers(connection)
            return findings
    except SeedRegistryError as exc:
        return [failed("connection", exc)]


async def _server(connection: asyncpg.Connection[Any]) -> list[Finding]:
    facts = await connection.fetchrow(statement("doctor/server"))
    assert facts is not None
    role, database = quoted(facts["role"]), quoted(facts["database"])
    old = facts["version_number"] // 10_000 < _OLDEST_SERVER
    findings = [
        _if(old, "server", f"Postgres {facts['version']}", f"upgrade it to {_OLDEST_SERVER} or newer", "fail"),
        Finding("database", "ok", f"{facts['database']}, {size(facts['size_bytes'] or 0)}"),
    ]
    if facts["encoding"] != "UTF8":
        fix = "create a database with encoding 'UTF8' template template0, and load there"
        findings.append(Finding("encoding", "fail", f"{facts['encoding']} cannot hold every text", fix))
    if facts["is_standby"]:
        fix = "name the primary, or several hosts with target_session_attrs=primary"
        findings.append(Finding("standby", "fail", "this server is a standby and accepts no writes", fix))
    elif facts["is_read_only"]:
        fix = f"alter role {role} set default_transaction_read_only = off; or the same with alter database {database}"
        findings.append(
            Finding("read-only", "fail", "default_transaction_read_only is on: nothing can be written", fix)
        )
    findings.append(_sessions(facts))
    if facts["stuck_sessions"]:
        found = f"{facts['stuck_sessions']} idle in a transaction for over 5 minutes; they may hold locks"
        findings.append(Finding("stuck sessions", "warn", found, "end them, see pg_stat_activity"))
    return findings


def _sessions(facts: asyncpg.Record) -> Finding:
    free = facts["sessions_allowed"] - facts["sessions_used"]
    if facts["role_limit"] is not None and facts["role_limit"] >= 0:
        free = min(free, facts["role_limit"])
    found = f"{facts['sessions_used']} of {facts['sessions_allowed']} in use"
    fix = f"load with --concurrency {max(free - 1, 1)}, or raise max_connections or the role's connection limit"
    return _if(free < _SESSIONS_WANTED, "sessions", found, fix)


async def _settings(connection: asyncpg.Connection[Any]) -> list[Finding]:
    rows = await connection.fetch(statement("doctor/settings"), list(_SETTINGS))
    value = {row["name"]: row["value"] for row in rows}
    logs_all = value["log_statement"] in ("mod", "all") or value["log_min_duration_statement"] == "0"
    wrong = [
        (value["fsync"] == "off", "fsync is off: a power cut can destroy the database", "fsync = on"),
        (value["autovacuum"] == "off", "autovacuum is off: dead rows stay", "autovacuum = on"),
        (
            int(value["max_wal_size"]) < _SMALL_WAL_BYTES,
            "max_wal_size is small: many checkpoints",
            "max_wal_size = '4GB'",
        ),
        (
            int(value["shared_buffers"]) <= _DEFAULT_BUFFERS_BYTES,
            "shared_buffers is the small default",
            "shared_buffers = '4GB' or a quarter of the memory, and restart",
        ),
        (logs_all, "the server logs every statement", "log_statement = 'none'; log_min_duration_statement = -1"),
    ]
    findings = [Finding("settings", "warn", found, f"in postgresql.conf: {fix}") for bad, found, fix in wrong if bad]
    return findings or [Finding("settings", "ok", "none slows a load")]


async def _leftovers(connection: asyncpg.Connection[Any]) -> list[Finding]:
    names = [row["name"] for row in await connection.fetch(statement("doctor/leftovers"))]
    if not names:
        return [Finding("leftovers", "ok", "none of benchmarks")]
    fix = " ".join(f"drop schema {quoted(name)} cascade;" for name in names)
    return [Finding("leftovers", "warn", f"{len(names)} schemas of benchmarks that were cut off", fix)]


def _if(bad: bool, name: str, finding: str, fix: str, state: State = "warn") -> Finding:
    return Finding(name, state, finding, fix) if bad else Finding(name, "ok", finding)
