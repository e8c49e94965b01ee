"""Suitability: what of a table keeps a load from writing to it, and what only endangers or slows it.

All that asks whether a load could write to the tables (`schema check`, `doctor`, `plan`, `load`) gets these answers,
before the first write: what lets a first load pass by COPY and fails every later one is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from seed_registry.postgres.identifiers import display_name, quoted

_KINDS: Final = {
    "p": "a partitioned table",
    "f": "a foreign table",
    "v": "a view",
    "m": "a materialized view",
}


class Caution(Struct, frozen=True):
    """What a load should tell of a table that it can write to: the event of its log, how it is, the fix."""

    event: str
    finding: str
    fix: str


def refusal(name: str, facts: Mapping[str, Any]) -> str | None:
    """Why no upsert can go into the table of this quoted name, and the fix; `facts` are those of `table.sql`."""
    title = display_name(name)
    if facts["kind"] in _KINDS:
        return f"{title} is no plain table but {_KINDS[facts['kind']]}: a load can only upsert into a plain one"
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
    """Why a key column cannot be one whose comparison takes other spellings for equal, and the fix."""
    kind = "is citext" if type_ == "citext" else "has a nondeterministic collation"
    return (
        f"{display_name(name)}.{column} {kind}: keys that differ only in case would become one\n"
        f'run: alter table {name} alter column {quoted(column)} type text collate "C";'
    )


def cautions(name: str, facts: Mapping[str, Any], unfilled: Sequence[str]) -> list[Caution]:
    """What should be known of a table that a load can write to; `unfilled` are columns that refuse a missing value."""
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
