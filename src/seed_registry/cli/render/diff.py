"""What differs between the ends of two runs, printed as it is found: there may be many keys."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from seed_registry.changes.net import EFFECTS, NetChange, Unrecorded
from seed_registry.cli.render.console import print_rows
from seed_registry.cli.render.messages import print_warning
from seed_registry.cli.render.output import write_out
from seed_registry.escape import printable
from seed_registry.words import listed

_KEY_CHARACTERS: Final = 200
_MOST_NAMES: Final = 5
_MOST_SOURCES: Final = 30
_Group = tuple[str, str | None, str | None]  # relation, provider, source


class DiffPrinter:
    """Prints keys as they come, if they are wanted, then the counts by source."""

    def __init__(self, earlier: str, later: str, *, has_keys: bool, is_json: bool) -> None:
        self._runs = {"earlier": earlier, "later": later}
        self._has_keys = has_keys
        self._is_json = is_json
        self._counts: dict[_Group, Counter[str]] = {}
        self._keys = 0

    def begin(self, unrecorded: Sequence[Unrecorded], first_loads: Mapping[str, int]) -> None:
        """Name the runs whose changes are missing; count the rows of first loads."""
        self._unrecorded = unrecorded
        if first_loads:
            self._counts["assets", None, None] = Counter(new=sum(first_loads.values()))
        for reason, words in (("none", "they ran without --history"), ("pruned", "it was pruned")):
            names = [printable(run.run_id) for run in unrecorded if run.history == reason]
            if names:
                print_warning(f"what these runs in between changed is missing, {words}: {listed(names, _MOST_NAMES)}")
        if self._is_json and self._has_keys:
            self._write(_dumped(self._runs)[:-1] + ',"keys":[')

    def add(self, change: NetChange) -> None:
        """Count a row, and print its key."""
        group = change.relation, change.provider, change.source_key
        self._counts.setdefault(group, Counter())[change.effect] += 1
        if change.is_of_first_load:
            self._counts["assets", None, None]["new"] -= 1
        if not self._has_keys:
            return
        if self._is_json:
            facts = {"relation": change.relation, "effect": change.effect, "provider": change.provider}
            facts |= {"source_key": change.source_key, "asset_key": change.asset_key}
            self._write(("," if self._keys else "") + _dumped(facts))
        else:
            source = printable(change.source_key or "", _KEY_CHARACTERS)
            key = (
                printable(change.asset_key, _KEY_CHARACTERS) if change.asset_key is not None else "(the source itself)"
            )
            self._write(f"{change.effect:<10} {source}  {key}\n")
        self._keys += 1

    def end(self) -> None:
        """Print the counts."""
        groups = sorted(
            ((group, counts) for group, counts in self._counts.items() if any(counts.values())),
            key=lambda one: (one[0][0] != "sources", -sum(one[1].values()), one[0][2] or ""),
        )
        if self._is_json:
            self._end_json(groups)
        else:
            self._end_table(groups)

    def _end_json(self, groups: Sequence[tuple[_Group, Counter[str]]]) -> None:
        rest = {
            "totals": {name: _named(_sum(groups, name)) for name in ("sources", "assets")},
            "per_source": [
                {"relation": relation, "provider": provider, "source": source, **_named(counts)}
                for (relation, provider, source), counts in groups
            ],
            "incomplete": msgspec.to_builtins(self._unrecorded),
        }
        if self._has_keys:
            self._write("]," + _dumped(rest)[1:] + "\n")
        else:
            self._write(_dumped({**self._runs, **rest}) + "\n")

    def _end_table(self, groups: Sequence[tuple[_Group, Counter[str]]]) -> None:
        rows = [
            (relation, "(first load)" if source is None else printable(source, _KEY_CHARACTERS), *_cells(counts))
            for (relation, _, source), counts in groups[:_MOST_SOURCES]
        ]
        if rest := groups[_MOST_SOURCES:]:
            rows.append(("", f"and {len(rest):,} more", *_cells(sum((counts for _, counts in rest), Counter()))))
        rows += [(name, "in total", *_cells(_sum(groups, name))) for name in ("sources", "assets")]
        title = f"between the ends of run {self._runs['earlier']} and run {self._runs['later']}"
        print_rows(title, ("", "source", *EFFECTS), rows, numbers=set(EFFECTS))

    def _write(self, text: str) -> None:
        write_out(text.encode())


def _sum(groups: Sequence[tuple[_Group, Counter[str]]], relation: str) -> Counter[str]:
    return sum((counts for group, counts in groups if group[0] == relation), Counter[str]())


def _named(counts: Counter[str]) -> dict[str, int]:
    return {effect: counts[effect] for effect in EFFECTS}


def _cells(counts: Counter[str]) -> list[str]:
    return [f"{counts[effect]:,}" if counts[effect] else "" for effect in EFFECTS]


def _dumped(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
