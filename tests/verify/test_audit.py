"""`seed-registry verify`: every difference between registry and index is reported, and nothing else."""

# ruff: noqa: ASYNC230, ASYNC240  # a test may look at files: nothing else runs in its event loop
from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg
import pytest
import typer
from test_pooler import PGBOUNCER, configured, listens
from typer.testing import CliRunner

from conftest import Cli
from seed_registry import DatabaseUrl, Settings, ingest
from seed_registry.cli.commands.verify import verify
from seed_registry.errors import (
    DatabaseRefused,
    DatabaseUnavailable,
    IndexBroken,
    IndexNotUnderstood,
    IndexUnreadable,
    SchemaMissing,
)
from seed_registry.postgres.connection import session
from seed_registry.postgres.identifiers import quoted
from seed_registry.registry.ddl import apply
from seed_registry.registry.introspection import introspect
from seed_registry.report import Check, Silent
from seed_registry.synthetic.index import Workload, expected, generate
from seed_registry.verify.audit import audit
from seed_registry.verify.audit_report import AuditReport
from seed_registry.verify.snapshot import RegistrySnapshot

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]

Connection: TypeAlias = "asyncpg.Connection[Any]"
Json: TypeAlias = dict[str, Any]
Index = Callable[..., str]

A, B = "data.a.example", "data.b.example"
EVERYTHING = """
    select 'source', source_key, xmin::text, ctid::text from registry.sources
    union all select 'asset', asset_key, xmin::text, ctid::text from registry.assets
    order by 1, 2
"""


@pytest.fixture
def database_url(emptied_url: DatabaseUrl) -> DatabaseUrl:
    """The module's database, its tables made anew."""
    return emptied_url


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Write an index of the dialect seed and get its path: records a line each, in the order given."""

    def write(*records: Json, name: str = "index.ndjson") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return str(path)

    return write


def source(key: str, **fields: Any) -> Json:
    """A record of a source."""
    return {"type": "source", "source_key": key, **fields}


def asset(key: str, source_key: str = A, **fields: Any) -> Json:
    """A record of an asset."""
    return {"type": "asset", "asset_key": key, "source_key": source_key, **fields}


RECORDS = [
    source(A, name="A"),
    source(B, name="B"),
    *(asset(f"aaaa-000{n}", A, name=f"Asset {n}", updated_at=f"2024-01-0{n}") for n in range(1, 5)),
    asset("bbbb-0001", B, name="Asset of B"),
]


async def load(url: DatabaseUrl, *indexes: str, **settings: Any) -> None:
    """Load indexes without any verification of its own."""
    await ingest(indexes, Settings(database_url=url, verify=False, **settings))


async def audited(url: DatabaseUrl, *indexes: str, **settings: Any) -> AuditReport:
    """What an audit finds; what must always be true of it is."""
    options: dict[str, Any] = {"verify_sample": 0, **settings}
    report = await audit(indexes, Settings(database_url=url, **options))
    assets = report.assets
    assert assets.read == assets.in_index + assets.duplicate + assets.rejected + assets.missing_source
    assert report.verification.passed is all(check.passed for check in report.verification.checks)
    assert assets.in_database == assets.extra + sum(one.in_database - one.extra for one in report.per_source)
    return report


def failures(report: AuditReport) -> list[str]:
    """The checks that failed."""
    return [check.name for check in report.verification.checks if not check.passed]


def told(report: AuditReport) -> list[tuple[str, list[str] | None, int]]:
    """The differences: key, fields or None for what is missing, line."""
    return [(one.key, None if one.is_missing else one.fields, one.line) for one in report.differences]


# --- equal --------------------------------------------------------------------------------------------------------


async def test_a_registry_that_was_just_loaded_is_equal(database_url: DatabaseUrl, index: Index) -> None:
    path = index(*RECORDS)
    await load(database_url, path)
    report = await audited(database_url, path)
    assert report.verification.passed
    assert report.indexes == [path]
    assert (report.sources.read, report.sources.in_index) == (2, 2)
    assert (report.assets.read, report.assets.in_index, report.assets.in_database) == (5, 5, 5)
    assert (report.assets.by_value, report.assets.extra) == (0, 0)
    assert [(one.source_key, one.in_index, one.in_database) for one in report.per_source] == [(A, 4, 4), (B, 1, 1)]
    assert report.differences == []
    assert report.bytes_read == Path(path).stat().st_size


@pytest.mark.parametrize("batch_size", [1, 7, 500])
async def test_an_index_with_all_that_a_load_meets_is_equal_whatever_the_batches(
    batch_size: int, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    workload = Workload(records=400, sources=5, duplicates=10, invalid=3, format="ndjson")
    path = tmp_path / "index.ndjson"
    path.write_bytes(b"".join(generate(workload)))
    await load(database_url, str(path), batch_size=50)
    report = await audited(database_url, str(path), batch_size=batch_size)
    assert report.verification.passed
    assert report.differences == []
    assert report.assets.in_index == expected(workload).distinct_keys
    assert report.assets.duplicate > 0
    assert report.assets.rejected == sum(report.rejects.values()) > 0


async def test_the_last_record_of_a_key_counts_also_where_its_moment_went_backwards(
    database_url: DatabaseUrl, index: Index
) -> None:
    path = index(
        source(A),
        asset("k", name="first", updated_at="2024-02-02"),
        asset("other"),
        asset("k", name="last", updated_at="2024-01-01"),
    )
    for batch_size in (1, 500):  # between batches the row keeps its hash, within one it has none
        await load(database_url, path, batch_size=batch_size)
        report = await audited(database_url, path, batch_size=batch_size)
        assert report.verification.passed
        assert (report.assets.in_index, report.assets.duplicate) == (2, 1)
    earlier = index(source(A), asset("k", name="last"), asset("other"), asset("k", name="first"), name="earlier.ndjson")
    assert told(await audited(database_url, earlier, batch_size=1)) == [("k", ["name", "raw"], 4)]


async def test_of_several_indexes_the_last_one_wins(database_url: DatabaseUrl, index: Index) -> None:
    old = index(source(A), asset("k", name="old"), asset("only-old"), name="old.ndjson")
    new = index(source(A), asset("k", name="new"), source(B), asset("b", B), name="new.ndjson")
    await load(database_url, old, new)
    report = await audited(database_url, old, new)
    assert report.verification.passed
    assert (report.assets.in_index, report.assets.duplicate, report.sources.in_index) == (3, 1, 2)
    turned = await audited(database_url, new, old)
    assert told(turned) == [("k", ["name", "raw"], 2)]
    assert turned.differences[0].index == old


async def test_bytes_that_changed_where_values_did_not_are_equal(
    database_url: DatabaseUrl, index: Index, tmp_path: Path
) -> None:
    await load(database_url, index(*RECORDS))
    spaced = tmp_path / "spaced.ndjson"
    spaced.write_text("".join(json.dumps(record, separators=(" ,  ", " :  ")) + "\n" for record in RECORDS))
    report = await audited(database_url, str(spaced))
    assert report.verification.passed
    assert report.assets.by_value == 5


async def test_rows_without_a_hash_are_compared_by_value(
    database_url: DatabaseUrl, connection: Connection, index: Index
) -> None:
    path = index(*RECORDS)
    await load(database_url, path)
    await connection.execute("update registry.assets set content_hash = null")
    report = await audited(database_url, path)
    assert report.verification.passed
    assert report.assets.by_value == 5
    await connection.execute("update registry.assets set url = 'x' where asset_key = 'aaaa-0003'")
    assert told(await audited(database_url, path)) == [("aaaa-0003", ["url"], 5)]


@pytest.mark.parametrize(
    "ddl",
    [
        (
            "create table registry.sources (id serial primary key, slug text unique);"
            "create table registry.assets (asset_key text, source_id integer, unique (source_id, asset_key))"
        ),
        (
            "create table registry.sources (id uuid primary key default gen_random_uuid(), slug text unique);"
            "create table registry.assets (asset_key text unique, source_id uuid, title varchar, payload json)"
        ),
        (
            "create table registry.sources (id int generated always as identity primary key, provider text,"
            " domain text, unique (provider, domain));"
            "create table registry.assets (provider text, asset_key varchar(90), source_id int, raw text,"
            ' updated_at timestamp, content_hash bytea, name text collate "C", unique (provider, asset_key))'
        ),
    ],
)
async def test_tables_of_another_shape_are_compared_too(
    ddl: str, database_url: DatabaseUrl, connection: Connection, index: Index
) -> None:
    await connection.execute(f"drop table registry.assets, registry.sources; {ddl}")
    path = index(*RECORDS, asset("aaaa-0001", name="Asset 1 once more", updated_at="2024-01-01"))
    await load(database_url, path)
    await connection.execute(
        "insert into registry.assets (asset_key, source_id) select 'x' || slug.id::text, slug.id "
        "from registry.sources as slug"
    )
    report = await audited(database_url, path)
    assert report.verification.passed
    assert (report.assets.in_index, report.assets.duplicate, report.assets.extra) == (5, 1, 2)
    await connection.execute("delete from registry.assets where asset_key = 'aaaa-0002'")
    assert told(await audited(database_url, path)) == [("aaaa-0002", None, 4)]


async def test_where_keys_are_a_source_s_own_the_same_key_of_two_sources_is_two_assets(
    database_url: DatabaseUrl, connection: Connection, index: Index
) -> None:
    await connection.execute(
        "drop table registry.assets; create table registry.assets (asset_key text, source_id bigint, name text, "
        "content_hash bytea, unique (source_id, asset_key))"
    )
    path = index(source(A), source(B), asset("k", A), asset("k", B, name="x"), asset("last", B))
    await load(database_url, path)
    report = await audited(database_url, path)
    assert report.verification.passed
    assert (report.assets.in_index, report.assets.duplicate, report.assets.extra) == (3, 0, 0)
    without = await audited(database_url, index(source(A), source(B), asset("k", A), asset("last", B)))
    assert [(one.key, one.source_key) for one in without.extra] == [("k", B)]
    assert without.assets.extra == 1


# --- sources ------------------------------------------------------------------------------------------------------


async def test_assets_of_sources_that_are_not_listed_are_not_expected(database_url: DatabaseUrl, index: Index) -> None:
    path = index(asset("late", A), source(A), asset("stranger", B), asset("late", B), source("empty.example"))
    await load(database_url, path)
    report = await audited(database_url, path)
    assert report.verification.passed
    assert (report.assets.in_index, report.assets.missing_source, report.sources.in_index) == (1, 2, 2)
    derived = await audited(database_url, path, derive_sources=True)
    assert told(derived) == [("stranger", None, 3), ("late", ["source_id", "raw"], 4)]
    assert {one.source_key: one.is_missing for one in derived.per_source} == {A: False, B: True, "empty.example": False}
    await load(database_url, path, derive_sources=True)
    assert (await audited(database_url, path, derive_sources=True)).verification.passed


async def test_assets_whose_header_comes_behind_them_are_compared(
    database_url: DatabaseUrl, connection: Connection, tmp_path: Path
) -> None:
    path = tmp_path / "directory.json"
    # More than is read at once: the first are decoded before the header is seen.
    datasets = [{"id": f"aaaa-000{n}", "description": "x" * 200_000} for n in range(4)]
    path.write_text(json.dumps({"source": "socrata", "datasets": datasets, "domain": A}))
    await load(database_url, str(path))
    report = await audited(database_url, str(path))
    assert report.verification.passed
    assert [(one.source_key, one.in_index, one.in_database) for one in report.per_source] == [(A, 4, 4)]
    await connection.execute("delete from registry.assets where asset_key = 'aaaa-0000'")
    assert told(await audited(database_url, str(path))) == [("aaaa-0000", None, 1)]


async def test_sources_that_are_missing_or_differ_are_reported(
    database_url: DatabaseUrl, connection: Connection, index: Index
) -> None:
    await load(database_url, index(source(A, name="A"), source(B, name="B"), asset("k", B)))
    path = index(source(A, name="other"), source(B, name="B"), source("c.example"), asset("k", B), name="now.ndjson")
    report = await audited(database_url, path)
    assert failures(report) == ["sources_present", "sources_equal"]
    assert told(report) == [(A, ["name", "raw"], 1), ("c.example", None, 3)]
    assert {one.table for one in report.differences} == {"sources"}
    await connection.execute("delete from registry.assets; delete from registry.sources")
    gone = await audited(database_url, path)
    assert (gone.sources.missing, gone.assets.missing) == (3, 1)


async def test_of_a_source_that_is_listed_twice_the_last_one_counts(database_url: DatabaseUrl, index: Index) -> None:
    long = asset("k", description="x" * 600_000)  # so that the two are not read at once
    path = index(source(A, name="old"), long, source(A, name="new"))
    await load(database_url, path)
    assert (await audited(database_url, path)).verification.passed
    assert told(await audited(database_url, index(source(A, name="new"), long, source(A, name="old")))) == [
        (A, ["name", "raw"], 3)
    ]


async def test_where_their_keys_alone_are_unique_sources_of_two_providers_are_one(
    database_url: DatabaseUrl, connection: Connection, index: Index, tmp_path: Path
) -> None:
    await connection.execute("alter table registry.sources drop constraint sources_provider_source_key_key")
    await connection.execute("alter table registry.sources add unique (source_key)")
    packages = tmp_path / "packages.json"
    found = {"results": [{"id": "p", "name": "p", "metadata_modified": "2024-01-01", "resources": []}]}
    help_url = f"https://{A}/api/3/action/help_show?name=package_search"
    packages.write_text(json.dumps({"help": help_url, "success": True, "result": found}))
    paths = [index(source(A), asset("k")), str(packages)]
    await load(database_url, *paths)
    report = await audited(database_url, *paths)
    assert report.verification.passed
    assert (report.sources.in_index, report.assets.in_index, report.assets.in_database) == (1, 2, 2)


async def test_far_too_many_sources_are_no_index(database_url: DatabaseUrl, index: Index) -> None:
    with pytest.raises(IndexNotUnderstood, match="--max-sources"):
        await audited(database_url, index(*RECORDS), max_sources=1)


async def test_an_asset_that_was_moved_to_another_source_differs(
    database_url: DatabaseUrl, connection: Connection, index: Index
) -> None:
    path = index(*RECORDS)
    await load(database_url, path)
    await connection.execute(
        f"update registry.assets set source_id = (select id from registry.sources where source_key = '{B}') "
        "where asset_key = 'aaaa-0002'"
    )
    report = await audited(database_url, path)
    assert told(report) == [("aaaa-0002", ["source_id"], 4)]
    assert [(one.in_index, one.in_database, one.different) for one in report.per_source] == [(4, 3, 1), (1, 2, 0)]


# --- different ----------------------------------------------------------------------------------------------------


async def test_what_is_missing_or_differs_is_reported_with_its_place(
    database_url: DatabaseUrl, connection: Connection, index: Index
) -> None:
    await load(database_url, index(*RECORDS))
    changed = [*RECORDS[:2], asset("aaaa-0001", name="new", updated_at="2024-09-09"), *RECORDS[3:], asset("new")]
    path = index(*changed)
    await connection.execute("delete from registry.assets where asset_key = 'bbbb-0001'")
    report = await audited(database_url, path)
    assert failures(report) == ["assets_present", "assets_equal"]
    assert Check("assets_present", passed=False, expected=6, actual=4) in report.verification.checks
    assert told(report) == [
        ("aaaa-0001", ["name", "updated_at", "raw"], 3), ("bbbb-0001", None, 7), ("new", None, 8)
    ]  # fmt: skip
    lines = Path(path).read_bytes().splitlines(keepends=True)
    assert [one.offset for one in report.differences] == [len(b"".join(lines[:n])) for n in (2, 6, 7)]
    assert {one.source_key: (one.missing, one.different) for one in report.per_source} == {A: (1, 1), B: (1, 0)}


async def test_a_row_edited_by_hand_is_found_where_fields_are_compared(
    database_url: DatabaseUrl, connection: Connection, index: Index
) -> None:
    path = index(*RECORDS)
    await load(database_url, path)
    await connection.execute("update registry.assets set name = 'x' where asset_key = 'aaaa-0002'")
    by_hash = await audited(database_url, path)
    assert by_hash.verification.passed, "its content hash says so"
    for how in ({"full": True}, {"verify_sample": 5}):
        report = await audited(database_url, path, **how)
        assert told(report) == [("aaaa-0002", ["name"], 4)]
        assert report.assets.by_value == 5


@pytest.mark.slow
async def test_rows_that_are_not_what_their_content_hash_says_are_called_edited(
    database_url: DatabaseUrl, connection: Connection, index: Index, cli: Cli
) -> None:
    path = index(*RECORDS)
    await load(database_url, path)
    hint = "rows were edited in the database: verify --full finds all of them, load --full repairs them"
    assert not (await audited(database_url, path, verify_sample=5)).has_edits, "all is as it was loaded"
    changed = index(*RECORDS[:2], asset("aaaa-0001", name="new"), *RECORDS[3:], asset("new"), name="changed.ndjson")
    report = await audited(database_url, changed, verify_sample=5)
    assert (len(report.differences), report.has_edits) == (2, False), "the index changed, the rows did not"
    assert hint not in cli("verify", changed, "-q", url=database_url).stdout.decode().splitlines()
    await connection.execute("update registry.assets set name = 'x' where asset_key = 'aaaa-0002'")
    assert not (await audited(database_url, path)).has_edits, "its values were not compared"
    assert (await audited(database_url, path, verify_sample=5)).has_edits
    done = cli("verify", path, "-q", url=database_url)
    assert hint in done.stdout.decode().splitlines()
    assert json.loads(cli("verify", path, "-q", "--json", url=database_url).stdout)["has_edits"] is True
    await load(database_url, path, full=True)
    assert not (await audited(database_url, path, verify_sample=5)).has_edits, "they are fixed"


@pytest.mark.parametrize("first", ["missing", "different"])
async def test_what_is_missing_and_what_differs_are_listed_alike_whatever_comes_first(
    database_url: DatabaseUrl, index: Index, cli: Cli, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    await load(database_url, index(source(A), *(asset(f"old-{n:02}") for n in range(30))))
    changed = [asset(f"old-{n:02}", name="new") for n in range(30)]
    new = [asset(f"new-{n:02}") for n in range(30)]
    path = index(source(A), *(new + changed if first == "missing" else changed + new))
    lines = cli("verify", path, "-q", url=database_url).stdout.decode().splitlines()
    listed = [line.split()[:2] for line in lines if line.startswith(("missing ", "different "))]
    assert listed == [
        *(["missing", f"new-{n:02}"] for n in range(10)), *(["different", f"old-{n:02}"] for n in range(10))
    ]  # fmt: skip
    assert lines[-1] == "and 40 more: --limit 60 lists them, --json as well"
    monkeypatch.setattr("seed_registry.verify.audit_run.MOST_LISTED", 8)
    differences = (await audited(database_url, path)).differences
    assert sorted(one.key for one in differences) == [f"{word}-{n:02}" for word in ("new", "old") for n in range(4)]
    assert [one.is_missing for one in differences] == [first == "missing", first != "missing"] * 4


async def test_where_there_is_more_of_one_kind_it_fills_the_list(
    database_url: DatabaseUrl, index: Index, cli: Cli
) -> None:
    await load(database_url, index(source(A), *(asset(f"old-{n:02}") for n in range(3))))
    changed = [asset(f"old-{n:02}", name="new") for n in range(3)]
    path = index(source(A), *(asset(f"new-{n:02}") for n in range(30)), *changed)
    lines = cli("verify", path, "-q", url=database_url).stdout.decode().splitlines()
    assert [sum(line.startswith(word) for line in lines) for word in ("missing ", "different ")] == [17, 3]


async def test_a_later_moment_than_the_index_has_is_right_and_an_earlier_one_is_not(
    database_url: DatabaseUrl, connection: Connection, index: Index
) -> None:
    path = index(*RECORDS)
    await load(database_url, path)
    await connection.execute("update registry.assets set updated_at = '2040-01-01'")
    assert (await audited(database_url, path, full=True)).verification.passed
    await connection.execute("update registry.assets set updated_at = '2000-01-01' where asset_key = 'aaaa-0002'")
    assert told(await audited(database_url, path, full=True)) == [("aaaa-0002", ["updated_at"], 4)]


async def test_a_record_that_the_database_could_not_hold_differs_alone(
    database_url: DatabaseUrl, index: Index, tmp_path: Path
) -> None:
    await load(database_url, index(*RECORDS))
    path = tmp_path / "huge.ndjson"
    lines = [json.dumps(record) for record in RECORDS]
    lines[3] = lines[3].replace("{", '{"size": 1e999999, ', 1)
    path.write_text("\n".join(lines))
    for how in ({}, {"full": True}):
        assert told(await audited(database_url, str(path), **how)) == [("aaaa-0002", ["raw"], 4)]


async def test_assets_that_only_the_database_has_are_reported_and_no_failure(
    database_url: DatabaseUrl, connection: Connection, index: Index
) -> None:
    path = index(*RECORDS[:1], *RECORDS[2:6])
    await load(database_url, index(*RECORDS, asset("older", A), name="older.ndjson"))
    report = await audited(database_url, path)
    assert report.verification.passed
    assert [(one.key, one.source_key) for one in report.extra] == [("older", A)]
    assert (report.assets.in_index, report.assets.in_database, report.assets.extra) == (4, 5, 1)
    assert [one.source_key for one in report.per_source] == [A], "B is nothing of this index's"


async def test_assets_without_a_source_fail(database_url: DatabaseUrl, connection: Connection, index: Index) -> None:
    path = index(*RECORDS)
    await load(database_url, path)
    await connection.execute("alter table registry.assets drop constraint assets_source_id_fkey")
    assert (await audited(database_url, path)).verification.passed
    await connection.execute(f"delete from registry.sources where source_key = '{B}'")
    report = await audited(database_url, path)
    assert failures(report) == ["sources_present", "assets_equal", "assets_without_source"]
    assert (report.assets.orphans, report.sources.missing) == (1, 1)
    assert report.orphans == ["bbbb-0001"]


@pytest.mark.parametrize(("count", "told"), [(1, "1 asset"), (5, "5 assets"), (7, "7 assets")])
async def test_assets_without_a_source_are_reported_by_their_keys(
    database_url: DatabaseUrl, connection: Connection, index: Index, cli: Cli, count: int, told: str
) -> None:
    path = index(*RECORDS[:1], *RECORDS[2:6])
    orphans = [asset(f"orphan-{n}\x1b[31m", B) for n in range(count)]
    await load(database_url, index(*RECORDS[:6], *orphans, name="older.ndjson"))
    await connection.execute("alter table registry.assets drop constraint assets_source_id_fkey")
    await connection.execute(f"delete from registry.sources where source_key = '{B}'")
    report = await audited(database_url, path)
    assert failures(report) == ["assets_without_source"]
    assert sorted(report.orphans) == [one["asset_key"] for one in orphans]
    done = cli("verify", path, "-q", url=database_url)
    assert done.returncode == 4
    (line,) = [line for line in done.stdout.decode().splitlines() if "without a source" in line]
    beginning, _, keys = line.partition(": ")
    assert beginning == f"{told} of the database without a source"
    shown, _, more = keys.partition(" and ")
    assert set(shown.split(", ")) <= {f"orphan-{n}\\x1b[31m" for n in range(count)}
    assert (len(shown.split(", ")), more) == (min(count, 5), f"{count - 5} more" if count > 5 else "")
    assert "orphan" not in done.stderr.decode()


async def test_a_declared_count_that_differs_fails(database_url: DatabaseUrl, tmp_path: Path) -> None:
    path = tmp_path / "directory.json"
    datasets = [{"id": "aaaa-0001"}, {"id": "aaaa-0002"}]
    path.write_text(json.dumps({"source": "socrata", "domain": A, "totalCount": 3, "datasets": datasets}))
    await load(database_url, str(path))
    assert failures(await audited(database_url, str(path))) == ["declared_totalCount"]


async def test_an_index_of_nothing_is_equal(database_url: DatabaseUrl, tmp_path: Path) -> None:
    path = tmp_path / "empty.json"
    path.write_text("[]")
    report = await audited(database_url, str(path))
    assert report.verification.passed
    assert report.assets.read == report.sources.in_index == 0


# --- reading only -------------------------------------------------------------------------------------------------


async def test_nothing_is_written(database_url: DatabaseUrl, connection: Connection, index: Index) -> None:
    await load(database_url, index(*RECORDS))
    await connection.execute("update registry.assets set content_hash = null where asset_key = 'aaaa-0001'")
    before = await connection.fetch(EVERYTHING)
    path = index(*RECORDS[:4], asset("aaaa-0003", name="changed"), asset("new"), source("new.example"))
    assert failures(await audited(database_url, path, verify_sample=5))
    assert await connection.fetch(EVERYTHING) == before
    temporary = "select count(*) from pg_catalog.pg_class where relname like 'seed_registry_audit%'"
    assert await connection.fetchval(temporary) == 0


async def test_nothing_can_be_written_in_a_snapshot(connection: Connection) -> None:
    async with RegistrySnapshot(connection, await introspect(connection), full=False, seconds=None).open():
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await connection.execute("delete from registry.assets")


class Meddler(Silent):
    """A `Progress` that changes the registry as soon as the index is opened."""

    def __init__(self, url: DatabaseUrl, statement: str) -> None:
        self._url = url
        self._statement = statement

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Do it, through a session of its own."""
        if event == "index_opened":
            thread = threading.Thread(target=asyncio.run, args=(self._meddle(),))
            thread.start()
            thread.join()

    async def _meddle(self) -> None:
        connection = await asyncpg.connect(self._url.reveal)
        await connection.execute(self._statement)
        await connection.close()


async def test_what_others_write_meanwhile_is_not_seen(
    database_url: DatabaseUrl, connection: Connection, index: Index
) -> None:
    path = index(*RECORDS)
    await load(database_url, path)
    meddler = Meddler(database_url, "delete from registry.assets")
    assert (await audit([path], Settings(database_url=database_url), meddler)).verification.passed
    assert await connection.fetchval("select count(*) from registry.assets") == 0


@pytest.fixture
async def reader(database_url: DatabaseUrl, plain_connection: Connection) -> AsyncIterator[tuple[str, DatabaseUrl]]:
    """A role that may read the registry and nothing else, and the database by it."""
    name = f"Reader {secrets.token_hex(4)}"
    await plain_connection.execute(
        f"create role {quoted(name)} login password 'x'; grant usage on schema registry to {quoted(name)};"
        f"grant select on all tables in schema registry to {quoted(name)};"
        "do $$ begin execute format('revoke temporary on database %I from public', current_database()); end $$"
    )
    split = urlsplit(database_url.reveal)
    netloc = f"{quote(name)}:x@{split.netloc.rpartition('@')[2]}"
    yield name, DatabaseUrl(urlunsplit(split._replace(netloc=netloc)))
    await plain_connection.execute(f"drop owned by {quoted(name)}; drop role {quoted(name)}")


async def test_a_role_that_may_read_and_make_temporary_tables_can_verify(
    reader: tuple[str, DatabaseUrl], database_url: DatabaseUrl, plain_connection: Connection, index: Index
) -> None:
    path, (name, url) = index(*RECORDS), reader
    await load(database_url, path)
    with pytest.raises(DatabaseRefused) as raised:
        await audited(url, path)
    said, fix = str(raised.value).splitlines()
    assert "temporary tables" in said
    assert "grant temporary" in fix
    await plain_connection.execute(
        f"do $$ begin execute format('grant temporary on database %I to {quoted(name)}', current_database()); end $$;"
        f"alter role {quoted(name)} set default_transaction_read_only = on"
    )
    assert (await audited(url, path)).verification.passed
    with pytest.raises(DatabaseRefused, match="a role that may only read behind a pooler"):
        await audited(url, path, pooler="transaction")
    await plain_connection.execute(f"revoke select on registry.assets from {quoted(name)}")
    with pytest.raises(DatabaseRefused, match="permission denied for table assets"):
        await audited(url, path)


@pytest.mark.skipif(PGBOUNCER is None, reason="there is no pgbouncer")
async def test_it_works_through_a_pooler_of_transactions_and_leaves_nothing_there(
    database_url: DatabaseUrl, connection: Connection, place: Path, index: Index
) -> None:
    path = index(*RECORDS)
    await load(database_url, path)
    await connection.execute("update registry.assets set name = 'x' where asset_key = 'aaaa-0002'")
    directory = Path(tempfile.mkdtemp(dir=place))
    options: Json = {"pool_mode": "transaction", "listen_addr": "", "listen_port": 6432, "default_pool_size": 1}
    url, account = configured(directory, database_url, options)
    assert PGBOUNCER is not None
    process = subprocess.Popen(  # noqa: ASYNC220  # it returns at once
        [PGBOUNCER, directory / "ini"], stderr=subprocess.DEVNULL, **account
    )
    try:
        deadline = time.monotonic() + 20
        while not listens(directory / ".s.PGSQL.6432"):
            assert process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        for _ in range(2):
            assert told(await audited(url, path, batch_size=1, verify_sample=5)) == [("aaaa-0002", ["name"], 4)]
        # The one server session that there is serves the next client, who may write.
        await load(url, path, full=True)
        assert (await audited(url, path, full=True)).verification.passed
    finally:
        process.terminate()
        process.wait()


# --- what cannot be verified --------------------------------------------------------------------------------------


async def test_an_index_that_cannot_be_read_to_its_end_is_an_error(
    database_url: DatabaseUrl, index: Index, tmp_path: Path
) -> None:
    path = tmp_path / "cut.json"
    path.write_text('[{"type": "asset", "asset_key": "a", "source_key": "s.example"}, {"type"')
    with pytest.raises(IndexBroken, match="only a whole index can be verified") as raised:
        await audited(database_url, str(path), dialect="seed", records_at=None)
    assert "committed" not in str(raised.value)
    with pytest.raises(IndexUnreadable, match="no such file"):
        await audited(database_url, index(*RECORDS), str(tmp_path / "nothing"))


async def test_missing_tables_and_a_missing_database_are_errors(bare_database_url: DatabaseUrl, index: Index) -> None:
    with pytest.raises(SchemaMissing, match="schema apply"):
        await audited(bare_database_url, index(*RECORDS))
    with pytest.raises(DatabaseUnavailable, match="load an index first"):
        await audit([index(*RECORDS)])


async def test_a_connection_that_is_lost_is_reported_as_such(database_url: DatabaseUrl, index: Index) -> None:
    path = index(*RECORDS)
    await load(database_url, path)
    others = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
    with pytest.raises(DatabaseUnavailable) as raised:
        await audit(
            [path],
            Settings(database_url=database_url),
            Meddler(database_url, f"{others} and application_name = 'seed-registry' and pid <> pg_backend_pid()"),
        )
    said, fix = str(raised.value).splitlines()
    assert "was lost" in said
    assert fix == "run it again when the server is back; what was committed stays"


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
async def differing(database_url: DatabaseUrl, tmp_path: Path) -> str:
    """An index of 60 assets of which the registry lacks thirty, and has one changed."""
    path = tmp_path / "index.json"
    path.write_bytes(b"".join(generate(Workload(records=60, sources=3))))
    await load(database_url, str(path))
    statement = (
        "update registry.assets set content_hash = null, url = 'x' where id in (select max(id) from registry.assets);"
        "delete from registry.assets where id in (select id from registry.assets order by id limit 30)"
    )
    await Meddler(database_url, statement)._meddle()
    return str(path)


def test_in_an_app_of_its_own_it_prints_and_exits_as_it_should(
    bare_database_url: DatabaseUrl, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = index(*RECORDS)

    async def prepare() -> None:
        async with session(bare_database_url) as connection:
            await apply(connection)
        await load(bare_database_url, path)

    asyncio.run(prepare())
    monkeypatch.setenv("DATABASE_URL", bare_database_url.reveal)
    app = typer.Typer()
    app.command()(verify)
    passed = CliRunner().invoke(app, [path, "--quiet"])
    assert passed.exit_code == 0
    assert passed.stdout.splitlines()[-1].startswith("equal: ")
    failed = CliRunner().invoke(app, [index(*RECORDS, asset("new")), "--quiet"])
    assert failed.exit_code == 4
    assert "error: verification failed: 1 asset missing" in failed.stderr


async def test_a_registry_that_is_equal_is_exit_code_0(database_url: DatabaseUrl, index: Index, cli: Cli) -> None:
    path = index(*RECORDS)
    await load(database_url, path)
    done = cli("verify", path, url=database_url)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith(f"{path} against test_")
    assert [line.split() for line in lines[2:5]] == [
        [A, "4", "4", "0", "0", "0"], [B, "1", "1", "0", "0", "0"], ["together", "5", "5", "0", "0", "0"]
    ]  # fmt: skip
    assert lines[-1].startswith("equal: 0 compared by content hash, 5 field by field; ")
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == [
        "connected",
        "index_opened", "verifying", "verify_finished"
    ]  # fmt: skip


async def test_differences_are_exit_code_4_and_as_many_are_listed_as_wanted(
    database_url: DatabaseUrl, differing: str, cli: Cli
) -> None:
    done = cli("verify", differing, "--quiet", url=database_url)
    assert done.returncode == 4
    assert done.stderr == b"error: verification failed: 30 assets missing, 1 asset different\n"
    lines = done.stdout.decode().splitlines()
    assert sum(line.startswith(("missing", "different")) for line in lines) == 20
    assert lines[-1] == "and 11 more: --limit 31 lists them, --json as well"
    assert "index.json: line " in lines[-2]
    every = cli("verify", differing, "-q", "--limit", "31", url=database_url).stdout.decode().splitlines()
    assert sum(line.startswith("missing ") for line in every) == 30
    (changed,) = [line for line in every if line.startswith("different ")]
    assert changed.split(": ")[-1].strip() == "url"
    assert "more" not in every[-1]


async def test_json_is_one_object_with_all_of_it_also_of_standard_input(
    database_url: DatabaseUrl, differing: str, cli: Cli
) -> None:
    with Path(differing).open("rb") as file:
        done = cli("verify", "-", "--json", "-q", "--limit", "0", url=database_url, stdin=file)
    assert done.returncode == 4
    (line,) = done.stdout.splitlines()
    report = json.loads(line)
    assert len(report["differences"]) == report["assets"]["missing"] + report["assets"]["different"] == 31
    assert report["indexes"] == ["stdin"]
    assert {one["index"] for one in report["differences"]} == {"stdin"}
    assert report["verification"]["passed"] is False
    assert sum(one["missing"] for one in report["per_source"]) == 30


async def test_many_sources_are_shown_as_far_as_there_is_something_to_tell(
    database_url: DatabaseUrl, index: Index, cli: Cli
) -> None:
    path = index(*(asset(f"k{n}", f"s{n}.example") for n in range(30)))
    await load(database_url, path)
    equal = cli("verify", path, "-q", url=database_url).stdout.decode()
    assert "s1.example" not in equal
    assert "30 sources" in equal
    await Meddler(database_url, "delete from registry.assets where asset_key in ('k7', 'k9')")._meddle()
    lines = cli("verify", path, "-q", url=database_url).stdout.decode().splitlines()
    assert [line.split()[0] for line in lines if ".example" in line] == ["s7.example", "s9.example"]
    assert "and 28 more sources, all as they should be" in lines


async def test_what_an_index_says_cannot_write_on_the_terminal(
    database_url: DatabaseUrl, index: Index, cli: Cli
) -> None:
    evil = "\x1b[31m\u202e[bold]"
    path = index(source(f"{evil}.example"), asset(evil, f"{evil}.example"), name="\x1b]0;x\x07.ndjson")
    for options in (("--log-format", "console"), ("--json",)):
        done = cli("verify", path, *options, url=database_url)
        assert done.returncode == 4, done.stderr
        assert not {b"\x1b", b"\x07", "\u202e".encode()} & {done.stdout[n : n + 1] for n in range(len(done.stdout))}
        assert b"\x1b" not in done.stderr
        if "--json" not in options:
            assert "\u202e" not in done.stdout.decode()
            assert "\\x1b[31m\\u202e[bold]" in done.stdout.decode()


async def test_without_any_database_there_is_nothing_to_verify(index: Index, cli: Cli, home: Path) -> None:
    done = cli("verify", index(*RECORDS))
    assert done.returncode == 1
    assert done.stderr.decode().startswith("error: there is no embedded database yet")
    assert list(home.iterdir()) == []


@pytest.mark.slow
async def test_the_embedded_server_is_verified_and_left_stopped(index: Index, cli: Cli, home: Path) -> None:
    home.chmod(0o711)  # as root, the server's own user has to pass through
    path = index(*RECORDS)
    assert cli("load", path).returncode == 0
    done = cli("verify", path)
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("postmaster.pid")) == []


@pytest.mark.parametrize("options", [("--sample", "-1"), ("--column", "x"), ("--dialect", "x"), ("--limit", "-1")])
async def test_a_mistake_in_the_arguments_is_exit_code_2(options: tuple[str, ...], cli: Cli, index: Index) -> None:
    assert cli("verify", index(*RECORDS), *options).returncode == 2
