"""One embedded server: its files, its locks, starting and stopping it.

    <home>/postgres-18/        0700, of the server's user
        data/  log  log.old    the data directory, the log of this server and of the one before
        run/                   the socket; in the temporary directory if this path is too long or not plain
        users.lock             held (shared) by every user; the last one locks it alone, and stops the server
        control.lock           held while starting and stopping
        server.lock            held by the server itself, inherited: free means that no server of ours runs, whatever
                               postmaster.pid says; its text identifies the server that held it last
        keep                   made by `db start`: only `db stop` stops the server

The kernel releases the flock of a dead process: no count or process id can be stale.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from msgspec import Struct

from seed_registry.embedded.account import OsAccount
from seed_registry.embedded.binaries import reachable_programs
from seed_registry.embedded.home import wrap_os_errors
from seed_registry.errors import EmbeddedServerFailed
from seed_registry.escape import quote_text

_SOCKET = ".s.PGSQL.5432"
_SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103  # sun_path without its NUL: unix(7), macOS unix(4)
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._+-]+")  # the same in a shell, a URL and a list of directories
_START_SECONDS = 60  # crash recovery replays up to max_wal_size
_STOP_SECONDS = 120  # a fast stop writes all of shared_buffers out
_POLL_SECONDS = 0.02
_LOW_DISK_BYTES = 64 << 20  # initdb alone needs about as much
_ERROR = re.compile(r"(?:FATAL|PANIC|ERROR|error): +(.*)")


class Server(Struct, frozen=True):
    """The server of one home and major version."""

    home: Path
    version: int

    @property
    def directory(self) -> Path:
        """The directory of this server."""
        return self.home / f"postgres-{self.version}"

    @property
    def data(self) -> Path:
        """The Postgres data directory."""
        return self.directory / "data"

    @property
    def account(self) -> OsAccount:
        """The user that the server runs as: the owner of its directory, see `OsAccount.own`."""
        owner = self.directory.stat()
        return OsAccount(owner.st_uid, owner.st_gid)

    @contextmanager
    def controlled(self) -> Iterator[None]:
        """Keep others from starting or stopping the server during the body."""
        with wrap_os_errors(self.directory), held(self.directory / "control.lock", fcntl.LOCK_EX):
            yield

    @contextmanager
    def unused(self, fix: str) -> Iterator[None]:
        """Keep others from using the server during the body; raise with this `fix` if one does."""
        with held_if_free(self.directory / "users.lock") as lock:
            if lock is None:
                raise EmbeddedServerFailed(
                    f"the embedded server in {quote_text(self.directory)} is in use by a load; {fix}"
                )
            yield

    def leave_to_others(self) -> None:
        """Stop the server if its last user has released its lock.

        It runs on if it is kept, and while it recovers from a crash: stopped, it would have to start over.
        """
        with self.controlled(), held_if_free(self.directory / "users.lock") as lock:
            if lock is not None and not (self.directory / "keep").exists() and self.ready():
                self.stop()

    def start(self, *, durable: bool = True, keep: bool = False) -> str:
        """Create and start the server if need be, and return its URL."""
        with self.controlled():
            if not self.data.exists():
                self.initialise(durable=durable)
            self.check_data()
            url = self.wait_until_ready(durable=durable)
            (self.directory / "server.lock").write_text(self.identity())
            if keep:
                (self.directory / "keep").touch(mode=0o600)
            return url

    def stop(self) -> bool:
        """Stop the server and wait for its end; return False when none was running."""
        if not self.alive():
            return False
        _, socket_directory = self.postmaster()
        # As the server's user, pg_ctl can signal no process of others; the lock shows that the server runs.
        self.pg("pg_ctl", "stop", "-D", ".", "-m", "fast", "-W", cwd=self.data)
        deadline = time.monotonic() + _STOP_SECONDS
        while self.alive():
            if time.monotonic() > deadline:
                raise EmbeddedServerFailed(
                    f"the embedded server in {quote_text(self.directory)} did not stop within {_STOP_SECONDS} s; "
                    f"its last log line: {self.last_words()}"
                )
            time.sleep(_POLL_SECONDS)
        if socket_directory:
            with suppress(OSError):
                socket_directory.rmdir()
        return True

    def alive(self) -> bool:
        """Whether any process of a server runs, ready or not."""
        lock_file = self.directory / "server.lock"
        if not lock_file.exists():
            return False
        with held_if_free(lock_file, fcntl.LOCK_SH) as lock:
            return lock is None

    def identity(self) -> str:
        """Return process id, directory and start time of the server in postmaster.pid; empty when there is none."""
        try:
            text = (self.data / "postmaster.pid").read_text(errors="backslashreplace")
        except FileNotFoundError:
            return ""
        return ascii(text.splitlines()[:3])

    def postmaster(self) -> tuple[int | None, Path | None]:
        """Return process id and socket directory from postmaster.pid; valid while the server is alive."""
        try:
            lines = (self.data / "postmaster.pid").read_text(errors="surrogateescape").splitlines()
            # https://www.postgresql.org/docs/current/storage-file-layout.html; written line by line
            return int(lines[0]), Path(lines[4]) if lines[4] else None
        except (FileNotFoundError, IndexError, ValueError):
            return None, None

    def ready(self) -> str | None:
        """Return the URL, once the server accepts connections."""
        if not self.alive():
            return None
        _, socket_directory = self.postmaster()
        if not socket_directory:
            return None
        url = url_of(socket_directory)
        return url if self.pg("pg_isready", "-q", "-d", url).returncode == 0 else None

    def wait_until_ready(self, *, durable: bool) -> str:
        """Launch the server when none is alive, and wait for it."""
        deadline = time.monotonic() + _START_SECONDS
        launched = False
        while time.monotonic() < deadline:
            if url := self.ready():
                return url
            with held_if_free(self.directory / "server.lock") as lock:
                if lock is not None and launched:
                    raise EmbeddedServerFailed(
                        f"the embedded server in {quote_text(self.directory)} did not start: {self.last_words()}\n"
                        f"{self.fix()}"
                    )
                if lock is not None:
                    self.launch(lock, durable=durable)
                    launched = True
            time.sleep(_POLL_SECONDS)
        raise EmbeddedServerFailed(
            f"the embedded server in {quote_text(self.directory)} is still starting after {_START_SECONDS} s, "
            f"most likely recovering from a crash: {self.last_words()}\nit continues by itself; try again later"
        )

    def launch(self, lock: int, *, durable: bool) -> None:
        """Start Postgres in the background, which inherits the lock."""
        log = self.directory / "log"
        if log.exists():
            log.replace(self.directory / "log.old")
        socket_directory = self.socket_directory()
        if self.identity() in ("", (self.directory / "server.lock").read_text()):
            # It is of a dead server of ours, since we hold its lock. If another process has its process id by now (or
            # process 1 has not reaped it yet), Postgres would take that for a running server, and not start.
            (self.data / "postmaster.pid").unlink(missing_ok=True)
            (socket_directory / f"{_SOCKET}.lock").unlink(missing_ok=True)
        # On the command line, where no file in the data directory can override them.
        settings = server_settings(self.home, socket_directory, durable=durable)
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        # pg_ctl passes this to a shell, so it holds no path of the user's. The server inherits the lock.
        started = self.pg("pg_ctl", "start", "-D", ".", "-l", "../log", "-W", "-o", options, cwd=self.data, fds=(lock,))
        if started.returncode:
            raise EmbeddedServerFailed(
                f"the embedded server in {quote_text(self.directory)} did not start: {_last_line(started.stderr)}"
            )

    def socket_directory(self) -> Path:
        """Return a private directory whose path is short and plain enough for a socket."""
        name = f"seed-registry-{self.account.uid}-{sha256(os.fsencode(self.directory)).hexdigest()[:16]}"
        for place in (self.directory / "run", Path(tempfile.gettempdir(), name), Path("/tmp", name)):  # noqa: S108
            path = str(place / _SOCKET)
            if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES and _PLAIN_PATH.fullmatch(path):
                return self.account.own(place)
        raise AssertionError  # /tmp is short and plain

    def initialise(self, *, durable: bool) -> None:
        """Create the data directory beside its place and move it there: a killed initdb leaves no partial one."""
        self.sweep()
        made = Path(tempfile.mkdtemp(prefix="data.", dir=self.directory))
        os.chown(made, self.account.uid, self.account.gid)
        # Trust, because only this user and root can reach the socket in its private directory.
        options = ("--encoding=UTF8", "--no-locale", "--username=registry", "--auth=trust")
        sync = () if durable else ("--no-sync",)
        single = ("--single", "-D", ".", "-c", "exit_on_error=on", "postgres")
        with self.account.named(self.directory) as env:
            initdb = self.pg("initdb", "-D", ".", *options, *sync, cwd=made, env=env)
            if initdb.returncode == 0:
                initdb = self.pg("postgres", *single, cwd=made, text="CREATE DATABASE registry\n", env=env)
        if initdb.returncode:
            fix = self.fix()  # before `sweep` makes room on the disk
            self.sweep()
            raise EmbeddedServerFailed(
                f"no database could be created in {quote_text(self.directory)}: {_last_line(initdb.stderr)}\n{fix}"
            )
        made.rename(self.data)
        directory = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def check_data(self) -> None:
        """Raise if the data directory is not whole or of another major version."""
        try:
            found = (self.data / "PG_VERSION").read_text(errors="replace").strip()
        except FileNotFoundError as exc:
            raise EmbeddedServerFailed(
                f"{quote_text(self.data)} is not a whole Postgres data directory (PG_VERSION is missing)\n{self.fix()}"
            ) from exc
        if found != str(self.version):
            raise EmbeddedServerFailed(
                f"{quote_text(self.data)} is of Postgres {quote_text(found)}, the server is Postgres {self.version}\n"
                "move it back where it came from, or start over without its data: seed-registry db reset"
            )

    def sweep(self) -> None:
        """Delete what killed initialisations and resets left."""
        for leftover in self.directory.glob("data.*"):
            shutil.rmtree(leftover)

    def last_words(self) -> str:
        """Return the last error in the log."""
        try:
            return _last_line((self.directory / "log").read_text(errors="backslashreplace"))
        except OSError:
            return "it left no log"

    def fix(self) -> str:
        """Return the fix for a server that does not start, by the state of its disk and files."""
        free_bytes = shutil.disk_usage(self.directory).free
        if free_bytes < _LOW_DISK_BYTES:
            return f"the disk has only {free_bytes >> 20} MiB left: free some"
        pid, _ = self.postmaster()
        if pid and _process_exists(pid):
            return f"if process {pid} is no Postgres server, remove {quote_text(self.data / 'postmaster.pid')}"
        return f"see {quote_text(self.directory / 'log')}; to start over without its data: seed-registry db reset"

    def pg(
        self,
        program: str,
        *arguments: str,
        cwd: Path = Path("/"),
        text: str = "",
        fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run one of the bundled programs as the server's user."""
        where = reachable_programs(self.version, self.account, self.home)
        return self.account.run((where / program, *arguments), cwd=cwd, text=text, fds=fds, env=env)


@contextmanager
def held(path: Path, how: int) -> Iterator[int]:
    """Yield the descriptor of a lock file, locked during the body."""
    with wrap_os_errors(path):
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)  # Python's descriptors are not inherited
    try:
        fcntl.flock(lock, how)
        yield lock
    finally:
        os.close(lock)


@contextmanager
def held_if_free(path: Path, how: int = fcntl.LOCK_EX) -> Iterator[int | None]:
    """Like `held`, without waiting: None when another process holds it."""
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(held(path, how | fcntl.LOCK_NB))
        except BlockingIOError:
            lock = None
        yield lock


def url_of(socket_directory: Path) -> str:
    """Return the URL of the server; it is complete, for PGPORT and PGSSLMODE would fill in the rest."""
    host = quote(os.fsencode(socket_directory), safe="")
    return f"postgresql://registry@/registry?host={host}&port=5432&sslmode=disable"


def server_settings(home: Path, socket_directory: Path, *, durable: bool) -> dict[str, str]:
    """Return the settings of a server whose data lie in `home`; without `durable` a crash may lose all of them."""
    shared_buffers = min(max(_memory_bytes() // 8, 128 << 20), 4 << 30)
    max_wal_size = max(min(shutil.disk_usage(home).free // 4, 4 << 30), 64 << 20)
    settings = {
        "listen_addresses": "",
        "port": "5432",
        "unix_socket_directories": str(socket_directory),
        "unix_socket_permissions": "0700",
        "max_connections": "200",
        "shared_buffers": f"{shared_buffers >> 20}MB",
        # One bulk loader and no replica: little WAL, and few long checkpoints.
        "max_wal_size": f"{max_wal_size >> 20}MB",
        "checkpoint_timeout": "15min",
        "wal_level": "minimal",
        "max_wal_senders": "0",
        "jit": "off",
        # DETAIL, CONTEXT, parameters and statements hold text of the records.
        "log_error_verbosity": "terse",
        "log_parameter_max_length_on_error": "0",
        "log_min_error_statement": "panic",
    }
    return settings if durable else settings | {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


def _memory_bytes() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # "max" where a container has no limit
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return memory


def _last_line(log: str) -> str:
    """Return the last error, or else the last line."""
    errors = _ERROR.findall(log) or log.split("\n")
    return quote_text(next((line for line in reversed(errors) if line.strip()), "no message"))


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    return True
