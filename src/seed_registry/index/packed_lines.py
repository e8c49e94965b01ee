"""Cut packed lines into shards, and read the bytes of one: from a member or frame on, into the one where it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Final

from msgspec import Struct

from seed_registry.errors import IndexUnreadable
from seed_registry.index.byte_stream import UnpackedStream
from seed_registry.index.counted_file import CountedFile
from seed_registry.index.inputs import IndexRef
from seed_registry.index.local_file import LocalFile, open_local
from seed_registry.index.packed_cuts import Mark, NoMarks, marks
from seed_registry.index.shards import UNKNOWN, Shard
from seed_registry.settings import Settings

# Unpacked behind a mark, to find where a line begins.
_SEARCHED_BYTES: Final = 64 << 20


class PackedStart(Struct, frozen=True):
    """Where a shard of packed lines begins: its first line, behind a mark."""

    mark: Mark
    skip: int


async def packed_starts(index: IndexRef, settings: Settings, shard_bytes: int) -> list[PackedStart]:
    """Where shards of packed lines begin, but for the first.

    Raises:
        NoMarks: unpacking may begin at the beginning only.
        IndexUnreadable: it cannot be unpacked.
    """
    file = open_local(index)
    try:
        wanted = await asyncio.to_thread(_spaced, file, shard_bytes)
    except OSError as exc:
        raise IndexUnreadable(f"{index.display_name}: reading failed: {exc.strerror or exc}") from exc
    finally:
        file.close()
    found: list[PackedStart] = []
    for mark in wanted:
        skip = await _to_next_line(index, settings, mark)
        if skip is not None and (not found or mark.offset >= found[-1].mark.offset + found[-1].skip):
            found.append(PackedStart(mark, skip))
    return found


def _spaced(file: LocalFile, shard_bytes: int) -> list[Mark]:
    """The first mark behind each multiple of the size of a shard."""
    assert file.size is not None, "a pipe has no positions"
    found: list[Mark] = []
    target = shard_bytes
    for mark in marks(file.read_at, file.size):
        if mark.place > file.size:
            raise NoMarks("it is cut off")
        if target <= mark.place < file.size:
            found.append(mark)
            target = mark.place + shard_bytes
    return found


async def _to_next_line(index: IndexRef, settings: Settings, mark: Mark) -> int | None:
    """The number of unpacked bytes from a mark to the beginning of a line; None if there is none near it."""
    async with _stream(index, settings, mark) as stream, aclosing(stream.chunks()) as chunks:
        passed = 0
        async for chunk in chunks:
            if (at := chunk.find(b"\n")) >= 0:
                is_end = at + 1 == len(chunk) and not await anext(chunks, b"")
                return None if is_end else passed + at + 1
            passed += len(chunk)
            if passed > _SEARCHED_BYTES:
                break
    return None


class PackedRange:
    """The unpacked bytes of a file from a shard's first member or frame on.

    Those before its `last` byte are unpacked without what follows: that they end with a whole member or frame, and at
    the offset that was planned, proves that the next shard begins where it should, whatever the headers said.
    """

    def __init__(self, shard: Shard, name: str, own: UnpackedStream, rest: UnpackedStream | None) -> None:
        """`own` are the bytes from `first` to `last`, `rest` those from `last` on."""
        self._shard = shard
        self._name = name
        self._own = own
        self._rest = rest

    @property
    def position(self) -> int:
        """The byte of the file that is read next, up to the shard's `last`."""
        return self._own.position

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The unpacked bytes.

        Raises:
            IndexUnreadable: as `UnpackedStream.chunks` does, or the headers lied.
        """
        offset = self._shard.start - self._shard.skip
        async with aclosing(self._own.chunks()) as chunks:
            async for chunk in chunks:
                offset += len(chunk)
                yield chunk
        if self._rest is None:
            return
        if offset != self._shard.last_offset:
            raise wrong_headers(self._name, self._shard.last)
        async with aclosing(self._rest.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk

    def require_unchanged(self) -> None:
        """As `UnpackedStream.require_unchanged`."""
        self._own.require_unchanged()


@asynccontextmanager
async def open_packed(index: IndexRef, shard: Shard, settings: Settings) -> AsyncIterator[PackedRange]:
    """Open a file where a shard of packed lines begins.

    Raises:
        IndexUnreadable: it cannot be opened, or is not packed there.
    """
    async with AsyncExitStack() as stack:
        begin, rest = Mark(shard.first, shard.start - shard.skip), None
        limit = None if shard.last_offset == UNKNOWN else shard.last - shard.first
        own = await stack.enter_async_context(_stream(index, settings, begin, limit))
        if limit is not None:
            rest = await stack.enter_async_context(_stream(index, settings, Mark(shard.last, shard.last_offset)))
        yield PackedRange(shard, index.display_name, own, rest)


@asynccontextmanager
async def _stream(
    index: IndexRef, settings: Settings, mark: Mark, limit: int | None = None
) -> AsyncIterator[UnpackedStream]:
    file = open_local(index)
    packed = CountedFile(file, limit)
    try:
        file.seek(mark.place)
        stream = UnpackedStream(index, packed, settings.max_unpacked_bytes, first=mark.place, offset=mark.offset)
        await stream.detect()
        if not stream.outer:
            raise wrong_headers(index.display_name, mark.place)
        yield stream
    finally:
        packed.close()


def wrong_headers(name: str, place: int) -> IndexUnreadable:
    """The error about a file that is not packed as its headers say."""
    return IndexUnreadable(
        f"{name}: the compressed data is damaged near byte {place} of the file: "
        "it is not what its headers say; fetch the file again"
    )
