"""Read a document that is a graph: nodes of all types in any order, some of which are records.

What a record means is known at the end of its graph only: any later node may name the portal, be the target of one of
its references, or be another part of it. So records wait in a temporary file until then, and so do the nodes that may
complete one, in a temporary database. Names of nodes may be blank: they mean nothing outside their document, so each
document of a sequence is a graph of its own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from seed_registry.index.dialects.base import Graph
from seed_registry.key_hashes import hash_key
from seed_registry.records import Piece, RawBlock, RawRecord, Record, Reject
from seed_registry.spill import HashFilter, Spool, sqlite_errors

if TYPE_CHECKING:
    from seed_registry.index.piece_decoder import PieceDecoder

# Of a record that waits: line, offset, excess, and the hash of its name.
_NUMBERS: Final = 4
# What completes a record, beyond any that is meant: a hostile graph has a million parts of one node.
_MOST_NODES: Final = 100
_MOST_BYTES: Final = 16 << 20
# Decoded at a time.
_BATCH_BYTES: Final = 256 << 10

_decode_any = msgspec.json.Decoder().decode


class NodeGraph:
    """The nodes of one document.

    Attributes:
        header: what the nodes say about the whole; None where two of them disagree.
        count: the number of its records that were decoded.
        number: how many documents have ended.
        is_other: whether there were nodes, but neither records nor anything about a graph of records.
    """

    def __init__(self, graph: Graph, pieces: PieceDecoder) -> None:
        self.header: dict[str, Any] = {}
        self.count = 0
        self.number = 0
        self.is_other = False
        self._graph = graph
        self._pieces = pieces
        self._decoder = pieces.decoder
        self._decode_head = msgspec.json.Decoder(graph.wire).decode
        self._waiting = Spool(_NUMBERS)
        self._nodes = _Nodes()
        self._seen, self._kept = HashFilter(), HashFilter()  # names, by their hashes
        self._has_nodes = self._has_values = False

    def take(self, pieces: Iterable[Piece]) -> Reject | None:
        """Take nodes; returns the first one that is not JSON, and so the document is not, either.

        Raises:
            StorageFailed: the disk is full.
        """
        return next((broken for piece in pieces for raw in piece if (broken := self._take(raw)) is not None), None)

    def records(self) -> Iterator[list[Record]]:
        """Yield the records in their order, decoded, once the document has ended.

        Raises:
            StorageFailed: the disk is full.
        """
        alone: list[tuple[bytes, int, int]] = []  # records that no other node completes
        size = 0
        for line, offset, excess, name_hash, data in self._waiting:
            is_alone = not excess and not self._is_joined(data, name_hash)
            if is_alone:
                alone.append((data, line, offset))
                size += len(data)
            if not is_alone or size >= _BATCH_BYTES:
                yield self._decoded_alone(alone)
                alone, size = [], 0
            if not is_alone:
                yield self._joined(RawRecord(data, line, offset, "asset", excess))
        yield self._decoded_alone(alone)

    def end(self) -> None:
        """Forget the document, for the next one."""
        self.is_other = self._has_nodes and not self._waiting.count and not self.header
        self._has_nodes = self._has_values = False
        self.close()
        self._waiting, self._nodes = Spool(_NUMBERS), _Nodes()
        self.header, self.count = {}, 0
        self.number += 1

    def close(self) -> None:
        """Free the disk space."""
        self._waiting.close()
        self._nodes.close()

    def _take(self, raw: RawRecord) -> Reject | None:
        graph, self._has_nodes = self._graph, True
        try:
            node = None if raw.excess else self._head_of(raw.data)
            header = {} if node is None else graph.header(node)
        except (ValueError, RecursionError):
            found = self._decoder.decode(raw)
            if type(found) is Reject and found.reason == "not_json":
                return found
            node, header = None, {}
        if node is None:  # it will be rejected, in its order
            self._wait(raw, 0)
            return None
        for key, value in header.items():
            self.header[key] = value if self.header.get(key, value) == value else None
        name = graph.name(node)
        name_hash = hash_key(str(self.number), name) >> 1 if name else 0  # a signed number
        holds_records = graph.holds_records(node)
        if holds_records:
            self._wait(raw, name_hash)
        if name and (self._seen.add(name_hash) if holds_records else graph.completes(node)):
            self._nodes.add(name, raw)
            self._kept.add(name_hash)
            self._has_values |= not holds_records
        return None

    def _head_of(self, data: bytes) -> Any:
        try:
            return self._decode_head(data)
        except ValueError as exc:
            if "out of range" not in str(exc):
                raise
            return self._decoder.wire_of(data)  # it has all these fields

    def _wait(self, raw: RawRecord, name_hash: int) -> None:
        self._waiting.append(raw.data, raw.line, raw.offset, raw.excess, name_hash)

    def _is_joined(self, data: bytes, name_hash: int) -> bool:
        """Whether other nodes may complete a record that waited."""
        if self._kept.has(name_hash):
            return True
        try:
            return self._has_values and self._graph.refers(self._decoder.wire_of(data))
        except (ValueError, RecursionError):
            return False

    def _decoded_alone(self, rows: list[tuple[bytes, int, int]]) -> list[Record]:
        if not rows:
            return []
        data, lines, offsets = zip(*rows, strict=True)
        return self._decoded([RawBlock(list(data), lines, offsets, "asset")])

    def _decoded(self, pieces: list[Piece]) -> list[Record]:
        records = self._pieces.decode(pieces)
        self.count += len(records)
        return records

    def _joined(self, raw: RawRecord) -> list[Record]:
        """Decode a record that other nodes may complete."""
        self._decoder.join = partial(self._join, raw)
        try:
            return self._decoded([raw])
        finally:
            self._decoder.join = None

    def _join(self, raw: RawRecord, wire: Any) -> tuple[Any, bytes]:
        """A record with what completes it, and the bytes of that, in an order that is not that of the file."""
        used: list[bytes] = []
        name = self._graph.name(wire)
        has_parts = False

        def look_up(wanted: str) -> list[bytes]:
            nonlocal has_parts
            found: list[bytes] = []
            for data in self._nodes.find(wanted, raw.offset):
                if len(used) == _MOST_NODES or sum(map(len, used)) + len(data) > _MOST_BYTES:
                    break
                used.append(data)
                found.append(data)
            has_parts |= wanted == name and bool(found)
            return found

        wire = self._graph.join(wire, look_up)
        if has_parts and name == self._graph.name(self._decoder.wire_of(raw.data)):  # not so of a record inside it
            self._nodes.add(name, raw)  # later parts of the node find this one
        return wire, b"".join(sorted(set(used)))


class _Nodes:
    """Nodes by their names, in a temporary database of SQLite: a few megabytes of memory, the rest on disk."""

    def __init__(self) -> None:
        self._database: sqlite3.Connection | None = None

    def add(self, name: str, raw: RawRecord) -> None:
        """Keep a node, unless it is not JSON throughout.

        Raises:
            StorageFailed: the disk is full.
        """
        try:
            _decode_any(raw.data)
        except (ValueError, RecursionError):
            return
        with sqlite_errors():
            if self._database is None:
                self._database = sqlite3.connect("", isolation_level=None)
                self._database.execute("create table node (name blob, place integer, data blob)")
                self._database.execute("create unique index node_name on node (name, place)")
                self._database.execute("begin")
            row = (name.encode(errors="surrogatepass"), raw.offset, raw.data)
            self._database.execute("insert or ignore into node values (?, ?, ?)", row)

    def find(self, name: str, place: int) -> Iterator[bytes]:
        """The nodes of this name, but for the one at a place."""
        if self._database is not None:
            query = "select data from node where name = ? and place <> ? order by place"
            for (data,) in self._database.execute(query, (name.encode(errors="surrogatepass"), place)):
                yield data

    def close(self) -> None:
        """Free the disk space."""
        if self._database is not None:
            self._database.close()
            self._database = None
