"""Holds the listed sources of one index that would change rows until its end, when it is known which is the last."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import IO, Final

import msgspec

from seed_registry.records import Source
from seed_registry.registry.batch import Batcher
from seed_registry.spill import append, temporary_file

# Of one key no more than these are kept: the last, and some that are tried where the database refuses it.
_MOST_OF_A_KEY: Final = 8

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Source).decode


class HeldSources:
    """The held sources of an index, in a temporary file; in memory are their keys, which `max_sources` limits."""

    def __init__(self) -> None:
        self.dropped = 0  # how many were too many
        self._file: IO[bytes] | None = None
        self._end = 0
        self._places: dict[str, list[tuple[int, int]]] = {}  # where each begins, and its length

    def __contains__(self, key: str) -> bool:
        """Whether sources with this key are held; all later ones have to be held as well."""
        return key in self._places

    def hold(self, sources: Sequence[Source]) -> None:
        """Hold sources, in file order.

        Raises:
            StorageFailed: the disk is full.
        """
        if sources and self._file is None:
            self._file = temporary_file()
        for source in sources:
            assert self._file is not None
            data, places = _encode(source), self._places.setdefault(source.key, [])
            append(self._file, data)
            places.append((self._end, len(data)))
            self._end += len(data)
            if len(places) > _MOST_OF_A_KEY:
                del places[0]
                self.dropped += 1

    def batches(self, keys: Container[str], rows: int, max_bytes: int) -> Iterator[list[Source]]:
        """The held sources of these keys, all of a key in one batch."""
        batcher = Batcher[Source](rows, max_bytes, "raw")
        for key, places in self._places.items():
            if key in keys:
                batcher.append([self._read(*place) for place in places])
            if batcher.is_full:
                yield batcher.take()
        if rest := batcher.take():
            yield rest

    @property
    def keys(self) -> set[str]:
        """The keys of all held sources."""
        return set(self._places)

    def close(self) -> None:
        """Free the disk space."""
        if self._file is not None:
            self._file.close()
        self._file, self._places = None, {}

    def _read(self, start: int, length: int) -> Source:
        assert self._file is not None
        self._file.seek(start)
        data = self._file.read(length)
        self._file.seek(0, 2)
        return _decode(data)
