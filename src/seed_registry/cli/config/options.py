"""Options that several commands share, and the names of any option in the environment and the file of settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from seed_registry.cli.config.file import CommandPath
from seed_registry.settings import INPUT, OUTPUT

# What commands take besides the flags of `Settings`.


class RarePanel(str):
    """A section of the help, for options that the help on one screen only names."""

    __slots__ = ()


class LogFormat(StrEnum):
    """The format of the log on stderr."""

    auto = "auto"
    console = "console"
    json = "json"


_RARE_OUTPUT = RarePanel(OUTPUT)
Indexes = Annotated[
    list[str] | None, typer.Argument(metavar="[INDEX]...", help="Files, patterns, directories, URLs; - is stdin.")
]
IndexOption = Annotated[
    str,
    typer.Option(envvar="INDEX_PATH", metavar="INDEX", rich_help_panel=INPUT, help="The index, if no INDEX is given."),
]
IndexesFrom = Annotated[
    str | None,
    typer.Option(metavar="FILE", rich_help_panel=RarePanel(INPUT), help="A file that names indexes, one per line."),
]
# The format of a result; commands hand it to `render.output`.
Output = Annotated[bool, typer.Option("--json", rich_help_panel=OUTPUT, help="Print the result as one JSON object.")]
LogFormatOption = Annotated[
    LogFormat, typer.Option(metavar="FORMAT", rich_help_panel=_RARE_OUTPUT, help="Format of the log on stderr.")
]
LogFile = Annotated[
    str | None,
    typer.Option(metavar="FILE", rich_help_panel=_RARE_OUTPUT, help="Append the log to a file as well, as JSON lines."),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", rich_help_panel=OUTPUT, help="Print nothing on stderr but an error.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", rich_help_panel=OUTPUT, help="Log every batch; print tracebacks.")
]

TABLE: Final = False  # the default of `Output`
DEFAULT_INDEX = "./data/registry/socrata/sf.index.json"


# Any option, by its name in the environment and the file of settings

Options = dict[str, Any]  # by key; click's, or in newer versions Typer's own
# Options that are questions or consent for once.
_NEVER_SET = {"help", "version", "config", "install-completion", "show-completion", "yes", "compare"}
# A load's batch size is one number, a bench's a list to try, and a sample's dialect is one it writes: what these
# commands do not share is set in their own table, and in variables that carry their name.
_OF_THEIR_OWN: Mapping[str, set[str]] = {
    "bench": {"database-url", "dialect", "domain", "records-at", "json", "verbose"},
    "sample": set(),
}


def options_of(command: Any) -> Options:
    """Return the options of a command that can be set outside the command line, by key."""
    options = {key_of(option): option for option in command.params if option.param_type_name == "option"}
    return {key: option for key, option in options.items() if key not in _NEVER_SET}


def key_of(option: Any) -> str:
    """The long name of an option without its dashes."""
    return str(next((name for name in option.opts if name.startswith("--")), option.opts[0])).lstrip("-")


def type_of(option: Any) -> Any:
    """Return the type of an option."""
    descriptor = getattr(option, "type_descriptor", None)  # of newer Typers; older ones have click's types
    of_click = {"integer": int, "integer range": int, "float": float, "float range": float}
    return descriptor.annotation if descriptor else of_click.get(option.type.name, str)


def commands_of(group: Any, path: CommandPath = ()) -> Iterator[tuple[CommandPath, Any]]:
    """Iterate over every command below a group."""
    for name, command in getattr(group, "commands", {}).items():
        if hasattr(command, "commands"):
            yield from commands_of(command, (*path, name))
        else:
            yield (*path, *name.split(" ")), command


def path_of(ctx: Any) -> CommandPath:
    """The names by which the command of a context was called, without the program's."""
    return () if ctx.parent is None else (*path_of(ctx.parent), *ctx.info_name.split(" "))


def variable(command: str, key: str) -> str:
    """Return the environment variable of an option."""
    names = [key] if is_shared(command, key) else [command, key]
    return "_".join(("SEED_REGISTRY", *names)).replace("-", "_").upper()


def is_shared(command: str, key: str) -> bool:
    """Whether the top level of the file also sets this option of the command."""
    return key in _OF_THEIR_OWN.get(command, {key})


def listed(names: str | Sequence[str] | None) -> list[str]:
    """Return one name or several as a list."""
    return [names] if isinstance(names, str) else list(names or ())
