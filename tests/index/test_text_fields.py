from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seed_registry.index.decoder import Decoder
from seed_registry.index.dialects.base import Dialect
from seed_registry.index.dialects.ckan import CKAN
from seed_registry.index.dialects.data_json import DATA_JSON
from seed_registry.index.dialects.directory import DIRECTORY
from seed_registry.index.dialects.discovery import DISCOVERY
from seed_registry.index.dialects.seed import SEED
from seed_registry.index.dialects.views import VIEWS
from seed_registry.index.literal_numbers import LiteralNumber, LiteralNumberDecoder
from seed_registry.index.text_fields import has_text, text_of, url_of
from seed_registry.records import Asset, RawRecord, Reject, Source

untimed = settings(deadline=None)
# A record of each dialect, but for its name and description.
FORMS: dict[str, tuple[Dialect, str]] = {
    "seed": (SEED, '{"type":"asset","id":"k","domain":"d.org","name":NAME,"description":TEXT,"modified":DATE}'),
    "directory": (DIRECTORY, '{"id":"k","domain":"d.org","name":NAME,"description":TEXT,"updatedAt":DATE}'),
    "discovery": (
        DISCOVERY,
        '{"resource":{"id":"k","name":NAME,"description":TEXT,"updatedAt":DATE},"metadata":{"domain":"d.org"}}',
    ),
    "views": (VIEWS, '{"id":"k","name":NAME,"description":TEXT,"rowsUpdatedAt":DATE}'),
    "data-json": (DATA_JSON, '{"identifier":"k","title":NAME,"description":TEXT,"modified":DATE}'),
    "ckan": (CKAN, '{"id":"k","title":NAME,"notes":TEXT,"metadata_modified":DATE}'),
}


def decoded(form: str, name: str = "null", text: str = "null", date: str = "null", **options: Any) -> Any:
    dialect, template = FORMS[form]
    data = template.replace("NAME", name).replace("TEXT", text).replace("DATE", date).encode()
    domain = "" if dialect.refuses_domain else "d.org"
    return Decoder(dialect, domain=domain, **options).decode(RawRecord(data, 1, 0))


# numbers


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "number", ["7", "-12", "300.21", "300.210", "1.50", "1e400", "-1E-7", "0.1e+3", "9" * 19, "9" * 30, "9" * 400]
)
def test_a_number_is_the_text_that_it_is_written_as(form: str, number: str) -> None:
    found = decoded(form, number, number)
    assert (found.name, found.description, found.texts_ignored) == (number, number, ())


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
@untimed
def test_any_number_is_written_as_it_was(number: float) -> None:
    found = decoded("data-json", json.dumps(number), json.dumps({"de": number}))
    assert (found.name, found.description) == (json.dumps(number), json.dumps(number))


@pytest.mark.parametrize("form", FORMS)
def test_a_number_that_no_float_can_hold_costs_a_record_its_date_and_nothing_else(form: str) -> None:
    for number in ("1e400", "-1e400", "[1e400]", '{"a":1e999999999}', "9" * 400):
        found = decoded(form, '"n"', '"t"', number)
        assert isinstance(found, Asset), found
        assert (found.key, found.source_key, found.name, found.description) == ("k", "d.org", "n", "t")
        assert (found.updated_at, found.date_ignored) == (None, True)


def test_a_number_that_no_float_can_hold_hides_no_fault() -> None:
    decode = Decoder(DIRECTORY).decode
    for rest, reason in (
        (b"}", "no_key"),
        (b',"id":"k","domain":"d","z":01}', "not_json"),
        (b',"id":"k","domain":"d","z":"\\ud800"}', "bad_unicode"),
        (b',"id":"k","domain":"d","z":"\xff"}', "bad_utf8"),
        (b',"id":"k","domain":"d","name":"\xff"}', "bad_utf8"),
        (b',"id":"k","domain":"d","name":' + b"[" * 600 + b"]" * 600 + b"}", "too_deep"),
        (b',"id":"k","domain":"d","name":' + b"[" * 2_000 + b"]" * 2_000 + b"}", "too_deep"),
    ):
        found = decode(RawRecord(b'{"updatedAt":1e400' + rest, 1, 0))
        assert isinstance(found, Reject)
        assert found.reason == reason


def test_a_key_that_is_no_whole_number_is_none_however_it_is_written() -> None:
    for key in ("1e400", "7.0", "1e2"):
        found = Decoder(DIRECTORY).decode(RawRecord(b'{"id":%b,"domain":"d","name":1.5}' % key.encode(), 1, 0))
        assert isinstance(found, Reject)
        assert found.reason == "no_key"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@pytest.mark.parametrize("dialect", [dialect for dialect, _ in FORMS.values()], ids=FORMS)
@given(data=st.data())
@untimed
def test_a_record_that_is_spelled_is_the_record_that_is_decoded(dialect: Dialect, data: st.DataObject) -> None:
    names = [field.encode_name for field in msgspec.structs.fields(dialect.wire)]
    fields = data.draw(st.dictionaries(st.sampled_from(names), values))
    fields = {name: value for name, value in fields.items() if name not in ("resource", "metadata")}
    if dialect is DISCOVERY:
        fields |= {"resource": {"id": data.draw(values)}, "metadata": None}
    record = json.dumps(fields).encode()
    assert LiteralNumberDecoder(dialect.wire).decode(record) == msgspec.json.decode(record, type=dialect.wire)


# languages

SWISS = {"de": "Wald", "fr": "Forêt", "it": "", "en": None}
EN = SWISS | {"en": "Forest"}
LANGUAGES = {
    "an object, English": (EN, "", "Forest"),
    "an object, the first": (SWISS, "", "Wald"),
    "an object, the first that is not empty": ({"it": " ", "fr": "Forêt", "de": "Wald"}, "", "Forêt"),
    "an object, asked": (EN, "fr", "Forêt"),
    "an object, asked for one that is empty": (EN, "it", "Forest"),
    "an object, asked for one that is not there": (SWISS, "es", "Wald"),
    "an object, asked with a region": (EN, "fr-CH", "Forêt"),
    "an object with regions": ({"de_AT": "Forst", "de-CH": "Wald"}, "de-ch", "Wald"),
    "an object with other regions": ({"fr": "Forêt", "de_AT": "Forst"}, "de", "Forst"),
    "a translation by a machine": ({"fr": "Forêt", "en-t-fr": "Forest"}, "", "Forest"),
    "an object in a string": (json.dumps(EN), "fr", "Forêt"),
    "an object in a string, escaped": ('{"de": "W\\u00e4lder"}', "", "Wälder"),
    "a value with its language": ({"@value": "Wald", "@language": "de"}, "", "Wald"),
    "values with their languages": (
        [{"@value": "Wald", "@language": "de"}, {"@value": "Forest", "@language": "en"}], "", "Forest",
    ),
    "values with their languages, asked": (
        [{"@value": "Wald", "@language": "de"}, {"@value": "Forest", "@language": "en"}], "DE", "Wald",
    ),
    "values without one": ([{"@value": "Wald"}, "Forest"], "", "Wald"),
    "a typed value": ({"@type": "xsd:string", "@value": "Wald"}, "", "Wald"),
    "a list of one": (["Wald"], "", "Wald"),
    "the first of those asked": ({"it": "bosco", "fr": "forêt", "en": "forest"}, "de,fr,it", "forêt"),
    "the second where the first is missing": ({"fr": "forêt", "en": "forest"}, "de-CH, fr-FR", "forêt"),
    "english before what nobody asked for": ({"it": "bosco", "en": "forest"}, "de,fr", "forest"),
    "english where it is asked for first": ({"de": "Wald", "en": "forest"}, "en,de", "forest"),
    "lists by language": ({"de": ["Wald"], "en": []}, "", "Wald"),
    "a number by language": ({"de": 7}, "", "7"),
    "a default": ({"default": "Wald", "fr": "Forêt"}, "", "Wald"),
}  # fmt: skip


@pytest.mark.parametrize(("value", "language", "expected"), LANGUAGES.values(), ids=LANGUAGES)
@pytest.mark.parametrize("form", FORMS)
def test_of_a_text_in_several_languages_one_is_taken(form: str, value: Any, language: str, expected: str) -> None:
    found = decoded(form, json.dumps(value), json.dumps(value), language=language)
    assert (found.name, found.description, found.texts_ignored) == (expected, expected, ())


@pytest.mark.parametrize(
    "text",
    ["{", "{}", "{{default.description}}", '{"a key": "x"}', '{"de": 7}', '{"de": {"x": 1}}', '{"de": "x"', "{de: x}",
     '{"de": "\\ud800"}', '{"url": "x"}', " " + json.dumps({"de": "x"})],
)  # fmt: skip
def test_a_text_that_only_looks_like_an_object_is_that_text(text: str) -> None:
    found = decoded("ckan", json.dumps(text), json.dumps(text))
    assert (found.name, found.description, found.texts_ignored) == (text, text, ())


def test_a_nul_in_an_object_in_a_string_is_replaced() -> None:
    assert decoded("ckan", json.dumps(json.dumps({"de": "a\0b"}))).name == "a\ufffdb"


@given(values, st.sampled_from(["", "de", "fr-CH", "x"]))
@untimed
def test_whatever_is_there_is_a_text_that_can_be_stored_or_none(value: Any, language: str) -> None:
    text = text_of(value, language)
    assert text is None or text.encode(errors="surrogatepass") or value == ""
    if text is None and isinstance(value, (str, int, float)):
        assert isinstance(value, bool)
    assert url_of(value) is None or has_text(value) or isinstance(value, str)


def test_translations_of_a_package_stand_beside_its_title() -> None:
    def names(language: str = "", **fields: Any) -> tuple[Any, Any]:
        data = json.dumps({"id": "k", "name": "wald"} | fields).encode()
        found = Decoder(CKAN, domain="d.org", language=language).decode(RawRecord(data, 1, 0))
        assert isinstance(found, Asset)
        assert found.texts_ignored == ()
        return found.name, found.description

    translated: dict[str, Any] = {
        "title_translated": {"fr": "Forêt", "de": "Wald"},
        "notes_translated": {"fr": "Une forêt"},
    }
    assert names(title="Wald", notes="Ein Wald", **translated) == ("Wald", "Ein Wald")
    assert names("fr", title="Wald", notes="Ein Wald", **translated) == ("Forêt", "Une forêt")
    assert names(title="", notes=None, **translated) == ("Forêt", "Une forêt")
    assert names(title=json.dumps(SWISS), title_translated={"de": "Wald", "fr": "Forêt"})[0] == "Wald"
    assert names(title=SWISS | {"de": "", "fr": ""}, title_translated={"de": ""})[0] == "wald", "its name is left"


def test_sources_have_texts_as_assets_do() -> None:
    def source(**fields: Any) -> Source:
        data = json.dumps({"type": "source", "domain": "d.org"} | fields).encode()
        found = Decoder(SEED, language="fr").decode(RawRecord(data, 1, 0))
        assert isinstance(found, Source)
        return found

    assert source(name={"de": "Wald", "fr": "Forêt"}, url={"@id": "https://x.org"}).url == "https://x.org"
    assert source(name={"de": "Wald", "fr": "Forêt"}).name == "Forêt"
    assert source(name=7).name == "7"
    odd = source(name=True, url=7)
    assert (odd.name, odd.url, odd.texts_ignored) == (None, "https://d.org", ("name", "url"))


# URLs


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ({"@type": "Document", "@id": "https://a.org/1", "accessURL": "https://a.org/2"}, "https://a.org/1"),
        ({"@type": "Document", "accessURL": "https://a.org/2"}, "https://a.org/2"),
        ({"@id": "_:b0", "downloadURL": "https://a.org/3"}, "https://a.org/3"),
        ({"url": "https://a.org/4"}, "https://a.org/4"),
        (["https://a.org/5", "https://a.org/6"], "https://a.org/5"),
        ([{"@id": "https://a.org/7"}], "https://a.org/7"),
        ({"title": "A page"}, None),
        (7, None),
        (True, None),
    ],
)
def test_a_landing_page_may_be_a_document(value: Any, url: str | None) -> None:
    data = json.dumps({"identifier": "k", "landingPage": value}).encode()
    found = Decoder(DATA_JSON, domain="d.org").decode(RawRecord(data, 1, 0))
    assert isinstance(found, Asset)
    assert (found.url, found.texts_ignored) == (url, () if url else ("url",))
    hinted = Decoder(DATA_JSON).decode(RawRecord(data, 1, 0))
    assert hinted.source_key == "a.org" if isinstance(hinted, Asset) else url is None


# content hashes


def test_the_content_hash_of_a_record_stays_what_it_is() -> None:
    usual = decoded("directory", '"n"', '"t"', '"2024-01-01T00:00:00.000Z"')
    same = decoded("directory", '"n"', '"t"', '"2024-01-01T00:00:00.000Z"', language="en")
    assert usual.content_hash == same.content_hash
    assert usual.content_hash == bytes.fromhex("ff9df37f907924064048cb942ab687be"), (
        "another hash would be written into every row"
    )


@pytest.mark.parametrize(
    ("name", "date", "former"),
    [("7", "null", "003aa60d0cf4c80e41b505a8a2de6583"), ('"n"', '"2018-05"', "45c6b11109d86926acb6c34e5461c467")],
)
def test_the_rows_that_earlier_versions_left_without_a_text_or_a_date_are_written_anew(
    name: str, date: str, former: str
) -> None:
    found = decoded("directory", name, "null", date)
    assert (found.name, found.updated_at is None) == (name.strip('"'), date == "null")
    assert found.content_hash != bytes.fromhex(former)


def test_a_literal_number_is_a_float_with_its_text() -> None:
    number = LiteralNumber("1.50")
    assert (number, number.text) == (1.5, "1.50")
