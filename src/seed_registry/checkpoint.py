"""Checkpoints: how far the assets of an index are committed, from which a resumed run continues.

The hash of its key assigns an asset to a lane, one for each worker; lanes advance independently. A checkpoint makes
counts exact and resolves a COMMIT whose answer was lost. It does not prove that rows exist: a resumed run looks up each
of them, for the tables may have been emptied meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

# The lane of the checkpoint of a completely loaded index.
INDEX_COMPLETE: Final = -1
# In place of the number of lanes, in checkpoints without a position: of batches of sources, and of parts of batches.
SOURCE_BATCH, PARTIAL_BATCH = 0, -1

_next_batch = count(1).__next__


class FileState(Struct, frozen=True):
    """A file as it was when it was read.

    Attributes:
        size, modified: bytes, and nanoseconds since 1970.
        consumed, digest: bytes read of it, not unpacked, and their xxh3-128.
    """

    size: int
    modified: int
    consumed: int
    digest: bytes


class Checkpoint(Struct, frozen=True):
    """Every asset of a lane up to the one that begins at `offset` is committed, or has another outcome.

    Attributes:
        index: its name in the ledger.
        lane, lanes: its number, and the number of lanes.
        line, offset: location of the last asset; an offset of -1 is no position.
        assets: number of assets of the whole index up to that location.
        file: the file, as far as it was read by then.
        batch: unique in this process, ascending.
        part: of a part of a batch, up to the last asset of that part: unique in this process, ascending, too.
    """

    index: str
    lane: int
    lanes: int
    line: int
    offset: int
    assets: int
    file: FileState
    batch: int = field(default_factory=_next_batch)
    part: int = 0

    @property
    def is_part(self) -> bool:
        """Whether it is of a part of a batch."""
        return self.part > 0

    def of_part(self, line: int, offset: int) -> Checkpoint:
        """The checkpoint of a part of the batch whose last asset is at this place."""
        if self.offset < 0:
            line, offset = self.line, self.offset
        return replace(self, line=line, offset=offset, part=_next_batch())


def without_position(index: str, lane: int, lanes: int) -> Checkpoint:
    """A checkpoint that only identifies a batch, to look up whether its COMMIT succeeded."""
    return Checkpoint(index, lane, lanes, 0, -1, 0, FileState(0, 0, 0, b""))


class ResumePoint(Struct, frozen=True):
    """Where a resumed run continues in an index.

    Attributes:
        offsets: last committed offset of each lane, -1 for none; one list for each number of lanes used so far.
        assets: number of assets of the index up to the offset that all lanes have reached.
    """

    offsets: list[list[int]]
    assets: int = 0

    @classmethod
    def of(cls, checkpoints: Iterable[Checkpoint]) -> ResumePoint:
        """From the checkpoints of one index; those of another number of lanes stay valid."""
        by_lanes: dict[tuple[int, bool], dict[int, Checkpoint]] = {}
        for checkpoint in checkpoints:
            if checkpoint.offset >= 0:
                is_whole = checkpoint.lane == INDEX_COMPLETE
                by_lanes.setdefault((checkpoint.lanes, is_whole), {})[0 if is_whole else checkpoint.lane] = checkpoint
        offsets = [
            [of[lane].offset if lane in of else -1 for lane in range(lanes)] for (lanes, _), of in by_lanes.items()
        ]
        complete = [
            min(checkpoint.assets for checkpoint in of.values())
            for (lanes, _), of in by_lanes.items()
            if len(of) == lanes
        ]
        return cls(offsets, max(complete, default=0))

    @property
    def end(self) -> int:
        """The last committed offset of any lane."""
        return max((offset for lanes in self.offsets for offset in lanes), default=-1)

    def has(self, offset: int, key_hash: int) -> bool:
        """Whether the asset with this key hash at this offset was committed."""
        return any(offset <= lanes[key_hash % len(lanes)] for lanes in self.offsets)
