"""The structure of the code: which package may import which, and how far a reader has to follow imports.

`python tests/test_architecture.py` prints the figures. docs/architecture.md has the picture.
"""
# ruff: noqa: T201  # it is a script as well

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import seed_registry

ROOT = Path(seed_registry.__file__).parent
BASE = "base"
# What the modules of a package may import besides their own package. `cli` and `bench` may import everything, and
# nothing imports them.
ALLOWED = {
    BASE: set(),
    "index": {BASE},
    "postgres": {BASE},
    "embedded": {BASE, "postgres"},
    "synthetic": {BASE, "index"},
    "html": {BASE},
    "rejects": {BASE, "index"},
    "ledger": {BASE, "postgres"},
    "registry": {BASE, "postgres", "ledger"},
    "doctor": {BASE, "postgres", "embedded", "registry", "shards"},
    "verify": {BASE, "index", "postgres", "embedded", "registry"},
    "load": {BASE, "index", "rejects", "postgres", "embedded", "ledger", "registry", "verify"},
    "dry_run": {BASE, "index", "postgres", "embedded", "ledger", "registry", "load"},
    "changes": {BASE, "postgres", "embedded", "ledger", "registry", "load"},
    "shards": {BASE, "index", "rejects", "postgres", "ledger", "registry", "load", "dry_run", "verify"},
    "api": {BASE, "index", "rejects", "load", "dry_run", "shards", "verify"},
}
UNRESTRICTED = {"cli", "bench", "__main__"}
# `__init__` imports by name, when a name is asked for.
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
    if path != ROOT / "__init__.py"
}
# What runs on the other side is another program: its own imports are followed from there.
PROCESS_BOUNDARIES = {
    ("shards.engine", "shards.worker"),
    ("shards.dry_run_engine", "shards.dry_run_worker"),
    ("shards.audit_engine", "shards.audit_worker"),
}
MAX_TOP_LEVEL_MODULES, MAX_CHAIN, MAX_FAN_OUT, MAX_GERUNDS = 15, 12, 12, 1


def package(module: str) -> str:
    """The package of a module; those at the top are of `base`, but for the public API."""
    first, _, rest = module.partition(".")
    return first if rest or first in {*ALLOWED, *UNRESTRICTED} else BASE


@cache
def imported(module: str) -> frozenset[str]:
    """The modules of ours that a module imports, inside functions, too; those for type checkers only are left out."""
    names: set[str] = set()
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    guarded = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    for_types = {id(inner) for node in guarded for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            # `from package import module` names a module as well as `from module import name` does.
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in inside if name.removeprefix("seed_registry.") in MODULES}
            names |= modules if len(modules) == len(inside) else {node.module or "", *modules}
    ours = {name.removeprefix("seed_registry.") for name in names if name.startswith("seed_registry.")}
    return frozenset(ours & MODULES.keys() - {module})


@cache
def chain(module: str) -> tuple[str, ...]:
    """The longest way along imports that begins with a module."""
    onward = [other for other in imported(module) if (module, other) not in PROCESS_BOUNDARIES]
    return (module, *max(map(chain, onward), key=len, default=()))


@pytest.mark.parametrize("name", ALLOWED)
def test_a_package_imports_only_those_below_it(name: str) -> None:
    above = {
        f"{module} imports {other}"
        for module in MODULES
        if package(module) == name
        for other in imported(module)
        if package(other) not in ALLOWED[name] | {name}
    }
    assert not above


def test_every_package_has_a_rule() -> None:
    assert {package(module) for module in MODULES} <= {*ALLOWED, *UNRESTRICTED}


def test_no_module_imports_another_in_a_circle() -> None:
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail, module])
        if module not in done:
            for other in imported(module):
                visit(other, (*trail, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_no_module_imports_the_public_package() -> None:
    users = {
        module
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "seed_registry"
        if {alias.name for alias in node.names} - {*MODULES, "__version__"}
    }
    assert not users


def test_few_modules_have_a_task_group() -> None:
    """The pipeline; of several processes, what performs steps, asks workers, leads a load or an audit, shows life."""
    users = [module for module, path in MODULES.items() if "create_task_group" in path.read_text("utf-8")]
    assert users == [
        "load.pipeline", "shards.audit", "shards.cluster", "shards.cluster_engine", "shards.coordinator",
        "shards.engine", "shards.shard_load",
    ]  # fmt: skip


def test_no_module_is_named_for_leftovers() -> None:
    assert not {"common", "utils", "util", "helpers", "core", "misc"} & {path.stem for path in MODULES.values()}


def test_modules_are_nouns() -> None:
    gerunds = [module for module in MODULES if module.endswith("ing")]
    assert len(gerunds) <= MAX_GERUNDS, gerunds


def test_a_reader_finds_the_way() -> None:
    """A module imports few others, a chain of imports is short, and the top level is small."""
    widest = max(MODULES, key=lambda module: len(imported(module)))
    longest = max(map(chain, MODULES), key=len)
    top_level = [path.name for path in ROOT.glob("*.py")]
    assert len(imported(widest)) <= MAX_FAN_OUT, widest
    assert len(longest) <= MAX_CHAIN, " -> ".join(longest)
    assert len(top_level) <= MAX_TOP_LEVEL_MODULES, top_level


def main() -> None:
    """Print the figures."""
    longest = max(map(chain, MODULES), key=len)
    widest = sorted(MODULES, key=lambda module: -len(imported(module)))[:10]
    print(f"longest chain of imports: {len(longest)}: {' -> '.join(longest)}")
    print("most imports:", ", ".join(f"{module} {len(imported(module))}" for module in widest))
    print("modules at the top:", len(list(ROOT.glob("*.py"))))
    print("gerunds:", [module for module in MODULES if module.endswith("ing")])
    print("lines:", sum(len(path.read_text("utf-8").splitlines()) for path in ROOT.rglob("*.py")))


if __name__ == "__main__":
    main()
