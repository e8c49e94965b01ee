from __future__ import annotations

import io
import itertools
import json
import os
import random
import string
from collections.abc import Iterable, Iterator
from typing import Any

import ijson
import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from seed_registry.index import json_document, json_scan
from seed_registry.index.json_document import DocumentFramer
from seed_registry.index.json_envelope import MAX_DEPTH, Layout
from seed_registry.index.ndjson import EXCERPT_BYTES
from seed_registry.records import RawRecord, raw_records

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine fails no test
ARRAYS = {("sources",): "source", ("assets",): "asset", ("result", "assets"): "inner"}
WHOLE: dict[tuple[str, ...], str] = {(): "asset"}
NO_LIMIT = 16 << 20
STYLES: dict[str, dict[str, Any]] = {"minified": {"separators": (",", ":")}, "python": {}, "pretty": {"indent": 2}}
WHITE_SPACE = ["", "", " ", "\n", "\r\n\t", "\n    "]
# CI runs these properties on more examples than everybody's `make test` does.
SCALE = int(os.environ.get("EXAMPLES_SCALE", "1"))

# Text made of what could mislead a scanner: brackets, quotes, backslash runs, and what JSON writes as an escape.
misleading = st.text(st.sampled_from('[]{}",:\\/ u0é€😀\n\t\0ab'), max_size=12)
scalar = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 62), 1 << 62),
    st.floats(allow_nan=False, allow_infinity=False),
    misleading,
)
value = st.recursive(
    scalar, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(misleading, inner, max_size=4), max_leaves=12
)


class Pairs(list[tuple[str, Any]]):
    """An object with its keys in order, repeated ones included."""


record = st.one_of(
    value,
    # what most indexes hold: objects that begin alike, so that seams are found
    st.builds(lambda key, more: Pairs([("id", key), ("more", more)]), misleading, value),
)
elements = st.lists(record, max_size=6)
member = st.one_of(
    st.tuples(st.sampled_from(["sources", "assets", "assets"]), elements),
    st.tuples(st.sampled_from(["sources", "assets", "domain", "other"]), value),
    st.tuples(
        st.just("result"), st.lists(st.tuples(st.sampled_from(["assets", "id"]), elements), max_size=3).map(Pairs)
    ),
)
envelope = st.lists(member, max_size=7).map(Pairs)


def rendered(thing: Any, rng: random.Random) -> str:
    """JSON with white space anywhere, and each string escaped one way or the other."""

    def space() -> str:
        return rng.choice(WHITE_SPACE)

    if isinstance(thing, Pairs | dict):
        pairs = thing if isinstance(thing, Pairs) else thing.items()
        inside = ",".join(
            f"{space()}{rendered(k, rng)}{space()}:{space()}{rendered(v, rng)}{space()}" for k, v in pairs
        )
        return f"{{{inside or space()}}}"
    if isinstance(thing, list):
        return f"[{','.join(f'{space()}{rendered(item, rng)}{space()}' for item in thing) or space()}]"
    return json.dumps(thing, ensure_ascii=rng.random() < 0.5)


@st.composite
def document(draw: st.DrawFn, shape: st.SearchStrategy[Any] = envelope) -> bytes:
    thing = draw(shape)
    style = draw(st.sampled_from(["wild", *STYLES]))
    if style == "wild":
        rng = random.Random(draw(st.integers(0, 1 << 30)))
        return (rng.choice(WHITE_SPACE) + rendered(thing, rng) + rng.choice(WHITE_SPACE)).encode()
    pairs = json.loads(rendered(thing, random.Random(0)), object_pairs_hook=Pairs)
    return _dumps(pairs, **STYLES[style]).encode()


def _dumps(thing: Any, level: int = 0, *, indent: int = 0, separators: tuple[str, str] = (", ", ": ")) -> str:
    """Like `json.dumps`, which knows no repeated keys."""
    comma, colon = separators
    if not isinstance(thing, list) or not thing:
        return "{}" if isinstance(thing, Pairs) else json.dumps(thing)
    inner = "\n" + " " * indent * (level + 1) if indent else ""
    outer = "\n" + " " * indent * level if indent else ""
    comma = "," if indent else comma
    options: dict[str, Any] = {"indent": indent, "separators": separators}
    if isinstance(thing, Pairs):
        parts = [json.dumps(key) + colon + _dumps(item, level + 1, **options) for key, item in thing]
        return "{" + inner + (comma + inner).join(parts) + outer + "}"
    return "[" + inner + (comma + inner).join(_dumps(item, level + 1, **options) for item in thing) + outer + "]"


def arrays_at(thing: Any, path: tuple[str, ...]) -> Iterator[list[Any]]:
    if not path and isinstance(thing, list) and not isinstance(thing, Pairs):
        yield thing
    if path and isinstance(thing, Pairs):
        for key, inner in thing:
            if key == path[0]:
                yield from arrays_at(inner, path[1:])


def with_arrays_emptied(thing: Any) -> Any:
    if isinstance(thing, Pairs):
        return {key: with_arrays_emptied(inner) for key, inner in thing}
    return [] if isinstance(thing, list) else thing


def framed(
    parts: Iterable[bytes], arrays: Any = ARRAYS, limit: int = NO_LIMIT
) -> tuple[list[RawRecord], DocumentFramer]:
    """The records; the same whether the elements are decoded while they are cut out or not."""
    parts = list(parts)
    records, framer = framed_by(DocumentFramer(Layout(arrays), max_record_bytes=limit), parts)
    decoding = DocumentFramer(Layout(arrays), max_record_bytes=limit, decode=decoded_objects)
    decoded, _ = framed_by(decoding, parts)
    assert (decoded, decoding.problem, decoding.header) == (records, framer.problem, framer.header)
    assert decoding.counts == framer.counts
    return records, framer


class Anything(msgspec.Struct):
    """Any object."""


def decoded_objects(data: list[bytes]) -> tuple[list[Any], list[int]]:
    """Objects, but for some."""
    decode, others = msgspec.json.Decoder(Anything).decode, []
    for position, one in enumerate(data):
        try:
            decode(one)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            others.append(position)
        if len(one) % 7 == 0:
            others.append(position)
    return [None] * len(data), others


def framed_by(framer: DocumentFramer, parts: Iterable[bytes]) -> tuple[list[RawRecord], DocumentFramer]:
    records = [found for part in parts for found in fed(framer, part)] + raw_records(framer.finish())
    while framer.pending:
        records += raw_records(framer.finish())
    return records, framer


def fed(framer: DocumentFramer, part: bytes) -> list[RawRecord]:
    records = raw_records(framer.feed(part))
    while framer.pending:
        records += raw_records(framer.feed(b""))
    return records


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def cut(data: bytes, places: Iterable[float]) -> list[bytes]:
    marks = sorted({0, len(data), *(int(place * len(data)) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(marks)]


places = st.lists(st.floats(0, 1), max_size=8)


def check(data: bytes, records: list[RawRecord], framer: DocumentFramer, arrays: Any = ARRAYS) -> None:
    """All that is promised of a whole document."""
    assert framer.problem is None
    assert framer.closed
    whole = json.loads(data, object_pairs_hook=Pairs)
    for path, kind in arrays.items():
        wanted = [item for array in arrays_at(whole, path) for item in array]
        found = [json.loads(one.data, object_pairs_hook=Pairs) for one in records if one.kind == kind]
        assert found == wanted
        assert framer.counts.get(path, 0) == len(wanted)
    for one in records:
        assert data[one.offset : one.offset + len(one.data)] == one.data
        assert one.line == data.count(b"\n", 0, one.offset) + 1
        assert not one.excess
    assert [one.offset for one in records] == sorted(one.offset for one in records)
    assert framer.header == (with_arrays_emptied(whole) if isinstance(whole, Pairs) else {})


@given(document(), places)
@example(b'{"assets":["\\\\",{"\\"]":"}"}]}', [0.3])
@example(b'{"assets":[],"assets":[ ],"sources":[[],{},""]}', [0.5])
@settings(untimed, max_examples=150 * SCALE)
def test_records_are_the_elements_of_the_arrays_wherever_the_chunks_are_cut(data: bytes, where: list[float]) -> None:
    check(data, *framed(cut(data, where)))


@given(document())
@settings(untimed, max_examples=80 * SCALE)
def test_one_byte_at_a_time_gives_the_same_as_everything_at_once(data: bytes) -> None:
    slow, slow_framer = framed(in_pieces(data, 1))
    fast, fast_framer = framed([data])
    check(data, slow, slow_framer)
    assert slow == fast
    assert slow_framer.header == fast_framer.header


@given(document(elements), places)
@settings(untimed, max_examples=100 * SCALE)
def test_a_document_may_be_the_array_itself(data: bytes, where: list[float]) -> None:
    check(data, *framed(cut(data, where), WHOLE), WHOLE)


@given(document(), places)
@settings(untimed, max_examples=80 * SCALE)
def test_records_are_what_ijson_finds(data: bytes, where: list[float]) -> None:
    expected = list(ijson.items(io.BytesIO(data), "assets.item", use_float=True))
    records, _ = framed(cut(data, where))
    assert [json.loads(one.data) for one in records if one.kind == "asset"] == expected


def test_offsets_count_from_where_the_document_begins() -> None:
    framer = DocumentFramer(Layout(WHOLE), max_record_bytes=NO_LIMIT, offset=3)
    assert [one.offset for one in raw_records(framer.feed(b" [1, 2]"))] == [5, 8]


def test_the_header_before_an_array_is_known_with_its_first_records() -> None:
    framer = DocumentFramer(Layout(ARRAYS), max_record_bytes=NO_LIMIT)
    framer.feed(b'{"domain": "d.org", "retention": {"since": 1}, "assets": [{"id": 1}, ')
    assert framer.header == {"domain": "d.org", "retention": {"since": 1}, "assets": []}
    assert not framer.closed
    framer.feed(b'{"id": 2}], "late": true} ')
    assert framer.header["late"] is True
    assert framer.closed


def test_an_array_that_is_not_there_is_not_counted_and_an_empty_one_is() -> None:
    _, framer = framed([b'{"sources": [], "other": [1]}'])
    assert framer.counts == {("sources",): 0}


# big documents: by the block


def big_document(seed: int) -> bytes:
    """Some 400 KiB in one of the layouts that are found, with texts and nested objects that look like seams."""
    rng = random.Random(seed)
    indent, comma, newline = [(None, ",", ""), (None, ", ", "\n"), (2, ",", "\n"), ("\t", ",", "\r\n")][seed % 4]
    texts = ['"},{"id":"', "},{", '\\"},\n{\\"id\\"', "}]}", "é😀\u2028", "\\" * 9, "plain " * 20]

    def one(number: int) -> dict[str, Any]:
        more = {"columns": [{"id": number, "t": rng.choice(texts)}, {"id": -1}]} if rng.random() < 0.3 else {}
        return {"id": f"{number}", "text": rng.choice(texts) * rng.randrange(8), "n": rng.random(), **more}

    separators = (comma + newline, ":") if indent is None else (comma, ": ")
    thing = {
        "domain": "d.org",
        "sources": [one(number) for number in range(3)],
        "assets": [
            one(number) if rng.random() < 0.99 else rng.choice([None, [], {}, "x", 7]) for number in range(2500)
        ],
        "other": [one(number) for number in range(300)],
        "totalCount": 2500,
    }
    return json.dumps(thing, indent=indent, separators=separators, ensure_ascii=seed % 3 == 0).encode()


class BlocksTaken:
    """Counts the blocks that were taken for arrays, and those that were not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.records = self.refused = 0
        decode = json_document._decode_block

        def counting(data: bytes) -> list[msgspec.Raw]:
            try:
                values = decode(data)
            except ValueError:
                self.refused += 1
                raise
            self.records += len(values)
            return values

        monkeypatch.setattr(json_document, "_decode_block", counting)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_the_block_and_the_token_agree_on_big_documents(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = big_document(seed)
    assert len(data) > 300 << 10
    with monkeypatch.context() as patch:
        taken = BlocksTaken(patch)
        fast, framer = framed(in_pieces(data, 64 << 10))
        assert taken.records > 1200, "the block path is what this test is about"
    check(data, fast, framer)
    once, framer = framed([data])
    check(data, once, framer)
    with monkeypatch.context() as patch:
        patch.setattr(json_scan.OpenArray, "learn_seam", lambda *_: None)
        taken = BlocksTaken(patch)
        slow, framer = framed(in_pieces(data, 997))
        assert taken.records == taken.refused == 0
    check(data, slow, framer)
    assert fast == once == slow


def test_the_block_and_the_token_agree_byte_by_byte() -> None:
    data = big_document(1)
    assert framed(in_pieces(data, 1))[0] == framed(in_pieces(data, 64 << 10))[0]


def test_a_block_never_hides_what_is_broken_inside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    one = b'{"id":"abcd-efgh","name":"text"}'
    good = b'{"assets":[' + b",".join([one] * 10_000) + b"]}"
    middle = good.index(one, len(good) // 2)
    taken = BlocksTaken(monkeypatch)
    for wrong in (one + b" ", one[:-1] + b"]", one.replace(b":", b";", 1), b'{"id" "x"}', one + one, b"", b"]"):
        data = good[:middle] + wrong + good[middle + len(one) :]
        records, framer = framed(in_pieces(data, 64 << 10))
        sound = framer.problem is None and all(decodes(found.data) for found in records)
        assert sound == json_accepts(data)
    assert taken.refused
    assert taken.records


def test_an_element_that_is_too_long_stands_alone_in_a_block() -> None:
    limit = 2000
    items = [b'{"id":%d,"t":"%s"}' % (number, b"x" * (5000 if number == 500 else 20)) for number in range(1000)]
    records, framer = framed([b"[" + b",".join(items) + b"]"], WHOLE, limit)
    assert framer.problem is None
    assert [one.excess for one in records if one.excess] == [len(items[500])]
    assert [one.data for one in records if not one.excess] == items[:500] + items[501:]


# broken documents


def decodes(data: bytes) -> bool:
    try:
        msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return False
    return True


def json_accepts(data: bytes) -> bool:
    """The strict judge. Bytes that are no UTF-8 are a record's own matter, not the document's grammar."""
    try:
        json.loads(data.decode("utf-8", "surrogateescape"))
    except ValueError:
        return False
    return True


def small_document() -> bytes:
    rng = random.Random(7)
    texts = ["plain", 'qu"ote', "back\\slash\\", "}],{[", "é😀", "\n\t"]

    def one(number: int) -> dict[str, Any]:
        return {"id": f"k{number}", "t": rng.choice(texts), "n": [rng.random(), {}, []], "o": {"x": None, "y": True}}

    thing = {
        "head": {"a": {"b": "c"}, "list": [1, "two", {"three": 3}]},
        "sources": [one(number) for number in range(5)],
        "count": -1.5e3,
        "assets": [*(one(number) for number in range(12)), "text", []],
        "tail": [[], {}],
    }
    return json.dumps(thing, indent=1, ensure_ascii=False).encode()


@pytest.mark.parametrize("size", [1 << 20, pytest.param(13, marks=pytest.mark.slow)])
def test_a_document_cut_off_anywhere_is_never_taken_for_whole(size: int) -> None:
    data = small_document()
    assert 1500 < len(data) < 4000
    whole, framer = framed([data])
    check(data, whole, framer)
    for length in range(len(data)):
        records, framer = framed(in_pieces(data[:length], size))
        assert framer.problem is not None
        assert framer.problem.offset == length
        ended = [one for one in whole if one.offset + len(one.data) <= length]
        assert records == ended


def test_a_number_that_may_go_on_is_returned_before_the_problem() -> None:
    records, framer = framed([b'{"assets":[1, 12'])
    assert [one.data for one in records] == [b"1", b"12"]
    assert framer.problem is not None


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_a_corrupted_byte_never_crashes_and_what_is_accepted_is_json(seed: int) -> None:
    data = small_document()
    rng = random.Random(seed)
    accepted = refused = 0
    for _ in range(800):
        place = rng.randrange(len(data))
        byte = rng.choice(b'{}[]",:\\ \n0-eE.tfnu\0\xff\xc3') if rng.random() < 0.7 else rng.randrange(256)
        keep = place if rng.random() < 0.2 else place + 1  # put in, or put in its place
        broken = data[:place] + bytes([byte]) + data[keep:]
        records, framer = framed(in_pieces(broken, rng.choice([1 << 20, 64, 5])))
        if framer.problem is None and all(decodes(one.data) for one in records):
            assert json_accepts(broken)
            accepted += 1
        else:
            assert framer.problem is None or 0 <= framer.problem.offset <= len(broken)
            refused += 1
    assert accepted > 60
    assert refused > 200


BROKEN = [
    ("a missing comma between records", b'{"assets":[{"a":1} {"b":2}]}', 19, "expected ',' or ']'"),
    ("a missing comma between numbers", b"[1 2]", 3, "expected ',' or ']'"),
    ("a colon between records", b"[1:2]", 2, "expected ',' or ']'"),
    ("a trailing comma in the array", b'{"assets":[{"a":1}, ]}', 20, "a value is expected"),
    ("a comma alone", b"[,]", 1, "a value is expected"),
    ("two commas", b"[1,,2]", 3, "a value is expected"),
    ("a trailing comma in the envelope", b'{"assets":[1], }', 15, "trailing comma"),
    ("a brace closing the array", b'{"assets":[1}}', 12, "expected ',' or ']'"),
    ("a brace closing the empty array", b'{"assets":[}}', 11, "a value is expected"),
    ("a bracket closing the envelope", b'{"assets":[1]  ]', 15, "closes what was never opened"),
    ("a bracket opening nothing", b"  ]", 2, "closes what was never opened"),
    ("garbage after the end", b'{"assets":[1]} x', 15, "something follows"),
    ("a second document", b'{"assets":[1]}\n{"assets":[2]}', 15, "something follows"),
    ("a second bracket", b"[1]]", 3, "something follows"),
    ("no colon", b'{"assets" [1]}', 10, "expected ':'"),
    ("no key", b"{[1]}", 1, "object keys must be strings"),
    ("a number in the header", b'{"n": 01, "assets":[1]}', 7, "invalid number"),
    ("a word in the header", b'{"assets":[1], "z": @ }', 20, "invalid character"),
    ("a control character in the header", b'{"assets":[1], "z": "a\tb"}', 22, "invalid character"),
    ("no UTF-8 in the header", b'{"a":"ok","b":"xx\xffx","assets":[1]}', 17, "not UTF-8"),
    ("no UTF-8 behind an array", b'{"assets":[1,2,3],"b":"\xff"}', 23, "not UTF-8"),
    ("a broken element that nobody wants", b'{"other":[1,{"a" 1}],"assets":[]}', 17, "expected ':'"),
    ("a byte order mark, which is not the framer's", b"\xef\xbb\xbf[1]", 0, "invalid character"),
]


@pytest.mark.parametrize("size", [1 << 20, 1], ids=["at once", "byte by byte"])
@pytest.mark.parametrize(("data", "offset", "message"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_problem_names_the_byte_and_what_is_wrong_with_it(data: bytes, offset: int, message: str, size: int) -> None:
    arrays = WHOLE if data.lstrip().startswith((b"[", b"\xef")) else ARRAYS
    _, framer = framed(in_pieces(data, size), arrays)
    assert framer.problem is not None
    assert message in framer.problem.message
    assert framer.problem.offset == offset


def test_white_space_keeps_apart_what_it_keeps_apart_wherever_the_chunks_are_cut() -> None:
    for data in (b'{"n": 1 2, "assets":[]}', b'{"assets":[], "n": tru  e }', b'{"assets":[1 \n 2]}', b'{"n": 1\n\n2}'):
        for size in (1, 2, 3, 7, 8, 9, 100):
            assert framed(in_pieces(data, size))[1].problem is not None


def test_records_before_a_problem_are_kept_and_nothing_comes_after_it() -> None:
    framer = DocumentFramer(Layout(WHOLE), max_record_bytes=NO_LIMIT)
    assert [one.data for one in framer.feed(b'[{"a":1},{"b":2}; ')] == [b'{"a":1}', b'{"b":2}']
    assert framer.problem is not None
    assert framer.feed(b"{},{}]") == framer.finish() == []


# too long, too deep, too many

TOO_LONG = {
    "text": b'"' + b'\\"]}\\\\' * 9000 + b'"',
    "backslashes": b'"' + b"\\\\" * 20_000 + b'"',
    "object": b'{"k":[' + b'{"a":"]}"},' * 5000 + b"1]}",
    "array": b"[" + b'["\\\\"],' * 6000 + b"[]]",
    "number": b"1" * 1_000,
    "one long key": b'{"' + b"k" * 50_000 + b'":1}',
    "white space": b'{"a":' + b" \n" * 25_000 + b"1}",
}


@pytest.mark.parametrize("size", [1, 7, 64, 1000, 1 << 20])
@pytest.mark.parametrize("kind", TOO_LONG)
def test_an_element_that_is_too_long_is_dropped_and_the_next_one_is_right(kind: str, size: int) -> None:
    long, limit = TOO_LONG[kind], 256
    data = b'{"assets": [{"a":1},\n ' + long + b' ,\n{"b":2}, "x"]}'
    framer = DocumentFramer(Layout(ARRAYS), max_record_bytes=limit)
    records, most = list[RawRecord](), 0
    for part in in_pieces(data, size):
        records += raw_records(framer.feed(part))
        most = max(most, len(framer._buffer))
    records += raw_records(framer.finish())
    assert framer.problem is None
    assert [one.data for one in records if not one.excess] == [b'{"a":1}', b'{"b":2}', b'"x"']
    dropped = records[1]
    assert (dropped.excess, dropped.line, dropped.offset) == (len(long), 2, data.index(long))
    assert dropped.data
    assert long.startswith(dropped.data)
    assert len(dropped.data) <= EXCERPT_BYTES
    assert all(data[one.offset :].startswith(one.data) for one in records)
    assert [one.line for one in records] == [data.count(b"\n", 0, one.offset) + 1 for one in records]
    assert most <= limit + size


def test_what_lies_inside_a_dropped_element_is_never_taken_for_records() -> None:
    inner = b'{"id":0},{"id":0},'
    start, end = b'[{"id":1},{"id":2},{"id":3,"inner":[', b'{"id":0}]},{"id":4},{"id":5}]'
    records, framer = framed([start, *[inner] * 1000, end], WHOLE, 256)
    assert framer.problem is None
    assert [json.loads(one.data)["id"] for one in records if not one.excess] == [1, 2, 4, 5]
    assert [one.excess for one in records if one.excess] == [len(b'{"id":3,"inner":[' + inner * 1000 + b'{"id":0}]}')]


def test_an_unwanted_element_that_is_too_long_is_dropped_too() -> None:
    framer = DocumentFramer(Layout(ARRAYS), max_record_bytes=256)
    records = []
    for part in in_pieces(b'{"other":["' + b"x" * 100_000 + b'", 1], "assets":[{"b":2}]}', 100):
        records += framer.feed(part)
        assert len(framer._buffer) <= 356
    assert [one.data for one in records] == [b'{"b":2}']


@pytest.mark.parametrize(
    "data",
    [
        b'{"' + b"k" * 5000 + b'": 1}',
        b'{"k": "' + b"v" * 5000 + b'"}',
        b'{"k": ' + b"1" * 1_500 + b"}",
        b'{"k": 1, ' * 1000,
        b'{"assets": [1], ' + b'"k": [], ' * 1000 + b'"z": 1}',
    ],
    ids=["a key", "a text", "a number", "nesting", "empty arrays"],
)
@pytest.mark.parametrize("size", [100, 1 << 20])
def test_an_envelope_that_is_too_long_is_a_problem(data: bytes, size: int) -> None:
    framer = DocumentFramer(Layout(ARRAYS), max_record_bytes=1000)
    for part in in_pieces(data, size):
        framer.feed(part)
        if framer.problem:
            break
        assert len(framer._buffer) <= 1000 + size
    assert framer.problem is not None
    assert "outside the records" in framer.problem.message or "deeper" in framer.problem.message


@pytest.mark.parametrize("depth", [100, 2_000])
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_brackets_without_end_are_a_problem(depth: int, opening: bytes) -> None:
    records, framer = framed(in_pieces(opening * depth, 256 << 10), WHOLE)
    assert framer.problem is not None
    assert records == []


@pytest.mark.parametrize("depth", [100, 2_000])
@pytest.mark.parametrize("wanted", [WHOLE, {("x",): "asset"}], ids=["wanted", "unwanted"])
def test_a_deep_element_among_others_does_not_stop_the_reading(depth: int, wanted: Any) -> None:
    deep = b"[" * depth + b"]" * depth
    records, framer = framed(in_pieces(b'[{"a":1},' + deep + b',{"a":2},{"a":3}]', 256 << 10), wanted)
    assert framer.problem is None
    assert [len(one.data) for one in records] == ([7, len(deep), 7, 7] if wanted is WHOLE else [])


@pytest.mark.parametrize("excess", [0, 1])
def test_a_record_too_long_to_keep_has_as_many_open_brackets_as_the_limit(
    excess: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_document, "_MAX_OPEN_BRACKETS", 50)
    levels = 50 + excess
    long = b"[" * levels + b" " * 300 + b"]" * levels
    records, framer = framed(in_pieces(b'[{"a":1},' + long + b',{"a":2}]', 100), WHOLE, 256)
    assert [bool(one.excess) for one in records] == [False, True, False][: 1 if excess else 3]
    assert (framer.problem is not None) is bool(excess)


def test_an_envelope_nests_as_deep_as_the_limit_and_no_deeper() -> None:
    for depth, problem in ((MAX_DEPTH, False), (MAX_DEPTH + 1, True)):
        _, framer = framed([b'{"a":' * depth + b"1" + b"}" * depth])
        assert bool(framer.problem) == problem


@pytest.mark.slow
def test_a_million_keys_and_a_huge_key_are_read() -> None:
    many = b"{" + b",".join(b'"%d":1' % number for number in range(1_000_000)) + b"}"
    huge = b'{"' + b"k" * 10_000_000 + b'":1}'
    records, framer = framed(in_pieces(b"[" + many + b"," + huge + b"]", 256 << 10), WHOLE)
    assert framer.problem is None
    assert [one.data for one in records] == [many, huge]


@pytest.mark.slow
def test_a_hundred_thousand_keys_around_the_records_are_read() -> None:
    keys = b",".join(b'"%s%d":1' % (string.ascii_letters.encode(), number) for number in range(100_000))
    records, framer = framed(in_pieces(b"{" + keys + b',"assets":[7]}', 256 << 10))
    assert framer.problem is None
    assert [one.data for one in records] == [b"7"]
    assert len(framer.header) == 100_001
