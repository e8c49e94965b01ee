"""A model of what any sequence of loads, with and without `--retire`, makes of a registry, and such sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest
from hypothesis import strategies as st
from msgspec import Struct, field
from site_of_assets import ALL, UNREADABLE, A, B, C, Site, asset, bad_number, source

from partitions import create_tables
from seed_registry.errors import NotRetired
from seed_registry.report import Report
from seed_registry.settings import MaxRetire


class Index(Struct):
    """What one index has: the sources that it lists, its assets as (key, source), rejects, and one without a key."""

    listed: list[str]
    assets: list[tuple[int, str]]
    rejects: list[int]
    is_readable: bool


class Load(Struct):
    """A load of indexes."""

    indexes: list[Index]
    retire: bool
    max_retire: MaxRetire
    despite: bool


class Edit(Struct):
    """A row that somebody deletes, marks, or takes the mark from."""

    what: str
    key: int


class Model(Struct):
    """The registry as it should be: the source of each key, and which are retired."""

    rows: dict[str, str] = field(default_factory=dict)
    retired: set[str] = field(default_factory=set)

    def edit(self, edit: Edit) -> None:
        """Do what somebody does by hand."""
        key = name_of(edit.key)
        if edit.what == "delete":
            self.rows.pop(key, None)
            self.retired.discard(key)
        elif edit.what == "mark" and key in self.rows:
            self.retired.add(key)
        elif edit.what == "unmark":
            self.retired.discard(key)

    def load(self, load: Load) -> tuple[int, int, bool]:
        """Return how many are retired and returned, and whether the result is that nothing was retired."""
        covered: set[str] = set()
        named: set[str] = set()
        rejected: set[str] = set()
        before = set(self.retired)
        for index in load.indexes:
            sources = set(index.listed) or {source for _, source in index.assets}
            covered |= sources
            for number, source_key in index.assets:
                named.add(name_of(number))
                if source_key in sources:
                    self.rows[name_of(number)] = source_key
                    self.retired.discard(name_of(number))
            rejected |= {name_of(number) for number in index.rejects}
        self.retired -= {key for key in rejected if self.rows.get(key) in covered}
        returned = len(before - self.retired)
        if not load.retire:
            return 0, returned, False
        if not load.despite and not all(index.is_readable for index in load.indexes):
            return 0, returned, True
        held = {key: source for key, source in self.rows.items() if source in covered and key not in self.retired}
        gone = {key for key in held if key not in named | rejected}
        groups = [(len(gone), len(held))]
        groups += [
            (sum(held[key] == source for key in gone), sum(one == source for one in held.values()))
            for source in covered
        ]
        if any(load.max_retire.exceeded(*group) for group in groups):
            return 0, returned, True
        self.retired |= gone
        return len(gone), returned, False


def name_of(number: int) -> str:
    return f"k{number:02}"


NUMBERS = st.integers(0, 30)
SOURCES = st.sampled_from([A, B, C])
INDEXES = st.builds(
    Index,
    listed=st.lists(SOURCES, max_size=3),
    assets=st.lists(st.tuples(NUMBERS, SOURCES), min_size=1, max_size=40),
    rejects=st.lists(NUMBERS, max_size=3),
    is_readable=st.sampled_from([True, True, True, False]),
)
LOADS = st.builds(
    Load,
    indexes=st.lists(INDEXES, min_size=1, max_size=2),
    retire=st.booleans(),
    max_retire=st.sampled_from([MaxRetire(), MaxRetire(assets=4), MaxRetire(percent=30), ALL, ALL]),
    despite=st.booleans(),
)
EDITS = st.builds(Edit, what=st.sampled_from(["delete", "mark", "unmark"]), key=NUMBERS)
HISTORIES = st.lists(st.one_of(LOADS, LOADS, EDITS), min_size=1, max_size=6)


async def check_history(site: Site, steps: Sequence[Load | Edit]) -> None:
    """Do all that in a registry of its own, and compare each result with that of the model."""
    await site.do("drop schema if exists registry cascade")
    connection = await asyncpg.connect(site.url.reveal)
    await create_tables(connection)
    await connection.close()
    model = Model()
    for step in steps:
        if isinstance(step, Edit):
            model.edit(step)
            await _edit(site, step)
        elif all(_keeps_any(index) for index in step.indexes):
            retired, returned, is_refused = model.load(step)
            report = await _load(site, step, is_refused=is_refused)
            assert (report.assets.retired, report.assets.returned) == (retired, returned)
        rows = await site.do(
            "select asset_key, source_key, retired_at is not null from registry.assets as asset "
            "join registry.sources as source on source.id = asset.source_id"
        )
        assert {key: source for key, source, _ in rows} == model.rows
        assert {key for key, _, is_retired in rows if is_retired} == model.retired


def _keeps_any(index: Index) -> bool:
    return not index.listed or any(source in index.listed for _, source in index.assets)


async def _edit(site: Site, edit: Edit) -> None:
    statement = {
        "delete": "delete from registry.assets",
        "mark": "update registry.assets set retired_at = now()",
        "unmark": "update registry.assets set retired_at = null",
    }[edit.what]
    await site.do(f"{statement} where asset_key = $1", name_of(edit.key))


async def _load(site: Site, load: Load, *, is_refused: bool) -> Report:
    paths = []
    for index in load.indexes:
        records: list[Any] = [source(key) for key in index.listed]
        records += [asset(name_of(number), of) for number, of in index.assets]
        # Of a source that is covered without them: whether a reject alone covers one depends on who refused it.
        covered = (index.listed or [of for _, of in index.assets])[0]
        records += [bad_number(name_of(number), covered) for number in index.rejects]
        records += [] if index.is_readable else [UNREADABLE]
        paths.append(site.write(*records))
    options: dict[str, Any] = {
        "retire": load.retire,
        "max_retire": load.max_retire,
        "retire_despite_rejects": load.despite,
    }
    if not is_refused:
        return await site.load(*paths, **options)
    with pytest.raises(NotRetired) as caught:
        await site.load(*paths, **options)
    return caught.value.report
