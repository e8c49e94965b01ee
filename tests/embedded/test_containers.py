"""Containers: a user id without a name, a home that cannot be written to, no home: it works, or says what to set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from seed_registry.embedded import account
from seed_registry.embedded.account import OsAccount
from seed_registry.errors import EmbeddedServerFailed
from seed_registry.synthetic.index import Workload, generate

pytestmark = pytest.mark.slow
NAMELESS = 54_321
WRAPPERS = [path for place in account._LIBRARIES for path in Path("/").glob(f"{place}/libnss_wrapper.so")]

Command = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def index(place: Path) -> Iterator[str]:
    path = place / "index.json"
    path.write_bytes(b"".join(generate(Workload(records=50, sources=2))))
    path.chmod(0o644)
    yield str(path)
    path.unlink()


@pytest.fixture
def nameless_home(home: Path) -> Path:
    os.chown(home, NAMELESS, NAMELESS)
    return home


@pytest.fixture(scope="module")
def nameless() -> Command:
    """Run the command as a user id that /etc/passwd does not know."""
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    for python in (sys.executable, "/usr/bin/python3"):  # the first may lie in root's own directory
        run = partial(run_nameless, python)
        with suppress(PermissionError, FileNotFoundError):
            if run("--version", env={}).returncode == 0:
                return run
    pytest.skip("no other user can run a Python here that can run the program")


def run_nameless(python: str, *arguments: object, env: Mapping[str, str]) -> subprocess.CompletedProcess[bytes]:
    known = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [python, "-m", "seed_registry", *map(str, arguments)],
        env=known | dict(env),
        cwd="/",
        capture_output=True,
        check=False,
        timeout=120,
        user=NAMELESS,
        group=NAMELESS,
        extra_groups=[],
    )


def error(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    """The lines of the error, which are one or two."""
    lines = [line for line in done.stderr.decode().splitlines() if not line.startswith("{")]
    assert len(lines) <= 2, done.stderr
    assert lines[0].startswith("error: "), done.stderr
    return lines


def test_a_user_id_without_a_name_has_the_embedded_server_or_an_error_says_what_to_install(
    nameless: Command, nameless_home: Path, index: str
) -> None:
    env = {"SEED_REGISTRY_HOME": str(nameless_home)}
    done = nameless("load", index, "--json", env=env)
    if not WRAPPERS:
        first, second = error(done)
        assert f"user id {NAMELESS} has no entry in /etc/passwd" in first
        assert "libnss-wrapper" in second
        assert f"useradd -u {NAMELESS} " in second
        return
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["assets"]["inserted"] == 50
    again = nameless("load", index, "--json", env=env)
    assert json.loads(again.stdout)["assets"]["unchanged"] == 50
    asked = nameless("db", "psql", "--", "-Atc", "select count(*) from registry.assets", env=env)
    assert asked.stdout.strip() == b"50", asked.stderr
    assert not list(nameless_home.glob("*/name.*"))


def test_without_the_wrapper_an_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(account, "_LIBRARIES", ())
    with pytest.raises(EmbeddedServerFailed) as caught, OsAccount(NAMELESS, NAMELESS).named(tmp_path):
        pass
    first, second = str(caught.value).splitlines()
    assert "has no entry in /etc/passwd" in first
    assert "--database-url" in second
    with OsAccount(0, 0).named(tmp_path) as variables:
        assert variables == {}


@pytest.mark.parametrize("kind", ["none", "the root", "missing", "read-only", "relative"])
def test_a_home_that_cannot_be_used_is_reported_with_the_variable_that_helps(
    kind: str, nameless: Command, nameless_home: Path, place: Path, index: str
) -> None:
    read_only = place / "read-only"
    read_only.mkdir(exist_ok=True, mode=0o555)
    env = {
        "none": {},
        "the root": {"HOME": "/"},
        "missing": {"HOME": "/nonexistent"},
        "read-only": {"HOME": str(read_only)},
        "relative": {"SEED_REGISTRY_HOME": "~/here"},
    }[kind]
    for command in (("load", index), ("db", "start"), ("db", "psql")):
        lines = error(nameless(*command, env=env))
        assert "SEED_REGISTRY_HOME" in lines[-1]
        assert "write to" in lines[-1]
    if WRAPPERS:
        done = nameless("load", index, env={**env, "SEED_REGISTRY_HOME": str(nameless_home)})
        assert done.returncode == 0, done.stderr


def test_a_load_into_another_database_needs_no_home_if_the_rejects_file_is_named(
    nameless: Command, nameless_home: Path, index: str
) -> None:
    url = "postgresql://loader@127.0.0.1:1/d"
    env = {"HOME": "/nonexistent", "DATABASE_URL": url}
    assert error(nameless("load", index, env=env))[-1].endswith("with --rejects")
    done = nameless("load", index, "--rejects", nameless_home / "rejects", "--retry-for", "0", env=env)
    assert "cannot connect to postgresql://loader@127.0.0.1:1/d" in error(done)[0]


def test_who_has_no_name_is_asked_for_one(nameless: Command, nameless_home: Path, index: str) -> None:
    env = {"SEED_REGISTRY_HOME": str(nameless_home)}
    reported = error(nameless("load", index, env={**env, "DATABASE_URL": "postgresql://127.0.0.1:1/d"}))
    assert "write USER@ into it, or set PGUSER" in reported[0]
    for more in (
        {"DATABASE_URL": "postgresql://me@127.0.0.1:1/d"},
        {"PGUSER": "me", "PGHOST": "127.0.0.1", "PGPORT": "1"},
    ):
        reported = error(nameless("load", index, "--retry-for", "0", env={**env, **more}))
        assert "cannot connect to postgresql://me@127.0.0.1:1/" in reported[0]


def test_a_service_is_read_without_a_home(nameless: Command, nameless_home: Path, index: str) -> None:
    env = {"SEED_REGISTRY_HOME": str(nameless_home), "PGSERVICE": "missing"}
    assert "there is no service [missing]" in error(nameless("load", index, env=env))[0]
