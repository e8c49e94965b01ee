"""Changes as lines of JSON for programs, and as tables for people."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import typer
from rich.text import Text

from seed_registry.changes.feed import Change
from seed_registry.changes.overview import Overview
from seed_registry.changes.runs import ChangedRun
from seed_registry.cli.render.console import print_rows, unbroken
from seed_registry.escape import printable
from seed_registry.ledger.change_summary import CHANGE_KINDS
from seed_registry.report import ChangeSummary
from seed_registry.words import counted, listed

_KEY_CHARACTERS: Final = 60
_MOST_FIELDS: Final = 12
_BREAKS: Final = re.compile(r"[\t\r\n]")
_NOT_ASCII: Final = re.compile(r"[^ -~]")
_COLUMNS: Final = ("change", "kind", "source", "key", "fields")
# Made once, for there may be very many lines.
_VALUES: Final = msgspec.json.Decoder(dict[str, str | None])
_ANY: Final = msgspec.json.Decoder()
_dumped: Final = json.JSONEncoder(separators=(",", ":")).encode


def change_line(change: Change) -> str:
    """A change as one line of JSON, in ASCII: texts of an index may hold characters that control a terminal."""
    facts = {
        "id": change.id,
        "run_id": change.run_id,
        "relation": change.relation,
        "kind": change.kind,
        "rows": change.rows,
        "provider": change.provider,
        "source_key": change.source_key,
        "asset_key": change.asset_key,
        "fields": change.fields,
    }
    end = {"at": msgspec.to_builtins(change.at), "cursor": str(change.cursor)}
    before = _before(change.before) if change.before is not None else "null"
    return f'{_dumped(facts)[:-1]},"before":{before},{_dumped(end)[1:]}'


def _before(text: str) -> str:
    """The values of the fields before, the document as one; it is not parsed, so that its numbers stay as they are."""
    values = _VALUES.decode(text)
    values.pop("content_hash", None)
    return "{" + ",".join(f"{_dumped(name)}:{_value(name, value)}" for name, value in values.items()) + "}"


def _value(name: str, value: Any) -> str:
    if name == "raw" and isinstance(value, str) and _is_json(value):
        # Outside of its texts JSON is ASCII, and has line breaks there only.
        plain = _BREAKS.sub(" ", value)
        return _NOT_ASCII.sub(lambda match: _dumped(match[0])[1:-1], plain)
    return _dumped(value)


def _is_json(text: str) -> bool:
    try:
        _ANY.decode(text)
    except (ValueError, RecursionError):  # a number may only be larger than it takes
        try:
            json.loads(text, parse_int=str, parse_float=str)
        except (ValueError, RecursionError):
            return False
    return True


def print_overview(found: Overview) -> None:
    """Print a line for each run, then the changes, then how to go on."""
    if not found.runs:
        typer.echo("no run with --history has ended here yet")
        return
    print_runs_with_history(found.runs)
    print_changes(found.changes)
    if not found.changes:
        typer.echo("no changes")
    if found.cursor is not None:
        more = f"there are more: continue with --after {found.cursor}, or raise --limit"
        unbroken().print(Text(more, "dim"), soft_wrap=True)


def print_runs_with_history(runs: Sequence[tuple[ChangedRun, ChangeSummary]]) -> None:
    """Print a line for each run: when it ended, and how many changes of each kind it made."""
    rows = [(run.run_id, _moment(run.ended_at), _of_run(run, summary)) for run, summary in runs]
    print_rows("runs with history", ("run", "ended (UTC)", "changes"), rows)


def print_changes(changes: Sequence[Change]) -> None:
    """Print changes in their order, those of a set below each other."""
    start = 0
    for end in range(1, len(changes) + 1):
        if end == len(changes) or changes[end].at != changes[start].at:
            first = changes[start]
            title = f"run {printable(first.run_id)}, ended {_moment(first.at)}"
            print_rows(title, _COLUMNS, [_row(change) for change in changes[start:end]], numbers={"change"})
            start = end


def kinds_in_words(kinds: Mapping[str, int]) -> str:
    """Counts by kind: "3 inserted, 1 retired"."""
    names = [*(kind for kind in CHANGE_KINDS if kind in kinds), *(kind for kind in kinds if kind not in CHANGE_KINDS)]
    return ", ".join(f"{kinds[kind]:,} {kind}" for kind in names if kinds[kind])


def summary_in_words(summary: ChangeSummary) -> str:
    """How many assets and sources changed, by kind."""
    of_assets, of_sources = kinds_in_words(summary.assets), kinds_in_words(summary.sources)
    parts = [f"assets: {of_assets}" if of_assets else "", f"sources: {of_sources}" if of_sources else ""]
    return "; ".join(part for part in parts if part) or "nothing"


def _of_run(run: ChangedRun, summary: ChangeSummary) -> str:
    undone = f"takes back run {run.undoes}: " if run.undoes else ""
    return undone + summary_in_words(summary)


def _row(change: Change) -> tuple[str, ...]:
    if change.stands_for_all:
        what = f"{change.kind} {counted(change.rows, 'asset')} (first load)"
        return (f"{change.id}", change.kind, "", what, "")
    key = printable(change.asset_key or "", _KEY_CHARACTERS) if change.relation == "assets" else "(the source itself)"
    fields = listed(change.fields, _MOST_FIELDS)
    return (f"{change.id}", change.kind, printable(change.source_key or "", _KEY_CHARACTERS), key, fields)


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment else "no"
