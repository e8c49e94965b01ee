"""Everything that can go wrong with the world, as one family.

A bad *record* is data: it becomes a `Reject` and the load goes on. A bad *world* is one of these exceptions. Each
message is one or two lines that name the thing and the mend; none ever holds a password or unescaped input.

    SeedRegistryError                exit 1
    ├── SettingsInvalid              exit 2   a setting or argument that cannot be
    ├── IndexUnreadable                       no such file, a directory, no permission, not compressed as it claims
    ├── IndexNotUnderstood                    empty, not JSON, or of a shape no dialect knows
    ├── IndexesFailed                         some of many indexes, the others are loaded
    ├── IndexBroken                           cut off or malformed in the middle, with the byte offset
    ├── StorageFailed                         a file of ours (rejects, source cache, temporary) cannot be written
    ├── DatabaseUnavailable                   cannot connect, login refused, connection lost
    ├── DatabaseRefused                       no privilege, disk full, read-only, anything that no retry will mend
    ├── SchemaMismatch                        the tables that exist cannot take the records
    │   └── SchemaMissing                     they are not there at all
    ├── EmbeddedServerFailed                  the bundled server cannot be set up, started or stopped
    ├── TooManyRejects               exit 3
    ├── VerificationFailed           exit 4
    │   └── IndexesIncomplete                 with --complete: a portal has more records than were read
    └── Interrupted                  exit 128 + signal number
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from seed_registry.report import Report


class SeedRegistryError(Exception):
    """The family's root; `exit_code` is what the command line ends with."""

    exit_code: ClassVar[int] = 1


class SettingsInvalid(SeedRegistryError):
    """A setting or argument is out of range or contradicts another."""

    exit_code = 2


class IndexUnreadable(SeedRegistryError):
    """The bytes of an index cannot be had."""


class IndexNotUnderstood(SeedRegistryError):
    """The bytes are there, but they are no index that the program knows."""


class IndexBroken(SeedRegistryError):
    """An index that began well is cut off or malformed; what came before it is kept.

    `offset` counts bytes of the unpacked index.
    """

    def __init__(self, message: str, *, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


class IndexesFailed(SeedRegistryError):
    """Some of several indexes could not be loaded; `report` tells which, and what became of the others."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


class StorageFailed(SeedRegistryError):
    """A file of ours cannot be written: rejects, source cache, or the temporary files of a load."""


class DatabaseUnavailable(SeedRegistryError):
    """There is no connection to the database, or it was lost."""


class DatabaseRefused(SeedRegistryError):
    """The database is there and says no, for a reason that repeating will not mend.

    `sqlstate` is the five-character code (https://www.postgresql.org/docs/current/errcodes-appendix.html).
    """

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class IndexTaken(DatabaseRefused):
    """Another load has one of the indexes; `pids` are the server's sessions that say so, where they are known."""

    def __init__(self, message: str, *, pids: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.pids = list(pids)


class CommitsLost(DatabaseRefused):
    """The database does not have batches any more that it had confirmed; the same call goes on from what it has."""


class SchemaMismatch(SeedRegistryError):
    """The registry tables cannot take the records."""


class SchemaMissing(SchemaMismatch):
    """The registry tables are not there."""


class EmbeddedServerFailed(SeedRegistryError):
    """The bundled Postgres server cannot be set up, started or stopped."""


class TooManyRejects(SeedRegistryError):
    """More records were rejected than `max_rejects` allows, or all of them.

    `report` tells what became of those before, or of all where the run `is_whole`: every record was read.
    """

    exit_code = 3
    report: Report | None = None
    is_whole = False


class VerificationFailed(SeedRegistryError):
    """The database does not hold what the index said; `report` tells which checks failed.

    None did where nothing was loaded, for the index does not list the sources of its assets.
    """

    exit_code = 4

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


class IndexesIncomplete(VerificationFailed):
    """The database holds what the indexes said, but they do not hold all that their portals have, and they should."""


class Interrupted(SeedRegistryError):
    """A signal stopped the run; what was committed stays."""

    def __init__(self, signal_number: int, name: str, left: str | None = None) -> None:
        super().__init__(f"stopped by {name}; {left or 'what was committed stays, the same command finishes the job'}")
        self.exit_code = 128 + signal_number  # type: ignore[misc]  # an instance's own code shadows the class's
