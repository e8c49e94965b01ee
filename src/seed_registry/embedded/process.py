"""One embedded server: its files, its locks, starting and stopping it.

    <home>/postgres-18/        0700, of the server's user
        data/  log  log.old    the data directory, what this server said, what the last one said
        run/                   the socket; in the temporary directory where this path is long or odd
        users.lock             held (shared) by every user; the one who can have it alone stops the server
        control.lock           held while starting and stopping
        server.lock            held by the server itself, inherited: free means that no server of ours lives, whatever
                               postmaster.pid says; its text tells which server had it last
        keep                   `db start` was here: nobody stops the server but `db stop`

flock is what the kernel takes back from the dead: no count or process id of ours can be stale.
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

from seed_registry.embedded.binaries import OsAccount, quote_text, reachable_programs, wrap_os_errors
from seed_registry.errors import EmbeddedServerFailed

_SOCKET = ".s.PGSQL.5432"
_SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103  # sun_path without its NUL: unix(7), macOS unix(4)
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._+-]+")  # no shell, no URL and no list of directories reads these otherwise
_START_SECONDS = 60  # crash recovery replays up to max_wal_size
_STOP_SECONDS = 120  # a fast stop writes all of shared_buffers out
_POLL_SECONDS = 0.02
_LOW_DISK_BYTES = 64 << 20  # initdb alone needs about as much
_COMPLAINT = re.compile(r"(?:FATAL|PANIC|ERROR|error): +(.*)")


class Server(Struct, frozen=True):
    """The server of one home and major version."""

    home: Path
    version: int

    @property
    def directory(self) -> Path:
        """Everything of this server."""
        return self.home / f"postgres-{self.version}"

    @property
    def data(self) -> Path:
        """The Postgres data directory."""
        return self.directory / "data"

    @property
    def account(self) -> OsAccount:
        """Who the server runs as: the owner of its directory, which `OsAccount.own` saw to."""
        owner = self.directory.stat()
        return OsAccount(owner.st_uid, owner.st_gid)

    @contextmanager
    def controlled(self) -> Iterator[None]:
        """Nobody else starts or stops the server during the block."""
        with wrap_os_errors(self.directory), held(self.directory / "control.lock", fcntl.LOCK_EX):
            yield

    @contextmanager
    def unused(self, otherwise: str) -> Iterator[None]:
        """Nobody uses the server, nor begins to before the end of the block."""
        with held_if_free(self.directory / "users.lock") as lock:
            if lock is None:
                raise EmbeddedServerFailed(
                    f"the embedded server in {quote_text(self.directory)} is in use by a load; {otherwise}"
                )
            yield

    def leave_to_others(self) -> None:
        """After a user dropped its lock: the last one out stops the server.

        Not a kept one, and not one that is still recovering: stopped, it would have to begin again.
        """
        with self.controlled(), held_if_free(self.directory / "users.lock") as lock:
            if lock is not None and not (self.directory / "keep").exists() and self.ready():
                self.stop()

    def start(self, *, durable: bool = True, keep: bool = False) -> str:
        """The URL of the server, made and started if need be."""
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
        """Stops the server and waits for its end; False when none was alive."""
        if not self.alive():
            return False
        _, socket_directory = self.postmaster()
        # As the server's user, pg_ctl can signal no stranger; that a server lives, we know from its lock.
        self.pg("pg_ctl", "stop", "-D", ".", "-m", "fast", "-W", cwd=self.data)
        deadline = time.monotonic() + _STOP_SECONDS
        while self.alive():
            if time.monotonic() > deadline:
                raise EmbeddedServerFailed(
                    f"the embedded server in {quote_text(self.directory)} did not stop within {_STOP_SECONDS} s; "
                    f"its last words: {self.last_words()}"
                )
            time.sleep(_POLL_SECONDS)
        if socket_directory:
            with suppress(OSError):
                socket_directory.rmdir()
        return True

    def alive(self) -> bool:
        """Whether any process of a server lives, ready or not."""
        lock_file = self.directory / "server.lock"
        if not lock_file.exists():
            return False
        with held_if_free(lock_file, fcntl.LOCK_SH) as lock:
            return lock is None

    def identity(self) -> str:
        """Which server postmaster.pid speaks of: process id, directory and start time; empty when there is none."""
        try:
            text = (self.data / "postmaster.pid").read_text(errors="backslashreplace")
        except FileNotFoundError:
            return ""
        return ascii(text.splitlines()[:3])

    def postmaster(self) -> tuple[int | None, Path | None]:
        """Process id and socket directory as the server wrote them down; to be believed while it is alive."""
        try:
            lines = (self.data / "postmaster.pid").read_text(errors="surrogateescape").splitlines()
            # https://www.postgresql.org/docs/current/storage-file-layout.html; written line by line
            return int(lines[0]), Path(lines[4]) if lines[4] else None
        except (FileNotFoundError, IndexError, ValueError):
            return None, None

    def ready(self) -> str | None:
        """The URL, once the server takes connections."""
        if not self.alive():
            return None
        _, socket_directory = self.postmaster()
        if not socket_directory:
            return None
        url = url_of(socket_directory)
        return url if self.pg("pg_isready", "-q", "-d", url).returncode == 0 else None

    def wait_until_ready(self, *, durable: bool) -> str:
        """Launches the server when none is alive, and waits for it."""
        deadline = time.monotonic() + _START_SECONDS
        launched = False
        while time.monotonic() < deadline:
            if url := self.ready():
                return url
            with held_if_free(self.directory / "server.lock") as lock:
                if lock is not None and launched:
                    raise EmbeddedServerFailed(
                        f"the embedded server in {quote_text(self.directory)} did not start: {self.last_words()}\n"
                        f"{self.mend()}"
                    )
                if lock is not None:
                    self.launch(lock, durable=durable)
                    launched = True
            time.sleep(_POLL_SECONDS)
        raise EmbeddedServerFailed(
            f"the embedded server in {quote_text(self.directory)} is still starting after {_START_SECONDS} s, "
            f"most likely recovering from a crash: {self.last_words()}\nit goes on by itself; try again in a while"
        )

    def launch(self, lock: int, *, durable: bool) -> None:
        """Starts Postgres in the background, which inherits the lock."""
        log = self.directory / "log"
        if log.exists():
            log.replace(self.directory / "log.old")
        socket_directory = self.socket_directory()
        if self.identity() in ("", (self.directory / "server.lock").read_text()):
            # Of a server of ours, and dead, since we have its lock. Postgres would take whoever has its process id now
            # (a stranger, or itself as a zombie where process 1 is slow to bury) for a living server, and not start.
            (self.data / "postmaster.pid").unlink(missing_ok=True)
            (socket_directory / f"{_SOCKET}.lock").unlink(missing_ok=True)
        # On the command line, where nothing in the data directory can override them.
        settings = server_settings(self.home, socket_directory, durable=durable)
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        # pg_ctl hands this to a shell, so no path of the user's is in it. The lock's copy lives as long as the server.
        started = self.pg("pg_ctl", "start", "-D", ".", "-l", "../log", "-W", "-o", options, cwd=self.data, fds=(lock,))
        if started.returncode:
            raise EmbeddedServerFailed(
                f"the embedded server in {quote_text(self.directory)} did not start: {_last_line(started.stderr)}"
            )

    def socket_directory(self) -> Path:
        """Short and plain enough for a socket, and private."""
        name = f"seed-registry-{self.account.uid}-{sha256(os.fsencode(self.directory)).hexdigest()[:16]}"
        for place in (self.directory / "run", Path(tempfile.gettempdir(), name), Path("/tmp", name)):  # noqa: S108
            path = str(place / _SOCKET)
            if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES and _PLAIN_PATH.fullmatch(path):
                return self.account.own(place)
        raise AssertionError  # /tmp is short and plain

    def initialise(self, *, durable: bool) -> None:
        """Makes the data directory beside its place and moves it there whole: a killed initdb leaves nothing behind."""
        self.sweep()
        made = Path(tempfile.mkdtemp(prefix="data.", dir=self.directory))
        os.chown(made, self.account.uid, self.account.gid)
        # Trust, because whoever passes the socket's private directory is this user or root.
        options = ("--encoding=UTF8", "--no-locale", "--username=registry", "--auth=trust")
        sync = () if durable else ("--no-sync",)
        single = ("--single", "-D", ".", "-c", "exit_on_error=on", "postgres")
        with self.account.named(self.directory) as env:
            initdb = self.pg("initdb", "-D", ".", *options, *sync, cwd=made, env=env)
            if initdb.returncode == 0:
                initdb = self.pg("postgres", *single, cwd=made, text="CREATE DATABASE registry\n", env=env)
        if initdb.returncode:
            mend = self.mend()  # before the disk has room again
            self.sweep()
            raise EmbeddedServerFailed(
                f"no database could be made in {quote_text(self.directory)}: {_last_line(initdb.stderr)}\n{mend}"
            )
        made.rename(self.data)
        directory = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def check_data(self) -> None:
        """Refuses a data directory that is not whole or of another major version."""
        try:
            found = (self.data / "PG_VERSION").read_text(errors="replace").strip()
        except FileNotFoundError as exc:
            raise EmbeddedServerFailed(
                f"{quote_text(self.data)} is not a whole Postgres data directory (PG_VERSION is missing)\n{self.mend()}"
            ) from exc
        if found != str(self.version):
            raise EmbeddedServerFailed(
                f"{quote_text(self.data)} is of Postgres {quote_text(found)}, the server is Postgres {self.version}\n"
                "move it back where it came from, or begin anew without its data: seed-registry db reset"
            )

    def sweep(self) -> None:
        """Deletes what killed initialisations and resets left."""
        for leftover in self.directory.glob("data.*"):
            shutil.rmtree(leftover)

    def last_words(self) -> str:
        """The last complaint in the log."""
        try:
            return _last_line((self.directory / "log").read_text(errors="backslashreplace"))
        except OSError:
            return "it left no log"

    def mend(self) -> str:
        """What the user can do about a server that does not start, by what is found around it."""
        free_bytes = shutil.disk_usage(self.directory).free
        if free_bytes < _LOW_DISK_BYTES:
            return f"the disk has only {free_bytes >> 20} MiB left: free some"
        pid, _ = self.postmaster()
        if pid and _process_exists(pid):
            return f"if process {pid} is no Postgres server, remove {quote_text(self.data / 'postmaster.pid')}"
        return f"see {quote_text(self.directory / 'log')}; to begin anew without its data: seed-registry db reset"

    def pg(
        self,
        program: str,
        *arguments: str,
        cwd: Path = Path("/"),
        text: str = "",
        fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs one of the bundled programs as the server's user."""
        where = reachable_programs(self.version, self.account, self.home)
        return self.account.run((where / program, *arguments), cwd=cwd, text=text, fds=fds, env=env)


@contextmanager
def held(path: Path, how: int) -> Iterator[int]:
    """The descriptor of a lock file, locked during the block."""
    with wrap_os_errors(path):
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)  # Python's descriptors are not inherited
    try:
        fcntl.flock(lock, how)
        yield lock
    finally:
        os.close(lock)


@contextmanager
def held_if_free(path: Path, how: int = fcntl.LOCK_EX) -> Iterator[int | None]:
    """As `held`, without waiting: None when another holds it."""
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(held(path, how | fcntl.LOCK_NB))
        except BlockingIOError:
            lock = None
        yield lock


def url_of(socket_directory: Path) -> str:
    """Everything is said, for PGPORT and PGSSLMODE fill in what is not."""
    host = quote(os.fsencode(socket_directory), safe="")
    return f"postgresql://registry@/registry?host={host}&port=5432&sslmode=disable"


def server_settings(home: Path, socket_directory: Path, *, durable: bool) -> dict[str, str]:
    """Settings of Postgres for a server whose data lie in `home`; without `durable` a crash may lose everything."""
    shared_buffers = min(max(_memory_bytes() // 8, 128 << 20), 4 << 30)
    max_wal_size = max(min(shutil.disk_usage(home).free // 4, 4 << 30), 64 << 20)
    settings = {
        "listen_addresses": "",
        "port": "5432",
        "unix_socket_directories": str(socket_directory),
        "unix_socket_permissions": "0700",
        "max_connections": "200",
        "shared_buffers": f"{shared_buffers >> 20}MB",
        # One bulk loader and no replica: little WAL, written in few and long checkpoints.
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
    """The last complaint, or else the last line."""
    complaints = _COMPLAINT.findall(log) or log.split("\n")
    return quote_text(next((line for line in reversed(complaints) if line.strip()), "no message"))


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    return True
