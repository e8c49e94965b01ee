"""The grid of cells that a bench measures, parsed from the flags and checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product
from typing import Final, TypeVar

from msgspec import Struct

from seed_registry.bench.results import COPY_DIRECT, STRATEGIES, Cell
from seed_registry.errors import SettingsInvalid
from seed_registry.settings import Settings

# A load into empty tables, among the percentages of --changed.
FIRST: Final = "first"
# A bench of more runs than this is a slip of the hand.
_MAX_RUNS: Final = 10_000
_MAX_REPEAT: Final = 1_000

Value = TypeVar("Value")


class Grid(Struct, frozen=True, kw_only=True):
    """The values that are combined, each list without repetitions; `changed` holds percentages, None is a first load.

    Raises:
        SettingsInvalid: a value is out of range; the message names the flag.
    """

    batch_sizes: list[int]
    concurrencies: list[int]
    strategies: list[str]
    changed: list[float | None]
    repeat: int
    batch_bytes: int

    def __post_init__(self) -> None:
        for batch_size, concurrency in product(self.batch_sizes, self.concurrencies):
            Settings(batch_size=batch_size, concurrency=concurrency, batch_bytes=self.batch_bytes)
        if unknown := [name for name in self.strategies if name not in STRATEGIES]:
            raise SettingsInvalid(f"--strategy takes {', '.join(STRATEGIES)}, got {unknown[0]!r}")
        for percent in self.changed:
            if percent is not None and not 0 <= percent <= 100:  # noqa: PLR2004  # percent
                raise SettingsInvalid(f"--changed must be from 0 to 100 percent, got {percent:g}")
        if not 1 <= self.repeat <= _MAX_REPEAT:
            raise SettingsInvalid(f"--repeat must be from 1 to {_MAX_REPEAT:,}, got {self.repeat:,}")
        if (runs := self.repeat * len(self.cells(""))) > _MAX_RUNS:
            raise SettingsInvalid(f"this grid makes {runs:,} runs, at most {_MAX_RUNS:,} are possible; shorten a list")

    def cells(self, index: str) -> list[Cell]:
        """Every combination, in the order in which they take turns."""
        combined = product(self.changed, self.strategies, self.batch_sizes, self.concurrencies)
        return [
            Cell(strategy, batch_size, concurrency, changed, index)
            for changed, strategy, batch_size, concurrency in combined
        ]


def impossible(cell: Cell) -> str | None:
    """Why a cell cannot be measured, known without trying."""
    if cell.strategy == COPY_DIRECT and cell.changed is not None:
        return f"{COPY_DIRECT} cannot load what is there already"
    return None


def parse_numbers(flag: str, text: str) -> list[int]:
    """Read a list like `100,500`.

    Raises:
        SettingsInvalid: it is none.
    """

    def number(part: str) -> int:
        if not re.fullmatch(r"\d{1,18}", part, re.ASCII):
            raise SettingsInvalid(f"{flag} takes whole numbers like 100,500, got {part!r}")
        return int(part)

    return _parsed(flag, text, number)


def parse_names(flag: str, text: str) -> list[str]:
    """Read a list like `insert,copy-direct`.

    Raises:
        SettingsInvalid: it is empty.
    """
    return _parsed(flag, text, str)


def parse_changed(text: str) -> list[float | None]:
    """Read a list like `first,0,1,100`; None stands for `first`.

    Raises:
        SettingsInvalid: it is none.
    """

    def percent(part: str) -> float | None:
        if part == FIRST:
            return None
        if not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", part, re.ASCII):
            raise SettingsInvalid(f"--changed takes percentages like 0,1,100, or {FIRST}, got {part!r}")
        return float(part)

    return _parsed("--changed", text, percent)


def _parsed(flag: str, text: str, read: Callable[[str], Value]) -> list[Value]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise SettingsInvalid(f"{flag} takes a list with commas between its values, got {text!r}")
    return list(dict.fromkeys(read(part) for part in parts))
