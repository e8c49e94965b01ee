"""Where records stand in a document, besides its own arrays: nested, alone, in further documents; and unread ones."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from seed_registry.index.choice import choose, layout_of
from seed_registry.index.dialects import looks_like_record
from seed_registry.index.dialects.data_json import DATA_JSON
from seed_registry.index.json_document import DocumentFramer
from seed_registry.index.json_envelope import MAX_DEPTH, Layout
from seed_registry.index.sniff import sniff
from seed_registry.index.unread_arrays import OTHER_PLACES
from seed_registry.records import RawRecord, raw_records
from seed_registry.settings import Settings

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NO_LIMIT = 16 << 20
CATALOG = Layout(
    dict.fromkeys([*DATA_JSON.arrays], "asset"),
    DATA_JSON.nested,
    frozenset(DATA_JSON.singles(sniff(b"{}", "x"))),
    DATA_JSON.links,
    is_sequence=True,
)
NAMES = ["dataset", "catalog", "hasPart", "datasetSeries", "seriesMember", "first", "service", "servesDataset", "other"]


class Pairs(list[tuple[str, Any]]):
    """An object with its keys in order, repeated ones included."""


text = st.text(st.sampled_from('[]{}",:\\ é\n\u2028a'), max_size=6)
scalar = st.one_of(st.none(), st.booleans(), st.integers(-99, 99), text)
dataset = st.builds(lambda key, more: Pairs([("identifier", key), ("title", "t"), ("n", more)]), text, scalar)
thing = st.recursive(
    st.one_of(scalar, dataset),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(st.tuples(st.sampled_from(NAMES), inner), max_size=4).map(Pairs),
    ),
    max_leaves=25,
)
# What a layout is about: objects and arrays of them under its names, with datasets, links and other things in them.
inner = st.lists(
    st.tuples(st.sampled_from(NAMES), st.one_of(dataset, st.lists(st.one_of(text, dataset, thing), max_size=3))),
    max_size=3,
).map(Pairs)
nested = st.one_of(inner, st.lists(st.one_of(inner, thing), max_size=3))
catalog = st.lists(st.tuples(st.sampled_from(NAMES), st.one_of(thing, nested)), max_size=6).map(Pairs)


def rendered(value: Any, rng: random.Random) -> str:
    def space() -> str:
        return rng.choice(["", "", "", " ", "\n", "\r\n  "])

    if isinstance(value, Pairs):
        fields = (f"{space()}{json.dumps(key)}{space()}:{space()}{rendered(one, rng)}{space()}" for key, one in value)
        return f"{{{','.join(fields) or space()}}}"
    if isinstance(value, list):
        return f"[{','.join(f'{space()}{rendered(one, rng)}{space()}' for one in value) or space()}]"
    return json.dumps(value, ensure_ascii=rng.random() < 0.5)


def records_at(value: Any, path: tuple[str, ...], layout: Layout) -> Iterator[Any]:
    """What the layout says, word for word, of a parsed document."""
    if isinstance(value, Pairs):
        if path in layout.singles:
            yield value
            return
        inside = layout.nested.get(path, path) if path else path
        for key, one in value:
            yield from records_at(one, (*inside, key), layout)
    elif isinstance(value, list) and path in layout.arrays:
        yield from (one for one in value if not (path in layout.links and isinstance(one, str)))
    elif isinstance(value, list) and path in layout.nested:
        for one in value:
            if isinstance(one, Pairs):
                for key, inner in one:
                    yield from records_at(inner, (*layout.nested[path], key), layout)


def unread_in(value: Any, path: tuple[str, ...], layout: Layout) -> int:
    """How many datasets stand in arrays of the document that the layout does not know."""
    if isinstance(value, Pairs):
        if path in layout.singles:
            return 0
        inside = layout.nested.get(path, path) if path else path
        return sum(unread_in(one, (*inside, key), layout) for key, one in value)
    if not isinstance(value, list) or path in layout.arrays:
        return 0
    if path in layout.nested:
        walked = [one for one in value if isinstance(one, Pairs)]
        others = [one for one in value if not isinstance(one, Pairs)]
        return datasets_in(others) + sum(
            unread_in(inner, (*layout.nested[path], key), layout) for one in walked for key, inner in one
        )
    return datasets_in(value)


def datasets_in(elements: list[Any]) -> int:
    count = 0
    for one in elements:
        if isinstance(one, Pairs) and {"identifier", "title"} <= {key for key, _ in one}:
            count += 1
        elif isinstance(one, Pairs):
            fields = dict(one)  # of a key that is there twice the last one is seen
            while fields:
                _, inner = fields.popitem()
                if isinstance(inner, Pairs):
                    fields |= {f"{len(fields)} {key}": value for key, value in dict(inner).items()}
                elif isinstance(inner, list):
                    count += datasets_in(inner)
        elif isinstance(one, list):
            count += datasets_in(one)
    return count


def framed(
    parts: list[bytes], layout: Layout = CATALOG, limit: int = NO_LIMIT
) -> tuple[list[RawRecord], DocumentFramer]:
    framer = DocumentFramer(layout, max_record_bytes=limit, is_record=looks_like_record)
    records = []
    for part in parts:
        records += raw_records(framer.feed(part))
        while framer.pending:
            records += raw_records(framer.feed(b""))
    records += raw_records(framer.finish())
    while framer.pending:
        records += raw_records(framer.finish())
    return records, framer


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def parsed(data: bytes) -> Any:
    return json.loads(data, object_pairs_hook=Pairs)


@given(catalog, st.integers(0, 1 << 30), st.sampled_from([1, 2, 7, 64, 1 << 20]))
@example(Pairs([("catalog", [Pairs([("dataset", ["x", Pairs([("identifier", "k")])])]), "y", []])]), 0, 1)
@example(Pairs([("catalog", Pairs([("catalog", [Pairs([("dataset", Pairs([]))])])]))]), 0, 1)
@example(Pairs([("datasetSeries", [Pairs([("seriesMember", ["x", 1, Pairs([])])])])]), 0, 1)
@settings(untimed, max_examples=150)
def test_nested_records_are_those_of_the_parsed_document_wherever_chunks_are_cut(
    thing: Any, seed: int, size: int
) -> None:
    data = ("\n " + rendered(thing, random.Random(seed)) + "\n").encode()
    records, framer = framed(in_pieces(data, size))
    assert framer.problem is None
    assert framer.closed
    assert [parsed(one.data) for one in records] == list(records_at(parsed(data), (), CATALOG))
    for one in records:
        assert data[one.offset : one.offset + len(one.data)] == one.data
        assert one.line == data.count(b"\n", 0, one.offset) + 1
    assert sum(framer.counts.values()) == len(records)
    assert sum(framer.unread.counts.values()) == unread_in(parsed(data), (), CATALOG)


@given(st.lists(catalog, min_size=1, max_size=4), st.integers(0, 1 << 30), st.sampled_from([1, 3, 50, 1 << 20]))
@settings(untimed, max_examples=80)
def test_documents_one_after_another_are_read_each_with_its_own_header(things: list[Any], seed: int, size: int) -> None:
    rng = random.Random(seed)
    pages = [Pairs([("dataset", []), *thing, ("page", number)]) for number, thing in enumerate(things)]
    data = "".join(rendered(page, rng) + rng.choice(["", "\n", "\r\n\n ", "\t"]) for page in pages).encode()
    framer = DocumentFramer(CATALOG, max_record_bytes=NO_LIMIT)
    found: list[list[RawRecord]] = [[]]
    headers: list[int] = []
    steps = [lambda part=part: framer.feed(part) for part in in_pieces(data, size)] + [framer.finish]
    for step in steps:
        found[-1] += raw_records(step())
        while framer.closed and framer.pages > len(headers):
            headers.append(framer.header["page"])
            found.append([])
            if framer.pending:
                found[-1] += raw_records(framer.finish() if step == framer.finish else framer.feed(b""))
    assert framer.problem is None
    assert headers == list(range(len(pages)))
    expected = [list(records_at(parsed(rendered(page, rng).encode()), (), CATALOG)) for page in pages]
    assert [[parsed(one.data) for one in page] for page in found[:-1]] == expected
    for one in [one for page in found for one in page]:
        assert data[one.offset : one.offset + len(one.data)] == one.data
        assert one.line == data.count(b"\n", 0, one.offset) + 1


@given(catalog, st.integers(0, 1 << 30))
@settings(untimed, max_examples=100)
def test_a_document_cut_off_anywhere_is_an_error_and_the_records_before_are_kept(thing: Any, seed: int) -> None:
    data = rendered(thing, random.Random(seed)).encode()
    whole, _ = framed([data])
    rng = random.Random(seed)
    for length in sorted(rng.sample(range(len(data)), min(len(data), 12))):
        records, framer = framed(in_pieces(data[:length], 9))
        assert framer.problem is not None
        assert framer.problem.offset <= length
        expected = [one for one in whole if one.offset + len(one.data) <= length]
        assert records[: len(expected)] == expected
        # A number or a word that is cut may look whole.
        assert [len(one.data) < 6 for one in records[len(expected) :]] in ([], [True])


def test_a_nested_catalog_may_be_far_larger_than_a_record_and_none_of_it_is_kept() -> None:
    one = {"identifier": "k", "title": "t" * 300}
    inner = {"title": "in", "dataset": [one] * 500, "datasetSeries": [{"seriesMember": [one] * 3}] * 300}
    data = json.dumps({"catalog": [{"catalog": [inner]}], "dataset": [one]}, indent=1).encode()
    framer = DocumentFramer(CATALOG, max_record_bytes=2_000)
    count = 0
    for part in in_pieces(data, 4_000):
        count += len(raw_records(framer.feed(part)))
        assert len(framer._buffer) < 4_000 + 2_000
        assert sum(len(level.envelope.skeleton) for level in framer._levels) < 2_000
    count += len(raw_records(framer.finish()))
    assert (framer.problem, count) == (None, 500 + 900 + 1)


def test_what_lies_outside_the_records_is_limited_for_all_levels_together() -> None:
    field = '"text": "' + "x" * 700 + '"'
    data = f'{{{field}, "catalog": [{{{field}, "catalog": [{{{field}, "dataset": []}}]}}]}}'.encode()
    _, framer = framed([data], limit=2_000)
    assert framer.problem is not None
    assert "more than 2,000 bytes outside the records" in framer.problem.message
    assert framed([data], limit=3_000)[1].problem is None


def test_depth_is_counted_through_all_levels() -> None:
    for depth, is_sound in ((MAX_DEPTH - 1, True), (MAX_DEPTH, False)):
        data = b'{"catalog":[' * depth + b'{"dataset":[]}' + b"]}" * depth
        _, framer = framed([data])
        assert (framer.problem is None) == is_sound


@pytest.mark.parametrize(
    ("data", "offset", "message"),
    [
        (b'{"catalog":[{"dataset":[{"a":1} {"b":2}]}]}', 32, "expected ',' or ']'"),
        (b'{"catalog":[{"dataset" [1]}]}', 23, "expected ':'"),
        (b'{"catalog":[{"title":"x",}]}', 25, "trailing comma"),
        (b'{"catalog":[{"title":"x"},]}', 26, "a value is expected"),
        (b'{"catalog":[{"title":"x"} {"title":"y"}]}', 26, "expected ',' or ']'"),
        (b'{"catalog":[{"title":01}]}', 22, "invalid number"),
        (b'{"catalog":{"title":01}}', 21, "invalid number"),
        (b'{"dataset":{"a":1}} {"dataset":{"a":2', 37, "cut off"),
        (b'{"dataset":[{"a":1}]}\n{"error":true,"message":"Slow \\u001b[2Jdown"}', 22, r'says "Slow \x1b[2Jdown"'),
        (b'{"dataset":[{"a":1}]}\n{"x":1}', 22, "no array of records"),
        (b'{"dataset":[{"a":1}]} [1]', 22, "something follows"),
        (b'{"dataset":[{"a":1}]} x', 22, "something follows"),
        (b'{"x":1}{"dataset":[{"a":1}]}', 0, "no array of records"),
        (b"[] []", 3, "something follows"),
        (b'[{"a":1}][]{}', 11, "something follows"),
    ],
)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_problem_inside_names_its_byte(data: bytes, offset: int, message: str, size: int) -> None:
    _, framer = framed(in_pieces(data, size))
    assert framer.problem is not None
    assert (framer.problem.offset, message in framer.problem.message) == (offset, True), framer.problem


def test_arrays_one_after_another_are_read_while_they_hold_something() -> None:
    records, framer = framed([b'[{"a":1}]\n[{"b":1},{}]  []\n'])
    assert (framer.problem, [one.line for one in records]) == (None, [1, 2, 2])


def test_an_array_of_documents_is_its_documents() -> None:
    one = b'{"resource":{}}'
    data = b'[{"page":1,"results":[%b,%b]},\n{"results":[],"page":2}, {"results":[%b]}]' % (one, one, one)
    dialect, shape = choose(sniff(data, "x"), Settings(), "x")
    assert (dialect.name, shape.form) == ("discovery", "an array of documents")
    layout = layout_of(dialect, shape, Settings())
    for size in (1, 5, 1 << 20):
        framer = DocumentFramer(layout, max_record_bytes=NO_LIMIT)
        told = []
        for part in in_pieces(data, size):
            records = raw_records(framer.feed(part))
            while True:
                told += [(framer.header.get("page"), one.line) for one in records]
                if not framer.pending:
                    break
                records = raw_records(framer.feed(b""))
        assert framer.finish() == []
        assert framer.problem is None
        assert [line for _, line in told] == [1, 1, 2]
        assert framer.counts == {("results",): 3}


# unread records


def unread(thing: Any, layout: Layout = CATALOG) -> dict[str, int]:
    data = json.dumps(thing).encode()
    _, framer = framed([data], layout)
    assert framer.problem is None
    assert framed(in_pieces(data, 3), layout)[1].unread.counts == framer.unread.counts
    return framer.unread.counts


ONE = {"identifier": "k", "title": "t"}


def test_unread_records_are_counted_by_their_place_at_any_depth() -> None:
    assert unread({"dataset": [], "archive": [ONE, ONE, {"x": 1}, 7]}) == {"archive": 2}
    assert unread({"dataset": [], "groups": [{"name": "g", "members": [ONE]}, {"more": {"deep": [[ONE]]}}]}) == {
        "groups[].members": 1,
        "groups[].more.deep[]": 1,
    }
    assert unread({"catalog": [{"dataset": [], "old": {"ones": [ONE]}}]}) == {"catalog[].old.ones": 1}
    assert unread({"catalog": [[ONE]], "dataset": []}) == {"catalog[]": 1}


def test_what_is_inside_a_record_or_looks_like_none_is_no_unread_record() -> None:
    inside = {**ONE, "distribution": [ONE], "hasVersion": [ONE]}
    assert unread({"dataset": [inside], "service": [{**ONE, "servesDataset": [inside]}]}) == {}
    assert unread({"dataset": [], "contactPoint": [{"fn": "A"}], "theme": [{"@id": "x", "title": "y"}]}) == {}
    assert unread({"dataset": [], "archive": [inside]}) == {"archive": 1}, "only the outermost is counted"


@pytest.mark.parametrize(
    "one",
    [
        {"identifier": "k", "title": "t"},
        {"id": "k", "name": "n"},
        {"id": "abcd-2345", "permalink": "p"},
        {"asset_key": "k", "url": "u"},
        {"resource": {"id": "k"}, "metadata": {}},
        {"id": "k", "metadata_modified": "2024"},
    ],
)
def test_records_of_every_dialect_look_like_records(one: dict[str, Any]) -> None:
    assert unread(
        {"sources": [], "assets": [], "x": [one]}, Layout({("sources",): "source", ("assets",): "asset"})
    ) == {"x": 1}


@pytest.mark.slow
def test_a_hostile_number_of_places_is_counted_together() -> None:
    counts = unread({"dataset": [], **{f"place {number}": [ONE] for number in range(5_000)}})
    assert len(counts) == 101
    assert counts[OTHER_PLACES] == 5_000 - 100
    (place,) = unread({"dataset": [], "x" * 100_000: [ONE]})
    assert len(place) == 200


def test_an_element_too_long_to_look_into_is_counted_as_unread() -> None:
    data = json.dumps({"dataset": [], "x": [{"big": "y" * 5_000}, "z" * 5_000]}).encode()
    assert framed(in_pieces(data, 700), limit=2_000)[1].unread.counts == {"x": 1}
