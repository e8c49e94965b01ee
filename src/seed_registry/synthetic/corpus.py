"""The sizes and words of synthetic records."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import accumulate
from random import Random
from typing import Self

from msgspec import Struct

RANKS = 1 << 16  # the choices that make a record are numbers of 16 bits
ESCAPED, DESCRIBED = 0.5, 0.2  # how many sentences are pure ASCII, how many columns have a description

Curve = tuple[tuple[int, ...], tuple[int, ...]]
# Bytes of a record by its rank of 65,536: percentiles 0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9, 100 of the real ones.
CATALOGUE: Curve = (
    (0, 655, 3277, 6554, 16384, 32768, 49152, 58982, 62259, 64881, 65470, 65536),
    (1157, 1318, 1464, 1608, 2051, 2838, 4466, 7519, 10301, 23888, 53716, 194545),
)
DIRECTORY: Curve = (0, 3277, 16384, 32768, 49152, 62259, 65536), (400, 415, 429, 455, 490, 538, 705)

COLUMNS = (
    b'"columns_name": [%(names)b], "columns_field_name": [%(fields)b], "columns_datatype": [%(types)b], '
    b'"columns_description": [%(notes)b], "columns_format": [%(formats)b]'
)

# Words are split from strings because the formatter gives every element of a long list its own line.
CITIES = "albany austin bogota cork edmonton fukuoka ghent leeds lyon malmo nantes oslo porto quebec".split()  # noqa: SIM905
WORDS = """
    address annual areas bicycle block budget building bus capital census city code community county crime date daily
    department district energy facility fire fiscal fund health historic housing inspection inventory issued library
    license location map meter month number office owner parking park permit police population project property public
    rate record reported request road route school sensor service special state status street survey tax traffic
    transit tree type vendor violation volume ward waste water year zoning
""".split()  # noqa: SIM905
TOPICS = (
    "Air Quality", "Bike \\ Pedestrian Counts", "Budget", 'Building Permits "Active"', "Bus Stops & Routes",
    "Calidad del agua", "Crime Reports", "Données budgétaires", "Energy Use", "Fire Incidents", "Food Inspections",
    "Housing", "Library Visits 📚", "Parking Meters", "Property Tax", "Straßenbäume", "Street Trees", "Transit",
    "公開データ Parks", "Zoning <Draft>",
)  # fmt: skip
# Difficult content of real descriptions: HTML, CRLF, quotes, backslashes, accents, CJK, emoji, zero width.
SENTENCES = (
    "{}. ", "{}. ", "{}. ", "{}. ", "{}.\r\n", "<p>{}.</p>\r\n<br />", '"{}," said \\\\share\\data\\2019. ',
    '<a href="https://www.example/open?a=1&amp;b=2">{}</a> ', "Données publiées à Québec: {}. ",
    "東京都の公開データ {}. ", "🚲👩\u200d🔬 {}.\n\n", "\u200b{}\ufeff.\t",
)  # fmt: skip
TYPES = ("Text", "Text", "Number", "Number", "Calendar date", "Checkbox", "Point", "URL")
FORMATS = ("{}", "{}", "{}", "{}", '{"noCommas": "true"}', '{"precisionStyle": "standard", "align": "right"}')


class Runs(Struct, frozen=True):
    """JSON fragments end to end, so that any run of them is one slice."""

    joined: bytes
    starts: list[int]

    def between(self, first: int, end: int) -> bytes:
        """The fragments from `first` up to `end`."""
        return self.joined[self.starts[first] : self.starts[end]]

    def run(self, pick: int, room: int) -> bytes:
        """As many fragments as fit into `room` bytes, beginning anywhere in the first half, again and again."""
        middle = len(self.starts) // 2
        first = pick % middle
        turns, rest = divmod(max(room, 0), self.starts[middle])
        end = bisect_right(self.starts, self.starts[first] + rest) - 1
        return self.joined[: self.starts[middle]] * turns + self.between(first, end)


class Lists(Struct, frozen=True):
    """Lists of equal length, whose elements belong together."""

    runs: list[tuple[bytes, Runs]]  # each with its name in templates
    widths: list[int]  # where each element would start if its fragments stood together

    @classmethod
    def of(cls, *runs: tuple[bytes, Runs]) -> Self:
        """These lists."""
        return cls(list(runs), [sum(starts) for starts in zip(*(run.starts for _, run in runs), strict=True)])


class Corpus(Struct, frozen=True):
    """Everything that records are filled with."""

    text: Runs
    tags: Runs
    columns: Lists
    elements: list[dict[bytes, bytes]]  # name, field, type and note of columns

    def parts(self, template: bytes) -> Lists:
        """A list of objects, of which each is a column filled into the template."""
        return Lists.of((b"parts", _runs(template % element + b", " for element in self.elements)))


@cache
def corpus() -> Corpus:
    """The corpus, made once, the same on every platform."""
    # Of all that Random has, random() is promised to repeat itself: https://docs.python.org/3/library/random.html
    random = Random(0).random  # noqa: S311  # text, not secrets

    def pick(choices: Sequence[str]) -> str:
        return choices[int(random() * len(choices))]

    def phrase(low: int, high: int) -> str:
        return " ".join(pick(WORDS) for _ in range(low + int(random() * (high - low)))).capitalize()

    # Portals differ in whether they escape non-ASCII text, so both occur.
    text = _runs(
        json.dumps(pick(SENTENCES).format(phrase(5, 18)), ensure_ascii=random() < ESCAPED)[1:-1].encode()
        for _ in range(4096)
    )
    names = [phrase(1, 4) for _ in range(2048)]
    notes = [phrase(4, 12) + "." if random() < DESCRIBED else "" for _ in names]
    fields = [name.lower().replace(" ", "_") for name in names]
    types = [pick(TYPES) for _ in names]
    formats = [pick(FORMATS) for _ in names]
    return Corpus(
        text=text,
        tags=_runs(f'"{name.lower()}", '.encode() for name in names),
        columns=Lists.of(
            (b"names", _listed(names)),
            (b"fields", _listed(fields)),
            (b"types", _listed(types)),
            (b"notes", _listed(notes)),
            (b"formats", _runs(f"{format_}, ".encode() for format_ in formats)),
        ),
        elements=[
            {b"name": name.encode(), b"field": field.encode(), b"type": type_.encode(), b"note": note.encode()}
            for name, field, type_, note in zip(names, fields, types, notes, strict=True)
        ],
    )


def _listed(texts: Iterable[str]) -> Runs:
    return _runs(f'"{text}", '.encode() for text in texts)


def _runs(fragments: Iterable[bytes]) -> Runs:
    encoded = list(fragments)
    return Runs(b"".join(encoded), list(accumulate(map(len, encoded), initial=0)))
