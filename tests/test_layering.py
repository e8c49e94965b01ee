"""Imports run one way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import seed_registry

PACKAGE = Path(seed_registry.__file__).parent
BASE = {
    "blame", "completeness", "errors", "escaping", "headers", "marks", "plan", "records", "report",
    "settings", "shortfall", "spooling",
}  # fmt: skip
# What the modules of each place may import besides their own place; "cli" and "bench" see everything.
ALLOWED = {
    "base": BASE,
    "index": BASE,
    "registry": BASE,
    "halving": BASE | {"registry"},
    "sourcing": BASE | {"halving"},
    "lasting": BASE | {"registry", "sourcing"},
    "access": BASE | {"registry", "lasting", "sourcing"},
    "accounting": BASE | {"index"},
    "producing": BASE | {"index", "accounting", "halving", "sourcing"},
    "pipeline": BASE | {"index", "registry", "accounting", "halving", "producing", "sourcing"},
    "verifying": BASE | {"registry", "accounting", "pipeline"},
    "comparing": BASE | {"index", "registry", "accounting", "halving"},
    "auditing": BASE | {"index", "registry", "access", "comparing"},
    "foreseeing": BASE | {"index", "registry", "access", "accounting"},
    "replaying": BASE | {"index", "registry", "access", "accounting", "ingesting", "lasting", "running", "sourcing"},
    "concluding": BASE,
    "running": BASE
    | {"index", "registry", "access", "accounting", "concluding", "foreseeing", "sourcing", "pipeline", "verifying"},
    "ingesting": BASE | {"index", "access", "running"},
}
MODULES = [path for path in PACKAGE.rglob("*.py") if path.parts[-2] != "sql"]


def place(module: str) -> str:
    first = module.split(".")[1]
    return "base" if first in BASE else first


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            # `from package import module` names a module as well as `from module import name` does.
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.startswith("seed_registry.") and name != "seed_registry.__version__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    module = "seed_registry." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    own = place(module)
    if own in ("cli", "bench", "__init__", "__main__"):
        return
    above = {name for name in imported(path) if name.split(".")[1] not in ALLOWED[own] | {own}}
    assert not above


def test_no_module_imports_another_in_a_circle() -> None:
    modules = {
        "seed_registry." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts): imported(path) for path in MODULES
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name in done or name not in modules:
            return
        for other in modules[name]:
            visit(other, (*trail, name))
        done.add(name)

    for name in modules:
        visit(name, ())


def test_only_the_pipeline_has_a_task_group() -> None:
    users = [path.name for path in MODULES if "create_task_group" in path.read_text("utf-8")]
    assert users == ["pipeline.py"]


def test_no_module_is_named_for_leftovers() -> None:
    assert not {"common", "utils", "util", "helpers", "core", "misc"} & {path.stem for path in MODULES}
