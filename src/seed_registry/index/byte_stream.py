"""Read an index as chunks of unpacked bytes, with bounded memory whatever the file contains.

Magic bytes decide the compression, not the file name: gzip (RFC 1952) and zstandard (RFC 8878). A UTF-8 byte order mark
at the beginning is dropped. Blocking calls run in threads, by aiofiles.
"""

from __future__ import annotations

import asyncio
import io
import shlex
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import aiofiles.threadpool

from seed_registry.checkpoint import FileState
from seed_registry.errors import IndexNotUnderstood, IndexUnreadable
from seed_registry.headers import Header
from seed_registry.index.compression import (
    DAMAGE,
    MAGIC_BYTES,
    NotUnpacked,
    require_unpacked,
    unpacker,
    unpacking,
)
from seed_registry.index.counted_file import CountedFile, RawFile
from seed_registry.index.inputs import IndexRef
from seed_registry.index.local_file import open_local

if TYPE_CHECKING:
    from aiofiles.threadpool.binary import AsyncBufferedReader

# Each is a trip to a thread and back.
CHUNK_BYTES = 1 << 20
# At least as many bytes are read before the shape of an index is decided.
HEAD_BYTES = 64 << 10
# Real indexes unpack to 5 to 20 times their size, a million equal lines to some 300 times.
_UNSUSPECTED_BYTES = 1 << 30
_UNSUSPECTED_RATIO = 400

_BOM = b"\xef\xbb\xbf"
_KNOWN_FORMATS = {
    b"\x89PNG": "a PNG image",
    b"%PDF": "a PDF document",
    b"\xff\xfe": "UTF-16: convert it with `iconv -f UTF-16 -t UTF-8`",
    b"\xfe\xff": "UTF-16: convert it with `iconv -f UTF-16 -t UTF-8`",
    b"\x7fELF": "a program",
    b"PAR1": "a Parquet file",
    b"SQLite format 3": "an SQLite database",
}


class UnpackedStream:
    """The unpacked bytes of a file from some place on, read once.

    Attributes:
        name: of the index, in messages.
        outer: the command that unpacks its compression, empty if there is none.
    """

    def __init__(
        self,
        index: IndexRef,
        packed: CountedFile,
        max_unpacked_bytes: int | None = None,
        *,
        first: int = 0,
        offset: int = 0,
    ) -> None:
        """Prepare for reading.

        Args:
            index: where it is read from.
            packed: the file, at the place where reading begins.
            max_unpacked_bytes: limit for a compressed file, from its beginning.
            first: that place.
            offset: of the first unpacked byte there.
        """
        self.name = index.display_name
        self.outer = ""
        self._index = index
        self._packed = packed
        self._first = first
        self._unpacked: AsyncBufferedReader
        self._unpacked_bytes = offset
        self._max_unpacked_bytes = max_unpacked_bytes

    @property
    def position(self) -> int:
        """The byte of the file that is read next."""
        return self._first + self._packed.consumed

    async def detect(self) -> None:
        """Begin with reading; the first bytes decide the compression.

        Raises:
            IndexUnreadable: reading fails.
        """
        buffered = io.BufferedReader(self._packed, CHUNK_BYTES)
        magic = await aiofiles.threadpool.wrap(buffered).peek(MAGIC_BYTES)
        unpacked = unpacking(buffered, magic, CHUNK_BYTES)
        self.outer = unpacker(magic) if unpacked is not buffered else ""
        self._unpacked = aiofiles.threadpool.wrap(unpacked)

    def begin(self) -> None:
        """Begin with reading, without unpacking."""
        self._unpacked = aiofiles.threadpool.wrap(io.BufferedReader(self._packed, CHUNK_BYTES))

    def remedy(self, exc: NotUnpacked, outer: str = "") -> str:
        """What the file is, and a command that loads it."""
        if exc.command is None:
            return exc.kind
        file = shlex.quote(self.name) if self._index.kind == "file" else "FILE"
        unpack = f"{exc.command} {file}"
        if outer and exc.is_stream:
            unpack = f"{outer} {file} | {exc.command}"
        is_url = self._index.kind == "url"
        fetch = f"fetch it with curl -fsSLo FILE {shlex.quote(self.name)}, then" if is_url else "unpack it:"
        return f"{exc.kind}\n{fetch} {unpack} | seed-registry load -"

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The unpacked bytes from here on.

        Raises:
            IndexUnreadable: reading fails, the compressed data is damaged or cut off, the file changed meanwhile.
        """
        ahead = self._read_ahead()
        try:
            while chunk := await ahead:
                ahead = self._read_ahead()
                yield chunk
        finally:
            ahead.cancel()
        self.require_unchanged()

    def require_unchanged(self) -> None:
        """Check that the file was not changed since it was opened.

        Raises:
            IndexUnreadable: it was.
        """
        if self._packed.has_changed():
            raise IndexUnreadable(f"{self.name} was changed while it was read; load it again when it is finished")

    def _read_ahead(self) -> asyncio.Task[bytes]:
        """Read and unpack the next chunk in a thread, while the one before is decoded."""
        task = asyncio.ensure_future(self.read())
        task.add_done_callback(
            lambda done: done.cancelled() or done.exception()
        )  # or asyncio logs a failure that is not awaited
        return task

    async def read(self) -> bytes:
        """The next unpacked bytes, empty at the end.

        Raises:
            IndexUnreadable: as `chunks` does.
        """
        try:
            chunk: bytes = await self._unpacked.read1(CHUNK_BYTES)
        except NotUnpacked as exc:
            raise IndexUnreadable(f"{self.name} {'is' if exc.command else 'ends in'} {self.remedy(exc)}") from exc
        except DAMAGE as exc:
            raise IndexUnreadable(
                f"{self.name}: the compressed data is damaged or cut off near byte {self.position} of the file; "
                "fetch the file again"
            ) from exc
        except OSError as exc:
            raise IndexUnreadable(
                f"{self.name}: reading failed near byte {self.position}: {exc.strerror or exc}"
            ) from exc
        self._unpacked_bytes += len(chunk)
        if self._unpacked_bytes > self._limit():
            raise IndexUnreadable(
                f"{self.name} unpacks to more than {self._limit():,} bytes from {self.position:,}; "
                "if it is no decompression bomb, load it with a larger --max-unpacked-bytes"
            )
        return chunk

    def _limit(self) -> int:
        """How many bytes may have been unpacked by now."""
        if not self.outer:
            return self._unpacked_bytes
        if self._max_unpacked_bytes is not None:
            return self._max_unpacked_bytes
        return _UNSUSPECTED_BYTES + _UNSUSPECTED_RATIO * self.position


class IndexBytes(Protocol):
    """The bytes of an index, or of a part of one, that can be read once; see `OpenIndex`."""

    @property
    def index(self) -> IndexRef:
        """Where it is read from, and its names."""
        ...

    @property
    def name(self) -> str:
        """In messages."""
        ...

    @property
    def size(self) -> int | None:
        """Bytes on disk; None where that is not known."""
        ...

    @property
    def position(self) -> int:
        """Bytes read of them."""
        ...

    @property
    def file_state(self) -> FileState | None:
        """The file as far as it was read; None if it could not be recognised later."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The unpacked bytes."""
        ...


class OpenIndex:
    """An index that can be read once, from its beginning.

    Attributes:
        index: where it is read from, and its names.
        name: in messages.
        head: its unpacked beginning, `HEAD_BYTES` and up to one chunk, where it has as many.
        head_offset: where the head begins: behind a byte order mark, if there is one.
    """

    def __init__(self, index: IndexRef, packed: CountedFile, max_unpacked_bytes: int | None = None) -> None:
        self.index = index
        self.name = index.display_name
        self.head = b""
        self.head_offset = 0
        self._packed = packed
        self._stream = UnpackedStream(index, packed, max_unpacked_bytes)

    @property
    def size(self) -> int | None:
        """Bytes of the file, packed as it is; None for a pipe, and for a URL until its server answers with a length."""
        return self._packed.size

    @property
    def unpacker(self) -> str:
        """The command that unpacks it to stdout, empty if it is not compressed."""
        return self._stream.outer

    @property
    def is_packed(self) -> bool:
        """Whether it is compressed."""
        return bool(self._stream.outer)

    @property
    def etag(self) -> str:
        """Of a URL, if its server gives a strong one; else empty."""
        return self._packed.etag

    @property
    def modified(self) -> int | None:
        """Nanoseconds since 1970; None where a change of the file could not be noticed."""
        return self._packed.modified

    @property
    def position(self) -> int:
        """Bytes of the file read so far."""
        return self._packed.consumed

    @property
    def file_state(self) -> FileState | None:
        """The file as far as it was read; None for a pipe or URL, which could not be recognised later."""
        return self._packed.state

    def require_unchanged(self) -> None:
        """Check that the file was not changed since it was opened.

        Raises:
            IndexUnreadable: it was.
        """
        self._stream.require_unchanged()

    async def read_head(self) -> None:
        """Fill `head`.

        Raises:
            IndexUnreadable: the bytes are not compressed as they claim.
            IndexNotUnderstood: it is empty, or of a format that no index has.
        """
        await self._stream.detect()
        head = bytearray()
        while len(head) < HEAD_BYTES and (chunk := await self._stream.read()):
            head += chunk
        self._check_format(bytes(head))
        self.head = bytes(head).removeprefix(_BOM)
        self.head_offset = len(head) - len(self.head)
        if not self.head.strip():
            raise IndexNotUnderstood(f"{self.name} is empty: was its export interrupted?")

    def _check_format(self, head: bytes) -> None:
        for magic, kind in _KNOWN_FORMATS.items():
            if head.startswith(magic):
                raise IndexNotUnderstood(f"{self.name} is not an index but {kind}")
        try:
            require_unpacked(head, self.index.ledger_name)
        except NotUnpacked as exc:
            raise IndexNotUnderstood(
                f"{self.name} is not an index but {self._stream.remedy(exc, self._stream.outer)}"
            ) from exc

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The unpacked bytes from `head_offset` on, the head included.

        Raises:
            IndexUnreadable: reading fails, the compressed data is damaged or cut off, the file changed meanwhile.
        """
        yield self.head
        async with aclosing(self._stream.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk


@asynccontextmanager
async def open_index(
    index: IndexRef, *, max_unpacked_bytes: int | None = None, headers: Sequence[Header] = ()
) -> AsyncIterator[OpenIndex]:
    """Open an index: plain, gzip or zstd.

    Args:
        index: where it is read from.
        max_unpacked_bytes: limit for compressed files; None for 1 GiB and 400 times the bytes read of the file.
        headers: sent with requests for a URL.

    Raises:
        IndexUnreadable: no such file, a directory or device, no permission, no answer, damaged compression, or more
            bytes than the limit.
        IndexNotUnderstood: it is empty, or of a format that no index has.
    """
    packed = CountedFile(_open_file(index, headers))
    try:
        opened = OpenIndex(index, packed, max_unpacked_bytes)
        await opened.read_head()
        yield opened
    finally:
        packed.close()


def _open_file(index: IndexRef, headers: Sequence[Header]) -> RawFile:
    if index.kind == "url":
        from seed_registry.index.remote_file import RemoteFile  # noqa: PLC0415  # httpx takes a fifth of the start of a load

        return RemoteFile(index, headers)
    return open_local(index)
