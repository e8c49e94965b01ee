"""Answers of the APIs of ArcGIS Hub, Opendatasoft, udata, Dataverse and CKAN, from a file to rows, and once more."""

# ruff: noqa: ASYNC240  # nothing else runs in the event loop of a test that writes a file
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from msgspec import Struct

from seed_registry import DatabaseUrl, Report, Settings, ingest

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]
HUB = "https://trees.example.org/api/search/v1/collections/dataset/items"
ODS = "https://trees.example.org/api/v2/catalog/datasets"
HEX = "15c9fe9deaaf405ca361cd632cc7cf"
ROWS = """
    select asset_key, provider, source_key, asset.name, asset.url,
      extract(epoch from asset.updated_at)::bigint as seconds
    from registry.assets as asset join registry.sources as source on source.id = asset.source_id order by 1
"""


def hub_item(number: int) -> dict[str, Any]:
    attributes = {
        "name": f"Tree {number}",
        "modified": 1_700_000_000_000,
        "itemId": f"{HEX}{number:02}",
        "slug": "a::b",
    }
    links = {"self": f"https://opendata.arcgis.com/api/v3/datasets/{HEX}{number:02}_0"}
    return {"id": f"{HEX}{number:02}_0", "type": "dataset", "attributes": attributes, "links": links}


def hub_record(number: int) -> dict[str, Any]:
    properties = {"title": f"Tree {number}", "modified": 1_700_000_000_000, "typeKeywords": [], "snippet": "s"}
    links = [{"rel": "self", "href": f"{HUB}/{HEX}{number:02}_0"}]
    return {"id": f"{HEX}{number:02}_0", "type": "Feature", "geometry": None, "properties": properties, "links": links}


def ods_dataset(number: int) -> dict[str, Any]:
    texts = {"title": f"Tree {number}", "description": "d", "modified": "2023-11-14T22:13:20+00:00"}
    return {"dataset_id": f"tree-{number:02}", "has_records": True, "metas": {"default": texts}}


def ods_entry(number: int) -> dict[str, Any]:
    links = [{"rel": "self", "href": f"{ODS}/tree-{number:02}"}]
    return {"links": links, "dataset": ods_dataset(number)}


def ods_old(number: int) -> dict[str, Any]:
    dataset = ods_dataset(number)
    return {"datasetid": dataset["dataset_id"], "has_records": True, "metas": dataset["metas"]["default"]}


def udata_dataset(number: int) -> dict[str, Any]:
    page = f"https://trees.example.org/en/datasets/tree-{number}/"
    return {
        "id": f"5b7ffc618b4c4169d30727{number:02}",
        "title": f"Tree {number}",
        "slug": f"tree-{number}",
        "resources": [],
        "page": page,
        "uri": page.replace("/en/", "/api/1/"),
        "last_modified": "2023-11-14T22:13:20+00:00",
    }


def dv_dataset(number: int) -> dict[str, Any]:
    return {
        "name": f"Tree {number}",
        "type": "dataset",
        "url": f"https://doi.org/10.70122/FK2/{number:02}",
        "global_id": f"doi:10.70122/FK2/{number:02}",
        "published_at": "2023-11-14T22:13:20Z",
    }


def ckan_package(number: int) -> dict[str, Any]:
    return {
        "id": f"6f0d2f5e-1d5a-4d0e-9f0a-0000000000{number:02}",
        "name": f"tree-{number}",
        "title": {"en": f"Tree {number}", "de": "Baum"},
        "url": "https://homepage.example.net/",
        "metadata_modified": "2023-11-14T22:13:20",
        "resources": [],
    }


def help_of(action: str) -> dict[str, Any]:
    return {"help": f"https://trees.example.org/api/3/action/help_show?name={action}", "success": True}


class Form(Struct, frozen=True):
    """An answer in some form: one record, a page of these with a total, whether either names the portal."""

    dialect: str
    record: Any
    page: Any
    key: str
    url: str
    has_portal: bool = False
    lines_have_portal: bool = False
    provider: str | None = None


SITE = "https://trees.example.org"
FORMS = {
    "ArcGIS Hub 3": Form(
        "arcgis-hub",
        hub_item,
        lambda records, total: {"data": records, "meta": {"stats": {"count": len(records), "totalCount": total}}},
        f"{HEX}01_0",
        f"{SITE}/datasets/{HEX}01_0",
        provider="arcgis",
    ),
    "ArcGIS Hub, OGC API - Records": Form(
        "arcgis-hub",
        hub_record,
        lambda records, total: {
            "type": "FeatureCollection",
            "features": records,
            "numberMatched": total,
            "numberReturned": len(records),
            "links": [{"rel": "self", "href": HUB}],
        },
        f"{HEX}01_0",
        f"{SITE}/datasets/{HEX}01_0",
        has_portal=True,
        lines_have_portal=True,
        provider="arcgis",
    ),
    "Opendatasoft 2.1": Form(
        "opendatasoft",
        ods_dataset,
        lambda records, total: {"total_count": total, "results": records},
        "tree-01",
        f"{SITE}/explore/dataset/tree-01/",
    ),
    "Opendatasoft 2.0": Form(
        "opendatasoft",
        ods_entry,
        lambda records, total: {"total_count": total, "links": [{"rel": "self", "href": ODS}], "datasets": records},
        "tree-01",
        f"{SITE}/explore/dataset/tree-01/",
        has_portal=True,
        lines_have_portal=True,
    ),
    "Opendatasoft 1": Form(
        "opendatasoft",
        ods_old,
        lambda records, total: {"nhits": total, "parameters": {}, "datasets": records},
        "tree-01",
        f"{SITE}/explore/dataset/tree-01/",
    ),
    "udata": Form(
        "udata",
        udata_dataset,
        lambda records, total: {"data": records, "next_page": None, "page": 1, "total": total},
        "5b7ffc618b4c4169d3072701",
        f"{SITE}/en/datasets/tree-1/",
        has_portal=True,
        lines_have_portal=True,
    ),
    "Dataverse": Form(
        "dataverse",
        dv_dataset,
        lambda records, total: {"status": "OK", "data": {"q": "*", "total_count": total, "items": records}},
        "doi:10.70122/FK2/01",
        "https://doi.org/10.70122/FK2/01",
    ),
    "CKAN": Form(
        "ckan",
        ckan_package,
        lambda records, total: help_of("package_search") | {"result": {"count": total, "results": records}},
        "6f0d2f5e-1d5a-4d0e-9f0a-000000000001",
        f"{SITE}/dataset/tree-1",
        has_portal=True,
    ),
    "CKAN, the result alone": Form(
        "ckan",
        ckan_package,
        lambda records, total: {"count": total, "results": records},
        "6f0d2f5e-1d5a-4d0e-9f0a-000000000001",
        f"{SITE}/dataset/tree-1",
    ),
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


async def load(url: DatabaseUrl, path: Path, content: bytes, *, domain: bool) -> Report:
    path.write_bytes(content)
    return await ingest([str(path)], Settings(database_url=url, domain="trees.example.org" if domain else None))


async def rows(url: DatabaseUrl) -> list[dict[str, Any]]:
    connection = await asyncpg.connect(url.reveal)
    try:
        return [dict(row) for row in await connection.fetch(ROWS)]
    finally:
        await connection.close()


async def check_twice(url: DatabaseUrl, path: Path, content: bytes, form: Form, *, domain: bool) -> Report:
    """Load four records twice; check the rows, and that the second load changes nothing."""
    report = await load(url, path, content, domain=domain)
    assert (report.dialect, report.provider) == (form.dialect, form.provider or form.dialect)
    assert (report.assets.read, report.assets.inserted, report.sources.inserted) == (4, 4, 1)
    assert (report.dates_ignored, report.texts_ignored, report.unread_records) == (0, 0, [])
    assert report.verification is not None
    assert report.verification.passed
    found = await rows(url)
    assert found[0] == {
        "asset_key": form.key,
        "provider": form.provider or form.dialect,
        "source_key": "trees.example.org",
        "name": "Tree 1",
        "url": form.url,
        "seconds": 1_700_000_000,
    }
    again = await load(url, path, content, domain=domain)
    assert (again.assets.read, again.assets.unchanged) == (4, 4)
    assert again.sources.unchanged == again.sources.read
    assert await rows(url) == found
    return report


@every_form
@pytest.mark.sampled(4)
async def test_a_page_is_loaded_and_known_to_be_a_part(database_url: DatabaseUrl, tmp_path: Path, form: Form) -> None:
    content = json.dumps(form.page([form.record(number) for number in range(1, 5)], 6)).encode()
    report = await check_twice(database_url, tmp_path / "i.json", content, form, domain=not form.has_portal)
    assert [(one.declared, one.read) for one in report.incomplete] == [(6, 4)]


@every_form
@pytest.mark.parametrize("end", ["\n", ""])
@pytest.mark.sampled(4)
async def test_pages_one_after_another_are_one_complete_index(
    database_url: DatabaseUrl, tmp_path: Path, form: Form, end: str
) -> None:
    pages = [form.page([form.record(number) for number in numbers], 4) for numbers in ((1, 2, 3), (4,), ())]
    content = "".join(json.dumps(page) + end for page in pages).encode()
    report = await check_twice(database_url, tmp_path / "i.json", content, form, domain=not form.has_portal)
    assert report.incomplete == []


@every_form
@pytest.mark.parametrize("is_array", [False, True])
@pytest.mark.sampled(4)
async def test_records_on_lines_and_in_arrays_are_loaded(
    database_url: DatabaseUrl, tmp_path: Path, form: Form, is_array: bool
) -> None:
    records = [form.record(number) for number in range(1, 5)]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    content = json.dumps(records) if is_array else lines
    has_portal = form.lines_have_portal
    report = await check_twice(database_url, tmp_path / "i", content.encode(), form, domain=not has_portal)
    assert report.incomplete == []


@every_form
@pytest.mark.parametrize("domain", [False, True])
@pytest.mark.sampled(4)
async def test_an_answer_without_records_is_loaded_as_nothing(
    database_url: DatabaseUrl, tmp_path: Path, form: Form, domain: bool
) -> None:
    report = await load(database_url, tmp_path / "i.json", json.dumps(form.page([], 0)).encode(), domain=domain)
    assert (report.dialect, report.assets.read, report.sources.read) == (form.dialect, 0, 0)
    assert (report.incomplete, report.verification and report.verification.passed) == ([], True)


async def test_collections_and_files_among_datasets_are_counted_by_the_total_alone(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    others = [
        {
            "name": "Garden",
            "type": "dataverse",
            "url": f"{SITE}/dataverse/g",
            "identifier": "g",
            "published_at": "2020",
        },
        {"name": "t.png", "type": "file", "url": f"{SITE}/api/access/datafile/12", "file_id": "12"},
    ]
    form = FORMS["Dataverse"]
    content = json.dumps(form.page([*others, *map(dv_dataset, range(1, 5))], 6)).encode()
    report = await check_twice(database_url, tmp_path / "i.json", content, form, domain=True)
    assert (report.incomplete, report.assets.rejected) == ([], 0)


@pytest.mark.parametrize(
    "content",
    [
        help_of("package_show") | {"result": ckan_package(1)},
        help_of("current_package_list_with_resources") | {"result": [ckan_package(1)]},
    ],
)
async def test_other_answers_of_ckan_are_loaded(database_url: DatabaseUrl, tmp_path: Path, content: Any) -> None:
    report = await load(database_url, tmp_path / "i.json", json.dumps(content).encode(), domain=False)
    assert (report.dialect, report.assets.inserted) == ("ckan", 1)
    (row,) = await rows(database_url)
    assert (row["source_key"], row["name"], row["url"]) == ("trees.example.org", "Tree 1", f"{SITE}/dataset/tree-1")
