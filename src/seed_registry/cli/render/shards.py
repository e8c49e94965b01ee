"""Draw the shards of a run by several processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from seed_registry.cli.render.console import print_rows, unbroken
from seed_registry.ledger.shards import ShardProgress
from seed_registry.report import AssetCounts, ShardReport
from seed_registry.words import counted, size

# What is listed of more than so many shards: the first ones, and those that are not loaded.
_MOST_LISTED: Final = 20
_NUMBERS: Final = {"shard", "bytes", "size", "attempts", "read", "inserted", "rejected", "s"}
_COLUMNS: Final = ("index", "shard", "from byte", "size", "state", "attempts", "worker", "read", "inserted", "rejected")
# What fits 80 columns.
_FEWER_COLUMNS: Final = ("index", "shard", "size", "state", "attempts", "worker", "read")
_WIDE: Final = 110


class ShardEntry(Struct, frozen=True):
    """A shard as `runs RUN --json` prints it.

    Attributes:
        first, last: bytes of the file.
        state: planned, scanned (its keys are known), loading or loaded.
        worker: the host and the process that loaded it, or tried last.
        assets: the counts so far; those whose keys occur more than once are counted at the end of the run.
    """

    index: str
    number: int
    first: int
    last: int
    state: str
    attempts: int
    worker: str | None
    assets: AssetCounts


def entries_of_ledger(shards: Iterable[ShardProgress]) -> list[ShardEntry]:
    """The shards of a run that is not done."""
    return [
        ShardEntry(
            one.name,
            one.number,
            one.first,
            one.last,
            "loading" if one.is_at_work else one.state,
            one.attempt,
            one.worker,
            msgspec.json.decode(one.counts or "{}", type=AssetCounts),
        )
        for one in shards
    ]


def entries_of_report(shards: Iterable[ShardReport]) -> list[ShardEntry]:
    """The shards of a run that is done."""
    return [
        ShardEntry(one.index, one.number, one.first, one.last, "loaded", one.attempts, one.worker, one.assets)
        for one in shards
    ]


def print_shards(shards: Sequence[ShardEntry]) -> None:
    """Print the shards as a table: of many the first ones, and those that are not loaded."""
    if not shards:
        return
    loaded = sum(one.state == "loaded" for one in shards)
    title = f"{counted(len(shards), 'shard')}, {loaded:,} loaded"
    listed = list(shards)
    if len(shards) > _MOST_LISTED:
        half = _MOST_LISTED // 2
        unloaded = [one for one in shards[half:] if one.state != "loaded"]
        listed = [*shards[:half], *unloaded[:half]]
    has_one_index = len({one.index for one in shards}) == 1
    columns = (_COLUMNS if unbroken().width >= _WIDE else _FEWER_COLUMNS)[has_one_index:]
    rows = [[row[name] for name in columns] for row in map(_row, listed)]
    print_rows(title, columns, rows, numbers=_NUMBERS)
    if left := len(shards) - len(listed):
        unbroken().print(f"and {left:,} more; --json has all")


def _row(one: ShardEntry) -> dict[str, str]:
    return {
        "index": one.index.rpartition("/")[2],
        "shard": f"{one.number:,}",
        "from byte": f"{one.first:,}",
        "size": size(one.last - one.first),
        "state": one.state,
        "attempts": f"{one.attempts:,}",
        "worker": one.worker or "",
        "read": f"{one.assets.read:,}",
        "inserted": f"{one.assets.inserted:,}",
        "rejected": f"{one.assets.rejected:,}",
    }
