"""`seed-registry schema upgrade`: what this version needs, in tables that an earlier one made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import anyio
import asyncpg
import typer
from msgspec.structs import replace

from seed_registry.cli.config.flags import takes_settings
from seed_registry.cli.session import open_session
from seed_registry.errors import DatabaseRefused, SchemaMismatch
from seed_registry.ledger.runs import create, is_current
from seed_registry.registry.upgrade import Upgrade, find_upgrade, renaming
from seed_registry.settings import Settings


@takes_settings("database_url")
def upgrade(
    *,
    settings: Settings,
    rename_provider: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE=NAME", help="Rename the provider of a source, as data.example.org=ckan; repeat it for more."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Add what this version needs to tables that an earlier one made, after showing it.

    Tables of other programs are never altered: for those the statements are only printed, and the exit code is 1.
    An earlier version named `socrata` as the provider of portals with other software: --rename-provider renames it.
    """
    renames = [renaming(*text.rpartition("=")[::2]) for text in rename_provider or ()]
    found, has_ledger = anyio.run(_find, settings)
    found = replace(found, statements=[*found.statements, *([] if found.foreign else renames)])
    for sql in found.statements:
        typer.echo(sql)
    if not has_ledger:
        typer.echo("-- and the tables of schema seed_registry, as `seed-registry schema show` prints them")
    if found.statements or not has_ledger:
        if not yes:
            typer.confirm("Execute this?", abort=True, err=True)
        anyio.run(_execute, settings, found.statements)
        typer.echo("upgraded")
    elif not found.foreign:
        typer.echo("nothing to do")
    if found.foreign:
        raise SchemaMismatch("tables that another program made stay as they are; run: " + " ".join(found.foreign))


async def _find(settings: Settings) -> tuple[Upgrade, bool]:
    async with open_session(settings, must_exist=True) as (connection, _):
        return await find_upgrade(connection), await is_current(connection)


async def _execute(settings: Settings, statements: Sequence[str]) -> None:
    async with open_session(settings) as (connection, _):
        await _upgrade(connection, statements)


async def _upgrade(connection: asyncpg.Connection[Any], statements: Sequence[str]) -> None:
    async with connection.transaction():
        for sql in statements:
            await connection.execute(sql)
    if note := await create(connection):
        raise DatabaseRefused(note)
