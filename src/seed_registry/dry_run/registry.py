"""Finds the registry that a dry run compares with; it does without a database, and without tables."""

from __future__ import annotations

from contextlib import AsyncExitStack

from seed_registry.embedded import server
from seed_registry.embedded.database import database
from seed_registry.errors import SchemaMissing
from seed_registry.load.context import FoundRegistry, RunContext
from seed_registry.load.inspection import Inspection
from seed_registry.postgres.database_url import choose_url


async def find_registry(run: RunContext, stack: AsyncExitStack) -> FoundRegistry:
    """Find the registry; an embedded server is stopped with `stack`, if it has to be started.

    Raises:
        DatabaseUnavailable: there is no connection to the database that is named.
        SchemaMismatch: the tables cannot take the records.
    """
    run.log_unverified()
    if choose_url(run.settings.database_url) is None and not server.exists():
        found = FoundRegistry(empty_because="there is no embedded database yet")
    else:
        url = await stack.enter_async_context(database(run.settings))
        inspection = Inspection(run, url, is_reading=True)
        try:
            return FoundRegistry(url, state=await inspection.inspect(), database=inspection.database)
        except SchemaMissing:
            reason = "the database has no registry tables yet, see `seed-registry schema apply`"
            found = FoundRegistry(url, inspection.database, empty_because=reason)
    note = "compared with an empty registry"
    run.progress.tell("info", "no_database", reason=found.empty_because, note=note)
    return found
