"""The embedded server, by real servers in temporary homes."""

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import msgspec
import pytest
from typer.testing import CliRunner

from seed_registry.cli.commands import db
from seed_registry.embedded import account, binaries, server
from seed_registry.embedded import home as home_module
from seed_registry.embedded.process import Server
from seed_registry.errors import EmbeddedServerFailed

# Servers are made, started and stopped: that takes its time.
pytestmark = pytest.mark.slow

USER = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
from seed_registry.embedded import server
with server.running(Path(sys.argv[1]), durable=False) as url:
    print(url, flush=True)
    sys.stdin.readline()
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="asks what root does for other users")


@pytest.fixture
def place() -> Iterator[Path]:
    """A short directory that the server's user can pass through; whatever runs in it is stopped in the end."""
    path = Path(tempfile.mkdtemp(prefix="sr", dir="/tmp"))
    path.chmod(0o711)
    yield path
    for directory in path.glob("**/postgres-[0-9][0-9]"):
        with suppress(EmbeddedServerFailed):
            server.stop(directory.parent, int(directory.name[-2:]))
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def template() -> Iterator[Path]:
    """A home with a database, to be copied: initdb takes a second."""
    path = Path(tempfile.mkdtemp(prefix="sr", dir="/tmp"))
    path.chmod(0o711)
    with server.running(path / "home", durable=False):
        pass
    yield path / "home"
    shutil.rmtree(path)


def copied(template: Path, home: Path) -> Path:
    subprocess.run(["cp", "-a", template, home], check=True)
    return home


@pytest.fixture
def home(place: Path, template: Path) -> Path:
    return copied(template, place / "home")


@pytest.fixture
def new_home(place: Path) -> Path:
    return place / "home"


@contextmanager
def user_process(home: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that uses the server until a line reaches its stdin."""
    with subprocess.Popen(
        [sys.executable, "-c", USER, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        try:
            assert process.stdout.readline().startswith("postgresql://")
            yield process
        finally:
            process.kill()


def ask(url: str, query: str) -> Any:
    async def asked() -> Any:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(asked())


def socket_directory(url: str) -> Path:
    return Path(parse_qs(urlsplit(url).query)["host"][0])


def server_pid(home: Path) -> int:
    pid = server.status(home).pid
    assert pid
    return pid


def failure(home: Path, version: int = 18) -> str:
    with pytest.raises(EmbeddedServerFailed) as raised, server.running(home, version, durable=False):
        pass
    message = str(raised.value)
    assert message.count("\n") <= 1
    assert message.replace("\n", "").isprintable()
    return message


@pytest.mark.parametrize("version", [18, 16])
def test_the_server_runs_for_the_block_and_its_database_outlives_it(new_home: Path, version: int) -> None:
    with server.running(new_home, version, durable=False) as url:
        ask(url, "CREATE TABLE kept AS SELECT 7 AS n")
        assert server.status(new_home, version).running
    assert not server.status(new_home, version).running
    with server.running(new_home, version) as url:
        assert ask(url, "SELECT n FROM kept") == 7
        assert ask(url, "SHOW server_version").startswith(f"{version}.")
        assert [ask(url, f"SHOW {name}") for name in ("fsync", "full_page_writes", "synchronous_commit")] == ["on"] * 3


def test_there_is_no_tcp_port_and_records_stay_out_of_the_log(home: Path) -> None:
    with server.running(home, durable=False) as url:
        assert ask(url, "SHOW listen_addresses") == ""
        assert ask(url, "SHOW server_encoding") == "UTF8"
        with pytest.raises(asyncpg.PostgresError):
            ask(url, "SELECT 'canary'::text COLLATE nowhere")
        assert "canary" not in (home / "postgres-18/log").read_text()
        directory = socket_directory(url)
        assert [path.name for path in directory.iterdir() if path.is_socket()] == [".s.PGSQL.5432"]


def test_the_environment_of_postgres_clients_changes_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGPORT": "6000", "PGSSLMODE": "require", "PGHOST": "nowhere", "PGDATA": "/nowhere"}.items():
        monkeypatch.setenv(name, value)
    with server.running(home, durable=False) as url:
        assert ask(url, "SELECT current_database() || ' ' || current_user") == "registry registry"


def test_the_directories_the_log_and_the_socket_are_private(home: Path) -> None:
    with server.running(home, durable=False) as url:
        place = home / "postgres-18"
        for private in (place, place / "data", socket_directory(url)):
            assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert stat.S_IMODE((socket_directory(url) / ".s.PGSQL.5432").stat().st_mode) == 0o700
        for file in (place / "log", place / "users.lock", place / "control.lock", place / "server.lock"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600


@as_root
def test_another_user_cannot_connect(home: Path) -> None:
    nobody = account._account_of("nobody")
    with server.running(home, durable=False) as url:
        programs = binaries.reachable_programs(18, nobody, home)
        refused = nobody.run((programs / "psql", url, "-c", "SELECT 1"))
    assert refused.returncode != 0
    assert "Permission denied" in refused.stderr


@as_root
def test_the_server_runs_as_a_user_that_is_not_root(home: Path) -> None:
    with server.running(home, durable=False):
        pid = server_pid(home)
        assert Path(f"/proc/{pid}").stat().st_uid == account.server_account().uid != 0


@as_root
def test_programs_that_the_server_user_cannot_reach_are_copied_and_run(
    place: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = place / "hidden"
    hidden.mkdir(mode=0o700)
    package = binaries.programs(18).parents[1]
    shutil.copytree(package / "pginstall18", hidden / package.name / "pginstall18")
    shutil.copytree(package.with_name(f"{package.name}.libs"), hidden / f"{package.name}.libs")
    monkeypatch.setattr(binaries, "programs", lambda version: hidden / package.name / "pginstall18/bin")
    with server.running(home, durable=False) as url:
        assert ask(url, "SELECT 1") == 1
    assert stat.S_IMODE(hidden.stat().st_mode) == 0o700
    assert [path.name for path in home.glob("postgres-programs-*")]


@as_root
def test_a_home_that_the_server_user_cannot_reach_is_refused_with_the_fix(place: Path) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    message = failure(closed / "home")
    assert "cannot reach" in message
    assert "SEED_REGISTRY_HOME" in message
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@as_root
def test_a_plain_user_has_a_server_too(place: Path) -> None:
    nobody = account._account_of("nobody")
    path = f"PYTHONPATH={os.pathsep.join(filter(None, sys.path))}"
    pythons = [("env", path, python, "-c") for python in (sys.executable, "/usr/bin/python3")]
    usable = [command for command in pythons if nobody.can(*command, "import seed_registry.embedded.server")]
    if not usable:
        pytest.skip("no Python with this program is within a plain user's reach")
    os.chown(place, nobody.uid, nobody.gid)
    done = nobody.run((*usable[0], USER, str(place / "home")))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("postgresql://")
    assert (place / "home").stat().st_uid == (place / "home/postgres-18/log").stat().st_uid == nobody.uid
    assert stat.S_IMODE((place / "home").stat().st_mode) == 0o700


def test_the_last_of_two_users_stops_the_server_and_the_first_does_not(home: Path) -> None:
    with user_process(home) as first, user_process(home) as second:
        pid = server_pid(home)
        first.communicate("\n")
        assert server.status(home).pid == pid
        second.communicate("\n")
        assert (first.returncode, second.returncode) == (0, 0)
    assert not server.status(home).running


def test_many_users_who_come_and_go_at_once_all_find_a_server(home: Path) -> None:
    users = [
        subprocess.Popen([sys.executable, "-c", USER, str(home)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        for _ in range(8)
    ]
    for process in users:
        assert process.communicate()[0].startswith(b"postgresql://")
        assert process.returncode == 0
    assert not server.status(home).running


def test_the_server_left_by_a_killed_user_is_used_and_then_stopped_by_the_next(home: Path) -> None:
    with user_process(home) as process:
        pid = server_pid(home)
        process.kill()
        process.wait()
    assert server.status(home).pid == pid
    with server.running(home) as url:
        assert server.status(home).pid == pid
        assert ask(url, "SELECT 1") == 1
    assert not server.status(home).running


def test_an_interrupt_from_the_terminal_does_not_reach_the_server(home: Path) -> None:
    with user_process(home) as process:
        pid = server_pid(home)
        assert os.getsid(pid) != os.getsid(process.pid)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    assert not server.status(home).running


def test_what_the_block_raises_comes_out_as_it_is(home: Path) -> None:
    with pytest.raises(KeyError, match="mine"), server.running(home, durable=False):
        raise KeyError("mine")
    assert not server.status(home).running


def test_a_server_killed_hard_recovers_at_the_next_start(home: Path) -> None:
    with server.running(home) as url:
        ask(url, "CREATE TABLE kept AS SELECT 7 AS n")
        os.kill(server_pid(home), signal.SIGKILL)
    with server.running(home) as url:
        assert ask(url, "SELECT n FROM kept") == 7


def test_a_kept_server_runs_until_it_is_stopped(home: Path) -> None:
    server.start_and_keep(home)
    with server.running(home):
        pass
    kept = server.status(home)
    assert (kept.running, kept.kept) == (True, True)
    assert server.stop(home)
    assert not server.stop(home)
    stopped = server.status(home)
    assert (stopped.running, stopped.kept, stopped.url, stopped.pid) == (False, False, None, None)
    assert stopped.size_bytes > 1 << 20


def test_stop_and_reset_refuse_while_a_load_uses_the_server(home: Path) -> None:
    with server.running(home, durable=False) as url:
        server.start_and_keep(home)
        for refused in (server.reset, server.stop):
            with pytest.raises(EmbeddedServerFailed, match="in use by a load"):
                refused(home)
        assert ask(url, "SELECT 1") == 1
    assert not server.status(home).running, "stop was asked for, and the last user saw to it"


def test_reset_deletes_the_database(home: Path) -> None:
    with server.running(home, durable=False) as url:
        ask(url, "CREATE TABLE gone AS SELECT 7 AS n")
    (home / "postgres-18/data.deleted/half").mkdir(parents=True)  # a reset that was killed
    server.reset(home)
    assert not list((home / "postgres-18").glob("data*"))
    with server.running(home, durable=False) as url:
        assert ask(url, "SELECT to_regclass('gone') IS NULL")


@pytest.mark.slow
def test_a_home_may_have_any_name_and_be_moved(place: Path, home: Path) -> None:
    names = [
        "x" * 150,
        "a b",
        "it's",
        "$(touch owned)",
        'say "no"',
        "a,b",
        "straße",
        "100%",
        "back\\slash",
        "`id`",
        "p",
    ]
    for name in names:
        home = home.rename(place / name)
        with server.running(home, durable=False) as url:
            assert ask(url, "SELECT 1") == 1
            directory = socket_directory(url)
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert not directory.exists()
        assert [path.name for path in place.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a\nb", "a\0b"])
def test_a_home_with_a_line_break_or_nul_is_refused(place: Path, name: str) -> None:
    assert "line break or NUL" in failure(place / name)


def test_a_planted_socket_directory_is_refused(place: Path, template: Path) -> None:
    home = copied(template, place / ("x" * 150))
    with server.running(home, durable=False) as url:
        directory = socket_directory(url)
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    directory.symlink_to(elsewhere)
    try:
        assert "is no directory of the user" in failure(home)
    finally:
        directory.unlink()


def test_a_data_directory_without_its_version_is_named_with_the_fix(home: Path) -> None:
    (home / "postgres-18/data/PG_VERSION").unlink()
    message = failure(home)
    assert "postgres-18/data' is not a whole Postgres data directory" in message
    assert "seed-registry db reset" in message


def test_a_data_directory_of_another_major_version_is_named(new_home: Path) -> None:
    with server.running(new_home, 16, durable=False):
        pass
    (new_home / "postgres-16").rename(new_home / "postgres-18")
    assert "is of Postgres '16', the server is Postgres 18" in failure(new_home)


def test_a_corrupted_data_directory_is_named_with_the_last_log_line_and_the_fix(home: Path) -> None:
    (home / "postgres-18/data/global/pg_control").write_bytes(b"\0" * 8192)
    message = failure(home)
    assert "did not start: 'database files are incompatible with server'" in message
    assert "seed-registry db reset" in message


def test_a_stranger_named_in_a_stale_pid_file_is_named_and_lives(home: Path) -> None:
    account = Server(home, 18).account
    user = None if account.uid == os.geteuid() else account.uid
    pid_file = home / "postgres-18/data/postmaster.pid"
    with subprocess.Popen(["sleep", "600"], user=user) as stranger:
        try:
            lines = [stranger.pid, home / "postgres-18/data", 1, 5432, "/tmp", "", " 1 1", "ready"]
            pid_file.write_text("\n".join(map(str, lines)) + "\n")
            pid_file.chmod(0o600)
            os.chown(pid_file, account.uid, account.gid)
            assert not server.status(home).running
            assert not server.stop(home)
            message = failure(home)
            assert f"if process {stranger.pid} is no Postgres server, remove" in message
            assert stranger.poll() is None
        finally:
            stranger.kill()
    with server.running(home) as url:
        assert ask(url, "SELECT 1") == 1


def test_a_killed_initialisation_leaves_nothing_in_the_way(home: Path) -> None:
    (home / "postgres-18/data").rename(home / "postgres-18/data.half")
    with server.running(home, durable=False) as url:
        assert ask(url, "SELECT 1") == 1
    assert not (home / "postgres-18/data.half").exists()


def test_a_killed_server_whose_process_id_went_to_a_stranger_starts_again(home: Path) -> None:
    account = Server(home, 18).account
    with subprocess.Popen(["sleep", "600"], user=None if account.uid == os.geteuid() else account.uid) as stranger:
        try:
            with server.running(home) as url:
                ask(url, "CREATE TABLE kept AS SELECT 7 AS n")
                pid = server_pid(home)
                os.kill(pid, signal.SIGKILL)
            for name in ("data/postmaster.pid", "run/.s.PGSQL.5432.lock", "server.lock"):
                file = home / "postgres-18" / name
                file.write_text(file.read_text().replace(str(pid), str(stranger.pid), 1))
            with server.running(home) as url:
                assert ask(url, "SELECT n FROM kept") == 7
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_failed_initialisation_is_reported_and_leaves_nothing_in_the_way(
    new_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        account.OsAccount, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, "", "error: no\x1b")
    )
    monkeypatch.setattr(account.OsAccount, "can", lambda *_: True)
    assert "no database could be created in" in failure(new_home)
    assert not list((new_home / "postgres-18").glob("data*"))
    monkeypatch.undo()
    with server.running(new_home, durable=False) as url:
        assert ask(url, "SELECT 1") == 1


def test_a_directory_of_another_user_is_refused(new_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home_module.make_home_directory(new_home)
    with monkeypatch.context() as patched:
        patched.setattr(server, "server_account", lambda: account.OsAccount(os.geteuid() + 7, os.getegid()))
        (new_home / "postgres-18").mkdir()
        assert "is no directory of the user" in failure(new_home)


def test_a_full_disk_is_reported_as_such(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "postgres-18/data/global/pg_control").unlink()
    usage = shutil.disk_usage("/")._replace(free=5 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert "the disk has only 5 MiB left" in failure(home)


def test_a_version_that_is_not_bundled_is_refused(new_home: Path) -> None:
    assert "Postgres 17 are not installed" in failure(new_home, 17)


def test_a_home_that_cannot_be_made_is_named(place: Path) -> None:
    (place / "file").touch()
    assert f"'{place}/file" in failure(place / "file/home")


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEED_REGISTRY_HOME", "relative")
    assert home_module.home_directory() == Path.cwd() / "relative"
    monkeypatch.delenv("SEED_REGISTRY_HOME")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert home_module.home_directory() == Path("/var/lib/seed-registry")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert home_module.home_directory() == Path("/data/seed-registry")
    monkeypatch.setenv("XDG_DATA_HOME", "not/absolute")
    monkeypatch.setenv("HOME", "/home/me")
    assert home_module.home_directory() == Path("/home/me/.local/share/seed-registry")


def test_status_of_a_home_that_does_not_exist_makes_nothing(new_home: Path) -> None:
    assert server.status(new_home) == server.Status(
        running=False,
        version=18,
        data_directory=str(new_home / "postgres-18/data"),
        url=None,
        pid=None,
        size_bytes=0,
        kept=False,
    )
    assert not server.stop(new_home)
    server.reset(new_home)
    assert not new_home.exists()


def test_db_commands_start_ask_and_stop(new_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEED_REGISTRY_HOME", str(new_home))
    run = CliRunner().invoke
    assert isinstance(run(db.app, ["url"]).exception, EmbeddedServerFailed)
    assert run(db.app, ["start"]).output == run(db.app, ["url"]).output
    assert msgspec.json.decode(run(db.app, ["status", "--json"]).stdout, type=server.Status).kept
    assert "until db stop" in run(db.app, ["status"]).output
    assert run(db.app, ["stop"]).output == "stopped\n"
    assert run(db.app, ["stop"]).output == "it was not running\n"
    assert run(db.app, ["reset"], input="n\n").exit_code == 1
    assert (new_home / "postgres-18/data").exists()
    assert run(db.app, ["reset", "--yes"]).output == "deleted\n"
    assert not (new_home / "postgres-18/data").exists()


def test_db_psql_passes_arguments_on_and_returns_its_exit_code(home: Path) -> None:
    command = [sys.executable, "-c", "from seed_registry.cli.commands.db import app; app()", "psql"]
    environment = os.environ | {"SEED_REGISTRY_HOME": str(home)}
    asked = subprocess.run(
        [*command, "-Atc", "SELECT 6 * 7"], env=environment, capture_output=True, text=True, check=False
    )
    assert (asked.returncode, asked.stdout) == (0, "42\n"), asked.stderr
    failed = subprocess.run([*command, "-c", "nonsense"], env=environment, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert not server.status(home).running
