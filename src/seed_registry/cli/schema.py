"""`seed-registry schema`: the registry's tables."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import anyio
import asyncpg
import typer

from seed_registry.access import database
from seed_registry.cli.console import print_rows
from seed_registry.cli.options import Columns, DatabaseOption, columns_of, database_of
from seed_registry.escaping import printable
from seed_registry.registry import schema
from seed_registry.registry.connecting import session
from seed_registry.registry.identifiers import shown
from seed_registry.registry.key_owners import are_shared, wider_key
from seed_registry.registry.rehearsal import rehearse
from seed_registry.registry.sql import statement
from seed_registry.settings import Settings

app = typer.Typer(help="The registry's tables: create, check, show.", no_args_is_help=True)
Result = TypeVar("Result")
# Longer than any warning: its fix must not be cut, it is a command to be copied.
_SHOWN_CHARACTERS = 4_000


@app.command()
def apply(database_url: DatabaseOption = None) -> None:
    """Create what is missing; never drops or alters what is there."""
    _with_session(database_url, schema.apply)
    typer.echo("registry.sources and registry.assets are there")


@app.command()
def check(database_url: DatabaseOption = None, column: Columns = None) -> None:
    """Say whether a load could write to the tables as they are; exit 1 if not."""
    settings = Settings(columns=columns_of(column))

    async def look(connection: asyncpg.Connection[Any]) -> tuple[schema.Tables, str]:
        tables = await schema.introspect(connection, settings.columns)
        await rehearse(connection, tables)
        return tables, await wider_key(connection, tables.assets) if are_shared(tables.assets) else ""

    tables, fix = _with_session(database_url, look)
    for table in (tables.sources, tables.assets):
        rows = [(field, column.name, column.type, _remark(table, field)) for field, column in table.facts.items()]
        rows += [(field, "", "", "left out: no such column") for field in table.left_out]
        print_rows(shown(table.name), ("field", "column", "type", ""), rows)
        for caution in table.cautions:
            typer.echo(printable(f"warning: {caution.finding}; {caution.fix}", _SHOWN_CHARACTERS))
    if fix:
        note = (
            "note: two portals cannot both have an asset with a key of their own alike, such as 1 or population: "
            f"the later one is rejected as key_of_another_source; to keep both: {fix}"
        )
        typer.echo(printable(note, _SHOWN_CHARACTERS))
    typer.echo("a load can write to them")


@app.command()
def show() -> None:
    """Print the statements of `schema apply`."""
    typer.echo(schema.definition() + "\n" + statement("ledger"), nl=False)


@app.command()
def grants(role: Annotated[str, typer.Argument(help="The role that loads.")]) -> None:
    """Print the statements that let a role load, and nothing more; pipe them to the owner's psql."""
    typer.echo(schema.grants(role), nl=False)


def _remark(table: schema.Table, field: str) -> str:
    """What to know of a column besides its type."""
    if field in table.key:
        return "key"
    default = table.facts[field].default
    return f"where missing {printable(default.expression)}" if default else ""


def _with_session(database_url: str | None, action: Callable[[asyncpg.Connection[Any]], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        settings = Settings(database_url=database_of(database_url))
        async with database(settings) as url, session(url) as connection:
            return await action(connection)

    return anyio.run(run)
