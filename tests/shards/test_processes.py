"""Loads by worker processes: the result of one process, whatever happens to them."""

from __future__ import annotations

import json
import operator
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest

from seed_registry.settings import DatabaseUrl
from seed_registry.shards.engine import Processes

# Slow enough to be killed in the middle, at every step.
_RECORDS = 3_000
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with repeated keys, some of them far apart, and rejects."""
    path = tmp_path_factory.mktemp("index") / "index.ndjson"
    arguments = ["--records", str(_RECORDS), "--duplicates", "5", "--invalid", "1", "--size", "700"]
    command = [sys.executable, "-m", "seed_registry", "sample", "--format", "ndjson", *arguments, "--out", str(path)]
    subprocess.run(command, check=True)
    return path


@pytest.fixture
def start(home: Path, tmp_path: Path, database_url: DatabaseUrl) -> Start:
    """Start a load in a process group of its own."""

    def start(index: Path, *arguments: object, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        environment = {"PATH": os.environ["PATH"], "SEED_REGISTRY_HOME": str(home), "LANG": "C.UTF-8"}
        environment["DATABASE_URL"] = database_url.reveal
        return subprocess.Popen(
            [sys.executable, "-m", "seed_registry", "load", str(index), "--json", *map(str, arguments)],
            env=environment | dict(env or {}),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    return start


def _finished(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err.decode()[-2_000:]
    report: dict[str, Any] = json.loads(out)
    return report


def _state(url: DatabaseUrl, query: str) -> list[tuple[Any, ...]]:
    async def fetch() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url.reveal)
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    return anyio.run(fetch)


def _rows(url: DatabaseUrl) -> list[tuple[Any, ...]]:
    return _state(url, "select asset_key, name, updated_at, raw::text from registry.assets order by asset_key")


def _children(process: subprocess.Popen[bytes]) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, check=False).stdout
    return [int(pid) for pid in found.split()]


_TWO = ("--processes", 2, "--shard-bytes", "256KiB", "--max-rejects", "10%")


def test_two_processes_load_what_one_process_loads(start: Start, index: Path, database_url: DatabaseUrl) -> None:
    first = _finished(start(index, *_TWO))
    again = _finished(start(index, "--max-rejects", "10%"))
    assert first["assets"]["inserted"] == len(_rows(database_url))
    assert again["assets"]["inserted"] == 0
    assert {shard["number"] for shard in first["shards"]} == set(range(len(first["shards"])))
    assert len({shard["worker"] for shard in first["shards"]}) == 2  # both had work


def test_a_pipe_is_loaded_whole_by_one_process(
    start: Start, index: Path, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    """What was read of it to cut it would be gone."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = start(pipe, *_TWO)
    with pipe.open("wb") as file:
        file.write(index.read_bytes())
    report = _finished(process)
    assert report["assets"]["read"] == _RECORDS
    assert report["assets"]["inserted"] == len(_rows(database_url))


class _Pickled:
    """Notes when it is pickled; it arrives as 0."""

    def __init__(self, note: Callable[[], None]) -> None:
        self._note = note

    def __reduce__(self) -> tuple[type[int], tuple[()]]:
        self._note()
        return int, ()


def test_what_a_step_needs_is_pickled_when_its_turn_comes() -> None:
    steps, pickled, done, most = 5, 0, 0, 0
    processes = Processes(1)

    def note() -> None:
        nonlocal pickled, most
        pickled += 1
        most = max(most, pickled - done)

    async def perform(task: int) -> None:
        nonlocal done
        assert await processes.call(operator.add, _Pickled(note), task, lambda _: None) == task
        done += 1

    async def perform_all() -> None:
        async with anyio.create_task_group() as group:
            for task in range(steps):
                group.start_soon(perform, task)

    anyio.run(perform_all)
    assert (pickled, done) == (steps, steps)
    assert most <= 2  # one result may be there already, and not be taken yet


def test_only_processes_of_its_own_are_ended() -> None:
    with subprocess.Popen(["sleep", "60"]) as ours:
        others = subprocess.run(
            ["sh", "-c", "sleep 60 > /dev/null 2>&1 & echo $!"], capture_output=True, check=True, timeout=10
        )
        theirs = int(others.stdout)
        Processes(1).end_silent([f"{socket.gethostname()}:{theirs}", f"elsewhere:{ours.pid}"])
        assert ours.poll() is None
        os.kill(theirs, 0)
        Processes(1).end_silent([f"{socket.gethostname()}:{ours.pid}"])
        assert ours.wait(10) == -signal.SIGKILL
        os.kill(theirs, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("delay", [1.0, 2.0])
def test_a_killed_worker_costs_nothing(start: Start, index: Path, database_url: DatabaseUrl, delay: float) -> None:
    undisturbed = _finished(start(index, *_TWO))
    rows = _rows(database_url)
    _state(database_url, "truncate registry.sources, registry.assets cascade")
    process = start(index, *_TWO)
    time.sleep(delay)
    for pid in _children(process)[:1]:
        os.kill(pid, signal.SIGKILL)
    disturbed = _finished(process)
    assert disturbed["assets"] == undisturbed["assets"]
    assert _rows(database_url) == rows


@pytest.mark.slow
@pytest.mark.parametrize("state", ["planned", "scanned", "loaded"])
def test_the_same_command_finishes_what_a_killed_one_began(
    start: Start, index: Path, database_url: DatabaseUrl, state: str
) -> None:
    undisturbed = _finished(start(index, *_TWO))
    rows = _rows(database_url)
    _state(database_url, "truncate registry.sources, registry.assets cascade")
    process = start(index, *_TWO)
    _wait_for(database_url, state)
    children = _children(process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in children):
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    finished = _finished(start(index, "--processes", 3, "--shard-bytes", "64KiB", "--max-rejects", "10%"))
    assert finished["assets"] == undisturbed["assets"]
    assert _rows(database_url) == rows


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_processes_within_seconds(
    start: Start, index: Path, database_url: DatabaseUrl, number: signal.Signals
) -> None:
    process = start(index, *_TWO)
    _wait_for(database_url, "scanned")
    children = _children(process)
    assert children
    process.send_signal(number)
    process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    sessions = "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    deadline = time.monotonic() + 5  # the server takes a moment to notice
    while _state(database_url, sessions):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    report = _finished(start(index, *_TWO))
    assert report["assets"]["inserted"] + report["assets"]["unchanged"] == len(_rows(database_url))


@pytest.mark.slow
def test_a_worker_that_was_stopped_is_ended_and_its_shard_loaded_by_another(
    start: Start, index: Path, database_url: DatabaseUrl
) -> None:
    """A minute without a sign of life is simulated: the ledger is told that the last one was long ago."""
    process = start(index, *_TWO, "--concurrency", 1)
    deadline = time.monotonic() + 30
    worker = None
    while worker is None and time.monotonic() < deadline:
        time.sleep(0.02)
        found = _loading(database_url)
        worker = found[0][0] if found else None
    assert worker is not None
    pid = int(worker.rpartition(":")[2])
    os.kill(pid, signal.SIGSTOP)
    _state(
        database_url, f"update seed_registry.shards set seen_at = now() - interval '1 hour' where worker = '{worker}'"
    )
    report = _finished(process)
    assert not Path(f"/proc/{pid}").exists()
    assert report["assets"]["inserted"] == len(_rows(database_url))


def _loading(url: DatabaseUrl) -> list[tuple[Any, ...]]:
    """The workers that load a shard now."""
    try:
        return _state(url, "select worker from seed_registry.shards where state = 'scanned' and worker is not null")
    except asyncpg.UndefinedTableError:
        return []


def _wait_for(url: DatabaseUrl, state: str) -> None:
    """Wait until a shard is in a state."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(asyncpg.UndefinedTableError):
            if _state(url, f"select from seed_registry.shards where state = '{state}'"):
                return
        time.sleep(0.01)
    pytest.fail(f"no shard was {state}")


@pytest.mark.slow
def test_what_killed_processes_were_about_to_retire_the_same_command_retires(
    start: Start, index: Path, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    shorter = tmp_path / "shorter.ndjson"
    lines = index.read_bytes().splitlines(keepends=True)
    shorter.write_bytes(b"".join(line for line in lines if b'7"' not in line[:120]))
    assert shorter.stat().st_size < index.stat().st_size
    retire = ("--retire", "--retire-despite-rejects", "--max-retire", "50%", "--max-rejects", "10%")
    _finished(start(index, *_TWO))
    expected = _finished(start(shorter, *retire))
    marked = "select asset_key from registry.assets where retired_at is not null order by 1"
    keys = _state(database_url, marked)
    assert len(keys) == expected["assets"]["retired"] > 0
    _state(database_url, "update registry.assets set retired_at = null where retired_at is not null")
    command = (*_TWO[:4], *retire)
    process = start(shorter, *command)
    _wait_for(database_url, "scanned")
    for pid in _children(process)[:1]:
        os.kill(pid, signal.SIGKILL)
    _wait_for(database_url, "loaded")
    process.kill()
    process.communicate()
    finished = _finished(start(shorter, *command))
    assert finished["assets"] == expected["assets"]
    assert finished["retirement"] == expected["retirement"]
    assert _state(database_url, marked) == keys
