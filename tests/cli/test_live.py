"""The live display and its audience, drawn on consoles of any width."""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from conftest import Cli
from seed_registry.cli.progress import live
from seed_registry.cli.progress.live import LiveProgress
from seed_registry.report import Counts, Stages, Tally, WorkerProgress
from seed_registry.settings import DatabaseUrl
from seed_registry.synthetic.index import Workload, generate


def console(width: int = 80, **options: Any) -> Console:
    return Console(file=io.StringIO(), width=width, **options)


def drawn(progress: LiveProgress, on: Console) -> list[str]:
    with on.capture() as capture:
        on.print(progress)
    return [line.rstrip() for line in capture.get().splitlines()]


def loading(monkeypatch: pytest.MonkeyPatch, indexes: int = 1, index: str = "city.json", **counts: int) -> LiveProgress:
    """A load of which a hundred seconds are over, and a quarter of the index is read."""
    now = 1_000.0
    monkeypatch.setattr(live, "monotonic", lambda: now)
    progress = LiveProgress(console(), verbose=False)
    tally = Tally(index_bytes=4_000_000, workers=2)
    progress.began(tally)
    progress.tell("info", "run_started", run_id="x", indexes=["a"] * indexes, dry_run=False)
    progress.tell("info", "index_opened", index=f"/data/{index}", dialect="seed", bytes=4_000_000)
    drawn(progress, console())
    now += 100
    tally.index_position = 1_000_000
    tally.assets = Counts(read=50_000, **counts)
    return progress


def test_a_load_shows_how_far_it_is_how_fast_and_what_became_of_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = loading(monkeypatch, inserted=49_000, rejected=7)
    lines = drawn(progress, console())
    assert lines[0].startswith("city.json")
    assert lines[0].endswith("25%  1.0 MB of 4.0 MB  5:00 left")
    assert lines[1] == "50,000 records  500/s overall"
    assert lines[2] == "inserted 49,000  updated 0  unchanged 0  rejected 7"


COUNTS = [f"{name} 100,000,000" for name in ("inserted", "updated", "unchanged", "duplicate")]


@pytest.mark.parametrize(
    ("width", "outcomes"),
    [
        (21, COUNTS),
        (40, COUNTS),
        (42, ["  ".join(COUNTS[:2]), *COUNTS[2:]]),
        (59, ["  ".join(COUNTS[:2]), "  ".join(COUNTS[2:])]),
        (60, ["  ".join(COUNTS[:2]), "  ".join(COUNTS[2:])]),
        (80, ["  ".join(COUNTS[:3]), COUNTS[3]]),
        (200, ["  ".join(COUNTS)]),
    ],
)
def test_no_line_is_wider_than_the_terminal_and_the_outcomes_go_on_in_another(
    monkeypatch: pytest.MonkeyPatch, width: int, outcomes: list[str]
) -> None:
    progress = loading(monkeypatch, indexes=9, inserted=10**8, updated=10**8, unchanged=10**8, duplicate=10**8)
    progress._tally.stages = Stages(merging=5)
    lines = drawn(progress, console(width))
    assert all(len(line) <= width for line in lines)
    assert lines[2:] == outcomes


@pytest.mark.parametrize("width", [1, 5, 10, 20])
def test_on_a_very_narrow_terminal_lines_are_broken_but_never_wider(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    progress = loading(monkeypatch, indexes=9, inserted=10**8, updated=10**8, unchanged=10**8, duplicate=10**8)
    lines = drawn(progress, console(width))
    assert all(len(line) <= width for line in lines)
    assert "".join(lines).count("100,000,000") == 4, "a count that is cut off tells nothing"


@pytest.mark.parametrize(
    ("name", "width", "head"),
    [
        ("city.json", 40, "1/9  city.json   25%  5:00 left"),
        ("city.json", 45, "1/9  city.json  ━━━            25%  5:00 left"),
        ("city.json", 80, "1/9  city.json  ━━━━━                  25%  1.0 MB of 4.0 MB  5:00 left"),
        ("a-city-of-a-longer-name.json", 40, "1/9  a-city-of-a-longe…   25%  5:00 left"),
        ("a-city-of-a-longer-name.json", 60, "1/9  a-city-of-a-longer-name.…  ━━╸           25%  5:00 left"),
    ],
)
def test_the_head_shows_what_there_is_room_for_the_name_last(
    monkeypatch: pytest.MonkeyPatch, name: str, width: int, head: str
) -> None:
    assert drawn(loading(monkeypatch, indexes=9, index=name), console(width))[0] == head


@pytest.mark.parametrize("name", ["a.json", "a-city-of-a-longer-name.json", "市" * 30])
def test_the_head_never_exceeds_the_width_nor_loses_how_far_and_how_long(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for width in range(31, 201):
        line = drawn(loading(monkeypatch, indexes=9, index=name), console(width))[0]
        assert cell_len(line) <= width
        assert line.startswith("1/9  ")
        assert " 25%" in line
        assert line.endswith("  5:00 left")


@pytest.mark.parametrize(
    ("spent", "limit"),
    [
        (Stages(reading=5, waiting=9), "reading the index"),
        (Stages(decoding=5, reading=1, waiting=9), "decoding, on one core"),
        (Stages(sending=5, copying=3, merging=7), "Postgres, upserting"),
        (Stages(sending=5, committing=9, merging=7), "Postgres, COMMIT"),
    ],
)
def test_the_limit_of_the_last_seconds_is_named(monkeypatch: pytest.MonkeyPatch, spent: Stages, limit: str) -> None:
    progress = loading(monkeypatch)
    drawn(progress, console())
    progress._tally.stages = spent
    assert drawn(progress, console())[-1] == f"the limit is {limit}"


def test_several_indexes_are_numbered_and_what_follows_the_last_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = loading(monkeypatch, indexes=3)
    assert drawn(progress, console())[0].startswith("1/3  city.json")
    progress.tell("info", "verifying")
    assert "verifying" in drawn(progress, console())[0]


def test_without_a_known_size_it_shows_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = loading(monkeypatch)
    progress._tally.index_bytes = None
    assert drawn(progress, console())[0].endswith("1.0 MB read")


def test_a_warning_is_printed_above_in_one_line_of_its_own_and_escaped() -> None:
    on = console(200)
    progress = LiveProgress(on, verbose=False)
    progress.tell(
        "warning", "record_rejected", index="/a/b\x1b[2J.json", line=3, offset=9, key="[red]\u202e", reason="no_key",
        detail="asset has no key",
    )  # fmt: skip
    progress.tell("debug", "batch_merged", index="x", records=1, seconds=0.1)
    output = on.file.getvalue()  # type: ignore[attr-defined]
    assert output == "b\\x1b[2J.json: line 3 (byte 9): asset has no key  key=[red]\\u202e\n"


def test_the_note_of_an_event_follows_its_name_and_is_escaped() -> None:
    on = console(200)
    progress = LiveProgress(on, verbose=False)
    progress.tell("info", "no_database", reason="none yet", note="compared with\x1b[2J an empty registry")
    output = on.file.getvalue()  # type: ignore[attr-defined]
    assert output == "no database: compared with\\x1b[2J an empty registry  reason=none yet\n"


def test_colours_are_left_out_where_nobody_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = loading(monkeypatch, rejected=1)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = console(force_terminal=True)
    assert not any("\x1b[3" in line for line in drawn(progress, plain))


# Who else is told


@pytest.fixture
def index(tmp_path: Path) -> str:
    path = tmp_path / "index.json"
    path.write_bytes(b"".join(generate(Workload(records=50, invalid=4))))
    return str(path)


def test_a_quiet_load_says_nothing_on_stderr_but_its_error(
    cli: Cli, database_url: DatabaseUrl, index: str, tmp_path: Path
) -> None:
    assert cli("load", index, "--quiet", url=database_url).stderr == b""
    failed = cli("load", tmp_path / "none.json", "--quiet", url=database_url)
    assert failed.stderr.startswith(b"error: ")
    assert len(failed.stderr.splitlines()) == 1


def test_a_log_file_is_appended_to_for_its_owner_alone(
    cli: Cli, database_url: DatabaseUrl, index: str, tmp_path: Path
) -> None:
    log = tmp_path / "load.log"
    for runs in (1, 2):
        assert cli("load", index, "-q", "--log-file", log, url=database_url).returncode == 0
        events = [json.loads(line)["event"] for line in log.read_bytes().splitlines()]
        assert events.count("run_finished") == runs
    assert events.count("record_rejected") == 4
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_log_file_that_is_a_link_or_cannot_be_written_is_an_error(
    cli: Cli, database_url: DatabaseUrl, index: str, tmp_path: Path
) -> None:
    (tmp_path / "target").touch()
    (tmp_path / "link").symlink_to("target")
    for path in ("link", "none/load.log"):
        done = cli("load", index, "--log-file", path, url=database_url)
        assert done.returncode == 1
        assert b"--log-file" in done.stderr
    assert (tmp_path / "target").read_bytes() == b""


# Several processes


def by_processes(monkeypatch: pytest.MonkeyPatch, workers: int, indexes: int = 1) -> tuple[LiveProgress, Tally]:
    """A load by so many processes, a hundred seconds after its scan."""
    now = 1_000.0
    monkeypatch.setattr(live, "monotonic", lambda: now)
    progress = LiveProgress(console(), verbose=False)
    tally = Tally(index_bytes=4_000_000, index_position=4_000_000, step="scanning")
    tally.shards = {"planned": 80, "scanned": 80, "loaded": 0}
    progress.began(tally)
    progress.tell("info", "run_started", run_id="x", indexes=["/data/city.ndjson"] * indexes, dry_run=False)
    drawn(progress, console())
    tally.step, tally.index_position = "loading", 1_000_000  # of which an earlier attempt had loaded all
    drawn(progress, console())
    now += 100
    tally.index_position, tally.shards["loaded"] = 2_000_000, 40
    tally.assets = Counts(read=50_000, inserted=50_000)
    tally.worker_progress = [
        WorkerProgress(f"loader-7:{4_000 + number}", f"/data/{number % indexes}.ndjson", number, 25, 100, 1_234)
        for number in range(workers)
    ]
    return progress, tally


def test_each_process_has_a_line_and_the_time_left_is_that_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, tally = by_processes(monkeypatch, workers=2)
    lines = drawn(progress, console(100))
    assert lines[0].startswith("city.ndjson")
    assert lines[0].endswith("loading   50%  2.0 MB of 4.0 MB  3:20 left")
    assert lines[1].endswith("40 of 80 shards")
    assert lines[3:] == [
        "loader-7:4000  shard 0   25%  1,234 records",
        "loader-7:4001  shard 1   25%  1,234 records",
    ]
    tally.step, tally.worker_progress = "comparing keys", []
    assert drawn(progress, console(100))[0] == "city.ndjson  comparing keys"
    tally.step = "settling"
    progress.tell("info", "settling", records=5_000)
    assert drawn(progress, console(100))[0] == "city.ndjson  settling 5,000 records of repeated keys"
    tally.step = ""
    progress.tell("info", "verifying")
    assert drawn(progress, console(100))[0] == "city.ndjson  verifying"


def test_the_dashboard_of_a_cluster_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, _ = by_processes(monkeypatch, workers=64)
    lines = drawn(progress, console(100, height=24))
    address = "http://scheduler.example.org:8787/status"
    progress.tell("info", "cluster_joined", scheduler="tcp://s:1", workers=2, threads=2, dashboard=address)
    shown = drawn(progress, console(100, height=24))
    assert f"dashboard {address}" in shown
    assert len(shown) == len(lines)  # one worker less
    assert max(map(cell_len, drawn(progress, console(20)))) <= 20


@pytest.mark.parametrize("width", [12, 20, 40, 59, 60, 80, 200])
@pytest.mark.parametrize("height", [5, 10, 24])
def test_the_lines_of_processes_fit_the_terminal(monkeypatch: pytest.MonkeyPatch, width: int, height: int) -> None:
    progress, _ = by_processes(monkeypatch, workers=64, indexes=9)
    lines = drawn(progress, console(width, height=height))
    assert all(cell_len(line) <= width for line in lines)
    assert sum("4000" in line for line in lines) == 1
    if width >= 60:
        assert len(lines) <= max(height, 6)
    shown = sum(any(f"{4_000 + number}" in line for number in range(64)) for line in lines)
    assert any(line.startswith(f"and {64 - shown:,} mo"[:width]) for line in lines)
