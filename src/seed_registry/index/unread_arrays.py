"""Count elements that look like records in arrays that are not read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import msgspec

from seed_registry.report import Progress, UnreadRecords

# Documents have a handful of arrays; the limit bounds memory.
_MOST_PLACES: Final = 100
OTHER_PLACES: Final = "(other places)"
_PLACE_CHARACTERS: Final = 200

_UNREAD: Final = (
    "looks like records, but is not read: load it with --records-at PATH --dialect NAME, by a command of its own"
)

IsRecord = Callable[[Collection[str]], bool]


class UnreadArrays:
    """Counts the elements that look like records in arrays that are not read.

    Attributes:
        counts: by the place of their array, e.g. `groups[].datasets`; at most `_MOST_PLACES`, the others together.
    """

    def __init__(self, is_record: IsRecord) -> None:
        self.counts: dict[str, int] = {}
        self._is_record = is_record

    def note(self, place: str) -> None:
        """Count one element of the array at this place."""
        place = place[:_PLACE_CHARACTERS]
        if place not in self.counts and len(self.counts) >= _MOST_PLACES:
            place = OTHER_PLACES
        self.counts[place] = self.counts.get(place, 0) + 1

    def look_into(self, place: str, element: Any) -> None:
        """Count an element of the array at this place if it looks like a record, else the records inside it."""
        waiting: list[tuple[str, Any, bool]] = [(place, element, True)]  # an element, or a field of an object?
        while waiting:
            place, value, is_element = waiting.pop()
            if isinstance(value, list):
                place = f"{place}[]"[:_PLACE_CHARACTERS] if is_element else place
                waiting += [(place, one, True) for one in value if isinstance(one, dict | list)]
            elif isinstance(value, dict) and is_element and self._is_record(value.keys()):
                self.note(place)
            elif isinstance(value, dict):
                inside = f"{place}[]" if is_element else place
                waiting += [
                    (f"{inside}.{key}"[:_PLACE_CHARACTERS], one, False)
                    for key, one in value.items()
                    if isinstance(one, dict | list)
                ]

    def look_for(self, paths: Collection[tuple[str, ...]], envelope: Any) -> None:
        """Count the records in the arrays at these paths of an object that was rejected as a record."""
        for path in paths:
            value = value_at(envelope, path)
            for one in value if path and isinstance(value, list) else ():
                if isinstance(one, dict) and self._is_record(one.keys()):
                    self.note(".".join(path))


def log_unread(index: str, counts: Mapping[str, int], progress: Progress) -> list[UnreadRecords]:
    """Log the elements of an index that look like records and were not read."""
    found = [UnreadRecords(index, path, count) for path, count in counts.items()]
    for one in found:
        progress.tell("warning", "unread_records", **msgspec.to_builtins(one), note=_UNREAD)
    return found


def value_at(thing: Any, path: tuple[str, ...]) -> Any:
    """The value at a path of an object, None if there is none."""
    for key in path:
        thing = thing.get(key) if isinstance(thing, dict) else None
    return thing
