"""Find out what an index looks like from its first bytes. Content decides, never the file's name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import ijson
import msgspec
from msgspec.structs import replace

from seed_registry.errors import IndexNotUnderstood
from seed_registry.escape import printable
from seed_registry.index import json_checks
from seed_registry.index.json_envelope import MAX_DEPTH
from seed_registry.index.other_formats import kind_of_text
from seed_registry.index.server_errors import HTML, page_for_people, portal_error_text
from seed_registry.index.shape import Shape

# Limits of what ijson gets, each far below what it can bear. Bytes behind the first excess are not examined.
MAX_BYTES: Final = 1 << 20  # a chunk of the index; the record of a rejects file may be longer
MAX_LEVELS: Final = MAX_DEPTH + json_checks.MAX_DEPTH  # of a record and around it: no more are loaded
MAX_NUMBER_BYTES: Final = 100
_OF_NUMBERS: Final = b"-+.eE0123456789"
_LONG_NUMBER: Final = b"0" * (MAX_NUMBER_BYTES + 1)  # with all of these characters as digits
_AS_DIGITS: Final = bytes(48 if byte in _OF_NUMBERS else 32 for byte in range(256))
_TOKEN = re.compile(
    rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|([{\[])|([}\]])|([-+.eE0-9]{%d})' % (MAX_NUMBER_BYTES + 1), re.DOTALL
)
# How many lines at the beginning may be broken before it is no NDJSON index.
_MAX_BROKEN_LINES = 100

_SCALARS = ("string", "number", "boolean", "null")


def sniff(head: bytes, name: str) -> Shape:
    """Distinguish lines from a document, and find the keys at each path.

    Raises:
        IndexNotUnderstood: it is neither.
    """
    # 1. The first line is a whole object, and more lines follow.
    text = head.strip()
    first, newline, _ = text.partition(b"\n")
    if newline and _is_object(first):
        return _of_lines(first)
    # 2. Grammar holds as far as the head goes: a document; or one record, on a line of its own.
    sound, shape = _try_shape(text)
    if sound and text.startswith((b"{", b"[")):
        return replace(shape, words=_words(text), single=not newline and text.startswith(b"{"))
    # 3. It does not, but lines are records on their own: NDJSON, some of it broken; unless more of them look like those
    #    of a document that has one record on each line, and is broken early.
    lines = [line.strip() for line in text.split(b"\n", _MAX_BROKEN_LINES)[:_MAX_BROKEN_LINES]]
    objects = [line for line in lines if _is_object(line)]
    if len(objects) > sum(line.startswith((b"]", b"}")) or line.endswith((b",", b"[", b"{")) for line in lines):
        return _of_lines(objects[0])
    # 4. Something like a document, broken early: reading it will report the offset.
    if text.startswith((b"{", b"[")):
        return shape
    kind = page_for_people(text)
    if kind != HTML and (other := kind_of_text(text)):
        raise IndexNotUnderstood(f"{name} is {other[0]}, not an index\n{other[1]}")
    if kind:
        raise IndexNotUnderstood(
            f"{name} is {kind}, not an index: its address is that of a page for people, or of a login"
        )
    beginning = printable(text[:20].decode(errors="replace"))
    raise IndexNotUnderstood(f'{name} is not JSON at all: it begins with "{beginning}"')


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(line), dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _of_lines(first: bytes) -> Shape:
    page = _try_shape(first)[1]
    return Shape(lines=True, keys=page.keys, objects=page.objects, page=page, words=_words(first))


def _words(text: bytes) -> str | None:
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return portal_error_text(document) if isinstance(document, dict) else None


def _try_shape(head: bytes) -> tuple[bool, Shape]:
    """Return whether the head is valid JSON as far as it goes, and its shape."""
    events = ijson.sendable_list()
    parser = ijson.basic_parse_coro(events)  # `use_float` would refuse what no float or int64 can hold
    sound = True
    try:
        parser.send(_within_limits(head))
    except ijson.JSONError:
        sound = False
    except (ArithmeticError, UnicodeDecodeError):
        pass  # a number that no Decimal can hold, an encoded surrogate: the shape is that of the bytes before it, too
    shape = _shape_of(events)
    if [event for event, _ in events[:2]] == ["start_array", "start_map"]:
        shape = replace(shape, page=_shape_of(events[1:]))
    return sound, shape


def _within_limits(head: bytes) -> bytes:
    """Return the head up to the first level or number beyond the limits."""
    head = head[:MAX_BYTES]
    if json_checks.depth(head) <= MAX_LEVELS and _LONG_NUMBER not in head.translate(_AS_DIGITS):  # or it is in a text
        return head
    levels = 0
    for token in _TOKEN.finditer(head):
        opening, closing, long_number = token.groups()
        levels += bool(opening) - bool(closing)
        if levels > MAX_LEVELS or long_number:
            return head[: token.start()]
    return head


def _shape_of(events: Sequence[tuple[str, Any]]) -> Shape:
    """The shape of the value that begins with the first event."""
    shape = Shape(lines=False)
    stack: list[Any] = []  # the current key of each open object, None for each open array
    for number, (event, value) in enumerate(events):
        if number and not stack:
            break
        is_shallow = len(stack) <= MAX_DEPTH
        if event == "map_key":
            stack[-1] = value
            if is_shallow and stack.count(None) == 1 and stack[-2:-1] == [None]:
                shape.arrays.setdefault(tuple(stack[:-2]), set()).add(value)
            elif is_shallow and stack.count(None) == 1 and stack[-3:-2] == [None]:
                shape.members.setdefault((*stack[:-3], stack[-2]), set()).add(value)
            elif len(stack) > 1 and is_shallow and None not in stack:
                shape.objects.setdefault(tuple(stack[:-1]), set()).add(value)
            continue
        if len(stack) == 1 and stack[0] not in ("", None) and not event.startswith("end_"):
            shape.keys[stack[0]] = {"start_map": "object", "start_array": "array"}.get(event, value)
        if event == "start_array" and is_shallow and None not in stack:
            shape.arrays.setdefault(tuple(stack), set())
        elif event in _SCALARS and is_shallow and stack.count(None) == 1 and stack[-1] is None:
            shape.scalars.setdefault(tuple(stack[:-1]), event)
        _move(stack, event)
    return shape


def _move(stack: list[Any], event: str) -> None:
    if event == "start_map":
        stack.append("")
    elif event == "start_array":
        stack.append(None)
    elif event in ("end_map", "end_array"):
        stack.pop()
