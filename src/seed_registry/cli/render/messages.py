"""Print errors and warnings on stderr. Texts are escaped and never read as markup."""

from __future__ import annotations

from collections.abc import Iterable

from seed_registry.escape import printable

# Long enough for a path and what is wrong with it.
_SHOWN_CHARACTERS = 2_000


def print_error(message: str) -> None:
    """One failure on stderr."""
    _print("error: ", "red bold", message.splitlines())


def print_warning(message: str) -> None:
    """One warning on stderr."""
    _print("warning: ", "yellow", [message])


def _print(label: str, style: str, lines: Iterable[str]) -> None:
    from rich.console import Console  # noqa: PLC0415  # most commands have nothing to say, and start without it
    from rich.text import Text  # noqa: PLC0415  # see above

    console = Console(stderr=True, highlight=False)
    for number, line in enumerate(lines):
        head = Text(label, style) if number == 0 else Text(" " * len(label))
        console.print(head + Text(printable(line, _SHOWN_CHARACTERS)), soft_wrap=True)
