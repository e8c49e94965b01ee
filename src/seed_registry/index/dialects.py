"""Dialects: the shapes of index files that are known, each with its detection and its mapping.

The field tables stand in README; the formats are those of Socrata's own exports and of its Discovery API
(https://dev.socrata.com/docs/other/discovery). Wire Structs name only the fields that are read, with any value: what
a field really holds is judged by `decoding`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from seed_registry.errors import IndexNotUnderstood
from seed_registry.escaping import printable
from seed_registry.index.detecting import Shape
from seed_registry.settings import Settings

Path = tuple[str, ...]
# Enough to recognise a format by.
_KEYS_SHOWN = 12


class Fields(Struct, frozen=True, gc=False):
    """What a dialect finds in a record, not judged yet."""

    key: Any
    source_key: Any
    name: Any = None
    description: Any = None
    url: Any = None
    date: Any = None


class Dialect(Struct, frozen=True):
    """One known shape.

    Attributes:
        version: goes into every content hash: raise it when the mapping changes, and a reload rewrites what it must.
        lists_sources: whether an index of this dialect lists its sources itself.
        arrays: where records are in a document, and their kind.
        wire: the Struct that a record is decoded to.
        asset, source: from the wire Struct (and the document's domain) to fields.
        kind_of: for lines, which kind a record is; None where it is neither.
        declared: by array, the header field that tells how many records it holds.
        fits: whether a shape looks like this dialect.
    """

    name: str
    version: int
    lists_sources: bool
    arrays: Mapping[Path, str]
    wire: type[Struct]
    asset: Callable[[Any, str], Fields]
    fits: Callable[[Shape], bool]
    source: Callable[[Any], Fields] | None = None
    kind_of: Callable[[Any], str | None] = lambda _: "asset"
    declared: Mapping[Path, str] = {}
    provider: str = "socrata"


# seed: our own form, {"sources": […], "assets": […]} or lines with a type


class SeedRecord(Struct, gc=False):
    """A source or an asset of the seed dialect."""

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


def _seed_asset(record: SeedRecord, domain: str) -> Fields:
    return Fields(
        _first(record.asset_key, record.id),
        _first(record.source_key, record.domain, domain),
        record.name,
        record.description,
        _first(record.url, record.permalink, record.link),
        _first(record.updated_at, record.updatedAt, record.modified),
    )


def _seed_source(record: SeedRecord) -> Fields:
    key = _first(record.source_key, record.domain)
    return Fields(key, key, record.name, None, _first(record.url, record.permalink, record.link))


SEED = Dialect(
    name="seed",
    version=1,
    lists_sources=True,
    arrays={("sources",): "source", ("assets",): "asset"},
    wire=SeedRecord,
    asset=_seed_asset,
    source=_seed_source,
    kind_of=lambda record: record.type if record.type in ("source", "asset") else None,
    fits=lambda shape: (
        shape.keys.get("type") in ("source", "asset")
        if shape.lines
        else any(shape.keys.get(name) == "array" for name in ("sources", "assets"))
    ),
)


# directory: {"source": "socrata", "domain": …, "datasets": […]}, also "kept", or the bare array


class DirectoryRecord(Struct, gc=False):
    """A dataset of a portal's directory."""

    id: Any = None
    domain: Any = None
    name: Any = None
    description: Any = None
    permalink: Any = None
    resource_url: Any = None
    updatedAt: Any = None  # noqa: N815  # a field of the format


def _directory_asset(record: DirectoryRecord, domain: str) -> Fields:
    source = _first(record.domain, domain) or _host(record.permalink) or _host(record.resource_url)
    url = record.permalink or (f"https://{source}/d/{record.id}" if isinstance(source, str) and record.id else None)
    return Fields(record.id, source, record.name, record.description, url, record.updatedAt)


DIRECTORY = Dialect(
    name="directory",
    version=1,
    lists_sources=False,
    arrays={("datasets",): "asset", ("kept",): "asset", (): "asset"},
    wire=DirectoryRecord,
    asset=_directory_asset,
    declared={("datasets",): "totalCount", ("kept",): "keptCount"},
    fits=lambda shape: (
        not shape.lines
        and (
            any(shape.keys.get(name) == "array" for name in ("datasets", "kept"))
            or shape.arrays.get(()) == set()
            or (
                "id" in shape.arrays.get((), ())
                and not {"permalink", "resource_url", "domain"}.isdisjoint(shape.arrays[()])
            )
        )
    ),
)


# discovery: pages of the Discovery API, {"results": [{"resource": …, "metadata": …}]}, the bare array, or lines


class DiscoveryResource(Struct, gc=False):
    """The `resource` of a result."""

    id: Any = None
    name: Any = None
    description: Any = None
    updatedAt: Any = None  # noqa: N815  # a field of the format
    data_updated_at: Any = None


class DiscoveryMetadata(Struct, gc=False):
    """The `metadata` of a result."""

    domain: Any = None


class DiscoveryResult(Struct, gc=False):
    """One result of the Discovery API."""

    resource: DiscoveryResource | None = None
    metadata: DiscoveryMetadata | None = None
    permalink: Any = None


_NO_RESOURCE = DiscoveryResource()


def _discovery_asset(result: DiscoveryResult, domain: str) -> Fields:
    resource = result.resource or _NO_RESOURCE
    return Fields(
        resource.id,
        _first(result.metadata and result.metadata.domain, domain),
        resource.name,
        resource.description,
        result.permalink,
        _first(resource.updatedAt, resource.data_updated_at),
    )


DISCOVERY = Dialect(
    name="discovery",
    version=1,
    lists_sources=False,
    arrays={("results",): "asset", (): "asset"},
    wire=DiscoveryResult,
    asset=_discovery_asset,
    fits=lambda shape: (
        shape.keys.get("resource") == "object"
        if shape.lines
        else "resource" in shape.arrays.get((), ())
        or (
            (shape.keys.get("results") == "array" and shape.arrays[("results",)] in (set(), {"resource"}))
            or "resource" in shape.arrays.get(("results",), ())
        )
    ),
)

DIALECTS = {dialect.name: dialect for dialect in (SEED, DISCOVERY, DIRECTORY)}


def choose(shape: Shape, settings: Settings, name: str) -> tuple[Dialect, bool]:
    """The dialect that the settings name, or the one that fits the shape; and whether the index is lines.

    Raises:
        IndexNotUnderstood: none fits; the message names what was seen and how to point it.
    """
    if settings.records_at is not None:
        elements = shape.arrays.get(tuple(settings.records_at.split(".")), set())
        shape = Shape(lines=False, arrays={(): elements})
    known = [DIALECTS[settings.dialect]] if settings.dialect else list(DIALECTS.values())
    ways = [shape, replace(shape, lines=True)] if shape.single else [shape]
    for way in ways:
        for dialect in known:
            if dialect.fits(way):
                return dialect, way.lines
    if settings.dialect:
        return known[0], shape.lines
    raise IndexNotUnderstood(
        f"{name} is {_described(shape)}\nname its dialect with --dialect {'|'.join(DIALECTS)}, "
        "or the path of its records with --records-at"
    )


def _described(shape: Shape) -> str:
    seen = _listed(shape.keys)
    if shape.lines:
        return f"NDJSON of a shape that no dialect knows; its first record has {seen}"
    arrays = "; ".join(
        f"{'.'.join(path) or 'the array'} of {_listed(keys)}" for path, keys in shape.arrays.items() if keys
    )
    return f"a document of a shape that no dialect knows; it has {seen}; {printable(arrays or 'no array of objects')}"


def _listed(keys: Iterable[str]) -> str:
    names = sorted(keys)
    more = f" and {len(names) - _KEYS_SHOWN} more" if len(names) > _KEYS_SHOWN else ""
    return printable(", ".join(names[:_KEYS_SHOWN]) + more) if names else "no keys"


def _first(*values: Any) -> Any:
    """The first that is there: an empty string is not."""
    for value in values:
        if value is not None and value != "":
            return value
    return None


def _host(url: Any) -> str | None:
    if not isinstance(url, str):
        return None
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
