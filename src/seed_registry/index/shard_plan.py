"""Cut an index into shards, with few of its bytes read."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Final

import anyio
from msgspec.structs import replace

from seed_registry.index.byte_stream import OpenIndex, open_index
from seed_registry.index.document_cuts import DocumentCuts, find_array
from seed_registry.index.inputs import IndexRef
from seed_registry.index.json_document import DocumentFramer
from seed_registry.index.json_envelope import Layout
from seed_registry.index.packed_cuts import NoMarks
from seed_registry.index.packed_lines import packed_starts
from seed_registry.index.random_access import NoRanges, RandomAccess, open_for_cuts
from seed_registry.index.record_format import RecordFormat
from seed_registry.index.shards import UNKNOWN, Cut, Dress, Shard
from seed_registry.settings import Settings

# Of a search for the end of a line; most are shorter than the first.
_SEARCHED_BYTES: Final = (16 << 10, 1 << 20)


async def cut(index: IndexRef, settings: Settings, shard_bytes: int) -> Cut:
    """Cut an index into shards.

    Args:
        index: where it is read from.
        settings: of the load; they decide how the index is read.
        shard_bytes: about the size of a shard, of the file on disk.

    Raises:
        IndexUnreadable: its bytes cannot be read.
        IndexNotUnderstood: no dialect fits it.
        SettingsInvalid: `--domain` cannot be used with it.
    """
    if index.kind == "stdin":
        return _whole("standard input cannot be read at several places")
    if index.kind == "file" and await _is_pipe(index.path):  # what is read of it here would be missing later
        return _whole("a pipe cannot be read at several places")
    async with open_index(index, max_unpacked_bytes=settings.max_unpacked_bytes, headers=settings.headers) as opened:
        found = RecordFormat(opened, settings)
        one = await _cut(index, opened, found, settings, shard_bytes)
        is_named = settings.domain is not None and found.pieces.decoder.dialect.names_portals(found.shape)
        return replace(one, hosts=found.hosts, names_portals=is_named)


async def _cut(index: IndexRef, opened: OpenIndex, found: RecordFormat, settings: Settings, shard_bytes: int) -> Cut:
    if opened.size is None:
        return _whole("a pipe, or a URL of unknown size, cannot be read at several places")
    if reason := _reason(opened, found, shard_bytes):
        return _whole(reason, opened)
    if opened.is_packed:
        return await _packed(opened, settings, shard_bytes, is_lines=found.shape.lines)
    try:
        async with open_for_cuts(index, settings.headers, opened.etag, opened.size) as file:
            if found.shape.lines:
                return _of(opened, [start async for start in _line_starts(file, shard_bytes)])
            if found.shape.form == "documents, one a line":
                pages = Dress(b"", (), b"").encode()
                return _of(opened, [start async for start in _line_starts(file, shard_bytes)], pages)
            return await _document(opened, file, found.layout, shard_bytes, settings.max_record_bytes)
    except NoRanges as exc:
        return _whole(exc.reason, opened)


def _reason(opened: OpenIndex, found: RecordFormat, shard_bytes: int) -> str:
    """Why an index of known size is one shard, if its first bytes tell."""
    if opened.size is not None and opened.size <= shard_bytes:
        return "it is no larger than one shard"
    if found.is_graph:
        return "it is a graph, whose nodes may refer to any others"
    if opened.index.kind == "url" and not opened.etag:
        return "its server gives it no strong ETag, by which each shard would know it again"
    return ""


async def _document(
    opened: OpenIndex, file: RandomAccess, layout: Layout, shard_bytes: int, max_record_bytes: int
) -> Cut:
    framer = DocumentFramer(layout, max_record_bytes=max_record_bytes, offset=opened.head_offset)
    async with aclosing(opened.chunks()) as chunks:
        begun = await find_array(framer, chunks, shard_bytes)
    if begun is None:
        return _whole("its records are not in one array that begins near its beginning", opened)
    cuts = DocumentCuts(file, layout, begun, shard_bytes, max_record_bytes)
    return _of(opened, [start async for start in cuts.starts()], begun.dress.encode())


async def _packed(opened: OpenIndex, settings: Settings, shard_bytes: int, *, is_lines: bool) -> Cut:
    name = shlex.quote(opened.index.path)
    fix = f"{opened.unpacker} {name} > UNPACKED && seed-registry load UNPACKED"
    if opened.index.kind != "file":
        return _whole("it is packed, and at a URL", opened)
    if not is_lines:
        return _whole("it is a document, and packed", opened, fix)
    try:
        starts = await packed_starts(opened.index, settings, shard_bytes)
    except NoMarks as exc:
        return _whole(str(exc), opened, fix)
    if not starts:
        return _whole("it is packed in one piece, or in a few", opened, fix)
    whole = _of(opened, [])
    last = whole.shards[0]
    shards: list[Shard] = []
    for start in starts:
        begin = start.mark.offset + start.skip
        shards.append(replace(last, end=begin, last=start.mark.place, last_offset=start.mark.offset))
        last = replace(last, number=last.number + 1, first=start.mark.place, skip=start.skip, start=begin)
    return Cut([*shards, last], size=whole.size, modified=whole.modified)


async def _is_pipe(path: str) -> bool:
    place = anyio.Path(path)
    return await place.is_fifo() or await place.is_socket()


def _whole(reason: str, opened: OpenIndex | None = None, fix: str = "") -> Cut:
    cut_ = _of(opened, [])
    return Cut(cut_.shards, reason, fix, cut_.size, cut_.modified)


def _of(opened: OpenIndex | None, starts: Sequence[int], dress: bytes = b"") -> Cut:
    """The shards of a plain file that begin at its beginning, and at these bytes."""
    size, modified, etag = UNKNOWN, UNKNOWN, opened.etag if opened else ""
    if opened is not None and opened.size is not None:
        size, modified = opened.size, UNKNOWN if opened.modified is None else opened.modified
    ends = [*starts, UNKNOWN]
    shards = [
        Shard(number, start, 0, start, end, size if end == UNKNOWN else end, size, modified, etag, dress)
        for number, (start, end) in enumerate(zip([0, *starts], ends, strict=True))
    ]
    return Cut(shards, "" if starts else "it has no place to be cut at", "", size, modified)


async def _line_starts(file: RandomAccess, shard_bytes: int) -> AsyncIterator[int]:
    """Where the lines begin that are the first of a shard each, but for the first shard."""
    target = shard_bytes
    while target < file.size:
        # The line that begins there, or the next one.
        position, step = target - 1, _SEARCHED_BYTES[0]
        while (piece := await file.read(position, step)) and (found := piece.find(b"\n")) < 0:
            position, step = position + len(piece), _SEARCHED_BYTES[1]
        if not piece or (start := position + found + 1) >= file.size:
            return
        yield start
        target = max(target + shard_bytes, start + 1)
