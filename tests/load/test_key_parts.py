"""`--keys K/N`: loads of all parts of the keys are together what a load of the whole is, whatever is in the index."""

# ruff: noqa: ASYNC240  # a test may look at files: nothing else runs in its event loop

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import asyncpg
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from conftest import Cli, _clone
from seed_registry import DatabaseUrl, MaxRejects, SeedRegistryError, Settings, ingest
from seed_registry.api import replay
from seed_registry.key_hashes import KeyPart, hash_key
from seed_registry.load import held_assets
from seed_registry.report import Report
from seed_registry.synthetic.index import Workload, generate
from seed_registry.verify.audit import audit

ANYTHING: Final = MaxRejects(records=100_000, percent=None)
# What makes a record hostile: bytes that stand in its place, or in an extra field of it.
FIELDS: Final = {
    "": b'"x"',
    "bad utf-8": b'"\xff"',
    "half a surrogate": b'"\\ud800"',
    "U+0000": b'"\\u0000"',
    "deep": b"[" * 70 + b"]" * 70,
    "number": b"1e200000",
}
LINES: Final = (b"{", b"[1]", b'"x"', b"\xff\xfe", b'{"type":"other"}', b'{"type":"asset","source_key":"one.org"}')
SOURCES: Final = ("one.org", "two.org", "late.org", "missing.org")


class Record(Struct, frozen=True):
    """An asset; `line` stands in its place where the index has lines."""

    key: str
    source: str
    name: bytes = b'"A"'
    extra: bytes = b'"A"'
    line: bytes = b""

    def fields(self, key: str, source: str, name: str) -> bytes:
        """Its bytes in a format with these names of fields."""
        text = json.dumps(self.key).encode()
        of_source = f'"{source}":"{self.source}",'.encode() if source else b""
        return b'{%b"%b":%b,"%b":%b,"extra":%b}' % (
            of_source,
            key.encode(),
            text,
            name.encode(),
            self.name,
            self.extra,
        )


values = st.sampled_from([*[b'"A"', b'"B"'] * 4, *FIELDS.values()])
records = st.builds(
    Record,
    key=st.one_of(
        st.sampled_from(["", " ", "a\0", "k" * 1_001, "a", "b", "ü"]), st.integers(1, 60).map("key{}".format)
    ),
    source=st.sampled_from([*SOURCES[:2], *SOURCES]),
    name=values,
    extra=values,
    line=st.sampled_from([*[b""] * 12, *LINES]),
)


def told_apart(index: Sequence[Record]) -> list[Record]:
    """The records, hostile ones with keys of their own: which of a key are rejected depends on batches elsewhere."""
    good = (b'"A"', b'"B"')
    return [
        replace(one, key=f"{one.key}/{number}") if not {one.name, one.extra} <= {*good} and one.key.isalnum() else one
        for number, one in enumerate(index)
    ]


indexes = st.lists(records, max_size=50).map(told_apart)


def seed_lines(index: Sequence[Record]) -> bytes:
    """The source `late.org` comes last."""
    listed = [b'{"type":"source","source_key":"%b"}' % key.encode() for key in SOURCES[:3]]
    lines = [one.line or b'{"type":"asset",' + one.fields("asset_key", "source_key", "name")[1:] for one in index]
    return b"".join(b"%b\n" % line for line in [*listed[:2], *lines, listed[2]])


def unlisted_lines(index: Sequence[Record]) -> bytes:
    """No source is listed: each is derived from its assets."""
    return b"".join(
        b"%b\n" % (one.line or b'{"type":"asset",' + one.fields("asset_key", "source_key", "name")[1:]) for one in index
    )


def directory(index: Sequence[Record]) -> bytes:
    """Some records name their domain, that of the others is behind them all."""
    found = [one.fields("id", "domain" if one.source != "late.org" else "", "name") for one in index]
    return b'{"datasets":[%b],"source":"socrata","domain":"late.org","totalCount":%d}' % (b",".join(found), len(found))


def data_json(index: Sequence[Record]) -> bytes:
    """What the key is, depends on a header behind all records, too; some records have others inside."""
    found = []
    for number, one in enumerate(index):
        page = f"https://{one.source}/d/abcd-{number % 7 + 2}{number % 5 + 2}22"
        key = json.dumps(page).encode() if number % 2 else json.dumps(one.key).encode()
        inside = b',"seriesMember":[{"identifier":"inside %d","title":"i","landingPage":%b}]' % (
            number,
            json.dumps(page).encode(),
        )
        found.append(
            b'{"identifier":%b,"title":%b,"modified":"2020-01-01","landingPage":%b,"accessLevel":"public","extra":%b%b}'
            % (key, one.name, json.dumps(page).encode(), one.extra, inside if number % 4 == 0 else b"")
        )
    schema = b"https://project-open-data.cio.gov/v1.1/schema"
    return b'{"conformsTo":"%b","dataset":[%b],"@id":"https://one.org/data.json"}' % (schema, b",".join(found))


FORMATS: Final[dict[str, tuple[Callable[[Sequence[Record]], bytes], dict[str, Any]]]] = {
    "seed": (seed_lines, {}),
    "derived": (seed_lines, {"derive_sources": True}),
    "unlisted": (unlisted_lines, {}),
    "directory": (directory, {"dialect": "directory"}),
    "data-json": (data_json, {"dialect": "data-json", "domain": None}),
}


class Way(Struct, frozen=True):
    """How one part is loaded; parts are loaded by different machines, each in its own way."""

    batch_size: int
    concurrency: int
    full: bool
    most_held: int


ways = st.builds(
    Way,
    batch_size=st.sampled_from([1, 2, 7, 500]),
    concurrency=st.integers(1, 3),
    full=st.booleans(),
    most_held=st.sampled_from([0, 1 << 24]),
)
COUNTED: Final = (
    *("read", "inserted", "updated", "unchanged", "duplicate", "rejected", "missing_source", "not_written"),
)


class Outcome(Struct):
    """What a load left: counts of assets, rejects, rows by key, and keys of sources."""

    counts: Counter[str]
    rejects: Counter[tuple[str, int]]
    rows: dict[str, Any]
    sources: set[str]


async def load(path: Path, url: DatabaseUrl, part: KeyPart, way: Way, **options: Any) -> Report:
    rejects = str(path.with_name("rejects"))
    settings = Settings(
        database_url=url,
        keys=part,
        max_rejects=ANYTHING,
        rejects=rejects,
        batch_size=way.batch_size,
        concurrency=way.concurrency,
        full=way.full,
        **options,
    )
    try:
        with patch.object(held_assets, "MOST_HELD_BYTES", way.most_held):
            return await ingest(str(path), settings)
    except SeedRegistryError as exc:
        report = getattr(exc, "report", None)
        if not isinstance(report, Report):
            raise
        return report  # all records of a part may be rejected


async def empty(url: DatabaseUrl) -> None:
    connection = await asyncpg.connect(url.reveal)
    await connection.execute("truncate registry.assets, registry.sources")
    await connection.close()


async def rows_of(url: DatabaseUrl) -> tuple[dict[str, Any], set[str]]:
    connection = await asyncpg.connect(url.reveal)
    try:
        assets = await connection.fetch(
            "select asset_key, source_key, assets.name, assets.url, assets.updated_at, assets.raw "
            "from registry.assets join registry.sources on sources.id = source_id"
        )
        sources = await connection.fetch("select source_key from registry.sources")
    finally:
        await connection.close()
    return {row[0]: tuple(row) for row in assets}, {row[0] for row in sources}


def rejects_in(report: Report) -> Counter[tuple[str, int]]:
    lines = Path(report.rejects_file).read_bytes().splitlines() if report.rejects_file else []
    found = [json.loads(line) for line in lines]
    return Counter((one["reason"], one["offset"]) for one in found if one.get("kind") != "source")


def counts_of(report: Report) -> Counter[str]:
    return +Counter({name: getattr(report.assets, name) for name in COUNTED})


async def outcome(path: Path, url: DatabaseUrl, part: KeyPart, way: Way, **options: Any) -> Outcome:
    path.with_name("rejects").unlink(missing_ok=True)
    report = await load(path, url, part, way, **options)
    rows, sources = await rows_of(url)
    assert report.assets.read == sum(counts_of(report).values()) - report.assets.read
    return Outcome(counts_of(report), rejects_in(report), rows, sources)


async def check_parts(path: Path, url: DatabaseUrl, parts: int, by: Sequence[Way], options: dict[str, Any]) -> None:
    """Load the whole, and each part into an empty registry; then all parts into one."""
    await empty(url)
    whole = await outcome(path, url, KeyPart(), by[0], **options)
    total = Outcome(Counter(), Counter(), {}, set())
    for number in range(1, parts + 1):
        await empty(url)
        part, way = KeyPart(number, parts), by[number % len(by)]
        found = await outcome(path, url, part, way, **options)
        assert found.sources == whole.sources
        assert not found.rows.keys() & total.rows.keys()
        total.counts += found.counts
        total.rejects += found.rejects
        total.rows |= found.rows
        if b"1e200000" in path.read_bytes():  # only the database refuses it
            continue
        planned = await load(path, url, part, way, dry_run=True, **options)
        assert planned.assets.read == found.counts["read"]
        assert planned.assets.read + planned.assets.other_parts == whole.counts["read"]
        assert planned.assets.rejected == found.counts["rejected"]
        assert not planned.plan or (planned.plan.assets.new, planned.plan.assets.changed) == (0, 0)
        audited = await audit(str(path), Settings(database_url=url, keys=part, **options))
        assert (audited.assets.missing, audited.assets.different, audited.assets.extra) == (0, 0, 0)
        assert audited.assets.read == found.counts["read"]
        assert audited.assets.in_index == audited.assets.in_database == len(found.rows)
        assert audited.assets.other_parts == planned.assets.other_parts
        assert audited.sources.missing == 0
    assert total.rows == whole.rows
    assert total.counts == whole.counts
    assert total.rejects == whole.rejects


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("examples", [2, pytest.param(15, marks=pytest.mark.slow)])
def test_the_parts_of_any_index_are_together_the_whole(
    database_url: DatabaseUrl, tmp_path: Path, name: str, examples: int
) -> None:
    make, options = FORMATS[name]

    # To make an example smaller takes minutes.
    @settings(max_examples=examples, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
    @given(index=indexes, parts=st.integers(1, 4), by=st.lists(ways, min_size=1, max_size=3))
    def check(index: list[Record], parts: int, by: list[Way]) -> None:
        path = tmp_path / "index.json"
        path.write_bytes(make([Record("z", "one.org"), *index, Record("y", "one.org")]))
        asyncio.run(check_parts(path, database_url, parts, by, options))

    check()


# What the operator of several servers sees

A: Final = "a.example"
KEYS: Final = [f"key-{number:03}" for number in range(60)]
UNREADABLE: Final = b'{"type":"asset","name":"no key"}'


def own(part: KeyPart, keys: Sequence[str] = KEYS) -> list[str]:
    return [key for key in keys if part.has(hash_key(key))]


def lines(*records: dict[str, Any] | bytes) -> bytes:
    found = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
    return b"".join(line + b"\n" for line in found)


def assets(keys: Sequence[str] = KEYS, **fields: Any) -> list[dict[str, Any]]:
    return [{"type": "asset", "asset_key": key, "source_key": A, **fields} for key in keys]


@pytest.fixture
def urls(server: str, template: str) -> Iterator[list[DatabaseUrl]]:
    """Four empty databases."""
    with ExitStack() as stack:
        yield [stack.enter_context(_clone(server, template)) for _ in range(4)]


@pytest.mark.anyio
@pytest.mark.usefixtures("at_home")
async def test_the_digests_of_the_parts_add_up_to_that_of_the_whole(urls: list[DatabaseUrl], tmp_path: Path) -> None:
    path = tmp_path / "index.ndjson"
    workload = Workload(records=1_500, duplicates=5, invalid=2, sources=7)
    path.write_bytes(b"".join(generate(workload)))
    parts = [KeyPart(), *(KeyPart(number, 3) for number in (1, 2, 3))]
    reports = []
    for url, part in zip(urls, parts, strict=True):
        options = Settings(database_url=url, keys=part, digest=True, max_rejects=ANYTHING)
        reports.append(await ingest(str(path), options))
    digests = [report.digest for report in reports if report.digest]
    whole, *others = [digest.assets for digest in digests]
    assert sum(int(one.sum, 16) for one in others) % (1 << 128) == int(whole.sum, 16)
    assert sum(one.count for one in others) == whole.count > 1_000
    assert {digest.sources.sum for digest in digests} == {digests[0].sources.sum}
    counts = [counts_of(report) for report in reports]
    assert sum(counts[1:], Counter()) == counts[0]
    assert min(one["inserted"] for one in counts[1:]) > 350, "parts are of about the same size"
    assert all(report.assets.read + report.assets.other_parts == counts[0]["read"] for report in reports)
    assert all(report.verification and report.verification.passed for report in reports)


@pytest.mark.anyio
@pytest.mark.usefixtures("at_home")
async def test_a_run_is_resumed_by_a_command_with_the_same_part_only(
    database_url: DatabaseUrl, connection: asyncpg.Connection[Any], tmp_path: Path
) -> None:
    path = tmp_path / "index.ndjson"
    path.write_bytes(lines({"type": "source", "source_key": A}, *assets(description="x" * 200)))
    first, second = KeyPart(1, 2), KeyPart(2, 2)
    stop = f"new.asset_key >= '{own(first)[-5]}'"
    await connection.execute(f"""
        create function registry.stop() returns trigger language plpgsql as
        $$ begin if {stop} then raise 'stop' using errcode = 'XX001'; end if; return new; end $$;
        create trigger stop before insert on registry.assets for each row execute function registry.stop();
    """)

    def options(part: KeyPart) -> Settings:
        return Settings(database_url=database_url, keys=part, batch_size=5, concurrency=1)

    with pytest.raises(SeedRegistryError):
        await ingest(str(path), options(first))
    await connection.execute("drop trigger stop on registry.assets")
    report = await ingest(str(path), options(second))
    assert (report.assets.inserted, report.assets.resumed) == (len(own(second)), 0)
    begun = await connection.fetchval("select count(*) from registry.assets") - len(own(second))
    assert begun >= 5
    report = await ingest(str(path), options(first))
    assert (report.assets.inserted, report.assets.resumed) == (len(own(first)) - begun, begun)
    report = await ingest(str(path), options(KeyPart()))
    assert (report.assets.unchanged, report.assets.read) == (len(KEYS), len(KEYS))
    report = await ingest(str(path), options(KeyPart(1, 3)))
    assert (report.assets.unchanged, report.assets.other_parts) == (
        len(own(KeyPart(1, 3))),
        len(KEYS) - len(own(KeyPart(1, 3))),
    )


@pytest.mark.anyio
@pytest.mark.usefixtures("at_home")
async def test_rows_of_other_parts_are_counted_by_verify_and_are_not_extra(
    database_url: DatabaseUrl, connection: asyncpg.Connection[Any], tmp_path: Path
) -> None:
    path, part = tmp_path / "index.ndjson", KeyPart(1, 2)
    path.write_bytes(lines({"type": "source", "source_key": A}, *assets([*KEYS, "more-1", "more-2", "more-3", "gone"])))
    await ingest(str(path), Settings(database_url=database_url))
    await connection.execute("update registry.assets set retired_at = now() where asset_key = 'gone'")
    path.write_bytes(lines({"type": "source", "source_key": A}, *assets()))
    extra = own(part, ["more-1", "more-2", "more-3"])
    assert 0 < len(extra) < 3
    for options in (Settings(database_url=database_url, keys=part), Settings(database_url=database_url)):
        report = await audit(str(path), options)
        is_part = not options.keys.is_whole
        assert report.verification.passed
        assert [one.key for one in report.extra] == (extra if is_part else ["more-1", "more-2", "more-3"])
        assert report.assets.extra == len(report.extra)
        assert report.assets.retired == (len(own(part, ["gone"])) if is_part else 1)
        assert report.assets.in_index == (len(own(part)) if is_part else len(KEYS))
        rows = report.assets.in_database + report.assets.rows_of_other_parts
        assert (rows, report.assets.other_parts) == (64, len(KEYS) - len(own(part)) if is_part else 0)
    lost = own(part)[0]
    await connection.execute("delete from registry.assets where asset_key = any($1)", [lost, own(KeyPart(2, 2))[0]])
    report = await audit(str(path), Settings(database_url=database_url, keys=part))
    assert [(one.key, one.is_missing) for one in report.differences] == [(lost, True)]


@pytest.mark.anyio
@pytest.mark.usefixtures("at_home")
async def test_declared_counts_are_compared_with_all_records_and_repeats_of_any_part_complete_nothing(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    def page(keys: Sequence[str], total: int) -> dict[str, Any]:
        results = [
            {"resource": {"id": key, "name": "n"}, "metadata": {"domain": A}, "permalink": f"https://{A}/d/{key}"}
            for key in keys
        ]
        return {"results": results, "resultSetSize": total}

    directory = {"source": "socrata", "domain": A, "totalCount": 60, "datasets": [{"id": key} for key in KEYS]}
    (tmp_path / "directory.json").write_text(json.dumps(directory))
    (tmp_path / "twice.json").write_text(json.dumps(page(KEYS[:30], 60)) * 2)
    for number in range(1, 5):
        part = KeyPart(number, 4)
        options = Settings(database_url=database_url, keys=part)
        report = await ingest(str(tmp_path / "directory.json"), options)
        assert {"declared_totalCount"} < {check.name for check in report.verification.checks}  # type: ignore[union-attr]
        report = await ingest(str(tmp_path / "twice.json"), options)
        assert [(one.declared, one.read) for one in report.incomplete] == [(60, 30)]
        assert report.assets.duplicate == len(own(part, KEYS[:30]))


@pytest.mark.anyio
@pytest.mark.usefixtures("at_home")
async def test_the_rejects_of_all_parts_are_replayed_part_by_part(urls: list[DatabaseUrl], tmp_path: Path) -> None:
    """Those without a key belong to the part of their bytes; what key they have after a fix may be of any part."""
    path = tmp_path / "index.ndjson"
    keyless = [b'{"type":"asset","source_key":"%b","name":"%d"}' % (A.encode(), number) for number in range(20)]
    path.write_bytes(lines({"type": "source", "source_key": A}, *assets(), *keyless))
    everything = b""
    for number in (1, 2):
        rejects = tmp_path / f"rejects-{number}"
        options = Settings(
            database_url=urls[number], keys=KeyPart(number, 2), max_rejects=ANYTHING, rejects=str(rejects)
        )
        report = await ingest(str(path), options)
        assert report.assets.rejected == len(rejects.read_bytes().splitlines())
        assert 0 < report.assets.rejected < 20
        everything += rejects.read_bytes()
    assert {json.loads(line)["line"] for line in everything.splitlines()} == set(range(62, 82))
    fixed = tmp_path / "fixed"
    fixed.write_bytes(everything.replace(rb"\"name\":\"", rb"\"asset_key\":\"new-"))
    new = [f"new-{number}" for number in range(20)]
    for number in (1, 2):
        part = KeyPart(number, 2)
        report = await replay(str(fixed), Settings(database_url=urls[number], keys=part, max_rejects=ANYTHING))
        assert (report.assets.inserted, report.assets.other_parts) == (len(own(part, new)), 20 - len(own(part, new)))


def test_commands_take_a_part(cli: Cli, database_url: DatabaseUrl, tmp_path: Path) -> None:
    path = tmp_path / "index.ndjson"
    path.write_bytes(lines({"type": "source", "source_key": A}, *assets()))
    part = KeyPart(2, 3)
    for text in ("0/8", "9/8", "a", ""):
        refused = cli("load", path, "--keys", text, url=database_url)
        assert (refused.returncode, refused.stdout) == (2, b"")
        assert b"--keys takes a part like 3/8" in refused.stderr
    planned = json.loads(cli("plan", path, "--keys", "2/3", "--json", url=database_url).stdout)
    assert (planned["keys"], planned["assets"]["inserted"]) == ("2/3", len(own(part)))
    shown = cli("load", path, "--keys", "2/3", url=database_url)
    assert b"other parts" in shown.stdout
    assert b"(seed, part 2/3 of the keys, run " in shown.stdout
    again = json.loads(cli("load", path, "--json", url=database_url, env={"SEED_REGISTRY_KEYS": "2/3"}).stdout)
    assert (again["assets"]["unchanged"], again["assets"]["other_parts"]) == (len(own(part)), 60 - len(own(part)))
    audited = cli("verify", path, "--keys", "2/3", url=database_url)
    assert audited.returncode == 0
    assert (
        f"not compared, of other parts of the keys: {60 - len(own(part))} of the index, 0 rows"
        in audited.stdout.decode()
    )
    assert cli("verify", path, url=database_url).returncode == 4
