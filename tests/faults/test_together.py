"""Several at once: loads of the same index, and somebody who deletes rows while a load runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from scene import Ended, Scene, eventually

from seed_registry.settings import DatabaseUrl

REFUSED = "is being loaded into this database already"


@pytest.mark.parametrize("seed", range(10))
def test_a_second_load_of_the_same_index_is_refused_until_the_first_is_done_or_killed(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int
) -> None:
    scene = Scene(database_url, home, tmp_path, seed)
    scene.close_gate(scene.chance.randint(0, 9))
    first = scene.start()
    scene.at_gate(first)
    second = scene.load("--rejects", tmp_path / "others")
    check_refused(second)
    assert f"by run {scene.ask('select run_id from seed_registry.runs')}" in second.stderr
    if seed % 2:
        scene.kill(first)
        scene.open_gate()
        scene.check_resumes()
    else:
        scene.open_gate()
        scene.check_done(scene.wait(first))
        scene.check_idle()


@pytest.mark.parametrize("seed", range(10, 20))
def test_of_two_loads_that_begin_at_once_one_is_refused(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int
) -> None:
    check_at_once(Scene(database_url, home, tmp_path, seed), 2)


@pytest.mark.parametrize("seed", range(3))
def test_of_three_loads_that_begin_at_once_two_are_refused(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int
) -> None:
    check_at_once(Scene(database_url, home, tmp_path, seed), 3)


@pytest.mark.parametrize("which", ["true", "asset_key < 'i'"], ids=["all", "some"])
def test_rows_deleted_while_a_load_runs_are_missed_and_come_back(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, which: str
) -> None:
    # Without repeats: a row that waits at the gate for its update could not be deleted.
    scene = Scene(database_url, home, tmp_path, 1, duplicates=0)
    scene.close_gate(6)
    process = scene.start()
    scene.at_gate(process)
    assert scene.fetch(f"delete from registry.assets where {which} returning 1")
    scene.open_gate()
    ended = scene.wait(process)
    if '"run_restarted"' in ended.stderr:  # it noticed, and loaded them again
        scene.check_done(ended)
        return
    assert ended.code == 4, "it must not say that all is there"
    again = scene.load()
    assert again.code == 0, again.stderr
    assert again.counts["resumed"] == 0
    scene.check_state()


def test_checkpoints_of_a_run_that_nobody_takes_up_again_are_swept(
    database_url: DatabaseUrl, home: Path, tmp_path: Path
) -> None:
    scene = Scene(database_url, home, tmp_path, 1)
    scene.close_gate(6)
    process = scene.start()
    scene.at_gate(process)
    scene.kill(process)
    scene.open_gate()
    assert scene.load("--no-resume", "--rejects", tmp_path / "others").code == 0
    assert scene.ask("select count(*) from seed_registry.checkpoints") == 0


def check_at_once(scene: Scene, loads: int) -> None:
    """One load loads, whichever; the others say why they do not, and touch nothing of its."""
    scene.close_gate(scene.chance.randint(0, 5))
    processes = [scene.start("--rejects", f"{scene.rejects}.{number}") for number in range(loads)]
    eventually(lambda: len(running(processes)) == 1)
    (winner,) = running(processes)
    for process in processes:
        if process is not winner:
            check_refused(scene.wait(process))
    scene.at_gate(winner)
    scene.open_gate()
    scene.rejects = Path(f"{scene.rejects}.{processes.index(winner)}")
    scene.check_done(scene.wait(winner))
    assert scene.ask("select count(*) from seed_registry.runs") == 1
    assert scene.ask("select resumed from seed_registry.runs") == 0


def running(processes: list[subprocess.Popen[bytes]]) -> list[subprocess.Popen[bytes]]:
    """Those that have not ended."""
    return [process for process in processes if process.poll() is None]


def check_refused(ended: Ended) -> None:
    """It did not begin."""
    assert (ended.code, ended.report) == (1, {})
    assert REFUSED in ended.stderr
