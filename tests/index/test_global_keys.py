"""Global keys: identifiers that mean one thing everywhere, and those that do so only at their portal."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seed_registry.index.decoder import Decoder
from seed_registry.index.dialects import DIALECTS
from seed_registry.index.dialects.global_keys import is_global
from seed_registry.records import Asset, RawRecord

UUID = "6f9619ff-8b86-d011-b42d-00cf4fc964ff"

GLOBAL = [
    "abcd-2345",
    UUID,
    UUID.upper(),
    f"{{{UUID}}}",
    UUID.replace("-", ""),
    UUID.replace("-", "") + "_12",
    "10.5061/dryad.x3ffbg7m8",
    "doi:10.1234/x",
    "DOI: 10.1234/x",
    "https://doi.org/10.1234/x",
    "https://data.a.example/d/1",
    "HTTP://data.a.example:8080/x?y=1",
    "https://data.a.example/?id=3",
    "https://data.a.example/#x",
    f"https://www.arcgis.com/home/item.html?id={UUID.replace('-', '')}&sublayer=0",
    f"urn:uuid:{UUID}",
    "urn:x-y:1",
]
OWN = [
    "",
    "1",
    "2024",
    "population",
    "road-data",
    "abcd-0000",
    "abcd_2345",
    "abcd-2345-6789",
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "0" * 32,
    UUID[:-1],
    "10.1/",
    "10.12/x",
    "10.1234/",
    "http://localhost/1",
    "http://user@localhost/1",
    "http://localhost./1",
    "https://127.0.0.1/1",
    "http://10.1.2.3:80/1",
    "http://[::1]/1",
    "http:///1",
    "https://data.a.example",
    "https://data.a.example/",
    "https://data.a.example//?",
    "data.a.example/1",
    "ftp://data.a.example/1",
    "urn:x",
    "urn::1",
    "mailto:a@b.example",
    "/dataset/1",
    "a text with a https://data.a.example/d/1 in it",
]


@pytest.mark.parametrize("identifier", GLOBAL)
def test_an_identifier_of_a_global_form_is_global(identifier: str) -> None:
    assert is_global(identifier)


@pytest.mark.parametrize("identifier", OWN)
def test_what_two_portals_may_both_say_is_a_portals_own(identifier: str) -> None:
    assert not is_global(identifier)


@given(st.text(max_size=50), st.sampled_from(GLOBAL))
def test_a_text_is_judged_without_an_error_and_alike_in_capitals(text: str, identifier: str) -> None:
    for one in (text, identifier + text, text + identifier):
        assert is_global(one) == is_global(one.lower())


@given(st.integers(0, 10**40))
def test_a_number_is_a_portals_own(number: int) -> None:
    text = str(number)
    assert is_global(text) == (len(text) == 32)  # as good as a UUID by its form


def test_dialects_declare_whether_their_keys_are_global() -> None:
    judged = {name for name, dialect in DIALECTS.items() if dialect.is_global is is_global}
    assert judged == {"data-json", "ckan", "arcgis-hub", "opendatasoft", "udata", "dataverse", "dcat-ap"}
    assert all(dialect.is_global in (None, is_global) for dialect in DIALECTS.values())


@pytest.mark.parametrize(
    ("dialect", "record", "is_own"),
    [
        ("data-json", {"identifier": "1", "title": "One"}, True),
        ("data-json", {"identifier": f"https://a.example/{UUID}", "title": "One"}, False),
        ("dcat-ap", {"@type": "dcat:Dataset", "dct:identifier": "1"}, True),
        ("dcat-ap", {"@type": "dcat:Dataset", "@id": "https://a.example/dataset/1"}, False),
        ("ckan", {"id": "population"}, True),
        ("ckan", {"id": UUID}, False),
        ("arcgis-hub", {"id": f"{UUID.replace('-', '')}_0", "attributes": {"name": "One"}}, False),
        ("opendatasoft", {"dataset_id": "population"}, True),
        ("udata", {"id": "5b7ffc618b4c4169d30727e0"}, True),
        ("dataverse", {"type": "dataset", "global_id": "doi:10.70122/FK2/MB5VGR"}, False),
        ("dataverse", {"type": "dataset", "global_id": "perma:1"}, True),
        ("directory", {"id": "1"}, False),
        ("discovery", {"resource": {"id": "1"}, "metadata": {"domain": "a.example"}}, False),
        ("views", {"id": "1"}, False),
        ("seed", {"asset_key": "1", "source_key": "a.example"}, False),
    ],
)
def test_an_asset_has_a_flag_for_a_key_of_its_portals_own(
    dialect: str, record: dict[str, object], is_own: bool
) -> None:
    raw = RawRecord(json.dumps(record).encode(), 1, 0, "asset")
    decoded = Decoder(DIALECTS[dialect], domain="a.example").decode(raw)
    assert isinstance(decoded, Asset)
    assert decoded.own_key is is_own
