"""Open an index and put its reader together, as its first bytes and the settings say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from seed_registry.index.byte_stream import open_index
from seed_registry.index.inputs import IndexRef
from seed_registry.index.reader import IndexReader
from seed_registry.index.record_format import RecordFormat
from seed_registry.report import Stages
from seed_registry.settings import Settings


@asynccontextmanager
async def read_index(
    index: IndexRef, settings: Settings, *, salt: str = "", stages: Stages | None = None
) -> AsyncIterator[IndexReader]:
    """Open an index, and find out its dialect.

    Args:
        index: where it is read from.
        settings: of the load.
        salt: goes into every content hash: it stands for what decides, besides a record's bytes, what is written.
        stages: receives the time that reading and decoding take.

    Raises:
        IndexUnreadable: its bytes cannot be read.
        IndexNotUnderstood: no dialect fits it.
        SettingsInvalid: `--domain` cannot be used with it.
    """
    async with open_index(index, max_unpacked_bytes=settings.max_unpacked_bytes, headers=settings.headers) as opened:
        found = RecordFormat(opened, settings, salt)
        framer = found.framer(opened.head_offset)
        yield IndexReader(
            opened,
            found.shape,
            found.pieces,
            framer,
            stages or Stages(),
            hosts=found.hosts,
            committed=committed_before(settings),
        )


def committed_before(settings: Settings) -> str:
    """What the message about a broken document says about the records before the break."""
    return "nothing was written" if settings.dry_run else "what came before is committed"
