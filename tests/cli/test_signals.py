"""Signals and pipes, with real processes: a load that is stopped in the middle leaves nothing behind."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import asyncpg
import pytest

from seed_registry import DatabaseUrl
from seed_registry.embedded import server
from seed_registry.synthetic.index import Workload, generate

# Each is a process that is waited for.
pytestmark = pytest.mark.slow

COUNT = "select count(*) from registry.assets"
SESSIONS = """
    select count(*) from pg_stat_activity
    where datname = current_database() and application_name = 'seed-registry'
"""
LEFT = """
    select (select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()),
           (select count(*) from pg_class where relpersistence = 't')
"""
SAMPLE = Workload(records=3_000, size=900)


@pytest.fixture
def home(home: Path) -> Path:
    """A home directory that the embedded server's user can pass through."""
    home.chmod(0o711)
    return home


def ask(url: str, query: str) -> tuple[Any, ...]:
    async def asked() -> tuple[Any, ...]:
        connection = await asyncpg.connect(url)
        try:
            return tuple(await connection.fetchrow(query))
        finally:
            await connection.close()

    return asyncio.run(asked())


def eventually(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


class Load:
    """A load from a pipe that stays open: once it has eaten all, it is surely in the middle."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.err = b""
        self._reader = Thread(target=self._read)
        self._reader.start()

    def feed(self, data: bytes) -> None:
        """Write to the pipe, which stays open."""
        assert self.process.stdin
        view = memoryview(data)
        while view:
            view = view[os.write(self.process.stdin.fileno(), view) :]

    def ended(self) -> tuple[int, list[str]]:
        """The exit code and, logs left out, the lines on stderr."""
        code = self.process.wait(30)
        self._reader.join()
        assert b"Traceback" not in self.err
        return code, [line for line in self.err.decode().splitlines() if not line.startswith("{")]

    def told(self, event: str) -> bool:
        """Whether an event was logged."""
        return f'"event": "{event}"'.encode() in self.err

    def _read(self) -> None:
        assert self.process.stderr
        while line := self.process.stderr.readline():
            self.err += line


@contextmanager
def loading(home: Path, url: DatabaseUrl | None, *arguments: str) -> Iterator[Load]:
    environment = {"PATH": os.environ["PATH"], "SEED_REGISTRY_HOME": str(home)}
    if url is not None:
        environment["DATABASE_URL"] = url.reveal
    command = [sys.executable, "-m", "seed_registry", "load", "-", "--batch-size", "50", "--retry-for", "0", *arguments]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        load = Load(process)
        try:
            yield load
        finally:
            process.kill()
            load._reader.join()


def embedded_url(home: Path) -> str:
    url = server.status(home).url
    assert url
    return url


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=str)
def test_a_signal_in_the_middle_ends_the_load_with_its_code_and_the_same_command_finishes_the_job(
    database_url: DatabaseUrl, home: Path, number: signal.Signals, code: int
) -> None:
    content = b"".join(generate(SAMPLE))
    url = database_url.reveal
    with loading(home, database_url) as load:
        load.feed(content[: len(content) // 2])
        eventually(lambda: ask(url, COUNT) >= (500,))
        assert ask(url, SESSIONS) >= (5,)
        load.process.send_signal(number)
        assert load.ended() == (
            code,
            [f"error: stopped by {number.name}; what was committed stays, the same command finishes the job"],
        )
        assert load.process.stdout
        assert load.process.stdout.read() == b""
    eventually(lambda: ask(url, LEFT) == (0, 0))
    (committed,) = ask(url, COUNT)
    assert 500 <= committed < 3_000

    with loading(home, database_url, "--json") as load:
        load.feed(content)
        assert load.process.stdin
        assert load.process.stdout
        load.process.stdin.close()  # `communicate` would wait for errors that were read already
        counts = json.loads(load.process.stdout.read())["assets"]
    assert (counts["inserted"], counts["unchanged"]) == (3_000 - committed, committed)
    assert ask(url, COUNT) == (3_000,)


def test_a_run_that_a_signal_ended_is_interrupted_in_the_history_and_has_no_error(
    database_url: DatabaseUrl, home: Path
) -> None:
    with loading(home, database_url) as load:
        load.feed(b"".join(generate(SAMPLE))[: 1 << 20])
        eventually(lambda: ask(database_url.reveal, COUNT) >= (500,))
        load.process.send_signal(signal.SIGTERM)
        assert load.ended()[0] == 143
    (outcome, error, has_ended) = ask(
        database_url.reveal, "select outcome, error, finished_at is not null from seed_registry.runs"
    )
    assert (outcome, error, has_ended) == ("interrupted", None, True)


def test_a_signal_while_nothing_has_come_through_the_pipe_ends_the_load(database_url: DatabaseUrl, home: Path) -> None:
    with loading(home, database_url) as load:
        eventually(lambda: load.told("run_started"))
        eventually(lambda: ask(database_url.reveal, SESSIONS) >= (1,))
        load.process.send_signal(signal.SIGTERM)
        assert load.ended()[0] == 143
    eventually(lambda: ask(database_url.reveal, LEFT) == (0, 0))


def test_a_signal_stops_the_embedded_server_that_the_load_started(home: Path) -> None:
    with loading(home, None) as load:
        load.feed(b"".join(generate(Workload(records=300))))
        eventually(lambda: load.told("index_opened"))
        pid = server.status(home).pid
        assert pid
        load.process.send_signal(signal.SIGTERM)
        assert load.ended()[0] == 143
    assert not server.status(home).running
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()


def test_a_second_signal_ends_the_load_at_once(home: Path) -> None:
    try:
        with loading(home, None) as load:
            load.feed(b"".join(generate(Workload(records=300))))
            eventually(lambda: load.told("index_opened"))
            url = embedded_url(home)
            with (home / "postgres-18/control.lock").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # nobody can stop the server now: the clean way out takes forever
                load.process.send_signal(signal.SIGINT)
                eventually(lambda: ask(url, SESSIONS) == (0,))
                with pytest.raises(subprocess.TimeoutExpired):
                    load.process.wait(0.5)
                load.process.send_signal(signal.SIGTERM)
                assert load.ended() == (143, [])
    finally:
        server.stop(home)


def test_a_signal_leaves_a_server_alone_that_the_load_did_not_start(home: Path) -> None:
    with server.running(home, durable=False) as url, loading(home, None) as load:
        load.feed(b"".join(generate(Workload(records=300))))
        eventually(lambda: load.told("index_opened"))
        load.process.send_signal(signal.SIGINT)
        assert load.ended()[0] == 130
        assert ask(url, "select 1") == (1,)


def test_a_lost_session_in_the_middle_is_one_error_and_exit_code_1(database_url: DatabaseUrl, home: Path) -> None:
    content, url = b"".join(generate(SAMPLE)), database_url.reveal
    half = len(content) // 2
    with loading(home, database_url) as load:
        load.feed(content[:half])
        eventually(lambda: ask(url, COUNT) >= (500,))
        ask(url, SESSIONS.replace("count(*)", "count(pg_terminate_backend(pid))"))
        with suppress(BrokenPipeError):
            load.feed(content[half:])
        code, lines = load.ended()
    assert (code, len(lines)) == (1, 2)
    assert lines[0].startswith(f"error: the connection to {database_url} was lost: ")
    eventually(lambda: ask(url, LEFT) == (0, 0))
    assert (500,) <= ask(url, COUNT) < (3_000,)


@pytest.mark.parametrize("form", ["--json", "--verify"])
def test_a_reader_who_leaves_early_neither_stops_the_load_nor_makes_it_hang(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, form: str
) -> None:
    path = tmp_path / "index.json"
    path.write_bytes(b"".join(generate(Workload(records=500))))
    environment = {"PATH": os.environ["PATH"], "SEED_REGISTRY_HOME": str(home), "DATABASE_URL": database_url.reveal}
    done = subprocess.run(
        f"{sys.executable} -m seed_registry load {path} {form} | head -c 0",
        shell=True,
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ask(database_url.reveal, COUNT) == (500,)
    assert [line for line in done.stderr.splitlines() if not line.startswith(b"{")] == []


def test_a_reader_of_the_logs_who_leaves_early_does_not_stop_the_load(
    database_url: DatabaseUrl, home: Path, tmp_path: Path
) -> None:
    path = tmp_path / "index.json"
    path.write_bytes(b"".join(generate(Workload(records=500))))
    environment = {"PATH": os.environ["PATH"], "SEED_REGISTRY_HOME": str(home), "DATABASE_URL": database_url.reveal}
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "seed_registry", "load", path, "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=writing,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 0
    assert json.loads(done.stdout)["assets"]["inserted"] == 500
    assert ask(database_url.reveal, COUNT) == (500,)


def test_a_sample_whose_reader_leaves_early_ends_without_a_word() -> None:
    done = subprocess.run(
        f"{sys.executable} -m seed_registry sample --records 100000 | head -c 100",
        shell=True,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (len(done.stdout), done.stderr) == (100, b"")
