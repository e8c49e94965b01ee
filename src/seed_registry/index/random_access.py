"""Read bytes anywhere in a file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from seed_registry.errors import IndexUnreadable
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


@asynccontextmanager
async def open_for_cuts(index: IndexRef) -> AsyncIterator[RandomAccess]:
    """Open a regular file.

    Raises:
        IndexUnreadable: it cannot be opened.
    """
    file = open_local(index)
    try:
        yield _LocalAccess(file, index.display_name)
    finally:
        file.close()
