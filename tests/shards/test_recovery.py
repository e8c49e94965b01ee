"""Runs by shards that are broken off, and finished by the same command with any number of processes."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from local_engine import LocalEngine, load_by_shards

from seed_registry import IndexBroken, IndexUnreadable, Settings, ingest
from seed_registry.load import inspection
from seed_registry.registry import introspection
from seed_registry.registry.tables import Tables
from seed_registry.report import Report
from seed_registry.settings import DatabaseUrl
from seed_registry.shards.tasks import Job, Result, Task

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]
_UNLOGGED = "truncate seed_registry.parked, seed_registry.shard_keys, seed_registry.shard_repeats"


class _Killed(BaseException):
    """The coordinator, or all, end here."""


class _Watched(LocalEngine):
    """Calls a function before each task, which may end the run."""

    def __init__(self, workers: int, chance: random.Random, before: Callable[[Task, int], Any]) -> None:
        super().__init__(workers, chance)
        self._before = before
        self.count = 0

    async def perform(
        self, job: Job, tasks: Sequence[Task], done: Callable[[Task, Result], None], lost: Callable[[Task, str], None]
    ) -> None:
        """Perform tasks one by one."""
        for task in sorted(tasks, key=lambda _: self._chance.random()):
            if (awaitable := self._before(task, self.count)) is not None:
                await awaitable
            self.count += 1
            await super().perform(job, [task], done, lost)


def _lines(count: int = 300) -> list[dict[str, Any]]:
    """Every fourth key occurs again, in other shards and with other values."""
    chance = random.Random(1)
    keys = [number if number % 4 else chance.randrange(0, 40, 4) for number in range(count)]
    return [
        {"type": "asset", "asset_key": f"k{key:05}", "source_key": f"s{key % 3}", "name": f"n{number:05}"}
        for number, key in enumerate(keys)
    ]


def _write(path: Path, lines: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def _counts(report: Report) -> dict[str, int]:
    return {name: getattr(report.assets, name) for name in ("read", "inserted", "updated", "unchanged", "duplicate")}


def _expected(lines: Sequence[dict[str, Any]]) -> dict[str, int]:
    keys = len({line["asset_key"] for line in lines})
    return {"read": len(lines), "inserted": keys, "updated": 0, "unchanged": 0, "duplicate": len(lines) - keys}


async def _names(connection: asyncpg.Connection[Any]) -> dict[str, str]:
    return dict(await connection.fetch("select asset_key, name from registry.assets"))


async def _break_off(path: Path, settings: Settings, step: str, nth: int) -> bool:
    """End a run before the nth task of a step; False if it has fewer."""
    met = 0

    def before(task: Task, _: int) -> None:
        nonlocal met
        met += task.step == step
        if met > nth:
            raise _Killed

    try:
        await load_by_shards(
            path, settings, shard_bytes=2_500, new_engine=lambda workers, chance: _Watched(workers, chance, before)
        )
    except (_Killed, BaseExceptionGroup):
        return True
    return False


@pytest.mark.parametrize(("crash", "processes"), [(False, 1), (True, 3)])
@pytest.mark.parametrize(
    ("step", "nth"),
    [
        ("load", 4),
        ("settle", 0),
        *(pytest.param(step, nth, marks=pytest.mark.slow) for step, nth in [("scan", 3), ("sieve", 0), ("load", 0)]),
    ],
)
@pytest.mark.sampled(5)
async def test_a_run_that_ended_at_any_step_is_finished_exactly(
    connection: asyncpg.Connection[Any],
    database_url: DatabaseUrl,
    tmp_path: Path,
    step: str,
    nth: int,
    crash: bool,
    processes: int,
) -> None:
    lines = _lines()
    path = _write(tmp_path / "index.ndjson", lines)
    settings = Settings(database_url=database_url, batch_bytes=1 << 10)  # repeated keys are fetched a few at a time
    assert await _break_off(path, settings, step, nth)
    if crash:  # a crash of the server empties unlogged tables
        await connection.execute(_UNLOGGED)
    if processes == 1:
        report = await ingest(str(path), settings)
        assert report.shards  # one process finishes the shards of many
    else:
        report = await load_by_shards(path, settings, shard_bytes=900, workers=processes)
    assert _counts(report) == _expected(lines)
    assert await _names(connection) == {line["asset_key"]: line["name"] for line in lines}
    assert not await connection.fetchval("select count(*) from seed_registry.shards")


async def test_shards_take_up_what_one_process_began(
    connection: asyncpg.Connection[Any], database_url: DatabaseUrl, tmp_path: Path
) -> None:
    lines = _lines()
    path = _write(tmp_path / "index.ndjson", lines)
    settings = Settings(database_url=database_url, concurrency=2, batch_size=20)
    await ingest(str(path), settings)
    # As if it had ended before its end.
    await connection.execute(
        "update seed_registry.runs set outcome = 'failed'; delete from registry.assets where id > 9"
    )
    report = await load_by_shards(path, settings, shard_bytes=2_500)
    assert report.assets.inserted + report.assets.updated + report.assets.unchanged == len(await _names(connection))
    assert await _names(connection) == {line["asset_key"]: line["name"] for line in lines}


@pytest.mark.parametrize("keeps_time", [True, False])
async def test_an_index_that_is_changed_between_scan_and_load_is_no_success(
    connection: asyncpg.Connection[Any], database_url: DatabaseUrl, tmp_path: Path, keeps_time: bool
) -> None:
    lines = _lines()
    path, settings = _write(tmp_path / "index.ndjson", lines), Settings(database_url=database_url)
    changed = [{**line, "name": line["name"].replace("n", "m")} for line in lines]
    changed[5]["asset_key"] = changed[200]["asset_key"]

    def change(task: Task, _: int) -> None:
        if task.step == "load" and path.read_bytes()[-9:-8] != b"m" and b'"m00001"' not in path.read_bytes():
            moment = path.stat()
            _write(path, changed)
            if keeps_time:
                os.utime(path, ns=(moment.st_atime_ns, moment.st_mtime_ns))

    with pytest.raises(IndexUnreadable, match="was changed while it was loaded"):
        await load_by_shards(
            path, settings, shard_bytes=2_500, new_engine=lambda workers, chance: _Watched(workers, chance, change)
        )
    await load_by_shards(path, settings, shard_bytes=2_500)
    assert await _names(connection) == {line["asset_key"]: line["name"] for line in changed}


async def test_a_worker_whose_first_session_is_lost_opens_another(
    database_url: DatabaseUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, calls = _lines(), 0

    async def introspect(connection: asyncpg.Connection[Any], *arguments: Any) -> Tables:
        nonlocal calls
        calls += 1
        if calls == 2:  # the first one is the coordinator's
            await connection.execute("select pg_terminate_backend(pg_backend_pid())")
        return await introspection.introspect(connection, *arguments)

    monkeypatch.setattr(inspection, "introspect", introspect)
    path = _write(tmp_path / "index.ndjson", lines)
    report = await load_by_shards(path, Settings(database_url=database_url), shard_bytes=2_500)
    assert calls > 2
    assert _counts(report) == _expected(lines)


async def test_what_comes_before_the_end_of_a_truncated_document_is_loaded(
    connection: asyncpg.Connection[Any], database_url: DatabaseUrl, tmp_path: Path
) -> None:
    path = tmp_path / "index.json"
    records = [
        b'{"resource": {"id": "aaaa-%04d", "name": "n"}, "metadata": {"domain": "a.example"}}' % n for n in range(200)
    ]
    data = b'{"results": [' + b",".join(records)
    path.write_bytes(data[:-30])
    settings = Settings(database_url=database_url)
    for _ in range(2):
        with pytest.raises(IndexBroken) as broken:
            await load_by_shards(path, settings, shard_bytes=3_000)
        assert broken.value.offset == len(data) - 30
        assert len(await _names(connection)) == 199
    path.write_bytes(data + b"]}")
    report = await load_by_shards(path, settings, shard_bytes=3_000)
    assert report.assets.inserted == 1
