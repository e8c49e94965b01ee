from __future__ import annotations

import traceback
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seed_registry.errors import SettingsInvalid
from seed_registry.settings import PERCENTAGE_AFTER_RECORDS, DatabaseUrl, MaxRejects, Settings, parse_bytes

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine fails no test


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"batch_size": 0}, "--batch-size"),
        ({"batch_size": 100_001}, "--batch-size"),
        ({"batch_bytes": 1023}, "--batch-bytes"),
        ({"batch_bytes": (256 << 20) + 1}, "--batch-bytes"),
        ({"concurrency": 0}, "--concurrency"),
        ({"concurrency": -1}, "--concurrency"),
        ({"concurrency": 257}, "--concurrency"),
        ({"max_record_bytes": 1023}, "--max-record-bytes"),
        ({"max_record_bytes": (255 << 20) + 1}, "--max-record-bytes"),
        ({"max_sources": 0}, "--max-sources"),
        ({"verify_sample": -1}, "--sample"),
        ({"domain": ""}, "--domain"),
        ({"language": ""}, "--language"),
        ({"language": "english, please"}, "--language"),
        ({"domain": "https://data.example.org"}, "--domain"),
        ({"domain": "two words"}, "--domain"),
        ({"domain": "d" * 254}, "--domain"),
        ({"records_at": ""}, "--records-at"),
        ({"records_at": "a..b"}, "--records-at"),
        ({"records_at": ".a"}, "--records-at"),
        ({"columns": {"asset_key": "x"}}, "--column"),
        ({"columns": {"tables.asset_key": "x"}}, "--column"),
        ({"columns": {"assets.Key": "x"}}, "--column"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_flag(options: dict[str, Any], flag: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        Settings(**options)
    assert str(caught.value).startswith(f"{flag} ")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 1, "batch_bytes": 1 << 10, "concurrency": 1, "max_record_bytes": 1 << 10, "verify_sample": 0},
        {"batch_size": 100_000, "batch_bytes": 256 << 20, "concurrency": 256, "max_record_bytes": 255 << 20},
        {"domain": "d" * 253, "records_at": "result.results", "columns": {"assets.asset_key": "external_id"}},
        {"domain": "data.example.org:8080", "records_at": "a"},
    ],
)
def test_the_ends_of_every_range_are_fine(options: dict[str, Any]) -> None:
    assert Settings(**options) == Settings(**options)


def test_settings_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Settings().batch_size = 3  # type: ignore[misc]


def test_the_message_says_what_would_do() -> None:
    with pytest.raises(SettingsInvalid, match=r"^--batch-size must be from 1 to 100,000, got 1,000,000$"):
        Settings(batch_size=1_000_000)
    with pytest.raises(SettingsInvalid, match=r"a host name like data\.example\.org, got 'a b'$"):
        Settings(domain="a b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_rejects": "1%"}, "max_rejects takes MaxRejects.parse('1%')"),
        ({"max_rejects": 100}, "max_rejects takes MaxRejects.parse('100')"),
        ({"keys": "3/8"}, "keys takes KeyPart.parse('3/8')"),
        ({"database_url": "postgresql://u:s3cr3t@h/d"}, "database_url takes a DatabaseUrl, which does not print "),
        ({"concurrency": "a"}, "--concurrency takes a number, got 'a'"),
        ({"batch_size": "500"}, "--batch-size takes a number, got '500'"),
        ({"io_timeout_seconds": None}, "--io-timeout takes a number, got None"),
    ],
)
def test_a_value_of_another_type_is_refused_with_what_would_do(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        Settings(**options)
    assert str(caught.value).startswith(message)
    assert "s3cr3t" not in str(caught.value)


# sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("1048576", 1 << 20), ("4MiB", 4 << 20), ("4mib", 4 << 20), (" 4 MiB ", 4 << 20), ("500KB", 500_000),
        ("500K", 500_000), ("2k", 2000), ("1GiB", 1 << 30), ("1GB", 10**9), ("2TiB", 2 << 40), ("7B", 7),
        ("64KiB", 64 << 10),
    ],
)  # fmt: skip
def test_a_size_is_read_with_its_unit(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["", " ", "MiB", "-1", "1.5MiB", "4PiB", "4MiBs", "4 M iB", "1e6", "0x10", "1_000", "9" * 5000]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(SettingsInvalid, match="a size looks like 4MiB"):
        parse_bytes(text)


@given(st.text())
@untimed
def test_any_text_is_a_size_or_refused(text: str) -> None:
    with suppress(SettingsInvalid):
        assert parse_bytes(text) >= 0


# how many rejects are too many


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100", MaxRejects(records=100, percent=None)),
        ("0", MaxRejects(records=0, percent=None)),
        ("10%", MaxRejects(percent=10.0)),
        (" 2.5 % ", MaxRejects(percent=2.5)),
        ("0%", MaxRejects(percent=0.0)),
        ("100%", MaxRejects(percent=100.0)),
    ],
)
def test_a_number_or_a_percentage_limits_the_rejects(text: str, expected: MaxRejects) -> None:
    assert MaxRejects.parse(text) == expected
    assert MaxRejects.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text", ["", "%", "-1", "1.5", "101%", "100.1%", "ten", "1%%", "nan%", "inf", "1e3", "9" * 5000, "9" * 5000 + "%"]
)
def test_neither_a_number_nor_a_percentage_is_refused_by_the_flag(text: str) -> None:
    with pytest.raises(SettingsInvalid, match=r"^--max-rejects takes a number like 100 or a percentage like"):
        MaxRejects.parse(text)


def test_a_number_is_passed_by_one_more() -> None:
    limit = MaxRejects.parse("2")
    assert [limit.exceeded(rejected, 3) for rejected in range(5)] == [False, False, False, True, True]
    assert MaxRejects.parse("0").exceeded(1, 1)
    assert not MaxRejects.parse("0").exceeded(0, 1_000_000)


def test_a_percentage_counts_once_enough_records_were_read() -> None:
    limit = MaxRejects()
    assert str(limit) == "10%"
    enough = PERCENTAGE_AFTER_RECORDS
    assert not limit.exceeded(enough - 1, enough - 1)
    assert not limit.exceeded(enough // 10, enough)
    assert limit.exceeded(enough // 10 + 1, enough)
    assert MaxRejects.parse("0%").exceeded(1, enough)
    assert not MaxRejects.parse("100%").exceeded(enough, enough)


# passwords


SECRET_URLS = [
    "postgresql://user:{}@host/db",
    "postgresql://user:{}@host:5432/db?sslmode=require",
    "postgresql://:{}@host/db",
    "postgres://user:{}@[::1]:5432/db",
    "postgresql://user:{}@h1:1,h2:2/db",
    "postgresql://host/db?user=me&password={}",
    "postgresql:///db?host=/run&password={}",
    "postgresql://user@host/db?passfile=x&password={}#{}",
    "postgresql://user:{}@host",
    "postgresql://user:{}@[broken/db",
    "host=localhost password={} dbname=db",
    "user:{}@host/db",
    "//user:{}@host/db",
]  # fmt: skip
SECRETS = [
    "s3cr3t",
    "s%40cr3t",
    "s@cr3t",
    "s/cr3t",
    "s?cr3t",
    "s#cr3t",
    "s:cr3t",
    "s[cr3t",
    "123/cr3t",
    "%73%33cr3t",
    "s cr3t",
]


@pytest.mark.parametrize("template", SECRET_URLS)
@pytest.mark.parametrize("secret", SECRETS)
def test_a_password_is_never_shown(template: str, secret: str) -> None:
    url = DatabaseUrl(template.format(secret, secret))
    settings = Settings(database_url=url)
    trace = "".join(traceback.format_exception_only(ValueError(url, settings)))
    for shown in (
        str(url),
        repr(url),
        f"{url}",
        f"{url!r}",
        str(settings),
        repr(settings),
        str([url]),
        trace,
    ):
        assert "cr3t" not in shown
        assert f":{secret[0]}" not in shown.replace("postgres:s", "")
    assert url.reveal == template.format(secret, secret)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://user:s3cr3t@host:5432/db?x=1", "postgresql://user@host:5432/db"),
        ("postgresql://user@host/db", "postgresql://user@host/db"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("postgresql://user:s@cr3t@host/db", "postgresql://user@host/db"),
    ],
)
def test_the_rest_of_a_url_is_shown(url: str, shown: str) -> None:
    assert str(DatabaseUrl(url)) == shown
    assert repr(DatabaseUrl(url)) == f"DatabaseUrl({shown})"


def test_urls_are_equal_by_all_they_hold() -> None:
    assert DatabaseUrl("postgresql://a:1@h/d") == DatabaseUrl("postgresql://a:1@h/d")
    assert DatabaseUrl("postgresql://a:1@h/d") != DatabaseUrl("postgresql://a:2@h/d")
    assert len({DatabaseUrl("x"), DatabaseUrl("x"), DatabaseUrl("y")}) == 2
    assert DatabaseUrl("x") != "x"
