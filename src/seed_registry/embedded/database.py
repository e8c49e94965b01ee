"""Find the database of the settings, and start the embedded server if they name none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from seed_registry.embedded import server
from seed_registry.errors import DatabaseUnavailable
from seed_registry.postgres.database_url import choose_url
from seed_registry.settings import DatabaseUrl, Settings


@asynccontextmanager
async def database(settings: Settings, *, must_exist: bool = False) -> AsyncIterator[DatabaseUrl]:
    """Yield the URL of the chosen database; without one the embedded server runs until its last user is done.

    Raises:
        DatabaseUnavailable: the embedded server has no database yet, and it `must_exist`.
        SettingsInvalid: the environment names an unusable database.
        EmbeddedServerFailed: the embedded server cannot be started.
    """
    if (named := choose_url(settings.database_url)) is not None:
        yield named
        return
    if must_exist and not server.exists():
        raise DatabaseUnavailable(
            "there is no embedded database yet\nload an index first, or name a database with --database-url"
        )
    running = server.running()
    url = await anyio.to_thread.run_sync(running.__enter__)
    try:
        yield DatabaseUrl(url, is_embedded=True)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(running.__exit__, None, None, None)
