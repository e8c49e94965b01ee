"""Recognise formats that are no index, and say what they are and what to load instead.

Each is known by what its specification demands: STAC (https://github.com/radiantearth/stac-spec) `stac_version`,
OpenAPI (https://spec.openapis.org/oas/latest.html) `openapi`, GeoJSON (https://www.rfc-editor.org/rfc/rfc7946) its
types, Data Package (https://datapackage.org) `resources` with a path, JSON-LD its context or its prefixed types.
"""

from __future__ import annotations

import re
from typing import Any, Final

from seed_registry.escape import printable
from seed_registry.index.shape import Shape

_CATALOG_INSTEAD: Final = (
    "load an index of the portal's datasets instead: its data.json, its catalog.jsonld or its API's answer"
)
_JSON_INSTEAD: Final = "ask the portal for JSON: the answer of its API, or its data.json"
_LINES_INSTEAD: Final = "convert it to lines of JSON, one record a line"
_JSON_LD_INSTEAD: Final = "ask the portal for the same catalog as JSON-LD (catalog.jsonld), or convert it"
_GEOJSON: Final = ("FeatureCollection", "Feature", "GeometryCollection")
_SCHEMA_ORG: Final = re.compile(r"https?://(?:www\.)?schema\.org/?")
_SCHEMA_ORG_KEYS: Final = {"dataset", "distribution", "includedInDataCatalog", "variableMeasured", "datePublished"}

# In the first bytes of a text, with what it is, and what to do; the most specific first.
_TEXTS: Final = tuple(
    (re.compile(pattern, re.DOTALL), kind, hint)
    for pattern, kind, hint in (
        (rb"<(?:\w+:)?RDF\b", "RDF/XML", _JSON_LD_INSTEAD),
        (rb"<(?:\w+:)?(?:GetRecordsResponse|Capabilities)\b", "an answer of a CSW server", _JSON_INSTEAD),
        (rb"<(?:\w+:)?\w*_?Capabilities\b", "the description of an OGC service", _JSON_INSTEAD),
        (rb"<(?:feed|rss)\b", "an Atom or RSS feed", _JSON_INSTEAD),
        (rb"<(?:urlset|sitemapindex)\b", "a sitemap", _JSON_INSTEAD),
        (rb"\A\s*(?:@prefix|@base|PREFIX|BASE)\s", "Turtle", _JSON_LD_INSTEAD),
        (rb"\A\s*<[^<>\s]+>\s+<[^<>\s]+>\s", "N-Triples", _JSON_LD_INSTEAD),
        (rb"\A%PDF-", "a PDF", _CATALOG_INSTEAD),
        (rb"\APAR1", "a Parquet file", _LINES_INSTEAD),
        (rb"\AObj\x01", "an Avro file", _LINES_INSTEAD),
        (rb"\ASQLite format 3\0", "an SQLite database", _LINES_INSTEAD),
    )
)  # fmt: skip
# A header line of three names or more, separated by one and the same character.
_NAME: Final = rb'"?[\w .:@/()\x80-\xff-]{0,60}"?'
_CSV: Final = re.compile(rb"\A%b([,;\t|])%b(?:\1%b)+\r?\n" % (_NAME, _NAME, _NAME))


def kind_of_text(text: bytes) -> tuple[str, str] | None:
    """The format of a text that is not JSON, and what to do; None where it is not recognised."""
    beginning = text[:4_000]
    for pattern, kind, hint in _TEXTS:
        if pattern.search(beginning):
            return kind, hint
    if header := _CSV.match(beginning):
        names = header[0].strip().replace(b'"', b"").split(header[1])
        columns = ", ".join(printable(name.decode(errors="replace"), 30) for name in names[:6])
        more = ", …" if len(names) > 6 else ""  # noqa: PLR2004
        return f"CSV with the columns {columns}{more}", f"{_JSON_INSTEAD}; or {_LINES_INSTEAD}"
    return None


def kind_of_document(shape: Shape) -> tuple[str, str] | None:
    """The format of a JSON document that is no index, and what to do; None where it is not recognised."""
    keys = shape.keys
    if "stac_version" in keys or "stac_version" in shape.arrays.get(("features",), ()):
        kind = _text(keys.get("type"))
        return f"STAC ({kind or 'a catalog'}): it describes scenes and their files, not datasets", _CATALOG_INSTEAD
    for name in ("openapi", "swagger"):
        if name in keys and ("paths" in keys or "info" in keys):
            hint = "load the answer of one of its calls, the one that lists datasets"
            return f"the description of an API (OpenAPI {_text(keys[name])}), not an answer of it", hint
    if _is_schema_org(shape):
        return (
            f"schema.org JSON-LD ({_text(keys.get('@type')) or 'a graph'}), made for search engines",
            _CATALOG_INSTEAD,
        )
    if keys.get("type") in _GEOJSON:
        return "GeoJSON: the data of a dataset, not an index of datasets", _CATALOG_INSTEAD
    if "path" in shape.arrays.get(("resources",), ()):
        return "a Data Package: the description of one dataset's files", _CATALOG_INSTEAD
    if "$schema" in keys and not {"properties", "$defs", "definitions"}.isdisjoint(keys):
        return "a JSON Schema, not a document that follows it", _CATALOG_INSTEAD
    if keys.get("version") and keys.get("class") in ("dataset", "collection"):
        return "JSON-stat: the data of a dataset, not an index of datasets", _CATALOG_INSTEAD
    return None


def _is_schema_org(shape: Shape) -> bool:
    context = shape.keys.get("@context")
    if isinstance(context, str) and _SCHEMA_ORG.match(context):
        return True
    vocabulary = "@vocab" in shape.objects.get(("@context",), ()) and not _SCHEMA_ORG_KEYS.isdisjoint(shape.keys)
    return vocabulary or str(shape.keys.get("@type")).startswith("schema:")


def _text(value: Any) -> str:
    return (
        printable(str(value), 30) if isinstance(value, str | int | float) and value not in ("object", "array") else ""
    )
