"""`seed-registry runs`: list the runs of the ledger."""

from __future__ import annotations

from typing import Annotated

import anyio
import typer

from seed_registry.cli.config.flags import takes_settings
from seed_registry.cli.config.options import TABLE, Output
from seed_registry.cli.render.output import print_output
from seed_registry.cli.render.runs import print_runs, run_entry
from seed_registry.cli.session import open_session
from seed_registry.errors import SettingsInvalid
from seed_registry.escape import printable
from seed_registry.ledger.history import RunRecord, is_usable, list_runs
from seed_registry.ledger.shards import ShardProgress, ShardStore
from seed_registry.postgres.identity import identify
from seed_registry.report import Database
from seed_registry.settings import Settings


@takes_settings("database_url")
def show_runs(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="One run, in full.")] = None,
    *,
    settings: Settings,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many, the newest first.")] = 20,
    output: Output = TABLE,
) -> None:
    """Show the loads of this database, and how each ended."""
    where, found, shards = anyio.run(_find, settings, run, limit)
    if run is not None and not found:
        raise SettingsInvalid(
            f"there is no run {printable(run)} in the ledger of {printable(where)}; `seed-registry runs` lists them"
        )
    entries = [run_entry(one, shards if run is not None else []) for one in found]
    result = {"database": where, "runs": entries}
    print_output(result, lambda: print_runs(found, where, shards, is_one=run is not None), output=output)


async def _find(
    settings: Settings, run_id: str | None, limit: int
) -> tuple[Database, list[RunRecord], list[ShardProgress]]:
    """The database, its runs, and of one run the shards that the ledger still has."""
    async with open_session(settings, is_read_only=True) as (connection, url):
        where = await identify(connection, is_embedded=url.is_embedded)
        runs = await list_runs(connection, run_id, limit) if await is_usable(connection) else []
        store = ShardStore(run_id or "")
        has_shards = bool(runs) and run_id is not None and await store.is_usable(connection)
        return where, runs, await store.progress(connection) if has_shards else []
