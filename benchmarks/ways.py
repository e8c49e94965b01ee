"""The ways to load: what each starts from, what it runs, and what it has to leave."""

from __future__ import annotations

import sys
from pathlib import Path

from msgspec import Struct

import peering
from floor import Rows
from ground import Command


class Indexes(Struct, frozen=True):
    """The same records as lines and as a document; the lines with 1 % of the records changed; the rows they become."""

    lines: Path
    changed: Path
    document: Path
    rows: Rows


class Way(Struct, frozen=True):
    """One way.

    Attributes:
        name: for `--ways`.
        title: for the table.
        commands: what runs, side by side.
        after: the way whose rows are there already; an empty registry if empty.
        outcome: of this program: what its report has to count.
        only_assets: the sources are put there before, outside of what is measured.
        same_rows: its assets must be those of all others, byte for byte.
        once: so slow that one round has to do.
        table: where its assets are.
    """

    name: str
    title: str
    commands: list[Command]
    after: str = ""
    outcome: str = ""
    only_assets: bool = False
    same_rows: bool = True
    once: bool = False
    table: str = "registry.assets"


OURS = ["first", "unchanged", "changed", "document"]
PEERS = {
    "node": "node",
    "node-again": "node",
    "node-document": "node",
    "psycopg": "psycopg",
    "adbc": "adbc",
    "dlt": "dlt",
}
NAMES = ["floor", "limit", *OURS, *PEERS]


def load(index: Path, concurrency: int, batch_size: int) -> list[Command]:
    """This program, as a user runs it, its verification included."""
    flags = ["--concurrency", str(concurrency), "--batch-size", str(batch_size), "--json"]
    return [[sys.executable, "-m", "seed_registry", "load", index, *flags]]


def ways(indexes: Indexes, concurrency: int, batch_size: int) -> list[Way]:
    """All of them, in the order in which they take turns."""

    def ours(index: Path) -> list[Command]:
        return load(index, concurrency, batch_size)

    def peer(name: str, index: Path = indexes.lines) -> list[Command]:
        return [peering.command(name, index)]

    node = f"Node ({peering.version('node')}), batches of 500, 4 connections"
    return [
        Way("floor", f"psql floor, {concurrency} sessions", indexes.rows.floor, only_assets=True),
        Way("limit", f"psql limit, {concurrency} sessions", indexes.rows.limit, only_assets=True),
        Way("first", "**first load**", ours(indexes.lines), outcome="inserted"),
        Way("unchanged", "**the same index again**", ours(indexes.lines), after="first", outcome="unchanged"),
        Way(
            "changed",
            "**again, 1 % changed**",
            ours(indexes.changed),
            after="first",
            outcome="updated",
            same_rows=False,
        ),
        # Its raw has no "type", so the rows are others.
        Way("document", "**first load, document**", ours(indexes.document), outcome="inserted", same_rows=False),
        Way("node", node, peer("node")),
        Way("node-again", "Node, the same index again", peer("node"), after="node"),
        Way("node-document", "Node, document", peer("node", indexes.document), same_rows=False, once=True),
        Way(
            "psycopg",
            f"psycopg {peering.version('psycopg')}: COPY and upsert, batches of 2,000, 1 connection",
            peer("psycopg"),
        ),
        Way("adbc", f"ADBC {peering.version('adbc')}: ingest, then one upsert, 1 connection", peer("adbc")),
        Way(
            "dlt",
            f"dlt {peering.version('dlt')}: merge, strategy upsert, tables of its own",
            peer("dlt"),
            once=True,
            table="dlt_registry.assets",
        ),
    ]
