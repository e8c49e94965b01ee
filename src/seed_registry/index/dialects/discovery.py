"""discovery: Socrata's Discovery API (https://dev.socrata.com/docs/other/discovery): pages, bare arrays, lines.

One catalogue of all portals: each result names its own in `metadata.domain` (273 of them among 13,383 real results), so
`--domain` would take them for one. An id is the same in every portal that lists a dataset; real catalogues repeat some.
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
    keys_at,
)
from seed_registry.index.shape import Shape


class Resource(Struct, gc=False):
    """The `resource` of a result."""

    id: Any = None
    name: Any = None
    description: Any = None
    updatedAt: Any = None  # noqa: N815  # a field of the format
    data_updated_at: Any = None


class Metadata(Struct, gc=False):
    """The `metadata` of a result."""

    domain: Any = None


class Result(Struct, gc=False):
    """One result."""

    resource: Resource | None = None
    metadata: Metadata | None = None
    permalink: Any = None


class _Metadata(Struct, gc=False):
    """The metadata of an ordinary result."""

    domain: str


class _ResourceKeys(Struct, gc=False):
    """The fields of an ordinary resource."""

    id: str


class _Resource(_ResourceKeys, gc=False):
    """An ordinary resource."""

    name: str | None = None
    description: str | None = None
    updatedAt: str | None = None  # noqa: N815  # a field of the format
    data_updated_at: str | None = None


class _Keys(Struct, gc=False):
    """The fields of an ordinary result."""

    resource: _ResourceKeys
    metadata: _Metadata


class _Result(Struct, gc=False):
    """An ordinary result."""

    resource: _Resource
    metadata: _Metadata
    permalink: str | None = None


def _key_columns(results: Sequence[_Keys | _Result], _: Portal) -> Columns:
    return [r.resource.id for r in results], [r.metadata.domain for r in results]


def _columns(results: Sequence[_Result], portal: Portal) -> Columns:
    resources = [r.resource for r in results]
    return (
        *_key_columns(results, portal),
        [r.name for r in resources],
        [r.description for r in resources],
        [r.permalink for r in results],
        [r.updatedAt or r.data_updated_at for r in resources],
    )


_NO_RESOURCE: Final = Resource()
# What answers of other portals without results call their total.
_OTHER_TOTALS: Final = frozenset({"total_count", "count"})


def _asset(result: Result, _: Portal) -> Fields:
    resource = result.resource or _NO_RESOURCE
    return Fields(
        resource.id,
        result.metadata.domain if result.metadata else None,
        resource.name,
        resource.description,
        result.permalink,
        first(resource.updatedAt, resource.data_updated_at),
    )


def _fits(shape: Shape) -> bool:
    if shape.lines:
        return shape.keys.get("resource") == "object"
    return any("resource" in keys_at(shape, *path) for path in ((), ("results",))) or (
        shape.keys.get("results") == "array" and shape.is_empty("results") and _OTHER_TOTALS.isdisjoint(shape.keys)
    )


_SAMPLE: Final = Sample(
    record=(
        b'{"resource": {"name": "%(name)b", %(identity)b"parent_fxf": [], "description": "%(text)b", '
        b'"attribution": null, "contact_email": null, "type": "dataset", "updatedAt": "%(updated)b", '
        b'"createdAt": "%(created)b", "metadata_updated_at": "%(updated)b", "data_updated_at": "%(updated)b", '
        b'"page_views": {"page_views_total": %(views)d, "page_views_total_log": 15.241573573460181}, '
        b'%(columns)b, "provenance": "official", "lens_view_type": "tabular", "blob_mime_type": null, '
        b'"hide_from_data_json": false}, "classification": {"categories": [], "tags": [], '
        b'"domain_category": "%(topic)b", "domain_tags": [%(tags)b], '
        b'"domain_metadata": [{"key": "Refresh_Frequency", "value": "Monthly"}]}, '
        b'"metadata": {"domain": "%(domain)b"}, "permalink": "https://%(domain)b/d/%(key)b", '
        b'"link": "https://%(domain)b/Open-Data/%(slug)b/%(key)b", '
        b'"owner": {"id": "wuc5-gu64", "user_type": "interactive", "display_name": "Open Data"}}'
    ),
    identity=b'"id": "%b", ',
    before=b'{"results": [\n',
    after=b'\n], "resultSetSize": %(records)d, "timings": {"serviceMillis": 42, "searchMillis": [5, 10]}}\n',
    has_portals=True,
    fixed_bytes=1110,
)

DISCOVERY: Final = Dialect(
    name="discovery",
    version=1,
    arrays={("results",): "asset", (): "asset"},
    provider="socrata",
    is_global=None,  # Socrata's ids
    sample=_SAMPLE,
    wire=Result,
    asset=_asset,
    ordinary=Ordinary(_Result, _Keys, _columns, _key_columns),
    mapping={
        "key": "resource.id",
        "source_key": "metadata.domain",
        "name": "resource.name",
        "description": "resource.description",
        "url": "permalink",
        "updated_at": "resource.updatedAt, resource.data_updated_at",
    },
    typical=frozenset({"resource", "classification", "metadata", "permalink", "link", "owner", "creator"}),
    fits=_fits,
    refuses_domain="each of its records names its own portal, and they may name several",
    keys=frozenset({"resource"}),
    totals=(("resultSetSize",), *TOTALS),
)
