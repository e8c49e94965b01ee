"""Two datasets never become one, and one never becomes two: the function from what identifies a record to its key."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seed_registry.index.decoder import MAX_KEY_BYTES, Decoder
from seed_registry.index.dialects.arcgis_hub import ARCGIS_HUB
from seed_registry.index.dialects.base import Dialect, Portal
from seed_registry.index.dialects.ckan import CKAN
from seed_registry.index.dialects.data_json import DATA_JSON
from seed_registry.index.dialects.dataverse import DATAVERSE
from seed_registry.index.dialects.dcat_ap import DCAT_AP
from seed_registry.index.dialects.directory import DIRECTORY
from seed_registry.index.dialects.discovery import DISCOVERY
from seed_registry.index.dialects.opendatasoft import OPENDATASOFT
from seed_registry.index.dialects.seed import SEED
from seed_registry.index.dialects.udata import UDATA
from seed_registry.index.dialects.views import VIEWS
from seed_registry.records import Asset, RawRecord, Reject

untimed = settings(deadline=None, max_examples=300)
OWN, OTHER = "data-city.example.org", "open-data.example.org"
IDS = ["abcd-2345", "data-sets", "wxyz-6789"]


def key_of(dialect: Dialect, record: dict[str, Any], portal: Portal) -> str | None:
    decoder = Decoder(dialect)
    decoder.portal = portal
    found = decoder.decode(RawRecord(json.dumps(record).encode(), 1, 0, "asset"))
    assert isinstance(found, Asset | Reject)
    assert isinstance(found, Asset) or found.reason in ("no_key", "nul_in_key", "key_too_long")
    return found.key if isinstance(found, Asset) else None


# Texts that are easily taken for one another.
pieces = st.sampled_from(
    [*IDS, "/d/", "/api/views/", "/resource/", "/", ".json", "?x=1", "#y", "about", "rows.csv", f"https://{OWN}",
     f"http://{OWN}", f"https://{OTHER}", f"https://{OWN}:8443", " ", '["', '"', "]", ",", "a", "data.json"]
)  # fmt: skip
written = st.lists(pieces, min_size=1, max_size=2).map(lambda parts: json.dumps(parts, separators=(",", ":")))
texts = st.one_of(written, st.lists(pieces, max_size=5).map("".join), st.text(max_size=8), st.sampled_from(IDS))
pairs = st.fixed_dictionaries({"schemaAgency": texts | st.integers(), "notation": texts | st.integers()})
small = st.fixed_dictionaries({"schemaAgency": pieces, "notation": pieces})
identifiers = st.one_of(texts, written, small, st.integers(), texts.map(lambda text: {"@id": text}), pairs)


def identity(identifier: Any) -> Any:
    """What the identifier stands for: the same for all spellings of one, Socrata's included."""
    if isinstance(identifier, dict) and "@id" in identifier:
        identifier = identifier["@id"]
    if isinstance(identifier, dict) and identifier["schemaAgency"] != "":
        return tuple(str(identifier[name]).strip() for name in ("schemaAgency", "notation"))
    if isinstance(identifier, dict):
        identifier = identifier["notation"]
    text = str(identifier).strip()
    for id_ in IDS:
        for scheme in ("https", "http"):
            page, data = (
                f"{scheme}://{OWN}/d/{id_}",
                [f"{scheme}://{OWN}/{way}/{id_}" for way in ("api/views", "resource")],
            )
            pages = {page, f"{page}/", f"{page}/about"}
            if text.split("?")[0].split("#")[0] in pages or text in {
                one + end for one in data for end in ("", "/", ".json", "/rows.csv")
            }:
                return id_
    return text


@given(identifiers, identifiers, st.sampled_from([Portal(header=OWN), Portal(domain=OWN), Portal(OWN, "told.org")]))
@untimed
def test_two_identifiers_of_data_sets_are_one_key_exactly_where_they_mean_the_same(
    one: Any, other: Any, portal: Portal
) -> None:
    record = {"title": "t", "landingPage": f"https://{OWN}/d/zzzz-2222"}
    keys = []
    for identifier in (one, other):
        if not identity(identifier) or str(identity(identifier)).rstrip("/").endswith("/data.json"):
            return  # there is none, or it may be that of the catalogue itself
        keys.append(key_of(DATA_JSON, record | {"identifier": identifier}, portal))
    if None not in keys:
        assert (keys[0] == keys[1]) == (identity(one) == identity(other))


@given(pairs | small)
@untimed
def test_a_text_that_is_what_agency_and_notation_are_written_as_is_another_identifier(pair: dict[str, Any]) -> None:
    portal = Portal(header=OWN)
    key = key_of(DATA_JSON, {"identifier": pair}, portal)
    if key is not None and key.startswith("["):
        assert key_of(DATA_JSON, {"identifier": key}, portal) not in (key, None)


@given(st.text(max_size=12) | st.integers() | st.sampled_from(IDS), st.text(max_size=12) | st.integers())
@pytest.mark.parametrize(
    ("dialect", "record"),
    [
        (SEED, lambda key: {"asset_key": key, "domain": "d.org"}),
        (SEED, lambda key: {"id": key, "domain": "d.org"}),
        (DIRECTORY, lambda key: {"id": key, "permalink": "https://d.org/d/abcd-2345"}),
        (DISCOVERY, lambda key: {"resource": {"id": key}, "metadata": {"domain": "d.org"}}),
        (VIEWS, lambda key: {"id": key}),
        (CKAN, lambda key: {"id": key, "name": "abcd-2345"}),
        (ARCGIS_HUB, lambda key: {"id": key, "attributes": {"id": "k", "itemId": "k"}}),
        (OPENDATASOFT, lambda key: {"dataset_id": key, "metas": {"default": {}}}),
        (OPENDATASOFT, lambda key: {"datasetid": key, "metas": {}}),
        (OPENDATASOFT, lambda key: {"dataset": {"dataset_id": key}}),
        (UDATA, lambda key: {"id": key, "slug": "abcd-2345"}),
        (DATAVERSE, lambda key: {"type": "dataset", "global_id": key, "url": "https://doi.org/10.1234/x"}),
        (DCAT_AP, lambda key: {"@type": "dcat:Dataset", "dct:identifier": key}),
        (DCAT_AP, lambda key: {"@type": "dcat:Dataset", "@id": "_:b", "dct:identifier": [{"@value": key}]}),
    ],
)
@untimed
def test_two_ids_are_one_key_exactly_where_they_are_the_same_but_for_white_space(
    dialect: Dialect, record: Any, one: Any, other: Any
) -> None:
    keys = [key_of(dialect, record(key), Portal(domain="d.org")) for key in (one, other)]
    for key, id_ in zip(keys, (one, other), strict=True):
        assert key is None or key == str(id_).strip()
        assert key is not None or not str(id_).strip() or "\0" in str(id_) or len(str(id_).encode()) > MAX_KEY_BYTES


PAGES = {
    "a page of the portal with a Socrata id": (f"https://{OWN}/d/abcd-2345", "abcd-2345"),
    "a page of another host with a Socrata id": (f"https://{OTHER}/d/abcd-2345", None),
    "any other page": (f"https://{OWN}/about", None),
    "a page in an object": ({"@type": "Document", "accessURL": f"https://{OWN}/d/abcd-2345"}, "abcd-2345"),
}


@pytest.mark.parametrize(("page", "key"), PAGES.values(), ids=PAGES)
def test_a_data_set_without_an_identifier_is_its_node_or_what_socrata_made_of_it(page: Any, key: str | None) -> None:
    portal = Portal(header=OWN)
    nothing: list[Any] = [None, "", " ", [], {}]
    for absent in nothing:
        record = {"title": "t", "landingPage": page, "identifier": absent}
        assert key_of(DATA_JSON, record, portal) == key
        assert key_of(DATA_JSON, record | {"@id": f"https://{OTHER}/7"}, portal) == f"https://{OTHER}/7"
        assert key_of(DATA_JSON, record | {"@id": "_:b0"}, portal) == key, "such a node is another one in each file"
    odd: list[Any] = [True, ["x", "y"], {"what": "x"}]
    for unreadable in odd:
        record = {"title": "t", "landingPage": page, "identifier": unreadable}
        assert key_of(DATA_JSON, record, portal) is None


def test_the_id_of_the_portal_itself_is_the_key_where_only_the_record_names_the_portal() -> None:
    record = {"identifier": f"https://{OWN}/api/views/abcd-2345"}
    assert key_of(DATA_JSON, record, Portal()) == "abcd-2345"
    assert key_of(DATA_JSON, record | {"landingPage": f"https://{OWN}/x"}, Portal()) == "abcd-2345"
    assert key_of(DATA_JSON, record | {"landingPage": f"https://{OTHER}/x"}, Portal()) == record["identifier"]
