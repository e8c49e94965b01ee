"""Limiting: no statement waits for ever; neither asyncpg's own timeouts nor TCP's end one on a network gone silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg


@asynccontextmanager
async def io_timeout(connection: asyncpg.Connection[Any], seconds: float | None) -> AsyncIterator[None]:
    """Cut the connection off when what is done with it takes longer; None for as long as it takes.

    Raises:
        TimeoutError: it took longer.
    """
    if seconds is None:
        yield
        return
    # First the connection, then the waiting: what is cancelled may roll back, and would wait for that answer as well.
    loop = asyncio.get_running_loop()
    cut = loop.call_later(seconds, connection.terminate)
    try:
        async with asyncio.timeout(seconds):
            yield
    except Exception:
        if loop.time() < cut.when():
            raise
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    finally:
        cut.cancel()
