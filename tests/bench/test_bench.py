"""The bench: what it measures is real and leaves nothing behind, and what it says about two benches is sound."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec
import pytest
from msgspec.structs import replace

from conftest import make_asset
from seed_registry.bench import child
from seed_registry.bench.child import Watch, percentile
from seed_registry.bench.environment import find_server_cpu
from seed_registry.bench.grid import Grid, parse_changed, parse_numbers
from seed_registry.bench.index_file import BenchIndex
from seed_registry.bench.labels import flags, notes
from seed_registry.bench.matrix import _Rounds
from seed_registry.bench.page import page
from seed_registry.bench.regressions import compare
from seed_registry.bench.results import (
    STRATEGIES,
    Cell,
    CellImpossible,
    Environment,
    GridFacts,
    Measurement,
    Reply,
    Results,
    best_of,
    summarised,
)
from seed_registry.bench.rivals import RIVALS, latest
from seed_registry.bench.scratch_schema import PREFIX, Scratch, leftovers, scratch_schema
from seed_registry.errors import SettingsInvalid
from seed_registry.index.dialects import DIALECTS
from seed_registry.postgres.connection import session
from seed_registry.report import Stages
from seed_registry.settings import DatabaseUrl, Settings
from seed_registry.synthetic.index import Workload, generate

Cli = Callable[..., "subprocess.CompletedProcess[bytes]"]
Connection: TypeAlias = "asyncpg.Connection[Any]"

# Benchmarks are run: small ones, but each cell is a process.
pytestmark = pytest.mark.slow

PASSWORD = "correct-horse"
SCHEMAS = f"select count(*) from pg_namespace where nspname like '{PREFIX}%'"
SMALL = ("--batch-size", "50", "--concurrency", "2", "--repeat", "1")
ROWS = """
    select asset_key, source_key, assets.name, description, assets.url, assets.updated_at, assets.raw::text,
           assets.content_hash
    from {schema}.assets join {schema}.sources on sources.id = source_id order by asset_key
"""


def index_file(path: Path, **workload: Any) -> Path:
    path.write_bytes(b"".join(generate(Workload(**workload))))
    return path


def ask(url: DatabaseUrl, query: str) -> Any:
    async def asked() -> Any:
        connection = await asyncpg.connect(url.reveal)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(asked())


def eventually(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def error_lines(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    assert b"Traceback" not in done.stderr
    return [line for line in done.stderr.decode().splitlines() if line.startswith("error")]


# --- strategies and the scratch schema ----------------------------------------------------------------------------


@pytest.fixture
async def scratch(database_url: DatabaseUrl, connection: Connection) -> AsyncIterator[Scratch]:
    async with scratch_schema(database_url, connection, print) as made:
        yield made


async def loaded(strategy: str, index: Path, url: DatabaseUrl, scratch: Scratch) -> Watch:
    settings = Settings(
        database_url=url,
        schema=scratch.name,
        batch_size=50,
        concurrency=3,
        rejects=str(index.with_suffix(f".{strategy}.rejects")),
        verify=False,
    )
    watch = Watch()
    await child.load(strategy, str(index), settings, watch)
    return watch


async def rows(connection: Connection, scratch: Scratch) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await connection.fetch(ROWS.format(schema=scratch.name))]


@pytest.mark.anyio
@pytest.mark.parametrize("dialect", ["seed", "discovery"])
async def test_every_strategy_leaves_the_same_rows(
    dialect: Any, database_url: DatabaseUrl, connection: Connection, scratch: Scratch, tmp_path: Path
) -> None:
    index = index_file(tmp_path / "index.json", records=400, invalid=2, size=1200, dialect=dialect)
    left, read, rejected = [], set(), set()
    for strategy in STRATEGIES:
        await scratch.empty()
        watch = await loaded(strategy, index, database_url, scratch)
        left.append(await rows(connection, scratch))
        read.add(watch.tally.read)
        rejected.add(watch.tally.rejected)
        assert len(watch.batch_seconds) == watch.tally.batches > 1
        assert watch.tally.stages.waiting > 0
    assert len(left[0]) == 392
    assert left == [left[0]] * len(STRATEGIES)
    assert (len(read), rejected) == (1, {8})


@pytest.mark.anyio
async def test_every_strategy_that_can_reload_makes_the_rows_those_of_the_index(
    database_url: DatabaseUrl, connection: Connection, scratch: Scratch, tmp_path: Path
) -> None:
    index = index_file(tmp_path / "index.json", records=400, duplicates=20, size=1200)
    await loaded("copy-merge", index, database_url, scratch)
    await scratch.keep()
    as_indexed, fingerprint = await rows(connection, scratch), await scratch.fingerprint()
    for strategy in ("copy-merge", "insert", "executemany"):
        for percent in (0, 10, 100):
            await scratch.refill(percent)
            before = await rows(connection, scratch)
            changed = sum(row != indexed for row, indexed in zip(before, as_indexed, strict=True))
            assert changed == len(before) * percent // 100
            assert (await scratch.fingerprint() == fingerprint) is (percent == 0)
            await loaded(strategy, index, database_url, scratch)
            assert await rows(connection, scratch) == as_indexed, strategy
            assert await scratch.fingerprint() == fingerprint


def test_of_a_key_that_comes_twice_in_a_batch_the_last_record_wins_with_the_greatest_moment() -> None:
    late, early = datetime(2025, 9, 8, tzinfo=UTC), datetime(2024, 9, 8, tzinfo=UTC)
    batch = [
        make_asset("b", name="first", updated_at=late),
        make_asset("a", name="only"),
        make_asset("b", name="last", updated_at=early),
    ]
    kept = latest(batch)
    assert [(asset.key, asset.name, asset.updated_at) for asset in kept] == [("a", "only", None), ("b", "last", late)]


@pytest.mark.anyio
async def test_a_batch_larger_than_a_statement_can_take_is_inserted_all_the_same(
    database_url: DatabaseUrl, scratch: Scratch, connection: Connection, tmp_path: Path
) -> None:
    index = index_file(tmp_path / "index.json", records=4_200, size=800)
    settings = Settings(
        database_url=database_url, schema=scratch.name, batch_size=10_000, batch_bytes=256 << 20, concurrency=1,
        rejects=str(tmp_path / "rejects"),
    )  # fmt: skip
    await child.load("insert", str(index), settings, Watch())
    assert await connection.fetchval(f"select count(*) from {scratch.name}.assets") == 4_200


@pytest.mark.anyio
async def test_direct_copying_of_an_index_that_repeats_keys_is_impossible_and_not_a_failure(
    database_url: DatabaseUrl, scratch: Scratch, tmp_path: Path
) -> None:
    index = index_file(tmp_path / "index.json", records=400, duplicates=30)
    with pytest.raises(CellImpossible, match="repeats keys"):
        await loaded("copy-direct", index, database_url, scratch)


@pytest.mark.anyio
async def test_the_scratch_schema_is_dropped_after_a_failure_even_while_a_load_holds_its_tables(
    database_url: DatabaseUrl, connection: Connection
) -> None:
    holder = await asyncpg.connect(database_url.reveal)

    async def fail() -> None:
        async with scratch_schema(database_url, connection, print) as scratch:
            await holder.execute(f"begin; lock table {scratch.name}.assets")
            raise RuntimeError("something went wrong")

    try:
        with pytest.raises(RuntimeError, match="wrong"):
            await fail()
        assert await connection.fetchval(SCHEMAS) == 0
    finally:
        holder.terminate()


@pytest.mark.anyio
async def test_only_schemas_of_benches_that_are_gone_count_as_leftovers(
    database_url: DatabaseUrl, scratch: Scratch
) -> None:
    async with session(database_url) as other:
        await other.execute(f"create schema {PREFIX}dead; create schema unrelated")
        assert await leftovers(other) == [f"{PREFIX}dead"]
        assert scratch.name.startswith(PREFIX)


@pytest.mark.anyio
async def test_the_cpu_time_of_a_server_on_this_machine_is_seen_and_that_of_ended_sessions_is_kept(
    database_url: DatabaseUrl, connection: Connection
) -> None:
    server_cpu = await find_server_cpu(connection)
    if server_cpu is None:
        pytest.skip("the server is not on this machine")
    before = server_cpu.seconds()
    async with session(database_url) as busy:
        await busy.fetchval("select count(*) from generate_series(1, 3000000)")
        during = server_cpu.seconds()
    after = server_cpu.seconds()
    assert before is not None
    assert during is not None
    assert after is not None
    assert before < during < after + 0.05  # the kernel counts in ticks, and rounds


@pytest.mark.anyio
async def test_a_process_that_only_has_the_right_number_is_not_taken_for_the_server(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seed_registry.bench.environment._boot_time", lambda: 1_000_000)
    assert await find_server_cpu(connection) is None


# --- the command --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_grid_is_measured_without_touching_the_registry(cli: Cli, database_url: DatabaseUrl, tmp_path: Path) -> None:
    sources = "insert into registry.sources (provider, source_key) values ('socrata', 'a.example') returning id"
    source = ask(database_url, sources)
    ask(database_url, f"insert into registry.assets (asset_key, source_id) values ('aaaa-aaaa', {source})")
    done = cli(
        "bench", "--records", "120", "--strategy", "copy-merge,copy-direct", "--changed", "first,0,100",
        "--batch-size", "50", "--concurrency", "1", "--repeat", "2", "--json", "--html", "page.html",
        url=database_url,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert set(results) == {"environment", "grid", "cells"}
    assert len(results["cells"]) == 6
    for cell in results["cells"]:
        summary = cell["summary"]
        if cell["strategy"] == "copy-direct" and cell["changed"] is not None:
            assert (summary, cell["runs"]) == (None, [])
            assert "there already" in cell["skipped"]
            continue
        assert (cell["skipped"], cell["failed"], len(cell["runs"])) == (None, None, 2)
        assert summary["records"] == 140
        assert summary["seconds"]["low"] <= summary["seconds"]["median"] <= summary["seconds"]["high"]
        # What changes is held, and written at the end.
        assert summary["batches"] == (6 if cell["changed"] == 100 else 3)
        assert summary["peak_rss_bytes"] > 10 << 20
        assert summary["client_cpu_seconds"] > 0
        assert 0 < summary["batch_p50_seconds"] <= summary["batch_p95_seconds"]
        assert summary["bottleneck"] in msgspec.structs.asdict(Stages())
        assert (summary["server_cpu_seconds"] is not None) is results["environment"]["server_cpu_visible"]
    wal = {cell["changed"]: cell["summary"]["wal_bytes"] for cell in results["cells"] if cell["summary"]}
    assert 0 < wal[0] < wal[None]
    assert wal[0] < wal[100]
    assert results["environment"]["postgres_settings"]["shared_buffers"]
    assert (tmp_path / "page.html").read_text("utf-8").startswith("<!doctype html>")
    told = done.stderr.decode().splitlines()
    assert [line.partition("]")[0] for line in told if line.startswith("[")] == [f"[{n}/8" for n in range(1, 9)]
    assert ask(database_url, SCHEMAS) == 0
    assert ask(database_url, "select string_agg(asset_key, ',') from registry.assets") == "aaaa-aaaa"
    assert ask(database_url, "select count(*) from registry.sources") == 1


def test_the_table_marks_the_best_cell_and_gives_its_flags(
    cli: Cli, bare_database_url: DatabaseUrl, tmp_path: Path
) -> None:
    index = index_file(tmp_path / "index.json", records=200, duplicates=30)
    done = cli("bench", index.name, *SMALL, "--strategy", "copy-merge,copy-direct", url=bare_database_url)
    assert done.returncode == 0, done.stderr
    table = done.stdout.decode()
    assert "index.json (seed, " in table
    assert "* best: copy-merge, batch 50 x 2\n  seed-registry load --batch-size 50 --concurrency 2\n" in table
    assert "copy-direct, batch 50 x 2 skipped: copy-direct takes every key once" in table
    assert "one run each" in table
    assert ask(bare_database_url, SCHEMAS) == 0


def test_an_index_that_breaks_off_fails_at_once_and_leaves_no_schema(
    cli: Cli, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    index = index_file(tmp_path / "index.json", records=100)
    index.write_bytes(index.read_bytes()[:-500])
    done = cli("bench", index, *SMALL, url=database_url)
    assert (done.returncode, done.stdout) == (1, b"")
    assert "is broken at byte" in error_lines(done)[0]
    assert ask(database_url, SCHEMAS) == 0


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_grid_runs_on_a_sample_of_every_dialect(cli: Cli, database_url: DatabaseUrl, dialect: str) -> None:
    """A `--domain` that only the sample knows is given to every load, and one of the user's overrides it."""
    flags = ("bench", "--dialect", dialect, "--records", "60", *SMALL, "--changed", "first,0")
    for domain in ((), ("--domain", "d.example")):
        done = cli(*flags, *domain, "--json", url=database_url)
        if domain and DIALECTS[dialect].refuses_domain:
            assert "--domain cannot be used" in error_lines(done)[0]
            continue
        assert done.returncode == 0, done.stderr
        results = json.loads(done.stdout)
        assert results["grid"]["dialect"] == dialect
        assert [cell["failed"] for cell in results["cells"]] == [None, None]


@pytest.mark.slow
def test_what_a_killed_bench_left_is_told_and_not_touched(cli: Cli, database_url: DatabaseUrl) -> None:
    ask(database_url, f"create schema {PREFIX}dead")
    done = cli("bench", "--records", "50", *SMALL, url=database_url)
    assert f'drop schema "{PREFIX}dead" cascade' in done.stderr.decode()
    assert ask(database_url, SCHEMAS) == 1


def test_a_role_that_may_not_create_schemas_is_told_so(cli: Cli, database_url: DatabaseUrl) -> None:
    role = "without_rights"
    ask(database_url, f"do $$ begin create role {role} login; exception when duplicate_object then null; end $$")
    done = cli("bench", "--records", "50", *SMALL, url=as_user(database_url, role))
    assert done.returncode == 1
    assert error_lines(done)
    assert b"grant create on the database" in done.stderr


def as_user(url: DatabaseUrl, user: str) -> DatabaseUrl:
    parts = urlsplit(url.reveal)
    return DatabaseUrl(urlunsplit(parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}")))


@contextmanager
def benching(home: Path, url: DatabaseUrl, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {"PATH": os.environ["PATH"], "SEED_REGISTRY_HOME": str(home), "DATABASE_URL": url.reveal}
    command = [sys.executable, "-m", "seed_registry", "bench", *arguments]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def command_lines() -> list[bytes]:
    lines = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(process.read_bytes())
        except OSError:
            continue
    return lines


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=str)
def test_a_signal_in_the_middle_of_a_load_drops_the_scratch_schema(
    number: signal.Signals, code: int, home: Path, database_url: DatabaseUrl
) -> None:
    busy = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    with benching(home, database_url, "--records", "20000", *SMALL) as process:
        eventually(lambda: ask(database_url, SCHEMAS) == 1)
        eventually(lambda: ask(database_url, busy) >= 4)
        os.killpg(process.pid, number)  # as a terminal does
        _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert errors.decode().splitlines()[-1] == (
        f"error: stopped by {number.name}; the scratch schema is dropped, nothing else was touched"
    )
    assert ask(database_url, SCHEMAS) == 0
    eventually(lambda: ask(database_url, busy) == 0)


def test_the_password_is_in_no_command_line_and_no_output(
    home: Path, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    with_password = DatabaseUrl(as_user(database_url, f"registry:{PASSWORD}").reveal)
    path = tmp_path / "page.html"
    seen: set[bytes] = set()
    with benching(home, with_password, "--records", "300", *SMALL, "--json", "--html", str(path)) as process:
        while process.poll() is None:
            seen.update(command_lines())
            time.sleep(0.01)
        output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert any(b"seed_registry.bench.child" in line for line in seen)
    assert not [line for line in seen if PASSWORD.encode() in line]
    assert PASSWORD.encode() not in output + errors + path.read_bytes()
    assert json.loads(output)["environment"]["database"].startswith("postgresql://registry@")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--strategy", "prayer"], "--strategy takes copy-merge, insert, executemany, copy-direct, got 'prayer'"),
        (["--strategy", ""], "--strategy takes a list with commas"),
        (["--batch-size", "100,,500"], "--batch-size takes a list with commas"),
        (["--batch-size", "1e3"], "--batch-size takes whole numbers like 100,500, got '1e3'"),
        (["--batch-size", "0"], "--batch-size must be from 1 to 100,000, got 0"),
        (["--concurrency", "257"], "--concurrency must be from 1 to 256, got 257"),
        (["--concurrency", "-1"], "--concurrency takes whole numbers"),
        (["--changed", "101"], "--changed must be from 0 to 100 percent, got 101"),
        (["--changed", "few"], "--changed takes percentages like 0,1,100, or first, got 'few'"),
        (["--repeat", "0"], "--repeat must be from 1 to 1,000, got 0"),
        (["--repeat", "1000", "--changed", "1"], "this grid makes 16,000 runs"),
        (["--records", "-5"], "--records must be from 0"),
        (["--batch-bytes", "lots"], "a size looks like 4MiB"),
        (["-"], "name a file, not standard input or a URL"),
        (["https://data.example.org/index.json"], "name a file, not standard input or a URL"),
        (["."], "name a file, not a directory"),
        (["index.json", "--records", "5"], "leave them out or leave INDEX out"),
        (["--compare", "absent.json", "absent.json"], "--compare cannot use absent.json: No such file"),
        (["--compare", "index.json", "index.json"], "it is no output of `seed-registry bench --json`"),
    ],
    ids=" ".join,
)
def test_bad_arguments_are_one_line_and_exit_code_2(arguments: list[str], told: str, cli: Cli, tmp_path: Path) -> None:
    index_file(tmp_path / "index.json", records=1)
    done = cli("bench", *arguments)
    (line,) = error_lines(done)
    assert told in line
    assert (done.returncode, done.stdout) == (2, b"")
    assert len(done.stderr.splitlines()) == 1


def test_an_absent_index_and_a_page_that_cannot_be_written_fail_before_anything_is_measured(
    cli: Cli, tmp_path: Path
) -> None:
    assert "no such file" in error_lines(cli("bench", "absent.json"))[0]
    done = cli("bench", "--records", "5", "--html", "absent/page.html")
    assert (done.returncode, "no directory" in error_lines(done)[0]) == (1, True)


# --- numbers ------------------------------------------------------------------------------------------------------

ENVIRONMENT = Environment(
    started_at=datetime(2025, 9, 8, tzinfo=UTC),
    program="1",
    python="CPython 3.11",
    packages={"asyncpg": "0.32"},
    platform="Linux",
    cpu="a fast one",
    cores=2,
    memory_bytes=1 << 30,
    load_average=0.5,
    database="embedded server",
    postgres="18.0",
    postgres_settings={"fsync": "on"},
    checkpoints=True,
    server_cpu_visible=True,
)
CELL = Cell("copy-merge", 500, 4, None, "index.json")


def a_run(seconds: float, records: int = 1_000, **fields: Any) -> Measurement:
    known: dict[str, Any] = {
        "records": records, "rejected": 0, "bytes_read": 4_000 * records, "batches": 2, "seconds": seconds,
        "client_cpu_seconds": 0.1, "peak_rss_bytes": 50 << 20, "batch_p50_seconds": 0.1, "batch_p95_seconds": 0.2,
        "stages": Stages(decoding=0.1, merging=0.5), "wal_bytes": 1, "server_cpu_seconds": 0.2,
    }  # fmt: skip
    return Measurement(**known | fields)


def made(cells: dict[Cell, list[float]], records: int = 1_000, environment: Environment = ENVIRONMENT) -> Results:
    """Results in which these cells took these seconds."""
    grid = GridFacts(
        index="index.json",
        dialect="seed",
        index_bytes=4_000 * records,
        batch_sizes=list(dict.fromkeys(cell.batch_size for cell in cells)),
        concurrencies=list(dict.fromkeys(cell.concurrency for cell in cells)),
        strategies=list(dict.fromkeys(cell.strategy for cell in cells)),
        changed=list(dict.fromkeys(cell.changed for cell in cells)),
        repeat=max(map(len, cells.values())),
        batch_bytes=256 << 20,
    )
    results = [summarised(cell, [a_run(one, records) for one in seconds]) for cell, seconds in cells.items()]
    return Results(environment, grid, results)


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ([1.0, 1.0, 1.0], [1.2, 1.2, 1.2], "slower"),
        ([1.0, 1.0, 1.0], [0.8, 0.8, 0.8], "faster"),
        ([1.0, 1.0, 1.0], [1.04, 1.04, 1.04], "same"),
        ([1.0, 1.0, 1.0], [0.96, 0.96, 0.96], "same"),
        ([0.9, 1.0, 1.2], [1.1, 1.2, 1.3], "same"),  # 0.2 slower, noise 0.15 + 0.1
        ([1.0, 1.0, 1.0], [0.9, 1.2, 1.5], "same"),  # the noise of one side is enough
        ([0.9, 1.0, 1.2], [1.3, 1.4, 1.5], "slower"),
        ([1.0, 1.0, 9.0], [1.2, 1.2, 1.2], "same"),  # an outlier makes nothing certain
    ],
)
def test_only_a_difference_beyond_the_noise_of_both_and_the_floor_is_a_verdict(
    old: list[float], new: list[float], verdict: str
) -> None:
    (pair,) = compare(made({CELL: old}), made({CELL: new})).cells
    assert pair.verdict == verdict
    assert pair.ratio == pytest.approx(sorted(new)[1] / sorted(old)[1])


def test_cells_are_paired_by_what_they_are_and_compared_by_the_time_of_a_record() -> None:
    gone, come = replace(CELL, batch_size=100), replace(CELL, changed=1.0)
    old, new = made({CELL: [1.0], gone: [1.0]}), made({come: [1.0], CELL: [2.0]}, records=2_000)
    comparison = compare(old, new)
    assert [pair.verdict for pair in comparison.cells] == ["same", "only old", "only new"]
    assert comparison.single_runs
    assert comparison.regressions == []
    with pytest.raises(SettingsInvalid, match="no cell that both"):
        compare(made({gone: [1.0]}), made({come: [1.0]}))


def test_what_differs_between_two_environments_is_told_but_not_when_they_were() -> None:
    other = replace(
        ENVIRONMENT, started_at=datetime(2025, 9, 9, tzinfo=UTC), load_average=9.0, packages={"asyncpg": "0.33"},
        postgres_settings={"fsync": "off"},
    )  # fmt: skip
    comparison = compare(made({CELL: [1.0]}), made({CELL: [1.0]}, environment=other))
    assert comparison.environment == {"asyncpg": ("0.32", "0.33"), "fsync": ("on", "off")}


@pytest.mark.parametrize(("seconds", "code"), [(1.01, 0), (0.5, 0), (2.0, 1)])
def test_compare_exits_with_1_only_for_a_regression(seconds: float, code: int, cli: Cli, tmp_path: Path) -> None:
    for name, took in (("old.json", 1.0), ("new.json", seconds)):
        (tmp_path / name).write_bytes(msgspec.json.encode(made({CELL: [took] * 3})))
    done = cli("bench", "--compare", "old.json", "new.json")
    assert done.returncode == code
    assert ("1 slower than before" in done.stdout.decode()) is (code == 1)
    assert error_lines(done) == []
    (pair,) = json.loads(cli("bench", "--compare", "old.json", "new.json", "--json").stdout)["cells"]
    assert pair["ratio"] == seconds


def test_the_bottleneck_is_the_longest_stage_of_the_side_that_worked_more() -> None:
    assert Stages().limit(4) is None
    assert Stages(reading=1, decoding=2, sending=5, merging=4, copying=3).limit(1) == "merging"
    assert Stages(reading=1, decoding=2, merging=4, copying=3).limit(4) == "decoding"
    assert Stages(reading=3, decoding=2, waiting=9, merging=4).limit(1) == "reading"
    assert Stages(sending=9, waiting=90, filtering=1).limit(1) == "filtering"


def test_the_best_cell_has_the_most_records_a_second_whatever_the_order() -> None:
    slow, fast, none = replace(CELL, batch_size=1), replace(CELL, batch_size=2), replace(CELL, batch_size=3)
    cells = [*made({slow: [2.0], fast: [1.0, 1.1, 9.0]}).cells, summarised(none, [], failed="no")]
    best = best_of(cells)
    assert best is not None
    assert best.batch_size == 2
    assert best_of([cells[-1]]) is None


def test_flags_name_the_bytes_of_a_batch_only_where_a_load_would_cut_it() -> None:
    small, large, rival = (
        replace(CELL, batch_size=100),
        replace(CELL, batch_size=2_000),
        replace(CELL, strategy="insert"),
    )
    results = made({small: [1.0], large: [1.0], rival: [1.0]})
    assert [flags(cell, results.grid) for cell in results.cells] == [
        "--batch-size 100 --concurrency 4",
        "--batch-size 2000 --concurrency 4 --batch-bytes 256MiB",
        None,
    ]
    assert "too few records to fill one batch of every worker in 2 of 3 cells" in notes(results)


def test_percentiles_are_measured_values() -> None:
    assert [percentile(range(1, 101), percent) for percent in (50, 95, 100)] == [50, 95, 100]
    assert (percentile([7.0], 50), percentile([7.0], 95), percentile([], 50)) == (7.0, 7.0, 0.0)


def test_lists_lose_their_repetitions_and_a_grid_its_cells_take_turns() -> None:
    assert parse_numbers("--x", "500, 100,500") == [500, 100]
    assert parse_changed("first,0,0.5,0") == [None, 0.0, 0.5]
    grid = Grid(
        batch_sizes=[1, 2], concurrencies=[3], strategies=list(RIVALS)[:1], changed=[None, 1.0], repeat=2,
        batch_bytes=4 << 20,
    )  # fmt: skip
    assert [(cell.changed, cell.batch_size) for cell in grid.cells("x")] == [(None, 1), (None, 2), (1.0, 1), (1.0, 2)]


def test_a_load_that_leaves_other_rows_is_not_measured_but_failed() -> None:
    grid = Grid(batch_sizes=[1], concurrencies=[1], strategies=["insert"], changed=[None], repeat=1, batch_bytes=1024)
    rounds = _Rounds(None, grid, BenchIndex("x", "x"), print)  # type: ignore[arg-type]
    measured = Reply(run=a_run(1.0))
    assert rounds._checked(measured, "2 assets, 7") == measured
    assert rounds._checked(measured, "2 assets, 8").run is None
    assert rounds._checked(measured, "2 assets, 7") == measured


# --- the page -----------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Note what is read."""
        self.text += data


def test_the_page_needs_nothing_from_elsewhere_and_escapes_whatever_it_is_told() -> None:
    hostile = "<script>alert('x')</script>\"'&\x1b[31m\u202e"
    cell = replace(CELL, index=hostile)
    results = made({cell: [1.0, 1.1, 1.2], replace(cell, batch_size=100): [2.0]})
    results = replace(
        results,
        grid=replace(results.grid, index=hostile, dialect=hostile, batch_sizes=[500, 100, 7]),
        environment=replace(ENVIRONMENT, cpu=hostile, postgres_settings={hostile: hostile}),
        cells=[*results.cells, summarised(replace(cell, batch_size=7), [], failed=hostile)],
    )
    text = page(results)
    elements = Elements(text)
    tags = {tag for tag, _ in elements.found}
    assert tags.isdisjoint({"script", "link", "img", "iframe", "a", "object"})
    assert not [
        name for _, attributes in elements.found for name in attributes if name in ("src", "href", "xlink:href")
    ]
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    assert "url(" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert elements.text.count("<script>alert('x')</script>\"'&\\x1b[31m\\u202e") >= 6
    assert [attributes.get("class") for tag, attributes in elements.found if tag == "rect"].count("best") == 1


def test_a_hostile_name_of_an_index_reaches_terminal_and_page_escaped(
    cli: Cli, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    index = index_file(tmp_path / "<b onclick=x>\x1b[31m\udcff.json", records=60)
    done = cli("bench", index, *SMALL, "--html", "page.html", url=database_url)
    assert done.returncode == 0, done.stderr
    assert b"\x1b[31m" not in done.stdout + done.stderr
    assert b"<b onclick=x>\\x1b[31m\\udcff.json (seed" in done.stdout
    assert "<b onclick" not in (tmp_path / "page.html").read_text("utf-8")
