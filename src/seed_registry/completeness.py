"""Completeness: whether the indexes of a run hold all that their portals say they have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from seed_registry.report import Incomplete


class Total(Struct, frozen=True):
    """How many records a portal has for one question, as the pages of an index say, and how many those pages hold.

    `portal` is empty where pages do not tell it, and where one has records of several.
    """

    dialect: str
    portal: str
    declared: int
    read: int
    index: str = ""


def incomplete(totals: Iterable[Total], repeated: int) -> list[Incomplete]:
    """The questions whose answers were not read to their end.

    Pages belong together that share dialect, portal and total; those without a portal take in all others of their
    total. A record that repeats the key of another is not one more: a page loaded twice completes nothing. Which
    question it belongs to is not known, so it is missing from each.

    Args:
        totals: of all indexes of a run.
        repeated: how many records of the run had the key of another one.
    """
    return [
        Incomplete(together[0].index, together[0].declared, max(read - repeated, 0) if read >= declared else read)
        for together in _together(totals)
        if (read := sum(total.read for total in together)) - repeated < (declared := together[0].declared)
    ]


def _together(totals: Iterable[Total]) -> Iterable[Sequence[Total]]:
    by_total: dict[tuple[str, int], dict[str, list[Total]]] = {}
    for total in totals:
        by_total.setdefault((total.dialect, total.declared), {}).setdefault(total.portal, []).append(total)
    for by_portal in by_total.values():
        if "" in by_portal:
            yield [total for of_portal in by_portal.values() for total in of_portal]
        else:
            yield from by_portal.values()
