"""Opening: a path, a URL, or `-`, to chunks of unpacked bytes, with memory bounded whatever the file says of itself.

Compression is told by magic bytes, never by the name: gzip (RFC 1952) and zstandard (RFC 8878). One leading UTF-8 byte
order mark is dropped. Everything blocking happens in threads, through aiofiles.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import select
import shlex
import stat
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import aiofiles
import aiofiles.threadpool
import xxhash

from seed_registry.checkpoint import FileState
from seed_registry.errors import IndexNotUnderstood, IndexUnreadable
from seed_registry.headers import Header
from seed_registry.index.compression import (
    DAMAGE,
    MAGIC_BYTES,
    NotUnpacked,
    see_that_it_is_unpacked,
    unpacker,
    unpacking,
)
from seed_registry.index.inputs import IndexRef

if TYPE_CHECKING:
    from aiofiles.threadpool.binary import AsyncBufferedReader
    from typing_extensions import Buffer

# Each is a trip to a thread and back.
CHUNK_BYTES = 1 << 20
# How much of an index is looked at to tell what it is.
HEAD_BYTES = 64 << 10
_PIPE_POLL_SECONDS = 0.2
# Real indexes unpack to 5 to 20 times their size, a million equal lines to some 300 times; a bomb to far more.
_UNSUSPECTED_BYTES = 1 << 30
_UNSUSPECTED_RATIO = 400
_HASHED_BYTES = 4 << 20  # at a time, when a file is recognised

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
        head: up to `HEAD_BYTES` of its unpacked beginning.
        head_offset: where the head begins: behind a byte order mark, if there is one.
    """

    def __init__(self, index: IndexRef, packed: _Counting, max_unpacked_bytes: int | None = None) -> None:
        self.index = index
        self.name = index.display_name
        self.head = b""
        self.head_offset = 0
        self._packed = packed
        self._unpacked: AsyncBufferedReader
        self._unpacked_bytes = 0
        self._is_packed = False
        self._outer = ""  # the command that unpacks what it is packed with
        self._max_unpacked_bytes = max_unpacked_bytes

    @property
    def size(self) -> int | None:
        """Bytes of the file as it lies on disk, None for a pipe; a server tells it with the first bytes, or never."""
        return self._packed.size

    @property
    def position(self) -> int:
        """Bytes of the file consumed so far."""
        return self._packed.consumed

    @property
    def file_state(self) -> FileState | None:
        """The file as it is read, None where it could not be recognised later: a pipe, a URL."""
        return self._packed.state

    async def read_head(self) -> None:
        """Fill `head`.

        Raises:
            IndexUnreadable: the bytes are not compressed as they claim.
            IndexNotUnderstood: it is empty, or a kind of file that no index is.
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
        self._see_that_it_may_be_an_index(bytes(head))
        self.head = bytes(head).removeprefix(_BOM)
        self.head_offset = len(head) - len(self.head)
        if not self.head.strip():
            raise IndexNotUnderstood(f"{self.name} is empty: was its export interrupted?")

    def _see_that_it_may_be_an_index(self, head: bytes) -> None:
        for magic, kind in _KNOWN_FORMATS.items():
            if head.startswith(magic):
                raise IndexNotUnderstood(f"{self.name} is not an index but {kind}")
        try:
            see_that_it_is_unpacked(head, self.index.ledger_name)
        except NotUnpacked as exc:
            raise IndexNotUnderstood(f"{self.name} is not an index but {self._unpacked_by(exc, self._outer)}") from exc

    def _unpacked_by(self, exc: NotUnpacked, outer: str = "") -> str:
        """What the file is, and the command line that loads it all the same."""
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
            IndexUnreadable: reading fails, the compressed data is damaged or cut off, the file was changed meanwhile.
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
        """The next chunk, read and unpacked in its thread while the one before is decoded."""
        task = asyncio.ensure_future(self._read())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may ask for it any more
        return task

    async def _read(self) -> bytes:
        try:
            chunk: bytes = await self._unpacked.read1(CHUNK_BYTES)
        except NotUnpacked as exc:
            raise IndexUnreadable(f"{self.name} {'is' if exc.command else 'ends in'} {self._unpacked_by(exc)}") from exc
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
        """How many bytes the file may have given by now."""
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
        max_unpacked_bytes: more is taken for an attack; None for 1 GiB and 400 times what was read of the file.
        headers: sent with requests for a URL.

    Raises:
        IndexUnreadable: no such file, a directory or device, no permission, no answer, damaged compression, or far too
            much in it.
        IndexNotUnderstood: it is empty, or obviously no index.
    """
    packed = _Counting(_open_file(index, headers))
    try:
        opened = OpenIndex(index, packed, max_unpacked_bytes)
        await opened.read_head()
        yield opened
    finally:
        packed.close()


async def is_as_it_was(index: IndexRef, state: FileState) -> bool:
    """Whether a file still is what was read of it once: size, time, and a hash of as much as was read."""
    if index.kind != "file":
        return False
    digest, left = xxhash.xxh3_128(), state.consumed
    try:
        # A pipe that lies there now would be waited for, in a thread that nothing wakes.
        async with aiofiles.open(index.path, "rb", opener=_open_at_once) as file:
            now = os.fstat(file.fileno())
            if not stat.S_ISREG(now.st_mode) or (now.st_size, now.st_mtime_ns) != (state.size, state.modified):
                return False
            while left and (chunk := await file.read(min(left, _HASHED_BYTES))):
                digest.update(chunk)
                left -= len(chunk)
    except OSError:  # whoever opens it next will say why
        return False
    return digest.digest() == state.digest


class _RawFile(Protocol):
    """What an index is read from; closing it, in whatever thread, ends a read that waits.

    `modified` is None where a change could not be told.
    """

    closed: bool
    size: int | None
    modified: int | None

    def has_changed(self) -> bool: ...

    def readinto(self, buffer: memoryview, /) -> int: ...

    def close(self) -> None: ...


def _open_file(index: IndexRef, headers: Sequence[Header]) -> _RawFile:
    """The file. What was opened is what is examined: the path is not looked up twice."""
    name, is_stdin = index.display_name, index.kind == "stdin"
    if index.kind == "url":
        from seed_registry.index.remote_file import RemoteFile  # noqa: PLC0415  # httpx takes a fifth of the start of a load

        return RemoteFile(index, headers)
    if is_stdin and sys.stdin is None:
        raise IndexUnreadable("stdin is closed")
    try:
        file = io.FileIO(sys.stdin.fileno() if is_stdin else index.path, closefd=not is_stdin, opener=_open_at_once)
    except FileNotFoundError as exc:
        raise IndexUnreadable(f"{name}: no such file (looked in {Path.cwd()})") from exc
    except IsADirectoryError as exc:
        raise IndexUnreadable(f"{name} is a directory, not an index file") from exc
    except PermissionError as exc:
        raise IndexUnreadable(f"{name}: permission denied for user {os.geteuid()}") from exc
    except (OSError, ValueError) as exc:
        raise IndexUnreadable(f"{name} cannot be opened: {getattr(exc, 'strerror', None) or exc}") from exc
    mode = os.fstat(file.fileno()).st_mode
    if stat.S_ISREG(mode):
        return _LocalFile(file, index)
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or is_stdin:
        os.set_blocking(file.fileno(), True)
        return _LocalFile(file)
    file.close()
    raise IndexUnreadable(f"{name} is a device, not an index file")


def _open_at_once(path: str, flags: int) -> int:
    """Open a pipe that nobody writes to yet without waiting for somebody: that wait could not be cancelled."""
    return os.open(path, flags | os.O_NONBLOCK)


class _LocalFile:
    """A file, or without an index a pipe: nobody sleeps in a read that a closed pipeline no longer wants."""

    def __init__(self, file: io.FileIO, index: IndexRef | None = None) -> None:
        self.closed = False
        self.size: int | None = None
        self.modified: int | None = None
        self._file = file
        self._index = index
        if index is not None:
            self._stat = os.fstat(file.fileno())
            self.size = self._stat.st_size
            self.modified = None if index.kind == "stdin" else self._stat.st_mtime_ns

    def has_changed(self) -> bool:
        """Whether the file was written to since, or another one has taken its place."""
        if self._index is None or self.modified is None:
            return False
        try:
            now = [os.fstat(self._file.fileno()), os.stat(self._index.path)]  # noqa: PTH116  # a path's bytes may be no text
        except OSError:
            return True
        return any(
            (stat_.st_size, stat_.st_mtime_ns, stat_.st_ino, stat_.st_dev)
            != (self._stat.st_size, self._stat.st_mtime_ns, self._stat.st_ino, self._stat.st_dev)
            for stat_ in now
        )

    def readinto(self, buffer: memoryview, /) -> int:
        if self.size is None:
            # A thread asleep in read(2) cannot be cancelled; one that polls ends when the file is closed.
            while not select.select([self._file], [], [], _PIPE_POLL_SECONDS)[0]:
                if self.closed:
                    return 0
        elif self.closed:
            raise OSError(errno.EBADF, "closed")
        return self._file.readinto(buffer) or 0

    def close(self) -> None:
        self.closed = True
        self._file.close()


class _Counting(io.RawIOBase):
    """The file itself: counts and hashes what is read."""

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
            count += self.readinto(rest)  # a pipe may hand over less than what tells the compression
        return count

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._file.close()
