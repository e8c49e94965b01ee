"""Secrecy: a password on the command line is one that everybody on the machine can read; say so, and cover it up."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_FLAG: Final = "--database-url"
_IN_USER: Final = re.compile(r"://[^/?@:]*:(?P<password>.+)@", re.DOTALL)
_IN_QUERY: Final = re.compile(r"(?:^|[?&\s])(?:ssl)?password\s*=\s*(?P<password>[^&\s]+)")
# The fields of /proc/self/stat (proc(5)) behind the program's name, which may hold spaces: where the arguments lie.
_ARG_START, _ARG_END = 45, 46


def cover_password(arguments: Sequence[str]) -> str | None:
    """A warning if the arguments hold a database's password, which is then covered in what `ps` shows.

    On Linux only; it was to be seen for a moment all the same, and is in the shell's history.
    """
    passwords = _passwords(arguments)
    if not passwords:
        return None
    if sys.platform == "linux":
        _overwrite(passwords)
    return (
        f"the password in {_FLAG} can be read by others (ps, the shell's history): "
        "give the URL in DATABASE_URL, or the password in PGPASSWORD or ~/.pgpass"
    )


def _passwords(arguments: Sequence[str]) -> list[str]:
    found = []
    for flag, value in zip(["", *arguments], [*arguments, ""], strict=True):
        name, equals, attached = value.partition("=")
        url = attached if name == _FLAG and equals else value if flag == _FLAG else ""
        found += [match["password"] for pattern in (_IN_USER, _IN_QUERY) for match in pattern.finditer(url)]
    return found


def _overwrite(passwords: Sequence[str]) -> None:
    """Write over the passwords where the kernel reads the arguments from, with as many asterisks."""
    try:
        fields = Path("/proc/self/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
        shown = Path("/proc/self/cmdline").read_bytes()
        if not _is_ours(start, end) or len(shown) != end - start:
            return
    except (OSError, ValueError, IndexError):
        return
    for password in passwords:
        secret = password.encode(errors="surrogateescape")
        position = shown.find(secret)
        while position >= 0:
            ctypes.memset(start + position, ord("*"), len(secret))
            position = shown.find(secret, position + len(secret))


def _is_ours(start: int, end: int) -> bool:
    """Whether this is memory that we may write: a wrong address would end the program."""
    for line in Path("/proc/self/maps").read_text("utf-8", "replace").splitlines():
        reach, rights, *_ = line.split()
        low, high = (int(number, 16) for number in reach.split("-"))
        if low <= start < end <= high:
            return rights.startswith("rw")
    return False
