"""Limiting: no statement waits for ever; neither asyncpg's own timeouts nor TCP's end one on a network gone silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg


@asynccontextmanager
async def limited(connection: asyncpg.Connection[Any], seconds: float | None) -> AsyncIterator[None]:
    """Cut the connection off when what is done with it takes longer; None for as long as it takes.

    Raises:
        TimeoutError: it took longer.
    """
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        connection.terminate()  # a rollback would have to wait for an answer as well
        raise TimeoutError(f"no answer within {seconds:g} s") from None
