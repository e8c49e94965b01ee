"""Key owners: where portals share the keys of a table, the first that has a key of its own keeps it."""

# ruff: noqa: ASYNC110  # a test may wait by polling: nothing else runs in its event loop
from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias, cast

import asyncpg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from msgspec.structs import replace

from conftest import Cli, _clone, make_asset, make_source, source_rows
from seed_registry import DatabaseUrl, MaxRejects, Report, Settings, ingest
from seed_registry.api import replay
from seed_registry.errors import StorageFailed, TooManyRejects
from seed_registry.postgres.connection import session
from seed_registry.records import SourceRow
from seed_registry.registry.batch import Batch
from seed_registry.registry.ddl import apply
from seed_registry.registry.introspection import introspect
from seed_registry.registry.key_owners import parted
from seed_registry.registry.merge import Merger
from seed_registry.registry.upsert import upsert_assets, upsert_sources
from seed_registry.report import AssetCounts, MergeCounts, Tally
from seed_registry.spill import FirstOwners
from seed_registry.verify.audit import audit

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]

Connection: TypeAlias = "asyncpg.Connection[Any]"

A, B, C = "data.a.example", "data.b.example", "data.c.example"
OWN: Final = ("1", "population")
GLOBAL: Final = ("abcd-2345", "6f9619ff-8b86-d011-b42d-00cf4fc964ff")
ROWS: Final = """
    select asset_key, source_key, asset.name from registry.assets as asset
    join registry.sources as source on source.id = asset.source_id
"""
PER_SOURCE: Final = (
    "alter table registry.assets drop constraint assets_asset_key_key, add unique (source_id, asset_key)"
)
PER_PROVIDER: Final = (
    "alter table registry.assets drop constraint assets_asset_key_key, add column provider text not null,"
    "  add unique (provider, asset_key)"
)


@pytest.fixture
def database_url(emptied_url: DatabaseUrl) -> DatabaseUrl:
    """The module's database, its tables made anew."""
    return emptied_url


class Dataset(NamedTuple):
    """A record of a data-json index that names its portal itself."""

    portal: str
    key: str
    name: str

    def json(self) -> dict[str, str]:
        """The record; `accessLevel` tells the dialect."""
        page = f"https://{self.portal}/about/{self.key}"
        return {"identifier": self.key, "title": self.name, "landingPage": page, "accessLevel": "public"}


def written(path: Path, datasets: Sequence[Dataset]) -> str:
    path.write_text(json.dumps([dataset.json() for dataset in datasets]))
    return str(path)


async def reported(loading: Coroutine[Any, Any, Report]) -> Report:
    """The report of a load, also of one that ends with an error since it could keep no record."""
    try:
        return await loading
    except TooManyRejects as exc:
        return cast("Report", exc.report)


async def load(url: DatabaseUrl, *indexes: str, **options: Any) -> Report:
    """A load; every report obeys the law, and verifies."""
    options = {"max_rejects": MaxRejects(records=10**6, percent=None), "dialect": "data-json", **options}
    report = await reported(ingest(indexes, Settings(database_url=url, **options)))
    counts = report.assets
    assert counts.read == (
        counts.inserted + counts.updated + counts.unchanged + counts.duplicate + counts.rejected + counts.missing_source
    )
    assert report.verification is None or report.verification.passed
    return report


async def execute(url: DatabaseUrl, statement: str) -> None:
    connection = await asyncpg.connect(url.reveal)
    await connection.execute(statement)
    await connection.close()


async def rows(url: DatabaseUrl) -> Counter[tuple[Any, ...]]:
    connection = await asyncpg.connect(url.reveal)
    try:
        return Counter(tuple(row) for row in await connection.fetch(ROWS))
    finally:
        await connection.close()


def rejects(report: Report) -> list[dict[str, Any]]:
    """The lines of the run's rejects file."""
    if report.rejects_file is None:
        return []
    return [json.loads(line) for line in Path(report.rejects_file).read_bytes().splitlines()]


# --- the rule -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 500])
@pytest.mark.parametrize("held", [False, True], ids=["one load", "two loads"])
async def test_the_later_portal_with_a_key_is_rejected_with_the_fix(
    database_url: DatabaseUrl, tmp_path: Path, *, batch_size: int, held: bool
) -> None:
    first = [Dataset(A, "1", "of a"), Dataset(A, "abcd-2345", "moves")]
    later = [Dataset(B, "1", "of b"), Dataset(B, "2", "b's alone"), Dataset(B, "abcd-2345", "moved")]
    if held:
        await load(database_url, written(tmp_path / "a.json", first), batch_size=batch_size)
        later_index = written(tmp_path / "b.json", later)
    else:
        later_index = written(tmp_path / "both.json", first + later)
    for number in range(2):
        report = await load(database_url, later_index, batch_size=batch_size)
        assert report.assets.rejected == 1
        (reject,) = rejects(report)
        assert (reject["reason"], reject["key"], json.loads(reject["record"])["title"]) == (
            "key_of_another_source",
            "1",
            "of b",
        )
        assert (reject["index"], reject["line"]) == (later_index, 1)
        assert A in reject["detail"]
        if held and number:
            assert report.assets == AssetCounts(read=3, unchanged=2, rejected=1)
    assert await rows(database_url) == Counter([("1", A, "of a"), ("2", B, "b's alone"), ("abcd-2345", B, "moved")])
    fix = reject["detail"].partition("run: ")[2]
    await execute(database_url, fix)
    report = await load(database_url, later_index, batch_size=batch_size)
    # of one load, each portal has its own row of the shared id, too
    assert (report.assets.rejected, report.assets.inserted) == (0, 1 if held else 2)
    assert ("1", B, "of b") in await rows(database_url)


async def test_records_of_one_source_with_one_key_stay_duplicates(database_url: DatabaseUrl, tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", [Dataset(A, "1", "x"), Dataset(B, "1", "y"), Dataset(A, "1", "z")])
    for dry_run in (True, False):
        report = await load(database_url, path, dry_run=dry_run)
        assert report.assets == AssetCounts(read=3, inserted=1, duplicate=1, rejected=1)
    assert await rows(database_url) == Counter([("1", A, "z")])


async def test_a_key_that_its_source_gave_up_is_free(database_url: DatabaseUrl, tmp_path: Path) -> None:
    path = written(tmp_path / "b.json", [Dataset(B, "1", "of b")])
    await load(database_url, written(tmp_path / "a.json", [Dataset(A, "1", "of a")]))
    assert (await load(database_url, path)).assets.rejected == 1
    await execute(database_url, "delete from registry.assets")
    assert (await load(database_url, path)).assets == AssetCounts(read=1, inserted=1)


async def test_providers_share_keys_where_the_table_says_so(database_url: DatabaseUrl, tmp_path: Path) -> None:
    await execute(database_url, PER_PROVIDER)
    paths = [written(tmp_path / f"{portal}.json", [Dataset(portal, "1", portal)]) for portal in (A, B, C)]
    await load(database_url, paths[0], provider="junar")
    assert (await load(database_url, paths[1], provider="ckan")).assets.inserted == 1
    report = await load(database_url, paths[2], provider="junar")
    assert report.assets == AssetCounts(read=1, rejected=1)
    assert A in rejects(report)[0]["detail"]
    await execute(database_url, rejects(report)[0]["detail"].partition("run: ")[2])
    assert (await load(database_url, paths[2], provider="junar")).assets.inserted == 1


@pytest.mark.parametrize("name", ["seed", "directory"])
async def test_a_dialect_with_global_keys_moves_them_to_the_source_of_the_record(
    name: str, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    content: Any = {
        "seed": {"sources": [{"source_key": B}], "assets": [{"asset_key": "1", "source_key": B, "name": "theirs"}]},
        "directory": {"source": "socrata", "domain": B, "datasets": [{"id": "1", "name": "theirs"}]},
    }[name]
    await load(database_url, written(tmp_path / "a.json", [Dataset(A, "1", "ours")]))
    (tmp_path / "b.json").write_text(json.dumps(content))
    report = await load(database_url, str(tmp_path / "b.json"), dialect=None)
    assert report.assets == AssetCounts(read=1, updated=1)
    assert await rows(database_url) == Counter([("1", B, "theirs")])


# --- the model ----------------------------------------------------------------------------------------------------


dataset = st.builds(Dataset, st.sampled_from([A, B, C]), st.sampled_from(OWN + GLOBAL), st.sampled_from(["x", "y"]))


class Step(NamedTuple):
    """A load of a sequence of loads."""

    datasets: list[Dataset]
    batch_size: int
    concurrency: int
    full: bool


steps = st.lists(
    st.builds(
        Step,
        st.lists(dataset, min_size=1, max_size=8),
        st.sampled_from([1, 2, 500]),
        st.sampled_from([1, 3]),
        st.booleans(),
    ),
    min_size=1,
    max_size=3,
)


class Model:
    """The registry as it should be: each key with its source and its name."""

    def __init__(self, *, per_source: bool) -> None:
        self.held: dict[Any, tuple[str, str]] = {}
        self._per_source = per_source

    def load(self, datasets: Sequence[Dataset]) -> list[Dataset]:
        """Take one record after the other; those that are rejected."""
        rejected = []
        for one in datasets:
            at = (one.portal, one.key) if self._per_source else one.key
            if one.key in OWN and self.held.get(at, (one.portal,))[0] != one.portal:
                rejected.append(one)
            else:
                self.held[at] = (one.portal, one.name)
        return rejected

    @property
    def rows(self) -> Counter[tuple[Any, ...]]:
        """The table."""
        return Counter((at[1] if self._per_source else at, portal, name) for at, (portal, name) in self.held.items())


@pytest.fixture(scope="module", params=[False, True], ids=["keys shared", "keys of each source"])
def model_url(request: pytest.FixtureRequest, server: str) -> Iterator[tuple[DatabaseUrl, bool]]:
    """A database for all examples, and whether each source has keys of its own in it."""

    async def make() -> None:
        connection = await asyncpg.connect(url.reveal)
        await apply(connection)
        if request.param:
            await connection.execute(PER_SOURCE)
        await connection.close()

    with _clone(server, "template0") as url:
        asyncio.run(make())
        yield url, request.param


@pytest.mark.slow
@hypothesis_settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
async def test_any_loads_leave_what_the_model_says(
    steps: list[Step], model_url: tuple[DatabaseUrl, bool], tmp_path: Path
) -> None:
    url, per_source = model_url
    await execute(url, "truncate registry.assets, registry.sources")
    model = Model(per_source=per_source)
    for step in steps:
        path = written(tmp_path / "index.json", step.datasets)
        options: dict[str, Any] = {
            "batch_size": step.batch_size, "concurrency": step.concurrency, "full": step.full, "resume": False,
        }  # fmt: skip
        planned = await load(url, path, dry_run=True, **options)
        report = await load(url, path, **options)
        rejected = model.load(step.datasets)
        assert await rows(url) == model.rows
        reported = Counter(line["record"] for line in rejects(report))
        assert reported == Counter(json.dumps(one.json()) for one in rejected)
        assert report.assets.rejected == planned.assets.rejected == len(rejected)
        assert {line["reason"] for line in rejects(report)} <= {"key_of_another_source"}
        audited = await audit([path], Settings(database_url=url, dialect="data-json"))
        assert audited.verification.passed
        assert audited.rejects.get("key_of_another_source", 0) == len(rejected)
        again = await load(url, path, **options)
        assert Counter(line["record"] for line in rejects(again)) == reported
        assert await rows(url) == model.rows
        if not has_repeats(step.datasets):
            assert (again.assets.inserted, again.assets.updated) == (0, 0)
            assert (report.assets.inserted, report.assets.updated) == (planned.assets.inserted, planned.assets.updated)


def has_repeats(datasets: Sequence[Dataset]) -> bool:
    """Whether a row is written twice in one load, if each record is a batch."""
    written = Counter(one.key if one.key in GLOBAL else (one.portal, one.key) for one in datasets)
    return max(written.values()) > 1


claims = st.lists(st.tuples(st.integers(0, 2**64 - 1) | st.integers(0, 3), st.integers(0, 5)), max_size=20)


@given(st.lists(claims, max_size=5))
def test_the_first_owner_of_a_hash_stays_its_owner(batches: list[list[tuple[int, int]]]) -> None:
    owners, model = FirstOwners(), dict[int, int]()
    for batch in batches:
        for value, owner in batch:
            model.setdefault(value, owner)
        assert owners.claim(batch) == [model[value] for value, _ in batch]
    owners.close()


def test_a_batch_of_global_and_own_keys_is_parted_record_by_record() -> None:
    """A caller of the library may mix what no dialect does: a global key moves, and its new source then has it."""
    own, world = make_asset("x", A, own_key=True), make_asset("x", B)
    later = make_asset("x", A, own_key=True, name="later")
    keys, sources = [("x",)] * 3, [1, 2, 1]
    after = replace(world, own_key=True, name="after")
    assert parted([own, world, later], keys, sources, {}) == ([own, world], [(later, 2)])
    assert parted([own, world, after], keys, [1, 2, 2], {}) == ([own, world, replace(after, own_key=False)], [])
    assert parted([own, world, later], keys, sources, {("x",): 3}) == ([world], [(own, 3), (later, 2)])


# --- at the same time ---------------------------------------------------------------------------------------------


@pytest.fixture
async def known(connection: Connection) -> dict[str, SourceRow]:
    """The rows of two sources that exist."""
    return source_rows(await upsert_sources(connection, [make_source(A), make_source(B)]))


async def merger_of(connection: Connection, *, is_empty: bool = False) -> Merger:
    merger = Merger(connection, await introspect(connection))
    await merger.prepare(is_empty=is_empty)
    return merger


@pytest.fixture
async def other(database_url: DatabaseUrl) -> AsyncIterator[Connection]:
    """Another session."""
    async with session(database_url) as connection:
        yield connection


@pytest.mark.parametrize("is_empty", [False, True], ids=["staged", "straight"])
async def test_a_key_that_another_load_takes_meanwhile_is_not_moved(
    connection: Connection, other: Connection, known: dict[str, SourceRow], *, is_empty: bool
) -> None:
    """Nobody had the key when it was asked for; the upsert waits for the other load, and meets its row."""
    merger = await merger_of(connection, is_empty=is_empty)
    await other.execute("begin")
    await other.execute(
        "insert into registry.assets (asset_key, source_id, name) values ('x', $1, 'theirs')", known[B].id
    )
    ours = [make_asset("x", A, own_key=True), make_asset("y", A, own_key=True)]
    merging = asyncio.create_task(merger.write(Batch(ours, known)))
    while not await other.fetchval("select exists (select from pg_locks where not granted)"):
        await asyncio.sleep(0.01)
    await other.execute("commit")
    counts = await merging
    assert (counts.inserted, counts.updated, counts.unchanged, len(counts.rejects)) == (1, 0, 0, 1)
    assert (counts.rejects[0].key, counts.rejects[0].reason) == ("x", "key_of_another_source")
    assert B in counts.rejects[0].detail
    row = await connection.fetchrow("select source_id, name from registry.assets where asset_key = 'x'")
    assert tuple(row or ()) == (known[B].id, "theirs")


async def test_a_row_that_another_load_moves_meanwhile_is_not_moved_back(
    connection: Connection, other: Connection, known: dict[str, SourceRow]
) -> None:
    merger = await merger_of(connection)
    await merger.write(Batch([make_asset("x", A, own_key=True)], known))
    await other.execute("begin")
    await other.execute("update registry.assets set source_id = $1", known[B].id)
    changed = [make_asset("x", A, own_key=True, name="changed")]
    merging = asyncio.create_task(merger.write(Batch(changed, known)))
    while not await other.fetchval("select exists (select from pg_locks where not granted)"):
        await asyncio.sleep(0.01)
    await other.execute("commit")
    counts = await merging
    assert (replace(counts, rejects=()), len(counts.rejects)) == (MergeCounts(), 1)
    assert await connection.fetchval("select source_id from registry.assets") == known[B].id


async def test_loads_of_two_portals_at_once_share_the_keys_out(database_url: DatabaseUrl, tmp_path: Path) -> None:
    paths = [
        written(tmp_path / f"{portal}.json", [Dataset(portal, str(number), portal) for number in range(300)])
        for portal in (A, B)
    ]
    reports = await asyncio.gather(*(load(database_url, path, batch_size=7, concurrency=3) for path in paths))
    assert sum(report.assets.inserted for report in reports) == 300
    assert sum(report.assets.rejected for report in reports) == 300
    held = await rows(database_url)
    assert Counter(key for key, _, _ in held) == Counter(map(str, range(300)))
    assert all(portal == name for _, portal, name in held)
    for portal, report in zip((A, B), reports, strict=True):
        assert report.assets.inserted == sum(owner == portal for _, owner, _ in held)


# --- what else meets such a record --------------------------------------------------------------------------------


async def test_a_batch_that_is_split_for_a_refused_record_rejects_the_same(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    await execute(database_url, "alter table registry.assets add check (name <> 'forbidden')")
    datasets = [Dataset(A, "1", "x"), Dataset(B, "1", "y"), Dataset(A, "2", "forbidden"), Dataset(B, "2", "z")]
    report = await load(database_url, written(tmp_path / "index.json", datasets))
    found = {(line["reason"], line["key"], json.loads(line["record"])["title"]) for line in rejects(report)}
    # What the database refuses has no row: the next source's record is the first that is there.
    assert found == {("database_refused", "2", "forbidden"), ("key_of_another_source", "1", "y")}
    assert await rows(database_url) == Counter([("1", A, "x"), ("2", B, "z")])


async def test_an_unchanged_record_is_not_found_under_another_source(
    connection: Connection, known: dict[str, SourceRow]
) -> None:
    """The same bytes and hash, but the row's source is another one."""
    merger = await merger_of(connection)
    asset = make_asset("x", A)
    await merger.write(Batch([asset], known))
    await connection.execute("update registry.assets set source_id = $1", known[B].id)
    assert await merger.write(Batch([asset], known)) == MergeCounts(updated=1)
    await connection.execute("update registry.assets set source_id = $1", known[B].id)
    counts = await merger.write(Batch([replace(asset, own_key=True)], known))
    assert (replace(counts, rejects=()), len(counts.rejects)) == (MergeCounts(), 1)


async def test_callers_of_the_library_get_the_rejects(connection: Connection) -> None:
    ids = await upsert_sources(connection, [make_source(A), make_source(B)])
    assets = [make_asset("x", A, own_key=True), make_asset("x", B, own_key=True), make_asset("y", B)]
    counts = await upsert_assets(connection, assets, ids, provider="ckan")
    assert (counts.inserted, [reject.data for reject in counts.rejects]) == (2, [assets[1].raw])
    async with connection.transaction():
        counts = await upsert_assets(connection, assets, ids, provider="ckan")
    assert (counts.unchanged, [reject.data for reject in counts.rejects]) == (2, [assets[1].raw])


async def test_a_key_that_a_global_record_moves_is_its_new_sources(
    connection: Connection, known: dict[str, SourceRow]
) -> None:
    merger = await merger_of(connection)
    await merger.write(Batch([make_asset("x", A, own_key=True)], known))
    moving = [make_asset("x", B), make_asset("x", B, own_key=True, name="last"), make_asset("x", A, own_key=True)]
    counts = await merger.write(Batch(moving, known))
    assert (counts.updated, counts.duplicate, [reject.data for reject in counts.rejects]) == (1, 1, [moving[2].raw])
    row = await connection.fetchrow("select source_id, name from registry.assets")
    assert tuple(row or ()) == (known[B].id, "last")


async def test_rejected_records_are_replayed_by_the_same_rule(database_url: DatabaseUrl, tmp_path: Path) -> None:
    datasets = [Dataset(A, "1", "x"), Dataset(B, "1", "y"), Dataset(C, "1", "z"), Dataset(C, "2", "w")]
    report = await load(database_url, written(tmp_path / "index.json", datasets))
    assert report.rejects_file is not None
    assert report.assets.rejected == 2
    settings = Settings(
        database_url=database_url, dialect="data-json", max_rejects=MaxRejects(records=10, percent=None)
    )
    for dry_run in (True, False):
        again = await reported(replay(report.rejects_file, replace(settings, dry_run=dry_run)))
        assert again.assets == AssetCounts(read=2, rejected=2)
    await execute(database_url, "delete from registry.assets where asset_key = '1'")
    for dry_run in (True, False):
        again = await reported(replay(report.rejects_file, replace(settings, dry_run=dry_run)))
        assert again.assets == AssetCounts(read=2, inserted=1, rejected=1)
    await execute(database_url, rejects(again)[0]["detail"].partition("run: ")[2])
    again = await replay(report.rejects_file, settings)
    assert again.assets == AssetCounts(read=2, inserted=1, unchanged=1)
    assert await rows(database_url) == Counter([("1", B, "y"), ("1", C, "z"), ("2", C, "w")])


class Stopping:
    """Ends a load after this many batches."""

    def __init__(self, batches: int) -> None:
        self._left = batches

    def began(self, tally: Tally) -> None:
        """Ignore it."""

    def tell(self, level: str, event: str, /, **_: Any) -> None:
        """Count batches."""
        self._left -= event == "batch_merged"
        if not self._left:
            raise StorageFailed(f"{level}: stopped by the test")


@pytest.mark.parametrize("batches", range(1, 9))
async def test_a_load_that_was_stopped_rejects_each_record_once(
    batches: int, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    datasets = [Dataset(portal, str(number), portal) for number in range(5) for portal in (A, B)]
    path = written(tmp_path / "index.json", datasets)
    options: dict[str, Any] = {"batch_size": 1, "concurrency": 2}
    settings = Settings(
        database_url=database_url, dialect="data-json", max_rejects=MaxRejects(records=99, percent=None), **options
    )
    with pytest.raises(StorageFailed, match="stopped by the test"):
        await ingest([path], settings, Stopping(batches))
    report = await ingest([path], settings)
    counts = report.assets
    assert report.verification is not None
    assert report.verification.passed
    assert (counts.read, counts.inserted + counts.unchanged + counts.resumed, counts.rejected) == (10, 5, 5)
    assert Counter(line["record"] for line in rejects(report)) == Counter(
        json.dumps(one.json()) for one in datasets if one.portal == B
    )
    assert await rows(database_url) == Counter((str(number), A, A) for number in range(5))


async def test_a_source_whose_records_are_all_rejected_is_not_missing(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    await load(database_url, written(tmp_path / "a.json", [Dataset(A, "1", "x")]))
    path = written(tmp_path / "b.json", [Dataset(B, "1", "y"), Dataset(B, "2", "z")])
    await load(database_url, path)
    audited = await audit([path], Settings(database_url=database_url, dialect="data-json"))
    assert audited.verification.passed
    assert (audited.assets.read, audited.assets.rejected, audited.assets.in_index, audited.assets.missing) == (
        2,
        1,
        1,
        0,
    )
    await execute(database_url, "delete from registry.assets where asset_key = '2'")
    audited = await audit([path], Settings(database_url=database_url, dialect="data-json"))
    assert (audited.assets.rejected, audited.assets.missing) == (1, 1)


# --- the fix ------------------------------------------------------------------------------------------------------

KEYS: Final = {
    "a constraint": "alter table registry.assets add constraint k unique (asset_key)",
    "an index": 'create unique index "A ""key""" on registry.assets (asset_key)',
    "a primary key": "alter table registry.assets drop constraint assets_pkey, add primary key (asset_key)",
    "two of them": "alter table registry.assets add unique (asset_key), add constraint k unique (asset_key)",
    "with a provider": "alter table registry.assets add column provider text not null,"
    "  add unique (provider, asset_key)",
    "both": "alter table registry.assets add column provider text not null, add unique (provider, asset_key),"
    "  add unique (asset_key)",
    "with columns included": "create unique index on registry.assets (asset_key) include (source_id)",
}


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
async def test_what_schema_check_advises_keeps_both(
    key: str, database_url: DatabaseUrl, tmp_path: Path, cli: Cli
) -> None:
    await execute(database_url, "alter table registry.assets drop constraint assets_asset_key_key")
    await execute(database_url, KEYS[key])
    path = written(tmp_path / "index.json", [Dataset(A, "1", "x"), Dataset(B, "1", "y")])
    assert (await load(database_url, path)).assets.rejected == 1
    checked = await asyncio.to_thread(cli, "schema", "check", url=database_url)
    assert checked.returncode == 0
    found = re.search(r"key_of_another_source; to keep both: (.*)", checked.stdout.decode())
    assert found is not None
    await execute(database_url, found[1])
    assert (await load(database_url, path)).assets == AssetCounts(read=2, inserted=1, unchanged=1)
    checked = await asyncio.to_thread(cli, "schema", "check", url=database_url)
    assert b"key_of_another_source" not in checked.stdout


async def test_a_plan_without_tables_tells_of_such_records(bare_database_url: DatabaseUrl, tmp_path: Path) -> None:
    path = written(tmp_path / "index.json", [Dataset(A, "1", "x"), Dataset(B, "1", "y"), Dataset(B, "2", "z")])
    for batch_size in (1, 500):
        report = await load(bare_database_url, path, dry_run=True, batch_size=batch_size)
        assert report.assets == AssetCounts(read=3, inserted=2, rejected=1)
        assert report.plan is not None
        (planned,) = report.plan.rejects
        assert (planned.reason, planned.count, planned.examples[0].key) == ("key_of_another_source", 1, "1")
