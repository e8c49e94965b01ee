"""Print the help of a command: `--help` on one screen, `--help-all` in full."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from rich.console import Console
from rich.text import Text

from seed_registry.cli.config.options import RarePanel, key_of, path_of, type_of

# Longer lines are tiring to read, shorter ones leave no room beside the names of the options.
_WIDEST, _NARROWEST = 96, 40
# The options of a command with more are shown by panel, and those of a `RarePanel` are only named on its one screen.
_MANY = 18
_NO_PANEL = "Options"
_BLANK = "\n"
_EXAMPLES: Mapping[str, Sequence[str]] = {
    "": ("load city.index.json.gz", "load --help"),
    "load": ("load city.index.json.gz", "load 'indexes/*.json' --database-url postgresql://host/db"),
    "plan": ("plan city.index.json.gz", "plan city.index.json.gz --json"),
    "verify": ("verify city.index.json.gz", "verify city.index.json.gz --json"),
    "digest": ("digest --database-url postgresql://host/db", "digest --source data.example.org --json"),
    "explain": ("explain city.index.json.gz", "curl -s https://data.example.org/data.json | seed-registry explain -"),
    "runs": ("runs", "runs 20261123T101500-4f2a1c", "runs --limit 5 --json"),
    "changes": ("changes", "changes --since 24h --kind retired", "changes --json --after CURSOR"),
    "changes prune": ("changes prune --older-than 90d --dry-run", "changes prune --older-than 90d --yes"),
    "history": ("history aaaa-0001", "history aaaa-0001 --source data.example.org --json"),
    "diff": ("diff 20261123T101500-4f2a1c 20261130T101500-77ab09 --show-keys",),
    "doctor": ("doctor", "doctor --database-url postgresql://host/db"),
    "schema": ("schema show", "schema apply"),
    "schema apply": ("schema apply --database-url postgresql://host/db",),
    "schema check": ("schema check --column assets.asset_key=external_id",),
    "schema show": ("schema show | psql postgresql://host/db", "schema show --distributed | psql postgresql://host/db"),
    "schema upgrade": ("schema upgrade --yes",),
    "schema grants": ("schema grants loader | psql postgresql://host/db",),
    "db": ("db start", "db psql"),
    "db start": ("db start",),
    "db stop": ("db stop",),
    "db status": ("db status --json",),
    "db url": ("psql $(seed-registry db url)",),
    "db psql": ("db psql", "db psql -c 'select count(*) from registry.assets'"),
    "db reset": ("db reset --yes",),
    "bench": (
        "bench --records 5000 --batch-size 100,500 --concurrency 1,4",
        "bench city.index.json.gz --html bench.html",
        "bench --compare old.json new.json",
    ),
    "sample": ("sample --records 5000 --out sample.json", "sample --format ndjson | seed-registry load -"),
    "undo": ("undo 20260514T101112-1a2b3c --dry-run", "undo 20260514T101112-1a2b3c"),
    "rejects": ("rejects show city.rejects.ndjson", "rejects replay city.rejects.ndjson"),
    "rejects show": ("rejects show city.rejects.ndjson", "rejects show city.rejects.ndjson --json"),
    "rejects replay": ("rejects replay city.rejects.ndjson",),
    "config": ("config show",),
    "config show": ("config show", "config show bench", "config show schema check --json"),
}


def print_help(command: Any, ctx: Any, *, everything: bool) -> None:
    """Print the help of a command."""
    console = Console(file=sys.stdout, highlight=False)
    width = max(min(console.width, _WIDEST), _NARROWEST)
    for line in _help(command, ctx, width, everything=everything):
        console.print(line, soft_wrap=True)


def examples_of(path: str) -> list[str]:
    """Return the examples of a command, as they are typed."""
    return [f"seed-registry {text}" if text.split(" ")[0] in _EXAMPLES else text for text in _EXAMPLES.get(path, ())]


def _help(command: Any, ctx: Any, width: int, *, everything: bool) -> Iterator[Text]:
    yield Text.assemble(("Usage: ", "bold"), " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)]))
    paragraphs = (command.help or "").split("\n\n")
    for paragraph in paragraphs if everything else paragraphs[:1]:
        yield from map(Text, textwrap.wrap(" ".join(paragraph.split()), width))
    rows = [(f"  {argument_label(one)}", described(one, everything=everything)) for one in arguments_of(command)]
    if rows:
        yield Text("")
        yield from _table(rows, width)
    if hasattr(command, "commands"):
        yield Text("\nCommands", "bold")
        below = {name: one for name, one in command.commands.items() if " " not in name and not one.hidden}
        yield from _table([(f"  {name}", _first_sentence(one)) for name, one in below.items()], width)
    yield from _options(command, ctx, width, everything=everything)
    examples = examples_of(" ".join(path_of(ctx)))
    if examples:
        yield Text("\nExamples", "bold")
        yield from (Text(f"  {example}") for example in examples)


def _options(command: Any, ctx: Any, width: int, *, everything: bool) -> Iterator[Text]:
    options = {key_of(one): one for one in command.params if one.param_type_name == "option" and not one.hidden}
    many = len(options) > _MANY
    is_short = many and not everything
    rare = [key for key, one in options.items() if is_short and isinstance(_panel(one), RarePanel)]
    rows: dict[str, list[tuple[str, str]]] = {}
    for key, one in options.items():
        if key not in rare:
            row = (f"  {option_label(one)}", described(one, everything=everything))
            rows.setdefault(_panel(one) if many else _NO_PANEL, []).append(row)
    more = not everything and (rare or "\n\n" in (command.help or "") or any(map(_choices, options.values())))
    of_help = (
        "  -h, --help",
        f"This help{'; --help-all shows more' if more and not hasattr(command, 'commands') else ''}.",
    )
    rows.setdefault(next(reversed(rows), _NO_PANEL), []).append(of_help)
    column = min(max(len(label) for members in rows.values() for label, _ in members), 28)
    for panel, members in rows.items():
        yield Text(f"{'' if is_short else _BLANK}{panel}", "bold")
        yield from _table(members, width, column)
    if rare:
        yield Text.assemble(("Rarely needed", "bold"), f" ({ctx.command_path} --help-all explains them)")
        named = " ".join(f"--{key}" for key in rare)
        yield from (Text(f"  {line}") for line in textwrap.wrap(named, width - 2, break_on_hyphens=False))


def _panel(option: Any) -> str:
    """The section of an option; sections come in the order of their first options."""
    panel = getattr(option, "rich_help_panel", None)
    return panel if isinstance(panel, str) else _NO_PANEL


def _table(rows: Sequence[tuple[str, str]], width: int, column: int = 0) -> Iterator[Text]:
    column = column or max(len(label) for label, _ in rows)
    for label, text in rows:
        lines = textwrap.wrap(text, max(width - column - 2, 20), break_on_hyphens=False) or [""]
        if len(label) > column:
            yield Text(label, "cyan")
        else:
            yield Text.assemble((label.ljust(column + 2), "cyan"), lines.pop(0))
        yield from (Text(" " * (column + 2) + line) for line in lines)


def arguments_of(command: Any) -> list[Any]:
    """Return the arguments of a command that are not hidden."""
    return [one for one in command.params if one.param_type_name == "argument" and not getattr(one, "hidden", False)]


def argument_label(argument: Any) -> str:
    """Return the name of an argument."""
    return str(argument.metavar or argument.name.upper())


def option_label(option: Any) -> str:
    """Return the names of an option, and its metavar."""
    names = [*sorted(option.opts, key=len), *option.secondary_opts]
    joined = ", ".join(names) if not option.secondary_opts else "/".join(names)
    return joined if option.is_flag else f"{joined} {_metavar(option)}"


def _metavar(option: Any) -> str:
    return str(option.metavar or ("N" if type_of(option) in (int, float) else "TEXT"))


def described(parameter: Any, *, everything: bool) -> str:
    """Return the help of a parameter, and its default."""
    facts = []
    if everything and parameter.param_type_name == "option" and (choices := _choices(parameter)):
        facts.append(f"one of: {', '.join(choices)}")
    default = parameter.default
    if isinstance(default, Enum):
        default = default.value
    is_shown = parameter.show_default and not isinstance(default, bool) and default not in (None, "")
    if is_shown and isinstance(default, int | float | str):
        default = f"{default:g}" if isinstance(default, float) else default
        facts.append(f"default: {default}" if everything else f"{default}")
    return " ".join([parameter.help or "", *([f"[{'; '.join(facts)}]"] if facts else [])])


def _choices(option: Any) -> list[str]:
    descriptor = getattr(option, "type_descriptor", None)  # of newer Typers; older ones have click's types
    found = descriptor.choices if descriptor else getattr(option.type, "choices", None)
    return [str(getattr(choice, "value", choice)) for choice in found or ()]


def _first_sentence(command: Any) -> str:
    text = " ".join((command.help or "").split("\n\n")[0].split())
    return text.partition("; ")[0].partition(". ")[0].rstrip(".") + "."
