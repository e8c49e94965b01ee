"""Detecting: what an index looks like from its first bytes. Content decides, never the file's name."""

from __future__ import annotations

import re
from typing import Any

import ijson
import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from seed_registry.errors import IndexNotUnderstood
from seed_registry.escaping import printable
from seed_registry.index.envelope import MAX_DEPTH

# ijson's C backend crashes on integers of 4,301 digits; whatever holds such a number is judged by what comes before it.
_DIGIT_RUN = re.compile(rb"[0-9]{400}")
# How many lines may be broken at the beginning of an NDJSON index before it is no NDJSON index.
_LINES_LOOKED_AT = 100


class Shape(Struct, frozen=True):
    """What the beginning of an index looks like.

    Attributes:
        lines: NDJSON if true, one document otherwise.
        keys: of the document or first record, each with its value; "array" or "object" stand for these.
        single: one object on one line: a document, or the only record of an NDJSON index.
        arrays: for each array of the document, by path, the keys of its first element; empty where it has none.
    """

    lines: bool
    single: bool = False
    keys: dict[str, Any] = field(default_factory=dict)
    arrays: dict[tuple[str, ...], set[str]] = field(default_factory=dict)


def look_at(head: bytes, name: str) -> Shape:
    """Tell lines from a document, and which keys are where.

    Raises:
        IndexNotUnderstood: it is neither.
    """
    # 1. The first line is a whole object, and more lines follow.
    text = head.strip()
    first, newline, _ = text.partition(b"\n")
    if newline and _is_object(first):
        return Shape(lines=True, keys=_try_shape(first)[1].keys)
    # 2. Grammar holds as far as the head goes: a document; or one record, on a line of its own.
    sound, shape = _try_shape(text)
    if sound and text.startswith((b"{", b"[")):
        return shape if newline or text.startswith(b"[") else replace(shape, single=True)
    # 3. It does not, but lines are records on their own: NDJSON, some of it broken; unless more of them look like those
    #    of a document that has one record on each line, and is broken early.
    lines = [line.strip() for line in text.split(b"\n", _LINES_LOOKED_AT)[:_LINES_LOOKED_AT]]
    objects = [line for line in lines if _is_object(line)]
    if len(objects) > sum(line.startswith((b"]", b"}")) or line.endswith((b",", b"[", b"{")) for line in lines):
        return Shape(lines=True, keys=_try_shape(objects[0])[1].keys)
    # 4. Something like a document, broken early: reading it will tell where.
    if text.startswith((b"{", b"[")):
        return shape
    beginning = printable(text[:20].decode(errors="replace"))
    raise IndexNotUnderstood(f'{name} is not JSON at all: it begins with "{beginning}"')


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(line), dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _try_shape(head: bytes) -> tuple[bool, Shape]:
    """The shape as far as the head goes, and whether its grammar holds that far."""
    run = _DIGIT_RUN.search(head)
    keys: dict[str, Any] = {}
    arrays: dict[tuple[str, ...], set[str]] = {}
    stack: list[Any] = []  # the current key of each open object, None for each open array
    coroutine = ijson.sendable_list()
    parser = ijson.basic_parse_coro(coroutine)  # `use_float` would refuse what no float or int64 can hold
    sound = True
    try:
        parser.send(head[: run.start()] if run else head)
    except ijson.JSONError:
        sound = False
    except (ArithmeticError, UnicodeDecodeError):
        pass  # an exponent that no Decimal can hold, a surrogate in UTF-8: judged by what comes before it, too
    for event, value in coroutine:
        if event == "map_key":
            stack[-1] = value
            if len(stack) <= MAX_DEPTH and stack.count(None) == 1 and stack[-2:-1] == [None]:
                arrays.setdefault(tuple(stack[:-2]), set()).add(value)
        else:
            if len(stack) == 1 and stack[0] not in ("", None) and not event.startswith("end_"):
                keys[stack[0]] = {"start_map": "object", "start_array": "array"}.get(event, value)
            if event == "start_array" and len(stack) <= MAX_DEPTH and None not in stack:
                arrays.setdefault(tuple(stack), set())
            _move(stack, event)
    return sound, Shape(lines=False, keys=keys, arrays=arrays)


def _move(stack: list[Any], event: str) -> None:
    if event == "start_map":
        stack.append("")
    elif event == "start_array":
        stack.append(None)
    elif event in ("end_map", "end_array"):
        stack.pop()
