"""What all parts of a run share: what it loads, how, what counts and logs it, and the registry as it was at first."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import Struct, field

from seed_registry.index.inputs import IndexRef
from seed_registry.load.retry_policy import RetryPolicy
from seed_registry.postgres.database_url import choose_url, unverified_host_note
from seed_registry.postgres.session_settings import READ_ONLY
from seed_registry.registry.batch import Writer
from seed_registry.registry.change_records import ChangeRecords
from seed_registry.registry.tables import Tables
from seed_registry.rejects.writer import RejectsFile
from seed_registry.report import Database, Progress, Tally
from seed_registry.settings import EMBEDDED, DatabaseUrl, PoolerName, Settings

# Longer than the longest batch of another program, and well below the limit of an answer.
_LOCK_TIMEOUT_SECONDS: Final = 60
_LOCK_TIMEOUT_SHARE: Final = 0.8


def _unwrapped(writer: Writer, *_: Any) -> Writer:
    return writer


def new_run_id() -> str:
    """Return the id of a run that begins now."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def session_settings(settings: Settings, *, is_reading: bool = False, is_durable: bool = False) -> dict[str, str]:
    """Return the settings of a session, see `RunContext.session_settings`."""
    seconds = min(_LOCK_TIMEOUT_SECONDS, settings.io_timeout_seconds * _LOCK_TIMEOUT_SHARE)
    own = {"lock_timeout": f"{round(seconds * 1000)}ms"}
    return own | (READ_ONLY if is_reading else {}) | ({"synchronous_commit": "on"} if is_durable else {})


def new_retry_policy(
    settings: Settings, url: DatabaseUrl, pooler: PoolerName, tally: Tally, progress: Progress
) -> RetryPolicy:
    """Return how long to retry what fails in sessions to this database."""
    return RetryPolicy(url, settings.retry_for_seconds, settings.io_timeout_seconds, tally, progress, pooler)


class RunContext(Struct):
    """One run.

    Attributes:
        run_id: of the run, of an earlier one if that is resumed.
        open_index: opens an `IndexReader`, like `read_index`; `new_rejects_file` is called like `RejectsFile`.
        wrap_writer: called with a writer, its session, the tables and the recorder, see `OnlyNewerWriter`.
        is_replay: whether it loads rejects again, and no index.
        rejects: the rejects file; none in a dry run.
        has_dropped_indexes: whether the assets lack their indexes for this run, so that no other load may run.
    """

    indexes: Sequence[IndexRef]
    settings: Settings
    progress: Progress
    open_index: Callable[..., AbstractAsyncContextManager[Any]]
    tally: Tally = field(default_factory=Tally)
    run_id: str = field(default_factory=new_run_id)
    new_rejects_file: Callable[..., RejectsFile] = RejectsFile
    wrap_writer: Callable[..., Writer] = _unwrapped
    is_replay: bool = False
    rejects: RejectsFile | None = None
    has_dropped_indexes: bool = False

    @property
    def only_newer(self) -> bool:
        """Whether rows that are newer than their records stay as they are.

        A replay has compared them before; this is for what another load writes in between.
        """
        return self.settings.only_newer or self.is_replay

    @property
    def database_name(self) -> str:
        """The database that the settings name, without its password."""
        return str(choose_url(self.settings.database_url) or EMBEDDED)

    def session_settings(self, *, is_reading: bool = False, is_durable: bool = False) -> dict[str, str]:
        """The settings of a session: a limit of waiting for a lock, so that it is not mistaken for a dead server.

        With `is_durable` its commits wait for the disk, for those that no later batch would miss.
        """
        return session_settings(self.settings, is_reading=is_reading, is_durable=is_durable)

    def retry_policy(self, url: DatabaseUrl, pooler: PoolerName) -> RetryPolicy:
        """How long to retry what fails in sessions to this database."""
        return new_retry_policy(self.settings, url, pooler, self.tally, self.progress)

    @property
    def reads_stdin(self) -> bool:
        """Whether one of the indexes is standard input, which cannot be read twice."""
        return any(index.kind == "stdin" for index in self.indexes)

    @property
    def locked_names(self) -> list[str]:
        """The ledger's names of the indexes that no other load may have meanwhile."""
        return [index.ledger_name for index in self.indexes if index.kind != "stdin"]

    def log_unverified(self) -> None:
        """Log a warning if the connection will be encrypted without a check of who answers."""
        named = choose_url(self.settings.database_url)
        if named is not None and (note := unverified_host_note(named)):
            self.progress.tell("warning", "tls_unverified", note=note)


class RegistryState(Struct, frozen=True):
    """A registry as the first session found it.

    Attributes:
        is_empty: whether it had no assets.
        encoding: of the database.
        has_pooler: whether there is a pooler in between, of whatever kind.
        pooler: what later sessions need not find out again.
    """

    url: DatabaseUrl
    tables: Tables
    is_empty: bool
    encoding: str
    has_pooler: bool
    pooler: PoolerName

    @property
    def checks_records(self) -> bool:
        """Whether the database parses every record that is written, and refuses what jsonb refuses.

        In another encoding it refuses more, and other types take more.
        """
        return self.tables.assets.type("raw") == "jsonb" and self.encoding == "UTF8"


def new_change_records(settings: Settings, state: RegistryState, run_id: str) -> ChangeRecords | None:
    """How the changes of a run are recorded, if the settings ask for it."""
    assets = state.tables.assets
    # By its moment and transaction a row is only found again if no trigger changes them.
    is_first = state.is_empty and assets.has_creation_time and not assets.has_insert_triggers
    return ChangeRecords(run_id, state.tables, is_first) if settings.history else None


class FoundRegistry(Struct, frozen=True):
    """A registry, or the reason why the indexes are compared with an empty one."""

    url: DatabaseUrl | None = None
    database: Database | None = None
    state: RegistryState | None = None
    empty_because: str | None = None
