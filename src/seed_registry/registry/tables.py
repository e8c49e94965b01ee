"""The two registry tables as they are in one database: their columns by field, and their keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from seed_registry.postgres.identifiers import quoted
from seed_registry.registry.fields import FIELDS, RETIRED_AT

SCHEMA: Final = "registry"


class Default(Struct, frozen=True):
    """What a NOT NULL column gets where a record has no value; the same at any time if `is_constant`."""

    expression: str
    is_constant: bool


class Column(Struct, frozen=True):
    """A column that stores a field.

    Attributes:
        name: as the catalog has it.
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


class Caution(Struct, frozen=True):
    """What a load logs about a table that it can write to: the event, the finding, the fix."""

    event: str
    finding: str
    fix: str


class Table(Struct, frozen=True):
    """A registry table as it is.

    Attributes:
        schema: where it is.
        relation: its name there.
        columns: by the field that each stores.
        key: the fields of the unique index that upserts go by.
        id_type: the type of its `id` column, None where it has none.
        touched: whether its `updated_at` is the time of the last change of the row (sources).
        left_out: fields that it has no column for.
        cautions: what endangers or slows a load into it.
        retired: the column that marks assets which their portals no longer list; not among `columns`, for no record
            fills it.
        has_creation_time: whether its `created_at` is the moment of the transaction that inserts a row.
        has_insert_triggers: whether triggers see new rows; one may change that moment, or write the row again.
        is_partitioned: whether its rows are in partitions.
        returns_old: whether the server says of each row that an upsert writes what it was before: Postgres 18 does.
        is_divided: whether its rows are in shards on several nodes, see `citus`.
    """

    schema: str
    relation: str
    columns: dict[str, Column]
    key: tuple[str, ...]
    id_type: str | None
    touched: bool
    left_out: list[str]
    cautions: list[Caution]
    retired: Column | None = None
    has_creation_time: bool = False
    has_insert_triggers: bool = False
    is_partitioned: bool = False
    returns_old: bool = False
    is_divided: bool = False

    @property
    def name(self) -> str:
        """Its schema-qualified, quoted name."""
        return f"{quoted(self.schema)}.{quoted(self.relation)}"

    @property
    def recorded(self) -> dict[str, Column]:
        """The columns whose values changes hold, by field: also that for the marks of retired assets."""
        return self.columns | ({RETIRED_AT: self.retired} if self.retired else {})

    @property
    def column_names(self) -> list[str]:
        """The names of all columns that store a field."""
        return [column.name for column in self.columns.values()]

    def is_retired(self, alias: str = "existing") -> str:
        """The condition that a row is marked as one that its portal no longer lists."""
        return f"{alias}.{quoted(self.retired.name)} is not null" if self.retired else "false"

    def type(self, field: str) -> str | None:
        """The type of a field's column, None where it has none."""
        return self.columns[field].type if field in self.columns else None

    def column(self, field: str) -> str:
        """The quoted name of a field's column."""
        return quoted(self.columns[field].name)

    def staged_type(self, field: str) -> str:
        """The qualified SQL type in which a field is staged."""
        return f"pg_catalog.{FIELDS[field].staged or self.columns[field].type}"

    def arrays(self, fields: Sequence[str]) -> str:
        """A parameter for each of these fields, from $1 on: an array of it as it is staged."""
        return ", ".join(f"${number}::{self.staged_type(field)}[]" for number, field in enumerate(fields, 1))

    def same_key(self, alias: str = "batch") -> str:
        """The condition that a row of the table, `existing`, has the key of a staged row."""
        return " and ".join(f"existing.{self.column(field)} = {alias}.{field}" for field in self.key)

    def same_before(self, alias: str = "existing") -> str:
        """The condition that a row of the table is that of one in `before`, which has its columns."""
        return " and ".join(f"before.{self.column(field)} = {alias}.{self.column(field)}" for field in self.key)

    def key_equals_parameters(self) -> str:
        """The condition that a row of the table, `existing`, has the key whose values are the parameters from $1 on."""
        return " and ".join(
            f"existing.{self.column(field)} = ${number}::{self.staged_type(field)}"
            for number, field in enumerate(self.key, 1)
        )


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
        """The part of content hashes that depends on the tables: a column added later makes a reload fill it."""
        return ",".join(self.assets.columns) + "/" + ",".join(self.sources.columns)
