"""Assets that their portals no longer list: when they are marked, when not, and how a mark goes away again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from msgspec.structs import replace
from retire_model import HISTORIES, Edit, Load, check_history
from site_of_assets import ALL, UNREADABLE, A, B, Killed, Site, Watch, asset, assets, bad_number, kill, source

from seed_registry.api import replay
from seed_registry.errors import (
    IndexesFailed,
    IndexesIncomplete,
    NotRetired,
    SchemaMismatch,
    SettingsInvalid,
    TooManyRejects,
    VerificationFailed,
)
from seed_registry.key_hashes import KeyPart, hash_key
from seed_registry.ledger import run_sources
from seed_registry.load import retirement
from seed_registry.load.retirement import Retirer
from seed_registry.report import MissingPlan, Report
from seed_registry.settings import DatabaseUrl, MaxRejects, MaxRetire, Settings

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]


@pytest.fixture
def database_url(emptied_url: DatabaseUrl) -> DatabaseUrl:
    """Tables of the test's own."""
    return emptied_url


@pytest.fixture
def site(database_url: DatabaseUrl, tmp_path: Path) -> Site:
    """The test's own registry."""
    return Site(database_url, tmp_path)


async def test_what_the_index_no_longer_lists_is_marked_and_stays(site: Site) -> None:
    await site.load(site.write(*assets(range(100))))
    report = await site.load(site.write(*assets(range(95))), retire=True)
    assert await site.retired() == ["a0095", "a0096", "a0097", "a0098", "a0099"]
    assert (report.assets.retired, report.assets.returned, report.assets.unchanged) == (5, 0, 95)
    assert await site.count() == 100
    assert report.retirement is not None
    assert (report.retirement.reason, report.retirement.held, report.retirement.unlisted) == (None, 100, 5)
    (one,) = report.retirement.per_source
    assert (one.source, one.held, one.unlisted, one.is_over) == (A, 100, 5, False)
    assert one.keys == ["a0095", "a0096", "a0097", "a0098", "a0099"]


async def test_without_the_flag_nothing_is_marked(site: Site) -> None:
    await site.load(site.write(*assets(range(100))))
    report = await site.load(site.write(*assets(range(95))))
    assert (await site.retired(), report.assets.retired, report.retirement) == ([], 0, None)


async def test_retiring_again_changes_nothing(site: Site) -> None:
    await site.load(site.write(*assets(range(50))))
    index = site.write(*assets(range(48)))
    await site.load(index, retire=True)
    before = await site.do("select xmin::text, retired_at from registry.assets order by asset_key")
    report = await site.load(index, retire=True)
    assert (report.assets.retired, report.assets.unchanged) == (0, 48)
    assert report.retirement is not None
    assert (report.retirement.held, report.retirement.unlisted) == (0, 0)  # what is marked is not held
    assert await site.do("select xmin::text, retired_at from registry.assets order by asset_key") == before


@pytest.mark.parametrize("retire", [False, True])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("change", [{}, {"name": "new"}])
async def test_a_listed_asset_returns_whether_it_changed_or_not(
    site: Site, change: dict[str, str], *, full: bool, retire: bool
) -> None:
    await site.load(site.write(*assets(range(40))))
    await site.load(site.write(*assets(range(37))), retire=True)
    report = await site.load(site.write(*assets(range(37)), *assets(range(37, 40), **change)), retire=retire, full=full)
    assert await site.retired() == []
    assert report.assets.returned == 3
    assert report.assets.updated == (3 if change else 0)
    assert report.assets.read == report.assets.unchanged + report.assets.updated


async def test_assets_of_sources_that_no_index_covers_are_left(site: Site) -> None:
    await site.load(site.write(*assets(range(30)), *assets(range(30), B)))
    await site.load(site.write(*assets(range(29))), retire=True)
    assert await site.retired() == ["a0029"]


async def test_what_another_index_of_the_run_lists_is_listed(site: Site) -> None:
    await site.load(site.write(*assets(range(60))))
    halves = site.write(*assets(range(30))), site.write(*assets(range(30, 58)))
    report = await site.load(*halves, retire=True)
    assert await site.retired() == ["a0058", "a0059"]
    assert report.assets.retired == 2


async def test_a_source_without_assets_is_covered_if_it_is_listed(site: Site) -> None:
    await site.load(site.write(source(A), source(B), *assets(range(30)), asset("x", B), asset("y", B)))
    await site.load(site.write(source(A), *assets(range(30))), retire=True)
    assert await site.retired() == []
    await site.load(site.write(source(A), source(B), *assets(range(30))), retire=True)
    assert await site.retired() == ["x", "y"]


async def test_the_guard_holds_for_a_source_whose_assets_all_vanished(site: Site) -> None:
    await site.load(site.write(source(A), source(B), *assets(range(500)), *assets(range(6), B)))
    index = site.write(source(A), source(B), *assets(range(500)))
    report = await site.refused(index)
    assert report.retirement is not None
    assert [(one.source, one.unlisted, one.held, one.is_over) for one in report.retirement.per_source] == [
        (B, 6, 6, True)
    ]
    assert await site.retired() == []
    await site.load(index, retire=True, max_retire=MaxRetire(assets=6))
    assert len(await site.retired()) == 6


async def test_a_missing_source_is_not_covered(site: Site) -> None:
    await site.load(site.write(source(A), source(B), *assets(range(20)), asset("x", B), asset("y", B)))
    report = await site.load(site.write(source(A), *assets(range(20)), asset("x", B)), retire=True)
    assert (report.assets.missing_source, await site.retired()) == (1, [])


async def test_a_key_that_moved_to_another_source_is_not_retired(site: Site) -> None:
    await site.load(site.write(*assets(range(30)), *assets(range(30), B)))
    moved = assets(range(29)), [asset("a0029", B)], assets(range(30), B)
    report = await site.load(site.write(*(record for part in moved for record in part)), retire=True)
    assert (report.assets.updated, await site.retired()) == (1, [])


async def test_a_key_listed_twice_is_listed(site: Site) -> None:
    await site.load(site.write(*assets(range(30))))
    twice = site.write(*assets(range(30)), source(A), *assets(range(29)), source(A))
    report = await site.load(twice, retire=True)
    assert (report.assets.retired, await site.retired()) == (0, [])


async def test_a_row_deleted_by_hand_comes_back_and_none_is_retired_for_it(site: Site) -> None:
    await site.load(index := site.write(*assets(range(30))))
    await site.do("delete from registry.assets where asset_key < 'a0010'")
    report = await site.load(index, retire=True)
    assert (report.assets.inserted, report.assets.retired, await site.count()) == (10, 0, 30)


async def test_a_reject_with_a_known_key_is_listed_and_returns(site: Site) -> None:
    await site.load(site.write(*assets(range(30))))
    index = site.write(*assets(range(29)), bad_number("a0029"))
    report = await site.load(index, retire=True)
    assert (report.assets.rejected, report.assets.retired, await site.retired()) == (1, 0, [])
    await site.load(site.write(*assets(range(29))), retire=True)
    assert await site.retired() == ["a0029"]
    report = await site.load(index)
    assert (report.assets.rejected, report.assets.returned, await site.retired()) == (1, 1, [])


async def test_a_reject_without_a_known_key_retires_nothing_unless_it_is_allowed(site: Site) -> None:
    await site.load(site.write(*assets(range(30))))
    index = site.write(*assets(range(29)), UNREADABLE)
    report = await site.refused(index)
    assert report.retirement is not None
    assert "1 record rejected without a known key" in (report.retirement.reason or "")
    assert (report.assets.unchanged, await site.retired()) == (29, [])
    report = await site.load(index, retire=True, retire_despite_rejects=True)
    assert (report.assets.retired, await site.retired()) == (1, ["a0029"])


async def test_with_a_part_of_the_keys_only_that_part_is_compared_and_counts_for_the_guard(site: Site) -> None:
    await site.load(site.write(*assets(range(100))))
    part, keys = KeyPart(1, 2), [f"a{number:04}" for number in range(100)]
    own = [key for key in keys if part.has(hash_key(key))]
    gone, others = own[-3:], [key for key in keys if key not in own][-20:]
    index = site.write(*(asset(key) for key in keys if key not in {*gone, *others}))
    await site.refused(index, keys=part, max_retire=MaxRetire(percent=300 / len(own) - 0.1))
    planned = await site.load(index, retire=True, keys=part, dry_run=True)
    assert planned.plan is not None
    assert planned.plan.missing_upstream == MissingPlan(3, gone)
    report = await site.load(index, retire=True, keys=part, max_retire=MaxRetire(percent=300 / len(own)))
    assert report.retirement is not None
    assert planned.retirement == replace(report.retirement, max_retire=ANY)
    assert (report.retirement.held, report.retirement.unlisted) == (len(own), 3)
    assert (report.assets.retired, await site.retired()) == (3, gone)


async def test_a_reject_without_a_known_key_retires_nothing_of_any_part(site: Site) -> None:
    await site.load(site.write(*assets(range(30))))
    index = site.write(*assets(range(29)), UNREADABLE)
    for part in (KeyPart(1, 2), KeyPart(2, 2)):
        report = await site.refused(index, keys=part)
        assert report.retirement is not None
        assert "1 record rejected without a known key" in (report.retirement.reason or "")


async def test_a_source_without_an_asset_of_the_part_is_covered(site: Site) -> None:
    part = KeyPart(1, 2)
    keys = [f"a{number:04}" for number in range(40)]
    own = [key for key in keys if part.has(hash_key(key))]
    await site.load(site.write(*map(asset, keys)))
    index = site.write(*(asset(key) for key in keys if key not in own))
    await site.load(index, retire=True, keys=part, max_retire=ALL)
    assert await site.retired() == own


def directory(keys: range, total: int) -> dict[str, Any]:
    datasets = [{"id": f"aaaa-{number:04}", "name": "n"} for number in keys]
    return {"source": "socrata", "domain": A, "totalCount": total, "datasets": datasets}


@pytest.mark.parametrize("verify", [False, True])
async def test_a_wrong_declared_count_retires_nothing(site: Site, *, verify: bool) -> None:
    await site.load(site.write(directory(range(30), 30)))
    wrong = site.write(directory(range(29), 30))
    with pytest.raises(VerificationFailed if verify else NotRetired) as caught:
        await site.load(wrong, retire=True, verify=verify)
    report: Report = caught.value.report  # type: ignore[attr-defined]
    assert report.retirement is not None
    assert report.retirement.reason
    assert await site.retired() == []


def discovery(keys: range, total: int) -> dict[str, Any]:
    results = [
        {
            "resource": {"id": f"aaaa-{number:04}", "name": "n"},
            "metadata": {"domain": A},
            "permalink": f"https://{A}/d/aaaa-{number:04}",
        }
        for number in keys
    ]
    return {"results": results, "resultSetSize": total}


async def test_pages_that_are_missing_retire_nothing(site: Site) -> None:
    await site.load(site.write(discovery(range(60), 60)))
    first, second = site.write(discovery(range(30), 60)), site.write(discovery(range(30, 60), 60))
    report = await site.refused(first)
    assert report.incomplete
    assert report.retirement is not None
    assert "not complete" in (report.retirement.reason or "")
    with pytest.raises(IndexesIncomplete):
        await site.load(first, retire=True, complete=True)
    report = await site.load(first, second, retire=True)
    assert (report.assets.retired, await site.retired()) == (0, [])


async def test_a_broken_index_retires_nothing(site: Site) -> None:
    await site.load(site.write(*assets(range(30)), *assets(range(30), B)))
    broken = site.write(json.dumps(directory(range(30), 30)).encode()[:-100], name="broken.json")
    with pytest.raises(IndexesFailed) as caught:
        await site.load(site.write(*assets(range(29))), broken, retire=True, keep_going=True)
    assert caught.value.report.retirement is not None
    assert "could not be read to its end" in (caught.value.report.retirement.reason or "")
    assert await site.retired() == []


async def test_an_index_of_rejects_only_retires_nothing(site: Site) -> None:
    await site.load(site.write(*assets(range(3))))
    with pytest.raises(TooManyRejects) as caught:
        await site.load(site.write(source(A), bad_number("x")), retire=True, max_rejects=MaxRejects(records=9))
    assert caught.value.report is not None
    assert await site.retired() == []


@pytest.mark.parametrize(
    ("held", "gone", "limit", "allowed"),
    [
        (20, 2, "10%", True),
        (20, 3, "10%", False),
        (19, 5, "10%", True),
        (19, 6, "10%", False),
        (19, 6, "50%", False),  # of so few a percentage says nothing
        (19, 6, "6", True),
        (100, 11, "10", False),
        (100, 11, "11", True),
        (100, 11, "10.9%", False),
        (100, 11, "11%", True),
        (100, 99, "100%", True),
        (20, 1, "0", False),
        (20, 1, "0%", False),
    ],
)
async def test_the_guard(site: Site, held: int, gone: int, limit: str, *, allowed: bool) -> None:
    await site.load(site.write(source(A), *assets(range(held))))
    index = site.write(source(A), *assets(range(held - gone)))
    if allowed:
        report = await site.load(index, retire=True, max_retire=MaxRetire.parse(limit))
        assert report.assets.retired == gone
    else:
        report = await site.refused(index, max_retire=MaxRetire.parse(limit))
        assert report.retirement is not None
        assert f"more than --max-retire {limit} allows" in (report.retirement.reason or "")
        assert report.retirement.unlisted == gone
        assert report.retirement.per_source[0].keys


async def test_the_guard_holds_in_total(site: Site) -> None:
    names = [f"{letter}.example" for letter in "abcdef"]
    await site.load(site.write(*(record for name in names for record in assets(range(10), name))))
    index = site.write(*(record for name in names for record in assets(range(8), name)))
    report = await site.refused(index)  # 2 of 10 of each, 12 of 60 in total
    assert report.retirement is not None
    assert [one.is_over for one in report.retirement.per_source] == [False] * 6


async def test_without_a_column_it_is_an_error_before_reading(site: Site) -> None:
    await site.do("alter table registry.assets drop column retired_at, add column deleted_at timestamptz")
    with pytest.raises(SchemaMismatch) as caught:
        await site.load(site.write(*assets(range(3))), retire=True)
    text = str(caught.value)
    assert 'alter table "registry"."assets" add column "retired_at" timestamptz;' in text
    assert "--column assets.retired_at=deleted_at" in text
    assert await site.count() == 0
    with pytest.raises(SchemaMismatch):
        await site.load(site.write(*assets(range(3))), retire=True, dry_run=True)
    report = await site.load(site.write(*assets(range(3))))
    assert report.assets.inserted == 3
    await site.do(text.splitlines()[1].partition("or: ")[2].partition(";")[0])
    await site.load(site.write(*assets(range(2))), retire=True)
    assert await site.retired() == ["a0002"]


@pytest.mark.parametrize("type_", ["timestamptz", "timestamp"])
async def test_a_column_of_another_name(site: Site, type_: str) -> None:
    await site.do(f"alter table registry.assets drop column retired_at, add column gone {type_}")
    named: dict[str, Any] = {"columns": {"assets.retired_at": "gone"}}
    await site.load(site.write(*assets(range(3))), **named)
    await site.load(site.write(*assets(range(2))), retire=True, **named)
    query = "select asset_key, gone - timezone('UTC', now())::timestamp < interval '1 minute' from registry.assets "
    if type_ == "timestamptz":
        query = "select asset_key, now() - gone < interval '1 minute' from registry.assets "
    assert await site.do(query + "where gone is not null") == [("a0002", True)]
    report = await site.load(site.write(*assets(range(3))), **named)
    assert (report.assets.returned, await site.do("select from registry.assets where gone is not null")) == (1, [])


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        ("id", "is NOT NULL"),
        ("created_at", "is NOT NULL"),
        ("nothing", "has no column nothing"),
        ("updated_at", "cannot both go to updated_at"),
    ],
)
async def test_a_column_that_does_not_fit(site: Site, column: str, problem: str) -> None:
    await site.do("alter table registry.assets add column text text")
    with pytest.raises((SchemaMismatch, SettingsInvalid), match=problem):
        await site.load(site.write(*assets(range(3))), columns={"assets.retired_at": column})


@pytest.mark.parametrize("key", ["source_id, asset_key", "provider, asset_key"])
async def test_tables_with_other_keys(site: Site, key: str) -> None:
    await site.do("alter table registry.assets drop constraint assets_asset_key_key")
    await site.do("alter table registry.assets add column provider text")
    await site.do(f"create unique index on registry.assets ({key})")
    await site.load(site.write(*assets(range(30)), *assets(range(30), B), asset("same", A), asset("same", B)))
    await site.load(site.write(*assets(range(29)), *assets(range(30), B), asset("same", B)), retire=True)
    rows = await site.do(
        "select asset_key, source_key from registry.assets as a join registry.sources as s on s.id = a.source_id "
        "where retired_at is not null order by asset_key"
    )
    assert rows == ([("a0029", A), ("same", A)] if key.startswith("source_id") else [("a0029", A)])
    report = await site.load(site.write(*assets(range(30)), asset("same", A)))
    assert report.assets.returned == len(rows)
    assert await site.retired() == []


async def test_replays_cannot_retire(site: Site) -> None:
    with pytest.raises(SettingsInvalid, match="a replay cannot retire"):
        await replay("rejects.ndjson", Settings(database_url=site.url, retire=True))


async def test_it_needs_the_ledger(site: Site) -> None:
    await site.load(site.write(*assets(range(3))))
    role = "loads_without_ledger"
    await site.do(f"drop role if exists {role}")
    await site.do(f"create role {role} login")
    await site.do(f"grant usage on schema registry to {role}")
    await site.do(f"grant select, insert, update on all tables in schema registry to {role}")
    url = DatabaseUrl(f"{site.url.reveal}{'&' if '?' in site.url.reveal else '?'}user={role}")
    try:
        with pytest.raises(Exception, match="--retire needs the ledger"):
            await Site(url, Path(site.write(*assets(range(3)))).parent).load(site.write(*assets(range(2))), retire=True)
    finally:
        await site.do(f"drop owned by {role}")
        await site.do(f"drop role {role}")
    assert await site.retired() == []


async def test_a_dry_run_shows_what_would_be_retired(site: Site) -> None:
    await site.load(site.write(*assets(range(50)), *assets(range(50), B)))
    index = site.write(*assets(range(48)), *assets(range(49), B))
    report = await site.load(index, retire=True, dry_run=True)
    assert report.retirement is not None
    assert [(one.source, one.unlisted) for one in report.retirement.per_source] == [(A, 2), (B, 1)]
    assert report.assets.retired == 3
    assert await site.retired() == []
    few = site.write(*assets(range(5)))
    with pytest.raises(NotRetired, match="nothing would be retired: of 50 assets"):
        await site.load(few, retire=True, dry_run=True)
    await site.load(index, retire=True)
    report = await site.load(site.write(*assets(range(50))), dry_run=True)
    assert report.plan is not None
    assert (report.assets.returned, report.plan.missing_upstream) == (2, MissingPlan(0, []))
    assert len(await site.retired()) == 3


# What happens at the same time


async def test_rows_that_others_create_or_change_meanwhile_are_left_alone(site: Site) -> None:
    await site.load(site.write(*assets(range(50))))
    loop = asyncio.get_running_loop()
    done: list[asyncio.Future[Any]] = []

    def interfere() -> None:
        done.append(loop.create_task(site.do(_BY_HAND)))

    watch = Watch("verifying", action=interfere)
    original = Retirer.retire

    async def retire_after_that(self: Retirer, *arguments: Any) -> Any:
        await done[0]
        return await original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Retirer, "retire", retire_after_that)
        await site.load(site.write(*assets(range(46))), retire=True, max_retire=ALL, progress=watch)
    assert await site.retired() == ["a0048", "a0049"]


_BY_HAND = """
with changed as (update registry.assets set name = 'by hand' where asset_key in ('a0046', 'a0047') returning source_id)
insert into registry.assets (asset_key, source_id) select 'new', source_id from changed limit 1
"""


@pytest.mark.parametrize("other_retires", [False, True])
async def test_what_another_run_lists_meanwhile_is_left_alone(site: Site, *, other_retires: bool) -> None:
    await site.load(site.write(*assets(range(50)), *assets(range(50), B)))
    other = site.write(*assets(range(50)))
    original = Retirer.retire

    async def retire_after_that(self: Retirer, *arguments: Any) -> Any:
        patch.setattr(Retirer, "retire", original)
        await site.load(other, retire=other_retires)
        return await original(self, *arguments)

    watch = Watch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Retirer, "retire", retire_after_that)
        index = site.write(*assets(range(48)), *assets(range(48), B))
        report = await site.load(index, retire=True, progress=watch)
    assert await site.retired() == ["b0048", "b0049"]
    assert report.retirement is not None
    left = [] if other_retires else [A]  # one that retires shows which keys it lists
    assert [one.source for one in report.retirement.left_alone] == left
    assert [fields["source"] for event, fields in watch.events if event == "not_retired"] == left
    await site.load(index, retire=True)
    assert await site.retired() == ["a0048", "a0049", "b0048", "b0049"]


async def test_a_run_that_began_before_and_is_at_work_is_respected(site: Site) -> None:
    await site.load(site.write(*assets(range(50))))
    began, go_on = asyncio.Event(), asyncio.Event()
    original = Retirer.take_marks_of_rejects

    async def wait(self: Retirer, *arguments: Any) -> Any:
        patch.setattr(Retirer, "take_marks_of_rejects", original)
        began.set()
        await go_on.wait()
        return await original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Retirer, "take_marks_of_rejects", wait)
        older = asyncio.create_task(site.load(site.write(*assets(range(50)))))
        await began.wait()
        index = site.write(*assets(range(48)))
        report = await site.load(index, retire=True)
        go_on.set()
        await older
    assert await site.retired() == []
    assert report.retirement is not None
    assert [one.source for one in report.retirement.left_alone] == [A]
    assert (await site.load(index, retire=True)).assets.retired == 2


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No run reads before two have begun: otherwise one may be done before the other begins."""
    barrier, find_begin = asyncio.Barrier(2), run_sources.find_begin

    async def begin(*arguments: Any) -> Any:
        found = await find_begin(*arguments)
        await barrier.wait()
        return found

    monkeypatch.setattr(retirement, "find_begin", begin)


@pytest.mark.usefixtures("at_once")
async def test_two_runs_at_once_never_retire_what_either_lists(site: Site) -> None:
    await site.load(site.write(*assets(range(60))))
    indexes = site.write(*assets(range(57))), site.write(*assets(range(3, 60)))
    reports = await asyncio.gather(*(site.load(index, retire=True) for index in indexes))
    assert await site.retired() == []
    assert all(report.retirement is not None and report.retirement.reason is None for report in reports)


@pytest.mark.usefixtures("at_once")
async def test_of_two_runs_at_once_the_later_one_retires_what_neither_lists(site: Site) -> None:
    await site.load(site.write(*assets(range(60))))
    indexes = site.write(*assets(range(57))), site.write(*assets(range(3, 58)))
    reports = await asyncio.gather(*(site.load(index, retire=True) for index in indexes))
    assert await site.retired() == ["a0058", "a0059"]
    # One may be done before the other begins, which then takes marks.
    assert sum(report.assets.retired - report.assets.returned for report in reports) == 2


async def test_what_an_earlier_run_listed_is_retired(site: Site) -> None:
    await site.load(site.write(*assets(range(60))))
    both = site.write(*assets(range(60))), site.write(*assets(range(60)))
    await asyncio.gather(*(site.load(index, retire=True) for index in both))  # these show their keys
    assert (await site.load(site.write(*assets(range(58))), retire=True)).assets.retired == 2


# Runs that are killed

STEPS = [
    ("event", "retiring", 1),
    ("event", "batch_retired", 1),
    ("event", "batch_retired", 3),
    ("event", "run_finished", 1),
    ("before", "lock_sources", 1),
    ("before", "lock_sources", 2),
    ("after", "find_others", 2),
    ("before", "find_begin", 1),
]


@pytest.mark.parametrize(("how", "name", "number"), STEPS)
@pytest.mark.sampled(3)
async def test_a_run_that_is_killed_goes_on_and_counts_each_asset_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, how: str, name: str, number: int
) -> None:
    await site.load(site.write(*assets(range(300))))
    index = site.write(*assets(range(275)))
    calls = 0

    def failing(original: Any) -> Any:
        async def call(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number and how == "before":
                raise Killed
            result = await original(*arguments)
            if calls == number:
                raise Killed
            return result

        return call

    watch = Watch(name, number, kill) if how == "event" else Watch()
    with monkeypatch.context() as patch:
        if how != "event":
            patch.setattr(retirement, name, failing(getattr(retirement, name)))
        with pytest.raises(Killed):
            await site.load(index, retire=True, progress=watch)
    assert set(await site.retired()) <= {f"a{n:04}" for n in range(275, 300)}
    again = Watch()
    report = await site.load(index, retire=True, progress=again)
    assert report.assets.retired == 25
    assert await site.retired() == [f"a{n:04}" for n in range(275, 300)]
    assert any(event == "run_resumed" for event, _ in again.events)


# Any sequence


@given(HISTORIES)
@hypothesis_settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
def test_any_sequence_of_loads_and_edits_ends_as_the_model(
    workshop_url: DatabaseUrl, tmp_path: Path, steps: Sequence[Load | Edit]
) -> None:
    asyncio.run(check_history(Site(workshop_url, tmp_path), steps))
