"""Convert the texts of a command line to the types of the options, without importing pydantic."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from functools import partial
from typing import Any, Final, get_args, get_origin

# Made of a text by their own constructors, which refuse it with a ValueError; so are enumerations.
_PLAIN: Final = (str, int, float)


def convert_plainly(parameters: Iterable[Any]) -> None:
    """Convert these parameters by the constructors of their types, where the result is the same as Typer's.

    Newer versions of Typer convert with pydantic, also a default or a text that stays one. To import it and to build a
    model for each option takes more time than many a load.
    """
    for parameter in parameters:
        if hasattr(parameter, "type_descriptor"):  # older versions have click's types, which cost nothing
            parameter.process_value = partial(_processed, parameter)


def _processed(parameter: Any, ctx: Any, value: Any) -> Any:
    """Return the value of a parameter; Typer converts ranges, missing and invalid values, for its messages."""
    if not (parameter.type_descriptor.is_ranged or (parameter.required and value is None)):
        try:
            converted = _converted(parameter.type_descriptor.annotation, value)
        except ValueError:
            pass
        else:
            return parameter.callback(ctx, parameter, converted) if parameter.callback else converted
    return type(parameter).process_value(parameter, ctx, value)


def _converted(kind: Any, value: Any) -> Any:
    """A value of a type, or None where there is none.

    Raises:
        ValueError: it is not of that type, or a text is not enough for the constructor of that type.
    """
    if value is None:
        return None
    if get_origin(kind) is list and isinstance(value, list | tuple):
        return [_converted(get_args(kind)[0], one) for one in value]
    is_plain = kind in _PLAIN or (isinstance(kind, type) and issubclass(kind, Enum))
    if not (is_plain and isinstance(value, str | int | float)):
        raise ValueError(value)
    if kind in (int, float) and not str(value).isascii():  # Python knows more digits than pydantic
        raise ValueError(value)
    return kind(value)
