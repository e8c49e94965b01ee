"""dataverse: datasets in answers of Dataverse's search API (https://guides.dataverse.org/en/latest/api/search.html).

Read with the guide's answers of demo.dataverse.org (versions 4 to 6) and a harvested record of the Texas Data
Repository. What they taught: unless one type is asked for, collections ("dataverse") and files come among the datasets,
and `total_count` counts all three: those are read, and are no assets. The `url` of a dataset is that of its DOI or
handle and names no portal; one of a portal with persistent ids of its own, or an `image_url` of version 4, does.
`published_at` is that of the latest release; a draft has none, only `updatedAt`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from msgspec import Struct

from seed_registry.index.dialects.base import (
    RESOLVERS,
    TOTALS,
    Columns,
    Dialect,
    Fields,
    Ordinary,
    Portal,
    Sample,
    first,
    host_of,
    hosts_of,
    keys_at,
)
from seed_registry.index.json_envelope import Path
from seed_registry.index.shape import Shape


class Item(Struct, gc=False):
    """The fields that are read of an item."""

    type: Any = None
    global_id: Any = None
    name: Any = None
    description: Any = None
    url: Any = None
    image_url: Any = None
    published_at: Any = None
    updatedAt: Any = None  # noqa: N815  # a field of the format


class _Keys(Struct, gc=False):
    """The fields of an ordinary dataset for its key and its source."""

    type: Literal["dataset"]
    global_id: str
    url: str | None = None
    image_url: str | None = None


class _Dataset(_Keys, gc=False):
    """An ordinary dataset."""

    name: str | None = None
    description: str | None = None
    published_at: str | None = None
    updatedAt: str | None = None  # noqa: N815  # a field of the format


_PATHS: Final[tuple[Path, ...]] = (("data", "items"), ())
_OTHER_TYPES: Final = ("dataverse", "file")


def _asset(item: Item, portal: Portal) -> Fields | None:
    if item.type in _OTHER_TYPES:
        return None
    return Fields(
        item.global_id,
        portal.name or _portals(host_of(item.url)) or host_of(item.image_url),
        item.name,
        item.description,
        item.url,
        first(item.published_at, item.updatedAt),
    )


def _portals(host: str | None) -> str | None:
    return None if host in RESOLVERS else host


def _key_columns(items: Sequence[_Keys], portal: Portal) -> Columns:
    keys = [item.global_id for item in items]
    if source := portal.name:
        return keys, [source] * len(keys)
    return keys, [
        _portals(host) or other
        for host, other in zip(
            hosts_of([item.url or "" for item in items]),
            hosts_of([item.image_url or "" for item in items]),
            strict=True,
        )
    ]


def _columns(items: Sequence[_Dataset], portal: Portal) -> Columns:
    return (
        *_key_columns(items, portal),
        [item.name for item in items],
        [item.description for item in items],
        [item.url for item in items],
        [item.published_at or item.updatedAt for item in items],
    )


def _fits(shape: Shape) -> bool:
    return any(_is_item(keys_at(shape, *path)) for path in _PATHS) or (
        "total_count" in shape.objects.get(("data",), set()) and shape.is_empty("data", "items")
    )


def _is_item(keys: set[str]) -> bool:
    return {"name", "type", "url"} <= keys and not keys.isdisjoint({"global_id", "file_id", "published_at"})


_SAMPLE: Final = Sample(
    record=(
        b'{"name": "%(name)b", "type": "dataset", "url": "https://doi.org/10.70122/FK2/%(slug)b", '
        b'%(identity)b"description": "%(text)b", "published_at": "%(updated)b", "publisher": "Open Data", '
        b'"citationHtml": "Open Data, %(name)b", "identifier_of_dataverse": "open-data", '
        b'"name_of_dataverse": "Open Data", "citation": "Open Data, %(name)b, V1", "storageIdentifier": '
        b'"file://10.70122/FK2/%(slug)b", "keywords": [%(tags)b], "subjects": ["%(topic)b"], "fileCount": %(views)d, '
        b'"versionId": 1, "versionState": "RELEASED", "majorVersion": 1, "minorVersion": 0, '
        b'"createdAt": "%(created)b", "updatedAt": "%(updated)b", "contacts": [%(parts)b], "authors": ["Open Data"]}'
    ),
    part=b'{"name": "%(name)b", "affiliation": "%(note)b", "role": "%(type)b", "handle": "%(field)b"}',
    key=b"doi:10.70122/FK2/%(id)b",
    identity=b'"global_id": "%b", ',
    before=b'{"status": "OK", "data": {"q": "*", "total_count": %(records)d, "start": 0, "items": [\n',
    after=b'\n], "count_in_response": %(records)d}}\n',
    needs_domain=frozenset({"json", "ndjson"}),
    fixed_bytes=771,
)

DATAVERSE: Final = Dialect(
    name="dataverse",
    version=1,
    arrays=dict.fromkeys(_PATHS, "asset"),
    provider="dataverse",
    sample=_SAMPLE,
    wire=Item,
    asset=_asset,
    ordinary=Ordinary(_Dataset, _Keys, _columns, _key_columns),
    mapping={
        "key": "global_id",
        "source_key": "--domain, the host of url, if that is no resolver of DOIs or handles, of image_url",
        "name": "name",
        "description": "description",
        "url": "url",
        "updated_at": "published_at, updatedAt",
    },
    typical=frozenset(
        {
            "name",
            "type",
            "url",
            "global_id",
            "description",
            "published_at",
            "publisher",
            "citation",
            "citationHtml",
            "identifier_of_dataverse",
            "name_of_dataverse",
            "storageIdentifier",
            "fileCount",
            "versionId",
            "versionState",
        }
    ),
    fits=_fits,
    keys=frozenset({"global_id"}),
    totals=(("data", "total_count"), *TOTALS),
)
