"""Partitioned tables: a load does with them what it does with plain ones, on servers with and without `old`."""

from __future__ import annotations

import asyncio
import random
import re
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest
from local_engine import load_by_shards
from msgspec import to_builtins
from site_of_assets import ALL, A, B, C, Site, asset, assets, bad_number, source

from conftest import Cli, make_asset, make_source, source_rows
from partitions import by_hash, partitioned
from seed_registry import DatabaseUrl, KeyPart, Report, Settings
from seed_registry.changes import undo as undo_module
from seed_registry.changes.undo_report import UndoIncomplete
from seed_registry.changes.undo_run import undo
from seed_registry.doctor.database import check_database
from seed_registry.errors import DatabaseRefused, SchemaMismatch
from seed_registry.postgres.connection import session
from seed_registry.registry import ddl, introspection
from seed_registry.registry.batch import Batch
from seed_registry.registry.digest import digest
from seed_registry.registry.introspection import introspect
from seed_registry.registry.merge import Merger
from seed_registry.registry.staging import Staging
from seed_registry.registry.upgrade import Upgrade, find_upgrade
from seed_registry.registry.upsert import upsert_sources
from seed_registry.report import Digest, MergeCounts
from seed_registry.settings import MaxRejects
from seed_registry.verify.audit import audit

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]

Connection: TypeAlias = "asyncpg.Connection[Any]"

PART = "create table registry.assets_{} partition of registry.assets {};"
BY_SOURCE = (
    partitioned("list (source_id)").replace("(asset_key)", "(source_id, asset_key)")
    + PART.format("first", "for values in (1)")
    + PART.format("default", "default")
)
SHAPES = {
    "by hash": by_hash(4),
    "by hash, with partitions of two sizes": partitioned("hash (asset_key)")
    + PART.format("a", "for values with (modulus 2, remainder 1)")
    + PART.format("b", "for values with (modulus 4, remainder 0)")
    + PART.format("c", "for values with (modulus 4, remainder 2)"),
    "by hash, one of them divided by ranges": partitioned("hash (asset_key)")
    + PART.format("a", "for values with (modulus 2, remainder 0)")
    + PART.format("b", "for values with (modulus 2, remainder 1) partition by range (asset_key)")
    + "create table registry.low partition of registry.assets_b for values from (minvalue) to ('b');"
    "create table registry.high partition of registry.assets_b for values from ('b') to (maxvalue);",
    "by source, for keys of each": BY_SOURCE,
    "both": by_hash(3)
    + "alter table registry.assets drop constraint assets_source_id_fkey; drop table registry.sources;"
    "create table registry.sources (id bigint not null default nextval('registry.ids'), provider text not null, "
    "source_key text not null, name text, url text, raw jsonb not null default '{}', content_hash bytea, "
    "created_at timestamptz not null default now(), updated_at timestamptz not null default now(), "
    "primary key (provider, source_key)) partition by hash (source_key);"
    "create table registry.sources_0 partition of registry.sources for values with (modulus 2, remainder 0);"
    "create table registry.sources_1 partition of registry.sources for values with (modulus 2, remainder 1);",
}
VERSIONS = """
select tableoid::regclass::text, xmin::text, ctid::text, asset_key from registry.assets
union all select tableoid::regclass::text, xmin::text, ctid::text, source_key from registry.sources order by 1, 2, 3, 4
"""


@pytest.fixture(params=["the server's way", "the way of older servers"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have new rows told from others as a server before 18 needs it, too."""
    if request.param != "the server's way":
        monkeypatch.setattr(introspection, "_RETURNS_OLD", (1_000,))


@pytest.fixture
async def site(workshop_url: DatabaseUrl, tmp_path: Path) -> Site:
    """A registry whose assets have no row, and no partition yet."""
    site = Site(workshop_url, tmp_path)
    await execute(site, "drop schema if exists registry, seed_registry cascade")
    async with session(site.url) as connection:
        await ddl.apply(connection)
    await execute(site, "create sequence registry.ids")
    return site


@pytest.fixture
async def plain(bare_database_url: DatabaseUrl, tmp_path: Path) -> Site:
    """Another registry, whose tables are plain."""
    async with session(bare_database_url) as connection:
        await ddl.apply(connection)
    return Site(bare_database_url, tmp_path)


async def execute(site: Site, statements: str) -> None:
    connection = await asyncpg.connect(site.url.reveal)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()


async def digest_of(site: Site) -> Digest:
    async with session(site.url) as connection:
        return await digest(connection, await introspect(connection))


def outcome(report: Report) -> dict[str, Any]:
    """What a load did, or would do, with records."""
    found = to_builtins(report)
    return {name: found[name] for name in ("sources", "assets")}


async def both(plain: Site, site: Site, *indexes: str, **settings: Any) -> dict[str, Any]:
    """Load into both, with a plan before; compare what they say, and what is in them."""
    for dry_run in (True, False):
        expected = outcome(await plain.load(*indexes, dry_run=dry_run, **settings))
        assert outcome(await site.load(*indexes, dry_run=dry_run, **settings)) == expected
    assert await digest_of(site) == await digest_of(plain)
    return expected


# --- loads --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.sampled(2)
async def test_loads_do_with_a_partitioned_table_what_they_do_with_a_plain_one(
    shape: str, site: Site, plain: Site
) -> None:
    await execute(site, SHAPES[shape])
    if shape == "by source, for keys of each":
        await execute(plain, "alter table registry.assets drop constraint assets_asset_key_key")
        await execute(plain, "alter table registry.assets add unique (source_id, asset_key)")
    keys = range(60)
    listed = [source(key) for key in (A, B, C)]
    first = site.write(*listed, *assets(keys), *assets(keys, B), bad_number("x"), *assets([3, 4], name="again"))
    done = await both(plain, site, first, max_rejects=MaxRejects(percent=100))
    assert (done["assets"]["inserted"], done["assets"]["duplicate"], done["assets"]["rejected"]) == (120, 2, 1)
    before = await site.do(VERSIONS)
    done = await both(plain, site, first)
    assert done["assets"]["unchanged"] == 120
    assert await site.do(VERSIONS) == before
    changed = site.write(
        *listed, *assets(range(20, 60)), *assets(range(60, 80)), *assets(range(5), B, name="new"), asset("c1", C)
    )
    done = await both(plain, site, changed, retire=True, max_retire=ALL)
    found = {name: done["assets"][name] for name in ("inserted", "updated", "retired", "unchanged")}
    assert found == {"inserted": 21, "updated": 5, "retired": 75, "unchanged": 40}
    assert (await audit([changed], Settings(database_url=site.url))).verification.passed
    done = await both(plain, site, first, full=True)  # by value, and those that were retired are listed again
    assert (done["assets"]["returned"], done["assets"]["updated"]) == (75, 5)
    moved = site.write(*listed, *assets(range(10), updated_at="2024-05-05T00:00:00Z"))
    await both(plain, site, moved)
    older = site.write(*listed, *assets(range(12), name="older", updated_at="2023-05-05T00:00:00Z"))
    done = await both(plain, site, older, only_newer=True)
    assert (done["assets"]["older"], done["assets"]["updated"]) == (10, 2)
    part = await both(plain, site, site.write(*listed, *assets(range(30), name="part")), keys=KeyPart.parse("1/2"))
    assert 0 < part["assets"]["updated"] < 30


async def test_a_first_load_is_copied_straight(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await execute(site, by_hash(4))
    straight: list[int] = []
    fill_table = Staging.fill_table

    async def noted(self: Staging, rows: Any) -> int:
        straight.append(len(rows))
        return await fill_table(self, rows)

    monkeypatch.setattr(Staging, "fill_table", noted)
    report = await site.load(site.write(source(A), *assets(range(40))))
    assert (report.assets.inserted, sum(straight)) == (40, 40)
    assert len(await site.do("select distinct tableoid from registry.assets")) == 4


async def test_two_processes_load_what_one_loads(site: Site, plain: Site) -> None:
    await execute(site, by_hash(4))
    for number in range(3):
        listed = [*assets(range(number, 90), name=f"N{number}"), *assets(range(number, 90), B), *assets(range(5))]
        index = Path(site.write(source(A), source(B), *listed))
        settings: dict[str, Any] = {"batch_size": 7, "retire": True, "max_retire": ALL}
        one = await plain.load(str(index), **settings)
        many = await load_by_shards(index, Settings(database_url=site.url, **settings), shard_bytes=2_000, seed=number)
        assert outcome(many)["assets"] == outcome(one)["assets"]
        assert await digest_of(site) == await digest_of(plain)


@pytest.mark.usefixtures("way")
async def test_an_index_is_left_in_place_with_a_notice_where_it_could_be_deferred(site: Site, cli: Cli) -> None:
    await execute(site, by_hash(2))
    done = cli("load", site.write(source(A), asset("a1")), "--defer-indexes", "--log-format", "json", url=site.url)
    assert (done.returncode, b"registry.assets is partitioned" in done.stderr) == (0, True)
    assert len(await site.do("select from pg_indexes where tablename = 'assets'")) == 2


# --- concurrency --------------------------------------------------------------------------------------------------


async def blocked(site: Site) -> None:
    """Wait until a session waits for a lock."""
    for _ in range(500):
        if (await site.do("select count(*) from pg_locks where not granted"))[0][0]:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody waits")


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("history", [False, True])
@pytest.mark.parametrize("ends", ["equal", "other", "rolled back"])
@pytest.mark.sampled(4)
async def test_keys_that_another_session_inserts_meanwhile_are_counted_as_what_they_are(
    ends: str, history: bool, site: Site
) -> None:
    await execute(site, by_hash(4))
    held = [asset(f"held{number}") for number in range(20)]
    await site.load(site.write(source(A), *held), history=history)
    index = site.write(source(A), *held[:5], *(asset(f"k{number:02}", name="N") for number in range(30)))
    other = await asyncpg.connect(site.url.reveal)
    transaction = other.transaction()
    await transaction.start()
    await other.execute(
        "insert into registry.assets (asset_key, source_id, name) "
        "select 'k' || n, 1, $1 from generate_series(10, 14) n",
        "N" if ends == "equal" else "M",
    )
    async with asyncio.TaskGroup() as tasks:
        load = tasks.create_task(site.load(index, batch_size=100, history=history, verify_sample=0))
        await blocked(site)
        await (transaction.rollback() if ends == "rolled back" else transaction.commit())
    await other.close()
    counts = load.result().assets
    inserted = 30 if ends == "rolled back" else 25
    assert (counts.inserted, counts.updated, counts.unchanged) == (inserted, 30 - inserted, 5)  # of others no raw
    assert await site.do("select count(*) from registry.assets where name = 'N'") == [(30,)]
    if history:
        kinds = (
            "select kind, count(*) from seed_registry.changes where key <> '{}' and run_id = $1 group by 1 order by 1"
        )
        recorded = [(kind, count) for kind, count in (("inserted", inserted), ("updated", 30 - inserted)) if count]
        assert await site.do(kinds, load.result().run_id) == [*recorded][: len(recorded)]


@pytest.mark.usefixtures("way")
async def test_concurrent_merges_of_the_same_keys_count_each_row_once(site: Site) -> None:
    await execute(site, by_hash(4))
    async with session(site.url) as connection:
        ids = await upsert_sources(connection, [make_source()])
    rows, keys = source_rows(ids), [f"{number:03}" for number in range(120)]

    async def load(seed: int) -> int:
        chance, inserted = random.Random(seed), 0
        async with session(site.url) as connection:
            merger = Merger(connection, await introspect(connection), full=False)
            await merger.prepare()
            for batch in range(20):
                records = [make_asset(key, name=f"{seed} {batch}") for key in chance.sample(keys, 30)]
                counts = await merger.write(Batch(records, rows))
                assert counts == MergeCounts(inserted=counts.inserted, updated=30 - counts.inserted)
                inserted += counts.inserted
        return inserted

    assert sum(await asyncio.gather(*(load(seed) for seed in range(4)))) == await site.count()


# --- history ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("way")
@pytest.mark.sampled(2)
@pytest.mark.parametrize("shape", ["by hash", "by hash, one of them divided by ranges", "by source, for keys of each"])
async def test_runs_are_recorded_and_taken_back(shape: str, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await execute(site, SHAPES[shape])
    monkeypatch.setattr(undo_module, "_BLOCKS", 1)
    listed = [source(A), source(B)]
    long = {"description": "word " * 300}
    empty = await digest_of(site)
    first = await site.load(site.write(*listed, *assets(range(90), **long), *assets(range(90), B)), history=True)
    after_first = await digest_of(site)
    changed = site.write(*listed, *assets(range(10, 100), name="new"), *assets(range(90), B))
    second = await site.load(changed, history=True, retire=True, max_retire=ALL)
    assert (second.assets.updated, second.assets.inserted, second.assets.retired) == (80, 10, 10)
    settings = Settings(database_url=site.url, batch_size=7)
    report = await undo(second.run_id, settings)
    assert (report.assets.restored, report.assets.deleted, report.assets.conflicts) == (90, 10, 0)
    assert await digest_of(site) == after_first
    report = await undo(first.run_id, settings)
    assert (report.assets.deleted, report.assets.conflicts) == (180, 0)
    assert await digest_of(site) == empty
    assert report.run_id is not None
    report = await undo(report.run_id, settings)
    assert report.assets.inserted == 180
    assert await digest_of(site) == after_first


async def test_undo_leaves_rows_alone_to_which_others_refer_in_one_partition(site: Site) -> None:
    await execute(site, by_hash(1))
    report = await site.load(site.write(source(A), *assets(range(9))), history=True)
    await execute(
        site,
        "create table registry.notes (about text references registry.assets_0 (asset_key));"
        "insert into registry.notes values ('a0004')",
    )
    for dry_run in (True, False):
        with pytest.raises(UndoIncomplete) as left:
            await undo(report.run_id, Settings(database_url=site.url, dry_run=dry_run))
        assert (left.value.report.assets.deleted, left.value.report.assets.conflicts) == (8, 1)
    assert await site.do("select asset_key from registry.assets") == [("a0004",)]


# --- what is refused ----------------------------------------------------------------------------------------------

FOREIGN = (
    partitioned("hash (asset_key)").replace(", add unique (asset_key)", "")
    + "alter table registry.assets drop constraint assets_source_id_fkey;"
    + PART.format("0", "for values with (modulus 2, remainder 0)")
    + "create foreign data wrapper away_{0}; create server away_{0} foreign data wrapper away_{0};"
    "create foreign table registry.away partition of registry.assets for values with (modulus 2, remainder 1) "
    "server away_{0};"
)
REFUSED = {
    "a missing hash partition": (
        by_hash(4) + "drop table registry.assets_1, registry.assets_2",
        r"registry.assets lacks 2 of its hash partitions: their records would be refused\nrun: create table",
    ),
    "a missing partition of a partition": (
        partitioned("hash (asset_key)")
        + PART.format("a", "for values with (modulus 2, remainder 0)")
        + PART.format("b", "for values with (modulus 2, remainder 1) partition by hash (asset_key)")
        + "create table registry.low partition of registry.assets_b for values with (modulus 2, remainder 0)",
        "lacks 1 of its hash partitions.*\nrun: create table registry.assets_b_2_1 partition of registry.assets_b ",
    ),
    "no hash partition": (partitioned("hash (asset_key)"), "lacks 1 of its hash partitions"),
    "no partition": (partitioned("range (asset_key)"), r"registry.assets has no partitions\nrun: create table"),
    "published partitions without an identity": (
        by_hash(2) + "create publication {0} for table registry.assets",
        r"registry.assets is published, and partitions of it have no replica identity",
    ),
    "published as a whole, without an identity": (
        by_hash(2) + "create publication {0} for table registry.assets with (publish_via_partition_root)",
        r"registry.assets is published, and partitions of it have no replica identity",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
async def test_a_table_that_would_refuse_records_is_refused_with_the_statement_that_mends_it(
    case: str, site: Site
) -> None:
    made, message = REFUSED[case]
    await execute(site, made.format(f"p{random.randrange(10**9)}"))
    index = site.write(source(A), *assets(range(50)))
    with pytest.raises(SchemaMismatch, match=message) as refused:
        await site.load(index)
    assert str(refused.value).count("\n") == 1
    await execute(site, re.split("run:", str(refused.value))[-1])
    assert (await site.load(index)).assets.inserted == 50
    assert (await site.load(site.write(source(A), *assets(range(50), name="N")))).assets.updated == 50


async def test_a_partition_that_is_a_foreign_table_is_refused(site: Site) -> None:
    await execute(site, FOREIGN.format(f"w{random.randrange(10**9)}"))
    with pytest.raises(SchemaMismatch, match="has partitions that are foreign tables") as refused:
        await site.load(site.write(source(A)))
    await execute(site, re.split("run:", str(refused.value))[-1])
    with pytest.raises(SchemaMismatch, match="lacks 1 of its hash partitions"):
        await site.load(site.write(source(A)))


async def test_a_partition_that_is_being_detached_counts_as_missing(site: Site) -> None:
    await execute(site, by_hash(2))
    reader, owner = [await asyncpg.connect(site.url.reveal) for _ in range(2)]
    transaction = reader.transaction()
    await transaction.start()
    await reader.fetch("select from registry.assets")
    await owner.execute("set statement_timeout = '300ms'")
    with pytest.raises(asyncpg.QueryCanceledError):
        await owner.execute("alter table registry.assets detach partition registry.assets_1 concurrently")
    await transaction.rollback()
    for connection in (reader, owner):
        await connection.close()
    with pytest.raises(SchemaMismatch, match="lacks 1 of its hash partitions") as refused:
        await site.load(site.write(source(A)))
    await execute(site, re.split("run:", str(refused.value))[-1])
    assert (await site.load(site.write(source(A), *assets(range(9))))).assets.inserted == 9


@pytest.mark.parametrize("by", ["hash (created_at)", "range (lower(asset_key))", "list (source_id)"])
async def test_a_table_whose_key_cannot_be_unique_is_refused_with_the_columns(by: str, site: Site) -> None:
    await execute(
        site,
        partitioned(by).replace(", add unique (asset_key)", "")
        + PART.format("0", "for values with (modulus 1, remainder 0)" if "hash" in by else "default"),
    )
    if "list" in by:
        with pytest.raises(SchemaMismatch, match="no unique index that an upsert could go by"):
            await site.load(site.write(source(A)))
    else:
        with pytest.raises(SchemaMismatch, match=r"is partitioned by (created_at|an expression): .*\npartition it by"):
            await site.load(site.write(source(A)))


# --- what is rejected, or warned of -------------------------------------------------------------------------------


async def test_records_that_no_partition_takes_are_rejected_with_what_to_do_and_loaded_when_one_does(
    site: Site, cli: Cli
) -> None:
    await execute(site, partitioned("range (asset_key)") + PART.format("a", "for values from ('a') to ('b')"))
    index = site.write(source(A), source(B), *assets(range(30)), *assets(range(3), B))
    done = cli("schema", "check", url=site.url)
    assert b"registry.assets has no default partition" in done.stdout
    report = await site.load(index, max_rejects=MaxRejects(records=3))
    assert (report.assets.inserted, report.assets.rejected) == (30, 3)
    rejects = Path(str(report.rejects_file)).read_text()  # noqa: ASYNC240
    assert rejects.count("create a partition that takes it, or a default one, then load again") == 3
    async with session(site.url) as connection:
        (caution,) = (await introspect(connection)).assets.cautions
        await connection.execute(caution.fix)
        assert (await introspect(connection)).assets.cautions == []
    assert (await site.load(index)).assets.inserted == 3


async def test_a_table_that_takes_none_of_the_records_stops_the_load(site: Site) -> None:
    await execute(site, partitioned("range (asset_key)") + PART.format("z", "for values from ('z') to ('zz')"))
    with pytest.raises(DatabaseRefused, match="create a partition that takes it, or a default one"):
        await site.load(site.write(source(A), *assets(range(30))))
    assert await site.count() == 0


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("records", [2, 30])
async def test_a_record_that_breaks_the_index_of_one_partition_is_rejected_alone(records: int, site: Site) -> None:
    """Also where a row like those that are there, or a made-up one, would be refused, too."""
    await execute(site, by_hash(1) + "create unique index on registry.assets_0 (name)")
    await execute(site, "alter table registry.assets add check (name like 'N%')")
    names = [f"N{number % (records - 1)}" for number in range(records)]
    index = site.write(source(A), *(asset(f"k{number}", name=name) for number, name in enumerate(names)))
    report = await site.load(index)
    assert (report.assets.inserted, report.assets.rejected) == (records - 1, 1)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("partitions", [1, 32])
async def test_a_check_by_which_all_partitions_refuse_records_stops_the_load(partitions: int, site: Site) -> None:
    await execute(site, by_hash(partitions) + "alter table registry.assets add check (created_at < '2000-01-01')")
    with pytest.raises(DatabaseRefused, match="the database refuses every record"):
        await site.load(site.write(source(A), *assets(range(3))))


async def test_unlogged_partitions_and_triggers_of_partitions_are_warned_of_with_the_statement(site: Site) -> None:
    await execute(
        site,
        by_hash(2) + "alter table registry.assets_1 set unlogged;"
        "create function registry.meddle() returns trigger language plpgsql as 'begin return null; end';"
        "create trigger meddle before insert on registry.assets_0 for each row execute function registry.meddle()",
    )
    async with session(site.url) as connection:
        tables = await introspect(connection)
        assert (tables.is_unlogged, tables.assets.has_insert_triggers) == (True, True)
        unlogged, triggers = tables.assets.cautions
        assert (unlogged.event, triggers.event) == ("unlogged_tables", "triggers")
        for caution in (unlogged, triggers):
            await connection.execute(caution.fix.partition(" for a load")[0])
        tables = await introspect(connection)
        assert (tables.is_unlogged, tables.assets.cautions) == (False, [])


async def test_triggers_of_a_partition_that_is_divided_itself_are_seen(site: Site) -> None:
    await execute(
        site,
        SHAPES["by hash, one of them divided by ranges"]
        + "create function registry.meddle() returns trigger language plpgsql as 'begin return new; end';"
        "create trigger meddle before insert on registry.assets_b for each row execute function registry.meddle()",
    )
    async with session(site.url) as connection:
        tables = await introspect(connection)
        assert tables.assets.has_insert_triggers
        (caution,) = tables.assets.cautions
        assert caution.event == "triggers"
        await connection.execute(caution.fix.partition(" for a load")[0])
        tables = await introspect(connection)
        assert (tables.assets.has_insert_triggers, tables.assets.cautions) == (False, [])


async def test_rows_that_the_trigger_of_a_partition_keeps_out_are_rejected(site: Site) -> None:
    await execute(
        site,
        by_hash(1) + "create function registry.keep() returns trigger language plpgsql as "
        "$$ begin if new.name = 'no' then return null; end if; return new; end $$;"
        "create trigger keep before insert or update on registry.assets_0 "
        "for each row execute function registry.keep()",
    )
    index = site.write(source(A), *(asset(f"k{n}", name="no" if n == 3 else "yes") for n in range(9)))
    report = await site.load(index, verify_sample=0)
    assert (report.assets.inserted, report.assets.rejected) == (8, 1)


@pytest.mark.usefixtures("way")
async def test_records_that_a_trigger_refuses_with_an_error_that_names_no_table_are_rejected(site: Site) -> None:
    await execute(
        site,
        by_hash(2) + "create function registry.refuse() returns trigger language plpgsql as "
        "$$ begin if new.name = 'no' then raise 'no' using errcode = '23514'; end if; return new; end $$;"
        "create trigger refuse before insert or update on registry.assets "
        "for each row execute function registry.refuse()",
    )
    index = site.write(source(A), *(asset(f"k{n}", name="no" if n == 3 else "yes") for n in range(9)))
    report = await site.load(index, verify_sample=0)
    assert (report.assets.inserted, report.assets.rejected) == (8, 1)
    rejects = Path(str(report.rejects_file)).read_text()  # noqa: ASYNC240
    assert "partition" not in rejects


async def test_an_upgrade_leaves_a_partitioned_table_to_its_owner(site: Site) -> None:
    await execute(site, by_hash(2) + "alter table registry.assets drop column retired_at")
    async with session(site.url) as connection:
        upgrade = await find_upgrade(connection)
        assert (len(upgrade.statements), len(upgrade.foreign)) == (0, 1)
        await connection.execute(upgrade.foreign[0])
        assert await find_upgrade(connection) == Upgrade([], [])


async def test_doctor_tells_how_the_partitions_store_rows_and_what_a_role_lacks(site: Site) -> None:
    await execute(site, by_hash(3) + "alter table registry.assets_1 alter column raw set storage external")
    findings = await check_database(site.url, {}, "registry", "auto")
    told = [finding for finding in findings if finding.name == "compression"]
    assert sorted(finding.finding.partition(":")[0] for finding in told) == [
        "1 partitions of registry.assets",
        "2 partitions of registry.assets",
    ]
    role = f"nobody_{random.randrange(10**9)}"
    await execute(site, f"create role {role}; grant usage on schema registry to {role}")
    connection = await asyncpg.connect(site.url.reveal)
    try:
        await connection.execute(f"set role {role}")
        rows = await connection.fetch(
            (Path(introspection.__file__).parents[1] / "doctor/sql/privileges.sql").read_text(), "registry"
        )
        assert {row["name"] for row in rows if row["kind"] == "table" and not row["is_granted"]} == {
            "sources",
            "assets",
        }
    finally:
        await connection.close()
        await execute(site, f"drop owned by {role}; drop role {role}")
