"""The README is true: its commands run, its programs work, its options, events and links exist."""

from __future__ import annotations

import ast
import asyncio
import configparser
import gzip
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import asyncpg
import pytest

from conftest import Cli
from seed_registry.settings import DatabaseUrl
from seed_registry.synthetic.index import Workload, generate

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
# What cannot run in a test: the two commands of a checkout (CI runs them), and printed sessions.
SHOWN = re.compile(r"make demo |\$ seed-registry ")
DATABASE = "postgresql://loader@db.example.org/registry"


def blocks(language: str) -> list[str]:
    """The texts of the blocks in a language."""
    return [text for of, text in BLOCKS if of == language]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the README's reader stands: with the files that its commands name."""
    make = partial(Workload, records=120, sources=4)
    (tmp_path / "portals").mkdir()
    (tmp_path / "more").mkdir()
    for name, workload in {
        "sf.index.json": make(),
        "directory_sf.json": make(dialect="directory", sources=1),
        "portals/one.json": make(dialect="discovery", seed=1),
        "portals/two.json": make(dialect="discovery", seed=2),
        "index.json": make(seed=3),
    }.items():
        (tmp_path / name).write_bytes(b"".join(generate(workload)))
    packed = gzip.compress(b"".join(generate(make(format="ndjson", seed=4))))
    (tmp_path / "more" / "three.ndjson.gz").write_bytes(packed)
    (tmp_path / "index.json.gz").write_bytes(gzip.compress((tmp_path / "index.json").read_bytes()))
    return tmp_path


@pytest.fixture
def portal(directory: Path) -> Iterator[str]:
    """A server of the directory's files."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def environment(home: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "SEED_REGISTRY_HOME": str(home), "LANG": "C.UTF-8", "HOME": str(home)}


@pytest.mark.slow
def test_every_command_of_the_readme_runs(
    directory: Path, portal: str, home: Path, cli: Cli, bare_database_url: DatabaseUrl
) -> None:
    home.chmod(0o711)
    assert cli("db", "start").returncode == 0
    try:
        for block in blocks("sh"):
            script = block.replace("https://data.example.org", portal).replace(
                DATABASE, shlex.quote(bare_database_url.reveal)
            )
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=directory,
                env=environment(home),
                capture_output=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, f"{block}\n{done.stderr.decode()[-2_000:]}"
    finally:
        cli("db", "stop")


def test_every_command_block_is_run_or_known_to_be_shown_only() -> None:
    assert all(SHOWN.search(block) for block in blocks(""))
    assert {language for language, _ in BLOCKS} <= {"", "sh", "python", "ini", "toml", "sql"}


@pytest.mark.parametrize("program", blocks("python"))
def test_every_program_of_the_readme_works(
    program: str, directory: Path, home: Path, database_url: DatabaseUrl
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program.replace(DATABASE, database_url.reveal)],
        cwd=directory,
        env=environment(home),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert re.search(rb"\b12[04]\b", done.stdout)  # assets, with their four sources


def test_the_configuration_of_the_readme_is_taken(cli: Cli, tmp_path: Path) -> None:
    (text,) = blocks("toml")
    assert tomllib.loads(text)
    (tmp_path / "seed-registry.toml").write_text(text)
    done = cli("config", "show")
    assert done.returncode == 0, done.stderr
    assert b"1%" in done.stdout


def test_the_units_of_the_readme_are_units_and_their_command_has_these_options(cli: Cli) -> None:
    for text in blocks("ini"):
        unit = configparser.ConfigParser(strict=False, interpolation=None)
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read_string(text.replace("\\\n", ""))
        assert "Unit" in unit


def test_the_grants_of_the_readme_are_those_that_are_printed(cli: Cli) -> None:
    (text,) = blocks("sql")
    assert cli("schema", "grants", "loader").stdout.decode().strip() == text.strip()


def test_every_option_that_the_readme_names_exists(cli: Cli) -> None:
    reference = (ROOT / "docs/reference.md").read_text("utf-8")
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README))
    # of uvx, click, mypy, two benchmarks, pytest
    others = {"--from", "--help", "--strict", "--megabytes", "--ways", "--slice"}
    assert {name for name in named - others if not re.search(rf"(?<![\w-]){name}(?![\w-])", reference)} == set()


def test_every_event_that_is_told_is_in_the_table_of_the_readme() -> None:
    table = README.partition("| event | level | fields |")[2].partition("\n\n")[0]
    documented = set(re.findall(r"`([a-z_]+)`", table))
    told = set()
    for path in (ROOT / "src/seed_registry").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                constants = [one.value for one in node.args if isinstance(one, ast.Constant)]
                called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if called == "tell" and constants[1:]:
                    told.add(constants[1])
                elif called in ("_warn", "Caution") and constants:
                    told.add(constants[0])
    assert told
    assert told <= documented
    assert documented - told <= {"progress", "sources_loaded", "assets_loaded"}  # made of their parts


def test_every_file_that_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_target_that_the_readme_names_is_one_of_make() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", README, re.MULTILINE))
    assert {name for name in named if not re.search(rf"^{name}:", makefile, re.MULTILINE)} == set()


async def _run_statements(url: DatabaseUrl, statements: list[str]) -> None:
    connection = await asyncpg.connect(url.reveal)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


def test_the_statements_of_the_operations_page_run(database_url: DatabaseUrl) -> None:
    page = (ROOT / "docs/operations.md").read_text("utf-8")
    statements = re.findall(r"^```sql\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(statements) == 3
    asyncio.run(_run_statements(database_url, statements))
