"""Open files, pipes and standard input without waiting for them, and recognise a file that was read before."""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import sys
import threading
from pathlib import Path

import aiofiles
import xxhash

from seed_registry.checkpoint import FileState
from seed_registry.errors import IndexUnreadable
from seed_registry.index.inputs import IndexRef

_PIPE_POLL_SECONDS = 0.2
_HASHED_BYTES = 4 << 20  # at a time


class LocalFile:
    """A regular file, or without `index` a pipe. Closing it, in any thread, ends a read that waits.

    Attributes:
        size: in bytes, None for a pipe.
        modified: nanoseconds since 1970, None where a change of the file could not be noticed.
        etag: empty, only URLs have one.
    """

    etag = ""

    def __init__(self, file: io.FileIO, index: IndexRef | None = None) -> None:
        self.closed = False
        self.size: int | None = None
        self.modified: int | None = None
        self._file = file
        self._reading = threading.Lock()
        self._index = index
        if index is not None:
            self._stat = os.fstat(file.fileno())
            self.size = self._stat.st_size
            self.modified = None if index.kind == "stdin" else self._stat.st_mtime_ns

    def has_changed(self) -> bool:
        """Return whether the file was written to since it was opened, or replaced by another one."""
        if self._index is None or self.modified is None:
            return False
        try:
            now = [os.fstat(self._file.fileno()), os.stat(self._index.path)]  # noqa: PTH116  # its bytes may be no text
        except OSError:
            return True
        return any(_identity(stat_) != _identity(self._stat) for stat_ in now)

    def seek(self, position: int) -> None:
        """Go to a byte of a regular file."""
        self._file.seek(position)

    def read_at(self, position: int, count: int) -> bytes:
        """Some bytes of a regular file from a position on, at most `count`, none behind the end."""
        if self.closed:
            raise OSError(errno.EBADF, "closed")
        return os.pread(self._file.fileno(), count, position)

    def readinto(self, buffer: memoryview, /) -> int:
        """Read what fits into the buffer, and return how many bytes; 0 at the end, or once it is closed."""
        try:
            with self._reading:
                return self._read_into(buffer)
        finally:
            if self.closed:
                self._close_unless_reading()

    def _read_into(self, buffer: memoryview) -> int:
        if self.size is None:
            # A thread asleep in read(2) cannot be cancelled; one that polls ends when the file is closed.
            while not self.closed and not select.select([self._file], [], [], _PIPE_POLL_SECONDS)[0]:
                pass
            if self.closed:
                return 0
        elif self.closed:
            raise OSError(errno.EBADF, "closed")
        return self._file.readinto(buffer) or 0

    def close(self) -> None:
        """Close the file; a read in another thread ends soon."""
        self.closed = True
        self._close_unless_reading()

    def _close_unless_reading(self) -> None:
        """Close the descriptor, but not under a read: its number may be another file's a moment later."""
        if self._reading.acquire(blocking=False):
            try:
                self._file.close()
            finally:
                self._reading.release()


def open_local(index: IndexRef) -> LocalFile:
    """Open a file, a pipe or standard input.

    Raises:
        IndexUnreadable: it does not exist, is a directory or a device, or may not be read.
    """
    name, is_stdin = index.display_name, index.kind == "stdin"
    if is_stdin and sys.stdin is None:
        raise IndexUnreadable("stdin is closed")
    try:
        file = io.FileIO(sys.stdin.fileno() if is_stdin else index.path, closefd=not is_stdin, opener=_open_nonblocking)
    except FileNotFoundError as exc:
        raise IndexUnreadable(f"{name}: no such file (looked in {Path.cwd()})") from exc
    except IsADirectoryError as exc:
        raise IndexUnreadable(f"{name} is a directory, not an index file") from exc
    except PermissionError as exc:
        raise IndexUnreadable(f"{name}: permission denied for user {os.geteuid()}") from exc
    except (OSError, ValueError) as exc:
        raise IndexUnreadable(f"{name} cannot be opened: {getattr(exc, 'strerror', None) or exc}") from exc
    mode = os.fstat(file.fileno()).st_mode  # of the opened file: the path is not looked up twice
    if stat.S_ISREG(mode):
        return LocalFile(file, index)
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or is_stdin:
        os.set_blocking(file.fileno(), True)
        return LocalFile(file)
    file.close()
    raise IndexUnreadable(f"{name} is a device, not an index file")


async def is_unchanged(index: IndexRef, state: FileState) -> bool:
    """Return whether a file still has the size, the time and, as far as it was read, the hash that it had then."""
    if index.kind != "file":
        return False
    digest, left = xxhash.xxh3_128(), state.consumed
    try:
        async with aiofiles.open(index.path, "rb", opener=_open_nonblocking) as file:
            now = os.fstat(file.fileno())
            if not stat.S_ISREG(now.st_mode) or (now.st_size, now.st_mtime_ns) != (state.size, state.modified):
                return False
            while left and (chunk := await file.read(min(left, _HASHED_BYTES))):
                digest.update(chunk)
                left -= len(chunk)
    except OSError:  # opening it to load it will report why
        return False
    return digest.digest() == state.digest


def _open_nonblocking(path: str, flags: int) -> int:
    """Open a pipe without waiting for its writer: that wait, in a thread, could not be cancelled."""
    return os.open(path, flags | os.O_NONBLOCK)


def _identity(of: os.stat_result) -> tuple[int, ...]:
    return of.st_size, of.st_mtime_ns, of.st_ino, of.st_dev
