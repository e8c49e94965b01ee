"""The options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from seed_registry.errors import SettingsInvalid

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
