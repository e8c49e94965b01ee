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
from seed_registry.index.dialects import DIALECTS
from seed_registry.index.dialects.base import Sample
from seed_registry.settings import DialectName
from seed_registry.synthetic.corpus import CATALOGUE, CITIES, COLUMNS, DIRECTORY, RANKS, TOPICS, corpus

Format = Literal["json", "ndjson"]

WHOLE = 1_000_000  # percentages are counted in millionths of all records, which keeps every count an exact integer
CHUNK_BYTES = 128 << 10  # a chunk ends with the record that reaches it
LARGEST_MEDIAN = 64 << 10  # the longest record is 68 medians: 4.4 MiB, well under a reader's 16 MiB
ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
KEYS = 36**8  # 4x4 ids: https://dev.socrata.com/docs/endpoints.html
STRIDE = 1_743_541_808_669  # the golden section of KEYS, coprime to it: n -> n * STRIDE never repeats and looks random
PAIRS = [f"{left}{right}".encode() for left in ALPHABET for right in ALPHABET]
COLUMNS_BYTES = 48 << 10  # 18 of the 13,383 real records have more; the corpus gives 72 KiB from any start
FIRST_DAY = 13_879  # 2008-01-01, counted from 1970
CREATED_DAYS = 3000  # from that day on; with the three later revisions that there are, no date is past 2020
EDIT_DAYS = 400  # how much later each revision is


class Workload(Struct, frozen=True, kw_only=True):
    """The index to generate; `duplicates`, `invalid` and `changed` are percentages of `records`.

    `changed` edits that share of the records, compared with the same workload without it. `size` is the median record
    in bytes; left out, records weigh what real ones do. Raises `SettingsInvalid` when made with impossible values.
    """

    records: int = 1000
    sources: int = 20
    dialect: DialectName = "seed"
    format: Format = "json"
    duplicates: float = 0.0
    invalid: float = 0.0
    seed: int = 0
    changed: float = 0.0
    size: int | None = None

    def __post_init__(self) -> None:
        for flag, value, known in (("dialect", self.dialect, DialectName), ("format", self.format, Format)):
            if value not in get_args(known):
                raise SettingsInvalid(f"--{flag} must be one of {', '.join(get_args(known))}, got {value}")
        if self.format == "ndjson" and not self.sample.has_lines:
            raise SettingsInvalid(
                f"--format ndjson does not go with --dialect {self.dialect}, which is always one document"
            )
        smallest = self.sample.fixed_bytes
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

    @property
    def sample(self) -> Sample:
        """The templates of its dialect."""
        return DIALECTS[self.dialect].sample

    @property
    def portals(self) -> int:
        """How many portals its records are of."""
        return self.sources if self.sample.has_portals else 1

    @property
    def domain(self) -> str | None:
        """What a load needs as `--domain`; None where the index names its portals."""
        return _domain(0) if self.format in self.sample.needs_domain else None


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
    sources = workload.portals if workload.sample.source else min(workload.portals, distinct)
    return Expected(sources, workload.records, distinct, duplicates, special - duplicates)


def _document(workload: Workload) -> Iterator[bytes]:
    sample = workload.sample
    if sample.source:
        yield sample.sources
        yield from _separated(_sources(workload))
    names = {b"domain": _domain(0).encode(), b"records": workload.records}
    yield sample.before % names
    yield from _separated(_records(workload))
    yield sample.after % names


def _lines(workload: Workload) -> Iterator[bytes]:
    sample = workload.sample
    if sample.source:
        for source in _sources(workload):
            yield _marked(source, sample, b"source") + b"\n"
    for record in _records(workload):
        yield record + b"\n"


def _marked(record: bytes, sample: Sample, kind: bytes) -> bytes:
    """A record, or the template of one, as it stands in lines."""
    return b"{" + sample.line % kind + record[1:] if sample.line else record


def _separated(records: Iterable[bytes]) -> Iterator[bytes]:
    separator = b""
    for record in records:
        yield separator + record
        separator = b",\n"


def _sources(workload: Workload) -> Iterator[bytes]:
    for number in range(workload.portals):
        yield workload.sample.source % {b"domain": _domain(number).encode(), b"number": number + 1}


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


def _records(workload: Workload) -> Iterator[bytes]:
    writer = _Writer(workload)
    for number, revision in _order(workload):
        yield writer.valid(number, revision) if number >= 0 else writer.invalid(number)


class _Writer:
    """Writes any record of a workload, in any order."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.sample = sample = workload.sample
        template = sample.record.replace(b"%(columns)b", COLUMNS)
        self.template = _marked(template, sample, b"asset") if workload.format == "ndjson" else template
        self.changes = round(workload.changed / 100 * RANKS)
        self.first_key = int.from_bytes(xxh3_128_digest(workload.seed.to_bytes(8, "big")), "big") % KEYS
        self.corpus = corpus()
        self.lists = self.corpus.parts(sample.part) if sample.part else self.corpus.columns
        self.topics = [
            (json.dumps(topic)[1:-1].encode(), re.sub("[^A-Za-z]+", "-", topic).encode()) for topic in TOPICS
        ]
        days = range(CREATED_DAYS + 4 * EDIT_DAYS)
        self.days = [b"%bT" % str(date(1970, 1, 1) + timedelta(FIRST_DAY + day)).encode() for day in days]
        self.has_text = b"%(text)b" in template
        self.ranks, self.sizes = CATALOGUE if self.has_text else DIRECTORY
        self.median = self.sizes[self.ranks.index(RANKS // 2)]

    def valid(self, number: int, revision: int) -> bytes:
        key = self._key(number)
        return self._record(number, revision, key, self.sample.identity % key)

    def invalid(self, number: int) -> bytes:
        """A certain reject: no key, or one empty, blank, long or with a NUL; in NDJSON also half a line, a number."""
        key = self._key(number)
        keys = (b"", b" \\t ", key + b"\\u0000", key * 112)
        faults = (b"", *(self.sample.identity % wrong for wrong in keys))
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
        portals = self.workload.portals
        # Every portal gets a record first; then, as in real catalogues, few portals hold most.
        domain = _domain(number if 0 <= number < portals else portals * portal * portal >> 32).encode()
        title, slug = self.topics[topic % len(TOPICS)]
        time = b"%02d:%02d:%02d.%03dZ" % (clock % 24, topic % 60, portal % 60, columns % 1000)
        second = clock % 24 * 3600 + topic % 60 * 60 + portal % 60
        created = day % CREATED_DAYS
        updated = created + 1 + clock % EDIT_DAYS + revision * EDIT_DAYS
        return self.template % {
            b"identity": identity,
            b"key": key,
            b"name": b"%b %d (%b)" % (title, 2008 + created // 365, domain[5:-8]),
            b"domain": domain,
            b"topic": title,
            b"slug": slug,
            b"views": clock * 7,
            b"created": self.days[created] + time,
            b"updated": self.days[updated] + time,
            b"created_seconds": (FIRST_DAY + created) * 86_400 + second,
            b"updated_seconds": (FIRST_DAY + updated) * 86_400 + second,
            **self._filling(self._size(weight) - self.sample.fixed_bytes, words + 7 * revision, columns),
        }

    def _filling(self, room: int, words: int, columns: int) -> dict[bytes, bytes]:
        corpus, lists = self.corpus, self.lists
        if not self.has_text:
            return {b"tags": corpus.tags.run(words, room)[:-2]}
        tags = corpus.tags.run(words, min(room, words % 100))[:-2]
        share = min((room - len(tags)) * (columns % 16) // 16, COLUMNS_BYTES)
        first = columns % (len(lists.widths) // 2)
        end = bisect_right(lists.widths, lists.widths[first] + max(share, 0)) - 1
        filling = {name: runs.between(first, end)[:-2] for name, runs in lists.runs}
        used = len(tags) + lists.widths[end] - lists.widths[first]
        return filling | {b"tags": tags, b"text": corpus.text.run(words, room - used)}

    def _size(self, weight: int) -> int:
        at = bisect_right(self.ranks, weight)
        low, high, smaller, larger = *self.ranks[at - 1 : at + 1], *self.sizes[at - 1 : at + 1]
        size = smaller + (larger - smaller) * (weight - low) // (high - low)
        return size if self.workload.size is None else size * self.workload.size // self.median

    def _key(self, number: int) -> bytes:
        code = (self.first_key + number * STRIDE) % KEYS
        left, right = divmod(code, 36**4)
        id_ = b"%b%b-%b%b" % (PAIRS[left // 1296], PAIRS[left % 1296], PAIRS[right // 1296], PAIRS[right % 1296])
        return self.sample.key % {b"id": id_, b"code": code}
