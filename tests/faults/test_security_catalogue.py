"""Security, case by case: every payload in every form of output, every way a password may get out, every odd name."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

import pytest
from scene import Scene

from conftest import Cli
from seed_registry.embedded import account, binaries, server
from seed_registry.errors import EmbeddedServerFailed
from seed_registry.postgres.connection import session
from seed_registry.registry import ddl
from seed_registry.settings import DatabaseUrl
from test_security import PAYLOADS, Property, Terminal, document, held_by, hostile_document, left_over, plant, unseen
from test_security_database import HOSTILE_NAMES, check_column_names, check_schema_names, index_at

CANARY = "c4n4ry"
WATCHDOG_SECONDS = 60
# What these tests load holds a bad record or two, and they ask something else.
ANY_REJECTS = ("--max-rejects", "100%")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="asks what root does for other users")


# --- terminals and logs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["terminal", "console", "json"])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_anywhere_in_an_index_or_its_name_is_text(
    payload: str, form: str, database_url: DatabaseUrl, home: Path, tmp_path: Path, cli: Cli
) -> None:
    text = PAYLOADS[payload]
    name = text[:60].replace("/", "").replace("\0", "") + ".json"
    (tmp_path / name).write_bytes(hostile_document(text))
    arguments = ["load", name, "--max-rejects", "100", "--verbose"]
    if form == "terminal":
        code, shown = Terminal(home, tmp_path).run(*arguments, url=database_url)
        shown = left_over(shown)
    else:
        done = cli(*arguments, "--log-format", form, url=database_url)
        code, shown = done.returncode, done.stdout.decode() + done.stderr.decode()
        assert not [line for line in shown.splitlines() if line.startswith("FORGED")]
    assert code == 0, shown
    assert unseen(shown) == []


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_is_text_in_what_the_other_commands_print(
    payload: str, database_url: DatabaseUrl, tmp_path: Path, cli: Cli
) -> None:
    text = PAYLOADS[payload]
    name = text[:60].replace("/", "").replace("\0", "") + ".json"
    (tmp_path / name).write_bytes(hostile_document(text))
    assert cli("load", name, "--max-rejects", "0", url=database_url).returncode in (0, 3)
    plan = ("plan", "--max-rejects", "100", name)
    for command in (plan, ("explain", name), ("runs",), ("load", f"missing-{name}")):
        done = cli(*command, url=database_url)
        assert done.returncode == ("missing" in command[-1]), done.stderr
        assert unseen(done.stdout.decode() + done.stderr.decode()) == [], command


# --- secrets ------------------------------------------------------------------------------------------------------


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """The port of something that answers whoever comes with these bytes, or not at all."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held: list[socket.socket] = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    held.append(client)
                    client.recv(8)
                    client.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        for client in held:
            client.close()


UNREACHABLE = {
    "no such host": f"postgresql://u:{CANARY}@no.such.host.invalid/d",
    "nobody listens": f"postgresql://u:{CANARY}@127.0.0.1:1/d",
    "nobody listens, in the query": f"postgresql://u@127.0.0.1:1/d?password={CANARY}",
    "nobody listens, encoded": f"postgresql://u:{CANARY}%40%2F%3A%00@127.0.0.1:1/d",
    "a bad option": f"postgresql://u:{CANARY}@127.0.0.1:1/d?sslmode={CANARY}",
    "an unknown option": f"postgresql://u:{CANARY}@127.0.0.1:1/d?nonsense={CANARY}",
    "a key's password": f"postgresql://u@127.0.0.1:1/d?sslmode=require&sslpassword={CANARY}&sslkey=/none&sslcert=/none",
    "a bad port": f"postgresql://u:{CANARY}@127.0.0.1:{CANARY}/d",
    "no TLS": f"postgresql://u:{CANARY}@127.0.0.1:{{refusing}}/d?sslmode=require",
    "no answer": f"postgresql://u:{CANARY}@127.0.0.1:{{silent}}/d?connect_timeout=2",
}
verbosities = pytest.mark.parametrize("verbose", [[], ["--verbose"]], ids=["", "verbose"])


@verbosities
@pytest.mark.parametrize("case", UNREACHABLE)
def test_a_password_is_not_told_where_there_is_no_connection(
    case: str, verbose: list[str], cli: Cli, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "index.json").write_bytes(document())
    with answering(b"N") as refusing, answering(b"") as silent:
        url = DatabaseUrl(UNREACHABLE[case].format(refusing=refusing, silent=silent))
        for command in (["load", "index.json", "--retry-for", "0"], ["doctor"], ["plan", "index.json"]):
            done = cli(*command, *(verbose if command != ["doctor"] else []), url=url)
            assert CANARY.encode() not in done.stdout + done.stderr
            assert done.returncode in (0, 1, 2)
    assert_nowhere(home, tmp_path)


@verbosities
@pytest.mark.parametrize(
    "case", ["wrong", "no such database", "in the query", "encoded", "PGPASSWORD", "passfile", "open"]
)
def test_a_password_is_not_told_where_there_is_a_server(
    case: str, verbose: list[str], cli: Cli, database_url: DatabaseUrl, demanding_role: tuple[str, str],
    home: Path, tmp_path: Path,
) -> None:  # fmt: skip
    (tmp_path / "index.json").write_bytes(document({}))
    parts, environment = urlsplit(database_url.reveal), {}
    user = parts.netloc.partition("@")[0]
    if case == "wrong":
        user = f"{demanding_role[0]}:{CANARY}"
    elif case == "encoded":
        user += f":{CANARY}%40%2F%3A%C3%A9"
    elif case == "no such database":
        user, parts = f"{user}:{CANARY}", parts._replace(path="/nowhere")
    elif case == "in the query":
        parts = parts._replace(query=f"{parts.query}&password={CANARY}")
    elif case == "PGPASSWORD":
        environment["PGPASSWORD"] = CANARY
    else:
        passfile = tmp_path / "passfile"
        passfile.write_text(f"*:*:*:*:{CANARY}\n")
        passfile.chmod(0o600 if case == "passfile" else 0o644)
        parts = parts._replace(query=f"{parts.query}&passfile={quote(str(passfile))}")
    url = DatabaseUrl(urlunsplit(parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}")))
    cache = ("--source-cache", "cache")
    done = cli("load", "index.json", *cache, *ANY_REJECTS, "--retry-for", "0", *verbose, url=url, env=environment)
    assert done.returncode == {"wrong": 1, "no such database": 1, "open": 2}.get(case, 0), done.stderr
    (tmp_path / "passfile").unlink(missing_ok=True)
    assert CANARY not in done.stdout.decode() + done.stderr.decode() + asyncio.run(held_by(database_url))
    assert_nowhere(home, tmp_path)


@verbosities
def test_a_password_is_not_told_by_a_defect(verbose: list[str], database_url: DatabaseUrl, home: Path) -> None:
    defect = (
        "import seed_registry.cli.commands.load as m\nfrom seed_registry.cli.main import main\n"
        "def ingest(indexes, settings, progress): return settings + 1\n"
    )
    environment = {"PATH": os.environ["PATH"], "SEED_REGISTRY_HOME": str(home)}
    url = database_url.reveal.replace("@", f":{CANARY}@", 1)
    done = subprocess.run(
        [sys.executable, "-c", f"{defect}m.ingest = ingest\nmain()", "load", "x", *verbose, "--database-url", url],
        env=environment, capture_output=True, timeout=WATCHDOG_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert (b"Traceback" in done.stderr) == bool(verbose)
    assert b"TypeError" in done.stderr
    assert CANARY.encode() not in done.stdout + done.stderr


def assert_nowhere(*directories: Path) -> None:
    """No file in these directories has the canary in it, nor in its name."""
    for directory in directories:
        for path in directory.rglob("*"):
            assert CANARY not in path.name
            assert not path.is_file() or CANARY.encode() not in path.read_bytes()


# --- names and roles ----------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("field", ["name", "content_hash"])
async def test_a_column_of_any_name_is_written_to(
    field: str, database_url: DatabaseUrl, record_property: Property
) -> None:
    record_property("cases", len(HOSTILE_NAMES))
    async with session(database_url) as connection:
        await check_column_names(connection, field, HOSTILE_NAMES)


@pytest.mark.anyio
async def test_a_schema_of_any_name_is_loaded_into(
    database_url: DatabaseUrl, tmp_path: Path, record_property: Property
) -> None:
    names = [name for name in HOSTILE_NAMES if name != "$$"]
    record_property("cases", len(names))
    async with session(database_url) as connection:
        await check_schema_names(connection, database_url, names, index_at(tmp_path / "index.json"))


@pytest.mark.parametrize("seed", range(4))
def test_a_role_with_the_printed_grants_goes_on_where_it_was_killed(
    seed: int, database_url: DatabaseUrl, home: Path, tmp_path: Path
) -> None:
    scene = Scene(database_url, home, tmp_path, seed, shape="seed.ndjson.")
    scene.close_gate(passes=5 * seed)
    role = f"loader_{secrets.token_hex(4)}"
    database = scene.ask("select quote_ident(current_database())")
    for statement in (f"create role {role} login", f"revoke all on database {database} from public"):
        scene.fetch(statement)
    for statement in ddl.grants(role).replace(':"DBNAME"', database).strip().splitlines():
        scene.fetch(statement)
    scene.fetch(f"grant usage on schema gate to {role}")
    scene.fetch(f"grant select on gate.state to {role}")
    scene.fetch(f"grant usage on sequence gate.turn to {role}")
    parts = urlsplit(database_url.reveal)
    url = DatabaseUrl(urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}")))
    try:
        process = scene.start(url=url)
        scene.at_gate(process)
        scene.kill(process)
        scene.open_gate()
        scene.check_safe()
        ended = scene.load(url=url)
        scene.check_done(ended)
        assert (ended.counts["resumed"] > 0) == (seed > 0)
    finally:
        scene.fetch(f"drop owned by {role}")
        scene.fetch(f"drop role {role}")


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "directory"])
@pytest.mark.parametrize("option", ["--rejects", "--source-cache"])
def test_what_was_planted_in_the_way_of_a_file_neither_stops_time_nor_is_written_into(
    option: str, kind: str, database_url: DatabaseUrl, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "index.json").write_bytes(document({}))
    plant(kind, tmp_path / "planted", tmp_path / "precious")
    done = subprocess.run(
        [sys.executable, "-m", "seed_registry", "load", "index.json", option, "planted", *ANY_REJECTS],
        env={"PATH": os.environ["PATH"], "SEED_REGISTRY_HOME": str(home), "DATABASE_URL": database_url.reveal},
        cwd=tmp_path, capture_output=True, timeout=WATCHDOG_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == (kind == "directory" or option == "--rejects"), done.stderr
    assert b"Traceback" not in done.stderr
    assert b"a defect" not in done.stderr
    assert (tmp_path / "precious").read_text() == "precious"


# --- the embedded server ------------------------------------------------------------------------------------------


@pytest.fixture
def short() -> Iterator[Path]:
    """A short directory that the server's user can pass through; whatever runs in it is stopped in the end."""
    path = Path(tempfile.mkdtemp(prefix="sr-", dir="/tmp"))
    path.chmod(0o711)
    yield path
    for directory in path.glob("**/postgres-18"):
        with suppress(EmbeddedServerFailed):
            server.stop(directory.parent)
    shutil.rmtree(path)


@pytest.mark.parametrize(
    "name", ["a b", "$(touch owned)", "`touch owned`", "; touch owned;", "it's", 'say "no"', "x" * 150, "-c", "\x1b[2J"]
)
def test_a_home_of_any_name_is_loaded_into_and_runs_nothing(name: str, short: Path, tmp_path: Path) -> None:
    (tmp_path / "index.json").write_bytes(document({}))
    done = subprocess.run(
        [sys.executable, "-m", "seed_registry", "load", "index.json", *ANY_REJECTS],
        env={"PATH": os.environ["PATH"], "SEED_REGISTRY_HOME": str(short / name), "LANG": "C.UTF-8"},
        cwd=tmp_path, capture_output=True, timeout=WATCHDOG_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert unseen(done.stdout.decode() + done.stderr.decode()) == []
    assert not [*short.rglob("owned"), *tmp_path.rglob("owned")]
    assert not server.status(short / name).running
    (rejects,) = (short / name / "rejects").iterdir()
    assert stat.S_IMODE(rejects.stat().st_mode) == 0o600
    assert [stat.S_IMODE((short / name / part).stat().st_mode) for part in ("rejects", "postgres-18")] == [0o700] * 2


@as_root
@pytest.mark.parametrize("name", ["home", "x" * 150], ids=["short", "long"])
def test_the_server_listens_nowhere_and_lets_in_nobody_else(name: str, short: Path) -> None:
    nobody = account._account_of("nobody")
    with server.running(short / name, durable=False) as url:
        pid = server.status(short / name).pid
        held = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
        for table in ("tcp", "tcp6", "udp", "udp6"):
            lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
            assert not [line for line in lines if f"socket:[{line.split()[9]}]" in held]
        directory = Path(parse_qs(urlsplit(url).query)["host"][0])
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        programs = binaries.reachable_programs(18, nobody, short / name)
        for where in (url, url.replace("registry@", "postgres@"), url.replace("registry@", "nobody@")):
            refused = nobody.run((programs / "psql", where, "-c", "select 1"))
            assert refused.returncode != 0
            assert "Permission denied" in refused.stderr
        assert not nobody.can("ls", short / name / "postgres-18/data")
        assert not nobody.can("touch", directory / "x")
