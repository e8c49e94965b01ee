from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seed_registry.errors import IndexNotUnderstood
from seed_registry.index import sniff as sniffer
from seed_registry.index.byte_stream import HEAD_BYTES
from seed_registry.index.shape import Shape
from seed_registry.index.sniff import MAX_BYTES, MAX_LEVELS, MAX_NUMBER_BYTES, sniff

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine fails no test
RECORD = {"type": "asset", "id": "k", "resource": {"id": "k"}, "n": 1.5, "list": [1]}
LINE = json.dumps(RECORD).encode()
KEYS = {"type": "asset", "id": "k", "resource": "object", "n": 1.5, "list": "array"}


def looked(data: bytes) -> Shape:
    return sniff(data[:HEAD_BYTES], "x.json")


def test_a_line_after_a_whole_object_makes_ndjson() -> None:
    shape = looked(LINE + b"\n" + LINE + b"\n")
    assert shape.lines
    assert {key: float(v) if key == "n" else v for key, v in shape.keys.items()} == KEYS


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\n\n", b" \n\t"])
def test_blank_lines_and_carriage_returns_are_still_ndjson(newline: bytes) -> None:
    assert looked(newline + LINE + newline + LINE).lines


@pytest.mark.parametrize(
    "broken",
    [
        b'{"id": "k',
        b'{"id": "k",',
        b"{",
        b"garbage",
        b'{"id" 1}',
        b'{"a":1}}',
        b"[1,",
        b'"text"',
        b"\xff",
        b"{'id': 1}",
    ],
)
def test_a_broken_first_line_among_good_ones_is_still_ndjson(broken: bytes) -> None:
    shape = looked(b"\n".join([broken, LINE, LINE]))
    assert shape.lines
    assert shape.keys["type"] == "asset"


def test_a_line_cut_by_the_heads_end_is_no_broken_one() -> None:
    shape = looked((LINE + b"\n") * 2000)
    assert shape.lines


def test_one_object_on_one_line_may_be_either() -> None:
    shape = looked(LINE + b"\n")
    assert (shape.lines, shape.single) == (False, True)
    shape = looked(b'{"id": "' + b"x" * HEAD_BYTES * 2 + b'"}\n' + LINE)
    assert (shape.lines, shape.single) == (False, True)


@pytest.mark.parametrize("indent", [1, 4, "\t"])
def test_an_object_on_several_lines_is_a_document(indent: Any) -> None:
    shape = looked(json.dumps({"assets": [RECORD, RECORD]}, indent=indent).encode())
    assert (shape.lines, shape.single) == (False, False)
    assert shape.arrays == {("assets",): set(RECORD)}


@pytest.mark.parametrize("end", [b"", b"\n", b"  \n\n"])
def test_the_last_key_of_a_whole_document_keeps_its_value(end: bytes) -> None:
    assert looked(b'{"a": 1, "datasets": []}' + end).keys == {"a": 1, "datasets": "array"}
    assert looked(b'{"a": 1, "o": {"x": 2}}' + end).keys == {"a": 1, "o": "object"}
    assert looked(b'{"id": 1, "type": "asset"}\n{}' + end).keys == {"id": 1, "type": "asset"}


def test_arrays_are_known_by_path_with_the_keys_of_their_elements() -> None:
    shape = looked(b'{"a": {"b": [{"x": {"no": 1}, "y": [{"no": 2}]}]}, "c": [1, [{"no": 3}]], "d": []}')
    assert shape.arrays == {("a", "b"): {"x", "y"}, ("c",): set(), ("d",): set()}
    assert looked(b"[]").arrays == {(): set()}
    assert looked(b'[1, {"x": 1}]').arrays == {(): {"x"}}


def test_an_array_below_an_object_is_known_with_the_scalars_beside_and_above_it() -> None:
    shape = looked(
        b'{"success": true, "result": {"count": 1, "results": [{"id": "k", "extras": [{"key": 1}]}]}, "help": "h"}'
    )
    assert shape.keys == {"success": True, "result": "object", "help": "h"}
    assert shape.arrays == {("result", "results"): {"id", "extras"}}
    empty = looked(b'{"success": true, "result": {"count": 0, "results": []}}')
    assert empty.arrays == {("result", "results"): set()}


def test_an_array_in_a_record_that_is_a_document_is_known_by_its_own_name() -> None:
    shape = looked(b'{"id": "abcd-2345", "columns": [{"id": 1, "name": "x"}]}')
    assert (shape.single, shape.keys["columns"], shape.arrays) == (True, "array", {("columns",): {"id", "name"}})
    assert looked(b'{"id": 1, "columns": []}\n{"id": 2}').arrays == {}, "lines have no arrays"


def test_a_document_cut_by_the_heads_end_is_known_as_far_as_it_goes() -> None:
    shape = looked(b'{"n": 1, "assets": [' + (LINE + b",") * 5000 + LINE + b"]}")
    assert not shape.lines
    assert shape.arrays == {("assets",): set(RECORD)}


@pytest.mark.parametrize(
    "data",
    [
        b'{"assets": [\n' + LINE + b",\n" + LINE + b"\n" + LINE + b"\n]}",
        b"[\n" + LINE + b"\n" + LINE + b"\n]",
        b"[" + LINE + b",\n" + LINE + b",\n" + LINE + b",,\n" + LINE + b"\n]",
        b'{"assets": [\n' + (LINE + b",\n") * 50 + b"{,},\n" + LINE + b"]}",
    ],
)
def test_a_document_of_one_record_a_line_that_is_broken_early_is_no_ndjson(data: bytes) -> None:
    assert not looked(data).lines


@pytest.mark.parametrize("data", [b'{"a": 1,, }', b"[1 2", b'{"a"', b"{", b"[", b"[}", b'{"a": nul', b'["\xff"]'])
def test_what_begins_like_a_document_is_one_however_broken(data: bytes) -> None:
    assert not looked(data).lines


@pytest.mark.parametrize(
    ("data", "beginning"),
    [
        (b"1", "1"),
        (b"null", "null"),
        (b'"text"', '"text"'),
        (b"true", "true"),
        (b"-", "-"),
        (b"hello", "hello"),
        (b"id,name\n1,x\n", "id,name\\n1,x"),
        (b"\0\0\0", "\\x00\\x00\\x00"),
        (b"\xef\xbb\xbf{}", "\\ufeff{}"),
        ("données: pas de JSON".encode(), "données: pas de JSO"),  # 20 bytes
        (b"\xff\xfe\x1b[2J", "��\\x1b[2J"),
    ],
)
def test_neither_a_document_nor_lines_is_not_json_at_all(data: bytes, beginning: str) -> None:
    with pytest.raises(IndexNotUnderstood) as refused:
        looked(data)
    assert str(refused.value) == f'x.json is not JSON at all: it begins with "{beginning}"'


@pytest.mark.parametrize(
    "number", [b"12345678901234567890123", b"1e999", b"-1e-999", b"1e99999999999999999999", b"9" * MAX_NUMBER_BYTES]
)
def test_a_number_beyond_the_machines_leaves_a_document_a_document(number: bytes) -> None:
    shape = looked(b'{"datasets": [{"id": "k", "n": ' + number + b"}]}")
    assert not shape.lines
    assert "id" in shape.arrays[("datasets",)]


# limits


@pytest.mark.parametrize("template", [b"%b", b"-%b", b"1.%b"])
def test_bytes_behind_a_number_longer_than_the_limit_are_not_examined(template: bytes) -> None:
    for excess in (0, 1):
        number = template.replace(b"%b", b"2" * (MAX_NUMBER_BYTES + excess - len(template) + 2))
        shape = looked(b'{"datasets": [{"id": %b, "later": 1}], "last": 1}' % number)
        assert not shape.lines
        assert (shape.arrays, "last" in shape.keys) == (
            {("datasets",): {"id"} if excess else {"id", "later"}},
            not excess,
        )


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_bytes_behind_more_levels_than_the_limit_are_not_examined(opening: bytes, closing: bytes) -> None:
    for excess in (0, 1):
        levels = MAX_LEVELS - 1 + excess
        shape = looked(b'{"first": 1, "deep": %b1%b, "last": 1}' % (opening * levels, closing * levels))
        assert not shape.lines
        assert ("first" in shape.keys, "last" in shape.keys) == (True, not excess)


@pytest.mark.parametrize("piece", [b"[", b"{", b'{"":', b'[{"":', b'{"a":[],"":', b'{"a":{"":[],"":'])
def test_nesting_beyond_the_limit_is_a_document_and_its_shape_is_small(piece: bytes) -> None:
    shape = looked(piece * (MAX_LEVELS + 1))
    assert not shape.lines
    assert sum(map(len, shape.arrays)) < 10_000


@pytest.mark.parametrize("text", [b"9" * (MAX_NUMBER_BYTES + 1), b"[" * (MAX_LEVELS + 1), rb"\"" + b"[{" * MAX_LEVELS])
def test_a_text_may_look_like_anything(text: bytes) -> None:
    for before, behind in ((b"{", b""), (b'{"n":' + b"9" * MAX_NUMBER_BYTES + b",", b" ")):
        assert looked(before + b'"%b":"%b"%b,"last":1}' % (text, text, behind)).keys["last"] == 1


def test_no_more_bytes_than_the_limit_are_examined() -> None:
    shape = sniff(b'{"id": "k", "text": "%b", "last": 1}' % (b"x" * MAX_BYTES), "x.json")
    assert shape.keys["id"] == "k"
    assert "last" not in shape.keys


TOKENS = [b"[", b"]", b"{", b"}", b",", b"a", b"1", b"2" * MAX_NUMBER_BYTES, b'"[["', rb'"\"["', rb'"\\"']


@given(st.lists(st.sampled_from(TOKENS)).map(b"".join), st.sampled_from([b"", b'"[[[']))
@untimed
def test_the_beginning_within_the_limits_is_examined(tokens: bytes, end: bytes) -> None:
    data = tokens + end
    with patch.object(sniffer, "MAX_LEVELS", 2):
        within = sniffer._within_limits(data)
    assert data.startswith(within)
    is_text, levels, number, is_beyond, at = False, 0, 0, False, 0
    while at < len(data) and not is_beyond:
        byte = data[at : at + 1]
        at += 2 if is_text and byte == b"\\" else 1
        number = number + 1 if byte.isdigit() and not is_text else 0
        levels += 0 if is_text else (byte in (b"[", b"{")) - (byte in (b"]", b"}"))
        is_text ^= byte == b'"'
        is_beyond = levels > 2 or number > MAX_NUMBER_BYTES
    assert (within != data) is is_beyond
    assert not is_beyond or len(within) == at - max(number, 1)


# keys and arbitrary bytes


@pytest.mark.parametrize("key", ["[]", "", "\0", "{}", "a.b", "\x1b[31m", "é", "[" * 99])
def test_no_key_is_hostile(key: str) -> None:
    name = json.dumps(key).encode()
    for template in (
        b"{%b: 1}",
        b"{%b: [{%b: 1}]}",
        b"[{%b: {%b: 1}}]",
        b"{%b: 1}\n{%b: 1}",
        b"{%b: {%b: [{%b: []}]}}",
    ):
        looked(template.replace(b"%b", name))
    assert looked(b"{%b: {%b: [{%b: 1}]}}".replace(b"%b", name)).arrays == {(key, key): {key}}


@given(st.one_of(st.binary(max_size=80), st.text(st.sampled_from('{}[]",:1e.- \n\\aé'), max_size=60).map(str.encode)))
@untimed
def test_arbitrary_bytes_have_a_shape_or_are_not_understood(data: bytes) -> None:
    try:
        shape = looked(data)
    except IndexNotUnderstood as exc:
        assert str(exc).isprintable()  # noqa: PT017  # whichever of both it is
    else:
        assert not (shape.lines and shape.single)


def test_the_json_test_suite_has_a_shape_or_is_not_understood(corpora: Path) -> None:
    for path in sorted((corpora / "jsontestsuite/test_parsing").glob("*.json")):
        try:
            looked(path.read_bytes())
        except IndexNotUnderstood:
            assert path.read_bytes().lstrip()[:1] not in (b"{", b"["), path.name
