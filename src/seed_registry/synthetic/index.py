"""Generate synthetic indexes, the same bytes every time, and the counts that a correct reader finds in them.

The n-th distinct record depends on the seed and on n alone. Duplicates and invalid records are put in between, so they
and `changed` leave every other record as it was. No state is kept from record to record: memory stays flat, and
`expected()` is arithmetic. Sizes follow real indexes (13,383 records of a Discovery catalogue, 762 of a
Directory); text comes in runs cut from a prepared corpus, which is what makes it fast.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from functools import lru_cache
from struct import unpack
from typing import Literal, get_args

from msgspec import Struct
from xxhash import xxh3_128_digest

from seed_registry.errors import SettingsInvalid
from seed_registry.synthetic.corpus import CITIES, CURVES, FIXED_BYTES, IDENTITIES, RANKS, TEMPLATES, TOPICS, corpus

Dialect = Literal["seed", "directory", "discovery"]
Format = Literal["json", "ndjson"]

WHOLE = 1_000_000  # percentages are counted in millionths of all records, which keeps every count an exact integer
CHUNK_BYTES = 128 << 10  # a chunk ends with the record that reaches it
LARGEST_MEDIAN = 64 << 10  # the longest record is 68 medians: 4.4 MiB, well under a reader's 16 MiB
ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
KEYS = 36**8  # 4x4 ids: https://dev.socrata.com/docs/endpoints.html
STRIDE = 1_743_541_808_669  # the golden section of KEYS, coprime to it: n -> n * STRIDE never repeats and looks random
PAIRS = [f"{left}{right}".encode() for left in ALPHABET for right in ALPHABET]
COLUMNS_BYTES = 48 << 10  # 18 of the 13,383 real records have more; the corpus gives 72 KiB from any start
CREATED_DAYS = 3000  # from 2008-01-01; with the three later revisions that there are, no date is past 2020
EDIT_DAYS = 400  # how much later each revision is


class Workload(Struct, frozen=True, kw_only=True):
    """The index to generate; `duplicates`, `invalid` and `changed` are percentages of `records`.

    `changed` edits that share of the records, compared with the same workload without it. `size` is the median record
    in bytes; left out, records weigh what real ones do. Raises `SettingsInvalid` when made with impossible values.
    """

    records: int = 1000
    sources: int = 20
    dialect: Dialect = "seed"
    format: Format = "json"
    duplicates: float = 0.0
    invalid: float = 0.0
    seed: int = 0
    changed: float = 0.0
    size: int | None = None

    def __post_init__(self) -> None:
        for flag, value, known in (("dialect", self.dialect, Dialect), ("format", self.format, Format)):
            if value not in get_args(known):
                raise SettingsInvalid(f"--{flag} must be one of {', '.join(get_args(known))}, got {value}")
        if (self.dialect, self.format) == ("directory", "ndjson"):
            raise SettingsInvalid("--format ndjson does not go with --dialect directory, which is always one document")
        smallest = FIXED_BYTES[self.dialect]
        for flag, number, low, high in (
            ("records", self.records, 0, KEYS // 2),
            ("sources", self.sources, 1, 1 << 32),
            ("seed", self.seed, 0, (1 << 64) - 1),
            ("size", smallest if self.size is None else self.size, smallest, LARGEST_MEDIAN),
        ):
            if not low <= number <= high:
                raise SettingsInvalid(f"--{flag} must be from {low} to {high}, got {number}")
        for flag in ("duplicates", "invalid", "changed"):
            if not 0 <= getattr(self, flag) <= 100:  # noqa: PLR2004  # percent
                raise SettingsInvalid(f"--{flag} must be from 0 to 100 percent, got {getattr(self, flag):g}")
        if self.duplicates + self.invalid > 100:  # noqa: PLR2004  # percent
            both = self.duplicates + self.invalid
            raise SettingsInvalid(f"--duplicates and --invalid together must be at most 100 percent, got {both:g}")


class Expected(Struct, frozen=True):
    """The counts of a correct reader: `assets` = `distinct_keys` + `duplicates` + `invalid`, all of the index.

    `sources` is how many a loader ends with: those listed, or in an index that lists none those its valid records name.
    """

    sources: int
    assets: int
    distinct_keys: int
    duplicates: int
    invalid: int


def generate(workload: Workload) -> Iterator[bytes]:
    """The index, in chunks of about 128 KiB; the same bytes for the same workload on every platform."""
    parts: list[bytes] = []
    size = 0
    for part in _document(workload) if workload.format == "json" else _lines(workload):
        parts.append(part)
        size += len(part)
        if size >= CHUNK_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


def expected(workload: Workload) -> Expected:
    """The counts of `generate(workload)`, without generating anything."""
    fresh, repeated, invalid = _shares(workload)
    distinct = -(-workload.records * fresh // WHOLE)
    special = workload.records - distinct
    duplicates = special * repeated // max(repeated + invalid, 1)
    sources = workload.sources if workload.dialect == "seed" else min(workload.sources, distinct)
    return Expected(sources, workload.records, distinct, duplicates, special - duplicates)


def _document(workload: Workload) -> Iterator[bytes]:
    count = workload.records
    if workload.dialect == "seed":
        yield b'{"sources": [\n'
        yield from _separated(_source(number) for number in range(workload.sources))
        before, after = '\n],\n"assets": [\n', "\n]}\n"
    elif workload.dialect == "directory":
        before = (
            f'{{"schemaVersion": 1, "source": "socrata", "domain": "{_domain(0)}", '
            '"generatedAt": "2025-09-08T07:15:49.311Z", "retention": {"since": "2023-09-08", "until": "2025-09-08"}, '
            f'"totalCount": {count}, "datasets": [\n'
        )
        after = "\n]}\n"
    else:
        before = '{"results": [\n'
        after = f'\n], "resultSetSize": {count}, "timings": {{"serviceMillis": 42, "searchMillis": [5, 10]}}}}\n'
    yield before.encode()
    yield from _separated(_records(workload))
    yield after.encode()


def _lines(workload: Workload) -> Iterator[bytes]:
    checkpoint = b""
    if workload.dialect == "seed":
        checkpoint = b'"type": "asset", '
        for number in range(workload.sources):
            yield b'{"type": "source", ' + _source(number)[1:] + b"\n"
    for record in _records(workload, checkpoint):
        yield record + b"\n"


def _separated(records: Iterable[bytes]) -> Iterator[bytes]:
    separator = b""
    for record in records:
        yield separator + record
        separator = b",\n"


def _source(number: int) -> bytes:
    domain = _domain(number)
    name = f"Open Data Portal {number + 1}"
    return json.dumps({"source_key": domain, "name": name, "url": f"https://{domain}", "provider": "socrata"}).encode()


@lru_cache(maxsize=4096)
def _domain(number: int) -> str:
    turn, city = divmod(number, len(CITIES))
    return f"data.{CITIES[city]}{f'-{turn + 1}' if turn else ''}.example"


def _shares(workload: Workload) -> tuple[int, int, int]:
    """Of a million records: the numbers of new ones, of duplicates and of invalid ones."""
    repeated, invalid = (round(percent * (WHOLE // 100)) for percent in (workload.duplicates, workload.invalid))
    # Duplicates repeat something: however many there are, one record in a million (the first) is new.
    return max(WHOLE - repeated - invalid, min(repeated, 1)), repeated, invalid


def _order(workload: Workload) -> Iterator[tuple[int, int]]:
    """Which record stands at each place, as (its number, its revision); the invalid ones count down from -1.

    New records, and among the others the duplicates, are spread evenly, by the arithmetic that `expected()` inverts.
    """
    fresh, repeated, invalid = _shares(workload)
    known = special = duplicates = 0
    for place in range(workload.records):
        if -(-(place + 1) * fresh // WHOLE) > known:
            yield known, 0
            known += 1
            continue
        special += 1
        if special * repeated // (repeated + invalid) > duplicates:
            yield _original(known, duplicates)
            duplicates += 1
        else:
            yield duplicates - special, 0


def _original(known: int, duplicate: int) -> tuple[int, int]:
    """One of the `known` records so far, near or far alike: an even one as it was, an odd one in a later revision.

    That a record's repeats are all of one kind makes its last occurrence also its latest.
    """
    near, far = unpack(">QQ", xxh3_128_digest(duplicate.to_bytes(8, "big")))
    distance = 1 + far % (1 << near % known.bit_length())
    number = max(known - distance, 0)
    number ^= (number ^ duplicate) & 1
    if number >= known:
        number = max(number - 2, 0)
    return number, (number & 1) << 1


def _records(workload: Workload, mark: bytes = b"") -> Iterator[bytes]:
    writer = _Writer(workload, mark)
    for number, revision in _order(workload):
        yield writer.valid(number, revision) if number >= 0 else writer.invalid(number)


class _Writer:
    """Writes any record of a workload, in any order."""

    def __init__(self, workload: Workload, mark: bytes) -> None:
        self.workload = workload
        self.template = b"{" + mark + TEMPLATES[workload.dialect][1:]
        self.identity = IDENTITIES[workload.dialect]
        self.changes = round(workload.changed / 100 * RANKS)
        self.first_key = int.from_bytes(xxh3_128_digest(workload.seed.to_bytes(8, "big")), "big") % KEYS
        self.corpus = corpus()
        self.topics = [
            (json.dumps(topic)[1:-1].encode(), re.sub("[^A-Za-z]+", "-", topic).encode()) for topic in TOPICS
        ]
        days = range(CREATED_DAYS + 4 * EDIT_DAYS)
        self.days = [b"%bT" % str(date(2008, 1, 1) + timedelta(day)).encode() for day in days]
        self.ranks, self.sizes = CURVES[workload.dialect]
        self.median = self.sizes[self.ranks.index(RANKS // 2)]

    def valid(self, number: int, revision: int) -> bytes:
        key = self._key(number)
        return self._record(number, revision, key, self.identity % key)

    def invalid(self, number: int) -> bytes:
        """A certain reject: no key, or one empty, blank, long or with a NUL; in NDJSON also half a line, a number."""
        key = self._key(number)
        keys = (b"", b" \\t ", key + b"\\u0000", key * 112)
        faults = (b"", *(self.identity % wrong for wrong in keys))
        fault = -number % (len(faults) + 2 * (self.workload.format == "ndjson"))
        if fault > len(faults):
            return b"42"
        if fault == len(faults):
            whole = self.valid(number, 0)
            return whole[: len(whole) // 2]
        return self._record(number, 0, key, faults[fault])

    def _record(self, number: int, revision: int, key: bytes, identity: bytes) -> bytes:
        # Sixteen bits for each choice, so that no choice follows from another.
        weight, words, columns, topic, portal, day, clock, change = unpack(
            ">8H", xxh3_128_digest(number.to_bytes(8, "big", signed=True), self.workload.seed)
        )
        revision += change < self.changes
        sources = self.workload.sources
        # Every portal gets a record first; then, as in real catalogues, few portals hold most.
        domain = _domain(number if 0 <= number < sources else sources * portal * portal >> 32).encode()
        title, slug = self.topics[topic % len(TOPICS)]
        time = b"%02d:%02d:%02d.%03dZ" % (clock % 24, topic % 60, portal % 60, columns % 1000)
        created = day % CREATED_DAYS
        return self.template % {
            b"identity": identity,
            b"key": key,
            b"name": b"%b %d (%b)" % (title, 2008 + created // 365, domain[5:-8]),
            b"domain": domain,
            b"topic": title,
            b"slug": slug,
            b"views": clock * 7,
            b"created": self.days[created] + time,
            b"updated": self.days[created + 1 + clock % EDIT_DAYS + revision * EDIT_DAYS] + time,
            **self._filling(self._size(weight) - FIXED_BYTES[self.workload.dialect], words + 7 * revision, columns),
        }

    def _filling(self, room: int, words: int, columns: int) -> dict[bytes, bytes]:
        corpus = self.corpus
        if self.workload.dialect == "directory":
            return {b"tags": corpus.tags.run(words, room)[:-2]}
        tags = corpus.tags.run(words, min(room, words % 100))[:-2]
        share = min((room - len(tags)) * (columns % 16) // 16, COLUMNS_BYTES)
        first = columns % (len(corpus.widths) // 2)
        end = bisect_right(corpus.widths, corpus.widths[first] + max(share, 0)) - 1
        filling = {name: runs.between(first, end)[:-2] for name, runs in corpus.columns}
        used = len(tags) + corpus.widths[end] - corpus.widths[first]
        return filling | {b"tags": tags, b"text": corpus.text.run(words, room - used)}

    def _size(self, weight: int) -> int:
        at = bisect_right(self.ranks, weight)
        low, high, smaller, larger = *self.ranks[at - 1 : at + 1], *self.sizes[at - 1 : at + 1]
        size = smaller + (larger - smaller) * (weight - low) // (high - low)
        return size if self.workload.size is None else size * self.workload.size // self.median

    def _key(self, number: int) -> bytes:
        left, right = divmod((self.first_key + number * STRIDE) % KEYS, 36**4)
        return b"%b%b-%b%b" % (PAIRS[left // 1296], PAIRS[left % 1296], PAIRS[right // 1296], PAIRS[right % 1296])
