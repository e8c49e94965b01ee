"""Blame: whose fault it is that the database refuses a record."""

from __future__ import annotations

from enum import Enum, auto


class Blame(Enum):
    """What trying known good records told; a `PERHAPS` says that there was none in the table to try."""

    RECORD = auto()  # others are taken
    RECORD_PERHAPS = auto()  # others are refused as well, each for another reason
    DATABASE_PERHAPS = auto()  # a made-up one is refused for the same reason
    DATABASE = auto()  # those that are there are refused for the same reason
