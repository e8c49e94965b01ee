"""Sourcing: the sources that a run knows, and the cache of their ids."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import asyncpg
import pytest

from conftest import make_asset, make_source, source_rows
from seed_registry.dry_run.collector import PlanCollector
from seed_registry.dry_run.writer import DryRunWriter
from seed_registry.errors import IndexNotUnderstood, StorageFailed
from seed_registry.load.source_cache import read_source_cache, still_stored, write_source_cache
from seed_registry.load.sources import SourceResolver
from seed_registry.records import SourceRow
from seed_registry.registry.introspection import introspect
from seed_registry.registry.merge import Merger
from seed_registry.registry.upsert import upsert_sources
from seed_registry.report import Counts, Tally
from seed_registry.settings import DatabaseUrl

pytestmark = pytest.mark.anyio

Connection: TypeAlias = "asyncpg.Connection[Any]"

DATABASE = "postgresql://registry@/registry"


@pytest.fixture
def database_url(emptied_url: DatabaseUrl) -> DatabaseUrl:
    """The module's database, its tables made anew."""
    return emptied_url


async def opened(
    connection: Connection,
    *,
    max_sources: int = 1000,
    dry_run: bool = False,
    known: dict[str, SourceRow] | None = None,
    provider: str = "socrata",
) -> tuple[SourceResolver, Tally]:
    tables, tally = await introspect(connection), Tally(index="sf.index.json")
    writer = DryRunWriter(connection, tables, PlanCollector()) if dry_run else Merger(connection, tables)
    book = SourceResolver(writer, tally, provider, index=tally.index, max_sources=max_sources, known=known)
    if isinstance(writer, Merger):
        await writer.prepare()
    return book, tally


async def writer(connection: Connection) -> Merger:
    return Merger(connection, await introspect(connection))


async def held(connection: Connection) -> dict[str, tuple[Any, ...]]:
    rows = await connection.fetch("select source_key, id, name, url, raw, provider from registry.sources")
    return {key: tuple(row) for key, *row in rows}


# --- listed and derived -------------------------------------------------------------------------------------------


async def test_listed_sources_are_written_counted_and_their_ids_known(connection: Connection) -> None:
    book, tally = await opened(connection)
    await book.merge([make_source("a"), make_source("b"), make_source("a", "twice")])
    assert book.rows == {key: SourceRow(row[0], row[-1]) for key, row in (await held(connection)).items()}
    assert book.rows.keys() == {"a", "b"}
    assert tally.sources == Counts(inserted=2, duplicate=1)


async def test_a_source_that_nobody_knows_is_derived_from_its_assets(connection: Connection) -> None:
    book, tally = await opened(connection)
    await book.derive([make_asset("1", "a.org"), make_asset("2", "b.org"), make_asset("3", "a.org")])
    assert tally.sources == Counts(read=2, inserted=2)
    assert {key: row[1:] for key, row in (await held(connection)).items()} == {
        "a.org": (None, "https://a.org", "{}", "socrata"),
        "b.org": (None, "https://b.org", "{}", "socrata"),
    }
    assert book.rows == {key: SourceRow(row[0], row[-1]) for key, row in (await held(connection)).items()}


async def test_what_is_known_of_a_source_is_not_overwritten_by_deriving_it(connection: Connection) -> None:
    ids = await upsert_sources(connection, [make_source("a.org", "A name", url="https://a.org/home")])
    before = await held(connection)
    book, tally = await opened(connection)
    await book.derive([make_asset("1", "a.org"), make_asset("2", "new.org")])
    assert tally.sources == Counts(read=2, inserted=1, unchanged=1)
    assert (await held(connection))["a.org"] == before["a.org"]
    assert book.rows["a.org"].id == ids["a.org"]


async def test_another_providers_source_is_not_overwritten_where_keys_alone_are_unique(
    connection: Connection,
) -> None:
    await connection.execute(
        "alter table registry.sources drop constraint sources_provider_source_key_key, add unique (source_key)"
    )
    await upsert_sources(connection, [make_source("a.org", "A name", provider="ckan")])
    before = await held(connection)
    book, tally = await opened(connection)
    await book.derive([make_asset("1", "a.org")])
    assert tally.sources == Counts(read=1, unchanged=1)
    assert await held(connection) == before


async def test_a_source_is_derived_once_a_run(connection: Connection) -> None:
    book, tally = await opened(connection)
    for _ in range(3):
        await book.derive([make_asset("1", "a.org")])
    assert tally.sources == Counts(read=1, inserted=1)


async def test_a_listed_source_is_not_derived_again(connection: Connection) -> None:
    book, tally = await opened(connection)
    await book.merge([make_source("a.org", "A name")])
    await book.derive([make_asset("1", "a.org")])
    assert tally.sources == Counts(inserted=1)


async def test_a_cached_source_is_counted_unchanged_and_not_asked_for(connection: Connection) -> None:
    ids = await upsert_sources(connection, [make_source("a.org", "A name"), make_source("b.org")])
    book, tally = await opened(connection, known=source_rows(ids))
    assert not book.rows
    await connection.execute("delete from registry.sources where source_key = 'b.org'")
    await book.derive([make_asset("1", "a.org"), make_asset("2", "b.org"), make_asset("3", "new.org")])
    assert tally.sources == Counts(read=3, inserted=1, unchanged=2)
    assert book.rows.keys() == {"a.org", "b.org", "new.org"}
    assert {key: book.rows[key].id for key in ids} == ids
    assert "b.org" not in await held(connection)


async def test_nothing_is_derived_from_no_assets(connection: Connection) -> None:
    book, tally = await opened(connection)
    await book.derive([])
    assert tally.sources == Counts()


async def test_a_dry_run_derives_without_writing(connection: Connection) -> None:
    ids = await upsert_sources(connection, [make_source("a.org")])
    book, tally = await opened(connection, dry_run=True)
    await book.derive([make_asset("1", "a.org"), make_asset("2", "new.org")])
    assert tally.sources == Counts(read=2, inserted=1, unchanged=1)
    assert book.rows == source_rows({**ids, "new.org": None})
    await book.derive([make_asset("3", "new.org")])
    assert tally.sources.read == 2
    assert set(await held(connection)) == {"a.org"}


async def test_more_sources_than_can_be_meant_stop_the_run(connection: Connection) -> None:
    book, _ = await opened(connection, max_sources=3)
    await book.derive([make_asset("1", f"{number}.org") for number in range(3)])
    await book.derive([make_asset("1", f"{number}.org") for number in range(3)])
    with pytest.raises(IndexNotUnderstood, match=r"sf\.index\.json names more than 3 sources; .*--max-sources"):
        await book.derive([make_asset("1", "one-too-many.org")])
    assert len(await held(connection)) == 3


async def test_more_listed_sources_than_can_be_meant_stop_the_run(connection: Connection) -> None:
    book, _ = await opened(connection, max_sources=3)
    with pytest.raises(IndexNotUnderstood, match="more than 3 sources"):
        await book.merge([make_source(str(number)) for number in range(4)])


async def test_cached_sources_that_are_not_met_do_not_count(connection: Connection) -> None:
    ids = await upsert_sources(connection, [make_source(str(number)) for number in range(10)])
    book, _ = await opened(connection, max_sources=1, known=source_rows(ids))
    await book.derive([make_asset("1", "5")])
    assert book.rows.keys() == {"5"}


# --- trust --------------------------------------------------------------------------------------------------------


async def test_ids_of_which_a_sample_is_right_are_trusted(connection: Connection) -> None:
    ids = await upsert_sources(connection, [make_source(str(number)) for number in range(50)])
    assert await still_stored(await writer(connection), source_rows(ids)) == source_rows(ids)


@pytest.mark.parametrize("wrong", [{"b": 999_999}, {"gone": 1}, {"b": "1"}])
async def test_one_wrong_id_in_the_sample_makes_all_be_checked(wrong: dict[str, Any], connection: Connection) -> None:
    """So few that the sample is all of them."""
    ids = await upsert_sources(connection, [make_source(key) for key in "abcd"])
    right = {key: id_ for key, id_ in ids.items() if key not in wrong}
    assert await still_stored(await writer(connection), source_rows(ids | wrong)) == source_rows(right)


async def test_a_provider_that_is_not_the_rows_makes_it_wrong(connection: Connection) -> None:
    ids = await upsert_sources(connection, [make_source("a"), make_source("b", provider="ckan")])
    cached = source_rows(ids) | source_rows({"a": ids["a"]}, "ckan")
    assert await still_stored(await writer(connection), cached) == {}


async def test_nothing_is_trusted_where_a_key_has_two_sources(connection: Connection) -> None:
    """It is an error of the index that names it, if one does."""
    ids = await upsert_sources(connection, [make_source("a"), make_source("b")])
    await connection.execute("insert into registry.sources (provider, source_key) values ('ckan', 'a')")
    assert await still_stored(await writer(connection), source_rows(ids)) == {}


async def test_all_wrong_ids_are_dropped_once_one_is_found(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more than the sample, where the sample found one."""
    ids = await upsert_sources(connection, [make_source(str(number)) for number in range(100)])
    wrong = {str(number): -1 for number in range(30, 80)}
    monkeypatch.setattr("random.sample", lambda keys, size: [*keys[-size + 1 :], "30"])
    right = source_rows({key: id_ for key, id_ in ids.items() if key not in wrong})
    assert await still_stored(await writer(connection), source_rows(ids | wrong)) == right


async def test_a_source_whose_cached_id_was_dropped_is_derived(connection: Connection) -> None:
    ids = await upsert_sources(connection, [make_source("a.org", "A name")])
    cached = await still_stored(await writer(connection), source_rows({"a.org": ids["a.org"] + 1, "gone.org": 77}))
    book, tally = await opened(connection, known=cached)
    await book.derive([make_asset("1", "a.org"), make_asset("2", "gone.org")])
    assert book.rows["a.org"].id == ids["a.org"]
    assert tally.sources == Counts(read=2, inserted=1, unchanged=1)


async def test_nothing_cached_is_nothing_trusted(connection: Connection) -> None:
    assert await still_stored(await writer(connection), {}) == {}


# --- the file -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [{}, {"a.org": 1, "ü.org": 2**62}, {"a.org": uuid4()}])
def test_what_is_written_is_read(ids: dict[str, Any], tmp_path: Path) -> None:
    path = str(tmp_path / "sources.json")
    for provider in ("socrata", None):
        write_source_cache(path, DATABASE, source_rows(ids, provider))
        found = read_source_cache(path, DATABASE)
        assert found == source_rows(ids, provider)
        assert [type(row.id) for row in found.values()] == [type(id_) for id_ in ids.values()]


async def test_uuids_survive_the_file_and_are_trusted(connection: Connection, tmp_path: Path) -> None:
    await connection.execute(
        "drop table registry.assets, registry.sources;"
        "create table registry.sources (id uuid primary key default gen_random_uuid(), slug text unique);"
        "create table registry.assets (asset_key text unique, source_id uuid)"
    )
    ids = await upsert_sources(connection, [make_source("a"), make_source("b")])
    write_source_cache(str(tmp_path / "cache"), DATABASE, source_rows(ids, None))
    found = await still_stored(await writer(connection), read_source_cache(str(tmp_path / "cache"), DATABASE))
    assert found == source_rows(ids, None)
    assert all(isinstance(row.id, UUID) for row in found.values())


def test_a_file_of_another_database_is_ignored(tmp_path: Path) -> None:
    path = str(tmp_path / "sources.json")
    write_source_cache(path, DATABASE, source_rows({"a.org": 1}))
    assert read_source_cache(path, DATABASE + "2") == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"{}",
        b'{"database": "%s", "sources": {"socrata": {"a": 1.5}}}',
        b'{"database": "%s", "sources": {"socrata": {"a": null}}}',
        b'{"database": "%s", "sources": {"socrata": {"a": "no uuid"}}}',
        b'{"database": "%s", "sources": {"socrata": {"a": 1, "b": ""}}}',
        b'{"database": "%s", "sources": {"socrata": ["a"]}}',
        b'{"database": "%s", "sources": ' + b"[" * 2_000,
        b'{"database": "%s", "sources": {}, "x": ' + b"[" * 2_000,
    ],
)
def test_a_broken_file_is_ignored(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "sources.json"
    path.write_bytes(content.replace(b"%s", DATABASE.encode()))
    assert read_source_cache(str(path), DATABASE) == {}


async def test_ids_beyond_any_column_are_not_trusted(connection: Connection, tmp_path: Path) -> None:
    ids = await upsert_sources(connection, [make_source("a")])
    write_source_cache(str(tmp_path / "cache"), DATABASE, source_rows(ids | {"b": 2**70, "c": -1}))
    cached = read_source_cache(str(tmp_path / "cache"), DATABASE)
    assert await still_stored(await writer(connection), cached) == source_rows(ids)


def test_no_file_is_an_empty_cache(tmp_path: Path) -> None:
    assert read_source_cache(str(tmp_path / "missing"), DATABASE) == {}


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match=f"the source cache {tmp_path} cannot be read: Is a directory"):
        read_source_cache(str(tmp_path), DATABASE)
    missing = tmp_path / "no" / "directory"
    with pytest.raises(StorageFailed, match=f"the source cache {missing} cannot be written: No such file or directory"):
        write_source_cache(str(missing), DATABASE, source_rows({}))


def test_the_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "sources.json"
    path.write_text("{}")
    path.chmod(0o666)
    before = os.umask(0)
    try:
        write_source_cache(str(path), DATABASE, source_rows({"a.org": 1}))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sources.json"
    write_source_cache(str(path), DATABASE, source_rows({"a.org": 1}))

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    place: Any = os if failing == "fsync" else Path
    monkeypatch.setattr(place, failing, fail)
    with pytest.raises(StorageFailed, match="cannot be written: No space left on device"):
        write_source_cache(str(path), DATABASE, source_rows({"a.org": 2}))
    monkeypatch.undo()
    assert read_source_cache(str(path), DATABASE) == source_rows({"a.org": 1})
    assert list(tmp_path.iterdir()) == [path]


def test_the_target_of_a_symbolic_link_is_not_overwritten(tmp_path: Path) -> None:
    precious, link = tmp_path / "precious", tmp_path / "sources.json"
    precious.write_text("precious")
    link.symlink_to(precious)
    write_source_cache(str(link), DATABASE, source_rows({"a.org": 1}))
    assert precious.read_text() == "precious"
    assert not link.is_symlink()
    assert read_source_cache(str(link), DATABASE) == source_rows({"a.org": 1})


async def test_runs_that_write_the_file_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    path = str(tmp_path / "sources.json")
    runs = [source_rows({f"{number}.org": run for number in range(200)}) for run in range(16)]
    await asyncio.gather(*(asyncio.to_thread(write_source_cache, path, DATABASE, run) for run in runs))
    assert read_source_cache(path, DATABASE) in runs
