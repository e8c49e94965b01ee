"""Moments and durations as they are typed."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from seed_registry.errors import SettingsInvalid
from seed_registry.escape import quote_text

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhdw])", re.ASCII)


def parse_duration(text: str, flag: str) -> timedelta:
    """Read a duration like `90d`, `24h`, `1.5h`, `2w`.

    Raises:
        SettingsInvalid: it is none; the message names the flag.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise SettingsInvalid(f"{flag} takes a duration like 90d, 24h or 30m, got {quote_text(text)}")
    try:
        return timedelta(**{_UNITS[match[2]]: float(match[1])})
    except OverflowError:
        raise SettingsInvalid(f"{flag}: {quote_text(text)} is longer than any history") from None


def parse_moment(text: str, now: datetime, flag: str) -> datetime:
    """Read a moment in ISO 8601, in UTC unless it names a zone, or a duration before `now`.

    Raises:
        SettingsInvalid: it is neither.
    """
    try:
        if _DURATION.fullmatch(text.strip().lower()):
            return now - parse_duration(text, flag)
        moment = datetime.fromisoformat(text.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise SettingsInvalid(
            f"{flag} takes a date or time like 2026-11-28 or 2026-11-28T08:30Z (UTC if it names no zone), or how long "
            f"ago, like 24h or 7d; got {quote_text(text)}"
        ) from None
