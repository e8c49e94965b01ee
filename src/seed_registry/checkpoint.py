"""Checkpoints: how far the assets of an index are committed, saved with each batch.

Assets travel in lanes, one for each worker, by the hash of their key; the lanes are not equally far at any moment. A
checkpoint gives exact counts and shows whether a COMMIT without an answer was done. It proves nothing about the rows,
for the tables may have been emptied meanwhile: a resumed run looks for each of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Final

from msgspec import Struct, field

# The lane of the checkpoint of an index that is loaded.
INDEX_COMPLETE: Final = -1
# Instead of the number of lanes: checkpoints of batches of sources, and of parts of batches. They have no position.
SOURCE_BATCH, PARTIAL_BATCH = 0, -1

_next_batch = count(1).__next__


class FileState(Struct, frozen=True):
    """A file as it was read.

    Attributes:
        size, modified: bytes, and nanoseconds since 1970.
        consumed, digest: bytes read of it, as it lies on disk, and their xxh3-128.
    """

    size: int
    modified: int
    consumed: int
    digest: bytes


class Checkpoint(Struct, frozen=True):
    """Every asset of a lane up to the one that begins at `offset` is committed, or has another outcome.

    Attributes:
        index: its path, absolute.
        lane, lanes: which one, of how many.
        line, offset: where the last asset begins, as in its record; an offset of -1 is no position.
        assets: how many assets of the whole index begin no later.
        file: as much of the file as was read by then.
        batch: distinguishes it from all others of this process; later ones have greater numbers.
    """

    index: str
    lane: int
    lanes: int
    line: int
    offset: int
    assets: int
    file: FileState
    batch: int = field(default_factory=_next_batch)


def without_position(index: str, lane: int, lanes: int) -> Checkpoint:
    """A checkpoint that only distinguishes a batch from those before it, for looking up whether it was committed."""
    return Checkpoint(index, lane, lanes, 0, -1, 0, FileState(0, 0, 0, b""))


class ResumePoint(Struct, frozen=True):
    """How far the run that is resumed came with an index.

    Attributes:
        offsets: up to where each lane was committed, -1 where nothing was; once for each number of lanes.
        assets: how many assets of the index begin no later than where all lanes were.
    """

    offsets: list[list[int]]
    assets: int = 0

    @classmethod
    def of(cls, checkpoints: Iterable[Checkpoint]) -> ResumePoint:
        """From the checkpoints of one index; attempts with different numbers of lanes complement each other."""
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
        """No asset that begins after this offset was committed."""
        return max((offset for lanes in self.offsets for offset in lanes), default=-1)

    def has(self, offset: int, key_hash: int) -> bool:
        """Whether the asset with this key that begins there was committed."""
        return any(offset <= lanes[key_hash % len(lanes)] for lanes in self.offsets)
