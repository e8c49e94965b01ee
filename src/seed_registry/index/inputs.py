"""Resolve the names that an operator gives (paths, patterns, directories, URLs, `-`) to indexes, in a stable order."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import xxhash
from msgspec import Struct

from seed_registry.errors import IndexUnreadable
from seed_registry.escape import encodable, printable

# Names of index files in a directory end so, each also with one of the suffixes of compression.
_SUFFIXES: Final = (".json", ".jsonl", ".ndjson")
_COMPRESSED: Final = ("", ".gz", ".zst")

Name = str | os.PathLike[str]


class IndexRef(Struct, frozen=True):
    """One index: where it is read from, and its names.

    Attributes:
        kind: of input; a pipe in the file system is a `file`.
        path: as typed; a URL with its password and query, `-` for standard input.
        display_name: in messages, printable; a URL without password and query, `stdin`.
        report_name: in reports, logs and the rejects file; as `display_name`, but a path is not escaped, unless its
            bytes are not UTF-8, and standard input is `-`.
        ledger_name: in the ledger, the same from every directory: an absolute path, `-`, or a URL without its password
            and with a hash of its query.
    """

    kind: Literal["file", "url", "stdin"]
    path: str
    display_name: str
    report_name: str
    ledger_name: str

    @classmethod
    def of(cls, name: Name) -> IndexRef:
        """The index that a path, a URL or `-` means; patterns and directories are for `resolve`.

        Raises:
            IndexUnreadable: no index can have this name.
        """
        path = os.fspath(name)
        is_url = _is_url(path)
        display_name = redact_url(path) if is_url else printable(path, len(path))
        if "\0" in path:
            raise IndexUnreadable(f"{display_name}: no file or URL has a NUL in its name")
        if path == "-":
            return cls("stdin", path, "stdin", path, path)
        if is_url:
            return cls("url", path, display_name, display_name, _url_in_ledger(path, display_name))
        return cls("file", path, display_name, encodable(path), encodable(_absolute(path)))


def resolve(names: Name | Sequence[Name]) -> list[IndexRef]:
    """Return the indexes that the names mean: a directory its index files, a pattern the files that match, by name.

    Raises:
        IndexUnreadable: a pattern or directory has none.
    """
    several = [names] if isinstance(names, str | os.PathLike) else names
    return [IndexRef.of(path) for name in several for path in _paths(os.fspath(name))]


def require_files(indexes: Iterable[IndexRef]) -> None:
    """Check that all files exist, before a database is started for them.

    Raises:
        IndexUnreadable: one does not.
    """
    for index in indexes:
        if index.kind != "file":
            continue
        try:
            os.stat(index.path)  # noqa: PTH116  # as typed
        except FileNotFoundError as exc:
            raise IndexUnreadable(f"{index.display_name}: no such file (looked in {Path.cwd()})") from exc
        except (OSError, ValueError):
            pass  # it exists, or no file can have this name: opening it gives the reason


def read_list(path: str) -> list[str]:
    """Return the names in a list file: one per line, without blank lines and lines that begin with #.

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


def redact_url(url: str) -> str:
    """Return the URL without user, password, query and fragment, printable."""
    scheme, _, rest = url.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    behind = rest[len(authority) :]
    if ":" in authority and "@" in behind and "@" not in authority:  # a password with a bare "/", "?" or "#"
        return printable(f"{scheme}://***", len(url))
    return printable(f"{scheme}://{authority.rpartition('@')[2]}{re.split('[?#]', behind)[0]}", len(url))


def _is_url(name: str) -> bool:
    scheme, colon, _ = name.partition("://")
    return bool(colon) and scheme.replace("+", "").isalnum()


def _url_in_ledger(url: str, shown: str) -> str:
    scheme, _, rest = url.partition("://")
    requested = f"{scheme}://{rest.rpartition('@')[2]}"  # without the password: a hash of one could be guessed at
    digest = xxhash.xxh3_64_hexdigest(requested.encode(errors="surrogateescape"))
    return shown if shown == requested else f"{shown}?{digest}"


def _absolute(path: str) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # no file can have this name: opening it gives the reason
        return path


def _paths(name: str) -> Iterator[str]:
    # os.path answers "no" for names that no file can have, and in directories that may not be read.
    if name == "-" or _is_url(name) or "\0" in name:
        yield name
    elif os.path.isdir(name):  # noqa: PTH112
        try:
            found = sorted(str(file) for file in Path(name).iterdir() if _looks_like_an_index(file))
        except OSError as exc:
            raise IndexUnreadable(f"the directory {printable(name)} cannot be read: {exc.strerror}") from exc
        if not found:
            raise IndexUnreadable(f"{printable(name)} is a directory without index files (*{', *'.join(_SUFFIXES)})")
        yield from found
    elif glob.has_magic(name) and not os.path.lexists(name):
        found = sorted(file for file in glob.glob(name, recursive=True) if Path(file).is_file())  # noqa: PTH207  # as typed
        if not found:
            raise IndexUnreadable(f"{printable(name)} matches no file (looked in {Path.cwd()})")
        yield from found
    else:
        yield name


def _looks_like_an_index(file: Path) -> bool:
    return file.is_file() and any(file.name.endswith(end + packed) for end in _SUFFIXES for packed in _COMPRESSED)
