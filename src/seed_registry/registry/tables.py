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
from seed_registry.registry.table_checks import Caution, cautions, folded_key, refusal

SCHEMA: Final = "registry"
_TEXT: Final = {"text", "varchar", "bpchar", "citext"}
_IDS: Final = {"int8", "int4", "uuid"}
_MOMENTS: Final = {"timestamptz", "timestamp"}
# What pg_attribute.atttypmod counts besides the characters.
_VARLENA_HEADER: Final = 4
_DOCUMENTS: Final = {"jsonb", "json", "text"}

# Names under which a field is found where the operator names none; the first that is there is taken.
_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "source_key": ("source_key", "domain", "host", "key", "slug"),
    "name": ("name", "title"),
    "raw": ("raw", "metadata", "payload", "data"),
}


class _Kind(Struct, frozen=True):
    """One of the two tables: its fields and their types, which are needed, which a record may lack, its keys."""

    name: str
    fields: Mapping[str, set[str]]
    needed: tuple[str, ...]
    optional: tuple[str, ...]
    keys: tuple[tuple[str, ...], ...]


_SOURCES: Final = _Kind(
    "sources",
    {"provider": _TEXT, "source_key": _TEXT, "name": _TEXT, "url": _TEXT, "raw": _DOCUMENTS, "content_hash": {"bytea"}},
    ("source_key",),
    ("name", "url"),
    (("provider", "source_key"), ("source_key",)),
)
_ASSETS: Final = _Kind(
    "assets",
    {
        "asset_key": _TEXT,
        "source_id": _IDS,
        "provider": _TEXT,
        "name": _TEXT,
        "description": _TEXT,
        "url": _TEXT,
        "updated_at": _MOMENTS,
        "raw": _DOCUMENTS,
        "content_hash": {"bytea"},
    },
    ("asset_key", "source_id"),
    ("name", "description", "url", "updated_at"),
    (("asset_key",), ("provider", "asset_key"), ("source_id", "asset_key")),
)


class Default(Struct, frozen=True):
    """What a NOT NULL column gets where a record has no value; the same at any time if `is_constant`."""

    expression: str
    is_constant: bool


class Column(Struct, frozen=True):
    """A column that a field goes to.

    Attributes:
        name: of the column.
        type: pg_type.typname; of a domain, that of the type that it is over.
        type_id: the oid of its type, of a domain that of the domain.
        is_domain: whether its type is one.
        length: the most characters that it takes; None without a limit.
        precision: the digits of a second that it keeps; None if all that there are.
        default: what it gets where a record has no value and it is NOT NULL; None if NULL.
        is_folded: whether it takes texts that are spelt otherwise for equal (citext, nondeterministic collations).
        refuses_null: whether it is NOT NULL.
    """

    name: str
    type: str
    type_id: int
    is_domain: bool = False
    length: int | None = None
    precision: int | None = None
    default: Default | None = None
    is_folded: bool = False
    refuses_null: bool = False


class Table(Struct, frozen=True):
    """A registry table as it is.

    Attributes:
        schema: where it is.
        relation: its name there.
        columns: for each field that it has a column for, the column's name.
        types: for each of these fields, the column's type (pg_type.typname).
        key: the fields of the unique index that upserts go by.
        id_type: the type of its `id` column, None where it has none.
        touched: whether it has an `updated_at` of its own that tells when a row changed (sources).
        left_out: fields that it has no column for.
        facts: for each field that it has a column for, what else is known of that.
        cautions: what should be known before a load writes to it.
    """

    schema: str
    relation: str
    columns: dict[str, str]
    types: dict[str, str]
    key: tuple[str, ...]
    id_type: str | None
    touched: bool
    left_out: list[str]
    facts: dict[str, Column]
    cautions: list[Caution]

    @property
    def name(self) -> str:
        """Its schema-qualified, quoted name."""
        return f"{quoted(self.schema)}.{quoted(self.relation)}"

    def column(self, field: str) -> str:
        """The quoted name of a field's column."""
        return quoted(self.columns[field])


class Tables(Struct, frozen=True):
    """Both registry tables, and whether a foreign key ties them."""

    sources: Table
    assets: Table
    tied: bool

    @property
    def is_unlogged(self) -> bool:
        """Whether a crash of the server empties one of them."""
        cautions = [*self.sources.cautions, *self.assets.cautions]
        return any(caution.event == "unlogged_tables" for caution in cautions)

    @property
    def salt(self) -> str:
        """What of the tables goes into content hashes: a column added later makes a reload fill it."""
        return ",".join(self.assets.columns) + "/" + ",".join(self.sources.columns)


async def introspect(
    connection: asyncpg.Connection[Any], columns: Mapping[str, str] | None = None, schema: str = SCHEMA
) -> Tables:
    """Look at the tables that exist and find out how to write to them.

    Args:
        connection: any session.
        columns: names of columns that the operator gives, e.g. `{"assets.asset_key": "external_id"}`.
        schema: where the tables are.

    Raises:
        SchemaMismatch: a table is missing or cannot take the records; the message tells what to run.
        SettingsInvalid: `columns` names what is not there.
    """
    named = dict(columns or {})
    sources = await _introspect_table(connection, schema, _SOURCES, named)
    assets = await _introspect_table(connection, schema, _ASSETS, named)
    if named:
        raise SettingsInvalid(f"--column names no field of ours: {', '.join(sorted(named))}")
    if sources.id_type is None:
        raise SchemaMismatch(
            f"{schema}.sources has no column id of type bigint, integer or uuid for source_id to refer to"
        )
    if assets.types["source_id"] != sources.id_type:
        raise SchemaMismatch(
            f"{schema}.assets.{assets.columns['source_id']} is {assets.types['source_id']}, "
            f"but {schema}.sources.id is {sources.id_type}"
        )
    link = assets.columns["source_id"]
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
    if refused := refusal(name, facts):
        raise SchemaMismatch(refused)
    written = {row["name"]: row for row in rows if not row["is_generated"]}
    types: dict[str, str] = {column: row["type"] for column, row in written.items()}
    columns = _find_columns(schema, kind, types, named)
    touched = kind is _SOURCES and types.get("updated_at") in _MOMENTS
    _see_that_all_are_filled(schema, kind, written.values(), {*columns.values(), *(["updated_at"] if touched else [])})
    described = {field: _described(written[column]) for field, column in columns.items()}
    _see_that_keys_are_told_apart(name, {field: described[field] for field in kind.needed})
    key = _find_key(
        schema, kind, columns, await connection.fetch(statement("registry/unique_indexes"), schema, kind.name)
    )
    _see_that_keys_are_told_apart(name, {field: described[field] for field in key})
    required = [
        described[field].name
        for field in kind.optional
        if field in described and described[field].refuses_null and described[field].default is None
    ]
    return Table(
        schema=schema,
        relation=kind.name,
        columns=columns,
        types={field: types[column] for field, column in columns.items()},
        key=key,
        id_type=types["id"] if types.get("id") in _IDS else None,
        touched=touched,
        left_out=[
            field for field in kind.fields if field not in columns and not (kind is _ASSETS and field == "provider")
        ],
        facts=described,
        cautions=cautions(name, facts, required),
    )


def _see_that_keys_are_told_apart(name: str, key: Mapping[str, Column]) -> None:
    for column in key.values():
        if column.is_folded:
            raise SchemaMismatch(folded_key(name, column.name, column.type))


def _see_that_all_are_filled(
    schema: str, kind: _Kind, rows: Iterable[Mapping[str, Any]], filled: Collection[str]
) -> None:
    """See that no column is left without a value that it wants.

    Raises:
        SchemaMismatch: one would be.
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


def _described(row: Mapping[str, Any]) -> Column:
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
        precision=modifier if type_ in _MOMENTS and modifier >= 0 else None,
        default=default,
        is_folded=row["is_folded"],
        refuses_null=row["refuses_null"],
    )


def _find_columns(schema: str, kind: _Kind, types: Mapping[str, str], named: dict[str, str]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for field, fitting in kind.fields.items():
        given = named.pop(f"{kind.name}.{field}", None)
        if given is not None and given not in types:
            raise SettingsInvalid(f"--column {kind.name}.{field}={given}: {schema}.{kind.name} has no column {given}")
        candidates = (given,) if given is not None else _ALIASES.get(field, (field,))
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
