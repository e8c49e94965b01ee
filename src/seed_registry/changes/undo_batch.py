"""Takes back the changes of a batch of rows, in one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import Enum, auto
from typing import Any, Final

import asyncpg
from msgspec import Struct

from seed_registry.changes.undo_statements import UndoStatements
from seed_registry.errors import DatabaseRefused
from seed_registry.escape import printable
from seed_registry.postgres.failures import FailureAction, classify
from seed_registry.postgres.identifiers import display_name
from seed_registry.postgres.sql_files import statement
from seed_registry.registry.change_records import ChangeRecords
from seed_registry.registry.tables import Table

Key = tuple[str, ...]

_CHANGED: Final = "it was changed since"
_DELETED: Final = "it was deleted since"
_EXISTS: Final = "a row with its key exists again"
_KEPT_BY_TRIGGER: Final = "a trigger kept it as it is"


class Action(Enum):
    """What takes back the changes of a row."""

    DELETE = auto()
    RESTORE = auto()
    INSERT = auto()


class ChangedRow(Struct, frozen=True):
    """A row that the run changed.

    Attributes:
        hash: after its last change by the run; None if that deleted it, or, of one that `is_found`, if it is not known.
        is_created: whether the run created it.
        is_found: whether it was found in the table, and not among the changes: nothing else is known of it.
    """

    key: Key
    hash: bytes | None
    is_created: bool
    is_found: bool = False

    @property
    def action(self) -> Action | None:
        """What takes its changes back; None if the run left nothing."""
        if self.is_created:
            return Action.DELETE if self.hash is not None or self.is_found else None
        return Action.RESTORE if self.hash is not None else Action.INSERT


class RowState(Struct, frozen=True):
    """A row as it is.

    Attributes:
        is_intact: whether nothing has changed it since the run created it.
        source_id: of an asset that of its source, of a source its own.
        is_moved: in a dry run, whether an asset would go back to another source.
    """

    hash: bytes
    is_intact: bool
    source_id: str
    is_moved: bool


def conflict(row: ChangedRow, state: RowState | None) -> str | None:
    """Why a row is left alone, in words; None if its changes can be taken back, or are already."""
    match row.action:
        case Action.RESTORE if state is None:
            return _DELETED
        case Action.INSERT if state is not None:
            return _EXISTS
        case Action.DELETE | Action.RESTORE if state is not None:
            is_as_left = (row.is_found and state.is_intact) or state.hash == row.hash
            return None if is_as_left else _CHANGED
    return None


class Outcome(Struct):
    """How many rows of each kind a batch, or would have, taken back; and those that are left alone, with reasons."""

    done: dict[Action, int]
    conflicts: list[tuple[Key, str]]


class BatchUndo:
    """Takes back the changes of one table through one session."""

    def __init__(
        self,
        records: ChangeRecords,
        table: Table,
        undone: str,
        *,
        keeps: bool = False,
        freed: Counter[str] | None = None,
    ) -> None:
        """With `keeps` created assets are retired, not deleted.

        In a dry run, where nothing is written, `freed` counts the assets that each source would lose, by its id.
        """
        self.statements = UndoStatements(records, table, undone)
        self._table = table
        self._assets = records.tables.assets
        self._freed = freed
        self._is_assets = table is records.tables.assets
        self._is_dry = freed is not None
        self._state = self.statements.state(is_dry=self._is_dry)
        self._done = self.statements.done()
        self._queries = {
            Action.DELETE: self.statements.keep() if keeps else self.statements.delete(),
            Action.RESTORE: self.statements.restore(),
            Action.INSERT: self.statements.insert(),
        }
        self._deletes = not keeps
        self._references: list[tuple[str, str]] = []

    async def prepare(self, connection: asyncpg.Connection[Any]) -> None:
        """Find out which tables refer to this one.

        Raises:
            DatabaseRefused: this role may not read one of them.
        """
        if not self._deletes:
            return
        self._references = []
        assets, link = self._assets.name, self._assets.columns["source_id"].name
        if not (self._is_assets or self._is_dry):  # whether or not a foreign key says so
            self._references.append((display_name(assets), self.statements.referenced(assets, [link], ["id"])))
        for row in await connection.fetch(statement("changes/references"), self._table.name, assets):
            name = display_name(row["name"])
            if not row["is_readable"]:
                raise DatabaseRefused(
                    f"undo: {name} refers to {display_name(self._table.name)}, and this role may not read it\n"
                    f"have its owner run: grant select on {row['name']} to ROLE;"
                )
            if row["is_link"] and (self._is_dry or (not self._is_assets and row["columns"] == [link])):
                continue  # it is looked at above, or, in a dry run, the assets that it would delete are still there
            query = self.statements.referenced(row["name"], row["columns"], row["referenced"])
            self._references.append((name, query))

    async def undo(self, connection: asyncpg.Connection[Any], rows: Sequence[ChangedRow]) -> Outcome:
        """Take back what can be, in one transaction; of rows that the database refuses each by itself.

        Raises:
            asyncpg.PostgresError: it failed, for a reason that is no row's.
        """
        if not rows:
            return Outcome({}, [])
        try:
            async with connection.transaction():
                return await self._undo(connection, rows)
        except asyncpg.PostgresError as exc:
            if classify(exc) is not FailureAction.BISECT:
                raise
            if len(rows) == 1:
                return Outcome({}, [(rows[0].key, _refusal(exc))])
        middle = len(rows) // 2
        first, second = await self.undo(connection, rows[:middle]), await self.undo(connection, rows[middle:])
        done = {action: first.done.get(action, 0) + second.done.get(action, 0) for action in Action}
        return Outcome(done, first.conflicts + second.conflicts)

    async def _undo(self, connection: asyncpg.Connection[Any], rows: Sequence[ChangedRow]) -> Outcome:
        states = await self._states(connection, [row.key for row in rows])
        outcome = Outcome({}, [])
        groups: dict[Action, list[Key]] = {}
        for row in rows:
            if reason := conflict(row, states.get(row.key)):
                outcome.conflicts.append((row.key, reason))
            elif (action := row.action) and (row.key in states or action is Action.INSERT):
                groups.setdefault(action, []).append(row.key)
        for action, keys in groups.items():
            taken = await self._apply(connection, action, keys, outcome)
            if self._freed is not None and self._is_assets:
                was = [states[key] for key in taken if key in states]  # of one that is inserted again there is no row
                self._freed.update(state.source_id for state in was if action is Action.DELETE or state.is_moved)
        return outcome

    async def not_done(self, connection: asyncpg.Connection[Any], rows: Sequence[ChangedRow]) -> Sequence[ChangedRow]:
        """The rows that this undo has not dealt with."""
        if self._is_dry or not rows:
            return rows
        found = await connection.fetch(self._done, *_columns([row.key for row in rows]))
        done = {row["position"] - 1 for row in found}
        return [row for at, row in enumerate(rows) if at not in done]

    async def _states(self, connection: asyncpg.Connection[Any], keys: Sequence[Key]) -> dict[Key, RowState]:
        found = await connection.fetch(self._state, *_columns(keys))
        return {keys[position - 1]: RowState(*state) for position, *state in found}

    async def _apply(
        self, connection: asyncpg.Connection[Any], action: Action, keys: list[Key], outcome: Outcome
    ) -> list[Key]:
        """Do it, or only count in a dry run; return the keys of the rows."""
        if action is Action.DELETE:
            keys = await self._unreferenced(connection, keys, outcome)
        if not self._is_dry and keys:
            written = await connection.fetch(self._queries[action], *_columns(keys))
            done = {tuple(row["key"]) for row in written}
            reason = _EXISTS if action is Action.INSERT else _KEPT_BY_TRIGGER
            if self._deletes or action is not Action.DELETE:  # one that is retired already is as it shall be
                outcome.conflicts += [(key, reason) for key in keys if key not in done]
            keys = [key for key in keys if key in done]
        outcome.done[action] = outcome.done.get(action, 0) + len(keys)
        return keys

    async def _unreferenced(self, connection: asyncpg.Connection[Any], keys: list[Key], outcome: Outcome) -> list[Key]:
        """The rows to which no other table refers: a foreign key might delete its rows with ours."""
        reasons: dict[Key, str] = {}
        for name, query in self._references:
            rows = await connection.fetch(query, *_columns(keys))
            reasons |= {keys[row["position"] - 1]: f"rows of {name} refer to it" for row in rows}
        if self._freed is not None and not self._is_assets:
            rows = await connection.fetch(self.statements.count_assets(), *_columns(keys))
            left = [row["position"] - 1 for row in rows if row["assets"] > self._freed[row["source_id"]]]
            reasons |= {keys[at]: f"rows of {display_name(self._assets.name)} refer to it" for at in left}
        outcome.conflicts += reasons.items()
        return [key for key in keys if key not in reasons]


def _columns(keys: Sequence[Key]) -> list[list[str]]:
    return [list(column) for column in zip(*keys, strict=True)]


def _refusal(exc: asyncpg.PostgresError) -> str:
    """Why the database refuses a row; not in its own words, which hold values of the row."""
    constraint = getattr(exc, "constraint_name", None)
    by = f" by {printable(constraint, 100)}" if constraint else ""
    return f"the database refuses it{by} (SQLSTATE {exc.sqlstate})"
