"""Compare the numbers of records that the headers of an index declare with the numbers read.

A portal answers a query in pages, each a document with the same total; an index may hold one of them, or many.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

from msgspec import Struct, field
from msgspec.structs import replace

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


class Count(Struct):
    """The declared and the read number of records of all pages.

    Attributes:
        said: the different declared numbers, no more than two.
        declared, read: the sums.
        wrong: both numbers of the first page that says something else than it holds.
    """

    said: list[int] = []
    declared: int = 0
    read: int = 0
    wrong: tuple[int, int] | None = None

    def add(self, later: Count) -> None:
        """Add pages that come after these."""
        self.said = list(dict.fromkeys(self.said + later.said))[:2]
        self.declared += later.declared
        self.read += later.read
        self.wrong = self.wrong or later.wrong

    @property
    def verdict(self) -> tuple[int, int]:
        """Declared and read: of all pages, or of the first that is wrong."""
        if self.wrong is None:
            return self.declared, self.read
        # Each page may declare the count of all of them.
        return (self.said[0], self.read) if len(self.said) == 1 else self.wrong


class Part(Struct):
    """What was read of a page, or of a part of it that lies in a shard.

    Attributes:
        counts: the number of records by the path of their array.
        sources: keys of sources, up to two: one, or several?
    """

    counts: list[tuple[Path, int]] = []
    sources: list[str] = []

    def add(self, later: Part) -> None:
        """Add what comes after this part of the same page."""
        counts = dict(self.counts)
        for path, count in later.counts:
            counts[path] = counts.get(path, 0) + count
        self.counts = list(counts.items())
        self.sources = list(dict.fromkeys(self.sources + later.sources))[:2]


class Header(Struct, frozen=True):
    """What the header of a page says about its records.

    Attributes:
        portal: it is the portal's own index.
        declared: paths of arrays, each with the name of the field and the number of records that it declares.
        total: of the portal.
    """

    portal: str
    declared: list[tuple[Path, str, int]]
    total: int | None


class Sums(Struct):
    """Declared and read numbers of the pages that have ended.

    Attributes:
        declared: by header field.
        read: the number of records read of each question to a portal, by its total and the portal, "120 data.org".
    """

    declared: dict[str, Count] = field(default_factory=dict)
    read: dict[str, int] = field(default_factory=dict)

    def end(self, header: Header, part: Part, kinds: Mapping[Path, str]) -> None:
        """Add a page that has ended; `kinds` are those of the dialect's arrays."""
        counts = dict(part.counts)
        for path, name, said in header.declared:
            read = counts.get(path, 0)
            wrong = (said, read) if said != read else None
            self.declared.setdefault(name, Count()).add(Count([said], said, read, wrong))
        if header.total is not None:
            portal = header.portal or (part.sources[0] if len(part.sources) == 1 else "")
            read = sum(count for path, count in part.counts if kinds.get(path, "asset") == "asset")
            self._add(f"{header.total} {portal}", read)

    def add(self, later: Sums) -> None:
        """Add pages that come after these."""
        for name, count in later.declared.items():
            self.declared.setdefault(name, Count()).add(count)
        for question, read in later.read.items():
            self._add(question, read)

    def totals(self, dialect: str) -> list[Total]:
        """The totals of the portals, with the number read of each."""
        questions = ((*question.partition(" "), read) for question, read in self.read.items())
        return [Total(dialect, portal, int(total), read) for total, _, portal, read in questions]

    def verdicts(self) -> list[tuple[str, int, int]]:
        """Header fields that declare the records of their own document: name, declared, read."""
        return [(name, *count.verdict) for name, count in self.declared.items()]

    def _add(self, question: str, read: int) -> None:
        if question in self.read or len(self.read) < _MOST_QUESTIONS:
            self.read[question] = self.read.get(question, 0) + read


class PageSummary(Struct):
    """The pages of a shard, or of a whole index.

    A page may lie in several shards; so the first and the last one of a shard stand for themselves.

    Attributes:
        first: of the page that the shard begins in or with.
        header: of that page, if it ends in the shard.
        later: of the pages that lie in the shard as a whole, but for the first.
        last: of the page that begins in the shard and does not end there.
    """

    first: Part = field(default_factory=Part)
    header: Header | None = None
    later: Sums = field(default_factory=Sums)
    last: Part = field(default_factory=Part)


def summed(summaries: Iterable[PageSummary], kinds: Mapping[Path, str]) -> Sums:
    """The sums over all shards of an index, in their order; `kinds` are those of the dialect's arrays."""
    sums, page = Sums(), Part()
    for summary in summaries:
        page.add(summary.first)
        if summary.header is not None:
            sums.end(summary.header, page, kinds)
            page = Part()
        sums.add(summary.later)
        page.add(summary.last)
    return sums


class Pages:
    """The headers of the pages of an index, noted at the end of each."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._ended = 0
        self._sources: set[str] = set()  # of this page, up to two: one, or several?
        self._waits = False  # whether this page has records that need a header which is not read yet
        self._portals: list[tuple[int, str]] = []  # where pages begin, and their portals, from the first that waits on
        self._summary = PageSummary()

    def note(
        self,
        framer: DocumentFramer,
        portal: str,
        records: Sequence[Record],
        *,
        waits: bool,
        header: Mapping[str, Any] | None = None,
        count: int | None = None,
    ) -> Problem | None:
        """Note the records read of a page so far; returns a problem if the pages are of too many portals.

        Args:
            framer: reads the page.
            portal: from its header.
            records: the last ones read of it.
            waits: whether they may depend on a header that is not read yet.
            header: of the page, if not the framer's.
            count: the number of records in the page, if not that of its elements.
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
        part, noted = self._part(framer), self._header(framer.header if header is None else header, portal)
        if count is not None:
            part.counts = [(path, count) for path, _ in part.counts[:1]]
        self._sources, self._waits = set(), False
        if self._summary.header is None:
            self._summary.first, self._summary.header = part, noted
        else:
            self._summary.later.end(noted, part, self._dialect.arrays)
        return None

    def portal_at(self, offset: int) -> str | None:
        """The portal in the header of the page of a record that waited for it; None if all pages have one."""
        if self._ended < 2 or not self._portals:  # noqa: PLR2004  # of one page it is known
            return None
        return self._portals[max(bisect_right(self._portals, offset, key=itemgetter(0)) - 1, 0)][1]

    def summary(self, framer: DocumentFramer) -> PageSummary:
        """The pages so far."""
        if framer.pages == self._ended:
            return self._summary
        if self._summary.header is None:
            return PageSummary(first=self._part(framer))
        return replace(self._summary, last=self._part(framer))

    def total(self, header: Mapping[str, Any]) -> int | None:
        """The number of records of the portal, from a header."""
        for path in self._dialect.totals:
            total = value_at(header, path)
            if type(total) is int and total >= 0:
                return total
        return None

    def declared(self) -> Iterable[tuple[str, int, int]]:
        """Header fields that declare the records of their own document: name, declared, read."""
        return self._sums().verdicts()

    def totals(self) -> list[Total]:
        """The totals of the portals, with the number read of each."""
        return self._sums().totals(self._dialect.name)

    def _sums(self) -> Sums:
        return summed([self._summary], self._dialect.arrays)

    def _part(self, framer: DocumentFramer) -> Part:
        return Part(list(framer.page_counts.items()), sorted(self._sources)[:2])

    def _header(self, header: Mapping[str, Any], portal: str) -> Header:
        declared = [
            (path, name, header[name])
            for path, name in self._dialect.declared.items()
            if type(header.get(name)) is int and value_at(header, path) == []
        ]
        return Header(portal, declared, self.total(header))
