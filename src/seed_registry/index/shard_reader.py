"""Read the records of one shard of an index, as they would be read with the whole index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from seed_registry.index.declared_totals import PageSummary, summed
from seed_registry.index.dialects import DIALECTS
from seed_registry.index.json_document import DocumentFramer
from seed_registry.index.json_piece import PieceFramer
from seed_registry.index.ndjson import LineFramer
from seed_registry.index.piece_decoder import PieceDecoder
from seed_registry.index.reader import IndexReader
from seed_registry.index.shape import Shape
from seed_registry.index.shard_bytes import ShardBytes
from seed_registry.index.shards import Shard, Soundness, decode_dress
from seed_registry.report import Stages
from seed_registry.shortfall import Total


class ShardSummary(Struct):
    """What a shard adds to the numbers of its index, once it is read; msgspec encodes it as JSON or MessagePack.

    Attributes:
        dialect: its name.
        pages: the headers that end in it.
        unread: elements that look like records in arrays that are not read, by the path of the array.
    """

    dialect: str
    pages: PageSummary
    unread: dict[str, int]


class IndexNumbers(Struct, frozen=True):
    """What `IndexReader` tells of a whole index: `declared()`, `totals()` and `unread()`."""

    declared: list[tuple[str, int, int]]
    totals: list[Total]
    unread: dict[str, int]


def combined(summaries: Iterable[ShardSummary]) -> IndexNumbers:
    """The numbers of an index from those of all its shards, in their order."""
    summaries = list(summaries)
    if not summaries:
        return IndexNumbers([], [], {})
    dialect = DIALECTS[summaries[0].dialect]
    sums = summed((summary.pages for summary in summaries), dialect.arrays)
    unread: Counter[str] = Counter()
    for summary in summaries:
        unread.update(summary.unread)
    return IndexNumbers(sums.verdicts(), sums.totals(dialect.name), dict(unread))


class ShardReader(IndexReader):
    """One shard, read once. Its `size` and `position` are of the bytes on disk that the shard takes.

    `declared()`, `totals()` and `unread()` are about the shard alone: `combined` makes those of the index.
    """

    def __init__(
        self,
        shard: Shard,
        data: ShardBytes,
        shape: Shape,
        pieces: PieceDecoder,
        framer: LineFramer | DocumentFramer,
        stages: Stages,
        line: int,
        **options: Any,
    ) -> None:
        """As an `IndexReader`, of a shard whose first line has this number."""
        super().__init__(data, shape, pieces, framer, stages, **options)
        self.shard = shard
        self._data = data
        self._line = line
        self._piece = framer if isinstance(framer, PieceFramer) else None
        self._told = decode_dress(shard.dress).portal if shard.dress else None

    @property
    def lines(self) -> int:
        """The number of lines that were read: as many behind its own first line the next shard's first one is."""
        return self._framer.line - self._line

    @property
    def digest(self) -> bytes:
        """The xxh3-128 of the unpacked bytes read, without a byte order mark."""
        return self._data.digest

    @property
    def soundness(self) -> Soundness:
        """Whether the shard, once it is read, ends where records end, so that the next one begins where it should.

        Records, and errors, are those of the whole index if all shards before this one are sound. One that is not has
        to be joined with the next ones (`shards.rejoined`) and read again.
        """
        return "sound" if self._piece is None else self._piece.soundness or "open"

    @property
    def portal(self) -> str | None:
        """The portal in the header of the page that the shard begins in; None if that page does not end in it."""
        summary = self.summary().pages
        return None if summary.header is None else summary.header.portal

    def summary(self) -> ShardSummary:
        """What was read so far."""
        pages = self._pages.summary(self._document) if self._document else PageSummary()
        return ShardSummary(self.dialect.name, pages, self.unread())

    def _take_header(self, framer: DocumentFramer) -> None:
        super()._take_header(framer)
        if self._told is not None and framer.pages == 1 and not framer.closed:
            self._decoder.take_header(self._decoder.portal.header or self._told, complete=True)
