"""Decide whether a load can write to a partitioned table, and what endangers or slows it there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from seed_registry.postgres.identifiers import display_name
from seed_registry.registry.tables import Caution

# Statements in one message: a table may have thousands of partitions.
_MOST_STATEMENTS: Final = 20


def refusal(name: str, parts: Mapping[str, Any]) -> str | None:
    """Return why no upsert can go into the table of this quoted name, and the fix; `parts` are of `partitions.sql`."""
    title = display_name(name)
    if parts["foreign_tables"]:
        return (
            f"{title} has partitions that are foreign tables, for which Postgres has no ON CONFLICT; attach plain ones "
            f"in their place, or move their rows\nrun: {_joined(parts['foreign_tables'])}"
        )
    if parts["missing"]:
        return (
            f"{title} lacks {len(parts['missing'])} of its hash partitions: their records would be refused\n"
            f"run: {_joined(parts['missing'])}"
        )
    if not parts["partitions"]:
        return f"{title} has no partitions\nrun: {_joined(parts['without_default'])}"
    if parts["published"]:
        fixes = [f"alter table {partition} replica identity full;" for partition in parts["published"]]
        return (
            f"{title} is published, and partitions of it have no replica identity, so that Postgres refuses to update "
            f"them; give it a primary key, or\nrun: {_joined(fixes)}"
        )
    return None


def refused_key(name: str, parts: Mapping[str, Any], possible: Sequence[Collection[str]]) -> str | None:
    """Return why none of the possible keys, as columns, can be unique in a table that is partitioned as it is."""
    by = [column or "an expression" for column in parts["columns"]]
    if any(set(by) <= set(key) for key in possible):
        return None
    keys = " or ".join(f"({', '.join(key)})" for key in possible)
    return (
        f"{display_name(name)} is partitioned by {', '.join(by)}: Postgres has no unique index of {keys} alone then, "
        "which an upsert goes by\npartition it by columns of the key, best by hash"
    )


def cautions(name: str, parts: Mapping[str, Any]) -> list[Caution]:
    """Return what endangers or slows a load."""
    title, found = display_name(name), list[Caution]()
    if parts["unlogged"]:
        finding = f"{title} has unlogged partitions: they are emptied by a crash of the server"
        fixes = [f"alter table {partition} set logged;" for partition in parts["unlogged"]]
        found.append(Caution("unlogged_tables", finding, _joined(fixes)))
    if parts["triggers"]:
        finding = (
            f"partitions of {title} have {', '.join(parts['triggers'])}: rows that a trigger changes differ from the "
            "index, rows that it keeps out are rejected"
        )
        fixes = [f"alter table {partition} disable trigger user;" for partition in parts["with_triggers"]]
        found.append(Caution("triggers", finding, f"{_joined(fixes)} for a load"))
    if parts["without_default"]:
        finding = f"{title} has no default partition: records that no partition takes are rejected"
        found.append(Caution("no_default_partition", finding, _joined(parts["without_default"])))
    return found


def _joined(statements: Sequence[str]) -> str:
    shown = " ".join(statements[:_MOST_STATEMENTS])
    return shown if len(statements) <= _MOST_STATEMENTS else f"{shown} and {len(statements) - _MOST_STATEMENTS} more"
