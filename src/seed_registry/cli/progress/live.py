"""Draw a running load on a terminal a few times a second; notable events scroll by above."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from seed_registry.cli.render.console import format_event
from seed_registry.escape import printable
from seed_registry.events import EVENTS_OF_DISPLAY
from seed_registry.report import Stages, Tally, WorkerProgress
from seed_registry.words import size

_REFRESHES_PER_SECOND: Final = 4
# "Now" is the last seconds: fewer would flicker, more would be history.
_WINDOW_SECONDS: Final = 5.0
_NAME_WIDTH: Final = 24
_SHORTEST_NAME: Final = 8
_NARROWEST_BAR: Final = 8
_WIDEST_BAR: Final = 20
_GAP: Final = 2  # between two parts of a line
# Below this width the overall speed and the bottleneck are left out.
_NARROW: Final = 60
# Of the display besides those of the processes, and one for a prompt.
_OTHER_LINES: Final = 7
_STEPS_WITH_BYTES: Final = ("", "scanning", "loading")
_LIMITS: Final = {
    "reading": "reading the index",
    "decoding": "decoding, on one core",
    "filtering": "Postgres, asking what it has",
    "copying": "Postgres, COPY",
    "merging": "Postgres, upserting",
    "committing": "Postgres, COMMIT",
}


class _Sample(Struct, frozen=True):
    at: float
    read: int
    stages: Stages


class LiveProgress:
    """The `Progress` of a load on a terminal."""

    def __init__(self, console: Console, *, verbose: bool, indexes: int = 1) -> None:
        """`indexes` is how many there are to load."""
        self._console = console
        self._verbose = verbose
        self._indexes = indexes
        self._number = 0
        self._name = ""
        self._step = ""
        self._position_before = 0
        self._doing = "starting"
        self._dashboard = ""  # of a cluster
        self._tally = Tally()
        self._started = self._index_started = monotonic()
        self._samples: deque[_Sample] = deque()

    @contextmanager
    def shown(self) -> Iterator[LiveProgress]:
        """Draw while the block runs, and erase it at the end."""
        with Live(
            self, console=self._console, refresh_per_second=_REFRESHES_PER_SECOND, transient=True, redirect_stdout=False
        ):
            yield self

    def began(self, tally: Tally) -> None:
        """The load begins."""
        self._tally = tally
        self._samples.clear()
        self._started = self._index_started = monotonic()

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Note the event for the display, and print a line unless the display shows it."""
        self._note_step()
        if event == "run_started":
            self._indexes, self._number = len(fields["indexes"]), 0
            self._name = _short(fields["indexes"][0]) if self._indexes == 1 else f"{self._indexes:,} indexes"
        elif event == "index_opened":
            self._number += 1
            self._index_started, self._position_before = monotonic(), 0
            self._name, self._doing = _short(fields["index"]), ""
        elif event == "loading_parked":
            self._doing = f"loading {fields['assets']:,} assets that waited for their sources"
        elif event == "writing_held":
            self._doing = f"writing {fields['assets']:,} assets that were held for their last records"
        elif event == "settling":
            self._doing = f"settling {fields['records']:,} records of repeated keys"
        elif event == "cluster_joined":
            self._dashboard = fields["dashboard"]
        elif event == "verifying":
            self._doing = "verifying"
        if (level == "debug" or event in EVENTS_OF_DISPLAY) and not self._verbose:
            return
        if "index" in fields:  # the display says which one it is, where the whole path would only fill lines
            fields["index"] = str(fields["index"]).rpartition("/")[2]
        self._console.print(format_event(level, event, fields))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The display as it is now."""
        now, tally = self._take_sample(), self._tally
        self._note_step()
        is_narrow = options.max_width < _NARROW
        yield self._head(options.max_width)
        yield self._speed(now, is_narrow=is_narrow)
        yield from _outcomes(tally, options.max_width)
        yield from self._workers(console, options)
        limit = tally.stages.since(self._samples[0].stages).limit(tally.workers, tally.processes)
        if limit is not None and not self._doing and not is_narrow:
            yield _line(Text("the limit is ", "dim"), _LIMITS[limit])

    def _workers(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A line for each of several workers, and the dashboard of their cluster."""
        if workers := self._tally.worker_progress:
            others = _OTHER_LINES + bool(self._dashboard)
            yield from _worker_lines(workers, options.max_width, console.height - others)
        if self._dashboard:
            yield _line(Text(f"dashboard {printable(self._dashboard)}", "dim"))

    def _note_step(self) -> None:
        """Begin to measure anew where several processes have begun another step."""
        step = self._tally.step
        if step != self._step:
            self._step, self._index_started, self._position_before = step, monotonic(), self._tally.index_position
            self._doing = "" if step in _STEPS_WITH_BYTES else step

    def _take_sample(self) -> _Sample:
        now = _Sample(monotonic(), self._tally.read, replace(self._tally.stages))
        self._samples.append(now)
        while self._samples[0].at < now.at - _WINDOW_SECONDS:
            self._samples.popleft()
        return now

    def _head(self, width: int) -> Table:
        """Which index, how much of it, and how long it will take, as far as there is room."""
        tally, total = self._tally, self._tally.index_bytes
        number = [f"{self._number}/{self._indexes}"] if self._number and self._indexes > 1 else []
        name, bar = self._name or "seed-registry", None
        facts = [self._doing or f"{size(tally.index_position)} read"]
        if total and not self._doing:
            done = min(tally.index_position, total)
            facts = [*filter(None, [self._step]), f"{done / total:4.0%}", *filter(None, [self._left(done, total)])]
            read = f"{size(done)} of {size(total)}"
            if _width(*number, name, *facts, read) <= width:
                facts.insert(2 if self._step else 1, read)
            bar_width = min(width - _width(*number, name, *facts) - _GAP, _WIDEST_BAR)
            bar = ProgressBar(total, done, bar_width) if bar_width >= _NARROWEST_BAR else None
        shown = Text(name, "bold")
        if not bar:
            shown.truncate(max(width - _width(*number, *facts) - _GAP, _SHORTEST_NAME), overflow="ellipsis")
        grid = Table.grid(padding=(0, _GAP, 0, 0))
        row: list[Text | ProgressBar] = [
            *(Text(part, "dim") for part in number),
            shown,
            *filter(None, [bar]),
            *map(Text, facts),
        ]
        for _ in row:
            grid.add_column(no_wrap=True)
        grid.add_row(*row)
        return grid

    def _left(self, done: int, total: int) -> str:
        elapsed, read = monotonic() - self._index_started, done - self._position_before
        if read <= 0 or elapsed < 1:
            return ""
        minutes, seconds = divmod(round(elapsed * (total - done) / read), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02} left" if hours else f"{minutes}:{seconds:02} left"

    def _speed(self, now: _Sample, *, is_narrow: bool) -> Text:
        first = self._samples[0]
        parts: list[str | Text] = [f"{now.read:,} records"]
        if now.at - first.at > 1:
            parts.append(f"{(now.read - first.read) / (now.at - first.at):,.0f}/s now")
        if not is_narrow and now.at - self._started > _WINDOW_SECONDS:
            parts.append(f"{now.read / (now.at - self._started):,.0f}/s overall")
        if (shards := self._tally.shards) and not is_narrow:
            done = shards["scanned" if self._step == "scanning" else "loaded"]
            parts.append(Text(f"{done:,} of {shards['planned']:,} shards", "dim"))
        return _line(*(part for text in parts for part in (text, "  ")))


class AuditProgress(LiveProgress):
    """The `Progress` of `verify` on a terminal."""

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Note what is going on; the result has the end."""
        if event != "verify_finished":
            super().tell(level, event, **fields)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw how far, and how fast; of a cluster what its workers are at."""
        yield self._head(options.max_width)
        yield self._speed(self._take_sample(), is_narrow=options.max_width < _NARROW)
        yield from self._workers(console, options)


def _outcomes(tally: Tally, width: int) -> Iterator[Text]:
    """The outcomes so far without those that are 0, but for the usual three; in several lines if need be."""
    counts = tally.assets
    counted = {name: (getattr(counts, name), "") for name in ("inserted", "updated", "unchanged")}
    others = {name: (getattr(counts, name), "") for name in ("duplicate", "older", "missing_source", "resumed")}
    others |= {"rejected": (tally.rejected, "yellow"), "retries": (tally.retries, "yellow")}
    counted |= {name: one for name, one in others.items() if one[0]}
    line = Text()
    for name, (count, style) in counted.items():
        part = Text.assemble((f"{name.replace('_', ' ')} ", "dim"), (f"{count:,}", style))
        if line and _width(line.plain, part.plain) > width:
            yield line
            line = Text()
        line.append("  " if line else "").append_text(part)
    yield line


def _worker_lines(workers: Sequence[WorkerProgress], width: int, most: int) -> Iterator[Text | Table]:
    """A line for each process, as many as there is room for."""
    shown = workers if len(workers) <= most else workers[: max(most - 1, 1)]
    has_index = len({one.index for one in workers}) > 1
    rows = []
    for one in shown:
        host, _, process = one.worker.rpartition(":")
        facts = [f"shard {one.number}", f"{one.position / max(one.size, 1):4.0%}"]
        rows.append([process if width < _NARROW else f"{host}:{process}", *facts, f"{one.read:,} records"])
        if has_index and width >= _NARROW:
            rows[-1].insert(1, _short(one.index))
    while len(rows[0]) > 1 and _columns_width(rows) > width:
        rows = [row[:-1] for row in rows]
    grid = Table.grid(padding=(0, _GAP, 0, 0))
    for position in range(len(rows[0])):
        grid.add_column(no_wrap=True, overflow="ellipsis", justify="right" if position else "left")
    for row in rows:
        grid.add_row(*(Text(printable(cell, _NAME_WIDTH * 2), "dim") for cell in row))
    yield grid
    if left := len(workers) - len(shown):
        yield _line(Text(f"and {left:,} more processes", "dim"))


def _columns_width(rows: Sequence[Sequence[str]]) -> int:
    return sum(max(map(cell_len, column)) + _GAP for column in zip(*rows, strict=True)) - _GAP


def _short(index: object) -> str:
    """The last part of a path or URL, as far as there is room."""
    return printable(str(index).rpartition("/")[2], _NAME_WIDTH)


def _width(*parts: str) -> int:
    """How wide a line of these parts is."""
    return sum(cell_len(part) + _GAP for part in parts) - _GAP


def _line(*parts: str | Text) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    for part in parts:
        line.append(part) if isinstance(part, str) else line.append_text(part)
    return line
