"""The records of an index, from raw bytes to assets, sources and rejects.

`raw` is always the record's own bytes (JSON, UTF-8), `line` counts from 1 and `offset` counts bytes of the unpacked
index from 0; together with the index's name they are a record's location.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Protocol

from msgspec import Struct


class Location(Struct, frozen=True):
    """The place where a record begins."""

    index: str
    line: int
    offset: int

    def __str__(self) -> str:
        return f"{self.index}: line {self.line} (byte {self.offset})"


class RawRecord(Struct, frozen=True, gc=False):
    """One JSON value cut out of an index, not decoded yet.

    `kind` is "source" or "asset" where its place in the document says so, otherwise "". Of a value longer than the
    limit only the beginning is kept, and `excess` is its full length in bytes.
    """

    data: bytes
    line: int
    offset: int
    kind: str = ""
    excess: int = 0

    def __iter__(self) -> Iterator[RawRecord]:
        """Yield itself, as a block yields its values."""
        yield self


class RawBlock(Struct, gc=False):
    """Consecutive JSON values of an index, by columns; none is longer than the limit.

    Attributes:
        data: the bytes of each.
        lines, offsets: where each begins.
        kind: of all, as in `RawRecord`.
        decoded: wire Structs, if decoding found the ends of the values; None for each that is not ordinary.
    """

    data: list[bytes]
    lines: Sequence[int]
    offsets: Sequence[int]
    kind: str = ""
    decoded: list[Any] | None = None

    def __iter__(self) -> Iterator[RawRecord]:
        """Yield the values, one by one."""
        for data, line, offset in zip(self.data, self.lines, self.offsets, strict=True):
            yield RawRecord(data, line, offset, self.kind)

    def at(self, position: int) -> RawRecord:
        """Return the value at a position."""
        return RawRecord(self.data[position], self.lines[position], self.offsets[position], self.kind)


# A framer returns blocks, and single values that are too long.
Piece = RawBlock | RawRecord


def raw_records(pieces: Iterable[Piece]) -> list[RawRecord]:
    """Return the values of pieces, one by one."""
    return [raw for piece in pieces for raw in piece]


class Source(Struct, frozen=True, gc=False):
    """A portal; the row of `registry.sources` with this provider and key."""

    key: str
    provider: str
    name: str | None = None
    url: str | None = None
    raw: bytes = b"{}"
    content_hash: bytes | None = None
    line: int = 0
    offset: int = 0
    texts_ignored: tuple[str, ...] = ()


class SourceRow(Struct, frozen=True, gc=False):
    """A row of `registry.sources`.

    Attributes:
        id: an int or a UUID; None in a dry run of a source that does not exist yet.
        provider: the row's own, which is also that of its assets; None where the table has no column for it.
    """

    id: Any
    provider: str | None


class NotOrdinary(ValueError):
    """A record has to be decoded alone, not by columns."""


class Unchecked(Protocol):
    """Completes assets that were decoded without the checks that Postgres does as well."""

    def with_texts(self, assets: Sequence[Asset]) -> list[Asset]:
        """The assets with texts and date.

        Raises:
            NotOrdinary: one of them has to be decoded alone.
        """
        ...

    def check(self, asset: Asset) -> Record | None:
        """Decode the record of an asset again, with all checks."""
        ...


class Asset(Struct, frozen=True, gc=False):
    """A published dataset, file or page; the row of `registry.assets` with this key.

    Attributes:
        source_key: empty if it depends on a header that comes after the records.
        own_key: whether the key is unique in its portal only ("1", "population"): it never takes a row from another
            source.
        was_committed: whether it lies before a checkpoint of the resumed run.
        is_unread: whether only key, source and hash are decoded yet, not texts and date.
        unchecked: does the checks that were left to Postgres; None if all are done.
        repaired: the original bytes, if U+0000 was replaced in them.
        date_ignored: whether its date could not be parsed.
        texts_ignored: the fields that are null because their value is not a text.
    """

    key: str
    source_key: str
    name: str | None = None
    description: str | None = None
    url: str | None = None
    updated_at: datetime | None = None
    raw: bytes = b"{}"
    content_hash: bytes | None = None
    line: int = 0
    offset: int = 0
    own_key: bool = False
    was_committed: bool = False
    is_unread: bool = False
    unchecked: Unchecked | None = None
    repaired: bytes | None = None
    date_ignored: bool = False
    texts_ignored: tuple[str, ...] = ()


class Reject(Struct, frozen=True, gc=False):
    """A record that cannot be loaded, and why.

    `reason` is a fixed code (see `index.decoder.REASONS`). `detail` may quote input: escape it before printing.
    """

    reason: str
    detail: str
    data: bytes
    line: int
    offset: int
    kind: str = "asset"
    key: str | None = None


Record = Source | Asset | Reject


def checked(asset: Asset) -> Record:
    """Decode an asset again if checks were left to Postgres, with all of them."""
    return (asset.unchecked and asset.unchecked.check(asset)) or asset
