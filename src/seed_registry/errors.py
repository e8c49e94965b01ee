"""The exceptions of this program, one family.

A bad *record* is data: it becomes a `Reject` and the load goes on. A failure of the environment (files, database,
settings) is one of these exceptions. Each message is one or two lines that name the thing and the fix; none holds a
password or unescaped input.

    SeedRegistryError                exit 1
    ├── SettingsInvalid              exit 2   a setting or argument out of range, or one that contradicts another
    │   └── DatabaseUrlInvalid                a database URL that cannot be used
    ├── IndexUnreadable                       no such file, a directory, no permission, not compressed as it claims
    ├── IndexNotUnderstood                    empty, not JSON, or of a shape no dialect knows
    ├── IndexesFailed                         some of many indexes, the others are loaded
    ├── IndexBroken                           cut off or malformed in the middle, with the byte offset
    ├── WorkersLost                           worker processes that ended again and again
    ├── ClusterUnavailable                    a Dask cluster that cannot be reached, or whose workers cannot load
    ├── StorageFailed                         a file of ours (rejects, source cache, temporary) cannot be written
    ├── DatabaseUnavailable                   cannot connect, login refused, connection lost
    │   └── PoolerExhausted                   a pooler has no server connection left
    ├── DatabaseRefused                       no privilege, disk full, read-only, anything that no retry will fix
    │   ├── IndexTaken                        another load holds one of the indexes
    │   └── CommitsLost                       a crashed server lost commits that it had acknowledged
    ├── SchemaMismatch                        the tables that exist cannot take the records
    │   └── SchemaMissing                     there are no tables
    ├── EmbeddedServerFailed                  the bundled server cannot be set up, started or stopped
    ├── TooManyRejects               exit 3
    ├── NotRetired                   exit 3   the load stands, but --retire retired nothing: guard, or incomplete index
    ├── VerificationFailed           exit 4
    │   └── IndexesIncomplete                 with --complete: a portal has more records than were read
    ├── OutputClosed                          nothing is said: whoever read standard output has closed it
    └── Interrupted                  exit 128 + signal number
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from seed_registry.report import Report


class SeedRegistryError(Exception):
    """The base class; `exit_code` is the exit code of the command line."""

    exit_code: ClassVar[int] = 1


class SettingsInvalid(SeedRegistryError):
    """A setting or argument is out of range or contradicts another."""

    exit_code = 2


class DatabaseUrlInvalid(SettingsInvalid):
    """A database URL cannot be used, for this `reason`."""

    def __init__(self, reason: str, subject: str = "--database-url") -> None:
        super().__init__(f"{subject} is not usable: {reason}")
        self.reason = reason


class IndexUnreadable(SeedRegistryError):
    """The bytes of an index cannot be read."""


class IndexNotUnderstood(SeedRegistryError):
    """The bytes can be read, but no dialect understands them."""


class IndexBroken(SeedRegistryError):
    """An index is cut off or malformed in the middle; the records before that are kept.

    `offset` counts bytes of the unpacked index.
    """

    def __init__(self, message: str, *, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


class IndexesFailed(SeedRegistryError):
    """Some of several indexes could not be loaded; `report` names them, and has the counts of the others."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


class StorageFailed(SeedRegistryError):
    """A file of ours cannot be written: rejects, source cache, or the temporary files of a load."""


class _DatabaseError(SeedRegistryError):
    """`sqlstate` is the server's code, if it sent one.

    https://www.postgresql.org/docs/current/errcodes-appendix.html lists them.
    """

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class DatabaseUnavailable(_DatabaseError):
    """There is no connection to the database, or it was lost."""


class PoolerExhausted(DatabaseUnavailable):
    """A pooler accepts the login, but has no server connection left for it."""


class DatabaseRefused(_DatabaseError):
    """The database refuses, for a reason that a retry will not fix."""


class IndexTaken(DatabaseRefused):
    """Another load holds one of the indexes; `pids` are its sessions on the server, where they are known."""

    def __init__(self, message: str, *, pids: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.pids = list(pids)


class CommitsLost(DatabaseRefused):
    """The database lost commits that it had acknowledged; the same call continues from those it still has."""


class WorkersLost(SeedRegistryError):
    """Worker processes ended again and again while they were at the same step."""


class ClusterUnavailable(SeedRegistryError):
    """A Dask cluster cannot be reached, was lost, or has workers that cannot load; `--processes` needs none."""


class SchemaMismatch(SeedRegistryError):
    """The registry tables cannot take the records."""


class SchemaMissing(SchemaMismatch):
    """There are no registry tables."""


class EmbeddedServerFailed(SeedRegistryError):
    """The bundled Postgres server cannot be set up, started or stopped."""


class TooManyRejects(SeedRegistryError):
    """More records were rejected than `max_rejects` allows, or all of them.

    `report` has the counts of those before, or of all where the run `is_whole`: every record was read.
    """

    exit_code = 3
    report: Report | None = None
    is_whole = False


class NotRetired(SeedRegistryError):
    """The load is done, but nothing was retired; `report.retirement` says why."""

    exit_code = 3

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


class VerificationFailed(SeedRegistryError):
    """The database differs from the index; `report` has the failed checks.

    It has none where nothing was loaded because the index does not list the sources of its assets.
    """

    exit_code = 4

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


class IndexesIncomplete(VerificationFailed):
    """The database equals the indexes, but with `complete` they lack records that their portals declare."""


class OutputClosed(SeedRegistryError):
    """Whoever read standard output has closed it, which is no failure to be told of."""


class Interrupted(SeedRegistryError):
    """A signal stopped the run; what was committed stays."""

    def __init__(self, signal_number: int, name: str, left: str | None = None) -> None:
        super().__init__(f"stopped by {name}; {left or 'what was committed stays, the same command finishes the job'}")
        self.exit_code = 128 + signal_number  # type: ignore[misc]  # an instance's own code shadows the class's


def first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first of our own errors, or else the first failure."""
    causes = list(_leaves(group))
    return next((exc for exc in causes if isinstance(exc, SeedRegistryError)), causes[0])


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterable[BaseException]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(exc)
        else:
            yield exc
