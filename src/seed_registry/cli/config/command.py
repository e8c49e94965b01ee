"""Configuration: what no flag says comes from the environment, else from a file, else it is the default.

The file is the nearest `seed-registry.toml`, or `pyproject.toml` with a table `[tool.seed-registry]`, from the working
directory upwards as far as a `.git` or the home directory; `--config` or `SEED_REGISTRY_CONFIG` name another. Its keys
are the long options without their dashes. The top level is for every command, a table like `[load]` or
`[schema.check]` for that one. `plan` and `verify` speak of a load, so what is said in `[load]` goes for them too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, NoReturn

from typer.core import TyperCommand

from seed_registry.cli.config.conversion import convert_plainly
from seed_registry.cli.config.file import ConfigurationFile, find, one_line
from seed_registry.cli.config.headers import TABLE as HEADERS
from seed_registry.cli.config.headers import by_line, of_file, secrets_of
from seed_registry.cli.config.options import (
    CommandPath,
    Options,
    commands_of,
    is_shared,
    key_of,
    listed,
    options_of,
    path_of,
    type_of,
    variable,
)
from seed_registry.cli.render.messages import print_warning
from seed_registry.errors import SettingsInvalid
from seed_registry.escape import printable
from seed_registry.settings import DatabaseUrl

_AS_A_LOAD = ("plan", "verify", "rejects replay")


class Command(TyperCommand):
    """A command whose options may be set in the environment or the file, and whose help fits a screen."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for key, option in options_of(self).items():
            option.envvar = [variable(self.name or "", key), *listed(option.envvar)]
            if key == "header":
                option.value_from_envvar = partial(by_line, option)
            option.show_envvar = False  # click would name them in errors, as a list in Python

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Tell what the command takes, each argument as its metavar says."""
        del ctx
        arguments = [one for one in self.params if one.param_type_name == "argument"]
        return ["[OPTIONS]", *(str(one.metavar or str(one.name).upper()) for one in arguments)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Complete the arguments from the file; what is wrong there, or in a variable, is told by its name."""
        convert_plainly(self.get_params(ctx))
        own = args[: args.index("--")] if "--" in args else args
        if "--help-all" in own:
            self._tell(ctx, everything=True)
            ctx.exit()
        if not ctx.resilient_parsing and {"-h", "--help"}.isdisjoint(own):
            configuration = _configuration(ctx)
            ctx.default_map = {
                option.name: configuration[key].value
                for key, option in options_of(self).items()
                if key in configuration
            }
        try:
            rest: list[str] = super().parse_args(ctx, args)
        except Exception as exc:
            option, usage = getattr(exc, "param", None), getattr(exc, "message", None)
            if option is not None and usage and (origin := _origin(ctx, option)) is not None:
                raise SettingsInvalid(f"{origin}: {one_line(usage).removeprefix('Value error, ')}") from exc
            raise
        if "header" in ctx.params:
            of_origins = [text for table in of_file(file_of(ctx)).values() for text in table]
            ctx.params["header"] = [*of_origins, *(ctx.params["header"] or [])]
        if not (ctx.resilient_parsing or ctx.params.get("quiet") or path_of(ctx)[:1] == ("config",)):
            for name in unknown_variables(ctx):  # `config show` tells them itself
                print_warning(f"{printable(name, 80)} is set, but is no setting of any command")
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a setting that cannot be is told with the place where it was set."""
        try:
            return super().invoke(ctx)
        except SettingsInvalid as exc:
            if origin := _blamed(ctx, self, str(exc)):
                raise SettingsInvalid(f"{origin}: {exc}") from exc
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help as one screen."""
        del formatter
        self._tell(ctx, everything=False)

    def _tell(self, ctx: Any, *, everything: bool) -> None:
        from seed_registry.cli.help import print_help  # noqa: PLC0415  # a load does without it

        print_help(self, ctx, everything=everything)


class Setting(NamedTuple):
    """A value, where it was set, and in which of the file's tables."""

    value: Any
    origin: str


def file_of(ctx: Any) -> ConfigurationFile | None:
    """The file of settings that the command of a context has read."""
    file: ConfigurationFile | None = ctx.meta.get(__name__, (None, {}))[0]
    return file


def settings_of(file: ConfigurationFile | None, path: CommandPath, command: Any) -> dict[str, Setting]:
    """What a file says to a command, by key."""
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


def unknown_variables(ctx: Any) -> list[str]:
    """The variables of the environment that look like a setting, but are none of any command."""
    unknown = {name for name in os.environ if name.startswith("SEED_REGISTRY_")}
    unknown -= {"SEED_REGISTRY_HOME", "SEED_REGISTRY_CONFIG"} | _variables(path_of(ctx), ctx.command)
    if unknown:  # most commands are run without any, and need not import the others
        for path, command in commands_of(ctx.find_root().command):
            unknown -= _variables(path, command)
    return sorted(unknown)


def check(file: ConfigurationFile, root: Any) -> None:
    """See that every key of the file is an option, and every value one that it can take.

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
        having = {path: options[key] for path, options in below.items() if key in options}
        if not place:
            having = {path: option for path, option in having.items() if is_shared(path[0], key)}
        if not having:
            _refuse_key(file, name, place, below)
        for option in having.values():
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
    mend = f"; it belongs into [{owners[0]}]" if owners else f"; did you mean {nearest[0]}?" if nearest else ""
    raise SettingsInvalid(f"{file.at(place)}: there is no setting {printable(name, 80)}{mend}")


def _value(option: Any, value: Any) -> Any:
    """A value of the file as the option takes it.

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
    """The tables that speak to a command, those that say it more exactly last."""
    as_a_load: list[CommandPath] = [("load",)] if " ".join(path) in _AS_A_LOAD else []
    return [(), *as_a_load, *(path[:length] for length in range(1, len(path) + 1))]


def _configuration(ctx: Any) -> dict[str, Setting]:
    """What the file says to the command of a context; the file is read once."""
    root = ctx.find_root()
    file = find(root.params.get("config"))
    if file is not None:
        check(file, root.command)
    settings = settings_of(file, path_of(ctx), ctx.command)
    ctx.meta[__name__] = (file, settings)
    return settings


def _origin(ctx: Any, option: Any) -> str | None:
    """Where the value of an option was set, unless by a flag or not at all."""
    source = ctx.get_parameter_source(option.name)
    if source is None:
        return None
    if source.name == "ENVIRONMENT":
        return next((name for name in listed(option.envvar) if os.environ.get(name)), None)
    if source.name == "DEFAULT_MAP":
        _, settings = ctx.meta.get(__name__, (None, {}))
        setting = settings.get(key_of(option))
        return setting.origin if setting else None
    return None


def _blamed(ctx: Any, command: Any, message: str) -> str | None:
    """Where the value was set that a message complains of, by its flag or by the value itself."""
    set_elsewhere = {
        key: origin
        for key, option in options_of(command).items()
        if (origin := _origin(ctx, option)) is not None and not message.startswith(origin)
    }
    for key, origin in set_elsewhere.items():
        if re.search(rf"(?<![\w-])--{re.escape(key)}(?![\w-])", message):
            return origin
    for key, origin in set_elsewhere.items():
        value = ctx.params.get(options_of(command)[key].name)
        if isinstance(value, str) and value and repr(value) in message:
            return origin
    return None


def _variables(path: CommandPath, command: Any) -> set[str]:
    return {variable(path[-1], key) for key in options_of(command)}


def _texts(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _texts(value)
        elif isinstance(value, str):
            yield name.replace("_", "-"), value


def _hides_something(url: str) -> bool:
    return str(DatabaseUrl(url)) != url
