"""What is no index is called by its name, with what to load instead."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seed_registry.errors import IndexNotUnderstood
from seed_registry.index.choice import choose
from seed_registry.index.other_formats import kind_of_text
from seed_registry.index.sniff import sniff
from seed_registry.settings import Settings

ITEM: dict[str, Any] = {
    "type": "Feature",
    "stac_version": "1.0.0",
    "id": "scene",
    "geometry": None,
    "properties": {},
    "assets": {},
}
POINT: dict[str, Any] = {
    "type": "Feature",
    "id": 7,
    "geometry": {"type": "Point", "coordinates": [7, 47]},
    "properties": {"name": "a"},
}
DOCUMENTS: dict[str, tuple[Any, str, str]] = {
    "a STAC collection": (
        {"type": "Collection", "stac_version": "1.0.0", "id": "c", "links": [{"rel": "self", "href": "x"}]},
        "STAC (Collection)",
        "data.json",
    ),
    "STAC items": ({"type": "FeatureCollection", "features": [ITEM]}, "STAC (FeatureCollection)", "data.json"),
    "OpenAPI": ({"openapi": "3.0.1", "info": {"title": "t"}, "paths": {}}, "OpenAPI 3.0.1", "one of its calls"),
    "Swagger": ({"swagger": "2.0", "paths": {"/a": {}}}, "OpenAPI 2.0", "one of its calls"),
    "schema.org": (
        {"@context": "https://schema.org/", "@type": "DataCatalog", "dataset": [{"@type": "Dataset", "name": "n"}]},
        "schema.org JSON-LD (DataCatalog)",
        "catalog.jsonld",
    ),
    "schema.org, by prefix": (
        {"@context": {"schema": "http://schema.org/"}, "@type": "schema:Dataset", "schema:name": "n"},
        "schema.org JSON-LD (schema:Dataset)",
        "catalog.jsonld",
    ),
    "GeoJSON": ({"type": "FeatureCollection", "features": [POINT]}, "GeoJSON", "index of the portal's datasets"),
    "a data package": (
        {"name": "p", "resources": [{"path": "a.csv"}]},
        "Data Package",
        "index of the portal's datasets",
    ),
    "a JSON schema": ({"$schema": "https://json-schema.org/x", "properties": {}}, "JSON Schema", "data.json"),
    "JSON-stat": ({"version": "2.0", "class": "dataset", "value": [1, 2]}, "JSON-stat", "data.json"),
}
TEXTS: dict[str, tuple[bytes, str, str]] = {
    "RDF/XML": (
        b'<?xml version="1.0"?>\n<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">',
        "RDF/XML",
        "JSON-LD",
    ),
    "RDF/XML without a declaration": (b'<rdf:RDF xmlns:rdf="x">', "RDF/XML", "JSON-LD"),
    "CSW": (b'<?xml version="1.0"?><csw:GetRecordsResponse version="2.0.2">', "CSW", "ask the portal for JSON"),
    "WMS": (b'<?xml version="1.0"?><WMS_Capabilities version="1.3.0">', "OGC service", "ask the portal for JSON"),
    "Atom": (
        b'<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom">',
        "Atom or RSS",
        "ask the portal for JSON",
    ),
    "a sitemap": (b'<?xml version="1.0"?><urlset xmlns="x"><url>', "a sitemap", "ask the portal for JSON"),
    "Turtle": (
        b"@prefix dcat: <http://www.w3.org/ns/dcat#> .\n\n<http://x.org/1> a dcat:Dataset .",
        "Turtle",
        "JSON-LD",
    ),
    "N-Triples": (b'<http://x.org/1> <http://purl.org/dc/terms/title> "t" .\n', "N-Triples", "JSON-LD"),
    "CSV": (b'"id";"Titel";Gr\xc3\xb6\xc3\x9fe\n1;a;2\n', "CSV with the columns id, Titel, Größe", "lines of JSON"),
    "CSV of many columns": (
        ",".join(f"c{n}" for n in range(9)).encode() + b"\r\n1,2",
        "CSV with the columns c0, c1, c2, c3, c4, c5, …",
        "JSON",
    ),
    "a PDF": (b"%PDF-1.7\n%\xe2\xe3", "a PDF", "data.json"),
    "Parquet": (b"PAR1\x15\x04", "a Parquet file", "lines of JSON"),
    "SQLite": (b"SQLite format 3\0\x10", "an SQLite database", "lines of JSON"),
    "HTML with a feed": (
        b'<!doctype html><html><head><link rel="alternate" type="application/rss+xml"><rss>',
        "an HTML page",
        "login",
    ),
    "XML of no kind that is known": (b'<?xml version="1.0"?><a/>', "an XML document", "a page for people"),
}


def refused(data: bytes, **options: Any) -> str:
    with pytest.raises(IndexNotUnderstood) as caught:
        choose(sniff(data, "x"), Settings(**options), "x")
    return str(caught.value)


@pytest.mark.parametrize(("document", "name", "hint"), DOCUMENTS.values(), ids=DOCUMENTS)
@pytest.mark.parametrize("indent", [None, 1])
def test_a_document_of_another_format_is_called_by_its_name(
    document: Any, name: str, hint: str, indent: int | None
) -> None:
    first, second = refused(json.dumps(document, indent=indent).encode()).split("\n")
    assert name in first
    assert hint in second


@pytest.mark.parametrize(("text", "name", "hint"), TEXTS.values(), ids=TEXTS)
def test_a_text_of_another_format_is_called_by_its_name(text: bytes, name: str, hint: str) -> None:
    message = refused(text)
    assert name in message
    assert hint in message
    assert message.count("\n") <= 1


def test_names_out_of_another_format_are_escaped() -> None:
    message = refused(b"a\x80\xff,b b,\x9bc\n1,2,3\n")
    assert message.splitlines()[0].isprintable()
    document = {"openapi": "3.0\x1b[31m\u202e" + "9" * 1_000, "paths": {}}
    assert all(line.isprintable() and len(line) < 200 for line in refused(json.dumps(document).encode()).splitlines())


@given(st.binary(max_size=300) | st.text('ab,;\t|"\n<>@ \u00e4', max_size=300).map(str.encode))
def test_any_bytes_are_a_known_kind_or_none(text: bytes) -> None:
    found = kind_of_text(text)
    assert found is None or (found[0].isprintable() and found[1])
