"""Commands whose options come from a flag, else from the environment, else from a file, else are the default.

The file is the nearest `seed-registry.toml`, or `pyproject.toml` with a table `[tool.seed-registry]`, from the working
directory upwards as far as a `.git` or the home directory; `--config` or `SEED_REGISTRY_CONFIG` name another. Its keys
are the long options without their dashes. The top level is for every command, a table like `[load]` or
`[schema.check]` for that one. `plan`, `verify` and `rejects replay` also read `[load]`.
"""

from __future__ import annotations

import os
import re
from functools import partial
from typing import Any

from typer.core import TyperCommand

from seed_registry.cli.config.conversion import convert_plainly
from seed_registry.cli.config.file import CommandPath, ConfigurationFile, find, one_line
from seed_registry.cli.config.file_values import Setting, check_file, settings_of
from seed_registry.cli.config.headers import by_line, of_file
from seed_registry.cli.config.options import (
    commands_of,
    key_of,
    listed,
    options_of,
    path_of,
    variable,
)
from seed_registry.cli.render.messages import print_warning
from seed_registry.errors import SettingsInvalid
from seed_registry.escape import printable


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
        """Return the usage, each argument by its metavar."""
        del ctx
        arguments = [one for one in self.params if one.param_type_name == "argument"]
        return ["[OPTIONS]", *(str(one.metavar or str(one.name).upper()) for one in arguments)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Complete the arguments from the environment and the file; an error names the variable or the key."""
        convert_plainly(self.get_params(ctx))
        own = args[: args.index("--")] if "--" in args else args
        if "--help-all" in own:
            self._print_help(ctx, everything=True)
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
            for name in unknown_variables(ctx):  # `config show` lists them
                print_warning(f"{printable(name, 80)} is set, but is no setting of any command")
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; the error of an invalid setting names where it was set."""
        try:
            return super().invoke(ctx)
        except SettingsInvalid as exc:
            if origin := _origin_of_error(ctx, self, str(exc)):
                raise SettingsInvalid(f"{origin}: {exc}") from exc
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help as one screen."""
        del formatter
        self._print_help(ctx, everything=False)

    def _print_help(self, ctx: Any, *, everything: bool) -> None:
        from seed_registry.cli.help import print_help  # noqa: PLC0415  # a load does without it

        print_help(self, ctx, everything=everything)


def file_of(ctx: Any) -> ConfigurationFile | None:
    """Return the file of settings that the command of a context has read."""
    file: ConfigurationFile | None = ctx.meta.get(__name__, (None, {}))[0]
    return file


def unknown_variables(ctx: Any) -> list[str]:
    """Return the variables of the environment that look like a setting, but are not one of any command."""
    unknown = {name for name in os.environ if name.startswith("SEED_REGISTRY_")}
    unknown -= {"SEED_REGISTRY_HOME", "SEED_REGISTRY_CONFIG"} | _variables(path_of(ctx), ctx.command)
    if unknown:  # most commands are run without any, and need not import the others
        for path, command in commands_of(ctx.find_root().command):
            unknown -= _variables(path, command)
    return sorted(unknown)


def _configuration(ctx: Any) -> dict[str, Setting]:
    """Read the file; return its values for the command of a context."""
    root = ctx.find_root()
    file = find(root.params.get("config"))
    if file is not None:
        check_file(file, root.command)
    settings = settings_of(file, path_of(ctx), ctx.command)
    ctx.meta[__name__] = (file, settings)
    return settings


def _origin(ctx: Any, option: Any) -> str | None:
    """Return where the value of an option was set, unless by a flag or not at all."""
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


def _origin_of_error(ctx: Any, command: Any, message: str) -> str | None:
    """Return where the value was set that a message names, by its flag or by the value itself."""
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
