"""Verifying: each check fails when it should, and only then."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, TypeAlias

import asyncpg
import pytest

from conftest import make_asset, make_source, source_rows
from seed_registry.records import SourceRow
from seed_registry.registry.introspection import introspect
from seed_registry.registry.upsert import upsert_assets, upsert_sources
from seed_registry.report import Check, Counts, Tally, Verification
from seed_registry.settings import DatabaseUrl
from seed_registry.shortfall import Expectation
from seed_registry.verify.checks import verify

pytestmark = pytest.mark.anyio

Connection: TypeAlias = "asyncpg.Connection[Any]"

ASSETS = [
    make_asset(
        f"aaaa-000{number}",
        "a.org" if number < 3 else "b.org",
        name=f"Asset {number}",
        description="about",
        url="https://a.org/x",
        updated_at=datetime(2024, 1, number, tzinfo=UTC),
    )
    for number in range(1, 6)
]


@pytest.fixture
def database_url(emptied_url: DatabaseUrl) -> DatabaseUrl:
    """The module's database, its tables made anew."""
    return emptied_url


class Told:
    """The `Progress` of these tests: it remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []

    def began(self, tally: Tally) -> None:
        """Ignore it."""

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Keep it."""
        self.events.append((level, event, fields))


class Load:
    """A load that is done and is to be verified."""

    def __init__(self, connection: Connection, source_ids: dict[str, Any]) -> None:
        self.connection = connection
        self.source_ids = source_ids
        self.told = Told()
        self.tally = Tally(sources=Counts(read=2, inserted=2), assets=Counts(read=5, inserted=5))
        sample = {asset.key: (SourceRow(source_ids.get(asset.source_key), "socrata"), asset) for asset in ASSETS[:4]}
        self.loaded = Expectation(distinct_assets=5, sample=sample)

    async def verified(self) -> Verification:
        """What the verification says; whether it passed is always that every check did."""
        tables = await introspect(self.connection)
        verification = await verify(
            self.connection, tables, source_rows(self.source_ids), self.tally, self.loaded, self.told
        )
        assert verification.passed is all(check.passed for check in verification.checks)
        assert all(check.name.isidentifier() for check in verification.checks)
        return verification

    async def failures(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in (await self.verified()).checks if not check.passed]


@pytest.fixture
async def load(connection: Connection) -> Load:
    ids = await upsert_sources(connection, [make_source("a.org"), make_source("b.org")])
    await upsert_assets(connection, ASSETS, ids, provider="socrata")
    return Load(connection, ids)


async def test_a_load_as_it_should_be_passes_every_check(load: Load) -> None:
    load.loaded.declared = [("totalCount", 5, 5), ("keptCount", 5, 5)]
    verification = await load.verified()
    assert verification.passed
    assert [check.name for check in verification.checks] == [
        "sources_conserved",
        "assets_conserved",
        "declared_totalCount",
        "declared_keptCount",
        "sources_present",
        "assets_present",
        "assets_without_source",
        "sample_equal",
    ]
    assert load.told.events == []


@pytest.mark.parametrize("table", ["sources", "assets"])
@pytest.mark.parametrize(
    ("field", "by"),
    [
        ("read", 1), ("read", -1), ("inserted", 1), ("inserted", -1), ("updated", 1), ("unchanged", 1),
        ("duplicate", 1), ("rejected", 1), ("missing_source", 1), ("resumed", 1),
    ],
)  # fmt: skip
async def test_counts_that_break_the_law_fail(table: str, field: str, by: int, load: Load) -> None:
    counts = getattr(load.tally, table)
    setattr(counts, field, getattr(counts, field) + by)
    failed, *others = await load.failures()
    assert failed == Check(f"{table}_conserved", passed=False, expected=counts.read, actual=counts.outcomes)
    is_one_row_short = (table, field, by) == ("assets", "inserted", 1)  # what was inserted is to be there
    assert others == ([Check("assets_present", passed=False, expected=6, actual=5)] if is_one_row_short else [])


async def test_every_outcome_counts_for_the_law(load: Load) -> None:
    load.tally.assets = Counts(
        read=28, inserted=1, updated=2, unchanged=3, duplicate=4, rejected=5, missing_source=6, resumed=7
    )
    assert await load.failures() == []


async def test_a_declared_count_that_differs_fails(load: Load) -> None:
    load.loaded.declared = [("totalCount", 5, 5), ("keptCount", 6, 5)]
    assert await load.failures() == [Check("declared_keptCount", passed=False, expected=6, actual=5)]


async def test_assets_that_are_gone_fail(load: Load) -> None:
    await load.connection.execute("delete from registry.assets where asset_key = 'aaaa-0005'")
    assert await load.failures() == [Check("assets_present", passed=False, expected=5, actual=4)]


async def test_a_sampled_asset_that_is_gone_fails_twice_and_is_reported(load: Load) -> None:
    await load.connection.execute("delete from registry.assets where asset_key = 'aaaa-0001'")
    assert [check.name for check in await load.failures()] == ["assets_present", "sample_equal"]
    ((level, event, fields),) = load.told.events
    assert (level, event, fields["key"]) == ("error", "sample_differs", "aaaa-0001")
    assert {"name", "raw", "source_id"} <= set(fields["fields"])


async def test_assets_that_the_database_refused_are_not_expected(load: Load) -> None:
    load.loaded.distinct_assets, load.loaded.refused_assets = 7, 2
    assert await load.failures() == []
    load.loaded.refused_assets = 1
    assert await load.failures() == [Check("assets_present", passed=False, expected=6, actual=5)]


async def test_a_source_that_is_gone_fails(load: Load) -> None:
    await load.connection.execute(
        "delete from registry.assets; delete from registry.sources where source_key = 'b.org'"
    )
    load.loaded, load.tally.assets = Expectation(), Counts()
    assert await load.failures() == [Check("sources_present", passed=False, expected=2, actual=1)]


async def test_a_source_that_is_gone_without_a_foreign_key_leaves_orphans_and_fails(load: Load) -> None:
    await load.connection.execute("alter table registry.assets drop constraint assets_source_id_fkey")
    await load.connection.execute("delete from registry.sources where source_key = 'b.org'")
    assert await load.failures() == [
        Check("sources_present", passed=False, expected=2, actual=1),
        Check("assets_without_source", passed=False, expected=0, actual=3),
    ]


async def test_orphans_are_counted_where_the_foreign_key_is_not_validated(load: Load) -> None:
    await load.connection.execute("alter table registry.assets drop constraint assets_source_id_fkey")
    await load.connection.execute("insert into registry.assets (asset_key, source_id) values ('orphan', 12345)")
    await load.connection.execute(
        "alter table registry.assets add foreign key (source_id) references registry.sources not valid"
    )
    assert await load.failures() == [Check("assets_without_source", passed=False, expected=0, actual=1)]


async def test_without_a_foreign_key_assets_that_all_have_a_source_pass(load: Load) -> None:
    await load.connection.execute("alter table registry.assets drop constraint assets_source_id_fkey")
    assert await load.failures() == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("name = 'x'", "name"),
        ("name = null", "name"),
        ("description = ''", "description"),
        ("url = 'http://elsewhere'", "url"),
        ("updated_at = null", "updated_at"),
        ("updated_at = '2000-01-01'", "updated_at"),
        ("raw = '{}'", "raw"),
        ('raw = raw || \'{"name": "Asset 2"}\'', "raw"),
        ("raw = null", "raw"),
        ("source_id = source_id + 1", "source_id"),
    ],
)
async def test_a_sampled_asset_that_was_altered_fails_and_its_field_is_reported(
    change: str, field: str, load: Load
) -> None:
    await load.connection.execute(f"update registry.assets set {change} where asset_key = 'aaaa-0001'")
    assert await load.failures() == [Check("sample_equal", passed=False, expected=4, actual=3)]
    assert load.told.events == [("error", "sample_differs", {"key": "aaaa-0001", "fields": [field], "line": 0})]


async def test_every_sampled_asset_that_differs_is_reported(load: Load) -> None:
    await load.connection.execute("update registry.assets set name = 'x', url = 'x'")
    assert await load.failures() == [Check("sample_equal", passed=False, expected=4, actual=0)]
    assert [fields["key"] for *_, fields in load.told.events] == [asset.key for asset in ASSETS[:4]]
    assert all(fields["fields"] == ["name", "url"] for *_, fields in load.told.events)


async def test_an_asset_that_is_not_sampled_may_differ(load: Load) -> None:
    await load.connection.execute("update registry.assets set name = 'x' where asset_key = 'aaaa-0005'")
    assert await load.failures() == []


async def test_a_later_moment_than_the_index_has_is_right(load: Load) -> None:
    """It came from an earlier load and never goes backwards."""
    await load.connection.execute("update registry.assets set updated_at = '2040-01-01'")
    assert await load.failures() == []


async def test_a_content_hash_of_another_mapping_is_no_difference(load: Load) -> None:
    await load.connection.execute("update registry.assets set content_hash = null")
    assert await load.failures() == []


async def test_rows_of_earlier_loads_are_reported_and_no_failure(load: Load) -> None:
    await upsert_assets(
        load.connection, [make_asset("old1", "a.org"), make_asset("old2", "a.org")], load.source_ids, provider="socrata"
    )
    others = await upsert_sources(load.connection, [make_source("other.org")])
    await upsert_assets(load.connection, [make_asset("other", "other.org")], others, provider="socrata")
    verification = await load.verified()
    assert verification.passed
    assert Check("assets_present", passed=True, expected=5, actual=7) in verification.checks
    ((level, event, fields),) = load.told.events
    assert (level, event, fields["assets"]) == ("info", "more_in_registry", 2)


async def test_without_a_sample_there_is_no_check_of_it(load: Load) -> None:
    load.loaded.sample = {}
    await load.connection.execute("update registry.assets set name = 'x'")
    verification = await load.verified()
    assert "sample_equal" not in [check.name for check in verification.checks]
    assert verification.passed


async def test_an_index_of_nothing_passes(connection: Connection) -> None:
    nothing = Load(connection, {})
    nothing.tally, nothing.loaded = Tally(), Expectation()
    assert await nothing.failures() == []


async def test_a_verification_writes_nothing(load: Load) -> None:
    tables = await introspect(load.connection)
    async with load.connection.transaction(readonly=True):
        verification = await verify(
            load.connection, tables, source_rows(load.source_ids), load.tally, load.loaded, load.told
        )
    assert verification.passed


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
    ],
)
async def test_tables_of_another_shape_are_verified_too(ddl: str, connection: Connection) -> None:
    await connection.execute(f"drop table registry.assets, registry.sources; {ddl}")
    ids = await upsert_sources(connection, [make_source("a.org"), make_source("b.org")])
    await upsert_assets(connection, ASSETS, ids, provider="socrata")
    load = Load(connection, ids)
    assert await load.failures() == []
    await connection.execute("delete from registry.assets where asset_key = 'aaaa-0001'")
    assert [check.name for check in await load.failures()] == ["assets_present", "sample_equal"]


def test_a_check_that_rows_of_earlier_loads_cannot_fail_says_at_least() -> None:
    assert str(Check("assets_present", False, 5, 4)) == "assets_present: expected at least 5, found 4"
    assert str(Check("assets_equal", False, 0, 3)) == "assets_equal: expected 0, found 3"
