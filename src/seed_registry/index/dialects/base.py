"""What a dialect declares, and the few tools that their mappings share.

Wire Structs name only the fields that are read, with any value: what a field really holds is judged by `decoding`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import Struct

from seed_registry.index.dialects.global_keys import is_global
from seed_registry.index.json_envelope import Layout, Path
from seed_registry.index.sniff import Shape

# Socrata's ids: eight characters of an alphabet without the look-alikes 0, 1, l and o (all of 13,383 real ones).
_ID: Final = "[2-9a-km-np-z]{4}-[2-9a-km-np-z]{4}"
_SOCRATA_ID: Final = re.compile(_ID)
# Where Socrata's own URLs have the id (https://dev.socrata.com/docs/endpoints.html): a page of the dataset, whatever is
# asked of the page; the metadata or the rows, but not with a query, which chooses some of them.
_SOCRATA_URL: Final = re.compile(
    rf"(?i:https?)://(?P<host>[^/?#@:\s]+)(?::(?:80|443))?/(?:"
    rf"d/(?P<page>{_ID})(?:/(?:about|about_data|data|data_preview|explore)?)?(?:[?#].*)?|"
    rf"(?:api/views|resource)/(?P<data>{_ID})(?:/|\.[a-z]+|/rows\.[a-z]+)?)"
)
# What stands for the portal in a header while the question is whether a record depends on it.
UNREAD_HEADER: Final = "?"
# What the total of a server's answer is called by portals of several kinds, and by Hydra's and OGC's collections.
TOTALS: Final[tuple[Path, ...]] = (
    ("total_count",),
    ("totalCount",),
    ("totalItems",),
    ("hydra:totalItems",),
    ("numberMatched",),
    ("meta", "stats", "totalCount"),
    ("meta", "total"),
    ("meta", "count"),
)


class Portal(Struct, frozen=True):
    """What is known of an index' portal besides its records: from the document's header, and from `--domain`."""

    header: str = ""
    domain: str = ""

    @property
    def name(self) -> str:
        """What was told goes before what the document says; empty where nothing is known."""
        return self.domain or self.header

    def has(self, host: str) -> bool:
        """Whether this lower-cased host is the portal's own; an unread header may name any."""
        return host == self.domain.lower() or self.header in (host, UNREAD_HEADER)


class Fields(Struct, frozen=True, gc=False):
    """What a dialect finds in a record, not judged yet."""

    key: Any
    source_key: Any
    name: Any = None
    description: Any = None
    url: Any = None
    date: Any = None


_NO_FIELDS: Final = Fields(None, None)
_ALL_FIELDS: Final = attrgetter("key", "source_key", "name", "description", "url", "date")


# By columns: keys and source keys; or these, names, descriptions, URLs and dates.
Columns = tuple[Sequence[Any], ...]


class Ordinary(Struct, frozen=True):
    """How the ordinary assets of a dialect are decoded, many at a time.

    What a Struct refuses here, and what has no key or source in these columns, is decoded by itself with the dialect's
    own; columns must have what that gives.

    Attributes:
        wire: a Struct with the exact types of an ordinary asset.
        keys: the same with what is needed for its key and its source only.
        columns, key_columns: from such Structs to columns.
        line, line_keys: `wire` and `keys` of lines, where these are others.
    """

    wire: type[Struct]
    keys: type[Struct]
    columns: Callable[[list[Any], Portal], Columns]
    key_columns: Callable[[list[Any], Portal], Columns]
    line: type[Struct] | None = None
    line_keys: type[Struct] | None = None


def by_record(asset: Callable[[Any, Portal], Fields | None]) -> Callable[[list[Any], Portal], Columns]:
    """All columns, from a function of one record."""

    def columns(wires: list[Any], portal: Portal) -> Columns:
        found = [asset(wire, portal) or _NO_FIELDS for wire in wires]
        return tuple(zip(*map(_ALL_FIELDS, found), strict=True))

    return columns


class Dialect(Struct, frozen=True):
    """One known shape.

    Attributes:
        version: goes into every content hash: raise it when the mapping changes, and a reload rewrites what it must.
        arrays, nested, links: where records are in a document, as in `Layout`.
        inner: where a record may hold records of its own, and the text by which such a record is told.
        singles: where this document may have one record instead of an array of them.
        is_paged: whether several documents may follow one another in an index.
        keys: the fields that may hold a record's key; what has one of them and another of `wire` looks like a record.
        wire: the Struct that a record is decoded to.
        is_global: whether a key is none that another portal may give to something else; None where no key is.
        asset, source: from the wire Struct to fields; None for what only looks like a record and is none.
        mapping: what `asset` does, in words, for people: where each field comes from.
        fits: whether a shape looks like this dialect.
        provider: the portal software that an index of this dialect is evidence of.
        lists_sources: whether an index of this dialect lists its sources itself.
        kind_of: for lines, which kind a record is; None where it is neither.
        portal: the portal's host, from the header of a document.
        declared: by array, the header field that tells how many records it holds.
        totals: where the header may tell how many records the portal has for the question that was asked.
        needs_domain: whether nothing in an index can tell its portal, so that `--domain` has to.
        refuses_domain: why `--domain` cannot be used, if it cannot.
        names_portals: whether the records of this shape name their portal themselves, which `--domain` leaves alone.
        former_key: the key that an earlier version gave a record; None where it is the same.
        ordinary: how ordinary assets are decoded many at a time; None where each is decoded by itself.
    """

    name: str
    version: int
    arrays: Mapping[Path, str]
    wire: type[Struct]
    asset: Callable[[Any, Portal], Fields | None]
    mapping: Mapping[str, str]
    fits: Callable[[Shape], bool]
    provider: str
    is_global: Callable[[str], bool] | None = is_global
    source: Callable[[Any], Fields] | None = None
    lists_sources: bool = False
    kind_of: Callable[[Any], str | None] = lambda _: "asset"
    portal: Callable[[Mapping[str, Any]], str] = lambda _: ""
    declared: Mapping[Path, str] = {}
    needs_domain: bool = False
    refuses_domain: str = ""
    names_portals: Callable[[Shape], bool] = lambda _: False
    former_key: Callable[[Any], str | None] | None = None
    nested: Mapping[Path, Path] = {}
    links: frozenset[Path] = frozenset()
    inner: tuple[bytes, Layout] | None = None
    singles: Callable[[Shape], Iterable[Path]] = lambda _: ()
    is_paged: bool = True
    keys: frozenset[str] = frozenset({"id"})
    totals: tuple[Path, ...] = TOTALS
    ordinary: Ordinary | None = None


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


def socrata_id(text: Any) -> tuple[str, str] | None:
    """The Socrata id that a text is, with an empty host; or that it has as a URL of Socrata's, with that URL's host."""
    if not isinstance(text, str):
        return None
    text = text.strip()
    if _SOCRATA_ID.fullmatch(text):
        return text, ""
    found = _SOCRATA_URL.fullmatch(text)
    return (found["page"] or found["data"], found["host"].lower()) if found else None


def page(source: Any, path: str, key: Any) -> str | None:
    """The page of a dataset on its portal, where both are known."""
    if isinstance(source, str) and isinstance(key, str) and source.strip() and key.strip():
        return f"https://{source.strip().lower()}/{path}/{key.strip()}"
    return None


def moment(seconds: Any) -> Any:
    """A number of seconds since 1970 as a datetime; anything else is returned as it is, to be judged."""
    if isinstance(seconds, (int, float)) and type(seconds) is not bool:
        try:
            return datetime.fromtimestamp(seconds, UTC)
        except (ValueError, OverflowError, OSError):
            return str(seconds)
    return seconds


def keys_at(shape: Shape, *path: str) -> set[str]:
    """The keys of the records of an array, or, in lines, of the first record."""
    return set(shape.keys) if shape.lines else shape.arrays.get(path, set())


def is_catalog(shape: Shape) -> bool:
    """Whether a document says of itself that it is a catalogue of DCAT."""
    return not shape.lines and ("conformsTo" in shape.keys or says_catalog(shape.keys.get("@type")))


def says_catalog(type_: Any) -> bool:
    """Whether a type of JSON-LD is DCAT's catalogue."""
    return type_ in ("Catalog", "dcat:Catalog")
