"""Loads by the workers of a Dask cluster: the result of one process, whatever happens to them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest
from dask_cluster import DaskCluster, command_of, started
from msgspec import to_builtins
from msgspec.structs import replace

from conftest import _clone
from seed_registry import Settings, SettingsInvalid, __version__, ingest
from seed_registry.api import replay
from seed_registry.errors import ClusterUnavailable, DatabaseRefused, IndexTaken, IndexUnreadable, WorkersLost
from seed_registry.headers import Header
from seed_registry.index.inputs import IndexRef
from seed_registry.report import Report, Silent
from seed_registry.settings import DatabaseUrl, MaxRejects
from seed_registry.shards.cluster import join_cluster
from seed_registry.shards.shared_job import StepJobs, job_of_worker
from seed_registry.shards.tasks import Job

pytest.importorskip("distributed")
pytestmark = pytest.mark.usefixtures("at_home", "emptied")
# What differs between two loads of the same indexes, whoever does them.
_OWN = {
    "run_id", "seconds", "records_per_second", "batches", "retries", "rejects_file", "database", "shards", "bytes_read",
}  # fmt: skip
_TWO = 2
_RECORDS = 1_500
# A load that hangs fails its test, and not the whole run of the tests.
_SECONDS_OF_A_LOAD = 120
# A secret of the command and the workers, in the URL of the database and in a header.
_CANARY = "canary-1b5d0e"


@pytest.fixture(scope="module")
def url(server: str, template: str) -> Iterator[DatabaseUrl]:
    """The database of the cluster's workers."""
    with _clone(server, template) as url:
        yield url


@pytest.fixture(scope="module")
def cluster(url: DatabaseUrl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """Two workers."""
    with started(tmp_path_factory.mktemp("cluster"), _secrets(url), _TWO) as cluster:
        yield cluster


def _secrets(url: DatabaseUrl) -> dict[str, str]:
    """The environment of the workers."""
    return {"DATABASE_URL": _with_password(url).reveal, "SEED_REGISTRY_HEADER": f"Authorization: Bearer {_CANARY}"}


def _with_password(url: DatabaseUrl) -> DatabaseUrl:
    """The same database with a password, which the server does not ask for."""
    scheme, _, rest = url.reveal.partition("://")
    user, _, place = rest.partition("@")
    return DatabaseUrl(f"{scheme}://{user}:{_CANARY}@{place}")


@pytest.fixture
def emptied(url: DatabaseUrl) -> None:
    """The registry is empty."""
    _query(url, "truncate registry.sources, registry.assets cascade")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with repeated keys, some of them far apart, and rejects."""
    return _sample(tmp_path_factory.mktemp("index"), "ndjson")


def _sample(directory: Path, form: str, seed: int = 1) -> Path:
    path = directory / f"index-{seed}.{form}"
    arguments = ["--records", str(_RECORDS), "--duplicates", "5", "--invalid", "1", "--size", "700"]
    command = [sys.executable, "-m", "seed_registry", "sample", "--format", form, "--seed", str(seed), *arguments]
    subprocess.run([*command, "--out", str(path)], check=True)
    return path


def _query(url: DatabaseUrl, query: str) -> list[tuple[Any, ...]]:
    async def fetch() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url.reveal)
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    return anyio.run(fetch)


def _settings(url: DatabaseUrl, cluster: DaskCluster | None = None, **options: Any) -> Settings:
    settings = Settings(database_url=url, digest=True, max_rejects=MaxRejects(percent=10))
    if cluster is not None:
        settings = replace(settings, scheduler=cluster.address, shard_bytes=192 << 10)
    return replace(settings, **options)


def _load(indexes: Path | list[Path], settings: Settings, progress: Silent | None = None) -> Report:
    names = [str(path) for path in ([indexes] if isinstance(indexes, Path) else indexes)]

    async def load() -> Report:
        with anyio.fail_after(_SECONDS_OF_A_LOAD):
            return await ingest(names, settings, progress)

    return anyio.run(load, backend_options={"use_uvloop": True})


def _outcome(report: Report) -> dict[str, Any]:
    outcome = {name: value for name, value in to_builtins(report).items() if name not in _OWN}
    for part in outcome.get("per_index", []):
        del part["bytes_read"], part["sources"]
    outcome["rejects"] = Path(report.rejects_file or os.devnull).read_bytes()
    return outcome


class _Events(Silent):
    """Keeps the events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        self.events.append((event, fields))

    def of(self, event: str) -> list[dict[str, Any]]:
        """The fields of all events of a name."""
        return [fields for name, fields in self.events if name == event]


class _Held(_Events):
    """Holds a table from the beginning of a step, and does something once a worker waits for that table."""

    def __init__(self, url: DatabaseUrl, step: str, table: str, act: Callable[[], object]) -> None:
        super().__init__()
        self.has_acted = False
        self._url, self._step, self._table, self._act = url, step, table, act
        self._is_held = threading.Event()

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        super().tell(level, event, **fields)
        if event == "shards_counted" and fields["step"] == self._step and not self._is_held.is_set():
            threading.Thread(target=anyio.run, args=(self._hold,)).start()
            assert self._is_held.wait(10)

    async def _hold(self) -> None:
        connection = await asyncpg.connect(self._url.reveal)
        async with connection.transaction():
            await connection.execute(f"lock table {self._table} in share mode")
            self._is_held.set()
            waits = "select exists (select from pg_locks where not granted and relation = $1::text::regclass)"
            with anyio.move_on_after(20):
                while not await connection.fetchval(waits, self._table):  # noqa: ASYNC110  # it is another process
                    await anyio.sleep(0.01)
                self._act()
                self.has_acted = True
                await anyio.sleep(0.2)
        await connection.close()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("form", ["both", "ndjson", "json"])
def test_a_cluster_loads_what_one_process_loads(
    cluster: DaskCluster, url: DatabaseUrl, tmp_path: Path, form: str
) -> None:
    indexes = [_sample(tmp_path, "ndjson"), _sample(tmp_path, "json", 2)]
    if form != "both":
        indexes = [index for index in indexes if index.suffix == f".{form}"]
    expected = _load(indexes, _settings(url))
    _query(url, "truncate registry.sources, registry.assets cascade")
    cluster.wait_for_workers(_TWO)
    events = _Events()
    found = _load(indexes, _settings(url, cluster), events)
    assert _outcome(found) == _outcome(expected)
    assert len({shard.worker for shard in found.shards}) == _TWO  # both had work
    (joined,) = events.of("cluster_joined")
    assert joined == {
        "scheduler": cluster.address, "workers": _TWO, "threads": _TWO, "dashboard": f"{cluster.dashboard}/status",
    }  # fmt: skip
    again = _load(indexes, _settings(url, cluster))
    assert again.assets.inserted == again.assets.updated == 0
    assert again.digest == expected.digest
    _require_no_rest(url)


def _require_no_sessions(url: DatabaseUrl) -> None:
    """No session is left; the server takes a moment to notice."""
    deadline = time.monotonic() + 5
    sessions = "select pid, query from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    while left := _query(url, sessions):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def _require_no_rest(url: DatabaseUrl) -> None:
    """No session, and nothing of a run that has ended, is left; what other tests leave on purpose is of other runs."""
    _require_no_sessions(url)
    for table in ("shard_jobs", "shards", "shard_keys", "parked"):
        ended = "run_id in (select run_id from seed_registry.runs where outcome = 'done')"
        assert not _query(url, f"select from seed_registry.{table} where {ended}")


_STEPS = {
    "scanning": "seed_registry.shard_keys",
    "comparing keys": "seed_registry.shard_repeats",
    "loading": "registry.assets",
    "settling": "registry.assets",
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("step", ["loading", "scanning", "comparing keys", "settling"])
def test_workers_killed_in_a_step_cost_nothing(cluster: DaskCluster, url: DatabaseUrl, index: Path, step: str) -> None:
    expected = _outcome(_load(index, _settings(url)))
    _query(url, "truncate registry.sources, registry.assets cascade")
    cluster.wait_for_workers(_TWO)
    held = _Held(url, step, _STEPS[step], cluster.kill_workers)  # of some steps only one worker has a task
    found = _load(index, _settings(url, cluster), held)
    assert held.has_acted
    assert _outcome(found) == expected
    retried = held.of("shard_retried")
    assert retried
    assert "is gone: was it killed, or out of memory?" in retried[0]["reason"]
    _require_no_rest(url)


def _resume(index: Path, url: DatabaseUrl, expected: dict[str, Any], **options: Any) -> None:
    """The same command again finishes what an earlier one began."""
    deadline = time.monotonic() + 90  # workers whose coordinator is gone end some time later
    found = None
    while found is None:
        events = _Events()
        try:
            found = _load(index, _settings(url, **options), events)
        except IndexTaken:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
    assert events.of("run_resumed")
    for name in ("assets", "digest", "rejects"):  # the sources are there already
        assert _outcome(found)[name] == expected[name]
    _require_no_rest(url)


@pytest.fixture(scope="module")
def expected(url: DatabaseUrl, index: Path, home_of_module: Path) -> dict[str, Any]:
    """What one process gives."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEED_REGISTRY_HOME", str(home_of_module))
        _query(url, "truncate registry.sources, registry.assets cascade")
        return _outcome(_load(index, _settings(url)))


@pytest.fixture(scope="module")
def home_of_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def own_cluster(url: DatabaseUrl, tmp_path: Path) -> Iterator[DaskCluster]:
    """A scheduler of the test's own, without a worker yet."""
    with started(tmp_path / "cluster", {"DATABASE_URL": url.reveal}) as cluster:
        yield cluster


@pytest.fixture
def start(url: DatabaseUrl, home: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Start a load of a cluster as a process, and wait until a part of the index is loaded."""

    def start(index: Path, cluster: DaskCluster) -> subprocess.Popen[bytes]:
        command = ["load", str(index), "--scheduler", cluster.address, "--shard-bytes", str(192 << 10), "--json"]
        environment = {"PATH": os.environ["PATH"], "SEED_REGISTRY_HOME": str(home), "DATABASE_URL": url.reveal}
        process = subprocess.Popen(
            [sys.executable, "-m", "seed_registry", *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        deadline = time.monotonic() + 30
        while not _query(url, "select from seed_registry.shards where state = 'loaded'"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return process

    return start


@pytest.mark.slow
def test_after_the_scheduler_is_lost_processes_of_this_machine_finish_the_run(
    own_cluster: DaskCluster,
    url: DatabaseUrl,
    index: Path,
    expected: dict[str, Any],
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    _query(url, "truncate registry.sources, registry.assets cascade")
    own_cluster.start_worker()
    process = start(index, own_cluster)
    own_cluster.kill_scheduler()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    error = err.partition(b"\nerror: ")[2]
    assert error.startswith(f"the connection to the scheduler at {own_cluster.address} was lost\n".encode())
    assert b"or with --processes in place of --scheduler: it continues the run" in error
    assert b"Traceback" not in err
    assert b"distributed" not in err
    _resume(index, url, expected, processes=2)


@pytest.mark.slow
def test_a_scheduler_that_hangs_while_workers_load_ends_the_load(
    own_cluster: DaskCluster, url: DatabaseUrl, index: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, Any]
) -> None:
    monkeypatch.setattr("seed_registry.shards.cluster._SCHEDULER_SECONDS", 2)
    _query(url, "truncate registry.sources, registry.assets cascade")
    own_cluster.start_worker()
    own_cluster.wait_for_workers(1)

    def stop() -> None:
        while not _query(url, "select from seed_registry.shards where state = 'loaded'"):
            time.sleep(0.01)
        own_cluster.stop_scheduler()

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(ClusterUnavailable, match="does not answer\nlook whether it hangs; then run the same command"):
        _load(index, _settings(url, own_cluster, shard_bytes=192 << 10))
    thread.join()
    own_cluster.close()
    _resume(index, url, expected, processes=2)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_same_command_finishes_what_a_client_that_was_ended_began(
    cluster: DaskCluster,
    url: DatabaseUrl,
    index: Path,
    number: signal.Signals,
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    """Of workers whose client is killed no session is left a little later."""
    expected = _outcome(_load(index, _settings(url)))
    _query(url, "truncate registry.sources, registry.assets cascade")
    cluster.wait_for_workers(_TWO)
    process = start(index, cluster)
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert b"Traceback" not in err
        assert b"distributed" not in err
        assert not out
    _resume(index, url, expected, scheduler=cluster.address, shard_bytes=192 << 10)
    assert len(cluster.pids()) == _TWO


@pytest.mark.slow
def test_a_worker_that_was_stopped_is_restarted_and_its_shard_loaded_by_another(
    cluster: DaskCluster, url: DatabaseUrl, index: Path, expected: dict[str, Any]
) -> None:
    """A minute without a sign of life is simulated: the ledger is told that the last one was long ago."""
    _query(url, "truncate registry.sources, registry.assets cascade")
    cluster.wait_for_workers(_TWO)
    stopped: list[int] = []

    def stop() -> None:
        ((worker,),) = _query_in_thread(
            url, "select worker from seed_registry.shards where state = 'scanned' and worker is not null limit 1"
        )
        stopped.append(int(worker.rpartition(":")[2]))
        os.kill(stopped[0], signal.SIGSTOP)
        _query_in_thread(
            url, f"update seed_registry.shards set seen_at = now() - interval '1 hour' where worker = '{worker}'"
        )

    held = _Held(url, "loading", "registry.assets", stop)
    found = _load(index, _settings(url, cluster), held)
    assert _outcome(found) == expected
    assert stopped[0] not in cluster.pids()
    cluster.wait_for_workers(_TWO)


@pytest.mark.slow
def test_a_stopped_worker_that_nothing_can_restart_is_left_to_the_scheduler(own_cluster: DaskCluster) -> None:
    own_cluster.start_worker("--no-nanny")
    own_cluster.wait_for_workers(1)

    async def restart() -> None:
        async with join_cluster(own_cluster.address, Silent(), 10) as cluster:
            await cluster.look()
            (name,) = cluster.addresses
            await cluster.restart(name)

    anyio.run(restart)


def _query_in_thread(url: DatabaseUrl, query: str) -> list[tuple[Any, ...]]:
    """As `_query`, beside a loop of this thread."""
    found: list[tuple[Any, ...]] = []
    thread = threading.Thread(target=lambda: found.extend(_query(url, query)))
    thread.start()
    thread.join()
    return found


@pytest.mark.slow
def test_workers_that_are_lost_again_and_again_end_the_run(
    cluster: DaskCluster, url: DatabaseUrl, index: Path, expected: dict[str, Any]
) -> None:
    """Dask gives a step to a fifth worker no more."""
    _query(url, "truncate registry.sources, registry.assets cascade")
    cluster.wait_for_workers(_TWO)

    def kill_all() -> None:
        for _ in range(4):  # while the table is held, so that no step ends
            time.sleep(0.3)
            cluster.kill_workers()
            cluster.wait_for_workers(_TWO)

    held = _Held(url, "loading", "registry.assets", kill_all)
    with pytest.raises(WorkersLost, match=r"workers ended 4 times at the same step \(load-0-\d+\)"):
        _load(index, _settings(url, cluster), held)
    time.sleep(1)
    cluster.wait_for_workers(_TWO)
    _resume(index, url, expected, scheduler=cluster.address, shard_bytes=192 << 10)


def _preload(directory: Path, name: str, code: str) -> Path:
    path = directory / f"{name}.py"
    path.write_text(code, "utf-8")
    return path


def test_workers_that_cannot_load_are_named_before_the_first_step(
    own_cluster: DaskCluster, url: DatabaseUrl, server: str, template: str, index: Path, tmp_path: Path
) -> None:
    other = _preload(tmp_path, "other", "import seed_registry; seed_registry.__version__ = '0.0.1'")
    with _clone(server, template) as other_url:
        own_cluster.start_worker("--no-nanny")
        own_cluster.start_worker("--no-nanny", "--preload", other)
        own_cluster.start_worker("--no-nanny", environment={})
        own_cluster.start_worker("--no-nanny", environment={"DATABASE_URL": other_url.reveal})
        own_cluster.wait_for_workers(4)
        with pytest.raises(ClusterUnavailable) as refused:
            _load(index, _settings(url, own_cluster))
    message = str(refused.value)
    assert message.startswith("3 of 4 workers cannot load: ")
    assert f"it has seed-registry 0.0.1, Python 3.{sys.version_info.minor}" in message
    assert f"here is seed-registry {__version__}" in message
    assert "there is no database in its environment" in message
    assert f"its database {other_url} is another one than that of this command" in message
    assert len(message.splitlines()) == 2
    assert not _query(url, "select from seed_registry.shards")
    _require_no_rest(url)


@pytest.mark.slow
def test_a_worker_of_another_version_that_joins_later_is_found(
    own_cluster: DaskCluster, url: DatabaseUrl, index: Path, tmp_path: Path
) -> None:
    own_cluster.start_worker("--no-nanny")
    own_cluster.wait_for_workers(1)
    other = _preload(tmp_path, "other", "import seed_registry; seed_registry.__version__ = '0.0.1'")

    def join() -> None:
        own_cluster.start_worker("--no-nanny", "--preload", other)
        own_cluster.wait_for_workers(2)
        time.sleep(3)  # by then the workers were looked at again

    with pytest.raises(ClusterUnavailable, match=r"seed-registry 0\.0\.1"):
        _load(index, _settings(url, own_cluster), _Held(url, "loading", "registry.assets", join))
    _require_no_sessions(url)
    assert not _query(url, "select from seed_registry.shard_jobs")


@pytest.mark.slow
def test_a_header_that_a_worker_lacks_is_named_without_its_value(
    own_cluster: DaskCluster, url: DatabaseUrl, index: Path
) -> None:
    own_cluster.start_worker("--no-nanny")
    settings = _settings(url, own_cluster, headers=(Header.parse("Authorization: Bearer canary"),))
    with pytest.raises(ClusterUnavailable, match=r"it lacks the header Authorization: \*\*\*") as refused:
        _load(index, settings)
    assert "SEED_REGISTRY_HEADER in their environment" in str(refused.value)
    assert "canary" not in str(refused.value)


@pytest.mark.slow
def test_no_worker_for_too_long_is_an_error(own_cluster: DaskCluster, url: DatabaseUrl, index: Path) -> None:
    events = _Events()
    with pytest.raises(ClusterUnavailable, match="has had no worker for 1 seconds") as refused:
        _load(index, _settings(url, own_cluster, retry_for_seconds=1.0), events)
    assert f"`dask worker {own_cluster.address}`" in str(refused.value)
    assert events.of("waiting_for_workers") == [{"scheduler": own_cluster.address}]


@pytest.mark.parametrize("held", [None, b"other bytes"])
def test_a_worker_that_sees_another_file_is_named(
    cluster: DaskCluster, url: DatabaseUrl, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: bytes
) -> None:
    """The path is that of a file in the working directory of whatever process opens it."""
    name = f"{tmp_path.name}.ndjson"
    (tmp_path / name).write_bytes(index.read_bytes())
    monkeypatch.chdir(tmp_path)
    theirs = cluster.directory / name
    if held is not None:
        theirs.write_bytes(held)
    cluster.wait_for_workers(_TWO)
    reason = "no such file" if held is None else "it has another size or time"
    with pytest.raises(IndexUnreadable, match=rf"{reason}.*, on worker {socket.gethostname()}:\d+\n") as failed:
        _load(Path("/proc/self/cwd") / name, _settings(url, cluster))
    assert "all workers need the same file under the same path" in str(failed.value)
    _require_no_sessions(url)


def test_a_scheduler_that_does_not_answer_is_an_error_of_ours(
    url: DatabaseUrl, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seed_registry.shards.cluster._CONNECT_SECONDS", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ClusterUnavailable, match=f"no Dask scheduler answers at {address}: ") as refused:
        _load(index, _settings(url, scheduler=address))
    assert "look whether `dask scheduler` runs there" in str(refused.value)
    _require_no_sessions(url)


def test_a_scheduler_that_hangs_is_an_error_of_ours(
    own_cluster: DaskCluster, url: DatabaseUrl, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seed_registry.shards.cluster._HANDSHAKE_SECONDS", 1)
    own_cluster.stop_scheduler()
    with pytest.raises(ClusterUnavailable, match=f"no Dask scheduler answers at {own_cluster.address}: "):
        _load(index, _settings(url, own_cluster))
    _require_no_sessions(url)


def test_a_server_without_room_for_a_worker_says_so(cluster: DaskCluster, url: DatabaseUrl, index: Path) -> None:
    cluster.wait_for_workers(_TWO)
    with pytest.raises(DatabaseRefused, match="or load with a smaller --concurrency"):
        _load(index, _settings(url, cluster, concurrency=256))
    _require_no_sessions(url)


@pytest.fixture
def limited(url: DatabaseUrl) -> Iterator[DatabaseUrl]:
    """The same database for a role with room for the run and for one worker of three sessions."""
    _query(url, f"create role six login connection limit 6 in role {url.reveal.split('//')[1].partition('@')[0]}")
    yield DatabaseUrl(f"postgresql://six@{url.reveal.partition('@')[2]}")
    _query(url, "drop owned by six")
    _query(url, "drop role six")


@pytest.mark.slow
@pytest.mark.parametrize("first", [4, 1])
def test_where_there_is_room_for_fewer_workers_than_there_are_or_will_be_all_is_loaded(
    own_cluster: DaskCluster,
    url: DatabaseUrl,
    limited: DatabaseUrl,
    index: Path,
    expected: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    first: int,
) -> None:
    _query(url, "truncate registry.sources, registry.assets cascade")
    monkeypatch.setattr("seed_registry.shards.cluster_engine._SECONDS_BETWEEN_LOOKS", 0.01)
    workers = 4

    def start(count: int) -> None:
        for _ in range(count):
            own_cluster.start_worker("--no-nanny", environment={"DATABASE_URL": limited.reveal})

    class Growing(_Events):
        def tell(self, level: str, event: str, /, **fields: Any) -> None:
            super().tell(level, event, **fields)
            if event == "shard_loaded" and len(self.of(event)) == 1:
                start(workers - first)
                own_cluster.wait_for_workers(workers)

    start(first)
    own_cluster.wait_for_workers(first)
    events = Growing()
    found = _load(index, _settings(limited, own_cluster), events)
    assert _outcome(found) == expected
    assert len({shard.worker for shard in found.shards}) > 1
    told = [(fields["workers"], fields["wanted"]) for fields in events.of("fewer_workers")]
    assert told == ([(1, workers)] if first == workers else [])
    _require_no_rest(url)


def test_without_dask_the_command_that_installs_it_is_named(
    url: DatabaseUrl, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seed_registry.shards.shared_job.find_spec", lambda _: None)
    with pytest.raises(SettingsInvalid, match=r"pip install 'seed-registry\[dask\]'"):
        _load(index, _settings(url, scheduler="tcp://127.0.0.1:1"))


@pytest.mark.parametrize(
    "name",
    [
        "https://user:canary@data.example/index.json", "https://data.example/index.json?sig=canary",
        "s3://user:canary@bucket/index.json", "https://data.example/index.json#canary",
    ],
)  # fmt: skip
def test_a_url_that_may_hold_a_secret_is_refused(url: DatabaseUrl, name: str) -> None:
    with pytest.raises(SettingsInvalid, match="a password or a query") as refused:
        anyio.run(ingest, name, _settings(url, scheduler="tcp://127.0.0.1:1"))
    assert "canary" not in str(refused.value)
    assert "SEED_REGISTRY_HEADER='Authorization: …'" in str(refused.value)


def test_a_step_of_one_index_sends_no_header_that_the_run_would_send_to_several_origins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://registry@localhost/registry")
    names = ["https://a.example/1", "https://a.example/2", "https://b.example/3"]
    for indexes, header in ((names[:2], "Authorization: x"), (names, "https://b.example Authorization: x")):
        monkeypatch.setenv("SEED_REGISTRY_HEADER", header)
        job = Job("run", Settings(), [IndexRef.of(name) for name in indexes], DatabaseUrl(""), True, "", 0)
        (found,) = job_of_worker("run", StepJobs().encoded(job, 1), "worker").indexes
        assert found == job.indexes[1]
    monkeypatch.setenv("SEED_REGISTRY_HEADER", "Authorization: x")
    with pytest.raises(SettingsInvalid, match="--header Authorization would be sent to 2 origins"):
        job_of_worker("run", StepJobs().encoded(job, 1), "worker")


def test_the_embedded_server_is_refused(index: Path) -> None:
    with pytest.raises(SettingsInvalid, match="cannot reach the embedded server\nname a database with --database-url"):
        anyio.run(ingest, str(index), Settings(scheduler="tcp://127.0.0.1:1"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"scheduler": "http://a:1"}, "--scheduler takes the address that `dask scheduler` prints"),
        ({"scheduler": "tcp://user:canary@a:1"}, "--scheduler takes the address"),
        ({"scheduler": "tcp://a:1/?token=canary"}, "--scheduler takes the address"),
        ({"scheduler": "tcp://a:1", "processes": 2}, "--scheduler and --processes exclude each other"),
        ({"scheduler": "tcp://a:1", "defer_indexes": True}, "leave out --scheduler or --defer-indexes"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsInvalid, match=reason) as refused:
        Settings(**options)
    assert "canary" not in str(refused.value)


def test_a_replay_is_refused(url: DatabaseUrl, index: Path) -> None:
    with pytest.raises(SettingsInvalid, match="a replay is one process: leave out --scheduler"):
        anyio.run(replay, str(index), _settings(url, scheduler="tcp://127.0.0.1:1"))


class _Recorder:
    """A TCP proxy before the scheduler that keeps all that goes through it."""

    def __init__(self, address: str) -> None:
        self.data = bytearray()
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open = [self._listener]
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            self._open += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self.data += data
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close all connections, and take no more."""
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # wakes who waits for it
            one.close()


def test_no_secret_is_in_what_dask_gets_logs_shows_nor_in_the_ledger(
    cluster: DaskCluster, url: DatabaseUrl, index: Path, tmp_path: Path
) -> None:
    cluster.wait_for_workers(_TWO)
    seen: dict[str, str] = {}

    def look() -> None:
        """While the workers wait for a table."""
        tables = _query_in_thread(url, "select oid::regclass::text from pg_class where relkind = 'r' "
            "and relnamespace = 'seed_registry'::regnamespace")  # fmt: skip
        for (table,) in tables:
            seen[table] = str(_query_in_thread(url, f"select one::text from {table} as one"))
        for page in (
            "info/main/workers.html",
            "info/main/logs.html",
            "json/counts.json",
            "json/identity.json",
            "metrics",
        ):
            with suppress(urllib.error.HTTPError), urllib.request.urlopen(f"{cluster.dashboard}/{page}") as answer:
                seen[page] = answer.read().decode()
        seen["processes"] = "\n".join(command_of(int(path.name)) for path in Path("/proc").iterdir()
            if path.name.isdecimal())  # fmt: skip

    recorder = _Recorder(cluster.address)
    held = _Held(url, "loading", "registry.assets", look)
    header = Header.parse(f"Authorization: Bearer {_CANARY}")
    settings = _settings(_with_password(url), cluster, scheduler=recorder.address, headers=(header,))
    report = _load(index, settings, held)
    assert report.verification is not None
    assert report.verification.passed
    lost = tmp_path / "lost.ndjson"
    lost.write_bytes(index.read_bytes())
    with pytest.raises(IndexUnreadable) as failed:
        _load(lost, settings, _Held(url, "scanning", "seed_registry.shard_keys", lost.unlink))
    recorder.close()
    seen |= {"sent": recorder.data.decode("latin-1"), "logs": cluster.logs(), "error": str(failed.value)}
    seen |= {"events": str(held.events), "report": str(to_builtins(report))}
    assert seen["seed_registry.shard_jobs"].count(__version__) == 1
    assert "load-0-0" in seen["sent"]  # and a run's id, beside that
    assert report.run_id in seen["sent"]
    assert "dask_worker" in seen["processes"]
    assert "workers" in seen["json/counts.json"]
    assert "Run out-of-band function 'probe'" in seen["logs"]
    for place, text in seen.items():
        for secret in (_CANARY, _CANARY.encode().hex()):
            assert secret not in text, place
    _require_no_sessions(url)
