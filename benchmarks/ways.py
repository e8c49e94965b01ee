"""The ways to load: what each starts from, what it runs, and what it has to leave."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

import peering
from floor import Rows
from ground import Command
from programs import CURRENT, Program

Form = Literal["ndjson", "json"]


class Index(Struct, frozen=True):
    """A file of records, in lines or as one document; `changed` percent of them were edited."""

    path: Path
    form: Form
    changed: float = 0.0


class Indexes(Struct, frozen=True):
    """The same records in lines and as one document, and both with some of the records changed."""

    lines: Index
    changed: Index
    document: Index
    changed_document: Index

    @classmethod
    def of(cls, directory: Path, changed: float) -> Indexes:
        """Those of a directory, where they need not be written yet."""
        return cls(
            Index(directory / "index.ndjson", "ndjson"),
            Index(directory / "changed.ndjson", "ndjson", changed),
            Index(directory / "index.json", "json"),
            Index(directory / "changed.json", "json", changed),
        )


class Way(Struct, frozen=True):
    """One way.

    Attributes:
        name: for `--ways`; that of another commit begins with its hash.
        title: for the table.
        index: what it loads; the assets that are there then must be those of all others who load it, byte for byte.
        commands: what runs, side by side.
        program: whose tables it loads into.
        after: the way whose rows are there already; an empty registry if empty.
        outcome: of this program: what its report has to count.
        only_assets: the sources are put there before, outside of what is measured.
        once: so slow that one round has to do.
        table: where its assets are.
    """

    name: str
    title: str
    index: Index
    commands: list[Command]
    program: Program = CURRENT
    after: str = ""
    outcome: str = ""
    only_assets: bool = False
    once: bool = False
    table: str = "registry.assets"


OURS = ["first", "unchanged", "changed", "document", "document-unchanged", "document-changed"]
PEERS = {
    "node": "node",
    "node-again": "node",
    "node-document": "node",
    "psycopg": "psycopg",
    "adbc": "adbc",
    "dlt": "dlt",
}
FLOORS = ["floor", "limit"]
NAMES = [*FLOORS, *OURS, *PEERS]


def load(program: Program, index: Path, concurrency: int, batch_size: int) -> list[Command]:
    """This program, as a user runs it, its verification included."""
    flags = ["--concurrency", str(concurrency), "--batch-size", str(batch_size), "--json"]
    return [program.command("load", index, *flags)]


def ours(program: Program, indexes: Indexes, concurrency: int, batch_size: int) -> list[Way]:
    """The ways of this program, of this checkout or of another commit."""
    label = program.label

    def way(name: str, title: str, index: Index, outcome: str, after: str = "") -> Way:
        return Way(
            f"{label}/{name}" if label else name,
            f"{label}, {title}" if label else f"**{title}**",
            index,
            load(program, index.path, concurrency, batch_size),
            program=program,
            after=f"{label}/{after}" if label and after else after,
            outcome=outcome,
        )

    again = f"again, {indexes.changed.changed:g} % changed"
    return [
        way("first", "first load", indexes.lines, "inserted"),
        way("unchanged", "the same index again", indexes.lines, "unchanged", after="first"),
        way("changed", again, indexes.changed, "updated", after="first"),
        # Its raw has no "type", so the rows are others.
        way("document", "first load, document", indexes.document, "inserted"),
        way("document-unchanged", "the same document again", indexes.document, "unchanged", after="document"),
        way("document-changed", f"document {again}", indexes.changed_document, "updated", after="document"),
    ]


def floors(rows: Rows, index: Index, sessions: int) -> list[Way]:
    """What Postgres takes for the rows of an index."""
    return [
        Way("floor", f"psql floor, {sessions} sessions", index, rows.floor, only_assets=True),
        Way("limit", f"psql limit, {sessions} sessions", index, rows.limit, only_assets=True),
    ]


def peers(indexes: Indexes) -> list[Way]:
    """Other programs."""

    def way(name: str, title: str, index: Index = indexes.lines, **how: Any) -> Way:
        return Way(name, title, index, [peering.command(PEERS[name], index.path)], **how)

    node = f"Node ({peering.version('node')}), batches of 500, 4 connections"
    psycopg = f"psycopg {peering.version('psycopg')}: COPY and upsert, batches of 2,000, 1 connection"
    return [
        way("node", node),
        way("node-again", "Node, the same index again", after="node"),
        way("node-document", "Node, document", index=indexes.document, once=True),
        way("psycopg", psycopg),
        way("adbc", f"ADBC {peering.version('adbc')}: ingest, then one upsert, 1 connection"),
        way(
            "dlt",
            f"dlt {peering.version('dlt')}: merge, strategy upsert, tables of its own",
            once=True,
            table="dlt_registry.assets",
        ),
    ]


def chosen(possible: Sequence[Way], names: Sequence[str]) -> list[Way]:
    """The ways of these names, of all commits, and those that they follow on."""
    named = [way for way in possible if way.name.rpartition("/")[2] in names]
    starts = {way.after for way in named}
    return [way for way in possible if way in named or way.name in starts]
