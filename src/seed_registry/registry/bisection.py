"""Halving: the one record of a batch that the database refuses, found without losing its neighbours.

Nothing goes to the rejects file while the database may be refusing every record. That it does not is known when it
takes a known good record (`Blame`), or any other record after the one that it refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Final, Generic, TypeVar

from msgspec import Struct

from seed_registry.errors import DatabaseRefused
from seed_registry.postgres.errors import describe_refusal
from seed_registry.postgres.failures import FailureAction, classify

# So many records one after the other, none taken between them, are enough to decide by what is known.
_MOST_SUSPECTS: Final = 20

Item = TypeVar("Item")


class Blame(Enum):
    """Whose fault a refusal is, as known good records show; a `PERHAPS` says that the table had none to try."""

    RECORD = auto()  # others are taken
    RECORD_PERHAPS = auto()  # others are refused as well, each for another reason
    DATABASE_PERHAPS = auto()  # a made-up one is refused for the same reason
    DATABASE = auto()  # stored rows are refused for the same reason


Merge = Callable[[list[Item]], Awaitable[bool]]
Refused = Callable[[Item, str], None]
Probe = Callable[[Item, Exception], Awaitable[Blame]]
# Checks that were left to the database, which refused records for a reason; the same list where there are none.
Check = Callable[[list[Item], Exception], list[Item]]


class _Suspect(Struct, Generic[Item], frozen=True):
    """A record that was refused alone, why, and who is told if it is its own fault."""

    record: Item
    reason: Exception
    refused: Refused[Item]


async def merge_bisecting(records: list[Item], merge: Merge[Item], refused: Refused[Item], probe: Probe[Item]) -> None:
    """Merge a batch behind which no other comes; see `Bisection`."""
    halving = Bisection(probe)
    await halving.merge(records, merge, refused)
    await halving.settle()


class Bisection(Generic[Item]):
    """Merges the batches of one session."""

    def __init__(self, probe: Probe[Item], check: Check[Item] = lambda records, _: records) -> None:
        """`probe` tells whose fault it is that a record was refused for a reason.

        `check` is asked first, once of each record: what of a batch is left may be taken as a whole.
        """
        self._probe = probe
        self._check = check
        self._suspects: list[_Suspect[Item]] = []

    async def merge(self, records: list[Item], merge: Merge[Item], refused: Refused[Item]) -> None:
        """Merge a batch; a batch that is refused is split, in order, until the guilty record stands alone.

        Args:
            records: the batch.
            merge: writes records in one transaction; whether it wrote any.
            refused: is told a record that was refused alone, and why; of some not before a later batch or `settle`.

        Raises:
            DatabaseRefused: the database refuses every record.
            Exception: whatever `merge` raises that is no record's fault.
        """
        try:
            has_written = await merge(records)
        except Exception as exc:
            if classify(exc) is not FailureAction.BISECT:
                raise
            if (checked := self._check(records, exc)) is not records:
                if checked:
                    await self.merge(checked, merge, refused)
                return
            if len(records) == 1:
                await self._blame(_Suspect(records[0], exc, refused))
                return
            half = len(records) // 2
            for part in (records[:half], records[half:]):
                await self.merge(part, merge, refused)
        else:
            if has_written:
                self._acquit_database()

    async def settle(self) -> None:
        """Decide about those that are left; others may have filled the table since.

        Raises:
            DatabaseRefused: the database refuses every record.
        """
        suspects, self._suspects = self._suspects, []
        for suspect in suspects:
            blame = await self._probe(suspect.record, suspect.reason)
            if blame in (Blame.DATABASE, Blame.DATABASE_PERHAPS):
                raise _refuses_all(suspect.reason) from suspect.reason
            suspect.refused(suspect.record, describe_refusal(suspect.reason))

    async def _blame(self, suspect: _Suspect[Item]) -> None:
        blame = await self._probe(suspect.record, suspect.reason)
        if blame is Blame.DATABASE:
            raise _refuses_all(suspect.reason) from suspect.reason
        if blame is Blame.RECORD:
            self._acquit_database()
            suspect.refused(suspect.record, describe_refusal(suspect.reason))
            return
        self._suspects.append(suspect)
        if len(self._suspects) >= _MOST_SUSPECTS:
            await self.settle()

    def _acquit_database(self) -> None:
        """It took a record after it had refused these."""
        suspects, self._suspects = self._suspects, []
        for suspect in suspects:
            suspect.refused(suspect.record, describe_refusal(suspect.reason))


def _refuses_all(reason: Exception) -> DatabaseRefused:
    return DatabaseRefused(
        f"the database refuses every record: {describe_refusal(reason)}\n"
        "fix the table or its triggers, then load again",
        sqlstate=getattr(reason, "sqlstate", None),
    )
