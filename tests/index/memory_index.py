"""Read an index from memory, so that a test can read thousands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

from msgspec import Struct

from seed_registry.checkpoint import FileState
from seed_registry.errors import IndexBroken, IndexNotUnderstood
from seed_registry.index.inputs import IndexRef
from seed_registry.index.reader import IndexReader
from seed_registry.index.record_format import RecordFormat
from seed_registry.index.sniff import MAX_BYTES
from seed_registry.records import Asset, RawRecord, Record, checked
from seed_registry.report import Stages
from seed_registry.settings import Settings


class MemoryIndex:
    """The bytes of an index, which come in chunks."""

    index = IndexRef.of("x.json")
    name = "x.json"
    file_state: FileState | None = None

    def __init__(self, data: bytes, chunk_bytes: int) -> None:
        self.head = data[:MAX_BYTES]
        self.size = self.position = len(data)
        self._chunks = [data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes)]

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes."""
        for chunk in self._chunks:
            yield chunk


class Reading(Struct):
    """What came of reading an index, as a load ends with it.

    Attributes:
        records: of which none waits for a header any more.
        error: the one that ended it.
        unread: how many elements elsewhere look like records.
        reader: None if no dialect was found.
    """

    records: list[Record]
    error: IndexBroken | IndexNotUnderstood | None = None
    unread: int = 0
    reader: IndexReader | None = None

    @property
    def assets(self) -> list[Asset]:
        """The assets among them."""
        return [record for record in self.records if isinstance(record, Asset)]


async def read(data: bytes, settings: Settings, *, is_strict: bool = True, chunk_bytes: int = 64 << 10) -> Reading:
    """Read an index; other errors than those of an index are raised.

    Args:
        data: its bytes.
        settings: of the load.
        is_strict: as in `Checks`; if not, what is left to Postgres is checked afterwards.
        chunk_bytes: how many bytes come at a time.
    """
    opened, reading = MemoryIndex(data, chunk_bytes), Reading([])
    try:
        found = RecordFormat(cast("Any", opened), settings)
        reader = reading.reader = IndexReader(opened, found.shape, found.pieces, found.framer(0), Stages())
        reader.checks.is_strict = is_strict
        async for records in reader.records():
            reading.records += records
    except (IndexBroken, IndexNotUnderstood) as exc:
        reading.error = exc
    if reading.reader is not None:
        reading.records = [_settled(record, reading.reader) for record in reading.records]
        reading.unread = sum(reading.reader.unread().values())
    return reading


def _settled(record: Record, reader: IndexReader) -> Any:
    """A record once the whole header and all checks are there."""
    if isinstance(record, Asset) and not record.source_key:
        raw = record.raw if record.repaired is None else record.repaired
        return reader.decode(RawRecord(raw, record.line, record.offset, "asset"))
    return checked(record) if isinstance(record, Asset) else record
