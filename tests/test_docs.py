"""README and docs are true: their commands run, their programs work, their options, events and links exist."""

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
PAGES = {path.name: path.read_text("utf-8") for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
BLOCKS = [
    (page, language, block)
    for page, text in PAGES.items()
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
]
# tests/cli/test_help.py runs the examples of reference.md, which is made from the help.
# What cannot run in a test: the two commands of a checkout (CI runs them), and printed sessions.
SHOWN = re.compile(r"make demo |\$ seed-registry ")
DATABASE = "postgresql://loader@db.example.org/registry"


def blocks(language: str, *pages: str) -> list[str]:
    """The texts of the blocks in a language, on all pages or on some."""
    return [text for page, of, text in BLOCKS if of == language and page in (pages or PAGES)]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the reader of a page stands: with the files that its commands name."""
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
@pytest.mark.parametrize(
    "page", sorted({page for page, language, _ in BLOCKS if language == "sh" and page != "reference.md"})
)
def test_every_command_of_a_page_runs(
    page: str, directory: Path, portal: str, home: Path, cli: Cli, bare_database_url: DatabaseUrl
) -> None:
    home.chmod(0o711)
    assert cli("db", "start").returncode == 0
    try:
        for block in blocks("sh", page):
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
    # Of another machine, and of Kubernetes.
    assert {page for page, language, _ in BLOCKS if language in ("console", "yaml")} == {"operations.md"}
    assert {language for _, language, _ in BLOCKS} <= {
        "", "sh", "python", "ini", "toml", "sql", "text", "console", "yaml",
    }  # fmt: skip
    assert {page for page, language, _ in BLOCKS if language == "text"} == {"architecture.md"}


@pytest.mark.parametrize("program", blocks("python"))
def test_every_program_of_a_page_works(program: str, directory: Path, home: Path, database_url: DatabaseUrl) -> None:
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


def test_the_documented_configuration_is_accepted(cli: Cli, tmp_path: Path) -> None:
    (text,) = blocks("toml")
    assert tomllib.loads(text)
    (tmp_path / "seed-registry.toml").write_text(text)
    done = cli("config", "show")
    assert done.returncode == 0, done.stderr
    assert b"1%" in done.stdout


def test_the_documented_units_can_be_parsed(cli: Cli) -> None:
    for text in blocks("ini"):
        unit = configparser.ConfigParser(strict=False, interpolation=None)
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read_string(text.replace("\\\n", ""))
        assert "Unit" in unit


def test_the_documented_grants_are_those_that_are_printed(cli: Cli) -> None:
    (text,) = (block for block in blocks("sql") if block.startswith("grant"))
    assert cli("schema", "grants", "loader").stdout.decode().strip() == text.strip()


def test_every_option_that_a_page_names_exists(cli: Cli) -> None:
    reference = (ROOT / "docs/reference.md").read_text("utf-8")
    texts = [text for page, text in PAGES.items() if page != "benchmarks.md"]  # whose options are those of benchmarks
    named = {name for text in texts for name in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)}
    others = {"--from", "--help", "--strict", "--slice"}  # of uvx, click, mypy, pytest
    others |= {  # of Dask, and of SLURM
        "--dashboard-address", "--host", "--memory-limit", "--no-dashboard", "--nthreads", "--nworkers", "--port",
        "--protocol", "--scheduler-file", "--ssh-username", "--tls-ca-file", "--tls-cert", "--tls-key",
        "--cpus-per-task", "--exact", "--ntasks",
    }  # fmt: skip
    assert {name for name in named - others if not re.search(rf"(?<![\w-]){name}(?![\w-])", reference)} == set()


def test_every_event_is_documented() -> None:
    table = PAGES["events.md"].partition("| event | level | fields |")[2].partition("\n\n")[0]
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


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_heading_that_a_page_links_to_is_there(page: str) -> None:
    here = ROOT if page == "README.md" else ROOT / "docs"
    for link in re.findall(r"\]\((?!https?://)([^)]+)\)", PAGES[page]):
        name, _, anchor = link.partition("#")
        target = here / name if name else here / page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, link


def test_every_target_that_a_page_names_is_one_of_make() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    named = {name for text in PAGES.values() for name in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)}
    assert {name for name in named if not re.search(rf"^{name}:", makefile, re.MULTILINE)} == set()


def test_the_readme_stays_a_page() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 150
    assert len(PAGES["README.md"].split()) <= 1_500


async def _run_statements(url: DatabaseUrl, statements: list[str]) -> None:
    connection = await asyncpg.connect(url.reveal)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


def test_the_documented_statements_run(database_url: DatabaseUrl) -> None:
    statements = [block for block in blocks("sql") if not block.startswith("grant")]
    assert len(statements) == 4
    (table,) = (block for block in statements if block.startswith("create table registry.assets"))
    others = [block for block in statements if block is not table]
    asyncio.run(_run_statements(database_url, [*others, "drop table registry.assets", table]))
