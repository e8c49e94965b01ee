"""Any sequence of loads, kills, resumptions, edits of the index and of the rows: the registry holds what it must."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from failing import KILLED, POINTS
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from model import Row, model
from scene import ROWS, Scene

from seed_registry.api import ingest
from seed_registry.errors import DatabaseRefused
from seed_registry.report import Report
from seed_registry.settings import DatabaseUrl, MaxRejects, Settings

SCALE = int(os.environ.get("EXAMPLES_SCALE", "1"))
KEYS = 40

key = st.integers(0, KEYS - 1)
# A record of the index: the number of its key, None where it has none, and which revision it is.
entry = st.tuples(st.one_of(key, key, key, key, st.none()), st.integers(0, 9))
entries = st.lists(entry, min_size=30, max_size=90)
sizes = st.sampled_from([3, 7, 20, 500])
workers = st.integers(1, 5)


def line(number: int | None, revision: int) -> bytes:
    """A record of a Discovery index; its time is no measure of how often it was edited."""
    resource = {
        "name": f"asset {number}, revision {revision}",
        "description": "x" * revision,
        "updatedAt": f"20{10 + revision * 7 % 10}-01-01T00:00:00Z",
    }
    if number is not None:
        resource["id"] = f"key-{number:04}"
    domain = f"data-{(number or 0) % 3}.example.org"
    record = {"resource": resource, "metadata": {"domain": domain}, "permalink": f"https://{domain}/d/{number}"}
    return json.dumps(record).encode() + b"\n"


class Steps(RuleBasedStateMachine):
    """One index and one database; `rows` is what is in it."""

    scene: ClassVar[Scene]

    @initialize(index=entries)
    def begin(self, index: list[tuple[int | None, int]]) -> None:
        """Nothing is loaded yet."""
        self.scene.fetch("truncate registry.sources, registry.assets, seed_registry.runs cascade")
        self.scene.rejects.unlink(missing_ok=True)
        self.rows: dict[str, Row] = {}
        self.is_unfinished = self.was_edited = False
        self.put(index)

    def put(self, index: list[tuple[int | None, int]]) -> None:
        """Make these the records of the index."""
        scene = self.scene
        self.index = index
        scene.data = b"".join(line(*record) for record in index)
        scene.model = model(scene.data)
        scene.write(scene.data)

    @rule(size=sizes, lanes=workers)
    def load(self, size: int, lanes: int) -> None:
        """Or resume, where there is something to resume."""
        report = asyncio.run(self.ingested(size, lanes))
        if not self.is_unfinished:
            assert report.assets.resumed == 0
        self.check_loaded(report)

    @rule(point=st.sampled_from(sorted(POINTS)), number=st.integers(1, 12), size=sizes, lanes=workers)
    def kill(self, point: str, number: int, size: int, lanes: int) -> None:
        """A load that dies at some point, if it gets there."""
        scene = self.scene
        ended = scene.load(
            "--batch-size", size, "--concurrency", lanes, "--max-rejects", "100%", failing=(point, number)
        )
        if ended.code == 0:
            self.check_loaded(None)
            return
        assert ended.code == KILLED, ended.stderr
        self.is_unfinished = True
        if not self.was_edited:
            scene.check_safe()
        self.rows = self.found_between()

    @rule(records=st.lists(st.tuples(st.integers(0, 89), entry), min_size=1, max_size=12), how=st.integers(0, 2))
    def edit(self, records: list[tuple[int, tuple[int | None, int]]], how: int) -> None:
        """Records are replaced, put in or taken out."""
        index = self.index.copy()
        for place, record in records:
            index[place % len(index) : place % len(index) + (how < 2)] = [record] if how else []
            if not index:
                index = [record]
        self.was_edited = self.was_edited or self.is_unfinished
        self.put(index)

    @rule(size=sizes, lanes=workers)
    def two_loads(self, size: int, lanes: int) -> None:
        """One of them may be refused, or come when the other is done."""

        async def both() -> tuple[Report | BaseException, ...]:
            loads = (self.ingested(size, lanes), self.ingested(size + 1, lanes, rejects=f"{self.scene.rejects}.2"))
            return await asyncio.gather(*loads, return_exceptions=True)

        ended = asyncio.run(both())
        assert any(isinstance(one, Report) for one in ended), ended
        assert all(isinstance(one, (Report, DatabaseRefused)) for one in ended), ended
        self.check_loaded(None)

    @rule(edited=st.sets(key, max_size=9), deleted=st.sets(key, max_size=9), size=sizes, lanes=workers)
    def mend(self, edited: set[int], deleted: set[int], size: int, lanes: int) -> None:
        """Somebody edits and deletes rows by hand, and `--full` sees to it, from the beginning."""
        keys = [[f"key-{number:04}" for number in numbers] for numbers in (edited, deleted)]
        self.scene.fetch("update registry.assets set name = 'edited' where asset_key = any($1)", keys[0])
        self.scene.fetch("delete from registry.assets where asset_key = any($1)", keys[1])
        self.rows = self.found()
        self.check_loaded(asyncio.run(self.ingested(size, lanes, full=True, resume=False)))

    async def ingested(self, size: int, lanes: int, **options: Any) -> Report:
        """A load in this process."""
        files = {"rejects": str(self.scene.rejects)}
        chosen: dict[str, Any] = files | {"max_rejects": MaxRejects(percent=100.0)} | options
        asked = Settings(database_url=self.scene.url, batch_size=size, concurrency=lanes, **chosen)
        return await ingest([str(self.scene.path)], asked)

    def check_loaded(self, report: Report | None) -> None:
        """After a load that ended well the last record of each key is there, and no moment went backwards."""
        for name, row in self.scene.model.rows.items():
            moments = [row[4], *([self.rows[name][4]] if name in self.rows else [])]
            self.rows[name] = (*row[:4], max(moments), row[5])
        assert self.found() == self.rows
        assert self.scene.ask("select count(*) from seed_registry.checkpoints") == 0
        if report is not None:
            assert report.verification
            assert report.verification.passed
            counts = msgspec.structs.asdict(report.assets)
            assert counts.pop("read") == sum(counts.values()) == self.scene.model.read
            # Of an index that was edited since it was read in part, the rejects of then are told, too.
            told = {told["offset"] for told in self.scene.told_rejects()}
            assert told >= {*self.scene.model.rejected} if self.scene.model.rejected else True
        self.is_unfinished = self.was_edited = False

    def found(self) -> dict[str, Row]:
        """What is in the table."""
        return {name: (*values, json.loads(raw)) for name, *values, raw in self.scene.fetch(ROWS)}

    def found_between(self) -> dict[str, Row]:
        """The rows after a load that did not end: each is what it was, or what some record makes of it."""
        found = self.found()
        assert self.rows.keys() <= found.keys()
        records = [json.loads(raw) for raw in self.scene.data.splitlines()]
        for name, row in found.items():
            before = self.rows.get(name)
            if row != before:
                assert row[5] in records, name
                assert before is None or row[4] >= before[4]
        return found


def test_any_sequence_of_loads_kills_and_edits(database_url: DatabaseUrl, home: Path, tmp_path: Path) -> None:
    class Machine(Steps):
        scene = Scene(database_url, home, tmp_path, 0, shape="discovery.ndjson", records=1)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=25 * SCALE,
            stateful_step_count=12,
            deadline=None,
            phases=[Phase.generate],  # each step is a load: shrinking what fails would take many minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
