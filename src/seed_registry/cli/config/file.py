"""Find, check and read the file of settings."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from seed_registry.errors import SettingsInvalid
from seed_registry.escape import printable

NAME = "seed-registry.toml"
TOML_TABLE = "tool.seed-registry"
# No file of settings is that long: it is another one, named by mistake.
_LONGEST_FILE = 1 << 20

CommandPath = tuple[str, ...]  # of a command, like ("schema", "check")


class ConfigurationFile(NamedTuple):
    """The tables of a file, and the prefix of their names."""

    path: Path
    tables: Mapping[str, Any]
    prefix: str = ""

    def at(self, command: CommandPath) -> str:
        """Name a place in the file, for messages."""
        table = ".".join(name for name in (self.prefix, *command) if name)
        return f"{printable(self.path, 500)}{f' [{table}]' if table else ''}"


def find(named: str | None) -> ConfigurationFile | None:
    """Return the file of settings: the one that is named, or the nearest; None without one.

    Raises:
        SettingsInvalid: it cannot be read, is not TOML, or another user may have written it.
    """
    if named:
        path = Path(named)
        found = _read(path, _read_bytes(path), wanted=True)
        assert found is not None
        return found
    for directory in _upwards():
        for path in (directory / NAME, directory / "pyproject.toml"):
            if _exists(path):
                content = _read_bytes(path)
                if found := _read(path, content, wanted=path.name == NAME):
                    _require_trusted(path)
                    return found
    return None


def one_line(message: str) -> str:
    """A message without its line breaks."""
    return " ".join(message.split())


def _upwards() -> Iterator[Path]:
    try:
        here = Path.cwd()
    except OSError:  # the working directory was deleted
        return
    home = os.environ.get("HOME")
    for directory in (here, *here.parents):
        yield directory
        if (home and directory == Path(home)) or (directory / ".git").exists():
            return


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a directory that we may not read
        return False


def _read_bytes(path: Path) -> bytes:
    """Return the content of a regular file: reading a pipe or a device may never end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode) and str(path) != os.devnull:
                raise SettingsInvalid(f"{printable(path, 500)} is not a file of settings")
            content = file.read(_LONGEST_FILE + 1)
    except OSError as exc:
        raise SettingsInvalid(f"{printable(path, 500)} cannot be read: {exc.strerror}") from exc
    if len(content) > _LONGEST_FILE:
        raise SettingsInvalid(f"{printable(path, 500)} is longer than any file of settings")
    return content


def _read(path: Path, content: bytes, *, wanted: bool) -> ConfigurationFile | None:
    """Return the tables of a file; None for a pyproject.toml without our table that was not named."""
    is_project = path.name == "pyproject.toml"
    if is_project and not wanted and b"seed-registry" not in content:
        return None
    import tomllib  # noqa: PLC0415  # most loads have no file

    try:
        tables: Any = tomllib.loads(content.decode().replace("\r\n", "\n"))
    except RecursionError as exc:
        raise SettingsInvalid(f"{printable(path, 500)} is nested too deeply") from exc
    except ValueError as exc:
        raise SettingsInvalid(f"{printable(path, 500)} is not TOML: {one_line(str(exc))}") from exc
    if not is_project:
        return ConfigurationFile(path, tables)
    for name in TOML_TABLE.split("."):
        tables = tables.get(name) if isinstance(tables, dict) else None
    if isinstance(tables, dict):
        return ConfigurationFile(path, tables, TOML_TABLE)
    if wanted:
        raise SettingsInvalid(f"{printable(path, 500)} has no table [{TOML_TABLE}]")
    return None


def _require_trusted(path: Path) -> None:
    """Check that no other user can write a file that was found: it names a database, and files to write.

    Raises:
        SettingsInvalid: another user can.
    """
    if sys.platform == "win32":
        return
    file, directory = path.stat(), path.parent.stat()
    fix = f"; name it with --config to use it all the same, or set SEED_REGISTRY_CONFIG={os.devnull} to go without"
    if file.st_uid not in (0, os.geteuid()):
        raise SettingsInvalid(f"{printable(path, 500)} belongs to another user (uid {file.st_uid}){fix}")
    if file.st_mode & stat.S_IWOTH:
        raise SettingsInvalid(f"{printable(path, 500)} can be written by everybody: chmod o-w it{fix}")
    if directory.st_mode & stat.S_IWOTH and not directory.st_mode & stat.S_ISVTX:
        raise SettingsInvalid(f"{printable(path, 500)} lies in a directory that everybody can write to{fix}")
