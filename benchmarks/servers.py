"""The server to measure on: the embedded one, or that of the distribution's packages, which is built with lz4."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seed_registry.embedded.account import server_account
from seed_registry.embedded.process import server_settings, url_of
from seed_registry.embedded.server import running as running_embedded

EMBEDDED, PACKAGED = "embedded", "packaged"
SERVERS = (EMBEDDED, PACKAGED)
_PACKAGES = Path("/usr/lib/postgresql")  # Debian's, and of those that descend from it


@contextmanager
def running(server: str, directory: Path) -> Iterator[str]:
    """A new server in the directory, gone afterwards; yields its URL, of a superuser."""
    if server == EMBEDDED:
        with running_embedded(directory / "home") as url:
            yield url
    else:
        with _packaged(directory / "packaged") as url:
            yield url


@contextmanager
def _packaged(directory: Path) -> Iterator[str]:
    """The newest packaged Postgres, with the settings and the user of the embedded server."""
    found = sorted(_PACKAGES.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        sys.exit(f"there is no Postgres in {_PACKAGES}: apt-get install postgresql")
    programs, account = found[-1].parent, server_account()
    directory.mkdir()
    shutil.chown(directory, account.uid, account.gid)
    data = directory / "data"

    def run(*command: str | Path) -> None:
        done = account.run(command, cwd=directory)
        if done.returncode:
            sys.exit(f"{command[0]} ended with {done.returncode}:\n{done.stderr[-2_000:]}")

    run(programs / "initdb", "-D", data, "-U", "registry", "-A", "trust", "-E", "UTF8", "--no-locale")
    with (data / "postgresql.conf").open("a") as file:
        file.writelines(
            f"{name} = '{value}'\n" for name, value in server_settings(directory, directory, durable=True).items()
        )
    run(programs / "pg_ctl", "-D", data, "-w", "-l", directory / "log", "start")
    try:
        run(programs / "createdb", "-h", directory, "-U", "registry", "registry")
        yield url_of(directory)
    finally:
        run(programs / "pg_ctl", "-D", data, "-m", "fast", "stop")
