"""Start-up: what a command imports, which is most of the time that a short one takes."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer.main

import seed_registry
from conftest import Cli
from seed_registry import DatabaseUrl
from seed_registry.cli.command_list import HOMES
from seed_registry.cli.garbage import rare_collection
from seed_registry.cli.main import app

Imported = Callable[..., set[str]]
ROOT: Any = typer.main.get_command(app)
PROGRAM = shutil.which("seed-registry", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
# In the order of the help.
COMMANDS = [
    "load", "plan", "verify", "digest", "explain", "runs", "changes", "changes prune", "history", "diff", "undo",
    "doctor", "bench", "sample", "rejects", "schema", "db", "config",
]  # fmt: skip
MODULES = {name: f"seed_registry.cli.commands.{home.partition(':')[0]}" for name, home in HOMES.items()}
DRAWING = {"rich"}
LOGGING = {"structlog"}
LOADING = {"aiofiles", "anyio", "asyncio", "asyncpg", "ijson", "msgspec", "stamina", "uvloop", "xxhash", "zstandard"}
RARE = {"ctypes", "fsspec", "httpx", "opentelemetry", "prometheus_client", "pydantic", "tomllib"}


# What runs first in every Python that finds it, and tells in the end what was imported.
SITE = """
import atexit, sys
atexit.register(lambda: open({file!r}, "w").write(" ".join(sys.modules)))
"""


@pytest.fixture
def imported(tmp_path_factory: pytest.TempPathFactory, home: Path, tmp_path: Path) -> Imported:
    """Run Python in an empty directory with an empty environment, and name the modules that it imported."""
    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text(SITE.format(file=str(site / "modules")))

    def run(*arguments: str, **env: str) -> set[str]:
        environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "SEED_REGISTRY_HOME": str(home)}
        subprocess.run(
            [sys.executable, *arguments], env=environment | env | {"PYTHONPATH": str(site)}, cwd=tmp_path,
            capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        return set((site / "modules").read_text().split())

    return run


def libraries(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


@pytest.mark.parametrize("way", ["module", "program"])
def test_the_version_imports_no_command_and_no_library_but_typer(way: str, imported: Imported) -> None:
    assert PROGRAM is not None
    called = ["-m", "seed_registry"] if way == "module" else [PROGRAM]
    modules = imported(*called, "--version")
    assert "typer" in modules
    assert modules & set(MODULES.values()) == set()
    assert libraries(modules) & (DRAWING | LOGGING | LOADING | RARE) == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_imports_no_other(name: str, imported: Imported) -> None:
    modules = imported("-m", "seed_registry", name, "--help")
    assert modules & set(MODULES.values()) == {MODULES[name]}
    assert libraries(modules) & RARE == set()


def test_a_quiet_load_whose_report_is_json_imports_nothing_that_draws_or_logs(
    database_url: DatabaseUrl, cli: Cli, imported: Imported
) -> None:
    assert cli("sample", "--records", 10, "--out", "index.json").returncode == 0
    load = ["-m", "seed_registry", "load", "index.json", "--batch-size", "5", "--json"]
    quiet = libraries(imported(*load, "--quiet", DATABASE_URL=database_url.reveal))
    assert quiet >= LOADING
    assert quiet & (DRAWING | LOGGING | RARE) == set()
    assert libraries(imported(*load, DATABASE_URL=database_url.reveal)) >= LOGGING


def test_a_mistyped_command_is_answered_with_one_that_exists_and_imports_none(cli: Cli, imported: Imported) -> None:
    done = cli("lod")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"No such command 'lod'. Did you mean 'load'?" in done.stderr
    assert imported("-m", "seed_registry", "lod") & set(MODULES.values()) == set()


def test_completing_a_command_imports_only_those_that_begin_alike(imported: Imported) -> None:
    assert PROGRAM is not None
    env = {"_SEED_REGISTRY_COMPLETE": "complete_bash", "COMP_WORDS": "seed-registry sch", "COMP_CWORD": "1"}
    assert imported(PROGRAM, **env) & set(MODULES.values()) == {MODULES["schema"]}


def test_the_help_lists_every_command_in_order_with_what_it_does(cli: Cli) -> None:
    told = cli("--help", env={"COLUMNS": "200"}).stdout.decode().partition("Commands\n")[2].partition("\n\n")[0]
    listed = dict(line.split(maxsplit=1) for line in told.splitlines() if not line.startswith("   "))
    assert list(listed) == [name for name in COMMANDS if " " not in name]
    for name, sentence in listed.items():
        text = " ".join(ROOT.commands[name].help.split())
        assert text.startswith(sentence.removesuffix(".")), name


def test_every_command_can_be_called_by_its_name() -> None:
    assert list(ROOT.commands) == ROOT.list_commands(typer.Context(ROOT)) == COMMANDS
    for name in COMMANDS:
        assert ROOT.get_command(typer.Context(ROOT), name).name == name.rpartition(" ")[2]
    assert ROOT.get_command(typer.Context(ROOT), "lod") is None


def test_a_variable_of_the_running_command_is_known_without_importing_the_others(imported: Imported) -> None:
    modules = imported("-m", "seed_registry", "sample", SEED_REGISTRY_SAMPLE_RECORDS="1")
    assert modules & set(MODULES.values()) == {MODULES["sample"]}


def test_garbage_is_looked_for_seldom_during_a_load_and_as_before_after_it() -> None:
    before = gc.get_threshold(), gc.get_freeze_count()
    with suppress(KeyboardInterrupt), rare_collection():
        during = gc.get_threshold(), gc.get_freeze_count()
        raise KeyboardInterrupt
    assert during[0][0] > 100 * before[0][0]
    assert during[1] > before[1]
    assert (gc.get_threshold(), gc.get_freeze_count()) == before


# The library


def test_importing_the_package_imports_nothing_of_it_until_a_name_is_asked_for(imported: Imported) -> None:
    own = {name for name in imported("-c", "import seed_registry") if name.partition(".")[0] == "seed_registry"}
    assert own == {"seed_registry"}
    modules = imported("-c", "from seed_registry import SettingsInvalid")
    assert "seed_registry.errors" in modules
    assert libraries(modules) & LOADING == set()


@pytest.mark.parametrize("name", seed_registry.__all__)
def test_a_public_name_is_the_object_of_the_module_that_defines_it(name: str) -> None:
    value = getattr(seed_registry, name)
    assert value.__module__.startswith("seed_registry.")
    assert value is getattr(sys.modules[value.__module__], name)


def test_the_public_names_are_what_is_listed_and_what_a_star_imports() -> None:
    namespace: dict[str, Any] = {}
    exec("from seed_registry import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(seed_registry.__all__)
    assert set(seed_registry.__all__) <= set(dir(seed_registry))
    assert "__version__" in dir(seed_registry)
    with pytest.raises(AttributeError, match="has no attribute 'upsert'"):
        _ = seed_registry.upsert
