"""Find places in a packed file where unpacking may begin, from headers alone.

- BGZF (https://samtools.github.io/hts-specs/SAMv1.pdf, 4.1): gzip in members of at most 64 KiB, each with its length in
  a field of its header.
- zstandard (RFC 8878) in several frames that tell their unpacked size, or with the seek table of the seekable format
  (https://github.com/facebook/zstd, contrib/seekable_format).

Headers may lie. The reader of each part proves that the next one begins where a member or frame ends, and at the
unpacked offset that is said here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import zstandard
from msgspec import Struct

_GZIP_HEADER_BYTES, _GZIP_TRAILER_BYTES, _GZIP_EXTRA_FIELD = 12, 8, 4
_ZSTD_MAGIC: Final = 0xFD2FB528
_ZSTD_HEADER_BYTES: Final = 18
_SKIPPABLE_MAGIC, _SKIPPABLE_MASK, _SKIPPABLE_HEADER_BYTES = 0x184D2A50, 0xFFFFFFF0, 8
_SEEK_TABLE_MAGIC, _SEEK_TABLE_FRAME, _SEEK_FOOTER_BYTES = 0x8F92EAB1, 0x184D2A5E, 9
_LARGEST_SEEK_TABLE: Final = 64 << 20
_RLE_BLOCK: Final = 1

# Reads at most so many bytes from a position of a file.
ReadAt = Callable[[int, int], bytes]


class NoMarks(Exception):  # no error: the file is read as one
    """Unpacking may begin at the beginning only; the message says why."""


class Mark(Struct, frozen=True):
    """Where unpacking may begin: a byte of the file, and the unpacked offset there."""

    place: int
    offset: int


def marks(read: ReadAt, size: int) -> Iterator[Mark]:
    """The beginnings of the members or frames of a packed file, in their order, and its end.

    Raises:
        NoMarks: there are none that headers tell.
    """
    if read(0, 2) == b"\x1f\x8b":
        return _bgzf_marks(read, size)
    table = _seek_table(read, size)
    return iter(table) if table else _frame_marks(read, size)


def _bgzf_marks(read: ReadAt, size: int) -> Iterator[Mark]:
    place = offset = 0
    while place < size:
        yield Mark(place, offset)
        length = _member_bytes(read, place)
        if length is None or place + length > size:
            raise NoMarks("gzip is unpacked from its beginning only, unless it is written by bgzip")
        place += length
        offset += int.from_bytes(read(place - 4, 4), "little")
    yield Mark(place, offset)


def _member_bytes(read: ReadAt, place: int) -> int | None:
    """The length of the member that begins there; None if its header does not tell."""
    header = read(place, _GZIP_HEADER_BYTES)
    if len(header) < _GZIP_HEADER_BYTES or header[:3] != b"\x1f\x8b\x08" or not header[3] & _GZIP_EXTRA_FIELD:
        return None
    extra = read(place + _GZIP_HEADER_BYTES, int.from_bytes(header[10:12], "little"))
    while len(extra) >= 4:  # noqa: PLR2004  # two letters and a length
        length = int.from_bytes(extra[2:4], "little")
        if extra[:2] == b"BC" and length == 2:  # noqa: PLR2004  # it is a number of two bytes
            found = int.from_bytes(extra[4:6], "little") + 1
            return found if found > _GZIP_HEADER_BYTES + _GZIP_TRAILER_BYTES else None
        extra = extra[4 + length :]
    return None


def _frame_marks(read: ReadAt, size: int) -> Iterator[Mark]:
    place = offset = 0
    while place < size:
        yield Mark(place, offset)
        header = read(place, _ZSTD_HEADER_BYTES)
        magic = int.from_bytes(header[:4], "little")
        if magic & _SKIPPABLE_MASK == _SKIPPABLE_MAGIC:
            place += _SKIPPABLE_HEADER_BYTES + int.from_bytes(header[4:8], "little")
            continue
        try:
            if magic != _ZSTD_MAGIC:
                raise NoMarks("it is damaged, or something was appended")
            frame = zstandard.get_frame_parameters(header)
            length = _frame_bytes(read, place, zstandard.frame_header_size(header), frame.has_checksum)
        except zstandard.ZstdError as exc:
            raise NoMarks("it is damaged, or something was appended") from exc
        if frame.content_size in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR):
            raise NoMarks("its frames do not tell how much they unpack to")
        place += length
        offset += frame.content_size
    yield Mark(place, offset)


def _frame_bytes(read: ReadAt, place: int, header_bytes: int, has_checksum: bool) -> int:
    """The length of a frame, by the headers of its blocks (RFC 8878, 3.1.1.2)."""
    at, is_last = place + header_bytes, 0
    while not is_last:
        block = read(at, 3)
        if len(block) < 3:  # noqa: PLR2004  # the header of a block
            raise NoMarks("it is cut off")
        header = int.from_bytes(block, "little")
        is_last, kind, length = header & 1, header >> 1 & 3, header >> 3
        at += 3 + (1 if kind == _RLE_BLOCK else length)
    return at + (4 if has_checksum else 0) - place


def _seek_table(read: ReadAt, size: int) -> list[Mark]:
    """The marks that a seek table tells; empty if there is none, or if it does not fit the file."""
    footer = read(max(size - _SEEK_FOOTER_BYTES, 0), _SEEK_FOOTER_BYTES)
    if len(footer) < _SEEK_FOOTER_BYTES or int.from_bytes(footer[5:], "little") != _SEEK_TABLE_MAGIC:
        return []
    count, entry_bytes = int.from_bytes(footer[:4], "little"), 12 if footer[4] & 0x80 else 8
    length = count * entry_bytes
    start = size - _SEEK_FOOTER_BYTES - length
    if length > _LARGEST_SEEK_TABLE or start < _SKIPPABLE_HEADER_BYTES:
        return []
    table = read(start - _SKIPPABLE_HEADER_BYTES, _SKIPPABLE_HEADER_BYTES + length)
    if int.from_bytes(table[:4], "little") != _SEEK_TABLE_FRAME or len(table) < _SKIPPABLE_HEADER_BYTES + length:
        return []
    found, place, offset = [Mark(0, 0)], 0, 0
    for at in range(_SKIPPABLE_HEADER_BYTES, len(table), entry_bytes):
        place += int.from_bytes(table[at : at + 4], "little")
        offset += int.from_bytes(table[at + 4 : at + 8], "little")
        found.append(Mark(place, offset))
    return found if place == start - _SKIPPABLE_HEADER_BYTES else []
