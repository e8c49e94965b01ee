"""The worker side of a Dask cluster: what `cluster_worker` calls."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError, Future
from typing import Any, Final

from seed_registry import __version__
from seed_registry.errors import ClusterUnavailable, SeedRegistryError
from seed_registry.ledger.shards import ShardStore
from seed_registry.load.context import new_retry_policy
from seed_registry.postgres.connection import session
from seed_registry.report import Silent, Tally
from seed_registry.settings import Settings
from seed_registry.shards.cluster_worker import software
from seed_registry.shards.context import worker_name
from seed_registry.shards.shared_job import headers_of_worker, job_of_worker, url_of_worker
from seed_registry.shards.tasks import Failure, Job, Result, Step, Task
from seed_registry.shards.worker import Worker, loop_factory

# Sessions that wait longer for the next step are closed, so that none stays when the coordinator is killed.
_SECONDS_OF_IDLENESS: Final = 10.0
_SECONDS_OF_FAREWELL: Final = 3.0
_ENDED: Final = "this run has ended, or its database is another one than that of this worker"


def perform_step(run_id: str, step: Step, index: int, number: int, parts: tuple[int, ...]) -> Result:
    """See `cluster_worker.perform_step`."""
    slot = _take()
    try:
        return slot.perform(run_id, Task(step, index, number, parts))
    finally:
        _give_back(slot)


async def probe(run_id: str | None) -> dict[str, Any]:
    """See `cluster_worker.probe`."""
    headers: list[str] = []
    problem = ""
    try:
        headers = [str(header) for header in headers_of_worker()]
        url = url_of_worker()
        if run_id is not None:
            async with session(url) as connection:
                if not await ShardStore(run_id).is_known(connection):
                    problem = (
                        f"its database {url} is another one than that of this command\n"
                        "start the workers with the DATABASE_URL of this command"
                    )
    except SeedRegistryError as exc:
        problem = str(exc)
    return {"name": worker_name(), "software": software(), "headers": headers, "problem": problem}


async def end_run(run_id: str) -> None:
    """See `cluster_worker.end_run`."""
    with _lock:
        ending = [slot for slot in _slots if slot.run_id == run_id]
        _forget(ending)
    await asyncio.gather(*(asyncio.wrap_future(slot.end()) for slot in ending), return_exceptions=True)


class _Slot:
    """A `Worker` with an event loop and a thread of its own: the threads of Dask have none, and its loop is Dask's.

    Attributes:
        run_id: of the last step.
    """

    def __init__(self) -> None:
        self.run_id = ""
        self._worker = Worker()
        self._current: asyncio.Task[Any] | None = None
        self._idle: asyncio.TimerHandle | None = None
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        threading.Thread(target=self._run, args=(started,), name="seed-registry", daemon=True).start()
        self._loop, self._ended = started.result()

    def perform(self, run_id: str, task: Task) -> Result:
        """Perform a step; called in another thread."""
        self.run_id = run_id
        try:
            return asyncio.run_coroutine_threadsafe(self._perform(run_id, task), self._loop).result()
        except CancelledError:
            return Result(0.0, failure=Failure.of(ClusterUnavailable(_ENDED)))

    def end(self) -> Future[None]:
        """End what it does, its sessions and its thread; called in another thread."""
        return asyncio.run_coroutine_threadsafe(self._end(), self._loop)

    def _run(self, started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
        async def serve() -> None:
            ended = asyncio.Event()
            started.set_result((asyncio.get_running_loop(), ended))
            await ended.wait()

        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(serve())

    async def _perform(self, run_id: str, task: Task) -> Result:
        self._current = asyncio.current_task()
        if self._idle is not None:
            self._idle.cancel()
        try:
            return await self._worker.perform(await self._find_job(run_id), task)
        except SeedRegistryError as exc:
            return Result(0.0, failure=Failure.of(exc, worker_name()))
        finally:
            self._current = None
            self._idle = self._loop.call_later(_SECONDS_OF_IDLENESS, self._end_idle)

    async def _find_job(self, run_id: str) -> Job:
        """Read the job anew for every step: without it the run has ended, and it may have gone on with another.

        Raises:
            ClusterUnavailable: the run is not in this worker's database, or of another version of this program.
        """
        store = ShardStore(run_id)
        context = self._worker.context
        if context is not None and context.job.run_id == run_id:
            found = await context.main.do(store.job)
        else:
            url = url_of_worker()
            policy = new_retry_policy(Settings(), url, "auto", Tally(), Silent())
            async for attempt in policy.connect_attempts(is_rejoined=True):
                with attempt:
                    async with session(url) as connection:
                        found = await store.job(connection)
        if found is None:
            raise ClusterUnavailable(_ENDED)
        if found[0] != __version__:
            raise ClusterUnavailable(
                f"this worker has seed-registry {__version__}, and the run is one of {found[0]}\n"
                f"pip install 'seed-registry[dask]=={found[0]}' there"
            )
        return job_of_worker(run_id, found[1], worker_name())

    async def _end(self) -> None:
        try:
            if self._current is not None:
                self._current.cancel()
                await asyncio.wait([self._current], timeout=_SECONDS_OF_FAREWELL)
            async with asyncio.timeout(_SECONDS_OF_FAREWELL):
                await self._worker.close()
        finally:
            self._ended.set()

    def _end_idle(self) -> None:
        with _lock:
            if self not in _free:
                return
            _forget([self])
        self._idle = self._loop.create_task(self._end())  # type: ignore[assignment]  # kept: a loop does not keep tasks


_lock: Final = threading.Lock()
_slots: Final[list[_Slot]] = []
_free: Final[list[_Slot]] = []


def _take() -> _Slot:
    with _lock:
        if _free:
            return _free.pop()
    slot = _Slot()
    with _lock:
        _slots.append(slot)
    return slot


def _give_back(slot: _Slot) -> None:
    with _lock:
        if slot in _slots:
            _free.append(slot)


def _forget(slots: list[_Slot]) -> None:
    for slot in slots:
        _slots.remove(slot)
        if slot in _free:
            _free.remove(slot)
