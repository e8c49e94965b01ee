"""`seed-registry schema`: the registry's tables."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Annotated, Any, TypeAlias, TypeVar, cast, get_args

import anyio
import asyncpg
import typer

from seed_registry.cli.commands.upgrade import upgrade
from seed_registry.cli.config.flags import takes_settings
from seed_registry.cli.render.tables import print_note, print_table
from seed_registry.cli.session import open_session
from seed_registry.registry import ddl
from seed_registry.registry.compression import Compression, Method, change, storage
from seed_registry.registry.fields import LARGE_FIELDS
from seed_registry.registry.introspection import introspect
from seed_registry.registry.key_owners import are_shared, wider_key
from seed_registry.registry.preflight import rehearse
from seed_registry.registry.tables import SCHEMA, Tables
from seed_registry.settings import DatabaseUrl, Settings

app = typer.Typer(help="The registry's tables: create, check, show.", no_args_is_help=True)
Result = TypeVar("Result")
Action: TypeAlias = Callable[["asyncpg.Connection[Any]", DatabaseUrl], Awaitable[Result]]
# Made from the one list there is.
Wanted = StrEnum("Wanted", {name: name for name in get_args(Compression)})  # type: ignore[misc]
CompressionOption = Annotated[
    Wanted,
    typer.Option(
        "--compression",
        metavar="|".join(get_args(Compression)),
        help="How assets.raw is compressed if assets is created.",
    ),
]


@app.command()
@takes_settings("database_url")
def apply(
    *,
    settings: Settings,
    compression: CompressionOption = Wanted.auto,  # type: ignore[attr-defined]
) -> None:
    """Create what is missing; never drops or alters what is there.

    It also builds the indexes that a load with --defer-indexes had dropped and did not build, for it was cut off.

    --compression is of the records' own JSON, registry.assets.raw, if that table is created: lz4 needs a server that
    was built with it, none (which compresses no column and keeps rows whole) takes more disk and pglz more CPU of the
    server. auto is lz4 where the server has it, unless default_toast_compression is set otherwise there; without lz4 it
    is none on the embedded server, and the server's default on any other.
    """

    async def create(connection: asyncpg.Connection[Any], url: DatabaseUrl) -> tuple[str, str | None]:
        wanted = cast("Compression", compression.value)
        built = await ddl.apply(connection, compression=wanted, is_embedded=url.is_embedded)
        return built, None if wanted == "auto" else await _kept(connection, wanted)

    built, kept = _with_session(settings, create)
    if built:
        typer.echo(f"built {built}, which a load with --defer-indexes had dropped")
    typer.echo("registry.sources and registry.assets are there")
    if kept:
        print_note(kept)


app.command()(upgrade)


@app.command()
@takes_settings("database_url", "columns")
def check(settings: Settings) -> None:
    """Check whether a load can write to the tables as they are; exit 1 if not."""

    async def look(connection: asyncpg.Connection[Any], _: DatabaseUrl) -> tuple[Tables, str]:
        tables = await introspect(connection, settings.columns)
        await rehearse(connection, tables)
        return tables, await wider_key(connection, tables.assets) if are_shared(tables.assets) else ""

    tables, fix = _with_session(settings, look)
    for table in (tables.sources, tables.assets):
        print_table(table)
    if fix:
        note = (
            "note: two portals cannot both have an asset with a key of their own alike, such as 1 or population: "
            f"the later one is rejected as key_of_another_source; to keep both: {fix}"
        )
        print_note(note)
    typer.echo("a load can write to them")


@app.command()
def show(
    *,
    compression: CompressionOption = Wanted.auto,  # type: ignore[attr-defined]
    distributed: Annotated[
        bool, typer.Option("--distributed", help="Print those for Citus, with the assets divided over its nodes.")
    ] = False,
) -> None:
    """Print the statements of `schema apply`, or of tables on Citus.

    No server is asked, so that with --compression auto they leave it to the server's default_toast_compression, which
    sessions of seed-registry set to lz4 where they may. lz4 and pglz need Postgres 14 or newer.
    """
    wanted = cast("Compression", compression.value)
    method: Method = "default" if wanted == "auto" else wanted
    typer.echo(ddl.distributed_script(method) if distributed else ddl.script(method), nl=False)


@app.command()
def grants(
    role: Annotated[str, typer.Argument(help="The role that loads.")],
    *,
    undo: Annotated[bool, typer.Option("--undo", help="Also let it take back runs: delete what they created.")] = False,
) -> None:
    """Print the statements that let a role load, and nothing more; pipe them to the owner's psql."""
    typer.echo(ddl.grants(role, may_undo=undo), nl=False)


async def _kept(connection: asyncpg.Connection[Any], wanted: Method) -> str | None:
    """Return a note if the table existed before and has another compression than the one asked for."""
    assets = f"{SCHEMA}.assets"
    for now in await storage(connection, assets, LARGE_FIELDS):
        if "raw" not in now.methods:
            return None
        if not (now.is_plain if wanted == "none" else now.methods["raw"] == wanted):
            fix = change(now, "raw", wanted)
            return f"note: {assets} was there before and keeps its compression: {now}; for rows to come: {fix}"
    return None


def _with_session(settings: Settings, action: Action[Result]) -> Result:
    async def run() -> Result:
        async with open_session(settings) as (connection, url):
            return await action(connection, url)

    return anyio.run(run)
