"""Pass the events of a load to several sinks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seed_registry.report import Progress, Tally


class ProgressFanout:
    """A `Progress` that passes events to others, and keeps the tally for the result."""

    def __init__(self, members: Sequence[Progress]) -> None:
        self.tally = Tally()
        self._members = members

    def began(self, tally: Tally) -> None:
        """The load begins."""
        self.tally = tally
        for member in self._members:
            member.began(tally)

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Pass the event to all."""
        for member in self._members:
            member.tell(level, event, **fields)
