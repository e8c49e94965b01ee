"""The files that the processes of a dry run share: hashes of keys, and assets whose key is repeated."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from seed_registry.errors import StorageFailed
from seed_registry.records import Asset
from seed_registry.shards.facts import decoded
from seed_registry.spill import PARTS, by_part, repeated

if TYPE_CHECKING:
    from seed_registry.shards.tasks import Place

_HASH_BYTES: Final = 8
_READ_HASHES: Final = 1 << 17


class SharedFiles(Struct, frozen=True):
    """The files, in a directory that only the user of the run can read; a step that is repeated writes them anew."""

    directory: str

    def path(self, kind: str, place: Place) -> Path:
        """The file of this kind about a shard."""
        return Path(self.directory, f"{kind}-{place[0]}-{place[1]}")

    def write_keys(self, place: Place, hashes: Iterable[int]) -> None:
        """Write the hashes of the keys of a shard, to be read by part."""
        parts = by_part(hashes)
        self.write_hashes("keys", place, [array("Q", map(len, parts)), *parts])

    def read_keys(self, place: Place, parts: Sequence[int]) -> array[int]:
        """The hashes of a shard in some parts that follow one another."""
        with self.path("keys", place).open("rb") as file:
            lengths = array("Q", file.read(_HASH_BYTES * PARTS))
            file.seek(_HASH_BYTES * sum(lengths[: parts[0]]), 1)
            return array("Q", file.read(_HASH_BYTES * sum(lengths[parts[0] : parts[-1] + 1])))

    def write_repeated(self, place: Place, part: int, hashes: array[int]) -> None:
        """Write the hashes of a shard that are repeated, of the parts from this one on."""
        self.path(f"repeated-{part}", place).write_bytes(hashes.tobytes())

    def read_repeated(self, place: Place) -> Iterator[int]:
        """The hashes of a shard that are repeated."""
        for path in Path(self.directory).glob(f"repeated-*-{place[0]}-{place[1]}"):
            yield from array("Q", path.read_bytes())

    def read_all_repeated(self, place: Place) -> bytes:
        """As `read_repeated`, 8 bytes each."""
        return array("Q", self.read_repeated(place)).tobytes()

    def sieve(self, places: Sequence[Place], parts: Sequence[int]) -> int:
        """Find the keys of some parts that occur more than once in these shards, and return how many there are."""
        again = set[int]()
        for place, hashes in repeated([(place, self.read_keys(place, parts)) for place in places]):
            if hashes:
                again.update(hashes)
                self.write_repeated(place, parts[0], hashes)
        return len(again)

    def write_hashes(self, kind: str, place: Place, parts: Iterable[array[int]]) -> None:
        """Write hashes."""
        with self.path(kind, place).open("wb") as file:
            for part in parts:
                file.write(part.tobytes())

    def read_hashes(self, kind: str, place: Place) -> Iterator[array[int]]:
        """The hashes that were written, a megabyte at a time."""
        with self.path(kind, place).open("rb") as file:
            while data := file.read(_HASH_BYTES * _READ_HASHES):
                yield array("Q", data)

    def read_parked(self, place: Place) -> Iterator[Asset]:
        """The assets of a shard whose keys are repeated, as `KeptRepeats` wrote them."""
        with self.path("parked", place).open("rb") as file:
            while head := file.read(4):
                yield decoded(file.read(int.from_bytes(head, "little")), Asset)


@contextmanager
def private_directory(parent: str | None = None) -> Iterator[str]:
    """A directory for temporary files that nobody else can read, in another or where the system has such files.

    Raises:
        StorageFailed: there is no place for it.
    """
    try:
        directory = TemporaryDirectory(prefix="seed-registry-", dir=parent, ignore_cleanup_errors=True)
    except OSError as exc:
        raise StorageFailed(f"a temporary file cannot be written: {exc.strerror}; set TMPDIR to another") from exc
    with directory as path:
        yield path


def unusable(directory: str, exc: OSError) -> StorageFailed:
    """The error that a file in a directory for temporary files cannot be used."""
    return StorageFailed(f"a file in {directory} cannot be used: {exc.strerror}; set TMPDIR to another place")
