"""The tables are emptied, as a whole or in part, while a run is stopped: the same command loads whatever is missing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import asyncpg
import pytest
from model import Model, model
from scene import WAITING, Ended, Scene, eventually
from test_pgbouncer import Pooler, started  # noqa: F401  # a fixture
from test_pooler import PGBOUNCER

from seed_registry.registry import ddl
from seed_registry.settings import DatabaseUrl
from seed_registry.synthetic.index import Workload, generate

# How many batches of some 31 are committed before the load is killed.
MOMENTS = {"early": 2, "half way": 14, "late": 26}
UNLOGGED = "alter table registry.assets set unlogged"
WAYS = {
    "truncated": "truncate registry.assets, registry.sources",
    "dropped and created again": "",
    "some rows deleted": "delete from registry.assets where hashtext(asset_key) % 3 = 0",
    "a source deleted with its rows": """
        with gone as (delete from registry.assets
                      where source_id = (select min(source_id) from registry.assets) returning source_id)
        select count(*) from gone;
    """,
    "rows of an older load in place of its own": """
        update registry.assets set asset_key = 'older-' || asset_key where hashtext(asset_key) % 2 = 0
    """,
}
CASES = list(product(MOMENTS, WAYS, [1, 3], [False, True]))


def stopped(scene: Scene, passes: int, *arguments: object, url: DatabaseUrl | None = None) -> None:
    """A load that is killed once so many batches are committed."""
    scene.close_gate(passes)
    process = scene.start(*arguments, url=url)
    scene.at_gate(process)
    process.kill()
    process.communicate()
    eventually(lambda: scene.ask(WAITING) == 0)  # a pooler keeps its sessions
    scene.open_gate()


def empty(scene: Scene, way: str, *, unlogged: bool = False) -> None:
    """Empty the tables in one of the ways."""
    if WAYS[way]:
        scene.fetch(WAYS[way])
        return
    scene.fetch("drop schema registry cascade")
    asyncio.run(applied(scene.url))
    if unlogged:
        scene.fetch(UNLOGGED)


async def applied(url: DatabaseUrl) -> None:
    connection = await asyncpg.connect(url.reveal)
    await ddl.apply(connection)
    await connection.close()


def check_loaded(scene: Scene, *arguments: object, url: DatabaseUrl | None = None) -> Ended:
    """The same command succeeds, and every record is there or named; rows that are not of the index are left alone."""
    ended = scene.load(*arguments, url=url)
    scene.fetch("delete from registry.assets where asset_key like 'older-%'")
    scene.check_done(ended)
    return ended


@pytest.mark.parametrize(("moment", "way", "lanes", "unlogged"), CASES)
def test_what_was_emptied_while_a_run_was_stopped_is_loaded_again(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, moment: str, way: str, lanes: int, unlogged: bool
) -> None:
    scene = Scene(database_url, home, tmp_path, CASES.index((moment, way, lanes, unlogged)))
    if unlogged:
        scene.fetch(UNLOGGED)
    stopped(scene, MOMENTS[moment], "--concurrency", lanes)
    empty(scene, way, unlogged=unlogged)
    ended = check_loaded(scene, "--concurrency", lanes)
    assert ('"run_resumed"' in ended.stderr) is not unlogged
    assert ('"unlogged_tables"' in ended.stderr) is unlogged


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_is_stopped_again_after_its_tables_were_emptied_still_misses_nothing(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, way: str
) -> None:
    scene = Scene(database_url, home, tmp_path, 100 + list(WAYS).index(way))
    stopped(scene, 20)
    empty(scene, way)
    stopped(scene, 4)
    empty(scene, "some rows deleted")
    check_loaded(scene)


@pytest.mark.parametrize("way", WAYS)
def test_indexes_that_were_loaded_whole_are_looked_at_again_like_the_one_that_was_not(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, way: str
) -> None:
    first = tmp_path / "first.json"
    data = b"".join(generate(Workload(records=600, size=1_200, seed=7, dialect="discovery", format="json")))
    first.write_bytes(data)
    scene = Scene(database_url, home, tmp_path, 200 + list(WAYS).index(way), shape="seed.ndjson")
    stopped(scene, 22, first)
    empty(scene, way)
    both: Model = model(data)
    both.rows |= scene.model.rows
    both.places += scene.model.places
    both.rejected += scene.model.rejected
    scene.model = both
    ended = check_loaded(scene, first)
    assert len(ended.report["per_index"]) == 2


@pytest.mark.parametrize("way", WAYS)
def test_assets_that_wait_for_their_source_are_loaded_again_as_well(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, way: str
) -> None:
    scene = Scene(database_url, home, tmp_path, 300 + list(WAYS).index(way), shape="seed.ndjson")
    lines = scene.data.splitlines(keepends=True)
    sources = [line for line in lines if b'"type": "source"' in line]
    assert sources
    scene.data = b"".join([line for line in lines if line not in sources] + sources)
    scene.write(scene.data)
    scene.model = model(scene.data)
    stopped(scene, 9)
    empty(scene, way)
    check_loaded(scene)


@pytest.mark.skipif(PGBOUNCER is None, reason="there is no pgbouncer")
@pytest.mark.parametrize("way", WAYS)
def test_a_run_through_a_pooler_trusts_its_checkpoints_no_more(
    database_url: DatabaseUrl,
    home: Path,
    tmp_path: Path,
    started: Callable[[int], Pooler],  # noqa: F811
    way: str,
) -> None:
    scene = Scene(database_url, home, tmp_path, 400 + list(WAYS).index(way))
    pooler = started(6)
    stopped(scene, 14, url=pooler.url)
    empty(scene, way)
    ended = scene.load(url=pooler.url)
    scene.fetch("delete from registry.assets where asset_key like 'older-%'")
    pooler.stop()
    scene.check_done(ended)


def test_rows_that_somebody_truncates_while_a_load_is_at_work_are_loaded_again(
    database_url: DatabaseUrl, home: Path, tmp_path: Path
) -> None:
    scene = Scene(database_url, home, tmp_path, 500)
    scene.close_gate(12)
    process = scene.start("--concurrency", "1")
    scene.at_gate(process)
    # The batch that waits may have updated some of the rows.
    scene.fetch("delete from registry.assets where id in (select id from registry.assets for update skip locked)")
    scene.open_gate()
    ended = scene.wait(process)
    scene.check_done(ended)
    events = [json.loads(line)["event"] for line in ended.stderr.splitlines()]
    assert "run_restarted" in events
