"""Replaying: a rejects file read as an index, each of its lines the record as it was, with the bytes that it had.

Its lines hold strangers' bytes: nothing in them is believed but for what a record is and where it came from.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Final, Self

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from seed_registry.errors import IndexNotUnderstood, IndexUnreadable
from seed_registry.index.byte_stream import OpenIndex, open_index
from seed_registry.index.declared_totals import Pages
from seed_registry.index.decoder import Decoder
from seed_registry.index.dialects import DIALECTS, choose, looks_like_record, see_that_domain_fits
from seed_registry.index.dialects.base import Dialect
from seed_registry.index.inputs import IndexRef
from seed_registry.index.ndjson import EXCERPT_BYTES, LineFramer
from seed_registry.index.reader import IndexReader
from seed_registry.index.sniff import sniff
from seed_registry.index.unread_arrays import UnreadArrays
from seed_registry.records import Piece, RawRecord, Record, Reject, raw_records
from seed_registry.rejects.writer import RejectsFile
from seed_registry.report import Stages
from seed_registry.settings import Settings

# A byte of a record is six of a JSON text at most, `\u0001`; the rest of a line is a path, a key and a sentence.
_LONGEST_ESCAPE: Final = 6
_OTHER_BYTES: Final = 64 << 10
# How many of the first records may be too broken to tell their dialect.
_RECORDS_LOOKED_AT: Final = 1_000
_PIECE_BYTES: Final = 64 << 10
_PACKED: Final = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")  # gzip, zstandard

_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class RejectLine(Struct, frozen=True):
    """A line of a rejects file; `record` is base64 where `encoding` says so, and an excerpt of what was too large."""

    index: str
    line: _Count
    offset: _Count
    reason: str
    record: str
    detail: str = ""
    key: str | None = None
    kind: str = ""
    encoding: str = ""

    def data(self) -> bytes:
        """The record's own bytes.

        Raises:
            ValueError: they are no base64, though they should be.
        """
        return base64.b64decode(self.record, validate=True) if self.encoding == "base64" else self.record.encode()


_decode_line = msgspec.json.Decoder(RejectLine).decode


def parse(line: bytes) -> RejectLine | None:
    """A line of a rejects file; None if it is none: cut off, or something else."""
    try:
        parsed = _decode_line(line)
        parsed.data()
    except (msgspec.DecodeError, ValueError, RecursionError):  # no UTF-8, no base64
        return None
    return parsed


def longest_line(max_record_bytes: int) -> int:
    """How long the line of a record may be that is no longer than that."""
    return max_record_bytes * _LONGEST_ESCAPE + _OTHER_BYTES


async def read_lines(index: IndexRef, settings: Settings) -> AsyncIterator[list[RejectLine | None]]:
    """The lines of a rejects file, plain or packed, a file or standard input, None for each that is none.

    Raises:
        IndexUnreadable, IndexNotUnderstood: as `open_index` does.
    """
    async with open_index(index, max_unpacked_bytes=settings.max_unpacked_bytes) as opened:
        framer = LineFramer(max_record_bytes=longest_line(settings.max_record_bytes), offset=opened.head_offset)
        async for chunk in opened.chunks():
            yield _parsed(framer.feed(chunk))
        yield _parsed(framer.finish())


def _parsed(pieces: Iterable[Piece]) -> list[RejectLine | None]:
    return [None if raw.excess else parse(raw.data) for raw in raw_records(pieces)]


class RejectsIndex:
    """A rejects file, open for looking up where its records came from: that is not kept in memory.

    Attributes:
        index: the file.
    """

    def __init__(self, path: str, max_record_bytes: int) -> None:
        """Open the file.

        Raises:
            IndexUnreadable: it cannot be opened, is empty, or cannot be read at any place: a pipe, a packed file.
        """
        self.index = IndexRef.of(path)
        self._longest = longest_line(max_record_bytes)
        name = self.index.display_name
        if self.index.kind == "stdin":
            raise IndexUnreadable("stdin cannot be replayed, for it is read twice: name the rejects file")
        try:
            # Without O_NONBLOCK a pipe that lies there would be waited for.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "strerror", None) or exc
            raise IndexUnreadable(f"{name} cannot be read: {reason}; `seed-registry runs RUN` names a run's") from exc
        if problem := self._problem():
            os.close(self._descriptor)
            raise IndexUnreadable(f"{name} {problem}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def is_file(self, path: Path) -> bool:
        """Whether that path is this file."""
        try:
            return os.path.samestat(path.stat(), os.fstat(self._descriptor))
        except OSError:
            return False

    def _problem(self) -> str | None:
        there = os.fstat(self._descriptor)
        if not stat.S_ISREG(there.st_mode):
            return "is no regular file: a rejects file is read twice"
        if not there.st_size:
            return "is empty: there is nothing to replay"
        if os.pread(self._descriptor, 4, 0).startswith(_PACKED):
            return "is packed: unpack it first, a rejects file is read twice"
        return None

    def at(self, offset: int) -> RejectLine | None:
        """The line that begins there."""
        line = bytearray()
        while b"\n" not in line[-_PIECE_BYTES:] and len(line) <= self._longest:
            if not (piece := os.pread(self._descriptor, _PIECE_BYTES, offset + len(line))):
                break
            line += piece
        return parse(bytes(line.partition(b"\n")[0]))

    def first_lines(self) -> Iterator[RejectLine | None]:
        """The first lines, None for each that is none."""
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(0)
            for _ in range(_RECORDS_LOOKED_AT):
                line = file.readline(self._longest)
                if not line:
                    return
                yield parse(line.removeprefix(b"\xef\xbb\xbf"))


def dialect_of(origins: RejectsIndex, settings: Settings) -> Dialect:
    """The dialect that the settings name, or the one that the first records tell.

    Raises:
        IndexNotUnderstood: none can be told, or it is no rejects file.
    """
    name, plain, is_rejects_file = origins.index.display_name, replace(settings, records_at=None), False
    for line in origins.first_lines():
        if line is None:
            continue
        is_rejects_file = True
        if settings.dialect:
            return DIALECTS[settings.dialect]
        for text in _ways(line.data()):
            with suppress(IndexNotUnderstood):
                return choose(sniff(text, name), plain, name)[0]
    if not is_rejects_file:
        raise _no_rejects_file(name)
    raise IndexNotUnderstood(
        f"{name}: its records do not tell their dialect\n"
        f"name that of the index they come from with --dialect {'|'.join(DIALECTS)}"
    )


def _ways(record: bytes) -> Iterator[bytes]:
    """A record as lines and as an array, for some dialects are documents only; nothing, if it is too broken."""
    try:
        fields = msgspec.json.decode(record)
        line = msgspec.json.encode(fields)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return
    if fields and isinstance(fields, dict):
        yield line + b"\n{}"
        yield b"[" + line + b"]"


def _no_rejects_file(name: str) -> IndexNotUnderstood:
    return IndexNotUnderstood(
        f"{name} is no rejects file: its lines do not have index, line, offset, reason and record\n"
        "an index is loaded with `seed-registry load`"
    )


class _LineDecoder(Decoder):
    """Decodes the records of lines, each under the place of its line."""

    def __init__(self, dialect: Dialect, settings: Settings, *, provider: str, salt: str) -> None:
        super().__init__(
            dialect, domain=settings.domain or "", provider=provider, salt=salt, language=settings.language
        )
        self._has_sources = dialect.source is not None
        self._ordinary = None  # a line holds its record as a text
        self._max = settings.max_record_bytes

    def decode(self, record: RawRecord) -> Record | None:
        """What the record of this line is now; what is no line of a rejects file is rejected as it is."""
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
            # Its document said by the place that it was an asset; sources say so in their line.
            return super().decode(replace(raw, kind="asset"))
        return decoded


class ReplayReader(IndexReader):
    """A rejects file, read once. Locations are those of its lines; `RelocatedRejects` knows the others."""

    def __init__(  # what an index is asked is not asked of this file
        self,
        opened: OpenIndex,
        origins: RejectsIndex,
        settings: Settings,
        salt: str,
        stages: Stages,
    ) -> None:
        dialect = dialect_of(origins, settings)
        see_that_domain_fits(dialect, settings, opened.name)
        self.index, self.name, self.size = opened.index, opened.name, opened.size
        # The sources of these assets are in the registry, or else in an index, but hardly in this file.
        self.dialect = replace(dialect, lists_sources=False)
        self.shape = sniff(b"{}\n{}", opened.name)
        self._opened, self._stages, self._kept = opened, stages, ""  # lines are never broken
        self.provider = settings.provider or dialect.provider
        self._decoder = _LineDecoder(dialect, settings, provider=self.provider, salt=salt)
        self._pages, self._unread = Pages(dialect), UnreadArrays(looks_like_record)
        longest = longest_line(settings.max_record_bytes)
        self.is_strict, self.defers_texts, self.most_are_held = True, False, False
        self._framer = LineFramer(max_record_bytes=longest, offset=opened.head_offset)


@asynccontextmanager
async def read_rejects(
    origins: RejectsIndex, settings: Settings, *, salt: str = "", stages: Stages | None = None
) -> AsyncIterator[ReplayReader]:
    """Open a rejects file as an index; `salt` is that of `read_index`.

    Raises:
        IndexUnreadable: its bytes cannot be had.
        IndexNotUnderstood: it is no rejects file, or its dialect cannot be told.
    """
    async with open_index(origins.index) as opened:
        yield ReplayReader(opened, origins, settings, salt, stages or Stages())


class RelocatedRejects(RejectsFile):
    """A rejects file of what is rejected again, each record under the location that it had at first."""

    def __init__(self, like: RejectsFile, origins: RejectsIndex) -> None:
        super().__init__(like.path, own_directory=like.own_directory)
        self._origins = origins

    def write(self, index: str, reject: Reject) -> None:
        """Append the line of a record of the file that is replayed.

        Raises:
            StorageFailed: the file cannot be made or written.
        """
        if line := self._origins.at(reject.offset):
            index, reject = line.index, replace(reject, line=line.line, offset=line.offset)
        super().write(index, reject)

    def forget(self, index: str) -> None:
        """The file that is replayed is another one now, and all that is told here came from it.

        Raises:
            StorageFailed: the file cannot be written anew.
        """
        del index
        self._told = None
        self.count = 0
        if self.created:
            try:
                os.ftruncate(self._descriptor, 0)
                os.lseek(self._descriptor, 0, os.SEEK_SET)
            except OSError as exc:
                raise self._failed(exc) from exc
