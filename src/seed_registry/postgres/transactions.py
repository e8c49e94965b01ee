"""Transactions of few round trips: BEGIN travels with what comes first in it, COMMIT with what comes last.

asyncpg waits for the answer to each message. A batch of 500 records takes some milliseconds, and each answer may wait
for a chunk of the index to be decoded.
"""

from __future__ import annotations

from typing import Any

import asyncpg

from seed_registry.postgres.pooler import beginning


class BatchTransaction:
    """The transaction of one batch; inside another transaction a savepoint."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection
        if connection.is_in_transaction():
            self._begin, self._commit = "SAVEPOINT batch", "RELEASE SAVEPOINT batch"
            self._rollback = "ROLLBACK TO SAVEPOINT batch;\nRELEASE SAVEPOINT batch"
        else:
            self._begin, self._commit, self._rollback = beginning(connection), "COMMIT", "ROLLBACK"

    async def start(self, *first: str) -> None:
        """Begin; `first` are statements without arguments, executed in it, or empty.

        Raises:
            asyncpg.PostgresError: one of them fails; there is something to roll back all the same.
        """
        await self._connection.execute(_joined(self._begin, *first))

    async def commit(self, *last: str) -> None:
        """Commit; `last` are statements without arguments, executed before, or empty.

        Raises:
            asyncpg.PostgresError: one of them or COMMIT fails; nothing is committed.
        """
        await self._connection.execute(_joined(*last, self._commit))

    async def rollback(self) -> None:
        """Roll back, if there is anything to roll back."""
        if self._connection.is_in_transaction():
            await self._connection.execute(self._rollback)


def _joined(*statements: str) -> str:
    return ";\n".join(statement.strip().rstrip(";") for statement in statements if statement)
