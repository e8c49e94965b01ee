"""directory: a Socrata portal's own list, `{"source": "socrata", "domain": …, "datasets": […]}`, or the bare array.

The form is that of the projects which keep such lists (github.com/ByronCiviCue/CiviCue); they call the array `kept`
after a selection. Records of newer lists name their `domain` each, as those of several portals put together do; those
of the oldest, a bare array, have a `resource_url` for a `permalink` and no dates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    is_catalog,
    keys_at,
    page,
)
from seed_registry.index.shape import Shape


class DirectoryRecord(Struct, gc=False):
    """A dataset of a portal's directory."""

    id: Any = None
    domain: Any = None
    name: Any = None
    description: Any = None
    permalink: Any = None
    resource_url: Any = None
    updatedAt: Any = None  # noqa: N815  # a field of the format


class _Keys(Struct, gc=False):
    """The fields of an ordinary dataset."""

    id: str
    domain: str | None = None


class _Dataset(_Keys, gc=False):
    """An ordinary dataset."""

    name: str | None = None
    description: str | None = None
    permalink: str | None = None
    updatedAt: str | None = None  # noqa: N815  # a field of the format


# What records of other portals in an array of this name have, and what these call their total.
_OF_OTHERS: Final = frozenset({"identifier", "accessLevel", "metadata_modified", "dataset", "datasetid", "dataset_id"})
_TOTALS_OF_OTHERS: Final = frozenset({"nhits", "total_count"})


def _key_columns(records: Sequence[_Keys], portal: Portal) -> Columns:
    # Without a domain and a known portal, the URL has to name it: such a record is not ordinary.
    return [r.id for r in records], [r.domain or portal.name for r in records]


def _columns(records: Sequence[_Dataset], portal: Portal) -> Columns:
    keys, sources = _key_columns(records, portal)
    return (
        keys,
        sources,
        [r.name for r in records],
        [r.description for r in records],
        [r.permalink or page(source, "d", r.id) for r, source in zip(records, sources, strict=True)],
        [r.updatedAt for r in records],
    )


def _asset(record: DirectoryRecord, portal: Portal) -> Fields:
    # A domain of the record's own is no hint: it alone distinguishes the portals of a list of several.
    source = first(record.domain, portal.name, host_of(record.permalink), host_of(record.resource_url))
    url = first(record.permalink, page(source, "d", record.id))
    return Fields(record.id, source, record.name, record.description, url, record.updatedAt)


def _portal(header: Mapping[str, Any]) -> str:
    domain = header.get("domain")
    return domain if isinstance(domain, str) else ""


def _fits(shape: Shape) -> bool:
    if shape.lines:
        return False
    elements = shape.arrays.get(())
    return (
        any(shape.keys.get(name) == "array" and _is_own(shape, name) for name in ("datasets", "kept"))
        or shape.is_empty()  # an empty index is one
        or (elements is not None and "id" in elements and bool({"permalink", "resource_url", "domain"} & elements))
    )


def _is_own(shape: Shape, name: str) -> bool:
    """Whether an array of this name has no records of another dialect: the name alone is weak evidence."""
    elements = shape.arrays.get((name,), set())
    is_other = is_catalog(shape) or not _OF_OTHERS.isdisjoint(elements) or not _TOTALS_OF_OTHERS.isdisjoint(shape.keys)
    return not is_other or not elements.isdisjoint({"permalink", "resource_url", "updatedAt"})


def _names_portals(shape: Shape) -> bool:
    return any("domain" in keys_at(shape, *path) for path in ((), ("datasets",), ("kept",)))


_SAMPLE: Final = Sample(
    record=(
        b'{%(identity)b"name": "%(name)b", "type": "tabular", "domain": "%(domain)b", '
        b'"permalink": "https://%(domain)b/d/%(key)b", "createdAt": "%(created)b", "updatedAt": "%(updated)b", '
        b'"tags": [%(tags)b], "categories": ["%(topic)b"], "owner": "OpenData", "license": null, '
        b'"retention": {"normalizedSince": "2023-09-08", "normalizedUntil": "2025-09-08", "filter": "updatedAt"}}'
    ),
    identity=b'"id": "%b", ',
    before=(
        b'{"schemaVersion": 1, "source": "socrata", "domain": "%(domain)b", '
        b'"generatedAt": "2025-09-08T07:15:49.311Z", "retention": {"since": "2023-09-08", "until": "2025-09-08"}, '
        b'"totalCount": %(records)d, "datasets": [\n'
    ),
    after=b"\n]}\n",
    has_lines=False,
    has_portals=True,
    fixed_bytes=437,
)

DIRECTORY: Final = Dialect(
    name="directory",
    version=1,
    arrays={("datasets",): "asset", ("kept",): "asset", (): "asset"},
    provider="socrata",
    is_global=None,  # Socrata's ids
    sample=_SAMPLE,
    wire=DirectoryRecord,
    asset=_asset,
    ordinary=Ordinary(_Dataset, _Keys, _columns, _key_columns),
    mapping={
        "key": "id",
        "source_key": "domain, --domain, the header's domain, the host of permalink or resource_url",
        "name": "name",
        "description": "description",
        "url": "permalink, https://<domain>/d/<id>",
        "updated_at": "updatedAt",
    },
    typical=frozenset({"id", "domain", "name", "permalink", "resource_url", "link", "updatedAt"}),
    fits=_fits,
    portal=_portal,
    declared={("datasets",): "totalCount", ("kept",): "keptCount"},
    names_portals=_names_portals,
    totals=tuple(path for path in TOTALS if path != ("totalCount",)),
)
