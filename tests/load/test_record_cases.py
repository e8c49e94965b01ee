"""Indexes whose records were loaded wrongly once; the inputs follow public reports and real files."""

# ruff: noqa: ASYNC240  # nothing else runs in the event loop of a test that writes a file
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from conftest import Cli
from seed_registry import DatabaseUrl, MaxRejects, Report, Settings, ingest
from seed_registry.errors import SettingsInvalid
from seed_registry.report import MissingPlan

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]
CATALOG = {"conformsTo": "https://project-open-data.cio.gov/v1.1/schema", "@id": "https://open.example.org/data.json"}
HUB = "https://data-city.opendata.example.com/datasets/"
ASSETS = """
    select asset_key, source_key, asset.name, description, asset.url,
      to_char(asset.updated_at at time zone 'UTC', 'YYYY-MM-DD') as day
    from registry.assets as asset join registry.sources as source on source.id = asset.source_id order by 1
"""


async def load(url: DatabaseUrl, path: Path, content: Any = None, **settings: Any) -> Report:
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    report = await ingest([str(path)], Settings(database_url=url, **settings))
    assert report.dry_run or (report.verification and report.verification.passed)
    return report


async def rows(url: DatabaseUrl) -> list[dict[str, Any]]:
    connection = await asyncpg.connect(url.reveal)
    try:
        return [dict(row) for row in await connection.fetch(ASSETS)]
    finally:
        await connection.close()


async def column(url: DatabaseUrl, name: str) -> list[Any]:
    return [row[name] for row in await rows(url)]


def data_sets(*records: dict[str, Any], **header: Any) -> dict[str, Any]:
    return CATALOG | header | {"dataset": list(records)}


async def test_a_host_whose_label_looks_like_a_socrata_id_gives_no_key(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    pages = [f"{HUB}{number}_0" for number in ("0fb5c2c6", "6138a095", "aec47582")]
    records = [{"identifier": page, "title": "t", "landingPage": page} for page in pages]
    report = await load(database_url, tmp_path / "i.json", data_sets(*records))
    assert (report.assets.inserted, report.assets.duplicate) == (3, 0)
    assert await column(database_url, "asset_key") == pages


async def test_a_landing_page_never_beats_an_identifier(database_url: DatabaseUrl, tmp_path: Path) -> None:
    site = "https://open.example.org"
    pages = [f"{site}/data/developers/data-sets/{n}.html" for n in range(2)] + ["https://doi.org/10.1/abcd-2345"] * 2
    pages += [f"{site}/d/abcd-2345"] * 2  # a story about two datasets
    records = [{"identifier": f"bureau-{n}", "title": "t", "landingPage": page} for n, page in enumerate(pages)]
    report = await load(database_url, tmp_path / "i.json", data_sets(*records))
    assert (report.assets.inserted, report.assets.duplicate) == (6, 0)
    assert await column(database_url, "asset_key") == [f"bureau-{n}" for n in range(6)]


async def test_the_objects_of_dcat_us_3_are_keys_and_urls(database_url: DatabaseUrl, tmp_path: Path) -> None:
    page = "https://climate.example.gov/obs"
    identifier = {"@type": "Identifier", "schemaAgency": "Climate Center", "notation": "CC-1", "version": "1.0"}
    records = [
        {"identifier": identifier, "title": "Observations", "landingPage": {"@type": "Document", "@id": page}},
        {"identifier": "https://climate.example.gov/id/2", "title": "Normals", "landingPage": {"accessURL": page}},
    ]
    header = {"@type": "Catalog", "conformsTo": {"@type": "Standard", "title": "DCAT-US 3.0"}}
    report = await load(database_url, tmp_path / "i.json", data_sets(*records, **header))
    assert (report.dialect, report.assets.inserted, report.texts_ignored) == ("data-json", 2, 0)
    assert await column(database_url, "asset_key") == ['["Climate Center","CC-1"]', "https://climate.example.gov/id/2"]
    assert await column(database_url, "url") == [page, page]


async def test_the_records_decide_where_the_name_of_their_array_does_not(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    records = [
        {"@type": "dcat:Dataset", "accessLevel": "public", "identifier": key, "title": key} for key in ("a", "b")
    ]
    for thing in (CATALOG | {"datasets": records}, {"datasets": records} | CATALOG):
        report = await load(database_url, tmp_path / "i.json", thing)
        assert (report.dialect, report.assets.read, report.assets.rejected) == ("data-json", 2, 0)
    assert await column(database_url, "source_key") == ["open.example.org"] * 2


async def test_reduced_dates_are_their_first_moment_and_others_are_told(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    dates = ["2018-05", "2015", "2018-05-07", "R/P1M", None]
    records = [{"identifier": f"m-{n}", "title": "t", "modified": date} for n, date in enumerate(dates)]
    report = await load(database_url, tmp_path / "i.json", data_sets(*records))
    assert await column(database_url, "day") == ["2018-05-01", "2015-01-01", "2018-05-07", None, None]
    assert (report.dates_ignored, report.texts_ignored, report.ignored_fields) == (1, 0, {"updated_at": 1})


async def test_a_number_is_a_title_and_one_that_no_float_holds_costs_only_the_date(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    records = b'[{"identifier":"a","title":300.210,"description":1e400,"modified":1e400},{"identifier":"b","title":7}]'
    data = json.dumps(CATALOG).encode()[:-1] + b',"dataset":' + records + b"}"
    report = await load(database_url, tmp_path / "i.json", data)
    assert (report.assets.inserted, report.assets.rejected, report.dates_ignored) == (2, 0, 1)
    assert await column(database_url, "name") == ["300.210", "7"]
    assert await column(database_url, "description") == ["1e400", None]
    again = await load(database_url, tmp_path / "i.json")
    assert (again.assets.unchanged, again.dates_ignored) == (2, 1)


FOREST = {
    "help": "https://ckan.example.ch/api/3/action/help_show?name=package_search", "success": True,
    "result": {"count": 2, "results": [
        {"id": "a1", "name": "bevoelkerung", "title": {"de": "Bevölkerung", "fr": "Population", "en": ""},
         "notes": {"de": "Stand", "fr": "Etat"}, "metadata_modified": "2024-05-01T08:00:00"},
        {"id": "a2", "name": "wald", "title": '{"de": "Wald", "fr": "Forêt"}', "notes": "",
         "title_translated": {"de": "Wald", "fr": "Forêt"}, "metadata_modified": "2024-05-01T08:00:00"},
    ]},
}  # fmt: skip


async def test_texts_of_several_languages_give_the_one_that_is_asked_for(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    for language, names in ((None, ["Bevölkerung", "Wald"]), ("fr", ["Population", "Forêt"])):
        report = await load(database_url, tmp_path / "i.json", FOREST, language=language)
        assert await column(database_url, "name") == names
        assert report.texts_ignored == 0
    assert report.assets.updated == 2, "the language is part of the content hash"
    assert await column(database_url, "description") == ["Etat", ""]
    assert (await load(database_url, tmp_path / "i.json", language="fr")).assets.unchanged == 2


HOMEPAGES = [
    {
        "id": "6f0d2f5e-1d5a-4d0e-9f0a-000000000001",
        "name": "air-quality",
        "title": "A",
        "url": "https://www.agency.example.net/air.html",
    },
    {
        "id": "6f0d2f5e-1d5a-4d0e-9f0a-000000000002",
        "name": "bus-stops",
        "title": "B",
        "url": "https://transport.example.com/stops",
    },
    {"id": "6f0d2f5e-1d5a-4d0e-9f0a-000000000003", "name": "school-places", "title": "S", "url": ""},
    {"id": "6f0d2f5e-1d5a-4d0e-9f0a-000000000004", "name": "budget", "title": "F", "url": "Finance department"},
]


async def test_the_portal_that_is_told_goes_before_the_homepages_of_packages(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    lines = b"\n".join(
        json.dumps(package | {"metadata_modified": "2024", "resources": []}).encode() for package in HOMEPAGES
    )
    hinted = await load(database_url, tmp_path / "i.jsonl", lines, max_rejects=Settings().max_rejects.parse("3"))
    assert (hinted.assets.inserted, hinted.assets.rejected) == (2, 2)
    found = [(row["source_key"], row["url"]) for row in await rows(database_url)]
    assert found == [("www.agency.example.net", HOMEPAGES[0]["url"]), ("transport.example.com", HOMEPAGES[1]["url"])]
    told = await load(database_url, tmp_path / "i.jsonl", domain="Data.City.example.org")
    assert (told.sources.read, told.assets.inserted, told.assets.updated) == (1, 2, 2)
    assert {(row["source_key"], row["url"]) for row in await rows(database_url)} == {
        ("data.city.example.org", f"https://data.city.example.org/dataset/{package['name']}") for package in HOMEPAGES
    }


async def test_the_portal_that_is_told_goes_before_that_of_a_catalogues_header(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    records = [{"identifier": f"https://many.example.org/{n}", "landingPage": "https://l.org/1"} for n in range(3)]
    report = await load(database_url, tmp_path / "i.json", data_sets(*records), domain="data.body.example.org")
    assert (report.sources.inserted, report.assets.inserted) == (1, 3)
    assert set(await column(database_url, "source_key")) == {"data.body.example.org"}


DISCOVERED = {"results": [{"resource": {"id": "aaaa-2222"}, "metadata": {"domain": "d.org"}}]}
SEEDED = {"sources": [{"domain": "d.org"}], "assets": [{"id": "a", "domain": "d.org"}]}


@pytest.mark.parametrize(("content", "why"), [(DISCOVERED, "may name several"), (SEEDED, "lists its sources itself")])
async def test_a_domain_that_cannot_be_meant_is_a_usage_error_before_anything_is_loaded(
    database_url: DatabaseUrl, tmp_path: Path, cli: Cli, content: Any, why: str
) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_text(json.dumps(data_sets({"identifier": "a", "title": "t"})))
    second.write_text(json.dumps(content))
    with pytest.raises(SettingsInvalid, match=why):
        await ingest([str(first), str(second)], Settings(database_url=database_url, domain="x.org"))
    assert await rows(database_url) == []
    done = cli("load", "--domain", "x.org", second, url=database_url)
    assert done.returncode == 2
    assert why.encode() in done.stderr.splitlines()[-2]
    assert cli("load", "-", "--domain", "x.org", url=database_url, input=second.read_bytes()).returncode == 2
    assert cli("explain", "--domain", "x.org", second).returncode == 2
    fixed = cli("load", second, url=database_url)
    assert fixed.returncode == 0, "the mend that the message names"


async def test_records_that_name_their_portal_keep_it_and_that_is_told(
    database_url: DatabaseUrl, tmp_path: Path, cli: Cli
) -> None:
    records = [{"id": f"k-{n}", "domain": f"d{n}.org", "permalink": f"https://d{n}.org/d/k"} for n in range(2)]
    path = tmp_path / "i.json"
    path.write_text(json.dumps(records))
    done = cli("load", "--domain", "x.org", path, url=database_url)
    assert done.returncode == 0
    assert b'"domain_not_used"' in done.stderr
    assert await column(database_url, "source_key") == ["d0.org", "d1.org"]


@pytest.mark.slow
async def test_texts_that_are_none_are_counted_by_field_and_told(
    database_url: DatabaseUrl, tmp_path: Path, cli: Cli
) -> None:
    records = [
        {"identifier": f"a-{n}", "title": {"what": "x"}, "description": True, "landingPage": 7, "modified": "soon"}
        for n in range(30)
    ]
    path = tmp_path / "i.json"
    path.write_text(json.dumps(data_sets(*records, {"identifier": "good", "title": "t", "description": None})))
    for command in ("plan", "load"):
        done = cli(command, path, "--json", url=database_url)
        report = json.loads(done.stdout)
        assert (report["dates_ignored"], report["texts_ignored"]) == (30, 90)
        assert report["ignored_fields"] == {"updated_at": 30, "name": 30, "description": 30, "url": 30}
        told = [json.loads(line) for line in done.stderr.splitlines()]
        texts = [line for line in told if line["event"] == "text_ignored"]
        assert len(texts) == 20
        assert {line["field"] for line in texts} == {"name", "description", "url"}
        assert (texts[0]["level"], texts[0]["key"], texts[0]["index"]) == ("warning", "a-0", str(path))
        words = cli(command, path, url=database_url).stdout.decode()
        assert "30 dates, 30 names, 30 descriptions, 30 URLs left out" in " ".join(words.split())
    few = tmp_path / "few.json"
    few.write_text(json.dumps(data_sets({"identifier": "few", "title": False}, {"identifier": "fine", "title": "t"})))
    assert "1 name left out" in cli("load", few, url=database_url).stdout.decode()
    fine = tmp_path / "fine.json"
    fine.write_text(json.dumps(data_sets({"identifier": "fine", "title": "t"})))
    done = cli("load", fine, "--json", url=database_url)
    assert "ignored_fields" not in json.loads(done.stdout)


async def test_the_texts_of_sources_are_counted_too(database_url: DatabaseUrl, tmp_path: Path) -> None:
    content = {
        "sources": [{"domain": "d.org", "name": {"de": "Portal"}}, {"domain": "e.org", "name": True}],
        "assets": [],
    }
    report = await load(database_url, tmp_path / "i.json", content)
    assert (report.texts_ignored, report.ignored_fields) == (1, {"name": 1})


# real files


TOLD = "data.body.example.org"
# Settings, records, keys, portal and its software.
REAL: dict[str, tuple[dict[str, Any], int, int, str, str]] = {
    "arcgis_hub_county.json": ({}, 61, 61, "data-wcmn.opendata.arcgis.com", "arcgis"),
    "arcgis_hub_dcat_ap.json": ({}, 22, 22, "map-highland.opendata.arcgis.com", "arcgis"),
    "arcgis_hub_search.json": ({"domain": TOLD}, 8, 8, TOLD, "arcgis"),
    "ckan_search_first_page.json": ({}, 10, 10, "data.birmingham.gov.uk", "ckan"),
    "dcatus3_0_nested_catalog.json": ({}, 3, 3, "example.gov", "dcat"),
    "dcatus3_0_series_with_members.json": ({}, 4, 2, "example.gov", "dcat"),
    "dcatus3_0_service_serves_dataset.json": ({}, 1, 1, "example.gov", "dcat"),
    "udata_evian.json": ({}, 8, 8, "ville-d-evian-opendata-ville-evian.hub.arcgis.com", "arcgis"),
    "udata_flat.jsonld": ({}, 3, 3, "data.test.org", "dcat"),
    "udata_paged-collection-1.jsonld": ({}, 3, 3, "data.test.org", "dcat"),
    "udata_paged-collection-2.jsonld": ({}, 1, 1, "data.test.org", "dcat"),
    "usmart_data_json.json": ({"domain": TOLD}, 31, 31, TOLD, "dcat"),
}


def test_every_real_index_of_another_portal_is_in_the_table(shared_data: Path) -> None:
    assert {path.name for path in (shared_data / "portals").iterdir()} == REAL.keys()


@pytest.mark.parametrize("name", REAL)
async def test_every_record_of_a_real_index_of_another_portal_is_loaded_and_a_second_load_changes_nothing(
    database_url: DatabaseUrl, shared_data: Path, name: str
) -> None:
    settings, records, keys, portal, provider = REAL[name]
    path = shared_data / "portals" / name
    report = await load(database_url, path, **settings)
    assert (report.assets.read, report.assets.inserted, report.sources.inserted) == (records, keys, 1)
    assert (report.dates_ignored, report.texts_ignored, report.unread_records) == (0, 0, [])
    assert (report.provider, set(await column(database_url, "source_key"))) == (provider, {portal})
    again = await load(database_url, path, **settings)
    assert (again.assets.unchanged, again.assets.inserted, again.assets.updated) == (keys, 0, 0)


async def execute(url: DatabaseUrl, statement: str, *arguments: Any) -> None:
    connection = await asyncpg.connect(url.reveal)
    try:
        await connection.execute(statement, *arguments)
    finally:
        await connection.close()


async def test_plan_says_where_this_version_gives_records_other_keys_than_an_earlier_one(
    database_url: DatabaseUrl, tmp_path: Path, cli: Cli
) -> None:
    pages = [f"{HUB}{number}_0" for number in range(3)]
    records = [{"identifier": page, "title": "t", "landingPage": page} for page in pages]
    records += [{"identifier": "bureau-1", "title": "t", "landingPage": "https://open.example.org/d/abcd-2345"}]
    path = tmp_path / "i.json"
    await load(database_url, path, data_sets(*records, {"identifier": "same", "title": "t"}))
    # As version 1 of the dialect left them: three datasets as one, a page for an identifier; one row is of nobody.
    await execute(database_url, "delete from registry.assets where asset_key <> 'same'")
    rest = "select key, id, '{}' from registry.sources, unnest($1::text[]) as key"
    olds = ["data-city", "abcd-2345", "unrelated"]
    await execute(database_url, f"insert into registry.assets (asset_key, source_id, raw) {rest}", olds)
    report = await load(database_url, path, dry_run=True)
    assert report.plan is not None
    assert (report.plan.assets.new, report.plan.assets.unchanged) == (4, 1)
    assert report.plan.missing_upstream == MissingPlan(3, ["abcd-2345", "data-city", "unrelated"])
    assert report.plan.rekeyed == MissingPlan(2, ["abcd-2345", "data-city"])
    words = " ".join(cli("plan", path, url=database_url).stdout.decode().split())
    assert "2 rows of it (abcd-2345, data-city) have keys that an earlier version gave" in words
    await execute(database_url, "delete from registry.assets where asset_key = any($1)", olds[:2])
    report = await load(database_url, path, dry_run=True)
    assert report.plan is not None
    assert (report.plan.missing_upstream, report.plan.rekeyed) == (MissingPlan(1, ["unrelated"]), MissingPlan(0, []))
    assert "earlier version" not in cli("plan", path, url=database_url).stdout.decode()


async def test_what_tells_no_portal_and_takes_none_is_not_told_to_name_one(
    database_url: DatabaseUrl, tmp_path: Path, cli: Cli
) -> None:
    path = tmp_path / "i.json"
    path.write_text(json.dumps(DISCOVERED | {"results": [*DISCOVERED["results"], {"resource": {"id": "k"}}]}))
    done = cli("load", path, "--max-rejects", "1", url=database_url)
    rejected = next(json.loads(line) for line in done.stderr.splitlines() if b"record_rejected" in line)
    assert (rejected["reason"], rejected["detail"]) == ("no_source", "asset does not name its source")


def landed(number: int, host: str) -> dict[str, Any]:
    return {"identifier": f"set-{number}", "title": "t", "landingPage": f"https://{host}/sets/{number}"}


async def test_landing_pages_that_agree_name_the_portal_of_a_whole_catalog(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    records = [landed(number, "Open.Example.org") for number in range(1_000)]  # more than are looked at
    records += [landed(1_000, "story.example.com"), {"identifier": "no-page", "title": "t"}]
    await load(database_url, tmp_path / "i.json", {"dataset": records})
    assert set(await column(database_url, "source_key")) == {"open.example.org"}
    assert (await load(database_url, tmp_path / "i.json")).assets.unchanged == len(records)


async def test_landing_pages_that_disagree_are_reported_and_each_names_its_own_portal(
    database_url: DatabaseUrl, tmp_path: Path, cli: Cli
) -> None:
    path = tmp_path / "i.json"
    path.write_text(json.dumps({"dataset": [landed(1, "a.org"), landed(2, "b.org"), landed(3, "b.org")]}))
    done = cli("load", path, url=database_url)
    event = next(json.loads(line) for line in done.stderr.splitlines() if b"portals_disagree" in line)
    assert event["hosts"] == ["b.org", "a.org"]
    assert "--domain" in event["note"]
    assert await column(database_url, "source_key") == ["a.org", "b.org", "b.org"]
    assert b"portals_disagree" not in cli("load", path, "--domain", "c.org", url=database_url).stderr
    assert await column(database_url, "source_key") == ["a.org", "b.org", "b.org"], "keys that are another source's"


@pytest.mark.slow
async def test_several_processes_report_landing_pages_that_disagree_once_as_one_does(
    database_url: DatabaseUrl, tmp_path: Path, cli: Cli
) -> None:
    path, filling = tmp_path / "i.json", {"description": "d" * 2_000}
    records = [landed(number, f"{'ab'[number % 2]}.org") | filling for number in range(1_500)]
    path.write_text(json.dumps({"dataset": records}))
    by_several = ("--processes", "2", "--shard-bytes", "1MiB")
    for command in ("plan", "load"):
        done = cli(command, path, *by_several, url=database_url)
        assert b"shards_planned" in done.stderr
        assert done.stderr.count(b'"portals_disagree"') == 1
        alone = cli(command, path, "--processes", "1", url=database_url)
        assert alone.stderr.count(b'"portals_disagree"') == 1


async def test_the_header_names_the_portal_before_the_landing_pages_do(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    for number, header in enumerate([{"@id": "https://h.org/data.json"}, {}]):
        late = {} if header else {"@id": "https://h.org/data.json"}
        catalog = header | {"dataset": [landed(number, "a.org")]} | late
        await load(database_url, tmp_path / f"{number}.json", catalog)
    assert await column(database_url, "source_key") == ["h.org", "h.org"]


@pytest.mark.parametrize(
    ("record", "provider"),
    [
        ({"identifier": "https://h.org/api/views/abcd-2345"}, "socrata"),
        ({"identifier": "abcd-2345"}, "socrata"),
        ({"identifier": "https://www.arcgis.com/home/item.html?id=0f", "landingPage": "https://h.org/x"}, "arcgis"),
        ({"identifier": "k", "landingPage": "https://city.hub.arcgis.com/datasets/0f"}, "arcgis"),
        ({"identifier": "k", "%modified": "2024-01-01", "landingPage": "https://h.org/dataset/k"}, "dkan"),
        ({"identifier": "k", "landingPage": "https://h.org/dataset/k", "description": "see arcgis.com"}, "dcat"),
    ],
)
async def test_the_records_of_a_catalog_are_evidence_of_the_software_of_its_portal(
    database_url: DatabaseUrl, tmp_path: Path, record: dict[str, Any], provider: str
) -> None:
    await load(
        database_url, tmp_path / "i.json", {"@id": "https://h.org/data.json", "dataset": [record | {"title": "t"}]}
    )
    connection = await asyncpg.connect(database_url.reveal)
    assert await connection.fetch("select source_key, provider from registry.sources") == [("h.org", provider)]
    await connection.close()


async def test_templates_that_were_not_filled_are_null_and_counted(database_url: DatabaseUrl, tmp_path: Path) -> None:
    record = {
        "identifier": "k",
        "title": "{{name}}",
        "description": " {{ description }} ",
        "landingPage": "{{url}}",
        "modified": "{{modified:toISO}}",
    }
    kept = {"identifier": "l", "title": "{{name}} of a place", "description": "{{", "modified": "2024-05-01"}
    index = data_sets(record, kept, {"identifier": "{{id}}", "title": "t"})
    report = await load(database_url, tmp_path / "i.json", index, max_rejects=MaxRejects(percent=100))
    assert (report.assets.inserted, report.assets.rejected) == (2, 1)
    assert (report.texts_ignored, report.dates_ignored) == (3, 1)
    assert [tuple(row.values())[2:] for row in await rows(database_url)] == [
        (None, None, None, None),
        ("{{name}} of a place", "{{", None, "2024-05-01"),
    ]
