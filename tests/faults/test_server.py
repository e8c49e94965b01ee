"""The server fails: sessions end, it crashes, is full, refuses. The load goes on, or stops and can be repeated."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest
from gate import PLACES, gate, keep_ledger, outsider
from scene import SESSIONS, WAITING, Ended, Scene, eventually

from seed_registry.embedded.process import Server
from seed_registry.embedded.server import running
from seed_registry.registry import ddl
from seed_registry.settings import DatabaseUrl

WORKERS = 3  # of a scene

TERMINATE = """
select pg_terminate_backend(pid) from pg_stat_activity
where datname = current_database() and application_name = 'seed-registry'
"""

# Which sessions wrote, in gate's own schema.
SEEN = """
create table gates.seen (pid int primary key);
create function gates.see() returns trigger language plpgsql set search_path = pg_catalog as $$
begin
  insert into gates.seen values (pg_backend_pid()) on conflict do nothing;
  return null;
end $$;
create trigger see after insert on registry.assets for each statement execute function gates.see();
"""
OUT_OF_MEMORY = """
create sequence public.turn;
create function public.exhaust() returns trigger language plpgsql set search_path = pg_catalog as $$
begin
  if nextval('public.turn') >= {number} then
    raise exception 'out of memory' using errcode = '53200';
  end if;
  return new;
end $$;
create trigger memory before insert on registry.assets for each row execute function public.exhaust();
"""


def somewhere(scene: Scene, number: int) -> tuple[str, int]:
    """A place of a load, each in its turn, and how many rows come there before the one that waits."""
    place = list(PLACES)[number % len(PLACES)]
    return place, scene.chance.randint(1, 20 if place == "checkpoint" else 900)


@pytest.mark.parametrize("seed", range(50))
def test_one_terminated_session_costs_one_retry(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int
) -> None:
    scene = Scene(database_url, home, tmp_path, seed)
    with gate(scene, *somewhere(scene, seed)) as held:
        process = scene.start()
        assert scene.ask(f"select pg_terminate_backend({held.arrived(process)})")
        ended = scene.wait(process)
    scene.check_done(ended)
    assert ended.report["retries"] == 1, ended.stderr


@pytest.mark.parametrize("seed", range(10))
def test_all_sessions_terminated_at_once(database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int) -> None:
    scene = Scene(database_url, home, tmp_path, seed)
    with gate(scene, *somewhere(scene, seed)) as held:
        process = scene.start()
        held.arrived(process)
        killed = scene.fetch(TERMINATE)
        ended = scene.wait(process)
    scene.check_done(ended)
    assert 1 <= ended.report["retries"] <= len(killed), ended.stderr


@pytest.mark.parametrize("seed", range(20))
def test_a_canceled_statement_is_repeated_on_the_same_connection(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int
) -> None:
    scene = Scene(database_url, home, tmp_path, seed)
    with gate(scene, *somewhere(scene, seed)) as held, outsider(scene.url) as other:
        other.do(SEEN)
        process = scene.start()
        victim = held.arrived(process)
        assert scene.ask(f"select pg_cancel_backend({victim})")
        ended = scene.wait(process)
    scene.check_done(ended)
    assert ended.report["retries"] == 1, ended.stderr
    assert "canceling statement due to user request" in ended.stderr
    wrote = {pid for (pid,) in scene.fetch("select pid from gates.seen")}
    assert victim in wrote
    assert len(wrote) == WORKERS


# Crashes and stops, of a server of our own


class Machine:
    """A server that may be stopped and filled."""

    def __init__(self, home: Path) -> None:
        self.server = Server(home, 18)
        self.url = ""
        self.up()

    def up(self) -> None:
        """Start it, if it does not run."""
        self.url = self.server.start(durable=False)

    def down(self, mode: str) -> None:
        """Stop it, and wait for its end."""
        self.server.pg("pg_ctl", "stop", "-D", ".", "-m", mode, "-W", cwd=self.server.data)
        eventually(lambda: not self.server.alive())

    @contextmanager
    def database(self) -> Iterator[DatabaseUrl]:
        """A database with the registry's tables."""
        name = f"test_{secrets.token_hex(6)}"
        url = DatabaseUrl(self.url.replace("/registry?", f"/{name}?"))
        with outsider(DatabaseUrl(self.url)) as other:
            other.do(f"create database {name}")
        asyncio.run(prepared(url))
        try:
            yield url
        finally:
            self.up()
            with outsider(DatabaseUrl(self.url)) as other:
                other.do(f"drop database {name} with (force)")


async def prepared(url: DatabaseUrl) -> None:
    connection = await asyncpg.connect(url.reveal)
    await ddl.apply(connection)
    await connection.close()


@pytest.fixture(scope="module")
def machine(place: Path) -> Iterator[Machine]:
    """A server that other tests do not use."""
    with running(place / "own", 18, durable=False):
        machine = Machine(place / "own")
        with outsider(DatabaseUrl(machine.url)) as other:
            # What is committed and not awaited stays in memory for long: a crash loses it.
            other.do("alter system set wal_writer_delay = '10s'")
            other.do("select pg_reload_conf()")
        yield machine


@pytest.fixture
def own_url(machine: Machine) -> Iterator[DatabaseUrl]:
    """A database on it."""
    with machine.database() as url:
        yield url


def sweep(scene: Scene) -> None:
    """Drop the temporary tables of sessions that a crash ended, as autovacuum would in a while."""
    eventually(lambda: scene.ask(SESSIONS) == 0)
    for (name,) in scene.fetch("select oid::regclass::text from pg_class where relpersistence = 't' and relkind = 'r'"):
        assert name.endswith((".seed_registry_assets", ".seed_registry_sources")), name
        scene.fetch(f"drop table {name}")


def can_connect(scene: Scene) -> bool:
    """Whether the server has recovered."""
    try:
        return bool(scene.ask("select true"))
    except (asyncpg.PostgresError, OSError):
        return False


def check_survived(scene: Scene, ended: Ended) -> None:
    """It went on; from where the server was, if that had lost what it had confirmed."""
    sweep(scene)
    scene.check_done(ended)
    assert ended.report["retries"] or '"run_restarted"' in ended.stderr, ended.stderr


def check_no_reject(scene: Scene) -> None:
    """Nothing was rejected but what no server would have taken."""
    assert {line["offset"] for line in scene.told_rejects(whole=False)} <= set(scene.model.rejected)


@pytest.mark.parametrize("seed", range(20))
def test_a_crash_of_the_server_is_survived(
    machine: Machine, own_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int
) -> None:
    scene = Scene(own_url, home, tmp_path, seed)
    with gate(scene, *somewhere(scene, seed)) as held:
        process = scene.start()
        held.arrived(process)
        machine.down("immediate")
        time.sleep([0, 2, 5][seed % 3])
        machine.up()
        ended = scene.wait(process)
    check_survived(scene, ended)


@pytest.mark.parametrize("seed", range(10))
def test_a_killed_server_process_takes_all_sessions_with_it_and_the_load_survives(
    machine: Machine, own_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int
) -> None:
    scene = Scene(own_url, home, tmp_path, seed)
    with gate(scene, *somewhere(scene, seed)) as held:
        process = scene.start()
        os.kill(held.arrived(process), signal.SIGKILL)
        ended = scene.wait(process)
    check_survived(scene, ended)


@pytest.mark.parametrize("seed", range(6))
def test_a_crash_that_empties_an_unlogged_table_is_noticed_and_what_it_held_is_loaded_again(
    machine: Machine, own_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int
) -> None:
    scene = Scene(own_url, home, tmp_path, seed)
    scene.fetch("alter table registry.assets set unlogged")
    if seed >= 3:  # a reload that finds most rows there
        assert scene.load().code == 0
        scene.fetch("delete from registry.assets where hashtext(asset_key) % 5 = 0")
        scene.rejects.unlink()
    scene.close_gate(seed + 3)
    process = scene.start()
    scene.at_gate(process)
    pid = scene.ask(f"{WAITING.replace('count(*)', 'pid')} limit 1")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{pid}").exists() and can_connect(scene))
    scene.open_gate()
    ended = scene.wait(process)
    check_survived(scene, ended)


@pytest.mark.parametrize("seed", range(5))
def test_a_fast_stop_of_the_server_loses_nothing(
    machine: Machine, own_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int
) -> None:
    scene = Scene(own_url, home, tmp_path, seed)
    with gate(scene, *somewhere(scene, seed)) as held:
        process = scene.start()
        held.arrived(process)
        machine.down("fast")
        machine.up()
        ended = scene.wait(process)
    assert ended.report["retries"] >= 1
    scene.check_done(ended)


# Full disks


@contextmanager
def small_disk(path: Path, megabytes: int, machine: Machine | None = None) -> Iterator[Path]:
    """A file system of its own, which the server may write to."""
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", path], check=False)
    if mounted.returncode:
        pytest.skip("a small disk can be mounted by root only")
    try:
        if machine is not None:
            os.chown(path, machine.server.account.uid, machine.server.account.gid)
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@contextmanager
def filled(disk: Path, leaving_bytes: int = 0) -> Iterator[None]:
    """No room on it during the block."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4_096)):
            pass
    os.truncate(filler, filler.stat().st_size - leaving_bytes)
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def tablespace(url: DatabaseUrl, disk: Path) -> Iterator[None]:
    """The assets on a disk of their own."""
    with outsider(url) as other:
        other.do(f"create tablespace small location '{disk}'")
        other.do("alter table registry.assets set tablespace small")
    try:
        yield
    finally:
        with outsider(url) as other:
            other.do("alter table registry.assets set tablespace pg_default")
            other.do("drop tablespace small")


@pytest.mark.parametrize("seed", range(5))
def test_a_full_tablespace_stops_the_load_until_there_is_room(
    machine: Machine, own_url: DatabaseUrl, place: Path, home: Path, tmp_path: Path, seed: int
) -> None:
    scene = Scene(own_url, home, tmp_path, seed)
    with small_disk(place / f"disk-{seed}", 64, machine) as disk, tablespace(own_url, disk):
        with gate(scene, ["copy", "upsert"][seed % 2], scene.chance.randint(1, 100)) as held:
            process = scene.start()
            held.arrived(process)
            with filled(disk):
                held.open()
                ended = scene.wait(process)
        check_stopped(scene, ended, "is full", "make room, then load again")
        scene.check_resumes()


def check_stopped(scene: Scene, ended: Ended, *words: str) -> None:
    """It says so at once, and blames no record."""
    assert ended.code == 1, (ended.code, ended.stderr)
    error = ended.stderr.splitlines()
    error = error[next(number for number, line in enumerate(error) if line.startswith("error: ")) :]
    assert all(word in "\n".join(error) for word in words), error
    assert '"retrying"' not in ended.stderr
    check_no_reject(scene)


@pytest.mark.parametrize("seed", range(5))
def test_a_full_disk_of_the_rejects_stops_the_load_until_there_is_room(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int
) -> None:
    scene = Scene(database_url, home, tmp_path, seed, invalid=5)
    with small_disk(tmp_path / "disk", 1) as disk:
        scene.rejects = disk / "rejects"
        with filled(disk, leaving_bytes=seed * 8_192):
            ended = scene.load()
        check_stopped(scene, ended, str(scene.rejects), "No space left on device")
        scene.check_resumes()


@pytest.fixture
def small_log(place: Path) -> Iterator[tuple[Machine, Path]]:
    """A server whose write-ahead log lies on a disk of its own, in small segments; everybody writes his part."""
    home = place / f"log-{secrets.token_hex(2)}"
    with running(home, 18, durable=False):
        machine = Machine(home)
        with outsider(DatabaseUrl(machine.url)) as other:
            # The server's own writer of the log would be the one that stops it, and tell nobody why.
            lazy = ("wal_writer_delay = '10s'", "wal_writer_flush_after = '1GB'")
            for setting in (*lazy, "wal_buffers = '64kB'", "min_wal_size = '2MB'"):
                other.do(f"alter system set {setting}")
        machine.down("fast")
        server = machine.server
        assert server.pg("pg_resetwal", "--wal-segsize=1", "-D", ".", cwd=server.data).returncode == 0
        with small_disk(home / "disk", 64, machine) as disk:
            subprocess.run(["cp", "-a", f"{server.data}/pg_wal", disk], check=True)
            (server.data / "pg_wal").rename(home / "log")
            (server.data / "pg_wal").symlink_to(disk / "pg_wal")
            machine.up()
            yield machine, disk
            machine.down("immediate")


@pytest.mark.parametrize("seed", range(2))
def test_a_full_disk_of_the_write_ahead_log_stops_the_load_until_there_is_room(
    small_log: tuple[Machine, Path], home: Path, tmp_path: Path, seed: int
) -> None:
    machine, disk = small_log
    with machine.database() as url:
        scene = Scene(url, home, tmp_path, seed, records=3_000)
        with gate(scene, ["copy", "upsert"][seed % 2], scene.chance.randint(1, 100)) as held:
            process = scene.start("--retry-for", 3)
            held.arrived(process)
            with filled(disk):
                held.open()
                ended = scene.wait(process)
                eventually(lambda: not machine.server.alive())
        machine.up()
        sweep(scene)
        assert ended.code == 1, ended.stderr
        assert "is full" in ended.stderr, ended.stderr
        assert "make room, then load again" in ended.stderr
        check_no_reject(scene)
        scene.check_resumes()


# Roles, and what they may not


@contextmanager
def role(scene: Scene, settings: str = "") -> Iterator[tuple[str, DatabaseUrl]]:
    """A role with the rights of a loader and these settings, and the scene's database as it sees it."""
    keep_ledger(scene)
    name = f"loader_{secrets.token_hex(4)}"
    with outsider(scene.url) as other:
        other.do(f"create role {name} login; {settings.format(role=name)}")
        other.do(
            f"""
            grant usage on schema registry, seed_registry to {name};
            grant select, insert, update on all tables in schema registry to {name};
            grant select, insert, update, delete on all tables in schema seed_registry to {name};
            """
        )
    try:
        yield name, DatabaseUrl(re.sub(r"//[^/]*@", f"//{name}@", scene.url.reveal))
    finally:
        with outsider(scene.url) as other:
            other.do(f"drop owned by {name}; drop role {name};")


@pytest.mark.parametrize("seed", range(10))
def test_a_roles_own_statement_timeout_ends_no_batch(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int
) -> None:
    scene = Scene(database_url, home, tmp_path, seed)
    with role(scene, "alter role {role} set statement_timeout = '200ms';") as (_, url):
        with outsider(url) as limited, pytest.raises(asyncpg.QueryCanceledError):
            limited.do("select pg_sleep(1)")
        with gate(scene, *somewhere(scene, seed)) as held:
            process = scene.start(url=url)
            held.arrived(process)
            time.sleep(0.4)
            held.open()
            ended = scene.wait(process)
        scene.check_done(ended)
    assert ended.report["retries"] == 0, ended.stderr


@pytest.mark.parametrize("seed", range(5))
def test_a_roles_own_limit_on_idle_transactions_ends_no_batch(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int
) -> None:
    scene = Scene(database_url, home, tmp_path, seed)
    with role(scene, "alter role {role} set idle_in_transaction_session_timeout = '200ms';") as (_, url):
        with gate(scene, "upsert", scene.chance.randint(1, 900)) as held:
            process = scene.start(url=url)
            victim = held.arrived(process)
            process.send_signal(signal.SIGSTOP)
            held.open()
            idle = f"select state = 'idle in transaction' from pg_stat_activity where pid = {victim}"
            eventually(lambda: scene.ask(idle))
            time.sleep(0.5)
            assert scene.ask(idle)
            process.send_signal(signal.SIGCONT)
            ended = scene.wait(process)
        scene.check_done(ended)
    assert ended.report["retries"] == 0, ended.stderr


@pytest.mark.parametrize("seed", range(5))
def test_a_roles_own_limit_on_transactions_ends_no_batch(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int
) -> None:
    scene = Scene(database_url, home, tmp_path, seed)
    if scene.ask("select count(*) from pg_settings where name = 'transaction_timeout'") == 0:
        pytest.skip("this server has no transaction_timeout")
    with role(scene, "alter role {role} set transaction_timeout = '300ms';") as (_, url):
        with gate(scene, *somewhere(scene, seed)) as held:
            process = scene.start(url=url)
            held.arrived(process)
            time.sleep(0.6)
            held.open()
            ended = scene.wait(process)
        scene.check_done(ended)
    assert ended.report["retries"] == 0, ended.stderr


@pytest.mark.parametrize("seed", range(5))
def test_too_few_connections_are_waited_for_or_done_with(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int
) -> None:
    scene = Scene(database_url, home, tmp_path, seed)
    with role(scene, f"alter role {{role}} connection limit {2 + seed};") as (_, url):
        ended = scene.load("--concurrency", 8, url=url)
        scene.check_done(ended)
    assert "too many connections for role" in ended.stderr
    assert "fewer_workers" in ended.stderr


@pytest.mark.parametrize("seed", range(2))
def test_a_server_that_only_reads_stops_the_load(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int
) -> None:
    scene = Scene(database_url, home, tmp_path, seed)
    only_reads = "alter database {} set default_transaction_read_only = {};"
    name = scene.ask("select current_database()")
    with gate(scene, *somewhere(scene, seed)) as held, outsider(scene.url) as other:
        if seed == 0:
            other.do(only_reads.format(name, "on"))
            ended = scene.load()
        else:
            process = scene.start()
            held.arrived(process)
            other.do(only_reads.format(name, "on"))
            scene.fetch(TERMINATE)
            ended = scene.wait(process)
        other.do(only_reads.format(name, "off"))
    assert ended.code == 1
    assert "read-only transaction (SQLSTATE 25006)" in ended.stderr, ended.stderr
    check_no_reject(scene)
    scene.check_resumes()


RIGHTS = ["insert on registry.assets", "insert on seed_registry.checkpoints", "usage on schema registry"]


@pytest.mark.parametrize("right", RIGHTS)
def test_a_right_that_is_revoked_stops_the_load(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, right: str
) -> None:
    scene = Scene(database_url, home, tmp_path, RIGHTS.index(right), shape="seed.ndjson")
    with role(scene) as (name, url), outsider(scene.url) as other:
        with gate(scene, "copy", scene.chance.randint(1, 500)) as held:
            process = scene.start(url=url)
            held.arrived(process)
            other.do(f"revoke {right} from {name}")
            held.open()
            ended = scene.wait(process)
        check_stopped(scene, ended, "permission denied", "seed-registry schema grants ROLE")
        other.do(f"grant {right} to {name}")
        scene.check_safe()
        scene.check_done(scene.load(url=url))


# Too little of memory and of files


@pytest.mark.parametrize("seed", range(3))
def test_a_server_without_memory_stops_the_load(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int
) -> None:
    scene = Scene(database_url, home, tmp_path, seed)
    number = scene.chance.randint(1, 900)
    with outsider(scene.url) as other:
        other.do(OUT_OF_MEMORY.format(number=number))
        ended = scene.load()
        check_stopped(scene, ended, "out of memory (SQLSTATE 53200)")
        other.do("drop trigger memory on registry.assets")
    scene.check_resumes()


@pytest.mark.parametrize("seed", range(5))
def test_a_loader_makes_do_with_little_memory(database_url: DatabaseUrl, home: Path, tmp_path: Path, seed: int) -> None:
    scene = Scene(database_url, home, tmp_path, seed, records=8_000, size=3_000)
    process = scene.start("--batch-size", 500)
    resource.prlimit(process.pid, resource.RLIMIT_AS, (512 << 20, 512 << 20))
    scene.check_done(scene.wait(process))


@pytest.mark.parametrize("concurrency", [4, 12, 40])
def test_a_loader_makes_do_with_few_files_or_says_that_it_cannot(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, concurrency: int
) -> None:
    scene = Scene(database_url, home, tmp_path, concurrency)
    process = scene.start("--concurrency", concurrency)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (32, 32))
    ended = scene.wait(process)
    if concurrency < 32:
        scene.check_done(ended)
    else:
        check_stopped(scene, ended, "Too many open files", "--concurrency")
        scene.check_resumes()
