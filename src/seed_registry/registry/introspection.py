"""Read the two registry tables from the catalog, and decide how to write to them.

That goes by the catalog (columns, types, unique indexes), never by guesses about the name of a constraint.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, Final

import asyncpg
from msgspec import Struct

from seed_registry.errors import SchemaMismatch, SchemaMissing, SettingsInvalid
from seed_registry.postgres.identifiers import quoted
from seed_registry.postgres.sql_files import statement
from seed_registry.registry import partition_checks
from seed_registry.registry.citus import is_divided
from seed_registry.registry.deferred_indexes import require_indexes
from seed_registry.registry.fields import (
    ASSET_FIELDS,
    FIELDS,
    ID_TYPES,
    MOMENT_TYPES,
    OPTIONAL_FIELDS,
    RETIRED_AT,
    SOURCE_FIELDS,
)
from seed_registry.registry.table_checks import cautions, folded_key, refusal
from seed_registry.registry.tables import SCHEMA, Column, Default, Table, Tables

# What pg_attribute.atttypmod counts besides the characters.
_VARLENA_HEADER: Final = 4
# `old` in RETURNING: https://www.postgresql.org/docs/18/dml-returning.html; tables of Citus were tried with xmax.
_RETURNS_OLD: Final = (18,)
# As the catalog shows the moment of the transaction.
_NOW: Final = ("now()", "CURRENT_TIMESTAMP")


class _Kind(Struct, frozen=True):
    """One of the two tables: its fields, those that it must have a column for, and the keys that it may have."""

    name: str
    fields: tuple[str, ...]
    needed: tuple[str, ...]
    keys: tuple[tuple[str, ...], ...]


_SOURCES: Final = _Kind("sources", SOURCE_FIELDS, ("source_key",), (("provider", "source_key"), ("source_key",)))
_ASSETS: Final = _Kind(
    "assets",
    ASSET_FIELDS,
    ("asset_key", "source_id"),
    (("asset_key",), ("provider", "asset_key"), ("source_id", "asset_key")),
)


async def introspect(
    connection: asyncpg.Connection[Any], columns: Mapping[str, str] | None = None, schema: str = SCHEMA
) -> Tables:
    """Read how the existing tables are to be written to.

    Args:
        connection: any session.
        columns: columns of fields, as the operator names them, e.g. `{"assets.asset_key": "external_id"}`.
        schema: where the tables are.

    Raises:
        SchemaMismatch: a table is missing, lacks indexes that a load has dropped, or cannot take the records; the
            message has the fix.
        SettingsInvalid: `columns` names a field or a column that does not exist.
    """
    await require_indexes(connection, schema)
    named = dict(columns or {})
    sources = await _introspect_table(connection, schema, _SOURCES, named)
    assets = await _introspect_table(connection, schema, _ASSETS, named)
    if named:
        raise SettingsInvalid(f"--column names no field of ours: {', '.join(sorted(named))}")
    if sources.id_type is None:
        raise SchemaMismatch(
            f"{schema}.sources has no column id of type bigint, integer or uuid for source_id to refer to"
        )
    link, link_type = assets.columns["source_id"].name, assets.columns["source_id"].type
    if link_type != sources.id_type:
        raise SchemaMismatch(f"{schema}.assets.{link} is {link_type}, but {schema}.sources.id is {sources.id_type}")
    tie = await connection.fetchrow(statement("registry/foreign_key"), assets.name, sources.name, link)
    assert tie is not None
    if tie["elsewhere"]:
        raise SchemaMismatch(
            f"{schema}.assets.{link} refers to {tie['elsewhere']}, not to {schema}.sources: "
            f"drop that foreign key, or name another column with --column assets.source_id=COLUMN"
        )
    return Tables(sources, assets, tie["is_tied"])


async def _introspect_table(
    connection: asyncpg.Connection[Any], schema: str, kind: _Kind, named: dict[str, str]
) -> Table:
    rows = await connection.fetch(statement("registry/columns"), schema, kind.name)
    if not rows:
        raise SchemaMissing(f"there is no table {schema}.{kind.name}: create it with `seed-registry schema apply`")
    name = f"{quoted(schema)}.{quoted(kind.name)}"
    facts = await connection.fetchrow(statement("registry/table"), schema, kind.name)
    assert facts is not None
    parts = await connection.fetchrow(statement("registry/partitions"), name) if facts["kind"] == "p" else None
    if refused := refusal(name, facts) or (parts and partition_checks.refusal(name, parts)):
        raise SchemaMismatch(refused)
    written = {row["name"]: row for row in rows if not row["is_generated"]}
    types: dict[str, str] = {column: row["type"] for column, row in written.items()}
    names = _find_columns(schema, kind, types, named)
    retired = _find_retired(schema, written, names.values(), named) if kind is _ASSETS else None
    touched = kind is _SOURCES and types.get("updated_at") in MOMENT_TYPES
    _check_all_are_filled(schema, kind, written.values(), {*names.values(), *(["updated_at"] if touched else [])})
    columns = {field: _column(written[column]) for field, column in names.items()}
    _check_keys_are_exact(name, [columns[field] for field in kind.needed])
    if parts:
        _check_partition_columns(name, kind, names, parts)
    key = _find_key(
        schema, kind, names, await connection.fetch(statement("registry/unique_indexes"), schema, kind.name)
    )
    _check_keys_are_exact(name, [columns[field] for field in key])
    required = [
        column.name
        for field, column in columns.items()
        if field in OPTIONAL_FIELDS and column.refuses_null and column.default is None
    ]
    divided = await is_divided(connection, name, has_citus=facts["has_citus"])
    return Table(
        schema=schema,
        relation=kind.name,
        columns=columns,
        key=key,
        id_type=types["id"] if types.get("id") in ID_TYPES else None,
        touched=touched,
        left_out=[
            field for field in kind.fields if field not in columns and not (kind is _ASSETS and field == "provider")
        ],
        cautions=cautions(name, facts, required) + (partition_checks.cautions(name, parts) if parts else []),
        retired=retired,
        has_creation_time=_has_creation_time(written),
        has_insert_triggers=facts["has_insert_triggers"] or bool(parts and parts["has_insert_triggers"]),
        is_partitioned=parts is not None,
        returns_old=connection.get_server_version() >= _RETURNS_OLD and not divided,
        is_divided=divided,
    )


def _check_partition_columns(name: str, kind: _Kind, columns: Mapping[str, str], parts: Mapping[str, Any]) -> None:
    keys = [[columns[field] for field in key] for key in kind.keys if all(field in columns for field in key)]
    if refused := partition_checks.refused_key(name, parts, keys):
        raise SchemaMismatch(refused)


def _has_creation_time(written: Mapping[str, Mapping[str, Any]]) -> bool:
    row = written.get("created_at")
    return row is not None and row["type"] == "timestamptz" and row["default_expression"] in _NOW


def _check_keys_are_exact(name: str, key: Iterable[Column]) -> None:
    for column in key:
        if column.is_folded:
            raise SchemaMismatch(folded_key(name, column.name, column.type))


def _check_all_are_filled(schema: str, kind: _Kind, rows: Iterable[Mapping[str, Any]], filled: Collection[str]) -> None:
    """Check that every column without a default gets a value.

    Raises:
        SchemaMismatch: one does not.
    """
    for row in rows:
        if row["name"] in filled or row["is_identity"] or row["default_expression"] is not None:
            continue
        if row["refuses_null"]:
            raise SchemaMismatch(
                f"{schema}.{kind.name}.{row['name']} is NOT NULL without a default, and no field fills it: "
                f"give it a default, or name the field with --column {kind.name}.FIELD={row['name']}"
            )
        if kind is _SOURCES and row["name"] == "id":
            raise SchemaMismatch(
                f"{schema}.sources.id has no default, so that a new source would have no id for its assets\n"
                f"run: alter table {quoted(schema)}.sources alter column id set not null, "
                "alter column id add generated by default as identity;"
            )


def _column(row: Mapping[str, Any]) -> Column:
    type_, modifier = row["type"], row["modifier"]
    default = None
    if row["refuses_null"] and row["default_expression"] is not None:
        default = Default(row["default_expression"], row["is_constant"])
    return Column(
        name=row["name"],
        type=type_,
        type_id=row["type_id"],
        is_domain=row["is_domain"],
        length=modifier - _VARLENA_HEADER if type_ in ("varchar", "bpchar") and modifier >= 0 else None,
        precision=modifier if type_ in MOMENT_TYPES and modifier >= 0 else None,
        default=default,
        is_folded=row["is_folded"],
        refuses_null=row["refuses_null"],
    )


def _find_columns(schema: str, kind: _Kind, types: Mapping[str, str], named: dict[str, str]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for field in kind.fields:
        fitting = FIELDS[field].types
        given = named.pop(f"{kind.name}.{field}", None)
        if given is not None and given not in types:
            raise SettingsInvalid(f"--column {kind.name}.{field}={given}: {schema}.{kind.name} has no column {given}")
        candidates = (given,) if given is not None else FIELDS[field].names or (field,)
        column = next((name for name in candidates if name in types), None)
        if column is not None and types[column] in fitting:
            columns[field] = column
        elif given is not None or field in kind.needed:
            problem = f"is {types[column]}, not {' or '.join(sorted(fitting))}" if column else "is missing"
            raise SchemaMismatch(
                f"{schema}.{kind.name}: the column for {field} ({column or ', '.join(candidates)}) {problem}; "
                f"name another with --column {kind.name}.{field}=COLUMN"
            )
    for (field, column), (other, same) in combinations(columns.items(), 2):
        if column == same:
            raise SettingsInvalid(f"--column: {kind.name}.{field} and {kind.name}.{other} cannot both go to {column}")
    return columns


def _find_retired(
    schema: str, written: Mapping[str, Mapping[str, Any]], taken: Collection[str], named: dict[str, str]
) -> Column | None:
    """Return the column for the moment when an asset left its portal; one like it that is not named is no error."""
    given = named.pop(f"{_ASSETS.name}.{RETIRED_AT}", None)
    name = given if given is not None else RETIRED_AT
    row = written.get(name)
    fits = row is not None and row["type"] in MOMENT_TYPES and not row["refuses_null"] and name not in taken
    if row is not None and fits:
        return _column(row)
    if given is None:
        return None
    if row is None:
        raise SettingsInvalid(f"--column assets.{RETIRED_AT}={given}: {schema}.assets has no column {given}")
    if name in taken:
        raise SettingsInvalid(f"--column: assets.{RETIRED_AT} and another field cannot both go to {given}")
    problem = "is NOT NULL" if row["refuses_null"] else f"is {row['type']}, not {' or '.join(sorted(MOMENT_TYPES))}"
    raise SchemaMismatch(
        f"{schema}.assets: the column for {RETIRED_AT} ({given}) {problem}; "
        f"name another with --column assets.{RETIRED_AT}=COLUMN"
    )


def _find_key(
    schema: str, kind: _Kind, columns: Mapping[str, str], indexes: Sequence[Mapping[str, Any]]
) -> tuple[str, ...]:
    possible = [key for key in kind.keys if all(field in columns for field in key)]
    usable = [set(index["columns"]) for index in indexes if index["flaw"] is None]
    # ON CONFLICT takes all indexes of these columns, and fails if one of them is deferrable.
    deferrable = {index["name"]: set(index["columns"]) for index in indexes if index["is_deferrable"]}
    for key in possible:
        wanted = {columns[field] for field in key}
        if wanted in usable and wanted not in deferrable.values():
            return key
    wanted = {columns[field] for field in possible[0]}
    listed = ", ".join(quoted(columns[field]) for field in possible[0])
    name, flawed = (
        f"{quoted(schema)}.{quoted(kind.name)}",
        "; ".join(f"{i['name']} {i['flaw']}" for i in indexes if i["flaw"]),
    )
    drops = "".join(f"drop constraint {quoted(index)}, " for index, of in deferrable.items() if of == wanted)
    fix = f"alter table {name} {drops}add unique ({listed});" if drops else f"create unique index on {name} ({listed});"
    raise SchemaMismatch(
        f"{schema}.{kind.name} has no unique index that an upsert could go by{flawed and f' ({flawed})'}; run:\n  {fix}"
    )
