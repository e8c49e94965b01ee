"""Merging: batches into their tables, and what a dry run says of it."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeAlias

import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from conftest import _clone, compare_assets, make_asset, make_source, source_rows
from seed_registry.dry_run.collector import PlanCollector
from seed_registry.dry_run.writer import DryRunWriter
from seed_registry.errors import SchemaMissing, SettingsInvalid
from seed_registry.postgres.connection import session
from seed_registry.postgres.session_settings import READ_ONLY
from seed_registry.records import Asset, SourceRow
from seed_registry.registry.batch import Batch, SourceBatch
from seed_registry.registry.ddl import apply
from seed_registry.registry.introspection import introspect
from seed_registry.registry.merge import Merger
from seed_registry.registry.upsert import upsert_assets, upsert_sources
from seed_registry.report import MergeCounts
from seed_registry.settings import DatabaseUrl

pytestmark = pytest.mark.anyio

Connection: TypeAlias = "asyncpg.Connection[Any]"

DAY = [datetime(2024, 1, day, tzinfo=UTC) for day in range(1, 9)]


@pytest.fixture
def database_url(emptied_url: DatabaseUrl) -> DatabaseUrl:
    """The module's database, its tables made anew."""
    return emptied_url


async def prepared(connection: Connection, *, full: bool = False) -> Merger:
    merger = Merger(connection, await introspect(connection), full=full)
    await merger.prepare()
    return merger


@pytest.fixture
async def ids(connection: Connection) -> dict[str, Any]:
    """The ids of two sources that exist."""
    return await upsert_sources(connection, [make_source(), make_source("b.org")])


@pytest.fixture
def rows(ids: dict[str, Any]) -> dict[str, SourceRow]:
    """The rows of two sources that exist."""
    return source_rows(ids)


@pytest.fixture
async def merger(connection: Connection) -> Merger:
    return await prepared(connection)


async def row(connection: Connection, key: str) -> dict[str, Any]:
    record = await connection.fetchrow("select * from registry.assets where asset_key = $1", key)
    assert record is not None
    return dict(record)


async def versions(connection: Connection, table: str = "assets") -> list[Any]:
    """The physical versions of a table's rows: a write or a lock of any would show."""
    rows = await connection.fetch(
        f"select tableoid, xmin::text, xmax::text, ctid::text from registry.{table} order by tableoid, ctid"
    )
    return [tuple(version) for version in rows]


async def written(connection: Connection) -> tuple[int, int, int]:
    """What Postgres itself counted for this session's table: rows inserted, updated, deleted."""
    await connection.execute("select pg_stat_force_next_flush()")
    record = await connection.fetchrow(
        "select sum(n_tup_ins)::int, sum(n_tup_upd)::int, sum(n_tup_del)::int from pg_stat_user_tables "
        "where schemaname = 'registry' and relname like 'assets%'"
    )
    assert record is not None
    return tuple(record)


# --- counts -------------------------------------------------------------------------------------------------------


async def test_every_record_of_a_batch_is_counted_once(merger: Merger, rows: dict[str, SourceRow]) -> None:
    first = [make_asset("a"), make_asset("b"), make_asset("c")]
    assert await merger.write(Batch(first, rows)) == MergeCounts(inserted=3)
    second = [
        make_asset("b", name="new"),
        make_asset("c"),
        make_asset("d"),
        make_asset("d", name="last"),
        make_asset("c"),
    ]
    assert await merger.write(Batch(second, rows)) == MergeCounts(inserted=1, updated=1, unchanged=1, duplicate=2)


async def test_an_empty_batch_is_nothing(merger: Merger) -> None:
    assert await merger.write(Batch([], {})) == MergeCounts()
    assert await merger.write_sources(SourceBatch([])) == (MergeCounts(), {})


async def test_the_last_of_a_key_wins(merger: Merger, connection: Connection, rows: dict[str, SourceRow]) -> None:
    await merger.write(Batch([make_asset("a", name=name) for name in ("one", "two", "three")], rows))
    assert (await row(connection, "a"))["name"] == "three"


async def test_a_batch_larger_than_any_is_merged_whole(
    merger: Merger, connection: Connection, rows: dict[str, SourceRow]
) -> None:
    many = [make_asset(f"{number:05}", description="x" * 500) for number in range(5000)]
    random.Random(1).shuffle(many)
    assert await merger.write(Batch(many, rows)) == MergeCounts(inserted=5000)
    assert await merger.write(Batch(many, rows)) == MergeCounts(unchanged=5000)


async def test_fields_follow_the_record_and_so_does_its_source(
    merger: Merger, connection: Connection, rows: dict[str, SourceRow]
) -> None:
    await merger.write(Batch([make_asset("a", name="n", description="d", url="u")], rows))
    before = await row(connection, "a")
    assert await merger.write(Batch([make_asset("a", "b.org", description="new")], rows)) == MergeCounts(updated=1)
    after = await row(connection, "a")
    assert (after["name"], after["description"], after["url"], after["source_id"]) == (
        None,
        "new",
        None,
        rows["b.org"].id,
    )
    assert (after["id"], after["created_at"]) == (before["id"], before["created_at"])
    assert after["content_hash"] != before["content_hash"]


@pytest.mark.parametrize(
    "change", [{"name": "x"}, {"description": "x"}, {"url": "x"}, {"updated_at": DAY[2]}, {"raw": b"[]"}]
)
@pytest.mark.parametrize("full", [False, True])
async def test_one_field_that_differs_is_an_update(
    change: dict[str, Any], full: bool, connection: Connection, rows: dict[str, SourceRow]
) -> None:
    merger = await prepared(connection, full=full)
    changed = make_asset("a", **{"raw": b"{}"} | change)
    await merger.write(Batch([make_asset("a", raw=b"{}")], rows))
    assert await merger.write(Batch([changed], rows)) == MergeCounts(updated=1)
    assert await merger.write(Batch([changed], rows)) == MergeCounts(unchanged=1)


# --- moments ------------------------------------------------------------------------------------------------------


async def test_a_moment_never_goes_backwards(
    merger: Merger, connection: Connection, rows: dict[str, SourceRow]
) -> None:
    for moment, wanted in [(DAY[3], DAY[3]), (DAY[1], DAY[3]), (None, DAY[3]), (DAY[5], DAY[5])]:
        await merger.write(Batch([make_asset("a", name=str(moment), updated_at=moment)], rows))
        found = await row(connection, "a")
        assert (found["updated_at"], found["name"]) == (wanted, str(moment))


async def test_an_earlier_moment_alone_is_no_change(
    merger: Merger, connection: Connection, rows: dict[str, SourceRow]
) -> None:
    await merger.write(Batch([make_asset("a", updated_at=DAY[3], raw=b"{}")], rows))
    earlier = [make_asset("a", updated_at=DAY[1], raw=b"{}")]
    assert await merger.write(Batch(earlier, rows)) == MergeCounts(unchanged=1)
    assert await connection.fetchval("select updated_at from registry.assets") == DAY[3]
    before = await versions(connection)
    assert await merger.write(Batch(earlier, rows)) == MergeCounts(unchanged=1)
    full = await prepared(connection, full=True)
    assert await full.write(Batch(earlier, rows)) == MergeCounts(unchanged=1)
    # an upsert that found nothing to write may have locked the row, but wrote no other version of it
    assert [version[::2] for version in await versions(connection)] == [version[::2] for version in before]


@pytest.mark.parametrize("held", [[], [make_asset("a", updated_at=DAY[1])]])
async def test_the_greatest_moment_of_a_key_is_kept_whatever_the_batches(
    held: list[Asset], connection: Connection, rows: dict[str, SourceRow], merger: Merger
) -> None:
    records = [make_asset("a", updated_at=moment) for moment in (DAY[2], DAY[5], None, DAY[1])]
    stored = []
    for size in (1, 2, 4):
        await connection.execute("truncate registry.assets")
        await merger.write(Batch(held, rows))
        for start in range(0, len(records), size):
            await merger.write(Batch(records[start : start + size], rows))
        found = await row(connection, "a")
        stored.append((found["updated_at"], found["raw"]))
    assert stored == [(DAY[5], stored[0][1])] * 3


async def test_moments_without_a_zone_are_kept_in_utc_whatever_the_session(
    plain_connection: Connection,
) -> None:
    await plain_connection.execute("alter table registry.assets alter updated_at type timestamp")
    await plain_connection.execute("set timezone to 'Asia/Tokyo'")
    ids = await upsert_sources(plain_connection, [make_source()])
    await upsert_assets(plain_connection, [make_asset("a", updated_at=DAY[1])], ids, provider="socrata")
    assert (await row(plain_connection, "a"))["updated_at"] == DAY[1].replace(tzinfo=None)
    await plain_connection.execute("set timezone to 'America/New_York'")
    merger = await prepared(plain_connection, full=True)
    assert await merger.write(Batch([make_asset("a", updated_at=DAY[1])], source_rows(ids))) == MergeCounts(unchanged=1)
    assert await compare_assets(merger, [make_asset("a", updated_at=DAY[1])], source_rows(ids)) == {}


# --- unchanged ----------------------------------------------------------------------------------------------------


async def test_other_bytes_of_the_same_values_are_unchanged_and_only_their_hash_is_written_once(
    merger: Merger, connection: Connection, rows: dict[str, SourceRow]
) -> None:
    await merger.write(Batch([make_asset("a", raw=b'{"x":1,"y":[1,2]}'), make_asset("b")], rows))
    before = await connection.fetch("select * from registry.assets order by asset_key")
    respelled = [make_asset("a", raw=b'{ "y" : [1, 2],\n"x": 1 }'), make_asset("b")]
    assert await merger.write(Batch(respelled, rows)) == MergeCounts(unchanged=2)
    assert await written(connection) == (2, 1, 0)
    after = await connection.fetch("select * from registry.assets order by asset_key")
    assert [{**row, "content_hash": None} for row in after] == [{**row, "content_hash": None} for row in before]
    assert [row["content_hash"] for row in after] == [asset.content_hash for asset in respelled]
    renewed = await versions(connection)
    assert await merger.write(Batch(respelled, rows)) == MergeCounts(unchanged=2)
    assert await versions(connection) == renewed


async def test_a_trigger_that_takes_no_update_of_an_equal_row_stops_nothing(
    merger: Merger, connection: Connection, rows: dict[str, SourceRow]
) -> None:
    await merger.write(Batch([make_asset("a", raw=b'{"x":1}')], rows))
    await connection.execute(
        "create function registry.freeze() returns trigger language plpgsql as 'begin raise exception ''frozen''; end';"
        "create trigger frozen before update on registry.assets for each row execute function registry.freeze()"
    )
    before = await connection.fetch("select * from registry.assets")
    respelled = [make_asset("a", raw=b'{ "x": 1 }'), make_asset("b")]
    assert await merger.write(Batch(respelled, rows)) == MergeCounts(unchanged=1, inserted=1)
    assert await connection.fetch("select * from registry.assets where asset_key = 'a'") == before


@pytest.mark.parametrize("lengths", [(16, 16), (32, 32), (16, 32), (0, 0)])
async def test_hashes_of_any_length_and_keys_with_any_character_tell_what_is_held(
    merger: Merger, connection: Connection, rows: dict[str, SourceRow], lengths: tuple[int, int]
) -> None:
    keys = ["a", "a\x1fb", "\x1f", "b,c", "\n"]
    records = [
        msgspec.structs.replace(make_asset(key), content_hash=bytes([number]) * lengths[number % 2])
        for number, key in enumerate(keys)
    ]
    await merger.write(Batch(records, rows))
    before = await versions(connection)
    assert await merger.write(Batch(records, rows)) == MergeCounts(unchanged=5)
    assert await versions(connection) == before or len(set(lengths)) > 1  # then the upsert may lock them
    changed = msgspec.structs.replace(records[1], name="changed", content_hash=b"x" * lengths[1])
    assert await merger.write(Batch([records[0], changed, *records[2:]], rows)) == MergeCounts(
        updated=0 if lengths == (0, 0) else 1, unchanged=5 if lengths == (0, 0) else 4
    )


async def test_unchanged_records_write_nothing(
    merger: Merger, connection: Connection, rows: dict[str, SourceRow]
) -> None:
    records = [make_asset(str(number)) for number in range(100)]
    await merger.write(Batch(records, rows))
    counted, before = await written(connection), await versions(connection)
    assert counted == (100, 0, 0)
    assert await merger.write(Batch(records, rows)) == MergeCounts(unchanged=100)
    assert await written(connection) == counted
    assert await versions(connection) == before


async def test_only_what_changed_is_written(merger: Merger, connection: Connection, rows: dict[str, SourceRow]) -> None:
    await merger.write(Batch([make_asset(str(number)) for number in range(100)], rows))
    before = set(await versions(connection))
    records = [make_asset(str(number), **({"name": "new"} if number == 42 else {})) for number in range(100)]
    assert await merger.write(Batch(records, rows)) == MergeCounts(updated=1, unchanged=99)
    assert len(before & set(await versions(connection))) == 99
    assert await written(connection) == (100, 1, 0)


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("full", [False, True])
async def test_unchanged_rows_are_not_locked(
    hashed: bool, full: bool, connection: Connection, plain_connection: Connection, rows: dict[str, SourceRow]
) -> None:
    records = [make_asset("a"), make_asset("b")]
    sources = [make_source(), make_source("b.org")]
    if not hashed:  # records that the caller made
        records = [msgspec.structs.replace(asset, content_hash=None) for asset in records]
        sources = [msgspec.structs.replace(source, content_hash=None) for source in sources]
    merger = await prepared(connection, full=full)
    await merger.write(Batch(records, rows))
    async with plain_connection.transaction():
        await plain_connection.execute("select from registry.assets for update")
        await plain_connection.execute("select from registry.sources for update")
        await connection.execute("set lock_timeout to '100ms'")
        assert await merger.write(Batch(records, rows)) == MergeCounts(unchanged=2)
        assert await merger.write_sources(SourceBatch(sources)) == (MergeCounts(unchanged=2), rows)
        with pytest.raises(asyncpg.LockNotAvailableError):
            await merger.write(Batch([make_asset("a", name="changed")], rows))
    assert await merger.write(Batch([make_asset("a", name="changed")], rows)) == MergeCounts(updated=1)


async def test_a_row_edited_by_hand_is_repaired_by_a_full_merge(
    merger: Merger, connection: Connection, rows: dict[str, SourceRow]
) -> None:
    records = [make_asset("a", name="right"), make_asset("b", name="right")]
    await merger.write(Batch(records, rows))
    await connection.execute("update registry.assets set name = 'wrong' where asset_key = 'a'")
    assert await merger.write(Batch(records, rows)) == MergeCounts(unchanged=2)
    assert (await row(connection, "a"))["name"] == "wrong"
    assert await compare_assets(merger, records, rows) == {"a": ["name"]}
    full = await prepared(connection, full=True)
    assert await full.write(Batch(records, rows)) == MergeCounts(updated=1, unchanged=1)
    assert (await row(connection, "a"))["name"] == "right"
    assert await compare_assets(full, records, rows) == {}


async def test_a_row_deleted_by_hand_is_inserted_again(
    merger: Merger, connection: Connection, rows: dict[str, SourceRow]
) -> None:
    records = [make_asset("a"), make_asset("b")]
    await merger.write(Batch(records, rows))
    await connection.execute("delete from registry.assets where asset_key = 'a'")
    assert await compare_assets(merger, records, rows) == {
        "a": ["source_id", "name", "description", "url", "updated_at", "raw"]
    }
    assert await merger.write(Batch(records, rows)) == MergeCounts(inserted=1, unchanged=1)


# --- raw ----------------------------------------------------------------------------------------------------------

RAWS = {
    "digits of numbers": b'{"a": 1.10, "b": 0.1000000000000000055511151231257827}',
    "big numbers": b'{"a": 123456789012345678901234567890, "b": 1e400, "c": 18446744073709551616}',
    "a key twice": b'{"a": 1, "b": 2, "a": 3}',
    "unicode": '{"ä": "日本語 \U0001f600", "\\u00e4": "\\ud83d\\ude00"}'.encode(),
    "a literal backslash": rb'{"a": "\\u0000", "b": "\\\\u0000", "\\u0000": 1}',
    "control characters": rb'{"a": "\u0001\u001f\n\t\u007f"}',
    "COPY's own marks": rb'{"a": "\\N", "b": "\\.", "c": "\t,\""}',
    "nothing": b"{}",
    "empty key": b'{"": {"": []}}',
    "depth": b"[" * 60 + b"]" * 60,
    "length": b'{"a": "' + b"x" * 300_000 + b'"}',
}


@pytest.mark.parametrize("name", RAWS)
async def test_raw_is_stored_exactly(
    name: str, merger: Merger, connection: Connection, rows: dict[str, SourceRow]
) -> None:
    raw = RAWS[name]
    await merger.write(Batch([make_asset("a", raw=raw)], rows))
    stored = (await row(connection, "a"))["raw"]
    # a Decimal knows its digits: 1.10 is not 1.1
    assert _exactly(json.loads(stored, parse_float=Decimal)) == _exactly(json.loads(raw, parse_float=Decimal))
    again = await prepared(connection, full=True)
    assert await again.write(Batch([make_asset("a", raw=raw)], rows)) == MergeCounts(unchanged=1)


def _exactly(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _exactly(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_exactly(item) for item in value]
    return format(value, "f") if isinstance(value, Decimal) else repr(value)


TEXTS = [
    "",
    " ",
    "\\N",
    "\\.",
    "a\tb\nc\rd",
    "'; drop table registry.assets; --",
    "\x01\x7f",
    "\ufeff",
    "日本語\U0001f600",
    "{}",
]


async def test_texts_are_stored_exactly(merger: Merger, connection: Connection, rows: dict[str, SourceRow]) -> None:
    records = [make_asset(f"key {text}", name=text, description=text, url=text) for text in TEXTS]
    await merger.write(Batch(records, rows))
    for text in TEXTS:
        found = await row(connection, f"key {text}")
        assert (found["name"], found["description"], found["url"]) == (text, text, text)
    assert await merger.write(Batch(records, rows)) == MergeCounts(unchanged=len(TEXTS))


# --- sources ------------------------------------------------------------------------------------------------------


async def test_a_source_tells_when_it_changed(merger: Merger, connection: Connection) -> None:
    async def moments() -> dict[str, datetime]:
        return dict(await connection.fetch("select source_key, updated_at from registry.sources"))

    await merger.write_sources(SourceBatch([make_source("a"), make_source("b")]))
    first = await moments()
    await merger.write_sources(SourceBatch([make_source("a", "renamed"), make_source("b")]))
    second = await moments()
    assert second["a"] > first["a"]
    assert second["b"] == first["b"]


async def test_ids_are_returned_for_new_changed_and_unchanged_sources(merger: Merger) -> None:
    _, first = await merger.write_sources(SourceBatch([make_source("a"), make_source("b")]))
    counts, second = await merger.write_sources(
        SourceBatch([make_source("c"), make_source("a", "x"), make_source("a", "renamed"), make_source("b")])
    )
    assert counts == MergeCounts(inserted=1, updated=1, unchanged=1, duplicate=1)
    assert second.keys() == {"a", "b", "c"}
    assert {key: second[key] for key in ("a", "b")} == first


async def test_a_source_is_found_by_its_key_whatever_its_provider(merger: Merger, connection: Connection) -> None:
    _, ours = await merger.write_sources(SourceBatch([make_source("a")]))
    changed = SourceBatch([make_source("a", "renamed", provider="ckan"), make_source("b")])
    counts, theirs = await merger.write_sources(changed)
    assert counts == MergeCounts(inserted=1, updated=1)
    assert theirs["a"] == ours["a"]
    assert await merger.find_sources(["a", "c"]) == ours
    assert await connection.fetchval("select name from registry.sources where source_key = 'a'") == "renamed"


async def test_where_keys_alone_are_unique_a_source_keeps_its_provider(connection: Connection) -> None:
    await connection.execute(
        "alter table registry.sources drop constraint sources_provider_source_key_key, add unique (source_key)"
    )
    merger = await prepared(connection)
    _, ours = await merger.write_sources(SourceBatch([make_source("a")]))
    counts, theirs = await merger.write_sources(SourceBatch([make_source("a", "renamed", provider="ckan")]))
    assert (counts, theirs) == (MergeCounts(updated=1), ours)
    counts, theirs = await merger.write_sources(SourceBatch([make_source("a", "renamed", provider="ckan", raw=b"{}")]))
    assert (counts, theirs) == (MergeCounts(updated=1), ours)
    assert theirs["a"].provider == "socrata"


async def test_a_loser_of_a_race_for_a_source_does_not_change_its_provider(
    connection: Connection, database_url: DatabaseUrl
) -> None:
    """Both found no such source; the second waits for the first, and then meets its row."""
    await connection.execute(
        "alter table registry.sources drop constraint sources_provider_source_key_key, add unique (source_key)"
    )
    async with session(database_url) as other:
        await connection.execute("begin")
        await connection.execute("insert into registry.sources (provider, source_key) values ('socrata', 'a')")
        loser = asyncio.create_task(upsert_sources(other, [make_source("a", "renamed", provider="ckan")]))
        await asyncio.sleep(0.3)
        await connection.execute("commit")
        await loser
    row = await connection.fetchrow("select provider, name from registry.sources where source_key = 'a'")
    assert tuple(row or ()) == ("socrata", "renamed")


@pytest.mark.parametrize("read_only", [False, True], ids=["load", "dry run"])
async def test_of_two_sources_of_a_key_the_operator_names_one(connection: Connection, *, read_only: bool) -> None:
    await connection.execute(
        "insert into registry.sources (provider, source_key) values ('socrata', 'a'), ('ckan', 'a'), ('ckan', 'b')"
    )
    tables = await introspect(connection)

    def writer(provider: str | None) -> Merger | DryRunWriter:
        if read_only:
            return DryRunWriter(connection, tables, PlanCollector(), provider=provider)
        return Merger(connection, tables, provider=provider)

    for provider in (None, "junar"):
        with pytest.raises(SettingsInvalid, match=r"2 sources a, of the providers ckan, socrata\n.*--provider ckan"):
            await writer(provider).find_sources(["b", "a"])
        with pytest.raises(SettingsInvalid, match="--provider"):
            await writer(provider).write_sources(SourceBatch([make_source("a")]))
        assert (await writer(provider).find_sources(["b"]))["b"].provider == "ckan"
    for provider in ("ckan", "socrata"):
        counts, rows = await writer(provider).write_sources(SourceBatch([make_source("a", provider, provider="ckan")]))
        assert counts == MergeCounts(updated=1)
        assert rows["a"].provider == provider
    stored = await connection.fetch("select provider, name from registry.sources where source_key = 'a'")
    assert {tuple(row) for row in stored} == {(name, None if read_only else name) for name in ("ckan", "socrata")}


async def test_assets_have_the_provider_of_their_source(connection: Connection) -> None:
    await connection.execute(
        "alter table registry.assets drop constraint assets_asset_key_key, add column provider text not null,"
        "  add unique (provider, asset_key)"
    )
    merger = await prepared(connection)
    _, rows = await merger.write_sources(SourceBatch([make_source("a"), make_source("b", provider="ckan")]))
    assert await merger.write(Batch([make_asset("x", "a"), make_asset("x", "b")], rows)) == MergeCounts(inserted=2)
    held = await connection.fetch("select provider, source_id from registry.assets")
    assert {tuple(row) for row in held} == {("socrata", rows["a"].id), ("ckan", rows["b"].id)}


async def test_concurrent_loads_of_the_same_new_sources_agree_on_their_ids(database_url: DatabaseUrl) -> None:
    sources = [make_source(f"{number}.org") for number in range(50)]

    async def load(seed: int) -> dict[str, Any]:
        async with session(database_url) as connection:
            return await upsert_sources(connection, random.Random(seed).sample(sources, len(sources)))

    first, *others = await asyncio.gather(*(load(seed) for seed in range(4)))
    assert len(set(first.values())) == 50
    assert all(other == first for other in others)


# --- any connection -----------------------------------------------------------------------------------------------

HOSTILE = """
create schema evil;
create function evil.now() returns timestamptz language sql as $$ select timestamptz '1970-01-01' $$;
create function evil.convert_from(bytea, text) returns text language sql as $$ select '"hijacked"' $$;
create function evil.lower(text) returns text language sql as $$ select 'hijacked' $$;
create function evil.timezone(text, timestamptz) returns timestamp language sql as $$ select timestamp '1970-01-01' $$;
create function evil.unnest(anyarray) returns setof anyelement language sql as $$ select null limit 0 $$;
create aggregate evil.count(*) (sfunc = int8inc, stype = int8, initcond = '1000');
create domain evil.jsonb as pg_catalog.jsonb check (value = '{}');
create domain evil.bytea as pg_catalog.bytea check (pg_catalog.length(value) = 0);
create domain evil.timestamptz as pg_catalog.timestamptz check (value < '1970-01-01');
create domain evil.int8 as pg_catalog.int8 check (value < 0);
create table evil.assets (like registry.assets);
create temporary table assets (like registry.assets);
create temporary table sources (like registry.sources);
set search_path to evil, pg_catalog;
"""


async def test_nothing_in_the_callers_search_path_is_taken_for_ours(plain_connection: Connection) -> None:
    await plain_connection.execute(HOSTILE)
    ids = await upsert_sources(plain_connection, [make_source("data.example.org", "Name")])
    records = [make_asset("aaaa-0001", name="name", updated_at=DAY[1]), make_asset("aaaa-0002")]
    assert await upsert_assets(plain_connection, records, ids, provider="socrata") == MergeCounts(inserted=2)
    changed = [make_asset("aaaa-0001", name="other", updated_at=DAY[2]), make_asset("aaaa-0002")]
    assert await upsert_assets(plain_connection, changed, ids, provider="socrata") == MergeCounts(
        updated=1, unchanged=1
    )
    merger = await prepared(plain_connection, full=True)
    assert await merger.write(Batch(changed, source_rows(ids))) == MergeCounts(unchanged=2)
    assert await compare_assets(merger, changed, source_rows(ids)) == {}
    found = await row(plain_connection, "aaaa-0001")
    assert (found["name"], found["updated_at"], found["raw"]) == ("other", DAY[2], found["raw"])
    assert json.loads(found["raw"])["name"] == "other"
    assert await plain_connection.fetchval("select max(updated_at) from registry.sources") > DAY[1]
    for table in ("pg_temp.assets", "pg_temp.sources", "evil.assets"):
        assert not await plain_connection.fetch(f"select from {table}")


async def test_the_callers_session_is_left_as_it_was(plain_connection: Connection) -> None:
    async def settings_() -> Any:
        # asyncpg itself turns JIT off and on again where it looks at types
        return await plain_connection.fetch(
            "select name, setting from pg_settings where source = 'session' and name <> 'jit'"
        )

    await plain_connection.execute("set search_path to public; set timezone to 'Asia/Tokyo'")
    before = await settings_()
    ids = await upsert_sources(plain_connection, [make_source()])
    await upsert_assets(plain_connection, [make_asset("a")], ids, provider="socrata")
    assert await settings_() == before
    assert not plain_connection.is_in_transaction()


async def test_upserts_take_part_in_the_callers_transaction(
    plain_connection: Connection, connection: Connection
) -> None:
    async with plain_connection.transaction():
        ids = await upsert_sources(plain_connection, [make_source()])
        assert await upsert_assets(plain_connection, [make_asset("a")], ids, provider="socrata") == MergeCounts(
            inserted=1
        )
        # the second finds an empty staging table, though nothing was committed
        assert await upsert_assets(plain_connection, [make_asset("b")], ids, provider="socrata") == MergeCounts(
            inserted=1
        )
        changed = [make_asset("a", name="changed"), make_asset("b"), make_asset("c")]
        assert await upsert_assets(plain_connection, changed, ids, provider="socrata") == MergeCounts(
            inserted=1, updated=1, unchanged=1
        )
        again = [make_asset("a", name="changed again")]
        assert await upsert_assets(plain_connection, again, ids, provider="socrata") == MergeCounts(updated=1)
        assert await upsert_sources(plain_connection, [make_source("b.org")]) == {"b.org": ids["data.example.org"] + 1}
        assert not await connection.fetch("select from registry.assets")
    assert len(await connection.fetch("select from registry.assets")) == 3


async def test_the_callers_rollback_undoes_upserts(plain_connection: Connection) -> None:
    transaction = plain_connection.transaction()
    await transaction.start()
    ids = await upsert_sources(plain_connection, [make_source()])
    await upsert_assets(plain_connection, [make_asset("a")], ids, provider="socrata")
    await transaction.rollback()
    assert not await plain_connection.fetch("select from registry.assets")
    assert not await plain_connection.fetch("select from registry.sources")
    ids = await upsert_sources(plain_connection, [make_source()])
    assert await upsert_assets(plain_connection, [make_asset("a")], ids, provider="socrata") == MergeCounts(inserted=1)


async def test_a_refusal_inside_the_callers_transaction_undoes_only_itself(plain_connection: Connection) -> None:
    async with plain_connection.transaction():
        ids = await upsert_sources(plain_connection, [make_source()])
        await upsert_assets(plain_connection, [make_asset("a")], ids, provider="socrata")
        with pytest.raises(asyncpg.PostgresError):
            await upsert_assets(
                plain_connection, [make_asset("b"), make_asset("c", raw=b"no JSON")], ids, provider="socrata"
            )
        assert await upsert_assets(plain_connection, [make_asset("d")], ids, provider="socrata") == MergeCounts(
            inserted=1
        )
    keys = await plain_connection.fetch("select asset_key from registry.assets order by 1")
    assert [key for (key,) in keys] == ["a", "d"]


async def test_an_asset_of_an_unknown_source_is_a_key_error(plain_connection: Connection) -> None:
    ids = await upsert_sources(plain_connection, [make_source()])
    with pytest.raises(KeyError, match=r"unknown\.org"):
        await upsert_assets(
            plain_connection, [make_asset("a"), make_asset("b", "unknown.org")], ids, provider="socrata"
        )
    assert not await plain_connection.fetch("select from registry.assets")


async def test_upserts_without_tables_say_how_to_create_them(bare_database_url: DatabaseUrl) -> None:
    async with session(bare_database_url) as connection:
        with pytest.raises(SchemaMissing, match="seed-registry schema apply"):
            await upsert_sources(connection, [make_source()])


REFUSED = {
    "23505": (make_asset("b", name="taken"), asyncpg.UniqueViolationError),
    "23514": (make_asset("b", name="forbidden"), asyncpg.CheckViolationError),
    "22P05": (make_asset("b", raw=rb'{"a": "\u0000"}'), asyncpg.UntranslatableCharacterError),
    "22P02": (make_asset("b", raw=rb'{"a": "\ud800"}'), asyncpg.InvalidTextRepresentationError),
    "22021": (make_asset("b", raw=b'{"a": "\xff"}'), asyncpg.CharacterNotInRepertoireError),
    "22021 in a text": (make_asset("b", name="a\0b"), asyncpg.CharacterNotInRepertoireError),
    "22003": (make_asset("b", raw=b'{"a": 1e200000}'), asyncpg.NumericValueOutOfRangeError),
    "54001": (make_asset("b", raw=b"[" * 50_000 + b"]" * 50_000), asyncpg.StatementTooComplexError),
    "54000": (make_asset("b" + "".join(map(chr, range(0x4E00, 0x6E00)))), asyncpg.ProgramLimitExceededError),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_record_that_the_database_refuses_leaves_nothing_and_a_usable_session(
    case: str, merger: Merger, connection: Connection, rows: dict[str, SourceRow]
) -> None:
    if case == "23505":
        await connection.execute("create unique index on registry.assets (name)")
    await connection.execute("alter table registry.assets add check (name <> 'forbidden')")
    asset, error = REFUSED[case]
    await merger.write(Batch([make_asset("held", name="taken")], rows))
    with pytest.raises(error) as raised:
        await merger.write(Batch([make_asset("a"), asset, make_asset("c")], rows))
    assert raised.value.sqlstate == case[:5]
    assert len(await connection.fetch("select from registry.assets")) == 1
    assert await merger.write(Batch([make_asset("a"), make_asset("c")], rows)) == MergeCounts(inserted=2)


async def test_a_source_that_is_gone_is_refused_by_the_foreign_key(merger: Merger) -> None:
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await merger.write(Batch([make_asset("a")], source_rows({"data.example.org": 12345})))


# --- concurrency --------------------------------------------------------------------------------------------------


async def test_concurrent_merges_of_the_same_keys_do_not_deadlock(
    database_url: DatabaseUrl, rows: dict[str, SourceRow]
) -> None:
    keys = [f"{number:03}" for number in range(120)]

    async def load(seed: int) -> dict[str, set[str | None]]:
        chance = random.Random(seed)
        wrote: dict[str, set[str | None]] = {key: set() for key in keys}
        async with session(database_url) as connection:
            merger = await prepared(connection)
            for batch in range(30):
                records = [make_asset(key, name=f"{seed} {batch}") for key in chance.sample(keys, 60)]
                counts = await merger.write(Batch(records, rows))
                assert counts.inserted + counts.updated == 60
                for record in records:
                    wrote[record.key].add(record.name)
        return wrote

    wrote = await asyncio.gather(*(load(seed) for seed in range(4)))
    async with session(database_url) as connection:
        found = dict(await connection.fetch("select asset_key, name from registry.assets"))
    assert found.keys() == set(keys)
    assert all(any(found[key] in worker[key] for worker in wrote) for key in keys)


# --- the model ----------------------------------------------------------------------------------------------------

KEYED = {
    ("asset_key",): "add unique (asset_key)",
    ("provider", "asset_key"): "add provider text, add unique (provider, asset_key)",
    ("source_id", "asset_key"): "add unique (source_id, asset_key)",
}
SOURCES = ["a.org", "b.org"]
OWN_KEYS = "ab"


@pytest.fixture(scope="module", params=KEYED, ids=", ".join)
def keyed_url(request: pytest.FixtureRequest, server: str) -> Iterator[tuple[DatabaseUrl, tuple[str, ...]]]:
    """A database whose assets have this upsert key, for all examples."""

    async def make() -> None:
        connection = await asyncpg.connect(url.reveal)
        await apply(connection)
        await connection.execute(
            f"alter table registry.assets drop constraint assets_asset_key_key, {KEYED[request.param]}"
        )
        await connection.close()

    with _clone(server, "template0") as url:
        asyncio.run(make())
        yield url, request.param


@pytest.fixture
async def keyed(
    keyed_url: tuple[DatabaseUrl, tuple[str, ...]],
) -> AsyncIterator[tuple[Connection, tuple[str, ...]]]:
    url, key = keyed_url
    async with session(url) as connection:
        yield connection, key


record = st.builds(
    lambda key, source, name, moment, raw: make_asset(
        key, source, name=name, updated_at=moment, raw=raw, own_key=key in OWN_KEYS
    ),
    st.sampled_from("abcd"),
    st.sampled_from(SOURCES),
    st.sampled_from([None, "", "one", "two"]),
    st.sampled_from([None, *DAY[:3]]),
    st.sampled_from([b"{}", b'{"x": 1}']),
)
batches = st.lists(st.tuples(st.lists(record, max_size=6), st.booleans(), st.booleans()), max_size=6)


def place_of(asset: Asset, key: tuple[str, ...]) -> Any:
    """What the table tells the asset from others by."""
    return (asset.source_key, asset.key) if "source_id" in key else asset.key


def parted(batch: Sequence[Asset], held: dict[Any, Any], key: tuple[str, ...]) -> tuple[list[Asset], list[Asset]]:
    """The assets that are taken, one after the other, and those whose key another source has, which is its own."""
    owners = {at: row[0] for at, row in held.items()}
    taken: list[Asset] = []
    rejected: list[Asset] = []
    for asset in batch:
        at = place_of(asset, key)
        if asset.own_key and owners.get(at, asset.source_key) != asset.source_key:
            rejected.append(asset)
        else:
            owners[at] = asset.source_key
            taken.append(asset)
    return taken, rejected


def model(batch: Sequence[Asset], held: dict[Any, Any], key: tuple[str, ...]) -> dict[Any, Any]:
    """What a table becomes: the last of a key wins, its moment is the greatest."""
    table = dict(held)
    for asset in batch:
        at = place_of(asset, key)
        moments = [moment for moment in (asset.updated_at, table.get(at, [None])[-1]) if moment]
        table[at] = (asset.source_key, asset.name, asset.raw, max(moments, default=None))
    return table


def stays(batch: Sequence[Asset], held: dict[Any, Any], key: tuple[str, ...]) -> set[Any]:
    """Where the last record of a batch would change a row, and is older than that."""
    last = {place_of(asset, key): asset for asset in batch}
    return {
        at
        for at, asset in last.items()
        if at in held and (asset.source_key, asset.name, asset.raw) != held[at][:3]
        if asset.updated_at and held[at][-1] and asset.updated_at < held[at][-1]
    }


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=batches)
async def test_any_batches_leave_what_the_model_says(
    batches: list[tuple[list[Asset], bool, bool]], keyed: tuple[Connection, tuple[str, ...]]
) -> None:
    connection, key = keyed
    await connection.execute("truncate registry.assets")
    tables = await introspect(connection)
    assert tables.assets.key == key
    sources = source_rows(await upsert_sources(connection, [make_source(source) for source in SOURCES]))
    held: dict[Any, Any] = {}
    for number, (batch, full, only_newer) in enumerate(batches):
        merger = Merger(connection, tables, full=full, only_newer=only_newer)
        await merger.prepare(is_empty=number == 0)
        planner = DryRunWriter(connection, tables, PlanCollector(), full=full, only_newer=only_newer)
        planned = await planner.write(Batch(batch, sources))
        counts = await merger.write(Batch(batch, sources))
        taken, rejected = parted(batch, held, key)
        assert [reject.data for reject in counts.rejects] == [asset.raw for asset in rejected]
        assert [reject.data for reject in planned.rejects] == [asset.raw for asset in rejected]
        counts = replace(counts, rejects=())
        assert counts == replace(planned, rejects=())
        if only_newer:  # the last record of a row decides alone
            last = stays(taken, held, key)
            known = {at: asset for asset in taken if (at := place_of(asset, key)) in held}
            new = [asset for asset in taken if place_of(asset, key) not in held]
            duplicate = len(taken) - len(new) - len(known)
            taken = [*new, *(asset for at, asset in known.items() if at not in last)]
            expected = expected_counts(taken, held, key)
            expected = replace(expected, older=len(last), duplicate=expected.duplicate + duplicate)
        else:
            expected = expected_counts(taken, held, key)
        assert counts == expected
        held = model(taken, held, key)
    rows = await connection.fetch(
        "select source_key, asset_key, assets.name, assets.raw, assets.updated_at "
        "from registry.assets join registry.sources on source_id = sources.id"
    )
    found = {
        (source, asset) if "source_id" in key else asset: (source, name, raw.encode(), moment)
        for source, asset, name, raw, moment in rows
    }
    assert found == held


def expected_counts(batch: list[Asset], held: dict[Any, Any], key: tuple[str, ...]) -> MergeCounts:
    merged = model(batch, {}, key)
    outcomes: dict[str, Any] = {"inserted": 0, "updated": 0, "unchanged": 0, "duplicate": len(batch) - len(merged)}
    outcomes["updated_by_older"] = 0
    for at, (source, name, raw, moment) in merged.items():
        if at not in held:
            outcomes["inserted"] += 1
        else:
            latest = max((m for m in (moment, held[at][-1]) if m), default=None)
            is_equal = held[at] == (source, name, raw, latest)
            outcomes["unchanged" if is_equal else "updated"] += 1
            outcomes["updated_by_older"] += bool(not is_equal and moment and held[at][-1] and moment < held[at][-1])
    return MergeCounts(**outcomes)


# --- planning -----------------------------------------------------------------------------------------------------


async def test_a_plan_of_sources_counts_what_a_merge_would(connection: Connection, database_url: DatabaseUrl) -> None:
    _, ids = await (await prepared(connection)).write_sources(SourceBatch([make_source("a"), make_source("b")]))
    records = [make_source("c"), make_source("c", "twice"), make_source("b", "renamed"), make_source("a")]
    planner = DryRunWriter(connection, await introspect(connection), PlanCollector())
    counts, planned = await planner.write_sources(SourceBatch(records))
    assert counts == MergeCounts(inserted=1, updated=1, unchanged=1, duplicate=1)
    assert planned == {**ids, "c": SourceRow(None, "socrata")}
    assert (await (await prepared(connection)).write_sources(SourceBatch(records)))[0] == counts


async def test_a_plan_writes_nothing_and_needs_no_right_to(database_url: DatabaseUrl, connection: Connection) -> None:
    ids = await upsert_sources(connection, [make_source()])
    await upsert_assets(connection, [make_asset("a")], ids, provider="socrata")
    before = await versions(connection), await versions(connection, "sources")
    async with session(database_url, READ_ONLY) as reader:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await reader.execute("delete from registry.assets")
        planner = DryRunWriter(reader, await introspect(reader), PlanCollector())
        counts, planned = await planner.write_sources(SourceBatch([make_source(name="new"), make_source("b.org")]))
        assert counts == MergeCounts(inserted=1, updated=1)
        records = [make_asset("a", name="new"), make_asset("b"), make_asset("c", "b.org")]
        assert await planner.write(Batch(records, planned)) == MergeCounts(inserted=2, updated=1)
        assert not await reader.fetch("select from pg_class where relnamespace = pg_my_temp_schema()")
    assert (await versions(connection), await versions(connection, "sources")) == before


async def test_a_plan_of_an_asset_that_moves_to_a_new_source_is_an_update(
    connection: Connection, ids: dict[str, Any], rows: dict[str, SourceRow]
) -> None:
    await upsert_assets(connection, [make_asset("a"), make_asset("b")], ids, provider="socrata")
    planner = DryRunWriter(connection, await introspect(connection), PlanCollector())
    counts = await planner.write(
        Batch([make_asset("a", "new.org"), make_asset("b")], {**rows, "new.org": SourceRow(None, "socrata")})
    )
    assert counts == MergeCounts(updated=1, unchanged=1)


async def test_a_plan_tells_assets_of_different_new_sources_apart(
    connection: Connection, ids: dict[str, Any], rows: dict[str, SourceRow]
) -> None:
    """Where the same key under two sources is two assets, also if neither source exists yet."""
    await connection.execute(
        "alter table registry.assets drop constraint assets_asset_key_key, add unique (source_id, asset_key)"
    )
    await upsert_assets(connection, [make_asset("a")], ids, provider="socrata")
    new = PlanCollector()
    planner = DryRunWriter(connection, await introspect(connection), new)
    records = [make_asset("a", source) for source in ("c.org", "d.org", "data.example.org", "b.org", "c.org")]
    counts = await planner.write(
        Batch(records, {**rows, "c.org": SourceRow(None, "socrata"), "d.org": SourceRow(None, "socrata")})
    )
    assert counts == MergeCounts(inserted=3, unchanged=1, duplicate=1)
    assert new.new.count() == 3


async def test_a_plan_without_a_database_compares_with_an_empty_registry() -> None:
    new = PlanCollector()
    planner = DryRunWriter(None, None, new)
    counts, rows = await planner.write_sources(SourceBatch([make_source("a"), make_source("b"), make_source("a")]))
    assert (counts, rows) == (MergeCounts(inserted=2, duplicate=1), source_rows({"a": None, "b": None}))
    assert await planner.find_sources(["a"]) == {}
    records = [make_asset("x", "a"), make_asset("y", "b"), make_asset("x", "a")]
    assert await planner.write(Batch(records, rows)) == MergeCounts(inserted=2, duplicate=1)
    assert await planner.write(Batch([make_asset("y", "a")], rows)) == MergeCounts(inserted=1)
    assert new.new.count() == 2
