"""`seed-registry config`: the settings of a command, and where each value comes from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from seed_registry.cli.config.command import file_of, unknown_variables
from seed_registry.cli.config.file import NAME, TOML_TABLE, CommandPath, ConfigurationFile
from seed_registry.cli.config.file_values import settings_of
from seed_registry.cli.config.headers import TABLE as HEADERS
from seed_registry.cli.config.headers import covered, of_file
from seed_registry.cli.config.options import TABLE, Output, commands_of, listed, options_of, variable
from seed_registry.cli.render.console import print_rows
from seed_registry.cli.render.output import print_output
from seed_registry.errors import SettingsInvalid
from seed_registry.escape import printable
from seed_registry.settings import DatabaseUrl

app = typer.Typer(help="The settings: where each value comes from.", no_args_is_help=True)


class _Shown(msgspec.Struct):
    """A setting as `--json` prints it; `origin` is default, environment or file, `place` names it."""

    option: str
    value: Any
    origin: str
    place: str | None
    variable: str


@app.callback()
def _config() -> None:
    """Keep `show` a command of its own."""


@app.command()
def show(
    context: typer.Context,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[COMMAND]...", help="Whose settings [default: load]")
    ] = None,
    *,
    output: Output = TABLE,
) -> None:
    """Show the settings of a command, and where each value comes from."""
    root: Any = context.find_root()
    path = tuple(command or ["load"])
    target = dict(commands_of(root.command)).get(path)
    if target is None:
        raise SettingsInvalid(f"there is no command {' '.join(path)}; `seed-registry --help` lists them")
    file: ConfigurationFile | None = file_of(context)
    shown = list(_shown(context, file, path, target))
    unknown = unknown_variables(context)
    name = " ".join(path)
    result = {
        "file": str(file.path) if file else None,
        "command": name,
        "settings": shown,
        "unknown_variables": unknown,
    }
    print_output(result, lambda: _print(name, file, shown, unknown), output=output)


def _print(command: str, file: ConfigurationFile | None, settings: list[_Shown], unknown: list[str]) -> None:
    nothing = f"none found ({NAME}, or pyproject.toml with [{TOML_TABLE}])"
    typer.echo(f"file: {printable(file.path, 500) if file else nothing}")
    for name in unknown:
        typer.echo(f"{printable(name, 80)} is set, but is no setting of any command")
    rows = [
        (one.option, _told(one.value), _from(one)) for one in sorted(settings, key=lambda one: one.origin == "default")
    ]
    print_rows(f"the settings of {command}", ("option", "value", "from"), rows)


def _shown(context: Any, file: ConfigurationFile | None, path: CommandPath, target: Any) -> Iterator[_Shown]:
    settings = settings_of(file, path, target)
    for key, option in options_of(target).items():
        name = variable(path[-1], key)
        from_file = {option.name: settings[key].value} if key in settings else {}
        ctx = type(context)(target, info_name=path[-1], parent=context.parent, default_map=from_file)
        value, source = option.consume_value(ctx, {})
        if source.name == "ENVIRONMENT":
            where = next(name for name in listed(option.envvar) if os.environ.get(name))
            yield _Shown(key, _open(key, value), "environment", where, name)
        elif key in settings:
            yield _Shown(key, _open(key, value), "file", settings[key].origin.removesuffix(f" {key}"), name)
        else:
            default = option.default if isinstance(option.default, bool | int | float | str) else None
            yield _Shown(key, _open(key, default), "default", None, name)
    if file is not None and "header" in options_of(target):
        for origin, texts in of_file(file).items():
            place = (HEADERS, f'"{origin}"')
            yield _Shown(".".join(place), [covered(text) for text in texts], "file", file.at(place), "")


def _open(key: str, value: Any) -> Any:
    """A value without the secrets of a URL, or of a header."""
    if key == "header":
        return [covered(text) for text in value or ()] or None
    if isinstance(value, str) and (key == "database-url" or "://" in value):
        return str(DatabaseUrl(value))
    return list(value) if isinstance(value, tuple) else value


def _told(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _from(shown: _Shown) -> str:
    return {"default": "default", "environment": shown.place, "file": Path(shown.place or "").name}[shown.origin] or ""
