"""A plan: what a load would do, against the database, without writing."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from conftest import Cli
from seed_registry import DatabaseUrl, MaxRejects, Report, Settings, ingest, spill
from seed_registry.cli.load_runner import detailed_exit_code, print_result
from seed_registry.dry_run.estimate import estimate
from seed_registry.errors import DatabaseUnavailable, IndexesFailed
from seed_registry.report import AssetCounts, Change, Misdeclared, Plan, RejectExample, SourceCounts, Tally
from seed_registry.spill import MarkedHashes
from seed_registry.synthetic.index import Workload, generate

Json = dict[str, Any]
Index = Callable[..., str]

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]

A, B, C = "data.a.example", "data.b.example", "data.c.example"
KEYS = {
    "asset_key": "select",
    "provider, asset_key": "alter table registry.assets add provider text not null",
    "source_id, asset_key": "select",
}


@pytest.fixture
def database_url(emptied_url: DatabaseUrl) -> DatabaseUrl:
    """One database for all these tests, emptied for each."""
    return emptied_url


@pytest.fixture
async def connection(database_url: DatabaseUrl) -> Any:
    connection = await asyncpg.connect(database_url.reveal)
    await connection.execute("truncate seed_registry.runs cascade")
    yield connection
    await connection.close()


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Write an index and get its path."""

    def write(*records: Json | bytes, name: str = "index.ndjson") -> str:
        path = tmp_path / name
        path.write_bytes(
            b"".join(
                (record if isinstance(record, bytes) else json.dumps(typed(record)).encode()) + b"\n"
                for record in records
            )
        )
        return str(path)

    return write


def typed(record: Json) -> Json:
    return {"type": "asset" if "asset_key" in record else "source", **record}


def source(key: str = A, **fields: Any) -> Json:
    return {"source_key": key, **fields}


def asset(key: str, source_key: str = A, **fields: Any) -> Json:
    return {"asset_key": key, "source_key": source_key, "name": f"Asset {key}", **fields}


async def load(url: DatabaseUrl | None, *indexes: str, **settings: Any) -> Report:
    settings = {"max_rejects": MaxRejects(percent=100)} | settings
    return await ingest(indexes, Settings(database_url=url, retry_for_seconds=0, **settings))


async def planned(url: DatabaseUrl | None, *indexes: str, **settings: Any) -> tuple[Report, Plan]:
    report = await load(url, *indexes, dry_run=True, **settings)
    assert report.plan is not None
    return report, report.plan


# What would become of the records


@pytest.mark.parametrize(("batch_size", "concurrency"), [(1, 1), (2, 3), (500, 4)])
async def test_a_plan_tells_every_kind_with_counts_fields_and_keys(
    database_url: DatabaseUrl, index: Index, batch_size: int, concurrency: int
) -> None:
    await load(
        database_url,
        index(
            source(A, name="Before"), source(B), *(asset(f"a-{n}") for n in range(6)), asset("b-0", B), asset("b-1", B)
        ),
    )
    path = index(
        source(A, name="After"),
        source(B),
        source(C),
        asset("a-0"),
        asset("a-1", name="Other"),
        asset("a-2", name="Other", description="New"),
        asset("a-3", B, updatedAt="2024-01-01T00:00:00Z"),
        asset("c-0", C),
        asset("c-1", C),
        asset("c-0", C),
        asset("a-1", name="Other"),
        asset("a-0"),
        b"{",
        b'{"type": "asset"}',
        b"{",
        asset("d-0", "unlisted.example"),
        asset("b-0", B),
    )
    report, plan = await planned(database_url, path, batch_size=batch_size, concurrency=concurrency)
    assert report.assets == AssetCounts(
        read=14, inserted=2, updated=3, unchanged=2, duplicate=3, rejected=3, missing_source=1
    )
    assert report.sources == SourceCounts(read=3, inserted=1, updated=1, unchanged=1)
    assets, sources = plan.assets, plan.sources
    assert (assets.new, assets.changed, assets.unchanged, assets.duplicate) == (2, 3, 2, 3)
    assert (assets.rejected, assets.missing_source) == (3, 1)
    assert assets.fields == {"raw": 3, "name": 2, "description": 1, "source_id": 1, "updated_at": 1}
    assert assets.examples.new == ["c-0", "c-1"]
    assert assets.examples.changed == [
        Change("a-1", ["name", "raw"]),
        Change("a-2", ["name", "description", "raw"]),
        Change("a-3", ["source_id", "updated_at", "raw"]),
    ]
    assert (assets.examples.unchanged, assets.examples.missing_source) == (["a-0", "b-0"], ["d-0"])
    assert assets.examples.duplicate == ["a-0", "a-1", "c-0"]
    assert (sources.new, sources.changed, sources.unchanged) == (1, 1, 1)
    assert (sources.fields, sources.examples.new) == ({"name": 1, "raw": 1}, [C])
    assert (sources.examples.changed, sources.examples.unchanged) == ([Change(A, ["name", "raw"])], [B])
    assert [(reject.reason, reject.count) for reject in plan.rejects] == [("not_json", 2), ("no_key", 1)]
    first, second = plan.rejects[0].examples
    assert first == RejectExample(path, 13, first.offset, None)
    assert second.line == 15
    assert plan.missing_upstream is not None
    assert plan.missing_upstream.count == 3
    assert plan.missing_upstream.examples == ["a-4", "a-5", "b-1"]
    assert detailed_exit_code(report) == 2


async def test_of_many_keys_the_first_few_are_shown(database_url: DatabaseUrl, index: Index) -> None:
    keys = [f"k-{number:03}" for number in range(60)]
    await load(database_url, index(source(), *map(asset, keys[:30])))
    changed = [asset(key, name="Other") for key in keys[:20]]
    shuffled = [*changed, *map(asset, keys[30:])]
    random.Random(3).shuffle(shuffled)
    _, plan = await planned(database_url, index(source(), *shuffled), batch_size=3)
    assert plan.assets.examples.new == keys[30:35]
    assert [change.key for change in plan.assets.examples.changed] == keys[:5]
    assert plan.missing_upstream is not None
    assert (plan.missing_upstream.count, plan.missing_upstream.examples) == (10, keys[20:25])


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.sampled(2)
async def test_a_load_does_what_the_plan_said_and_then_there_is_nothing_to_do(
    database_url: DatabaseUrl, connection: asyncpg.Connection[Any], index: Index, key: str, seed: int
) -> None:
    rng = random.Random(seed)
    await connection.execute(KEYS[key])
    await connection.execute(f"alter table registry.assets drop constraint assets_asset_key_key, add unique ({key})")
    names, of = ["One", "Two"], [A, B, C]

    def some(sources: list[str], count: int) -> list[Json]:
        keys = rng.sample(range(60), count)
        return [asset(f"k-{number}", rng.choice(sources), name=rng.choice(names)) for number in keys]

    await load(database_url, index(*map(source, of[:2]), *some(of[:2], 40)))
    there = await connection.fetch("select asset_key, source_key from registry.assets a join registry.sources s "
                                   "on s.id = a.source_id")  # fmt: skip
    records = some(of, 40)
    path = index(*map(source, of), *records)
    _, plan = await planned(database_url, path, batch_size=rng.choice([1, 7, 500]))
    found = {(row["asset_key"], row["source_key"]) for row in there}
    read = {(record["asset_key"], record["source_key"]) for record in records}
    gone = found - read if "source_id" in key else {k for k, _ in found} - {k for k, _ in read}
    assert plan.missing_upstream is not None
    assert plan.missing_upstream.count == len(gone)
    real = await load(database_url, path)
    assert (plan.assets.new, plan.assets.changed, plan.assets.unchanged) == (
        real.assets.inserted, real.assets.updated, real.assets.unchanged,
    )  # fmt: skip
    assert (plan.sources.new, plan.sources.changed) == (real.sources.inserted, real.sources.updated)
    report, plan = await planned(database_url, path)
    assert (plan.has_changes, detailed_exit_code(report), plan.assets.fields) == (False, 0, {})
    assert plan.estimate.wal_bytes == 0


async def test_what_several_batches_or_indexes_repeat_is_counted_once(database_url: DatabaseUrl, index: Index) -> None:
    await load(database_url, index(source(), asset("a"), asset("b"), asset("gone")))
    first = index(source(name="New"), asset("a", name="Other"), asset("b"), asset("c"), name="1.ndjson")
    second = index(source(name="New"), asset("a", name="Third"), asset("b"), asset("c"), name="2.ndjson")
    report, plan = await planned(database_url, first, second, batch_size=1)
    assert report.assets == AssetCounts(read=6, inserted=1, updated=1, unchanged=1, duplicate=3)
    assert report.sources == SourceCounts(read=2, updated=1, duplicate=1)
    assert plan.assets.fields == {"name": 1, "raw": 1}
    assert [part.assets.duplicate for part in report.per_index] == [3, 0]
    assert plan.missing_upstream is not None
    assert plan.missing_upstream.examples == ["gone"]


async def test_a_changed_record_counts_by_its_values_not_by_its_bytes(database_url: DatabaseUrl, index: Index) -> None:
    await load(database_url, index(source(), asset("a")))
    path = index(source(), b'{"source_key":"' + A.encode() + b'",  "name":"Asset a","asset_key":"a","type":"asset"}')
    report, plan = await planned(database_url, path)
    assert (plan.assets.changed, plan.assets.unchanged, detailed_exit_code(report)) == (0, 1, 0)


# Missing upstream


async def test_only_assets_of_the_sources_met_are_missing(database_url: DatabaseUrl, index: Index) -> None:
    await load(database_url, index(source(A), source(B), asset("a"), asset("a-gone"), asset("b", B)))
    _, plan = await planned(database_url, index(source(A), asset("a")))
    assert plan.missing_upstream is not None
    assert (plan.missing_upstream.count, plan.missing_upstream.examples) == (1, ["a-gone"])


async def test_an_asset_that_a_load_would_not_take_is_not_missing_upstream(
    database_url: DatabaseUrl, index: Index
) -> None:
    await load(database_url, index(source(), asset("a"), asset("b"), asset("c")))
    refused = json.dumps(typed(asset("a"))).encode()[:-1] + b', "number": 1e200000}'
    report, plan = await planned(database_url, index(source(), refused, asset("b", "unlisted.example"), asset("d")))
    assert (report.assets.rejected, report.assets.missing_source) == (1, 1)
    assert plan.missing_upstream is not None
    assert plan.missing_upstream.examples == ["c"]


async def test_a_key_of_fixed_width_is_found_in_spite_of_its_padding(
    database_url: DatabaseUrl, connection: asyncpg.Connection[Any], index: Index
) -> None:
    await connection.execute("alter table registry.assets alter asset_key type char(9)")
    path = index(source(), asset("aaaa-0001"), asset("short"))
    await load(database_url, path, verify=False)
    _, plan = await planned(database_url, path)
    assert (plan.has_changes, plan.missing_upstream and plan.missing_upstream.count) == (False, 0)


@pytest.mark.parametrize("key", ["provider, asset_key", "source_id, asset_key"])
async def test_where_a_key_may_be_there_twice_each_asset_is_looked_for(
    database_url: DatabaseUrl, connection: asyncpg.Connection[Any], index: Index, key: str
) -> None:
    await connection.execute(KEYS[key])
    await connection.execute(f"alter table registry.assets drop constraint assets_asset_key_key, add unique ({key})")
    await load(database_url, index(source(A), source(B), asset("twice"), asset("once", B)))
    column, value = (", provider", ", 'ckan'") if "provider" in key else ("", "")
    await connection.execute(
        f"insert into registry.assets (source_id, asset_key{column}) "
        f"select id, 'twice'{value} from registry.sources where source_key = '{B}'"
    )
    _, plan = await planned(database_url, index(source(A), source(B), asset("twice"), asset("once", B)))
    assert plan.assets.unchanged == 2
    assert plan.missing_upstream is not None
    assert (plan.missing_upstream.count, plan.missing_upstream.examples) == (1, ["twice"])


async def test_missing_upstream_is_exact_however_many_rows_are_fetched_and_spilled(
    database_url: DatabaseUrl, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill, "_BLOCK_HASHES", 100)
    monkeypatch.setattr("seed_registry.dry_run.upstream._ROWS_A_FETCH", 70)
    assets = [asset(f"k-{number:05}") for number in range(1_500)]
    await load(database_url, index(source(), *assets))
    _, plan = await planned(database_url, index(source(), *assets[::3]))
    assert plan.missing_upstream is not None
    assert plan.missing_upstream.count == 1_000
    assert plan.missing_upstream.examples == ["k-00001", "k-00002", "k-00004", "k-00005", "k-00007"]


async def test_where_an_index_is_broken_nothing_is_called_missing(database_url: DatabaseUrl, index: Index) -> None:
    good = index(source(), asset("a"), asset("b"), name="good.ndjson")
    await load(database_url, good)
    bad = index(b'{"sources":[{"source_key":"x.example"}],"assets":[{"asset_key"', name="bad.json")
    with pytest.raises(Exception, match="1 of 2 indexes failed") as failed:
        await load(database_url, good, bad, dry_run=True, keep_going=True)
    plan = failed.value.report.plan  # type: ignore[attr-defined]
    assert (plan.assets.unchanged, plan.missing_upstream) == (2, None)


@pytest.mark.parametrize("batch_size", [1, 2, 500])
async def test_the_examples_of_a_repeated_key_are_of_what_its_last_record_makes_of_it(
    database_url: DatabaseUrl, index: Index, batch_size: int
) -> None:
    later, now = "2024-01-02T00:00:00Z", "2024-01-01T00:00:00Z"
    stored = [asset(key, updated_at=now) for key in ("back", "moment", "other")]
    await load(database_url, index(source(A), *stored))
    path = index(
        source(A, name="Other"),
        asset("back", updated_at=now, name="Other"),
        asset("moment", updated_at=later, name="Other"),
        asset("other", updated_at=now),
        source(A),
        *(asset(key, updated_at=now) for key in ("back", "moment")),
        asset("other", updated_at=now, name="Other"),
    )
    _, plan = await planned(database_url, path, batch_size=batch_size, concurrency=1)
    assert (plan.assets.changed, plan.assets.unchanged, plan.sources.unchanged) == (2, 1, 1)
    assert [change.key for change in plan.assets.examples.changed] == ["moment", "other"]
    assert plan.assets.examples.changed[0].fields == ["updated_at"]
    assert (plan.assets.examples.unchanged, plan.sources.examples.unchanged) == (["back"], [A])
    assert plan.sources.examples.changed == []


# Without a database


@pytest.mark.parametrize("database", ["embedded", "bare"])
async def test_without_a_database_or_its_tables_everything_is_new(
    index: Index, bare_database_url: DatabaseUrl, database: str
) -> None:
    url = bare_database_url if database == "bare" else None
    path = index(source(), asset("b"), asset("a"), asset("b"), b"{")
    report, plan = await planned(url, path, batch_size=1)
    if url is None:
        assert (plan.database, plan.empty_because) == (None, "there is no embedded database yet")
    else:
        assert plan.database == str(url)
        assert plan.empty_because is not None
        assert "no registry tables yet, see `seed-registry schema apply`" in plan.empty_because
    assert plan.missing_upstream is None
    assert (plan.assets.new, plan.assets.duplicate, plan.sources.new) == (2, 1, 1)
    assert (plan.assets.examples.new, plan.assets.examples.duplicate) == (["a", "b"], ["b"])
    assert (plan.estimate.seconds, plan.estimate.wal_bytes > 0) == (None, True)
    assert detailed_exit_code(report) == 2


async def test_a_named_database_that_cannot_be_reached_is_no_empty_registry(index: Index) -> None:
    url = DatabaseUrl("postgresql://nobody@127.0.0.1:1/nowhere")
    with pytest.raises(DatabaseUnavailable, match=r"^cannot connect to postgresql://nobody@127\.0\.0\.1:1/nowhere: "):
        await planned(url, index(source(), asset("a")))


async def test_a_plan_against_a_registry_has_no_reason_to_call_it_empty(
    database_url: DatabaseUrl, index: Index
) -> None:
    _, plan = await planned(database_url, index(source(), asset("a")))
    assert (plan.database, plan.empty_because) == (str(database_url), None)


async def test_a_load_has_no_plan(database_url: DatabaseUrl, index: Index) -> None:
    report = await load(database_url, index(source(), asset("a")))
    assert report.plan is None
    assert b'"plan"' not in msgspec.json.encode(report)


# Estimates


async def test_the_time_is_guessed_from_earlier_loads_like_this_one(
    connection: asyncpg.Connection[Any], index: Index, database_url: DatabaseUrl
) -> None:
    report = await load(database_url, index(source(), asset("a")))

    async def ran(read: int, written: int, seconds: float, outcome: str = "done", **columns: Any) -> None:
        counts = AssetCounts(read=read, inserted=written, unchanged=read - written)
        run = msgspec.structs.replace(report, assets=counts, sources=SourceCounts(), seconds=seconds)
        await connection.execute(
            "insert into seed_registry.runs (run_id, key, indexes, outcome, report, resumed) "
            "values (gen_random_uuid()::text, '', '{}', $1, $2::text::jsonb, $3)",
            outcome,
            columns.get("text", msgspec.json.encode(run).decode()),
            columns.get("resumed", 0),
        )

    nothing = await estimate(connection, 100_000, 100_000, 7)
    assert (nothing.seconds, nothing.runs, nothing.wal_bytes) == (None, 0, 7)
    await ran(3, 3, 1.0)
    await ran(5_000, 5_000, 0.1, "failed")
    await ran(5_000, 5_000, 0.1, resumed=1)
    await ran(5_000, 5_000, 0.1, text='{"of": "another version"}')
    assert (await estimate(connection, 100_000, 100_000, 7)).seconds is None, "none to go by"
    await ran(20_000, 0, 1.0)
    other = await estimate(connection, 100_000, 100_000, 7)
    assert (other.seconds, other.records_per_second, other.runs) == (5.0, 20_000, 1), "better than none"
    await ran(10_000, 10_000, 2.0)
    await ran(30_000, 28_000, 6.0)
    like = await estimate(connection, 100_000, 90_000, 7)
    assert (like.seconds, like.records_per_second, like.runs) == (20.0, 5_000, 2)
    assert (await estimate(connection, 100_000, 100, 7)).seconds == 5.0
    assert (await estimate(connection, 20, 20, 7)).runs == 3, "a small load is like a small one, too"


async def test_a_load_that_rejected_what_it_read_tells_nothing_of_how_fast_loading_is(
    connection: asyncpg.Connection[Any], index: Index, database_url: DatabaseUrl
) -> None:
    report = await load(database_url, index(source(), asset("a")))
    for rejected, wanted in ((20_000, None), (5_000, 5_000.0)):
        counts = AssetCounts(read=20_000, inserted=20_000 - rejected, rejected=rejected)
        run = msgspec.structs.replace(report, assets=counts, sources=SourceCounts(), seconds=4.0)
        await connection.execute("truncate seed_registry.runs cascade")
        await connection.execute(
            "insert into seed_registry.runs (run_id, key, indexes, outcome, report) "
            "values (gen_random_uuid()::text, '', '{}', 'done', $1::text::jsonb)",
            msgspec.json.encode(run).decode(),
        )
        assert (await estimate(connection, 100_000, 100_000, 7)).records_per_second == wanted


async def test_a_role_that_may_only_read_the_registry_can_plan(
    database_url: DatabaseUrl, connection: asyncpg.Connection[Any], index: Index, server: str
) -> None:
    path = index(source(), asset("a"))
    await load(database_url, path)
    await connection.execute(
        "drop role if exists looking; create role looking login; grant usage on schema registry to looking; "
        "grant select on all tables in schema registry to looking"
    )
    try:
        url = DatabaseUrl(database_url.reveal.replace("://registry@", "://looking@"))
        _, plan = await planned(url, index(source(), asset("b")))
    finally:
        await connection.execute("drop owned by looking; drop role looking")
    assert (plan.assets.new, plan.estimate.seconds) == (1, None)
    assert plan.missing_upstream is not None
    assert plan.missing_upstream.examples == ["a"]


@pytest.mark.slow
async def test_the_guess_of_the_write_ahead_log_is_of_the_right_size(
    database_url: DatabaseUrl, connection: asyncpg.Connection[Any], tmp_path: Path
) -> None:
    for changed in (0, 100):
        path = tmp_path / f"{changed}.json"
        path.write_bytes(b"".join(generate(Workload(records=1_000, changed=changed))))
        _, plan = await planned(database_url, str(path))
        before = await connection.fetchval("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
        await load(database_url, str(path), verify=False)
        wal = await connection.fetchval("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn") - before
        assert 0.4 < plan.estimate.wal_bytes / float(wal) < 2.5


# What is printed


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[Report], list[str]]:
    monkeypatch.setenv("COLUMNS", "80")

    def lines(report: Report) -> list[str]:
        print_result(report, Tally(), output=False)
        return capsys.readouterr().out.splitlines()

    return lines


async def test_the_plan_fits_a_terminal_and_is_calm(
    database_url: DatabaseUrl, index: Index, printed: Callable[[Report], list[str]]
) -> None:
    await load(database_url, index(source(), *(asset(f"long-key-number-{n}") for n in range(30)), asset("z")))
    changed = [asset(f"long-key-number-{n}", name="Other") for n in range(20)]
    report, _ = await planned(database_url, index(source(), source(B), *changed, *changed, b"{", asset("new", B)))
    lines = printed(report)
    assert lines[0] == "1 of 44 records would not be loaded: 1 rejected"
    assert lines[1].startswith("would load ")
    assert max(map(len, lines[3:])) <= 80
    assert not [line for line in lines if line != line.rstrip()]
    assets = lines[: lines.index("sources")]
    rows = {line.split("  ")[1]: line.split() for line in assets if line.startswith("  ") and line[2] != " "}
    assert rows["changed"][1:3] == ["20", "long-key-number-0"]
    assert rows["changed"][-1] == "…"
    assert rows["duplicate"][1] == "20"
    assert rows["missing upstream"][2:] == ["11", "long-key-number-20,", "long-key-number-21,", "…"]
    text = " ".join(lines)
    assert "A load would create 1 source, insert 1 asset and update 20 assets." in text
    assert re.search(r"It would take about \S+ s, as the last( \d+)? loads? here at \S+ records/s, and write", text)
    assert "not_json" in text


async def test_a_plan_without_changes_says_so(
    database_url: DatabaseUrl, index: Index, printed: Callable[[Report], list[str]]
) -> None:
    path = index(source(), asset("a"))
    await load(database_url, path)
    report, _ = await planned(database_url, path)
    assert "Nothing to do: a load would change nothing." in printed(report)
    assert not [line for line in printed(report) if "WAL" in line]


async def test_a_plan_says_which_declared_count_is_wrong(
    database_url: DatabaseUrl, tmp_path: Path, printed: Callable[[Report], list[str]], cli: Cli
) -> None:
    path = tmp_path / "directory.json"

    def write(**declared: int) -> str:
        datasets = [{"id": "aaaa-0001"}, {"id": "aaaa-0002"}]
        path.write_text(json.dumps({"source": "socrata", "domain": A, **declared, "datasets": datasets}))
        return str(path)

    report, plan = await planned(database_url, write(totalCount=1_234))
    assert plan.misdeclared == [Misdeclared("totalCount", 1_234, 2)]
    sentence = "The index declares totalCount 1,234, and has 2: a load's verification would fail."
    assert sentence in " ".join(printed(report))
    done = cli("plan", str(path), "--json", url=database_url)
    assert done.returncode == 0
    assert json.loads(done.stdout)["plan"]["misdeclared"] == [{"name": "totalCount", "declared": 1_234, "read": 2}]
    report, plan = await planned(database_url, write(totalCount=2))
    assert plan.misdeclared == []
    assert "declares" not in " ".join(printed(report))


async def test_an_index_that_is_broken_and_a_plan_that_knows_what_is_missing_are_told_apart(
    database_url: DatabaseUrl, index: Index, printed: Callable[[Report], list[str]]
) -> None:
    good = index(source(), asset("a"), name="good.ndjson")
    await load(database_url, index(source(), asset("a"), asset("gone"), name="before.ndjson"))
    report, _ = await planned(database_url, good)
    assert "Missing upstream: in the registry, but not in what was read. A load leaves it." in printed(report)
    bad = index(b'{"sources":[{"source_key":"x.example"}],"assets":[{"asset_key"', name="bad.json")
    with pytest.raises(IndexesFailed) as failed:
        await load(database_url, good, bad, dry_run=True, keep_going=True)
    text = " ".join(printed(failed.value.report))
    assert "What is missing upstream was not counted: an index could not be read to its end." in text
    assert "nothing was written" in text
    empty, _ = await planned(None, good)
    assert "not counted" not in " ".join(printed(empty)), "there is nothing to be missing"


async def test_a_plan_of_an_empty_index_is_nothing_to_do(
    database_url: DatabaseUrl, tmp_path: Path, printed: Callable[[Report], list[str]]
) -> None:
    path = tmp_path / "empty.json"
    path.write_bytes(b'{"sources": [], "assets": []}')
    report, plan = await planned(database_url, str(path))
    assert (plan.has_changes, plan.missing_upstream and plan.missing_upstream.count) == (False, 0)
    assert "Nothing to do: a load would change nothing." in printed(report)


async def test_hostile_keys_are_escaped_wherever_they_are_shown(
    index: Index, printed: Callable[[Report], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = ["\x1b[31mred", "\u202eover", "[bold]markup[/bold]", "line\nbreak", "\x9b31m"]
    assets = [asset(key) for key in hostile]
    report, plan = await planned(None, index(source(), *assets, *assets, *(asset(key, B) for key in hostile), b"{"))
    assert plan.assets.examples.new == sorted(hostile)
    text = "\n".join(printed(report))
    assert "\\x1b[31mred" in text
    assert all(char == "\n" or char.isprintable() for char in text)
    print_result(report, Tally(), output=True)
    data = capsys.readouterr().out
    assert data.isascii()
    assert msgspec.json.decode(data, type=Report) == report


def test_the_command_prints_the_plan_as_json(cli: Cli, index: Index) -> None:
    done = cli("plan", index(source(), asset("a")), "--json")
    assert done.returncode == 0
    plan = json.loads(done.stdout)["plan"]
    assert plan["assets"]["examples"]["new"] == ["a"]
    assert not [line for line in done.stderr.splitlines() if b'"examples"' in line], "no keys in the log"


# Keys on disk

hashes = st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 1))


@given(st.lists(st.tuples(hashes, st.integers(0, 255))), st.lists(hashes), st.integers(1, 9), st.integers(1, 5))
@hypothesis_settings(deadline=None, max_examples=50)
def test_marked_hashes_know_what_was_added_and_with_which_marks(
    added: list[tuple[int, int]], asked: list[int], block: int, page: int
) -> None:
    wanted: dict[int, int] = {}
    for value, marks in added:
        wanted[value % (1 << 56)] = wanted.get(value % (1 << 56), 0) | marks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill, "_BLOCK_HASHES", block)
        patch.setattr(spill, "_PAGE_HASHES", page)
        hashes = MarkedHashes()
        for value, marks in added:
            hashes.add(value, marks)
        assert hashes.count().total() == len(wanted)
        assert hashes.count() == {marks: list(wanted.values()).count(marks) for marks in wanted.values()}
        for _ in range(2):  # settling again changes nothing
            hashes.settle()
            for value in [*asked, *(value for value, _ in added)]:
                assert hashes.holds(value) == (value % (1 << 56) in wanted)
    hashes.close()
    hashes.close()


def test_looking_up_many_hashes_holds_one_number_a_page_in_memory() -> None:
    hashes, rng = MarkedHashes(), random.Random(1)
    values = [rng.getrandbits(64) for _ in range(20_000)]
    for value in values:
        hashes.add(value)
    hashes.settle()
    assert all(map(hashes.holds, values[::50]))
    assert not any(hashes.holds(rng.getrandbits(64)) for _ in range(500))
    assert len(hashes._firsts) == -(-len(values) // 512)
    hashes.close()
