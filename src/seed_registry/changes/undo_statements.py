"""Fill the statements of an undo with the quoted names of a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from seed_registry.postgres.identifiers import literal, quoted
from seed_registry.postgres.sql_files import statement
from seed_registry.registry.change_records import ChangeRecords, is_intact, key_as_texts
from seed_registry.registry.digest import hash_of, values_of_assets, values_of_sources
from seed_registry.registry.fields import FIELDS
from seed_registry.registry.tables import Table

_CREATED_AT: Final = "created_at"


class UndoStatements:
    """The statements that take back the changes of one run in one table; each takes an array of texts a key field."""

    def __init__(self, records: ChangeRecords, table: Table, undone: str) -> None:
        """`records` are those of the undo, which is a run as well; `undone` is the run that it takes back."""
        self._records = records
        self._tables = records.tables
        self._table = table
        self._undone = undone
        self._is_assets = table is records.tables.assets
        self._relation = literal("assets" if self._is_assets else "sources")
        alias = records.alias(table)
        self._common = {
            "table": table.name,
            "alias": alias,
            "names": ", ".join(table.key),
            "arrays": self._arrays(),
            "same_key": table.same_key(),
            "same_before": table.same_before(),
            "key": key_as_texts(table, alias),
        }

    def state(self, *, is_dry: bool) -> str:
        """The rows as they are, locked unless it `is_dry`; see `RowState`."""
        sources, assets = self._tables.sources, self._tables.assets
        tie = f"left join {sources.name} as source on source.id = existing."
        return statement("changes/undo_state").format(
            **self._common,
            hash=hash_of(
                values_of_assets(self._tables, "existing")
                if self._is_assets
                else values_of_sources(sources, "existing")
            ),
            is_intact=self._is_intact(),
            source=tie + assets.column("source_id") if self._is_assets else "",
            order=self._order(),
            source_id=f"existing.{assets.column('source_id')}" if self._is_assets else "existing.id",
            # Which sources will have no assets is asked of a dry run only.
            is_moved=f"coalesce(({self._values_before()}) ? 'source_id', false)" if is_dry else "false",
            lock="" if is_dry else "for update of existing",
        )

    def count_assets(self) -> str:
        """How many assets each source has."""
        assets = self._tables.assets
        return statement("changes/count_assets").format(
            **self._common, id=quoted("id"), assets=assets.name, source_column=assets.column("source_id")
        )

    def _is_intact(self) -> str:
        if not (self._is_assets and self._table.has_creation_time):
            return "false"
        return (
            f"exists (select from seed_registry.created as created where {is_intact('existing')} "
            f"and created.run_id = {literal(self._undone)})"
        )

    def done(self) -> str:
        """The positions of the rows that this undo has dealt with."""
        return statement("changes/undo_done").format(
            **self._common, run=literal(self._records.run_id), relation=self._relation, batch_key=self._batch_key()
        )

    def created(self) -> str:
        """The keys of the assets that the run created, in some blocks of the table."""
        return statement("changes/undo_created").format(
            table=self._table.name, key=key_as_texts(self._table, "existing")
        )

    def delete(self) -> str:
        """Delete rows."""
        return statement("changes/undo_delete").format(
            **self._common, recorded=self._records.of_deletions(self._table, self._extra())
        )

    def keep(self) -> str:
        """Mark rows as retired."""
        retired = self._table.retired
        assert retired is not None
        now = "pg_catalog.now()"
        return statement("changes/undo_keep").format(
            **self._common,
            retired_column=quoted(retired.name),
            now=f"pg_catalog.timezone('UTC', {now})" if retired.type == "timestamp" else now,
            is_retired=self._table.is_retired(),
            recorded=self._records.of_marks("retired"),
        )

    def restore(self) -> str:
        """Give rows the values that they had before."""
        assignments = [
            f"{column} = case when former.was ? '{field}' then {value} else existing.{column} end"
            for field, column, value in self._values()
            if field not in self._table.key
        ]
        if self._table.touched:
            assignments.append("updated_at = pg_catalog.now()")
        return statement("changes/undo_restore").format(
            **self._common,
            assignments=", ".join(assignments),
            values_before=self._values_before(),
            recorded=self._records.of_undone(self._table),
        )

    def insert(self) -> str:
        """Insert rows again that the run deleted."""
        values = [(column, value) for _, column, value in self._values()]
        values += [(quoted(name), f"(former.was ->> '{name}')::pg_catalog.{type_}") for name, type_ in self._extra()]
        return statement("changes/undo_insert").format(
            **self._common,
            columns=", ".join(column for column, _ in values),
            values=", ".join(value for _, value in values),
            values_before=self._values_before(),
            key_columns=", ".join(self._table.column(field) for field in self._table.key),
            order=self._order(),
            recorded=self._records.of_undone(self._table, is_new=True),
        )

    def referenced(self, name: str, columns: list[str], referenced: list[str]) -> str:
        """The positions of those rows to which rows of another table refer."""
        same = " and ".join(
            f"other.{quoted(column)} = existing.{quoted(to)}" for column, to in zip(columns, referenced, strict=True)
        )
        return (
            f"select batch.position::pg_catalog.int4 from unnest({self._arrays()}) with ordinality "
            f"as batch ({self._common['names']}, position) join {self._table.name} as existing on "
            f"{self._common['same_key']} where exists (select from {name} as other where {same})"
        )

    def _values(self) -> Iterator[tuple[str, str, str]]:
        """Each field that a change may hold, its column, and its value of before."""
        for field, column in self._table.recorded.items():
            yield field, quoted(column.name), _from_text(field, column.type)

    def _extra(self) -> list[tuple[str, str]]:
        """The columns of a deleted row, besides those of fields, that it gets again; each with its type."""
        extra = [("id", self._table.id_type)] if self._table.id_type else []
        return [*extra, *([(_CREATED_AT, "timestamptz")] if self._table.has_creation_time else [])]

    def _arrays(self) -> str:
        return ", ".join(
            f"${number}::pg_catalog.text[]::{self._table.staged_type(field)}[]"
            for number, field in enumerate(self._table.key, 1)
        )

    def _order(self) -> str:
        return ", ".join(
            f'batch.{field} collate pg_catalog."C"' if FIELDS[field].staged == "text" else f"batch.{field}"
            for field in self._table.key
        )

    def _values_before(self) -> str:
        return statement("changes/values_before").format(
            run=literal(self._undone), relation=self._relation, batch_key=self._batch_key()
        )

    def _batch_key(self) -> str:
        texts = ", ".join(f"batch.{field}::pg_catalog.text" for field in self._table.key)
        return f"array[{texts}]"


def _from_text(field: str, type_: str) -> str:
    """The value of a field from the text that a change holds, see `value_as_text`."""
    text = f"(former.was ->> '{field}')"
    if field == "content_hash":
        return f"pg_catalog.decode{text[:-1]}, 'hex')"
    if type_ in ("text", "varchar", "bpchar", "citext"):
        return text
    return f"{text}::pg_catalog.{type_}"
