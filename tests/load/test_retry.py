"""What a load survives: lost connections, lost answers, kills; and how the same command finishes what ended early."""
# ruff: noqa: ASYNC240  # small files, and nothing else waits

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Cli
from seed_registry.api import ingest
from seed_registry.checkpoint import Checkpoint, FileState, ResumePoint, without_position
from seed_registry.errors import DatabaseRefused, DatabaseUnavailable, IndexBroken, IndexUnreadable
from seed_registry.postgres.failures import FailureAction, classify
from seed_registry.postgres.transactions import BatchTransaction
from seed_registry.records import Reject
from seed_registry.rejects.writer import RejectsFile
from seed_registry.report import Report, Tally
from seed_registry.settings import DatabaseUrl, Settings
from seed_registry.synthetic.index import Workload, generate

RECORDS = 3_000
ROWS = """
select md5(string_agg(concat_ws('|', asset_key, name, description, url, updated_at, raw), ',' order by asset_key))
from registry.assets
"""
KILL = """
select pg_terminate_backend(pid) from pg_stat_activity
where datname = current_database() and application_name = 'seed-registry' and pid <> pg_backend_pid()
"""


class Told:
    """Remembers what happens, and does something at the n-th batch."""

    def __init__(self, batch: int = 0, action: Callable[[], object] | None = None) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._batch = batch
        self._action = action

    def began(self, tally: Tally) -> None:
        """The load begins."""
        self.tally = tally

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Something happened."""
        del level
        self.events.append((event, fields))
        if self._action and event == "batch_merged" and len(self.of("batch_merged")) == self._batch:
            self._action()

    def of(self, event: str) -> list[dict[str, Any]]:
        """What was told of these."""
        return [fields for name, fields in self.events if name == event]


def sample(path: Path, **options: Any) -> str:
    path.write_bytes(b"".join(generate(Workload(records=RECORDS, size=1_200, **options))))
    return str(path)


def ask(url: DatabaseUrl, query: str) -> Any:
    """From outside of the load, and while its event loop stands still."""
    done = subprocess.run(
        [sys.executable, "-c", _ASK, query], env=os.environ | {"ASKED": url.reveal}, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


_ASK = """
import asyncio, asyncpg, os, sys
async def main():
    connection = await asyncpg.connect(os.environ["ASKED"])
    print(await connection.fetchval(sys.argv[1]))
    await connection.close()
asyncio.run(main())
"""


async def load(url: DatabaseUrl, path: str, progress: Told | None = None, **settings: Any) -> Report:
    return await ingest([path], Settings(database_url=url, **({"batch_size": 50} | settings)), progress)


async def clean(url: DatabaseUrl, path: str) -> str:
    """The rows of a load that nothing happened to; the registry is empty afterwards."""
    await load(url, path)
    rows: str = ask(url, ROWS)
    ask(url, "truncate registry.assets, registry.sources, seed_registry.runs cascade")
    return rows


# Which failure has which remedy

REPEAT, RECONNECT, BISECT, STOP = (
    FailureAction.REPEAT,
    FailureAction.RECONNECT,
    FailureAction.BISECT,
    FailureAction.STOP,
)
CASES = {
    "40001": REPEAT, "40P01": REPEAT, "55P03": REPEAT, "57014": REPEAT,
    "08000": RECONNECT, "08006": RECONNECT, "57P01": RECONNECT, "57P02": RECONNECT,
    "57P03": RECONNECT, "53300": RECONNECT, "25P03": RECONNECT,
    "21000": BISECT, "22003": BISECT, "22P02": BISECT, "22P05": BISECT, "23502": BISECT,
    "23505": BISECT, "54000": BISECT, "54001": BISECT,
    "53100": STOP, "53200": STOP, "28P01": STOP, "3D000": STOP, "42501": STOP,
    "42P01": STOP, "25006": STOP, "58030": STOP, "XX000": STOP, "P0001": STOP,
}  # fmt: skip


@pytest.mark.parametrize(("state", "wanted"), CASES.items())
def test_every_sqlstate_has_its_remedy(state: str, wanted: FailureAction) -> None:
    exc = asyncpg.PostgresError.new({"C": state, "M": "no"})
    assert classify(exc) is wanted


@pytest.mark.parametrize(
    ("exc", "wanted"),
    [
        (ConnectionResetError(), FailureAction.RECONNECT),
        (FileNotFoundError(), FailureAction.RECONNECT),
        (TimeoutError(), FailureAction.RECONNECT),
        (asyncpg.InterfaceError("connection is closed"), FailureAction.RECONNECT),
        (asyncpg.InternalClientError("got result for unknown protocol state"), FailureAction.RECONNECT),
        (DatabaseUnavailable("no"), FailureAction.RECONNECT),
        (asyncpg.DataError("invalid input"), FailureAction.BISECT),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), FailureAction.BISECT),
        (OverflowError(), FailureAction.BISECT),
        (TypeError(), FailureAction.BISECT),
        (DatabaseRefused("no"), FailureAction.STOP),
        (KeyError(), FailureAction.STOP),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_exception_has_its_remedy(exc: Exception, wanted: FailureAction) -> None:
    assert classify(exc) is wanted


def test_a_wrong_password_at_a_reconnect_is_not_tried_again() -> None:
    exc = DatabaseUnavailable("refused the login", sqlstate=asyncpg.InvalidPasswordError.sqlstate)
    assert classify(exc) is FailureAction.STOP


# Marks


def mark(lane: int, lanes: int, offset: int) -> Checkpoint:
    return Checkpoint("x", lane, lanes, 1, offset, offset, FileState(1, 1, 1, b""))


@given(st.lists(st.integers(0, 1_000), min_size=1, max_size=9), st.integers(0, 1_000), st.integers(0, 2**64 - 1))
def test_an_asset_is_committed_exactly_if_its_own_lane_has_passed_it(
    offsets: list[int], offset: int, key_hash: int
) -> None:
    resumption = ResumePoint.of(mark(lane, len(offsets), at) for lane, at in enumerate(offsets))
    assert resumption.has(offset, key_hash) == (offset <= offsets[key_hash % len(offsets)])
    assert resumption.assets == min(offsets)


def test_what_marks_of_fewer_workers_say_stays_true_beside_those_of_more() -> None:
    earlier = [mark(0, 3, 100), mark(1, 3, 90), mark(2, 3, 120)]
    resumption = ResumePoint.of([*earlier, mark(0, 4, 200)])
    assert resumption.assets == 90
    assert resumption.has(200, 4)
    assert resumption.has(120, 2)
    assert not resumption.has(120, 10)  # of lane 2 among four, but of lane 1 among three


def test_nothing_of_a_lane_without_a_mark_counts_as_committed() -> None:
    resumption = ResumePoint.of([mark(0, 2, 70), without_position("x", 0, 0), without_position("x", 1, 2)])
    assert resumption.assets == 0
    assert resumption.has(70, 4)
    assert not resumption.has(0, 5)


# Lost connections and answers


@pytest.mark.slow
@pytest.mark.anyio
async def test_terminated_sessions_are_replaced_and_nothing_is_counted_twice(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    path = sample(tmp_path / "index.ndjson", format="ndjson", duplicates=2)
    wanted = await clean(database_url, path)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    told = Told(10, lambda: ask(database_url, KILL))
    report = await load(database_url, path, told)
    assert report.retries >= 1
    assert told.of("retrying")
    counts = report.assets
    assert counts.inserted + counts.updated + counts.duplicate + counts.unchanged == counts.read == RECORDS
    assert counts.inserted == int(ask(database_url, "select count(*) from registry.assets"))
    assert report.verification
    assert report.verification.passed
    assert ask(database_url, ROWS) == wanted


@pytest.mark.anyio
@pytest.mark.parametrize("was_done", [True, False], ids=["the commit was done", "it was not"])
async def test_a_commit_without_an_answer_is_looked_up_and_counted_once(
    database_url: DatabaseUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was_done: bool
) -> None:
    path, commit = sample(tmp_path / "index.ndjson", format="ndjson"), BatchTransaction.commit
    lost: list[int] = []

    async def unanswered(self: Any, *last: str) -> None:
        connection = self._connection
        saved = connection.get_server_pid() not in lost and len(lost) < 3
        if not saved or not await connection.fetchval("select count(*) > 3 from seed_registry.checkpoints"):
            await commit(self, *last)
            return
        lost.append(connection.get_server_pid())
        if was_done:
            await commit(self, *last)
        connection.terminate()
        raise ConnectionResetError("the answer is lost")

    await load(database_url, path)
    ask(database_url, "truncate registry.assets, registry.sources, seed_registry.runs cascade")
    monkeypatch.setattr(BatchTransaction, "commit", unanswered)
    report = await load(database_url, path)
    assert lost
    assert report.retries == len(lost)
    assert (report.assets.inserted, report.assets.unchanged) == (RECORDS, 0)


@pytest.mark.anyio
async def test_without_patience_a_lost_connection_is_the_end(database_url: DatabaseUrl, tmp_path: Path) -> None:
    path = sample(tmp_path / "index.ndjson", format="ndjson")
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    with pytest.raises(DatabaseUnavailable, match="was lost"):
        await load(database_url, path, Told(10, lambda: ask(database_url, KILL)), retry_for_seconds=0)


# Runs that ended early


def killed(url: DatabaseUrl, home: Path, path: str, number: signal.Signals) -> int:
    """A load that a signal ends once it has committed something; how many assets that was."""
    environment = {"PATH": os.environ["PATH"], "SEED_REGISTRY_HOME": str(home), "DATABASE_URL": url.reveal}
    command = [sys.executable, "-m", "seed_registry", "load", path, "--batch-size", "10", "--log-format", "json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while int(ask(url, "select count(*) from registry.assets")) < 100:
            assert time.monotonic() < deadline
        process.send_signal(number)
        process.wait(30)
    deadline = time.monotonic() + 10
    while ask(url, "select count(*) from pg_stat_activity where application_name = 'seed-registry'") != "0":
        assert time.monotonic() < deadline
    return int(ask(url, "select count(*) from registry.assets"))


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("form", ["ndjson", "json"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "terminated"])
async def test_the_same_command_resumes_what_ended_early_and_redoes_nothing(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, form: str, number: signal.Signals
) -> None:
    dialect = "seed" if form == "ndjson" else "discovery"
    path = sample(tmp_path / "index", format=form, dialect=dialect)
    wanted = await clean(database_url, path)
    committed = killed(database_url, home, path, number)
    told = Told()
    report = await load(database_url, path, told, concurrency=3, batch_size=70)
    (resumed,) = told.of("run_resumed")
    assert resumed["run_id"] == report.run_id
    assert resumed["ended"] == ("running" if number == signal.SIGKILL else "interrupted")
    assert committed < RECORDS
    assert (report.assets.read, report.assets.inserted) == (RECORDS, RECORDS - committed)
    assert (report.assets.resumed, report.assets.unchanged) == (committed, 0)
    assert ask(database_url, ROWS) == wanted
    assert ask(database_url, "select outcome || resumed from seed_registry.runs") == "done1"
    assert ask(database_url, "select count(*) from seed_registry.checkpoints") == "0"
    again = Told()
    assert (await load(database_url, path, again)).assets.unchanged == RECORDS
    assert not again.of("run_resumed")


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("change", ["appended", "edited, its time put back"])
async def test_a_file_that_changed_is_read_from_its_beginning(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, change: str
) -> None:
    path = Path(sample(tmp_path / "index", format="ndjson"))
    committed = killed(database_url, home, str(path), signal.SIGKILL)
    before = path.stat()
    data = path.read_bytes()
    if change == "appended":
        path.write_bytes(data + b"\n")
    else:
        path.write_bytes(data.replace(b"https", b"httpz", 1))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    told = Told()
    report = await load(database_url, str(path), told)
    assert told.of("index_changed")
    assert report.assets.resumed == 0
    assert report.assets.unchanged >= committed - 1


@pytest.mark.slow
@pytest.mark.anyio
async def test_with_no_resume_and_with_other_flags_it_is_another_run(
    database_url: DatabaseUrl, home: Path, tmp_path: Path
) -> None:
    path = sample(tmp_path / "index", format="ndjson")
    killed(database_url, home, path, signal.SIGKILL)
    for settings in ({"resume": False}, {"derive_sources": True}):
        told = Told()
        report = await load(database_url, path, told, **settings)
        assert not told.of("run_resumed")
        assert report.assets.resumed == 0


@pytest.mark.anyio
async def test_a_broken_document_is_resumed_up_to_its_break(database_url: DatabaseUrl, tmp_path: Path) -> None:
    path = Path(sample(tmp_path / "index", format="json", dialect="discovery"))
    path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(IndexBroken):
        await load(database_url, str(path))
    held = ask(database_url, "select count(*) from registry.assets")
    told = Told()
    with pytest.raises(IndexBroken):
        await load(database_url, str(path), told)
    assert told.of("index_resumed")
    assert told.tally.assets.resumed > 0
    assert ask(database_url, "select count(*) from registry.assets") == held


@pytest.mark.anyio
async def test_a_file_that_changes_while_it_is_read_fails_the_load(database_url: DatabaseUrl, tmp_path: Path) -> None:
    path = sample(tmp_path / "index", format="ndjson")
    with pytest.raises(IndexUnreadable, match="was changed while it was read"):
        await load(database_url, path, Told(5, lambda: os.utime(path, ns=(1, 1))))
    assert (await load(database_url, path)).assets.resumed == 0


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_second_load_of_the_same_index_is_refused_with_the_first_ones_run(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, cli: Cli
) -> None:
    path = sample(tmp_path / "index", format="ndjson")
    tried: list[Any] = []
    told = Told(5, lambda: tried.append(cli("load", path, url=database_url)))
    report = await load(database_url, path, told)
    (done,) = tried
    assert done.returncode == 1
    assert f"is being loaded into this database already by run {report.run_id}" in done.stderr.decode()
    assert report.assets.inserted == RECORDS


# Rejects and the history


def test_a_resumed_rejects_file_loses_its_torn_line_and_tells_nothing_twice(tmp_path: Path) -> None:
    first = RejectsFile(tmp_path / "rejects")
    for offset in (1, 2):
        first.write("x", Reject("no_key", "has no key", b"{}", 1, offset))
    first.close()
    whole = first.path.read_bytes()
    first.path.write_bytes(whole + b'{"index":"x","off')
    second = RejectsFile(first.path)
    second.resume()
    for offset in (2, 3):
        second.write("x", Reject("no_key", "has no key", b"{}", 1, offset))
    second.close()
    assert first.path.read_bytes().startswith(whole)
    assert [line.count(b'"offset"') for line in first.path.read_bytes().splitlines()] == [1, 1, 1]


@pytest.mark.slow
def test_runs_shows_what_ran_and_how_it_ended(database_url: DatabaseUrl, tmp_path: Path, cli: Cli) -> None:
    assert "no load has run yet in test_" in cli("runs", url=database_url).stdout.decode()
    path = sample(tmp_path / "index", format="ndjson")
    assert cli("load", path, url=database_url).returncode == 0
    (tmp_path / "bad").write_bytes(b'{"sources": [], "assets": [{"id": 1')
    assert cli("load", str(tmp_path / "bad"), url=database_url).returncode == 1
    listed = cli("runs", url=database_url).stdout.decode().splitlines()
    assert "failed" in listed[3]
    assert "done" in listed[4]
    assert "3,000" in listed[4]
    run_id = listed[4].split()[0]
    assert "3,000 inserted" in cli("runs", run_id, url=database_url).stdout.decode()
    assert b'"outcome":"done"' in cli("runs", run_id, "--json", url=database_url).stdout
    assert cli("runs", "nonsense", url=database_url).returncode == 2


@pytest.mark.anyio
@pytest.mark.parametrize("rights", ["none on the ledger", "none to create it"])
async def test_a_role_without_the_ledger_loads_all_the_same_and_is_told(
    database_url: DatabaseUrl, tmp_path: Path, rights: str
) -> None:
    role = f"limited_{os.urandom(4).hex()}"
    if rights == "none to create it":
        ask(database_url, "drop schema seed_registry cascade")
    ask(database_url, f"create role {role} login")
    ask(database_url, f"grant usage on schema registry to {role}")
    ask(database_url, f"grant select, insert, update on registry.sources, registry.assets to {role}")
    limited = DatabaseUrl(re.sub(r"//[^/]*@", f"//{role}@", database_url.reveal))
    told = Told()
    try:
        report = await load(limited, sample(tmp_path / "index", format="ndjson"), told)
    finally:
        ask(database_url, f"drop owned by {role}")
        ask(database_url, f"drop role {role}")
    assert len(told.of("no_ledger")) == 1
    assert report.assets.inserted == RECORDS
