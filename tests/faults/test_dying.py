"""The loader dies: killed at any moment, at any point of its code, again and again; the same command goes on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from failing import KILLED, POINTS
from scene import Scene

from seed_registry.settings import DatabaseUrl

# Its first half second is spent importing; after three it is done, here.
_LIVES_SECONDS = 2.0


@pytest.mark.parametrize("seed", range(100))
def test_killed_at_a_random_moment(database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int) -> None:
    scene = Scene(database_url, home, tmp_path, seed)
    process = scene.start()
    scene.when("select count(*) > 0 from seed_registry.runs", process)
    time.sleep(scene.chance.uniform(0, _LIVES_SECONDS) / 2)
    scene.kill(process)
    scene.check_resumes()
    scene.check_idle()


@pytest.mark.parametrize("number", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("point", POINTS)
def test_dying_at_the_nth_time_of_a_point(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, point: str, number: int
) -> None:
    scene = Scene(database_url, home, tmp_path, list(POINTS).index(point) * 10 + number)
    ended = scene.load(failing=(point, number))
    assert ended.code in (KILLED, 0), ended.stderr  # a point may be reached less often
    if ended.code == KILLED:
        scene.check_resumes()
    else:
        scene.check_done(ended)
