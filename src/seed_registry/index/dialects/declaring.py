"""What a dialect declares, and the few tools that their mappings share.

Wire Structs name only the fields that are read, with any value: what a field really holds is judged by `decoding`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import Struct

from seed_registry.index.detecting import Shape

Path = tuple[str, ...]

# Socrata's ids: eight characters of an alphabet without the look-alikes 0, 1, l and o (all of 13,383 real ones).
_SOCRATA_ID: Final = re.compile(r"[2-9a-km-np-z]{4}-[2-9a-km-np-z]{4}")


class Portal(Struct, frozen=True):
    """What is known of an index' portal besides its records: from the document's header, and from `--domain`."""

    header: str = ""
    domain: str = ""


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
        arrays: where records are in a document, and their kind.
        wire: the Struct that a record is decoded to.
        asset, source: from the wire Struct to fields; None for what only looks like a record and is none.
        mapping: what `asset` does, in words, for people: where each field comes from.
        fits: whether a shape looks like this dialect.
        provider: the portal software that an index of this dialect is evidence of.
        lists_sources: whether an index of this dialect lists its sources itself.
        kind_of: for lines, which kind a record is; None where it is neither.
        portal: the portal's host, from the header of a document.
        declared: by array, the header field that tells how many records it holds.
        needs_domain: whether nothing in an index can tell its portal, so that `--domain` has to.
        whole: whether a document may be one record.
    """

    name: str
    version: int
    arrays: Mapping[Path, str]
    wire: type[Struct]
    asset: Callable[[Any, Portal], Fields | None]
    mapping: Mapping[str, str]
    fits: Callable[[Shape], bool]
    provider: str
    source: Callable[[Any], Fields] | None = None
    lists_sources: bool = False
    kind_of: Callable[[Any], str | None] = lambda _: "asset"
    portal: Callable[[Mapping[str, Any]], str] = lambda _: ""
    declared: Mapping[Path, str] = {}
    needs_domain: bool = False
    whole: Callable[[Shape], bool] = lambda _: False


def first(*values: Any) -> Any:
    """The first that is there: an empty string is not."""
    for value in values:
        if value is not None and value != "":
            return value
    return None


def host_of(url: Any) -> str | None:
    """The host of a URL, lower-cased; None of anything else."""
    if not isinstance(url, str):
        return None
    try:
        parts = urlsplit(url.strip())
        host = parts.hostname
    except ValueError:
        return None
    return host if parts.scheme in ("http", "https") else None


def socrata_id(text: Any) -> str | None:
    """The Socrata id that a text is, or that its URL has as a part of its path."""
    if not isinstance(text, str):
        return None
    for part in reversed(re.split(r"[/?#.]", text.strip())):
        if _SOCRATA_ID.fullmatch(part):
            return part
    return None


def page(source: Any, path: str, key: Any) -> str | None:
    """The page of a dataset on its portal, where both are known."""
    if isinstance(source, str) and isinstance(key, str) and source.strip() and key.strip():
        return f"https://{source.strip().lower()}/{path}/{key.strip()}"
    return None


def moment(seconds: Any) -> Any:
    """A number of seconds since 1970 as a datetime; anything else is returned as it is, to be judged."""
    if type(seconds) in (int, float):
        try:
            return datetime.fromtimestamp(seconds, UTC)
        except (ValueError, OverflowError, OSError):
            return str(seconds)
    return seconds


def keys_at(shape: Shape, *path: str) -> set[str]:
    """The keys of the records of an array, or, in lines, of the first record."""
    return set(shape.keys) if shape.lines else shape.arrays.get(path, set())
