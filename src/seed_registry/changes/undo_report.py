"""The result of an undo."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from seed_registry.errors import SeedRegistryError

# Conflicts that a report names.
MOST_CONFLICTS: Final = 1_000


class UndoCounts(Struct):
    """What became of the rows of one table that the run had changed.

    Attributes:
        deleted: the run had created them.
        retired: the same, but kept, and marked as retired.
        restored: they have their former values again.
        inserted: the run had deleted them.
        conflicts: left alone.
    """

    deleted: int = 0
    retired: int = 0
    restored: int = 0
    inserted: int = 0
    conflicts: int = 0


class Conflict(Struct, frozen=True):
    """A row that an undo left alone.

    Attributes:
        table: sources or assets.
        key: the values of its unique key (untrusted).
        reason: in words.
    """

    table: str
    key: list[str]
    reason: str


class UndoReport(Struct):
    """What `undo` prints.

    Attributes:
        run_id: of the undo, which is a run as well; None of a dry run.
        undoes: the run that it takes back.
        conflicts: the first of them.
    """

    run_id: str | None
    undoes: str
    dry_run: bool
    seconds: float
    sources: UndoCounts
    assets: UndoCounts
    conflicts: list[Conflict]


class UndoIncomplete(SeedRegistryError):
    """Some rows were left alone, because something else has changed them, or refers to them; `report` has them."""

    exit_code = 4

    def __init__(self, message: str, report: UndoReport) -> None:
        super().__init__(message)
        self.report = report
