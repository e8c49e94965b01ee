"""The commands in the order of the help, each imported when it is called by its name."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

import typer.main
from typer.core import TyperGroup

from seed_registry.cli.config.conversion import convert_plainly

# Where each command is defined: the module in this package, and in it a function or the Typer of several commands. A
# name of two words is that of a command below one that is itself a command.
HOMES: Final[Mapping[str, str]] = {
    "load": "load:load",
    "plan": "load:plan",
    "verify": "verify:verify",
    "digest": "digest:show_digest",
    "explain": "explain:explain",
    "runs": "runs:show_runs",
    "changes": "changes:show_changes",
    "changes prune": "prune:prune_changes",
    "history": "history:show_history",
    "diff": "diff:show_diff",
    "undo": "undo:undo_run",
    "doctor": "doctor:doctor",
    "bench": "bench:bench",
    "sample": "sample:sample",
    "rejects": "rejects:app",
    "schema": "schema:app",
    "db": "db:app",
    "config": "config:app",
}


class Group(TyperGroup):
    """Several commands, whose help is one screen."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options of the group itself."""
        convert_plainly(self.get_params(ctx))
        rest: list[str] = super().parse_args(ctx, args)
        return rest

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help as one screen."""
        from seed_registry.cli.help import print_help  # noqa: PLC0415  # a load does without it

        del formatter
        print_help(self, ctx, everything=False)


class LazyGroup(Group):
    """All commands of the program; only the one that is called is imported."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands = _Commands(HOMES)

    def list_commands(self, ctx: Any) -> list[str]:
        """List the names in the order of the help, without importing a command."""
        del ctx
        return list(self.commands)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command of the first word, or of the first two."""
        two_words = " ".join(args[:2])
        return super().resolve_command(ctx, [two_words, *args[2:]] if two_words in self.commands else args)


class _Commands(UserDict[str, Any]):
    """Commands by name, each imported at its first use."""

    def __getitem__(self, name: str) -> Any:
        command = super().__getitem__(name)
        if isinstance(command, str):
            command = self[name] = _made(name, command)
        return command


def _made(name: str, home: str) -> Any:
    """Import a command, or a group of them, with options that may be set in the environment or a file."""
    from seed_registry.cli.config.command import Command  # noqa: PLC0415  # `--version` does without it

    module, _, attribute = home.partition(":")
    found = getattr(import_module(f"{__package__}.commands.{module}"), attribute)
    name = name.rpartition(" ")[2]
    holder = typer.Typer()
    if isinstance(found, typer.Typer):
        for registered in found.registered_commands:
            registered.cls = Command
        holder.add_typer(found, name=name, cls=Group)
    else:
        holder.command(name, cls=Command)(found)
    return typer.main.get_group(holder).commands[name]
