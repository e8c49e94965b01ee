"""Retries the writing of batches, and looks up those whose COMMIT had no answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from seed_registry.checkpoint import Checkpoint
from seed_registry.ledger.checkpoints import Ledger
from seed_registry.load.retry import Connection, RetryingSession
from seed_registry.postgres.timeouts import io_timeout
from seed_registry.records import Asset, Source, SourceRow
from seed_registry.registry.batch import Batch, Blame, SourceBatch, Writer
from seed_registry.report import MergeCounts

if TYPE_CHECKING:
    from seed_registry.registry.hint_bits import HintBits

NewWriter = Callable[[Connection], Awaitable[Writer]]


class RetryingWriter:
    """A `Writer` on a session that may lose its connection; it looks up a batch whose COMMIT had no answer."""

    def __init__(
        self, session: RetryingSession, new_writer: NewWriter, ledger: Ledger, hints: HintBits | None = None
    ) -> None:
        """`new_writer` makes what writes through a connection, once for each; `hints` follows what is written."""
        self._session = session
        self._new_writer = new_writer
        self._ledger = ledger
        self._hints = hints
        self._made: tuple[Connection, Writer] | None = None

    async def write(self, batch: Batch) -> MergeCounts:
        """Write assets; those of a lost COMMIT are not counted twice.

        Raises:
            SeedRegistryError: it failed for good.
            asyncpg.PostgresError, ValueError, TypeError: a record is to blame, see `FailureAction.BISECT`.
        """
        counts: MergeCounts | None = None
        async with self._session.exclusive():
            async for attempt in self._session.attempts():
                with attempt:
                    async with self._session.opened() as connection:
                        if (counts := await self._committed(connection, batch.checkpoint)) is None:
                            counts = await (await self._writer(connection)).write(batch)
        assert counts is not None, "the last attempt writes or raises"
        if self._hints is not None and self._hints.is_due:
            await self._session.do(self._hints.follow)
        return counts

    async def write_sources(self, batch: SourceBatch) -> tuple[MergeCounts, dict[str, SourceRow]]:
        """Write sources, as `write` does."""
        async with self._session.exclusive():
            async for attempt in self._session.attempts():
                with attempt:
                    async with self._session.opened() as connection:
                        writer = await self._writer(connection)
                        if (counts := await self._committed(connection, batch.checkpoint)) is not None:
                            return counts, await writer.find_sources([source.key for source in batch.sources])
                        return await writer.write_sources(batch)
        raise AssertionError("the last attempt returns or raises")

    async def find_sources(self, keys: Sequence[str]) -> dict[str, SourceRow]:
        """Find sources, see `Writer`."""

        async def find(connection: Connection) -> dict[str, SourceRow]:
            return await (await self._writer(connection)).find_sources(keys)

        return await self._session.do(find)

    async def probe(self, refused: Source | Asset, reason: Exception, sources: Mapping[str, SourceRow]) -> Blame:
        """Find out why a record was refused, see `Writer`."""

        async def probe(connection: Connection) -> Blame:
            return await (await self._writer(connection)).probe(refused, reason, sources)

        return await self._session.do(probe)

    async def _writer(self, connection: Connection) -> Writer:
        if self._made is None or self._made[0] is not connection:
            self._made = (connection, await self._new_writer(connection))
        return self._made[1]

    async def _committed(self, connection: Connection, checkpoint: Checkpoint | None) -> MergeCounts | None:
        """The counts of a batch whose COMMIT had no answer, if the ledger has its checkpoint."""
        if (unknown := self._session.unknown) is None or checkpoint is None:
            return None
        async with io_timeout(connection, self._session.io_seconds):
            return unknown.counts if await self._ledger.has(connection, checkpoint) else None
