"""`seed-registry doctor --scheduler`: what it finds about a Dask cluster and each of its workers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from dask_cluster import DaskCluster, started

from conftest import Cli, _clone
from seed_registry import Settings, __version__
from seed_registry.doctor import cluster as doctor_cluster
from seed_registry.doctor.cluster import check_cluster
from seed_registry.doctor.local import Finding
from seed_registry.settings import DatabaseUrl

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.usefixtures("at_home")
_CANARY = "canary-77aa"


@pytest.fixture
def cluster(tmp_path: Path, database_url: DatabaseUrl) -> Iterator[DaskCluster]:
    """A scheduler without a worker; those that come have the database."""
    with started(tmp_path / "cluster", {"DATABASE_URL": _with_password(database_url)}) as cluster:
        yield cluster


def _with_password(url: DatabaseUrl) -> str:
    """The URL with a password, which the server does not ask for."""
    scheme, _, rest = url.reveal.partition("://")
    user, _, place = rest.partition("@")
    return f"{scheme}://{user}:{_CANARY}@{place}"


def _found(cluster: DaskCluster, url: DatabaseUrl, **options: Any) -> list[Finding]:
    findings = anyio.run(check_cluster, Settings(database_url=url, scheduler=cluster.address, **options))
    for finding in findings:
        assert "\n" not in finding.finding + finding.fix
        assert _CANARY not in finding.finding + finding.fix
        assert finding.fix or finding.state == "ok"
    return findings


def test_a_healthy_cluster_passes(cluster: DaskCluster, database_url: DatabaseUrl, cli: Cli) -> None:
    cluster.start_worker("--no-nanny")
    cluster.wait_for_workers(1)
    done = cli("doctor", "--scheduler", cluster.address, "--json", url=DatabaseUrl(_with_password(database_url)))
    assert done.returncode == 0, done.stdout
    assert done.stderr == b""
    assert _CANARY.encode() not in done.stdout
    findings = {one["name"]: one for one in json.loads(done.stdout)["findings"]}
    assert {findings[name]["state"] for name in ("cluster", "workers", "worker")} == {"ok"}
    dask = f"distributed {distributed.__version__}"
    assert findings["cluster"]["finding"] == (
        f"{cluster.address}: workers 1, threads 1, {dask}, dashboard {cluster.dashboard}/status"
    )
    assert findings["workers"]["finding"].startswith("a load by 1 threads needs 5 of ")
    worker = findings["worker"]["finding"]
    assert f": seed-registry {__version__}, Python 3.{sys.version_info.minor}, msgspec " in worker
    assert f", {dask}, threads 1, cores " in worker
    assert worker.endswith(f"of memory free; sees the tables in {database_url}")


# A worker whose environment lacks the program.
_WITHOUT = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("seed_registry"):
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.slow
def test_each_worker_that_cannot_load_is_named_with_what_to_do_there(
    cluster: DaskCluster, database_url: DatabaseUrl, server: str, template: str, bare_database_url: DatabaseUrl,
    tmp_path: Path,
) -> None:  # fmt: skip
    preload = tmp_path / "other.py"
    preload.write_text("import seed_registry; seed_registry.__version__ = '0.0.1'", encoding="utf-8")
    without = tmp_path / "without.py"
    without.write_text(_WITHOUT, encoding="utf-8")
    with _clone(server, template) as other_url:
        cluster.start_worker("--no-nanny", "--preload", preload)
        cluster.start_worker("--no-nanny", "--preload", without)
        for environment in ({}, {"DATABASE_URL": other_url.reveal}, {"DATABASE_URL": bare_database_url.reveal},
                {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/db"}):  # fmt: skip
            cluster.start_worker("--no-nanny", environment=environment)
        cluster.wait_for_workers(6)
        findings = [one for one in _found(cluster, database_url) if one.name == "worker"]
    assert [one.state for one in findings] == ["fail"] * 6
    problems = "\n".join(one.finding for one in findings)
    for problem in (
        f"it has seed-registry 0.0.1, Python 3.{sys.version_info.minor}",
        f"it lacks seed-registry {__version__}",
        "there is no database in its environment",
        f"its database {other_url} is another one than that of this command",
        "there is no table registry.sources",
        "cannot connect to postgresql://nobody@127.0.0.1:1/db",
    ):
        assert problem in problems, problems
    for finding in findings:
        name = finding.finding.partition(": ")[0]
        assert finding.fix.startswith(f"on {name}: ")
    assert any("pip install 'seed-registry[dask]'" in one.fix for one in findings)


@pytest.mark.slow
def test_a_cluster_without_workers_and_a_scheduler_that_does_not_answer_fail(
    cluster: DaskCluster, database_url: DatabaseUrl, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (finding,) = _found(cluster, database_url)
    assert (finding.name, finding.state) == ("cluster", "fail")
    assert finding.finding == f"{cluster.address} has no worker"
    assert f"`dask worker {cluster.address}`" in finding.fix
    cluster.kill_scheduler()
    monkeypatch.setattr("seed_registry.shards.cluster._CONNECT_SECONDS", 0.5)
    (finding,) = _found(cluster, database_url)
    assert finding.finding.startswith(f"no Dask scheduler answers at {cluster.address}: ")
    assert cli("doctor", "--scheduler", cluster.address, url=database_url).returncode == 1


@pytest.mark.slow
def test_too_few_sessions_other_versions_of_dask_and_little_memory_are_warned_of(
    cluster: DaskCluster, database_url: DatabaseUrl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    little = tmp_path / "little.py"
    little.write_text(
        "from seed_registry.shards import cluster_facts; cluster_facts.free_memory = lambda: 150_000_000",
        encoding="utf-8",
    )
    cluster.start_worker("--no-nanny", "--preload", little, "--nthreads", 300)
    cluster.wait_for_workers(1)
    _, sessions, worker = _found(cluster, database_url)
    assert (sessions.name, sessions.state) == ("workers", "warn")
    assert sessions.finding.startswith("a load by 300 threads needs 902 of ")
    assert "raise max_connections" in sessions.fix
    assert worker.state == "warn"
    assert "start workers with 1 threads in all there, or give it more memory" in worker.fix
    monkeypatch.setattr(doctor_cluster, "version", lambda _: "2020.1.0")
    scheduler, _, worker = _found(cluster, database_url)
    assert scheduler.state == worker.state == "warn"
    assert "here is distributed 2020.1.0" in scheduler.finding
    assert scheduler.fix.startswith("pip install distributed==")
    assert "pip install distributed==2020.1.0 there" in worker.fix


def test_the_embedded_server_is_refused(home: Path) -> None:
    (finding,) = anyio.run(check_cluster, Settings(scheduler="tcp://127.0.0.1:1"))
    assert (finding.name, finding.state) == ("cluster", "fail")
    assert finding.finding == "the workers of a cluster cannot reach the embedded server"
