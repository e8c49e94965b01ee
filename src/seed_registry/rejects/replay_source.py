"""Read a rejects file as an index: each line is the record as it was, under the location that it had at first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec.structs import replace

from seed_registry.index.byte_stream import open_index
from seed_registry.index.decoder import Decoder
from seed_registry.index.dialects import ARRAYS, Dialect, looks_like_record
from seed_registry.index.ndjson import EXCERPT_BYTES, LineFramer
from seed_registry.index.piece_decoder import PieceDecoder
from seed_registry.index.reader import IndexReader
from seed_registry.index.shape import Shape
from seed_registry.records import RawRecord, Record, Reject
from seed_registry.rejects.reader import RejectsIndex, dialect_of, longest_line, parse
from seed_registry.rejects.writer import RejectsFile
from seed_registry.report import Stages
from seed_registry.settings import Settings


class _LineDecoder(Decoder):
    """Decodes the records of lines, each with the location of its line."""

    def __init__(self, dialect: Dialect, settings: Settings, salt: str) -> None:
        super().__init__(
            dialect, domain=settings.domain or "", provider=settings.provider, salt=salt, language=settings.language
        )
        self._has_sources = dialect.source is not None
        self._ordinary = None  # the record is a string in the line
        self._max = settings.max_record_bytes

    def decode(self, record: RawRecord) -> Record | None:
        """Decode the record in a line; a line that cannot be parsed is rejected as it is."""
        line = None if record.excess else parse(record.data)
        if line is None:
            detail = "is no line of a rejects file, or one that was cut off"
            return Reject("not_json", detail, record.data[:EXCERPT_BYTES], record.line, record.offset)
        data, kind = line.data(), line.kind if line.kind == "source" and self._has_sources else ""
        if line.reason == "record_too_large" or len(data) > self._max:
            is_whole = line.reason != "record_too_large"
            detail = (
                f"{len(data):,} bytes long; raise --max-record-bytes to load it"
                if is_whole
                else "only its beginning is in the rejects file; load its index with a larger --max-record-bytes"
            )
            return Reject("record_too_large", detail, data, record.line, record.offset, kind or "asset", line.key)
        raw = RawRecord(data, record.line, record.offset, kind)
        decoded = super().decode(raw)
        if type(decoded) is Reject and decoded.reason == "no_type" and line.reason != "no_type":
            # Its place in its document made it an asset; a line of a source has its kind.
            return super().decode(replace(raw, kind="asset"))
        return decoded


@asynccontextmanager
async def read_rejects(
    origins: RejectsIndex, settings: Settings, *, salt: str = "", stages: Stages | None = None
) -> AsyncIterator[IndexReader]:
    """Open a rejects file as an index; locations are those of its lines, `RelocatedRejects` looks up the others.

    Args:
        origins: the file.
        settings: of the load.
        salt: as of `read_index`.
        stages: receives the time that reading and decoding take.

    Raises:
        IndexUnreadable: its bytes cannot be read.
        IndexNotUnderstood, SettingsInvalid: as `dialect_of` does.
    """
    async with open_index(origins.index) as opened:
        # The sources of these assets are in the registry or in an index, but rarely in this file.
        dialect = replace(dialect_of(origins, settings), lists_sources=False)
        pieces = PieceDecoder(_LineDecoder(dialect, settings, salt), looks_like_record, ARRAYS)
        longest = longest_line(settings.max_record_bytes)
        framer = LineFramer(max_record_bytes=longest, offset=opened.head_offset)
        yield IndexReader(opened, Shape(lines=True), pieces, framer, stages or Stages())


class RelocatedRejects(RejectsFile):
    """A rejects file of records that are rejected again, each with the location that it had at first."""

    def __init__(self, like: RejectsFile, origins: RejectsIndex) -> None:
        super().__init__(like.path, own_directory=like.own_directory)
        self._origins = origins

    def write(self, index: str, reject: Reject) -> None:
        """Append the line of a record, with the index and the location in its line of the file that is replayed.

        Raises:
            StorageFailed: the file cannot be made or written.
        """
        if line := self._origins.at(reject.offset):
            index, reject = line.index, replace(reject, line=line.line, offset=line.offset)
        super().write(index, reject)

    def forget(self, index: str) -> None:
        """Empty the file, for all its lines came from the one that is replayed, which has changed.

        Raises:
            StorageFailed: the file cannot be written.
        """
        del index
        self.clear()
