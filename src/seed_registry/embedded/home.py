"""The directory for the files of this program that outlive a run."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seed_registry.errors import EmbeddedServerFailed
from seed_registry.escape import quote_text

_HOMELESS = (
    "there is no home directory for this program's files; "
    "set SEED_REGISTRY_HOME to an absolute path that this user can write to"
)


def home_directory() -> Path:
    """Return where the program keeps files that outlive a run; it may not exist (see `make_home_directory`).

    `SEED_REGISTRY_HOME`, else as root `/var/lib/seed-registry`, else `seed-registry` in the user's data directory
    (https://specifications.freedesktop.org/basedir-spec/latest/). Raises EmbeddedServerFailed without a home directory,
    or if its name holds a line break.
    """
    if chosen := os.environ.get("SEED_REGISTRY_HOME"):
        return usable_path(Path(chosen))
    if os.geteuid() == 0:
        return Path("/var/lib/seed-registry")
    data_home = Path(os.environ.get("XDG_DATA_HOME", ""))
    if data_home.is_absolute():
        return usable_path(data_home / "seed-registry")
    try:
        return usable_path(Path.home() / ".local/share/seed-registry")
    except RuntimeError as exc:
        raise EmbeddedServerFailed(_HOMELESS) from exc


def make_home_directory(home: Path | None = None) -> Path:
    """Return the home directory, created if missing: 0700, or 0755 as root, for the server's user to pass through it.

    Raises EmbeddedServerFailed when it cannot be created, or others can write into it.
    """
    home = usable_path(home) if home else home_directory()
    if not home.is_dir():
        try:
            home.mkdir(parents=True, exist_ok=True)
            home.chmod(0o755 if os.geteuid() == 0 else 0o700)
        except OSError as exc:
            raise EmbeddedServerFailed(
                f"the directory for this program's files, {quote_text(home)}, cannot be created: {exc.strerror}\n"
                "set SEED_REGISTRY_HOME to one that this user can write to"
            ) from exc
    with wrap_os_errors(home):
        if home.stat().st_mode & stat.S_IWOTH:
            raise EmbeddedServerFailed(
                f"others can write into {quote_text(home)}\n"
                "run chmod o-w on it, or set SEED_REGISTRY_HOME to another place"
            )
    return home


def usable_path(path: Path) -> Path:
    """Return a path as an absolute one; raise EmbeddedServerFailed if no server can work there."""
    if "\0" in str(path) or "\n" in str(path):
        raise EmbeddedServerFailed(
            f"{quote_text(path)} holds a line break or NUL; set SEED_REGISTRY_HOME to another place"
        )
    try:
        return path.expanduser().absolute()
    except RuntimeError as exc:  # it begins with ~
        raise EmbeddedServerFailed(_HOMELESS) from exc


@contextmanager
def wrap_os_errors(place: Path) -> Iterator[None]:
    """Raise an OSError of the body as EmbeddedServerFailed."""
    try:
        yield
    except OSError as exc:
        raise EmbeddedServerFailed(
            f"the embedded server's files cannot be used: {quote_text(exc.filename or place)}: {exc.strerror}\n"
            "fix that, or set SEED_REGISTRY_HOME to a directory that this user can write to"
        ) from exc
