"""Read bytes anywhere in a file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

from seed_registry.errors import IndexUnreadable
from seed_registry.headers import Header
from seed_registry.index.inputs import IndexRef
from seed_registry.index.local_file import LocalFile, open_local


class RandomAccess(Protocol):
    """A file of which any bytes can be read."""

    @property
    def size(self) -> int:
        """In bytes."""
        ...

    async def read(self, position: int, count: int) -> bytes:
        """Some bytes from a position on, at most `count`, none behind the end.

        Raises:
            IndexUnreadable: reading fails.
        """
        ...


class NoRanges(IndexUnreadable):  # before anything is read of it the index is read as one
    """A server does not send parts of a file.

    Attributes:
        reason: in words.
    """

    reason = "its server does not send parts of a file"


class _LocalAccess:
    def __init__(self, file: LocalFile, name: str) -> None:
        assert file.size is not None, "a pipe has no positions"
        self.size = file.size
        self._file = file
        self._name = name

    async def read(self, position: int, count: int) -> bytes:
        try:
            return await asyncio.to_thread(self._file.read_at, position, count)
        except OSError as exc:
            raise IndexUnreadable(f"{self._name}: reading failed near byte {position}: {exc.strerror or exc}") from exc


class _RemoteAccess:
    def __init__(self, index: IndexRef, headers: Sequence[Header], etag: str, size: int) -> None:
        from seed_registry.index.remote_file import Version, read_range  # noqa: PLC0415  # httpx is slow to import

        self.size = size
        self._name = index.display_name
        self._read = partial(read_range, index, headers, Version(etag, size))

    async def read(self, position: int, count: int) -> bytes:
        found = await asyncio.to_thread(self._read, position, count)
        if found is None:
            raise NoRanges(f"{self._name}: {NoRanges.reason}, or it changed meanwhile")
        return found


@asynccontextmanager
async def open_for_cuts(
    index: IndexRef, headers: Sequence[Header] = (), etag: str = "", size: int = 0
) -> AsyncIterator[RandomAccess]:
    """Open a regular file, or a URL whose server sent this ETag and size.

    Raises:
        IndexUnreadable: it cannot be opened.
        NoRanges: the server does not send parts of a file.
    """
    if index.kind == "url":
        remote = _RemoteAccess(index, headers, etag, size)
        await remote.read(size - 1, 1)
        yield remote
        return
    file = open_local(index)
    try:
        yield _LocalAccess(file, index.display_name)
    finally:
        file.close()
