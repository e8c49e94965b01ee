"""Warn of secrets on the command line, which every user of the machine can read, and overwrite them.

Overwriting is the second line of defence: the password stays in the shell's history. It is Linux only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from seed_registry.errors import SettingsInvalid
from seed_registry.headers import Header

_DATABASE: Final = "--database-url"
_HEADER: Final = "--header"
_IN_USER: Final = re.compile(r"://[^/?@:]*:(?P<password>.+)@", re.DOTALL)
_IN_QUERY: Final = re.compile(r"(?:^|[?&\s])(?:ssl)?password\s*=\s*(?P<password>[^&\s]+)")
# The fields of /proc/self/stat (proc(5)) behind the program's name, which may hold spaces: where the arguments lie.
_ARG_START, _ARG_END = 45, 46


def cover_secrets(arguments: Sequence[str]) -> Iterator[str]:
    """Warn if the arguments hold a database's password or a header, and overwrite these in the output of `ps`."""
    passwords = [found for value in _values(arguments, _DATABASE) for found in _passwords(value)]
    headers = _values(arguments, _HEADER)
    if sys.platform == "linux" and (passwords or headers):
        _overwrite([*passwords, *map(_secret_of, headers)])
    if passwords:
        yield (
            f"the password in {_DATABASE} can be read by others (ps, the shell's history): "
            "give the URL in DATABASE_URL, or the password in PGPASSWORD or ~/.pgpass"
        )
    if any(map(_may_be_secret, headers)):
        yield (
            f"the value of {_HEADER} can be read by others (ps, the shell's history): "
            "give it in SEED_REGISTRY_HEADER, or in a file of settings"
        )


def _values(arguments: Sequence[str], flag: str) -> list[str]:
    """The values of a flag."""
    found = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        name, equals, attached = argument.partition("=")
        if before == flag:
            found.append(argument)
        elif name == flag and equals:
            found.append(attached)
    return found


def _passwords(url: str) -> list[str]:
    return [match["password"] for pattern in (_IN_USER, _IN_QUERY) for match in pattern.finditer(url)]


def _secret_of(header: str) -> str:
    """Return the value of a header, or the whole text if it is malformed."""
    try:
        return Header.parse(header).reveal
    except SettingsInvalid:
        return header


def _may_be_secret(header: str) -> bool:
    try:
        return Header.parse(header).may_be_secret
    except SettingsInvalid:
        return True


def _overwrite(secrets: Sequence[str]) -> None:
    """Overwrite the secrets with asterisks where the kernel reads the arguments of the process."""
    import ctypes  # noqa: PLC0415  # few calls hold a secret

    try:
        fields = Path("/proc/self/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
        shown = Path("/proc/self/cmdline").read_bytes()
        if not _is_ours(start, end) or len(shown) != end - start:
            return
    except (OSError, ValueError, IndexError):
        return
    for text in filter(None, secrets):
        secret = text.encode(errors="surrogateescape")
        position = shown.find(secret)
        while position >= 0:
            ctypes.memset(start + position, ord("*"), len(secret))
            position = shown.find(secret, position + len(secret))


def _is_ours(start: int, end: int) -> bool:
    """Whether we may write to this memory: a wrong address would crash the program."""
    for line in Path("/proc/self/maps").read_text("utf-8", "replace").splitlines():
        reach, rights, *_ = line.split()
        low, high = (int(number, 16) for number in reach.split("-"))
        if low <= start < end <= high:
            return rights.startswith("rw")
    return False
