"""Others have the rows and tables that the load needs: deadlocks, and locks that are held for too long."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import xxhash
from gate import Outsider, gate, occupy, outsider
from model import model
from scene import Scene, eventually

from seed_registry.settings import DatabaseUrl

WORKERS, BATCH = 3, 40  # of a scene
DEADLOCKS = "select deadlocks from pg_stat_database where datname = current_database()"
WAITING = """
select count(*) from pg_stat_activity
where datname = current_database() and application_name = 'seed-registry' and wait_event_type = 'Lock'
"""
# Between two rows of a batch somebody else's batch gets its turn.
SLOW = """
create function public.dawdle() returns trigger language plpgsql set search_path = pg_catalog as $$
begin
  perform pg_sleep(0.003);
  return new;
end $$;
create trigger dawdle before insert on registry.assets for each row execute function public.dawdle();
"""


def keys_of_a_batch(scene: Scene) -> list[str]:
    """The keys of one batch of one worker, in their order, without those that come again in the index."""
    times = Counter(key for _, key in scene.model.places)
    lanes: list[list[str]] = [[] for _ in range(WORKERS)]
    for _, key in scene.model.places:
        lanes[xxhash.xxh3_64_intdigest(key.encode()) % WORKERS].append(key)
    lane = scene.chance.choice(lanes)
    start = BATCH * scene.chance.randrange(len(lane) // BATCH)
    return sorted(key for key in lane[start : start + BATCH] if times[key] == 1)


@pytest.mark.parametrize("seed", range(20))
def test_of_a_deadlock_with_somebody_else_the_victim_is_repeated(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int
) -> None:
    scene = Scene(database_url, home, tmp_path, seed)
    first, second = sorted(scene.chance.sample(keys_of_a_batch(scene), 2))
    occupy(scene, [first, second])
    update = "update registry.assets set name = 'mine' where asset_key = '{}'"
    with gate(scene, "upsert", key=second) as held, outsider(scene.url) as other:
        other.do("set deadlock_timeout = '60s'")  # not the one who finds it, and so not the victim
        other.do(f"begin; {update.format(second)};")
        process = scene.start()
        held.arrived(process)
        other.begin(update.format(first))
        eventually(lambda: scene.ask("select count(*) from pg_locks where locktype = 'transactionid' and not granted"))
        held.open()
        other.wait()
        other.do("commit")
        ended = scene.wait(process)
    scene.check_done(ended)
    assert ended.report["retries"] == 1, ended.stderr
    assert "deadlock detected" in ended.stderr
    eventually(lambda: scene.ask(DEADLOCKS) == 1)


def test_our_own_workers_never_deadlock(database_url: DatabaseUrl, home: Path, tmp_path: Path) -> None:
    scenes = []
    for number, changed in enumerate([0, 100]):
        (directory := tmp_path / str(number)).mkdir()
        scene = Scene(database_url, home, directory, 0, shape="seed.ndjson", duplicates=80, changed=changed)
        lines = scene.data.splitlines(keepends=True)
        sources = [line for line in lines if b'"type": "source"' in line]
        assets = [line for line in lines if b'"type": "source"' not in line]
        random.Random(number).shuffle(assets)
        scene.data = b"".join(sources + assets)
        scene.write(scene.data)
        scene.model = model(scene.data)
        scenes.append(scene)
    with outsider(database_url) as other:
        other.do(SLOW)
        processes = [scene.start("--concurrency", 4, "--batch-size", 10, "--no-verify") for scene in scenes]
        waited = 0
        while None in [process.poll() for process in processes]:
            waited += other.do(WAITING)
        ends = [scene.wait(process) for scene, process in zip(scenes, processes, strict=True)]
    assert waited, "nobody was in anybody's way"
    for ended in ends:
        assert ended.code == 0, ended.stderr
        assert ended.report["batches"] >= 120
        assert ended.report["retries"] == 0, ended.stderr
    time.sleep(1.1)  # as long as a server may keep its statistics to itself
    assert scenes[0].ask(DEADLOCKS) == 0
    check_either(scenes)


def check_either(scenes: list[Scene]) -> None:
    """Every row is as one of the indexes has it, its moment the latest of both."""
    ours, theirs = (scene.model.rows for scene in scenes)
    rows = scenes[0].fetch("select asset_key, updated_at, raw::text from registry.assets")
    assert {key for key, _, _ in rows} == ours.keys() == theirs.keys()
    for key, moment, raw in rows:
        assert json.loads(raw) in (ours[key][5], theirs[key][5])
        assert moment == max(ours[key][4], theirs[key][4])


# Locks that are held for longer than a load waits


@contextmanager
def table_locked(scene: Scene, *arguments: object) -> Iterator[tuple[Outsider, subprocess.Popen[bytes]]]:
    """A load in whose middle somebody locks the whole table, and keeps it."""
    with gate(scene, "upsert", scene.chance.randint(1, 300)) as held, outsider(scene.url) as other:
        process = scene.start("--io-timeout", 1, *arguments)  # which shortens the wait for a lock as well
        held.arrived(process)
        other.begin("begin; lock table registry.assets in access exclusive mode")
        eventually(lambda: scene.ask("select count(*) from pg_locks where relation is not null and not granted"))
        held.open()
        other.wait()
        yield other, process


@pytest.mark.parametrize("seed", range(5))
def test_a_table_that_is_locked_for_a_while_is_waited_for(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int
) -> None:
    scene = Scene(database_url, home, tmp_path, seed)
    with table_locked(scene) as (other, process):
        time.sleep(1.5)
        other.do("rollback")
        ended = scene.wait(process)
    scene.check_done(ended)
    assert ended.report["retries"] >= 1
    assert "canceling statement due to lock timeout" in ended.stderr


@pytest.mark.parametrize("seed", range(5))
def test_a_table_that_stays_locked_ends_the_load_which_names_the_holder_and_can_be_repeated(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int
) -> None:
    scene = Scene(database_url, home, tmp_path, seed)
    with table_locked(scene, "--retry-for", 2) as (other, process):
        ended = scene.wait(process)
        holder = other.do("select pg_backend_pid()")
    assert ended.code == 1, ended.stderr
    error = ended.stderr[ended.stderr.index("error: ") :]
    assert str(holder) in error, error
    assert "then load again" in error
    assert {line["offset"] for line in scene.told_rejects(whole=False)} <= set(scene.model.rejected)
    scene.check_resumes()
