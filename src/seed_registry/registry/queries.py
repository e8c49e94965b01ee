"""Fill the statements in `sql/` with the quoted names of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from seed_registry.postgres.identifiers import quoted
from seed_registry.postgres.sql_files import statement
from seed_registry.registry.tables import Table

if TYPE_CHECKING:
    from seed_registry.registry.change_records import ChangeRecords

_TEXT: Final = "pg_catalog.text"


def upsert(
    table: Table,
    staging: str,
    *,
    also_equal: bool = False,
    keeps_sources: bool = False,
    only_newer: bool = False,
    records: ChangeRecords | None = None,
) -> str:
    """Upsert the staged batch; equal rows are not touched, unless `also_equal`; with `only_newer` nor are newer ones.

    With `keeps_sources` the rows of the keys in $1 keep their source; with `records` the changes are recorded.
    """
    fields = list(table.columns)
    proposed = {field: f"excluded.{table.column(field)}" for field in fields}
    assignments = [
        # the portal's moment never goes backwards
        f"{table.column(field)} = "
        + (f"greatest(existing.{table.column(field)}, {value})" if field == "updated_at" else value)
        for field, value in proposed.items()
        if field in (set(fields) - _kept(table) or table.key)
    ]
    columns = [table.column(field) for field in fields]
    values = [_filled(table, field) for field in fields]
    if table.touched:
        columns.append("updated_at")
        values.append("pg_catalog.now()")
        assignments.append("updated_at = excluded.updated_at")  # Citus takes no call of now() here
    recorded: dict[str, str] = {}
    alias = ""
    if records is not None:
        alias = records.alias(table)
        recorded = {
            "alias": alias,
            "same_before": table.same_before(alias),
            "key_column": table.column(table.key[-1]),
            "recorded": records.of_upserts(table),
        }
    differs = _differs(table, proposed)
    if keeps_sources:
        differs += _has_same_source(table)
    if only_newer:
        differs += f" and not {_is_older(table, proposed['updated_at'])}"
    counts_older = "updated_at" in fields and not only_newer and not also_equal
    returned = dict.fromkeys([*table.key, *(["updated_at"] if counts_older else [])])
    parts = {
        "table": table.name,
        "staging": staging,
        "returned": ", ".join(_held(table, field) for field in returned),
        "same_key": table.same_key("staged"),
        "columns": ", ".join(columns),
        "values": ", ".join(values),
        "order": ", ".join(_ordered(table, field) for field in table.key),
        "key": ", ".join(table.column(field) for field in table.key),
    }
    return statement("registry/upsert_recorded" if records else "registry/upsert").format(
        **recorded,
        **parts,
        **_new_rows(table, parts, alias),
        is_older=_is_older(table, f"({_fitted(table, 'updated_at', 'staged')})") if counts_older else "false",
        assignments=", ".join(assignments),
        differs="true" if also_equal else differs,
    )


def _new_rows(table: Table, parts: dict[str, str], alias: str) -> dict[str, str]:
    """Return the parts of an upsert that tell which rows it inserts; with an `alias` it records the changes."""
    if table.returns_old or not table.is_partitioned:
        # of rows that were locked before they were updated, xmax is not 0
        is_new = f"old.{table.column(table.key[-1])} is null" if table.returns_old else "xmax = 0"
        return {
            "created": "",
            "not_created": "",
            "written": alias,
            "is_new": is_new,
            "and_created": "",
            "with_created": "",
        }
    key = [(f"staged.{field}", _held(table, field)) for field in table.key]
    staged, created = (", ".join(names) for names in zip(*key, strict=True))
    return {
        "created": statement("registry/create_first").format(
            **parts,
            locked="locked cross join " if alias else "",
            created_columns="existing.*" if alias else created,
        ),
        # a subplan that is hashed, whatever the planner expects of rows that are not there yet
        "not_created": f"where ({staged}) not in (select {created} from created as existing)",
        "written": "written",
        "is_new": "false",
        "and_created": "+ (select pg_catalog.count(*) from created)",
        "with_created": f"{alias} as (\n  select * from created union all select * from written\n),\n",
    }


def find_older(table: Table) -> str:
    """Select the positions of records that are older than their rows.

    They are given as an array for each field of the key, and one of `updated_at`.
    """
    fields = [*table.key, "updated_at"]
    return statement("registry/find_older").format(
        table=table.name,
        arrays=table.arrays(fields),
        names=", ".join(fields),
        same_key=table.same_key(),
        is_older=_is_older(table, f"({_fitted(table, 'updated_at', 'batch')})"),
    )


def take_out_older(table: Table, staging: str) -> str:
    """Take out of the staged batch, just upserted, the records that would change newer rows, and count them."""
    proposed = {field: f"({_fitted(table, field, 'staged')})" for field in table.columns}
    return statement("registry/take_out_older").format(
        table=table.name,
        staging=staging,
        same_key=table.same_key("staged"),
        differs=_differs(table, proposed),
        is_older=_is_older(table, proposed["updated_at"]),
    )


def _has_same_source(table: Table) -> str:
    source, key = table.column("source_id"), table.column("asset_key")
    is_same = f"existing.{source} is not distinct from excluded.{source}"
    return f" and ({is_same} or existing.{key}::pg_catalog.text <> all ($1::pg_catalog.text[]))"


def kept_out(table: Table, staging: str) -> str:
    """Count the staged rows, just upserted, that the table does not hold: a trigger kept them out."""
    proposed = {field: f"({_fitted(table, field, 'staged')})" for field in table.columns}
    return statement("registry/kept_out").format(
        table=table.name,
        staging=staging,
        same_key=table.same_key("staged"),
        differs=_differs(table, proposed),
    )


def renew_hashes(table: Table, staging: str) -> str:
    """Write the content hashes of a staged batch to the rows that its upsert did not touch."""
    return statement("registry/renew_hashes").format(
        table=table.name,
        staging=staging,
        same_key=table.same_key("staged"),
        hash_column=table.column("content_hash"),
    )


def samples(table: Table, *, by_key: bool = False) -> str:
    """Select a few rows in the form in which they are staged; `by_key` the row of the key in $1 and following."""
    return statement("registry/samples").format(
        table=table.name,
        values=", ".join(_restaged(table, field) for field in table.columns),
        condition=f"where {table.key_equals_parameters()}" if by_key else "",
    )


def filter_by_hash(table: Table) -> str:
    """Select the positions of records that the table holds: equal, other and retired ones.

    The parameters are the joined content hashes, the length of one, a separator, and for each of `identity_fields` its
    values joined by the separator: asyncpg encodes arrays element by element, which takes longer than all of that.
    """
    fields = identity_fields(table)
    texts = [f"pg_catalog.string_to_array(${number}, $3)" for number, _ in enumerate(fields, 4)]
    types = [table.staged_type(field) for field in fields]
    arrays = [text if type_ == _TEXT else f"{text}::{type_}[]" for text, type_ in zip(texts, types, strict=True)]
    return statement("registry/filter_by_hash").format(
        table=table.name,
        arrays=", ".join(arrays),
        names=", ".join(fields),
        same_key=table.same_key(),
        is_retired=table.is_retired(),
        is_equal=_is_equal(table, fields),
    )


def _is_equal(table: Table, fields: Sequence[str]) -> str:
    """Return the condition that a row has the source and the content hash of its record."""
    same = [
        f"existing.{table.column(field)} is not distinct from batch.{field}"
        for field in fields
        if field not in table.key
    ]
    hashed = (
        f"existing.{table.column('content_hash')} is not distinct from pg_catalog.substring($1::pg_catalog.bytea, "
        "((batch.position - 1) * $2::pg_catalog.int4 + 1)::pg_catalog.int4, $2::pg_catalog.int4)"
    )
    return f"({' and '.join([*same, hashed])})"


def clear_marks(table: Table, records: ChangeRecords | None = None) -> str:
    """Take the mark of retired assets from the rows of the keys in $1 and following, one array a key field."""
    return statement("registry/clear_marks").format(
        **_of_marks(table, "returned", records), arrays=table.arrays(table.key), order=_batch_order(table)
    )


def clear_marks_of(table: Table, id_type: str, records: ChangeRecords | None = None) -> str:
    """Take the mark of retired assets from the rows with the asset keys in $1 and the sources in $2."""
    return statement("registry/clear_marks_of").format(
        **_of_marks(table, "returned", records),
        key_column=table.column("asset_key"),
        source_column=table.column("source_id"),
        id_type=id_type,
        order=", ".join(_sorted(table, field, f"existing.{table.column(field)}") for field in table.key),
    )


def retire(table: Table, id_type: str, records: ChangeRecords | None = None) -> str:
    """Mark rows as retired: those of the keys in $1 and following, one array a key field.

    Then come the xid at the begin of the run, and the ids of the sources whose rows may be marked.
    """
    assert table.retired is not None
    now = "pg_catalog.now()"
    return statement("registry/retire").format(
        **_of_marks(table, "retired", records),
        arrays=table.arrays(table.key),
        order=_batch_order(table),
        xid=f"${len(table.key) + 1}",
        sources=f"${len(table.key) + 2}",
        source_column=table.column("source_id"),
        id_type=id_type,
        now=f"pg_catalog.timezone('UTC', {now})" if table.retired.type == "timestamp" else now,
    )


def _of_marks(table: Table, kind: str, records: ChangeRecords | None) -> dict[str, str]:
    assert table.retired is not None
    return {
        "table": table.name,
        "names": ", ".join(table.key),
        "same_key": table.same_key(),
        "same_before": table.same_before(),
        "is_retired": table.is_retired(),
        "retired_column": quoted(table.retired.name),
        "recorded": records.of_marks(kind) if records else "",
    }


def _batch_order(table: Table) -> str:
    return ", ".join(_ordered(table, field, "batch") for field in table.key)


def identity_fields(table: Table) -> list[str]:
    """Return the fields that, with the content hash, identify the row of a record: its key and its source."""
    return [*table.key, *(["source_id"] if "source_id" in {*table.columns} - {*table.key} else [])]


def compared_fields(table: Table) -> list[str]:
    """Return the fields in which rows may differ from records; where there are none, the key stands for them."""
    return [field for field in table.columns if _is_compared(table, field)] or [table.key[-1]]


def by_value(table: Table, name: str) -> str:
    """Fill a statement that joins a batch, given as one array per field, to the rows of the same keys."""
    fields = list(table.columns)
    proposed = {field: f"({_fitted(table, field, 'batch')})" for field in fields}
    differences = _differences(table, proposed)
    conditions = [f"{differences.get(field, 'false')} as {field}" for field in compared_fields(table)]
    if name == "compare" and table.retired:
        conditions.append(f"{table.is_retired()} as retired")
    return statement(f"registry/{name}").format(
        table=table.name,
        arrays=table.arrays(fields),
        names=", ".join(fields),
        same_key=table.same_key(),
        differs=_differs(table, proposed),
        is_retired=table.is_retired(),
        is_older=_is_older(table, proposed["updated_at"]) if "updated_at" in table.columns else "false",
        conditions=", ".join(conditions),
    )


def _ordered(table: Table, field: str, alias: str = "staged") -> str:
    """Order a key field as Python sorts it: a COPY straight into the table locks in that order."""
    return _sorted(table, field, f"{alias}.{field}")


def _sorted(table: Table, field: str, value: str) -> str:
    return f'{value} collate pg_catalog."C"' if table.staged_type(field) == _TEXT else value


def _unstaged(table: Table, field: str, alias: str = "staged") -> str:
    """Return a staged value in the type of its column."""
    if field == "updated_at" and table.columns[field].type == "timestamp":
        return f"pg_catalog.timezone('UTC', {alias}.updated_at)"
    if field != "raw":
        return f"{alias}.{field}"
    text, type_ = f"pg_catalog.convert_from({alias}.raw, 'UTF8')", table.columns["raw"].type
    return text if type_ == "text" else f"{text}::pg_catalog.{type_}"


def _restaged(table: Table, field: str) -> str:
    """Return a value of a row in the type in which it is staged."""
    held = _held(table, field)
    if field == "updated_at" and table.columns[field].type == "timestamp":
        return f"pg_catalog.timezone('UTC', {held})"
    if field == "raw":
        return f"pg_catalog.convert_to({held}::pg_catalog.text, 'UTF8')"
    return f"{held}::{table.staged_type(field)}"


def _kept(table: Table) -> set[str]:
    """Return the fields that an existing row keeps: its key, and a source its provider."""
    return {*table.key, *({"provider"} if "source_key" in table.columns else ())}


def _filled(table: Table, field: str) -> str:
    """Return the value to insert: a missing one is replaced by the default of a column that is NOT NULL.

    A default that differs each time (of a clock, of a sequence) is for new rows only: existing rows keep their value,
    or every load would change them.
    """
    value, default = _unstaged(table, field), table.columns[field].default
    if default is None:
        return value
    if default.is_constant:
        return f"coalesce({value}, {default.expression})"
    held = f"(select {_held(table, field)} from {table.name} as existing where {table.same_key('staged')})"
    return f"coalesce({value}, {held}, {default.expression})"


def _fitted(table: Table, field: str, alias: str) -> str:
    """Return a staged value as its column would store it, with defaults and limited types applied.

    A text that is too long for its column stays as it is, and equals no row.
    """
    column, value = table.columns[field], _unstaged(table, field, alias)
    if column.precision is not None:
        value = f"{value}::pg_catalog.{column.type}({column.precision})"
    if column.type == "bpchar":  # compared as text, and so without the blanks that pad it
        value = f"pg_catalog.rtrim({value}, ' ')"
    elif column.length is not None:
        fits = f"pg_catalog.length(pg_catalog.rtrim({value}, ' ')) <= {column.length}"
        value = f"case when {fits} then pg_catalog.left({value}, {column.length}) else {value} end"
    if column.default is None:
        return value
    return f"coalesce({value}, {column.default.expression if column.default.is_constant else _held(table, field)})"


def _held(table: Table, field: str) -> str:
    return f"existing.{table.column(field)}"


def _is_older(table: Table, moment: str) -> str:
    """Return the condition that a record of this moment, as the column stores it, is older than its row.

    It is not where one of them has none, or a default in its place.
    """
    held, default = _held(table, "updated_at"), table.columns["updated_at"].default
    is_missing = f" and {default.expression} not in ({held}, {moment})" if default and default.is_constant else ""
    return f"coalesce({moment} < {held}{is_missing}, false)"


def _differs(table: Table, proposed: Mapping[str, str]) -> str:
    """Return the condition that an existing row would change."""
    return f"({' or '.join(_differences(table, proposed).values()) or 'false'})"


def _is_compared(table: Table, field: str) -> bool:
    return field not in _kept(table) and field != "content_hash"


def _differences(table: Table, proposed: Mapping[str, str]) -> dict[str, str]:
    """Return for each field the condition that an existing row would change; a content hash alone is no change."""
    conditions = {}
    for field in table.columns:
        if not _is_compared(table, field):
            continue
        current, value = _held(table, field), proposed[field]
        if field == "updated_at":
            value = f"greatest({current}, {value})"
        if table.columns[field].type == "json":  # json has no equality of its own, and not all of it is jsonb as well
            current, value = f"{current}::pg_catalog.text", f"{value}::pg_catalog.text"
        if table.columns[field].is_folded:
            current, value = (f'{text}::pg_catalog.text collate pg_catalog."C"' for text in (current, value))
        conditions[field] = f"{current} is distinct from {value}"
    return conditions
