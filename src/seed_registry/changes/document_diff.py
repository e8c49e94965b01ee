"""What differs between two JSON documents, path by path."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from msgspec import Struct

# Longer documents are not compared: their objects would take many times their bytes.
_MOST_BYTES: Final = 2 << 20
_MOST_PATHS: Final = 50
_SHOWN_CHARACTERS: Final = 500
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}", re.ASCII)
_KEY_CHARACTERS: Final = 200


class PathChange(Struct, frozen=True):
    """A place in a document, and its values there as JSON, cut off where they are long; None: there is none."""

    path: str
    old: str | None
    new: str | None


class DocumentDiff(Struct, frozen=True):
    """The places that differ, up to some number, and how many `more` there are."""

    paths: list[PathChange]
    more: int = 0


class _Number(str):
    """A number as it is written: 1.0 is not 1, and no digit is lost."""

    __slots__ = ()


class _Missing:
    pass


_MISSING: Final = _Missing()


def compare_documents(old: str, new: str) -> DocumentDiff | None:
    """Compare two documents, lists by position; None if one is too long for it, nested too deeply, or no JSON."""
    if len(old) > _MOST_BYTES or len(new) > _MOST_BYTES:
        return None
    try:
        return _compare(_parsed(old), _parsed(new))
    except (ValueError, RecursionError):
        return None


def _parsed(text: str) -> Any:
    return json.loads(text, parse_int=_Number, parse_float=_Number)


def _compare(old: Any, new: Any) -> DocumentDiff:
    paths: list[PathChange] = []
    more = 0
    left = [("", old, new)]
    while left:
        path, then, now = left.pop()
        if isinstance(then, dict) and isinstance(now, dict):
            keys = dict.fromkeys([*then, *now])
            inner = [(_member(path, key), then.get(key, _MISSING), now.get(key, _MISSING)) for key in keys]
        elif isinstance(then, list) and isinstance(now, list):
            both = range(max(len(then), len(now)))
            inner = [(f"{path}[{number}]", _at(then, number), _at(now, number)) for number in both]
        elif type(then) is not type(now) or then != now:
            more += len(paths) >= _MOST_PATHS
            if len(paths) < _MOST_PATHS:
                paths.append(PathChange(path or ".", _shown(then), _shown(now)))
            continue
        else:
            continue
        left += reversed(inner)
    return DocumentDiff(paths, more)


def _at(values: list[Any], number: int) -> Any:
    return values[number] if number < len(values) else _MISSING


def _member(path: str, key: str) -> str:
    name = key if _NAME.fullmatch(key) else f"[{json.dumps(key[:_KEY_CHARACTERS], ensure_ascii=False)}]"
    return f"{path}.{name}" if path and not name.startswith("[") else path + name


def _shown(value: Any) -> str | None:
    if value is _MISSING:
        return None
    text = ""
    for part in _parts(value):
        text += part
        if len(text) > _SHOWN_CHARACTERS:
            return text[:_SHOWN_CHARACTERS] + "…"
    return text


def _parts(value: Any) -> Iterator[str]:
    """The text of a value, piece by piece, so that no more of it is made than is shown."""
    if isinstance(value, _Number):
        yield str(value)
    elif isinstance(value, str):
        yield json.dumps(value[: _SHOWN_CHARACTERS + 1], ensure_ascii=False)
    elif isinstance(value, dict):
        yield "{"
        for number, (key, inner) in enumerate(value.items()):
            yield f"{', ' if number else ''}{json.dumps(key[:_KEY_CHARACTERS], ensure_ascii=False)}: "
            yield from _parts(inner)
        yield "}"
    elif isinstance(value, list):
        yield "["
        for number, inner in enumerate(value):
            yield ", " if number else ""
            yield from _parts(inner)
        yield "]"
    else:
        yield json.dumps(value)
