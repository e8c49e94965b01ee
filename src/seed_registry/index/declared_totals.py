"""Compare the numbers of records that the headers of an index declare with the numbers read.

A portal answers a query in pages, each a document with the same total; an index may hold one of them, or many.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

from seed_registry.index.dialects.base import Dialect
from seed_registry.index.json_document import DocumentFramer
from seed_registry.index.json_envelope import Path, Problem
from seed_registry.index.unread_arrays import value_at
from seed_registry.records import Asset, Record
from seed_registry.shortfall import Total

# Different queries in one index; further ones are left out, so that memory is bounded.
_MOST_QUESTIONS: Final = 1_000
# 10 MB; needed only where headers come after records.
_MOST_PORTALS: Final = 100_000


class Pages:
    """The headers of the pages of an index, noted at the end of each."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._ended = 0
        self._sources: set[str] = set()  # of this page, up to two: one, or several?
        self._waits = False  # whether this page has records that need a header which is not read yet
        self._portals: list[tuple[int, str]] = []  # where pages begin, and their portals, from the first that waits on
        self._declared: dict[str, _Count] = {}  # by header field
        self._read: dict[tuple[str, int], int] = {}  # by portal and total

    def note(self, framer: DocumentFramer, portal: str, records: Sequence[Record], *, waits: bool) -> Problem | None:
        """Note the records read of a page so far; returns a problem if the pages are of too many portals.

        Args:
            framer: reads the page.
            portal: from its header.
            records: the last ones read of it.
            waits: whether they may depend on a header that is not read yet.
        """
        if self._dialect.totals and not portal and len(self._sources) < 2:  # noqa: PLR2004  # one, or several
            self._sources.update(record.source_key for record in records if type(record) is Asset)
        self._waits |= waits and bool(records)
        if not framer.closed or framer.pages == self._ended:
            return None
        self._ended = framer.pages
        if (self._waits or self._portals) and (not self._portals or self._portals[-1][1] != portal):
            if len(self._portals) >= _MOST_PORTALS:
                return Problem(
                    f"more than {_MOST_PORTALS:,} changes of the portal: split the index", framer.page_offset
                )
            self._portals.append((framer.page_offset, portal))
        sources, self._sources, self._waits = self._sources, set(), False
        self._end(framer.header, framer.page_counts, portal or (sources.pop() if len(sources) == 1 else ""))
        return None

    def portal_at(self, offset: int) -> str | None:
        """The portal in the header of the page of a record that waited for it; None if all pages have one."""
        if self._ended < 2 or not self._portals:  # noqa: PLR2004  # of one page it is known
            return None
        return self._portals[max(bisect_right(self._portals, offset, key=itemgetter(0)) - 1, 0)][1]

    def _end(self, header: Mapping[str, Any], counts: Mapping[Path, int], portal: str) -> None:
        for path, name in self._dialect.declared.items():
            said = header.get(name)
            if type(said) is int and value_at(header, path) == []:
                self._declared.setdefault(name, _Count()).add(said, counts.get(path, 0))
        total = self.total(header)
        if total is not None:
            read = sum(count for path, count in counts.items() if self._dialect.arrays.get(path, "asset") == "asset")
            question = (portal, total)
            if question in self._read or len(self._read) < _MOST_QUESTIONS:
                self._read[question] = self._read.get(question, 0) + read

    def total(self, header: Mapping[str, Any]) -> int | None:
        """The number of records of the portal, from a header."""
        for path in self._dialect.totals:
            total = value_at(header, path)
            if type(total) is int and total >= 0:
                return total
        return None

    def declared(self) -> Iterator[tuple[str, int, int]]:
        """Header fields that declare the records of their own document: name, declared, read."""
        for name, count in self._declared.items():
            yield name, *count.verdict

    def totals(self) -> list[Total]:
        """The totals of the portals, with the number read of each."""
        name = self._dialect.name
        return [Total(name, portal, total, read) for (portal, total), read in self._read.items()]


class _Count:
    """The declared and the read number of records of all pages."""

    def __init__(self) -> None:
        self._said: set[int] = set()  # no more than two
        self._sum = self._read = 0
        self._wrong: tuple[int, int] | None = None  # the first page that says something else than it holds

    def add(self, said: int, read: int) -> None:
        """Note a page."""
        if len(self._said) < 2:  # noqa: PLR2004  # are they all the same?
            self._said.add(said)
        self._sum += said
        self._read += read
        if said != read and self._wrong is None:
            self._wrong = (said, read)

    @property
    def verdict(self) -> tuple[int, int]:
        """Declared and read: of all pages, or of the first that is wrong."""
        if self._wrong is None:
            return self._sum, self._read
        # Each page may declare the count of all of them.
        return (self._said.copy().pop(), self._read) if len(self._said) == 1 else self._wrong
