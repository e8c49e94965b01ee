"""`seed-registry digest`: two lines that are equal for equal registries."""

from __future__ import annotations

from typing import Annotated

import typer

from seed_registry.cli.config.flags import takes_settings
from seed_registry.cli.config.options import TABLE, Output
from seed_registry.cli.render.console import digest_lines
from seed_registry.cli.render.output import print_output
from seed_registry.cli.session import open_session
from seed_registry.cli.signals import run_interruptibly
from seed_registry.registry.digest import digest
from seed_registry.registry.introspection import introspect
from seed_registry.report import Digest
from seed_registry.settings import Settings


@takes_settings("database_url", "pooler", "columns")
def show_digest(
    *,
    settings: Settings,
    source: Annotated[
        str | None, typer.Option("--source", metavar="KEY", help="Of one source and its assets only, like a domain.")
    ] = None,
    output: Output = TABLE,
) -> None:
    """Print a digest of the registry that is equal for equal registries; write nothing.

    Two lines, sources and assets: the number of rows, a 128-bit sum of their hashes, and the fields that it covers. It
    does not depend on the order of rows, on ids, on when and how they were loaded, nor on server, collation or
    platform. Digests that cover unlike fields do not compare.
    """
    found = run_interruptibly(lambda: _digest(settings, source), "nothing was written")
    print_output(found, lambda: typer.echo("\n".join(digest_lines(found))), output=output)


async def _digest(settings: Settings, source: str | None) -> Digest:
    async with open_session(settings, is_read_only=True, must_exist=True) as (connection, _):
        return await digest(connection, await introspect(connection, settings.columns, settings.schema), source)
