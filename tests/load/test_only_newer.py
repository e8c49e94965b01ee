"""`load --only-newer`: a record that is older than its row leaves that as it is; and the warning about old indexes."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from seed_registry import DatabaseUrl, MaxRejects, Settings, ingest
from seed_registry.errors import SchemaMismatch
from seed_registry.ledger.history import list_runs
from seed_registry.load import pipeline
from seed_registry.load.conclusion import LoadConclusion
from seed_registry.registry.table_merge import TableMerger
from seed_registry.report import AssetCounts, Report, Tally

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]

SITE = "data.example.org"
ANY = MaxRejects(percent=100)
DAYS = [f"2024-01-{day:02}T00:00:00Z" for day in range(1, 20)]


@pytest.fixture
def database_url(emptied_url: DatabaseUrl) -> DatabaseUrl:
    """The module's database, its tables made anew."""
    return emptied_url


class Watch:
    """A `Progress` that keeps warnings, and the tally."""

    def __init__(self) -> None:
        self.warnings: list[tuple[str, dict[str, Any]]] = []
        self.tally = Tally()

    def began(self, tally: Tally) -> None:
        """The load begins."""
        self.tally = tally

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Something happened."""
        if level == "warning":
            self.warnings.append((event, fields))


def asset(key: str, name: str, day: int | None = None, of: str = SITE) -> dict[str, Any]:
    """A record of the dialect seed; `day` is that of January."""
    at = DAYS[day - 1] if day else None
    return {"type": "asset", "asset_key": key, "source_key": of, "name": name, "updated_at": at}


class Site:
    """A registry, and a directory with indexes for it."""

    def __init__(self, url: DatabaseUrl, place: Path) -> None:
        self.url = url
        self._place = place
        self._files = 0

    def write(self, *records: dict[str, Any]) -> str:
        """An index of these records."""
        self._files += 1
        path = self._place / f"{self._files}.ndjson"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return str(path)

    async def load(self, *indexes: str, progress: Watch | None = None, **options: Any) -> Report:
        """Load these indexes with the flag, unless the options say otherwise."""
        some: dict[str, Any] = {"only_newer": True} | options
        return await ingest(indexes, Settings(database_url=self.url, **some), progress)

    async def do(self, query: str, *arguments: Any) -> list[Any]:
        """The rows of a query."""
        connection = await asyncpg.connect(self.url.reveal)
        try:
            return [tuple(row) for row in await connection.fetch(query, *arguments)]
        finally:
            await connection.close()

    async def rows(self) -> dict[str, tuple[str, int | None]]:
        """The names and days of the assets, by key."""
        found = await self.do(
            "select asset_key, name, extract(day from updated_at at time zone 'UTC')::int from registry.assets"
        )
        return {key: (name, day) for key, name, day in found}


@pytest.fixture
def site(database_url: DatabaseUrl, tmp_path: Path) -> Site:
    """A registry without assets."""
    return Site(database_url, tmp_path)


async def test_records_whose_texts_are_decoded_late_are_whole_beside_repeated_new_keys(site: Site) -> None:
    source = {"type": "source", "source_key": SITE}
    stored = [asset(f"s{number}", "stored", 1) for number in range(60)]
    await site.load(site.write(source, *stored))
    new = [asset("n1", "one", 5), asset("n2", "two", 4), asset("n1", "three", 3)]
    await site.load(site.write(source, *stored, *new), concurrency=1)
    rows = await site.rows()
    assert (rows["n1"], rows["n2"]) == (("three", 5), ("two", 4))


def outcome(report: Report) -> dict[str, int]:
    """The outcomes of the assets that there are."""
    counts = {name: getattr(report.assets, name) for name in AssetCounts.__struct_fields__}
    return {name: count for name, count in counts.items() if count and name != "read"}


@pytest.fixture(params=[True, False], ids=["filtered before", "found by the upsert"])
def filtering(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older records are found before they are staged; or only by the upsert, as if their rows were newer since then."""

    async def found_none(*_: Any) -> list[Any]:
        return []

    if not request.param:
        monkeypatch.setattr(TableMerger, "_older", found_none)


CASES = {
    "older": (asset("k", "new", 3), "older"),
    "older, otherwise equal": (asset("k", "old", 3), "unchanged"),
    "equally old": (asset("k", "new", 5), "updated"),
    "newer": (asset("k", "new", 7), "updated"),
    "without a date": (asset("k", "new"), "updated"),
}


@pytest.mark.usefixtures("filtering")
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.sampled(6)
async def test_a_record_that_is_older_than_the_row_it_would_change_leaves_it(site: Site, case: str, full: bool) -> None:
    record, expected = CASES[case]
    await site.load(site.write(asset("k", "old", 5), asset("other", "old", 1)))
    if expected == "unchanged":  # what the registry holds has other bytes
        await site.do("update registry.assets set raw = $1, content_hash = null", json.dumps(record))
    index = site.write(record, asset("other", "old", 1), asset("fresh", "new", 1))
    plan = await site.load(index, dry_run=True, full=full)
    assert plan.plan is not None
    assert plan.plan.assets.older == (expected == "older")
    report = await site.load(index, full=full)
    assert outcome(plan) == outcome(report)
    assert getattr(report.assets, expected) >= 1
    assert (await site.rows())["k"] == {
        "older": ("old", 5),
        "unchanged": ("old", 5),
        "updated": ("new", max(5, {"newer": 7}.get(case, 0))),
    }[expected]
    again = await site.load(index)
    assert again.assets.older == (expected == "older")  # its hash was not written into the newer row


async def test_a_row_without_a_date_is_written(site: Site) -> None:
    await site.load(site.write(asset("k", "old")))
    report = await site.load(site.write(asset("k", "new", 1)))
    assert (outcome(report), await site.rows()) == ({"updated": 1}, {"k": ("new", 1)})


async def test_of_several_records_of_a_key_the_last_is_compared(site: Site) -> None:
    await site.load(site.write(asset("a", "old", 5), asset("b", "old", 5)))
    records = [asset("a", "newer", 7), asset("a", "older", 3), asset("b", "older", 3), asset("b", "newer", 7)]
    for batch_size in (1, 500):
        report = await site.load(site.write(*records), dry_run=True, batch_size=batch_size)
        assert outcome(report) == {"older": 1, "updated": 1, "duplicate": 2}
    report = await site.load(site.write(*records), batch_size=1)
    assert outcome(report) == {"older": 1, "updated": 1, "duplicate": 2}
    assert await site.rows() == {"a": ("old", 5), "b": ("newer", 7)}


@pytest.mark.parametrize("batch_size", [1, 2, 500])
async def test_the_first_load_of_an_index_is_the_same_with_the_flag_and_without(site: Site, batch_size: int) -> None:
    index = site.write(asset("a", "one", 5), asset("b", "b", 1), asset("a", "two", 3), asset("c", "c"))
    with_it = await site.load(index, batch_size=batch_size)
    found = await site.rows()
    await site.do("truncate registry.assets")
    without = await site.load(index, batch_size=batch_size, only_newer=False)
    assert (outcome(with_it), found) == (outcome(without), await site.rows())
    assert found["a"] == ("two", 5)
    again = await site.load(index, batch_size=batch_size)
    assert outcome(again) == {"unchanged": 3, "duplicate": 1}


# --- other tables -----------------------------------------------------------------------------------------------------

TABLES = {
    "timestamp": "alter table registry.assets alter updated_at type timestamp using updated_at at time zone 'UTC'",
    "whole seconds": "alter table registry.assets alter column updated_at type timestamptz(0)",
    "without hashes": "alter table registry.assets drop column content_hash",
    "without records": "alter table registry.assets drop column raw",
    "by source": """alter table registry.assets drop constraint assets_asset_key_key;
        create unique index on registry.assets (source_id, asset_key)""",
    "another name": "alter table registry.assets rename column updated_at to modified",
}


@pytest.mark.usefixtures("filtering")
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.sampled(6)
async def test_tables_of_other_programs_are_compared_as_they_store_moments(site: Site, table: str) -> None:
    for sql in TABLES[table].split(";"):
        await site.do(sql)
    columns = {"assets.updated_at": "modified"} if table == "another name" else {}
    # To whole seconds this is rounded up, and is still no older than itself.
    half = {**asset("half", "old"), "updated_at": "2024-01-05T00:00:00.700Z"}
    await site.load(site.write(asset("k", "old", 5), half), columns=columns)
    index = site.write(asset("k", "new", 3), {**half, "name": "new"})
    plan = await site.load(index, columns=columns, dry_run=True)
    report = await site.load(index, columns=columns)
    assert outcome(plan) == outcome(report) == {"older": 1, "updated": 1}
    assert await site.do("select asset_key, name from registry.assets order by 1") == [("half", "new"), ("k", "old")]


@pytest.mark.usefixtures("filtering")
async def test_a_default_in_place_of_a_missing_date_is_not_older(site: Site) -> None:
    await site.do(
        "alter table registry.assets alter updated_at set default '1999-01-01Z', alter updated_at set not null"
    )
    await site.load(site.write(asset("dated", "old", 5), asset("undated", "old")))
    index = site.write(asset("dated", "new"), asset("undated", "new", 1))
    assert outcome(await site.load(index, dry_run=True)) == {"updated": 2}
    assert outcome(await site.load(index)) == {"updated": 2}


@pytest.mark.usefixtures("filtering")
async def test_a_trigger_that_keeps_rows_out_rejects_what_is_not_older(site: Site) -> None:
    await site.load(site.write(asset("a", "old", 5), asset("b", "old", 5)))
    await site.do("""
        create function registry.keep() returns trigger language plpgsql as
        $$ begin if new.asset_key = 'b' then return null; end if; return new; end $$
    """)
    await site.do("create trigger keep before update on registry.assets for each row execute function registry.keep()")
    report = await site.load(
        site.write(asset("a", "new", 3), asset("b", "new", 7), asset("c", "new", 1)), max_rejects=ANY
    )
    assert outcome(report) == {"inserted": 1, "older": 1, "rejected": 1}
    await site.do("drop function registry.keep cascade")


@pytest.mark.parametrize("options", [{}, {"dry_run": True}, {"processes": 2}], ids=["load", "plan", "processes"])
async def test_without_a_column_of_dates_nothing_is_read_and_the_message_says_what_to_do(
    site: Site, options: dict[str, Any]
) -> None:
    await site.do("alter table registry.assets drop column updated_at")
    with pytest.raises(SchemaMismatch, match=r"--only-newer: registry\.assets has no column updated_at") as caught:
        await site.load(site.write({"what": "no index"}), **options)
    assert caught.value.exit_code == 1
    assert 'alter table "registry"."assets" add column "updated_at" timestamptz;' in str(caught.value)


async def test_what_is_suggested_where_there_is_no_column_of_dates(site: Site) -> None:
    for fix in ("run it", "name another"):
        await site.do("truncate registry.assets")
        await site.do("alter table registry.assets drop column updated_at")
        index, columns = site.write(asset("k", "old", 5)), {}
        with pytest.raises(SchemaMismatch) as caught:
            await site.load(index)
        suggested = re.fullmatch(
            r"run: (.*;) or name another column with (--column.*=)COLUMN", str(caught.value).splitlines()[1]
        )
        assert suggested is not None
        if fix == "run it":
            await site.do(suggested[1])
        else:
            assert suggested[2] == "--column assets.updated_at="
            await site.do("alter table registry.assets add modified timestamptz")
            columns = {"assets.updated_at": "modified"}
        await site.load(index, columns=columns)
        assert outcome(await site.load(site.write(asset("k", "new", 3)), columns=columns)) == {"older": 1}


# --- with other flags -------------------------------------------------------------------------------------------------


async def test_an_older_record_is_listed_its_mark_is_taken_and_it_is_not_retired(site: Site) -> None:
    await site.load(site.write(asset("a", "old", 5), asset("b", "old", 5), asset("c", "old", 5)))
    await site.do("update registry.assets set retired_at = now() where asset_key = 'a'")
    index = site.write(asset("a", "new", 3), asset("b", "new", 3))
    plan = await site.load(index, retire=True, dry_run=True)
    report = await site.load(index, retire=True)
    assert outcome(plan) == outcome(report) == {"older": 2, "returned": 1, "retired": 1}
    assert await site.do("select asset_key from registry.assets where retired_at is not null") == [("c",)]


async def test_each_index_of_a_run_has_its_own_older_records(site: Site) -> None:
    await site.load(site.write(*(asset(key, "old", 5) for key in "abc")))
    first, second = site.write(asset("a", "new", 3), asset("b", "new", 7)), site.write(asset("b", "new", 3))
    report = await site.load(first, second, batch_size=1)
    counts = [(one.assets.updated, one.assets.older, one.assets.duplicate) for one in report.per_index]
    assert counts == [(0, 1, 1), (0, 1, 0)]
    assert outcome(report) == {"older": 2, "duplicate": 1}


async def test_a_run_that_was_killed_is_finished_and_only_by_a_command_with_the_flag(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.load(site.write(*(asset(f"k{number}", "old", 5) for number in range(9))))
    index = site.write(*(asset(f"k{number}", "new", 3 + number) for number in range(12)))

    async def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "settle", killed)
        with pytest.raises(KeyboardInterrupt):
            await site.load(index, batch_size=2)
    report = await site.load(index, batch_size=2)
    assert (report.assets.older, report.assets.updated) == (2, 7)
    assert report.assets.inserted + report.assets.resumed + report.assets.unchanged == 3
    runs = await site.do("select resumed from seed_registry.runs order by started_at desc limit 1")
    assert runs == [(1,)]
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "settle", killed)
        with pytest.raises(KeyboardInterrupt):
            await site.load(index, batch_size=2)
    report = await site.load(index, batch_size=2, only_newer=False)
    assert await site.do("select resumed from seed_registry.runs order by started_at desc limit 1") == [(0,)]


@pytest.mark.usefixtures("filtering")
async def test_what_was_older_is_in_the_checkpoints_and_in_the_history(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.load(site.write(*(asset(f"k{number}", "old", 5) for number in range(9))))
    index = site.write(*(asset(f"k{number}", "new", 3) for number in range(9)))

    async def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(LoadConclusion, "verify", killed)
        with pytest.raises(KeyboardInterrupt):
            await site.load(index, batch_size=2, concurrency=1)
    connection = await asyncpg.connect(site.url.reveal)
    (run, *_) = await list_runs(connection)
    await connection.close()
    assert run.committed is not None
    assert run.committed.older == 9


# --- at the same time -------------------------------------------------------------------------------------------------

record = st.builds(asset, st.sampled_from("abc"), st.sampled_from("xyz"), st.sampled_from([None, 1, 2, 3, 4]))
several = st.lists(record, min_size=1, max_size=8)


def loaded(
    rows: dict[str, tuple[str, int | None]], records: Sequence[dict[str, Any]]
) -> dict[str, tuple[str, int | None]]:
    """The rows after a load: the last record of a key wins, unless it is older than the row before."""
    after = dict(rows)
    for key in {one["asset_key"] for one in records}:
        found = [(one["name"], day(one)) for one in records if one["asset_key"] == key]
        name, own = found[-1]
        before = rows.get(key, ("", None))[1]
        if key not in rows:
            after[key] = (name, max((at for _, at in found if at), default=None))
        elif not own or not before or own >= before:
            after[key] = (name, own or before)
    return after


def day(one: dict[str, Any]) -> int | None:
    """The day of January of a record."""
    return DAYS.index(one["updated_at"]) + 1 if one["updated_at"] else None


@hypothesis_settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(before=st.lists(record, max_size=4), first=several, second=several, batch_size=st.sampled_from([1, 2, 500]))
async def test_two_loads_at_once_leave_each_row_as_one_after_the_other_would(
    site: Site, before: list[Any], first: list[Any], second: list[Any], batch_size: int
) -> None:
    await site.do("truncate registry.assets, registry.sources")
    rows: dict[str, tuple[str, int | None]] = {}
    if before:
        await site.load(site.write(*before))
        rows = loaded(rows, before)
        assert await site.rows() == rows
    indexes = site.write(*first), site.write(*second)
    await asyncio.gather(*(site.load(index, batch_size=batch_size, verify=False) for index in indexes))
    found = await site.rows()
    orders = loaded(loaded(rows, first), second), loaded(loaded(rows, second), first)
    undated = {one["asset_key"] for one in (*first, *second) if not day(one)}
    for key, row in found.items():
        if key in undated:  # such a record compares with nothing: it, or the last one of the other load, may win
            assert row[0] in [of[key][0] for of in (rows, loaded({}, first), loaded({}, second)) if key in of]
        else:
            assert row in [order[key] for order in orders]


async def test_two_loads_at_once_end_with_the_newest_rows(site: Site) -> None:
    for number in range(3):
        await site.do("truncate registry.assets")
        if number:
            await site.load(site.write(*(asset(f"k{key}", "old", 1) for key in range(60))))
        indexes = [site.write(*(asset(f"k{key}", name, at) for key in range(60))) for name, at in (("a", 5), ("b", 7))]
        reports = await asyncio.gather(*(site.load(index, batch_size=7, concurrency=3) for index in indexes))
        assert set((await site.rows()).values()) == {("b", 7)}
        for report in reports:
            counts = report.assets
            assert counts.inserted + counts.updated + counts.older == counts.read == 60


# --- the warning ------------------------------------------------------------------------------------------------------


async def warned(site: Site, index: str, **options: Any) -> list[dict[str, Any]]:
    """The warnings about an old index."""
    watch = Watch()
    await site.load(index, progress=watch, **({"only_newer": False} | options))
    return [fields for event, fields in watch.warnings if event == "index_is_older"]


async def test_plan_and_load_warn_where_most_changes_replace_newer_rows(site: Site) -> None:
    await site.load(site.write(*(asset(f"k{key}", "stored", 5) for key in range(60))))
    old = site.write(*(asset(f"k{key}", "changed", 3 if key < 21 else 5) for key in range(40)))
    assert await warned(site, old, only_newer=True, dry_run=True) == []
    (of_plan,) = await warned(site, old, dry_run=True, batch_size=7)
    (of_load,) = await warned(site, old, batch_size=7)
    assert (of_plan["changed"], of_plan["older"]) == (of_load["changed"], of_load["older"]) == (40, 21)
    assert "would replace" in of_plan["note"]
    assert "--only-newer" in of_load["note"]


@pytest.mark.parametrize(("changed", "older"), [(19, 19), (40, 20)])
async def test_small_loads_and_those_of_mostly_newer_records_do_not_warn(site: Site, changed: int, older: int) -> None:
    await site.load(site.write(*(asset(f"k{key}", "stored", 5) for key in range(60))))
    index = site.write(*(asset(f"k{key}", "changed", 3 if key < older else 7) for key in range(changed)))
    assert await warned(site, index, dry_run=True) == []
    assert await warned(site, index) == []


async def test_neither_a_first_load_nor_a_reload_warns(site: Site) -> None:
    records = [asset(f"k{key}", "stored", 5) for key in range(60)]
    index = site.write(*records, *(replace_day(one, 1) for one in records))
    assert [await warned(site, index, batch_size=7) for _ in range(2)] == [[], []]


def replace_day(one: dict[str, Any], at: int) -> dict[str, Any]:
    """The record with another date."""
    return {**one, "updated_at": DAYS[at - 1], "name": "repeated"}


async def test_a_load_with_the_flag_does_not_warn(site: Site) -> None:
    await site.load(site.write(*(asset(f"k{key}", "stored", 5) for key in range(60))))
    assert await warned(site, site.write(*(asset(f"k{key}", "x", 3) for key in range(60))), only_newer=True) == []


@pytest.mark.usefixtures("filtering")
async def test_with_history_only_what_is_written_is_recorded(site: Site) -> None:
    await site.load(site.write(*(asset(f"k{key}", "stored", 5) for key in range(60))))
    index = site.write(*(asset(f"k{key}", "changed", 3 if key < 40 else 7) for key in range(60)))
    report = await site.load(index, history=True)
    assert outcome(report) == {"older": 40, "updated": 20}
    changes = "select count(*) from seed_registry.changes where run_id = $1"
    assert await site.do(changes, report.run_id) == [(20,)]
    old = site.write(*(asset(f"k{key}", "old", 3) for key in range(60)))
    (fields,) = await warned(site, old, history=True)
    assert (fields["changed"], fields["older"]) == (60, 60)
