"""Write the page of `--html` atomically."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from seed_registry.errors import StorageFailed
from seed_registry.escape import printable

# Readable by everybody, as far as the umask allows: a page is made to be shown.
_MODE = 0o644


def require_writable(path: Path) -> None:
    """Check that the page can be written, before the minutes of work.

    Raises:
        StorageFailed: it cannot be written.
    """
    place = path.absolute().parent
    if path.is_dir() or not os.access(path if path.exists() else place, os.W_OK):
        reason = (
            "it is a directory" if path.is_dir() else "no permission" if place.is_dir() else f"no directory {place}"
        )
        raise StorageFailed(f"--html {printable(path, 500)} cannot be written: {printable(reason, 500)}")


def write_page(path: Path, text: str) -> None:
    """Write the page; a reader meanwhile sees all of the old one or all of the new.

    Raises:
        StorageFailed: it cannot be written.
    """
    target = Path(os.path.realpath(path))
    try:
        if (target.exists() and not target.is_file()) or not os.access(target.parent, os.W_OK):
            target.write_text(text, "utf-8")  # a pipe, a device, a file in a directory that we may not write
        else:
            _replace(target, text)
    except OSError as exc:
        raise StorageFailed(f"--html {printable(path, 500)} cannot be written: {exc.strerror}") from exc


def _replace(target: Path, text: str) -> None:
    fresh = target.with_name(f".{secrets.token_hex(8)}.html")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(target)
    except BaseException:
        with suppress(OSError):
            fresh.unlink()
        raise
