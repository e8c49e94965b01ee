"""Unpack gzip (RFC 1952) and zstandard (RFC 8878), recognised by magic bytes, in pieces of bounded size.

Other compression raises `NotUnpacked`, with a command that unpacks it.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import zstandard

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Raised for damaged data.
DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError)
# Number of first bytes that decide the compression.
MAGIC_BYTES = 4
# The size of a compressed piece bounds its unpacked size: zstandard packs 128 KiB into 4 bytes at best.
_ZSTD_PIECE_BYTES = 1 << 10
_ZSTD_MAX_WINDOW_BYTES = 128 << 20
_SKIPPED_BYTES = 1 << 16  # at a time

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_LZ4_MAGIC = b"\x04\x22\x4d\x18"
# 0x184D2A50 to 0x184D2A5F, little endian, then the length: https://www.rfc-editor.org/rfc/rfc8878#name-skippable-frames
_SKIPPABLE_MAGIC = b"\x2a\x4d\x18"
_SKIPPABLE_HEADER_BYTES = 8
# The longest header of a frame: magic, descriptor, window, dictionary and content size (RFC 8878, 3.1.1.1).
_ZSTD_HEADER_BYTES = 18


class NotUnpacked(Exception):
    """A file that is not damaged, and that is not unpacked here all the same.

    Attributes:
        kind: of compression, or without a command the kind of bytes at its end.
        command: what unpacks a file, its last argument, to stdout.
    """

    def __init__(self, kind: str, command: str | None = None) -> None:
        super().__init__(kind)
        self.kind = kind
        self.command = command

    @property
    def is_stream(self) -> bool:
        """Whether the command also unpacks standard input."""
        return self.command is not None and " -d" in self.command


# Other magic bytes: the kind of file, and the command that unpacks it to stdout.
_OTHERS: Mapping[bytes, tuple[str, str]] = {
    b"BZh": ("bzip2", "bzip2 -dc"),
    b"\xfd7zXZ": ("xz", "xz -dc"),
    b"\x5d\x00\x00": ("lzma", "xz -dc --format=lzma"),
    b"LZIP": ("lzip", "lzip -dc"),
    _LZ4_MAGIC: ("lz4", "lz4 -dc"),
    b"\x02\x21\x4c\x18": ("lz4 of the old kind", "lz4 -dc"),
    b"\x1f\x9d": ("packed by compress", "gzip -dc"),
    b"\xff\x06\x00\x00sNaPpY": ("snappy", "snzip -dc"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "7z x -so"),
    b"Rar!\x1a\x07": ("a RAR archive", "unrar p -inul"),
    b"PK\x03\x04": ("a zip archive", "unzip -p"),
    _GZIP_MAGIC: ("gzip in another compression", "gzip -dc"),
    _ZSTD_MAGIC: ("zstandard in another compression", "zstd -dc"),
}
_TAR_AT, _TAR_MAGIC = 257, b"ustar"


def unpacking(packed: io.BufferedReader[Any], magic: bytes, chunk_bytes: int) -> io.BufferedReader[Any]:
    """Return a reader of the unpacked bytes; the file itself if it is not compressed."""
    if magic.startswith(_GZIP_MAGIC):
        return io.BufferedReader(_GzipReader(packed), chunk_bytes)
    if magic.startswith(_ZSTD_MAGIC) or _is_skippable(magic):
        return io.BufferedReader(_ZstdReader(packed), chunk_bytes)
    return packed


def require_unpacked(head: bytes, name: str) -> None:
    """Check that unpacked bytes are not compressed once more, nor an archive. Brotli has no magic: its name decides.

    Raises:
        NotUnpacked: it is.
    """
    for magic, (kind, command) in _OTHERS.items():
        if head.startswith(magic):
            raise NotUnpacked(kind, command)
    if head[_TAR_AT:].startswith(_TAR_MAGIC):
        raise NotUnpacked("a tar archive", "tar -xOf")
    if name.endswith(".br") and not head.lstrip().startswith((b"{", b"[")):
        raise NotUnpacked("brotli", "brotli -dc")


def unpacker(magic: bytes) -> str:
    """Return the command that unpacks a file that `unpacking` unpacks."""
    return "gzip -dc" if magic.startswith(_GZIP_MAGIC) else "zstd -dc"


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
        except (EOFError, zlib.error) as exc:
            self._damage = exc
        except gzip.BadGzipFile as exc:  # between two members; a wrong checksum is one, too
            is_other = str(exc).startswith("Not a gzipped file")
            self._damage = NotUnpacked("bytes that are no gzip; was something appended?") if is_other else exc
        if self._damage and not filled:
            raise self._damage
        return filled


class _ZstdReader(io.RawIOBase):
    """Unpacks zstandard frame after frame; unlike the library's own reader it notices when the last one is cut off."""

    def __init__(self, packed: io.BufferedReader[Any]) -> None:
        self._packed = packed
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW_BYTES)
        self._frame: zstandard.ZstdDecompressionObj | None = None  # None: between two frames
        self._rest = b""  # read, but not of the frame that has ended
        self._unpacked = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        out = memoryview(buffer).cast("B")
        while not self._unpacked:
            if self._frame is None and not self._begin_frame():
                return 0
            assert self._frame is not None
            piece = self._rest or self._packed.read(_ZSTD_PIECE_BYTES)
            if not piece:
                raise EOFError("the last zstandard frame is cut off")
            self._unpacked, self._rest = memoryview(self._frame.decompress(piece)), b""
            if self._frame.eof:
                self._rest = self._frame.unused_data
                self._frame = None
        count = min(len(out), len(self._unpacked))
        out[:count] = self._unpacked[:count]
        self._unpacked = self._unpacked[count:]
        return count

    def _begin_frame(self) -> bool:
        """Come to the next frame with content; False at the end of the file.

        Raises:
            NotUnpacked: it cannot be unpacked, or is none.
        """
        while self._has(_ZSTD_HEADER_BYTES) and _is_skippable(self._rest):
            self._skip()
        if not self._rest:
            return False
        if self._rest.startswith(_LZ4_MAGIC):  # it has the same skippable frames
            raise NotUnpacked("lz4", "lz4 -dc")
        if not self._rest.startswith(_ZSTD_MAGIC[: len(self._rest)]):
            raise NotUnpacked("bytes that are no zstandard; was something appended?")
        if self._rest == _ZSTD_MAGIC[: len(self._rest)]:
            raise EOFError("the last zstandard frame is cut off")
        _see_that_it_can_be_unpacked(zstandard.get_frame_parameters(self._rest))
        self._frame = self._decompressor.decompressobj()
        return True

    def _has(self, count: int) -> bool:
        """Read ahead up to this many bytes; False at the end of the file."""
        while len(self._rest) < count and (piece := self._packed.read(count - len(self._rest))):
            self._rest += piece
        return bool(self._rest)

    def _skip(self) -> None:
        """Pass over a skippable frame, however long it says that it is."""
        if len(self._rest) < _SKIPPABLE_HEADER_BYTES:
            raise EOFError("the last frame, a skippable one, is cut off")
        left = int.from_bytes(self._rest[4:_SKIPPABLE_HEADER_BYTES], "little")
        passed = self._rest[_SKIPPABLE_HEADER_BYTES : _SKIPPABLE_HEADER_BYTES + left]
        self._rest = self._rest[_SKIPPABLE_HEADER_BYTES + len(passed) :]
        left -= len(passed)
        while left:
            piece = self._packed.read(min(left, _SKIPPED_BYTES))
            if not piece:
                raise EOFError("the last frame, a skippable one, is cut off")
            left -= len(piece)


def _is_skippable(magic: bytes) -> bool:
    return magic[1:4] == _SKIPPABLE_MAGIC and magic[0] & 0xF0 == 0x50  # noqa: PLR2004  # see above


def _see_that_it_can_be_unpacked(frame: zstandard.FrameParameters) -> None:
    if frame.window_size > _ZSTD_MAX_WINDOW_BYTES:
        raise NotUnpacked(
            f"zstandard with a window of {frame.window_size / (1 << 20):,.0f} MiB, and {_ZSTD_MAX_WINDOW_BYTES >> 20} "
            "MiB is the most that is held in memory here",
            "zstd -d --long=31 -c",
        )
    if frame.dict_id:
        raise NotUnpacked(f"zstandard that needs its dictionary (id {frame.dict_id})", "zstd -d -D DICTIONARY -c")
