"""Keep the facts of one load that its page shows, in bounded memory."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from math import log2
from time import monotonic
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from seed_registry.events import EVENTS_OF_RECORDS
from seed_registry.report import Database, Report, Tally

# Enough for a curve; when there are more, every second one goes and the next are taken half as often.
_MOST_SAMPLES: Final = 256
# A load of a second has a curve as well.
_FIRST_INTERVAL_SECONDS: Final = 0.05
_EXAMPLES_PER_REASON: Final = 5
# Reasons are the server's own words and may differ each time, as indexes may be very many.
_MOST_REASONS: Final = 20
_MOST_INDEXES: Final = 500
_MOST_RETRIES_PLACED: Final = 200
_OTHER_REASONS: Final = "other reasons"


class ProgressSample(Struct, frozen=True):
    """The outcomes of the assets `at` seconds after the beginning."""

    at: float
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    other: int = 0


class Example(Struct, frozen=True):
    """A record that was not taken as it is, and why."""

    index: str
    line: int
    offset: int
    key: str | None
    detail: str | None


class IndexPart(Struct):
    """What is known of one index of several."""

    index: str
    dialect: str = ""
    bytes: int | None = None
    assets: dict[str, int] = field(default_factory=dict)
    error: str | None = None
    is_finished: bool = False


class Latencies:
    """How long batches took, as a histogram whose columns grow by the same factor."""

    # 16 columns for each doubling: a quantile is right within 5 %.
    PER_DOUBLING: Final = 16
    _SHORTEST: Final = 1e-4

    def __init__(self) -> None:
        self.count = 0
        self.longest = 0.0
        self._columns: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Take in a batch."""
        self.count += 1
        self.longest = max(self.longest, seconds)
        self._columns[int(log2(max(seconds, self._SHORTEST) / self._SHORTEST) * self.PER_DOUBLING)] += 1

    def quantile(self, part: float) -> float:
        """The seconds that this part of the batches did not exceed."""
        left = part * self.count
        for column, count in sorted(self._columns.items()):
            left -= count
            if left <= 0:
                return min(self._start((column + 0.5) / self.PER_DOUBLING), self.longest)
        return self.longest

    def columns(self, per_doubling: int = 2) -> list[tuple[float, float, int]]:
        """From how many seconds to how many, and how many batches; without a gap."""
        coarse: Counter[int] = Counter()
        for column, count in self._columns.items():
            coarse[column * per_doubling // self.PER_DOUBLING] += count
        if not coarse:
            return []
        return [
            (self._start(column / per_doubling), self._start((column + 1) / per_doubling), coarse[column])
            for column in range(min(coarse), max(coarse) + 1)
        ]

    def _start(self, doublings: float) -> float:
        return float(self._SHORTEST * 2**doublings)


class Recording(Struct):
    """One load.

    Attributes:
        seconds: that it took, None while it runs.
        loading_seconds: those of it before the verification.
        report: None of a load that failed before it had one.
        examples: the first records of each reason.
        retried_at: the seconds after the beginning; the first ones only.
        indexes_left_out: how many more than `indexes` there were.
    """

    started_at: datetime
    run_id: str = ""
    names: list[str] = []
    dry_run: bool = False
    database: Database | None = None
    seconds: float = 0.0
    loading_seconds: float = 0.0
    exit_code: int = 0
    error: str | None = None
    tally: Tally = field(default_factory=Tally)
    report: Report | None = None
    samples: list[ProgressSample] = []
    latencies: Latencies = field(default_factory=Latencies)
    examples: dict[str, list[Example]] = {}
    retried_at: list[float] = []
    retry_reasons: Counter[str] = field(default_factory=Counter)
    notes: list[str] = []
    indexes: dict[str, IndexPart] = {}
    indexes_left_out: int = 0


class Recorder:
    """The `Progress` that keeps a `Recording`."""

    def __init__(self) -> None:
        self.recording = Recording(datetime.now(UTC))
        self._started = monotonic()
        self._interval = _FIRST_INTERVAL_SECONDS
        self._next = 0.0

    def began(self, tally: Tally) -> None:
        """The load begins; once more, after a server that forgot."""
        self.recording.tally = tally
        self._take_sample()

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Keep the event if the page shows it."""
        del level
        if self._elapsed() >= self._next:
            self._take_sample()
        if event == "batch_merged":
            self.recording.latencies.add(fields["seconds"])
        elif event in EVENTS_OF_RECORDS:
            self._keep_example(**fields)
        elif event == "retrying":
            self._keep_retry(fields["reason"])
        else:
            self._note(event, fields)

    def ended(self, exit_code: int, error: str | None = None) -> None:
        """The load is over; `error` is why it failed."""
        recording = self.recording
        self._take_sample()
        recording.seconds = self._elapsed()
        recording.loading_seconds = recording.loading_seconds or recording.seconds
        recording.exit_code, recording.error = exit_code, error

    def _note(self, event: str, fields: dict[str, Any]) -> None:
        recording = self.recording
        if event == "run_started":
            recording.names, recording.dry_run = fields["indexes"], fields["dry_run"]
        if event in ("run_started", "run_resumed"):
            recording.run_id = fields["run_id"]
        if event == "connected":
            recording.database = Database(**fields)
        elif event == "run_resumed":
            recording.notes.append("This run went on where an earlier one of the same command ended.")
        elif event == "run_restarted":
            self._keep_retry(fields["reason"])
            recording.indexes.clear()
        elif event == "fewer_workers":
            recording.notes.append(f"{fields['workers']} of {fields['wanted']} workers: {fields['reason']}")
        elif event.startswith("index_"):
            self._note_index(event, fields)
        elif event in ("verifying", "planning"):
            self._take_sample()
            recording.loading_seconds = self._elapsed()
        elif event == "run_finished":
            recording.report = msgspec.convert(fields, Report)

    def _note_index(self, event: str, fields: dict[str, Any]) -> None:
        indexes, name = self.recording.indexes, fields["index"]
        if name not in indexes and len(indexes) >= _MOST_INDEXES:
            self.recording.indexes_left_out += event == "index_finished"
            return
        part = indexes.setdefault(name, IndexPart(name))
        if event == "index_opened":
            part.dialect, part.bytes = fields["dialect"], fields["bytes"]
        elif event == "index_failed":
            part.error = fields["reason"]
        elif event == "index_finished":
            part.assets, part.is_finished = fields["assets"], True

    def _keep_example(self, reason: str, **fields: Any) -> None:
        examples = self.recording.examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES_PER_REASON:
            detail = fields.get("detail") or fields.get("source")
            examples.append(Example(fields["index"], fields["line"], fields["offset"], fields["key"], detail))

    def _keep_retry(self, reason: str) -> None:
        recording = self.recording
        if len(recording.retried_at) < _MOST_RETRIES_PLACED:
            recording.retried_at.append(self._elapsed())
        is_kept = reason in recording.retry_reasons or len(recording.retry_reasons) < _MOST_REASONS
        recording.retry_reasons[reason if is_kept else _OTHER_REASONS] += 1

    def _take_sample(self) -> None:
        samples, counts, now = self.recording.samples, self.recording.tally.assets, self._elapsed()
        other = counts.outcomes - counts.inserted - counts.updated - counts.unchanged
        samples.append(ProgressSample(now, counts.inserted, counts.updated, counts.unchanged, other))
        if len(samples) >= _MOST_SAMPLES:
            del samples[1:-1:2]
            self._interval *= 2
        self._next = now + self._interval

    def _elapsed(self) -> float:
        return monotonic() - self._started
