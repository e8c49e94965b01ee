"""The sections of the page of a load."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from msgspec.structs import asdict

from seed_registry.escape import printable
from seed_registry.html.charts import latency_chart, length_bar, percent, rate_chart
from seed_registry.html.document import STAGE_WORDS, html_text, stage_bars, stage_legend, swatch
from seed_registry.html.recorder import Example, IndexPart, Recording
from seed_registry.records import Location
from seed_registry.report import ShardReport, Stages
from seed_registry.words import duration, size

_MOST_SOURCES: Final = 20
_MOST_SHARDS: Final = 200
# Some keys are rejected for being too long.
_KEY_CHARACTERS: Final = 60
_QUANTILES: Final = {"half took at most": 0.5, "95 % at most": 0.95, "99 % at most": 0.99}
# Reasons that are no rejects: what happened to the record instead.
_INSTEAD: Final = {
    "missing_source": "skipped: their index lists sources, and not theirs",
    "date_ignored": "loaded without a date: theirs cannot be read",
    "text_ignored": "loaded without a text: what is there is none",
}


def verification(recording: Recording) -> Iterable[str]:
    """The checks of the verification."""
    answers = recording.report.verification if recording.report is not None else None
    if recording.dry_run:
        return
    yield "<section><h2>Verification</h2>"
    if answers is None:
        yield '<p class="soft">Not made.</p></section>'
        return
    checks = answers.checks
    passed = sum(check.passed for check in checks)
    kind = "good" if answers.passed else "bad"
    yield f'<p><span class="state {kind}">{passed} of {len(checks)} checks passed</span></p>'
    rows = [
        [
            "passed" if check.passed else '<b class="bad">FAILED</b>',
            html_text(check.name.replace("_", " ")),
            _number(check.expected),
            _number(check.actual),
        ]
        for check in checks
    ]
    yield table(["", "check", "expected", "found"], rows, words=2)
    yield "</section>"


def speed(recording: Recording) -> Iterable[str]:
    """Assets a second over time, and how long batches took."""
    latencies = recording.latencies
    rate = rate_chart(recording.samples, recording.loading_seconds, recording.retried_at)
    if rate is not None:
        yield "<section><h2>Speed</h2><h3>Assets a second, over time</h3>"
        yield rate
        names = [name for name in ("inserted", "updated", "unchanged") if getattr(recording.tally.assets, name)]
        others = recording.tally.assets.outcomes - sum(getattr(recording.tally.assets, name) for name in names)
        swatches = [swatch(f"o-{name}", name) for name in names]
        swatches += [swatch("o-other", "other outcomes")] if others else []
        swatches += [swatch("retry", "a retry")] if recording.retried_at else []
        yield f'<p class="legend">{"".join(swatches)}</p>'
    else:
        yield '<section><h2>Speed</h2><p class="soft">Too short a load for a curve.</p>'
    if latencies.count:
        yield "<h3>Latency of batches</h3>"
        yield latency_chart(latencies) or ""
        facts = [f"{words} <b>{duration(latencies.quantile(part))}</b>" for words, part in _QUANTILES.items()]
        facts.append(f"the longest <b>{duration(latencies.longest)}</b>")
        yield f'<p class="soft">{latencies.count:,} batches: {", ".join(facts)}</p>'
    yield "</section>"


def stages(recording: Recording) -> Iterable[str]:
    """Where the time went, and what was the limit."""
    tally, seconds = recording.tally, recording.loading_seconds
    limit = tally.stages.limit(tally.workers, tally.processes)
    if limit is None or not tally.workers or not seconds:
        return
    yield "<section><h2>Where the time went</h2>"
    side = "the reader" if limit in Stages.PRODUCER else "the workers, and so Postgres"
    yield f'<p>The limit was {side}: <b>{STAGE_WORDS[limit]}</b>.</p><div class="stages">'
    yield stage_bars(tally.stages, tally.workers, seconds, "this load", tally.processes)
    yield f"</div>{stage_legend()}"
    yield (
        f'<p class="soft">The whole width is the {duration(seconds)} of loading. Above: the reader; below: one of the '
        f"{tally.workers} workers on average. Grey is waiting for the other side; blank is the start and the end.</p>"
    )
    rows = []
    for name, total in asdict(tally.stages).items():
        who, sharers = ("reader", tally.processes) if name in Stages.PRODUCER else ("worker", tally.workers)
        rows.append([html_text(STAGE_WORDS[name]), who, duration(total / sharers), percent(total / sharers, seconds)])
    numbers = table(["stage", "of", "time", "of the load"], rows, words=2)
    yield f"<details><summary>All stages</summary>{numbers}</details></section>"


def not_taken(recording: Recording) -> Iterable[str]:
    """The records that were rejected or changed, by reason, with examples."""
    tally, counts = recording.tally, dict(recording.tally.rejects.most_common())
    counts |= {"missing_source": tally.assets.missing_source}
    counts |= {"date_ignored": tally.dates_ignored, "text_ignored": tally.texts_ignored}
    yield "<section><h2>Not taken as they are</h2>"
    if not any(counts.values()):
        yield '<p class="soft">None: every record was taken as it is.</p>'
    for reason, count in counts.items():
        if not count:
            continue
        instead = f' <span class="soft">{_INSTEAD[reason]}</span>' if reason in _INSTEAD else ""
        examples = recording.examples.get(reason, [])
        details = list(dict.fromkeys(example.detail or "" for example in examples))
        yield f"<details open><summary>{html_text(reason)}: {count:,}{instead}</summary>"
        if len(details) == 1:
            yield f"<p>{html_text(details[0])}</p>"
        yield "<ul>"
        yield from (f"<li>{_example(example, detailed=len(details) > 1)}</li>" for example in examples)
        if count > len(examples):
            yield f'<li class="soft">and {count - len(examples):,} more</li>'
        yield "</ul></details>"
    if recording.report is not None and recording.report.rejects_file:
        yield f"<p>The rejected ones: <code>{html_text(recording.report.rejects_file)}</code></p>"
    yield "</section>"


def retirement(recording: Recording) -> Iterable[str]:
    """What is no longer listed, by source, and whether it was retired."""
    found = recording.report.retirement if recording.report is not None else None
    if found is None:
        return
    retired = recording.tally.assets.retired
    yield "<section><h2>Retired</h2>"
    if found.reason is None:
        yield f"<p>{retired:,} assets, which the indexes no longer list.</p>"
    else:
        yield f'<p><span class="state bad">nothing was retired</span> {html_text(found.reason)}</p>'
    rows = [
        [
            html_text(one.source),
            f'<b class="bad">{one.unlisted:,}</b>' if one.is_over else f"{one.unlisted:,}",
            f"{one.held:,}",
            percent(one.unlisted, one.held),
            " ".join(f"<code>{escape(printable(key, _KEY_CHARACTERS))}</code>" for key in one.keys),
        ]
        for one in found.per_source[:_MOST_SOURCES]
    ]
    if rows:
        yield table(["source", "no longer listed", "of", "", "such as"], rows, long=True)
    if rest := len(found.per_source[_MOST_SOURCES:]):
        yield f'<p class="soft">and {rest:,} more sources</p>'
    for left in found.left_alone[:_MOST_SOURCES]:
        yield f'<p class="soft">{html_text(left.source)}: run {html_text(left.run_id)} was loading it meanwhile</p>'
    yield "</section>"


def retries(recording: Recording) -> Iterable[str]:
    """The retries, by reason."""
    count = recording.tally.retries
    if not count and not recording.retry_reasons:
        return
    yield f"<section><h2>Retries</h2><p>{count:,} in all; each succeeded in the end unless there is an error above.</p>"
    rows = [[html_text(reason), f"{times:,}"] for reason, times in recording.retry_reasons.most_common()]
    yield table(["reason", "times"], rows, long=True)
    yield "</section>"


def indexes(recording: Recording) -> Iterable[str]:
    """The outcomes of each of several indexes; failed ones first."""
    parts = sorted(recording.indexes.values(), key=lambda part: part.error is None)
    if len(recording.names) <= 1 or not parts:
        return
    yield "<section><h2>Indexes</h2>"
    columns = [
        "read",
        "inserted",
        "updated",
        "unchanged",
        "duplicate",
        "rejected",
        "missing_source",
        "resumed",
        "older",
        "not_written",
        "retired",
        "returned",
    ]
    columns = [name for name in columns if name == "read" or any(part.assets.get(name) for part in parts)]
    rows = [
        [_index_name(part), html_text(part.dialect), *(f"{part.assets.get(name, 0):,}" for name in columns)]
        for part in parts
    ]
    heads = [name.replace("_", " ") for name in columns]
    yield table(["index", "dialect", *heads], rows, words=2, long=True)
    if recording.indexes_left_out:
        yield f'<p class="soft">and {recording.indexes_left_out:,} more</p>'
    yield "</section>"


def shards(recording: Recording) -> Iterable[str]:
    """What each of several processes did, and the shards."""
    found = recording.report.shards if recording.report is not None else []
    if not found:
        return
    by_worker: dict[str, list[ShardReport]] = {}
    for shard in found:
        by_worker.setdefault(shard.worker, []).append(shard)
    processes = "process" if len(by_worker) == 1 else "processes"
    yield f"<section><h2>Shards</h2><p>{len(found):,} shards, loaded by {len(by_worker):,} {processes}.</p>"
    rows = []
    for worker, own in sorted(by_worker.items()):
        seconds, read = sum(one.seconds for one in own), sum(one.assets.read for one in own)
        cells = [f"{len(own):,}", f"{read:,}", duration(seconds), percent(seconds, recording.loading_seconds)]
        rows.append([html_text(worker), *cells])
    yield table(["process", "shards", "records", "time", "of the load"], rows)
    slowest = sorted(found, key=lambda one: -one.seconds)[:_MOST_SHARDS]
    rows = [
        [
            html_text(base_name(one.index)),
            f"{one.number:,}",
            size(one.last - one.first),
            f"{one.assets.read:,}",
            f"{one.attempts:,}",
            html_text(one.worker),
            duration(one.seconds),
        ]
        for one in slowest
    ]
    numbers = table(["index", "shard", "size", "records", "attempts", "process", "time"], rows, long=True)
    title = "All shards" if len(slowest) == len(found) else f"The {len(slowest):,} slowest shards"
    yield f"<details><summary>{title}</summary>{numbers}</details></section>"


def sources(recording: Recording) -> Iterable[str]:
    """The largest sources."""
    by_source = recording.tally.assets_by_source
    if not by_source:
        return
    largest = by_source.most_common(_MOST_SOURCES)
    total = by_source.total()
    yield f"<section><h2>Sources by size</h2><p>{len(by_source):,} with {total:,} assets in these indexes.</p>"
    rows = [
        [html_text(key or "(no name)"), f"{count:,}", percent(count, total), length_bar(count, largest[0][1])]
        for key, count in largest
    ]
    if rest := total - sum(count for _, count in largest):
        left = len(by_source) - len(largest)
        rows.append([f'<span class="soft">{left:,} smaller ones</span>', f"{rest:,}", percent(rest, total), ""])
    yield table(["source", "assets", "", ""], rows, long=True)
    yield "</section>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1, long: bool = False) -> str:
    """A table whose cells are markup; the first `words` columns are text, a `long` first one is broken where needed."""
    first = ' class="words long"' if long else ' class="words"'
    classes = [first, *[' class="words"'] * (words - 1)] + [""] * len(heads)
    lines = [f"<th{kind}>{html_text(head)}</th>" for kind, head in zip(classes, heads, strict=False)]
    body = (
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(classes, row, strict=False)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll" tabindex="0"><table><tr>{"".join(lines)}</tr>{"".join(body)}</table></div>'


def base_name(index: str) -> str:
    """The last part of a path or URL."""
    return index.rstrip("/").rpartition("/")[2] or index


def _example(example: Example, *, detailed: bool) -> str:
    place = Location(base_name(example.index), example.line, example.offset)
    key = f" <code>{escape(printable(example.key, _KEY_CHARACTERS))}</code>" if example.key is not None else ""
    detail = f"<br>{html_text(example.detail)}" if detailed and example.detail else ""
    return f'<span class="soft">{html_text(place)}</span>{key}{detail}'


def _index_name(part: IndexPart) -> str:
    name = html_text(part.index)
    if part.error is not None:
        return f'<b class="bad">FAILED</b> {name}<br><span class="soft">{html_text(part.error)}</span>'
    return name if part.is_finished else f'<b class="bad">not finished</b> {name}'


def _number(value: str | int) -> str:
    return f"{value:,}" if isinstance(value, int) else html_text(value)
