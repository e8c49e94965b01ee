"""Reading an index: opening, detecting, framing and decoding, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from msgspec.structs import replace

from seed_registry.errors import IndexBroken, IndexNotUnderstood, SeedRegistryError
from seed_registry.index.decoding import Decoder
from seed_registry.index.detecting import look_at
from seed_registry.index.dialects import choose, see_that_domain_fits
from seed_registry.index.dialects.declaring import Dialect, Path
from seed_registry.index.documents import DocumentFramer
from seed_registry.index.envelope import error_position, error_text
from seed_registry.index.framing import LineFramer
from seed_registry.index.opening import OpenIndex, open_index
from seed_registry.marks import FileState
from seed_registry.records import RawRecord, Record, Reject
from seed_registry.report import Stages
from seed_registry.settings import Settings


class IndexReader:
    """One index, read once.

    Attributes:
        name: what messages call the index.
        size: bytes of the file on disk, None for a pipe.
        dialect: detected, or as the settings say.
        shape: what the beginning looks like.
        provider: of the sources that are created: what the settings say, else the dialect.
    """

    def __init__(self, opened: OpenIndex, settings: Settings, salt: str, stages: Stages) -> None:
        self.name = opened.name
        self.size = opened.size
        self.dialect, self.shape = choose(look_at(opened.head, opened.name), settings, opened.name)
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
        )
        self._framer: LineFramer | DocumentFramer
        # One record that is a document is read as an array of one.
        self._whole = settings.records_at is None and self.dialect.whole(self.shape)
        limit, offset = settings.max_record_bytes, opened.head_offset
        if self.shape.lines:
            self._framer = LineFramer(max_record_bytes=limit, offset=offset)
        else:
            arrays = _arrays(self.dialect, settings)
            self._framer = DocumentFramer(arrays, max_record_bytes=limit, offset=offset - self._whole)

    @property
    def position(self) -> int:
        """Bytes of the file on disk consumed so far."""
        return self._opened.position

    @property
    def file_state(self) -> FileState | None:
        """The file as it is read, None where it could not be recognised later."""
        return self._opened.file_state

    @property
    def path(self) -> str:
        """The absolute path of a file."""
        return self._opened.path

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
        if self._whole:
            self._framer.feed(b"[")
        chunks = self._opened.chunks()
        while True:
            with self._stages.timed("reading"):
                chunk = await anext(chunks, None)
            if chunk is None:
                break
            with self._stages.timed("decoding"):
                records, problem = self._decoded(self._framer.feed(chunk))
            yield records
            if problem:
                raise problem
        last = self._framer.feed(b"]") if self._whole else []
        records, problem = self._decoded(last + self._framer.finish(), at_end=True)
        yield records
        if problem:
            raise problem

    def declared(self) -> Iterable[tuple[str, int, int]]:
        """Header fields that declare a number of records: name, what they say, how many records there were."""
        if isinstance(self._framer, DocumentFramer):
            for path, name in self.dialect.declared.items():
                declared = self._framer.header.get(name)
                if type(declared) is int and path in self._framer.counts:
                    yield name, declared, self._framer.counts[path]

    def decode(self, record: RawRecord) -> Record | None:
        """Decode a record once more, with all that is known by now; None if it only looks like one."""
        return self._decoder.decode(record)

    def _decoded(
        self, raw_records: list[RawRecord], *, at_end: bool = False
    ) -> tuple[list[Record], SeedRegistryError | None]:
        """The records, and what is wrong with the document after them."""
        framer, decode = self._framer, self._decoder.decode
        if isinstance(framer, LineFramer):
            return [record for raw in raw_records if (record := decode(raw)) is not None], None
        self._take_header(framer)
        records: list[Record] = []
        for raw in raw_records:
            record = decode(raw)
            if type(record) is Reject and record.reason == "not_json":
                error = ValueError(record.detail)
                return records, self._broken(error_text(error), raw.offset + error_position(error))
            if record is not None:
                records.append(record)
        if framer.problem:
            return records, self._broken(framer.problem.message, framer.problem.offset)
        if at_end and not framer.counts:
            wanted = " or ".join(".".join(path) or "the document itself" for path in framer.arrays)
            return records, IndexNotUnderstood(
                f"{self.name} has no array of records at {wanted}: name its path with --records-at"
            )
        return records, None

    def _take_header(self, framer: DocumentFramer) -> None:
        self._decoder.portal = replace(self._decoder.portal, header=self.dialect.portal(framer.header))
        # a document that is an array has no header
        self._decoder.header_complete = framer.closed or () in framer.counts

    def _broken(self, message: str, offset: int) -> IndexBroken:
        return IndexBroken(
            f"{self.name} is broken at byte {offset}: {message}\n"
            f"mend or fetch the file and load it again; {self._kept}",
            offset=offset,
        )


@asynccontextmanager
async def read_index(
    path: str,
    settings: Settings,
    *,
    salt: str = "",
    stages: Stages | None = None,
) -> AsyncIterator[IndexReader]:
    """Open and detect an index.

    Args:
        path: of a file, or `-` for standard input.
        settings: of the load.
        salt: goes into every content hash: what, besides the record's bytes, decides what is written.
        stages: where the time spent is noted.

    Raises:
        IndexUnreadable: its bytes cannot be had.
        IndexNotUnderstood: it is no index that any dialect knows.
        SettingsInvalid: `--domain` cannot be used with it.
    """
    async with open_index(path, max_unpacked_bytes=settings.max_unpacked_bytes) as opened:
        yield IndexReader(opened, settings, salt, stages or Stages())


def _arrays(dialect: Dialect, settings: Settings) -> dict[Path, str]:
    if settings.records_at is not None:
        return {tuple(settings.records_at.split(".")): "asset"}
    return dict(dialect.arrays)
