"""The target of a dry run in a worker process."""

from __future__ import annotations

from contextlib import AsyncExitStack

from seed_registry.dry_run.composition import compose
from seed_registry.errors import DatabaseRefused
from seed_registry.load.context import FoundRegistry, RunContext
from seed_registry.load.inspection import Inspection
from seed_registry.load.target import Target
from seed_registry.settings import DatabaseUrl


async def open_worker_target(run: RunContext, url: DatabaseUrl | None, salt: str, stack: AsyncExitStack) -> Target:
    """Open it.

    Args:
        run: the same as in the process that leads it.
        url: of the registry to compare with; None of an empty one.
        salt: of the content hashes of that registry.
        stack: closes all.

    Raises:
        DatabaseUnavailable: there is no connection.
        DatabaseRefused: the tables are not what they were.
    """
    found = FoundRegistry()
    if url is not None:
        found = FoundRegistry(url, state=await Inspection(run, url, is_reading=True).inspect())
        assert found.state is not None
        if found.state.tables.salt != salt:
            raise DatabaseRefused("the tables were changed during the dry run; begin it again")
    return await compose(run, found, stack)
