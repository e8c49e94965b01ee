"""`--retire` by several processes gives what one process gives, whatever happens to them."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from local_engine import KillingEngine, LocalEngine, load_by_shards
from msgspec import to_builtins
from retire_model import HISTORIES, LOADS, Edit, Load, check_history
from site_of_assets import ALL, UNREADABLE, A, B, C, Killed, Site, Watch, asset, assets, bad_number, kill, source

from conftest import _clone
from partitions import create_tables
from seed_registry import Settings
from seed_registry.errors import CommitsLost, SeedRegistryError
from seed_registry.key_hashes import KeyPart
from seed_registry.ledger import run_sources, shard_listed
from seed_registry.load import retirement
from seed_registry.report import Report
from seed_registry.settings import DatabaseUrl, MaxRejects, MaxRetire
from seed_registry.shards.tasks import Job, Result, Task

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]
_UNLOGGED = (
    "truncate seed_registry.parked, seed_registry.shard_keys, seed_registry.shard_repeats, seed_registry.shard_listed"
)
Before = Callable[[Task], Awaitable[Any] | None]


class ShardedSite(Site):
    """A registry that is loaded by shards of a few records."""

    def __init__(
        self, url: DatabaseUrl, place: Path, seed: int = 0, new_engine: Callable[..., Any] = LocalEngine
    ) -> None:
        super().__init__(url, place)
        self._seed = seed
        self.new_engine = new_engine

    async def load(self, *indexes: str, progress: Watch | None = None, **options: Any) -> Report:
        """Load these indexes by shards."""
        defaults: dict[str, Any] = {"batch_size": 7, "concurrency": 2, "max_rejects": MaxRejects(percent=100)}
        return await load_by_shards(
            map(Path, indexes),
            Settings(database_url=self.url, **(defaults | options)),
            shard_bytes=900,
            seed=self._seed,
            progress=progress,
            new_engine=self.new_engine,
        )

    def before(self, call: Before) -> ShardedSite:
        """The same registry, where something happens before each task."""
        return ShardedSite(self.url, self.place, self._seed, lambda workers, chance: _Watched(workers, chance, call))


class _Watched(LocalEngine):
    def __init__(self, workers: int, chance: random.Random, before: Before) -> None:
        super().__init__(workers, chance)
        self._before = before

    async def perform(
        self, job: Job, tasks: Sequence[Task], done: Callable[[Task, Result], None], lost: Callable[[Task, str], None]
    ) -> None:
        """Perform tasks one by one."""
        for task in tasks:
            if (awaitable := self._before(task)) is not None:
                await awaitable
            await super().perform(job, [task], done, lost)


@pytest.fixture
def database_url(emptied_url: DatabaseUrl) -> DatabaseUrl:
    """Tables of the test's own."""
    return emptied_url


@pytest.fixture
def site(database_url: DatabaseUrl, tmp_path: Path) -> ShardedSite:
    """The test's own registry."""
    return ShardedSite(database_url, tmp_path)


@pytest.fixture(scope="module")
def twin_url(server: str) -> Iterator[DatabaseUrl]:
    """Another database."""
    with _clone(server, "template0") as url:
        yield url


_few = settings(max_examples=3, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))


@given(steps=HISTORIES, seed=st.integers(0, 1 << 30))
@_few
def test_any_sequence_of_loads_and_edits_ends_as_the_model(
    workshop_url: DatabaseUrl, tmp_path: Path, steps: Sequence[Load | Edit], seed: int
) -> None:
    asyncio.run(check_history(ShardedSite(workshop_url, tmp_path, seed), steps))


_KEYS = ["asset_key", "source_id, asset_key", "provider, asset_key"]
# What differs between two runs, whoever does them, and of assets that have their row already.
_OWN = {
    "run_id", "seconds", "records_per_second", "batches", "retries", "rejects_file", "database", "shards", "bytes_read",
    "dates_ignored", "texts_ignored", "ignored_fields", "repaired", "sources", "per_index", "verification",
}  # fmt: skip


def _records(load: Load) -> list[list[Any]]:
    """The records of each index, some with own values, and the same keys of several sources."""
    found = []
    for number, index in enumerate(load.indexes):
        records: list[Any] = [source(key) for key in index.listed]
        records += [asset(f"k{key:02}", of, name=f"{number}{at % 3}") for at, (key, of) in enumerate(index.assets)]
        records += [asset(f"k{key:02}", number="\0") for key in index.rejects[:1]]  # repaired
        # Of a key that repeats, one process rejects as many as it meets in batches that the database refuses.
        records += [_bad_text(f"k{key:02}") for key in index.rejects]
        records += [bad_number(f"n{number}{key:02}") for key in set(index.rejects)]
        found.append(records + ([] if index.is_readable else [UNREADABLE]))
    return found


def _bad_text(key: str) -> bytes:
    return json.dumps(asset(key)).encode()[:-1] + b', "text": "\\ud800"}'


async def _outcome(load: Awaitable[Report]) -> dict[str, Any]:
    try:
        report: Report | None = await load
        error = None
    except SeedRegistryError as exc:
        report, error = getattr(exc, "report", None), [type(exc).__name__, str(exc).splitlines()[0], exc.exit_code]
    facts = to_builtins(report) if report is not None else {}
    per_index = [one["assets"] for one in facts.get("per_index", [])]
    passed = facts.get("verification", {}).get("passed")  # the samples are of other assets
    return {"error": error, "per_index": per_index, "passed": passed} | {
        name: value for name, value in facts.items() if name not in _OWN
    }


async def _emptied(site: Site, key: str) -> None:
    await site.do("drop schema if exists registry cascade")
    connection = await asyncpg.connect(site.url.reveal)
    await create_tables(connection)
    if key != "asset_key":
        await connection.execute("alter table registry.assets drop constraint assets_asset_key_key")
        await connection.execute("alter table registry.assets add column provider text")
        await connection.execute(f"create unique index on registry.assets ({key})")
    await connection.close()


async def _rows(site: Site) -> list[Any]:
    return await site.do(
        "select source_key, asset_key, asset.name, retired_at is not null from registry.assets as asset "
        "join registry.sources as source on source.id = asset.source_id order by 1, 2"
    )


@given(loads=st.lists(LOADS, min_size=2, max_size=4), key=st.sampled_from(_KEYS), seed=st.integers(0, 1 << 30))
@_few
def test_the_report_and_the_rows_are_those_of_one_process(
    workshop_url: DatabaseUrl, twin_url: DatabaseUrl, tmp_path: Path, loads: list[Load], key: str, seed: int
) -> None:
    async def check() -> None:
        one, many = Site(workshop_url, tmp_path), ShardedSite(twin_url, tmp_path, seed, _killing(seed))
        for site in (one, many):
            await _emptied(site, key)
        for load in loads:
            paths = [_write(tmp_path, records, random.Random(f"{seed}{records}")) for records in _records(load)]
            options: dict[str, Any] = {"retire": load.retire, "max_retire": load.max_retire}
            options["retire_despite_rejects"] = load.despite
            options["keys"] = (KeyPart(), KeyPart(1, 2))[seed % 3 == 0]
            expected, found = [await _outcome(site.load(*paths, **options)) for site in (one, many)]
            assert found == expected
            assert await _rows(many) == await _rows(one)

    asyncio.run(check())


def _killing(seed: int) -> Callable[..., Any]:
    return KillingEngine if seed % 2 else LocalEngine


def _write(place: Path, records: Sequence[Any], chance: random.Random) -> str:
    """An index of lines, or a document."""
    path = place / f"{chance.getrandbits(64)}.json"
    lines = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in records]
    if chance.random() < 0.5:
        path.write_bytes(b"\n".join(lines) + b"\n")
        return str(path)
    sources = [line for line in lines if b'"source"' in line]
    rest = [line for line in lines if b'"source"' not in line]
    path.write_bytes(b'{"sources": [' + b",".join(sources) + b'], "assets": [' + b",".join(rest) + b"]}")
    return str(path)


async def test_what_no_shard_lists_is_retired_and_what_one_skips_is_not(site: ShardedSite) -> None:
    await site.load(site.write(source(A), source(B), *assets(range(40)), *assets(range(40), B)))
    records = [*assets(range(36)), *assets(range(36)), asset("a0036", C), bad_number("a0037"), *assets(range(39), B)]
    report = await site.load(site.write(source(A), source(B), *records), retire=True)
    assert report.shards
    assert (report.assets.missing_source, report.assets.rejected, report.assets.duplicate) == (1, 1, 36)
    assert await site.retired() == ["a0038", "a0039", "b0039"]
    assert report.assets.retired == 3
    assert report.retirement is not None
    assert [(one.source, one.held, one.unlisted) for one in report.retirement.per_source] == [(A, 40, 2), (B, 40, 1)]


async def test_the_guard_counts_all_shards(site: ShardedSite) -> None:
    await site.load(site.write(*assets(range(60))))
    index = site.write(*assets(range(50)))
    report = await site.refused(index)
    assert report.shards
    assert report.retirement is not None
    assert (report.retirement.unlisted, report.retirement.held, await site.retired()) == (10, 60, [])
    assert (await site.load(index, retire=True, max_retire=MaxRetire(assets=10))).assets.retired == 10


async def test_a_reject_without_a_known_key_in_one_shard_retires_nothing(site: ShardedSite) -> None:
    await site.load(site.write(*assets(range(40))))
    index = site.write(*assets(range(20)), UNREADABLE, *assets(range(20, 39)))
    report = await site.refused(index)
    assert report.retirement is not None
    assert "1 record rejected without a known key" in (report.retirement.reason or "")
    assert (await site.load(index, retire=True, retire_despite_rejects=True)).assets.retired == 1


@pytest.mark.parametrize("retire", [False, True])
async def test_a_reject_with_a_known_key_returns(site: ShardedSite, *, retire: bool) -> None:
    await site.load(site.write(*assets(range(40))))
    await site.load(site.write(*assets(range(38))), retire=True)
    report = await site.load(site.write(*assets(range(38)), bad_number("a0038"), bad_number("a0039")), retire=retire)
    assert report.shards
    assert (report.assets.rejected, report.assets.returned, await site.retired()) == (2, 2, [])


async def test_a_repeated_key_that_is_rejected_when_it_is_settled_returns(site: ShardedSite) -> None:
    await site.load(site.write(*assets(range(40))))
    await site.load(site.write(*assets(range(39))), retire=True)
    await site.do("alter table registry.assets add check (name <> 'refused')")
    twice = [asset("a0039", A, name="refused")] * 2
    report = await site.load(site.write(twice[0], *assets(range(39)), twice[1]), retire=True)
    assert (report.assets.rejected, report.assets.returned, await site.retired()) == (2, 1, [])


# What ends early


@pytest.mark.parametrize("seed", [pytest.param(0, marks=pytest.mark.slow), 1])
async def test_lost_workers_cost_nothing(site: ShardedSite, seed: int) -> None:
    await site.load(site.write(source(A), *assets(range(60))))
    killing = ShardedSite(site.url, site.place, seed, KillingEngine)
    records = [*assets(range(57)), *assets(range(20)), bad_number("a0057"), asset("a0058", B)]
    report = await killing.load(site.write(source(A), *records), retire=True)
    assert (report.assets.retired, await site.retired()) == (1, ["a0059"])


def _end_before(site: ShardedSite, step: str, number: int) -> ShardedSite:
    """A registry whose runs end before the n-th task of a step."""
    met = 0

    def before(task: Task) -> None:
        nonlocal met
        met += task.step == step
        if met > number:
            raise Killed

    return site.before(before)


async def _killed(load: Awaitable[Report]) -> None:
    with pytest.raises((Killed, BaseExceptionGroup)):
        await load


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("step", "number"), [("load", 3), ("settle", 0), ("sieve", 0), ("scan", 1)])
@pytest.mark.sampled(2)
async def test_a_run_that_ended_at_any_step_is_finished_exactly(
    site: ShardedSite, step: str, number: int, *, processes: int, crash: bool
) -> None:
    await site.load(site.write(source(A), source(B), *assets(range(60)), *assets(range(30), B)))
    records = [*assets(range(57)), *assets(range(20)), bad_number("a0057"), asset("a0058", C), *assets(range(29), B)]
    index = site.write(source(A), source(B), *records)
    await _killed(_end_before(site, step, number).load(index, retire=True))
    if crash:  # a crash of the server empties unlogged tables
        await site.do(_UNLOGGED)
    other = site if processes > 1 else Site(site.url, site.place)
    report = await other.load(index, retire=True)
    assert report.shards
    assert (report.assets.retired, await site.retired()) == (2, ["a0059", "b0029"])


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("how", "name", "number"),
    [
        ("event", "retiring", 1),
        ("event", "batch_retired", 2),
        ("before", "lock_sources", 2),
        ("after", "find_others", 2),
    ],
)
@pytest.mark.sampled(2)
async def test_a_run_that_ended_while_it_retired_goes_on_and_counts_each_asset_once(
    site: ShardedSite, monkeypatch: pytest.MonkeyPatch, how: str, name: str, number: int, processes: int
) -> None:
    await site.load(site.write(*assets(range(60))))
    index, options = site.write(*assets(range(35))), dict[str, Any](retire=True, max_retire=ALL)
    with monkeypatch.context() as patch:
        if how != "event":
            patch.setattr(retirement, name, _failing(getattr(retirement, name), number, is_before=how == "before"))
        await _killed(site.load(index, progress=Watch(name, number, kill) if how == "event" else None, **options))
    performed: list[str] = []
    watched = site.before(lambda task: performed.append(task.step))
    report = await (watched if processes > 1 else Site(site.url, site.place)).load(index, **options)
    assert "load" not in performed  # nothing is read again
    assert (report.assets.retired, report.assets.read) == (25, 35)
    assert await site.retired() == [f"a{n:04}" for n in range(35, 60)]


def _failing(original: Any, number: int, *, is_before: bool) -> Any:
    calls = 0

    async def call(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and is_before:
            raise Killed
        result = await original(*arguments)
        if calls == number:
            raise Killed
        return result

    return call


async def test_what_one_process_began_to_retire_several_finish(site: ShardedSite) -> None:
    one = Site(site.url, site.place)
    await one.load(site.write(*assets(range(60))))
    index, options = site.write(*assets(range(35))), dict[str, Any](retire=True, max_retire=ALL)
    await _killed(one.load(index, progress=Watch("batch_retired", 2, kill), **options))
    assert len(await site.retired()) == 14
    report = await site.load(index, **options)
    assert report.shards
    assert (report.assets.retired, len(await site.retired())) == (25, 25)


async def test_shards_that_were_loaded_without_it_are_loaded_again(site: ShardedSite) -> None:
    await site.load(site.write(*assets(range(60))))
    index = site.write(*assets(range(58)))
    await _killed(site.load(index, progress=Watch("verifying", 1, kill)))
    report = await site.load(index, retire=True)
    assert (report.assets.retired, report.assets.unchanged, await site.retired()) == (2, 58, ["a0058", "a0059"])


async def test_a_crash_of_the_server_before_the_keys_are_taken_costs_nothing(site: ShardedSite) -> None:
    await site.load(site.write(*assets(range(60))))
    index, count = site.write(*assets(range(58))), 0

    async def emptied(self: Any, connection: Any, number: int) -> Any:
        nonlocal count
        count += 1
        if count == 100:
            await site.do(_UNLOGGED)
        return await original(self, connection, number)

    original = shard_listed.ListedStore.part
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_listed.ListedStore, "part", emptied)
        with pytest.raises(CommitsLost):
            await site.load(index, retire=True)
    assert await site.retired() == []
    assert (await site.load(index, retire=True)).assets.retired == 2


# What happens at the same time


async def test_a_resumed_run_looks_up_again_what_another_run_may_have_retired(site: ShardedSite) -> None:
    await site.load(site.write(*assets(range(60))))
    index = site.write(*assets(range(58)))
    await _killed(site.load(index, retire=True, progress=Watch("verifying", 1, kill)))
    one = Site(site.url, site.place)
    await one.load(site.write(*assets(range(3, 60))), retire=True)
    assert await site.retired() == ["a0000", "a0001", "a0002"]
    report = await site.load(index, retire=True)
    assert (report.assets.returned, report.assets.retired) == (3, 2)
    assert await site.retired() == ["a0058", "a0059"]


async def test_what_others_changed_between_two_attempts_is_left_alone(site: ShardedSite) -> None:
    await site.load(site.write(*assets(range(60))))
    index = site.write(*assets(range(56)))
    await _killed(site.load(index, retire=True, progress=Watch("verifying", 1, kill)))
    await site.do("update registry.assets set name = 'by hand' where asset_key = 'a0058'")
    assert (await site.load(index, retire=True)).assets.retired == 3
    assert await site.retired() == ["a0056", "a0057", "a0059"]


async def test_what_another_run_lists_meanwhile_is_left_alone(site: ShardedSite) -> None:
    await site.load(site.write(*assets(range(60)), *assets(range(60), B)))
    other, one = site.write(*assets(range(60))), Site(site.url, site.place)
    loads = 0

    async def load_other() -> None:
        nonlocal loads
        loads += 1
        if loads == 2:
            await one.load(other)

    watched = site.before(lambda task: load_other() if task.step == "load" else None)
    report = await watched.load(site.write(*assets(range(58)), *assets(range(58), B)), retire=True)
    assert report.retirement is not None
    assert [one.source for one in report.retirement.left_alone] == [A]
    assert await site.retired() == ["b0058", "b0059"]


async def test_workers_note_their_sources_so_that_another_run_leaves_their_assets_alone(site: ShardedSite) -> None:
    await site.load(site.write(*assets(range(60))))
    loads = 0
    reports: list[Report] = []
    shorter, one = site.write(*assets(range(58))), Site(site.url, site.place)

    async def retire() -> None:
        nonlocal loads
        loads += 1
        if loads == 2:  # one shard is loaded
            reports.append(await one.load(shorter, retire=True))

    watched = site.before(lambda task: retire() if task.step == "load" else None)
    await watched.load(site.write(*assets(range(60))))
    (report,) = reports
    assert report.retirement is not None
    assert [left.source for left in report.retirement.left_alone] == [A]
    assert await site.retired() == []


async def test_a_resumed_run_notes_its_sources_again_though_it_reads_nothing(site: ShardedSite) -> None:
    await site.load(site.write(*assets(range(60))))
    index = site.write(*assets(range(60)))
    await _killed(site.load(index, retire=True, progress=Watch("verifying", 1, kill)))
    performed: list[str] = []
    original = run_sources.find_begin

    async def resume_after_that(*arguments: Any) -> Any:
        found = await original(*arguments)
        patch.setattr(retirement, "find_begin", original)
        await site.before(lambda task: performed.append(task.step)).load(index, retire=True)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retirement, "find_begin", resume_after_that)
        await Site(site.url, site.place).load(site.write(*assets(range(58))), retire=True)
    assert "load" not in performed
    assert await site.retired() == []
