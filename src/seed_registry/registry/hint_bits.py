"""Sets the hint bits of rows soon after they were committed, while their pages are in the server's memory.

Who reads a row first notes in its page that it is committed. Where pages have checksums, the server writes the whole
page to the WAL for that if a checkpoint began since the page was written. So whoever first reads a large table that was
just loaded, such as the verification, would write all of it to the WAL once more. Before the next checkpoint it costs
nothing.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Any, Final

import asyncpg
from msgspec import Struct

from seed_registry.postgres.failures import CONNECTION_ERRORS
from seed_registry.postgres.sql_files import statement
from seed_registry.registry.tables import Table

_SECONDS_BETWEEN_LOOKS: Final = 0.5
# Of 8 KB: fewer are not worth a round trip; more would let a worker wait for longer than a batch.
_FEWEST_BLOCKS, _MOST_BLOCKS = 128, 2_048


class Look(Struct, frozen=True):
    """The sizes of a table or of its partitions, in blocks, by name, and the position in the WAL at that moment."""

    blocks: dict[str, int]
    position: int


class HintBits:
    """Follows a load through a table, or through its partitions: from their ends at the first look.

    What was written before one look is committed by the next: few batches take longer. These commits are noted in pages
    once they are on disk, which the server is in no hurry about.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._looked = monotonic()
        self._done: dict[str, int] = {}  # blocks, by the name of the table or partition
        self._committed: dict[str, int] = {}  # of them those whose commits are on disk
        self._looks: deque[Look] = deque()  # since then
        self._is_at_work = False
        self._is_over = False

    @property
    def is_due(self) -> bool:
        """Whether there is something to read, or it is time to look."""
        if self._is_at_work or self._is_over:
            return False
        return self._ready() is not None or monotonic() - self._looked >= _SECONDS_BETWEEN_LOOKS

    async def follow(self, connection: asyncpg.Connection[Any]) -> None:
        """Read at most 16 MB of what was written, or look how much that is.

        A load can do without: if this fails, its batches fail as well, or it does not matter.
        """
        if not self.is_due:
            return
        self._is_at_work = True
        try:
            async with connection.transaction():
                # Behind a lock on the table the process that leads a load could not show that it is at work.
                await connection.execute("set local lock_timeout = '100ms'")
                if (name := self._ready()) is not None:
                    await self._read(connection, name)
                else:
                    await self._look(connection)
        except CONNECTION_ERRORS:
            self._is_over = True
        finally:
            self._is_at_work = False

    def _ready(self) -> str | None:
        """A table with enough to read."""
        done = self._done
        return next((name for name, end in self._committed.items() if end - done[name] >= _FEWEST_BLOCKS), None)

    async def _read(self, connection: asyncpg.Connection[Any], name: str) -> None:
        first = self._done[name]
        end = min(self._committed[name], first + _MOST_BLOCKS)
        await connection.execute(statement("registry/read_blocks").format(table=name), (first, 0), (end, 0))
        self._done[name] = end

    async def _look(self, connection: asyncpg.Connection[Any]) -> None:
        rows = await connection.fetch(statement("registry/heap_blocks"), self._table.name)
        if not rows:
            self._is_over = True
            return
        blocks = {row["name"]: row["blocks"] for row in rows}
        self._looked = monotonic()
        self._looks.append(Look(blocks, rows[0]["written"]))
        while len(self._looks) > 1 and self._looks[1].position <= rows[0]["flushed"]:
            self._committed = self._looks.popleft().blocks
        # A table may have been emptied.
        self._done = {name: min(self._done.get(name, end), end) for name, end in blocks.items()}
        self._committed = {name: min(self._committed.get(name, 0), end) for name, end in blocks.items()}
