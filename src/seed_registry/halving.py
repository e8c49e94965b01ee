"""Halving: the one record of a batch that the database refuses, found without losing its neighbours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

from seed_registry.errors import DatabaseRefused
from seed_registry.registry.connecting import refusal
from seed_registry.registry.remedies import Remedy, remedy

Item = TypeVar("Item")


async def merge_halving(
    records: list[Item],
    merge: Callable[[list[Item]], Awaitable[None]],
    refused: Callable[[Item, str], None],
    probe: Callable[[Item], Awaitable[None]],
) -> None:
    """Merge a batch; a batch that is refused is split, in order, until the guilty record stands alone.

    Args:
        records: the batch.
        merge: writes records in one transaction.
        refused: is told a record that was refused alone, and why.
        probe: raises, if the database refuses any other record as well: then it is no record's fault.

    Raises:
        DatabaseRefused: the database refuses every record.
        Exception: whatever `merge` raises that is no record's fault.
    """
    try:
        await merge(records)
    except Exception as exc:
        if remedy(exc) is not Remedy.HALVE:
            raise
        if len(records) == 1:
            await _blame(records[0], probe)
            refused(records[0], refusal(exc))
            return
        half = len(records) // 2
        for part in (records[:half], records[half:]):
            await merge_halving(part, merge, refused, probe)


async def _blame(record: Item, probe: Callable[[Item], Awaitable[None]]) -> None:
    try:
        await probe(record)
    except Exception as exc:
        if remedy(exc) is not Remedy.HALVE:
            raise
        mend = "mend the table or its triggers, then load again"
        if isinstance(exc, asyncpg.ForeignKeyViolationError):
            mend = "its source was deleted meanwhile: load again"
        raise DatabaseRefused(
            f"the database refuses every record: {refusal(exc)}\n{mend}", sqlstate=getattr(exc, "sqlstate", None)
        ) from exc
