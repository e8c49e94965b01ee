"""Limit how long a statement may take: on a dead network neither asyncpg's timeouts nor TCP's end one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg


@asynccontextmanager
async def io_timeout(connection: asyncpg.Connection[Any], seconds: float | None) -> AsyncIterator[None]:
    """Terminate the connection if the body takes longer than these `seconds`; None is no limit.

    Raises:
        TimeoutError: it took longer.
    """
    if seconds is None:
        yield
        return
    # The connection first: the cancelled body may roll back, and would wait for an answer again.
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
