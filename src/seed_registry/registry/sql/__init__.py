"""The statements, one file each, readable as SQL.

`{…}` in them is filled with quoted identifiers from an introspected `Table` and with lists of them; never with input.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

_DIRECTORY = Path(__file__).parent


@cache
def statement(name: str) -> str:
    """The text of `sql/<name>.sql`, its comments included: they show in pg_stat_activity."""
    return _DIRECTORY.joinpath(f"{name}.sql").read_text("utf-8")
