"""Open a shard of an index, and put its reader together as that of the index would be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from seed_registry.index.byte_stream import open_index
from seed_registry.index.inputs import IndexRef
from seed_registry.index.open import committed_before
from seed_registry.index.record_format import RecordFormat
from seed_registry.index.shard_bytes import ShardBytes, open_from, require_same
from seed_registry.index.shard_reader import ShardReader
from seed_registry.index.shards import Shard
from seed_registry.report import Stages
from seed_registry.settings import Settings


@asynccontextmanager
async def read_shard(
    index: IndexRef,
    shard: Shard,
    settings: Settings,
    *,
    salt: str = "",
    line: int = 1,
    stages: Stages | None = None,
) -> AsyncIterator[ShardReader]:
    """Open a shard of an index; its dialect is that of the index.

    Args:
        index: where it is read from.
        shard: one that `cut` made, or of some that were joined.
        settings: of the load, the same for all shards.
        salt: goes into every content hash, as in `read_index`.
        line: the number of its first line: 1, and the `lines` of all shards before it.
        stages: receives the time that reading and decoding take.

    Raises:
        IndexUnreadable: its bytes cannot be read, or the file is not what was cut into shards.
        IndexNotUnderstood: no dialect fits the index.
        SettingsInvalid: `--domain` cannot be used with it.
    """
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(
            open_index(index, max_unpacked_bytes=settings.max_unpacked_bytes, headers=settings.headers)
        )
        require_same(index, shard, opened)
        found = RecordFormat(opened, settings, salt)
        if shard.is_first and (shard.is_last or not opened.is_packed):
            data = ShardBytes(shard, index, opened)
        else:
            await stack.aclose()
            is_packed, bom_bytes = opened.is_packed, opened.head_offset
            data = await stack.enter_async_context(
                open_from(index, shard, settings, is_packed=is_packed, bom_bytes=bom_bytes)
            )
        framer = found.framer(data.offset, line)
        if shard.dress:
            framer = found.piece_framer(shard.dress, data.offset, line, is_first=shard.is_first, is_last=shard.is_last)
        yield ShardReader(
            shard,
            data,
            found.shape,
            found.pieces,
            framer,
            stages or Stages(),
            line,
            committed=committed_before(settings),
        )
