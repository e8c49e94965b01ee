"""What an index holds and what becomes of it: frozen Structs, nothing else.

`raw` is always the record's own bytes (JSON, UTF-8), `line` counts from 1 and `offset` counts bytes of the unpacked
index from 0; together with the index's name they are a record's location.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Protocol

from msgspec import Struct


class Location(Struct, frozen=True):
    """Where a record begins."""

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
        """Itself, as a block has its values."""
        yield self


class RawBlock(Struct, gc=False):
    """JSON values cut out of an index one after the other, by columns; none is longer than the limit.

    Attributes:
        data: the bytes of each.
        lines, offsets: where each begins.
        kind: of all, as in `RawRecord`.
        decoded: what each was decoded to, where that was needed to find its end; None for one that is not ordinary.
    """

    data: list[bytes]
    lines: Sequence[int]
    offsets: Sequence[int]
    kind: str = ""
    decoded: list[Any] | None = None

    def __iter__(self) -> Iterator[RawRecord]:
        """Each value by itself."""
        for data, line, offset in zip(self.data, self.lines, self.offsets, strict=True):
            yield RawRecord(data, line, offset, self.kind)

    def at(self, position: int) -> RawRecord:
        """One value."""
        return RawRecord(self.data[position], self.lines[position], self.offsets[position], self.kind)


# What a framer returns: blocks, and values that are too long.
Piece = RawBlock | RawRecord


def raw_records(pieces: Iterable[Piece]) -> list[RawRecord]:
    """The values of these, one by one."""
    return [raw for piece in pieces for raw in piece]


class Source(Struct, frozen=True, gc=False):
    """A portal that publishes; the row of `registry.sources` with this provider and key."""

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
    """One of many records has to be decoded by itself."""


class Unchecked(Protocol):
    """What decoded assets without the checks that Postgres does as well, and can do the rest."""

    def with_texts(self, assets: Sequence[Asset]) -> list[Asset]:
        """The assets with texts and date.

        Raises:
            NotOrdinary: that is not how one of them is decoded.
        """
        ...

    def check(self, asset: Asset) -> Record | None:
        """What the record is, all checks done."""
        ...


class Asset(Struct, frozen=True, gc=False):
    """One thing published; the row of `registry.assets` with this key.

    Attributes:
        source_key: empty where only the rest of the document can tell it (a header that comes after the records).
        own_key: whether the key is its portal's own ("1", "population"), which another may give to something else: it
            never takes a row from another source.
        was_committed: whether it lies before a checkpoint of the run that is resumed.
        is_unread: whether only key, source and hash are known; texts and date are not decoded yet.
        unchecked: what does the checks that were left to Postgres; None where all are done.
        repaired: the record as it came, if U+0000 in it was replaced.
        date_ignored: whether it has a date that is none.
        texts_ignored: the fields that are null although the record has something there: it is no text.
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

    `reason` is one of a fixed set of codes (see `index.decoding.REASONS`), `detail` a sentence; both are safe to print
    except where `detail` says otherwise through the escaping of the reader.
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
    """What an asset is, with all checks done that were left to Postgres."""
    return (asset.unchecked and asset.unchecked.check(asset)) or asset
