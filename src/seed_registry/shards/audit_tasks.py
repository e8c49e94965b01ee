"""The steps of an audit by shards, their results, and the file in which a worker leaves the assets it compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final, Literal, Protocol

import msgspec
from msgspec import Struct, field

from seed_registry.errors import StorageFailed
from seed_registry.index.inputs import IndexRef
from seed_registry.index.shard_reader import ShardSummary
from seed_registry.index.shards import Shard, Soundness
from seed_registry.registry.tables import Tables
from seed_registry.report import Counts
from seed_registry.settings import DatabaseUrl, Settings
from seed_registry.shards.packed_files import PackedFile
from seed_registry.shards.tasks import Failure
from seed_registry.spill import append
from seed_registry.verify.findings import ComparedAsset, PartFound

_LENGTH_BYTES: Final = 8


class AuditJob(Struct, frozen=True):
    """An audit, as a worker needs to know it; it travels through a pipe, for it holds the URL with its password.

    Attributes:
        snapshot: the name under which the coordinator's session exported it.
        directory: for the files of compared assets.
        parent: the process that ends its workers by ending.
        worker, first: see `Job`.
    """

    settings: Settings
    url: DatabaseUrl
    tables: Tables
    snapshot: str
    indexes: list[IndexRef]
    directory: str
    parent: int
    worker: str = ""
    first: int = 0


class AuditTask(Struct, frozen=True):
    """One step for one worker: scan a shard for where its records end, or compare it. `index` is a position."""

    step: Literal["scan", "compare"]
    index: int
    shard: Shard


class ShardAudited(Struct):
    """What a worker found in a shard; lines are counted from its first one.

    Attributes:
        soundness, portal: see `ShardReader`.
        lists_sources: whether its dialect does, see `Dialect`.
        failure: why it cannot be read, or compared.
        summary: what it adds to the numbers of its index; None of a scan.
        position: bytes of the file read.
        file: with the assets, see `AssetFile`.
    """

    soundness: Soundness = "sound"
    portal: str | None = None
    failure: Failure | None = None
    provider: str = ""
    lists_sources: bool = False
    lines: int = 0
    position: int = 0
    summary: ShardSummary | None = None
    sources: Counts = field(default_factory=Counts)
    assets: Counts = field(default_factory=Counts)
    rejects: Counter[str] = field(default_factory=Counter)
    found: PartFound = field(default_factory=PartFound)
    file: str = ""


class PublishedAudit(Struct, frozen=True):
    """What one step of an audit needs to know, beside the job that of an `AuditJob`.

    Attributes:
        job: an encoded `SharedJob`, with the index of the step.
        database: the fingerprint of that with the snapshot.
    """

    job: bytes
    database: str
    tables: Tables
    snapshot: str
    task: AuditTask


class AuditFound(Struct, frozen=True):
    """The result of a step, and the files that it wrote."""

    result: ShardAudited
    files: list[PackedFile] = field(default_factory=list)


class AuditEngine(Protocol):
    """Performs steps of an audit."""

    async def audit(self, job: AuditJob, task: AuditTask, lost: Callable[[str], None]) -> ShardAudited:
        """Perform a step; `lost` is called with a reason when its worker was lost and it is tried again."""


class _Block(Struct, array_like=True):
    """Some assets, and the keys of sources that were found with them: sources are numbered in that order."""

    sources: list[str]
    assets: list[ComparedAsset]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Block).decode


class AssetFile:
    """A file of compared assets, block by block: memory holds one."""

    def __init__(self, path: Path) -> None:
        """Create the file.

        Raises:
            StorageFailed: there is no room.
        """
        try:
            self._file: IO[bytes] = path.open("wb")
        except OSError as exc:
            raise _not_written(exc) from exc

    def write(self, sources: list[str], assets: list[ComparedAsset]) -> None:
        """Write assets, and the keys of sources that no earlier block has.

        Raises:
            StorageFailed: the disk is full.
        """
        data = _encode(_Block(sources, assets))
        append(self._file, len(data).to_bytes(_LENGTH_BYTES, "little") + data)

    def close(self) -> None:
        """End the file.

        Raises:
            StorageFailed: the disk is full.
        """
        try:
            self._file.close()
        except OSError as exc:
            raise _not_written(exc) from exc


def read_assets(path: Path) -> Iterator[tuple[list[str], list[ComparedAsset]]]:
    """Yield the blocks of a file as they were written."""
    with path.open("rb") as file:
        while length := file.read(_LENGTH_BYTES):
            block = _decode(file.read(int.from_bytes(length, "little")))
            yield block.sources, block.assets


def _not_written(exc: OSError) -> StorageFailed:
    return StorageFailed(f"a temporary file cannot be written: {exc.strerror}; set TMPDIR to another")
