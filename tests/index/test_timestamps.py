from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seed_registry.index.timestamps import parse_timestamp

MOMENTS = {
    # ISO 8601, reduced
    "2018": (2018,), "2018-05": (2018, 5), "2018-05-07": (2018, 5, 7), "20180507": (2018, 5, 7),
    "2018Z": (2018,), "2018-05Z": (2018, 5), "2018-05:00": (2018, 1, 1, 5), "2018-05+02:00": (2018, 4, 30, 22),
    # days with a zone, as xsd:date has them
    "2018-05-07Z": (2018, 5, 7), "2018-05-07+02:00": (2018, 5, 6, 22), "2018-05-07-05:00": (2018, 5, 7, 5),
    # weeks
    "2018-W19": (2018, 5, 7), "2018-W19-2": (2018, 5, 8), "2018W192": (2018, 5, 8),
    # times
    "2018-05-07T10": (2018, 5, 7, 10), "2018-05-07T10:11": (2018, 5, 7, 10, 11),
    "20180507T101112": (2018, 5, 7, 10, 11, 12),
    "2018-05-07 10:11:12": (2018, 5, 7, 10, 11, 12), "2018-05-07t10:11:12z": (2018, 5, 7, 10, 11, 12),
    "20180507T101112Z": (2018, 5, 7, 10, 11, 12), "20180507T101112+0200": (2018, 5, 7, 8, 11, 12),
    "2018-05-07T10:11:12.5Z": (2018, 5, 7, 10, 11, 12, 500_000),
    "2018-05-07T10:11:12.123456789Z": (2018, 5, 7, 10, 11, 12, 123_456),
    "2018-05-07T10:11:12,25+00:00": (2018, 5, 7, 10, 11, 12, 250_000),
    "2018-05-07T10:11:12+0000": (2018, 5, 7, 10, 11, 12), "2018-05-07T10:11:12+02": (2018, 5, 7, 8, 11, 12),
    "2018-05-07 10:11:12 +0000": (2018, 5, 7, 10, 11, 12),
    "2018-05-07 10:11:12.5 UTC": (2018, 5, 7, 10, 11, 12, 500_000),
    " 2018-05-07\n": (2018, 5, 7), "2018-05-07T10:11:12 GMT": (2018, 5, 7, 10, 11, 12),
}  # fmt: skip


@pytest.mark.parametrize(("text", "parts"), MOMENTS.items())
def test_what_portals_write_is_a_moment(text: str, parts: tuple[int, ...]) -> None:
    year, month, day, hour, minute, second, microsecond = (*parts, *(0, 1, 1, 0, 0, 0, 0)[len(parts) :])
    assert parse_timestamp(text)[0] == datetime(year, month, day, hour, minute, second, microsecond, tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    ["R/P1M", "R/P0.5D", "irregular", "2015/2018", "2015-01-01/2018-01-01", "2015/..", "1371737836", "1371737836000",
     "201805071101112", "201805", "2018-13", "2018-00", "2018-5", "18-05-07", "2018-02-30", "0001", "9999", "2200-01",
     "05/07/2018", "07.05.2018", "2018-05-07T25:00", "2018-05-07x10:00", "2018-05-07T10:00+99:99",
     "\u0662\u0660\u0661\u0668",
     1371737836, 1.5, True, ["2018", "2019"], {"what": "2018"}, [[]], float("inf")],
)  # fmt: skip
def test_a_value_without_a_moment_is_none_and_is_reported(value: Any) -> None:
    assert parse_timestamp(value) == (None, True)


@pytest.mark.parametrize(
    ("value", "year"),
    [(["2018-05"], 2018), ({"@value": "2018", "@type": "xsd:gYear"}, 2018), (2015, 2015), (20180507, 2018)],
)
def test_a_moment_may_stand_in_a_list_or_a_typed_value_or_be_a_number(value: Any, year: int) -> None:
    found = parse_timestamp(value)[0]
    assert found is not None
    assert found.year == year


@pytest.mark.parametrize("value", [None, ""])
def test_nothing_is_no_moment_and_nothing_to_tell(value: Any) -> None:
    assert parse_timestamp(value) == (None, False)


@given(st.datetimes(datetime(1901, 1, 1), datetime(2198, 12, 31)), st.integers(-14 * 60, 14 * 60))  # noqa: DTZ001
@settings(deadline=None)
def test_every_moment_is_read_in_every_form_that_it_is_written_in(moment: datetime, minutes: int) -> None:
    expected = moment.replace(tzinfo=UTC) - timedelta(minutes=minutes)
    zone = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
    for text in (
        f"{moment.isoformat()}{zone}",
        f"{moment.isoformat(' ')} {zone}",
        f"{moment.isoformat()}{zone.replace(':', '')}",
    ):
        assert parse_timestamp(text)[0] == expected
    basic = f"{moment:%Y%m%dT%H%M%S}.{moment.microsecond:06}{zone}"
    assert parse_timestamp(basic)[0] == expected


@given(st.text(st.sampled_from("0123456789-:TZWR/+. "), max_size=30) | st.text())
@settings(deadline=None)
def test_any_text_is_a_moment_of_a_sane_year_or_none(text: str) -> None:
    moment, is_unusual = parse_timestamp(text)
    assert moment is None or moment.year in range(1900, 2200)
    assert moment is not None or is_unusual or text == ""
