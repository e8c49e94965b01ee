"""Parse a rejects file, and look up single lines of it.

Its lines hold bytes of unknown origin: they are used for what a record is and where it came from, and for nothing else.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, Self

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from seed_registry.errors import IndexNotUnderstood, IndexUnreadable
from seed_registry.index.byte_stream import open_index
from seed_registry.index.choice import choose, require_domain
from seed_registry.index.dialects import DIALECTS
from seed_registry.index.dialects.base import Dialect
from seed_registry.index.inputs import IndexRef
from seed_registry.index.ndjson import LineFramer
from seed_registry.index.sniff import sniff
from seed_registry.records import Piece, raw_records
from seed_registry.settings import Settings

# JSON text has up to six bytes for a byte of a record, `\u0001`; the rest of a line is a path, a key and a sentence.
_LONGEST_ESCAPE: Final = 6
_OTHER_BYTES: Final = 64 << 10
# As many of the first records may be too broken to show their dialect.
_MAX_RECORDS_SNIFFED: Final = 1_000
_PIECE_BYTES: Final = 64 << 10
_PACKED: Final = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")  # gzip, zstandard

_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class RejectLine(Struct, frozen=True):
    """A line of a rejects file; `record` is base64 if `encoding` says so, an excerpt if the record was too large."""

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
            ValueError: `encoding` is base64, and `record` is not.
        """
        return base64.b64decode(self.record, validate=True) if self.encoding == "base64" else self.record.encode()


_decode_line = msgspec.json.Decoder(RejectLine).decode


def parse(line: bytes) -> RejectLine | None:
    """Parse a line of a rejects file; None if it is cut off, or anything else."""
    try:
        parsed = _decode_line(line)
        parsed.data()
    except (msgspec.DecodeError, ValueError, RecursionError):  # not UTF-8, not base64
        return None
    return parsed


def longest_line(max_record_bytes: int) -> int:
    """How many bytes the line of a record of up to `max_record_bytes` may have."""
    return max_record_bytes * _LONGEST_ESCAPE + _OTHER_BYTES


async def read_lines(index: IndexRef, settings: Settings) -> AsyncIterator[list[RejectLine | None]]:
    """Read the lines of a rejects file, plain or compressed, or of standard input; None for each that is not parsed.

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
    """A rejects file, open to look up where its records came from: that is not kept in memory.

    Attributes:
        index: the file.
    """

    def __init__(self, path: str, max_record_bytes: int) -> None:
        """Open the file.

        Raises:
            IndexUnreadable: it cannot be opened, is empty, or has no random access: a pipe, a compressed file.
        """
        self.index = IndexRef.of(path)
        self._longest = longest_line(max_record_bytes)
        name = self.index.display_name
        if self.index.kind == "stdin":
            raise IndexUnreadable("stdin cannot be replayed, for it is read twice: name the rejects file")
        try:
            # Without O_NONBLOCK opening a pipe waits for its writer.
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
        """Whether the path is of this file."""
        try:
            return os.path.samestat(path.stat(), os.fstat(self._descriptor))
        except OSError:
            return False

    def _problem(self) -> str | None:
        found = os.fstat(self._descriptor)
        if not stat.S_ISREG(found.st_mode):
            return "is no regular file: a rejects file is read twice"
        if not found.st_size:
            return "is empty: there is nothing to replay"
        if os.pread(self._descriptor, 4, 0).startswith(_PACKED):
            return "is packed: unpack it first, a rejects file is read twice"
        return None

    def at(self, offset: int) -> RejectLine | None:
        """The line that begins at an offset, None if it cannot be parsed."""
        line = bytearray()
        while b"\n" not in line[-_PIECE_BYTES:] and len(line) <= self._longest:
            if not (piece := os.pread(self._descriptor, _PIECE_BYTES, offset + len(line))):
                break
            line += piece
        return parse(bytes(line.partition(b"\n")[0]))

    def first_lines(self) -> Iterator[RejectLine | None]:
        """The first lines, None for each that cannot be parsed."""
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(0)
            for _ in range(_MAX_RECORDS_SNIFFED):
                line = file.readline(self._longest)
                if not line:
                    return
                yield parse(line.removeprefix(b"\xef\xbb\xbf"))


def dialect_of(origins: RejectsIndex, settings: Settings) -> Dialect:
    """The dialect that the settings name, or the one that fits the first records.

    Raises:
        IndexNotUnderstood: no dialect fits, it needs `--domain`, or it is no rejects file.
        SettingsInvalid: it refuses `--domain`.
    """
    dialect = _sniffed(origins, settings)
    require_domain(dialect, settings, origins.index.display_name)
    return dialect


def _sniffed(origins: RejectsIndex, settings: Settings) -> Dialect:
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
        f"{name}: its records fit no dialect\nname that of the index they come from with --dialect {'|'.join(DIALECTS)}"
    )


def _ways(record: bytes) -> Iterator[bytes]:
    """The record as lines and as an array, for some dialects are documents only; nothing if it is no JSON object."""
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
