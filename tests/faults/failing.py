"""Run the command, and die at the n-th time that it comes to a named point: `failing.py POINT N -- load …`.

Dying is `os._exit`: nothing is flushed, closed or rolled back. `drop-commit` loses the answer of a COMMIT instead.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import asyncpg

from seed_registry.cli.main import main
from seed_registry.index.byte_stream import OpenIndex
from seed_registry.index.reader import IndexReader
from seed_registry.ledger.checkpoints import Ledger
from seed_registry.load import conclusion, index_steps, pipeline
from seed_registry.load import deferred_indexes as load_indexes
from seed_registry.load.producer import Lane, Producer
from seed_registry.postgres.transactions import BatchTransaction
from seed_registry.registry import deferred_indexes as registry_indexes
from seed_registry.rejects.writer import RejectsFile

KILLED = 137

# Each point: the object that is patched, the name, and whether the process dies after it, not before.
POINTS: dict[str, tuple[Any, str, bool]] = {
    "opened": (OpenIndex, "read_head", True),
    "parsed": (IndexReader, "_decoded", True),
    "queued": (Lane, "take", True),
    "produced": (Producer, "produce", True),
    "before-copy": (asyncpg.Connection, "copy_records_to_table", False),
    "after-copy": (asyncpg.Connection, "copy_records_to_table", True),
    "before-upsert": (asyncpg.Connection, "fetchrow", False),
    "after-upsert": (asyncpg.Connection, "fetchrow", True),
    "checkpoint": (Ledger, "statement", False),
    "lazy-checkpoint": (Ledger, "save_lazily", True),
    "before-commit": (BatchTransaction, "commit", False),
    "after-commit": (BatchTransaction, "commit", True),
    "reject-write": (RejectsFile, "write", True),
    "reject-sync": (RejectsFile, "sync", False),
    "flush": (index_steps, "flush", False),
    "index-finished": (Ledger, "finish_index", True),
    "verified": (conclusion, "verify", True),
    "run-ended": (Ledger, "end", True),
}

# Those of a load with --defer-indexes besides.
POINTS_OF_INDEXES: dict[str, tuple[Any, str, bool]] = {
    "before-drop": (load_indexes, "drop", False),
    "after-drop": (load_indexes, "drop", True),
    "drop-statement": (asyncpg.Connection, "executemany", True),
    "before-build": (registry_indexes, "_build", False),
    "in-build": (registry_indexes, "_watch_client", True),
    "built": (registry_indexes, "_build", True),
    "after-build": (load_indexes, "build_dropped", True),
    "settled": (pipeline, "settle", True),
}


def fail_at(point: str, number: int) -> None:
    """Let the process die at a point's n-th time."""
    owner, name, afterwards = (POINTS | POINTS_OF_INDEXES)[point]
    original: Callable[..., Any] = getattr(owner, name)
    times = 0

    def reached() -> None:
        nonlocal times
        times += 1
        if times == number:
            os._exit(KILLED)

    def plain(*args: Any, **kwargs: Any) -> Any:
        if not afterwards:
            reached()
        result = original(*args, **kwargs)
        if afterwards:
            reached()
        return result

    async def waiting(*args: Any, **kwargs: Any) -> Any:
        if not afterwards:
            reached()
        result = await original(*args, **kwargs)
        if afterwards:
            reached()
        return result

    setattr(owner, name, waiting if original.__code__.co_flags & 0x80 else plain)  # 0x80: a coroutine


def drop_commits(*numbers: int, done: bool) -> None:
    """Lose the answers of these COMMITs of batches, whether they were `done` or not."""
    original = BatchTransaction.commit
    times = 0

    async def unanswered(self: Any, *last: str) -> None:
        nonlocal times
        times += 1
        if times not in numbers:
            await original(self, *last)
            return
        if done:
            await original(self, *last)
        self._connection.terminate()
        raise ConnectionResetError("the answer is lost")

    BatchTransaction.commit = unanswered  # type: ignore[method-assign]


if __name__ == "__main__":
    separator = sys.argv.index("--")
    point, *rest = sys.argv[1:separator]
    sys.argv[1:] = sys.argv[separator + 1 :]
    if point == "drop-commit":
        drop_commits(*map(int, rest[1:]), done=rest[0] == "done")
    else:
        fail_at(point, int(rest[0]))
    main()
