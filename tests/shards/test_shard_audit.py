"""An audit by several processes has the report of one process, whatever the cuts, orders and losses."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import force_setattr, replace

from conftest import Cli
from partitions import create_tables
from seed_registry import IndexBroken, IndexNotUnderstood, SeedRegistryError, Settings, ingest
from seed_registry.key_hashes import KeyPart
from seed_registry.report import Silent
from seed_registry.settings import DatabaseUrl, MaxRejects
from seed_registry.shards.audit import ShardedAudit
from seed_registry.shards.audit_tasks import AuditJob, AuditTask, ShardAudited
from seed_registry.shards.audit_worker import perform
from seed_registry.verify.audit import audit
from seed_registry.verify.audit_report import AuditReport

pytestmark = pytest.mark.usefixtures("at_home")
A, B, C = "a.example", "b.example", "c.example"
Json = dict[str, Any]


class LocalAuditEngine:
    """Performs steps in this process, those that wait in an order that the test chooses; each may be lost once."""

    def __init__(self, chance: random.Random, losses: float = 0.0) -> None:
        self.performed: list[AuditTask] = []
        self._chance = chance
        self._losses = losses

    async def audit(self, job: AuditJob, task: AuditTask, lost: Callable[[str], None]) -> ShardAudited:
        """Perform a step, see `AuditEngine`."""
        await anyio.sleep(self._chance.random() / 50)
        if self._chance.random() < self._losses:
            await perform(job, task)
            lost("its result did not arrive")
        self.performed.append(task)
        return await perform(job, task)


async def audited(
    paths: Sequence[Path],
    options: Settings,
    *,
    shard_bytes: int = 0,
    seed: int = 0,
    losses: float = 0.0,
    new_engine: type[LocalAuditEngine] = LocalAuditEngine,
) -> tuple[AuditReport, LocalAuditEngine]:
    """The report without its duration: by one process, or by shards of any size; those of a user are larger."""
    engine, names = new_engine(random.Random(seed), losses), [str(path) for path in paths]
    if not shard_bytes:
        return replace(await audit(names, options), seconds=0.0), engine
    options = replace(options, processes=3)
    force_setattr(options, "shard_bytes", shard_bytes)
    report = await audit(
        names, options, Silent(), lambda snapshot, context: ShardedAudit(snapshot, context, lambda _: engine)
    )
    return replace(report, seconds=0.0), engine


async def same(
    paths: Sequence[Path], options: Settings, shard_bytes: int = 300, *, shards: int = 2, **how: Any
) -> AuditReport:
    """The report, of one process and by several shards, at least so many."""
    alone, _ = await audited(paths, options)
    together, engine = await audited(paths, options, shard_bytes=shard_bytes, **how)
    assert len({(task.index, task.shard.number) for task in engine.performed}) >= shards
    assert together == alone
    return together


def source(key: str, **fields: Any) -> Json:
    """A record of a source."""
    return {"type": "source", "source_key": key, **fields}


def asset(key: str, source_key: str = A, **fields: Any) -> Json:
    """A record of an asset."""
    return {"type": "asset", "asset_key": key, "source_key": source_key, **fields}


def saved(path: Path, records: Sequence[Any]) -> Path:
    """An index of lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def saved_document(path: Path, records: Sequence[Any]) -> Path:
    """An index that is one document, its assets before its sources."""
    kinds = {kind: [one for one in records if isinstance(one, dict) and one["type"] == kind] for kind in KINDS}
    path.write_text(json.dumps({"assets": kinds["asset"], "sources": kinds["source"]}, indent=1), encoding="utf-8")
    return path


KINDS = ("asset", "source")


@pytest.fixture(scope="module")
def emptied_database(workshop_url: DatabaseUrl) -> DatabaseUrl:
    """A database with the registry's tables, for the examples of a module, one after the other."""
    anyio.run(_execute, workshop_url, "select 1")
    return workshop_url


async def _execute(url: DatabaseUrl, statements: str) -> None:
    connection = await asyncpg.connect(url.reveal)
    try:
        await create_tables(connection)
        await connection.execute(statements)
    finally:
        await connection.close()


# --- any index ----------------------------------------------------------------------------------------------------

_source = st.builds(source, st.sampled_from([A, B]), name=st.sampled_from(["one", "two"]))
_asset = st.builds(
    asset,
    st.integers(0, 15).map(lambda number: f"aaaa-{number:04}"),
    st.sampled_from([A, B, C]),
    name=st.sampled_from(["one", "two"]),
)
_bad = st.sampled_from([{"type": "asset", "name": "no key"}, {"type": "other"}, "no object", None])
_index = st.lists(st.one_of(_asset, _asset, _asset, _source, _bad), min_size=3, max_size=40)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(
    stored=_index,
    indexes=st.lists(st.tuples(st.booleans(), _index), min_size=1, max_size=3),
    sample=st.sampled_from([0, 3]),
    part=st.sampled_from([KeyPart(), KeyPart(1, 2), KeyPart(3, 3)]),
    derive_sources=st.booleans(),
    shard_bytes=st.integers(80, 600),
    seed=st.integers(0, 1 << 20),
)
def test_any_indexes_have_the_report_of_one_process(
    tmp_path: Path,
    emptied_database: DatabaseUrl,
    stored: list[Any],
    indexes: list[tuple[bool, list[Any]]],
    sample: int,
    part: KeyPart,
    derive_sources: bool,
    shard_bytes: int,
    seed: int,
) -> None:
    """Repeats across shards and indexes, missing, different and extra rows, edits, rejects, unlisted sources."""
    options = Settings(
        database_url=emptied_database,
        verify=False,
        verify_sample=sample,
        max_rejects=MaxRejects.parse("100%"),
        derive_sources=derive_sources,
        batch_size=3,
    )
    paths = [
        (saved_document if is_document else saved)(tmp_path / f"{number}.json", [source(A), *records, asset("last")])
        for number, (is_document, records) in enumerate(indexes)
    ]
    before = saved(tmp_path / "stored.ndjson", [source(A), asset("first"), *stored])

    async def check() -> None:
        await _execute(emptied_database, "truncate registry.sources, registry.assets cascade")
        await ingest(str(before), replace(options, derive_sources=True))
        await _execute(emptied_database, "update registry.assets set name = 'edited' where asset_key = 'aaaa-0003'")
        await same(paths, replace(options, keys=part), shard_bytes, shards=0, seed=seed, losses=0.2)

    anyio.run(check)


# --- what depends on an order -------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_of_a_key_of_two_portals_the_first_one_has_it(tmp_path: Path, database_url: DatabaseUrl) -> None:
    def record(number: int, portal: str) -> Json:
        page = f"https://{portal}/about/{number}"
        return {"identifier": str(number), "title": "t", "landingPage": page, "accessLevel": "public"}

    paths = [tmp_path / "first.json", tmp_path / "second.json"]
    first = [record(n, A if n % 2 else B) for n in range(20)]
    paths[0].write_text(json.dumps([*first, *(record(n, C) for n in range(10))]), encoding="utf-8")
    paths[1].write_text(json.dumps([record(n, A) for n in range(25)]), encoding="utf-8")
    options = Settings(database_url=database_url, verify_sample=2, dialect="data-json")
    report = await same(paths, options)
    assert report.rejects == {"key_of_another_source": 10 + 10}
    owners = {one.key: one.source_key for one in report.differences if one.table == "assets"}
    assert owners == {str(n): A if n % 2 or n >= 20 else B for n in range(25)}
    await ingest(str(paths[1]), options)
    assert (await same(paths, options)).rejects == {"key_of_another_source": 10 + 10}


@pytest.mark.anyio
async def test_a_portal_that_is_named_behind_the_records_is_that_of_all_shards(
    tmp_path: Path, database_url: DatabaseUrl
) -> None:
    path = tmp_path / "directory.json"
    records = [{"id": f"aaaa-{n:04}", "name": "n", "description": "x" * 60} for n in range(2, 60)]
    path.write_text(json.dumps({"datasets": records, "source": "socrata", "domain": A}), encoding="utf-8")
    options = Settings(database_url=database_url)
    await ingest(str(path), options)
    report = await same([path], options)
    assert report.verification.passed
    assert [one.source_key for one in report.per_source] == [A]


@pytest.mark.anyio
async def test_of_a_source_that_is_listed_in_several_shards_the_last_one_counts(
    tmp_path: Path, database_url: DatabaseUrl
) -> None:
    fill = [asset(f"aaaa-{number:04}", description="x" * 50) for number in range(9)]
    path = saved(tmp_path / "index.ndjson", [source(A, name="old"), *fill, source(A, name="new"), *fill])
    options = Settings(database_url=database_url)
    await ingest(str(path), options)
    assert (await same([path], options)).verification.passed
    turned = saved(tmp_path / "turned.ndjson", [source(A, name="new"), *fill, source(A, name="old"), *fill])
    first, *_ = (await same([turned], options)).differences
    assert (first.table, first.line) == ("sources", 11)


@pytest.mark.anyio
async def test_only_what_is_in_the_sample_of_all_shards_is_compared_by_value(
    tmp_path: Path, database_url: DatabaseUrl
) -> None:
    path = saved(tmp_path / "index.ndjson", [source(A), *(asset(f"k{number}") for number in range(300))])
    options = Settings(database_url=database_url, verify_sample=10)
    await ingest(str(path), options)
    await _execute(database_url, "update registry.assets set name = 'edited'")
    report = await same([path], options, 1_000)
    assert report.has_edits
    assert 10 <= report.assets.by_value < 300


@pytest.mark.anyio
async def test_a_piece_of_a_document_that_ends_inside_a_record_is_joined_with_the_next_one(
    tmp_path: Path, database_url: DatabaseUrl
) -> None:
    inner = [{"id": f"x{n}", "name": "no record"} for n in range(40)]
    records = [{"id": f"aaaa-{n:04}", "name": "n", "others": inner} for n in range(2, 12)]
    path = tmp_path / "directory.json"
    path.write_text(json.dumps({"source": "socrata", "domain": A, "datasets": records}), encoding="utf-8")
    options = Settings(database_url=database_url)
    await ingest(str(path), options)
    assert (await same([path], options, 700)).verification.passed


# --- errors -------------------------------------------------------------------------------------------------------


async def _failure(paths: Sequence[Path], options: Settings, **how: Any) -> SeedRegistryError:
    with pytest.raises(SeedRegistryError) as failure:
        await audited(paths, options, **how)
    return failure.value


@pytest.mark.anyio
async def test_a_broken_document_is_the_error_of_one_process(tmp_path: Path, database_url: DatabaseUrl) -> None:
    whole = saved(tmp_path / "whole.ndjson", [source(A), *(asset(f"k{number}") for number in range(20))])
    document = saved_document(tmp_path / "broken.json", [source(A), *(asset(f"k{number}") for number in range(40))])
    data = document.read_bytes()
    options = Settings(database_url=database_url)
    for broken in (data[:-200], data.replace(b'"k20"', b'"k20"]')):
        document.write_bytes(broken)
        alone = await _failure([whole, document], options)
        together = await _failure([whole, document], options, shard_bytes=300)
        assert isinstance(alone, IndexBroken)
        assert isinstance(together, IndexBroken)
        assert (str(together), together.offset) == (str(alone), alone.offset)
        assert str(alone).endswith("only a whole index can be verified")


@pytest.mark.anyio
async def test_too_many_sources_in_all_shards_together_are_no_index(tmp_path: Path, database_url: DatabaseUrl) -> None:
    path = saved(tmp_path / "index.ndjson", [asset(f"k{number}", f"{number}.example") for number in range(30)])
    options = Settings(database_url=database_url, max_sources=20)
    alone, together = await _failure([path], options), await _failure([path], options, shard_bytes=300)
    assert isinstance(together, IndexNotUnderstood)
    assert str(together) == str(alone)


class _OtherServer(LocalAuditEngine):
    """Its sessions are on another server: there the snapshot is not known."""

    async def audit(self, job: AuditJob, task: AuditTask, lost: Callable[[str], None]) -> ShardAudited:
        """Perform a step."""
        return await super().audit(replace(job, snapshot="0000000F-0000000F-1"), task, lost)


@pytest.mark.anyio
async def test_a_worker_that_cannot_see_the_snapshot_says_so_and_one_process_needs_none(
    tmp_path: Path, database_url: DatabaseUrl
) -> None:
    path = saved(tmp_path / "index.ndjson", [source(A), *(asset(f"k{number}") for number in range(30))])
    options = Settings(database_url=database_url)
    await ingest(str(path), options)
    failure = await _failure([path], options, shard_bytes=300, new_engine=_OtherServer)
    assert "verify with --processes 1, or name one host only" in str(failure)
    assert (await audit(str(path), options)).verification.passed


@pytest.mark.anyio
async def test_behind_a_pooler_one_process_does_it(tmp_path: Path, database_url: DatabaseUrl) -> None:
    path = saved(tmp_path / "index.ndjson", [source(A), *(asset(f"k{number}") for number in range(30))])
    options = Settings(database_url=database_url, pooler="transaction")
    report, engine = await audited([path], options, shard_bytes=300)
    assert not engine.performed
    assert report.assets.missing == 30


# --- processes ----------------------------------------------------------------------------------------------------

_RECORDS = 6_000
_TWO = ("--processes", 2, "--shard-bytes", "256KiB")
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """An index with repeated keys and rejects."""
    path = tmp_path / "index.ndjson"
    arguments = ["--records", str(_RECORDS), "--duplicates", "5", "--invalid", "1", "--size", "700"]
    command = [sys.executable, "-m", "seed_registry", "sample", "--format", "ndjson", *arguments, "--out", str(path)]
    subprocess.run(command, check=True)
    return path


@pytest.fixture
def spare(tmp_path: Path) -> Path:
    """Where temporary files are."""
    directory = tmp_path / "spare"
    directory.mkdir()
    return directory


@pytest.fixture
def start(home: Path, tmp_path: Path, spare: Path, database_url: DatabaseUrl) -> Iterator[Start]:
    """Start a command in a process group of its own."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: object) -> subprocess.Popen[bytes]:
        environment = {"PATH": os.environ["PATH"], "SEED_REGISTRY_HOME": str(home), "LANG": "C.UTF-8"}
        environment |= {"DATABASE_URL": database_url.reveal, "TMPDIR": str(spare)}
        process = subprocess.Popen(
            [sys.executable, "-m", "seed_registry", *map(str, arguments), "--json"],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _finished(process: subprocess.Popen[bytes]) -> Mapping[str, Any]:
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err.decode()[-2_000:]
    report: Mapping[str, Any] = json.loads(out)
    return {name: value for name, value in report.items() if name != "seconds"}


def _children(process: subprocess.Popen[bytes]) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, check=False).stdout
    return [int(pid) for pid in found.split()]


def _working(process: subprocess.Popen[bytes], spare: Path) -> list[int]:
    """The workers, once one of them has written something."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if any(spare.glob("*/*")) and len(children := _children(process)) > 1:
            return children
        time.sleep(0.02)
    pytest.fail("no worker began")


@pytest.mark.slow
def test_two_processes_and_one_that_lost_a_worker_have_the_report_of_one(
    start: Start, index: Path, spare: Path
) -> None:
    _finished(start("load", index, "--max-rejects", "10%"))
    alone = _finished(start("verify", index))
    assert _finished(start("verify", index, *_TWO)) == alone
    process = start("verify", index, *_TWO)
    children = _working(process, spare)
    environment, command = (Path(f"/proc/{children[0]}/{name}").read_bytes() for name in ("environ", "cmdline"))
    assert b"TMPDIR" in environment
    assert b"postgresql" not in command
    (directory,) = spare.glob("seed-registry-*")
    assert directory.stat().st_mode & 0o777 == 0o700
    os.kill(children[0], signal.SIGKILL)
    assert _finished(process) == alone
    assert not list(spare.iterdir())


def test_standard_input_is_read_in_its_turn(cli: Cli, index: Path, database_url: DatabaseUrl) -> None:
    data = b"".join(index.read_bytes().splitlines(keepends=True)[:200])
    reports = []
    for arguments in ((), _TWO):
        done = cli("verify", index, "-", "--json", *arguments, url=database_url, input=data)
        assert done.stderr.count(b"not_splittable") == bool(arguments)
        assert b"one_shard" not in done.stderr
        reports.append({**json.loads(done.stdout), "seconds": 0})
    assert reports[0] == reports[1]
    assert reports[0]["assets"]["read"] > 6_000


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_all_within_seconds_and_leaves_no_file(
    start: Start, index: Path, spare: Path, number: signal.Signals
) -> None:
    _finished(start("load", index, "--max-rejects", "10%"))
    process = start("verify", index, *_TWO)
    children = _working(process, spare)
    process.send_signal(number)
    process.communicate(timeout=10)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in children):
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert not list(spare.iterdir())
