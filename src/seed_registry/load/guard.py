"""Decides whether the assets that are no longer listed are too many to be retired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from seed_registry.escape import printable
from seed_registry.load.listed_keys import ListedKeys
from seed_registry.load.retry import Connection
from seed_registry.load.unlisted import UnlistedAssets, UnlistedQuery
from seed_registry.records import SourceRow
from seed_registry.registry.tables import Tables
from seed_registry.report import LeftAlone, Retirement, SourceRetirement
from seed_registry.settings import MaxRetire, Settings

# Sources that a report names.
_MOST_SOURCES: Final = 1_000
_MOST_IN_MESSAGE: Final = 3


class Guard:
    """How many assets may be retired."""

    def __init__(self, limit: MaxRetire, sources: Mapping[str, SourceRow], unlisted: UnlistedAssets) -> None:
        names = {row.id: key for key, row in sources.items() if row.id is not None}
        self._limit = limit
        self._unlisted = unlisted
        self.held = sum(unlisted.held.values())
        self.count = unlisted.count.total()
        found = [
            SourceRetirement(
                source=names[id_],
                held=(held := max(unlisted.held.get(id_, 0), count)),
                unlisted=count,
                keys=unlisted.samples[id_],
                is_over=limit.exceeded(count, held),
            )
            for id_, count in unlisted.count.items()
        ]
        self.per_source = sorted(found, key=lambda one: (not one.is_over, -one.unlisted, one.source))

    @property
    def reason(self) -> str | None:
        """Why nothing may be retired, in words."""
        over = [one for one in self.per_source if one.is_over]
        if not over and not self._limit.exceeded(self.count, self.held):
            return None
        shown = ", ".join(
            f"{printable(one.source, 100)} {one.unlisted:,} of {one.held:,}"
            for one in (over or self.per_source)[:_MOST_IN_MESSAGE]
        )
        more = len(over or self.per_source) - _MOST_IN_MESSAGE
        return (
            f"of {self.held:,} assets that the registry holds of these sources {self.count:,} are no longer listed, "
            f"more than --max-retire {self._limit} allows ({shown}{f' and {more:,} more' if more > 0 else ''})"
        )

    def retirement(self, reason: str | None, left_alone: Sequence[LeftAlone] = ()) -> Retirement:
        """What the report says."""
        return Retirement(
            reason=reason,
            max_retire=str(self._limit),
            held=self.held,
            unlisted=self.count,
            per_source=self.per_source[:_MOST_SOURCES],
            left_alone=list(left_alone[:_MOST_SOURCES]),
        )


def not_begun(settings: Settings, reason: str | None) -> Retirement:
    """The result where the indexes do not show what is no longer listed."""
    return Retirement(reason, str(settings.max_retire), 0, 0, [], [])


async def preview(
    connection: Connection,
    tables: Tables,
    settings: Settings,
    sources: Mapping[str, SourceRow],
    listed_keys: ListedKeys,
) -> Retirement:
    """What a load would retire."""
    listed_keys.settle()
    query = UnlistedQuery(tables, sources, listed_keys, part=settings.keys, seconds=settings.io_timeout_seconds)
    unlisted = await query.find(connection)
    unlisted.close()
    guard = Guard(settings.max_retire, sources, unlisted)
    return guard.retirement(guard.reason)
