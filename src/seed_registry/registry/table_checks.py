"""Decide whether a load can write to a table, and what endangers or slows it.

`schema check`, `doctor`, `plan` and `load` all ask here before the first write: some tables would take a first load by
COPY, and refuse every later one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from seed_registry.postgres.identifiers import display_name, quoted
from seed_registry.registry.tables import Caution

_KINDS: Final = {
    "f": "a foreign table",
    "v": "a view",
    "m": "a materialized view",
}


def refusal(name: str, facts: Mapping[str, Any]) -> str | None:
    """Return why no upsert can go into the table of this quoted name, and the fix; `facts` are a row of `table.sql`."""
    title = display_name(name)
    if facts["kind"] in _KINDS:
        return f"{title} is no table but {_KINDS[facts['kind']]}: a load can only upsert into a table"
    if facts["children"]:
        fixes = " ".join(f"alter table {child} no inherit {name};" for child in facts["children"])
        return (
            f"{title} has children ({', '.join(facts['children'])}), over which its unique index does not reach\n"
            f"run: {fixes}"
        )
    if facts["rules"]:
        fixes = " ".join(f"drop rule {quoted(rule)} on {name};" for rule in facts["rules"])
        return (
            f"{title} has rules on INSERT or UPDATE ({', '.join(facts['rules'])}), with which Postgres refuses "
            f"ON CONFLICT; a trigger can do the same\nrun: {fixes}"
        )
    if facts["publications"]:
        published = ", ".join(facts["publications"])
        return (
            f"{title} is published ({published}) without a replica identity, so that Postgres refuses to update it; "
            f"give it a primary key, or\nrun: alter table {name} replica identity full;"
        )
    return None


def folded_key(name: str, column: str, type_: str) -> str:
    """Return why a column that compares without case cannot be part of a key, and the fix."""
    kind = "is citext" if type_ == "citext" else "has a nondeterministic collation"
    return (
        f"{display_name(name)}.{column} {kind}: keys that differ only in case would become one\n"
        f'run: alter table {name} alter column {quoted(column)} type text collate "C";'
    )


def cautions(name: str, facts: Mapping[str, Any], unfilled: Sequence[str]) -> list[Caution]:
    """Return what endangers or slows a load; `unfilled` are columns that refuse a missing value."""
    title, found = display_name(name), list[Caution]()
    if facts["is_unlogged"]:
        finding = f"{title} is unlogged: it is emptied by a crash of the server"
        found.append(Caution("unlogged_tables", finding, f"alter table {name} set logged;"))
    if facts["hides_rows"]:
        finding = f"policies on {title} may hide rows from this role"
        found.append(Caution("row_security", finding, "load as the owner, or as a role with bypassrls"))
    if facts["triggers"]:
        finding = (
            f"{title} has {', '.join(facts['triggers'])}: rows that a trigger changes differ from the index, "
            "rows that it keeps out are rejected"
        )
        found.append(Caution("triggers", finding, f"alter table {name} disable trigger user; for a load"))
    if unfilled:
        finding = f"{title} refuses records without {', '.join(unfilled)}: NOT NULL without a default"
        fix = f"alter table {name} alter column {quoted(unfilled[0])} set default '';"
        found.append(Caution("values_required", finding, fix))
    return found
