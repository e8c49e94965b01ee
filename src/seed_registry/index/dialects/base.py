"""The declaration of a dialect, and functions that mappings share.

Wire Structs name only the fields that are read, with any value: `index.decoder` checks the values.
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
from seed_registry.index.shape import Shape
from seed_registry.index.text_fields import has_text

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
# No slash behind this place of a URL belongs to what is before its host.
_SITE: Final = len("https://")
# Stands for the portal, to find out whether a record depends on a header that is not read yet.
UNREAD_HEADER: Final = "?"
# The names of the total in answers of portals of several kinds, and in Hydra's and OGC's collections.
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
    """The portal of an index: from the document's header, from `--domain`, and what its first records agree on."""

    header: str = ""
    domain: str = ""
    agreed: str = ""

    @property
    def name(self) -> str:
        """`--domain`, else the portal of the header, else that of the first records, else empty."""
        return self.domain or self.header or self.agreed

    def has(self, host: str) -> bool:
        """Whether this lower-cased host is the portal's own; an unread header may name any."""
        return host in (self.domain.lower(), self.header, self.name) or self.header == UNREAD_HEADER


class Fields(Struct, frozen=True, gc=False):
    """The fields that a dialect finds in a record, unchecked."""

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

    A record that these Structs refuse, or that has no key or source in these columns, is decoded alone with the
    dialect's own Struct; the columns must have the same values as that.

    Attributes:
        wire: a Struct with the exact types of an ordinary asset.
        keys: the same with the fields for its key and its source only.
        columns, key_columns: from such Structs to columns.
        line, line_keys: `wire` and `keys` of lines, if they differ.
    """

    wire: type[Struct]
    keys: type[Struct]
    columns: Callable[[list[Any], Portal], Columns]
    key_columns: Callable[[list[Any], Portal], Columns]
    line: type[Struct] | None = None
    line_keys: type[Struct] | None = None


class Graph(Struct, frozen=True):
    """How nodes of all types, in any order, become records (https://www.w3.org/TR/json-ld11/#node-objects).

    Attributes:
        paths: of the arrays of nodes, and of an object in place of one.
        wire: a Struct with the fields that the functions of nodes read; those of records get the dialect's wire Struct.
        name: of a node; empty if it has none.
        header: what a node says about the whole graph, as the header of a document would.
        holds_records: whether a node is a record, or has some in it.
        completes: whether a node that holds none may complete a record.
        refers: whether a record has references to nodes that may complete it, or has records in it that may.
        join: completes a record by other nodes, which are looked up by their name.
    """

    paths: frozenset[Path]
    wire: type[Struct]
    name: Callable[[Any], str]
    header: Callable[[Any], Mapping[str, Any]]
    holds_records: Callable[[Any], bool]
    completes: Callable[[Any], bool]
    refers: Callable[[Any], bool]
    join: Callable[[Any, Callable[[str], list[bytes]]], Any]


def by_record(asset: Callable[[Any, Portal], Fields | None]) -> Callable[[list[Any], Portal], Columns]:
    """All columns, from a function of one record."""

    def columns(wires: list[Any], portal: Portal) -> Columns:
        found = [asset(wire, portal) or _NO_FIELDS for wire in wires]
        return tuple(zip(*map(_ALL_FIELDS, found), strict=True))

    return columns


def _no_portal(_: Mapping[str, Any]) -> str:
    return ""


class Sample(Struct, frozen=True, kw_only=True):
    """Templates of JSON from which `synthetic` writes indexes of a dialect, with a record on each line.

    They are filled as Python's `%` does. A record may have `%(domain)b` (its portal), `%(key)b`, `%(name)b`,
    `%(slug)b`, `%(topic)b`, `%(views)d`, `%(created)b` and `%(updated)b` (dates) or `%(created_seconds)d` and
    `%(updated_seconds)d` (since 1970). Of these there is as much as there is room: `%(tags)b` (texts of a list),
    `%(text)b`, and either `%(columns)b` (five fields of Socrata's, all lists) or `%(parts)b` (objects of a list). A
    record without `%(text)b` is short.

    Attributes:
        record: an object; the field that it is known by stands as `%(identity)b`.
        identity: that field, a comma behind it; `%b` is all of its value. Without it, and with a blank one, the record
            has to be a reject.
        key: from `%(id)b` (`abcd-1234`) or `%(code)d`, a number of at most 42 bits; as hexadecimal, `%(code)012x`.
        part: one of the objects, with `%(name)b`, `%(field)b`, `%(type)b` and `%(note)b`.
        before, after: what encloses the records in a document, with `%(records)d` and `%(domain)b`.
        sources: what stands before the sources in a document that lists them; `before` follows them.
        source: one of these, with `%(domain)b` and `%(number)d`.
        line: what a record in lines begins with; `%b` is its kind.
        has_lines: whether an index may be lines.
        has_portals: whether the records of an index may be of several portals.
        needs_domain: the formats in which nothing names the portal, so that a load needs `--domain`.
        fixed_bytes: of an ordinary record without what is as long as there is room.
    """

    record: bytes
    identity: bytes
    before: bytes
    after: bytes
    fixed_bytes: int
    key: bytes = b"%(id)b"
    part: bytes = b""
    sources: bytes = b""
    source: bytes = b""
    line: bytes = b""
    has_lines: bool = True
    has_portals: bool = False
    needs_domain: frozenset[str] = frozenset()


class Dialect(Struct, frozen=True):
    """One format of index files.

    Attributes:
        version: goes into every content hash: raise it when the mapping changes, and a reload rewrites what differs.
        arrays, nested, links: where records are in a document, as in `Layout`.
        kept: the arrays in the header of a document that `portal` and `totals` need, as in `Layout`.
        inner: a text that only records with records inside them contain, and the layout of these.
        singles: where this document may have one record instead of an array of them.
        is_paged: whether several documents may follow one another in an index.
        typical: the fields of a record that distinguish the dialect; of several that fit, the one with most is taken.
        keys: the fields that may hold a record's key; an object with one of them and another of `wire` looks like one.
        wire: the Struct that a record is decoded to.
        is_global: whether a key is unique across portals; None where all are, or the operator answers for them.
        asset, source: from the wire Struct to fields; None for an object that only looks like a record.
        mapping: where each field comes from, in words, for `explain`.
        fits: whether a shape looks like this dialect.
        provider: the portal software that an index of this dialect is evidence of.
        providers: others, each with what its indexes have among their first bytes; the first that is found is taken.
        hosts_in: the hosts that the first records name as their portal's, where neither a header nor `--domain` does.
        sample: how a synthetic index is written.
        lists_sources: whether an index of this dialect lists its sources itself.
        kind_of: for lines, which kind a record is; None where it is neither.
        portal: the portal's host, from the header of a document.
        declared: by array, the header field with its number of records.
        graph: how nodes of all types become records, in documents that have these; None if there are no such documents.
        totals: paths in the header that may have the number of records of the portal for the query.
        needs_domain: whether no index of this dialect names its portal, so that `--domain` is required.
        refuses_domain: why `--domain` cannot be used, if it cannot.
        names_portals: whether the records of this shape name their portal themselves, which `--domain` leaves alone.
        former_key: the key that an earlier version gave a record.
        ordinary: decodes ordinary assets many at a time; None if each is decoded alone.
    """

    name: str
    version: int
    arrays: Mapping[Path, str]
    wire: type[Struct]
    asset: Callable[[Any, Portal], Fields | None]
    mapping: Mapping[str, str]
    fits: Callable[[Shape], bool]
    provider: str
    sample: Sample
    is_global: Callable[[str], bool] | None = is_global
    source: Callable[[Any], Fields] | None = None
    lists_sources: bool = False
    providers: Mapping[str, re.Pattern[bytes]] = {}
    hosts_in: Callable[[bytes], list[str]] = lambda _: []
    kind_of: Callable[[Any], str | None] = lambda _: "asset"
    portal: Callable[[Mapping[str, Any]], str] = _no_portal
    declared: Mapping[Path, str] = {}
    needs_domain: bool = False
    refuses_domain: str = ""
    names_portals: Callable[[Shape], bool] = lambda _: False
    former_key: Callable[[Any], str | None] | None = None
    nested: Mapping[Path, Path] = {}
    links: frozenset[Path] = frozenset()
    kept: frozenset[Path] = frozenset()
    inner: tuple[bytes, Layout] | None = None
    graph: Graph | None = None
    singles: Callable[[Shape], Iterable[Path]] = lambda _: ()
    is_paged: bool = True
    typical: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset({"id"})
    totals: tuple[Path, ...] = TOTALS
    ordinary: Ordinary | None = None

    @property
    def has_portal(self) -> bool:
        """Whether a header may name the portal."""
        return self.portal is not _no_portal


def first(*values: Any) -> Any:
    """The first value that says anything; if none does, the first that is neither None nor an empty string."""
    nothing = None
    for value in values:
        if has_text(value):
            return value
        if nothing is None and value != "":
            nothing = value
    return nothing


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


# They send on to portals, of which they are none.
RESOLVERS: Final = frozenset({"doi.org", "dx.doi.org", "www.doi.org", "hdl.handle.net", "n2t.net"})


def hosts_of(urls: Iterable[str]) -> list[str | None]:
    """The host of each URL, as `host_of` gives it, or None; faster where they are of few sites."""
    found: dict[str, str | None] = {}
    hosts = []
    for url in urls:
        end = url.find("/", _SITE)
        site = url if end < 0 else url[: end + 1]
        if site not in found:
            found[site] = host_of(site)
        hosts.append(found[site])
    return hosts


def self_host(links: Any) -> str | None:
    """The host of the link to itself in a list of links, `[{"rel": "self", "href": …}]`."""
    if type(links) is not list:
        return None
    own = (link.get("href") for link in links if type(link) is dict and link.get("rel") == "self")
    return next((host for url in own if (host := host_of(url))), None)


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
    """The page of a dataset on its portal, where both are known; a key may be a whole number, as everywhere."""
    name = str(key) if type(key) is int else key
    if isinstance(source, str) and isinstance(name, str) and source.strip() and name.strip():
        return f"https://{source.strip().lower()}/{path}/{name.strip()}"
    return None


def pages(source: str, path: str, keys: Sequence[str | None], end: str = "") -> list[str | None]:
    """The pages of many datasets, each as `page` gives it, with this end."""
    if not source.strip():
        return [None] * len(keys)
    start = f"https://{source.strip().lower()}/{path}/"
    return [f"{start}{key}{end}" if text and (key := text.strip()) else None for text in keys]


def moment(seconds: Any) -> Any:
    """A number of seconds since 1970 as a datetime; any other value unchanged."""
    if isinstance(seconds, (int, float)) and type(seconds) is not bool:
        try:
            return datetime.fromtimestamp(seconds, UTC)
        except (ValueError, OverflowError, OSError):
            return str(seconds)
    return seconds


def moment_of_milliseconds(milliseconds: Any) -> Any:
    """A number of milliseconds since 1970 as a datetime; any other value unchanged."""
    if isinstance(milliseconds, (int, float)) and type(milliseconds) is not bool:
        try:
            return datetime.fromtimestamp(milliseconds / 1000, UTC)
        except (ValueError, OverflowError, OSError):
            return str(milliseconds)
    return milliseconds


def keys_at(shape: Shape, *path: str) -> set[str]:
    """The keys of the records of an array, or, in lines, of the first record."""
    return set(shape.keys) if shape.lines else shape.arrays.get(path, set())


def keys_in(shape: Shape, member: str, *path: str) -> set[str]:
    """The keys of an object in the records of an array, or, in lines, in the first record."""
    return shape.objects.get((member,), set()) if shape.lines else shape.members.get((*path, member), set())


def is_catalog(shape: Shape) -> bool:
    """Whether a document says of itself that it is a catalogue of DCAT."""
    return not shape.lines and ("conformsTo" in shape.keys or says_catalog(shape.keys.get("@type")))


def says_catalog(type_: Any) -> bool:
    """Whether a type of JSON-LD is DCAT's catalogue."""
    return type_ in ("Catalog", "dcat:Catalog")
