"""The counts of a load are a property of its indexes and of the table before, and a second load writes nothing."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from seed_registry import DatabaseUrl, MaxRejects, Settings, ingest
from seed_registry.load import held_assets
from seed_registry.report import AssetCounts, Report

KEYS = "abcdefghijkl"
SOURCES = ("one.org", "two.org", "late.org", "missing.org")


class Record(Struct, frozen=True):
    """An asset, or a line that is none."""

    key: str
    source: str = "one.org"
    name: str = "A"
    day: int | None = None

    @property
    def line(self) -> str:
        """Its line in an index."""
        if not self.key:
            return "{broken"
        day = f"2020-01-{self.day:02d}T00:00:00Z" if self.day else None
        facts = {"asset_key": self.key, "source_key": self.source, "name": self.name, "updated_at": day}
        return json.dumps({"type": "asset", **facts})


Index = Sequence[Record]
Row = tuple[str, str, int | None, int | None]  # source, name, the greatest day, that of the record

records = st.builds(
    Record,
    key=st.one_of(st.sampled_from([*KEYS, "a", "b", "a", ""]), st.integers(1, 99).map("u{}".format)),
    source=st.sampled_from([*SOURCES[:2], *SOURCES]),
    name=st.sampled_from("ABC"),
    day=st.sampled_from([None, 1, 2, 3]),
)
# One record at least is good: a load of nothing else fails.
indexes = st.lists(st.lists(records, max_size=40).map(lambda them: [Record("z"), *them]), min_size=1, max_size=3)


class Way(Struct, frozen=True):
    """How indexes are loaded; `most_held` bytes are held before the keys of all indexes are scanned."""

    batch_size: int
    concurrency: int
    full: bool
    most_held: int
    only_newer: bool


ways = st.builds(
    Way,
    batch_size=st.sampled_from([1, 2, 3, 7, 500]),
    concurrency=st.integers(1, 4),
    full=st.sampled_from([False, False, True]),
    most_held=st.sampled_from([0, 500, 2000, 1 << 24]),
    only_newer=st.booleans(),
)


def expected(
    before: dict[str, Row], together: Sequence[Index], *, only_newer: bool = False
) -> tuple[dict[str, Row], list[Counter[str]]]:
    """The rows after a load, and the counts of each index."""
    rows, last, older = dict(before), dict[str, int](), set[str]()
    counts = [Counter({"read": len(index)}) for index in together]
    for number, index in enumerate(together):
        for record in index:
            if not record.key:
                counts[number]["rejected"] += 1
            elif record.source == "missing.org":
                counts[number]["missing_source"] += 1
            else:
                is_known = only_newer and record.key in before  # then its last record decides alone
                row = (before if is_known else rows).get(record.key, ("", "", None, None))
                day = max((day for day in (record.day, row[2]) if day), default=None)
                older.discard(record.key)
                rows[record.key] = (record.source, record.name, day, record.day)
                if is_known and rows[record.key] != row and record.day and day != record.day:
                    older.add(record.key)
                    rows[record.key] = row
                if record.key in last:
                    counts[last[record.key]]["duplicate"] += 1
                last[record.key] = number
    for key, number in last.items():
        outcome = "inserted" if key not in before else "unchanged" if rows[key] == before[key] else "updated"
        counts[number]["older" if key in older else outcome] += 1
    return rows, counts


def write(directory: Path, together: Sequence[Index]) -> list[str]:
    """Files of these indexes; the source `late.org` comes last in each."""
    paths = []
    for number, index in enumerate(together):
        sources = [json.dumps({"type": "source", "source_key": key}) for key in SOURCES[:3]]
        lines = [*sources[:2], *(record.line for record in index), sources[2]]
        path = directory / f"{number}.ndjson"
        path.write_text("".join(f"{line}\n" for line in lines))
        paths.append(str(path))
    return paths


async def load(url: DatabaseUrl, paths: Sequence[str], directory: Path, **options: Any) -> Report:
    anything = MaxRejects(records=1000, percent=None)
    return await ingest(
        paths, Settings(database_url=url, max_rejects=anything, rejects=str(directory / "rejects"), **options)
    )


async def stored(url: DatabaseUrl) -> tuple[dict[str, Row], dict[str, Any]]:
    """The rows, and in which transaction each was written."""
    connection = await asyncpg.connect(url.reveal)
    try:
        found = await connection.fetch("""
            select asset_key, source_key, assets.name, extract(day from assets.updated_at at time zone 'UTC')::int,
              pg_catalog.substr(assets.raw->>'updated_at', 9, 2)::int, assets.xmin::text
            from registry.assets join registry.sources on sources.id = source_id
        """)
    finally:
        await connection.close()
    return {row[0]: tuple(row[1:5]) for row in found}, {row[0]: row[5] for row in found}


def counted(counts: AssetCounts) -> Counter[str]:
    names = (
        "read",
        "inserted",
        "updated",
        "unchanged",
        "duplicate",
        "rejected",
        "missing_source",
        "older",
        "not_written",
    )
    return +Counter({name: getattr(counts, name) for name in names})


def per_index(report: Report) -> list[Counter[str]]:
    return [counted(part.assets) for part in report.per_index] or [counted(report.assets)]


@pytest.mark.parametrize("examples", [5, pytest.param(25, marks=pytest.mark.slow)])
def test_counts_are_those_of_the_model_however_an_index_is_cut_and_a_second_load_writes_nothing(
    database_url: DatabaseUrl, tmp_path: Path, examples: int
) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(before=st.one_of(st.none(), indexes), together=indexes, way=ways, again=ways)
    def check(before: list[Index] | None, together: list[Index], way: Way, again: Way) -> None:
        asyncio.run(_check(database_url, tmp_path, before, together, way, again))

    check()


async def _check(
    url: DatabaseUrl,
    directory: Path,
    before: list[Index] | None,
    together: list[Index],
    way: Way,
    again: Way,
) -> None:
    connection = await asyncpg.connect(url.reveal)
    await connection.execute("truncate registry.assets, registry.sources")
    await connection.close()
    rows: dict[str, Row] = {}
    if before is not None:
        rows, _ = expected(rows, before)
        await load(url, write(directory, before), directory)
    paths = write(directory, together)
    for one in (way, again):
        options = {name: getattr(one, name) for name in ("batch_size", "concurrency", "full", "only_newer")}
        wanted_rows, wanted = expected(rows, together, only_newer=one.only_newer)
        plan = await load(url, paths, directory, dry_run=True, **options)
        assert per_index(plan) == wanted
        _, was_written_by = await stored(url)
        with patch.object(held_assets, "MOST_HELD_BYTES", one.most_held):
            report = await load(url, paths, directory, **options)
        found, is_written_by = await stored(url)
        assert found == wanted_rows
        assert per_index(report) == wanted
        assert counted(report.assets) == sum(wanted, Counter())
        unchanged = {key for key in rows if rows[key] == wanted_rows[key]}
        assert {key for key in rows if was_written_by[key] == is_written_by[key]} == unchanged
        rows = wanted_rows
