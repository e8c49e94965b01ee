"""Shows how far a run by shards is: the state of its shards becomes the tally that displays, logs and metrics read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from seed_registry.report import Counts, Tally, WorkerProgress

if TYPE_CHECKING:
    from seed_registry.ledger.shards import ShardProgress

# The steps of a run, as people see them.
SCANNING: Final = "scanning"
COMPARING: Final = "comparing keys"
LOADING: Final = "loading"
SETTLING: Final = "settling"


class _Counts(Counts):
    position: int = 0


def take_progress(tally: Tally, rows: Sequence[ShardProgress]) -> None:
    """Take the state of all shards of the run; bytes are those of the tally's step, for a load reads them twice."""
    found = [msgspec.json.decode(row.counts, type=_Counts) if row.counts else _Counts() for row in rows]
    for name in Counts.__struct_fields__:
        setattr(tally.assets, name, sum(getattr(one, name) for one in found))
    states = Counter(row.state for row in rows)
    scanned = states["scanned"] + states["loaded"]
    tally.shards = {"planned": len(rows), "scanned": scanned, "loaded": states["loaded"]}
    tally.index_bytes = sum(row.last - row.first for row in rows)
    if tally.step == SCANNING:
        tally.index_position = sum(row.last - row.first for row in rows if row.state != "planned")
    else:
        tally.index_position = sum(
            min(one.position, row.last - row.first) for row, one in zip(rows, found, strict=True)
        )
        tally.bytes_read = tally.index_position
    tally.worker_progress = sorted(
        (
            WorkerProgress(row.worker or "", row.name, row.number, one.position, row.last - row.first, one.read)
            for row, one in zip(rows, found, strict=True)
            if row.is_at_work
        ),
        key=lambda one: one.worker,
    )
