"""Finding: what the operator names (patterns, directories, lists) to the indexes that are meant, in a stable order."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from seed_registry.errors import IndexUnreadable
from seed_registry.escape import printable

# What is taken for an index in a directory, each also with these endings of compression.
_ENDINGS: Final = (".json", ".jsonl", ".ndjson")
_COMPRESSED: Final = ("", ".gz", ".zst")


Name = str | os.PathLike[str]


def find(names: Name | Sequence[Name]) -> list[str]:
    """The indexes that the names mean: a path, a URL and `-` themselves, a pattern or directory its files by name.

    Raises:
        IndexUnreadable: a pattern or directory holds none.
    """
    several = [names] if isinstance(names, str | os.PathLike) else names
    return [index for name in several for index in _meant(os.fspath(name))]


def require(indexes: Sequence[str]) -> None:
    """See that files are there at all, before a database is started for them.

    Raises:
        IndexUnreadable: one is not.
    """
    for index in indexes:
        if index == "-" or is_url(index):
            continue
        try:
            os.stat(index)  # noqa: PTH116  # as typed
        except FileNotFoundError as exc:
            raise IndexUnreadable(f"{printable(index, len(index))}: no such file (looked in {Path.cwd()})") from exc
        except (OSError, ValueError):
            pass  # there, or impossible: opening it tells why


def read_list(path: str) -> list[str]:
    """The names in a list file: one a line, blank lines and lines that begin with # left out.

    Raises:
        IndexUnreadable: it cannot be read, or names none.
    """
    try:
        lines = Path(path).read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or "it is not UTF-8 text"
        raise IndexUnreadable(f"the list of indexes {printable(path)} cannot be read: {reason}") from exc
    names = [name for line in lines if (name := line.strip()) and not name.startswith("#")]
    if not names:
        raise IndexUnreadable(f"the list of indexes {printable(path)} names none")
    return names


def is_url(name: str) -> bool:
    """Whether a name is a URL and no path."""
    scheme, colon, _ = name.partition("://")
    return bool(colon) and scheme.replace("+", "").isalnum()


def redact_url(url: str) -> str:
    """The URL as messages may show it: without user, password, query and fragment."""
    scheme, _, rest = url.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    behind = rest[len(authority) :]
    if ":" in authority and "@" in behind and "@" not in authority:  # a password with a bare "/", "?" or "#"
        return printable(f"{scheme}://***", len(url))
    return printable(f"{scheme}://{authority.rpartition('@')[2]}{re.split('[?#]', behind)[0]}", len(url))


def _meant(name: str) -> Iterator[str]:
    # os.path's questions have an answer for names that no file can have, and where nobody may look: no.
    if name == "-" or is_url(name) or "\0" in name:
        yield name
    elif os.path.isdir(name):  # noqa: PTH112
        try:
            found = sorted(str(file) for file in Path(name).iterdir() if _looks_like_an_index(file))
        except OSError as exc:
            raise IndexUnreadable(f"the directory {printable(name)} cannot be read: {exc.strerror}") from exc
        if not found:
            raise IndexUnreadable(f"{printable(name)} is a directory without index files (*{', *'.join(_ENDINGS)})")
        yield from found
    elif glob.has_magic(name) and not os.path.lexists(name):
        found = sorted(file for file in glob.glob(name, recursive=True) if Path(file).is_file())  # noqa: PTH207  # as typed
        if not found:
            raise IndexUnreadable(f"{printable(name)} matches no file (looked in {Path.cwd()})")
        yield from found
    else:
        yield name


def _looks_like_an_index(file: Path) -> bool:
    return file.is_file() and any(file.name.endswith(end + packed) for end in _ENDINGS for packed in _COMPRESSED)
