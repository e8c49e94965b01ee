"""Run work that the first signal stops cleanly, and the second at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import stamina

from seed_registry.errors import Interrupted

Result = TypeVar("Result")


def run_interruptibly(work: Callable[[], Awaitable[Result]], left: str | None = None) -> Result:
    """Run `work` to its end.

    Args:
        work: is cancelled by SIGINT, SIGTERM and SIGHUP.
        left: what an interrupted one leaves behind, for the message; None for that of a load.

    Raises:
        Interrupted: a signal stopped it.
    """
    stamina.instrumentation.set_on_retry_hooks([])  # its own would print every retry on stdout
    return anyio.run(_interruptible, work, left, backend_options={"use_uvloop": _has_uvloop()})


async def _interruptible(work: Callable[[], Awaitable[Result]], left: str | None) -> Result:
    received: list[signal.Signals] = []
    scope = anyio.CancelScope()

    def stop(number: signal.Signals) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        scope.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    # asyncpg leaves an unread future if a connection is killed while it is cancelled; the failure itself is reported.
    loop.set_exception_handler(lambda *_: None)
    with scope:
        return await work()
    assert received, "nothing else cancels"
    raise Interrupted(received[0], received[0].name, left)


def _has_uvloop() -> bool:
    try:
        import uvloop  # noqa: F401, PLC0415  # not made for every platform
    except ImportError:
        return False
    return True
