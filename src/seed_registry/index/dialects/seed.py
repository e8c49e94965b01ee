"""seed: our own form, `{"sources": […], "assets": […]}` in either order, or lines with a `type`.

It is the one form that describes sources, and so the one that `--domain` would contradict. `seed-registry sample`
writes it; the second names of its fields are for indexes that other programs write.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from msgspec import Struct

from seed_registry.index.dialects.base import Columns, Dialect, Fields, Ordinary, Portal, Sample, first


class SeedRecord(Struct, gc=False):
    """A source or an asset."""

    type: Any = None
    asset_key: Any = None
    id: Any = None
    source_key: Any = None
    domain: Any = None
    name: Any = None
    description: Any = None
    url: Any = None
    permalink: Any = None
    link: Any = None
    updated_at: Any = None
    updatedAt: Any = None  # noqa: N815  # a field of the format
    modified: Any = None


class _Keys(Struct, gc=False):
    """The fields of an ordinary asset."""

    asset_key: str | None = None
    id: str | None = None
    source_key: str | None = None
    domain: str | None = None


class _Asset(_Keys, gc=False):
    """An ordinary asset."""

    name: str | None = None
    description: str | None = None
    url: str | None = None
    permalink: str | None = None
    link: str | None = None
    updated_at: str | None = None
    updatedAt: str | None = None  # noqa: N815  # a field of the format
    modified: str | None = None


class _LineKeys(_Keys, gc=False, kw_only=True):
    """The same in lines, each of which says what it is."""

    type: Literal["asset"]


class _Line(_Asset, gc=False, kw_only=True):
    """The same."""

    type: Literal["asset"]


def _key_columns(records: Sequence[_Keys], _: Portal) -> Columns:
    return [r.asset_key or r.id for r in records], [r.source_key or r.domain for r in records]


def _columns(records: Sequence[_Asset], portal: Portal) -> Columns:
    return (
        *_key_columns(records, portal),
        [r.name for r in records],
        [r.description for r in records],
        [r.url or r.permalink or r.link or None for r in records],
        [r.updated_at or r.updatedAt or r.modified for r in records],
    )


def _asset(record: SeedRecord, _: Portal) -> Fields:
    return Fields(
        first(record.asset_key, record.id),
        first(record.source_key, record.domain),
        record.name,
        record.description,
        first(record.url, record.permalink, record.link),
        first(record.updated_at, record.updatedAt, record.modified),
    )


def _source(record: SeedRecord) -> Fields:
    key = first(record.source_key, record.domain)
    return Fields(key, key, record.name, None, first(record.url, record.permalink, record.link))


_SAMPLE: Final = Sample(
    record=(
        b'{%(identity)b"source_key": "%(domain)b", "name": "%(name)b", "description": "%(text)b", '
        b'"url": "https://%(domain)b/d/%(key)b", "updated_at": "%(updated)b", "created_at": "%(created)b", '
        b'"tags": [%(tags)b], "metadata": {"page_views": %(views)d, "category": "%(topic)b", %(columns)b}}'
    ),
    identity=b'"asset_key": "%b", ',
    sources=b'{"sources": [\n',
    source=(
        b'{"source_key": "%(domain)b", "name": "Open Data Portal %(number)d", "url": "https://%(domain)b", '
        b'"provider": "socrata"}'
    ),
    before=b'\n],\n"assets": [\n',
    after=b"\n]}\n",
    line=b'"type": "%b", ',
    has_portals=True,
    fixed_bytes=455,
)

SEED: Final = Dialect(
    name="seed",
    version=1,
    arrays={("sources",): "source", ("assets",): "asset"},
    provider="socrata",
    is_global=None,  # the operator answers for them: an asset goes to the source that its record names
    sample=_SAMPLE,
    wire=SeedRecord,
    asset=_asset,
    mapping={
        "key": "asset_key, id",
        "source_key": "source_key, domain",
        "name": "name",
        "description": "description",
        "url": "url, permalink, link",
        "updated_at": "updated_at, updatedAt, modified",
    },
    source=_source,
    ordinary=Ordinary(_Asset, _Keys, _columns, _key_columns, _Line, _LineKeys),
    lists_sources=True,
    refuses_domain="it lists its sources itself, and each asset names one",
    is_paged=False,  # sources come before or after their assets, but in one document
    keys=frozenset({"asset_key", "id"}),
    kind_of=lambda record: record.type if record.type in ("source", "asset") else None,
    typical=frozenset({"type", "asset_key", "source_key", "name", "description", "url", "updated_at"}),
    fits=lambda shape: (
        shape.keys.get("type") in ("source", "asset")
        if shape.lines
        else any(shape.keys.get(name) == "array" for name in ("sources", "assets"))
    ),
)
