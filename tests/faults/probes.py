"""Bad values, and an oracle that does not use our code: which must be stored, repaired or refused."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, cast

import asyncpg
import pytest
from msgspec import Struct, field

from seed_registry import DatabaseUrl, MaxRejects, Report, SeedRegistryError, Settings, ingest
from seed_registry.errors import IndexBroken, IndexesFailed, TooManyRejects
from seed_registry.index.decoder import REASONS
from seed_registry.index.inputs import IndexRef
from seed_registry.index.json_checks import MAX_DEPTH
from seed_registry.index.open import read_index
from seed_registry.records import Asset, Record, Reject
from seed_registry.registry.table_merge import TableMerger
from seed_registry.report import IndexReport

DOMAIN = "told.example.org"
BOM = b"\xef\xbb\xbf"
ROWS = """
select asset_key, source_key, a.name, description, a.url, a.raw::text
from registry.assets as a join registry.sources as s on s.id = a.source_id
"""
# Let Postgres compare the stored document with the record's bytes.
SAME = """
select key, pg_catalog.convert_from(data, 'UTF8')::jsonb = raw
from unnest($1::text[], $2::bytea[]) as given (key, data) join registry.assets on asset_key = key
"""


# The oracle: Python's own decoder, with every digit kept


class Row(Struct, frozen=True):
    """The row that must be stored of a record."""

    source: str
    name: str | None
    url: str | None
    value: Any
    data: bytes
    repaired: bool


class Expected(Struct):
    """The expected outcome of the lines of an index: rows by key, and possible reasons of each refused line."""

    read: int = 0
    rows: dict[str, Row] = field(default_factory=dict)
    refused: dict[tuple[int, int], set[str]] = field(default_factory=dict)
    repaired: int = 0


def exact(data: bytes | str) -> Any:
    """The value of JSON text, every digit of its numbers kept.

    Raises:
        ValueError: it is none; UnicodeDecodeError if it is not even text.
        RecursionError: it is nested some thousand levels deep.
    """
    text = data if isinstance(data, str) else data.decode()
    return json.loads(text, parse_int=_number, parse_float=_number, parse_constant=_refuse)


def faults(data: bytes) -> set[str]:
    """Every reason for which a record's bytes may be refused; if there is none they must be stored."""
    found: set[str] = set() if data.startswith(b"{") else {"not_an_object"}
    try:
        value = exact(data)
    except UnicodeDecodeError:
        return found | {"bad_utf8", "too_deep"}
    except RecursionError:
        return found | {"not_json", "too_deep"}
    except ValueError:
        return found | {"not_json", "bad_unicode", "too_deep"}
    waiting = [(value, 1)]
    while waiting:
        inner, depth = waiting.pop()
        if isinstance(inner, dict):
            waiting += [(key, 0) for key in inner]
            inner = list(inner.values())
        if isinstance(inner, list):
            waiting += [(item, depth + 1) for item in inner]
            found |= {"too_deep"} if depth > MAX_DEPTH else set()
        elif isinstance(inner, tuple) and not _fits_numeric(inner[1]):
            found.add("database_refused")
        elif isinstance(inner, str) and re.search("[\ud800-\udfff]", inner):
            found.add("bad_unicode")
    return found


def fixed(value: Any) -> Any:
    """The value with every U+0000 replaced, as it is stored; not for deep ones, it recurses."""
    if isinstance(value, dict):
        return {fixed(key): fixed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return list(map(fixed, value))
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def expected_of(data: bytes, domain: str = DOMAIN) -> Expected:
    """The expected outcome of an NDJSON index of the dialect directory."""
    result = Expected()
    offset = 0
    for number, line in enumerate(data.split(b"\n"), 1):
        stripped = line.strip(b" \t\r")
        if stripped:
            result.read += 1
            found, key, row = _outcome_of(stripped, domain)
            if row is not None:
                result.rows[key] = row
                result.repaired += row.repaired
            else:
                result.refused[number, offset] = found
        offset += len(line) + 1
    return result


def _outcome_of(data: bytes, domain: str) -> tuple[set[str], str, Row | None]:
    found = faults(data)
    if found:
        return found, "", None
    record = exact(data)
    key = record.get("id")
    key = key.strip() if isinstance(key, str) else str(int(key[1])) if isinstance(key, tuple) else ""
    source = record.get("domain") or domain
    source = source.strip().lower() if isinstance(source, str) else ""
    for text, missing in ((key, "no_key"), (source, "no_source")):
        found |= {missing} if not text else set()
        found |= {"nul_in_key"} if "\0" in text else set()
        found |= {"key_too_long"} if len(text.encode()) > 1000 else set()
    if found:
        return found, "", None
    value = fixed(record) if b"\\u0000" in data else record
    name, url = value.get("name"), value.get("permalink") or f"https://{source}/d/{key}"
    row = Row(source, name if isinstance(name, str) else None, url, value, data, repaired=value != record)
    return set(), key, row


def _number(text: str) -> tuple[str, Decimal | None]:
    """A number that equals neither True nor a text; None for what not even this decoder can hold."""
    try:
        return "number", Decimal(text)
    except InvalidOperation:
        return "number", None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _fits_numeric(number: Decimal | None) -> bool:
    """https://www.postgresql.org/docs/current/datatype-numeric.html: 131,072 digits before the point, 16,383 after."""
    if number is None:
        return False
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    return exponent >= -16_383 and (number.adjusted() < 131_072 or (not number and exponent < 1_000_000))


# Reading and loading


class Outcome(Struct):
    """What came of reading an index to its end, or to the error that ended it."""

    data: bytes
    records: list[Record] = field(default_factory=list)
    error: SeedRegistryError | None = None
    lines: bool = False

    @property
    def assets(self) -> list[Asset]:
        """The good ones."""
        return [record for record in self.records if isinstance(record, Asset)]

    @property
    def rejects(self) -> list[Reject]:
        """The others."""
        return [record for record in self.records if isinstance(record, Reject)]

    def check(self) -> None:
        """Every record is where it says and what its bytes say; whatever ended the reading says so fit to be seen."""
        for record in self.records:
            at = record.offset
            assert self.data.count(b"\n", 0, at) + 1 == record.line
            if isinstance(record, Reject):
                assert record.reason in REASONS
                assert record.detail.isprintable()
                assert self.data[at:].lstrip(b" \t\r\n").startswith(record.data.lstrip(b" \t\r\n"))
            else:
                found = self.data[at:].lstrip(b" \t\r\n")[: len(record.raw)]
                assert isinstance(record, Asset)
                assert (found == record.raw) is (record.repaired is None)
                assert not faults(found) - {"database_refused"}
                assert exact(record.raw) == fixed(exact(found))
        if self.error is not None:
            assert str(self.error)
            assert all(line.isprintable() for line in str(self.error).split("\n"))
            assert str(self.error).count("\n") <= 1
        if isinstance(self.error, IndexBroken):
            assert 0 <= self.error.offset <= len(self.data)


async def read(path: Path, data: bytes, packed: bytes | None = None, **options: Any) -> Outcome:
    """Write an index and read it; whatever is no `SeedRegistryError` is the test's failure."""
    path.write_bytes(data if packed is None else packed)  # noqa: ASYNC240  # nothing else runs in this event loop
    result = Outcome(data)
    try:
        async with read_index(IndexRef.of(path), Settings(**options)) as reader:
            result.lines = reader.shape.lines
            async for part in reader.records():
                result.records += part
    except SeedRegistryError as exc:
        result.error = exc
    result.check()
    return result


class Ways:
    """Which way batches of assets went: straight into the table, or through the staging table."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.straight = self.staged = 0
        # The staging table itself would be too low a place to look at: a probe goes through it on either way.
        copy_straight, write = TableMerger._copy_straight, TableMerger._write

        async def straight(merger: TableMerger, *arguments: Any) -> Any:
            self.straight += merger._table.relation == "assets"
            return await copy_straight(merger, *arguments)

        async def staged(merger: TableMerger, *arguments: Any) -> Any:
            self.staged += merger._table.relation == "assets"
            return await write(merger, *arguments)

        monkeypatch.setattr(TableMerger, "_copy_straight", straight)
        monkeypatch.setattr(TableMerger, "_write", staged)


class Loaded(Struct):
    """What a load said, and what it left."""

    report: Report
    rejects: list[dict[str, Any]]
    rows: dict[str, tuple[Any, ...]]

    def check(self, expected: Expected) -> None:
        """The counts' law, rows that are exactly those expected, and a reject for every other line."""
        assert self.report.assets.read == expected.read
        assert self.report.repaired == expected.repaired
        assert self.report.assets.rejected == len(expected.refused) == len(self.rejects)
        for reject in self.rejects:
            may_be = expected.refused.pop((reject["line"], reject["offset"]))
            assert reject["reason"] in may_be, (reject["reason"], may_be, reject["record"][:200])
            assert reject["detail"]
        assert not expected.refused
        assert self.rows.keys() == expected.rows.keys()
        for key, (source, name, _, url, stored) in self.rows.items():
            row = expected.rows[key]
            assert (source, name, url) == (row.source, row.name, row.url), key
            assert exact(stored) == row.value, key


async def load(url: DatabaseUrl, paths: Sequence[Path], directory: Path, **options: Any) -> Loaded:
    """Load indexes for which nothing is too bad; the counts' law is checked here."""
    rejects = directory / "rejects.ndjson"
    rejects.unlink(missing_ok=True)
    settings = Settings(
        database_url=url, max_rejects=MaxRejects(records=10**9, percent=None), rejects=str(rejects), **options
    )
    try:
        report = await ingest([str(path) for path in paths], settings)
    except IndexesFailed as exc:
        report = exc.report
    except TooManyRejects as exc:  # nothing else was in it
        report = cast("Report", exc.report)
    check_law(report)
    told = [json.loads(line) for line in rejects.read_bytes().splitlines()] if rejects.exists() else []
    connection = await asyncpg.connect(url.reveal)
    rows = {key: tuple(values) for key, *values in await connection.fetch(ROWS)}
    await connection.close()
    return Loaded(report, told, rows)


def check_law(report: Report) -> None:
    """Every record read has exactly one outcome, in sum and in each index."""
    parts: list[Report | IndexReport] = [report, *report.per_index]
    for counts in [counts for part in parts for counts in (part.assets, part.sources)]:
        outcomes = {name: getattr(counts, name) for name in counts.__struct_fields__}
        assert outcomes.pop("read") == sum(outcomes.values())
    assert report.verification is None or report.verification.passed


async def check_with_postgres(url: DatabaseUrl, rows: Mapping[str, Row]) -> int:
    """Let the server compare stored documents with the records' bytes, if it accepts these; returns their number."""
    asked = {key: row.data for key, row in rows.items() if not row.repaired}
    connection = await asyncpg.connect(url.reveal)
    answers = dict(map(tuple, await connection.fetch(SAME, list(asked), list(asked.values()))))
    await connection.close()
    assert answers.keys() == asked.keys()
    assert all(answers.values()), [key for key, same in answers.items() if not same]
    return len(answers)


# Values of a field, by the expected outcome of the record


def _nested(opening: bytes, inner: bytes, closing: bytes, levels: int) -> bytes:
    return opening * levels + inner + closing * levels


STORED: dict[str, bytes] = {
    # text that looks like an escape of U+0000, and is none
    "backslash u0000": rb'"\\u0000"',
    "two backslashes u0000": rb'"\\\\u0000"',
    "backslash u0000 as a key": rb'{"\\u0000":1}',
    # whole pairs
    "pair": rb'"\ud83d\ude00"',
    "pair in capitals": rb'"\uD83D\uDE00"',
    "highest pair": rb'"\udbff\udfff"',
    "pair in a key": rb'{"\ud83d\ude00":1}',
    # characters that are odd, and are characters
    "U+FFFE": '"\ufffe"'.encode(),
    "U+FFFF": '"\uffff"'.encode(),
    "U+FDD0": '"\ufdd0"'.encode(),
    "U+10FFFF": '"\U0010ffff"'.encode(),
    "escaped U+FFFF": rb'"\uffff"',
    "DEL": b'"\x7f"',
    "C1 controls": '"\x80\x9b\x9f"'.encode(),
    "escaped ESC": rb'"\u001b[2J"',
    "escaped controls": rb'"\u0001\u0008\t\n\f\r\u001f"',
    "bidi": '"\u202eabc\u2066"'.encode(),
    "byte order mark in a text": '"\ufeff"'.encode(),
    "line separators": '"\u2028\u2029\x85"'.encode(),
    "combining": ('"' + "e\u0301" * 9 + '"').encode(),
    "solidus": rb'"\/"',
    # numbers at the edges
    "2^63": b"9223372036854775808",
    "-2^63-1": b"-9223372036854775809",
    "2^64": b"18446744073709551616",
    "18 digits": b"0.123456789012345678",
    "a float in doubt": b"1.000000000000000005",
    "trailing zeros": b"1.10",
    "minus zero": b"-0",
    "minus zero point zero": b"-0.0",
    "zero with an exponent": b"0e999999",
    "1E+05": b"1E+05",
    "400 digits": b"9" * 400,
    "1e400": b"1e400",
    "1e-400": b"1e-400",
    "1e131071": b"1e131071",
    "9.9e131071": b"9.9e131071",
    "-1e131071": b"-1e131071",
    "1e-16383": b"1e-16383",
    "16,383 decimals": b"0." + b"3" * 16_383,
    "twenty of the largest": b"[" + b",".join([b"1e131071"] * 20) + b"]",
    # depth: the record itself is the first level
    "as many arrays as may be": _nested(b"[", b"1", b"]", MAX_DEPTH - 1),
    "as many objects as may be": _nested(b'{"a":', b"1", b"}", MAX_DEPTH - 1),
    "brackets in a text": b'"' + b"[{" * 5_000 + b'"',
    # keys
    "the same key twice": b'{"a":1,"a":2}',
    "the same key twice, once escaped": rb'{"a":1,"\u0061":2}',
    "NFC and NFD": '{"\u00e9":1,"e\u0301":2}'.encode(),
    "an empty key": b'{"":1}',
    "a key of 100,000": b'{"%b":1}' % (b"k" * 100_000),
    "a text of 1,000,000": b'"%b"' % (b"t" * 1_000_000),
    "10,000 keys": json.dumps({str(number): number for number in range(10_000)}).encode(),
    "white space": b" \t[ \t\r1 , 2 ]\t ",
}
REPAIRED: dict[str, bytes] = {
    "NUL": rb'"\u0000"',
    "NUL in a text": rb'"a\u0000b"',
    "NUL and a digit": rb'"\u00000"',
    "backslash and NUL": rb'"\\\u0000"',
    "NUL in a key": rb'{"a\u0000":1}',
    "NUL and its stand-in as keys": rb'{"a\u0000":1,"a\ufffd":2}',
    "NUL deep inside": rb'[[{"a":["\u0000\u0000"]}]]',
}
REFUSED: dict[str, bytes] = {
    "NUL byte in a text": b'"\x00"',
    "NUL byte between tokens": b"[1,\x002]",
    "an escape with a capital U": rb'"\U0000"',
    # halves of pairs
    "first half": rb'"\ud800"',
    "second half": rb'"\udc00"',
    "halves reversed": rb'"\udc00\ud800"',
    "first half doubled": rb'"\ud800\ud800\udc00"',
    "first half and a letter": rb'"\ud83dx"',
    "first half and an escape": rb'"\ud83d\u0041"',
    "halves apart": rb'"\ud83d\\ude00"',
    "first half in a key": rb'{"\ud800":1}',
    # not UTF-8
    "0xff": b'"\xff"',
    "a continuation alone": b'"\x80"',
    "cut after one of two": b'"\xc3"',
    "cut after two of three": b'"\xe2\x82"',
    "overlong in two": b'"\xc0\xaf"',
    "overlong in three": b'"\xe0\x80\xaf"',
    "overlong NUL": b'"\xc0\x80"',
    "a surrogate's first half": b'"\xed\xa0\x80"',
    "a surrogate's second half": b'"\xed\xbf\xbf"',
    "beyond U+10FFFF": b'"\xf4\x90\x80\x80"',
    "0xf5": b'"\xf5\x80\x80\x80"',
    "not UTF-8 in a key": b'{"\xff":1}',
    "not UTF-8 outside a text": b"1\xff",
    # raw controls
    "raw 0x01": b'"\x01"',
    "raw tab": b'"\t"',
    "raw CR": b'"\r"',
    "raw 0x1f": b'"\x1f"',
    # no white space of JSON's
    "byte order mark": BOM + b"1",
    "no-break space": b"\xc2\xa01",
    "form feed": b"\x0c1",
    "vertical tab": b"\x0b1",
    # no grammar of JSON's
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "-Infinity": b"-Infinity",
    "+1": b"+1",
    "01": b"01",
    "1.": b"1.",
    ".5": b".5",
    "0x10": b"0x10",
    "1e": b"1e",
    "True": b"True",
    "single quotes": b"'a'",
    "comma at an array's end": b"[1,]",
    "comma at an object's end": b'{"a":1,}',
    "comment": b"/* */1",
    "a bad escape": rb'"\x41"',
    "an escape cut short": rb'"\u12"',
    "nothing": b"",
    "two values": b"1 2",
    # numbers beyond the edges
    "1e131072": b"1e131072",
    "-1e131072": b"-1e131072",
    "1e-16384": b"1e-16384",
    "16,384 decimals": b"0." + b"3" * 16_384,
    "1e2147483647": b"1e2147483647",
    "1e-2147483648": b"1e-2147483648",
    "an exponent of 30 digits": b"1e" + b"9" * 30,
    "zero with such an exponent": b"0e2147483647",
    # depth
    "an array too many": _nested(b"[", b"1", b"]", MAX_DEPTH),
    "an object too many": _nested(b'{"a":', b"1", b"}", MAX_DEPTH),
    "1,000 arrays": _nested(b"[", b"1", b"]", 1_000),
    "2,000 brackets": b"[" * 2_000,
}
_chance = random.Random(18)
LONG_KEY = "".join(map(chr, _chance.choices(range(0x4E00, 0x9FA5), k=333))).encode() + b"!"  # no compression helps
# Whole records for text columns, with the expected outcome
TEXTS: dict[str, tuple[str, bytes]] = {
    "NUL in a name": ("repaired", rb'{"id":"text-1","domain":"d.org","name":"a\u0000b","permalink":"\u0000"}'),
    "NUL in an identity": ("refused", rb'{"id":"text-2\u0000","domain":"d.org"}'),
    "NUL byte in a name": ("refused", b'{"id":"text-3","domain":"d.org","name":"\x00"}'),
    "half a pair in a name": ("refused", rb'{"id":"text-4","domain":"d.org","name":"\ud800"}'),
    "not UTF-8 in a name": ("refused", b'{"id":"text-5","domain":"d.org","name":"\xc0\x80"}'),
    "1,000 bytes of key": ("stored", b'{"id":"%b","domain":"d.org"}' % LONG_KEY),
    "1,001 bytes of key": ("refused", b'{"id":"%b!","domain":"d.org"}' % LONG_KEY),
    "a name of a million": ("stored", b'{"id":"text-6","domain":"d.org","name":"%b"}' % (b"\xc3\xa9" * 500_000)),
}
