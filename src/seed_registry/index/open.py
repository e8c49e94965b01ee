"""Open an index and put its reader together, as its first bytes and the settings say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from seed_registry.index.byte_stream import open_index
from seed_registry.index.decoder import Decoder
from seed_registry.index.dialects import ARRAYS, choose, layout_of, looks_like_record, require_domain
from seed_registry.index.inputs import IndexRef
from seed_registry.index.json_document import DocumentFramer
from seed_registry.index.ndjson import LineFramer
from seed_registry.index.piece_decoder import PieceDecoder
from seed_registry.index.reader import IndexReader
from seed_registry.index.sniff import sniff
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
        dialect, shape = choose(sniff(opened.head, opened.name), settings, opened.name)
        require_domain(dialect, settings, opened.name)
        decoder = Decoder(
            dialect,
            domain=settings.domain or "",
            provider=settings.provider,
            header_complete=shape.lines,
            salt=salt,
            language=settings.language,
            is_lines=shape.lines,
        )
        pieces = PieceDecoder(decoder, looks_like_record, ARRAYS, is_document=not shape.lines)
        limit, offset = settings.max_record_bytes, opened.head_offset
        framer: LineFramer | DocumentFramer = LineFramer(max_record_bytes=limit, offset=offset)
        if not shape.lines:
            framer = DocumentFramer(
                layout_of(dialect, shape, settings),
                max_record_bytes=limit,
                offset=offset,
                is_record=looks_like_record,
                decode=pieces.decode_elements,
            )
        committed = "nothing was written" if settings.dry_run else "what came before is committed"
        yield IndexReader(opened, shape, pieces, framer, stages or Stages(), committed=committed)
