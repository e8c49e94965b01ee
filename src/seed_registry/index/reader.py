"""Reading an index: opening, detecting, framing and decoding, put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import anyio.lowlevel
import msgspec
from msgspec.structs import replace

from seed_registry.checkpoint import FileState
from seed_registry.errors import IndexBroken, IndexNotUnderstood, SeedRegistryError
from seed_registry.index.byte_stream import OpenIndex, open_index
from seed_registry.index.declared_totals import Pages
from seed_registry.index.decoder import Decoder
from seed_registry.index.dialects import ARRAYS, choose, layout_of, looks_like_record, see_that_domain_fits
from seed_registry.index.inputs import IndexRef
from seed_registry.index.json_document import DocumentFramer
from seed_registry.index.json_envelope import Broken, Layout, Problem, error_position, error_text
from seed_registry.index.ndjson import LineFramer
from seed_registry.index.server_errors import portal_error_text
from seed_registry.index.sniff import sniff
from seed_registry.index.unread_arrays import UnreadArrays
from seed_registry.records import Asset, Piece, RawBlock, RawRecord, Record, Reject, raw_records
from seed_registry.report import Stages
from seed_registry.settings import Settings
from seed_registry.shortfall import Total

# Some hundred records: decoding them whole holds the event loop for a millisecond or two.
PIECE_BYTES = 256 << 10
# Rejects that may be envelopes of records, taken for one.
_NO_RECORD = ("no_key", "no_type")


class IndexReader:
    """One index, read once.

    Attributes:
        index: where it is read from, and its names.
        name: what messages call the index.
        size: bytes of the file on disk, None for a pipe.
        dialect: detected, or as the settings say.
        shape: what the beginning looks like.
        provider: of the sources that are created: what the settings say, else the dialect.
        is_strict: whether every record is checked here, or only what Postgres does not check.
        defers_texts: whether texts and dates of ordinary assets may be left for later; not where it `is_strict`.
        most_are_held: whether they are, for the registry has most of the assets already.
    """

    def __init__(self, opened: OpenIndex, settings: Settings, salt: str, stages: Stages) -> None:
        self.index = opened.index
        self.name = opened.name
        self.size = opened.size
        self.dialect, self.shape = choose(sniff(opened.head, opened.name), settings, opened.name)
        see_that_domain_fits(self.dialect, settings, opened.name)
        self._opened = opened
        self._stages = stages
        self._kept = "nothing was written" if settings.dry_run else "what came before is committed"
        self.provider = settings.provider or self.dialect.provider
        self._decoder = Decoder(
            self.dialect,
            domain=settings.domain or "",
            provider=self.provider,
            header_complete=self.shape.lines,
            salt=salt,
            language=settings.language,
            is_lines=self.shape.lines,
        )
        self.is_strict = True
        self.defers_texts = self.most_are_held = False
        self._framer: LineFramer | DocumentFramer
        self._pages = Pages(self.dialect)
        self._unread = UnreadArrays(looks_like_record)
        limit, offset = settings.max_record_bytes, opened.head_offset
        if self.shape.lines:
            self._framer = LineFramer(max_record_bytes=limit, offset=offset)
        else:
            layout = layout_of(self.dialect, self.shape, settings)
            self._framer = DocumentFramer(
                layout,
                max_record_bytes=limit,
                offset=offset,
                is_record=looks_like_record,
                decode=self._decode_elements,
            )

    @property
    def position(self) -> int:
        """Bytes of the file on disk consumed so far."""
        return self._opened.position

    @property
    def file_state(self) -> FileState | None:
        """The file as it is read, None where it could not be recognised later."""
        return self._opened.file_state

    @property
    def sources_complete(self) -> bool:
        """Whether no further source can come: the document lists sources, and only its assets are still to be read."""
        return isinstance(self._framer, DocumentFramer) and list(self._framer.counts)[-2:] == [
            ("sources",),
            ("assets",),
        ]

    async def records(self) -> AsyncIterator[list[Record]]:
        """The records of each chunk, decoded.

        Raises:
            IndexBroken: the document is cut off or malformed; what came before was returned.
            IndexUnreadable: reading fails.
            IndexNotUnderstood: there is no array of records in the document.
        """
        chunks = self._opened.chunks()
        while True:
            with self._stages.timed("reading"):
                chunk = await anext(chunks, None)
            if chunk is None:
                break
            size = len(chunk) if self.defers_texts and self.most_are_held else PIECE_BYTES
            for start in range(0, len(chunk), size):
                for records in self._framed(partial(self._framer.feed, chunk[start : start + size])):
                    yield records
                await anyio.lowlevel.checkpoint()  # for the sessions, which have something to send or to answer
        for records in self._framed(self._framer.finish, at_end=True):
            yield records

    def declared(self) -> Iterable[tuple[str, int, int]]:
        """Header fields that declare a number of records: name, what they say, how many records there were."""
        return self._pages.declared()

    def totals(self) -> list[Total]:
        """How many records the portal has, as the headers say, and how many of them are in this index."""
        return self._pages.totals()

    def total(self) -> int | None:
        """How many records the portal has, as the header says that was read last."""
        return None if isinstance(self._framer, LineFramer) else self._pages.total(self._framer.header)

    def found(self) -> list[str]:
        """Where there were records, as paths of the dialect."""
        counts = {} if isinstance(self._framer, LineFramer) else self._framer.counts
        return [".".join(path) or "the document itself" for path, count in counts.items() if count]

    def unread(self) -> dict[str, int]:
        """How many records seem to stand in arrays that are not read, by the place of the array."""
        of_document = {} if isinstance(self._framer, LineFramer) else self._framer.unread.counts
        return dict(Counter(of_document) + Counter(self._unread.counts))

    def former_key(self, asset: Asset) -> str | None:
        """The key that an earlier version of the dialect gave this asset's record; None where none was another."""
        return self._decoder.former_key(asset)

    def decode(self, record: RawRecord) -> Record | None:
        """Decode a record once more, with all that is known by now; None if it only looks like one."""
        if (portal := self._pages.portal_at(record.offset)) is not None:
            self._decoder.portal = replace(self._decoder.portal, header=portal)
        return self._decoder.decode(record)

    def _framed(self, step: Callable[[], list[Piece]], *, at_end: bool = False) -> Iterator[list[Record]]:
        """The records that a step of the framer brings, those of each page for themselves."""
        while True:
            with self._stages.timed("decoding"):
                records, problem = self._decoded(step(), at_end=at_end)
            yield records
            if problem:
                raise problem
            if isinstance(self._framer, LineFramer) or not self._framer.pending:
                return
            step = self._framer.finish if at_end else partial(self._framer.feed, b"")

    def _decoded(self, pieces: list[Piece], *, at_end: bool = False) -> tuple[list[Record], SeedRegistryError | None]:
        """The records, and what is wrong with the document after them."""
        framer = self._framer
        if isinstance(framer, LineFramer):
            return self._records(pieces), None
        self._take_header(framer)
        records = self._records(pieces)
        last = records[-1] if records else None
        if type(last) is Reject and last.reason == "not_json":
            error = ValueError(last.detail)
            problem = Problem(error_text(error), last.offset + error_position(error))
            return records[:-1], self._broken(problem)
        try:
            waits = not self._decoder.header_complete
            self._pages.note(framer, self._decoder.portal.header, records, waits=waits)
        except Broken as broken:
            return records, self._broken(broken.problem)
        if framer.problem:
            return records, self._broken(framer.problem)
        if at_end and not framer.pending and not framer.has_found:
            return records, self._nothing_found(framer)
        return records, None

    def _decode_elements(self, data: list[bytes]) -> tuple[list[Any], list[int]]:
        """Ordinary assets of a document, which are cut out of it by decoding them."""
        if self.is_strict:
            return [], list(range(len(data)))
        return self._decoder.decode_wires(data, keys_only=self.defers_texts and self.most_are_held)

    def _records(self, pieces: list[Piece]) -> list[Record]:
        """The records; of a document up to the first that is not JSON, for the document is none then."""
        records: list[Record] = []
        for piece in pieces:
            if self.is_strict or type(piece) is RawRecord:
                goes_on = all(self._decode_one(raw, records) for raw in piece)
            else:
                assert type(piece) is RawBlock
                goes_on = self._decode_block(piece, records)
            if not goes_on:
                break
        return records

    def _decode_block(self, block: RawBlock, records: list[Record]) -> bool:
        """Add the records of a block, most of them by columns; whether to go on behind it."""
        assets, others = self._decoder.decode_ordinary(block, keys_only=self.defers_texts and self.most_are_held)
        if not others:
            records += assets
            return True
        start = 0  # of the ordinary assets that come next
        for number, position in enumerate(others):
            end = position - number
            records += assets[start:end]
            start = end
            if not self._decode_one(block.at(position), records):
                return False
        records += assets[start:]
        return True

    def _decode_one(self, raw: RawRecord, records: list[Record]) -> bool:
        """Add what a record is, and what it holds; whether to go on behind it."""
        record = self._decoder.decode(raw)
        if record is None:
            return True
        records.append(record)
        if type(record) is Reject:
            if record.reason == "not_json" and isinstance(self._framer, DocumentFramer):
                return False
            if record.reason in _NO_RECORD:
                self._look_into(raw)
        inner = self.dialect.inner
        if inner is not None and inner[0] in raw.data and not raw.excess:
            records += self._inner_records(raw, inner[1])
        return True

    def _inner_records(self, raw: RawRecord, layout: Layout) -> Iterator[Record]:
        """The records that a record holds: each is one of its own."""
        framer = DocumentFramer(layout, max_record_bytes=len(raw.data), offset=raw.offset, line=raw.line)
        for one in raw_records(framer.feed(raw.data)):
            if (record := self._decoder.decode(one)) is not None:
                yield record

    def _look_into(self, raw: RawRecord) -> None:
        """See whether what is no record is an envelope of some."""
        with suppress(ValueError, RecursionError):
            self._unread.look_for(ARRAYS, msgspec.json.decode(raw.data))

    def _take_header(self, framer: DocumentFramer) -> None:
        portal = self.dialect.portal(framer.header)
        if portal != self._decoder.portal.header:
            self._decoder.portal = replace(self._decoder.portal, header=portal)
        # a document that is an array has no header
        self._decoder.header_complete = framer.closed or () in framer.counts

    def _nothing_found(self, framer: DocumentFramer) -> IndexNotUnderstood:
        wanted = " or ".join(".".join(path) or "the document itself" for path in framer.layout.arrays)
        words = portal_error_text(framer.header)
        answer = f'; the portal\'s server says "{words}"' if words else ""
        return IndexNotUnderstood(
            f"{self.name} has no array of records at {wanted}{answer}: name its path with --records-at"
        )

    def _broken(self, problem: Problem) -> IndexBroken:
        return IndexBroken(
            f"{self.name} is broken at byte {problem.offset}: {problem.message}\n"
            f"mend or fetch the file and load it again; {self._kept}",
            offset=problem.offset,
        )


@asynccontextmanager
async def read_index(
    index: IndexRef,
    settings: Settings,
    *,
    salt: str = "",
    stages: Stages | None = None,
) -> AsyncIterator[IndexReader]:
    """Open and detect an index.

    Args:
        index: where it is read from.
        settings: of the load.
        salt: goes into every content hash: what, besides the record's bytes, decides what is written.
        stages: where the time spent is noted.

    Raises:
        IndexUnreadable: its bytes cannot be had.
        IndexNotUnderstood: it is no index that any dialect knows.
        SettingsInvalid: `--domain` cannot be used with it.
    """
    async with open_index(index, max_unpacked_bytes=settings.max_unpacked_bytes, headers=settings.headers) as opened:
        yield IndexReader(opened, settings, salt, stages or Stages())
