"""A file of which the bytes read are counted and hashed."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Protocol

import xxhash

from seed_registry.checkpoint import FileState
from seed_registry.index.compression import MAGIC_BYTES

if TYPE_CHECKING:
    from typing_extensions import Buffer


class RawFile(Protocol):
    """A local or remote file; closing it, in any thread, ends a read that waits."""

    closed: bool
    size: int | None
    modified: int | None
    etag: str

    def has_changed(self) -> bool:
        """Whether it was changed since it was opened."""
        ...

    def readinto(self, buffer: memoryview, /) -> int:
        """Read what fits into the buffer; 0 at the end."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class CountedFile(io.RawIOBase):
    """The file, with the bytes read of it counted and hashed.

    Attributes:
        consumed: how many were read.
        state: the file as far as it was read; None for a pipe or URL, which could not be recognised later.
        has_changed: as the file's.
    """

    def __init__(self, file: RawFile, limit: int | None = None) -> None:
        """Nothing of the file has been read yet; it seems to end after `limit` bytes."""
        self._limit = limit
        self.consumed = 0
        self.state: FileState | None = None
        self.has_changed = file.has_changed
        self._file = file
        self._digest = xxhash.xxh3_128()

    @property
    def size(self) -> int | None:
        """In bytes; None where that is not known."""
        return self._file.size

    @property
    def etag(self) -> str:
        """Strong, of a URL; else empty."""
        return self._file.etag

    @property
    def modified(self) -> int | None:
        """Nanoseconds since 1970; None where a change could not be noticed."""
        return self._file.modified

    def readable(self) -> bool:
        """It always is."""
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        """Read as the file does."""
        out = memoryview(buffer).cast("B")
        if self._limit is not None:
            out = out[: self._limit - self.consumed]
        count = self._file.readinto(out)
        self.consumed += count
        if self._file.modified is not None and self._file.size is not None:
            self._digest.update(out[:count])
            self.state = FileState(self._file.size, self._file.modified, self.consumed, self._digest.digest())
        if 0 < self.consumed < MAGIC_BYTES and (rest := out[count:]) and count:
            count += self.readinto(rest)  # a pipe may return fewer bytes than the magic has
        return count

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            super().close()
            self._file.close()
