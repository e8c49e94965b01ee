"""Counts of the rows that the registry has of the sources of an audit, of one part of the keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from heapq import nsmallest
from typing import Any

from msgspec import Struct, field

from seed_registry.key_hashes import KeyPart, hash_keys
from seed_registry.verify.audit_report import MOST_LISTED


class OwnRows(Struct):
    """The rows of one part.

    Attributes:
        counts: for each source its rows, those that the indexes do not have, and retired of these.
        others: how many rows are of other parts.
        keys: the first ones that the indexes do not have, each with its source; empty of all parts together.
    """

    counts: list[tuple[int, int, int, int]]
    others: int = 0
    keys: list[tuple[str, int]] = []


class UnlistedRows(Struct):
    """The rows that the indexes do not have, by the number of their source: they may be of any part."""

    part: KeyPart
    extra: Counter[int] = field(default_factory=Counter)
    retired: Counter[int] = field(default_factory=Counter)
    others: Counter[int] = field(default_factory=Counter)
    keys: list[tuple[str, int]] = field(default_factory=list)

    def take(self, rows: Sequence[Any]) -> None:
        """Take rows: key, source, whether it is retired."""
        are_own = self.part.has_each(hash_keys([key for key, *_ in rows]))
        extra = []
        for (key, source, is_retired), is_own in zip(rows, are_own, strict=True):
            counts = self.others if not is_own else self.retired if is_retired else self.extra
            counts[source] += 1
            if counts is self.extra:
                extra.append((key, source))
        self.keys = nsmallest(MOST_LISTED, [*self.keys, *extra])

    def without_others(self, counts: Sequence[tuple[int, int, int, int]]) -> OwnRows:
        """The counts of all rows, without those of other parts."""
        own = [
            (source, rows - self.others[source], self.extra[source], self.retired[source])
            for source, rows, _, _ in counts
        ]
        return OwnRows(own, self.others.total(), self.keys)
