"""Real index files, as their portals published them; where they are not present these tests are skipped."""

# ruff: noqa: ASYNC240  # nothing else runs in the event loop of a test that looks at a file
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from conftest import Cli
from seed_registry import DatabaseUrl, Report, Settings, ingest
from seed_registry.errors import IndexNotUnderstood
from seed_registry.report import AssetCounts, SourceCounts

VERSIONS = """
    select source_key, xmin::text, ctid::text from registry.sources
    union all select asset_key, xmin::text, ctid::text from registry.assets
    order by 1
"""
# All that does not depend on the order of writing: no ids, no times of ours, no hashes.
DIGEST = """
    select md5(string_agg(md5(row(
      asset_key, provider, source_key, source.name, source.url, source.raw, asset.name, description, asset.url,
      asset.updated_at, asset.raw)::text), '' order by asset_key collate "C"))
    from registry.assets as asset join registry.sources as source on source.id = asset.source_id
"""
COUNTS = "select (select count(*) from registry.sources), (select count(*) from registry.assets)"


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEED_REGISTRY_HOME", str(home))


async def load(url: DatabaseUrl, path: Path, **settings: Any) -> Report:
    report = await ingest([str(path)], Settings(database_url=url, **settings))
    assert report.verification
    assert report.verification.passed
    assert report.bytes_read == path.stat().st_size
    return report


async def ask(url: DatabaseUrl, query: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url.reveal)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


@pytest.mark.anyio
async def test_the_directory_of_san_francisco_is_loaded_whole_and_a_second_time_nothing_is_written(
    database_url: DatabaseUrl, shared_data: Path
) -> None:
    path = shared_data / "directory_sf.json"
    first = await load(database_url, path)
    assert first.sources == SourceCounts(read=1, inserted=1)
    assert first.assets == AssetCounts(read=762, inserted=762)
    assert (first.dialect, first.rejects_file) == ("directory", None)
    versions = await ask(database_url, VERSIONS)
    second = await load(database_url, path)
    assert second.sources == SourceCounts(read=1, unchanged=1)
    assert second.assets == AssetCounts(read=762, unchanged=762)
    assert await ask(database_url, VERSIONS) == versions


def test_the_command_loads_the_directory_of_san_francisco_and_exits_with_0(
    database_url: DatabaseUrl, shared_data: Path, cli: Cli
) -> None:
    done = cli("load", shared_data / "directory_sf.json", url=database_url)
    assert done.returncode == 0, done.stderr
    table = [re.sub(rb" +", b" ", line).strip() for line in done.stdout.splitlines()]
    assert b"sources 1 1 0 0 0 0" in table
    assert b"assets 762 762 0 0 0 0 0" in table
    assert re.search(rb"verified: (\d+) of \1 checks passed", done.stdout)


@pytest.mark.anyio
async def test_the_catalogue_of_all_portals_gives_the_same_table_at_any_batch_size_and_concurrency(
    database_url: DatabaseUrl, shared_data: Path
) -> None:
    path = shared_data / "discovery_2022-06-07.ndjson.gz"
    digests = []
    for options in ({"concurrency": 1, "batch_size": 7}, {"concurrency": 8, "batch_size": 5000}, {}):
        await ask(database_url, "truncate registry.sources, registry.assets")
        report = await load(database_url, path, **options)
        assert report.sources == SourceCounts(read=273, inserted=273)
        counts = report.assets
        assert (counts.read, counts.inserted) == (13_383, 13_058)
        assert counts.duplicate + counts.unchanged == 325, "all repeats of this index are exact"
        assert await ask(database_url, COUNTS) == [(273, 13_058)]
        digests += await ask(database_url, DIGEST)
    assert digests[0] == digests[1] == digests[2]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("name", "dialect", "sources", "assets"),
    [
        ("directory_sf_kept.json", "directory", 1, 390),
        ("directory_sf_v1_array.json", "directory", 1, 4),
        ("discovery_page_us.json", "discovery", None, 10),
        ("discovery_page_eu.json", "discovery", None, 10),
        ("discovery_page_2018.json", "discovery", None, 7),
        ("empty_array.json", "directory", 0, 0),
    ],
)
async def test_every_record_of_a_real_index_is_loaded(
    database_url: DatabaseUrl, shared_data: Path, name: str, dialect: str, sources: int | None, assets: int
) -> None:
    report = await load(database_url, shared_data / name)
    assert report.dialect == dialect
    assert report.assets == AssetCounts(read=assets, inserted=assets)
    assert report.sources.read == report.sources.inserted
    assert sources is None or report.sources.inserted == sources
    assert await ask(database_url, COUNTS) == [(report.sources.inserted, assets)]


# Dialects that come later: then these files move to the table above.
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("views_array.json", "the array of approvals, attribution"),
        ("view_single.json", "it has attribution, attributionLink"),
        ("dcat_us_portal.json", "it has @context, @id, @type, conformsTo, dataset"),
        ("pod10_data.sfgov.org.json", "the array of accessLevel"),
    ],
)
async def test_an_index_of_another_shape_is_an_error_that_names_what_was_seen(
    database_url: DatabaseUrl, shared_data: Path, name: str, seen: str
) -> None:
    with pytest.raises(IndexNotUnderstood) as raised:
        await load(database_url, shared_data / name)
    message = str(raised.value)
    assert name in message
    assert seen in message
    assert "--dialect" in message.splitlines()[1]
    assert message.count("\n") == 1
    assert raised.value.exit_code == 1
    assert await ask(database_url, COUNTS) == [(0, 0)]
