"""What changes rows is held until the end of the run: what that means where something fails, and on other tables."""
# ruff: noqa: ASYNC240  # small files, and nothing else waits

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest
from msgspec.structs import replace

from seed_registry import DatabaseUrl, MaxRejects, Settings, ingest
from seed_registry.api import replay
from seed_registry.errors import IndexBroken, IndexesFailed
from seed_registry.key_hashes import hash_key
from seed_registry.load import held_assets, pipeline
from seed_registry.load.held_assets import HeldAssets
from seed_registry.postgres.transactions import BatchTransaction
from seed_registry.records import Asset, SourceRow
from seed_registry.report import AssetCounts, Report, SourceCounts

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("batch_size", [1, 500])]

Json = Mapping[str, Any]
REFUSE = """
create function registry.refuse() returns trigger language plpgsql as
$$ begin if new.name = 'refused' then raise 'no' using errcode = '23514'; end if; return new; end $$;
create trigger refuse before insert or update on registry.assets for each row execute function registry.refuse();
"""
ROWS = """
select asset_key || ' ' || source_key || ' ' || assets.name
from registry.assets join registry.sources on sources.id = source_id order by 1
"""
WRITTEN = "select string_agg(xmin::text, ',' order by asset_key) from registry.assets"


@pytest.fixture
async def database_url(emptied_url: DatabaseUrl) -> DatabaseUrl:
    """A database with the registry's tables, empty, and no ledger."""
    await execute(emptied_url, "drop schema if exists seed_registry cascade")
    return emptied_url


def asset(key: str, name: str, of: str = "a.org", **fields: Any) -> Json:
    return {"type": "asset", "asset_key": key, "source_key": of, "name": name, **fields}


def index(directory: Path, *records: Json | bytes, name: str = "index.ndjson") -> str:
    sources = [{"type": "source", "source_key": key} for key in ("a.org", "b.org")]
    lines = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in (*sources, *records)]
    path = directory / name
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return str(path)


def datasets(directory: Path, portal: str, *keys_and_titles: str, name: str) -> str:
    """An index of keys that are the portal's own."""
    records = [
        {"identifier": key, "title": title, "landingPage": f"https://{portal}/{key}", "accessLevel": "public"}
        for key, title in (pair.split() for pair in keys_and_titles)
    ]
    path = directory / name
    path.write_text(json.dumps(records))
    return str(path)


async def ask(url: DatabaseUrl, sql: str) -> list[str]:
    connection = await asyncpg.connect(url.reveal)
    try:
        return [str(row[0]) for row in await connection.fetch(sql)]
    finally:
        await connection.close()


async def execute(url: DatabaseUrl, sql: str) -> None:
    connection = await asyncpg.connect(url.reveal)
    await connection.execute(sql)
    await connection.close()


async def load(url: DatabaseUrl, *paths: str, **options: Any) -> Report:
    some: dict[str, Any] = {
        "max_rejects": MaxRejects(percent=100),
        "rejects": str(Path(paths[0]).parent / "rejects"),
    } | options
    return await ingest(list(paths), Settings(database_url=url, **some))


async def test_what_came_before_a_break_is_committed_with_what_was_held_and_counted(
    database_url: DatabaseUrl, tmp_path: Path, batch_size: int
) -> None:
    await load(database_url, index(tmp_path, asset("x", "old"), asset("y", "old")))
    assets = ",".join(json.dumps(asset(key, name)) for key, name in (("x", "one"), ("y", "two"), ("x", "three")))
    path = tmp_path / "broken.json"
    path.write_text('{"sources":[{"source_key":"a.org"}],"assets":[' + assets + ',{"asset_key":"z"')
    with pytest.raises(IndexBroken):
        await load(database_url, str(path), batch_size=batch_size)
    assert await ask(database_url, ROWS) == ["x a.org three", "y a.org two"]
    (told,) = await ask(database_url, "select report->'assets' from seed_registry.runs where outcome = 'failed'")
    counts = json.loads(told)
    assert (counts["read"], counts["updated"], counts["duplicate"], counts["not_written"]) == (3, 2, 1, 0)


async def test_an_index_that_is_broken_costs_the_others_of_a_run_nothing(
    database_url: DatabaseUrl, tmp_path: Path, batch_size: int
) -> None:
    await load(database_url, index(tmp_path, asset("x", "old"), asset("y", "old")))
    first = index(tmp_path, asset("x", "one"), asset("y", "old"), name="1.ndjson")
    broken = tmp_path / "2.json"
    assets = f"{json.dumps(asset('x', 'two'))},{json.dumps(asset('new', 'n'))}"
    broken.write_text('{"sources":[{"source_key":"a.org"}],"assets":[' + assets + ",{")
    missing = str(tmp_path / "3.ndjson")
    last = index(tmp_path, asset("y", "four"), name="4.ndjson")
    with pytest.raises(IndexesFailed) as caught:
        await load(database_url, first, str(broken), missing, last, batch_size=batch_size, keep_going=True)
    assert await ask(database_url, ROWS) == ["new a.org n", "x a.org two", "y a.org four"]
    report = caught.value.report
    assert report is not None
    assert [part.assets for part in report.per_index] == [
        AssetCounts(read=2, duplicate=2),
        AssetCounts(read=2, inserted=1, updated=1),
        AssetCounts(),
        AssetCounts(read=1, updated=1),
    ]
    assert report.assets == AssetCounts(read=5, inserted=1, updated=2, duplicate=2)


@pytest.mark.parametrize("was_done", [True, False], ids=["the commit was done", "it was not"])
@pytest.mark.sampled(2)
async def test_the_answer_to_the_commit_of_held_assets_may_be_lost(
    database_url: DatabaseUrl, tmp_path: Path, batch_size: int, was_done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await load(database_url, index(tmp_path, asset("x", "old"), asset("y", "old")))
    path = index(tmp_path, asset("x", "one"), asset("y", "one"), asset("x", "two"))
    commit, lost = BatchTransaction.commit, list[Any]()

    async def unanswered(self: Any, *last: str) -> None:
        if lost:
            await commit(self, *last)
            return
        lost.append(self)
        if was_done:
            await commit(self, *last)
        self._connection.terminate()
        raise ConnectionResetError("the answer is lost")

    async def settled(*args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(BatchTransaction, "commit", unanswered)
        await settle(*args, **kwargs)

    settle = pipeline.settle
    monkeypatch.setattr(pipeline, "settle", settled)
    report = await load(database_url, path, batch_size=batch_size)
    assert lost
    assert report.assets == AssetCounts(read=3, updated=2, duplicate=1)


async def test_a_run_that_ends_before_it_writes_what_it_holds_is_finished_by_the_same_command(
    database_url: DatabaseUrl, tmp_path: Path, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await load(database_url, index(tmp_path, asset("x", "old"), asset("y", "old")))
    first = index(tmp_path, asset("x", "one"), asset("new", "n"), asset("x", "two"), name="1.ndjson")
    second = index(tmp_path, asset("y", "old"), name="2.ndjson")

    async def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "settle", killed)
        with pytest.raises(KeyboardInterrupt):
            await load(database_url, first, second, batch_size=batch_size)
    whole = "select index from seed_registry.checkpoints where lane = -1"
    assert await ask(database_url, whole) == []
    report = await load(database_url, first, second, batch_size=batch_size)
    assert await ask(database_url, ROWS) == ["new a.org n", "x a.org two", "y a.org old"]
    counts = report.assets
    assert (counts.read, counts.updated, counts.duplicate) == (4, 1, 1)
    assert counts.inserted + counts.unchanged + counts.resumed == 2


async def test_where_the_database_refuses_the_last_record_of_a_key_the_one_before_is_written(
    database_url: DatabaseUrl, tmp_path: Path, batch_size: int
) -> None:
    await load(database_url, index(tmp_path, asset("x", "old"), asset("y", "old"), asset("z", "old")))
    await execute(database_url, REFUSE)
    first = index(tmp_path, asset("x", "one"), asset("y", "refused"), asset("z", "refused"), name="1.ndjson")
    second = index(tmp_path, asset("x", "refused"), asset("y", "two"), name="2.ndjson")
    report = await load(database_url, first, second, batch_size=batch_size)
    assert await ask(database_url, ROWS) == ["x a.org one", "y a.org two", "z a.org old"]
    assert [part.assets for part in report.per_index] == [
        AssetCounts(read=3, updated=1, duplicate=1, rejected=1),
        AssetCounts(read=2, updated=1, rejected=1),
    ]
    rejects = [json.loads(line) for line in (tmp_path / "rejects").read_text().splitlines()]
    assert sorted((Path(one["index"]).name, one["key"]) for one in rejects) == [("1.ndjson", "z"), ("2.ndjson", "x")]


async def test_a_record_that_postgres_cannot_store_is_rejected_whatever_comes_after_it(
    database_url: DatabaseUrl, tmp_path: Path, batch_size: int
) -> None:
    await load(database_url, index(tmp_path, asset("x", "old")))
    bad = b'{"type":"asset","asset_key":"x","source_key":"a.org","name":"n","raw":"\\ud800"}'
    report = await load(database_url, index(tmp_path, bad, asset("x", "new"), bad), batch_size=batch_size)
    assert report.assets == AssetCounts(read=3, updated=1, rejected=2)


async def test_own_keys_of_two_portals_are_not_mixed_while_they_are_held(
    database_url: DatabaseUrl, tmp_path: Path, batch_size: int
) -> None:
    await load(database_url, datasets(tmp_path, "a.org", "1 old", name="before.json"))
    first = datasets(tmp_path, "a.org", "1 one", "1 two", name="1.json")
    second = datasets(tmp_path, "b.org", "1 theirs", "2 theirs", name="2.json")
    report = await load(database_url, first, second, batch_size=batch_size)
    assert [part.assets for part in report.per_index] == [
        AssetCounts(read=2, updated=1, duplicate=1),
        AssetCounts(read=2, inserted=1, rejected=1),
    ]
    assert report.verification
    assert report.verification.passed


async def test_where_sources_have_keys_of_their_own_each_key_counts_once_for_each(
    database_url: DatabaseUrl, tmp_path: Path, batch_size: int
) -> None:
    await execute(
        database_url,
        "alter table registry.assets drop constraint assets_asset_key_key, add unique (source_id, asset_key)",
    )
    await load(database_url, index(tmp_path, asset("x", "old"), asset("x", "old", "b.org")))
    changed = (
        asset("x", "one"),
        asset("x", "two"),
        asset("x", "old", "b.org"),
        asset("y", "y"),
        asset("y", "z", "b.org"),
    )
    path = index(tmp_path, *changed, asset("y", "new"))
    assert (await load(database_url, path, batch_size=batch_size)).assets == AssetCounts(
        read=6, inserted=2, updated=1, unchanged=1, duplicate=2
    )
    again = await load(database_url, path, batch_size=batch_size)
    assert again.assets == AssetCounts(read=6, unchanged=4, duplicate=2)


async def test_where_sources_have_keys_of_their_own_a_refused_record_is_not_mistaken_for_that_of_another(
    database_url: DatabaseUrl, tmp_path: Path, batch_size: int
) -> None:
    await execute(
        database_url,
        "alter table registry.assets drop constraint assets_asset_key_key, add unique (source_id, asset_key)",
    )
    await execute(database_url, REFUSE)
    await load(database_url, index(tmp_path, asset("x", "old"), asset("x", "old", "b.org")))
    for refused, taken, name in (("a.org", "b.org", "new"), ("b.org", "a.org", "newer")):
        path = index(tmp_path, asset("x", "refused", refused), asset("x", name, taken))
        report = await load(database_url, path, batch_size=batch_size)
        assert report.assets == AssetCounts(read=2, updated=1, rejected=1)
    assert await ask(database_url, ROWS) == ["x a.org newer", "x b.org new"]


async def test_a_table_without_content_hashes_counts_by_values(
    database_url: DatabaseUrl, tmp_path: Path, batch_size: int
) -> None:
    await execute(database_url, "alter table registry.assets drop column content_hash")
    await load(database_url, index(tmp_path, asset("x", "old"), asset("y", "old")))
    path = index(tmp_path, asset("x", "one"), asset("y", "one"), asset("x", "two"), asset("y", "old"))
    report = await load(database_url, path, batch_size=batch_size)
    assert report.assets == AssetCounts(read=4, updated=1, unchanged=1, duplicate=2)
    written = await ask(database_url, WRITTEN)
    again = await load(database_url, path, batch_size=batch_size)
    assert again.assets == AssetCounts(read=4, unchanged=2, duplicate=2)
    assert await ask(database_url, WRITTEN) == written


async def test_of_a_pipe_all_that_changes_is_held_however_much_it_is(
    database_url: DatabaseUrl, tmp_path: Path, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_assets, "MOST_HELD_BYTES", 0)
    await load(database_url, index(tmp_path, asset("x", "old"), asset("y", "old"), asset("z", "old")))
    records = asset("x", "one"), asset("y", "one"), asset("z", "one"), asset("x", "two"), asset("y", "old")
    data, pipe = Path(index(tmp_path, *records)).read_bytes(), tmp_path / "pipe"
    for wanted in (
        AssetCounts(read=5, updated=2, unchanged=1, duplicate=2),
        AssetCounts(read=5, unchanged=3, duplicate=2),
    ):
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_bytes, args=(data,))
        writer.start()
        report = await load(database_url, str(pipe), batch_size=batch_size)
        await anyio.to_thread.run_sync(writer.join)
        pipe.unlink()
        assert report.assets == wanted


async def test_rejects_that_are_replayed_write_the_newest_of_a_key_once(
    database_url: DatabaseUrl, tmp_path: Path, batch_size: int
) -> None:
    def dated(name: str, year: int) -> Json:
        return asset("x", name, updated_at=f"{year}-01-01T00:00:00Z")

    await load(database_url, index(tmp_path, dated("old", 2020)))
    refused = index(
        tmp_path, asset("y", "good"), *(dated(f"refused {year}", year) for year in (2021, 2023, 2022, 2019))
    )
    await execute(database_url, REFUSE.replace("new.name =", "new.name ~"))
    assert (await load(database_url, refused)).assets.rejected == 4
    await execute(database_url, "drop trigger refuse on registry.assets")
    settings = Settings(database_url=database_url, batch_size=batch_size, rejects=str(tmp_path / "again"))
    report = await replay(str(tmp_path / "rejects"), settings)
    assert (report.assets.read, report.assets.updated, report.assets.duplicate) == (4, 1, 3)
    assert await ask(database_url, ROWS) == ["x a.org refused 2023", "y a.org good"]


async def test_of_a_key_that_repeats_without_end_the_last_records_are_kept_and_the_greatest_moment(
    batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_assets, "_KEY_BYTES", 1_000)
    moment, rows = datetime(2024, 5, 6, tzinfo=UTC), {"a.org": SourceRow(1, "seed")}
    one = Asset("x", "a.org", raw=b'{"n":0}' + b" " * 400, content_hash=b"h")
    held = HeldAssets(is_on=True)
    held.hold([replace(one, updated_at=moment)], [7], 0, rows)
    for number in range(1, 5):
        held.hold([replace(one, offset=number)], [7], 0, rows)
    assert held.count == 5
    (batch,) = held.take(batch_size, 1 << 20, lambda _: "")
    assert [asset.offset for asset in batch.assets] == [3, 4]
    assert (batch.assets[0].updated_at, len(batch.dropped)) == (moment, 3)
    assert held.count == 0


async def test_sources_that_an_index_lists_twice_are_written_once_and_not_again(
    database_url: DatabaseUrl, tmp_path: Path, batch_size: int
) -> None:
    def source(key: str, name: str) -> Json:
        return {"type": "source", "source_key": key, "name": name}

    async def loaded(*records: Json) -> tuple[SourceCounts, str]:
        path = tmp_path / "sources.ndjson"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        plan = await load(database_url, str(path), batch_size=batch_size, dry_run=True)
        report = await load(database_url, str(path), batch_size=batch_size)
        assert plan.sources == report.sources
        (written,) = await ask(database_url, "select string_agg(xmin::text, ',' order by id) from registry.sources")
        return report.sources, written

    between = asset("k", "k", "a.org"), asset("l", "l", "b.org")
    repeated = source("a.org", "1"), source("b.org", "b"), between[0], source("a.org", "2"), between[1]
    counts, _ = await loaded(*repeated, source("b.org", "b"))
    assert counts == SourceCounts(read=4, inserted=2, duplicate=2)
    assert await ask(database_url, "select name from registry.sources order by source_key") == ["2", "b"]
    counts, written = await loaded(*repeated, source("b.org", "b"))
    assert counts == SourceCounts(read=4, unchanged=2, duplicate=2)
    assert await loaded(*repeated, source("b.org", "b")) == (counts, written)
    changed = (
        source("a.org", "2"),
        between[0],
        source("a.org", "3"),
        source("b.org", "c"),
        between[1],
        source("b.org", "b"),
    )
    counts, _ = await loaded(*changed)
    assert counts == SourceCounts(read=4, updated=1, unchanged=1, duplicate=2)


async def test_a_refused_record_does_not_part_those_of_another_key(
    database_url: DatabaseUrl, tmp_path: Path, batch_size: int
) -> None:
    keys = ("u", "v", "w", "x", "y")
    refused = min(keys, key=hash_key)  # the first of the batch: its middle is between the two records of another key
    await load(database_url, index(tmp_path, asset("t", "same"), *(asset(key, "old") for key in keys)))
    await execute(database_url, REFUSE)
    twice = [asset(key, name) for name in ("one", "two") for key in keys if key != refused]
    path = index(tmp_path, asset("t", "same"), *twice, asset(refused, "refused"))
    assets = (await load(database_url, path, batch_size=batch_size)).assets
    assert (assets.updated, assets.duplicate, assets.rejected, assets.unchanged) == (4, 4, 1, 1)
    rows = [f"{key} a.org {'old' if key == refused else 'two'}" for key in keys]
    assert await ask(database_url, ROWS) == ["t a.org same", *rows]


async def test_own_keys_that_are_in_two_indexes_are_inserted_once(
    database_url: DatabaseUrl, tmp_path: Path, batch_size: int
) -> None:
    await load(database_url, index(tmp_path, asset("x", "there")))
    paths = [datasets(tmp_path, "c.org", "1 one", "2 two", name=f"{number}.json") for number in range(2)]
    assets = (await load(database_url, *paths, batch_size=batch_size)).assets
    assert (assets.inserted, assets.duplicate, assets.unchanged) == (2, 2, 0)
