"""Subject: the index that a bench loads, a file of the user's or a synthetic one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from seed_registry.errors import SettingsInvalid, StorageFailed
from seed_registry.index.inputs import IndexRef, require_files
from seed_registry.synthetic.index import Workload, generate


class BenchIndex(Struct, frozen=True):
    """The index that is loaded: what it is called in the results, and where it lies."""

    name: str
    path: str

    def size_bytes(self) -> int:
        """Its size on disk."""
        return Path(self.path).stat().st_size


@contextmanager
def open_bench_index(index: str | None, workload: Workload) -> Iterator[BenchIndex]:
    """The index of that path, or a synthetic one that is there during the block.

    Raises:
        SettingsInvalid: it cannot be read again and again, or is not one file.
        IndexUnreadable: it is not there.
        StorageFailed: there is no room for a synthetic one.
    """
    if index is not None:
        if (named := IndexRef.of(index)).kind != "file":
            raise SettingsInvalid("bench reads an index again and again: name a file, not standard input or a URL")
        require_files([named])
        path = Path(index).absolute()
        if path.is_dir():
            raise SettingsInvalid("bench loads one index: name a file, not a directory")
        yield BenchIndex(path.name.encode(errors="backslashreplace").decode(), str(path))
        return
    size = "" if workload.size is None else f" of {workload.size} bytes"
    with tempfile.TemporaryDirectory(prefix="seed-registry-bench-") as directory:
        path = Path(directory) / "index.json"
        try:
            with path.open("wb") as file:
                file.writelines(generate(workload))
        except OSError as exc:
            raise StorageFailed(f"{path} cannot be written: {exc.strerror}; set TMPDIR to another place") from exc
        yield BenchIndex(f"{workload.records} synthetic records{size}, seed {workload.seed}", str(path))
