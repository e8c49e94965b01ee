"""The loader is stopped and started again: killed time after time, interrupted, hung up on, with nobody listening."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
import xxhash
from scene import WATCHDOG_SECONDS, Scene

from seed_registry.settings import DatabaseUrl

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
# The longest that the clean way out may take: it waits at most five for the ledger.
STOPPING_SECONDS = 10.0
# The loader that was told to stop wants to write that into the ledger.
SAYING_FAREWELL = """
select count(*) > 0 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
"""


@pytest.mark.parametrize("seed", range(20))
def test_killed_and_resumed_again_and_again_with_other_batches_and_workers(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int
) -> None:
    scene = Scene(database_url, home, tmp_path, seed)
    for _ in range(3):
        size, workers = scene.chance.choice([7, 20, 40, 65]), scene.chance.choice([1, 2, 3, 4, 5])
        scene.close_gate(scene.chance.randint(0, 240 // size))
        process = scene.start("--batch-size", size, "--concurrency", workers)
        scene.at_gate(process)
        time.sleep(scene.chance.uniform(0, 0.1))  # how many more of them come there
        scene.kill(process)
        scene.check_safe()
        assert unmarked(scene) <= size * workers
    committed = scene.ask("select count(*) from registry.assets")
    scene.open_gate()
    ended = scene.check_resumes("--batch-size", 30, "--concurrency", 3)
    assert committed - ended.counts["resumed"] <= size * workers
    repeats = len(scene.model.places) - len(scene.model.rows)
    assert ended.counts["unchanged"] <= repeats + size * workers


@pytest.mark.parametrize("seed", range(20))
def test_sigint(database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int) -> None:
    check_signal(Scene(database_url, home, tmp_path, seed), signal.SIGINT)


@pytest.mark.parametrize("seed", range(20))
def test_sigterm(database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int) -> None:
    check_signal(Scene(database_url, home, tmp_path, seed), signal.SIGTERM)


@pytest.mark.parametrize("seed", range(3))
def test_sighup(database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int) -> None:
    check_signal(Scene(database_url, home, tmp_path, seed), signal.SIGHUP)


@pytest.mark.parametrize("seed", range(10))
def test_a_second_signal_is_obeyed_at_once(database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int) -> None:
    scene = Scene(database_url, home, tmp_path, seed)
    second = signal.SIGTERM if seed % 2 else signal.SIGINT
    process = started(scene)
    with scene.holding("lock table seed_registry.runs in share mode"):
        process.send_signal(signal.SIGINT)
        scene.when(SAYING_FAREWELL, process)
        process.send_signal(second)
        ended = scene.wait(process)
    assert (ended.code, ended.report) == (CODES[second], {})
    assert errors(ended.stderr) == [], "it took the clean way out"
    check_stopped(scene)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_nobody_reads_any_more(database_url: DatabaseUrl, home: Path, tmp_path: Path, stream: str) -> None:
    scene = Scene(database_url, home, tmp_path, 1)
    process = started(scene)
    getattr(process, stream).close()
    setattr(process, stream, None)
    scene.open_gate()
    process.communicate(timeout=WATCHDOG_SECONDS)
    assert process.returncode == (1 if stream == "stdout" else 0)
    assert scene.ask("select outcome from seed_registry.runs") == "done"
    scene.check_state()
    scene.check_idle()


def started(scene: Scene) -> subprocess.Popen[bytes]:
    """A load that has committed some batches, and has to wait now."""
    scene.close_gate(scene.chance.randint(1, 10))
    process = scene.start()
    scene.at_gate(process)
    return process


def check_signal(scene: Scene, number: signal.Signals) -> None:
    """It ends in time with its code and one line; what was committed stays, and the same command finishes the job."""
    process = started(scene)
    if scene.seed % 2:  # in the middle of things, not while all wait
        scene.open_gate()
    process.send_signal(number)
    ended = scene.wait(process, STOPPING_SECONDS)
    assert (ended.code, ended.report) == (CODES[number], {}), ended.stderr
    assert errors(ended.stderr) == [
        f"error: stopped by {number.name}; what was committed stays, the same command finishes the job"
    ]
    assert scene.ask("select outcome from seed_registry.runs") == "interrupted"
    check_stopped(scene)


def check_stopped(scene: Scene) -> None:
    """The checkpoint is kept, and the same command goes on from there."""
    assert scene.ask("select count(*) from seed_registry.checkpoints") > 0
    committed = scene.ask("select count(*) from registry.assets")
    assert 0 < committed < len(scene.model.rows)
    scene.open_gate()
    counts = scene.check_resumes().counts
    # The row of a key that comes twice may have been committed with its first record only.
    assert counts["resumed"] + counts["updated"] >= committed


def errors(stderr: str) -> list[str]:
    """What was said, but for the logs."""
    return [line for line in stderr.splitlines() if not line.startswith("{")]


def unmarked(scene: Scene) -> int:
    """How many rows no checkpoint speaks of."""
    keys = {key for (key,) in scene.fetch("select asset_key from registry.assets")}
    marks = scene.fetch('select lane, lanes, "offset" from seed_registry.checkpoints where lane >= 0')
    for lane, lanes, offset in marks:
        for at, key in scene.model.places:
            if at <= offset and xxhash.xxh3_64_intdigest(key.encode()) % lanes == lane:
                keys.discard(key)
    return len(keys)
