"""Providers: what an index looks like decides that of a source once, when it is created."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from seed_registry import DatabaseUrl, Report, Settings, ingest
from seed_registry.errors import SettingsInvalid
from seed_registry.report import AssetCounts, SourceCounts
from seed_registry.verify.audit import audit

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]

PORTAL = "data.a.example"
# The same portal in three dialects, each evidence of another software or of none.
INDEXES: Final[dict[str, Any]] = {
    "directory": {"source": "socrata", "domain": PORTAL, "datasets": [{"id": "abcd-2345", "name": "One"}]},
    "ckan": {
        "help": f"https://{PORTAL}/api/3/action/help_show?name=package_search",
        "success": True,
        "result": {"results": [{"id": "k-1", "name": "two", "metadata_modified": "2024-01-01"}]},
    },
    "seed": {
        "sources": [{"source_key": PORTAL, "name": "The portal"}],
        "assets": [{"asset_key": "s-1", "source_key": PORTAL}],
    },
}
EVIDENCE: Final = {"directory": "socrata", "ckan": "ckan", "seed": "socrata"}

# How the tables may be keyed, and whether they have columns for providers.
TABLES: Final = {
    "our own": "",
    "sources by key": "alter table registry.sources drop constraint sources_provider_source_key_key,"
    "  add unique (source_key)",
    "assets by provider": "alter table registry.assets drop constraint assets_asset_key_key,"
    "  add column provider text not null, add unique (provider, asset_key)",
    "assets by source": "alter table registry.assets drop constraint assets_asset_key_key,"
    "  add unique (source_id, asset_key)",
}
# Where nothing tells the provider of a source, each index says that of its own assets.
UNTOLD: Final = (
    "alter table registry.sources drop column provider, add unique (source_key)",
    (
        "alter table registry.assets drop constraint assets_asset_key_key,"
        "  add column provider text not null, add unique (provider, asset_key)"
    ),
)


@pytest.fixture
def database_url(emptied_url: DatabaseUrl) -> DatabaseUrl:
    """The module's database, its tables made anew."""
    return emptied_url


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, str]:
    """The indexes, by dialect."""
    found = {}
    for name, content in INDEXES.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        found[name] = str(path)
    return found


async def ask(url: DatabaseUrl, query: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url.reveal)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def load(url: DatabaseUrl, *indexes: str, **options: Any) -> Report:
    report = await ingest(indexes, Settings(database_url=url, **options))
    assert report.verification is None or report.verification.passed
    return report


@pytest.mark.slow
@pytest.mark.parametrize("tables", TABLES)
@pytest.mark.parametrize("order", list(permutations(INDEXES)), ids=", ".join)
async def test_the_first_index_of_a_portal_decides_its_provider_and_all_its_assets_have_it(
    tables: str, order: tuple[str, ...], database_url: DatabaseUrl, paths: dict[str, str]
) -> None:
    await ask(database_url, TABLES[tables])
    for number, name in enumerate(order):
        planned = await load(database_url, paths[name], dry_run=True)
        report = await load(database_url, paths[name])
        assert report.provider == EVIDENCE[name]
        assert report.assets == planned.assets == AssetCounts(read=1, inserted=1)
        assert report.sources == planned.sources
        assert report.sources.inserted == (number == 0)
    first = EVIDENCE[order[0]]
    assert await ask(database_url, "select provider, source_key from registry.sources") == [(first, PORTAL)]
    if tables == "assets by provider":
        assert await ask(database_url, "select distinct provider from registry.assets") == [(first,)]
    again = await load(database_url, *paths.values())
    assert again.assets == AssetCounts(read=3, unchanged=3)
    audited = await audit(list(paths.values()), Settings(database_url=database_url))
    assert audited.verification.passed
    assert (audited.assets.in_database, audited.assets.extra, len(audited.per_source)) == (3, 0, 1)
    assert audited.per_source[0].provider == first


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("order", list(permutations(INDEXES)), ids=", ".join)
async def test_indexes_of_one_run_agree_on_a_source_as_those_of_several_do(
    dry_run: bool, order: tuple[str, ...], database_url: DatabaseUrl, paths: dict[str, str]
) -> None:
    await ask(database_url, TABLES["assets by provider"])
    report = await load(database_url, *(paths[name] for name in order), dry_run=dry_run)
    assert (report.sources.read, report.sources.inserted) == (3, 1)
    assert report.assets == AssetCounts(read=3, inserted=3)
    if not dry_run:
        query = "select distinct provider from registry.sources union all select distinct provider from registry.assets"
        assert await ask(database_url, query) == [(EVIDENCE[order[0]],)] * 2


async def test_where_nothing_tells_the_provider_of_a_source_each_index_says_that_of_its_assets(
    database_url: DatabaseUrl, paths: dict[str, str]
) -> None:
    for statement in UNTOLD:
        await ask(database_url, statement)
    both = [paths["ckan"], paths["directory"]]
    for indexes in ([both[0]], both, both[::-1], [both[1]]):
        await load(database_url, *indexes)
    held = await ask(database_url, "select provider, asset_key from registry.assets order by 1")
    assert held == [("ckan", "k-1"), ("socrata", "abcd-2345")]
    assert (await load(database_url, *both, verify_sample=10)).assets == AssetCounts(read=2, unchanged=2)
    assert (await audit(both, Settings(database_url=database_url))).verification.passed


async def test_the_operator_names_the_provider_of_sources_that_are_created(
    database_url: DatabaseUrl, paths: dict[str, str]
) -> None:
    report = await load(database_url, paths["directory"], provider="arcgis")
    assert report.provider == "arcgis"
    assert (await load(database_url, paths["seed"], provider="junar")).sources == SourceCounts(read=1, updated=1)
    assert await ask(database_url, "select provider from registry.sources") == [("arcgis",)]
    again = await load(database_url, paths["directory"], paths["seed"])
    assert again.assets == AssetCounts(read=2, unchanged=2)


@pytest.mark.parametrize("name", INDEXES)
async def test_of_two_sources_with_one_key_the_operator_has_to_name_one(
    name: str, database_url: DatabaseUrl, paths: dict[str, str]
) -> None:
    insert = "insert into registry.sources (provider, source_key) values ('ckan', '{0}'), ('socrata', '{0}')"
    await ask(database_url, insert.format(PORTAL))
    advice = rf"2 sources {PORTAL}, of the providers ckan, socrata\nname the one .* --provider ckan"
    for dry_run in (False, True):
        with pytest.raises(SettingsInvalid, match=advice):
            await load(database_url, paths[name], dry_run=dry_run)
    with pytest.raises(SettingsInvalid, match=advice):
        await audit([paths[name]], Settings(database_url=database_url))
    assert await ask(database_url, "select from registry.assets") == []
    await load(database_url, paths[name], provider="socrata")  # what the advice says works
    query = "select provider from registry.assets as asset join registry.sources as source on source.id = source_id"
    assert await ask(database_url, query) == [("socrata",)]
    settings = Settings(database_url=database_url, provider="socrata")
    assert (await audit([paths[name]], settings)).verification.passed


async def test_a_cache_of_sources_does_not_choose_between_two(
    database_url: DatabaseUrl, paths: dict[str, str], tmp_path: Path
) -> None:
    cache = str(tmp_path / "cache")
    await load(database_url, paths["directory"], source_cache=cache)
    assert (await load(database_url, paths["ckan"], source_cache=cache)).sources == SourceCounts(read=1, unchanged=1)
    await ask(database_url, f"insert into registry.sources (provider, source_key) values ('ckan', '{PORTAL}')")
    with pytest.raises(SettingsInvalid, match="--provider"):
        await load(database_url, paths["ckan"], source_cache=cache)
    report = await load(database_url, paths["seed"], source_cache=cache, provider="ckan")
    assert report.assets.inserted == 1
    query = "select provider, asset_key from registry.assets join registry.sources as source on source.id = source_id"
    assert ("ckan", "s-1") in await ask(database_url, query)
