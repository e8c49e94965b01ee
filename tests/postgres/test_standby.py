"""A synchronous standby that is gone, and sessions that outlive their loaders: errors name both, with the fix."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from conftest import Cli
from seed_registry import Settings, ingest
from seed_registry.embedded.account import server_account
from seed_registry.embedded.binaries import programs
from seed_registry.errors import DatabaseRefused
from seed_registry.registry import ddl
from seed_registry.settings import DatabaseUrl
from seed_registry.synthetic.index import Workload, generate

pytestmark = [pytest.mark.anyio, pytest.mark.slow]  # each has a server of its own, or waits for a dead one's end

# synchronous_commit is on, as a server of one's own has it; the embedded one takes no standby.
OPTIONS = "-c listen_addresses='' -c fsync=off -c max_wal_senders=2"


class Recorder:
    """A progress that keeps the events, and reacts to one."""

    def __init__(self, at: str = "", then: Callable[[], None] = lambda: None) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self._at = at
        self._then = then

    def began(self, tally: object) -> None:
        """Ignore it."""

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Remember it."""
        del level
        self.told.append((event, fields))
        if event == self._at:
            self._then()

    def fields(self, event: str) -> list[dict[str, Any]]:
        """Return the fields of each event of this name."""
        return [fields for name, fields in self.told if name == event]


@pytest.fixture(scope="module")
def cluster(place: Path) -> Iterator[DatabaseUrl]:
    """A server that takes standbys, and has none."""
    account = server_account()
    directory = Path(tempfile.mkdtemp(dir=place))
    os.chown(directory, account.uid, account.gid)
    bin_ = programs(18)
    if not account.can(bin_ / "initdb", "--version"):
        pytest.skip("the server's user cannot run the bundled programs from here")
    initialised = account.run(
        [bin_ / "initdb", "-D", directory / "data", "-U", "registry", "-A", "trust", "-E", "UTF8", "-N"]
    )
    assert initialised.returncode == 0, initialised.stderr
    control: list[str | Path] = [bin_ / "pg_ctl", "-D", directory / "data", "-l", directory / "log", "-w"]
    started = account.run([*control, "-o", f"{OPTIONS} -k {directory}", "start"])
    assert started.returncode == 0, started.stderr
    yield DatabaseUrl(f"postgresql://registry@/postgres?host={directory}")
    account.run([*control, "-m", "immediate", "stop"])


@pytest.fixture
async def url(cluster: DatabaseUrl) -> DatabaseUrl:
    """The registry's tables there, empty, with no standby wanted."""
    await without_standby(cluster)
    connection = await asyncpg.connect(cluster.reveal)
    await connection.execute("drop schema if exists registry, seed_registry cascade")
    await ddl.apply(connection)
    await connection.close()
    return cluster


async def want_standby(url: DatabaseUrl, name: str) -> None:
    connection = await asyncpg.connect(url.reveal)
    await connection.execute(f"alter system set synchronous_standby_names = '{name}'")
    await connection.execute("select pg_reload_conf()")
    while await connection.fetchval("show synchronous_standby_names") != name:
        pass
    await connection.close()


async def without_standby(url: DatabaseUrl) -> None:
    await want_standby(url, "")


@pytest.fixture
def index(tmp_path: Path) -> str:
    path = tmp_path / "index.json"
    path.write_bytes(b"".join(generate(Workload(records=500, sources=5))))
    return str(path)


@pytest.mark.parametrize("has_ledger", [False, True])
async def test_a_missing_standby_is_reported_within_seconds_and_named_in_the_end(
    url: DatabaseUrl, index: str, has_ledger: bool
) -> None:
    settings = Settings(database_url=url, io_timeout_seconds=9)
    if has_ledger:
        await ingest(index, settings)
    await want_standby(url, "nobody")
    progress = Recorder()
    started = time.monotonic()
    with pytest.raises(DatabaseRefused) as caught:
        await ingest(index, settings, progress)
    assert time.monotonic() - started < 60
    first, second = str(caught.value).splitlines()
    assert first.endswith("COMMIT waits for a synchronous standby that is not connected (SyncRep)")
    assert "synchronous_standby_names" in second
    (told,) = progress.fields("waiting_for_standby")
    assert "synchronous_standby_names" in told["note"]
    assert not progress.fields("retrying")
    # the fix that it names
    connection = await asyncpg.connect(url.reveal)
    for statement in re.findall(r"alter system set [^;]*|select pg_reload_conf\(\)", second):
        await connection.execute(statement)
    await connection.close()
    report = await ingest(index, settings)
    assert report.verification is not None
    assert report.verification.passed
    assert report.assets.inserted + report.assets.unchanged + report.assets.resumed == 500


async def test_a_load_goes_on_when_the_standby_is_given_up_meanwhile(url: DatabaseUrl, index: str) -> None:
    await want_standby(url, "nobody")
    ended: list[subprocess.CompletedProcess[bytes]] = []
    give_up = lambda: ended.append(subprocess.run([sys.executable, "-c", GIVING_UP, url.reveal], check=True))  # noqa: E731
    progress = Recorder("waiting_for_standby", give_up)
    report = await ingest(index, Settings(database_url=url), progress)
    assert len(progress.fields("waiting_for_standby")) == 1
    assert report.assets.inserted == 500
    assert report.retries == 0
    assert ended


async def test_a_loader_that_was_killed_while_it_waited_is_named_with_what_ends_its_session(
    url: DatabaseUrl, index: str, cli: Cli, home: Path
) -> None:
    await want_standby(url, "nobody")
    kill_when_told("waiting_for_standby", url, index, home)
    done = cli("load", index, url=url)
    assert done.returncode == 1
    first, second = [line for line in done.stderr.decode().splitlines() if not line.startswith("{")]
    assert "its COMMIT waits for a synchronous standby (SyncRep)" in first
    assert "synchronous_standby_names" in second
    await end_as_advised(url, second)
    await without_standby(url)
    assert cli("load", index, url=url).returncode == 0


async def end_as_advised(url: DatabaseUrl, fix: str) -> None:
    """Do what a message says of sessions."""
    (statement,) = re.findall(r"select (?:pg_terminate_backend\(\d+\)(?:, )?)+", fix)
    connection = await asyncpg.connect(url.reveal)
    await connection.execute(statement)
    await connection.close()


async def test_a_session_that_outlived_its_loader_is_named_with_what_ends_it(
    database_url: DatabaseUrl, index: str, cli: Cli
) -> None:
    """As where the loader's machine went away without a word."""
    assert cli("load", index, url=database_url).returncode == 0
    with holding(database_url, index) as pid:
        done = cli("load", index, url=database_url)
        assert done.returncode == 1
        first, second = [line for line in done.stderr.decode().splitlines() if not line.startswith("{")]
        assert f"into this database already: the server's session {pid} (seed-registry, " in first
        assert second.endswith(f"if its loader is gone: select pg_terminate_backend({pid})")
        await end_as_advised(database_url, second)
        assert cli("load", index, url=database_url).returncode == 0


def kill_when_told(event: str, url: DatabaseUrl, index: str, home: Path) -> None:
    """Start a load, and kill it when it tells this."""
    environment = {"PATH": os.environ["PATH"], "DATABASE_URL": url.reveal, "SEED_REGISTRY_HOME": str(home)}
    command = [sys.executable, "-m", "seed_registry", "load", index]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert any(json.loads(line)["event"] == event for line in process.stderr)
        process.kill()


@contextmanager
def holding(url: DatabaseUrl, index: str) -> Iterator[int]:
    """The server's session of a loader that has the index, and says no more."""
    with subprocess.Popen([sys.executable, "-c", HOLDING, url.reveal, index], stdout=subprocess.PIPE) as loader:
        assert loader.stdout is not None
        yield int(loader.stdout.readline())
        loader.kill()


GIVING_UP = """
import asyncio, asyncpg, sys

async def main():
    connection = await asyncpg.connect(sys.argv[1])
    await connection.execute("alter system set synchronous_standby_names = ''")
    await connection.execute("select pg_reload_conf()")

asyncio.run(main())
"""
HOLDING = """
import asyncio, sys
from seed_registry.postgres.connection import session
from seed_registry.ledger.locks import lock_indexes
from seed_registry.settings import DatabaseUrl

async def main():
    async with session(DatabaseUrl(sys.argv[1])) as connection:
        await lock_indexes(connection, "registry", [sys.argv[2]])
        print(await connection.fetchval("select pg_catalog.pg_backend_pid()"), flush=True)
        await asyncio.sleep(300)

asyncio.run(main())
"""
