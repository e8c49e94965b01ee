"""The index changes while it is read, or between two runs; keys come again and are alike; the tables are not ours."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from model import Model, model
from scene import ROWS, Ended, Scene

from seed_registry.api import ingest
from seed_registry.registry.ddl import grants
from seed_registry.settings import DatabaseUrl, Settings
from seed_registry.synthetic.index import Workload, generate

LINES = ["seed.ndjson", "discovery.ndjson", "seed.ndjson.gz", "discovery.ndjson.zst"]
SHAPES = [*LINES, "seed.json", "discovery.json", "seed.json.gz", "discovery.json.zst"]
DIGEST = "select md5(string_agg(concat_ws('|', {columns}), ',' order by asset_key)) from registry.assets"


class Changing(Scene):
    """A scene whose index does not stay as it is; what its earlier forms left in the registry stays there."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        shape = f"{options['shape']}..".split(".")
        self.dialect, self.form, self.packing = shape[:3]
        self.before: list[Model] = []

    def put(self, data: bytes, how: str = "in place") -> None:
        """Make these the bytes of the index."""
        inode = self.path.stat().st_ino
        if how == "replaced":
            path, self.path = self.path, self.path.with_name("new")
            self.write(data, self.packing)
            self.path = self.path.replace(path)
        else:
            self.write(data, self.packing)
        assert (self.path.stat().st_ino != inode) == (how == "replaced")
        self.before.append(self.model)
        self.data = data
        self.model = model(data)

    def cut(self) -> None:
        """Truncate the index somewhere in its second half, where no JSON ends; of packed bytes no model is known."""
        packed = self.path.read_bytes()
        end = len(packed) * self.chance.randint(50, 95) // 100
        os.truncate(self.path, end)
        if self.form == "ndjson" and not self.packing:
            self.before.append(self.model)
            self.data = packed[:end]
            self.model = model(self.data)

    def longer(self) -> bytes:
        """The index with some records more at its end."""
        more = b"".join(generate(self.workload(records=60, seed=self.seed + 1_000)))
        if self.form == "ndjson":
            return self.data + more
        opening = b'"assets": [\n' if self.dialect == "seed" else b'"results": [\n'
        records = more.partition(opening)[2].rpartition(b"\n]")[0]
        head, _, tail = self.data.rpartition(b"\n]")
        return head + b",\n" + records + b"\n]" + tail

    def another(self) -> bytes:
        """Another index."""
        return b"".join(generate(self.workload(records=900, seed=self.seed + 2_000)))

    def edited(self) -> bytes:
        """The index with other names in it, as many bytes long."""
        return self.data.replace(b"Data", b"Dada").replace(b"(", b"[")

    def workload(self, **options: Any) -> Workload:
        """A workload of this shape."""
        return Workload(dialect=self.dialect, format=self.form, size=1_200, invalid=1, **options)  # type: ignore[arg-type]

    def check_state(self) -> None:
        """The rows are those of the index as it is; rows of keys that it has no longer are those of what it was."""
        rows = {key: (*values, json.loads(raw)) for key, *values, raw in self.fetch(ROWS)}
        for key, row in self.model.rows.items():
            moments = [row[4], *(moment for _, moment in self.earlier(key))]
            assert rows[key][:4] + rows[key][5:] == row[:4] + row[5:], key
            assert rows[key][4] in [moment for moment in moments if moment >= row[4]], key
        for key in rows.keys() - self.model.rows.keys():
            assert rows[key][5] in [record for record, _ in self.earlier(key)], key

    def told_rejects(self, *, whole: bool = True) -> list[dict[str, Any]]:
        """Once it changed, without those of what it was: that they are still told is the matter of one test alone."""
        told = super().told_rejects(whole=whole)
        return [line for line in told if line["offset"] in self.model.rejected] if self.before else told

    def earlier(self, key: str) -> Iterator[tuple[Any, Any]]:
        """The record and the moment of a key in earlier forms."""
        return ((one.rows[key][5], one.rows[key][4]) for one in self.before if key in one.rows)


def start(url: DatabaseUrl, home: Path, directory: Path, seed: int, shapes: list[str] = SHAPES) -> Changing:
    # Without repeats: of a key that came twice, the first record may be what a changed index left.
    return Changing(url, home, directory, seed, shape=shapes[seed % len(shapes)], duplicates=0)


def changed_while_read(scene: Changing, change: Any, *arguments: Any) -> Ended:
    """A load that is changed under its hands, which must not end well."""
    scene.close_gate(scene.chance.randint(0, 9))
    # Behind the change of a packed index there may be anything; that it is too much for some is not the question.
    process = scene.start("--max-rejects", "100%")
    scene.at_gate(process)
    change(*arguments)
    scene.open_gate()
    ended = scene.wait(process)
    assert ended.code == 1, ended
    assert ended.report == {}
    return ended


def check_loads(scene: Changing, *, resumed: bool = False) -> None:
    """The index as it is now is loaded by the same command."""
    ended = scene.load()
    scene.check_done(ended)
    assert (ended.counts["resumed"] > 0) == resumed, "of another file nothing may be skipped"


@pytest.mark.parametrize("seed", range(20))
def test_truncated_while_it_is_read(database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int) -> None:
    scene = start(database_url, home, tmp_path, seed)
    whole = scene.data
    ended = changed_while_read(scene, scene.cut)
    assert any(words in ended.stderr for words in ("was changed", "cut off", "ends in the middle")), ended.stderr
    if scene.before:
        check_loads(scene)
    else:
        again = scene.load()
        assert again.code == 1
        assert "cut off" in again.stderr, again.stderr
    scene.put(whole)
    check_loads(scene)


@pytest.mark.parametrize("seed", range(10))
def test_appended_to_while_it_is_read(database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int) -> None:
    scene = start(database_url, home, tmp_path, seed)
    ended = changed_while_read(scene, scene.put, scene.longer())
    assert scene.packing or "was changed while it was read" in ended.stderr
    check_loads(scene)


@pytest.mark.parametrize("seed", range(10))
def test_replaced_while_it_is_read(database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int) -> None:
    scene = start(database_url, home, tmp_path, seed)
    ended = changed_while_read(scene, scene.put, scene.another(), "replaced")
    assert "was changed while it was read" in ended.stderr
    check_loads(scene)


@pytest.mark.parametrize("seed", range(10))
def test_edited_in_place_while_it_is_read(database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int) -> None:
    scene = start(database_url, home, tmp_path, seed)
    changed_while_read(scene, scene.put, scene.edited())
    check_loads(scene)


@pytest.mark.parametrize("seed", range(10))
def test_changed_between_a_run_and_its_resumption(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int
) -> None:
    scene = start(database_url, home, tmp_path, seed, SHAPES[:5])
    scene.close_gate(scene.chance.randint(3, 9))
    process = scene.start()
    scene.at_gate(process)
    scene.kill(process)
    assert scene.ask("select count(*) from seed_registry.checkpoints") > 0
    change = [scene.longer, scene.another, scene.edited, None, scene.longer][seed // 2]
    if change:
        scene.put(change(), "replaced" if seed % 2 else "in place")
    else:  # moved away and back by somebody careful
        shutil.copy2(scene.path, tmp_path / "copy")
        (tmp_path / "copy").replace(scene.path)
    scene.open_gate()
    check_loads(scene, resumed=not change)


def test_rejects_of_an_index_that_is_another_now_are_not_told_of_it(
    database_url: DatabaseUrl, home: Path, tmp_path: Path
) -> None:
    scene = start(database_url, home, tmp_path, 0)
    ended = changed_while_read(scene, scene.put, b"\n\n" + scene.edited(), "replaced")
    assert ended.code == 1
    assert scene.load().code == 0
    assert sorted(line["offset"] for line in Scene.told_rejects(scene)) == scene.model.rejected


# Duplicates


def lines(records: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


def asset(key: str, number: int) -> dict[str, Any]:
    day = f"{2000 + number // 300 % 60}-01-{1 + number % 28:02}T00:00:00Z"
    return {
        "resource": {"id": key, "name": f"{key} {number}", "description": "x" * (number % 50), "updatedAt": day},
        "metadata": {"domain": "data.example.org"},
        "permalink": f"https://data.example.org/d/{number}",
    }


def repeated(percent: float) -> bytes:
    return b"".join(
        generate(Workload(records=1_200, size=1_200, duplicates=percent, dialect="discovery", format="ndjson"))
    )


def reversed_lines(data: bytes) -> bytes:
    return b"".join(reversed(data.splitlines(keepends=True)))


FORMS = [unicodedata.normalize(form, "žluťoučký-é") for form in ("NFC", "NFD")]
REPEATS = {
    "0.1 %": repeated(0.1),
    "1 %": repeated(1),
    "50 %": repeated(50),
    "100 %": repeated(100),
    "within a batch": lines([asset(f"k-{number // 4}", number) for number in range(800)]),
    "across batches": lines([asset(f"k-{number % 200}", number) for number in range(800)]),
    "across workers": lines([asset(f"k-{number * 7 % 11}", number) for number in range(800)]),
    "reversed": reversed_lines(repeated(50)),
    "NFC and NFD": lines([asset(f"{FORMS[number % 2]}-{number // 6}", number) for number in range(600)]),
    "case": lines([asset(f"{'aA'[number % 2]}bcd-{number // 6}", number) for number in range(600)]),
    "space": lines(
        [asset(f"{' ' * (number % 3)}abcd-{number // 6}{' ' * (number % 2)}", number) for number in range(600)]
    ),
    "one key": lines([asset("abcd-1234", number) for number in range(600)]),
}


@pytest.mark.parametrize("kind", REPEATS)
def test_whatever_the_batches_and_workers_the_last_of_a_key_wins(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, kind: str
) -> None:
    scene = Scene(database_url, home, tmp_path, 0, records=1)
    scene.data = REPEATS[kind]
    scene.model = model(scene.data)
    scene.write(scene.data)
    digest = DIGEST.format(columns="asset_key, name, description, url, updated_at, raw")
    digests = set()
    for size, workers in [(1_000, 1), (1, 2) if kind == "one key" else (9, 2), (40, 4), (200, 8)]:
        scene.fetch("truncate registry.sources, registry.assets cascade")
        settings = Settings(
            database_url=database_url, batch_size=size, concurrency=workers, rejects=str(tmp_path / f"{size}")
        )
        report = asyncio.run(ingest([str(scene.path)], settings))
        counts = report.assets
        assert (counts.read, counts.rejected, report.retries) == (scene.model.read, len(scene.model.rejected), 0)
        assert counts.inserted == len(scene.model.rows)
        scene.check_state()
        digests.add(scene.ask(digest))
    assert len(digests) == 1


# Tables that drifted

DRIFTS = {
    "a column is missing": ("alter table registry.assets drop column asset_key", "asset_key"),
    "a column was renamed": ("alter table registry.assets rename column source_id to portal", "source_id"),
    "a column that nobody fills": ("alter table registry.assets add column owner text not null", "owner"),
    "a column of another type": (
        "alter table registry.sources alter column source_key type bytea using source_key::bytea",
        "source_key",
    ),
    "no unique index": ("alter table registry.assets drop constraint assets_asset_key_key", "unique index"),
    "no privilege": ("revoke insert, update on registry.assets from {role}", "no privilege"),
}


@pytest.fixture
def loader_url(database_url: DatabaseUrl) -> Iterator[tuple[DatabaseUrl, str]]:
    """The database for a role that may load and nothing else, and the role."""

    async def run(statements: str) -> None:
        connection = await asyncpg.connect(database_url.reveal)
        await connection.execute(statements)
        await connection.close()

    parts = urlsplit(database_url.reveal)
    role = f"loader_{parts.path[1:]}"
    granted = grants(role).replace(':"DBNAME"', parts.path[1:])
    asyncio.run(run(f"create role {role} login; {granted}"))
    host = parts.netloc.rpartition("@")[2]
    yield DatabaseUrl(urlunsplit(parts._replace(netloc=f"{role}@{host}"))), role
    asyncio.run(run(f"drop owned by {role}; drop role {role}"))


@pytest.mark.parametrize(
    "drift",
    DRIFTS,
)
def test_a_schema_that_drifted_is_refused_before_anything_is_written(
    database_url: DatabaseUrl, loader_url: tuple[DatabaseUrl, str], home: Path, tmp_path: Path, drift: str
) -> None:
    scene = Scene(database_url, home, tmp_path, 1)
    url, role = loader_url
    statement, named = DRIFTS[drift]
    scene.fetch(statement.format(role=role))
    ended = scene.load(url=url)
    assert ended.code == 1, ended
    assert named in ended.stderr
    assert scene.ask("select (select count(*) from registry.sources) + (select count(*) from registry.assets)") == 0
