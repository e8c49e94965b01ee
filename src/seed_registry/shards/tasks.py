"""The steps of a run by shards, as its coordinator gives them to an engine, and their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, Protocol

from msgspec import Struct
from msgspec.structs import replace

from seed_registry import errors
from seed_registry.errors import DatabaseRefused, IndexBroken, SeedRegistryError
from seed_registry.index.inputs import IndexRef
from seed_registry.ledger.run_sources import Begin
from seed_registry.settings import DatabaseUrl, Settings

Step = Literal["scan", "sieve", "load", "settle"]
_SAME_INDEX: Final = (
    "all workers need the same file under the same path; for a URL, headers and credentials are in the environment "
    "of each: SEED_REGISTRY_HEADER='Name: value'"
)
Place = tuple[int, int]  # the position of an index in the run, and the number of a shard in it


class Job(Struct, frozen=True):
    """A run, as a worker needs to know it. It holds the URL with its password, so it travels through a pipe only.

    Workers of a cluster put it together themselves, see `shared_job`.

    Attributes:
        settings: of the run.
        url: of the database.
        is_empty: whether the table of assets was, when the run began.
        salt: of the content hashes; workers with another would write other rows.
        parent: the process that ends its workers by ending.
        begin: of this attempt of the run, if it retires.
        worker: the name of the worker, of a cluster, whose machines may see different files.
        first: the position in the run of the first of `indexes`, see `StepJobs`.
    """

    run_id: str
    settings: Settings
    indexes: list[IndexRef]
    url: DatabaseUrl
    is_empty: bool
    salt: str
    parent: int
    begin: Begin | None = None
    worker: str = ""
    first: int = 0


class Task(Struct, frozen=True):
    """One step of a run for one worker: for a shard, or for parts of the keys."""

    step: Step
    index: int = 0
    number: int = 0
    parts: tuple[int, ...] = ()

    @property
    def place(self) -> Place:
        """Of the shard."""
        return self.index, self.number


class Failure(Struct, frozen=True):
    """An error of ours that happened in a worker; exceptions with arguments of their own cannot travel.

    Attributes:
        worker: of a cluster, if the reason may be in its machine.
    """

    kind: str
    message: str
    offset: int = -1
    sqlstate: str | None = None
    worker: str = ""

    @classmethod
    def of(cls, exc: SeedRegistryError, worker: str = "") -> Failure:
        """From an error; `worker` is named where another worker may see another file or server."""
        offset = exc.offset if isinstance(exc, IndexBroken) else -1
        own = "" if isinstance(exc, (IndexBroken, errors.IndexNotUnderstood)) else worker
        return cls(type(exc).__name__, str(exc), offset, getattr(exc, "sqlstate", None), own)

    def is_same(self, other: Failure | None) -> bool:
        """Whether two workers found the same."""
        return other is not None and replace(other, worker=self.worker) == self

    def error(self) -> SeedRegistryError:
        """The error, to be raised."""
        kind: type[SeedRegistryError] = getattr(errors, self.kind, SeedRegistryError)
        message = self._located()
        if self.kind == IndexBroken.__name__:
            return IndexBroken(message, offset=self.offset)
        if issubclass(kind, (errors.DatabaseUnavailable, DatabaseRefused)):
            error: SeedRegistryError = kind(message)
            error.sqlstate = self.sqlstate  # type: ignore[attr-defined]  # both have it
            return error
        try:
            return kind(message)
        except TypeError:
            return SeedRegistryError(message)

    def _located(self) -> str:
        if not self.worker:
            return self.message
        problem, _, fix = self.message.partition("\n")
        if self.kind == errors.IndexUnreadable.__name__:
            fix = fix or _SAME_INDEX
        return "\n".join(filter(None, [f"{problem}, on worker {self.worker}", fix]))


class Result(Struct, frozen=True):
    """How a task ended; what it found is in the ledger."""

    seconds: float
    retries: int = 0
    failure: Failure | None = None


class Engine(Protocol):
    """Performs steps, many at a time, in any order."""

    async def perform(
        self, job: Job, tasks: Sequence[Task], done: Callable[[Task, Result], None], lost: Callable[[Task, str], None]
    ) -> None:
        """Perform tasks; `done` is called with each, `lost` when the worker of one was lost and it is tried again.

        Raises:
            SeedRegistryError: the first failure; the other tasks are cancelled.
        """

    def end_silent(self, workers: Sequence[str]) -> None:
        """End workers, by their names, that have not been seen for long; what they were at is tried again."""
