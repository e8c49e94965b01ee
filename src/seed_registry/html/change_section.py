"""The section of a load's page about what the run changed, of one with history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Final

from seed_registry.escape import printable
from seed_registry.html.charts import length_bar, share_bar
from seed_registry.html.document import html_text, swatch
from seed_registry.html.load_sections import table
from seed_registry.html.recorder import Recording
from seed_registry.report import ChangeSummary, SourceChanges

_KEY_CHARACTERS: Final = 60
_KINDS: Final = ("inserted", "updated", "retired", "returned")
_MOST_FIELDS: Final = 20


def changes(recording: Recording) -> Iterable[str]:
    """What changed: by kind, by source, by field."""
    found = recording.report.changes if recording.report is not None else None
    if found is None:
        return
    yield "<section><h2>What changed</h2>"
    total = sum(found.assets.values())
    if not total and not found.sources:
        yield '<p class="soft">Nothing: every row was as the indexes have it.</p></section>'
        return
    yield f"<p>{html_text(_in_words(found))}</p>"
    if total:
        yield share_bar({kind: found.assets.get(kind, 0) for kind in _KINDS}, "changes of assets, by kind")
        swatches = [swatch(f"o-{kind}", f"{kind} {found.assets[kind]:,}") for kind in _KINDS if found.assets.get(kind)]
        yield f'<p class="legend">{"".join(swatches)}</p>'
    if found.created:
        yield (
            f'<p class="soft">{found.created:,} of the inserted ones went into an empty table: one entry stands for '
            "all of them, and they are not among the sources below.</p>"
        )
    yield from _by_source(found)
    yield from _by_field(found.fields)
    run = html_text(recording.run_id)
    yield f'<p class="soft">Every change: <code>seed-registry changes {run} --json</code></p></section>'


def _in_words(found: ChangeSummary) -> str:
    of_assets, of_sources = sum(found.assets.values()), sum(found.sources.values())
    words = f"{of_assets:,} changes of assets" if of_assets != 1 else "1 change of an asset"
    if not of_sources:
        return f"{words}."
    return f"{words}, {of_sources:,} of sources ({_kinds(found.sources)})."


def _kinds(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())


def _by_source(found: ChangeSummary) -> Iterable[str]:
    if not found.per_source:
        return
    columns = [kind for kind in _KINDS if any(one.kinds.get(kind) for one in found.per_source)]
    rows = []
    for one in found.per_source:
        numbers = [f"{one.kinds[kind]:,}" if one.kinds.get(kind) else "" for kind in columns]
        rows.append([html_text(one.source), *numbers, _keys(one, columns)])
    yield f"<h3>By source{', most changed first' if len(rows) > 1 else ''}</h3>"
    yield table(["source", *columns, "such as"], rows, long=True)
    if rest := found.source_count - len(rows):
        yield f'<p class="soft">and {rest:,} more sources</p>'


def _keys(one: SourceChanges, columns: Iterable[str]) -> str:
    """A few keys of the rarest kind that there are keys of: what is retired or returned is looked for first."""
    kind = next(kind for kind in (*reversed(_KINDS), *columns) if one.keys.get(kind))
    codes = " ".join(f"<code>{escape(printable(key, _KEY_CHARACTERS))}</code>" for key in one.keys[kind])
    return f'<span class="soft">{kind}:</span> {codes}'


def _by_field(fields: Mapping[str, int]) -> Iterable[str]:
    if not fields:
        return
    most = max(fields.values())
    rows = [
        [html_text(field), f"{count:,}", length_bar(count, most)]
        for field, count in list(fields.items())[:_MOST_FIELDS]
    ]
    yield "<h3>Updated assets, by field</h3>"
    yield table(["field", "assets", ""], rows)
