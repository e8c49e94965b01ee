"""How long failures that pass are retried, with which waits, and what counts and logs each retry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import stamina
from msgspec import Struct

from seed_registry.errors import DatabaseUnavailable
from seed_registry.postgres.failures import has_no_room, is_lock_timeout, is_starting_or_full
from seed_registry.report import Progress, Tally
from seed_registry.settings import DatabaseUrl, PoolerName

_FIRST_WAIT_SECONDS: Final = 0.1
LONGEST_WAIT_SECONDS: Final = 10.0


class RetryPolicy(Struct, frozen=True):
    """How long to retry, and what counts and logs it.

    Attributes:
        url: of the database, for messages.
        seconds: after these the last failure is final; 0 tries once.
        io_seconds: the longest that the database may take to answer.
    """

    url: DatabaseUrl
    seconds: float
    io_seconds: float
    tally: Tally
    progress: Progress
    pooler: PoolerName = "auto"

    def attempts(self, is_passing: Callable[[Exception], bool]) -> AsyncIterator[stamina.Attempt]:
        """Attempts, each with its wait before it, until one succeeds or fails for no passing reason."""
        return stamina.retry_context(
            on=is_passing,
            attempts=None if self.seconds else 1,
            timeout=self.seconds or None,
            wait_initial=_FIRST_WAIT_SECONDS,
            wait_max=LONGEST_WAIT_SECONDS,
        ).__aiter__()

    def connect_attempts(self, *, is_rejoined: bool = False) -> AsyncIterator[stamina.Attempt]:
        """Attempts of the first connection; a server that is starting or full may pass.

        One that is not there passes only if it `is_rejoined`: another process of the run has a connection to it.
        """

        def may_pass(exc: Exception) -> bool:
            is_back_soon = is_rejoined and isinstance(exc, DatabaseUnavailable) and not has_no_room(exc)
            if not (is_starting_or_full(exc) or is_lock_timeout(exc) or is_back_soon):
                return False
            self.log_retry(exc)
            return True

        return self.attempts(may_pass)

    def log_retry(self, exc: Exception, **fields: Any) -> None:
        """Count and log that what failed is tried again."""
        self.tally.retries += 1
        reason = exc.args[0] if exc.args else type(exc).__name__
        self.progress.tell("warning", "retrying", reason=str(reason).splitlines()[0], **fields)
