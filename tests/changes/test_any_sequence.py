"""Any sequence of loads, kills, edits, retires and undos against a model in plain Python.

The model knows the rows before and after each run, and so what an undo has to do: rows that are as the run left them
are again what they were before it. Of a run that began without assets the model also knows which of the rows that it
created were written since without history: nobody knows what these are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from msgspec import Struct, field
from scratch import KilledAt, Scratch, Snapshot
from site_of_assets import A, B, C, Killed, asset, source

from seed_registry.settings import DatabaseUrl

pytestmark = pytest.mark.usefixtures("at_home")

Row = tuple[Any, ...]
RETIRED = -1  # the place of the mark in a row


class Load(Struct):
    """A load; it is killed at an event and perhaps resumed at once."""

    assets: list[tuple[int, str, str | None]]  # key, source, name
    named: str | None  # of all sources
    retire: bool
    history: bool
    killed: tuple[str, int] | None
    is_resumed: bool


class Edit(Struct):
    """What somebody does by hand to an asset."""

    what: str
    key: int


class UndoOf(Struct):
    """An undo of the n-th run with history, the last first; it is killed at an event, and gone on with."""

    number: int
    keeps: bool
    killed: tuple[str, int] | None


class Past(Struct):
    """What a run with history did.

    Attributes:
        created: ids of rows that it created, and did not record one by one.
        lost: those of them that something wrote without history first.
        known: those that something wrote with history first.
    """

    run_id: str
    before: Snapshot
    after: Snapshot
    created: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)
    known: set[int] = field(default_factory=set)


class World:
    """The registry, and what the model knows of it."""

    def __init__(self, scratch: Scratch) -> None:
        self.scratch = scratch
        self.past: list[Past] = []

    async def load(self, load: Load) -> None:
        """Load; check that what is recorded is what changed."""
        scratch, before = self.scratch, await self.scratch.snapshot()
        records = [asset(f"k{key:02}", of, name=name) for key, of, name in load.assets]
        if not load.history:  # what is written twice is not seen in the rows
            records = list({record["asset_key"]: record for record in records}.values())
        listed = [source(key, name=load.named) for key in sorted({of for _, of, _ in load.assets})]
        index = scratch.write(*listed, *records)
        options: dict[str, Any] = {"retire": load.retire, "history": load.history}
        watch = KilledAt(*load.killed) if load.killed else None
        try:
            await scratch.load(index, progress=watch, **options)
        except Killed:
            await scratch.settle()
            if load.is_resumed:
                await scratch.load(index, **options)
        after = await scratch.snapshot()
        self.wrote(before, after, with_history=load.history)
        if load.history:
            ((run_id,),) = await scratch.do("select run_id from seed_registry.runs order by started_at desc limit 1")
            self.past.append(await self.recorded(run_id, before, after))

    def wrote(self, before: Snapshot, after: Snapshot, *, with_history: bool) -> None:
        """Note which rows were written, for the runs that created them."""
        for past in self.past:
            fresh = past.created - past.lost - past.known
            for key, row in before.assets.items():
                if row[0] in fresh and after.assets.get(key) != row:
                    (past.known if with_history else past.lost).add(row[0])

    async def recorded(self, run_id: str, before: Snapshot, after: Snapshot) -> Past:
        """Check that the changes of a run are the differences, each once; return what it did."""
        past = Past(run_id, before, after)
        for relation in ("assets", "sources"):
            old, new = getattr(before, relation), getattr(after, relation)
            found = await self.scratch.do(
                "select kind, rows, key[cardinality(key)], fields from seed_registry.changes "
                "where run_id = $1 and relation = $2 order by id",
                run_id,
                relation,
            )
            ((as_whole,),) = await self.scratch.do(
                "select coalesce(sum(rows), 0)::int from seed_registry.created where run_id = $1", run_id
            )
            touched = {key for _, _, key, _ in found if key is not None}
            singly = {key for kind, _, key, _ in found if kind == "inserted" and key is not None}
            assert {key for key in old if new.get(key) != old[key]} <= touched
            added = new.keys() - old.keys()
            if relation == "assets" and as_whole:
                past.created = {new[key][0] for key in added - singly}
                assert len(past.created) == as_whole
            else:
                assert added == singly
            for kind, _, _, fields in found:
                assert kind in ("inserted", "updated", "retired", "returned")
                assert (kind == "inserted") == (not fields)
        past.known = {after.assets[key][0] for key in after.assets if after.assets[key][0] in past.created} & {
            after.assets[key][0] for key in touched_assets(await self.scratch.changes(run_id)) if key in after.assets
        }
        return past

    async def edit(self, edit: Edit) -> None:
        """Change a row by hand."""
        key, before = f"k{edit.key:02}", await self.scratch.snapshot()
        await self.scratch.do(
            {
                "delete": "delete from registry.assets where asset_key = $1",
                "name": "update registry.assets set name = 'by hand' where asset_key = $1 "
                "and name is distinct from 'by hand'",
                "mark": "update registry.assets set retired_at = now() where asset_key = $1 and retired_at is null",
                "insert": "insert into registry.assets (asset_key, source_id, name) "
                "select $1, id, 'by hand' from registry.sources order by id limit 1 on conflict do nothing",
            }[edit.what],
            key,
        )
        self.wrote(before, await self.scratch.snapshot(), with_history=False)

    async def undo(self, step: UndoOf) -> None:
        """Undo a run; check that the rows are those of the model, and the counts of a dry run true."""
        if not self.past:
            return
        past, before = self.past[-1 - step.number % len(self.past)], await self.scratch.snapshot()
        expected = undone(past, before, keeps=step.keeps)
        dry = await self.scratch.undo(past.run_id, keeps=step.keeps, dry_run=True)
        assert await self.scratch.snapshot() == before
        if step.killed:
            try:
                await self.scratch.undo(past.run_id, keeps=step.keeps, progress=KilledAt(*step.killed))
            except Killed:
                await self.scratch.settle()
        report = await self.scratch.undo(past.run_id, keeps=step.keeps)
        after = await self.scratch.snapshot()
        assert after == expected
        if not step.killed:
            assert (dry.assets, dry.sources, dry.conflicts) == (report.assets, report.sources, report.conflicts)
        self.wrote(before, after, with_history=True)
        runs = "select run_id from seed_registry.runs where undoes is not null order by started_at desc limit 1"
        ((run_id,),) = await self.scratch.do(runs)
        if not step.killed:
            assert report.run_id == run_id
            self.past.append(Past(run_id, before, after))


def touched_assets(changes: Sequence[Row]) -> set[str]:
    """The keys of changes that are of one asset."""
    return {key for _, key, *_ in changes if key is not None}


def undone(past: Past, now: Snapshot, *, keeps: bool) -> Snapshot:
    """The registry after an undo."""
    sources, assets = dict(now.sources), dict(now.assets)
    for key in past.before.sources:
        _restore(sources, key, past.before.sources, past.after.sources)
    for key, was in past.before.assets.items():
        if was[1] in sources:  # of an asset whose source is gone nothing can be restored
            _restore(assets, key, past.before.assets, past.after.assets)
    for key, left in past.after.assets.items():
        is_lost = left[0] in past.lost and left[0] not in past.known
        if key in past.before.assets or assets.get(key) != left or is_lost:
            continue
        if keeps:
            assets[key] = (*left[:RETIRED], True)
        else:
            del assets[key]
    used = {row[1] for row in assets.values()}
    for key, left in past.after.sources.items():
        if not keeps and key not in {*past.before.sources, *used} and sources.get(key) == left:
            del sources[key]
    return Snapshot(sources, assets)


def _restore(rows: dict[str, Row], key: str, before: dict[str, Row], after: dict[str, Row]) -> None:
    """Give a row that was there before a run its values of then, if it is as the run left it."""
    if key in before and before[key] != after.get(key) and rows.get(key) == after.get(key):
        rows[key] = before[key]


KEYS = st.integers(0, 12)
LOADS = st.builds(
    Load,
    assets=st.lists(
        st.tuples(KEYS, st.sampled_from([A, B, C]), st.sampled_from([None, "x", "y"])), min_size=1, max_size=25
    ),
    named=st.sampled_from([None, None, "n"]),
    retire=st.booleans(),
    history=st.sampled_from([True, True, True, False]),
    killed=st.one_of(
        st.none(), st.tuples(st.sampled_from(["batch_merged", "sources_merged", "batch_retired"]), st.integers(1, 3))
    ),
    is_resumed=st.booleans(),
)
EDITS = st.builds(Edit, what=st.sampled_from(["delete", "name", "mark", "insert"]), key=KEYS)
UNDOS = st.builds(
    UndoOf,
    number=st.integers(0, 3),
    keeps=st.sampled_from([False, False, True]),
    killed=st.one_of(st.none(), st.tuples(st.just("batch_undone"), st.integers(1, 4))),
)


def run(url: DatabaseUrl, place: Path, steps: Sequence[Load | Edit | UndoOf]) -> None:
    """Perform the steps."""

    async def perform() -> None:
        scratch = Scratch(url, place)
        await scratch.empty()
        world = World(scratch)
        for step in steps:
            if isinstance(step, Load):
                await world.load(step)
            elif isinstance(step, Edit):
                await world.edit(step)
            else:
                await world.undo(step)

    asyncio.run(perform())


@given(st.lists(st.one_of(LOADS, LOADS, UNDOS, EDITS), min_size=2, max_size=6))
@hypothesis_settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_sequence_of_loads_kills_edits_and_undos_ends_as_the_model(
    workshop_url: DatabaseUrl, tmp_path: Path, steps: list[Load | Edit | UndoOf]
) -> None:
    run(workshop_url, tmp_path, steps)


@pytest.mark.slow
@given(st.lists(st.one_of(LOADS, LOADS, UNDOS, EDITS), min_size=2, max_size=8))
@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_longer_sequences_end_as_the_model(
    workshop_url: DatabaseUrl, tmp_path: Path, steps: list[Load | Edit | UndoOf]
) -> None:
    run(workshop_url, tmp_path, steps)


@given(st.lists(LOADS, min_size=1, max_size=5))
@hypothesis_settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_undoing_all_runs_in_reverse_restores_the_first_rows(
    workshop_url: DatabaseUrl, tmp_path: Path, loads: list[Load]
) -> None:
    async def perform() -> None:
        scratch = Scratch(workshop_url, tmp_path)
        await scratch.empty()
        world, first = World(scratch), await scratch.snapshot()
        for load in loads:
            load.history = True
            await world.load(load)
        for past in reversed(list({past.run_id: past for past in world.past}.values())):
            assert (await scratch.undo(past.run_id)).conflicts == []
        assert await scratch.snapshot() == first

    asyncio.run(perform())
