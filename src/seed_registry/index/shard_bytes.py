"""Read the bytes of one shard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import xxhash

from seed_registry.checkpoint import FileState
from seed_registry.index.byte_stream import OpenIndex, UnpackedStream
from seed_registry.index.counted_file import CountedFile, RawFile
from seed_registry.index.inputs import IndexRef
from seed_registry.index.local_file import open_local
from seed_registry.index.packed_lines import PackedRange, open_packed
from seed_registry.index.shards import UNKNOWN, Shard, changed
from seed_registry.settings import Settings


class ShardBytes:
    """The unpacked bytes of a shard, read once.

    Attributes:
        index: that it is a part of.
        name: of the index, in messages.
        size: bytes of the file that it takes; None where that is not known.
        offset: of the next unpacked byte.
    """

    def __init__(
        self, shard: Shard, index: IndexRef, source: OpenIndex | UnpackedStream | PackedRange, bom_bytes: int = 0
    ) -> None:
        """Prepare for reading.

        Args:
            shard: of the index.
            index: where it is read from.
            source: the whole index for its first shard, else, and if that is packed, what is read from `first` on.
            bom_bytes: length of a byte order mark at the beginning of the shard.
        """
        self.index = index
        self.name = index.display_name
        self.size = shard.last - shard.first if shard.last != UNKNOWN else None
        self.offset = shard.start
        self._shard = shard
        self._source = source
        self._digest = xxhash.xxh3_128()
        self._skip = shard.skip
        if bom_bytes:
            self._skip = self.offset = bom_bytes
        self._last_byte = b""
        if isinstance(source, OpenIndex):
            self.offset = source.head_offset

    @property
    def position(self) -> int:
        """Bytes of the file read so far, of those that the shard takes."""
        read = self._source.position - self._shard.first
        return read if self.size is None else min(read, self.size)

    @property
    def digest(self) -> bytes:
        """The xxh3-128 of the unpacked bytes so far, without a byte order mark."""
        return self._digest.digest()

    @property
    def file_state(self) -> FileState | None:
        """The file, with the number of its bytes read for this shard, and `digest`; None for a pipe or URL."""
        if self._shard.modified == UNKNOWN:
            return None
        return FileState(self._shard.size, self._shard.modified, self.position, self.digest)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The unpacked bytes.

        Raises:
            IndexUnreadable: reading fails, compressed data is damaged, or the file is not what was cut into shards.
        """
        end = self._shard.end
        async with aclosing(self._source.chunks()) as chunks:
            while end == UNKNOWN or self.offset < end:
                chunk = await anext(chunks, None)
                if chunk is None:
                    break
                if part := self._own(chunk):
                    yield part
        if end != UNKNOWN and self.offset < end:
            raise changed(self.name, f"it ends at byte {self.offset:,}")
        if end != UNKNOWN and not self._shard.dress and self._last_byte != b"\n":
            raise changed(self.name, f"no line ends at byte {end:,}")
        self._source.require_unchanged()

    def _own(self, chunk: bytes) -> bytes:
        """The part of a chunk that belongs to the shard, counted."""
        if self._skip:
            skipped = min(self._skip, len(chunk))
            self._skip -= skipped
            chunk = chunk[skipped:]
        if self._shard.end != UNKNOWN:
            chunk = chunk[: self._shard.end - self.offset]
        self.offset += len(chunk)
        self._last_byte = chunk[-1:] or self._last_byte
        self._digest.update(chunk)
        return chunk


@asynccontextmanager
async def open_from(
    index: IndexRef, shard: Shard, settings: Settings, *, is_packed: bool, bom_bytes: int
) -> AsyncIterator[ShardBytes]:
    """Open a shard where it begins; `bom_bytes` is the length of the byte order mark of the index.

    Raises:
        IndexUnreadable: the file cannot be read, or is another one than that which was cut into shards.
    """
    if is_packed:
        async with open_packed(index, shard, settings) as packed_range:
            yield ShardBytes(shard, index, packed_range, bom_bytes if shard.is_first else 0)
        return
    packed = CountedFile(_open_at(index, shard, settings))
    try:
        require_same(index, shard, packed)
        stream = UnpackedStream(
            index, packed, settings.max_unpacked_bytes, first=shard.first, offset=shard.start - shard.skip
        )
        stream.begin()
        yield ShardBytes(shard, index, stream)
    finally:
        packed.close()


def require_same(index: IndexRef, shard: Shard, file: OpenIndex | CountedFile) -> None:
    """Check that a file has still the size and the time, or the ETag, that it had when it was cut into shards.

    Raises:
        IndexUnreadable: it has not.
    """
    if shard.modified != UNKNOWN and (file.size, file.modified) != (shard.size, shard.modified):
        raise changed(index.display_name, "it has another size or time")
    if shard.etag and file.etag != shard.etag:
        raise changed(index.display_name, "its server has another version")


def _open_at(index: IndexRef, shard: Shard, settings: Settings) -> RawFile:
    """Open a plain file where a shard begins."""
    if index.kind == "url":
        from seed_registry.index.remote_file import RemoteFile, Version  # noqa: PLC0415  # httpx is slow to import

        return RemoteFile(index, settings.headers, first=shard.first, version=Version(shard.etag, shard.size))
    file = open_local(index)
    file.seek(shard.first)
    return file
