"""Unpacking: gzip (RFC 1952) and zstandard (RFC 8878), told by their magic bytes, in pieces of bounded size."""

from __future__ import annotations

import gzip
import io
import zlib
from typing import TYPE_CHECKING, Any

import zstandard

if TYPE_CHECKING:
    from typing_extensions import Buffer

# What damaged data raises.
DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError)
# As many of the first bytes tell the compression.
MAGIC_BYTES = 4
# What one compressed piece may unpack to is bounded by its size: zstandard packs 128 KiB into 4 bytes at best.
_ZSTD_PIECE_BYTES = 1 << 10
_ZSTD_MAX_WINDOW_BYTES = 128 << 20

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def unpacking(packed: io.BufferedReader[Any], magic: bytes, chunk_bytes: int) -> io.BufferedReader[Any]:
    """What is in a file that begins with these magic bytes; the file itself if it is not packed."""
    if magic.startswith(_GZIP_MAGIC):
        return io.BufferedReader(_GzipReader(packed), chunk_bytes)
    if magic.startswith(_ZSTD_MAGIC):
        return io.BufferedReader(_ZstdReader(packed), chunk_bytes)
    return packed


class _GzipReader(io.RawIOBase):
    """Unpacks gzip; unlike the library's own reader it hands over all that comes before the damage."""

    def __init__(self, packed: io.BufferedReader[Any]) -> None:
        self._file = gzip.GzipFile(fileobj=packed)
        self._damage: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        out = memoryview(buffer).cast("B")
        filled = 0
        try:
            while self._damage is None and filled < len(out) and (piece := self._file.read1(len(out) - filled)):
                out[filled : filled + len(piece)] = piece
                filled += len(piece)
        except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
            self._damage = exc
        if self._damage and not filled:
            raise self._damage
        return filled


class _ZstdReader(io.RawIOBase):
    """Unpacks zstandard frame after frame; unlike the library's own reader it notices when the last one is cut off."""

    def __init__(self, packed: io.BufferedReader[Any]) -> None:
        self._packed = packed
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW_BYTES)
        self._frame = self._decompressor.decompressobj()
        self._unpacked = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        out = memoryview(buffer).cast("B")
        while not self._unpacked:
            piece = (self._frame.unused_data if self._frame.eof else b"") or self._packed.read(_ZSTD_PIECE_BYTES)
            if not piece:
                if not self._frame.eof:
                    raise EOFError("the last zstandard frame is cut off")
                return 0
            if self._frame.eof:
                self._frame = self._decompressor.decompressobj()
            self._unpacked = memoryview(self._frame.decompress(piece))
        count = min(len(out), len(self._unpacked))
        out[:count] = self._unpacked[:count]
        self._unpacked = self._unpacked[count:]
        return count
