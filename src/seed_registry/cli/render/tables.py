"""The registry's tables as `seed-registry schema check` prints them."""

from __future__ import annotations

from typing import Final

import typer

from seed_registry.cli.render.console import print_rows
from seed_registry.escape import printable
from seed_registry.postgres.identifiers import display_name
from seed_registry.registry.tables import Table

# Longer than any warning: its fix must not be cut, it is a command to be copied.
_SHOWN_CHARACTERS: Final = 4_000


def print_table(table: Table) -> None:
    """Print the column of each field, and warnings."""
    rows = [(field, column.name, column.type, _remark(table, field)) for field, column in table.columns.items()]
    rows += [(field, "", "", "left out: no such column") for field in table.left_out]
    print_rows(display_name(table.name), ("field", "column", "type", ""), rows)
    for caution in table.cautions:
        print_note(f"warning: {caution.finding}; {caution.fix}")


def print_note(text: str) -> None:
    """Print a line that may hold a long command."""
    typer.echo(printable(text, _SHOWN_CHARACTERS))


def _remark(table: Table, field: str) -> str:
    if field in table.key:
        return "key"
    default = table.columns[field].default
    return f"where missing {printable(default.expression)}" if default else ""
