"""PgBouncer in transaction mode: with fewer servers than workers or more, and when one of them is killed."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from scene import LEFTOVERS, Scene, eventually
from test_pooler import PGBOUNCER, configured, listens

from seed_registry.settings import DatabaseUrl

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="there is no pgbouncer")

SERVERS = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
# One that has written a batch and not committed it.
KILLED = """
select pg_terminate_backend(pid) from pg_stat_activity
where datname = current_database() and wait_event = 'PgSleep' limit 1
"""


class Pooler:
    """A PgBouncer before the test's database.

    Attributes:
        url: the database through it.
    """

    def __init__(self, directory: Path, database_url: DatabaseUrl, size: int) -> None:
        options = {"pool_mode": "transaction", "listen_addr": "", "listen_port": 6432, "default_pool_size": size}
        self.url, account = configured(directory, database_url, options)
        assert PGBOUNCER is not None
        self._process = subprocess.Popen([PGBOUNCER, directory / "ini"], stderr=subprocess.DEVNULL, **account)
        eventually(lambda: self._process.poll() is not None or listens(directory / ".s.PGSQL.6432"))
        assert self._process.poll() is None, (directory / "log").read_text()

    def stop(self) -> None:
        """End it, and with it the servers' sessions."""
        self._process.terminate()
        self._process.wait()


@pytest.fixture
def started(database_url: DatabaseUrl, place: Path) -> Iterator[Callable[[int], Pooler]]:
    """Starts a pooler with that many servers."""
    with ExitStack() as stack:

        def start(size: int) -> Pooler:
            pooler = Pooler(Path(tempfile.mkdtemp(dir=place)), database_url, size)
            stack.callback(pooler.stop)
            return pooler

        yield start


@pytest.mark.parametrize("kills", [False, True], ids=["unharmed", "killed"])
@pytest.mark.parametrize("size", [1, 4, 20])
def test_workers_share_the_servers_of_a_pool(
    database_url: DatabaseUrl, home: Path, tmp_path: Path, started: Callable[[int], Pooler], size: int, kills: bool
) -> None:
    scene = Scene(database_url, home, tmp_path, size * 2 + kills)
    pooler = started(size)
    scene.close_gate(5)
    process = scene.start(url=pooler.url)
    scene.at_gate(process)
    assert 1 <= scene.ask(SERVERS) <= size
    if kills:
        eventually(lambda: scene.fetch(KILLED))
    scene.open_gate()
    ended = scene.wait(process)
    assert '"pooler_found"' in ended.stderr
    assert list(scene.fetch(LEFTOVERS)[0]) == [0, 0, 0]  # while the pool has its servers still
    pooler.stop()
    scene.check_done(ended)
    assert ended.counts["inserted"] == len(scene.model.rows)
    assert ended.report["retries"] == kills
