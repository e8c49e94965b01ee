"""udata: datasets of udata's API, versions 1 and 2: pages, arrays, lines (https://doc.data.gouv.fr/api/reference/).

Fields and their meaning are those of github.com/opendatateam/udata (udata/core/dataset/apiv2.py), read with real
records of data.gouv.fr (2024). What they taught: version 2 has a link in place of the resources. `last_modified` is the
date of the dataset, its description included; `last_update`, which newer versions add, that of its files. `page` may be
null, and `uri` still names the portal. Ids are MongoDB's, of 24 hexadecimal digits.
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
    hosts_of,
    keys_at,
)
from seed_registry.index.json_envelope import Path
from seed_registry.index.shape import Shape


class Dataset(Struct, gc=False):
    """The fields that are read of a dataset."""

    id: Any = None
    title: Any = None
    description: Any = None
    page: Any = None
    uri: Any = None
    last_modified: Any = None
    last_update: Any = None
    attributes: Any = None


class _Keys(Struct, gc=False):
    """The fields of an ordinary dataset for its key and its source."""

    id: str
    page: str | None = None
    uri: str | None = None
    attributes: None = None


class _Dataset(_Keys, gc=False):
    """An ordinary dataset."""

    title: str | None = None
    description: str | None = None
    last_modified: str | None = None
    last_update: str | None = None


_PATHS: Final[tuple[Path, ...]] = (("data",), ())


def _asset(dataset: Dataset, portal: Portal) -> Fields:
    return Fields(
        dataset.id if dataset.attributes is None else None,  # JSON:API's `data` is alike, but for the fields inside it
        portal.name or first(host_of(dataset.page), host_of(dataset.uri)),
        dataset.title,
        dataset.description,
        dataset.page,
        first(dataset.last_modified, dataset.last_update),
    )


def _key_columns(datasets: Sequence[_Keys], portal: Portal) -> Columns:
    keys = [dataset.id for dataset in datasets]
    if source := portal.name:
        return keys, [source] * len(keys)
    return keys, hosts_of([dataset.page or dataset.uri or "" for dataset in datasets])


def _columns(datasets: Sequence[_Dataset], portal: Portal) -> Columns:
    return (
        *_key_columns(datasets, portal),
        [dataset.title for dataset in datasets],
        [dataset.description for dataset in datasets],
        [dataset.page for dataset in datasets],
        [dataset.last_modified or dataset.last_update for dataset in datasets],
    )


def _fits(shape: Shape) -> bool:
    return any(_is_dataset(keys_at(shape, *path)) for path in _PATHS) or (
        "next_page" in shape.keys and shape.is_empty("data")
    )


def _is_dataset(keys: set[str]) -> bool:
    """Whether it is a dataset: organizations, reuses and other things of the API have no resources and no frequency."""
    return (
        {"id", "title"} <= keys
        and not keys.isdisjoint({"resources", "frequency"})
        and not keys.isdisjoint({"uri", "page", "slug"})
        and not keys.isdisjoint({"last_modified", "last_update", "created_at"})
    )


_SAMPLE: Final = Sample(
    record=(
        b'{%(identity)b"title": "%(name)b", "acronym": null, "slug": "%(slug)b-%(key)b", "description": "%(text)b", '
        b'"created_at": "%(created)b", "last_modified": "%(updated)b", "last_update": "%(updated)b", '
        b'"deleted": null, "private": false, "featured": false, "frequency": "monthly", "license": "lov2", '
        b'"badges": [], "extras": {}, "metrics": {"views": %(views)d}, "tags": [%(tags)b], "resources": [%(parts)b], '
        b'"organization": {"class": "Organization", "name": "Open Data", "slug": "open-data"}, "owner": null, '
        b'"spatial": null, "temporal_coverage": null, "uri": "https://%(domain)b/api/1/datasets/%(key)b/", '
        b'"page": "https://%(domain)b/datasets/%(slug)b-%(key)b/"}'
    ),
    part=(
        b'{"title": "%(name)b", "description": "%(note)b", "filetype": "file", "type": "main", "format": "csv", '
        b'"mime": "%(type)b", "url": "https://files.example/%(field)b.csv"}'
    ),
    key=b"%(code)024x",
    identity=b'"id": "%b", ',
    before=b'{"data": [\n',
    after=b'\n], "next_page": null, "page": 1, "page_size": %(records)d, "total": %(records)d}\n',
    fixed_bytes=788,
)

UDATA: Final = Dialect(
    name="udata",
    version=1,
    arrays=dict.fromkeys(_PATHS, "asset"),
    provider="udata",
    sample=_SAMPLE,
    wire=Dataset,
    asset=_asset,
    ordinary=Ordinary(_Dataset, _Keys, _columns, _key_columns),
    mapping={
        "key": "id",
        "source_key": "--domain, the host of page, of uri",
        "name": "title",
        "description": "description",
        "url": "page",
        "updated_at": "last_modified, last_update",
    },
    typical=frozenset(
        {
            "id",
            "title",
            "slug",
            "description",
            "created_at",
            "last_modified",
            "last_update",
            "frequency",
            "organization",
            "owner",
            "resources",
            "spatial",
            "temporal_coverage",
            "uri",
            "page",
        }
    ),
    fits=_fits,
    totals=(("total",), *TOTALS),
)
