"""Read the records of an index: chunks of bytes through a framer and a decoder, with what the headers declare."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio.lowlevel
from msgspec.structs import replace

from seed_registry.checkpoint import FileState
from seed_registry.errors import IndexBroken, IndexNotUnderstood, SeedRegistryError
from seed_registry.index.byte_stream import IndexBytes
from seed_registry.index.declared_totals import Pages
from seed_registry.index.json_document import DocumentFramer
from seed_registry.index.json_envelope import Problem, error_position, error_text
from seed_registry.index.ndjson import LineFramer
from seed_registry.index.piece_decoder import PieceDecoder
from seed_registry.index.shape import Shape
from seed_registry.records import Asset, Piece, RawRecord, Record, Reject
from seed_registry.report import Stages
from seed_registry.shortfall import Total

if TYPE_CHECKING:
    from seed_registry.index.node_graph import NodeGraph

# Some hundred records: decoding them whole holds the event loop for a millisecond or two.
PIECE_BYTES = 256 << 10


class IndexReader:
    """One index, read once.

    Attributes:
        index: where it is read from, and its names.
        name: of the index, in messages.
        size: bytes of the file on disk, None for a pipe.
        dialect: of its records.
        provider: of the sources that are created.
        shape: that of its beginning.
        hosts: those that the first records name as their portal's, where they disagree.
        checks: how much is decoded and checked while reading.
    """

    def __init__(
        self,
        opened: IndexBytes,
        shape: Shape,
        pieces: PieceDecoder,
        framer: LineFramer | DocumentFramer,
        stages: Stages,
        *,
        hosts: Sequence[str] = (),
        committed: str = "what came before is committed",
    ) -> None:
        """Put a reader together.

        Args:
            opened: the bytes.
            shape: of their beginning.
            pieces: decodes what the framer finds.
            framer: finds the records.
            stages: receives the time that reading and decoding take.
            hosts: those that the first records name as their portal's, where they disagree.
            committed: what the message about a broken document says about the records before the break.
        """
        self.index = opened.index
        self.name = opened.name
        self.size = opened.size
        self.dialect = pieces.decoder.dialect
        self.provider = pieces.decoder.provider
        self.shape = shape
        self.hosts = hosts
        self.checks = pieces.checks
        self._opened = opened
        self._pieces = pieces
        self._decoder = pieces.decoder
        self._framer = framer
        self._document = framer if isinstance(framer, DocumentFramer) else None
        self._graph = pieces.graph
        if self._graph is not None:
            committed = "no record of the document was written, because its nodes belong together"
        self._header: Mapping[str, Any] = {}  # of the last graph
        self._pages = Pages(self.dialect)
        self._stages = stages
        self._committed = committed

    @property
    def position(self) -> int:
        """Bytes of the file on disk read so far."""
        return self._opened.position

    @property
    def file_state(self) -> FileState | None:
        """The file as far as it was read; None if it could not be recognised later."""
        return self._opened.file_state

    @property
    def sources_complete(self) -> bool:
        """Whether no further source can follow: the document lists sources, and the reader is at its assets."""
        return self._document is not None and list(self._document.counts)[-2:] == [("sources",), ("assets",)]

    async def records(self) -> AsyncIterator[list[Record]]:
        """Yield the records, decoded, as chunks arrive.

        Raises:
            IndexBroken: the document is cut off or malformed; the records before that were yielded.
            IndexUnreadable: reading fails.
            IndexNotUnderstood: there is no array of records in the document.
        """
        chunks = self._opened.chunks()
        try:
            while True:
                with self._stages.timed("reading"):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    break
                size = len(chunk) if self.checks.keys_only else PIECE_BYTES
                for start in range(0, len(chunk), size):
                    for records in self._framed(partial(self._framer.feed, chunk[start : start + size])):
                        yield records
                    await anyio.lowlevel.checkpoint()  # let the sessions send and receive
            for records in self._framed(self._framer.finish, at_end=True):
                yield records
        finally:
            if self._graph is not None:
                self._graph.close()

    def scan(self) -> list[str]:
        """Read on with the keys of ordinary assets only, which are added to the list returned; others are records."""
        self.checks.is_strict, self.checks.defers_texts, self.checks.most_are_stored = False, True, True
        keys = self._pieces.keys = []
        return keys

    def declared(self) -> Iterable[tuple[str, int, int]]:
        """Header fields that declare a number of records: name, declared, read."""
        return self._pages.declared()

    def totals(self) -> list[Total]:
        """The numbers of records that the portals have, from the headers, and the numbers read."""
        return self._pages.totals()

    def total(self) -> int | None:
        """The number of records that the portal has, from the last header."""
        if self._graph is not None:
            return self._pages.total(self._header)
        return self._pages.total(self._document.header) if self._document else None

    def found(self) -> list[str]:
        """The paths at which records were found."""
        counts = self._document.counts if self._document else {}
        return [".".join(path) or "the document itself" for path, count in counts.items() if count]

    def unread(self) -> dict[str, int]:
        """The number of elements that look like records in arrays that are not read, by the path of the array."""
        of_document = self._document.unread.counts if self._document else {}
        return dict(Counter(of_document) + Counter(self._pieces.unread.counts))

    def former_key(self, asset: Asset) -> str | None:
        """The key that an earlier version of the dialect gave this record; None if it is the same."""
        return self._decoder.former_key(asset)

    def unchecked_key(self, data: bytes) -> str | None:
        """The key of a record that is decoded without checks, by columns; None if it cannot be decoded so."""
        return self._decoder.unchecked_key(data)

    def decode(self, record: RawRecord) -> Record | None:
        """Decode a record again, with the header read meanwhile; None if it only looks like a record."""
        if (portal := self._pages.portal_at(record.offset)) is not None:
            self._decoder.portal = replace(self._decoder.portal, header=portal)
        return self._decoder.decode(record)

    def _framed(self, step: Callable[[], list[Piece]], *, at_end: bool = False) -> Iterator[list[Record]]:
        """Yield the records of a step of the framer, page by page."""
        while True:
            with self._stages.timed("decoding"):
                records, problem = self._decoded(step(), at_end=at_end)
            yield records
            if problem:
                raise problem
            if self._graph is not None and self._document is not None and self._document.closed:
                yield from self._joined(self._graph, self._document)
            if self._document is None or not self._document.pending:
                return
            step = self._framer.finish if at_end else partial(self._framer.feed, b"")

    def _joined(self, graph: NodeGraph, framer: DocumentFramer) -> Iterator[list[Record]]:
        """Yield the records of a graph that has ended."""
        if graph.number == framer.pages:
            return  # it was read before
        self._header = graph.header
        self._decoder.take_header(self.dialect.portal(graph.header), complete=True)
        records = graph.records()
        while True:
            with self._stages.timed("decoding"):
                batch = next(records, None)
            if batch is None:
                break
            yield batch
        portal = self._decoder.portal.name
        self._pages.note(framer, portal, [], waits=False, header=graph.header, count=graph.count)
        graph.end()

    def _decoded(self, pieces: list[Piece], *, at_end: bool = False) -> tuple[list[Record], SeedRegistryError | None]:
        """Return the records, and the error in the document behind them."""
        framer = self._document
        if framer is None:
            return self._pieces.decode(pieces), None
        records: list[Record] = []
        if self._graph is not None:
            last: Record | None = self._graph.take(pieces)
        else:
            self._take_header(framer)
            records = self._pieces.decode(pieces)
            last = records[-1] if records else None
        if type(last) is Reject and last.reason == "not_json":
            error = ValueError(last.detail)
            problem = Problem(error_text(error), last.offset + error_position(error))
            return records[:-1], self._broken(problem)
        if found := self._noted(framer, records) or framer.problem:
            return records, self._broken(found)
        if at_end and self._graph is not None and self._graph.is_other and framer.pages == 1:
            return records, IndexNotUnderstood(f"{self.name} has no node that is a record of {self.dialect.name}")
        if at_end and not framer.pending and not framer.has_found:
            hint = "name its path with --records-at"
            return records, IndexNotUnderstood(f"{self.name} has {framer.nothing_found}: {hint}")
        return records, None

    def _noted(self, framer: DocumentFramer, records: list[Record]) -> Problem | None:
        if self._graph is not None:
            return None  # it is noted at its end
        waits = not self._decoder.header_complete
        return self._pages.note(framer, self._decoder.portal.header, records, waits=waits)

    def _take_header(self, framer: DocumentFramer) -> None:
        # a document that is an array has no header
        complete = framer.closed or () in framer.counts
        self._decoder.take_header(self.dialect.portal(framer.header), complete=complete)

    def _broken(self, problem: Problem) -> IndexBroken:
        return IndexBroken(
            f"{self.name} is broken at byte {problem.offset}: {problem.message}\n"
            f"fix or fetch the file and load it again; {self._committed}",
            offset=problem.offset,
        )
