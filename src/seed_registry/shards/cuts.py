"""Cuts the indexes of a run into shards of a size that suits its workers."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import anyio

from seed_registry.index.inputs import IndexRef
from seed_registry.index.shard_plan import cut
from seed_registry.index.shards import UNKNOWN, Cut
from seed_registry.report import Progress
from seed_registry.settings import Settings

# An index that is too small for this many shards of the wished size a worker is cut into smaller ones, not below that.
SHARDS_A_WORKER: Final = 4
_LEAST_SHARD_BYTES: Final = 16 << 20


async def can_be_read_twice(index: IndexRef) -> bool:
    """Whether an index is no pipe and not standard input, which give each byte once."""
    if index.kind == "file":
        path = anyio.Path(index.path)
        return await path.is_file() or not await path.exists()
    return index.kind != "stdin"


async def cut_index(index: IndexRef, settings: Settings, progress: Progress, processes: int) -> tuple[Cut, bool]:
    """Cut an index for this many workers, and tell what came of it.

    Returns:
        The shards, and whether the user was told that the index cannot be split.

    Raises:
        SeedRegistryError: as `cut` does.
    """
    tell = progress.tell
    wished = settings.shard_bytes
    size = 0
    if index.kind == "file":
        with suppress(OSError):  # `cut` says so
            size = (await anyio.Path(index.path).stat()).st_size
        least = min(_LEAST_SHARD_BYTES, wished)
        wished = max(min(wished, size // (SHARDS_A_WORKER * processes)), least)
    one = await cut(index, settings, wished)
    if len(one.shards) > 1:
        tell("info", "shards_planned", index=index.report_name, shards=len(one.shards), bytes=one.size)
    is_unsplittable = len(one.shards) == 1 and (one.size > wished or one.size == UNKNOWN)
    if is_unsplittable:
        tell("warning", "not_splittable", index=index.report_name, reason=one.reason, note=one.fix or "")
    return one, is_unsplittable
