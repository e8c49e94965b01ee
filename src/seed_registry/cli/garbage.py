"""Collection: how often Python looks for garbage in cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# Objects made and not yet dropped, some batches of records: by default Python looks after every 700.
_THRESHOLD: Final = 100_000


@contextmanager
def rare_collection() -> Iterator[None]:
    """Look for garbage seldom while the block runs, and never among what was imported before.

    Records, rows and batches are in no cycle: they are freed when the last reference to them goes, without a search.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(_THRESHOLD, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
