"""dcat-ap: JSON-LD of DCAT-AP 2 and 3, catalogs with datasets in them and graphs of nodes in any order.

DCAT-AP 3.0 (https://semiceu.github.io/DCAT-AP/releases/3.0.0/) in JSON-LD 1.1 (https://www.w3.org/TR/json-ld11/), whose
names are prefixed, full IRIs, or in a graph those that a context gives without a prefix. Without a prefix in a catalog
they are DCAT-US: see data_json.py.

What real files taught (the tests of udata, feeds of ArcGIS Hub and their templates, examples of ckanext-dcat, of
dati.gov.it and of the Czech catalogue): serializers flatten, write nodes in the order of a hash table, the catalog
anywhere, and wrap each value in a list. Datasets may be blank nodes, which have another name in each file, but then
have an identifier. An identifier is a literal; Italian datasets have `adms:identifier`, a node with a notation, besides
it; Czech ones have two identifiers. Landing pages are IRIs or literals, some "hello" or the name of a blank node; none
was a node of its own. ArcGIS Hub has homepages like `{"foaf:Document": "https://…"}`, and newer catalogs of it have an
item's URL at www.arcgis.com for their `@id`. The catalog comes again on every page, and so do organizations, but no
dataset had two node objects in one graph. Total numbers are numbers or texts, at the catalog or at a node of the page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import Struct, field

from seed_registry.index.dialects.base import (
    TOTALS,
    Columns,
    Dialect,
    Fields,
    Graph,
    Ordinary,
    Portal,
    Sample,
    first,
    host_of,
)
from seed_registry.index.dialects.dcat_nodes import (
    CATALOGS,
    DATASETS,
    DCAT,
    DCT,
    PLAIN,
    SPELLINGS,
    VALUE_OF,
    Head,
    Node,
    addresses,
    completes,
    is_a,
    is_blank,
    is_dataset,
    is_reference,
    join,
    key_of,
    literal,
    page_of,
    plain,
    refers,
    spelled,
    values_in,
)
from seed_registry.index.json_envelope import Layout, Path
from seed_registry.index.shape import Shape
from seed_registry.index.text_fields import filled


class _Value(Struct, gc=False, forbid_unknown_fields=True):
    """A literal."""

    value: str = field(name="@value")
    type: Any = field(default=None, name="@type")
    language: Any = field(default=None, name="@language")


class _Page(Struct, gc=False, forbid_unknown_fields=True):
    """A literal or a reference."""

    value: str | None = field(default=None, name="@value")
    id: str | None = field(default=None, name="@id")
    type: Any = field(default=None, name="@type")


_Text = str | _Value | tuple[_Value]
_Link = str | _Page | tuple[_Page]


class _Keys(Struct, gc=False):
    """The fields of an ordinary dataset: each has one value, which says all, and there are no datasets in it."""

    type: str | list[str] = field(name="@type")
    id: str | None = field(default=None, name="@id")
    identifier_0: _Text | None = field(default=None, name="dct:identifier")
    identifier_1: _Text | None = field(default=None, name="dcterms:identifier")
    identifier_2: _Text | None = field(default=None, name="http://purl.org/dc/terms/identifier")
    identifier_3: None = field(default=None, name="identifier")
    dataset_0: None = field(default=None, name="dcat:dataset")
    dataset_1: None = field(default=None, name="http://www.w3.org/ns/dcat#dataset")
    dataset_2: None = field(default=None, name="dataset")


class _Dataset(_Keys, gc=False):
    """An ordinary dataset."""

    title_0: _Text | None = field(default=None, name="dct:title")
    title_1: _Text | None = field(default=None, name="dcterms:title")
    title_2: _Text | None = field(default=None, name="http://purl.org/dc/terms/title")
    title_3: None = field(default=None, name="title")
    description_0: _Text | None = field(default=None, name="dct:description")
    description_1: _Text | None = field(default=None, name="dcterms:description")
    description_2: _Text | None = field(default=None, name="http://purl.org/dc/terms/description")
    description_3: None = field(default=None, name="description")
    modified_0: _Text | None = field(default=None, name="dct:modified")
    modified_1: _Text | None = field(default=None, name="dcterms:modified")
    modified_2: _Text | None = field(default=None, name="http://purl.org/dc/terms/modified")
    modified_3: None = field(default=None, name="modified")
    landing_page_0: _Link | None = field(default=None, name="dcat:landingPage")
    landing_page_1: _Link | None = field(default=None, name="http://www.w3.org/ns/dcat#landingPage")
    landing_page_2: _Link | None = field(default=None, name="dct:landingPage")
    landing_page_3: None = field(default=None, name="landingPage")


def _asset(node: Any, portal: Portal) -> Fields | None:
    if not is_dataset(node) and (node.type is not None or is_reference(node)):
        return None
    landing = VALUE_OF["landing_page"](node)
    pages = list(addresses(landing))
    return Fields(
        key_of(node),
        portal.name,
        filled(literal(VALUE_OF["title"](node))),
        filled(literal(VALUE_OF["description"](node))),
        first(page_of(node.id, pages), None if pages else filled(landing)),
        first(*map(literal, values_in(VALUE_OF["modified"](node)))),
    )


def _plain_text(*values: Any) -> str | None:
    found = _given(*values)
    return found if found is None or type(found) is str else found.value


def _given(*values: Any) -> Any:
    """The first value that says something, without the list around it."""
    for value in values:
        if value is not None:
            found = value[0] if type(value) is tuple else value
            if (found if type(found) is str else found.value) != "":
                return found
    return None


def _ordinary_key(dataset: _Keys) -> str | None:
    if not is_dataset(dataset):
        return None
    key = _plain_text(dataset.identifier_0, dataset.identifier_1, dataset.identifier_2)
    return key or (None if is_blank(dataset.id) else dataset.id)


def _ordinary_url(dataset: _Dataset) -> str | None:
    page = _given(dataset.landing_page_0, dataset.landing_page_1, dataset.landing_page_2)
    if page is None:
        return page_of(dataset.id, ())
    pages = [page] if type(page) is str else [one for one in (page.id, page.value) if one is not None]
    return page_of(dataset.id, pages)


def _key_columns(datasets: Sequence[_Keys], portal: Portal) -> Columns:
    return [_ordinary_key(one) for one in datasets], [portal.name] * len(datasets)


def _columns(datasets: Sequence[_Dataset], portal: Portal) -> Columns:
    return (
        *_key_columns(datasets, portal),
        [_plain_text(one.title_0, one.title_1, one.title_2) for one in datasets],
        [_plain_text(one.description_0, one.description_1, one.description_2) for one in datasets],
        [_ordinary_url(one) for one in datasets],
        [_plain_text(one.modified_0, one.modified_1, one.modified_2) for one in datasets],
    )


# The host of ArcGIS' items, which are no portals.
_ITEMS: Final = "www.arcgis.com"


def _host(node_id: Any, homepage: Any) -> str:
    """The portal of a catalog."""
    own = host_of(node_id)
    if own and own != _ITEMS:
        return own
    pages = [page if urlsplit(page).scheme else f"https://{page}" for page in addresses(homepage) if "." in page]
    return first(*map(host_of, pages), own) or ""


def _portal(header: Mapping[str, Any]) -> str:
    return _host(header.get("@id"), first(*(header.get(name) for name in SPELLINGS["homepage"])))


def _header(node: Any) -> dict[str, Any]:
    """What a node says about its graph: a catalog names the portal, and it or a page of it the number of datasets."""
    header: dict[str, Any] = {}
    if (
        is_a(node, CATALOGS)
        and VALUE_OF["part_of"](node) is None
        and (host := _host(node.id, VALUE_OF["homepage"](node)))
    ):
        header["@id"] = f"https://{host}"
    total = first(*map(plain, values_in(VALUE_OF["total"](node))))
    if type(total) is int or (type(total) is str and total.isdecimal() and total.isascii()):
        header[SPELLINGS["total"][0]] = int(total)
    return header


_GRAPHS: Final = (("@graph",), ())
# Of a catalog, of one in it, and at its services.
_ARRAYS: Final[tuple[Path, ...]] = tuple((name,) for name in spelled("dataset", DCAT))
_SERVED: Final[tuple[Path, ...]] = tuple(
    (service, served) for service in spelled("service", DCAT) for served in spelled("servesDataset", DCAT)
)
_INNER: Final = frozenset((*_ARRAYS, *((name,) for name in spelled("dataset", PLAIN))))
_NESTED: Final[dict[Path, Path]] = dict.fromkeys(
    [(name,) for name in spelled("catalog", DCAT) + spelled("hasPart", DCT)], ()
) | {(name,): (name,) for name in spelled("service", DCAT) + spelled("record", DCAT)}  # fmt: skip
_OF_CATALOGS: Final = {name for key in ("dataset", "catalog", "service") for name in spelled(key, DCAT)}
# Of aliases these are schema.org's as well: it has no title.
_ALIASES: Final = {"@type", "title"}


def _has_terms(keys: set[str]) -> bool:
    return any(key.startswith(DCAT) or key in _TYPICAL for key in keys)


def _fits(shape: Shape) -> bool:
    keys = set(shape.keys)
    if shape.lines:
        return _has_terms(keys) and keys.isdisjoint(_OF_CATALOGS) and "@graph" not in keys
    if not keys.isdisjoint(_OF_CATALOGS):
        return True
    context = shape.objects.get(("@context",), set())
    if shape.is_empty("@graph"):
        return "dcat" in context
    nodes = shape.arrays.get(("@graph",)) or shape.objects.get(("@graph",), set())
    if _has_terms(nodes) or _has_terms(shape.arrays.get((), set())):
        return True
    return nodes >= _ALIASES and ("dcat" in context or not nodes.isdisjoint({"distribution", "landingPage"}))


_TYPICAL: Final = frozenset(
    name
    for key in ("identifier", "title", "description", "modified")
    for name in SPELLINGS[key]
    if name != key
) | {*spelled("landingPage", DCAT), *spelled("distribution", DCAT), *spelled("keyword", DCAT)}  # fmt: skip

_SAMPLE: Final = Sample(
    record=(
        b'{"@type": "dcat:Dataset", "dct:language": "en", '
        b'%(identity)b"dct:title": "%(name)b", "dct:description": {"@value": "%(text)b", "@language": "en"}, '
        b'"dct:issued": "%(created)b", "dct:modified": {"@type": "xsd:dateTime", "@value": "%(updated)b"}, '
        b'"dcat:landingPage": {"@id": "https://%(domain)b/datasets/%(slug)b-%(key)b"}, "dcat:keyword": [%(tags)b], '
        b'"dcat:theme": "%(topic)b", "dct:accessRights": "public", "dct:publisher": {"@type": "foaf:Agent", '
        b'"foaf:name": "Open Data"}, "dcat:distribution": [%(parts)b]}'
    ),
    part=(
        b'{"@type": "dcat:Distribution", "dct:title": "%(name)b", "dct:description": "%(note)b", '
        b'"dct:format": "%(type)b", "dcat:downloadURL": {"@id": "https://files.example/%(field)b.csv"}}'
    ),
    key=b"5eed0000-0000-4000-8000-%(code)012x",
    identity=b'"dct:identifier": "%b", ',
    before=(
        b'{"@context": {"dcat": "http://www.w3.org/ns/dcat#", "dct": "http://purl.org/dc/terms/", '
        b'"foaf": "http://xmlns.com/foaf/0.1/", "xsd": "http://www.w3.org/2001/XMLSchema#"}, '
        b'"@id": "https://%(domain)b", "@type": "dcat:Catalog", "dct:title": "Open Data", "dcat:dataset": [\n'
    ),
    after=b"\n]}\n",
    needs_domain=frozenset({"ndjson"}),
    fixed_bytes=640,
)

DCAT_AP: Final = Dialect(
    name="dcat-ap",
    version=1,
    arrays=dict.fromkeys((*_ARRAYS, *_SERVED, *_GRAPHS), "asset"),
    nested=_NESTED,
    links=frozenset((*_ARRAYS, *_SERVED)),
    singles=lambda _: (*_ARRAYS, *_SERVED, ("@graph",)),
    kept=frozenset((name,) for key in ("homepage", "total") for name in SPELLINGS[key]),
    inner=(b'dataset"', Layout(dict.fromkeys(_INNER, "asset"), singles=_INNER, links=_INNER)),
    graph=Graph(
        frozenset(_GRAPHS),
        Head,
        name=lambda node: node.id if type(node.id) is str else "",
        header=_header,
        holds_records=lambda node: is_a(node, DATASETS | CATALOGS),
        refers=lambda node: is_a(node, CATALOGS) or refers(node),
        completes=completes,
        join=join,
    ),
    keys=frozenset(name for name in SPELLINGS["identifier"] if name != "identifier"),
    provider="dcat",
    providers={"arcgis": re.compile(rb"arcgis\.com/(?:home/item|sharing/rest)")},
    sample=_SAMPLE,
    wire=Node,
    asset=_asset,
    ordinary=Ordinary(_Dataset, _Keys, _columns, _key_columns),
    mapping={
        "key": "dct:identifier, @id, the notation of adms:identifier",
        "source_key": "--domain, the host of the catalog's @id or foaf:homepage",
        "name": "dct:title",
        "description": "dct:description",
        "url": "dcat:landingPage, @id",
        "updated_at": "dct:modified",
    },
    typical=_TYPICAL,
    fits=_fits,
    portal=_portal,
    totals=((SPELLINGS["total"][1],), *TOTALS),
)
