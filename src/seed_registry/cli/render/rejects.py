"""The content of a rejects file, drawn for people."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

from msgspec import Struct, field
from rich.table import Table
from rich.text import Text

from seed_registry.cli.render.console import unbroken
from seed_registry.escape import printable
from seed_registry.index.decoder import REASONS
from seed_registry.records import Location

# Reasons are ours, some twenty; longer ones, and longer keys and names, are a stranger's.
_REASON_CHARACTERS: Final = 40
_KEY_CHARACTERS: Final = 60
_NAME_CHARACTERS: Final = 24
_TEXT_CHARACTERS: Final = 1_000


class RejectExcerpt(Struct, frozen=True, omit_defaults=True):
    """A reject, without its record."""

    index: str
    line: int
    offset: int
    detail: str
    key: str | None = None
    kind: str = ""


class ReasonGroup(Struct):
    """The rejects of one reason."""

    reason: str
    count: int = 0
    examples: list[RejectExcerpt] = field(default_factory=list)


class RejectsSummary(Struct):
    """What a rejects file holds; `no_rejects` counts lines that are none."""

    file: str
    rejects: int
    no_rejects: int
    reasons: list[ReasonGroup]


def print_groups(shown: RejectsSummary, path: str) -> None:
    """Print each reason with a few of its rejects."""
    console = unbroken()
    count = shown.rejects
    title = f"{count:,} reject{'s' if count != 1 else ''} in {printable(shown.file, _TEXT_CHARACTERS)}"
    console.print(Text(title, "bold"), soft_wrap=True)
    for group in shown.reasons:
        console.print()
        console.print(Text.assemble((f"{group.count:,} ", "bold"), _named(group.reason)))
        console.print(_rows(group.examples))
        if (rest := group.count - len(group.examples)) > 0:
            console.print(Text(f"  and {rest:,} more", "dim"))
    console.print()
    if shown.no_rejects:
        lines = "line is no reject" if shown.no_rejects == 1 else "lines are no rejects"
        console.print(Text(f"{shown.no_rejects:,} {lines}: cut off, or something else", "yellow"), soft_wrap=True)
    where = shlex.quote(printable(path, _TEXT_CHARACTERS))
    first = shlex.quote(printable(shown.reasons[0].reason, _REASON_CHARACTERS))
    hints = [("list", f"seed-registry rejects show {where} --reason {first}")]
    if {one.reason for one in shown.reasons} == {"record_too_large"}:  # only their beginnings are in the file
        hints.append(("after a fix", "load the index with a larger --max-record-bytes"))
    elif path != "-":
        hints.append(("after a fix", f"seed-registry rejects replay {where}"))
    for what, command in hints:
        console.print(Text(f"{what}: {command}", "dim"), soft_wrap=True)


def _named(reason: str) -> str:
    """A reason, with what it means where it is one of ours."""
    name = printable(reason, _REASON_CHARACTERS)
    return f"{name}: {REASONS[reason]}" if reason in REASONS else name


def print_list(group: ReasonGroup) -> None:
    """Print the rejects of one reason."""
    console = unbroken()
    console.print(Text.assemble((f"{group.count:,} ", "bold"), _named(group.reason)), soft_wrap=True)
    console.print(_rows(group.examples))
    if (rest := group.count - len(group.examples)) > 0:
        console.print(Text(f"and {rest:,} more: --limit {min(group.count, 100_000)} lists them", "dim"))


def _rows(examples: Sequence[RejectExcerpt]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    has_keys = any(example.key is not None for example in examples)
    table.add_column(no_wrap=True)  # a place is copied elsewhere
    if has_keys:
        table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for example in examples:
        name = printable(
            example.index.rpartition("/")[2], _NAME_CHARACTERS
        )  # a whole path on every line would only fill them
        cells = [Text("  " + str(Location(name, example.line, example.offset)), "dim")]
        if has_keys:
            kind = "source " if example.kind == "source" else ""
            cells.append(Text(kind + printable(example.key or "", _KEY_CHARACTERS)))
        table.add_row(*cells, Text(printable(example.detail)))
    return table
