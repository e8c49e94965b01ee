"""Dry runs and audits by the workers of a Dask cluster: the report of one process, whatever happens to them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import anyio
import msgspec
import pytest
from dask_cluster import DaskCluster, started
from msgspec.structs import replace
from test_dask import (
    _CANARY,
    _Events,
    _preload,
    _query,
    _Recorder,
    _require_no_sessions,
    _sample,
    _secrets,
    _with_password,
)

from conftest import _clone
from seed_registry import Settings, __version__, ingest
from seed_registry.cli.audit_runner import run_audit
from seed_registry.errors import ClusterUnavailable, IndexesFailed, IndexUnreadable, SeedRegistryError
from seed_registry.headers import Header
from seed_registry.key_hashes import KeyPart
from seed_registry.report import Report, Silent, Tally, WorkerProgress
from seed_registry.settings import DatabaseUrl, MaxRejects
from seed_registry.shards import cluster_engine
from seed_registry.shards.audit_tasks import PublishedAudit
from seed_registry.shards.cluster import Cluster
from seed_registry.shards.dry_run_tasks import PublishedDryRun
from seed_registry.shards.facts import decoded
from seed_registry.shards.published import PublishedSteps
from seed_registry.shards.shared_job import SharedJob, StepJobs
from seed_registry.shards.tasks import Job
from seed_registry.verify.audit_report import AuditReport

pytestmark = pytest.mark.usefixtures("at_home")
_TWO = 2
_SHARD_BYTES = 192 << 10
Command = Literal["plan", "verify"]
_COMMANDS: Sequence[Command] = ("plan", "verify")


@pytest.fixture(scope="module")
def url(server: str, template: str, indexes: Sequence[Path]) -> Iterator[DatabaseUrl]:
    """A registry that differs from the indexes: of the second one it has nothing, of the first one other rows."""
    with _clone(server, template) as url:
        anyio.run(ingest, str(indexes[0]), _settings(url, source_cache=None))
        _query(url, "update registry.assets set name = 'edited' where asset_key = (select min(asset_key) from "
            "registry.assets)")  # fmt: skip
        _query(url, "delete from registry.assets where asset_key = (select max(asset_key) from registry.assets)")
        yield url


@pytest.fixture(scope="module")
def cluster(url: DatabaseUrl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """Two workers."""
    with started(tmp_path_factory.mktemp("cluster"), _secrets(url), _TWO) as cluster:
        yield cluster


@pytest.fixture
def own_cluster(url: DatabaseUrl, tmp_path: Path) -> Iterator[DaskCluster]:
    """A scheduler of the test's own, without a worker yet."""
    with started(tmp_path / "cluster", {"DATABASE_URL": url.reveal}) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Path]:
    """Lines, and a document; with repeated keys, some of them far apart, and rejects."""
    directory = tmp_path_factory.mktemp("index")
    return [_sample(directory, "ndjson"), _sample(directory, "json", 2)]


def _settings(url: DatabaseUrl, **options: Any) -> Settings:
    return Settings(database_url=url, **{"max_rejects": MaxRejects(percent=10)} | options)


def _by(cluster: DaskCluster, settings: Settings) -> Settings:
    return replace(settings, scheduler=cluster.address, shard_bytes=_SHARD_BYTES)


def _run(
    command: Command, indexes: Sequence[Path], settings: Settings, progress: Silent | None = None
) -> Report | AuditReport:
    async def run() -> Report | AuditReport:
        names = [str(path) for path in indexes]
        if command == "verify":
            return await run_audit(names, settings, progress or Silent())
        return await ingest(names, replace(settings, dry_run=True), progress)

    return anyio.run(run, backend_options={"use_uvloop": True})


def _facts(report: Report | AuditReport) -> Mapping[str, Any]:
    """All of a report but its times, and what depends on how batches were cut."""
    own = {"run_id", "seconds", "records_per_second", "batches", "retries"}
    facts = {name: value for name, value in msgspec.to_builtins(report).items() if name not in own}
    if facts.get("plan") is not None:
        del facts["plan"]["estimate"]
    return facts


class _Acting(_Events):
    """Does something once, when an event is told."""

    def __init__(self, event: str, act: Callable[[], object]) -> None:
        super().__init__()
        self._event, self._act = event, act

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        super().tell(level, event, **fields)
        if event == self._event and len(self.of(event)) == 1:
            self._act()


_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "as they are": {},
    "with retiring": {"retire": True, "retire_despite_rejects": True, "only_newer": True},
    "a part of the keys": {"keys": KeyPart(2, 3), "verify_sample": 5, "derive_sources": True},
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("options", _OPTIONS)
@pytest.mark.parametrize("command", _COMMANDS)
def test_a_cluster_reports_what_one_process_reports(
    cluster: DaskCluster, url: DatabaseUrl, indexes: Sequence[Path], command: Command, options: str
) -> None:
    settings, events = _settings(url, **_OPTIONS[options]), _Events()
    expected = _run(command, [*indexes, indexes[0]], settings)
    cluster.wait_for_workers(_TWO)
    found = _run(command, [*indexes, indexes[0]], _by(cluster, settings), events)
    assert _facts(found) == _facts(expected)
    (joined,) = events.of("cluster_joined")
    assert (joined["workers"], joined["dashboard"]) == (_TWO, f"{cluster.dashboard}/status")
    assert not events.of("one_shard")
    _require_nothing_left(cluster, url)


def _require_nothing_left(cluster: DaskCluster, url: DatabaseUrl) -> None:
    """No session, no file of a worker, and nothing at the scheduler."""
    _require_no_sessions(url)
    assert not list(cluster.directory.glob("**/seed-registry-*"))
    assert _published(cluster) == ()


def _published(cluster: DaskCluster) -> Sequence[str]:
    code = f"import distributed as d; print(*d.Client({cluster.address!r}).list_datasets())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    return tuple(done.stdout.split())


@pytest.mark.slow
def test_of_a_broken_index_that_others_follow_the_rest_is_planned(
    cluster: DaskCluster, url: DatabaseUrl, indexes: Sequence[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.json"
    broken.write_bytes(indexes[1].read_bytes()[:-900])
    order, settings, reports = [broken, indexes[0]], _settings(url, keep_going=True), []
    cluster.wait_for_workers(_TWO)
    for one in (settings, _by(cluster, settings)):
        with pytest.raises(IndexesFailed) as failure:
            _run("plan", order, one)
        assert failure.value.report is not None
        reports.append(failure.value.report)
    assert _facts(reports[0]) == _facts(reports[1])


@pytest.mark.slow
@pytest.mark.parametrize(("command", "event"), [("verify", "index_opened"), ("plan", "shard_loaded"),
    ("plan", "shard_scanned")])  # fmt: skip
def test_workers_that_are_killed_cost_nothing(
    cluster: DaskCluster, url: DatabaseUrl, indexes: Sequence[Path], command: Command, event: str
) -> None:
    expected = _run(command, indexes, _settings(url))
    cluster.wait_for_workers(_TWO)
    events = _Acting(event, cluster.kill_workers)
    found = _run(command, indexes, _by(cluster, _settings(url)), events)
    assert _facts(found) == _facts(expected)
    retried = events.of("shard_retried")
    assert retried
    assert "is gone: was it killed, or out of memory?" in retried[0]["reason"]
    cluster.wait_for_workers(_TWO)
    _require_nothing_left(cluster, url)


@pytest.mark.slow
@pytest.mark.parametrize("command", _COMMANDS)
def test_the_display_is_told_what_each_worker_is_at(
    own_cluster: DaskCluster,
    url: DatabaseUrl,
    indexes: Sequence[Path],
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    often = "from seed_registry.shards import published_worker; published_worker._SECONDS_BETWEEN_NOTES = 0.005"
    preload = _preload(tmp_path, "often", often)
    for _ in range(_TWO):
        own_cluster.start_worker("--no-nanny", "--preload", preload)
    own_cluster.wait_for_workers(_TWO)
    monkeypatch.setattr("seed_registry.shards.cluster_engine._SECONDS_BETWEEN_LOOKS", 0.01)
    seen: list[WorkerProgress] = []

    class Display(Silent):
        def began(self, tally: Tally) -> None:
            self.tally = tally

    display, show = Display(), PublishedSteps.show

    async def shown(self: PublishedSteps) -> None:
        await show(self)
        seen.extend(display.tally.worker_progress)

    monkeypatch.setattr(PublishedSteps, "show", shown)
    _run(command, indexes, _by(own_cluster, _settings(url)), display)
    assert len({one.worker for one in seen}) == _TWO
    assert {one.index for one in seen} <= {str(path) for path in indexes}
    assert all(0 <= one.position <= one.size for one in seen)
    assert any(one.position and one.read for one in seen)
    assert display.tally.worker_progress == []


@pytest.mark.sampled(2)
@pytest.mark.parametrize("command", _COMMANDS)
def test_only_steps_at_work_are_encoded_each_with_its_own_index(
    cluster: DaskCluster,
    url: DatabaseUrl,
    indexes: Sequence[Path],
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
) -> None:
    names = list(indexes) * 3
    cluster.wait_for_workers(_TWO)
    encode, publish, withdraw = StepJobs.encoded, Cluster.publish, Cluster.withdraw
    encoded, kept, facts = 0, [0], dict[str, bytes]()

    def counted(self: StepJobs, job: Job, number: int) -> bytes:
        nonlocal encoded
        encoded += 1
        kept.append(encoded)
        return encode(self, job, number)

    async def published(self: Cluster, name: str, fact: Any) -> None:
        facts[name] = fact[1]
        await publish(self, name, fact)

    async def withdrawn(self: Cluster, name: str) -> None:
        nonlocal encoded
        await withdraw(self, name)
        encoded -= 1

    monkeypatch.setattr(StepJobs, "encoded", counted)
    monkeypatch.setattr(Cluster, "publish", published)
    monkeypatch.setattr(Cluster, "withdraw", withdrawn)
    _run(command, names, _by(cluster, _settings(url)))
    assert encoded == 0
    assert max(kept) <= _TWO * cluster_engine._TASKS_A_THREAD < len(facts)
    for name, data in facts.items():
        fact: PublishedAudit | PublishedDryRun = (
            decoded(data, PublishedAudit) if command == "verify" else decoded(data, PublishedDryRun)
        )
        assert decoded(fact.job, SharedJob).paths == [os.fsencode(names[fact.task.index])], name


# --- the commands -------------------------------------------------------------------------------------------------


@pytest.fixture
def start(url: DatabaseUrl, home: Path, indexes: Sequence[Path]) -> Callable[..., subprocess.Popen[bytes]]:
    """Start a command as a process, and wait until workers compare shards."""

    def start(command: str, cluster: DaskCluster) -> subprocess.Popen[bytes]:
        arguments = [
            command,
            *indexes,
            *indexes,
            "--scheduler",
            cluster.address,
            "--shard-bytes",
            _SHARD_BYTES,
            "--json",
        ]
        environment = {"PATH": os.environ["PATH"], "SEED_REGISTRY_HOME": str(home), "DATABASE_URL": url.reveal}
        process = subprocess.Popen(
            [sys.executable, "-m", "seed_registry", *map(str, arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        deadline = time.monotonic() + 40
        while not any(Path(path).stat().st_size for path in cluster.directory.glob("**/seed-registry-*/*")):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        return process

    return start


@pytest.mark.slow
@pytest.mark.parametrize("command", _COMMANDS)
def test_a_lost_scheduler_is_an_error_that_says_what_to_do(
    own_cluster: DaskCluster, url: DatabaseUrl, command: Command, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    own_cluster.start_worker()
    process = start(command, own_cluster)
    own_cluster.kill_scheduler()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    problem, fix = err.partition(b"\nerror: ")[2].decode().splitlines()
    assert problem == f"the connection to the scheduler at {own_cluster.address} was lost"
    assert fix.strip() == (
        "look whether it runs; then run the same command again, or with --processes in place of --scheduler"
    )
    assert b"Traceback" not in err
    assert not out
    _require_no_sessions(url)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("command", _COMMANDS)
def test_after_a_signal_the_workers_are_idle_and_have_no_session(
    cluster: DaskCluster,
    url: DatabaseUrl,
    command: Command,
    number: signal.Signals,
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    cluster.wait_for_workers(_TWO)
    before = _published(cluster)  # those of a command that was killed stay
    process = start(command, cluster)
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert b"Traceback" not in err
    assert not out
    _require_no_sessions(url)
    deadline = time.monotonic() + 10
    while list(cluster.directory.glob("**/seed-registry-*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(cluster.pids()) == _TWO
    if number != signal.SIGKILL:
        assert _published(cluster) == before


# --- workers that cannot ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("command", _COMMANDS)
def test_workers_that_cannot_are_named_before_the_first_step(
    own_cluster: DaskCluster,
    url: DatabaseUrl,
    server: str,
    template: str,
    indexes: Sequence[Path],
    tmp_path: Path,
    command: Command,
) -> None:
    other = _preload(tmp_path, "other", "import seed_registry; seed_registry.__version__ = '0.0.1'")
    with _clone(server, template) as other_url:
        own_cluster.start_worker("--no-nanny")
        own_cluster.start_worker("--no-nanny", "--preload", other)
        own_cluster.start_worker("--no-nanny", environment={})
        own_cluster.start_worker("--no-nanny", environment={"DATABASE_URL": other_url.reveal})
        own_cluster.wait_for_workers(4)
        with pytest.raises(ClusterUnavailable) as refused:
            _run(command, indexes, _by(own_cluster, _settings(url)))
    message = str(refused.value)
    assert message.startswith(f"3 of 4 workers cannot {command}: ")
    assert f"it has seed-registry 0.0.1, Python 3.{sys.version_info.minor}" in message
    assert f"here is seed-registry {__version__}" in message
    assert "there is no database in its environment" in message
    assert f"its database {other_url} is another one than that of this command" in message
    _require_no_sessions(url)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "event"), [("plan", "keys_sieved"), ("verify", "index_opened")])
def test_a_worker_with_another_database_that_joins_later_compares_nothing(
    own_cluster: DaskCluster,
    url: DatabaseUrl,
    server: str,
    template: str,
    indexes: Sequence[Path],
    command: Command,
    event: str,
) -> None:
    """The first worker leaves, so that the other one gets all steps that are left."""
    with _clone(server, template) as other_url:
        first = own_cluster.start_worker("--no-nanny")
        own_cluster.wait_for_workers(1)

        def exchange() -> None:
            os.kill(first, signal.SIGKILL)
            own_cluster.start_worker("--no-nanny", environment={"DATABASE_URL": other_url.reveal})

        reason = f"its database {other_url} is another one than that of this command, on worker "
        with pytest.raises(ClusterUnavailable, match=re.escape(reason)) as refused:
            _run(command, indexes, _by(own_cluster, _settings(url)), _Acting(event, exchange))
    assert "DATABASE_URL of this command" in str(refused.value).splitlines()[1]
    _require_no_sessions(url)


@pytest.mark.slow
@pytest.mark.parametrize("held", [None, b"other bytes"])
@pytest.mark.parametrize("command", _COMMANDS)
def test_a_worker_that_sees_another_file_is_named(
    cluster: DaskCluster,
    url: DatabaseUrl,
    indexes: Sequence[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
    held: bytes | None,
) -> None:
    """The path is that of a file in the working directory of whatever process opens it."""
    name = f"{tmp_path.name}.ndjson"
    (tmp_path / name).write_bytes(indexes[0].read_bytes())
    monkeypatch.chdir(tmp_path)
    if held is not None:
        (cluster.directory / name).write_bytes(held)
    cluster.wait_for_workers(_TWO)
    reason = "no such file" if held is None else "it has another size or time"
    with pytest.raises(IndexUnreadable, match=rf"{reason}.*, on worker {socket.gethostname()}:\d+\n") as failed:
        _run(command, [Path("/proc/self/cwd") / name], _by(cluster, _settings(url)))
    assert "all workers need the same file under the same path" in str(failed.value)
    _require_no_sessions(url)


# --- secrets ------------------------------------------------------------------------------------------------------


@pytest.mark.sampled(1)
@pytest.mark.parametrize("command", _COMMANDS)
def test_no_secret_is_in_what_dask_gets_or_logs(
    cluster: DaskCluster, url: DatabaseUrl, indexes: Sequence[Path], command: Command, tmp_path: Path
) -> None:
    cluster.wait_for_workers(_TWO)
    recorder, events = _Recorder(cluster.address), _Events()
    settings = _by(cluster, _settings(_with_password(url), headers=(Header.parse(f"Authorization: Bearer {_CANARY}"),)))
    settings = replace(settings, scheduler=recorder.address)
    report = _run(command, indexes, settings, events)
    lost = tmp_path / "lost.ndjson"
    lost.write_bytes(indexes[0].read_bytes())
    with pytest.raises(SeedRegistryError) as failed:
        _run(command, [lost], settings, _Acting("cluster_joined", lambda: threading.Timer(0.02, lost.unlink).start()))
    recorder.close()
    sent = recorder.data.decode("latin-1")
    assert ("load-0-0" if command == "plan" else "compare-0-0") in sent
    assert str(indexes[0]) in sent  # what is published
    seen = {"sent": sent, "logs": cluster.logs(), "error": str(failed.value), "events": str(events.events)}
    seen["report"] = json.dumps(msgspec.to_builtins(report), default=str)
    for place, text in seen.items():
        for secret in (_CANARY, _CANARY.encode().hex()):
            assert secret not in text, place
