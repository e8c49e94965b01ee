"""directory: a Socrata portal's own list, `{"source": "socrata", "domain": …, "datasets": […]}`, or the bare array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from seed_registry.index.detecting import Shape
from seed_registry.index.dialects.declaring import Dialect, Fields, Portal, first, host_of, page


class DirectoryRecord(Struct, gc=False):
    """A dataset of a portal's directory."""

    id: Any = None
    domain: Any = None
    name: Any = None
    description: Any = None
    permalink: Any = None
    resource_url: Any = None
    updatedAt: Any = None  # noqa: N815  # a field of the format


def _asset(record: DirectoryRecord, portal: Portal) -> Fields:
    source = first(record.domain, portal.header, host_of(record.permalink), host_of(record.resource_url), portal.domain)
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
        any(shape.keys.get(name) == "array" for name in ("datasets", "kept"))
        or elements == set()  # an empty index is one
        or (elements is not None and "id" in elements and bool({"permalink", "resource_url", "domain"} & elements))
    )


DIRECTORY: Final = Dialect(
    name="directory",
    version=1,
    arrays={("datasets",): "asset", ("kept",): "asset", (): "asset"},
    provider="socrata",
    wire=DirectoryRecord,
    asset=_asset,
    mapping={
        "key": "id",
        "source_key": "domain, the header's domain, the host of permalink or resource_url, --domain",
        "name": "name",
        "description": "description",
        "url": "permalink, https://<domain>/d/<id>",
        "updated_at": "updatedAt",
    },
    fits=_fits,
    portal=_portal,
    declared={("datasets",): "totalCount", ("kept",): "keptCount"},
)
