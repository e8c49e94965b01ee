"""Transactions of few round trips: COMMIT travels with what comes last before it.

asyncpg waits for the answer to each message. A batch of 500 records takes some milliseconds, and each answer may wait
for a chunk of the index to be decoded.
"""

from __future__ import annotations

from typing import Any

import asyncpg

from seed_registry.registry.pooling import beginning


class BatchTransaction:
    """The transaction of one batch; inside another transaction a savepoint."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection
        if connection.is_in_transaction():
            self._begin, self._commit = "SAVEPOINT batch", "RELEASE SAVEPOINT batch"
            self._rollback = "ROLLBACK TO SAVEPOINT batch;\nRELEASE SAVEPOINT batch"
        else:
            self._begin, self._commit, self._rollback = beginning(connection), "COMMIT", "ROLLBACK"

    async def start(self) -> None:
        """Begin."""
        await self._connection.execute(self._begin)

    async def commit(self, *last: str) -> None:
        """Commit; `last` are statements without arguments, executed before, or empty.

        Raises:
            asyncpg.PostgresError: one of them or COMMIT fails; nothing is committed.
        """
        statements = [statement.strip().rstrip(";") for statement in (*last, self._commit) if statement]
        await self._connection.execute(";\n".join(statements))

    async def rollback(self) -> None:
        """Roll back, if there is anything to roll back."""
        if self._connection.is_in_transaction():
            await self._connection.execute(self._rollback)
