"""Read an index as chunks of unpacked bytes, with bounded memory whatever the file contains.

Magic bytes decide the compression, not the file name: gzip (RFC 1952) and zstandard (RFC 8878). A UTF-8 byte order mark
at the beginning is dropped. Blocking calls run in threads, by aiofiles.
"""

from __future__ import annotations

import asyncio
import io
import shlex
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import aiofiles.threadpool
import xxhash

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
from seed_registry.index.inputs import IndexRef
from seed_registry.index.local_file import open_local

if TYPE_CHECKING:
    from aiofiles.threadpool.binary import AsyncBufferedReader
    from typing_extensions import Buffer

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


class OpenIndex:
    """An index that can be read once, from its beginning.

    Attributes:
        index: where it is read from, and its names.
        name: in messages.
        head: its unpacked beginning, `HEAD_BYTES` and up to one chunk, where it has as many.
        head_offset: where the head begins: behind a byte order mark, if there is one.
    """

    def __init__(self, index: IndexRef, packed: _CountedFile, max_unpacked_bytes: int | None = None) -> None:
        self.index = index
        self.name = index.display_name
        self.head = b""
        self.head_offset = 0
        self._packed = packed
        self._unpacked: AsyncBufferedReader
        self._unpacked_bytes = 0
        self._is_packed = False
        self._outer = ""  # the command that unpacks its compression
        self._max_unpacked_bytes = max_unpacked_bytes

    @property
    def size(self) -> int | None:
        """Bytes of the file, packed as it is; None for a pipe, and for a URL until its server answers with a length."""
        return self._packed.size

    @property
    def position(self) -> int:
        """Bytes of the file read so far."""
        return self._packed.consumed

    @property
    def file_state(self) -> FileState | None:
        """The file as far as it was read; None for a pipe or URL, which could not be recognised later."""
        return self._packed.state

    async def read_head(self) -> None:
        """Fill `head`.

        Raises:
            IndexUnreadable: the bytes are not compressed as they claim.
            IndexNotUnderstood: it is empty, or of a format that no index has.
        """
        buffered = io.BufferedReader(self._packed, CHUNK_BYTES)
        magic = await aiofiles.threadpool.wrap(buffered).peek(MAGIC_BYTES)
        unpacked = unpacking(buffered, magic, CHUNK_BYTES)
        self._is_packed = unpacked is not buffered
        self._outer = unpacker(magic) if self._is_packed else ""
        self._unpacked = aiofiles.threadpool.wrap(unpacked)
        head = bytearray()
        while len(head) < HEAD_BYTES and (chunk := await self._read()):
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
            raise IndexNotUnderstood(f"{self.name} is not an index but {self._remedy(exc, self._outer)}") from exc

    def _remedy(self, exc: NotUnpacked, outer: str = "") -> str:
        """What the file is, and a command that loads it."""
        if exc.command is None:
            return exc.kind
        file = shlex.quote(self.name) if self.index.kind == "file" else "FILE"
        unpack = f"{exc.command} {file}"
        if outer and exc.is_stream:
            unpack = f"{outer} {file} | {exc.command}"
        is_url = self.index.kind == "url"
        fetch = f"fetch it with curl -fsSLo FILE {shlex.quote(self.name)}, then" if is_url else "unpack it:"
        return f"{exc.kind}\n{fetch} {unpack} | seed-registry load -"

    async def chunks(self) -> AsyncIterator[bytes]:
        """The unpacked bytes from `head_offset` on, the head included.

        Raises:
            IndexUnreadable: reading fails, the compressed data is damaged or cut off, the file changed meanwhile.
        """
        yield self.head
        ahead = self._read_ahead()
        try:
            while chunk := await ahead:
                ahead = self._read_ahead()
                yield chunk
        finally:
            ahead.cancel()
        if self._packed.has_changed():
            raise IndexUnreadable(f"{self.name} was changed while it was read; load it again when it is finished")

    def _read_ahead(self) -> asyncio.Task[bytes]:
        """Read and unpack the next chunk in a thread, while the one before is decoded."""
        task = asyncio.ensure_future(self._read())
        task.add_done_callback(
            lambda done: done.cancelled() or done.exception()
        )  # or asyncio logs a failure that is not awaited
        return task

    async def _read(self) -> bytes:
        try:
            chunk: bytes = await self._unpacked.read1(CHUNK_BYTES)
        except NotUnpacked as exc:
            raise IndexUnreadable(f"{self.name} {'is' if exc.command else 'ends in'} {self._remedy(exc)}") from exc
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
        if not self._is_packed:
            return self._unpacked_bytes
        if self._max_unpacked_bytes is not None:
            return self._max_unpacked_bytes
        return _UNSUSPECTED_BYTES + _UNSUSPECTED_RATIO * self.position


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
    packed = _CountedFile(_open_file(index, headers))
    try:
        opened = OpenIndex(index, packed, max_unpacked_bytes)
        await opened.read_head()
        yield opened
    finally:
        packed.close()


class _RawFile(Protocol):
    """A local or remote file; closing it, in any thread, ends a read that waits."""

    closed: bool
    size: int | None
    modified: int | None

    def has_changed(self) -> bool: ...

    def readinto(self, buffer: memoryview, /) -> int: ...

    def close(self) -> None: ...


def _open_file(index: IndexRef, headers: Sequence[Header]) -> _RawFile:
    if index.kind == "url":
        from seed_registry.index.remote_file import RemoteFile  # noqa: PLC0415  # httpx takes a fifth of the start of a load

        return RemoteFile(index, headers)
    return open_local(index)


class _CountedFile(io.RawIOBase):
    """The file, with the bytes read of it counted and hashed."""

    def __init__(self, file: _RawFile) -> None:
        self.consumed = 0
        self.state: FileState | None = None
        self.has_changed = file.has_changed
        self._file = file
        self._digest = xxhash.xxh3_128()

    @property
    def size(self) -> int | None:
        return self._file.size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        out = memoryview(buffer).cast("B")
        count = self._file.readinto(out)
        self.consumed += count
        if self._file.modified is not None and self._file.size is not None:
            self._digest.update(out[:count])
            self.state = FileState(self._file.size, self._file.modified, self.consumed, self._digest.digest())
        if 0 < self.consumed < MAGIC_BYTES and (rest := out[count:]) and count:
            count += self.readinto(rest)  # a pipe may return fewer bytes than the magic has
        return count

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._file.close()
