"""Bad values by the catalogue: refused with a reason and a place, or stored exactly as they came; never in between."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from probes import (
    BOM,
    DOMAIN,
    REFUSED,
    REPAIRED,
    STORED,
    TEXTS,
    Ways,
    check_with_postgres,
    exact,
    expected_of,
    faults,
    load,
    read,
)

from seed_registry import DatabaseUrl
from seed_registry.errors import IndexBroken, IndexNotUnderstood

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]

PARSING = {"y": 95, "n": 188, "i": 35}
# The suite lets a decoder choose; ours takes what Postgres can hold.
TAKEN_OF_I = {
    "double_huge_neg_exp", "neg_int_huge_exp", "pos_double_huge_exp", "real_neg_overflow", "real_pos_overflow",
    "too_big_neg_int", "too_big_pos_int", "very_big_negative_int",
}  # fmt: skip
# What the server would take: limits of our own that are narrower than its own.
OURS_ALONE = {"an array too many", "an object too many", "1,000 arrays", "1,001 bytes of key"}
RESERVED = "already-there"
Count = Callable[[str, int], None]


@pytest.fixture(params=["straight", "staged"])
async def way(
    request: pytest.FixtureRequest, database_url: DatabaseUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """A registry that is empty, so that COPY goes straight into it, or is not; afterwards it is seen that it did."""
    if request.param == "staged":
        path = tmp_path / "already.ndjson"
        path.write_bytes(b'{"id":"%b","domain":"d.org"}\n{"id":"%b","domain":"d.org"}' % (RESERVED.encode(), b"twice"))
        await load(database_url, [path], tmp_path, dialect="directory")
    ways = Ways(monkeypatch)
    yield request.param
    assert (ways.straight > 0, ways.staged > 0) == (request.param == "straight", request.param == "staged")


def suite(corpora: Path, folder: str, prefix: str = "") -> dict[str, bytes]:
    paths = sorted((corpora / "jsontestsuite" / folder).glob(f"{prefix}*.json"))
    return {path.stem: path.read_bytes() for path in paths}


def good(number: int | str) -> bytes:
    return b'{"id":"good-%b","domain":"d.org","name":"good"}' % str(number).encode()


def with_value(name: str, value: bytes) -> bytes:
    return b'{"id":%b,"domain":"d.org","z":%b}' % (json.dumps(name).encode(), value)


def without_reserved(rows: dict[str, Any]) -> dict[str, Any]:
    return {key: row for key, row in rows.items() if key not in (RESERVED, "twice")}


# The JSON test suite, its files as they are


@pytest.mark.parametrize("kind", PARSING)
async def test_a_file_of_the_suite_as_an_index_is_read_to_its_end_or_to_its_fault(
    corpora: Path, database_url: DatabaseUrl, tmp_path: Path, record_property: Count, kind: str
) -> None:
    files = suite(corpora, "test_parsing", f"{kind}_")
    assert len(files) == PARSING[kind]
    record_property("cases", len(files))
    outcomes = {}
    for name, data in files.items():
        await read(tmp_path / "detected.json", data)
        path = tmp_path / f"{name}.json"
        outcomes[str(path)] = outcome = await read(path, data, dialect="directory", domain=DOMAIN)
        stripped = data.removeprefix(BOM).strip()
        if kind == "n":
            assert outcome.error or any(reject.reason != "no_key" for reject in outcome.rejects), name
        if kind == "y" and stripped.startswith(b"["):
            values = exact(stripped)
            if values and all(isinstance(value, str) for value in values):
                assert isinstance(outcome.error, IndexNotUnderstood), name  # a list of names, and no index
                continue
            assert outcome.error is None, name
            assert len(outcome.records) == len(values), name
        elif kind == "y":
            assert isinstance(outcome.error, IndexNotUnderstood) or outcome.records, name
    loaded = await load(
        database_url, [*map(Path, outcomes)], tmp_path, dialect="directory", domain=DOMAIN, keep_going=True
    )
    assert len(loaded.report.per_index) == len(files)
    for part in loaded.report.per_index:
        outcome = outcomes[part.index]
        assert part.assets.read == len(outcome.records), part.index
        assert part.assets.rejected == len(outcome.rejects), part.index
        assert part.error == (str(outcome.error) if outcome.error else None)
    told = {(line["index"], line["line"], line["offset"], line["reason"]) for line in loaded.rejects}
    assert told == {
        (path, reject.line, reject.offset, reject.reason)
        for path, outcome in outcomes.items()
        for reject in outcome.rejects
    }


# The JSON test suite between lines


@pytest.mark.parametrize("kind", PARSING)
async def test_a_file_of_the_suite_between_two_good_lines_harms_neither(
    corpora: Path, database_url: DatabaseUrl, tmp_path: Path, record_property: Count, kind: str
) -> None:
    files = suite(corpora, "test_parsing", f"{kind}_")
    assert len(files) == PARSING[kind]
    record_property("cases", len(files))
    together = b""
    for name, data in files.items():
        lines = b"%b\n%b\n%b" % (good(f"{name}-1"), data, good(f"{name}-2"))
        together += lines + b"\n"
        outcome = await read(tmp_path / "lines", lines, dialect="directory", domain=DOMAIN)
        expected = expected_of(lines)
        assert outcome.error is None, name
        assert outcome.lines
        assert len(outcome.records) == expected.read, name
        assert {asset.key for asset in outcome.assets} == expected.rows.keys(), name
        for reject in outcome.rejects:
            assert reject.reason in expected.refused[reject.line, reject.offset], (name, reject.reason)
    path = tmp_path / "together.ndjson"
    path.write_bytes(together)
    loaded = await load(database_url, [path], tmp_path, dialect="directory", domain=DOMAIN, batch_size=50)
    expected = expected_of(together)
    assert len(expected.rows) >= 2 * len(files)
    loaded.check(expected)
    assert await check_with_postgres(database_url, expected.rows) == len(expected.rows)


# The JSON test suite within records


@pytest.mark.parametrize("kind", PARSING)
async def test_a_file_of_the_suite_as_a_value_is_stored_exactly_or_refused(
    corpora: Path, database_url: DatabaseUrl, tmp_path: Path, record_property: Count, way: str, kind: str
) -> None:
    files = suite(corpora, "test_parsing", f"{kind}_")
    assert len(files) == PARSING[kind]
    record_property("cases", len(files))
    records = {name: with_value(name, data) for name, data in files.items()}
    taken = {name for name, data in records.items() if not faults(data)}
    # What the suite itself says of its files, so that the oracle is not our word alone.
    assert taken == {"y": set(files), "n": set(), "i": {f"i_number_{name}" for name in TAKEN_OF_I}}[kind]
    for name, data in records.items():
        document = b'{"datasets":[%b,%b,%b]}' % (good(1), data, good(2))
        outcome = await read(tmp_path / "document", document)
        keys = [asset.key for asset in outcome.assets]
        if faults(data) <= {"database_refused"}:
            assert outcome.error is None
            assert keys == ["good-1", name, "good-2"]
        else:
            assert isinstance(outcome.error, IndexBroken) or outcome.rejects, name
            assert keys[0] == "good-1", name
    path = tmp_path / "values.ndjson"
    one_line = [re.sub(rb"\s*\n\s*", b" ", data) if name in taken else data for name, data in records.items()]
    path.write_bytes(b"\n".join([good("x"), *one_line, good("y")]))
    loaded = await load(database_url, [path], tmp_path, dialect="directory", domain=DOMAIN, batch_size=20)
    expected = expected_of(path.read_bytes())
    assert expected.rows.keys() == taken | {"good-x", "good-y"}
    loaded.rows = without_reserved(loaded.rows)
    loaded.check(expected)
    await check_with_postgres(database_url, expected.rows)


@pytest.mark.parametrize("where", ["line", "value"])
async def test_a_transformation_of_the_suite_keeps_its_value(
    corpora: Path, database_url: DatabaseUrl, tmp_path: Path, record_property: Count, way: str, where: str
) -> None:
    files = suite(corpora, "test_transform")
    assert len(files) == 22
    record_property("cases", len(files))
    lines = [good("x")]
    for name, data in files.items():
        stripped = data.strip()
        if where == "value" or not stripped.startswith(b"{"):
            lines.append(with_value(name, stripped))
        else:
            lines.append(b'{"id":"%b",%b' % (name.encode(), stripped[1:]))
    path = tmp_path / "transformed.ndjson"
    path.write_bytes(b"\n".join(lines))
    loaded = await load(database_url, [path], tmp_path, dialect="directory", domain=DOMAIN)
    expected = expected_of(path.read_bytes())
    assert set(files) - expected.rows.keys() == {name for name in files if "invalid_codepoint" in name and "d" in name}
    loaded.rows = without_reserved(loaded.rows)
    loaded.check(expected)
    await check_with_postgres(database_url, expected.rows)


# The big list of naughty strings

PLACES: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "key": lambda _, text: {"id": text, "domain": "d.org"},
    "name": lambda key, text: {"id": key, "domain": "d.org", "name": text, "description": text},
    "url": lambda key, text: {"id": key, "domain": "d.org", "permalink": text},
    "metadata key": lambda key, text: {"id": key, "domain": "d.org", "meta": {text: [{text: text}]}},
}


@pytest.mark.parametrize("ascii_only", [True, False], ids=["escaped", "as they are"])
@pytest.mark.parametrize("where", PLACES)
async def test_a_naughty_string_is_stored_as_it_is(
    corpora: Path,
    database_url: DatabaseUrl,
    tmp_path: Path,
    record_property: Count,
    way: str,
    where: str,
    ascii_only: bool,
) -> None:
    texts: list[str] = json.loads((corpora / "blns.json").read_text("utf-8"))
    assert len(texts) == 515
    record_property("cases", len(texts))
    fields = [PLACES[where](f"k-{number}", text) for number, text in enumerate(texts)]
    path = tmp_path / "naughty.ndjson"
    path.write_bytes(b"\n".join(json.dumps(one, ensure_ascii=ascii_only).encode() for one in fields))
    loaded = await load(database_url, [path], tmp_path, dialect="directory")
    expected = expected_of(path.read_bytes())
    loaded.rows = without_reserved(loaded.rows)
    if where == "key":
        assert loaded.rows.keys() == {text.strip() for text in texts if text.strip()}
        assert {reject["reason"] for reject in loaded.rejects} == {"no_key"}
    else:
        assert not loaded.rejects
        for number, text in enumerate(texts):
            _, name, description, url, stored = loaded.rows[f"k-{number}"]
            assert where != "name" or name == description == text
            assert where != "url" or url == (text or f"https://d.org/d/k-{number}")
            assert where != "metadata key" or json.loads(stored)["meta"] == {text: [{text: text}]}
    assert loaded.report.repaired == 0
    assert loaded.report.assets.duplicate == len(texts) - len(expected.rows) - len(loaded.rejects)
    await check_with_postgres(database_url, expected.rows)
    loaded.check(expected)


# What Postgres holds, and what it does not


@pytest.mark.parametrize("verdict", ["stored", "repaired", "refused"])
async def test_a_value_at_the_limits_of_postgres_is_stored_exactly_repaired_or_refused(
    database_url: DatabaseUrl, tmp_path: Path, record_property: Count, way: str, verdict: str
) -> None:
    values = {"stored": STORED, "repaired": REPAIRED, "refused": REFUSED}[verdict]
    records = {name: with_value(name, value) for name, value in values.items()}
    records |= {name: data for name, (what, data) in TEXTS.items() if what == verdict}
    record_property("cases", len(records))
    path = tmp_path / "probes.ndjson"
    path.write_bytes(b"\n".join([good("x"), *records.values(), good("y")]))
    loaded = await load(database_url, [path], tmp_path, dialect="directory", batch_size=10)
    expected = expected_of(path.read_bytes())
    assert len(expected.refused) == (len(records) if verdict == "refused" else 0)
    assert expected.repaired == (len(records) if verdict == "repaired" else 0)
    loaded.rows = without_reserved(loaded.rows)
    refused_lines = {number - 2 for number, _ in expected.refused}
    loaded.check(expected)
    await check_with_postgres(database_url, expected.rows)
    for number, (name, data) in enumerate(records.items()):
        assert (number in refused_lines) == (verdict == "refused")
        taken_by_postgres = await postgres_takes(database_url, data)
        assert taken_by_postgres == (verdict == "stored" or name in OURS_ALONE), name


async def postgres_takes(url: DatabaseUrl, data: bytes) -> bool:
    connection = await asyncpg.connect(url.reveal)
    try:
        await connection.execute("select pg_catalog.convert_from($1, 'UTF8')::jsonb", data)
    except (asyncpg.DataError, asyncpg.StatementTooComplexError):
        return False
    finally:
        await connection.close()
    return True
