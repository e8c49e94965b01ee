"""The SQL that records changes of rows, as a part of the statements that make them.

A change has the fields that differ, and what they were, as texts: a moment in ISO 8601, bytes in hexadecimal digits, a
document as its text. Its hash is that of the row afterwards, as `digest` computes it. So what a run did can be told,
and taken back where nothing else has changed the row.

A run that began with no assets does not record each that it creates: one entry for a batch has the number of its
transaction, and its moment. By both the rows are found, as long as nothing changes them; the first change of such a row
says which run had created it, and what its hash was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from seed_registry.postgres.identifiers import literal, quoted
from seed_registry.postgres.sql_files import statement
from seed_registry.registry.digest import hash_of, values_of_assets, values_of_sources
from seed_registry.registry.fields import MOMENT_TYPES, RETIRED_AT
from seed_registry.registry.tables import Table, Tables

_XID: Final = "seed_registry_xid"


class ChangeRecords(Struct, frozen=True):
    """How the changes of one run are recorded.

    Attributes:
        is_first: whether there were no assets when it began.
    """

    run_id: str
    tables: Tables
    is_first: bool = False

    def alias(self, table: Table) -> str:
        """Return what the changed rows of a table are called in a statement that records them."""
        return "asset" if table is self.tables.assets else "source"

    def stands_for_all(self, table: Table) -> bool:
        """Whether one entry stands for all rows of a table that a batch creates."""
        return self.is_first and table is self.tables.assets

    def of_upserts(self, table: Table) -> str:
        """Return the part of a statement that records what it inserted and updated."""
        fields = [field for field in table.columns if field not in table.key]
        kind = "case when {was_none} then 'inserted' else 'updated' end"
        return self._part(table, kind, fields, is_new=not self.stands_for_all(table))

    def of_marks(self, kind: str) -> str:
        """Return the part of a statement that records what it `retired` or `returned`."""
        return ",\n" + self._part(self.tables.assets, literal(kind), [RETIRED_AT], is_new=False)

    def of_undone(self, table: Table, *, is_new: bool = False) -> str:
        """Return the part of a statement that records what it gave back: former values, or rows that were deleted."""
        fields = [field for field in table.recorded if field not in table.key]
        return self._part(table, literal("undone"), fields, is_new=is_new)

    def of_deletions(self, table: Table, others: Sequence[tuple[str, str]]) -> str:
        """Return the part of a statement that records the rows that it deleted.

        All that they were is kept, and of the `others`, columns that no field has, those with these types.
        """
        alias = self.alias(table)
        values = [f"'{field}', {value_as_text(table, field, 'before')}" for field in table.recorded]
        values += [f"'{name}', {text_of(f'before.{quoted(name)}', type_)}" for name, type_ in others]
        return self._statement(
            table,
            kind=literal("undone"),
            fields=f"array[{', '.join(literal(field) for field in table.recorded if field != 'content_hash')}]",
            before=f"pg_catalog.jsonb_build_object({', '.join(values)})",
            hash="null",
            rows=self._rows(table, alias),
        )

    def created(self, rows: int) -> str:
        """Return the statement that records how many assets this transaction has created, as one entry."""
        return (
            "insert into seed_registry.created (at, xid, run_id, rows) values (pg_catalog.now(), "
            f"pg_catalog.pg_current_xact_id(), {literal(self.run_id)}, {rows})"
        )

    def _part(self, table: Table, kind: str, fields: Sequence[str], *, is_new: bool) -> str:
        """The changes of `fields`; with `is_new` also of rows that were not there before."""
        alias = self.alias(table)
        was_none = f"before.{table.column(table.key[-1])} is null"
        kept = {"provider"} if table is self.tables.sources else set()  # a source keeps it
        changed = {field: _changed(table, field, alias) for field in fields if field not in kept}
        return self._statement(
            table,
            kind=kind.format(was_none=was_none),
            fields=_differing_names(changed, was_none),
            before=f"case when not {was_none} then {_differing_values(table, changed)} end",
            hash=hash_of(self._values(table)),
            rows=self._rows(table, alias, is_new=is_new),
        )

    def _statement(self, table: Table, **parts: str) -> str:
        alias, values = self.alias(table), self._values(table)
        is_assets = table is self.tables.assets
        is_known = is_assets and table.has_creation_time
        created_hash = hash_of(values_of_assets(self.tables, "before", "former"))
        return statement("registry/record_changes").format(
            **parts,
            run_id=literal(self.run_id),
            relation="assets" if is_assets else "sources",
            key=key_as_texts(table, alias),
            provider=values.get("provider", "null"),
            source_key=values["source_key"],
            asset_key=values.get("asset_key", "null"),
            created_by="created.run_id" if is_known else "null",
            created_hash=f"case when created.run_id is not null then {created_hash} end" if is_known else "null",
            order=", ".join(f'{alias}.{table.column(field)}::pg_catalog.text collate "C"' for field in table.key),
        )

    def _values(self, table: Table) -> dict[str, str]:
        """The values of a row as it is now that its hash covers."""
        return values_of_assets(self.tables) if table is self.tables.assets else values_of_sources(table)

    def _rows(self, table: Table, alias: str, *, is_new: bool = False) -> str:
        """The rows as they are now with those before; with `is_new` also those that were not there."""
        assets, sources = self.tables.assets, self.tables.sources
        parts = [f"{alias} {'left ' if is_new else ''}join before on {table.same_before(alias)}"]
        if table is assets:
            link, id_ = assets.column("source_id"), quoted("id")
            parts.append(f"left join {sources.name} as source on source.{id_} = asset.{link}")
            if table.has_creation_time:
                parts.append(f"left join {sources.name} as former on former.{id_} = before.{link}")
                parts.append(f"left join seed_registry.created as created on {is_intact('before', _XID)}")
        return "\n  ".join(parts)


def key_as_texts(table: Table, alias: str) -> str:
    """The unique key of a row, as an array."""
    values = ", ".join(f"{alias}.{table.column(field)}::pg_catalog.text" for field in table.key)
    return f"array[{values}]"


def is_intact(alias: str, xmin: str = "xmin") -> str:
    """The condition that nothing has changed a row since the transaction of an entry in `created` made it."""
    return f"created.at = {alias}.{quoted('created_at')} and created.xid::pg_catalog.xid = {alias}.{xmin}"


def value_as_text(table: Table, field: str, alias: str) -> str:
    """The value of a field as changes hold it: a text of which its type makes the same value again."""
    column = table.recorded[field]
    return text_of(f"{alias}.{quoted(column.name)}", column.type)


def text_of(value: str, type_: str | None) -> str:
    """A value of this type as changes hold it, whatever the settings of the session."""
    if type_ in MOMENT_TYPES:
        return f"pg_catalog.to_jsonb({value})"
    return f"pg_catalog.encode({value}, 'hex')" if type_ == "bytea" else f"{value}::pg_catalog.text"


def _changed(table: Table, field: str, alias: str) -> str:
    now, then = (f"{row}.{quoted(table.recorded[field].name)}" for row in (alias, "before"))
    differs = f"{now} is distinct from {then}"
    if field == RETIRED_AT:
        return differs
    as_texts = " is distinct from ".join(f'{value}::pg_catalog.text collate "C"' for value in (now, then))
    if table.type(field) == "jsonb":  # equal documents may have numbers that are spelt otherwise, and so other hashes
        return f"({differs} or {as_texts})"
    return as_texts if table.type(field) == "json" or table.columns[field].is_folded else differs


def _differing_names(changed: dict[str, str], is_new: str) -> str:
    names = [f"case when {differs} then '{field}' end" for field, differs in changed.items() if field != "content_hash"]
    found = f"pg_catalog.array_remove(array[{', '.join(names)}]::pg_catalog.text[], null)"
    return f"case when {is_new} then '{{}}' else {found} end"


def _differing_values(table: Table, changed: dict[str, str]) -> str:
    values = [
        f"case when {differs} then pg_catalog.jsonb_build_object('{field}', {value_as_text(table, field, 'before')}) "
        "else '{}' end"
        for field, differs in changed.items()
    ]
    return " || ".join(values) or "'{}'"
