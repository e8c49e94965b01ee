"""One index, one database and the real command: what a fault is done to, and the invariants that must hold after it."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import xxhash
import zstandard
from model import model
from msgspec import Struct

from seed_registry.postgres.connection import session
from seed_registry.registry.digest import digest
from seed_registry.registry.introspection import introspect
from seed_registry.report import Digest
from seed_registry.settings import DatabaseUrl
from seed_registry.synthetic.index import Workload, generate

FAILING = Path(__file__).with_name("failing.py")
# Long enough for a retry or two on a busy machine, short enough to say that something hangs.
WATCHDOG_SECONDS = 60.0
ROWS = """
select asset_key, source_key, a.name, description, a.url, a.updated_at, a.raw::text
from registry.assets as a left join registry.sources as s on s.id = a.source_id
"""
SESSIONS = """
select count(*) from pg_stat_activity where datname = current_database() and application_name = 'seed-registry'
"""
LEFTOVERS = """
select (select count(*) from pg_class where relpersistence = 't' and relkind = 'r'),
       (select count(*) from pg_stat_activity
        where datname = current_database() and state like 'idle in transaction%' and pid <> pg_backend_pid()),
       (select count(*) from pg_locks where locktype = 'advisory'
        and database = (select oid from pg_database where datname = current_database()))
"""
# Batches of assets come here in their transactions, before they are committed. A session whose loader was killed ends,
# too.
GATE = """
do $do$ begin
  create schema if not exists gate;
  create table if not exists gate.state (passes bigint);
  create sequence if not exists gate.turn;
  delete from gate.state;
  insert into gate.state values ({passes});
  alter sequence gate.turn restart;
  create or replace function gate.wait() returns trigger language plpgsql as $$
  declare
    turn constant bigint := nextval('gate.turn');
  begin
    if turn > (select passes from gate.state) then
      -- Seen in pg_locks for as long as the transaction lasts; the wait event of pg_sleep comes and goes.
      perform pg_advisory_xact_lock_shared(71717171);
    end if;
    while turn > (select passes from gate.state) loop
      perform pg_sleep(0.01);
    end loop;
    return new;
  end $$;
  create or replace trigger gate before insert on seed_registry.checkpoints
    for each row when (new.lanes > 0) execute function gate.wait();
  execute format('alter database %I set client_connection_check_interval = 100', current_database());
end $do$
"""
WAITING = """
select count(*) from pg_locks
where locktype = 'advisory' and objid = 71717171 and granted
  and database = (select oid from pg_database where datname = current_database())
"""


class Ended(Struct, frozen=True):
    """How a command ended."""

    code: int
    report: dict[str, Any]
    stderr: str

    @property
    def counts(self) -> dict[str, int]:
        """The `assets` of its report."""
        counts: dict[str, int] = self.report["assets"]
        return counts


class Scene:
    """An index of some 1,200 records in a shape that depends on the seed, and a database for it.

    Attributes:
        path: of the index; `data` are its unpacked bytes, `model` is what should become of them.
        chance: a random generator of the scene's own.
    """

    def __init__(
        self, url: DatabaseUrl, home: Path, directory: Path, seed: int, *, shape: str = "", **workload: Any
    ) -> None:
        self.url, self.home, self.seed = url, home, seed
        self.chance = random.Random(seed)
        dialect = self.chance.choice(["seed", "discovery"])
        form = self.chance.choice(["ndjson", "json"])
        packing = self.chance.choice(["", "", "gz", "zst"])
        if shape:
            dialect, form, packing = f"{shape}.".split(".")[:3]
        options = {"records": 1_200, "size": 1_200, "duplicates": 4, "invalid": 1} | workload
        self.data = b"".join(generate(Workload(seed=seed, dialect=dialect, format=form, **options)))  # type: ignore[arg-type]
        self.path = directory / f"index-{seed}"
        self.write(self.data, packing)
        self.model = model(self.data)
        self.rejects = directory / f"rejects-{seed}.ndjson"
        print(f"seed {seed}: {dialect} {form} {packing}")  # noqa: T201  # pytest shows it where a case failed

    def write(self, data: bytes, packing: str = "") -> None:
        """Make these the bytes of the index."""
        pack: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "zst": zstandard.compress}
        self.path.write_bytes(pack[packing](data) if packing else data)

    # Running the command

    def command(self, *arguments: object, failing: tuple[object, ...] = ()) -> list[str]:
        """The command line of a load; `failing` are arguments of failing.py, which then runs it."""
        program = [FAILING, *failing, "--"] if failing else ["-m", "seed_registry"]
        load = ["load", self.path, "--json", "--batch-size", 40, "--concurrency", 3, "--rejects", self.rejects]
        return list(map(str, [sys.executable, *program, *load, "--log-format", "json", *arguments]))

    def start(
        self, *arguments: object, failing: tuple[object, ...] = (), url: DatabaseUrl | None = None
    ) -> subprocess.Popen[bytes]:
        """The command, running."""
        environment = {
            "PATH": os.environ["PATH"],
            "SEED_REGISTRY_HOME": str(self.home),
            "DATABASE_URL": (url or self.url).reveal,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return subprocess.Popen(
            self.command(*arguments, failing=failing),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def wait(self, process: subprocess.Popen[bytes], seconds: float = WATCHDOG_SECONDS) -> Ended:
        """Its end; I7, I10: in time, without a traceback, a secret or a raw control byte."""
        try:
            stdout, stderr = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"still running after {seconds} s: {process.communicate()[1][-2_000:]!r}") from None
        assert b"Traceback" not in stderr, stderr.decode()
        assert b"a defect" not in stderr, stderr.decode()
        assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f\x9b]", stdout + stderr), stderr
        report = json.loads(stdout) if stdout.strip() else {}
        return Ended(process.returncode, report, stderr.decode())

    def load(self, *arguments: object, failing: tuple[object, ...] = (), url: DatabaseUrl | None = None) -> Ended:
        """The command, to its end."""
        return self.wait(self.start(*arguments, failing=failing, url=url))

    def kill(self, process: subprocess.Popen[bytes], number: int = signal.SIGKILL) -> Ended:
        """Send it a signal, and wait for its end and for that of its sessions."""
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=WATCHDOG_SECONDS)
        eventually(lambda: self.ask(SESSIONS) == 0)
        return Ended(process.returncode, json.loads(stdout) if stdout.strip() else {}, stderr.decode())

    # Looking from outside

    def ask(self, query: str, *arguments: object) -> Any:
        """One value."""
        return self.fetch(query, *arguments)[0][0]

    def fetch(self, query: str, *arguments: object) -> list[Any]:
        """Rows."""

        async def fetched() -> list[Any]:
            connection = await asyncpg.connect(self.url.reveal)
            try:
                return list(await connection.fetch(query, *arguments))
            finally:
                await connection.close()

        return asyncio.run(fetched())

    def digest(self) -> Digest:
        """The digest of its registry."""

        async def digested() -> Digest:
            async with session(self.url) as connection:
                return await digest(connection, await introspect(connection))

        return asyncio.run(digested())

    def when(self, condition: str, process: subprocess.Popen[bytes]) -> None:
        """Wait until a query says true, or the command has ended."""
        eventually(lambda: process.poll() is not None or self.ask(condition))

    # Stopping it at a known place

    def close_gate(self, passes: int) -> None:
        """Let so many batches be committed; those that come after them wait, each in its transaction."""
        self.fetch(GATE.format(passes=passes))

    def at_gate(self, process: subprocess.Popen[bytes], batches: int = 1) -> None:
        """Wait until so many batches do."""
        try:
            self.when(f"select ({WAITING}) >= {batches}", process)
        finally:
            arrived = process.poll() is None and self.ask(WAITING) >= batches
            if not arrived:
                process.kill()
        assert arrived, process.communicate()

    def open_gate(self) -> None:
        """Let all pass."""
        self.fetch("update gate.state set passes = 1e12")

    @contextmanager
    def holding(self, statement: str) -> Iterator[None]:
        """A transaction of somebody else's in which this was done, open during the block, then rolled back."""
        with asyncio.Runner() as runner:
            connection = runner.run(asyncpg.connect(self.url.reveal))
            try:
                runner.run(connection.execute(f"begin; {statement}"))
                yield
            finally:
                runner.run(connection.close())

    # The invariants; the numbers are those of reliability.md

    def check_safe(self) -> None:
        """I3, right after a fault: whatever lies before a checkpoint is in the table, or in the rejects file."""
        keys = {key for (key,) in self.fetch("select asset_key from registry.assets")}
        told = {line["offset"] for line in self.told_rejects(whole=False)}
        for lane, lanes, offset in self.fetch(
            'select lane, lanes, "offset" from seed_registry.checkpoints where lane >= -1'
        ):
            if lane < 0:
                offset = len(self.data)  # noqa: PLW2901  # the whole index
            passed = {
                key
                for at, key in self.model.places
                if at <= offset and (lane < 0 or xxhash.xxh3_64_intdigest(key.encode()) % lanes == lane)
            }
            assert passed <= keys, f"lane {lane} of {lanes} is said to be at {offset} without {len(passed - keys)}"
            missing = [at for at in self.model.rejected if at <= offset and at not in told]
            assert not missing, f"rejects before {offset} that the file does not have: {missing}"

    def check_done(self, ended: Ended) -> None:
        """I1, I2, I6, I8 after a load that says that it succeeded."""
        assert ended.code == 0, ended.stderr
        counts = dict(ended.counts)
        assert counts.pop("read") == sum(counts.values()) == self.model.read, ended.report
        assert ended.report["verification"]["passed"], ended.report
        self.check_state()
        offsets = [line["offset"] for line in self.told_rejects()]
        assert sorted(offsets) == self.model.rejected
        eventually(lambda: self.ask(SESSIONS) == 0)
        assert list(self.fetch(LEFTOVERS)[0]) == [0, 0, 0]
        assert self.ask("select count(*) from seed_registry.checkpoints") == 0

    def check_state(self) -> None:
        """I2, I4: the rows are those of the model."""
        rows = {key: (*values, json.loads(raw)) for key, *values, raw in self.fetch(ROWS)}
        assert len(rows) == len(self.model.rows), (len(rows), len(self.model.rows))
        wrong = [key for key, row in self.model.rows.items() if rows.get(key) != row]
        assert not wrong, f"{len(wrong)} rows differ, the first: {rows.get(wrong[0])} for {self.model.rows[wrong[0]]}"

    def check_idle(self) -> None:
        """I5: the same load again changes nothing."""
        changes = "select sum(xmin::text::bigint), count(*) from registry.assets"
        before, digest_before = self.fetch(changes), self.digest()
        self.rejects.unlink(missing_ok=True)
        ended = self.load()
        self.check_done(ended)
        assert self.digest() == digest_before
        repeats = len(self.model.places) - len(self.model.rows)
        if not repeats:
            assert ended.counts["inserted"] == ended.counts["updated"] == 0
            assert self.fetch(changes) == before

    def check_resumes(self, *arguments: object) -> Ended:
        """I3, I4, and all of the others: the same command finishes the job."""
        self.check_safe()
        ended = self.load(*arguments)
        self.check_done(ended)
        return ended

    def told_rejects(self, *, whole: bool = True) -> list[dict[str, Any]]:
        """I6: the lines of the rejects file; after a kill the last one may be torn, unless the run is `whole`."""
        if not self.rejects.exists():
            return []
        lines = self.rejects.read_bytes().split(b"\n")
        assert not whole or lines[-1] == b""
        return [json.loads(line) for line in lines[:-1]]


def eventually(true: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
