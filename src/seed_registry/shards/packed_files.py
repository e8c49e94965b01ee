"""Files that a step writes, as they travel with its result; processes of one machine share them in a directory.

They are at most what the records of one shard take, and compressed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import zstandard
from msgspec import Struct

from seed_registry.errors import StorageFailed

# Assets become a fifth; more effort costs a worker more than it saves its network.
_LEVEL: Final = 1
_BLOCK_BYTES: Final = 1 << 20


class PackedFile(Struct, frozen=True):
    """A file of a step, without the path of its directory; its content is compressed."""

    name: str
    data: bytes


def pack(directory: str) -> list[PackedFile]:
    """Compress all files of a directory.

    Raises:
        OSError: one cannot be read.
    """
    packed = []
    for path in sorted(Path(directory).iterdir()):
        packer = zstandard.ZstdCompressor(_LEVEL).compressobj()
        parts = [packer.compress(block) for block in _blocks(path)]
        packed.append(PackedFile(path.name, b"".join([*parts, packer.flush()])))
    return packed


def unpack(files: list[PackedFile], directory: str) -> None:
    """Write files into a directory.

    Raises:
        StorageFailed: the disk is full.
    """
    try:
        for file in files:
            unpacker = zstandard.ZstdDecompressor().decompressobj()
            blocks = (file.data[first : first + _BLOCK_BYTES] for first in range(0, len(file.data), _BLOCK_BYTES))
            # A name, and no path: it comes from another machine.
            with Path(directory, Path(file.name).name).open("wb") as target:
                target.writelines(map(unpacker.decompress, blocks))
    except OSError as exc:
        raise StorageFailed(f"a temporary file cannot be written: {exc.strerror}; set TMPDIR to another") from exc


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block
