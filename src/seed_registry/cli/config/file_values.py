"""The values that a file of settings has for a command, and the check of a whole file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, NoReturn

from seed_registry.cli.config.file import CommandPath, ConfigurationFile
from seed_registry.cli.config.headers import TABLE as HEADERS
from seed_registry.cli.config.headers import of_file, secrets_of
from seed_registry.cli.config.options import Options, commands_of, is_shared, key_of, options_of, type_of
from seed_registry.errors import SettingsInvalid
from seed_registry.escape import printable
from seed_registry.settings import DatabaseUrl

# Commands that also read the table [load].
_AS_A_LOAD: Final = ("plan", "verify", "rejects replay")


class Setting(NamedTuple):
    """A value, where it was set, and in which of the file's tables."""

    value: Any
    origin: str


def settings_of(file: ConfigurationFile | None, path: CommandPath, command: Any) -> dict[str, Setting]:
    """Return the values of a file for a command, by key."""
    settings: dict[str, Setting] = {}
    if file is None:
        return settings
    options = options_of(command)
    for place in _places(path):
        table: Any = file.tables
        for name in place:
            table = table.get(name, {}) if isinstance(table, Mapping) else {}
        for name, value in table.items() if isinstance(table, Mapping) else ():
            key = name.replace("_", "-")
            if key in options and not isinstance(value, Mapping) and (place or is_shared(path[0], key)):
                settings[key] = Setting(_value(options[key], value), f"{file.at(place)} {key}")
    return settings


def check_file(file: ConfigurationFile, root: Any) -> None:
    """Check that every key of the file is an option, and every value one that it takes.

    Raises:
        SettingsInvalid: naming the file, the table and the key.
    """
    _check_table(file, file.tables, (), dict(commands_of(root)))
    if not file.path.stat().st_mode & 0o077:
        return
    if any(key == "database-url" and _hides_something(value) for key, value in _texts(file.tables)):
        raise SettingsInvalid(
            f"{printable(file.path, 500)} can be read by others, and its database-url may hold a password: "
            "chmod 600 it, or keep the password in ~/.pgpass"
        )
    if any(secrets_of(file)):
        raise SettingsInvalid(
            f"{printable(file.path, 500)} can be read by others, and its headers may hold a secret: "
            "chmod 600 it, or set SEED_REGISTRY_HEADER"
        )


def _check_table(
    file: ConfigurationFile, table: Mapping[str, Any], place: CommandPath, commands: dict[CommandPath, Any]
) -> None:
    below = {path: options_of(command) for path, command in commands.items() if path[: len(place)] == place}
    seen: set[str] = set()
    for name, value in table.items():
        deeper = (*place, name)
        if deeper == (HEADERS,):
            of_file(file)
            continue
        if isinstance(value, Mapping) and any(path[: len(deeper)] == deeper for path in below):
            _check_table(file, value, deeper, commands)
            continue
        key = name.replace("_", "-")
        if key in seen:
            raise SettingsInvalid(f"{file.at(place)}: {key} is there twice, once as {key.replace('-', '_')}")
        seen.add(key)
        takers = {path: options[key] for path, options in below.items() if key in options}
        if not place:
            takers = {path: option for path, option in takers.items() if is_shared(path[0], key)}
        if not takers:
            _refuse_key(file, name, place, below)
        for option in takers.values():
            try:
                _value(option, value)
            except TypeError as exc:
                raise SettingsInvalid(f"{file.at(place)}: {key} takes {exc}, not {_kind(value)}") from exc


def _refuse_key(
    file: ConfigurationFile, name: str, place: CommandPath, below: Mapping[CommandPath, Options]
) -> NoReturn:
    from difflib import get_close_matches  # noqa: PLC0415  # a load does without it

    key = name.replace("_", "-")
    owners = [path[0] for path, options in below.items() if key in options]
    known = {key for path, options in below.items() for key in options if place or is_shared(path[0], key)}
    known |= {path[len(place)] for path in below if len(path) > len(place)}
    nearest = get_close_matches(key, sorted(known), 1, 0.5)
    fix = f"; it belongs into [{owners[0]}]" if owners else f"; did you mean {nearest[0]}?" if nearest else ""
    raise SettingsInvalid(f"{file.at(place)}: there is no setting {printable(name, 80)}{fix}")


def _value(option: Any, value: Any) -> Any:
    """Return a value of the file as the option takes it.

    Raises:
        TypeError: it cannot; the message says what the option takes.
    """
    kind = type_of(option)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if option.is_flag:
        if isinstance(value, bool):
            return value
        raise TypeError("true or false")
    if option.multiple:
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            return value
        raise TypeError('a list of texts like ["a", "b"]')
    if kind in (int, float):
        if is_number and (kind is float or isinstance(value, int)):
            return value
        raise TypeError("a number" if kind is float else "a whole number")
    if isinstance(value, list) and value and ",…" in (option.metavar or ""):
        return ",".join(str(part) for part in value)
    # A size or a limit is a text that may be a bare number.
    numeric = key_of(option).endswith("bytes") or str(option.default)[:1].isdigit() or ",…" in (option.metavar or "")
    if isinstance(value, str) or (is_number and numeric):
        return str(value)
    raise TypeError("a text or a number" if numeric else "a text")


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", dict: "a table"}
    return kinds.get(type(value), "a date or time")


def _places(path: CommandPath) -> list[CommandPath]:
    """The tables that a command reads, the most specific last."""
    as_a_load: list[CommandPath] = [("load",)] if " ".join(path) in _AS_A_LOAD else []
    return [(), *as_a_load, *(path[:length] for length in range(1, len(path) + 1))]


def _texts(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _texts(value)
        elif isinstance(value, str):
            yield name.replace("_", "-"), value


def _hides_something(url: str) -> bool:
    return str(DatabaseUrl(url)) != url
