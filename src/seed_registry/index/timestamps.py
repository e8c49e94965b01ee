"""Parse the dates of portals (ISO 8601; UTC if they have no zone)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

from seed_registry.index.literal_numbers import LiteralNumber

# Other years are slips and placeholders: 0001, 9999.
_YEARS: Final = range(1900, 2200)
# Python takes any character between day and time, and "2018-05-07+02:00" for two o'clock.
_SEPARATORS: Final = frozenset({"", "T", " "})
_ZONE: Final = r"(?:\s?(?P<zone>Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?))?"
# A year or a month becomes its first moment; a day may have a zone (https://www.w3.org/TR/xmlschema-2/#date).
_REDUCED: Final = re.compile(rf"(?P<year>\d{{4}})(?:-(?P<month>\d{{2}})(?:-(?P<day>\d{{2}}))?)?{_ZONE}", re.ASCII)
_WITH_TIME: Final = re.compile(
    rf"(?P<day>\d{{4}}-?\d{{2}}-?\d{{2}})[T\s](?P<time>[\d:]{{2,8}}(?:[.,]\d+)?){_ZONE}", re.ASCII
)


def parse_timestamp(value: Any) -> tuple[datetime | None, bool]:
    """Return the moment in UTC, and whether the value was unusual; unusual without a moment, it is no date.

    Args:
        value: a text, a datetime, or any other value of a record.
    """
    if value is None or value == "":
        return None, False
    if type(value) is str and value[10:11] not in _SEPARATORS:
        return _unusual(value), True
    try:
        moment = value if type(value) is datetime else datetime.fromisoformat(value)
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError):
        return _unusual(_only(value)), True
    return (moment, False) if moment.year in _YEARS else (None, True)


def parse_common_timestamp(value: str | datetime | None) -> datetime | None:
    """Parse a date in a common format; the result equals that of `parse_timestamp`.

    Raises:
        ValueError, OverflowError: it has another format.
    """
    if not value:
        return None
    if type(value) is datetime:
        moment = value
    else:
        assert type(value) is str
        if value[10:11] not in _SEPARATORS:
            raise ValueError(value)
        moment = datetime.fromisoformat(value)
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment.year not in _YEARS:
        raise ValueError(value)
    return moment


def _in_utc(moment: datetime) -> datetime | None:
    try:
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        return None
    return moment if moment.year in _YEARS else None


def _only(value: Any) -> Any:
    """The only value of a list or of a typed value of JSON-LD; a number as it is written."""
    if type(value) is list and len(value) == 1:
        return _only(value[0])
    if type(value) is dict:
        return _only(value.get("@value"))
    return value.text if isinstance(value, LiteralNumber) else str(value) if type(value) is int else value


def _unusual(value: Any) -> datetime | None:
    if type(value) is not str:
        return None
    text = value.strip().upper()
    try:
        if match := _REDUCED.fullmatch(text):
            year, month, day = (int(match[part] or 1) for part in ("year", "month", "day"))
            return _in_utc(datetime(year, month, day, tzinfo=_zone(match["zone"])))
        if match := _WITH_TIME.fullmatch(text):
            moment = datetime.fromisoformat(f"{match['day']}T{match['time']}")
            return _in_utc(moment.replace(tzinfo=_zone(match["zone"])))
        # Days and weeks that only lacked the usual separator, or had white space around them.
        return _in_utc(datetime.fromisoformat(text)) if text[10:11] in _SEPARATORS else None
    except ValueError:
        return None


def _zone(text: str | None) -> timezone:
    if text is None or text in ("Z", "UTC", "GMT"):
        return UTC
    hours, minutes = int(text[1:3]), int(text[-2:]) if len(text) > 3 else 0  # noqa: PLR2004  # a sign and hours
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)
