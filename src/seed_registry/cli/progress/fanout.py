"""Audience: everybody who is told of a load: the terminal, a log file, metrics, a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seed_registry.report import Progress, Tally


class ProgressFanout:
    """A `Progress` that tells several, and keeps the tally for the table at the end."""

    def __init__(self, members: Sequence[Progress]) -> None:
        self.tally = Tally()
        self._members = members

    def began(self, tally: Tally) -> None:
        """The load begins."""
        self.tally = tally
        for member in self._members:
            member.began(tally)

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Something happened."""
        for member in self._members:
            member.tell(level, event, **fields)
