"""Find places where a JSON document can be cut between two elements of its array of assets.

A place is guessed from the bytes that stood between the first elements, and tried: a framer that begins there must not
leave the array soon. The readers of the pieces prove it (see `json_piece`); a wrong guess costs them time, no record.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Final

from msgspec import Struct

from seed_registry.index.json_document import DocumentFramer
from seed_registry.index.json_envelope import Layout
from seed_registry.index.json_piece import PieceFramer
from seed_registry.index.random_access import RandomAccess
from seed_registry.index.shards import Dress

# Read of a document before its assets must have begun: the header, and the sources of an index that lists them.
_ENVELOPE_BYTES: Final = 256 << 20
# At a time: an array is not found if it begins and ends within one step.
_STEP_BYTES: Final = 64 << 10
# Read behind a place to try it; few records are longer.
_TRIAL_BYTES: Final = 1 << 20
# Searched for a place: twice the longest record that is loaded by default.
_SEARCHED_BYTES: Final = 32 << 20
_TRIALS: Final = 1_000


class Beginning(Struct, frozen=True):
    """What is known about a document once some of its assets were read.

    Attributes:
        dress: of its pieces.
        offset: up to which it was read.
    """

    dress: Dress
    offset: int


async def find_array(framer: DocumentFramer, chunks: AsyncIterable[bytes], shard_bytes: int) -> Beginning | None:
    """Read a document up to its first assets; None if they do not stand in one array, or begin too late."""
    read, step = 0, min(_STEP_BYTES, shard_bytes // 4 + 1)
    async for chunk in chunks:
        for start in range(0, len(chunk), step):
            framer.feed(chunk[start : start + step])
            if (seam := framer.seam) is not None:
                return Beginning(Dress(*seam), framer.position)
            if framer.problem is not None or framer.closed:
                return None
        read += len(chunk)
        if read > _ENVELOPE_BYTES:
            return None
    return None


class DocumentCuts:
    """The places where a document is cut."""

    def __init__(
        self, file: RandomAccess, layout: Layout, begun: Beginning, shard_bytes: int, max_record_bytes: int
    ) -> None:
        self._file = file
        self._layout = layout
        self._begun = begun
        self._shard_bytes = shard_bytes
        self._trial_bytes = min(_TRIAL_BYTES, shard_bytes)
        self._max_record_bytes = max_record_bytes

    async def starts(self) -> AsyncIterator[int]:
        """Where pieces begin, each behind the brace that ends an element, but for the first piece."""
        target = self._shard_bytes
        while target < self._file.size:
            start = await self._start_from(max(target, self._begun.offset))
            if start is not None:
                yield start
            target = max(target + self._shard_bytes, start or 0)

    async def _start_from(self, target: int) -> int | None:
        """The first good place from a byte on; None if there is none near it."""
        between = self._begun.dress.seam
        position, trials = target, 0
        end = min(target + min(_SEARCHED_BYTES, self._shard_bytes), self._file.size)
        while position < end and trials < _TRIALS:
            window = await self._window(position)
            found = window.find(between, 0, self._trial_bytes + len(between))
            if found < 0:
                position += self._trial_bytes
                continue
            trials += 1
            start = position + found + 1
            left_at = self._try(start, window[found + 1 :], at_end=position + len(window) >= self._file.size)
            if left_at is None:
                return start
            position = max(start, left_at)
        return None

    async def _window(self, position: int) -> bytes:
        """The bytes from a position on: those searched, and those behind them to try a place there."""
        window, count = b"", 2 * self._trial_bytes + len(self._begun.dress.seam)
        while len(window) < count and (piece := await self._file.read(position + len(window), count - len(window))):
            window += piece
        return window

    def _try(self, start: int, data: bytes, *, at_end: bool) -> int | None:
        """None if this looks like the beginning of a piece, else where it ceases to look so."""
        framer = PieceFramer(
            self._layout,
            self._begun.dress,
            offset=start,
            line=1,
            is_first=False,
            is_last=at_end,
            max_record_bytes=self._max_record_bytes,
        )
        framer.feed(data)
        if at_end:
            framer.finish()
        if framer.problem is None and (at_end or not framer.has_left):
            return None
        return max(framer.position, framer.problem.offset if framer.problem else 0)
