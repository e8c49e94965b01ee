"""The page about a load: what it says is so, it needs nothing from elsewhere, and no name in the data gets power."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import zlib
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import sha256
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import msgspec
import pytest

from seed_registry.api import ingest
from seed_registry.cli.config.options import LogFormat
from seed_registry.cli.progress.sinks import open_sinks
from seed_registry.errors import SeedRegistryError, StorageFailed, TooManyRejects
from seed_registry.html import recorder as recording_module
from seed_registry.html.charts import percent, rate_chart
from seed_registry.html.files import require_writable, write_page
from seed_registry.html.load_page import ReportPage, page
from seed_registry.html.recorder import Latencies, ProgressSample, Recorder, Recording
from seed_registry.report import (
    AssetCounts,
    ChangeSummary,
    Check,
    Counts,
    LeftAlone,
    Report,
    Retirement,
    SourceChanges,
    SourceCounts,
    SourceRetirement,
    Stages,
    Tally,
    Verification,
)
from seed_registry.settings import DatabaseUrl, MaxRejects, MaxRetire, Settings
from seed_registry.synthetic.index import Workload, generate
from seed_registry.words import duration, size

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = "</style></title><script>top.pwned=1</script><img src=x onerror=top.pwned=1>\"'&\x1b[31m\u202e"
SEEN = "</style></title><script>top.pwned=1</script><img src=x onerror=top.pwned=1>\"'&\\x1b[31m\\u202e"


class Elements(HTMLParser):
    """Every element of a page with its attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.found.append((tag, dict(attrs)))
        if tag not in ("b", "code", "span"):
            self.text += " "

    def handle_data(self, data: str) -> None:
        """Note what is read."""
        self.text += data

    @property
    def words(self) -> str:
        """The text in one line."""
        return " ".join(self.text.split())


def loaded(
    indexes: Sequence[Path], url: DatabaseUrl, tmp_path: Path, **settings: Any
) -> tuple[Recording, Elements, Report | None]:
    """Load with a page, as the command does."""
    path = tmp_path / "page.html"
    page = ReportPage(path)
    report = None
    try:
        rejects = str(tmp_path / "rejects.ndjson")
        chosen = Settings(database_url=url, rejects=rejects, concurrency=2, **settings)
        report = anyio.run(ingest, [str(index) for index in indexes], chosen, page)
    except SeedRegistryError as exc:
        page.ended(exc.exit_code, str(exc))
    else:
        page.ended(0)
    return page.recording, Elements(path.read_text("utf-8")), report


async def ask(url: DatabaseUrl) -> dict[str, int]:
    """How many assets each source has in the database."""
    connection = await asyncpg.connect(url.reveal)
    query = "select source_key, count(*) from registry.assets a join registry.sources s on s.id = source_id group by 1"
    rows = await connection.fetch(query)
    await connection.close()
    return dict(rows)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    path = tmp_path / "index.json"
    path.write_bytes(b"".join(generate(Workload(records=900, invalid=1, duplicates=1))))
    return path


def hostile_recording(*, exit_code: int = 4) -> Recording:
    """A load whose every name is an attack."""
    told = Recorder()
    tally = Tally(workers=2, retries=3, repaired=1, dates_ignored=1)
    told.tell("info", "run_started", run_id=HOSTILE, indexes=[HOSTILE, "a/" + HOSTILE], dry_run=False)
    told.began(tally)
    told.tell("info", "index_opened", index=HOSTILE, dialect=HOSTILE, bytes=None)
    for reason in (HOSTILE, "date_ignored", "missing_source"):
        facts = {"index": HOSTILE, "line": 1, "offset": 0, "key": HOSTILE}
        told.tell("warning", "record_rejected", reason=reason, **facts, detail=HOSTILE)
        told.tell("warning", "record_rejected", reason=reason, **facts, detail="another")
    told.tell("warning", "retrying", reason=HOSTILE, blocked_by=[HOSTILE])
    told.tell("warning", "fewer_workers", workers=2, wanted=4, reason=HOSTILE)
    told.tell("error", "index_failed", index=HOSTILE, reason=HOSTILE)
    for number in range(1, 40):
        tally.assets.inserted = number * 100
        tally.assets.updated = number * 10
        told.tell("debug", "batch_merged", index=HOSTILE, records=100, seconds=number / 100)
    told.tell("info", "index_finished", index="a/" + HOSTILE, sources={}, assets={"read": 7})
    tally.stages = Stages(1, 1, 1, 1, 1, 1, 1, 1)
    tally.rejects = Counter({HOSTILE: 12})
    tally.assets.rejected, tally.assets.missing_source = 12, 3
    tally.assets.read = tally.assets.outcomes
    tally.assets_by_source = Counter({HOSTILE: 5, "<b>": 2, "": 1})
    report = Report(
        run_id=HOSTILE, indexes=[HOSTILE], dialect=HOSTILE, provider=HOSTILE, dry_run=False, seconds=1, bytes_read=1,
        records_per_second=1, batches=1, retries=1, repaired=1, dates_ignored=1, texts_ignored=1,
        sources=SourceCounts(), assets=AssetCounts(), rejects_file=HOSTILE,
        verification=Verification(False, [Check(HOSTILE, False, HOSTILE, HOSTILE)]),
        retirement=Retirement(
            HOSTILE, HOSTILE, 9, 8, [SourceRetirement(HOSTILE, 9, 8, [HOSTILE], True)], [LeftAlone(HOSTILE, HOSTILE)]
        ),
        changes=ChangeSummary(
            {"inserted": 7, "updated": 5, "retired": 2}, {HOSTILE: 1}, 3, {HOSTILE: 5}, 30,
            [SourceChanges(HOSTILE, {"updated": 5, "retired": 2}, {"retired": [HOSTILE], "updated": [HOSTILE]})],
        ),
    )  # fmt: skip
    told.tell("info", "run_finished", **msgspec.to_builtins(report))
    told.ended(exit_code, HOSTILE + "\n" + HOSTILE)
    samples = [ProgressSample(at / 10, at * 100) for at in range(40)]
    return msgspec.structs.replace(told.recording, samples=samples, seconds=4.0, loading_seconds=3.9)


# --- what it says -------------------------------------------------------------------------------------------------


def test_the_page_says_what_the_report_and_the_database_say(
    index: Path, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    recording, elements, report = loaded([index], database_url, tmp_path, batch_size=50)
    assert report is not None
    words = elements.words
    assert "Load of index.json done" in words
    assert f"run {report.run_id}" in words
    assert f"{report.assets.read + report.sources.read:,}records read" in words
    assert f"{report.assets.inserted + report.assets.updated:,}inserted or updated" in words
    assert f"{report.assets.rejected}rejected" in words
    assert f"{report.bytes_read / 1e6:,.1f} MB in {duration(report.seconds)}" in words
    assert f"{report.records_per_second:,.0f}/srecords a second" in words
    assert "Not taken as they are" in words
    assert report.verification is not None
    assert f"{len(report.verification.checks)} of {len(report.verification.checks)} checks passed" in words
    assert recording.latencies.count == report.batches
    assert f"{report.batches} batches: half took at most" in words
    assert "The limit was" in words
    assert report.rejects_file is not None
    assert f"The rejected ones: {report.rejects_file}" in words
    rejects = [json.loads(line) for line in Path(report.rejects_file).read_text().splitlines()]
    for reason, count in Counter(reject["reason"] for reject in rejects).items():
        assert f"{reason}: {count}" in words
        first = next(reject for reject in rejects if reject["reason"] == reason)
        assert f"index.json: line {first['line']} (byte {first['offset']})" in words


def test_the_page_says_what_changed(database_url: DatabaseUrl, tmp_path: Path) -> None:
    def records(*keys: str, name: str) -> Path:
        path = tmp_path / "index.json"
        assets = [{"asset_key": key, "source_key": f"{key[0]}.example", "name": name} for key in keys]
        sources = [{"source_key": f"{key}.example"} for key in "ab"]
        path.write_text(json.dumps({"sources": sources, "assets": assets}), "utf-8")
        return path

    _, first, _ = loaded([records("a1", "a2", "b1", name="x")], database_url, tmp_path, history=True)
    assert "3 changes of assets, 2 of sources (2 inserted)." in first.words
    assert "3 of the inserted ones went into an empty table" in first.words
    options: dict[str, Any] = {"history": True, "retire": True, "max_retire": MaxRetire(percent=100.0)}
    again = records("a1", "a2", "a3", name="y")
    recording, second, _ = loaded([again], database_url, tmp_path, **options)
    assert "4 changes of assets." in second.words
    assert "a.example 1 2 updated: a1 a2" in second.words
    assert "b.example 1 retired: b1" in second.words
    assert "name 2" in second.words
    assert f"seed-registry changes {recording.run_id} --json" in second.words
    _, idle, _ = loaded([again], database_url, tmp_path, **options)
    assert "Nothing: every row was as the indexes have it." in idle.words
    _, without, _ = loaded([again], database_url, tmp_path)
    assert "What changed" not in without.words


def test_the_page_says_what_was_retired_of_which_source_or_why_nothing_was(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    index = tmp_path / "index.ndjson"

    def write(count: int) -> None:
        records = (
            {"type": "asset", "asset_key": f"k{number:02}", "source_key": "a.example"} for number in range(count)
        )
        index.write_text("".join(json.dumps(record) + "\n" for record in records))

    write(40)
    assert "Retired" not in loaded([index], database_url, tmp_path)[1].words
    write(20)
    words = loaded([index], database_url, tmp_path, retire=True)[1].words
    assert "Retired nothing was retired of 40 assets" in words
    assert "such as a.example 20 40 50" in words
    assert "k20 k21 k22 k23 k24" in words
    assert "exit code 3" in words
    write(38)
    words = loaded([index], database_url, tmp_path, retire=True)[1].words
    assert "Retired 2 assets, which the indexes no longer list." in words
    assert "such as a.example 2 40 5" in words
    assert "k38 k39" in words


def test_the_cards_have_the_time_and_the_rate_of_the_report_which_everybody_else_prints() -> None:
    recording = hostile_recording()
    assert recording.report is not None
    report = msgspec.structs.replace(recording.report, seconds=7.0, records_per_second=1234.5)
    words = Elements(page(msgspec.structs.replace(recording, report=report))).words
    assert f"{size(recording.tally.bytes_read)} in 7.00 s" in words
    assert "1,234/srecords a second" in words
    unfinished = Elements(page(msgspec.structs.replace(recording, report=None))).words
    assert f"{size(recording.tally.bytes_read)} in {duration(recording.seconds)}" in unfinished
    assert f"{recording.tally.read / recording.seconds:,.0f}/srecords a second" in unfinished


def test_the_sources_by_size_are_those_of_the_database(database_url: DatabaseUrl, tmp_path: Path) -> None:
    index = tmp_path / "index.json"
    index.write_bytes(b"".join(generate(Workload(records=1500))))
    recording, elements, _ = loaded([index], database_url, tmp_path)
    rows = anyio.run(ask, database_url)
    assert recording.tally.assets_by_source == rows
    assert f"{len(rows)} with 1,500 assets in these indexes" in elements.words
    table = elements.words.partition("Sources by size")[2]
    shown = [(key, count) for key, count in Counter(rows).most_common(20) if f"{key} {count:,} " in table]
    assert len(shown) == min(20, len(rows))
    assert (f"{len(rows) - 20} smaller ones" in table) == (len(rows) > 20)


def test_a_load_that_breaks_off_has_a_page_that_says_why(
    index: Path, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    index.write_bytes(index.read_bytes()[:-5000])
    recording, elements, report = loaded([index], database_url, tmp_path, batch_size=50)
    assert report is None
    words = elements.words
    assert "Load of index.json failed" in words
    assert "is broken at byte" in words
    assert "exit code 1; what was committed before stays" in words
    assert "Verification Not made." in words
    written = recording.tally.assets.inserted + recording.tally.assets.updated
    assert written > 0
    assert f"{written:,}inserted or updated" in words


def test_too_many_rejects_are_called_so(index: Path, database_url: DatabaseUrl, tmp_path: Path) -> None:
    _, elements, _ = loaded([index], database_url, tmp_path, max_rejects=MaxRejects.parse("1"))
    assert "Load of index.json too many rejects" in elements.words
    assert f"exit code {TooManyRejects.exit_code}" in elements.words


def test_a_load_of_an_absent_index_has_a_short_page(database_url: DatabaseUrl, tmp_path: Path) -> None:
    _, elements, _ = loaded([tmp_path / "absent.json"], database_url, tmp_path)
    assert "absent.json: no such file" in elements.words
    assert "No record was read." in elements.words
    assert "Not taken as they are" not in elements.words
    assert "Verification" not in elements.words


def test_of_several_indexes_each_has_its_row_and_the_failed_one_comes_first(
    index: Path, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    bad = tmp_path / "zz.json"
    bad.write_text("not json")
    _, elements, _ = loaded([index, bad], database_url, tmp_path, keep_going=True)
    table = elements.words.partition("Indexes")[2]
    assert "Load of 2 indexes failed" in elements.words
    assert table.index(f"FAILED {bad}") < table.index(f"{index} seed 900")


def test_a_dry_run_says_that_nothing_was_written(index: Path, database_url: DatabaseUrl, tmp_path: Path) -> None:
    _, elements, _ = loaded([index], database_url, tmp_path, dry_run=True)
    assert "Dry run of index.json done" in elements.words
    assert "Nothing was written" in elements.words
    assert "would be inserted or updated" in elements.words


def test_the_page_of_a_load_that_changed_nothing_says_so(
    index: Path, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    loaded([index], database_url, tmp_path)
    _, elements, report = loaded([index], database_url, tmp_path)
    assert report is not None
    assert f"0inserted or updated {report.assets.unchanged} unchanged" in elements.words


def test_a_failed_verification_shows_which_check_failed_and_what_was_found() -> None:
    words = Elements(page(hostile_recording())).words
    assert "verification failed" in words
    assert f"0 of 1 checks passed check expected found FAILED {SEEN} {SEEN} {SEEN} Speed" in words


def test_an_unexpected_end_without_a_message_says_how_to_learn_more() -> None:
    told = Recorder()
    told.ended(1)
    assert "--verbose prints it" in Elements(page(told.recording)).words


def test_records_that_had_no_end_when_the_load_failed_are_told() -> None:
    told = Recorder()
    told.began(Tally(assets=Counts(read=10, inserted=4)))
    told.ended(130, "stopped by SIGINT")
    words = Elements(page(told.recording)).words
    assert "interrupted" in words
    assert "6 more were read and had not come to an end" in words


# --- what it is made of -------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_from_elsewhere_and_escapes_whatever_it_is_told() -> None:
    text = page(hostile_recording())
    elements = Elements(text)
    assert {tag for tag, _ in elements.found}.isdisjoint({"script", "link", "img", "iframe", "a", "object", "form"})
    names = {name for _, attributes in elements.found for name in attributes}
    assert names.isdisjoint({"src", "href", "xlink:href", "style", "srcset", "action"})
    assert not [name for name in names if name.startswith("on")]
    assert "url(" not in text
    assert "@import" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert elements.text.count(SEEN) >= 12  # every place where a name can be
    assert [tag for tag, _ in elements.found].count("style") == 1


def test_its_policy_allows_one_style_sheet_by_its_hash_and_nothing_else() -> None:
    text = page(hostile_recording())
    sheet = text.partition("<style>")[2].partition("</style>")[0]
    digest = b64encode(sha256(sheet.encode()).digest()).decode()
    policies = [
        attributes["content"]
        for tag, attributes in Elements(text).found
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == [f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"]
    assert text.index("Content-Security-Policy") < text.index("<title>")


def test_every_stage_and_outcome_that_is_drawn_has_a_colour() -> None:
    text = page(hostile_recording())
    sheet = text.partition("<style>")[2].partition("</style>")[0]
    drawn = {str(attributes["class"]) for tag, attributes in Elements(text).found if tag == "rect"}
    assert {"o-inserted", "o-rejected", "reading", "merging", "bar"} <= drawn
    assert not [name for name in drawn if not re.search(rf"\.{name}\b[^}}]*\{{[^}}]*fill:", sheet)]


# --- where it is written ------------------------------------------------------------------------------------------


def test_the_page_replaces_an_older_one_as_a_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    real, link = tmp_path / "real.html", tmp_path / "link.html"
    real.write_text("old")
    link.symlink_to(real)
    with real.open() as reading:
        write_page(link, "new")
        assert reading.read() == "old"  # who has it open goes on with the old one
    assert real.read_text() == "new"
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.html", "real.html"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_the_page_may_be_read_by_whom_the_umask_lets(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_page(tmp_path / "page.html", "page")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == mode


def test_a_write_that_fails_leaves_the_older_page_and_no_half_of_the_new(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_page(path, "new" * 100_000 + "\udcff")
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["page.html"]


def test_a_page_may_go_to_a_device() -> None:
    write_page(Path("/dev/null"), "page")
    assert Path("/dev/null").is_char_device()


def test_a_page_that_cannot_be_written_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent" / "page.html"):
        with pytest.raises(StorageFailed, match=r"--html .* cannot be written: "):
            ReportPage(path)
    require_writable(tmp_path / "page.html")


def test_a_page_whose_directory_went_away_is_a_warning_and_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with open_sinks(LogFormat.auto, html=place / "page.html", quiet=True):
        place.rmdir()
    assert "warning: --html" in capsys.readouterr().err


# --- bounded memory -----------------------------------------------------------------------------------------------


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(recording_module, "monotonic", clock)
    return clock


def test_a_load_of_hours_is_kept_in_as_little_as_one_of_a_minute(clock: Clock) -> None:
    told, tally = Recorder(), Tally()
    told.tell("info", "run_started", run_id="r", indexes=["i"], dry_run=False)
    told.began(tally)
    for number in range(12_000):
        clock.now += 1
        tally.assets.inserted += 100
        told.tell("debug", "batch_merged", index="i", records=100, seconds=number % 97 / 10)
        told.tell("warning", "retrying", reason=f"server process {number} was lost")
        told.tell("info", "index_opened", index=f"{number}.json", dialect="seed", bytes=1)
        told.tell("info", "index_finished", index=f"{number}.json", sources={}, assets={"read": 1})
        told.tell("warning", "record_rejected", reason="no_key", index="i", line=number, offset=0, key=None, detail="d")
    told.ended(0)
    recording = told.recording
    assert 100 <= len(recording.samples) <= 256
    assert (recording.samples[0].at, recording.samples[-1].at) == (0, 12_000)
    assert recording.samples[-1].inserted == 1_200_000
    assert len(recording.retried_at) == 200
    assert len(recording.retry_reasons) <= 21
    assert recording.retry_reasons.total() == 12_000
    assert len(recording.indexes) + recording.indexes_left_out == 12_000
    assert len(recording.indexes) == 500
    assert [example.line for example in recording.examples["no_key"]] == [0, 1, 2, 3, 4]
    assert len(page(recording)) < 200_000


def test_a_run_that_begins_again_does_not_draw_below_zero(clock: Clock) -> None:
    told, tally = Recorder(), Tally()
    told.began(tally)
    for _ in range(20):
        clock.now += 1
        tally.assets.inserted += 100
        told.tell("debug", "batch_merged", index="i", records=100, seconds=0.1)
    told.tell("warning", "run_restarted", reason="the server forgot")
    told.began(Tally())
    clock.now += 1
    told.ended(0)
    chart = rate_chart(told.recording.samples, 21, [])
    assert chart is not None
    assert not re.search(r'(?:height|y|width)="-', chart)


@pytest.mark.parametrize("intervals", [8, 59, 60, 61, 255])
def test_the_area_of_the_curve_is_all_that_was_loaded(intervals: int) -> None:
    samples = [
        ProgressSample(number * 0.3, inserted=number**2 * 10, updated=number * 7) for number in range(intervals + 1)
    ]
    seconds = intervals * 0.3
    chart = rate_chart(samples, seconds, [])
    assert chart is not None
    drawn = {match[0]: match[1] for match in re.findall(r"<title>([^:]+): ([\d,]+) a second", chart)}
    width = seconds / min(60, intervals)
    total = sum(float(rate.replace(",", "")) * width for rate in drawn.values())
    assert total == pytest.approx(intervals**2 * 10 + intervals * 7, rel=0.02)


def test_a_steady_load_is_drawn_steady_however_unevenly_it_was_looked_at() -> None:
    samples = [ProgressSample(at, inserted=round(at * 100)) for at in (0, 0.5, 0.7, 2, 2.1, 3.3, 4, 7, 7.7, 9, 9.2, 11)]
    chart = rate_chart(samples, 11, [])
    assert chart is not None
    assert set(re.findall(r": ([\d,]+) a second</title>", chart)) == {"100"}


def test_a_quantile_of_latencies_is_right_within_five_percent() -> None:
    latencies, exact = Latencies(), sorted((number * 7919 % 10_007) ** 2 / 1e7 + 1e-4 for number in range(10_000))
    for seconds in exact:
        latencies.add(seconds)
    for part in (0.5, 0.95, 0.99):
        assert latencies.quantile(part) == pytest.approx(exact[round(part * 10_000) - 1], rel=0.05)
    assert latencies.longest == exact[-1]
    assert latencies.quantile(1) <= latencies.longest
    columns = latencies.columns()
    assert sum(count for _, _, count in columns) == 10_000
    assert [end for _, end, _ in columns[:-1]] == pytest.approx([start for start, _, _ in columns[1:]])


def test_a_batch_that_took_no_time_is_counted() -> None:
    latencies = Latencies()
    latencies.add(0.0)
    assert latencies.columns()[0][2] == 1


@pytest.mark.parametrize(
    ("count", "told"), [(0, "0.0 %"), (1, "< 0.1 %"), (50_000, "50.0 %"), (99_999, "> 99.9 %"), (100_000, "100 %")]
)
def test_a_share_is_never_rounded_to_nothing_or_to_everything(count: int, told: str) -> None:
    assert percent(count, 100_000) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.0021, "2.1 ms"),
        (0.5, "500 ms"),
        (4.321, "4.32 s"),
        (43.21, "43.2 s"),
        (125, "2 min 05 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_a_duration_has_as_many_digits_as_mean_something(seconds: float, told: str) -> None:
    assert duration(seconds) == told


# --- in a browser -------------------------------------------------------------------------------------------------

MEASURE = """
<!doctype html><title>measured</title><body>%s<script>
addEventListener('load', () => {
  document.body.dataset.found = JSON.stringify([...document.querySelectorAll('iframe')].map(frame => {
    const page = frame.contentDocument, root = page.documentElement;
    return {
      width: root.clientWidth, scroll: root.scrollWidth, pwned: window.pwned === undefined ? 0 : 1,
      scripts: page.querySelectorAll('script, img, iframe, [onerror]').length,
      h1: page.querySelector('h1').textContent,
      ground: frame.contentWindow.getComputedStyle(page.querySelector('.card')).borderTopStyle,
      title: page.title,
    };
  }));
});
</script>
"""


@pytest.fixture
def chromium(tmp_path: Path) -> Callable[..., bytes]:
    """Run a headless Chromium."""
    if not CHROMIUM.exists():
        pytest.skip("Chromium is not installed")

    def run(path: Path, *flags: str) -> bytes:
        fixed = (
            "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
        )  # fmt: skip
        done = subprocess.run(
            [CHROMIUM, *fixed, *flags, path.as_uri()], capture_output=True, timeout=90, check=True, cwd=tmp_path
        )
        return done.stdout

    return run


def test_in_a_browser_no_name_runs_and_the_page_fits_a_phone_even_without_its_policy(
    chromium: Callable[..., bytes], tmp_path: Path
) -> None:
    text = page(hostile_recording())
    without = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    assert without != text
    frames = [(text, 375), (text, 320), (without, 375), (text, 1200)]
    outer = tmp_path / "outer.html"
    markup = "".join(f'<iframe srcdoc="{escape(inner)}" width="{w}" height="600"></iframe>' for inner, w in frames)
    outer.write_text(MEASURE % markup, "utf-8")
    dom = chromium(outer, "--dump-dom", "--window-size=1400,900").decode()
    body = next(attributes for tag, attributes in Elements(dom).found if tag == "body")
    found = json.loads(body["data-found"] or "")
    assert len(found) == len(frames)
    for frame, (_, width) in zip(found, frames, strict=True):
        assert frame["pwned"] == 0
        assert frame["scripts"] == 0
        assert frame["scroll"] <= frame["width"] <= width
        assert frame["ground"] == "solid"  # the one style sheet is in force
        assert SEEN not in frame["title"]  # two indexes: counted, not named
        assert "verification failed" in frame["h1"]


@pytest.mark.parametrize(("scheme", "ground"), [(0, (0x14, 0x17, 0x1B)), (1, (0xFF, 0xFF, 0xFF))])
def test_in_a_browser_the_page_is_dark_or_light_as_its_reader_likes(
    chromium: Callable[..., bytes], tmp_path: Path, scheme: int, ground: tuple[int, ...]
) -> None:
    path, picture = tmp_path / "page.html", tmp_path / "page.png"
    path.write_text(page(hostile_recording()), "utf-8")
    chromium(
        path, f"--blink-settings=preferredColorScheme={scheme}", "--window-size=600,400", f"--screenshot={picture}"
    )
    assert first_pixel(picture.read_bytes()) == ground


def first_pixel(png: bytes) -> tuple[int, ...]:
    """The colour of the upper left corner: nothing is left of it or above, so no filter changes it."""
    packed, at = b"", 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] == b"IDAT":
            packed += png[at + 8 : at + 8 + length]
        at += length + 12
    return tuple(zlib.decompress(packed)[1:4])
