"""What the processes of a run tell each other through its ledger: what they found in a shard, what became of it."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct, field

from seed_registry.errors import DatabaseRefused
from seed_registry.index.shards import Soundness
from seed_registry.ledger.run_sources import Begin
from seed_registry.records import Asset, Source
from seed_registry.report import Counts, Stages
from seed_registry.shards.tasks import Failure

Fact = TypeVar("Fact")
_encode: Final = msgspec.msgpack.Encoder().encode


class ShardScanned(Struct, frozen=True):
    """What the scan of a shard found.

    Attributes:
        lines, keys: how many newlines it has, and keys of records.
        digest: of its bytes.
        soundness: whether it ends where records end, see `ShardReader`.
        portal: in the header that ends in it, if one does.
        problem: why the index cannot be read on, if so.
        listed: the sources that it lists, in their order.
    """

    dialect: str
    provider: str
    lines: int
    keys: int
    digest: bytes
    soundness: Soundness = "sound"
    portal: str | None = None
    problem: Failure | None = None
    listed: list[Source] = field(default_factory=list)


class IndexFacts(Struct, frozen=True):
    """What the scan of all shards of an index found together; `listed` are the keys of its sources, if it lists any."""

    provider: str = ""
    listed: list[str] = field(default_factory=list)


class ShardLoaded(Struct, frozen=True):
    """What became of the records of a shard.

    Attributes:
        sources, assets: counts; of assets the outcomes in all attempts, and all that were read.
        source_keys: of the sources of the assets.
        parked: how many assets wait to be settled.
        sample: assets to be compared with the database.
        summary: what its headers declare, an encoded `ShardSummary`.
        begin: of the attempt of the run that loaded it, if the ledger has its listed keys.
        listed: how many hashes of keys these are.
        unreadable: how many records were rejected whose keys are not known, also those of other parts of the keys.
    """

    sources: Counts
    assets: Counts
    source_keys: list[str]
    assets_by_source: dict[str, int]
    parked: int
    rejects: dict[str, int]
    sample: list[Asset]
    ignored_fields: dict[str, int]
    summary: bytes
    bytes_read: int
    batches: int
    repaired: int
    dates_ignored: int
    texts_ignored: int
    seconds: float
    stages: Stages
    problem: Failure | None = None
    begin: Begin | None = None
    listed: int = 0
    unreadable: int = 0


def encoded(fact: Any) -> bytes:
    """A struct as it stands in the ledger."""
    return _encode(fact)


def decoded(data: bytes, kind: type[Fact]) -> Fact:
    """A struct from the ledger.

    Raises:
        DatabaseRefused: another version of this program wrote it.
    """
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except msgspec.DecodeError as exc:
        raise DatabaseRefused(
            f"the ledger has shards of another version of this program: {exc}\nload again with that version"
        ) from exc
