"""Decode a raw record to a Source, an Asset or a Reject. Pure, and most of the client's time.

A record that Postgres would refuse (https://www.postgresql.org/docs/current/datatype-json.html) is rejected before it
costs a batch: msgspec refuses bad grammar and lone surrogates, the other checks are made here, on the bytes that are
stored.

Ordinary assets are decoded many at a time, by columns, without the checks that Postgres makes as well; the writer runs
these checks once Postgres has refused a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import islice, repeat
from operator import attrgetter
from typing import Any, Final

import msgspec
import xxhash
from msgspec import Struct
from msgspec.structs import replace

from seed_registry.index.dialects.base import UNREAD_HEADER, Dialect, Fields, Ordinary, Portal
from seed_registry.index.json_checks import (
    MAX_DEPTH,
    NUL,
    depth,
    has_lone_surrogate,
    is_utf8,
    may_be_deep,
    without_nul,
)
from seed_registry.index.literal_numbers import LiteralNumberDecoder
from seed_registry.index.text_fields import has_text, same_languages, text_of, url_of
from seed_registry.index.timestamps import parse_common_timestamp, parse_timestamp
from seed_registry.records import Asset, NotOrdinary, RawBlock, RawRecord, Record, Reject, Source

# A key longer than this may not fit a btree page once it is part of a composite key (2,704 bytes).
MAX_KEY_BYTES: Final = 1_000

# Why a record is rejected; those of a key follow the word "asset" or "source".
REASONS: Final = {
    "not_json": "is not JSON",
    "not_an_object": "is JSON, but no object",
    "bad_utf8": "is not UTF-8 text",
    "bad_unicode": "has half a surrogate pair (\\ud800 to \\udfff), which is no character",
    "no_type": 'has no "type" of "source" or "asset"',
    "no_key": "has no key",
    "no_source": "does not name its source: name it with --domain",
    "nul_in_key": "has the character U+0000 in its key",
    "key_too_long": f"has a key longer than {MAX_KEY_BYTES:,} bytes",
    "key_of_another_source": "has a key that is another source's",
    "record_too_large": "is longer than --max-record-bytes",
    "too_deep": f"is nested deeper than {MAX_DEPTH} levels",
    "database_refused": "is refused by the database",
}

_NONE: Final[tuple[str, ...]] = ()
# The fields of an asset before and behind its texts and its date, in their order.
_BESIDES_TEXTS: Final = ("key", "source_key", "raw", "content_hash", "line", "offset", "own_key", "was_committed")
# A header that is the host of no record.
_NO_HOST: Final = "-"
_hash = xxhash.xxh3_128_digest


class Decoder:
    """Decodes the records of one index.

    Attributes:
        dialect, provider: of the records, and of their sources.
        portal: from the header of the document, and from `--domain`.
        header_complete: whether that is final; before that, an asset that depends on it has no source key.
        join: completes the wire Struct of an asset that is decoded by itself, and returns what else it is hashed over.
    """

    def __init__(
        self,
        dialect: Dialect,
        *,
        domain: str = "",
        agreed: str = "",
        provider: str | None = None,
        header_complete: bool = True,
        salt: str = "",
        language: str | None = None,
        is_lines: bool = False,
    ) -> None:
        """Prepare for the records of one index.

        Args:
            dialect: the shape of the records.
            domain: the portal, from `--domain`.
            agreed: the portal that the first records agree on.
            provider: of the sources, if not the dialect's; content hashes do not depend on it.
            header_complete: whether no header will follow.
            salt: of the content hashes.
            language: chooses among texts in several languages, tags like "de-CH" or "de,fr".
            is_lines: whether each record has to name its kind.
        """
        self.portal = Portal(domain=domain, agreed=agreed)
        self.header_complete = header_complete or not dialect.has_portal
        self.join: Callable[[Any], tuple[Any, bytes]] | None = None
        self.dialect = dialect
        self.provider = provider or dialect.provider
        self._kind_of = dialect.kind_of
        self._fields_of = dialect.asset
        self._ordinary = _Ordinary(dialect.ordinary, is_lines=is_lines) if dialect.ordinary else None
        self._unchecked = self._ordinary  # also where records are decoded one by one
        self._is_global = dialect.is_global
        self._decode = msgspec.json.Decoder(dialect.wire).decode
        self._speller: LiteralNumberDecoder | None = None  # few indexes have records that need it
        self._languages = same_languages(language)
        # Hashes of another dialect, mapping, language or choice of columns never match: the row is written anew.
        self._seeds: dict[str, int] = {}  # by source; loads end before there are too many of them
        salt += f" {self._languages}" if self._languages else ""
        self._seed = xxhash.xxh3_64_intdigest(f"{dialect.name} {dialect.version} {salt}".encode())

    def take_header(self, portal: str, *, complete: bool) -> None:
        """Take the portal of the document's header, which may be `complete`."""
        if portal != self.portal.header:
            self.portal = replace(self.portal, header=portal)
        self.header_complete = complete or not self.dialect.has_portal

    def decode(self, record: RawRecord) -> Record | None:
        """Decode a record, whatever its bytes; None if it only looks like a record."""
        data = record.data
        if record.excess:
            return _reject(
                record, "record_too_large", f"{record.excess:,} bytes long; raise --max-record-bytes to load it"
            )
        try:
            wire = self.wire_of(data)
        except (ValueError, RecursionError) as exc:
            return _undecodable(record, exc)
        if not data.isascii() and not is_utf8(data):
            return _reject(record, "bad_utf8", f"record {REASONS['bad_utf8']}")
        if may_be_deep(data) and depth(data) > MAX_DEPTH:
            return _reject(record, "too_deep", f"record {REASONS['too_deep']}")
        repaired = False
        if b"\\" in data and NUL in data:
            fixed = without_nul(data)
            repaired, data = fixed != data, fixed
        kind = record.kind or self._kind_of(wire)
        try:
            if kind == "asset":
                return self._asset(record, wire, data, repaired)
            if kind == "source":
                return self._source(record, wire, data)
        except RecursionError as exc:  # in the value of a field, of some hundred levels
            return _undecodable(record, exc)
        return _reject(record, "no_type", f"record {REASONS['no_type']}")

    def wire_of(self, data: bytes) -> Any:
        """The wire Struct of a record, unchecked.

        Raises:
            ValueError, RecursionError: it has none.
        """
        try:
            return self._decode(data)
        except ValueError as exc:
            if "out of range" not in str(exc):
                raise
            return self._spelled(data)  # a number beyond float and int64 is kept as a text

    def decode_wires(self, data: list[bytes], *, keys_only: bool = False) -> tuple[list[Any], list[int]]:
        """Return wire Structs of ordinary assets, None for each that is not, and the positions of these."""
        if self._ordinary is None:
            return [], list(range(len(data)))
        return self._ordinary.decode(data, keys_only=keys_only)

    def decode_ordinary(self, block: RawBlock, *, keys_only: bool = False) -> tuple[list[Asset], list[int]]:
        """Return the ordinary assets of a block, unchecked, and the positions of all others, to be decoded one by one.

        Args:
            block: records of one kind.
            keys_only: leave texts and dates for later.
        """
        ordinary = self._ordinary
        if ordinary is None or block.kind == "source":
            return [], list(range(len(block.data)))
        places, wires, others = self._ordinary_of(block, ordinary, keys_only=keys_only)
        if not wires:
            return [], others
        data, lines, offsets = block.data, block.lines, block.offsets
        if others:
            data = [data[at] for at in places]
            lines, offsets = [lines[at] for at in places], [offsets[at] for at in places]
        columns = (ordinary.key_columns if keys_only else ordinary.columns)(wires, self.portal)
        keys, (sources, seeds) = _stripped(columns[0]), self._sources_and_seeds(columns[1])
        odd = _odd_keys(keys, sources)
        if not self.header_complete and not self.portal.header:
            found = ordinary.key_columns(wires, replace(self.portal, header=UNREAD_HEADER))
            odd |= _differing(columns[0], found[0]) | _differing(columns[1], found[1])
        texts: list[Iterable[Any]] = [repeat(None)] * 4
        if not keys_only:
            moments, odd_moments = _moments(columns[5])
            texts = [*columns[2:5], moments]
            odd |= odd_moments.union(*map(_odd_texts, columns[2:5]), _deep(data))
        own = repeat(False) if self._is_global is None else [not self._is_global(key) for key in keys]
        facts = (own, repeat(False), repeat(keys_only), repeat(_Unchecked(self, self.portal, self.header_complete)))
        assets = list(map(Asset, keys, sources, *texts, data, map(_hash, data, seeds), lines, offsets, *facts))
        if odd:
            others = sorted([*others, *(places[at] for at in odd)])
            assets = [asset for at, asset in enumerate(assets) if at not in odd]
        return assets, others

    def decode_keys(self, block: RawBlock) -> tuple[list[str], list[int]]:
        """Return the keys that the ordinary assets of a block may have, and the positions of all others.

        Of an asset whose key depends on a header that is not read yet these are all that it may get.
        """
        if self._ordinary is None or block.kind == "source":
            return [], list(range(len(block.data)))
        return self._keys_of(block, self._ordinary)

    def unchecked_key(self, data: bytes) -> str | None:
        """The key of a record that is decoded without checks, by columns.

        Returns:
            None if it cannot be decoded so, or if its key depends on a header that is not read yet.
        """
        if self._unchecked is None:
            return None
        keys, _ = self._keys_of(RawBlock([data], [1], [0]), self._unchecked)
        return keys[0] if len(keys) == 1 else None

    def _keys_of(self, block: RawBlock, ordinary: _Ordinary) -> tuple[list[str], list[int]]:
        places, wires, others = self._ordinary_of(block, ordinary, keys_only=True)
        first: list[str] = []
        others_of: dict[int, set[str]] = {}  # the keys that another portal gives
        missing: set[int] = set()
        for portal in self.possible_portals() if wires else ():
            columns = ordinary.key_columns(wires, portal)
            keys = _stripped(columns[0])
            if not (all(keys) and all(columns[1])):
                missing.update(at for at, key in enumerate(keys) if not (key and columns[1][at]))
            first = first or keys
            if keys != first:  # few dialects have such keys
                for at in _differing(keys, first):
                    others_of.setdefault(at, set()).add(keys[at])
        if missing:
            others = sorted([*others, *(places[at] for at in missing)])
            first = [key for at, key in enumerate(first) if at not in missing]
        return first + [key for at, found in others_of.items() if at not in missing for key in found], others

    def possible_portals(self) -> list[Portal]:
        """The portals that keys may depend on: one, or where the header is unread, one for each kind of answer."""
        if self.header_complete or self.portal.header:
            return [self.portal]
        return [replace(self.portal, header=header) for header in ("", UNREAD_HEADER, _NO_HOST)]

    def _ordinary_of(
        self, block: RawBlock, ordinary: _Ordinary, *, keys_only: bool
    ) -> tuple[Sequence[int], list[Any], list[int]]:
        """Return positions and wire Structs of the ordinary assets of a block, and the positions of all others."""
        if block.decoded is None:
            wires, others = ordinary.decode(block.data, keys_only=keys_only)
        else:
            wires, others = block.decoded, [at for at, wire in enumerate(block.decoded) if wire is None]
        places: Sequence[int] = range(len(block.data))
        if others:
            places = sorted(set(places).difference(others))
            wires = [wires[at] for at in places]
        return places, wires, others

    def with_texts(self, assets: Sequence[Asset], unchecked: _Unchecked) -> list[Asset]:
        """Complete assets of which only the keys were decoded, with texts and dates.

        Raises:
            NotOrdinary: one of them has to be decoded alone.
        """
        assert self._ordinary is not None
        data = [asset.raw for asset in assets]
        wires, others = self._ordinary.decode(data)
        if others or _deep(data):
            raise NotOrdinary
        *_, names, descriptions, urls, dates = self._ordinary.columns(wires, unchecked.portal)
        moments, odd = _moments(dates)
        if odd or any(map(_odd_texts, (names, descriptions, urls))):
            raise NotOrdinary
        keys, sources, *known = (map(attrgetter(name), assets) for name in _BESIDES_TEXTS)
        rest = (repeat(False), repeat(unchecked))
        return list(map(Asset, keys, sources, names, descriptions, urls, moments, *known, *rest))

    def check(self, asset: Asset, unchecked: _Unchecked) -> Record | None:
        """Decode an asset again, with all checks."""
        now = self.portal, self.header_complete, self.join
        self.portal, self.header_complete, self.join = unchecked.portal, unchecked.header_complete, None
        try:
            return self.decode(RawRecord(asset.raw, asset.line, asset.offset, "asset"))
        finally:
            self.portal, self.header_complete, self.join = now

    def _sources_and_seeds(self, values: Sequence[Any]) -> tuple[Sequence[str], Iterable[int]]:
        """Return the keys of sources as stored, empty for missing or invalid ones, and the seeds of hashes."""
        found: dict[Any, str] = {}
        for value in dict.fromkeys(values):
            key = _key(value).lower()
            found[value] = key = "" if _key_problem(key) else key
            if key not in self._seeds:
                self._seed_of(key)
        if len(found) == 1:
            source = next(iter(found.values()))
            return [source] * len(values), repeat(self._seeds[source])
        sources = [found[value] for value in values]
        return sources, [self._seeds[source] for source in sources]

    def former_key(self, asset: Asset) -> str | None:
        """The key that an earlier version of the dialect gave this record; None if it is the same."""
        if self.dialect.former_key is None:
            return None
        try:
            key = self.dialect.former_key(self._decode(asset.raw))
        except (ValueError, RecursionError):
            return None  # an earlier version rejected it, too
        return key if key != asset.key else None

    def _source(self, record: RawRecord, wire: Any, data: bytes) -> Source | Reject:
        assert self.dialect.source is not None
        fields = self.dialect.source(wire)
        key = _key(fields.source_key).lower()
        if problem := _key_problem(key):
            return _reject(record, problem, f"source {REASONS[problem]}", key=key, kind="source")
        if _are_unusual(fields):
            fields = self.dialect.source(self._spelled(data))
        name, _, url, ignored = self._texts(fields)
        return Source(
            key=key,
            name=name,
            url=url or f"https://{key}",
            raw=data,
            content_hash=xxhash.xxh3_128_digest(record.data, self._seed),
            provider=self.provider,
            line=record.line,
            offset=record.offset,
            texts_ignored=ignored,
        )

    def _asset(self, record: RawRecord, wire: Any, data: bytes, repaired: bool) -> Asset | Reject | None:
        fields = self._fields_of(wire, self.portal)
        if fields is None:
            return None
        others = b""
        if self.join is not None:
            wire, others = self.join(wire)
            fields = self._fields_of(wire, self.portal) or fields
        key = _key(fields.key)
        if problem := _key_problem(key):
            return _reject(record, problem, f"asset {REASONS[problem]}", key=key)
        source_key = _key(fields.source_key).lower()
        if not self.header_complete and self._waits_for_header(wire, fields):
            source_key = ""
        elif not source_key:
            return _reject(record, "no_source", self._no_source(), key=key)
        if (seed := self._seeds.get(source_key)) is None:
            if source_key and (problem := _key_problem(source_key)):
                return _reject(record, problem, f"asset's source {REASONS[problem]}", key=key)
            seed = self._seed_of(source_key)
        updated_at, is_unusual = parse_timestamp(fields.date)
        date_ignored = is_unusual and updated_at is None
        name, description, url, ignored = self._texts_of(fields, data, is_changed=repaired or bool(others))
        return Asset(
            key,
            source_key,
            name,
            description,
            url,
            updated_at,
            data,
            xxhash.xxh3_128_digest(record.data + others, seed),
            record.line,
            record.offset,
            own_key=self._is_global is not None and not self._is_global(key),
            repaired=record.data if repaired else None,
            date_ignored=date_ignored,
            texts_ignored=ignored,
        )

    def _seed_of(self, source_key: str) -> int:
        """The seed of the hashes of a source's assets: equal records of two sources have different hashes."""
        seed = self._seeds[source_key] = self._seed ^ xxhash.xxh3_64_intdigest(source_key.encode())
        return seed

    def _spelled(self, data: bytes) -> Any:
        """Decode the record with its numbers as they are written."""
        if self._speller is None:
            self._speller = LiteralNumberDecoder(self.dialect.wire)
        return self._speller.decode(data)

    def _texts_of(
        self, fields: Fields, data: bytes, *, is_changed: bool
    ) -> tuple[str | None, str | None, str | None, tuple[str, ...]]:
        """The same as `_texts`, at little cost where these are texts; if nothing `is_changed` U+0000 is not in them."""
        if _are_unusual(fields):
            if _has_number([fields.name, fields.description, fields.url]):
                spelled = self._spelled(data) if self.join is None else self.join(self._spelled(data))[0]
                fields = self._fields_of(spelled, self.portal) or fields
        elif not is_changed:
            return fields.name, fields.description, fields.url, _NONE
        return self._texts(fields)

    def _texts(self, fields: Fields) -> tuple[str | None, str | None, str | None, tuple[str, ...]]:
        """Name, description, URL, and which of them are null because their value is not a text."""
        values = {"name": fields.name, "description": fields.description, "url": fields.url}
        texts = [
            text_of(fields.name, self._languages),
            text_of(fields.description, self._languages),
            url_of(fields.url),
        ]
        ignored = tuple(
            name for (name, value), text in zip(values.items(), texts, strict=True) if text is None and has_text(value)
        )
        name, description, url = (text and text.replace("\0", "\ufffd") for text in texts)
        return name, description, url, ignored

    def _no_source(self) -> str:
        if self.dialect.refuses_domain:
            return "asset does not name its source"
        return f"asset {REASONS['no_source']}"

    def _waits_for_header(self, wire: Any, fields: Fields) -> bool:
        """Whether a header that is not read yet could still change the asset's source."""
        if self.portal.header:
            return False
        other = self.dialect.asset(wire, replace(self.portal, header=UNREAD_HEADER))
        return other is not None and bool((other.key, other.source_key) != (fields.key, fields.source_key))


class _Unchecked(Struct, frozen=True):
    """The decoder of assets, and its state when it decoded them."""

    decoder: Decoder
    portal: Portal
    header_complete: bool

    def with_texts(self, assets: Sequence[Asset]) -> list[Asset]:
        return self.decoder.with_texts(assets, self)

    def check(self, asset: Asset) -> Record | None:
        return self.decoder.check(asset, self)


class _Ordinary:
    """The ordinary Structs of a dialect, and their decoders."""

    def __init__(self, ordinary: Ordinary, *, is_lines: bool) -> None:
        wire, keys = ordinary.wire, ordinary.keys
        if is_lines:
            wire, keys = ordinary.line or wire, ordinary.line_keys or keys
        self.columns, self.key_columns = ordinary.columns, ordinary.key_columns
        self._decode = msgspec.json.Decoder(wire).decode
        self._decode_keys = msgspec.json.Decoder(keys).decode

    def decode(self, data: Sequence[bytes], *, keys_only: bool = False) -> tuple[list[Any], list[int]]:
        """Return the records, None for each that is not ordinary, and the positions of these."""
        decode = self._decode_keys if keys_only else self._decode
        wires: list[Any] = []
        others: list[int] = []
        while len(wires) < len(data):
            try:
                wires.extend(map(decode, islice(data, len(wires), None)))  # keeps the results before a failure
            except (ValueError, RecursionError):
                others.append(len(wires))
                wires.append(None)
        return wires, others


def _stripped(keys: Sequence[Any]) -> list[str]:
    try:
        return list(map(str.strip, keys))
    except TypeError:
        return list(map(_key, keys))


def _odd_keys(keys: Sequence[str], sources: Sequence[str]) -> set[int]:
    """Return where key or source is missing, or the key may be invalid."""
    if all(keys) and all(sources) and "\0" not in "".join(keys) and len(max(keys, key=len)) * 4 <= MAX_KEY_BYTES:
        return set()
    return {at for at, (key, source) in enumerate(zip(keys, sources, strict=True)) if not source or _key_problem(key)}


def _odd_texts(texts: Sequence[str | None]) -> set[int]:
    """Return where a text may be an object or an unfilled template, or blank: then another field may have one."""
    return {at for at, text in enumerate(texts) if text and (text[0] == "{" or text[0].isspace())}


def _moments(dates: Sequence[Any]) -> tuple[Sequence[datetime | None], set[int]]:
    """Return the moments of dates, and where one is in an uncommon format."""
    try:
        return list(map(parse_common_timestamp, dates)), set()
    except (TypeError, ValueError, OverflowError):
        parsed = list(map(parse_timestamp, dates))
        return [moment for moment, _ in parsed], {at for at, (_, is_unusual) in enumerate(parsed) if is_unusual}


def _differing(values: Sequence[Any], others: Sequence[Any]) -> set[int]:
    return {at for at, (one, other) in enumerate(zip(values, others, strict=True)) if one != other}


def _are_unusual(fields: Fields) -> bool:
    """Whether one of the values is not a text, or may be an object of texts by language or an unfilled template."""
    name, description, url = fields.name, fields.description, fields.url
    return (
        (name is not None and (type(name) is not str or name[:1] == "{"))
        or (description is not None and (type(description) is not str or description[:1] == "{"))
        or (url is not None and (type(url) is not str or url[:1] == "{"))
    )


def _has_number(value: Any) -> bool:
    """Whether there is a number in it, which may have lost its spelling."""
    if type(value) is list:
        return any(map(_has_number, value))
    if type(value) is dict:
        return any(map(_has_number, value.values()))
    return isinstance(value, (int, float)) and type(value) is not bool


def _reject(record: RawRecord, reason: str, detail: str, *, key: str | None = None, kind: str = "") -> Reject:
    kind = kind or record.kind or "asset"
    return Reject(reason, detail, record.data, record.line, record.offset, kind, key or None)


def _deep(data: Sequence[bytes]) -> set[int]:
    """Return which records may be too deep; few are."""
    return {at for at, record in enumerate(data) if may_be_deep(record)}


def _undecodable(record: RawRecord, exc: Exception) -> Reject:
    if isinstance(exc, RecursionError):
        return _reject(record, "too_deep", f"record {REASONS['too_deep']}")
    if isinstance(exc, UnicodeDecodeError) or not is_utf8(record.data):
        return _reject(record, "bad_utf8", f"record {REASONS['bad_utf8']}")
    if has_lone_surrogate(record.data):
        return _reject(record, "bad_unicode", f"record {REASONS['bad_unicode']}")
    if isinstance(exc, msgspec.ValidationError):
        return _reject(record, "not_an_object", str(exc).replace("`", ""))
    return _reject(record, "not_json", str(exc).removeprefix("JSON is malformed: "))


def _key(value: Any) -> str:
    if type(value) is str:
        return value.strip()
    return str(value) if type(value) is int else ""


def _key_problem(key: str) -> str | None:
    if not key:
        return "no_key"
    if "\0" in key:
        return "nul_in_key"
    if len(key) > MAX_KEY_BYTES or (len(key) * 4 > MAX_KEY_BYTES and len(key.encode()) > MAX_KEY_BYTES):
        return "key_too_long"
    return None
