"""Whose run is taken up, what that run told and counted before, and what is looked up and bounded on the way."""
# small files, and nothing else waits

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from test_retry import Told, ask, killed

from conftest import Cli
from seed_registry.api import ingest
from seed_registry.checkpoint import FileState
from seed_registry.errors import DatabaseRefused, IndexBroken, IndexesFailed, TooManyRejects, VerificationFailed
from seed_registry.index.inputs import IndexRef
from seed_registry.index.local_file import is_unchanged
from seed_registry.load.producer import Producer
from seed_registry.postgres.transactions import BatchTransaction
from seed_registry.records import RawRecord
from seed_registry.report import Report
from seed_registry.settings import DatabaseUrl, MaxRejects, Settings
from seed_registry.synthetic.index import Workload, generate

pytestmark = pytest.mark.anyio

STOP = """
create function registry.stop() returns trigger language plpgsql as
$$ begin if new.asset_key ~ '{pattern}' then raise 'stop' using errcode = 'XX001'; end if; return new; end $$;
create trigger stop before insert on registry.assets for each row execute function registry.stop();
"""
HOLDER = "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and mode = 'ExclusiveLock' limit 1"


def lines(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def source(key: str = "a.example", **fields: Any) -> dict[str, Any]:
    return {"type": "source", "source_key": key, **fields}


def asset(key: str, of: str = "a.example", **fields: Any) -> dict[str, Any]:
    return {"type": "asset", "asset_key": key, "source_key": of, **fields}


def directory(path: Path, keys: range, *, total: int | None = None, whole: bool = True) -> str:
    """A document of the dialect `directory`, whose header comes first."""
    header = {
        "source": "socrata",
        "domain": f"{path.stem}.example",
        "totalCount": len(keys) if total is None else total,
    }
    datasets = [{"id": f"{path.stem}-{number:05}", "name": "n" * 200} for number in keys]
    text = json.dumps(header | {"datasets": datasets})
    path.write_text(text if whole else text[: len(text) // 2])
    return str(path)


def told_rejects(path: Path) -> list[str]:
    return [json.loads(line)["record"] for line in path.read_bytes().splitlines()]


async def load(url: DatabaseUrl, *indexes: str, told: Told | None = None, **settings: Any) -> Report:
    options: dict[str, Any] = {"batch_size": 50, "max_rejects": MaxRejects(percent=100)} | settings
    return await ingest(
        indexes,
        Settings(database_url=url, **options),
        told,
    )


@pytest.fixture
def stdin_load(home: Path, database_url: DatabaseUrl) -> Iterator[subprocess.Popen[bytes]]:
    """A load of standard input, which waits for it."""
    environment = {"PATH": os.environ["PATH"], "SEED_REGISTRY_HOME": str(home), "DATABASE_URL": database_url.reveal}
    command = [sys.executable, "-m", "seed_registry", "load", "-", "--json"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, **pipes) as process:  # type: ignore[call-overload]
        yield process
        process.kill()


# Whose run it is


def test_two_loads_of_standard_input_at_once_are_two_runs_with_a_rejects_file_each(
    database_url: DatabaseUrl, cli: Cli, stdin_load: subprocess.Popen[bytes]
) -> None:
    assert stdin_load.stdin is not None
    stdin_load.stdin.write(lines(source(), *(asset(f"one-{number}") for number in range(2_000)), {"one": 1}))
    stdin_load.stdin.flush()
    deadline = time.monotonic() + 20
    while ask(database_url, "select count(*) from seed_registry.runs") == "0":
        assert time.monotonic() < deadline
    second = cli(
        "load",
        "-",
        "--json",
        url=database_url,
        input=lines(source(), *(asset(f"two-{number}") for number in range(20)), {"two": 2}),
    )
    assert second.returncode == 0, second.stderr
    stdout, stderr = stdin_load.communicate(lines(asset("three")), timeout=60)
    assert stdin_load.returncode == 0, stderr
    assert b"run_resumed" not in second.stderr
    reports = [json.loads(stdout), json.loads(second.stdout)]
    assert [told_rejects(Path(report["rejects_file"])) for report in reports] == [['{"one": 1}'], ['{"two": 2}']]
    assert ask(database_url, "select string_agg(outcome, ' ') from seed_registry.runs") == "done done"


@pytest.mark.slow
async def test_a_run_whose_own_session_was_lost_is_still_its_own(
    database_url: DatabaseUrl, tmp_path: Path, cli: Cli
) -> None:
    path = tmp_path / "index.ndjson"
    path.write_bytes(b"".join(generate(Workload(records=3_000, format="ndjson"))))
    tried: list[subprocess.CompletedProcess[bytes]] = []

    def second() -> None:
        assert ask(database_url, HOLDER) == "True"
        tried.append(cli("load", str(path), url=database_url))

    report = await load(database_url, str(path), told=Told(5, second))
    (done,) = tried
    assert done.returncode == 1
    assert f"is being loaded into this database already by run {report.run_id}" in done.stderr.decode()
    assert (report.assets.inserted, report.assets.unchanged) == (3_000, 0)


async def test_what_was_too_large_before_is_read_again_by_a_load_that_takes_more(
    database_url: DatabaseUrl, plain_connection: asyncpg.Connection[Any], tmp_path: Path
) -> None:
    path = tmp_path / "index.ndjson"
    path.write_bytes(
        lines(source(), *(asset(f"k{n:04}", description="d" * (3_000 if n % 100 == 0 else 10)) for n in range(1_000)))
    )
    await plain_connection.execute(STOP.format(pattern="k0[89]"))
    with pytest.raises(DatabaseRefused):
        await load(database_url, str(path), max_record_bytes=2_000, concurrency=1)
    await plain_connection.execute("drop trigger stop on registry.assets")
    report = await load(database_url, str(path), max_record_bytes=16 << 20)
    assert (report.assets.rejected, report.assets.resumed) == (0, 0)
    assert ask(database_url, "select count(*) from registry.assets") == "1000"


def test_urls_that_differ_in_their_query_are_different_indexes_and_no_password_is_in_their_names() -> None:
    names = [IndexRef.of(f"https://u:canary{n}@h.example/views?page={n}").ledger_name for n in range(2)]
    assert len(set(names)) == 2
    assert not any("canary" in name for name in names)
    one, two = IndexRef.of("https://u:one@h.example/a?b"), IndexRef.of("https://u:two@h.example/a?b")
    assert one.ledger_name == two.ledger_name
    assert IndexRef.of("https://h.example/a.json").ledger_name == "https://h.example/a.json"


# What it told and counted before


async def test_a_reject_of_an_index_that_is_another_one_now_is_not_taken_for_the_old_one(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    path, rejects = tmp_path / "index.json", tmp_path / "rejects"
    beginning = '{"assets":[{"x":"REJECT-%s"},{"asset_key":"k1","source_key":"a.example"}'
    path.write_text(beginning % "ONE")
    with pytest.raises(IndexBroken):
        await load(database_url, str(path), rejects=str(rejects))
    assert told_rejects(rejects) == ['{"x":"REJECT-ONE"}']
    path.write_text(beginning % "TWO" + '],"sources":[{"source_key":"a.example"}]}')
    report = await load(database_url, str(path), rejects=str(rejects))
    assert report.assets.rejected == 1
    assert told_rejects(rejects) == ['{"x":"REJECT-TWO"}']


async def test_rejects_that_a_finished_run_left_are_put_aside_before_the_next_one_may_be_killed(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    path, rejects = tmp_path / "index.ndjson", tmp_path / "rejects"
    path.write_bytes(lines(source(), asset("j"), {"type": "asset", "x": 1}))
    await load(database_url, str(path), rejects=str(rejects))
    path.write_bytes(lines(source(), asset("k")))
    await load(database_url, str(path), rejects=str(rejects))
    assert not rejects.exists()
    assert len(told_rejects(tmp_path / "rejects.old")) == 1


async def test_rejects_of_a_run_before_it_was_killed_count_for_the_limit(
    database_url: DatabaseUrl, plain_connection: asyncpg.Connection[Any], tmp_path: Path
) -> None:
    path = tmp_path / "index.ndjson"
    bad = {"type": "asset", "x": 1}
    good = [asset(f"k{n:04}") | {"description": "x" * 500} for n in range(3_000)]  # a chunk has few bad ones
    path.write_bytes(lines(source(), *(one if n % 50 else bad for n, one in enumerate(good))))
    await plain_connection.execute(STOP.format(pattern="k05"))
    options: dict[str, Any] = {"max_rejects": MaxRejects.parse("40"), "rejects": str(tmp_path / "rejects")}
    with pytest.raises(DatabaseRefused):
        await load(database_url, str(path), concurrency=1, **options)
    assert 5 < len(told_rejects(tmp_path / "rejects")) < 35
    await plain_connection.execute("drop trigger stop on registry.assets")
    told = Told()
    with pytest.raises(TooManyRejects, match=r"^41 of "):
        await load(database_url, str(path), told=told, concurrency=1, **options)
    assert told.of("run_resumed")


async def test_relative_rejects_are_the_same_file_wherever_the_command_is_run_again(
    database_url: DatabaseUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "index.ndjson"
    path.write_bytes(lines(source(), asset("j"), {"type": "asset", "x": 1}))
    report = await load(database_url, str(path), rejects="rejects")
    assert report.rejects_file == str(tmp_path / "rejects")


# What a resumed run verifies


async def test_a_wrong_count_in_a_header_fails_a_run_that_is_resumed_behind_that_index(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    first = directory(tmp_path / "first.json", range(9), total=100)
    second = directory(tmp_path / "second.json", range(9), whole=False)
    with pytest.raises(IndexBroken):
        await load(database_url, first, second)
    directory(tmp_path / "second.json", range(9))
    told = Told()
    with pytest.raises(VerificationFailed, match="declared_totalCount: expected 100, found 9"):
        await load(database_url, first, second, told=told)
    assert told.tally.assets.resumed == 9


async def test_rows_of_an_index_that_was_loaded_whole_are_loaded_again_if_they_vanished(
    database_url: DatabaseUrl, plain_connection: asyncpg.Connection[Any], tmp_path: Path
) -> None:
    first = directory(tmp_path / "first.json", range(2_000))
    second = directory(tmp_path / "second.json", range(9), whole=False)
    with pytest.raises(IndexBroken):
        await load(database_url, first, second)
    directory(tmp_path / "second.json", range(9))
    await plain_connection.execute("delete from registry.assets where asset_key like 'first-01%'")
    report = await load(database_url, first, second)
    assert (report.assets.inserted + report.assets.unchanged, report.assets.resumed) == (1_000 + 9, 1_000)
    assert report.assets.inserted >= 1_000
    assert ask(database_url, "select count(*) from registry.assets") == "2009"


async def test_a_verification_and_an_index_that_failed_are_both_told(database_url: DatabaseUrl, tmp_path: Path) -> None:
    first = directory(tmp_path / "first.json", range(9), total=100)
    second = directory(tmp_path / "second.json", range(9), whole=False)
    with pytest.raises(VerificationFailed) as failed:
        await load(database_url, first, second, keep_going=True)
    assert "1 of 2 indexes failed" in str(failed.value)
    with pytest.raises(IndexesFailed):
        await load(database_url, directory(tmp_path / "first.json", range(9)), second, keep_going=True)


# What is committed, parked, looked up


@pytest.mark.slow
async def test_an_asset_whose_source_is_missing_costs_the_others_no_resuming(
    database_url: DatabaseUrl, home: Path, tmp_path: Path
) -> None:
    path = tmp_path / "index.ndjson"
    data = b"".join(generate(Workload(records=3_000, size=1_200, format="ndjson")))
    path.write_bytes(lines(source("first.example"), asset("zzzz-zzzz", "unlisted.example")) + data)
    committed = killed(database_url, home, str(path), 9)  # type: ignore[arg-type]
    report = await load(database_url, str(path))
    assert (report.assets.resumed, report.assets.unchanged) == (committed, 0)
    assert (report.assets.inserted, report.assets.missing_source) == (3_000 - committed, 1)


@pytest.mark.parametrize("of", ["the run", "sources", "half a batch"])
async def test_the_answer_to_any_commit_may_be_lost(
    database_url: DatabaseUrl,
    plain_connection: asyncpg.Connection[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    of: str,
) -> None:
    path, commit, lost = tmp_path / "index.ndjson", BatchTransaction.commit, list[str]()
    assets = [asset(f"k{number:04}") for number in range(300)]
    path.write_bytes(lines(source("a.example"), source("b.example"), *assets))
    if of == "half a batch":
        check = "check (asset_key <> 'k0007')"
        await plain_connection.execute(f"alter table registry.assets add constraint innocent {check}")
    table = {"the run": "seed_registry.runs", "sources": "registry.sources", "half a batch": "registry.assets"}[of]

    async def unanswered(self: Any, *last: str) -> None:
        is_due = not lost and await self._connection.fetchval(f"select count(*) > 0 from {table}")
        await commit(self, *last)
        if is_due:
            lost.append(table)
            self._connection.terminate()
            raise ConnectionResetError("the answer is lost")

    monkeypatch.setattr(BatchTransaction, "commit", unanswered)
    report = await load(database_url, str(path), concurrency=1, rejects=str(tmp_path / "rejects"))
    refused = of == "half a batch"
    assert lost == [table]
    assert report.retries == 1
    assert (report.sources.inserted, report.sources.unchanged) == (2, 0)
    assert (report.assets.inserted, report.assets.unchanged, report.assets.rejected) == (300 - refused, 0, refused)
    assert ask(database_url, "select count(*) from seed_registry.runs") == "1"


async def test_a_source_that_is_deleted_meanwhile_costs_its_assets_nothing(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    path, rejects = tmp_path / "index.ndjson", tmp_path / "rejects"
    records = [asset(f"k{number:04}", "a.example" if number < 500 else "b.example") for number in range(1_000)]
    path.write_bytes(lines(source("a.example"), source("b.example"), *records))
    delete = "delete from registry.sources where source_key = 'b.example' returning 1"
    gone = Told(1, lambda: ask(database_url, f"with gone as ({delete}) select count(*) from gone"))
    with pytest.raises(DatabaseRefused, match="its source was deleted meanwhile: load again"):
        await load(database_url, str(path), told=gone, concurrency=1, rejects=str(rejects))
    assert not rejects.exists()
    report = await load(database_url, str(path), rejects=str(rejects))
    assert report.assets.rejected == 0
    assert ask(database_url, "select count(*) from registry.assets") == "1000"


async def test_a_source_cache_does_not_outlive_a_verification_that_failed(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    cache = tmp_path / "cache.json"
    await load(database_url, directory(tmp_path / "first.json", range(9)), source_cache=str(cache))
    assert cache.exists()
    with pytest.raises(VerificationFailed):
        await load(database_url, directory(tmp_path / "first.json", range(9), total=8), source_cache=str(cache))
    assert not cache.exists()


@pytest.mark.slow
async def test_who_holds_a_lock_at_the_beginning_is_named_and_waited_for(
    database_url: DatabaseUrl, plain_connection: asyncpg.Connection[Any], tmp_path: Path
) -> None:
    path = tmp_path / "index.ndjson"
    path.write_bytes(lines(source(), asset("k")))
    pid = plain_connection.get_server_pid()
    told = Told()
    async with plain_connection.transaction():
        await plain_connection.execute("lock table registry.assets in access exclusive mode")
        with pytest.raises(DatabaseRefused, match=rf"a lock was not released in time; pid {pid} "):
            await load(database_url, str(path), told=told, io_timeout_seconds=1, retry_for_seconds=2)
    assert told.of("retrying")
    assert (await load(database_url, str(path), io_timeout_seconds=1)).assets.inserted == 1


WITHOUT_SHARDS = """
drop table seed_registry.shards, seed_registry.shard_rejects, seed_registry.shard_keys, seed_registry.shard_repeats,
  seed_registry.shard_listed, seed_registry.parked;
alter table seed_registry.runs drop column seen_at;
alter table seed_registry.checkpoints drop column shard, drop column attempt,
  add constraint checkpoints_pkey primary key (run_id, index, lanes, lane);
"""
WITHOUT_COUNTS = f"""
{WITHOUT_SHARDS}
alter table seed_registry.checkpoints drop column batch, drop column inserted, drop column updated,
  drop column unchanged, drop column duplicate, drop column resumed, add column whole jsonb
"""


@pytest.mark.parametrize("earlier", [WITHOUT_SHARDS, WITHOUT_COUNTS])
async def test_a_ledger_of_an_earlier_version_is_brought_up_to_date_by_its_owner_and_left_alone_by_others(
    database_url: DatabaseUrl, plain_connection: asyncpg.Connection[Any], tmp_path: Path, earlier: str
) -> None:
    path, role = directory(tmp_path / "first.json", range(9)), f"limited_{os.urandom(4).hex()}"
    limited = DatabaseUrl(re.sub(r"//[^/]*@", f"//{role}@", database_url.reveal))
    await load(database_url, path)
    await plain_connection.execute(earlier)
    await plain_connection.execute(
        f"create role {role} login; grant usage on schema registry, seed_registry to {role}; "
        f"grant all on all tables in schema registry, seed_registry to {role}"
    )
    try:
        told = Told()
        assert (await load(limited, path, told=told)).assets.unchanged == 9
        assert "earlier version" in told.of("no_ledger")[0]["note"]
        await load(database_url, path)
        assert (await load(limited, path, told=told)).assets.unchanged == 9
        assert len(told.of("no_ledger")) == 1
    finally:
        await plain_connection.execute(f"drop owned by {role}; drop role {role}")
    assert ask(database_url, "select count(*) from seed_registry.runs") == "3"


# Bounds


async def test_large_sources_are_merged_a_batch_of_bytes_at_a_time(database_url: DatabaseUrl, tmp_path: Path) -> None:
    path = tmp_path / "index.ndjson"
    path.write_bytes(lines(*(source(f"s{number}.example", text="x" * 200_000) for number in range(40))))
    told = Told()
    await load(database_url, str(path), told=told, batch_bytes=1 << 20)
    merged = [fields["records"] for fields in told.of("sources_merged")]
    assert sum(merged) == 40
    assert max(merged) <= 8  # five of a mebibyte, and what the rest of a chunk brings


def test_parked_records_are_decoded_a_batch_of_bytes_at_a_time() -> None:
    records = [RawRecord(b"x" * 400, 1, number, "asset") for number in range(10)]
    producer: Any = SimpleNamespace(_settings=Settings(batch_size=3, batch_bytes=1 << 10))
    assert [len(group) for group in Producer._groups(producer, iter(records))] == [3, 3, 3, 1]
    producer = SimpleNamespace(_settings=Settings(batch_size=100, batch_bytes=1 << 10))
    assert [len(group) for group in Producer._groups(producer, iter(records))] == [3, 3, 3, 1]


async def test_a_pipe_where_a_file_was_is_another_index_and_nobody_waits_for_it(tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    os.mkfifo(path)
    assert not await asyncio.wait_for(is_unchanged(IndexRef.of(path), FileState(0, 0, 0, b"")), 10)


@pytest.mark.parametrize("password", ["a@SECRET#c", "a@SECRET?c", "a@SECRET/c"])
def test_no_part_of_a_password_that_should_have_been_escaped_is_shown(password: str) -> None:
    assert "SECRET" not in str(DatabaseUrl(f"postgresql://u:{password}@127.0.0.1:1/db"))
