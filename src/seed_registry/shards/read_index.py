"""An index that was read by shards, as a reader of what is left of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from seed_registry.index.reader import IndexReader
from seed_registry.index.shard_reader import combined

if TYPE_CHECKING:
    from seed_registry.records import Asset, Record
    from seed_registry.shards.dry_run_tasks import ShardOutcome
    from seed_registry.shards.tasks import Failure
    from seed_registry.shortfall import Total

_ASSETS_A_CHUNK: Final = 500


class ReadIndex(IndexReader):
    """An index whose shards were read: what is left of its records are the assets with repeated keys."""

    def __init__(
        self, opened: IndexReader, outcomes: Sequence[ShardOutcome], assets: Iterable[Asset], problem: Failure | None
    ) -> None:
        """`opened` tells what is known of an index that is not read; `problem` is why it could not be read on."""
        self.index, self.name, self.size = opened.index, opened.name, opened.size
        self.dialect, self.provider = opened.dialect, opened.provider
        self.shape, self.checks = opened.shape, opened.checks
        self._outcomes = outcomes
        self._problem = problem
        self._assets: Iterator[Record] = iter(assets)
        self._numbers = combined(one.summary for one in outcomes)

    @property
    def position(self) -> int:
        """Bytes of the file on disk that were read."""
        return sum(one.tally.bytes_read for one in self._outcomes)

    @property
    def file_state(self) -> None:
        """A dry run is not resumed."""

    async def records(self) -> AsyncIterator[list[Record]]:
        """The assets, in their order.

        Raises:
            IndexBroken, IndexUnreadable, IndexNotUnderstood: the index could not be read on.
        """
        while chunk := list(islice(self._assets, _ASSETS_A_CHUNK)):
            yield chunk
        if self._problem:
            raise self._problem.error()

    def declared(self) -> list[tuple[str, int, int]]:
        """As of the whole index."""
        return self._numbers.declared

    def totals(self) -> list[Total]:
        """As of the whole index."""
        return self._numbers.totals

    def unread(self) -> dict[str, int]:
        """As of the whole index."""
        return self._numbers.unread
