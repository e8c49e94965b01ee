"""The event loop of workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the event loop of a worker; None for the one of Python."""
    try:
        import uvloop  # noqa: PLC0415  # not made for every platform
    except ImportError:
        return None
    return uvloop.new_event_loop
