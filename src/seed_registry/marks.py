"""Marks: how far the assets of an index are committed, so that a run that ended early can go on from there.

Assets travel in lanes, one for each worker, by the hash of their key; the lanes are not equally far at any moment. An
asset is committed if its own lane has passed it, whatever the number of workers is by then.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic_ns

from msgspec import Struct

# The lane of the mark that says that all of an index is loaded.
WHOLE = -1
# From here down: the lane of a mark without a place.
UNPLACED = -2
# Instead of the number of lanes, of such marks: of batches of sources, and of parts of batches.
OF_SOURCES, OF_PARTS = 0, -1


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


class Mark(Struct, frozen=True):
    """Every asset of a lane up to the one that begins at `offset` is committed, or has another outcome.

    Attributes:
        index: its path, absolute.
        lane, lanes: which one, of how many.
        line, offset: where the last asset begins, as in its record.
        assets: how many assets of the whole index begin no later.
        file: as much of the file as was read by then.
    """

    index: str
    lane: int
    lanes: int
    line: int
    offset: int
    assets: int
    file: FileState


def unplaced(index: str, lane: int, lanes: int) -> Mark:
    """A mark that only tells a batch from those before it: what its COMMIT did may have to be looked up."""
    return Mark(index, UNPLACED - lane, lanes, 0, monotonic_ns(), 0, FileState(0, 0, 0, b""))


class Whole(Struct, frozen=True):
    """What the verification of a run that is resumed must know of an index that is loaded.

    Attributes:
        sources: the keys of those that it names, all of one `provider`.
        inserted: how many rows it brought.
        declared: header field, what it said, what was read.
    """

    provider: str
    sources: list[str]
    inserted: int
    declared: list[tuple[str, int, int]]


class Resumption(Struct, frozen=True):
    """Where an index is taken up again.

    Attributes:
        offsets: up to where each lane is committed, -1 where nothing is; once for each number of lanes that there was.
        line, offset, assets: up to where all lanes are: what begins no later need not even be decoded.
    """

    offsets: list[list[int]]
    line: int = 1
    offset: int = -1
    assets: int = 0

    @classmethod
    def of(cls, marks: Iterable[Mark]) -> Resumption:
        """From the marks of one index; what those of one number of lanes say is true beside what others say."""
        by_lanes: dict[int, dict[int, Mark]] = {}
        for mark in marks:
            by_lanes.setdefault(mark.lanes, {})[mark.lane] = mark
        offsets = [[of[lane].offset if lane in of else -1 for lane in range(lanes)] for lanes, of in by_lanes.items()]
        complete = [min(of.values(), key=_place) for lanes, of in by_lanes.items() if len(of) == lanes]
        if not complete:
            return cls(offsets)
        furthest = max(complete, key=_place)
        return cls(offsets, furthest.line, furthest.offset, furthest.assets)

    def has(self, offset: int, key_hash: int) -> bool:
        """Whether the asset with this key that begins there is committed."""
        return any(offset <= lanes[key_hash % len(lanes)] for lanes in self.offsets)


def _place(mark: Mark) -> int:
    return mark.offset
