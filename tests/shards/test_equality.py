"""A load by shards gives what a load by one process gives: the registry, the report, the verification, the rejects."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import random
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest
from local_engine import load_by_shards
from msgspec import to_builtins

from conftest import SHARED, _clone
from seed_registry import SeedRegistryError, Settings, ingest
from seed_registry.key_hashes import KeyPart
from seed_registry.report import Report
from seed_registry.settings import DatabaseUrl, MaxRejects, MaxRetire

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]
# What differs between two loads of the same indexes, whoever does them.
_OWN = {
    "run_id", "seconds", "records_per_second", "batches", "retries", "rejects_file", "database", "shards", "bytes_read",
}  # fmt: skip


_OF_WRITTEN = ("dates_ignored", "texts_ignored", "ignored_fields", "repaired")


@pytest.fixture
def twin_url(server: str, template: str) -> Iterator[DatabaseUrl]:
    """Another empty database."""
    with _clone(server, template) as url:
        yield url


def _outcome(report: Report) -> dict[str, Any]:
    outcome = {name: value for name, value in to_builtins(report).items() if name not in _OWN}
    for part in outcome.get("per_index", []):
        # The sources that indexes list are merged before any asset: those of an index may be another one's as well.
        del part["bytes_read"], part["sources"]
    rejects = Path(report.rejects_file).read_bytes().splitlines() if report.rejects_file else []
    outcome["rejects"] = sorted(rejects, key=lambda line: (json.loads(line)["index"], json.loads(line)["offset"]))
    return outcome


async def _loaded(load: Any) -> dict[str, Any]:
    try:
        return _outcome(await load)
    except SeedRegistryError as exc:
        report = getattr(exc, "report", None)
        return {"error": type(exc).__name__, "text": str(exc).splitlines()[0], **(_outcome(report) if report else {})}


async def check_equal(
    indexes: Iterable[Path],
    urls: tuple[DatabaseUrl, DatabaseUrl],
    tmp_path: Path,
    shard_bytes: int,
    *,
    but_for: Collection[str] = (),
    **options: Any,
) -> None:
    """Load indexes by one process and by shards, each twice, into two databases; `but_for` are not compared."""
    indexes = list(indexes)
    names = [str(path) for path in indexes]
    for turn in range(2):
        one, many = (
            Settings(
                database_url=url,
                rejects=str(tmp_path / f"rejects-{turn}-{which}"),
                **{"digest": True, "max_rejects": MaxRejects(1_000_000, None), **options},
            )
            for which, url in enumerate(urls)
        )
        expected = await _loaded(ingest(names, one))
        found = await _loaded(load_by_shards(indexes, many, shard_bytes=shard_bytes, workers=2, seed=turn))
        # Of assets that have their row already, one process counts these in some batches only.
        stored = _OF_WRITTEN if turn or len(set(indexes)) < len(indexes) else ()
        for name, outcome in itertools.product((*stored, *but_for), (expected, found)):
            outcome.pop(name, None)
        assert found == expected


def _size(path: Path) -> int:
    return max(path.stat().st_size // 5, 200)


_FILES = sorted(
    path
    for name in ("data", "data/portals", "cases")
    for path in (SHARED / name).glob("*")
    if path.is_file() and path.suffix not in (".md", ".sql")
)
# Each takes seconds: every fourth, or all of them with REAL_FILES=all.
_FILES = _FILES if os.environ.get("REAL_FILES") == "all" else _FILES[::4]


@pytest.mark.slow
@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.name)
async def test_a_real_file(path: Path, database_url: DatabaseUrl, twin_url: DatabaseUrl, tmp_path: Path) -> None:
    await check_equal([path], (database_url, twin_url), tmp_path, _size(path))


def _line(**record: Any) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _asset(key: str, source: str = "a.example", **fields: Any) -> bytes:
    return _line(type="asset", asset_key=key, source_key=source, **fields)


def _hostile(seed: int = 0, *, are_listed: bool = True, are_unique: bool = False, count: int = 400) -> bytes:
    """Lines with repeated keys, rejects, ignored texts and dates, keys of another source, and sources at any place."""
    chance = random.Random(seed)
    lines = [b'{"type":"source","source_key":"a.example","name":["no","text"],"x":"%b"}\n' % (b"y" * 60)]
    for number in range(count):
        key = f"{seed}{number}" if are_unique else f"{chance.choice('ab') * 4}-{chance.randrange(count // 3):04}"
        source = chance.choice(["a.example", "b.example", "c.example", "late.example"])
        kind = chance.randrange(20)
        if kind < 13:
            moment = chance.choice([None, "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z", "never", "2024"])
            lines.append(_asset(key, source, name=chance.choice(["one", "two", 7, None]), updatedAt=moment))
        elif kind == 13:
            lines.append(_asset(f"k{number}", source, name="nul \0 nul", description="x" * 90))
        elif kind == 14:
            lines.append(_asset("", source))
        elif kind == 15:
            lines.append(chance.choice([b"[1]\n", b"{\n", b"\n", b'"x"\n', b"\xff\xfe\n"]))
        elif kind == 16:
            lines.append(_asset(key, source + "\0", name="refused"))
        elif kind == 17 and are_listed:
            name = chance.choice(["b.example", "late.example", "a.example", "nul\0.example", "d.example"])
            lines.append(_line(type="source", source_key=name, name=chance.choice(["One", 8, "nul \0"])))
        elif kind == 18:
            lines.append(_asset(key.upper(), "B.example", name="upper"))
        else:
            lines.append(_line(type="asset", name="no key", n=number))
    if not are_listed:
        del lines[0]
    return b"".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain", {}),
        ("small batches", {"batch_size": 3, "concurrency": 3}),
        ("derived", {"derive_sources": True}),
        ("domain", {"domain": "portal.example"}),
        ("full", {"full": True}),
        ("sources", {"max_sources": 2}),
        ("records", {"max_record_bytes": 1 << 10}),
        ("part", {"keys": KeyPart(2, 3)}),
        ("derived part", {"keys": KeyPart(1, 3), "derive_sources": True}),
    ],
)
@pytest.mark.parametrize("are_listed", [True, False])
async def test_hostile_lines(
    database_url: DatabaseUrl,
    twin_url: DatabaseUrl,
    tmp_path: Path,
    name: str,
    options: dict[str, Any],
    are_listed: bool,
) -> None:
    path = tmp_path / "index.ndjson"
    path.write_bytes(_hostile(are_listed=are_listed))
    await check_equal([path], (database_url, twin_url), tmp_path, 2_000, **options)


@pytest.mark.slow
async def test_several_indexes(database_url: DatabaseUrl, twin_url: DatabaseUrl, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("0.ndjson", "1.ndjson", "2.ndjson.gz")]
    paths[0].write_bytes(_hostile(1))
    paths[1].write_bytes(_hostile(2, are_listed=False))
    paths[2].write_bytes(gzip.compress(_hostile(3)))
    await check_equal([*paths, paths[0]], (database_url, twin_url), tmp_path, 3_000)


@pytest.mark.slow
async def test_broken_indexes_among_others(database_url: DatabaseUrl, twin_url: DatabaseUrl, tmp_path: Path) -> None:
    document = b'{"results": [' + b",".join(
        b'{"resource": {"id": "aaaa-%04d", "name": "n"}, "metadata": {"domain": "a.example"}}' % (n % 150)
        for n in range(200)
    )
    paths = [tmp_path / "missing.json"]
    for name, data in {
        "0.json": document + b"]}", "1.json": document, "2.ndjson": _hostile(4), "3.json": b"nothing",
        "4.json": document[:7_000] + b"\0" + document[7_000:] + b"]}", "5.ndjson": _hostile(5),
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
        paths.append(tmp_path / name)
    # A source that one index lists and another one derives before: it is listed first by shards.
    # A run that is resumed tells the counts of all attempts, if it is one by shards.
    options: dict[str, Any] = {"keep_going": True, "resume": False}
    await check_equal(paths, (database_url, twin_url), tmp_path, 3_000, but_for=["sources"], **options)


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["seed", "discovery", "directory"])
@pytest.mark.parametrize("kind", ["json", "ndjson"])
async def test_synthetic_indexes(
    database_url: DatabaseUrl, twin_url: DatabaseUrl, tmp_path: Path, dialect: str, kind: str
) -> None:
    if (dialect, kind) == ("directory", "ndjson"):
        pytest.skip("a directory is a document")
    path = tmp_path / f"index.{kind}"
    options = ["--records", "600", "--duplicates", "9", "--invalid", "3", "--dialect", dialect, "--format", kind]
    await anyio.run_process([sys.executable, "-m", "seed_registry", "sample", *options, "--out", str(path)])
    await check_equal([path], (database_url, twin_url), tmp_path, path.stat().st_size // 9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["seed.ndjson", "seed.json", "directory.json", "data.json", "hostile"])
async def test_what_a_later_index_no_longer_lists(
    database_url: DatabaseUrl, twin_url: DatabaseUrl, tmp_path: Path, name: str
) -> None:
    paths = [tmp_path / str(number) for number in range(2)]
    for path, count in zip(paths, (600, 500), strict=True):
        if name == "hostile":
            path.write_bytes(_hostile(count=count))
        elif name == "data.json":
            path.write_bytes(_own_keys(count))
        else:
            dialect, _, kind = name.partition(".")
            options = ["--records", str(count), "--duplicates", "9", "--dialect", dialect, "--format", kind]
            await anyio.run_process([sys.executable, "-m", "seed_registry", "sample", *options, "--out", str(path)])
    urls = (database_url, twin_url)
    but_for = ("verification", *_OF_WRITTEN)  # the sample has no rejects
    await check_equal(paths[:1], urls, tmp_path, paths[0].stat().st_size // 9, but_for=but_for)
    retire = {"retire": True, "max_retire": MaxRetire(percent=100), "retire_despite_rejects": True}
    await check_equal(paths[1:], urls, tmp_path, paths[1].stat().st_size // 9, but_for=but_for, **retire)
    assert await _count_retired(database_url) > 0


async def _count_retired(url: DatabaseUrl) -> int:
    connection = await asyncpg.connect(url.reveal)
    found: int = await connection.fetchval("select count(*) from registry.assets where retired_at is not null")
    await connection.close()
    return found


def _own_keys(count: int) -> bytes:
    """A catalog of two portals, some of whose own keys are the same: the second portal's are rejected."""
    keys = [("a.example", number) for number in range(count)] + [("b.example", number) for number in range(550, 650)]
    datasets = [
        {
            "identifier": f"https://{portal}/{number}" if number % 2 else str(number),
            "title": "t",
            "landingPage": f"https://{portal}/{number}",
            "accessLevel": "public",
        }
        for portal, number in keys
    ]
    return json.dumps(datasets).encode()


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        "alter table registry.assets drop column content_hash",
        "alter table registry.assets alter column raw type json",
        "alter table registry.assets alter column raw type text",
        "alter table registry.assets drop constraint assets_asset_key_key, add unique (source_id, asset_key)",
        """
        alter table registry.assets drop constraint assets_asset_key_key, add provider text,
        add unique (provider, asset_key)
        """,
    ],
)
@pytest.mark.parametrize("are_listed", [True, False])
async def test_tables_of_others(
    database_url: DatabaseUrl, twin_url: DatabaseUrl, tmp_path: Path, change: str, are_listed: bool
) -> None:
    await _change((database_url, twin_url), change)
    paths = [tmp_path / "0.ndjson", tmp_path / "1.ndjson"]
    for number, path in enumerate(paths):
        path.write_bytes(_hostile(number, are_listed=are_listed))
    await check_equal(paths, (database_url, twin_url), tmp_path, 3_000)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        "alter table registry.assets add check (name <> 'two')",
        "alter table registry.sources add check (source_key <> 'late.example')",
        "alter table registry.assets add check (asset_key is null)",
    ],
)
async def test_tables_that_refuse_records(
    database_url: DatabaseUrl, twin_url: DatabaseUrl, tmp_path: Path, change: str
) -> None:
    """Of a key that repeats, one process rejects as many records as it meets in batches that it has to divide.

    The sample of the verification is smaller in one process, for what is refused of it is not replaced.
    """
    await _change((database_url, twin_url), change)
    paths = [tmp_path / "0.ndjson", tmp_path / "1.ndjson"]
    for number, path in enumerate(paths):
        path.write_bytes(_hostile(number, are_unique=True))
    await check_equal(paths, (database_url, twin_url), tmp_path, 3_000, but_for=("verification",))


async def _change(urls: Iterable[DatabaseUrl], statement: str) -> None:
    for url in urls:
        connection = await asyncpg.connect(url.reveal)
        await connection.execute(statement)
        await connection.close()
