"""The straight way into an empty table, against the staged way of all others: the same rows, the same report."""

# ruff: noqa: ASYNC110, ASYNC240  # a test may look at files and wait by polling: nothing else runs in its event loop
from __future__ import annotations

import asyncio
import json
import secrets
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from random import Random
from typing import Any, TypeAlias
from unittest.mock import patch

import anyio
import asyncpg
import msgspec
import pytest

from conftest import _database, _login, make_asset, make_source
from seed_registry import DatabaseUrl, MaxRejects, Report, Settings, ingest
from seed_registry.errors import VerificationFailed
from seed_registry.postgres.connection import session
from seed_registry.registry.batch import Batch, SourceBatch
from seed_registry.registry.ddl import apply
from seed_registry.registry.introspection import introspect
from seed_registry.registry.merge import Merger
from seed_registry.registry.staging import Staging
from seed_registry.report import AssetCounts, MergeCounts, Tally

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]

Connection: TypeAlias = "asyncpg.Connection[Any]"
Json: TypeAlias = dict[str, Any]

ROWS = """
    select to_jsonb(asset) - '{id, source_id, created_at, raw}'::text[] as fields, asset.raw::text, source_key
    from registry.assets as asset left join registry.sources as source on source.id = asset.source_id
    order by asset_key collate "C"
"""
SOURCES = """
    select to_jsonb(source) - '{id, created_at, updated_at}'::text[] from registry.sources as source
    order by source_key collate "C"
"""
VERSIONS = 'select asset_key, xmin::text, ctid::text from registry.assets order by asset_key collate "C"'
REFUSED = b'{"type":"asset","asset_key":"refused-%d","source_key":"a.org","x":1e131072}'


@pytest.fixture
async def database_url(emptied_url: DatabaseUrl) -> DatabaseUrl:
    """A database with the registry's tables, empty."""
    return emptied_url


class Ways:
    """Which way the batches of assets went, with the number of their rows, in order; those that failed as well."""

    def __init__(self) -> None:
        self.staged: list[int] = []
        self.straight: list[int] = []
        self.failed: list[int] = []  # of the straight ones
        self.order: list[str] = []


@pytest.fixture
def ways() -> Iterator[Ways]:
    """The ways that this test's batches of assets go."""
    ways = Ways()
    fill, fill_table = Staging.fill, Staging.fill_table

    async def staged(self: Staging, rows: Any) -> None:
        if self._table.relation == "assets":
            ways.staged.append(len(rows))
            ways.order.append("staged")
        await fill(self, rows)

    async def straight(self: Staging, rows: Any) -> int:
        assert self._table.relation == "assets"
        ways.order.append("straight")
        try:
            taken = await fill_table(self, rows)
        except BaseException:
            ways.failed.append(len(rows))
            raise
        ways.straight.append(len(rows))
        return taken

    with patch.multiple(Staging, fill=staged, fill_table=straight):
        yield ways


@contextmanager
def all_staged() -> Iterator[None]:
    """Nothing goes straight."""

    async def no(_: Staging) -> bool:
        return False

    with patch.object(Staging, "can_go_straight", no):
        yield


class Told:
    """Does something at the first event of a name, while the load stands still."""

    def __init__(self, event: str, meddle: Callable[[], Awaitable[Any]]) -> None:
        self._event: str | None = event
        self._meddle = meddle

    def began(self, tally: Tally) -> None:
        """The load begins."""

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Something happened."""
        if event == self._event:
            self._event = None
            thread = threading.Thread(target=lambda: asyncio.run(self._meddling()))
            thread.start()
            thread.join()

    async def _meddling(self) -> None:
        await self._meddle()


@asynccontextmanager
async def other(url: DatabaseUrl) -> AsyncIterator[Connection]:
    """A session of somebody else."""
    connection = await asyncpg.connect(url.reveal)
    try:
        yield connection
    finally:
        await connection.close()


async def run(url: DatabaseUrl, *statements: str) -> None:
    async with other(url) as connection:
        for statement in statements:
            await connection.execute(statement)


async def ask(url: DatabaseUrl, query: str) -> list[tuple[Any, ...]]:
    async with other(url) as connection:
        return [tuple(row) for row in await connection.fetch(query)]


def source(key: str = "a.org", **fields: Any) -> Json:
    return {"type": "source", "source_key": key, "name": f"Portal {key}", **fields}


def asset(key: str, source_key: str = "a.org", **fields: Any) -> Json:
    return {"type": "asset", "asset_key": key, "source_key": source_key, "name": f"Asset {key}", **fields}


def assets(count: int, **fields: Any) -> list[Json]:
    return [asset(f"{number:04}", **fields) for number in range(count)]


def index(directory: Path, *records: Json | bytes, name: str = "index.json") -> str:
    """NDJSON; bytes go in as they are."""
    path = directory / name
    lines = (record if isinstance(record, bytes) else json.dumps(record).encode() for record in records)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return str(path)


def mixed(seed: int) -> list[Json | bytes]:
    """Repeats, alike and not, moments that go backwards, rejects of us and of the database, texts of all kinds."""
    chance = Random(seed)
    records: list[Json | bytes] = [source("a.org"), source("b.org", description=f"{seed}"), b"{}", b"[1]"]
    moments = [None, "2020-01-01", "2021-06-01T12:00:00.123456Z", "2022-01-01T01:00:00+01:00", "no date"]
    for _ in range(250):
        number = chance.randrange(180) + 100 * seed
        fields = {
            "name": chance.choice([None, "one", "Zoë \U0001f600", "nul \0 inside", 'q"\\\\u0000']),
            "description": chance.choice([None, "", "\t\n\\N\\."]),
            "updated_at": chance.choice(moments),
            "more": chance.choice([1, 1.0, 1e300, {"b": [], "a": {}}, [None, True, "\u2028"]]),
        }
        records.append(asset(f"{number:04}", chance.choice(["a.org", "b.org", "b.org", "unlisted.org"]), **fields))
        if chance.random() < 0.1:
            records.append(records[-1])
    records.append(b'{"type":"asset" , "asset_key":"odd","source_key":"a.org","x":1.50,"x":-0.0e2,"y":"\\u00e9\\/"}')
    for number in range(4):
        records.insert(chance.randrange(4, len(records)), REFUSED % (number % 3))
    return records


async def loaded(url: DatabaseUrl, *paths: str, progress: Told | None = None, **settings: Any) -> Report:
    settings.setdefault("max_rejects", MaxRejects(percent=100))
    return await ingest(paths, Settings(database_url=url, **settings), progress)


async def outcome(url: DatabaseUrl, rejects: Path, *paths: str, **settings: Any) -> Json:
    """A load's report, all that it left in the tables and its rejects; but for what no two loads have in common."""
    try:
        report = await loaded(url, *paths, rejects=str(rejects), **settings)
    except VerificationFailed as exc:
        report = exc.report
    reported = msgspec.to_builtins(report)
    for name in ("run_id", "seconds", "records_per_second", "rejects_file"):
        reported.pop(name)
    refused = sorted(rejects.read_bytes().splitlines()) if rejects.exists() else []
    return {"report": reported, "assets": await ask(url, ROWS), "sources": await ask(url, SOURCES), "rejects": refused}


async def both_ways(
    url: DatabaseUrl, directory: Path, *paths: str, owner: DatabaseUrl | None = None, **settings: Any
) -> Json:
    """What a load leaves, which is the same straight and staged; the table is filled by the former."""
    with all_staged():
        staged = await outcome(url, directory / "staged.ndjson", *paths, **settings)
    await run(owner or url, "truncate registry.sources, registry.assets")
    straight = await outcome(url, directory / "straight.ndjson", *paths, **settings)
    for part, left in staged.items():
        assert straight[part] == left, part
    return straight


# --- the same ------------------------------------------------------------------------------------------------------


async def test_into_an_empty_table_assets_go_straight_and_nothing_is_staged(
    database_url: DatabaseUrl, tmp_path: Path, ways: Ways
) -> None:
    report = await loaded(database_url, index(tmp_path, source(), *assets(300)), batch_size=20)
    assert report.assets == AssetCounts(read=300, inserted=300)
    assert report.verification
    assert report.verification.passed
    assert (sum(ways.straight), ways.staged, ways.failed) == (300, [], [])
    assert len(ways.straight) == report.batches > 10


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [7, 500])
@pytest.mark.parametrize("concurrency", [1, 4, 8])
async def test_straight_and_staged_loads_leave_the_same_rows_reports_and_rejects(
    database_url: DatabaseUrl, tmp_path: Path, ways: Ways, concurrency: int, batch_size: int
) -> None:
    paths = [index(tmp_path, *mixed(seed), name=f"{seed}.json") for seed in range(3)]
    left = await both_ways(database_url, tmp_path, *paths, concurrency=concurrency, batch_size=batch_size)
    assert ways.straight
    assert left["report"]["verification"]["passed"]
    counts = left["report"]["assets"]
    assert min(counts[name] for name in ("inserted", "duplicate", "missing_source")) > 0
    assert counts["rejected"] == 3 * 6
    assert counts["inserted"] == len(left["assets"])
    reasons = [json.loads(line)["reason"] for line in left["rejects"]]
    assert reasons.count("database_refused") == 3 * 4


async def test_repeats_within_a_batch_go_straight_and_their_moments_do_not_go_backwards(
    database_url: DatabaseUrl, tmp_path: Path, ways: Ways
) -> None:
    early, late = asset("k", updated_at="2020-01-01", name="early"), asset("k", updated_at="2022-01-01", name="late")
    same = asset("same")
    path = index(tmp_path, source(), same, late, same, early, same)
    left = await both_ways(database_url, tmp_path, path, concurrency=1)
    assert (ways.straight, ways.staged, ways.failed) == ([2], [2], [])
    ((fields, _, _), _) = left["assets"]
    assert (json.loads(fields)["name"], json.loads(fields)["updated_at"][:4]) == ("early", "2022")


async def test_a_record_that_the_database_refuses_is_rejected_alone_and_its_neighbours_go_straight(
    database_url: DatabaseUrl, tmp_path: Path, ways: Ways
) -> None:
    records: list[Json | bytes] = [source(), *assets(40)]
    for position in (1, 9, 41):
        records.insert(position, REFUSED % position)
    left = await both_ways(database_url, tmp_path, index(tmp_path, *records), concurrency=1)
    assert left["report"]["assets"]["rejected"] == 3
    assert [json.loads(line)["reason"] for line in left["rejects"]] == ["database_refused"] * 3
    assert len(left["assets"]) == sum(ways.straight) == 40
    assert ways.order.count("straight") > len(ways.straight), "some were refused"


# --- conflicts -----------------------------------------------------------------------------------------------------


async def test_after_a_conflict_that_worker_stages_and_does_not_write_what_is_unchanged(
    database_url: DatabaseUrl, tmp_path: Path, ways: Ways
) -> None:
    one, two = assets(20)[:10], assets(20)[10:]
    first = index(tmp_path, source(), *one, name="first.json")
    changed = {**one[3], "name": "changed"}
    second = index(tmp_path, source(), *one[:3], changed, *one[4:], *two, *one[:5], name="second.json")
    before: list[Any] = []

    async def look() -> None:
        before.extend(await ask(database_url, VERSIONS))

    reported = Told("index_finished", look)
    report = await loaded(database_url, first, second, batch_size=10, concurrency=1, progress=reported)
    after = {key: version for key, *version in await ask(database_url, VERSIONS)}
    assert [key for key, *version in before if after[key] != version] == ["0003"]
    assert ways.order == ["straight", "straight", "staged", "staged", "staged"]
    assert (ways.straight, ways.failed, ways.staged) == ([10], [10], [1, 10, 1])
    counts = report.assets
    assert (counts.inserted, counts.duplicate, counts.read) == (20, 15, 35)


async def test_a_conflict_of_one_worker_is_no_matter_of_the_others(
    database_url: DatabaseUrl, tmp_path: Path, ways: Ways
) -> None:
    records = assets(200)
    report = await loaded(database_url, index(tmp_path, source(), *records, records[0]), batch_size=10, concurrency=4)
    assert report.assets == AssetCounts(read=201, inserted=200, duplicate=1)
    assert len(ways.failed) == 1
    assert len(ways.straight) > len(ways.staged)


async def test_a_table_that_others_filled_since_it_was_checked_gets_the_same_as_ever(
    database_url: DatabaseUrl, tmp_path: Path, ways: Ways
) -> None:
    mine, theirs = index(tmp_path, source(), *assets(60)), index(tmp_path, source(), *assets(30), name="theirs.json")

    async def fill() -> None:
        await loaded(database_url, theirs)
        await run(
            database_url, "update registry.assets set content_hash = null, name = 'other' where asset_key = '0003'"
        )

    report = await loaded(database_url, mine, batch_size=10, concurrency=1, progress=Told("index_opened", fill))
    assert report.assets == AssetCounts(read=60, inserted=30, updated=1, unchanged=29)
    assert ways.failed == [10]
    assert len(await ask(database_url, "select from registry.assets where name = 'other'")) == 0


async def test_a_table_with_rows_gets_no_straight_copy(database_url: DatabaseUrl, tmp_path: Path, ways: Ways) -> None:
    await loaded(database_url, index(tmp_path, source(), asset("other")))
    ways.straight.clear()
    report = await loaded(database_url, index(tmp_path, source(), *assets(20)), concurrency=1)
    assert report.assets.inserted == 20
    assert (ways.straight, ways.failed, ways.staged) == ([], [], [20])


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_a_key_that_another_transaction_holds_is_waited_for(
    database_url: DatabaseUrl, tmp_path: Path, ways: Ways, end: str
) -> None:
    path = index(tmp_path, source(), *assets(10))
    await run(database_url, "insert into registry.sources (provider, source_key) values ('socrata', 'a.org')")
    insert = "insert into registry.assets (asset_key, source_id) select '0004', id from registry.sources"
    async with other(database_url) as holder, anyio.create_task_group() as tasks:
        await holder.execute("begin")
        await holder.execute(insert)
        reports: list[Report] = []

        async def load() -> None:
            reports.append(await loaded(database_url, path, batch_size=10, concurrency=1))

        tasks.start_soon(load)
        await waiting(database_url)
        assert ways.order == ["straight"]
        await holder.execute(end)
    taken = end == "commit"
    assert reports[0].assets == AssetCounts(read=10, inserted=10 - taken, updated=int(taken))
    assert (ways.straight, ways.failed) == (([], [10]) if taken else ([10], []))
    assert len(await ask(database_url, "select from registry.assets where name is not null")) == 10


async def waiting(url: DatabaseUrl, sessions: int = 1) -> None:
    """Wait until this many sessions wait for a lock."""
    found = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    async with other(url) as connection:
        with anyio.fail_after(20):
            while await connection.fetchval(found) < sessions:
                await anyio.sleep(0.02)


# --- tables of others ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "alteration",
    [
        "alter raw type json",
        "alter raw type text",
        "alter updated_at type timestamp",
        "alter name type char(40)",
        "alter asset_key type char(8)",
        "alter name type citext",
    ],
)
async def test_a_column_of_another_type_than_ours_is_reason_enough_to_stage(
    database_url: DatabaseUrl, tmp_path: Path, ways: Ways, alteration: str
) -> None:
    if "citext" in alteration:
        try:
            await run(database_url, "create extension if not exists citext schema pg_catalog")
        except asyncpg.FeatureNotSupportedError:
            pytest.skip("the server has no citext")
    await run(database_url, f"alter table registry.assets {alteration}")
    path = index(tmp_path, source(), *assets(20, updated_at="2020-01-01T00:00:00Z", description="what"))
    report = await loaded(database_url, path, batch_size=5, concurrency=1)
    assert report.assets == AssetCounts(read=20, inserted=20)
    assert (ways.straight, ways.failed, ways.staged) == ([], [], [5, 5, 5, 5])


async def test_texts_of_limited_length_and_small_or_absent_columns_go_straight_all_the_same(
    database_url: DatabaseUrl, tmp_path: Path, ways: Ways
) -> None:
    await run(
        database_url,
        "alter table registry.assets alter name type varchar(8), alter updated_at type timestamptz(0), "
        "drop column description",
        "alter table registry.assets rename column raw to payload",
        "alter table registry.assets add column raw jsonb generated always as (payload) stored",
    )
    records = [asset("0"), asset("1", name="too long a name"), asset("2", name="trailed   ", updated_at="2020-01-01")]
    path = index(tmp_path, source(), *records, asset("3", name="x", updated_at="2020-01-01T00:00:00.7"))
    left = await both_ways(database_url, tmp_path, path, columns={"assets.raw": "payload"}, concurrency=1)
    assert (left["report"]["assets"]["inserted"], left["report"]["assets"]["rejected"]) == (3, 1)
    assert sum(ways.straight) == 3


@pytest.mark.parametrize("batch_size", [1, 3, 500])
async def test_another_unique_index_refuses_the_same_records_as_ever(
    database_url: DatabaseUrl, tmp_path: Path, ways: Ways, batch_size: int
) -> None:
    await run(database_url, "create unique index by_url on registry.assets (url)")
    records = [asset(f"{number:02}", url=f"https://a.org/{number % 15}") for number in range(20)]
    path = index(tmp_path, source(), *records)
    left = await both_ways(database_url, tmp_path, path, batch_size=batch_size, concurrency=1)
    assert left["report"]["assets"] | {"inserted": 15, "rejected": 5} == left["report"]["assets"]
    assert "by_url" in json.loads(left["rejects"][0])["detail"]
    assert len(ways.failed) == 1, "from then on everything is staged"


async def test_a_table_with_row_level_security_is_staged(database_url: DatabaseUrl, tmp_path: Path, ways: Ways) -> None:
    role = f"limited_{secrets.token_hex(4)}"
    await run(
        database_url,
        f"create role {role} login",
        f"grant usage on schema registry to {role}",
        f"grant select, insert, update on registry.sources, registry.assets to {role}",
        "alter table registry.assets enable row level security",
        f"create policy all_of_them on registry.assets to {role} using (true) with check (asset_key <> '0007')",
    )
    limited = DatabaseUrl(_login(database_url.reveal, role, ""))
    try:
        path = index(tmp_path, source(), *assets(7))
        left = await both_ways(limited, tmp_path, path, owner=database_url, concurrency=1)
        assert left["report"]["assets"]["inserted"] == 7
        assert (ways.straight, ways.failed, ways.staged) == ([], [7], [7, 7])
    finally:
        await run(database_url, f"drop owned by {role}", f"drop role {role}")


async def test_a_role_with_privileges_on_columns_only_goes_straight(
    database_url: DatabaseUrl, tmp_path: Path, ways: Ways
) -> None:
    role, columns = f"narrow_{secrets.token_hex(4)}", "name, url, raw, content_hash"
    ours = f"asset_key, source_id, description, updated_at, {columns}"
    theirs = f"provider, source_key, updated_at, {columns}"
    await run(
        database_url,
        f"create role {role} login",
        f"grant usage on schema registry to {role}",
        f"grant select, insert ({ours}), update ({ours}, retired_at) on registry.assets to {role}",
        f"grant select, insert ({theirs}), update ({theirs}) on registry.sources to {role}",
    )
    try:
        path = index(tmp_path, source(), *assets(7))
        url = DatabaseUrl(_login(database_url.reveal, role, ""))
        left = await both_ways(url, tmp_path, path, owner=database_url, concurrency=1)
        assert left["report"]["assets"]["inserted"] == 7
        assert (ways.straight, ways.failed, ways.staged) == ([7], [], [7])
    finally:
        await run(database_url, f"drop owned by {role}", f"drop role {role}")


TRIGGER = """
    create function registry.meddle() returns trigger language plpgsql as $$ begin
      {body}
    end $$;
    create trigger meddle before insert on registry.assets for each row execute function registry.meddle()
"""


async def test_a_trigger_that_changes_rows_changes_the_same_ones_as_ever(
    database_url: DatabaseUrl, tmp_path: Path, ways: Ways
) -> None:
    await run(database_url, TRIGGER.format(body="new.description := 'by trigger ' || new.name; return new;"))
    left = await both_ways(
        database_url, tmp_path, index(tmp_path, source(), *assets(20)), batch_size=7, verify_sample=0, concurrency=1
    )
    assert sum(ways.straight) == 20
    assert "by trigger Asset 0003" in left["assets"][3][0]


async def test_a_trigger_that_keeps_rows_out_is_counted_as_ever(
    database_url: DatabaseUrl, tmp_path: Path, ways: Ways
) -> None:
    await run(database_url, TRIGGER.format(body="if new.asset_key = '0003' then return null; end if; return new;"))
    left = await both_ways(
        database_url, tmp_path, index(tmp_path, source(), *assets(20)), batch_size=7, verify_sample=0, concurrency=1
    )
    assert len(left["assets"]) == 19


async def test_a_pooler_in_between_is_no_reason_to_stage(database_url: DatabaseUrl, tmp_path: Path, ways: Ways) -> None:
    left = await both_ways(database_url, tmp_path, index(tmp_path, source(), *assets(20)), pooler="transaction")
    assert left["report"]["assets"]["inserted"] == 20
    assert sum(ways.straight) == 20
    assert ways.failed == []


@pytest.mark.parametrize("is_empty", [False, True], ids=["staged", "straight"])
async def test_two_loads_of_the_same_keys_do_not_deadlock_whatever_the_collation(server: str, is_empty: bool) -> None:
    name = f"linguistic_{secrets.token_hex(4)}"
    async with other(DatabaseUrl(server)) as connection:
        try:
            await connection.execute(
                f"create database {name} template template0 locale_provider icu icu_locale 'en' locale 'C'"
            )
        except asyncpg.PostgresError:
            pytest.skip("the server has no linguistic collation")
        try:
            counts = await opposed(DatabaseUrl(_database(server, name)), is_empty=is_empty)
        finally:
            await connection.execute(f"drop database {name} with (force)")
    assert sum(count.inserted for count in counts) == 3


async def opposed(url: DatabaseUrl, *, is_empty: bool) -> list[MergeCounts]:
    """Two merges: by code point B, K, a; to people a, B, K. One has to wait for K while the other is in between."""
    counts: list[MergeCounts] = []
    async with other(url) as holder, session(url) as first, session(url) as second:
        await apply(holder)
        mergers = [Merger(connection, await introspect(holder)) for connection in (first, second)]
        for merger in mergers:
            await merger.prepare(is_empty=is_empty and merger is mergers[0])
        _, ids = await mergers[1].write_sources(SourceBatch([make_source()]))

        async def merge(merger: Merger, *keys: str) -> None:
            counts.append(await merger.write(Batch([make_asset(key) for key in keys], ids)))

        await holder.execute("begin")
        await holder.execute("insert into registry.assets (asset_key, source_id) select 'K', id from registry.sources")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(merge, mergers[0], "B", "K", "a")
            await waiting(url)
            tasks.start_soon(merge, mergers[1], "B", "a")
            await waiting(url, 2)
            await holder.execute("rollback")
    return counts


# --- the session of a straight load --------------------------------------------------------------------------------


async def test_jsonb_of_a_session_that_copies_straight_reads_as_text(connection: Connection) -> None:
    tables = await introspect(connection)
    merger = Merger(connection, tables)
    await merger.prepare(is_empty=True)
    _, ids = await merger.write_sources(SourceBatch([make_source()]))
    raw = '{"a": "\u00e9\u2028", "b": [1.50, -0.0, 1e-7, 123456789012345678901234567890], "a": null}'.encode()
    await merger.write(Batch([make_asset("a", raw=raw)], ids))
    query = "select raw, raw::text as text, raw = $1 as same, $1::jsonb as back from registry.assets"
    row = await connection.fetchrow(query, raw)
    assert row is not None
    assert row["raw"] == row["text"] == row["back"]
    assert row["same"]
    assert await connection.fetchval("select array['1'::jsonb, null]") == ["1", None]
    assert await connection.fetchval("select raw->'a' from registry.assets") == "null"
