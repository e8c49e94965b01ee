"""The rejects file: one NDJSON line for each record that could not be loaded, created when the first one comes."""

from __future__ import annotations

import base64
import contextlib
import os
from pathlib import Path

import msgspec

from seed_registry.errors import StorageFailed
from seed_registry.escaping import printable
from seed_registry.records import Reject

# Where a run ended, its lanes were not equally far: what it told since the last checkpoint is in here.
_TAIL_BYTES = 4 << 20


class _Told(msgspec.Struct):
    """What tells one reject from another."""

    index: str
    offset: int


_decode_told = msgspec.json.Decoder(_Told).decode


class RejectsFile:
    """Appends rejects to a new file, readable by its owner only, or to that of the run that is resumed.

    Attributes:
        path: where it is, or would be.
        created: whether there is one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.created = False
        self._descriptor = -1
        self._unsynced = False
        self._told: set[tuple[str, int]] = set()  # what the run that is resumed told last, by index and offset

    def resume(self) -> None:
        """Go on with the file of an earlier run, if it has one: a torn last line goes, and nothing is told twice.

        Raises:
            StorageFailed: the file cannot be read or written.
        """
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise self._failed(exc) from exc
        size = os.lseek(descriptor, 0, os.SEEK_END)
        start = max(size - _TAIL_BYTES, 0)
        tail = os.pread(descriptor, size - start, start)
        whole = tail.rfind(b"\n") + 1
        for line in tail[:whole].splitlines():
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):  # the first one may be cut
                told = _decode_told(line)
                self._told.add((told.index, told.offset))
        if start == 0 or whole:
            os.ftruncate(descriptor, start + whole)
            os.lseek(descriptor, start + whole, os.SEEK_SET)
        self._descriptor, self.created = descriptor, True

    def write(self, index: str, reject: Reject) -> None:
        """Append one line `{index, line, offset, key?, reason, detail, record}`; a record that is not UTF-8 is base64.

        Raises:
            StorageFailed: the file cannot be made or written.
        """
        if self._told and (printable(index, len(index)), reject.offset) in self._told:
            return
        line: dict[str, object] = {"index": printable(index, len(index)), "line": reject.line, "offset": reject.offset}
        if reject.key is not None:
            line["key"] = reject.key
        line |= {"reason": reject.reason, "detail": reject.detail}
        try:
            line["record"] = reject.data.decode()
        except UnicodeDecodeError:
            line |= {"record": base64.b64encode(reject.data).decode(), "encoding": "base64"}
        try:
            if not self.created:
                self._create()
            data = memoryview(msgspec.json.encode(line) + b"\n")
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as exc:
            raise self._failed(exc) from exc
        self._unsynced = True

    def sync(self) -> None:
        """Bring it to disk.

        Raises:
            StorageFailed: that fails.
        """
        if not self._unsynced:
            return
        try:
            os.fsync(self._descriptor)
        except OSError as exc:
            raise self._failed(exc) from exc
        self._unsynced = False

    def close(self) -> None:
        """Bring it to disk, and close it."""
        if self._descriptor >= 0:
            try:
                self.sync()
            finally:
                os.close(self._descriptor)
                self._descriptor = -1

    def _failed(self, exc: OSError) -> StorageFailed:
        return StorageFailed(
            f"the rejects file {self.path} cannot be written: {exc.strerror}; name another with --rejects"
        )

    def _create(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # O_EXCL and O_NOFOLLOW: never into somebody else's file, nor through a link that was laid there.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self.path, flags, 0o600)
        self.created = True
