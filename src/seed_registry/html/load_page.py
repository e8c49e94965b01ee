"""The page of a load, one HTML file: outcomes, speed, bottleneck, errors."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from seed_registry import __version__
from seed_registry.html.change_section import changes
from seed_registry.html.charts import percent, share_bar
from seed_registry.html.document import document, html_text, swatch
from seed_registry.html.files import require_writable, write_page
from seed_registry.html.load_sections import (
    base_name,
    indexes,
    not_taken,
    retirement,
    retries,
    shards,
    sources,
    speed,
    stages,
    table,
    verification,
)
from seed_registry.html.recorder import Recorder, Recording
from seed_registry.report import AssetCounts, SourceCounts
from seed_registry.shortfall import gaps
from seed_registry.words import duration, size

_MOST_NAMES: Final = 10
_EXIT_CODES: Final = {0: "done", 3: "too many rejects", 4: "verification failed", 130: "interrupted", 143: "terminated"}
_OUTCOMES: Final = tuple(name for name in AssetCounts.__struct_fields__ if name not in ("read", "other_parts"))


class ReportPage(Recorder):
    """The `Progress` that writes the page at the end of a load, however it ended."""

    def __init__(self, path: Path) -> None:
        """Check that the page can be written, before anything is loaded.

        Raises:
            StorageFailed: it cannot.
        """
        super().__init__()
        require_writable(path)
        self._path = path

    def ended(self, exit_code: int, error: str | None = None) -> None:
        """Write the page.

        Raises:
            StorageFailed: it cannot be written any more.
        """
        super().ended(exit_code, error)
        write_page(self._path, page(self.recording))


def page(recording: Recording) -> str:
    """Return the page of a load."""
    body = [
        "<header>",
        *_head(recording),
        "</header><main>",
        *(_of_records(recording) if recording.tally.read else ()),
        *retries(recording),
        *indexes(recording),
        *shards(recording),
        *retirement(recording),
        *changes(recording),
        *sources(recording),
        *_facts(recording),
        "</main>",
    ]
    return document(_title(recording), body, "load_page.css")


def _of_records(recording: Recording) -> Iterable[str]:
    yield from _cards(recording)
    yield from _outcomes(recording)
    yield from verification(recording)
    yield from speed(recording)
    yield from stages(recording)
    yield from not_taken(recording)


def _title(recording: Recording) -> str:
    names = recording.names
    kind = "Dry run" if recording.dry_run else "Load"
    if not names:  # it failed before it knew of what
        return kind
    return f"{kind} of {len(names)} indexes" if len(names) > 1 else f"{kind} of {base_name(names[0])}"


def _head(recording: Recording) -> Iterable[str]:
    code = recording.exit_code
    state = _EXIT_CODES.get(code, "failed")
    kind = "bad" if code else "good"
    yield f'<h1>{html_text(_title(recording))} <span class="state {kind}">{state}</span></h1>'
    run = f", run {html_text(recording.run_id)}" if recording.run_id else ""
    yield f'<p class="soft">{recording.started_at:%Y-%m-%d %H:%M:%S} UTC{run}</p>'
    if code:
        kept = "; what was committed before stays" if recording.tally.batches and not recording.dry_run else ""
        lines = (recording.error or "an unexpected error; --verbose prints it").splitlines()
        yield f'<div class="error" role="alert"><p>{"</p><p>".join(map(html_text, lines))}</p>'
        yield f'<p class="soft">exit code {code}{kept}</p></div>'
    yield from (f'<p class="note">{html_text(note)}</p>' for note in recording.notes)
    if recording.dry_run:
        yield '<p class="note">Nothing was written; the numbers are what a load would do.</p>'
    if not recording.tally.read:
        yield '<p class="soft">No record was read.</p>'


def _cards(recording: Recording) -> Iterable[str]:
    tally, report = recording.tally, recording.report
    seconds, counts = report.seconds if report else recording.seconds, tally.assets
    rate = report.records_per_second if report else tally.read / seconds if seconds else 0
    written = "inserted or updated" if not recording.dry_run else "would be inserted or updated"
    cards = [
        (f"{tally.read:,}", "records read", f"{size(tally.bytes_read)} in {duration(seconds)}"),
        (
            f"{rate:,.0f}/s",
            "records a second",
            f"{size(tally.bytes_read / seconds if seconds else 0)} a second",
        ),
        (f"{counts.inserted + counts.updated:,}", written, f"{counts.unchanged:,} unchanged"),
        (f"{tally.rejected:,}", "rejected", percent(tally.rejected, tally.read) + " of the records"),
    ]
    yield '<div class="cards">'
    for number, what, more in cards:
        checkpoint = " attention" if what == "rejected" and tally.rejected else ""
        yield f'<div class="card{checkpoint}"><b>{number}</b>{what}<br><span class="soft">{more}</span></div>'
    yield "</div>"


def _outcomes(recording: Recording) -> Iterable[str]:
    tally = recording.tally
    shown = [name for name in _OUTCOMES if getattr(tally.assets, name) or getattr(tally.sources, name)]
    yield "<section><h2>Outcomes</h2>"
    yield share_bar({name: getattr(tally.assets, name) for name in _OUTCOMES}, "outcomes of the assets")
    rows = []
    for name in (*shown, "read"):
        of_assets, of_sources = getattr(tally.assets, name), getattr(tally.sources, name)
        words = name.replace("_", " ")
        label = f'<span class="legend">{swatch(f"o-{name}", words)}</span>' if name != "read" else words
        share = percent(of_assets, tally.assets.read) if tally.assets.read else ""
        rows.append(
            [label, f"{of_assets:,}", share, f"{of_sources:,}" if name in SourceCounts.__struct_fields__ else ""]
        )
    yield table(["", "assets", "", "sources"], rows)
    if others := tally.assets.other_parts:
        yield f'<p class="soft">{others:,} more assets are of other parts of the keys.</p>'
    if open_ := tally.read - tally.assets.outcomes - tally.sources.outcomes:
        yield f'<p class="soft">{open_:,} more were read and had not come to an end when the load did.</p>'
    for count, words in (
        (tally.repaired, "with a text that was repaired: NUL has no place in Postgres"),
        (tally.dates_ignored, "loaded without a date: theirs could not be read"),
        (tally.texts_ignored, "loaded without a text: what they have there is none"),
    ):
        if count:
            yield f'<p class="soft">{count:,} {"asset" if count == 1 else "assets"} {words}</p>'
    for words in gaps(recording.report) if recording.report else ():
        yield f'<p class="soft">{html_text(words)}</p>'
    yield "</section>"


def _facts(recording: Recording) -> Iterable[str]:
    report, tally = recording.report, recording.tally
    seen = report.dialect if report else ", ".join({part.dialect: None for part in recording.indexes.values()})
    names, more = recording.names[:_MOST_NAMES], len(recording.names) - _MOST_NAMES
    facts = {
        "index" if len(names) == 1 else "indexes": ", ".join(names) + (f" and {more:,} more" if more > 0 else ""),
        **({"database": str(recording.database)} if recording.database else {}),
        "dialect": seen or "none",
        "workers": tally.workers,
        "batches": f"{tally.batches:,}",
        "seed-registry": __version__,
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
    }
    yield '<section><h2>About this load</h2><table class="facts">'
    for name, value in facts.items():
        yield f"<tr><th>{html_text(name)}</th><td>{html_text(value)}</td></tr>"
    yield "</table></section>"
