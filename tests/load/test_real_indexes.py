"""Real index files, as their portals published them; where they are not present these tests are skipped."""

# ruff: noqa: ASYNC240  # nothing else runs in the event loop of a test that looks at a file
from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import zstandard

from conftest import Cli
from seed_registry import DatabaseUrl, Report, Settings, ingest
from seed_registry.errors import IndexNotUnderstood, TooManyRejects
from seed_registry.report import AssetCounts, SourceCounts

pytestmark = pytest.mark.usefixtures("at_home")

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
    # the column of missing sources is only there where some are
    assert {b"assets 762 762 0 0 0 0", b"assets 762 762 0 0 0 0 0"} & set(table)
    assert re.search(rb"verified: (\d+) of \1 checks passed", done.stdout)


@pytest.mark.slow
@pytest.mark.anyio
async def test_the_catalogue_of_all_portals_gives_the_same_table_at_any_batch_size_and_concurrency(
    database_url: DatabaseUrl, shared_data: Path
) -> None:
    path = shared_data / "discovery_2022-06-07.ndjson.gz"
    digests = []
    for options in ({"concurrency": 1, "batch_size": 40}, {"concurrency": 8, "batch_size": 5000}, {}):
        await ask(database_url, "truncate registry.sources, registry.assets")
        report = await load(database_url, path, **options)
        assert report.sources == SourceCounts(read=273, inserted=273)
        counts = report.assets
        assert (counts.read, counts.inserted) == (13_383, 13_058)
        assert counts.duplicate + counts.unchanged == 325, "all repeats of this index are exact"
        assert await ask(database_url, COUNTS) == [(273, 13_058)]
        digests += await ask(database_url, DIGEST)
    assert digests[0] == digests[1] == digests[2]


REAL = {  # dialect, sources, assets, whether `--domain`, if it can be given, says the portal
    "directory_sf.json": ("directory", 1, 762, False),
    "directory_sf_kept.json": ("directory", 1, 390, False),
    "directory_sf_v1_array.json": ("directory", 1, 4, False),
    "empty_array.json": ("directory", 0, 0, False),
    "discovery_2022-06-07.ndjson.gz": ("discovery", 273, 13_058, False),
    "discovery_page_us.json": ("discovery", None, 10, False),
    "discovery_page_eu.json": ("discovery", None, 10, False),
    "discovery_page_2018.json": ("discovery", None, 7, False),
    "views_array.json": ("views", 1, 12, True),
    "view_single.json": ("views", 1, 1, True),
    "dcat_us_portal.json": ("data-json", 1, 295, True),
    "pod10_data.sfgov.org.json": ("data-json", 1, 369, True),  # its first row is the catalogue itself
}
TOLD = "told.example.org"


def test_every_real_index_is_in_the_table(shared_data: Path) -> None:
    found = {path.name for path in shared_data.iterdir() if path.is_file()}
    assert found - {"README.md"} == REAL.keys()


@pytest.mark.anyio
@pytest.mark.parametrize("name", REAL)
@pytest.mark.sampled(6)
async def test_every_record_of_a_real_index_is_loaded(database_url: DatabaseUrl, shared_data: Path, name: str) -> None:
    dialect, sources, assets, told = REAL[name]
    domain = None if dialect == "discovery" else TOLD
    report = await load(database_url, shared_data / name, domain=domain)
    repeats = 325 if dialect == "discovery" and assets > 10 else 0
    assert report.dialect == dialect
    counts = report.assets
    assert (counts.read, counts.inserted, counts.rejected, counts.updated) == (assets + repeats, assets, 0, 0)
    assert counts.duplicate + counts.unchanged == repeats
    assert report.sources.read == report.sources.inserted
    assert sources is None or report.sources.inserted == sources
    assert await ask(database_url, COUNTS) == [(report.sources.inserted, assets)]
    found = {key for (key,) in await ask(database_url, "select source_key from registry.sources")}
    assert (found == {TOLD}) if told else (TOLD not in found)
    again = await load(database_url, shared_data / name, domain=domain)
    assert again.assets.unchanged + again.assets.duplicate == again.assets.read == counts.read
    assert again.assets.duplicate <= repeats


@pytest.mark.slow
@pytest.mark.anyio
async def test_all_real_indexes_are_loaded_at_once_and_their_counts_add_up(
    database_url: DatabaseUrl, shared_data: Path
) -> None:
    # A directory would do, but that no domain can be told of discovery's.
    names = sorted(name for name in REAL if REAL[name][0] != "discovery")
    paths = [str(shared_data / name) for name in names]
    report = await ingest(paths, Settings(database_url=database_url, domain=TOLD))
    assert [Path(part.index).name for part in report.per_index] == names
    for part in report.per_index:
        dialect, _, assets, _ = REAL[Path(part.index).name]
        assert part.dialect == dialect
        assert part.assets.read == assets
    for name in AssetCounts.__struct_fields__:
        assert sum(getattr(part.assets, name) for part in report.per_index) == getattr(report.assets, name)
    assert report.verification
    assert report.verification.passed


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["views_array.json", "view_single.json"])
async def test_views_without_a_domain_are_an_error_and_nothing_is_written(
    database_url: DatabaseUrl, shared_data: Path, name: str
) -> None:
    with pytest.raises(
        IndexNotUnderstood, match=f"{name}: records of the dialect views do not name their portal\n.*--domain"
    ):
        await load(database_url, shared_data / name)
    assert await ask(database_url, COUNTS) == [(0, 0)]


@pytest.mark.anyio
async def test_the_first_project_open_data_file_without_a_domain_is_all_rejects(
    database_url: DatabaseUrl, shared_data: Path
) -> None:
    with pytest.raises(
        TooManyRejects, match=r"nothing was loaded: 369 of 369 .* name the portal with --domain"
    ) as raised:
        await load(database_url, shared_data / "pod10_data.sfgov.org.json")
    report = raised.value.report
    assert report is not None
    assert report.sources == SourceCounts()
    assert (report.assets.read, report.assets.rejected) == (369, 369)


@pytest.mark.anyio
async def test_the_rows_of_real_records_are_as_their_portals_wrote_them(
    database_url: DatabaseUrl, shared_data: Path
) -> None:
    query = "select asset_key, source_key, asset.url, asset.updated_at::text, asset.name from registry.assets as asset"
    query += " join registry.sources as source on source.id = source_id where asset_key in ('7ray-xvet', '27w9-urtv')"
    await load(database_url, shared_data / "view_single.json", domain="Data.CityOfChicago.org")
    await load(database_url, shared_data / "dcat_us_portal.json")
    connection = await asyncpg.connect(database_url.reveal, server_settings={"timezone": "UTC"})
    rows = [tuple(row) for row in await connection.fetch(query + " order by 1")]
    await connection.close()
    assert rows == [
        ("27w9-urtv", "data.baltimorecity.gov", "https://data.baltimorecity.gov/d/27w9-urtv", "2020-07-22 00:00:00+00",
         "Real Property Taxes"),
        ("7ray-xvet", "data.cityofchicago.org", "https://data.cityofchicago.org/d/7ray-xvet", "2013-06-20 14:17:16+00",
         "Performance Metrics - Buildings - Time to Issue Easy Permits"),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("name", ["directory_sf.json", "views_array.json", "dcat_us_portal.json"])
async def test_real_records_in_every_container_give_the_same_table(
    database_url: DatabaseUrl, shared_data: Path, tmp_path: Path, name: str
) -> None:
    whole = json.loads((shared_data / name).read_bytes())
    records = whole if isinstance(whole, list) else whole.get("datasets") or whole["dataset"]
    portal = TOLD if isinstance(whole, list) else whole.get("domain") or whole["@id"].split("/")[2]
    lines = b"".join(json.dumps(record).encode() + b"\n" for record in records)
    containers = {
        "as it is": (shared_data / name).read_bytes(),
        "packed": gzip.compress((shared_data / name).read_bytes()),
        "pretty-printed": json.dumps(whole, indent=4).encode(),
        "a bare array": json.dumps(records).encode(),
        "lines": lines,
        "packed lines": zstandard.compress(lines),
    }
    digests = {}
    for container, data in containers.items():
        await ask(database_url, "truncate registry.sources, registry.assets")
        path = tmp_path / "index"
        path.write_bytes(data)
        # A directory in lines is told from nothing else, and without a header every record is of the portal named.
        dialect = REAL[name][0]
        report = await load(database_url, path, domain=portal, dialect=dialect)
        assert report.assets.inserted == REAL[name][2]
        digests[container] = (await ask(database_url, DIGEST))[0]
    assert len(set(digests.values())) == 1, digests
