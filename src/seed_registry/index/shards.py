"""Shards: the parts of an index that are read by themselves, each exactly as the whole index would be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from seed_registry.errors import IndexUnreadable

# No position.
UNKNOWN = -1


# Of the end of a piece. "open": inside an element, or in other arrays that a longer piece may leave; "left": behind the
# array for good.
Soundness = Literal["sound", "open", "left"]


class Dress(Struct, frozen=True, array_like=True):
    """What the pieces of a document have to know of it.

    Attributes:
        skeleton: the envelope up to the array that is cut, with earlier arrays emptied; empty of pages, which are cut
            between two of them.
        path: of the array.
        seam: the bytes from the end of an element to the first key of the next one.
        portal: from the header as it is at the end of the document; None if that is not known yet.
    """

    skeleton: bytes
    path: tuple[str, ...]
    seam: bytes
    portal: str | None = None

    def encode(self) -> bytes:
        """As bytes."""
        return msgspec.msgpack.encode(self)


decode_dress = msgspec.msgpack.Decoder(Dress).decode


class Shard(Struct, frozen=True):
    """A range of the unpacked bytes of an index; together the shards have each byte once.

    Attributes:
        number: ascending among the shards of its index; joined shards leave gaps.
        first: the byte of the file on disk where reading begins; of a packed file the start of a block or frame.
        skip: unpacked bytes from there to the shard's first byte; 0 for plain files.
        start: unpacked offset of its first byte, which begins a line, or stands between two elements of a document.
        end: unpacked offset behind its last byte, the next shard's `start`; of the last shard `UNKNOWN`, it ends with
            the index.
        last: the byte of the file where the next shard's reading begins; of the last shard the file's size.
        size, modified: of the file, in bytes and nanoseconds since 1970; `UNKNOWN` where a change cannot be noticed.
        etag: strong, of a URL.
        dress: of a piece of a document: what its reader has to know of the document around it.
        last_offset: of a packed file, the unpacked offset of its byte `last`; else, and of the last shard, `UNKNOWN`.
    """

    number: int
    first: int
    skip: int
    start: int
    end: int
    last: int
    size: int = UNKNOWN
    modified: int = UNKNOWN
    etag: str = ""
    dress: bytes = b""
    last_offset: int = UNKNOWN

    @property
    def is_first(self) -> bool:
        """Whether it begins with the index."""
        return self.start == 0

    @property
    def is_last(self) -> bool:
        """Whether it ends with the index."""
        return self.end == UNKNOWN


class Cut(Struct, frozen=True):
    """An index, cut into shards.

    Attributes:
        shards: in the order of the index.
        reason: why it is one shard, in words, if a larger limit of their size is not the reason.
        fix: a command that makes it an index of many shards; empty if there is none.
        size, modified: of the file; `UNKNOWN` where a change cannot be noticed.
        hosts: those that the first records name as their portal's, where they disagree.
        names_portals: whether `--domain` is given, and the records name their portal themselves.
    """

    shards: list[Shard]
    reason: str = ""
    fix: str = ""
    size: int = UNKNOWN
    modified: int = UNKNOWN
    hosts: Sequence[str] = ()
    names_portals: bool = False


def join(one: Shard, following: Shard) -> Shard:
    """The shard of the bytes of both, which must follow one another."""
    if one.end != following.start:
        raise ValueError(f"shard {following.number} does not follow shard {one.number}")
    return replace(one, end=following.end, last=following.last, last_offset=following.last_offset)


def rejoined(shards: Sequence[Shard], position: int, soundness: Soundness) -> list[Shard]:
    """The shards, with the one at a position, which is not sound, joined with those behind it that it needs.

    One that is "open" is joined with the next one, and with more until it is half as long again, so that an element
    which spans many shards is read a few times, not once a shard; one that is "left" with all of them.
    """
    shard, end = shards[position], position + 1
    enough = shard.end + (shard.end - shard.start) // 2
    while end < len(shards) and (soundness == "left" or end == position + 1 or shard.end < enough):
        shard = join(shard, shards[end])
        end += 1
    return [*shards[:position], shard, *shards[end:]]


def with_portal(shards: Sequence[Shard], portal: str) -> list[Shard]:
    """The shards, told the portal that the document's header names at its end; those of lines and of pages need none.

    Without it an asset whose source depends on a header behind the records has no source in all shards but the last.
    """
    return [replace(shard, dress=_with_portal(shard.dress, portal)) if shard.dress else shard for shard in shards]


def _with_portal(dress: bytes, portal: str) -> bytes:
    decoded = decode_dress(dress)
    return replace(decoded, portal=portal).encode() if decoded.skeleton else dress


def changed(name: str, evidence: str) -> IndexUnreadable:
    """The error about a file that is not what was cut into shards."""
    return IndexUnreadable(f"{name} was changed while it was loaded: {evidence}; load it again when it is finished")
