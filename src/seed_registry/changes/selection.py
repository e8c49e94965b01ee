"""The filter of the feed from what was typed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from seed_registry.changes.cursor import Cursor
from seed_registry.changes.feed import FeedFilter
from seed_registry.changes.moments import parse_moment


def select(
    run_id: str | None, since: str | None, after: str | None, source: str | None, kinds: Iterable[str]
) -> FeedFilter:
    """Return the filter that these texts say.

    Raises:
        SettingsInvalid: `since` is no moment, or `after` no cursor.
    """
    return FeedFilter(
        run_id=run_id,
        since=parse_moment(since, datetime.now(UTC), "--since") if since is not None else None,
        after=Cursor.parse(after) if after is not None else None,
        source=source,
        kinds=tuple(dict.fromkeys(kinds)),
    )
