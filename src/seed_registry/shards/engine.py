"""Runs the steps of a run in processes of this machine."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import anyio.to_process
from anyio import BrokenWorkerProcess, CapacityLimiter

from seed_registry.errors import WorkersLost, first_cause
from seed_registry.shards.tasks import Job, Result, Task
from seed_registry.shards.worker import perform

R = TypeVar("R")
# How often a step is given to another worker after its worker was lost.
MOST_LOSSES: Final = 3


class Processes:
    """The `Engine` of one machine. A worker process is kept for the whole run, with its sessions."""

    def __init__(self, processes: int, entry: Callable[[Any, Any], Result] = perform) -> None:
        """`entry` performs a step, of a job, in a worker process."""
        self._limiter = CapacityLimiter(processes)
        self._entry = entry

    async def perform(
        self, job: Job, tasks: Sequence[Task], done: Callable[[Task, Result], None], lost: Callable[[Task, str], None]
    ) -> None:
        """Perform tasks, see `Engine`; those that are cancelled end with their processes."""

        async def one(task: Task) -> None:
            result = await self.call(self._entry, job, task, partial(lost, task))
            if result.failure is not None:
                raise result.failure.error()
            done(task, result)

        try:
            async with anyio.create_task_group() as group:
                for task in tasks:
                    group.start_soon(one, task)
        except BaseExceptionGroup as failures:
            raise first_cause(failures) from failures

    async def call(self, entry: Callable[[Any, Any], R], job: Any, task: Any, lost: Callable[[str], None]) -> R:
        """Perform a step in a process, again if that is lost; `lost` is called with the reason.

        Raises:
            WorkersLost: several were lost.
        """
        losses = 0
        while True:
            try:
                async with self._limiter:  # anyio would pickle the arguments of all steps before it waits
                    return await anyio.to_process.run_sync(
                        entry, job, task, cancellable=True, limiter=CapacityLimiter(1)
                    )
            except (BrokenWorkerProcess, ProcessLookupError) as exc:  # anyio kills it, and it may be gone
                losses += 1
                if losses == MOST_LOSSES:
                    raise WorkersLost(
                        f"a worker process ended {losses} times at the same step ({task.step})\n"
                        "look for the system's out-of-memory killer; try again, with fewer --processes"
                    ) from exc
                lost("its process ended: was it killed, or out of memory?")

    def end_silent(self, workers: Sequence[str]) -> None:
        """Kill processes of this one that were stopped, or hang."""
        for worker in workers:
            host, _, pid = worker.rpartition(":")
            if host == socket.gethostname() and _is_child(int(pid)):
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)


def _is_child(pid: int) -> bool:
    """Whether a process is one of ours: its number may be that of another by now."""
    try:
        # https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html: behind the name come state and parent.
        return int(Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[1]) == os.getpid()
    except (OSError, ValueError, IndexError):
        return False
