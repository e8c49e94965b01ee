"""Decode what a framer cuts out of an index: blocks of ordinary assets by columns, all other records one by one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from seed_registry.index.decoder import Decoder
from seed_registry.index.json_document import DocumentFramer
from seed_registry.index.json_envelope import Layout, Path
from seed_registry.index.unread_arrays import IsRecord, UnreadArrays
from seed_registry.key_hashes import KeyPart, hash_keys
from seed_registry.records import Asset, Piece, RawBlock, RawRecord, Record, Reject, raw_records

if TYPE_CHECKING:
    from seed_registry.index.node_graph import NodeGraph

# Reasons for rejecting what may be an envelope of records.
_NO_RECORD = ("no_key", "no_type")


class Checks(Struct):
    """How much is decoded and checked while an index is read.

    Attributes:
        is_strict: whether every record is checked here, or only for what Postgres does not check; of other parts of the
            keys none needs to be.
        defers_texts: whether texts and dates of ordinary assets may be decoded later; not where it `is_strict`.
        most_are_stored: whether they are, because the registry has most of the assets already.
    """

    is_strict: bool = True
    defers_texts: bool = False
    most_are_stored: bool = False

    @property
    def keys_only(self) -> bool:
        """Whether only keys, sources and hashes of ordinary assets are decoded."""
        return self.defers_texts and self.most_are_stored


class PieceDecoder:
    """Decodes the pieces of one index.

    Attributes:
        checks: may be changed between pieces.
        decoder: of single records and of columns.
        unread: counts what looks like records in records that were rejected.
        keys: None, or a list: then ordinary assets are not decoded, their keys are added here.
        graph: takes the pieces in the place of this decoder, if they are nodes of a graph.
    """

    def __init__(
        self,
        decoder: Decoder,
        is_record: IsRecord,
        arrays: Collection[Path],
        *,
        is_document: bool = False,
        part: KeyPart | None = None,
    ) -> None:
        """In a document, decoding ends at the first record that is not JSON, for the document is not JSON either.

        Args:
            decoder: of one dialect.
            is_record: whether an object with these keys looks like a record of any dialect.
            arrays: where documents of any dialect have records.
            is_document: whether the pieces are of a document.
            part: of the keys; of ordinary assets of others only the keys are decoded, unchecked.
        """
        self.checks = Checks()
        self.decoder = decoder
        self.unread = UnreadArrays(is_record)
        self.keys: list[str] | None = None
        self.graph: NodeGraph | None = None
        self._arrays = arrays
        self._is_document = is_document
        self._part = part or KeyPart()
        self._inner = decoder.dialect.inner

    def decode_elements(self, data: list[bytes]) -> tuple[list[Any], list[int]]:
        """Decode ordinary assets, which finds their ends; returns the positions of others, too."""
        if self.checks.is_strict:
            return [], list(range(len(data)))
        return self.decoder.decode_wires(data, keys_only=self.checks.keys_only)

    def decode(self, pieces: Iterable[Piece]) -> list[Record]:
        """Decode the records; of a document up to the first that is not JSON, which is the last returned."""
        records: list[Record] = []
        for piece in pieces:
            if self.keys is not None:
                goes_on = self._scan(piece, self.keys, records)
            elif self.checks.is_strict or type(piece) is RawRecord:
                left = {} if self._part.is_whole or type(piece) is RawRecord else self._of_other_parts(piece)
                goes_on = all(self._decode_one(raw, records, left.get(raw.offset)) for raw in piece)
            else:
                assert type(piece) is RawBlock
                goes_on = self._decode_block(piece, records)
            if not goes_on:
                break
        return records

    def _decode_block(self, block: RawBlock, records: list[Record]) -> bool:
        """Add the records of a block, most of them by columns; returns whether to go on after it."""
        assets, others = self.decoder.decode_ordinary(block, keys_only=self.checks.keys_only)
        if not others:
            records += assets
            return True
        start = 0  # of the ordinary assets that come next
        for number, position in enumerate(others):
            end = position - number
            records += assets[start:end]
            start = end
            if not self._decode_one(block.at(position), records):
                return False
        records += assets[start:]
        return True

    def _of_other_parts(self, piece: Piece) -> dict[int, Asset]:
        """The ordinary assets of other parts, by their offsets."""
        assert type(piece) is RawBlock
        assets, _ = self.decoder.decode_ordinary(piece, keys_only=True)
        are_own = self._part.has_each(hash_keys([asset.key for asset in assets]))
        return {asset.offset: asset for asset, is_own in zip(assets, are_own, strict=True) if not is_own}

    def _scan(self, piece: Piece, keys: list[str], records: list[Record]) -> bool:
        """Add the keys of the ordinary assets of a piece, and all other records; returns whether to go on after it."""
        if type(piece) is RawRecord:
            return self._scan_one(piece, keys, records)
        assert type(piece) is RawBlock
        found, others = self.decoder.decode_keys(piece)
        keys += found
        return all(self._scan_one(piece.at(position), keys, records) for position in others)

    def _scan_one(self, raw: RawRecord, keys: list[str], records: list[Record]) -> bool:
        """Add a record, and the keys that it may get from another header; returns whether to go on after it."""
        decoder, now = self.decoder, self.decoder.portal
        found: list[Record] = []
        goes_on = self._decode_one(raw, found)
        records += found
        others: list[Record] = []
        for portal in decoder.possible_portals()[1:]:
            decoder.portal = portal
            self._decode_one(raw, others)
        decoder.portal = now
        if others:
            keys += {one.key for one in others if type(one) is Asset} - {one.key for one in found if type(one) is Asset}
        return goes_on

    def _decode_one(self, raw: RawRecord, records: list[Record], decoded: Asset | None = None) -> bool:
        """Add a record, `decoded` or not, and those inside it; returns whether to go on after it."""
        record = self.decoder.decode(raw) if decoded is None else decoded
        if record is not None:
            records.append(record)
        if type(record) is Reject:
            if record.reason == "not_json" and self._is_document:
                return False
            if record.reason in _NO_RECORD:
                with suppress(ValueError, RecursionError):
                    self.unread.look_for(self._arrays, msgspec.json.decode(raw.data))
        if self._inner is not None and self._inner[0] in raw.data and not raw.excess:
            records += self._inner_records(raw, self._inner[1], is_node=record is None)
        return True

    def _inner_records(self, raw: RawRecord, layout: Layout, *, is_node: bool) -> Iterator[Record]:
        """Decode the records inside a record, or inside a node of a graph that is none: each is one of its own."""
        framer = DocumentFramer(layout, max_record_bytes=len(raw.data), offset=raw.offset, line=raw.line)
        found, decoder, now = raw_records(framer.feed(raw.data)), self.decoder, self.decoder.portal
        if is_node and decoder.dialect.graph is not None and (portal := decoder.dialect.portal(framer.header)):
            decoder.portal = replace(now, header=portal)  # the node is a catalog of its own
        for one in found:
            if (record := decoder.decode(one)) is not None:
                yield record
        decoder.portal = now
