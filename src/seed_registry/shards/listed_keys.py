"""What the loaded shards of a run with `--retire` list: whether that still stands, and bringing it together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from seed_registry.ledger.shard_listed import earliest
from seed_registry.shards.facts import ShardLoaded, decoded
from seed_registry.spill import PARTS

if TYPE_CHECKING:
    from seed_registry.ledger.run_sources import Begin
    from seed_registry.ledger.shard_listed import ListedHashes
    from seed_registry.ledger.shards import ShardRow, ShardStore
    from seed_registry.load.listed_keys import ListedKeys
    from seed_registry.load.retry import Connection, RetryingSession


async def reopen_shards(connection: Connection, store: ShardStore, begin: Begin) -> None:
    """Let the shards be loaded again of which it is not known, or no longer true, what they list.

    They were loaded by an attempt without `--retire`, or a crash of the server has emptied the table. And if another
    run has listed assets of these sources since then, it may have retired some: then all are looked up again.
    """
    loaded = _loaded(await store.shards(connection))
    begins = [one.begin for _, one in loaded if one.begin is not None]
    found = await store.listed.count(connection)
    reopened = [row for row, one in loaded if one.begin is None or one.listed != found.get((row.index, row.number), 0)]
    if begins and await store.listed.is_interfered(connection, earliest([*begins, begin])):
        reopened = [row for row, _ in loaded]
    await store.set_state(connection, [(row.index, row.number) for row in reopened], "scanned")


async def take_listed(main: RetryingSession, store: ShardStore, keys: ListedKeys) -> None:
    """Add what all shards list to the keys of the run, part by part.

    Raises:
        CommitsLost: the ledger no longer has it.
        StorageFailed: the disk is full.
    """

    async def read(connection: Connection, number: int) -> list[ListedHashes]:
        async with connection.transaction():
            found = await store.listed.part(connection, number)
            await store.require_mark(connection)
        return found

    # Rejects of other parts of the keys are in no rejects file.
    loaded = _loaded(await main.do(store.shards))
    keys.unreadable = max(keys.unreadable, sum(one.unreadable for _, one in loaded))
    for number in range(PARTS):
        for of_shard in await main.do(partial(read, number=number)):
            keys.send(of_shard.sent)
            keys.take_skipped(of_shard.skipped)


def begin_of(rows: Sequence[ShardRow], begin: Begin) -> Begin:
    """The begin of a run, of which this is the begin of its last attempt."""
    begins = [one.begin for _, one in _loaded(rows) if one.begin is not None]
    return earliest([*begins, begin])


def _loaded(rows: Sequence[ShardRow]) -> list[tuple[ShardRow, ShardLoaded]]:
    return [(row, decoded(row.loaded, ShardLoaded)) for row in rows if row.state == "loaded" and row.loaded]
