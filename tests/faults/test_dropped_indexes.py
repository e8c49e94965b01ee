"""A load that has dropped the indexes is killed: the next one builds them, and goes on as after any other death."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from failing import KILLED, POINTS, POINTS_OF_INDEXES
from scene import Scene

from seed_registry.settings import DatabaseUrl

INDEXES = """
select string_agg(indexdef, ';' order by indexdef)
  || (select string_agg(conname || pg_get_constraintdef(oid) || convalidated, ';' order by conname)
      from pg_constraint where conrelid = 'registry.assets'::regclass)
from pg_indexes where schemaname = 'registry' and tablename = 'assets'
"""
LOST = "select count(*) from seed_registry.deferred_indexes"
WHERE = [*POINTS_OF_INDEXES, "before-copy", "after-copy", "before-commit", "after-commit", "reject-write", "flush"]
assert set(WHERE) <= POINTS.keys() | POINTS_OF_INDEXES.keys()


@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.parametrize("point", WHERE)
@pytest.mark.sampled(4)
def test_dying_at_a_point(database_url: DatabaseUrl, home: Path, tmp_path: Path, point: str, number: int) -> None:
    scene = Scene(database_url, home, tmp_path, WHERE.index(point) * 10 + number)
    before = scene.ask(INDEXES)
    ended = scene.load("--defer-indexes", failing=(point, number))
    assert ended.code in (KILLED, 0 if number > 1 else KILLED), ended.stderr  # it may be reached only once
    if ended.code == KILLED:
        ended = scene.check_resumes(*["--defer-indexes"] * (number % 2))
    scene.check_done(ended)
    assert (scene.ask(INDEXES), scene.ask(LOST)) == (before, 0)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.sampled(1)
def test_stopped_at_a_random_moment(database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int) -> None:
    scene = Scene(database_url, home, tmp_path, seed)
    before = scene.ask(INDEXES)
    process = scene.start("--defer-indexes")
    scene.when(f"select ({LOST}) > 0", process)
    time.sleep(scene.chance.uniform(0, 0.5))
    scene.kill(process, scene.chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
    scene.check_resumes(*["--defer-indexes"] * (seed % 2))
    scene.check_idle()
    assert (scene.ask(INDEXES), scene.ask(LOST)) == (before, 0)


@pytest.mark.parametrize("done", ["done", "undone"])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.sampled(1)
def test_answers_to_commits_that_are_lost(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int, done: str
) -> None:
    scene = Scene(database_url, home, tmp_path, seed)
    before = scene.ask(INDEXES)
    numbers = sorted(scene.chance.sample(range(1, 30), 3))
    scene.check_done(scene.load("--defer-indexes", failing=("drop-commit", done, *numbers)))
    assert (scene.ask(INDEXES), scene.ask(LOST)) == (before, 0)
