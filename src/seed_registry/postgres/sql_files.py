"""Read the statements in `<package>/sql/*.sql`, one file each, readable as SQL.

`{…}` in them is filled with quoted identifiers from an introspected `Table` and with lists of them; never with input.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

_PACKAGES: Final = Path(__file__).parent.parent


@cache
def statement(name: str) -> str:
    """Return the text of one file: `registry/upsert` names registry/sql/upsert.sql."""
    package, _, file = name.partition("/")
    return (_PACKAGES / package / "sql" / f"{file}.sql").read_text("utf-8")
