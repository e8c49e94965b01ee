"""Open a session with the database that a command names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from seed_registry.embedded.database import database
from seed_registry.postgres.connection import session
from seed_registry.postgres.session_settings import READ_ONLY
from seed_registry.settings import DatabaseUrl, Settings


@asynccontextmanager
async def open_session(
    settings: Settings, *, is_read_only: bool = False, must_exist: bool = False
) -> AsyncIterator[tuple[asyncpg.Connection[Any], DatabaseUrl]]:
    """Open a session with the database of the settings; without one the embedded server runs meanwhile.

    Args:
        settings: with the URL and the pooler.
        is_read_only: refuse writes.
        must_exist: do not create an embedded database.

    Raises:
        DatabaseUnavailable: there is no embedded database that `must_exist`.
        SeedRegistryError: there is no connection.
    """
    async with (
        database(settings, must_exist=must_exist) as url,
        session(url, READ_ONLY if is_read_only else {}, pooler=settings.pooler) as connection,
    ):
        yield connection, url
