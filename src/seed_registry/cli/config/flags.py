"""Give a command the flags of `Settings`: names, types, defaults and help come from the fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Final, Literal, Optional, get_args, get_origin

import typer
from msgspec import Struct

from seed_registry.cli.config.options import RarePanel
from seed_registry.settings import FLAGS, TYPES, Flag, Settings, format_bytes, parse_bytes

_DEFAULTS: Final = Settings()
_BY_FLAG: Final = {flag.name.replace("-", "_"): field for field, flag in FLAGS.items()}


class Changed(Struct, frozen=True):
    """The help or the default of a flag where a command has another one."""

    help: str | None = None
    default: Any = None


def takes_settings(
    *fields: str,
    like: Callable[..., None] | None = None,
    without: Collection[str] = (),
    after: Mapping[str, str] | None = None,
    **changed: Changed,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command: in the place of its parameter `settings` the command line shows a flag for each field.

    Args:
        fields: of `Settings`, in the order of their flags; all that have a flag if none is named.
        like: a function whose parameters are taken instead of the command's own.
        without: fields and parameters to leave out.
        after: for a parameter of the command the field whose flag it follows.
        changed: what differs, by field.
    """
    chosen = [name for name in fields or FLAGS if name not in without]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(like or command, eval_str=True).parameters
        parameters = {name: one for name, one in own.items() if name not in {*without, *(after or ())}}
        shown: list[inspect.Parameter] = []
        for name, parameter in parameters.items():
            if name != "settings":
                shown.append(parameter)
                continue
            for field in chosen:
                shown.append(_parameter(field, changed.get(field, Changed())))
                shown += [own[other] for other, place in (after or {}).items() if place == field]

        def call(**arguments: Any) -> None:
            values = {name: arguments.pop(name) for name in _BY_FLAG.keys() & arguments.keys() - own.keys()}
            command(settings=settings_of(values), **arguments)

        call.__name__, call.__doc__ = command.__name__, command.__doc__
        call.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]  # see `inspect.signature`
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
        return call

    return decorate


def settings_of(arguments: Mapping[str, Any]) -> Settings:
    """The settings that the flags of a command say.

    Args:
        arguments: by the flag's name with underscores; None where neither a flag nor a default says anything.

    Raises:
        SettingsInvalid: a value is malformed or out of range.
    """
    given: dict[str, Any] = {}
    for name, value in arguments.items():
        field = _BY_FLAG[name]
        parse = FLAGS[field].parse
        is_unset = value is None or (parse is not None and not value and getattr(_DEFAULTS, field) is None)
        if not is_unset:
            plain = value.value if isinstance(value, StrEnum) else value
            given[field] = parse(plain) if parse else plain
    return Settings(**given)


@cache  # `load` and `plan` share most of them
def _parameter(field: str, changed: Changed) -> inspect.Parameter:
    """A flag as a parameter that Typer understands."""
    flag = FLAGS[field]
    default = _default(field, flag) if changed.default is None else changed.default
    on, off = f"--{flag.name}", f"--no-{flag.name}"
    option = typer.Option(
        f"{on}/{off}" if default is True else on,
        help=changed.help or flag.help,
        metavar=flag.metavar,
        envvar=flag.variable,
        show_envvar=False,
        rich_help_panel=RarePanel(flag.panel) if flag.is_rare else flag.panel,
    )
    name = flag.name.replace("-", "_")
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[_type(field), option]
    )


@cache  # the commands share an enumeration
def _type(field: str) -> Any:
    """The type that Typer converts a text to: a `parse` takes texts, and choices are an enumeration."""
    flag = FLAGS[field]
    if flag.parse is not None:
        return list[str] | None if flag.is_repeated else str | None
    if choices := _choices(field):
        # mypy does not know `| None` of an enumeration that is made by a call
        return Optional[StrEnum(field, {choice: choice for choice in choices})]  # noqa: UP045
    return get_args(TYPES[field])[0]


def _choices(field: str) -> tuple[str, ...]:
    kind = get_args(TYPES[field])[0]
    return next((get_args(one) for one in (kind, *get_args(kind)) if get_origin(one) is Literal), ())


def _default(field: str, flag: Flag) -> Any:
    """The default as the help shows it; None leaves it to `Settings`."""
    value = getattr(_DEFAULTS, field)
    if value is None or flag.is_repeated or _choices(field):
        return None
    if flag.parse is None:
        return value
    return format_bytes(value) if flag.parse is parse_bytes else str(value)
