"""arcgis-hub: items of ArcGIS Hub's search API v3, and of its OGC API - Records, which replaced it.

Version 3 is JSON:API (https://opendata.arcgis.com/api/v3, read with a real answer of 2022). OGC API - Records is that
of `/api/search/v1/collections/…/items` (fields as in the tests of Esri's own client, github.com/Esri/hub.js). What they
taught: in version 3 the name is `name`, in OGC's it is `title`, and `name` that of the service; `searchDescription` is
the description without its markup. `url` is the service, not a page; `/datasets/<id>` is the page of any item.
Links of version 3 are of Esri's hosts, which serve all sites: only `--domain` names the portal. OGC's are of the site.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from seed_registry.index.dialects.base import (
    TOTALS,
    Columns,
    Dialect,
    Fields,
    Ordinary,
    Portal,
    Sample,
    first,
    host_of,
    keys_at,
    keys_in,
    moment_of_milliseconds,
    page,
    pages,
    self_host,
)
from seed_registry.index.json_envelope import Path
from seed_registry.index.shape import Shape


class Details(Struct, gc=False):
    """The fields that are read of an item's attributes or properties."""

    title: Any = None
    name: Any = None
    description: Any = None
    searchDescription: Any = None  # noqa: N815  # a field of the format
    snippet: Any = None
    modified: Any = None


class Item(Struct, gc=False):
    """An item: of version 3 with attributes, of OGC API - Records with properties."""

    id: Any = None
    attributes: Details | None = None
    properties: Details | None = None
    links: Any = None


class _Place(Struct, gc=False):
    """Where an item has its details."""


class _Keys(Struct, gc=False):
    """The fields of an ordinary item, where the portal is known."""

    id: str
    attributes: _Place | None = None
    properties: _Place | None = None


class _Details(_Place, gc=False):
    """The details of an ordinary item."""

    title: str | None = None
    name: str | None = None
    description: str | None = None
    searchDescription: str | None = None  # noqa: N815  # a field of the format
    snippet: str | None = None
    modified: int | None = None


class _Item(Struct, gc=False):
    """An ordinary item."""

    id: str
    attributes: _Details | None = None
    properties: _Details | None = None


_ARRAYS: Final[tuple[Path, ...]] = (("data",), ("features",), ())
_NO_ORDINARY_DETAILS: Final = _Details()
# They serve all sites: each is the host of no portal.
_SHARED_HOSTS: Final = frozenset({"hub.arcgis.com", "opendata.arcgis.com", "www.arcgis.com"})
# Fields of ArcGIS' items: one of the first, or two of all, distinguish them from other JSON:API and GeoJSON.
_OWN_FIELDS: Final = frozenset(
    {"itemId", "itemModified", "hubType", "orgId", "typeKeywords", "searchDescription", "snippet", "numViews"}
)
_FIELDS: Final = _OWN_FIELDS | {"owner", "access", "slug", "licenseInfo", "orgName"}


def _site(links: Any) -> str:
    host = host_of(links.get("self")) if type(links) is dict else self_host(links)
    return "" if host is None or host in _SHARED_HOSTS else host


def _asset(item: Item, portal: Portal) -> Fields:
    details = item.attributes or item.properties
    if details is None:
        return Fields(None, None)  # whatever it is
    source = portal.name or _site(item.links)
    return Fields(
        item.id,
        source,
        first(details.title, details.name),
        first(details.description, details.searchDescription, details.snippet),
        page(source, "datasets", item.id),
        moment_of_milliseconds(details.modified),
    )


def _key_columns(items: Sequence[_Keys | _Item], portal: Portal) -> Columns:
    return [item.id if item.attributes or item.properties else "" for item in items], [portal.name] * len(items)


def _columns(items: Sequence[_Item], portal: Portal) -> Columns:
    keys, sources = _key_columns(items, portal)
    details = [item.attributes or item.properties or _NO_ORDINARY_DETAILS for item in items]
    return (
        keys,
        sources,
        [d.title or d.name or None for d in details],
        [d.description or d.searchDescription or d.snippet or None for d in details],
        pages(portal.name, "datasets", keys),
        [moment_of_milliseconds(d.modified) for d in details],
    )


def _fits(shape: Shape) -> bool:
    return (
        _are_items(shape, "attributes", "data")
        or _are_items(shape, "attributes")
        or _are_records(shape)
        or _are_items(shape, "properties")
        or bool(_single(shape))
        or ("stats" in shape.objects.get(("meta",), set()) and shape.is_empty("data"))
        or ({"numberMatched", "numberReturned"} <= shape.keys.keys() and shape.is_empty("features"))
    )


def _are_items(shape: Shape, member: str, *path: str) -> bool:
    return "id" in keys_at(shape, *path) and _are_details(keys_in(shape, member, *path))


def _are_records(shape: Shape) -> bool:
    """Whether the features of a document are items, not places: the total may come behind what is examined."""
    is_sure = "numberMatched" in shape.keys or len(_OWN_FIELDS & keys_in(shape, "properties", "features")) > 1
    return is_sure and _are_items(shape, "properties", "features")


def _are_details(keys: set[str]) -> bool:
    is_own = not _OWN_FIELDS.isdisjoint(keys) or len(_FIELDS & keys) > 1
    return is_own and "modified" in keys and not {"title", "name"}.isdisjoint(keys)


def _single(shape: Shape) -> tuple[Path, ...]:
    """The answer to a question for one item of version 3."""
    return () if shape.lines or not _are_details(shape.objects.get(("data", "attributes"), set())) else (("data",),)


_SAMPLE: Final = Sample(
    record=(
        b'{%(identity)b"type": "dataset", "attributes": {"access": "public", "additionalResources": [], '
        b'"categories": ["%(topic)b"], "content": "Feature Service", "created": %(created_seconds)d000, '
        b'"description": "%(text)b", "fields": [%(parts)b], "hubType": "Table", "id": "%(key)b", '
        b'"itemModified": %(updated_seconds)d000, "layer": {"id": 0, "name": "%(name)b"}, "licenseInfo": "CC-BY 4.0", '
        b'"modified": %(updated_seconds)d000, "name": "%(name)b", "numViews": %(views)d, "orgName": "Open Data", '
        b'"owner": "opendata", "searchDescription": null, "slug": "open-data::%(slug)b", "snippet": "", '
        b'"source": "Open Data", "tags": [%(tags)b], "typeKeywords": ["Data", "Service"], "url": '
        b'"https://services.example/arcgis/rest/services/%(slug)b/FeatureServer/0"}, "links": {"self": '
        b'"https://opendata.arcgis.com/api/v3/datasets/%(key)b", "itemPage": "https://www.arcgis.com/home/item.html"}}'
    ),
    part=(
        b'{"name": "%(field)b", "type": "esriFieldTypeString", "alias": "%(name)b", "sqlType": "%(type)b", '
        b'"domain": null, "description": "%(note)b"}'
    ),
    key=b"%(code)032x_0",
    identity=b'"id": "%b", ',
    before=b'{"data": [\n',
    after=b'\n], "meta": {"stats": {"count": %(records)d, "totalCount": %(records)d}}}\n',
    needs_domain=frozenset({"json", "ndjson"}),
    fixed_bytes=956,
)

ARCGIS_HUB: Final = Dialect(
    name="arcgis-hub",
    version=1,
    arrays=dict.fromkeys(_ARRAYS, "asset"),
    provider="arcgis",
    sample=_SAMPLE,
    wire=Item,
    asset=_asset,
    ordinary=Ordinary(_Item, _Keys, _columns, _key_columns),
    mapping={
        "key": "id, that of the item with its layer",
        "source_key": "--domain, the host of the link to itself, of the document or the item, if it is not Esri's own",
        "name": "title, name",
        "description": "description, searchDescription, snippet",
        "url": "https://<domain>/datasets/<id>",
        "updated_at": "modified (milliseconds since 1970)",
    },
    typical=frozenset({"attributes", "links", "meta", "properties", "geometry", "time", "type"}),
    fits=_fits,
    singles=_single,
    portal=lambda header: _site(header.get("links")),
    kept=frozenset({("links",)}),
    keys=frozenset({"attributes", "properties"}),
    totals=(("meta", "stats", "totalCount"), *TOTALS),
)
