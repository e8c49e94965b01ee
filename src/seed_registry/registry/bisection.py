"""Bisects a batch that the database refuses, so that one bad record is rejected without losing its neighbours.

Nothing goes to the rejects file while the database may be refusing every record. That it does not is known when it
takes a known good record (`Blame`), or any other record after the one that it refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from seed_registry.errors import DatabaseRefused
from seed_registry.postgres.errors import describe_refusal
from seed_registry.postgres.failures import FailureAction, classify
from seed_registry.registry.batch import Blame

# This many refused records in a row, none taken between them, are decided by what is known by then.
_MOST_SUSPECTS: Final = 20

Item = TypeVar("Item")

Merge = Callable[[list[Item]], Awaitable[bool]]
OnReject = Callable[[Item, str], None]
Probe = Callable[[Item, Exception], Awaitable[Blame]]
# Does checks that were left to the database, after it refused records; returns the same list where there are none.
Check = Callable[[list[Item], Exception], list[Item]]


async def merge_bisecting(
    records: list[Item], merge: Merge[Item], on_reject: OnReject[Item], probe: Probe[Item]
) -> None:
    """Merge a batch that no other follows; `merge` writes records in one transaction, and returns whether it wrote any.

    Raises:
        DatabaseRefused: the database refuses every record.
        Exception: what `merge` raises that is no record's fault.
    """
    bisection, parts = Bisection(probe, on_reject), [records]
    while parts:
        part = parts.pop(0)
        try:
            has_written = await merge(part)
        except Exception as exc:  # noqa: BLE001  # `split` raises it again if no record is to blame
            parts[:0] = await bisection.split(part, exc)
        else:
            if has_written:
                bisection.acquit_database()
    await bisection.settle()


class Bisection(Generic[Item]):
    """Decides what happens to records that the database refused in one session."""

    def __init__(
        self, probe: Probe[Item], on_reject: OnReject[Item], check: Check[Item] = lambda records, _: records
    ) -> None:
        """`probe` finds out why a record was refused; `check` is called before a batch is split.

        `on_reject` is called with a record and the reason, for some records not before a later batch or `settle`.
        """
        self._probe = probe
        self._on_reject = on_reject
        self._check = check
        self._suspects: list[tuple[Item, Exception]] = []  # refused alone, and why

    async def split(self, records: list[Item], reason: Exception) -> list[list[Item]]:
        """Return what to write, in this order, instead of records that were refused.

        Two halves; or all of them but those that the checks rejected; or nothing where one stood alone.

        Raises:
            DatabaseRefused: the database refuses every record.
            Exception: `reason`, if that is no record's fault.
        """
        if classify(reason) is not FailureAction.BISECT:
            raise reason
        if (checked := self._check(records, reason)) is not records:
            return [checked] if checked else []
        if len(records) > 1:
            half = len(records) // 2
            return [records[:half], records[half:]]
        blame = await self._probe(records[0], reason)
        if blame is Blame.DATABASE:
            raise _refuses_all(reason) from reason
        if blame is Blame.RECORD:
            self.acquit_database()
            self._on_reject(records[0], describe_refusal(reason))
        else:
            self._suspects.append((records[0], reason))
            if len(self._suspects) >= _MOST_SUSPECTS:
                await self.settle()
        return []

    def acquit_database(self) -> None:
        """Reject all suspects: the database took a record after it had refused these."""
        suspects, self._suspects = self._suspects, []
        for record, reason in suspects:
            self._on_reject(record, describe_refusal(reason))

    async def settle(self) -> None:
        """Probe the suspects once more, for other sessions may have filled the table since, and reject them.

        Raises:
            DatabaseRefused: the database refuses every record.
        """
        suspects, self._suspects = self._suspects, []
        for record, reason in suspects:
            if await self._probe(record, reason) in (Blame.DATABASE, Blame.DATABASE_PERHAPS):
                raise _refuses_all(reason) from reason
            self._on_reject(record, describe_refusal(reason))


def _refuses_all(reason: Exception) -> DatabaseRefused:
    return DatabaseRefused(
        f"the database refuses every record: {describe_refusal(reason)}\n"
        "fix the table or its triggers, then load again",
        sqlstate=getattr(reason, "sqlstate", None),
    )
