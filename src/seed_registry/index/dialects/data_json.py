"""data-json: catalogues of DCAT-US, and the bare array before it.

DCAT-US 1.1 (https://resources.data.gov/resources/dcat-us/) and 3.0 (https://resources.data.gov/resources/dcat-us3/),
where an identifier, a landing page or a text may be an object. What real files taught: 8 of 11 federal ones have no
`@id` that would name the portal. On an ArcGIS Hub the identifier is the landing page (2020) or an item's URL (2024).
Hosts and paths have sections that look like a Socrata id (`data-wcmn.opendata.arcgis.com`, `/data-sets/`). Socrata's
own files have URLs of `/api/views/` (2020) or bare ids (2013, whose first row is the catalogue itself). A landing page
may be that of many datasets, a DOI's or a story's: it is no identifier.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from seed_registry.index.dialects.base import (
    RESOLVERS,
    Columns,
    Dialect,
    Fields,
    Ordinary,
    Portal,
    Sample,
    by_record,
    first,
    host_of,
    is_catalog,
    keys_at,
    says_catalog,
    socrata_id,
)
from seed_registry.index.json_envelope import Layout, Path
from seed_registry.index.shape import Shape
from seed_registry.index.text_fields import filled, has_text, is_template, url_of


class Dataset(Struct, gc=False):
    """The fields that are read of a dataset."""

    identifier: Any = None
    node: Any = field(default=None, name="@id")
    title: Any = None
    description: Any = None
    modified: Any = None
    landingPage: Any = None  # noqa: N815  # a field of the format


class _Keys(Struct, gc=False):
    """The fields of an ordinary dataset: one without others in it."""

    identifier: str
    node: str | None = field(default=None, name="@id")
    title: str | None = None
    landingPage: str | None = None  # noqa: N815  # a field of the format
    seriesMember: None = None  # noqa: N815  # a field of the format


class _Dataset(_Keys, gc=False):
    """An ordinary dataset."""

    description: str | None = None
    modified: str | None = None


# An object names its identifier in one of these; else a notation is unique within the agency that gave it
# (https://www.w3.org/TR/vocab-adms/#adms-identifier, whose version is that of the agency's scheme). Both are written as
# an array of JSON. A text that looks like one is written as an array of itself, so that no two identifiers are one key.
_PLAIN: Final = ("@value", "@id", "value", "id", "$oid")
_PAIR: Final = '["'
# Where datasets stand in a catalog, in arrays or as one object. Version 3 also has them in series and at services, and
# catalogs in catalogs (https://github.com/GSA/dcat-us, jsonschema/Catalog.json).
_DATASETS: Final[frozenset[Path]] = frozenset({
    ("dataset",),
    ("datasets",),
    ("datasetSeries", "seriesMember"),
    ("datasetSeries", "first"),
    ("datasetSeries", "last"),
    ("service", "servesDataset"),
})  # fmt: skip
# The form of nearly all; escaped slashes are PHP's. No host is longer (https://www.rfc-editor.org/rfc/rfc1035, 2.3.4).
_LANDING_HOST: Final = re.compile(
    rb'"landingPage"\s*:\s*"(?i:https?):\\?/\\?/([A-Za-z0-9][A-Za-z0-9._-]{0,252})(?::[0-9]*)?(?:\\?/|[?#"])'
)
_PROVIDERS: Final = {
    "socrata": re.compile(rb'/api/views/[2-9a-z]{4}-[2-9a-z]{4}|"identifier"\s*:\s*"[2-9a-z]{4}-[2-9a-z]{4}"'),
    "dkan": re.compile(rb'"%Ref:|"%modified"|/api/1/datastore/|(?i:\bdkan\b)'),
    "arcgis": re.compile(
        rb'arcgis\.com/(?:home/item|api/v[23]/datasets)|"landingPage"\s*:\s*"https?://[^"/]*arcgis\.com/'
    ),
}
_MEMBERS: Final[Path] = ("seriesMember",)
_CATALOGS: Final[tuple[Path, ...]] = (("catalog",), ("hasPart",))
_OTHERS: Final[tuple[Path, ...]] = (("datasetSeries",), ("service",))
# A dataset of DCAT-US has at least one of them; one of schema.org has a `name` instead.
_OWN: Final = frozenset({"title", "identifier", "accessLevel", "landingPage"})
_CATALOG_FIELDS: Final = ("dataset", "datasets", "catalog", "hasPart", "datasetSeries", "service")


def _asset(dataset: Dataset | _Dataset, portal: Portal) -> Fields | None:
    identity = _identity(dataset, portal)
    if identity is None:
        return None
    landing = url_of(dataset.landingPage)
    texts = dataset.title, dataset.description, dataset.landingPage if landing is None else landing
    if type(dataset) is Dataset:  # an ordinary one with a template becomes one of these
        texts = filled(texts[0]), filled(texts[1]), filled(texts[2])
    return Fields(*identity, *texts, dataset.modified)


def _identity(dataset: Dataset | _Keys, portal: Portal) -> tuple[Any, Any] | None:
    """The key and the source of a dataset; None of the row that stands for its catalogue."""
    identifier, landing = dataset.identifier, url_of(dataset.landingPage)
    if type(identifier) is not str:
        identifier = _plain(identifier)
    if type(identifier) is str and _is_catalogue_itself(identifier, dataset.title):
        return None
    # In a federated catalogue identifiers are of other hosts: the portal that publishes them all is the source.
    source = portal.name or first(host_of(landing), host_of(identifier))
    return _key(dataset, identifier, landing, portal if portal.name else Portal(header=source or "")), source


def _key_columns(datasets: Sequence[_Keys], portal: Portal) -> Columns:
    found = [_identity(dataset, portal) or (None, None) for dataset in datasets]
    return [key for key, _ in found], [source for _, source in found]


def _key(dataset: Dataset | _Keys, identifier: Any, landing: str | None, portal: Portal) -> Any:
    """The Socrata id of the portal's own URL, else the identifier: two datasets never have the same.

    One without any identifier has that of its node in JSON-LD, or what Socrata made of it: its page has the id. Any
    other landing page may be that of several datasets.
    """
    if type(identifier) is str and (text := identifier.strip()) and not is_template(text):
        return _own_id(text, portal) or (_written(text) if text.startswith(_PAIR) else text)
    if type(identifier) is int:
        return identifier
    if pair := _pair(dataset.identifier):
        return pair
    if type(dataset.node) is str and not dataset.node.startswith("_:"):  # such a name is another in each file
        return _own_id(dataset.node, portal) or dataset.node
    return None if has_text(dataset.identifier) else _own_id(landing, portal)


def _own_id(text: Any, portal: Portal) -> str | None:
    found = socrata_id(text)
    return found[0] if found and (not found[1] or portal.has(found[1])) else None


def _plain(identifier: Any) -> Any:
    """The only value of a list, or of an object that is a typed value, a reference or a notation."""
    if type(identifier) is list and len(identifier) == 1:
        identifier = identifier[0]
    if type(identifier) is not dict:
        return identifier
    plain = first(*(identifier.get(key) for key in _PLAIN))
    is_alone = plain is None and identifier.get("schemaAgency") in (None, "")
    return _plain(identifier.get("notation")) if is_alone else plain


def _pair(identifier: Any) -> str | None:
    """Agency and notation as one text; None where one of them cannot be read."""
    if type(identifier) is list and len(identifier) == 1:
        identifier = identifier[0]
    if type(identifier) is not dict:
        return None
    notation, agency = _plain(identifier.get("notation")), identifier.get("schemaAgency")
    if type(agency) is dict:
        agency = first(_plain(agency), agency.get("name"))
    parts = [str(part).strip() for part in (agency, notation) if type(part) in (str, int)]
    return _written(*parts) if len(parts) == 2 and all(parts) else None  # noqa: PLR2004  # both of them


def _written(*parts: str) -> str:
    return msgspec.json.encode(parts).decode()


def _is_catalogue_itself(identifier: str, title: Any) -> bool:
    """Whether a row describes the file that it is in; a dataset may well be published as some data.json, too."""
    identifier = identifier.strip().rstrip("/")
    if not identifier.endswith("/data.json"):
        return False
    is_root = identifier.count("/") == 3  # noqa: PLR2004  # https://host/data.json
    return is_root or (type(title) is str and "data.json" in title)


def _fits(shape: Shape) -> bool:
    keys = keys_at(shape)
    if "dataset" in keys:
        return not shape.lines and _is_catalog_document(shape)
    return _is_catalog_document(shape) or (_is_dataset(keys) and not says_catalog(shape.keys.get("@type")))


def _is_catalog_document(shape: Shape) -> bool:
    if shape.lines:
        return False
    found = shape.arrays.get(("dataset",), set()) or shape.objects.get(("dataset",), set())
    if not _OWN.isdisjoint(found) or (shape.is_empty("dataset") and shape.keys.get("dataset") == "array"):
        return True
    if is_catalog(shape) and any(shape.keys.get(name) in ("array", "object") for name in _CATALOG_FIELDS):
        return True
    return _is_dataset(shape.arrays.get(("datasets",), set()))


def _is_dataset(keys: set[str]) -> bool:
    return {"identifier", "title"} <= keys or {"accessLevel", "title"} <= keys


def _former_key(dataset: Dataset) -> str | None:
    """The key of version 1: the first text like a Socrata id anywhere in the identifier or the landing page."""
    identifier = dataset.identifier
    if type(identifier) is dict:
        identifier = first(*(identifier.get(key) for key in _PLAIN))
    key = first(_part(identifier), _part(dataset.landingPage), identifier)
    return str(key).strip() if type(key) in (str, int) else None


def _part(text: Any) -> str | None:
    parts = re.split(r"[/?#.]", text.strip()) if type(text) is str else ()
    return next((part for part in reversed(parts) if socrata_id(part)), None)


def _hosts_in(beginning: bytes) -> list[str]:
    """The hosts of the first landing pages, the most frequent first."""
    found = Counter(host.decode().lower() for host in _LANDING_HOST.findall(beginning))
    return [host for host, _ in found.most_common() if host not in RESOLVERS]


_SAMPLE: Final = Sample(
    record=(
        b'{"@type": "dcat:Dataset", %(identity)b"accessLevel": "public", "title": "%(name)b", '
        b'"description": "%(text)b", "issued": "%(created)b", "modified": "%(updated)b", '
        b'"landingPage": "https://%(domain)b/datasets/%(slug)b-%(key)b", "keyword": [%(tags)b], '
        b'"theme": ["%(topic)b"], "bureauCode": ["015:11"], "programCode": ["015:001"], '
        b'"contactPoint": {"@type": "vcard:Contact", "fn": "Open Data", "hasEmail": "mailto:data@%(domain)b"}, '
        b'"publisher": {"@type": "org:Organization", "name": "Department of Records"}, "distribution": [%(parts)b]}'
    ),
    part=(
        b'{"@type": "dcat:Distribution", "title": "%(name)b", "description": "%(note)b", "mediaType": "text/csv", '
        b'"format": "%(type)b", "downloadURL": "https://files.example/%(field)b.csv"}'
    ),
    key=b"5eed0000-0000-4000-8000-%(code)012x",
    identity=b'"identifier": "%b", ',
    before=(
        b'{"@context": "https://project-open-data.cio.gov/v1.1/schema/catalog.jsonld", '
        b'"@id": "https://%(domain)b/data.json", "@type": "dcat:Catalog", '
        b'"conformsTo": "https://project-open-data.cio.gov/v1.1/schema", '
        b'"describedBy": "https://project-open-data.cio.gov/v1.1/schema/catalog.json", "dataset": [\n'
    ),
    after=b"\n]}\n",
    fixed_bytes=654,
)

DATA_JSON: Final = Dialect(
    name="data-json",
    version=2,
    arrays=dict.fromkeys((*sorted(_DATASETS), ()), "asset"),
    nested=dict.fromkeys(_CATALOGS, ()) | {path: path for path in _OTHERS},
    links=_DATASETS - {("dataset",), ("datasets",)},
    # Before catalogs had an array for them, series stood among the datasets.
    inner=(b'"seriesMember"', Layout({_MEMBERS: "asset"}, singles=frozenset({_MEMBERS}), links=frozenset({_MEMBERS}))),
    singles=lambda _: _DATASETS,
    keys=frozenset({"identifier"}),
    provider="dcat",
    providers=_PROVIDERS,
    hosts_in=_hosts_in,
    sample=_SAMPLE,
    wire=Dataset,
    asset=_asset,
    ordinary=Ordinary(_Dataset, _Keys, by_record(_asset), _key_columns),
    mapping={
        "key": "the 4x4 id that identifier is or that its URL on the portal has; identifier; @id",
        "source_key": "--domain, the host of the header's @id, of landingPage, of identifier",
        "name": "title",
        "description": "description",
        "url": "landingPage",
        "updated_at": "modified",
    },
    typical=frozenset(
        {
            "identifier",
            "title",
            "description",
            "modified",
            "accessLevel",
            "landingPage",
            "keyword",
            "publisher",
            "contactPoint",
            "distribution",
            "@type",
        }
    ),
    fits=_fits,
    portal=lambda header: host_of(header.get("@id")) or "",
    former_key=_former_key,
)
