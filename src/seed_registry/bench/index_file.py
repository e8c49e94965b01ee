"""The index that a bench loads: a file of the user's, or a synthetic one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from seed_registry.errors import SettingsInvalid, StorageFailed
from seed_registry.index.inputs import IndexRef, require_files
from seed_registry.index.open import read_index
from seed_registry.settings import DialectName, Settings
from seed_registry.synthetic.index import Workload, generate

# Large enough that a worker of the default grid gets several batches of most sizes, small enough for minutes.
RECORDS: Final = 20_000


class BenchIndex(Struct, frozen=True):
    """The index that is loaded.

    Attributes:
        name: in the results.
        path: of the file.
        domain: what a load needs as `--domain`, if that is known.
    """

    name: str
    path: str
    domain: str | None = None

    def size_bytes(self) -> int:
        """Return its size on disk."""
        return Path(self.path).stat().st_size

    async def detect_dialect(self, settings: Settings) -> str:
        """Return the name of its dialect.

        Raises:
            SeedRegistryError: as for a load.
        """
        async with read_index(IndexRef.of(self.path), settings) as reader:
            return reader.dialect.name

    def completed(self, settings: Settings) -> Settings:
        """Settings of a load, with `--domain` if only that is missing."""
        return replace(settings, domain=settings.domain or self.domain)


@contextmanager
def open_bench_index(
    index: str | None, *, dialect: DialectName | None, records: int | None, size: int | None, seed: int
) -> Iterator[BenchIndex]:
    """Open the index of a path, or make a synthetic one that exists during the block.

    Args:
        index: a path; None for a synthetic one.
        dialect: of the synthetic one; None for `seed`.
        records: how many assets the synthetic one has.
        size: the median bytes of its records.
        seed: of its content.

    Raises:
        SettingsInvalid: it cannot be read again and again, is not one file, or is both a path and synthetic.
        IndexUnreadable: there is no such file.
        StorageFailed: there is no room for a synthetic one.
    """
    if index is not None:
        if records is not None or size is not None:
            raise SettingsInvalid("--records and --size make a synthetic index; leave them out or leave INDEX out")
        if (named := IndexRef.of(index)).kind != "file":
            raise SettingsInvalid("bench reads an index again and again: name a file, not standard input or a URL")
        require_files([named])
        path = Path(index).absolute()
        if path.is_dir():
            raise SettingsInvalid("bench loads one index: name a file, not a directory")
        yield BenchIndex(path.name.encode(errors="backslashreplace").decode(), str(path))
        return
    workload = Workload(
        records=RECORDS if records is None else records, size=size, seed=seed, dialect=dialect or "seed"
    )
    weight = "" if size is None else f" of {size} bytes"
    with tempfile.TemporaryDirectory(prefix="seed-registry-bench-") as directory:
        path = Path(directory) / "index.json"
        try:
            with path.open("wb") as file:
                file.writelines(generate(workload))
        except OSError as exc:
            raise StorageFailed(f"{path} cannot be written: {exc.strerror}; set TMPDIR to another place") from exc
        name = f"{workload.records} synthetic records{weight}, seed {workload.seed}"
        yield BenchIndex(name, str(path), workload.domain)
