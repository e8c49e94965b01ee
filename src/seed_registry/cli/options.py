"""The options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, cast, get_args

import typer

from seed_registry.errors import SettingsInvalid
from seed_registry.settings import DialectName, PoolerName

DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        envvar="DATABASE_URL",
        show_default=False,
        show_envvar=False,
        help="The database, postgresql://user@host/name [env: DATABASE_URL; default: the embedded server]",
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column", metavar="TABLE.FIELD=COLUMN", help="Where a field lives in a table of yours; repeat it for more."
    ),
]

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
DomainOption = Annotated[str | None, typer.Option("--domain", help="The portal of records that do not name theirs.")]
RecordsAtOption = Annotated[
    str | None, typer.Option("--records-at", help="Path of the array of records, like result.results.")
]


def pooler_of(chosen: Pooler | None) -> PoolerName:
    """The `pooler` of the settings, from the flag."""
    return cast("PoolerName", chosen.value if chosen else "auto")


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
