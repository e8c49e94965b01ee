"""Check the registry's tables: privileges, columns, indexes, triggers, where and how they are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import asyncpg

from seed_registry.doctor.citus import check_citus
from seed_registry.doctor.compression import check_compression
from seed_registry.doctor.local import Finding, split_message
from seed_registry.errors import SchemaMismatch, SettingsInvalid
from seed_registry.postgres.identifiers import quoted
from seed_registry.postgres.sql_files import statement
from seed_registry.registry.introspection import introspect
from seed_registry.registry.preflight import rehearse
from seed_registry.registry.tables import Table, Tables

# Each index is written for every row; the program's own tables have two or three.
_MANY_INDEXES: Final = 6
# The names of findings, by the event that a load logs.
_CAUTIONS: Final = {
    "unlogged_tables": "unlogged",
    "row_security": "row security",
    "triggers": "triggers",
    "values_required": "required",
    "no_default_partition": "partitions",
}


async def check_registry(
    connection: asyncpg.Connection[Any], columns: Mapping[str, str], schema: str, *, is_embedded: bool
) -> list[Finding]:
    """Check what a load may do with the tables, and how they are kept."""
    findings = [await _privileges(connection, schema)]
    try:
        tables = await introspect(connection, columns, schema)
        await rehearse(connection, tables, is_reading=True)  # privileges are a line of their own
    except (SchemaMismatch, SettingsInvalid) as exc:
        finding, fix = split_message(str(exc), "; ", ": ")
        return [*findings, Finding("schema", "fail", finding, fix)]
    except asyncpg.InsufficientPrivilegeError as exc:
        return [*findings, Finding("schema", "fail", str(exc.args[0]), "grant what the line on privileges says")]
    for table in (tables.sources, tables.assets):
        findings.append(_columns(table))
        findings += await _table(connection, table, tables)
    findings += await check_citus(connection, tables)
    return findings + await check_compression(connection, tables.assets, is_embedded=is_embedded)


async def _privileges(connection: asyncpg.Connection[Any], schema: str) -> Finding:
    rows = await connection.fetch(statement("doctor/privileges"), schema)
    role = await connection.fetchval("select current_user")
    missing: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if not row["is_granted"]:
            missing.setdefault((row["kind"], row["name"]), []).append(row["privilege"])
    if not missing:
        return Finding("privileges", "ok", f"{role} has all privileges that a load needs")
    lacks, grants = [], []
    for (kind, name), privileges in missing.items():
        full = quoted(name) if kind in ("database", "schema") else f"{quoted(schema)}.{quoted(name)}"
        lacks.append(f"{', '.join(privileges)} on {kind} {name}")
        grants.append(f"grant {', '.join(privileges)} on {kind} {full} to {quoted(role)};")
    return Finding("privileges", "fail", f"{role} lacks {'; '.join(lacks)}", f"as the owner: {' '.join(grants)}")


def _columns(table: Table) -> Finding:
    name = table.name.replace('"', "")
    found = f"{name}: upserts use the unique index on ({', '.join(table.columns[field].name for field in table.key)})"
    if not table.left_out:
        return Finding("schema", "ok", found)
    fix = "name them with --column, or alter table add column; see `seed-registry schema show`"
    return Finding("schema", "warn", f"{found}; no column for {', '.join(table.left_out)}", fix)


async def _table(connection: asyncpg.Connection[Any], table: Table, tables: Tables) -> list[Finding]:
    link = tables.assets.columns["source_id"].name
    facts = await connection.fetchrow(statement("doctor/table"), table.name, link)
    assert facts is not None
    name, findings = table.name.replace('"', ""), []
    if table is tables.assets and not facts["has_index"]:
        fix = f"create index on {table.name} ({quoted(link)});"
        findings.append(Finding("indexes", "warn", f"{name} has no index that begins with {link}", fix))
    if facts["indexes"] > _MANY_INDEXES:
        fix = "drop those that no query uses, or build them after a first load"
        findings.append(Finding("indexes", "warn", f"{name} has {facts['indexes']}, all written for every row", fix))
    findings += [Finding(_CAUTIONS[caution.event], "warn", caution.finding, caution.fix) for caution in table.cautions]
    return findings
