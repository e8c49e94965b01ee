"""The network fails: at any moment of a session's life, in either direction, in every way that it knows."""

from __future__ import annotations

from pathlib import Path

import pytest
from proxy import DIRECTIONS, LOST, PHASES, SLOW, Fault, Proxy
from scene import Ended, Scene

from seed_registry.settings import DatabaseUrl

_IO_SECONDS = 2
# Where nothing is to time out, however busy the machine is.
_LONG_SECONDS = 40
# What each kind of session asks in its turn, and whether that is asked again: before the first write nothing is lost.
STATEMENTS = {
    "has_any_column_privilege": False,
    "pg_try_advisory_lock": True,
    "insert into seed_registry.runs": True,
    "pg_advisory_lock_shared": True,
    "seed_registry_sources": True,
    "seed_registry_assets": True,
    "insert into seed_registry.checkpoints": True,
    "pg_logical_emit_message": True,
    "update seed_registry.checkpoints": True,
    "update seed_registry.runs set outcome": True,
}
# What a session may take beyond its timeout to be given up.
_GRACE_SECONDS = 5


@pytest.fixture(params=DIRECTIONS)
def direction(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def load(scene: Scene, *proxies: Proxy, seconds: int = _IO_SECONDS) -> Ended:
    """The load, by the first proxy that is there."""
    first, *others = proxies
    return scene.load("--io-timeout", seconds, url=first.url(*others, connect_seconds=seconds))


def check(scene: Scene, ended: Ended) -> None:
    """It is done, and its counts are those of a load to which nothing happened."""
    scene.check_done(ended)
    assert ended.counts["inserted"] == len(scene.model.rows), ended.report


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("toxic", SLOW)
def test_a_slow_network_is_waited_for(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, toxic: str, phase: str, direction: str
) -> None:
    scene = Scene(database_url, home, tmp_path, SLOW.index(toxic) * 10 + PHASES.index(phase))
    with Proxy(database_url, Fault(toxic, phase, direction)) as proxy:
        ended = load(scene, proxy, seconds=_LONG_SECONDS)
    assert proxy.struck == 1
    check(scene, ended)
    assert ended.report["retries"] == (phase == "connect")  # the proxy cuts one session off to have another come


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("toxic", LOST)
def test_what_a_lost_connection_was_doing_is_done_again(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, toxic: str, phase: str, direction: str
) -> None:
    scene = Scene(database_url, home, tmp_path, LOST.index(toxic) * 10 + PHASES.index(phase))
    with Proxy(database_url, Fault(toxic, phase, direction)) as proxy:
        ended = load(scene, proxy)
    assert proxy.struck == 1
    assert proxy.ended_seconds < _IO_SECONDS + _GRACE_SECONDS
    check(scene, ended)
    assert ended.report["retries"] > (phase == "connect")


@pytest.mark.parametrize("statement", STATEMENTS)
def test_no_statement_of_a_load_waits_for_ever_on_a_network_gone_silent(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, statement: str
) -> None:
    scene = Scene(database_url, home, tmp_path, list(STATEMENTS).index(statement))
    with Proxy(database_url, Fault("timeout", statement, "up")) as proxy:
        ended = load(scene, proxy)
    assert proxy.struck == 1
    if STATEMENTS[statement]:
        check(scene, ended)
        # What comes last is told after the report is made.
        assert ended.report["retries"] > 0 or "set outcome" in statement
    else:
        assert ended.code == 1
        assert "no answer within 2 s" in ended.stderr
        scene.check_resumes()


@pytest.mark.parametrize("seed", range(25))
def test_a_batch_is_counted_once_though_the_answer_to_its_commit_never_comes(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int
) -> None:
    scene = Scene(database_url, home, tmp_path, seed)
    toxic = scene.chance.choice(["reset_peer", "limit_data", "slow_close"])
    fault = Fault(toxic, "COMMIT", "down", committed=scene.chance.randint(0, 20), workers=0)
    with Proxy(database_url, fault) as proxy:
        ended = load(scene, proxy, seconds=_LONG_SECONDS)
    assert proxy.struck == 1
    check(scene, ended)
    assert ended.report["retries"] == 1


@pytest.mark.parametrize("seed", range(25))
def test_commits_without_an_answer_are_looked_up(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int
) -> None:
    scene = Scene(database_url, home, tmp_path, 100 + seed)
    lost = scene.chance.sample(range(8, 28), k=scene.chance.randint(1, 3))
    ended = scene.load(failing=("drop-commit", scene.chance.choice(["done", "undone"]), *lost))
    check(scene, ended)
    assert ended.report["retries"] == len(lost)


def test_a_batch_is_counted_once_though_its_commit_arrives_when_it_is_done_again(
    database_url: DatabaseUrl, home: Path, tmp_path: Path
) -> None:
    scene = Scene(database_url, home, tmp_path, 0)
    with Proxy(database_url, Fault("late", "COMMIT", "up")) as proxy:
        ended = load(scene, proxy, seconds=_LONG_SECONDS)
    assert proxy.struck == 1
    check(scene, ended)


@pytest.mark.parametrize("toxic", ["gone", "mute"])
def test_the_next_host_takes_over(database_url: DatabaseUrl, home: Path, tmp_path: Path, toxic: str) -> None:
    scene = Scene(database_url, home, tmp_path, toxic == "mute")
    with Proxy(database_url, Fault(toxic, "COPY", "up")) as first, Proxy(database_url) as second:
        ended = load(scene, first, second)
    assert first.struck == 1
    check(scene, ended)
    assert second.committed > 0
    assert ended.report["retries"] > 0
