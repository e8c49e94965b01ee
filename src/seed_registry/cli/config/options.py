"""The options that several commands share, and by which names any option is set outside the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, cast, get_args

import typer

from seed_registry.errors import SettingsInvalid
from seed_registry.settings import DatabaseUrl, DialectName, PoolerName, Settings

DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        envvar="DATABASE_URL",
        show_default=False,
        show_envvar=False,
        help="URL or embedded [default: PG* variables, else embedded]",
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column", metavar="TABLE.FIELD=COLUMN", help="Where a field lives in a table of yours; repeat it for more."
    ),
]


class LogFormat(StrEnum):
    """How a load is told on stderr."""

    auto = "auto"
    console = "console"
    json = "json"


# Made from the one list there is.
Dialect = StrEnum("Dialect", {name: name for name in get_args(DialectName)})  # type: ignore[misc]
Pooler = StrEnum("Pooler", {name: name for name in get_args(PoolerName)})  # type: ignore[misc]
PoolerOption = Annotated[
    Pooler | None,
    typer.Option(
        "--pooler",
        show_default=False,
        help="What stands before the database: none (or one that keeps sessions), transaction; auto finds out.",
    ),
]
DialectOption = Annotated[Dialect | None, typer.Option("--dialect", help="Its shape, where it is not detected.")]
DomainOption = Annotated[str | None, typer.Option("--domain", help="The portal of the records, whatever they hint at.")]
LanguageOption = Annotated[
    str | None, typer.Option("--language", metavar="CODE", help="Of texts in several languages, like en or de-CH.")
]
ProviderOption = Annotated[
    str | None, typer.Option("--provider", metavar="NAME", help="The portal software, where the dialect is not enough.")
]
Headers = Annotated[
    list[str] | None,
    typer.Option("--header", metavar="'NAME: VALUE'", help="Sent with requests for URLs; repeat it for more."),
]
RecordsAtOption = Annotated[
    str | None,
    typer.Option("--records-at", help="Path of the array of records, like result.results or groups[].datasets."),
]
Indexes = Annotated[
    list[str] | None, typer.Argument(metavar="[INDEX]...", help="Files, patterns, directories, URLs; - is stdin.")
]
IndexOption = Annotated[str, typer.Option(envvar="INDEX_PATH", help="The index, where no INDEX is given.")]
IndexesFrom = Annotated[str | None, typer.Option(help="A file that names indexes, one a line.")]
BatchSize = Annotated[int, typer.Option(help="Records a batch.")]
Concurrency = Annotated[int, typer.Option(help="Workers, one connection each.")]
MaxRejectsOption = Annotated[str, typer.Option(metavar="N|P%", help="Exit with 3 above this.")]
MaxRecordBytes = Annotated[str, typer.Option(help="Reject longer records.")]
MaxUnpackedBytes = Annotated[
    str | None, typer.Option(help="Stop when a packed index holds more [default: 1 GiB and 400 times its size]")
]
MaxSources = Annotated[int, typer.Option(help="Stop when there are more sources.")]
RetryFor = Annotated[
    float, typer.Option(metavar="SECONDS", help="Try what may pass again for so long, e.g. a lost connection.")
]
IoTimeout = Annotated[
    float, typer.Option(metavar="SECONDS", help="The longest that one statement of a batch may take.")
]
Verify = Annotated[bool, typer.Option("--verify/--no-verify", help="Check the database afterwards.")]
ReportAsJson = Annotated[bool, typer.Option("--json", help="The report as one JSON object.")]
LogFormatOption = Annotated[LogFormat, typer.Option(help="Logs on stderr.")]
LogFile = Annotated[str | None, typer.Option(help="Append the log to a file as well, as JSON lines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but an error.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Tell every batch; tracebacks.")]

DEFAULT_INDEX = "./data/registry/socrata/sf.index.json"
DEFAULTS = Settings()


def database_of(url: str | None) -> DatabaseUrl | None:
    """The `database_url` of the settings, from the flag."""
    return DatabaseUrl(url) if url else None


def pooler_of(chosen: Pooler | None) -> PoolerName:
    """The `pooler` of the settings, from the flag."""
    return cast("PoolerName", chosen.value if chosen else "auto")


def dialect_of(chosen: Dialect | None) -> DialectName | None:
    """The `dialect` of the settings, from the flag."""
    return cast("DialectName | None", chosen.value if chosen else None)


def columns_of(texts: list[str] | None) -> dict[str, str]:
    """The `columns` of the settings, from the flags.

    Raises:
        SettingsInvalid: one has no `=`.
    """
    columns = {}
    for text in texts or []:
        field, equals, column = text.partition("=")
        if not (equals and column):
            raise SettingsInvalid(f"--column takes TABLE.FIELD=COLUMN like assets.asset_key=external_id, got {text!r}")
        columns[field] = column
    return columns


# Any option, by its name in the environment and the file of settings

CommandPath = tuple[str, ...]  # of a command, like ("schema", "check")
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
    """The options of a command that can be set outside the command line, by key."""
    options = {key_of(option): option for option in command.params if option.param_type_name == "option"}
    return {key: option for key, option in options.items() if key not in _NEVER_SET}


def key_of(option: Any) -> str:
    """The long name of an option without its dashes."""
    return str(next((name for name in option.opts if name.startswith("--")), option.opts[0])).lstrip("-")


def type_of(option: Any) -> Any:
    """What an option is made of."""
    descriptor = getattr(option, "type_descriptor", None)  # of newer Typers; older ones have click's types
    of_click = {"integer": int, "integer range": int, "float": float, "float range": float}
    return descriptor.annotation if descriptor else of_click.get(option.type.name, str)


def commands_of(group: Any, path: CommandPath = ()) -> Iterator[tuple[CommandPath, Any]]:
    """Every command below a group."""
    for name, command in getattr(group, "commands", {}).items():
        if hasattr(command, "commands"):
            yield from commands_of(command, (*path, name))
        else:
            yield (*path, name), command


def path_of(ctx: Any) -> CommandPath:
    """The names by which the command of a context was called, without the program's."""
    return () if ctx.parent is None else (*path_of(ctx.parent), ctx.info_name)


def variable(command: str, key: str) -> str:
    """The environment variable of an option."""
    names = [key] if is_shared(command, key) else [command, key]
    return "_".join(("SEED_REGISTRY", *names)).replace("-", "_").upper()


def is_shared(command: str, key: str) -> bool:
    """Whether the top level of the file is also for this option of the command."""
    return key in _OF_THEIR_OWN.get(command, {key})


def listed(names: str | Sequence[str] | None) -> list[str]:
    """One name or several, as a list."""
    return [names] if isinstance(names, str) else list(names or ())
