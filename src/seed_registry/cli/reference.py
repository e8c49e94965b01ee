"""Print docs/reference.md: all commands and options of the command line.

`python -m seed_registry.cli.reference > docs/reference.md` updates the page; a test fails when it is stale.
"""

from __future__ import annotations

import sys
from typing import Any

import typer.main

from seed_registry.cli.config.options import commands_of, key_of, options_of, variable
from seed_registry.cli.help import argument_label, arguments_of, described, examples_of, option_label
from seed_registry.cli.main import app

_INTRODUCTION = """\
# seed-registry: the reference

Made from the command line by `python -m seed_registry.cli.reference`; do not edit it.

An option is taken from its flag, else from its environment variable, else from the nearest `seed-registry.toml` or
`pyproject.toml` with `[tool.seed-registry]` (the option's name without its dashes, at the top level or in a table of
the command's name), else it is the default. `seed-registry config show` lists where each value comes from.

Exit codes: 0 done, 1 failed, 2 usage, 3 too many rejects or nothing retired, 4 verification failed, 129, 130 and 143
interrupted.
"""


def page(root: Any) -> str:
    """All commands in Markdown."""
    parts = [_INTRODUCTION, _root_options(root)]
    parts += [_section(path, command) for path, command in commands_of(root) if not command.hidden]
    return "\n".join(parts)


def _root_options(root: Any) -> str:
    rows = [f"| `{option_label(one)}` | {_cell(one.help)} |" for one in root.params if one.param_type_name == "option"]
    return "\n".join(["## seed-registry", "", *root.help.splitlines(), "", "| option | |", "|---|---|", *rows, ""])


def _section(path: tuple[str, ...], command: Any) -> str:
    name = " ".join(path)
    lines = [
        f"## seed-registry {name}",
        "",
        f"`{' '.join(['seed-registry', name, *command.collect_usage_pieces(None)])}`",
        "",
    ]
    for paragraph in (command.help or "").split("\n\n"):
        lines += [" ".join(paragraph.split()), ""]
    arguments = [
        f"| `{argument_label(one)}` | {_cell(described(one, everything=True))} |" for one in arguments_of(command)
    ]
    if arguments:
        lines += ["| argument | |", "|---|---|", *arguments, ""]
    settable = options_of(command)
    rows = []
    for option in command.params:
        if option.param_type_name == "option" and not option.hidden:
            key = key_of(option)
            variables = option.envvar if isinstance(option.envvar, list) else [variable(path[-1], key)]
            names = ", ".join(f"`{one}`" for one in variables) if key in settable else ""
            rows.append(f"| `{_cell(option_label(option))}` | {_cell(described(option, everything=True))} | {names} |")
    if rows:
        lines += ["| option | | environment |", "|---|---|---|", *rows, ""]
    if examples := examples_of(name):
        lines += ["```sh", *examples, "```", ""]
    return "\n".join(lines)


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("<", "&lt;")


def current_page() -> str:
    """The page of this program as it is."""
    return page(typer.main.get_command(app))


if __name__ == "__main__":
    sys.stdout.write(current_page())
