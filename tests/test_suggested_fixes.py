"""Every fix that a message suggests works: it is taken from the message and executed.

The messages are found in the source. One that suggests a command, a flag, a variable or a statement and that no test
executes is reported, see `test_every_message_that_suggests_something_has_a_test_that_executes_it`.
"""

from __future__ import annotations

import ast
import asyncio
import bz2
import gzip
import json
import lzma
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest
import typer.main
import zstandard

from seed_registry.cli.config.options import commands_of, options_of, variable
from seed_registry.cli.main import app
from seed_registry.embedded import server
from seed_registry.postgres.database_url import parse_url
from seed_registry.settings import DatabaseUrl

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/seed_registry"
DOMAIN = "data.example.org"
Test = TypeVar("Test", bound=Callable[..., Any])
EXECUTED: dict[str, str] = {}


def executes(*messages: str) -> Callable[[Test], Test]:
    """This test executes what is suggested by the messages that hold these texts."""

    def remember(test: Test) -> Test:
        EXECUTED.update(dict.fromkeys(messages, test.__name__))
        slow: Test = pytest.mark.slow(test)  # each runs some commands, one after the other
        return slow

    return remember


# --- running what is suggested ---------------------------------------------------------------------------------------


class Shell:
    """A shell in the test's directory, with `seed-registry` on its path."""

    def __init__(self, directory: Path, home: Path, url: DatabaseUrl | None) -> None:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], str(server.psql_path().parent)])
        self.env = {"PATH": path, "SEED_REGISTRY_HOME": str(home), "LANG": "C.UTF-8", "HOME": str(home)}
        if url is not None:
            self.env["DATABASE_URL"] = url.reveal
        self.directory = directory

    def run(self, command: str, /, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command line."""
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            env=self.env | env,
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def fails(self, command: str, code: int = 1, /, **env: str) -> str:
        """What it says on stderr but logs."""
        done = self.run(command, **env)
        assert done.returncode == code, done
        return "\n".join(line for line in done.stderr.splitlines() if not line.startswith("{"))

    def works(self, command: str, /, **env: str) -> str:
        """What it says on stdout."""
        done = self.run(command, **env)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def file(self, name: str, content: Any) -> Path:
        """A file in the directory: bytes, or what is written as JSON."""
        path = self.directory / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path


@pytest.fixture
def shell(tmp_path: Path, home: Path, database_url: DatabaseUrl) -> Shell:
    return Shell(tmp_path, home, database_url)


def asset(key: str, **fields: Any) -> dict[str, Any]:
    return {"asset_key": key, "source_key": DOMAIN, **fields}


def document(*assets: dict[str, Any]) -> dict[str, Any]:
    return {"sources": [{"source_key": DOMAIN}], "assets": list(assets)}


INDEX = document(*(asset(f"aaaa-{number:04}", name=f"name {number}") for number in range(30)))


def suggested(text: str, pattern: str = r"`(seed-registry [^`]*)`") -> str:
    """The only thing of this form that a message suggests."""
    (found,) = set(re.findall(pattern, text))
    return str(found)


def execute(url: DatabaseUrl, statement: str) -> Any:
    async def run() -> Any:
        connection = await asyncpg.connect(url.reveal)
        try:
            return await connection.fetch(statement)
        finally:
            await connection.close()

    return asyncio.run(run())


# --- tables, locks ---------------------------------------------------------------------------------------------------


@executes(
    "create it with `seed-registry schema apply`",
    "create what is missing with `seed-registry schema apply`",
    "the database has no registry tables yet, see `seed-registry schema apply`",
)
def test_missing_tables_are_created(tmp_path: Path, home: Path, bare_database_url: DatabaseUrl) -> None:
    shell = Shell(tmp_path, home, bare_database_url)
    shell.file("index.json", INDEX)
    assert "seed-registry schema apply" in shell.run("seed-registry plan index.json").stdout
    shell.works(suggested(shell.fails("seed-registry load index.json")))
    shell.works("seed-registry load index.json")


@executes(
    "let the tables' owner run the output of `seed-registry schema grants ROLE`",
    "no history, no resuming, until its owner runs `seed-registry schema upgrade` "
    "and `seed-registry schema grants ROLE`",
)
def test_a_role_is_granted_what_it_lacks(shell: Shell, database_url: DatabaseUrl) -> None:
    shell.file("index.json", INDEX)
    parts = database_url.reveal.partition("@")
    execute(database_url, "create role suggested login")
    try:
        as_role = {"DATABASE_URL": f"postgresql://suggested{parts[1]}{parts[2]}"}
        command = suggested(shell.fails("seed-registry load index.json", 1, **as_role)).replace("ROLE", "suggested")
        shell.works(f"{command} | psql -qv ON_ERROR_STOP=1 {shlex.quote(database_url.reveal)}")
        assert "no_ledger" not in shell.run("seed-registry load index.json", **as_role).stderr
        shell.works("seed-registry load index.json", **as_role)
    finally:
        execute(database_url, "drop owned by suggested")
        execute(database_url, "drop role suggested")


@executes(
    "--retire needs the ledger, which this role may not use\n"
    "have its owner run `seed-registry schema upgrade` and `seed-registry schema grants ROLE`"
)
def test_a_role_is_granted_the_ledger_that_retiring_needs(shell: Shell, database_url: DatabaseUrl) -> None:
    shell.file("index.json", INDEX)
    parts = database_url.reveal.partition("@")
    execute(database_url, "create role suggested login")
    try:
        as_role = {"DATABASE_URL": f"postgresql://suggested{parts[1]}{parts[2]}"}
        execute(database_url, "grant usage on schema registry to suggested")
        execute(database_url, "grant select, insert, update on all tables in schema registry to suggested")
        assert "--retire needs the ledger" in shell.fails("seed-registry load index.json --retire", 1, **as_role)
        shell.works("seed-registry schema upgrade --yes")
        owner = shlex.quote(database_url.reveal)
        shell.works(f"seed-registry schema grants suggested | psql -qv ON_ERROR_STOP=1 {owner}")
        shell.works("seed-registry load index.json --retire", **as_role)
    finally:
        execute(database_url, "drop owned by suggested")
        execute(database_url, "drop role suggested")


@contextmanager
def locked(url: DatabaseUrl) -> Iterator[None]:
    """Somebody keeps writers away from the assets until he is ended."""
    script = (
        "import asyncio, asyncpg, sys\n"
        "async def main():\n"
        "    connection = await asyncpg.connect(sys.argv[1])\n"
        "    await connection.execute('begin; lock table registry.assets in share mode')\n"
        "    print(flush=True)\n"
        "    await asyncio.sleep(300)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, url.reveal], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.kill()


@executes("wait for the end of that session, or end it with select pg_terminate_backend(PID), then load again")
def test_a_session_that_holds_a_lock_is_ended(shell: Shell, database_url: DatabaseUrl) -> None:
    shell.file("index.json", INDEX)
    with locked(database_url):
        told = shell.fails("seed-registry load index.json --io-timeout 2 --retry-for 0")
        statement = suggested(told, r"select pg_terminate_backend\(PID\)").replace("PID", suggested(told, r"pid (\d+)"))
        execute(database_url, statement)
        shell.works("seed-registry load index.json")


@executes("name them with --column, or alter table add column; see `seed-registry schema show`")
def test_a_column_that_is_left_out_is_named_or_added(shell: Shell, database_url: DatabaseUrl) -> None:
    execute(database_url, "alter table registry.assets rename column description to words")
    told = next(line for line in shell.run("seed-registry doctor").stdout.splitlines() if "--column" in line)
    assert "description" in told
    named = shell.run("seed-registry doctor --column assets.description=words").stdout
    assert not [line for line in named.splitlines() if "schema show" in line]
    (definition,) = set(re.findall(r"description +\w+", shell.works(suggested(told))))
    execute(database_url, f"alter table registry.assets add column {definition}")
    assert not [line for line in shell.run("seed-registry doctor").stdout.splitlines() if "schema show" in line]


# --- what is read ----------------------------------------------------------------------------------------------------


@executes("records rejected, more than --max-rejects", "look at them with `seed-registry rejects show")
def test_rejects_are_looked_at_and_allowed(shell: Shell) -> None:
    shell.env["SEED_REGISTRY_HOME"] += "/a home's"  # commands are to be copied as they are
    shell.file("index.json", document(*([{}] * 4), asset("aaaa-0001")))
    told = shell.fails("seed-registry load index.json --max-rejects 3", 3)
    listed = shell.works(suggested(told))
    assert "4 no_key" in listed
    shell.works("seed-registry load index.json --max-rejects 4")


@executes(
    "seed-registry rejects show {} --reason {}",
    "seed-registry rejects replay {}",
    "--limit {} lists them",
    "name that of the index they come from with --dialect",
)
def test_what_a_list_of_rejects_suggests_lists_and_replays_them(shell: Shell, database_url: DatabaseUrl) -> None:
    execute(database_url, "alter table registry.assets add constraint good check (name <> 'bad')")
    bad = [asset(f"bbbb-{number:04}", name="bad") for number in range(30)]
    shell.file("index.json", document(*bad, asset("aaaa-0001", name="good")))
    shell.works("seed-registry load index.json --max-rejects 100 --rejects 'the rejects'")
    shown = shell.works("seed-registry rejects show 'the rejects'")
    by_reason = shell.works(suggested(shown, r"list: (.*)"))
    more = suggested(by_reason, r"more: (--limit \d+) lists them")
    assert len(re.findall(": line ", shell.works(f"{suggested(shown, r'list: (.*)')} {more}"))) == 30
    execute(database_url, "alter table registry.assets drop constraint good")
    command = suggested(shown, r"after a fix: (.*)")
    flag = suggested(shell.fails(command), r"with (--dialect) ")  # records of a seed document do not tell
    again = shell.works(f"{command} {flag} seed --json")
    assert json.loads(again)["assets"]["inserted"] == 30


@executes("load the index with a larger --max-record-bytes")
def test_records_that_are_not_in_the_file_are_not_replayed_but_loaded(shell: Shell) -> None:
    shell.file("index.json", document(asset("aaaa-0001"), asset("aaaa-0002", name="x" * 3_000)))
    shell.works("seed-registry load index.json --max-record-bytes 1KiB --max-rejects 1 --rejects out")
    shown = shell.works("seed-registry rejects show out")
    assert "rejects replay" not in shown
    flag = suggested(shown, r"after a fix: load the index with a larger (--max-record-bytes)")
    shell.works(f"seed-registry load index.json {flag} 1MiB --max-rejects 0")


@executes(
    "bytes long; raise --max-record-bytes to load it", "is longer than --max-record-bytes", "raise --max-record-bytes"
)
def test_a_record_that_is_too_long_is_loaded_with_a_higher_limit(shell: Shell) -> None:
    shell.file("index.json", document(asset("aaaa-0001"), asset("aaaa-0002", name="x" * 3_000)))
    shell.works("seed-registry load index.json --max-record-bytes 1KiB --max-rejects 1 --rejects out")
    detail = json.loads((shell.directory / "out").read_text())["detail"]
    length = suggested(detail, r"([\d,]+) bytes long").replace(",", "")
    done = shell.works(f"seed-registry load index.json {suggested(detail, '--max-record-bytes')} {length} --json")
    assert json.loads(done)["assets"]["inserted"] + json.loads(done)["assets"]["updated"] >= 1
    assert json.loads(done)["assets"]["rejected"] == 0


@executes("load it with a larger --max-unpacked-bytes")
def test_an_index_that_unpacks_to_much_is_loaded_with_a_higher_limit(shell: Shell) -> None:
    shell.file("index.json.gz", gzip.compress(json.dumps(INDEX).encode() + b" " * 100_000))
    told = shell.fails("seed-registry load index.json.gz --max-unpacked-bytes 50KB")
    shell.works(f"seed-registry load index.json.gz {suggested(told, '--max-unpacked-bytes')} 1MB")


@executes("if that is right, raise --max-sources")
def test_many_sources_are_loaded_with_a_higher_limit(shell: Shell) -> None:
    sources = [{"source_key": f"{number}.example.org"} for number in range(5)]
    shell.file("index.json", {"sources": sources, "assets": []})
    told = shell.fails("seed-registry load index.json --max-sources 3")
    shell.works(f"seed-registry load index.json {suggested(told, '--max-sources')} 5")


@executes("of sources that are not listed: --derive-sources creates them", "create their sources with --derive-sources")
def test_sources_that_are_not_listed_are_derived(shell: Shell) -> None:
    shell.file("index.json", document(asset("aaaa-0001"), {"asset_key": "bbbb-0001", "source_key": "b.example.org"}))
    flag = suggested(shell.works("seed-registry load index.json"), "--derive-sources")
    assert json.loads(shell.works(f"seed-registry load index.json {flag} --json"))["assets"]["inserted"] == 1


@executes("does not name its source: name it with --domain", "name the portal with --domain")
def test_records_without_a_portal_are_loaded_with_its_name(shell: Shell) -> None:
    dataset = {"title": "a", "accessLevel": "public", "identifier": "one", "description": "x", "modified": "2020-01-01"}
    shell.file("index.json", {"conformsTo": "https://project-open-data.cio.gov/v1.1/schema", "dataset": [dataset]})
    done = shell.run("seed-registry load index.json --rejects out")
    detail = json.loads((shell.directory / "out").read_text())["detail"]
    assert "--domain" in detail or "--domain" in done.stderr + done.stdout
    done_again = shell.works(f"seed-registry load index.json --domain {DOMAIN} --json")
    assert json.loads(done_again)["assets"]["inserted"] == 1


@executes("do not name their portal")
def test_a_dialect_without_a_portal_is_loaded_with_its_name(shell: Shell) -> None:
    shell.file("index.json", [{"id": "aaaa-0001", "viewType": "tabular", "name": "a", "columns": []}])
    told = shell.fails("seed-registry load index.json")
    shell.works(f"seed-registry load index.json {suggested(told, '--domain [a-z.]+')}")


@executes("leave --domain out, and load indexes that need it by a command of their own")
def test_a_domain_that_cannot_be_meant_is_left_out(shell: Shell) -> None:
    shell.file("index.json", INDEX)
    assert "leave --domain out" in shell.fails("seed-registry load index.json --domain other.example.org", 2)
    shell.works("seed-registry load index.json")


@executes(
    "name its dialect with --dialect",
    "name its path with --records-at",
    "is --dialect right, and --records-at?",
    "name the array of the records with --records-at",
)
def test_a_shape_that_is_not_known_is_read_as_it_is_told(shell: Shell) -> None:
    records = [asset("aaaa-0001"), asset("aaaa-0002")]
    shell.file("index.json", {"answer": {"things": [{"k": record} for record in records]}, "rows": records})
    told = shell.fails("seed-registry load index.json")
    as_told = f"--dialect seed {suggested(told, '--records-at')} rows --derive-sources"
    assert "--dialect" in told
    told = shell.fails("seed-registry load index.json --dialect directory")
    told = shell.fails(f"seed-registry load index.json --dialect directory {suggested(told, '--records-at')} rows", 3)
    assert re.search("is (--dialect) right, and (--records-at)", told)
    shell.works(f"seed-registry load index.json {as_told}")
    shell.file("other.json", {"source": "socrata", "domain": DOMAIN, "datasets": [[1], [2]], "rows": records})
    told = shell.fails("seed-registry load other.json", 3)
    shell.works(f"seed-registry load other.json --dialect seed {suggested(told, '--records-at')} rows --derive-sources")


@executes("name the shape of the index with --dialect")
def test_an_index_of_a_wrong_dialect_is_given_its_own(shell: Shell) -> None:
    results: list[Any] = [{"resource": {"id": f"aaaa-00{n}"}, "metadata": {"domain": DOMAIN}} for n in range(10, 30)]
    note = {"note": "the first record fits no dialect"}
    shell.file("index.json", "\n".join(map(json.dumps, [note, *results])).encode())
    told = shell.fails("seed-registry load index.json --dialect seed", 3)
    shell.works(f"seed-registry load index.json {suggested(told, '--dialect')} discovery")


@executes("load it with --records-at PATH --dialect NAME, by a command of its own")
def test_records_that_were_not_read_are_read_by_a_load_of_their_own(shell: Shell) -> None:
    datasets = [{"id": f"aaaa-{number:04}", "domain": DOMAIN, "name": "a", "permalink": "x"} for number in range(3)]
    shell.file("index.json", {"source": "socrata", "domain": DOMAIN, "datasets": datasets[:1], "others": datasets[1:]})
    report = json.loads(shell.works("seed-registry load index.json --json"))
    (unread,) = report["unread_records"]
    done = shell.works(f"seed-registry load index.json --records-at {unread['path']} --json")
    assert json.loads(done)["assets"]["inserted"] == 2


def with_large_window(data: bytes) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, hash_log=10, chain_log=10)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(data) + compressor.flush()


PACKED: Mapping[str, Callable[[bytes], bytes]] = {
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "xz --format=lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "lz4": lambda data: subprocess.run(["lz4", "-c"], input=data, capture_output=True, check=True).stdout,
    "zstd": with_large_window,
    "gzip": lambda data: zstandard.compress(gzip.compress(data)),
    "zstd in gzip": lambda data: gzip.compress(zstandard.compress(data)),
}


@executes("| seed-registry load -", "zstd -d --long=31 -c", "xz -dc --format=lzma")
@pytest.mark.parametrize("kind", [*PACKED, "tar", "unzip"])
def test_what_is_packed_otherwise_is_loaded_by_the_line_that_is_printed(kind: str, shell: Shell) -> None:
    if shutil.which(kind.partition(" ")[0]) is None:
        pytest.skip(f"there is no {kind}")
    data, path = json.dumps(INDEX).encode(), shell.directory / "an index's copy"
    if kind == "tar":
        shell.file("index.json", data)
        with tarfile.open(path, "w:gz") as archive:
            archive.add(shell.directory / "index.json", "index.json")
    elif kind == "unzip":
        with zipfile.ZipFile(path, "w") as packed:
            packed.writestr("index.json", data)
    else:
        path.write_bytes(PACKED[kind](data))
    told = shell.fails(f"seed-registry load {shlex.quote(path.name)}")
    done = shell.works(f"{suggested(told, r'unpack it: (.*)')} --json")
    assert json.loads(done)["assets"]["inserted"] == 30


# --- commands --------------------------------------------------------------------------------------------------------


@executes("verify --full finds all of them, load --full repairs them")
def test_rows_that_were_edited_are_found_and_mended(shell: Shell, database_url: DatabaseUrl) -> None:
    shell.file("index.json", INDEX)
    shell.works("seed-registry load index.json")
    execute(database_url, "update registry.assets set name = 'edited' where asset_key < 'aaaa-0025'")
    told = shell.run("seed-registry verify index.json --sample 30").stdout
    verify, load = re.findall(r"(verify|load) --full", told)
    assert "25 assets different" in shell.fails(f"seed-registry {verify} --full index.json", 4)
    shell.works(f"seed-registry {load} --full index.json")
    shell.works("seed-registry verify --full index.json")


@executes("load an index first, or name a database with --database-url", "load an index first, or name a database")
def test_without_an_embedded_database_another_is_named(shell: Shell, database_url: DatabaseUrl) -> None:
    shell.file("index.json", INDEX)
    shell.works("seed-registry load index.json")
    del shell.env["DATABASE_URL"]
    for command in ("verify index.json", "digest"):
        flag = suggested(shell.fails(f"seed-registry {command}"), "--database-url")
        shell.works(f"seed-registry {command} {flag} {shlex.quote(database_url.reveal)}")


@executes("`seed-registry runs` lists them", "`seed-registry --help` lists them")
def test_what_there_is_is_listed(shell: Shell) -> None:
    shell.file("index.json", INDEX)
    run_id = json.loads(shell.works("seed-registry load index.json --json"))["run_id"]
    assert run_id in shell.works(suggested(shell.fails("seed-registry runs nonsense", 2)))
    assert "verify" in shell.works(suggested(shell.fails("seed-registry config show nonsense", 2)))


@executes(
    "`seed-registry runs RUN` name the rejects file of a run",
    "`seed-registry runs RUN` names a run's",
    "an index is loaded with `seed-registry load`",
)
def test_the_rejects_of_a_run_are_found(shell: Shell) -> None:
    shell.file("index.json", document(asset("aaaa-0001"), {}))
    run_id = json.loads(shell.works("seed-registry load index.json --json --max-rejects 1"))["run_id"]
    for command in ("rejects show index.json", "rejects replay index.json", "rejects show missing"):
        done = shell.run(f"seed-registry {command}")
        assert done.returncode != 0
    path = suggested(shell.works(f"seed-registry runs {run_id}"), r"rejects file\s+(\S+)")
    shell.works(f"seed-registry rejects show {path}")


@executes("start it with `seed-registry db start`", "seed-registry db reset", "`seed-registry load` creates it")
def test_the_embedded_server_is_started_and_begun_anew(shell: Shell, home: Path) -> None:
    home.chmod(0o711)
    del shell.env["DATABASE_URL"]
    try:
        shell.works(suggested(shell.fails("seed-registry db url")))
        assert "postgresql://" in shell.works("seed-registry db url")
    finally:
        shell.works("seed-registry db stop")
    (home / "postgres-18/data/PG_VERSION").write_text("12\n")
    shell.file("index.json", INDEX)
    told = shell.fails("seed-registry load index.json")
    shell.works(f"{suggested(told, 'seed-registry db reset')} --yes")
    assert "`seed-registry load` creates it" in shell.run("seed-registry doctor").stdout
    shell.works("seed-registry load index.json")


# --- settings and files ----------------------------------------------------------------------------------------------


@executes("(and the password to PGPASSWORD or ~/.pgpass)", "the password in {} can be read by others")
def test_pairs_become_the_url_that_is_printed(shell: Shell, database_url: DatabaseUrl) -> None:
    shell.file("index.json", INDEX)
    found = parse_url(database_url)
    host, port = found.hosts[0]
    pairs = f"host={host} port={port} user={found.login['user']} dbname={found.login['database']} password=s3cret"
    told = shell.fails(f"seed-registry load index.json --database-url {shlex.quote(pairs)}", 2)
    assert "s3cret" not in told
    url = suggested(told, r"write (postgresql://\S+)")
    shell.works("seed-registry load index.json", DATABASE_URL=url, PGPASSWORD="s3cret")  # trusted anyway


@executes("the database does not exist; create it with createdb")
def test_a_database_that_is_missing_is_created(shell: Shell, database_url: DatabaseUrl) -> None:
    found = parse_url(database_url)
    shell.env["DATABASE_URL"] = database_url.reveal.replace(found.login["database"], "suggested_database")
    shell.file("index.json", INDEX)
    tool = suggested(shell.fails("seed-registry load index.json"), r"create it with (createdb)")
    try:
        shell.works(f"{tool} -h {found.hosts[0][0]} -U {found.login['user']} suggested_database")
        shell.works("seed-registry schema apply && seed-registry load index.json")
    finally:
        execute(database_url, "drop database if exists suggested_database with (force)")


@executes("run chmod 600 {}")
def test_a_passfile_is_made_private(shell: Shell, database_url: DatabaseUrl) -> None:
    shell.file("index.json", INDEX)
    path = shell.file("a pass file", b"*:*:*:*:s3cret\n")
    path.chmod(0o644)
    shell.env["DATABASE_URL"] = f"{database_url.reveal}&passfile={path}".replace(" ", "%20")
    shell.works(suggested(shell.fails("seed-registry load index.json", 2), r"run (chmod 600 .*)"))
    shell.works("seed-registry load index.json")


@executes(
    "its database-url may hold a password: chmod 600 it",
    "its headers may hold a secret: chmod 600 it",
    "name it with --config to use it all the same, or set SEED_REGISTRY_CONFIG=",
    "can be written by everybody: chmod o-w it",
)
def test_a_file_of_settings_is_made_private_or_gone_without(shell: Shell) -> None:
    shell.file("index.json", INDEX)
    for text, mode in (
        (b'header = ["X-Token: s3cret"]', 0o640),
        (b'database-url = "postgresql://u:s3cret@h/d"', 0o640),
        (b"batch-size = 7", 0o666),
    ):
        file = shell.file("seed-registry.toml", text)
        file.chmod(mode)
        told = shell.fails("seed-registry load index.json", 2)
        change = suggested(told, r"(chmod \S+) it")
        if mode == 0o666:
            config = suggested(told, r"SEED_REGISTRY_CONFIG=(\S+)")
            shell.works("seed-registry load index.json", SEED_REGISTRY_CONFIG=config)
            shell.works("seed-registry --config seed-registry.toml load index.json")
        shell.works(f"{change} seed-registry.toml && seed-registry load index.json")


@executes("the rejects file {} cannot be written: {}; name another with --rejects", "name another, or leave it out")
def test_another_rejects_file_is_named(shell: Shell) -> None:
    shell.file("index.json", document(asset("aaaa-0001"), {}))
    told = shell.fails("seed-registry load index.json --max-rejects 1 --rejects no/such/directory")
    shell.works(f"seed-registry load index.json --max-rejects 1 {suggested(told, '--rejects')} rejects")
    told = shell.fails("seed-registry rejects replay rejects --rejects rejects", 2)
    assert shell.run("seed-registry rejects replay rejects --rejects others").returncode != 2
    assert shell.run("seed-registry rejects replay rejects").returncode != 2


@executes("others can write into {}\nrun chmod o-w on it, or set SEED_REGISTRY_HOME to another place")
def test_a_home_that_others_can_write_into_is_closed_to_them(shell: Shell, home: Path) -> None:
    home.chmod(0o777)
    shell.file("index.json", INDEX)
    change = suggested(shell.fails("seed-registry load index.json"), r"run (chmod o-w) on it")
    shell.works(f"{change} {home} && seed-registry load index.json")


@executes(
    "say which one is meant: --header '{} {}: …'", "a token, or another agent, is sent with --header 'Name: value'"
)
def test_a_header_is_given_its_origin(shell: Shell) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        urls = f"http://127.0.0.1:{port}/a.json http://localhost:{port}/b.json"
        told = shell.fails(f"seed-registry load {urls} --header 'X-Token: a'", 2)
        header = suggested(told, r"--header '([^']*)'").replace("…", "a")
        assert "Connection refused" in shell.fails(f"seed-registry load {urls} --header {shlex.quote(header)}")


@executes("the value of {} can be read by others")
def test_a_header_is_given_where_nobody_reads_it(shell: Shell) -> None:
    shell.file("index.json", INDEX)
    told = shell.run("seed-registry load index.json --header 'X-Token: a'").stderr
    name = suggested(told, "SEED_REGISTRY_[A-Z]+")
    assert "can be read by others" not in shell.run("seed-registry load index.json", **{name: "X-Token: a"}).stderr


# --- that none is forgotten ------------------------------------------------------------------------------------------

# Messages whose fix another test executes, by that test (or how its name begins).
ELSEWHERE = {
    "shards/test_dask.py::test_a_cluster_loads_what_one_process_loads": [
        "start the workers with the DATABASE_URL of the command"
    ],
    "index/test_dialects.py::test_a_named_dialect_that_does_not_fit_is_refused_where_another_does": [
        "leave --dialect out"
    ],
    "synthetic/test_sample_loads.py::test_a_load_counts_what_is_expected_of_a_sample": [
        "nothing in this index names its portal: load it with --domain {}"
    ],
    "index/test_dialects.py::test_two_dialects_that_fit_equally_well_are_an_error_that_names_both": [
        "say which with --dialect; `seed-registry explain` with either shows the rows that it makes"
    ],
    "load/test_record_cases.py::test_landing_pages_that_disagree_are_reported_and_each_names_its_own_portal": [
        "name one for all with --domain"
    ],
    "index/test_packed_shards.py::test_what_cannot_be_cut_is_one_shard_with_a_command_that_helps": [
        "> UNPACKED && seed-registry load UNPACKED"
    ],
    "doctor/test_doctor.py::test_processes_that_the_server_has_no_sessions_for_are_told_with_a_number_that_it_has": [
        "cores: --processes auto starts", "until then --processes {}"
    ],
    "doctor/test_doctor.py::test_processes_that_the_memory_is_too_small_for_are_told": [
        "load with --processes {}, or give it more memory"
    ],
    "cli/test_process_display.py::test_report_metrics_page_log_and_runs_tell_of_the_shards": ["more; --json has all"],
    "doctor/test_doctor_cluster.py::test_a_cluster_without_workers_and_a_scheduler_that_does_not_answer_fail": [
        "start some: `dask worker {}`, with DATABASE_URL in their environment"
    ],
    "shards/test_dask.py::test_a_server_without_room_for_a_worker_says_so": ["or load with a smaller --concurrency"],
    "shards/test_dask.py::test_after_the_scheduler_is_lost_processes_of_this_machine_finish_the_run": [
        "or with --processes in place of --scheduler"
    ],
    "shards/test_dask.py::test_a_header_that_a_worker_lacks_is_named_without_its_value": ["it lacks the header {}"],
    "shards/test_dask.py::test_a_scheduler_that_does_not_answer_is_an_error_of_ours": ["no Dask scheduler answers at"],
    "shards/test_dask.py::test_no_worker_for_too_long_is_an_error": ["has had no worker for {} seconds"],
    "shards/test_dask.py::test_workers_that_cannot_load_are_named_before_the_first_step": [
        "is another one than that of this command", "there is no database in its environment",
    ],
    "shards/test_dask.py::test_the_embedded_server_is_refused": ["cannot reach the embedded server"],
    "shards/test_dask.py::test_a_url_that_may_hold_a_secret_is_refused": ["its URL has a password or a query"],
    "shards/test_dask.py::test_a_worker_that_sees_another_file_is_named": ["all workers need the same file"],
    "postgres/test_pooler.py::test_a_session_pool_that_is_too_small_leaves_as_many_workers": [
        "PgBouncer: default_pool_size", "--pooler none if the pooler keeps sessions",
    ],
    "postgres/test_standby.py::test_a_missing_standby_is_reported_within_seconds_and_named_in_the_end": [
        "alter system set synchronous_standby_names"
    ],
    "postgres/test_standby.py::test_a_session_that_outlived_its_loader_is_named": ["pg_terminate_backend({})"],
    "embedded/test_containers.py::test_a_home_that_cannot_be_used_is_reported_with_the_variable_that_helps": [
        "set SEED_REGISTRY_HOME to one that this user can write to", "set SEED_REGISTRY_HOME to an absolute path",
        "set SEED_REGISTRY_HOME to a directory that this user",
    ],
    "embedded/test_containers.py::test_a_load_into_another_database_needs_no_home": [
        "name the file for rejected records with --rejects"
    ],
    "embedded/test_containers.py::test_who_has_no_name_is_asked_for_one": ["write USER@ into it, or set PGUSER"],
    "embedded/test_containers.py::test_a_user_id_without_a_name_has": ["install libnss-wrapper there"],
    "postgres/test_pooler.py::test_sslmode_encrypts_and_verifies_as_far_as_it_says": [
        "add sslrootcert=system or sslrootcert=FILE", "add sslmode=verify-full&sslrootcert=system",
    ],
    "postgres/test_conninfo.py::test_sslmode_says_how_the_server_is_trusted": [
        "channel_binding=require is not supported", "encrypt with sslmode=verify-full",
        "sslmode=verify-full proves the server", "sslrootcert=system requires sslmode=verify-full",
        "requires sslmode=require or stronger",
    ],
    "registry/test_tables.py::test_the_printed_statement_fixes_a_missing_key": ["create unique index on"],
    "registry/test_table_checks.py::test_the_fix_that_an_obstacle_is_refused_with_removes_it": [
        "add unique ({});", "run: alter table {}", "no inherit {};", "add generated by default as identity",
        "drop rule {}",
    ],
    "registry/test_tables.py::test_a_named_column_goes_before_the_usual_one": [
        "drop that foreign key, or name another column", "NOT NULL without a default, and no field fills it",
        "name another with --column", "or name another column with --column",
    ],
    "doctor/test_doctor.py::test_a_session_that_cannot_write_fails": [
        "alter role {} set default_transaction_read_only"
    ],
    "doctor/test_doctor.py::test_few_sessions_left_are_warned_of": ["load with --concurrency {}"],
    "doctor/test_doctor.py::test_what_slows_or_endangers_a_table_is_warned_of": ["create index on {} ({});"],
    "shards/test_capacity.py::test_a_server_without_room_is_loaded_with_less": ["with fewer --processes or a smaller"],
    "shards/test_capacity.py::test_a_role_without_the_tables_of_shards_is_granted_them": [
        "a load by several processes needs the ledger"
    ],
    "shards/test_shard_audit.py::test_a_worker_that_cannot_see_the_snapshot_says_so_and_one_process_needs_none": [
        "verify with --processes 1, or name one host only"
    ],
    "doctor/test_doctor.py::test_schemas_of_benchmarks_are_leftovers": ["drop schema {} cascade;"],
    "registry/test_compression.py::test_schema_apply_names_what_a_server_without_lz4_can_do_instead": [
        "take --compression none (more disk, less CPU) or --compression pglz",
    ],
    "registry/test_compression.py::test_doctor_knows_the_statement_that_turns_pglz_into_lz4": [
        "alter column {} set compression {}",
    ],
    "registry/test_compression.py::test_doctor_knows_the_statement_that_leaves_pglz_out": [
        "alter column {} set storage external", "alter table {} {};",
    ],
    "registry/test_compression.py::test_schema_apply_tells_of_a_table_that_keeps_another_compression": [
        "alter column {} set storage extended",
    ],
    "registry/test_key_owners.py::test_what_schema_check_advises_keeps_both": ["`seed-registry schema check`"],
    "cli/test_schema_upgrade.py::test_a_ledger_of_an_earlier_version_is_upgraded": [
        "-- and the tables of schema seed_registry"
    ],
    "html/test_load_page.py::test_the_page_says_what_was_retired": ["more sources: --json lists them"],
    "load/test_retire.py::test_the_guard": ["more than --max-retire {} allows", "removed them: raise --max-retire"],
    "load/test_retire.py::test_a_reject_without_a_known_key_retires_nothing_unless_it_is_allowed": [
        "{} (--retire-despite-rejects)"
    ],
    "load/test_retire.py::test_it_needs_the_ledger": ["--retire needs the ledger"],
    "load/test_retire.py::test_a_column_of_another_name": ["; or, if it means that: --column assets.retired_at={}"],
    "load/test_retire.py::test_without_a_column_it_is_an_error_before_reading": [
        "run `seed-registry schema upgrade`, or"
    ],
    "load/test_only_newer.py::test_what_is_suggested_where_there_is_no_column_of_dates": [
        "has no column updated_at (timestamptz) to compare with", "{} or name another column with --column",
    ],
    "load/test_only_newer.py::test_plan_and_load_warn_where_most_changes_replace_newer_rows": [
        "--only-newer leaves such rows as they are"
    ],
    "changes/test_undo.py::test_what_cannot_be_undone_is_refused_with_a_reason": [
        "undo needs the ledger of this version", "there is no run {} in the ledger; `seed-registry runs`",
        "run {} has no history, so nothing tells", "the history of run {} was pruned, so nothing tells",
        "--keep: {}.{} has no column retired_at for the marks",
    ],
    "changes/test_recording.py::test_without_a_ledger_of_this_version_history_is_refused": [
        "--history needs the ledger, which this role may not use"
    ],
    "changes/test_feed.py::test_without_the_tables_the_error_names_the_upgrade": [
        "there are no tables of changes: the ledger {}"
    ],
    "changes/test_feed.py::test_a_reader_whose_cursor_lies_before_pruned_changes_is_not_led_on": [
        "changes behind this cursor were pruned"
    ],
    "changes/test_feed.py::test_a_run_that_has_no_changes_to_show_is_an_error_that_says_why": [
        "run {} recorded no changes", "the changes of run {} were deleted by",
    ],
    "changes/test_feed.py::test_a_table_shows_the_newest_run_and_how_to_go_on": [
        "there are more: continue with --after {}", "changes: recorded, `seed-registry changes {}`",
    ],
    "changes/test_net.py::test_the_order_of_the_runs_matters_and_both_have_to_have_ended": [
        "between a run and itself nothing changed", "run {} ended after {}; `seed-registry diff",
    ],
    "changes/test_versions.py::test_an_unknown_key_is_a_usage_error_and_is_escaped": ["keys are exact; `seed-registry"],
    "changes/test_versions.py::test_of_several_sources_with_one_key_one_has_to_be_named": ["name one of them with"],
    "changes/test_versions.py::test_no_more_versions_than_the_limit_are_shown": ["there are older versions: --limit"],
    "load/test_deferred_indexes.py::test_only_the_owner_drops_and_builds": [
        "its owner builds them with `seed-registry schema apply`", "with --defer-indexes is at work, or was cut off",
        "with --defer-indexes was cut off",
    ],
    "load/test_deferred_indexes.py::test_after_a_failure_the_next_load_builds_them_first": [
        "the next load builds them first, or `seed-registry schema apply`"
    ],
    "load/test_deferred_indexes.py::test_keys_that_another_program_wrote_twice_are_named": [
        "delete all but one row of each, then run `seed-registry schema apply`"
    ],
    "load/test_deferred_indexes.py::test_assets_whose_source_another_program_deleted_are_an_error": [
        "delete these assets, then run `seed-registry schema apply`"
    ],
    "load/test_deferred_indexes.py::test_no_other_load_runs_meanwhile_and_none_is_disturbed": [
        "lacks its indexes until the load with --defer-indexes"
    ],
    "load/test_deferred_indexes.py::test_a_table_that_refuses_everything_is_found_out_early": [
        "or load without --defer-indexes, which finds out whose fault it is"
    ],
    "load/test_deferred_indexes.py::test_several_processes_and_rejects_are_usage_errors": [
        "a replay is no first load of an index: leave out --defer-indexes"
    ],
    "load/test_deferred_indexes.py::test_it_needs_the_ledger_and_a_session_of_its_own": [
        "--defer-indexes needs the ledger", "--defer-indexes needs a session of its own"
    ],
    "load/test_providers.py::test_of_two_sources_with_one_key": ["name the one that is meant with --provider"],
}  # fmt: skip
# What is said of a flag, a command or a statement without advising it, and what no test can do, by the reason.
NO_FIX = {
    "it describes a flag": ["^With --retire: "],
    "it says what is wrong with a flag": [
        "^--[a-z-]+(:| takes| must be| needs one process| finds| cannot use| and --| {} cannot be)",
        "^--database-url is not usable$",
        "^--format ndjson does not go with", "^--(column|header)", "^(domain, )?--domain, the", "^it is no output of",
    ],
    "it is a note": [
        "--domain is only for those that do not", "more of these are in the report of --json",
        "--json lists the(m$| first)",
        "^-- and the tables of schema seed_registry, as",
        "^built {}, which a load with --defer-indexes had dropped",
        "lists them, --json as well", "--verbose (prints it|shows its last words)", "the output of --verbose",
        "the server does not offer TLS", "which no --header is sent to", "run with --history (changed|has ended)",
        "they ran without --history", r"^How many \[default",
    ],
    "it is a statement or a page of ours": [
        r"^\s*(select|alter|create|drop|with|lock|set)\b", "^{}?\n?select", "<code>", "^  ", "^ ?--batch-", "^usage ",
    ],
    "it asks": ["^is --(dialect|records-at) right\\? "],
    "it makes a user of the system, or installs from a registry": ["create it with `useradd --system", "pip install"],
    "it takes a machine of another kind": [
        "which the embedded server runs as", "holds a line break or NUL", r"allow more open files \(ulimit -n\)",
        "to be rid of it: drop schema", "could not be dropped in time", "bench works in a schema of its own",
        "name the server itself", "out-of-memory killer",
        "every batch goes to every shard", "load its index with a larger --max-record-bytes",
    ],
}  # fmt: skip
SUGGESTS = re.compile(
    r"seed-registry [a-z]+|(?<![\w-])--[a-z][a-z-]+|\bSEED_REGISTRY_[A-Z]+|\bDATABASE_URL|\bPG[A-Z]{4,}"
    r"|chmod |ulimit|useradd|pip install|createdb|sslmode=|pg_terminate_backend"
    r"|alter (table|role|system|column) |create (unique )?index|drop (schema|rule|constraint) |set default"
)
QUIET = {"help", "options", "reference", "main"}  # of the command line: they describe every option


def messages() -> Iterator[tuple[str, str]]:
    """The texts of the source that name something to be run or set, each with its place; `{}` stands for a value."""
    for path in sorted(SOURCE.rglob("*.py")):
        if path.stem in QUIET and path.parent.name == "cli":
            continue
        tree = ast.parse(path.read_text("utf-8"))
        passed_over = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                passed_over.add(node.value)  # a docstring
            elif isinstance(node, ast.JoinedStr):
                passed_over |= {part for part in node.values if isinstance(part, ast.Constant)}
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "Option":
                passed_over |= {part for part in ast.walk(node) if isinstance(part, ast.Constant)}
        for node in ast.walk(tree):
            text = "" if node in passed_over else written(node)
            if {" ", "("} & set(text) and SUGGESTS.search(text):
                yield f"{path.relative_to(SOURCE)}:{getattr(node, 'lineno', 0)}", text


def written(node: ast.AST) -> str:
    """A text as the source has it."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(written(part) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return ""


def test_every_message_that_suggests_something_has_a_test_that_executes_it() -> None:
    known = [*EXECUTED, *(text for texts in ELSEWHERE.values() for text in texts)]
    no_fix = re.compile("|".join(f"(?:{pattern})" for patterns in NO_FIX.values() for pattern in patterns))
    missing = [
        f"{place}: {text!r}"
        for place, text in messages()
        if not any(one in text for one in known) and not no_fix.search(text)
    ]
    assert missing == [], "execute what it suggests, and decorate that test with @executes"


def test_no_message_is_remembered_that_is_not_there_any_more() -> None:
    texts = [text for _, text in messages()]
    known = [*EXECUTED, *(text for texts in ELSEWHERE.values() for text in texts)]
    assert [one for one in known if not any(one in text for text in texts)] == []


@pytest.mark.parametrize("test", ELSEWHERE)
def test_the_tests_that_are_named_are_there(test: str) -> None:
    name, _, function = test.partition("::")
    assert f"def {function}" in (ROOT / "tests" / name).read_text("utf-8")


def test_every_flag_command_variable_and_extra_that_a_message_names_is_there() -> None:
    commands = dict(commands_of(typer.main.get_command(app)))
    flags = {f"--{key}" for command in commands.values() for key in options_of(command)}
    flags |= {
        "--help",
        "--no-resume",
        "--version",
        "--config",
        "--yes",
        "--compare",
        "--long",
        "--format",
        "--system",
        "--no-ledger",
        "--nthreads",
    }
    groups = {path[0] for path in commands} | {"--help"}
    variables = {variable(path[-1], key) for path, command in commands.items() for key in options_of(command)}
    variables |= {"SEED_REGISTRY_HOME", "SEED_REGISTRY_CONFIG"}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for place, text in messages():
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+[a-z]", text):
            assert flag in flags, (place, flag)
        for command in re.findall(r"`seed-registry ([a-z-]+)", text):
            assert command in groups, (place, command)
        for name in re.findall(r"SEED_REGISTRY_[A-Z_]+[A-Z]", text):
            assert name in variables, (place, name)
        for extra in re.findall(r"seed-registry\[(\w+)\]", text):
            assert extra in extras, (place, extra)
