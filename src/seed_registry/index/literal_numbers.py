"""Decode a record with its numbers as they are written, slowly.

msgspec makes a float of `300.210`, which loses its last digit, and refuses a whole record for one `1e400`.
"""

from __future__ import annotations

import json
from types import UnionType
from typing import Any, Final, Self, get_args

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import fields

# Python limits the conversion of longer integers (https://docs.python.org/3/library/stdtypes.html).
_INTEGER_DIGITS: Final = 4_300


class LiteralNumber(float):
    """A number with a fraction or an exponent, or with more digits than an int may have; `text` is its spelling.

    As a float it may be infinite: `1e400` is.
    """

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Self:
        """The number with this spelling."""
        number = super().__new__(cls, text)
        number.text = text
        return number


class LiteralNumberDecoder:
    """Decodes records to a wire Struct whose fields hold any value, or another such Struct."""

    def __init__(self, wire: type[Struct]) -> None:
        self._wire = wire
        self._decode = msgspec.json.Decoder(_unread(wire)).decode

    def decode(self, data: bytes) -> Any:
        """The wire Struct of a record.

        Raises:
            ValueError: the record is no object, or none in UTF-8.
            RecursionError: a field is nested too deep.
        """
        return _read(self._decode(data), self._wire)


def _unread(wire: type[Struct]) -> type[Struct]:
    """The same Struct with the bytes of each field for its value."""
    members: list[tuple[str, Any, Any]] = [
        (field.name, _unread(inner) | None, None) if (inner := _inner(field.type)) else (field.name, Raw, Raw())
        for field in fields(wire)
    ]
    names = {field.name: field.encode_name for field in fields(wire)}
    return msgspec.defstruct(wire.__name__, members, rename=names)


def _read(unread: Any, wire: type[Struct]) -> Any:
    values = {}
    for field in fields(wire):
        value, inner = getattr(unread, field.name), _inner(field.type)
        if inner:
            values[field.name] = value if value is None else _read(value, inner)
        else:
            values[field.name] = _DECODE(bytes(value).decode()) if memoryview(value) else None
    return wire(**values)


def _inner(type_: Any) -> type[Struct] | None:
    """The Struct of a field that holds one, or null."""
    if not isinstance(type_, UnionType):
        return None
    return next((one for one in get_args(type_) if isinstance(one, type) and issubclass(one, Struct)), None)


def _whole(text: str) -> int | float:
    return int(text) if len(text) <= _INTEGER_DIGITS else LiteralNumber(text)


_DECODE: Final = json.JSONDecoder(parse_float=LiteralNumber, parse_int=_whole).decode
