"""Rows, counts and rejects of a load by shards are those of a plain model, whatever the cuts, orders and losses."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from local_engine import KillingEngine, LocalEngine, load_by_shards

from partitions import create_tables
from seed_registry import Settings, TooManyRejects, VerificationFailed
from seed_registry.report import AssetCounts, Report, Silent
from seed_registry.settings import DatabaseUrl, MaxRejects

pytestmark = pytest.mark.usefixtures("at_home")


@pytest.fixture(scope="module")
def emptied_database(workshop_url: DatabaseUrl) -> DatabaseUrl:
    """A database with the registry's tables, for the examples of a module, one after the other."""

    async def prepare() -> None:
        connection = await asyncpg.connect(workshop_url.reveal)
        await create_tables(connection)
        await connection.close()

    anyio.run(prepare)
    return workshop_url


_PORTALS = ["a.example", "b.example", "c.example"]
_source = st.fixed_dictionaries({"type": st.just("source"), "source_key": st.sampled_from(_PORTALS[:2])})
_asset = st.fixed_dictionaries(
    {
        "type": st.just("asset"),
        "asset_key": st.integers(0, 12).map(lambda number: f"aaaa-{number:04}"),
        "source_key": st.sampled_from(_PORTALS),
        "name": st.sampled_from(["one", "two", "three"]),
        "updatedAt": st.sampled_from([None, "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"]),
    }
)
_bad = st.sampled_from([{"type": "asset", "name": "no key"}, {"type": "other"}, "no object", None])
_indexes = st.lists(
    st.lists(st.one_of(_asset, _asset, _asset, _source, _bad), min_size=3, max_size=40), min_size=1, max_size=2
)


class Model:
    """The registry in plain Python: what the last accepted record of each key makes of it."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[str, str, str | None]] = {}
        self.records: dict[str, tuple[str, str, str | None]] = {}  # the last ones: their hashes are in the rows

    def load(self, indexes: list[list[Any]], *, only_newer: bool = False) -> dict[str, int]:
        """Load indexes, one after the other; return the outcomes of their assets."""
        counts = dict.fromkeys(AssetCounts.__struct_fields__, 0)
        accepted: dict[str, list[tuple[str, str, str | None]]] = {}
        for records in indexes:
            listed = {one["source_key"] for one in records if isinstance(one, dict) and one.get("type") == "source"}
            for one in records:
                if isinstance(one, dict) and one.get("type") == "source":
                    continue
                counts["read"] += 1
                if not isinstance(one, dict) or "asset_key" not in one:
                    counts["rejected"] += 1
                elif listed and one["source_key"] not in listed:
                    counts["missing_source"] += 1
                else:
                    accepted.setdefault(one["asset_key"], []).append((one["source_key"], one["name"], one["updatedAt"]))
        for key, found in accepted.items():
            before = self.rows.get(key)
            counts["duplicate"] += len(found) - 1
            records = found
            if before is not None and only_newer:
                records = found[-1:]  # it decides alone
                moment = records[0][2]
                if self.records[key] != records[0] and moment and before[2] and moment < before[2]:
                    counts["older"] += 1
                    continue
            moments = [moment for *_, moment in [*records, *filter(None, [before])] if moment]
            after = (*records[-1][:2], max(moments, default=None))
            is_same = before == after and self.records[key] == records[-1]  # a moment may be older than that of the row
            outcome = "inserted" if before is None else "unchanged" if is_same else "updated"
            counts[outcome] += 1
            self.rows[key], self.records[key] = after, records[-1]
        return counts


async def _rows(url: DatabaseUrl) -> dict[str, tuple[str, str, str | None]]:
    connection = await asyncpg.connect(url.reveal)
    try:
        rows = await connection.fetch(
            "select asset_key, source_key, assets.name, to_char(assets.updated_at at time zone 'UTC', "
            """'YYYY-MM-DD"T"HH24:MI:SS"Z"') from registry.assets join registry.sources on sources.id = source_id"""
        )
        return {key: tuple(row) for key, *row in rows}
    finally:
        await connection.close()


async def _empty(url: DatabaseUrl) -> None:
    connection = await asyncpg.connect(url.reveal)
    await connection.execute("truncate registry.sources, registry.assets cascade")
    await connection.execute("drop schema if exists seed_registry cascade")
    await connection.close()


def _write(directory: Path, indexes: list[list[Any]]) -> list[Path]:
    paths = []
    for number, records in enumerate(indexes):
        paths.append(directory / f"{number}.ndjson")
        paths[-1].write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return paths


def _places(report: Report) -> list[tuple[str, int]]:
    if report.rejects_file is None:
        return []
    lines = Path(report.rejects_file).read_text(encoding="utf-8").splitlines()
    return [(line["index"], line["offset"]) for line in map(json.loads, lines)]


async def _report(load: Awaitable[Report]) -> Report:
    """The report of a load, also of one of which nothing could be loaded."""
    try:
        return await load
    except (VerificationFailed, TooManyRejects) as exc:
        if exc.report is None:
            raise
        return exc.report


async def _check(url: DatabaseUrl, directory: Path, loads: list[list[list[Any]]], seed: int, **options: Any) -> None:
    """Load one version of the indexes after the other, each twice."""
    model, chance = Model(), random.Random(seed)
    await _empty(url)
    for number, indexes in enumerate(loads):
        only_newer = chance.random() < 0.5  # every second time
        place = directory / f"{seed}-{number}"
        place.mkdir(exist_ok=True)
        paths = _write(place, indexes)
        for turn in range(2):
            settings_ = Settings(
                database_url=url,
                max_rejects=MaxRejects(100, None),
                rejects=str(place / f"rejects-{turn}"),
                only_newer=only_newer,
                **{name: values[chance.randrange(len(values))] for name, values in options.items()},
            )
            report = await _report(
                load_by_shards(
                    paths,
                    settings_,
                    shard_bytes=chance.randrange(40, 160),
                    workers=chance.randint(1, 3),
                    seed=seed,
                    new_engine=chance.choice([LocalEngine, KillingEngine]),
                )
            )
            expected = model.load(indexes, only_newer=only_newer)
            found = {name: getattr(report.assets, name) for name in expected}
            assert found == expected
            assert await _rows(url) == model.rows
            assert _places(report) == sorted(_places(report))
            if turn:
                assert report.assets.updated == report.assets.inserted == 0
            if len(paths) > 1:
                sums = {name: sum(getattr(part.assets, name) for part in report.per_index) for name in expected}
                assert sums == expected


def _options(examples: int) -> settings:
    # A smaller example of a failure would take minutes to find.
    return settings(
        deadline=None, max_examples=examples, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )


_loads = st.lists(_indexes, min_size=1, max_size=2)
_seeds = st.integers(0, 1 << 30)


def _check_loads(url: DatabaseUrl, directory: Path, loads: list[list[list[Any]]], seed: int) -> None:
    first = {"type": "asset", "asset_key": "aaaa-9999", "source_key": "a.example", "name": "x", "updatedAt": None}
    loads = [[[first, *records] for records in indexes] for indexes in loads]
    anyio.run(lambda: _check(url, directory, loads, seed, batch_size=[1, 2, 7, 500], concurrency=[1, 2, 3]))


@_options(3)
@given(loads=_loads, seed=_seeds)
def test_rows_counts_and_rejects_equal_the_model(
    emptied_database: DatabaseUrl, tmp_path: Path, loads: list[list[list[Any]]], seed: int
) -> None:
    _check_loads(emptied_database, tmp_path, loads, seed)


@pytest.mark.slow
@_options(int(os.environ.get("MODEL_EXAMPLES", "20")))
@given(loads=_loads, seed=_seeds)
def test_rows_counts_and_rejects_equal_the_model_every_time(
    emptied_database: DatabaseUrl, tmp_path: Path, loads: list[list[list[Any]]], seed: int
) -> None:
    _check_loads(emptied_database, tmp_path, loads, seed)


class _Warnings(Silent):
    """Keeps the events."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Something happened."""
        del level
        self.events[event] = fields


@pytest.mark.anyio
async def test_shards_and_repeated_keys_count_what_is_older_and_warn_without_the_flag(
    emptied_database: DatabaseUrl, tmp_path: Path
) -> None:
    await _empty(emptied_database)
    facts = {"type": "asset", "source_key": "a.example"}
    stored = [facts | {"asset_key": f"k{key}", "name": "one", "updatedAt": "2025-01-01"} for key in range(30)]
    old = [one | {"name": "two", "updatedAt": "2024-01-01"} for one in stored]
    paths = _write(tmp_path, [stored, [*old, *old[:10]]])
    await load_by_shards(paths[0], Settings(database_url=emptied_database), shard_bytes=300)
    for engine in (LocalEngine, KillingEngine):
        flagged = Settings(database_url=emptied_database, only_newer=True)
        report = await load_by_shards(paths[1], flagged, shard_bytes=300, seed=3, new_engine=engine)
        assert report.assets == AssetCounts(read=40, older=30, duplicate=10)
    progress = _Warnings()
    unflagged = Settings(database_url=emptied_database)
    report = await load_by_shards(paths[1], unflagged, shard_bytes=300, progress=progress)
    assert report.assets == AssetCounts(read=40, updated=30, duplicate=10)
    warning = progress.events["index_is_older"]
    assert (warning["changed"], warning["older"]) == (30, 30)
