"""A dry run by shards reports what a dry run by one process does, and writes nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import force_setattr, replace

from partitions import create_tables
from seed_registry import Settings, TooManyRejects, VerificationFailed, ingest
from seed_registry.errors import IndexesFailed, NotRetired
from seed_registry.index.inputs import resolve
from seed_registry.index.open import read_index
from seed_registry.key_hashes import KeyPart
from seed_registry.load.context import RunContext
from seed_registry.report import Report, Silent
from seed_registry.settings import DatabaseUrl, MaxRejects, MaxRetire
from seed_registry.shards.dry_run import DryRun
from seed_registry.shards.dry_run_worker import perform_here
from seed_registry.shards.tasks import Job, Result, Task

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]


class LocalEngine:
    """Performs steps in this process, in an order that the test chooses; some of them twice, as after a loss."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def perform(
        self, job: Job, tasks: Sequence[Task], done: Callable[[Task, Result], None], lost: Callable[[Task, str], None]
    ) -> None:
        """Perform tasks, see `Engine`."""
        tasks = list(tasks)
        self._chance.shuffle(tasks)
        for task in tasks:
            if self._chance.random() < 0.3:
                await perform_here(job, task)  # type: ignore[arg-type]  # those of a dry run
                lost(task, "the test")
            result = await perform_here(job, task)  # type: ignore[arg-type]
            if result.failure is not None:
                raise result.failure.error()
            done(task, result)

    def end_silent(self, workers: Sequence[str]) -> None:
        """End nothing."""


@pytest.fixture(scope="module")
def url(workshop_url: DatabaseUrl) -> DatabaseUrl:
    """A database with the registry's tables, for the examples of a module, one after the other."""

    async def prepare() -> None:
        connection = await asyncpg.connect(workshop_url.reveal)
        await create_tables(connection)
        await connection.close()

    anyio.run(prepare)
    return workshop_url


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for temporary files, of which none is left at the end."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield place
    assert list(place.iterdir()) == []


async def _outcome(run: Any) -> Report:
    try:
        report: Report = await run
    except (VerificationFailed, TooManyRejects, NotRetired) as exc:
        if exc.report is None:
            raise
        return exc.report
    return report


def _settings(url: DatabaseUrl | None, **options: Any) -> Settings:
    return Settings(database_url=url, **{"max_rejects": MaxRejects(100, None)} | options)


async def _by_shards(paths: Sequence[Path], settings_: Settings, shard_bytes: int, seed: int = 0) -> Report:
    settings_ = replace(settings_, dry_run=True, processes=2)
    force_setattr(settings_, "shard_bytes", shard_bytes)
    context = RunContext(resolve(list(map(str, paths))), settings_, Silent(), read_index)
    return await _outcome(DryRun(context, lambda _: LocalEngine(random.Random(seed))).execute())


async def _by_one(paths: Sequence[Path], settings_: Settings) -> Report:
    return await _outcome(ingest(list(map(str, paths)), replace(settings_, dry_run=True)))


def _facts(report: Report) -> Any:
    """All of a report but its times, and what depends on how batches were cut."""
    report = replace(report, run_id="", seconds=0, records_per_second=0, batches=0, retries=0)
    assert report.plan is not None
    facts = msgspec.to_builtins(report)
    facts["plan"].pop("estimate")
    return facts


def _write(directory: Path, indexes: Sequence[Sequence[Any]]) -> list[Path]:
    directory.mkdir(exist_ok=True, parents=True)
    paths = []
    for number, records in enumerate(indexes):
        paths.append(directory / f"{number}.ndjson")
        paths[-1].write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return paths


_PORTALS = ["a.example", "b.example", "c.example"]
_source = st.fixed_dictionaries(
    {
        "type": st.just("source"),
        "source_key": st.sampled_from(_PORTALS[:2]),
        "name": st.sampled_from([None, "A name", "Another", 7]),
    }
)
_asset = st.fixed_dictionaries(
    {
        "type": st.just("asset"),
        "asset_key": st.integers(0, 11).map(lambda number: f"aaaa-{number:04}"),
        "source_key": st.sampled_from(_PORTALS),
        "name": st.sampled_from(["one", "two", 3]),
        "updatedAt": st.sampled_from([None, "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z", "yesterday"]),
    }
)
_bad = st.sampled_from([{"type": "asset", "name": "no key"}, {"type": "other"}, "no object", None])
_indexes = st.lists(
    st.lists(st.one_of(_asset, _asset, _asset, _source, _bad), min_size=12, max_size=30), min_size=1, max_size=2
)
_FIRST = {"type": "asset", "asset_key": "aaaa-9999", "source_key": "a.example", "name": "x", "updatedAt": None}


async def _empty(url: DatabaseUrl) -> None:
    connection = await asyncpg.connect(url.reveal)
    await connection.execute("truncate registry.sources, registry.assets cascade")
    await connection.execute("drop schema if exists seed_registry cascade")
    await connection.close()


async def _written(url: DatabaseUrl) -> Any:
    """All rows with the transactions that wrote them, and how many runs the ledger has."""
    connection = await asyncpg.connect(url.reveal)
    rows = await connection.fetch("select xmin::text, asset_key from registry.assets order by 2")
    rows += await connection.fetch("select xmin::text, source_key from registry.sources order by 2")
    has_ledger = await connection.fetchval("select to_regclass('seed_registry.runs')")
    runs = await connection.fetchval("select count(*) from seed_registry.runs") if has_ledger else 0
    await connection.close()
    return [tuple(row) for row in rows], runs


@settings(deadline=None, max_examples=3, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(loaded=_indexes, indexes=_indexes, seed=st.integers(0, 1 << 30))
def test_the_report_is_that_of_one_process_and_of_the_load_that_follows(
    url: DatabaseUrl, tmp_path: Path, loaded: list[list[Any]], indexes: list[list[Any]], seed: int
) -> None:
    async def check() -> None:
        chance = random.Random(seed)
        part = chance.choice([KeyPart(), KeyPart(1, 2), KeyPart(3, 3)])
        newer = chance.random() < 0.5
        most = chance.choice([MaxRetire(), MaxRetire(assets=2), MaxRetire(percent=100)])
        retire = {"retire": chance.random() < 0.6, "max_retire": most, "retire_despite_rejects": chance.random() < 0.7}
        options = _settings(url, derive_sources=chance.random() < 0.3, keys=part, only_newer=newer, **retire)
        await _empty(url)
        place = tmp_path / str(seed)
        if chance.random() < 0.8:
            await _outcome(
                ingest(list(map(str, _write(place / "loaded", [[_FIRST, *one] for one in loaded]))), options)
            )
        paths = _write(place / "new", [[_FIRST, *one] for one in indexes])
        before = await _written(url)
        found = await _by_shards(paths, options, chance.randrange(100, 600), seed)
        assert await _written(url) == before
        assert _facts(found) == _facts(await _by_one(paths, options))
        report = await _outcome(ingest(list(map(str, paths)), options))
        assert found.assets == report.assets
        assert [one.assets for one in found.per_index] == [one.assets for one in report.per_index]

    anyio.run(check)


def _document(path: Path, count: int, declared: int, *, header_first: bool = True) -> Path:
    """A document, whose records get their portal from its header, before or behind them."""
    records = [{"id": f"aaaa-{number % 61:04}", "title": f"Number {number}"} for number in range(count)]
    header: dict[str, Any] = {"source": "socrata", "domain": "a.example", "totalCount": declared}
    parts = [header, {"datasets": records}] if header_first else [{"datasets": records}, header]
    path.write_text(json.dumps(parts[0] | parts[1]), encoding="utf-8")
    return path


@pytest.mark.parametrize("header_first", [True, False])
async def test_documents_and_what_they_declare(url: DatabaseUrl, tmp_path: Path, *, header_first: bool) -> None:
    await _empty(url)
    paths = [_document(tmp_path / f"{count}.json", count, 90, header_first=header_first) for count in (40, 90)]
    await _outcome(ingest(str(paths[0]), _settings(url, complete=False, keep_going=True)))
    found = await _by_shards(paths, _settings(url), 700)
    assert found.plan is not None
    assert [one.read for one in found.plan.misdeclared] == [40]
    assert _facts(found) == _facts(await _by_one(paths, _settings(url)))


async def test_of_a_broken_index_that_others_follow_the_rest_is_planned(url: DatabaseUrl, tmp_path: Path) -> None:
    await _empty(url)
    paths = _write(tmp_path, [[_FIRST | {"asset_key": f"aaaa-{number}"} for number in range(20)]] * 2)
    broken = _document(tmp_path / "broken.json", 100, 100)
    broken.write_bytes(broken.read_bytes()[:-900])
    order = [paths[0], broken, paths[1]]
    reports = []
    for run in (
        _by_shards(order, _settings(url, keep_going=True), 700),
        _by_one(order, _settings(url, keep_going=True)),
    ):
        with pytest.raises(IndexesFailed) as failure:
            await run
        reports.append(failure.value.report)
    assert _facts(reports[0]) == _facts(reports[1])


async def test_it_shows_what_would_be_retired(url: DatabaseUrl, tmp_path: Path) -> None:
    await _empty(url)
    listed = [{"type": "source", "source_key": "a.example"}, {"type": "source", "source_key": "b.example"}]
    held = [_FIRST | {"asset_key": f"k{number}"} for number in range(40)]
    await _outcome(ingest(list(map(str, _write(tmp_path / "held", [[*listed, *held]]))), _settings(url)))
    missing, rejected = held[35] | {"source_key": "c.example"}, held[36] | {"source_key": "b.example\0"}
    records = [listed[0], *held[:35], missing, rejected, *held[:20]]
    options = _settings(url, retire=True, max_rejects=MaxRejects(9, None))
    for unreadable in ([], [{"type": "asset"}]):
        paths = _write(tmp_path / "new", [[*records, *unreadable]])
        found, expected = await _by_shards(paths, options, 500), await _by_one(paths, options)
        assert (found.assets.missing_source, found.assets.rejected) == (1, 1 + len(unreadable))
        assert _facts(found) == _facts(expected)
        assert found.retirement is not None
        assert found.retirement.unlisted == (0 if unreadable else 3)


@pytest.mark.parametrize("provider", ["socrata", None])
async def test_without_a_database_all_is_new(tmp_path: Path, provider: str | None) -> None:
    records = [_FIRST | {"asset_key": f"aaaa-{number % 37:04}"} for number in range(60)]
    paths = _write(tmp_path, [records, records[::-1]])
    options = _settings(None, provider=provider)
    found = await _by_shards(paths, options, 500)
    assert found.assets.inserted == 37
    assert _facts(found) == _facts(await _by_one(paths, options))


@pytest.mark.slow
def test_worker_processes_may_be_killed(
    cli_start: Callable[..., subprocess.Popen[bytes]], temporary: Path, tmp_path: Path
) -> None:
    """What they had done is done again, and nothing of theirs is left."""
    records = [_FIRST | {"asset_key": f"aaaa-{number % 1_500:04}", "note": "x" * 800} for number in range(2_000)]
    [path] = _write(tmp_path, [records])
    expected, _ = cli_start("plan", path).communicate(timeout=100)
    run = cli_start("plan", path, "--processes", "2", "--shard-bytes", "64KiB")
    killed: set[int] = set()
    while run.poll() is None and len(killed) < 2:
        children = subprocess.run(["pgrep", "-P", str(run.pid)], capture_output=True, check=False).stdout.split()
        for child in set(map(int, children)) - killed:
            if list(temporary.glob("*/keys-*")):
                os.kill(child, signal.SIGKILL)
                killed.add(child)
                break
        time.sleep(0.02)
    out, err = run.communicate(timeout=100)
    assert run.returncode == 0, err.decode()[-2_000:]
    assert killed
    assert b"shard_retried" in err
    reports = [json.loads(one) for one in (expected, out)]
    assert reports[0]["assets"] == reports[1]["assets"]
    assert reports[0]["plan"]["assets"] == reports[1]["plan"]["assets"]


@pytest.fixture
def cli_start(home: Path, url: DatabaseUrl, temporary: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Start a command."""

    def start(*arguments: object) -> subprocess.Popen[bytes]:
        environment = {"PATH": os.environ["PATH"], "SEED_REGISTRY_HOME": str(home), "LANG": "C.UTF-8"}
        environment |= {"DATABASE_URL": url.reveal, "TMPDIR": str(temporary)}
        return subprocess.Popen(
            [sys.executable, "-m", "seed_registry", *map(str, arguments), "--json", "--log-format", "json"],
            env=environment, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return start
