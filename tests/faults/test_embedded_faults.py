"""The embedded server under loads that die: what they leave is used or cleared, and no server in use is stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from scene import SESSIONS, WATCHDOG_SECONDS, Scene, eventually

from seed_registry.embedded.process import Server
from seed_registry.embedded.server import running, status, stop
from seed_registry.errors import EmbeddedServerFailed
from seed_registry.settings import DatabaseUrl

# An environment variable that is empty names no database.
NONE = DatabaseUrl("")


class Embedded(Scene):
    """A scene without a database URL: the load starts and stops the server of its home."""

    def __init__(self, home: Path, directory: Path, seed: int, **options: object) -> None:
        super().__init__(NONE, home, directory, seed, **options)  # type: ignore[arg-type]

    @property
    def pid(self) -> int:
        """Of the server."""
        pid = status(self.home).pid
        assert pid
        return pid

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look into the database, whether the server runs or not."""
        with running(self.home) as url:
            self.url = DatabaseUrl(url)
            yield
            self.url = NONE

    def wait_for_server(self) -> None:
        """Look into the database of a server that somebody else starts."""
        server = Server(self.home, 18)
        eventually(server.ready)
        self.url = DatabaseUrl(str(server.ready()))

    def check_finishes(self) -> None:
        """The command does its job, and the server it started is gone then."""
        ended = self.load()
        assert ended.code == 0, ended.stderr
        assert not status(self.home).running
        with self.looking():
            self.check_done(ended)


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """A home with a database and the registry's tables, to be copied: initdb takes a second."""
    path = Path(tempfile.mkdtemp(prefix="sr-", dir="/tmp"))
    path.chmod(0o711)
    scene = Embedded(path / "home", path, 0, records=1)
    assert scene.load().code == 0
    with scene.looking():
        scene.fetch("truncate registry.sources, registry.assets, seed_registry.runs cascade")
    yield path / "home"
    shutil.rmtree(path)


@pytest.fixture
def home(template: Path) -> Iterator[Path]:
    """A home of the test's own; whatever runs in it is stopped in the end."""
    path = Path(tempfile.mkdtemp(prefix="sr-", dir="/tmp"))
    path.chmod(0o711)
    subprocess.run(["cp", "-a", template, path / "home"], check=True)
    yield path / "home"
    for directory in path.glob("**/postgres-[0-9][0-9]"):
        with suppress(EmbeddedServerFailed):
            stop(directory.parent, int(directory.name[-2:]))
    shutil.rmtree(path)


@pytest.mark.parametrize("seed", range(5))
def test_a_stale_pid_file_is_no_obstacle(home: Path, tmp_path: Path, seed: int) -> None:
    scene = Embedded(home, tmp_path, seed)
    pid_file = home / "postgres-18/data/postmaster.pid"
    with scene.looking():
        server, text = scene.pid, pid_file.read_text()
        if seed % 2:  # the whole server died, with the process that held its lock
            os.kill(server, signal.SIGKILL)
            eventually(lambda: not status(home).running)
    account = Server(home, 18).account
    with subprocess.Popen(["sleep", "600"], user=None if account.uid == os.geteuid() else account.uid) as stranger:
        # Its process id was free again, or went to somebody else; the latter only what it wrote itself can tell.
        pid = [server, stranger.pid][seed % 2]
        pid_file.write_text(text.replace(str(server), str(pid), 1))
        pid_file.chmod(0o600)
        os.chown(pid_file, account.uid, account.gid)
        if seed % 2:
            lock = home / "postgres-18/server.lock"
            lock.write_text(lock.read_text().replace(str(server), str(pid), 1))
        try:
            scene.check_finishes()
            assert stranger.poll() is None
        finally:
            stranger.kill()


@pytest.mark.parametrize("seed", range(10))
def test_the_server_that_a_killed_load_left_is_used_and_then_stopped(home: Path, tmp_path: Path, seed: int) -> None:
    scene = Embedded(home, tmp_path, seed)
    with scene.looking():
        scene.close_gate(scene.chance.randint(0, 9))
    process = scene.start()
    scene.wait_for_server()
    scene.at_gate(process)
    scene.kill(process)
    scene.check_safe()
    server = scene.pid
    scene.open_gate()
    if seed % 2:  # the server, too
        os.kill(server, signal.SIGKILL)
        eventually(lambda: not status(home).running)
    scene.url = NONE
    scene.check_finishes()
    eventually(lambda: gone(server))


@pytest.mark.parametrize("seed", range(5))
def test_a_path_too_long_for_a_socket(home: Path, tmp_path: Path, seed: int) -> None:
    folder = home.parent / ("x" * (120 + seed * 20))
    folder.mkdir(mode=0o711)
    scene = Embedded(home.rename(folder / "home"), tmp_path, seed)
    assert len(str(scene.home)) > 120
    scene.check_finishes()
    with scene.looking():
        socket = Server(scene.home, 18).postmaster()[1]
        assert socket
        assert len(str(socket)) < 100
    assert not socket.exists()


@pytest.mark.parametrize("seed", range(5))
def test_a_database_of_another_major_version_is_named_and_left_as_it_is(home: Path, tmp_path: Path, seed: int) -> None:
    scene = Embedded(home, tmp_path, seed)
    version_file = home / "postgres-18/data/PG_VERSION"
    version = ["9.6", "16", "17", "19", "180"][seed]
    version_file.write_text(f"{version}\n")
    before = files(home)
    ended = scene.load()
    assert (ended.code, ended.report) == (1, {})
    assert f"is of Postgres '{version}', the server is Postgres 18" in ended.stderr
    assert files(home) == before
    assert not status(home).running
    version_file.write_text("18\n")
    scene.check_finishes()


@pytest.mark.parametrize("seed", range(5))
def test_two_loads_share_a_server_and_the_first_to_end_leaves_it_to_the_other(
    home: Path, tmp_path: Path, seed: int
) -> None:
    scene = Embedded(home, tmp_path, seed)
    with scene.looking():
        scene.close_gate(6)
    process = scene.start()
    scene.wait_for_server()
    scene.at_gate(process)
    server = scene.pid
    check_guest(scene, Embedded(home, tmp_path, seed + 100, records=100))
    assert scene.pid == server
    scene.open_gate()
    ended = scene.wait(process)
    scene.url = NONE
    assert ended.code == 0, ended.stderr
    eventually(lambda: gone(server))
    assert not status(home).running
    with scene.looking():
        scene.check_state()


def check_guest(host: Embedded, guest: Embedded) -> None:
    """Another load comes, and ends well, badly, by a signal or by a kill."""
    if host.seed == 0:
        assert guest.load("--dry-run").code == 0
        return
    if host.seed == 1:
        guest.path.write_bytes(b"no index")
        assert guest.load().code == 1
        return
    before = host.ask(SESSIONS)
    process = guest.start()
    eventually(lambda: host.ask(SESSIONS) > before)
    number = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL][host.seed - 2]
    process.send_signal(number)
    process.communicate(timeout=WATCHDOG_SECONDS)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]


def gone(pid: int) -> bool:
    """Whether the process has ended, or is a zombie that process 1 has not reaped yet."""
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:1]
    except FileNotFoundError:
        return True


def files(home: Path) -> dict[Path, tuple[int, int]]:
    """Sizes and times of what belongs to the database."""
    found = (home / "postgres-18/data").rglob("*")
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in found}
