"""A Dask cluster whose scheduler and workers are processes of their own, started as an operator starts them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_SECONDS_TO_START = 30


class DaskCluster:
    """A scheduler, and the workers that a test starts; each writes a log into the directory.

    Attributes:
        address: of the scheduler.
        directory: of logs.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str] | None = None) -> None:
        """`environment` is that of the workers, and no other variable."""
        self.directory = directory
        self._environment = dict(environment or {})
        self._workers: list[subprocess.Popen[bytes]] = []
        self._known: set[str] = set()  # addresses of workers
        self._killed: set[str] = set()
        self._scheduler = self._start(
            "scheduler", "--port", "0", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", directory / "file"
        )
        self.address = self._read_file()["address"]

    def start_worker(
        self,
        *arguments: object,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> int:
        """Start a worker with one thread under a nanny; return the nanny's process id."""
        self._workers.append(
            self._start(
                "worker", self.address, "--nthreads", 1, "--no-dashboard", "--memory-limit", 0, *arguments,
                environment=self._environment if environment is None else environment, directory=directory,
            )
        )  # fmt: skip
        return self._workers[-1].pid

    def wait_for_workers(self, count: int) -> None:
        """Wait until the scheduler has so many workers, without those that were killed."""
        deadline = time.monotonic() + _SECONDS_TO_START
        while time.monotonic() < deadline:
            with suppress(urllib.error.HTTPError):  # of a worker that comes or goes
                self._known = set(self.state("identity")["workers"])
                if len(self._known - self._killed) >= count:
                    return
            time.sleep(0.05)
        raise AssertionError(self.logs())

    def state(self, page: str) -> Any:
        """What the scheduler says in `/json`."""
        with urllib.request.urlopen(f"{self.dashboard}/json/{page}.json", timeout=10) as answer:
            return json.load(answer)

    @property
    def dashboard(self) -> str:
        """The address of the scheduler's web server."""
        return f"http://127.0.0.1:{self._read_file()['services']['dashboard']}"

    def pids(self) -> list[int]:
        """The worker processes, without their nannies."""
        nannies = {worker.pid for worker in self._workers}
        return [pid for pid in _processes() if _parent(pid) in nannies and "spawn_main" in command_of(pid)]

    def kill_workers(self) -> None:
        """End all worker processes as the lack of memory does; their nannies start others."""
        self._killed |= self._known
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)

    def kill_scheduler(self) -> None:
        """End the scheduler as a crash does."""
        self._scheduler.kill()
        self._scheduler.wait(10)

    def stop_scheduler(self) -> None:
        """Let the scheduler hang: it neither answers nor closes a connection."""
        self._scheduler.send_signal(signal.SIGSTOP)

    def logs(self) -> str:
        """All that scheduler and workers wrote to their terminals."""
        return "\n".join(path.read_text("utf-8", "replace") for path in sorted(self.directory.glob("*.log")))

    def close(self) -> None:
        """End all processes."""
        pids = self.pids()
        for process in [*self._workers, self._scheduler]:
            process.kill()
            process.wait(10)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _start(
        self,
        program: str,
        *arguments: object,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        log = self.directory / f"{program}-{len(self._workers)}.log"
        own = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(self.directory),
            "DASK_TEMPORARY_DIRECTORY": str(self.directory),
        }
        with log.open("ab") as file:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{program}", "--host", "127.0.0.1", *map(str, arguments)],
                env=own | dict(environment or {}),
                cwd=directory or self.directory,
                stdout=file,
                stderr=file,
            )

    def _read_file(self) -> Any:
        deadline = time.monotonic() + _SECONDS_TO_START
        while time.monotonic() < deadline:
            with suppress(FileNotFoundError, ValueError):
                return json.loads((self.directory / "file").read_text("utf-8"))
            time.sleep(0.02)
        raise AssertionError(self.logs())


@contextmanager
def started(directory: Path, environment: Mapping[str, str], workers: int = 0) -> Iterator[DaskCluster]:
    """A cluster with so many workers, for the body."""
    directory.mkdir(exist_ok=True)
    cluster = DaskCluster(directory, environment)
    for _ in range(workers):
        cluster.start_worker()
    try:
        yield cluster
    finally:
        cluster.close()


def command_of(pid: int) -> str:
    """The command line of a process, with its arguments; empty if it has gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    return ""


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def _parent(pid: int) -> int:
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[1])
    return 0
