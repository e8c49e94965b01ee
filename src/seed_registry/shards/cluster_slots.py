"""Where a worker of a Dask cluster performs steps: event loops that are kept from one to the next."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent import futures
from concurrent.futures import CancelledError, Future
from typing import Any, Final, Protocol, TypeVar

from seed_registry.errors import ClusterUnavailable
from seed_registry.shards.event_loop import loop_factory

R = TypeVar("R")
# Sessions that wait longer for the next step are closed, so that none stays when the coordinator is killed.
_SECONDS_OF_IDLENESS: Final = 10.0
_SECONDS_OF_FAREWELL: Final = 3.0
_SECONDS_BETWEEN_LOOKS: Final = 1.0
ENDED: Final = (
    "this run has ended, or its database is another one than that of this worker\n"
    "start the workers with the DATABASE_URL of the command"
)


class Closable(Protocol):
    """What is closed in the end."""

    async def close(self) -> None:
        """Close it."""


def perform_in_slot(run_id: str, work: Callable[[Slot], Coroutine[Any, Any, R]]) -> R:
    """Perform work of a run in an event loop that `end_run` ends; called in a thread of Dask's.

    Raises:
        ClusterUnavailable: the run has ended.
    """
    slot = _take(run_id)
    try:
        return slot.perform(work)
    finally:
        _give_back(slot)


async def end_run(run_id: str) -> None:
    """End the steps of a run in this worker, and its sessions."""
    with _lock:
        ending = [slot for slot in _slots if slot.run_id == run_id]
        _forget(ending)
    await asyncio.gather(*(asyncio.wrap_future(slot.end()) for slot in ending), return_exceptions=True)


class Slot:
    """An event loop with a thread of its own: the threads of Dask have none, and its loop is Dask's.

    Attributes:
        run_id: of the last step, or of the one that it is taken for.
        kept: what a step leaves for the next one, such as sessions; closed in the end.
    """

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.kept: Closable | None = None
        self._current: asyncio.Task[Any] | None = None
        self._idle: asyncio.TimerHandle | None = None
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="seed-registry", daemon=True)
        self._thread.start()
        self._loop, self._ended = started.result()

    def perform(self, work: Callable[[Slot], Coroutine[Any, Any, R]]) -> R:
        """Perform work; called in another thread.

        Raises:
            ClusterUnavailable: the run has ended.
        """
        performing = self._perform(work)
        try:
            future = asyncio.run_coroutine_threadsafe(performing, self._loop)
        except RuntimeError as exc:  # the loop is closed
            performing.close()
            raise ClusterUnavailable(ENDED) from exc
        # A loop that ended meanwhile never begins it.
        while not futures.wait([future], timeout=_SECONDS_BETWEEN_LOOKS).done:
            if not self._thread.is_alive():
                raise ClusterUnavailable(ENDED)
        try:
            return future.result()
        except CancelledError:
            raise ClusterUnavailable(ENDED) from None

    def end(self) -> Future[None]:
        """End what it does, its sessions and its thread; called in another thread."""
        return asyncio.run_coroutine_threadsafe(self._end(), self._loop)

    def _run(self, started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
        async def serve() -> None:
            ended = asyncio.Event()
            started.set_result((asyncio.get_running_loop(), ended))
            await ended.wait()

        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(serve())
        except OSError as exc:
            if started.done():
                raise
            started.set_exception(exc)  # too many open files

    async def _perform(self, work: Callable[[Slot], Coroutine[Any, Any, R]]) -> R:
        self._current = asyncio.current_task()
        if self._idle is not None:
            self._idle.cancel()
        try:
            return await work(self)
        finally:
            self._current = None
            self._idle = self._loop.call_later(_SECONDS_OF_IDLENESS, self._end_idle)

    async def _end(self) -> None:
        try:
            if self._current is not None:
                self._current.cancel()
                await asyncio.wait([self._current], timeout=_SECONDS_OF_FAREWELL)
            async with asyncio.timeout(_SECONDS_OF_FAREWELL):
                if self.kept is not None:
                    await self.kept.close()
        finally:
            self._ended.set()

    def _end_idle(self) -> None:
        with _lock:
            if self not in _free:
                return
            _forget([self])
        self._idle = self._loop.create_task(self._end())  # type: ignore[assignment]  # kept: a loop does not keep tasks


_lock: Final = threading.Lock()
_slots: Final[list[Slot]] = []
_free: Final[list[Slot]] = []


def _take(run_id: str) -> Slot:
    with _lock:
        if _free:
            slot = _free.pop()
            slot.run_id = run_id  # now, or the end of the run that it was used for would end it
            return slot
    slot = Slot(run_id)
    with _lock:
        _slots.append(slot)
    return slot


def _give_back(slot: Slot) -> None:
    with _lock:
        if slot in _slots:
            _free.append(slot)


def _forget(slots: list[Slot]) -> None:
    for slot in slots:
        _slots.remove(slot)
        if slot in _free:
            _free.remove(slot)
