"""How loads by worker processes end: soon, with nothing left running, and with no secret told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest

from seed_registry.settings import DatabaseUrl

pytestmark = pytest.mark.slow
Start = Callable[..., "subprocess.Popen[bytes]"]
_TWO = ("--processes", 2, "--shard-bytes", "1MiB")


@pytest.fixture
def start(home: Path, tmp_path: Path, database_url: DatabaseUrl) -> Start:
    """Start a load by two processes."""

    def start(index: Path, *arguments: object, url: str | None = None) -> subprocess.Popen[bytes]:
        environment = {"PATH": os.environ["PATH"], "SEED_REGISTRY_HOME": str(home), "LANG": "C.UTF-8"}
        environment["DATABASE_URL"] = url or database_url.reveal
        return subprocess.Popen(
            [sys.executable, "-m", "seed_registry", "load", str(index), "--json", *map(str, [*_TWO, *arguments])],
            env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    return start


def _index(path: Path, count: int, bad: int = 0) -> Path:
    """An index of which the first records of each hundred are bad."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            key = {"asset_key": f"k{number}"} if number % 100 >= bad else {}
            file.write(json.dumps({"type": "asset", **key, "source_key": "s.example", "name": "x" * 300}) + "\n")
    return path


def _children(process: subprocess.Popen[bytes]) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, check=False).stdout
    return [int(pid) for pid in found.split()]


def _wait_for_children(process: subprocess.Popen[bytes]) -> list[int]:
    deadline = time.monotonic() + 60
    while len(children := _children(process)) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return children


def _wait_for_work(url: DatabaseUrl) -> int:
    """The process that loads a shard."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(asyncpg.UndefinedTableError):
            for (worker,) in _fetch(url, "select worker from seed_registry.shards where worker is not null"):
                return int(worker.rpartition(":")[2])
        time.sleep(0.01)
    pytest.fail("no process loads a shard")


def _fetch(url: DatabaseUrl, query: str) -> list[Any]:
    async def fetch() -> list[Any]:
        connection = await asyncpg.connect(url.reveal)
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    return anyio.run(fetch)


def test_too_many_rejects_end_the_run_while_it_is_at_work(
    start: Start, tmp_path: Path, database_url: DatabaseUrl
) -> None:
    index = _index(tmp_path / "index.ndjson", 150_000, bad=20)
    process = start(index, "--max-rejects", 50)
    children = _wait_for_children(process)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert b"rejects show" in err
    path = Path(err.split(b"rejects show ")[-1].split(b"`")[0].decode().strip("'"))
    assert {json.loads(line)["reason"] for line in path.read_bytes().splitlines()} == {"no_key"}
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert len(_fetch(database_url, "select 1 from registry.assets")) < 120_000  # it did not go on to its end


def test_a_second_command_is_refused_while_the_first_is_at_work(start: Start, tmp_path: Path) -> None:
    index = _index(tmp_path / "index.ndjson", 60_000)
    first = start(index)
    _wait_for_children(first)
    first.send_signal(signal.SIGSTOP)  # or it may have ended before the second looks
    second = start(index)
    _, err = second.communicate(timeout=60)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 1
    assert b"has it\n" in err
    out, err = first.communicate(timeout=100)
    assert first.returncode == 0, err
    assert json.loads(out)["assets"]["inserted"] == 60_000


def test_sessions_that_are_ended_cost_nothing(start: Start, tmp_path: Path, database_url: DatabaseUrl) -> None:
    process = start(_index(tmp_path / "index.ndjson", 60_000))
    _wait_for_children(process)
    for _ in range(4):
        time.sleep(0.7)
        _fetch(
            database_url,
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()",
        )
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err.decode()[-3_000:]
    report = json.loads(out)
    assert report["retries"]
    assert report["assets"]["inserted"] == 60_000


def test_no_process_shows_the_password(start: Start, tmp_path: Path, database_url: DatabaseUrl) -> None:
    secret = "canary-4711"
    url = database_url.reveal.replace("registry@", f"registry:{secret}@")
    assert secret in url
    process = start(_index(tmp_path / "index.ndjson", 40_000), "--header", f"X-Key: {secret}", url=url)
    for pid in _wait_for_children(process):
        assert secret.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    os.kill(_wait_for_work(database_url), signal.SIGKILL)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0
    assert b"shard_retried" in err
    assert secret.encode() not in out + err
    text = _fetch(
        database_url,
        "select row_to_json(runs)::text || (select count(*) from seed_registry.shards) from seed_registry.runs",
    )
    assert secret not in str(text)
