"""`seed-registry history`: the versions of one asset."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated

import typer

from seed_registry.changes.availability import require_history
from seed_registry.changes.versions import Version, creator_of, find_asset, states_of, version_of
from seed_registry.cli.config.flags import takes_settings
from seed_registry.cli.config.options import TABLE, Output
from seed_registry.cli.render.history import AssetHistory, print_history
from seed_registry.cli.render.output import print_output
from seed_registry.cli.session import open_session
from seed_registry.cli.signals import run_interruptibly
from seed_registry.registry.introspection import introspect
from seed_registry.settings import Settings


@takes_settings("database_url", "pooler", "columns")
def show_history(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The asset's key.")],
    *,
    settings: Settings,
    source: Annotated[
        str | None, typer.Option(metavar="KEY", help="Its source, if several have an asset with this key.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="How many versions, the newest first.")] = 20,
    output: Output = TABLE,
) -> None:
    """Print the versions of an asset, the newest first, field by field.

    Changes hold the values before them; those after them are found by going back from the row as it is. The hash of
    each change proves them. A version that is not proven was followed by a change without history (a load without it,
    an edit by hand): its new values are those of then.
    """
    found = run_interruptibly(lambda: _find(settings, key, source, limit), "nothing was written")
    print_output(found, lambda: print_history(found), output=output)


async def _find(settings: Settings, key: str, source: str | None, limit: int) -> AssetHistory:
    async with open_session(settings, is_read_only=True, must_exist=True) as (connection, _):
        await require_history(connection)
        tables = await introspect(connection, settings.columns, settings.schema)
        asset = await find_asset(connection, tables, key, source)
        versions: list[Version] = []
        async with aclosing(states_of(connection, tables, asset)) as states:
            async for change, state in states:
                if len(versions) == limit:
                    break
                versions.append(version_of(change, state))
            else:
                limit += 1  # there are no more
        return AssetHistory(
            asset_key=asset.asset_key,
            provider=asset.provider,
            source_key=asset.source_key,
            exists=asset.row is not None,
            created_by=await creator_of(connection, asset),
            versions=versions,
            more=len(versions) == limit,
        )
