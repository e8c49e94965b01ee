"""Run Python's cyclic garbage collector rarely during a load."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# New objects, about some batches of records; Python's default is 700.
_THRESHOLD: Final = 100_000


@contextmanager
def rare_collection() -> Iterator[None]:
    """Collect garbage rarely while the block runs, and never among objects that existed before.

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
