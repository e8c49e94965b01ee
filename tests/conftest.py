"""A real Postgres for every test: a template database made once a session, cloned for each test that asks."""

from __future__ import annotations

import asyncio
import getpass
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec
import pytest
import xxhash
from hypothesis import settings as hypothesis_settings

import partitions
from seed_registry.cli.main import main
from seed_registry.embedded.server import running
from seed_registry.postgres.connection import session
from seed_registry.postgres.libpq import VARIABLES
from seed_registry.records import Asset, Source, SourceRow
from seed_registry.registry.merge import Merger
from seed_registry.registry.values import asset_values
from seed_registry.settings import DatabaseUrl

SHARED = Path(__file__).parents[2] / "shared"

_SLICE = 50

# The same examples every time where a change is to land; others, at random, wherever else the tests run.
hypothesis_settings.register_profile("ci", derandomize=True)
if os.environ.get("HYPOTHESIS_PROFILE"):
    hypothesis_settings.load_profile(os.environ["HYPOTHESIS_PROFILE"])

# The tests use a server of their own whatever the environment says.
for _name in [*VARIABLES, "DATABASE_URL", *(name for name in os.environ if name.startswith("SEED_REGISTRY_"))]:
    os.environ.pop(_name, None)

_administrators: dict[str, tuple[asyncio.AbstractEventLoop, asyncpg.Connection[Any]]] = {}

Cli = Callable[..., "subprocess.CompletedProcess[bytes]"]


# Of files in memory: databases and the write-ahead logs of some servers.
_MEMORY_BYTES = 8 << 30


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--server",
        default="18",
        help="where tests run: 18 or 16 (embedded), debian (the distribution's), or a postgresql:// URL of a superuser",
    )
    parser.addoption(
        "--partitions",
        type=int,
        default=0,
        help="make the registry's assets a table of so many hash partitions, as an operator may",
    )
    parser.addoption(
        "--slice",
        action="store_true",
        help="the first case and one in fifty of each fault, and of half of the slow tests",
    )


def pytest_configure(config: pytest.Config) -> None:
    partitions.set_option(config.getoption("--partitions"))


@pytest.hookimpl(tryfirst=True)  # before those that are slow are deselected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark all but some of many parameters as slow, and keep a slice of the catalogue of faults."""
    kinds: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sampled") and not item.get_closest_marker("slow"):
            kinds.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for found in kinds.values():
        marker = found[0].get_closest_marker("sampled")
        assert marker is not None
        step = max(len(found) // marker.args[0], 1)
        for number, item in enumerate(found):
            if number % step:
                item.add_marker("slow")
    if not config.getoption("--slice"):
        return
    numbers: Counter[str] = Counter()
    kept: list[pytest.Item] = []
    left: list[pytest.Item] = []
    others: dict[str, bool] = {}  # the kinds of other slow tests, of which every second one is kept
    for item in items:
        kind = item.nodeid.partition("[")[0]
        is_kept = "/faults/" in kind or others.setdefault(kind, len(others) % 2 == 0)
        (left if numbers[kind] % _SLICE or not is_kept else kept).append(item)
        numbers[kind] += 1
    items[:] = kept
    config.hook.pytest_deselected(items=left)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Skip a test whose own statements ask for what no partitioned table can have."""
    try:
        yield
    except asyncpg.PostgresError as exc:
        if item.config.getoption("--partitions") and any(text in str(exc) for text in partitions.IMPOSSIBLE):
            pytest.skip(f"not with --partitions: {exc.args[0]}")
        raise


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the catalogue of faults, by kind: a test may stand for many `cases`."""
    counts: dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed", "skipped", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            if "/faults/" in report.nodeid and (report.when == "call" or outcome != "passed"):
                kind = report.nodeid.partition("::")[2].partition("[")[0].removeprefix("test_").replace("_", " ")
                counts.setdefault(kind, Counter())[outcome] += dict(report.user_properties).get("cases", 1)
    for kind, outcomes in sorted(counts.items()):
        summary = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.items())
        terminalreporter.write_line(f"{summary:>16}  {kind}")
    if counts:
        total = sum((Counter(outcomes) for outcomes in counts.values()), Counter())
        terminalreporter.write_line(", ".join(f"{count:,} {outcome}" for outcome, count in total.items()) + " in all")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Coroutine tests run as a load does."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """A short private directory that the server's own user can reach; pytest's is neither."""
    directory = Path(tempfile.mkdtemp(prefix="sr-", dir=_memory_directory()))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, place: Path) -> Iterator[str]:
    """The URL of a superuser on the Postgres that the tests run on."""
    chosen: str = request.config.getoption("--server")
    if chosen.startswith("postgres"):
        with _administrators_dismissed():
            yield chosen
    elif chosen == "debian":
        with _debian(place / "debian") as url, _administrators_dismissed():
            yield url
    else:
        with running(place / "home", int(chosen), durable=False) as url, _administrators_dismissed():
            # its files may be in memory
            _execute(url, "alter system set max_wal_size = '512MB'")
            _execute(url, "select pg_reload_conf()")
            yield url


@pytest.fixture(scope="session")
def server_with_lz4(server: str, place: Path) -> Iterator[str]:
    """A superuser's URL on a Postgres that was built with lz4: the tests' own, or else the distribution's."""
    if _has_lz4(server):
        yield server
    else:
        with _debian(place / "lz4") as url, _administrators_dismissed():
            yield url


@pytest.fixture(scope="session")
def server_without_lz4(server: str, place: Path) -> Iterator[str]:
    """A superuser's URL on a Postgres that was built without lz4: the tests' own, or else the embedded one."""
    if not _has_lz4(server):
        yield server
    else:
        with running(place / "pglz", durable=False) as url, _administrators_dismissed():
            yield url


@pytest.fixture
def lz4_url(server_with_lz4: str) -> Iterator[DatabaseUrl]:
    """A database of the test's own, without any table, on a server with lz4."""
    with _clone(server_with_lz4, "template0") as url:
        yield url


@pytest.fixture
def pglz_url(server_without_lz4: str) -> Iterator[DatabaseUrl]:
    """A database of the test's own, without any table, on a server without lz4."""
    with _clone(server_without_lz4, "template0") as url:
        yield url


@pytest.fixture(scope="session")
def template(server: str) -> str:
    """The name of a database that has the registry's tables."""

    async def make() -> None:
        connection = await asyncpg.connect(_database(server, name))
        await partitions.create_tables(connection)
        await connection.close()

    name = f"template_{secrets.token_hex(4)}"
    _execute(server, f"create database {name}")
    asyncio.run(make())
    return name


@pytest.fixture
def database_url(server: str, template: str) -> Iterator[DatabaseUrl]:
    """A database of the test's own, with the registry's tables, empty."""
    with _clone(server, template) as url:
        yield url


@pytest.fixture
def bare_database_url(server: str) -> Iterator[DatabaseUrl]:
    """A database of the test's own, without any table."""
    with _clone(server, "template0") as url:
        yield url


@pytest.fixture(scope="module")
def workshop_url(server: str) -> Iterator[DatabaseUrl]:
    """One database for many tests, one after the other: making one takes longer than most of them."""
    with _clone(server, "template0") as url:
        yield url


@pytest.fixture
async def emptied_url(workshop_url: DatabaseUrl) -> DatabaseUrl:
    """The workshop with the registry's tables, empty; a test module may call that its `database_url`."""
    connection = await asyncpg.connect(workshop_url.reveal)
    await connection.execute("drop schema if exists registry, evil cascade")
    await partitions.create_tables(connection)
    await connection.close()
    return workshop_url


@pytest.fixture
async def connection(database_url: DatabaseUrl) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A session as a load opens it, in a database with the registry's tables."""
    async with session(database_url) as connection:
        yield connection


@pytest.fixture
async def bare_connection(bare_database_url: DatabaseUrl) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A session as a load opens it, in a database without any table."""
    async with session(bare_database_url) as connection:
        yield connection


@pytest.fixture
async def plain_connection(database_url: DatabaseUrl) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A session as any other program opens it, in a database with the registry's tables."""
    connection = await asyncpg.connect(database_url.reveal)
    yield connection
    await connection.close()


@pytest.fixture(scope="session")
def demanding_role(server: str) -> tuple[str, str]:
    """A role of whom the server demands a password, and that password. Everybody else is trusted."""
    name, password = "demanding", "correct-horse"
    _execute(server, f"create role {name} login password '{password}'")
    hba = Path(_fetch(server, "show hba_file"))
    try:
        hba.write_text(f"local all {name} scram-sha-256\n" + hba.read_text())
    except OSError:
        pytest.skip("the server's pg_hba.conf is not ours to change")
    _execute(server, "select pg_reload_conf()")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:  # the postmaster reads the file when it gets round to it
        try:
            _fetch(_login(server, name, "wrong"), "select 1")
        except asyncpg.InvalidPasswordError:
            return name, password
    pytest.fail("the server does not demand the password")


@pytest.fixture
def shared_data() -> Path:
    """Real index files, where they are present."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the real index files are not here")
    return SHARED / "data"


@pytest.fixture
def corpora() -> Path:
    """Bad input, where it is present."""
    if not (SHARED / "corpora").is_dir():
        pytest.skip("the bad-input corpora are not here")
    return SHARED / "corpora"


@pytest.fixture
def home(place: Path) -> Path:
    """A home directory of the test's own."""
    return Path(tempfile.mkdtemp(dir=place))


@pytest.fixture
def call_main(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process, which is faster than a new one, with an environment of its own."""

    def run(arguments: Sequence[object], environment: Mapping[str, str], directory: Path) -> tuple[int, str, str]:
        with monkeypatch.context() as patch:
            patch.chdir(directory)
            for name in set(os.environ) - {"PYTEST_CURRENT_TEST"}:
                patch.delenv(name)
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["seed-registry", *map(str, arguments)])
            capfdbinary.readouterr()
            with pytest.raises(SystemExit) as ended:
                main()
        out, err = capfdbinary.readouterr()
        return int(ended.value.code or 0), out.decode(), err.decode()

    return run


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rejects files and the embedded server of a load in this process go where nothing else is."""
    monkeypatch.setenv("SEED_REGISTRY_HOME", str(home))


@pytest.fixture
def cli(home: Path, tmp_path: Path) -> Cli:
    """Run the command in an empty directory with an empty environment."""

    def run(
        *arguments: object, url: DatabaseUrl | None = None, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[bytes]:
        environment = {"PATH": os.environ["PATH"], "SEED_REGISTRY_HOME": str(home), "LANG": "C.UTF-8"}
        if url is not None:
            environment["DATABASE_URL"] = url.reveal
        return subprocess.run(
            [sys.executable, "-m", "seed_registry", *map(str, arguments)],
            env=environment | dict(env or {}),
            cwd=tmp_path,
            capture_output=True,
            timeout=120,
            check=False,
            **options,
        )

    return run


def make_source(key: str = "data.example.org", name: str | None = None, **fields: Any) -> Source:
    """A source as an index gives it: its content hash is that of its values, its `raw` holds them."""
    raw = fields.pop("raw", None) or msgspec.json.encode({"domain": key, "name": name})
    source = Source(key=key, name=name, raw=raw, **{"provider": "socrata", "url": f"https://{key}", **fields})
    return msgspec.structs.replace(source, content_hash=_hash(source))


def make_asset(key: str, source_key: str = "data.example.org", **fields: Any) -> Asset:
    """An asset as an index gives it: its content hash is that of its values, its `raw` holds them."""
    raw = fields.pop("raw", None) or msgspec.json.encode({"id": key, **fields})
    asset = Asset(key=key, source_key=source_key, raw=raw, **fields)
    return msgspec.structs.replace(asset, content_hash=_hash(asset))


def source_rows(ids: Mapping[str, Any], provider: str | None = "socrata") -> dict[str, SourceRow]:
    """The rows of sources that have these ids, all of one provider."""
    return {key: SourceRow(id_, provider) for key, id_ in ids.items()}


def _hash(record: Source | Asset) -> bytes:
    return xxhash.xxh3_128_digest(msgspec.json.encode(record))


def _memory_directory() -> str | None:
    """Where files are in memory, if there is room: a database for each test is some 300 files, of 8 MB."""
    shared = Path("/dev/shm")
    is_usable = shared.is_dir() and os.access(shared, os.W_OK | os.X_OK)
    return str(shared) if is_usable and shutil.disk_usage(shared).free >= _MEMORY_BYTES else None


@contextmanager
def _clone(server: str, template: str) -> Iterator[DatabaseUrl]:
    name = f"test_{secrets.token_hex(6)}"
    # A copy of the files is twice as fast as one through the write-ahead log.
    _execute(server, f"create database {name} template {template} strategy file_copy")
    yield DatabaseUrl(_database(server, name))
    _execute(server, f"drop database {name} with (force)")


def _database(server: str, name: str) -> str:
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))


def _login(server: str, user: str, password: str) -> str:
    parts = urlsplit(server)
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.netloc.rpartition('@')[2]}"))


def _administrator(server: str) -> tuple[asyncio.AbstractEventLoop, asyncpg.Connection[Any]]:
    """A session, with a loop of its own, for all tests: opening one for each database would take longer."""
    if server not in _administrators:
        loop = asyncio.new_event_loop()
        _administrators[server] = loop, loop.run_until_complete(asyncpg.connect(server))
    return _administrators[server]


@contextmanager
def _administrators_dismissed() -> Iterator[None]:
    try:
        yield
    finally:
        for loop, connection in _administrators.values():
            loop.run_until_complete(connection.close())
            loop.close()
        _administrators.clear()


def _execute(server: str, statement: str) -> None:
    loop, connection = _administrator(server)
    loop.run_until_complete(connection.execute(statement))


def _has_lz4(server: str) -> bool:
    query = "select 'lz4' = any(enumvals) from pg_settings where name = 'default_toast_compression'"
    return bool(_fetch(server, query))


def _fetch(server: str, query: str) -> Any:
    async def run() -> Any:
        connection = await asyncpg.connect(server)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(run())


@contextmanager
def _debian(directory: Path) -> Iterator[str]:
    """A cluster of the newest Postgres that Debian's packages installed."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not installed:
        pytest.skip("no Postgres of Debian's is installed")
    programs = installed[-1].parent
    directory.mkdir()
    user = "postgres" if os.geteuid() == 0 else getpass.getuser()
    if os.geteuid() == 0:
        shutil.chown(directory, user)
    options: dict[str, Any] = {"cwd": directory, "stdout": subprocess.DEVNULL}
    if os.geteuid() == 0:
        options |= {"user": user, "group": user, "extra_groups": []}
    data = directory / "data"
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "registry", "-A", "trust", "-E", "UTF8", "--no-sync"],
        check=True,
        **options,
    )
    settings = f"-c listen_addresses='' -c fsync=off -c max_connections=200 -k {directory}"
    pg_ctl: list[str | Path] = [programs / "pg_ctl", "-D", data, "-w", "-l", directory / "log"]
    subprocess.run([*pg_ctl, "-o", settings, "start"], check=True, **options)
    try:
        yield f"postgresql://registry@/postgres?host={directory}"
    finally:
        subprocess.run([*pg_ctl, "-m", "immediate", "stop"], check=True, **options)


async def compare_assets(
    merger: Merger, assets: Sequence[Asset], sources: Mapping[str, SourceRow]
) -> dict[str, list[str]]:
    """Return the fields in which the registry differs from these assets, by key, of those that differ."""
    found = await merger._assets.compare(assets, asset_values(sources))
    return {asset.key: fields for asset, fields in zip(assets, found, strict=True) if fields}
