"""Transactions with few round trips: BEGIN is sent with the first statements, COMMIT with the last.

asyncpg waits for the answer to each message. A batch of 500 records takes some milliseconds, and each answer may wait
for a chunk of the index to be decoded.
"""

from __future__ import annotations

from typing import Any

import asyncpg

from seed_registry.postgres.pooler import begin_statements


class BatchTransaction:
    """The transaction of one batch; inside another transaction a savepoint."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection
        if connection.is_in_transaction():
            self._begin, self._commit = "SAVEPOINT batch", "RELEASE SAVEPOINT batch"
            self._rollback = "ROLLBACK TO SAVEPOINT batch;\nRELEASE SAVEPOINT batch"
        else:
            self._begin, self._commit, self._rollback = begin_statements(connection), "COMMIT", "ROLLBACK"

    async def start(self, *first: str) -> None:
        """Begin, and execute the `first` statements, which have no arguments or are empty.

        Raises:
            asyncpg.PostgresError: one of them fails; the transaction has begun and must be rolled back.
        """
        await self._connection.execute(_joined(self._begin, *first))

    async def commit(self, *last: str) -> None:
        """Execute the `last` statements, which have no arguments or are empty, and commit.

        Raises:
            asyncpg.PostgresError: one of them or COMMIT fails; nothing is committed.
        """
        await self._connection.execute(_joined(*last, self._commit))

    async def rollback(self) -> None:
        """Roll back, if it has begun."""
        if self._connection.is_in_transaction():
            await self._connection.execute(self._rollback)


def _joined(*statements: str) -> str:
    return ";\n".join(statement.strip().rstrip(";") for statement in statements if statement)
