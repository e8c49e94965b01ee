"""Write the rejects file: one NDJSON line for each record that could not be loaded."""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import stat
from array import array
from bisect import bisect_left
from pathlib import Path

import msgspec
import xxhash

from seed_registry.errors import StorageFailed
from seed_registry.escape import encodable, printable
from seed_registry.records import Reject

# A resumed run meets every reject again and compares it with those in its file: 16 MB of memory.
_MAX_COMPARED = 2_000_000
_PIECE_BYTES = 4 << 20
_BEGINNING = b'{"index":'


class _Identity(msgspec.Struct):
    """The identity of a reject: its location, and its record, which may have changed meanwhile."""

    index: str
    offset: int
    record: str

    @property
    def hash(self) -> int:
        """Its hash."""
        return _hash(self.index, self.offset, self.record)


def _hash(index: str, offset: int, record: str) -> int:
    return xxhash.xxh3_64_intdigest(f"{offset} {index}\0{record}".encode(errors="surrogatepass"))


_decode_identity = msgspec.json.Decoder(_Identity).decode


def _is_of(line: bytes, index: str) -> bool:
    parsed = _parsed(line)
    return parsed is not None and parsed.index == index


class _Lines:
    """The lines of a rejects file.

    Attributes:
        count: number of complete lines.
        end: offset where the last of them ends; at most a torn one follows.
    """

    def __init__(self, descriptor: int) -> None:
        self.count = self.end = 0
        self._hashes = array("Q")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            file.seek(0)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.count += 1
                self.end += len(line)
                if (parsed := _parsed(line)) and self.count <= _MAX_COMPARED:
                    self._hashes.append(parsed.hash)
        self._hashes = array("Q", sorted(self._hashes))

    def has(self, hash_: int) -> bool:
        """Whether one of them has this identity."""
        at = bisect_left(self._hashes, hash_)
        return at < len(self._hashes) and self._hashes[at] == hash_


def _parsed(line: bytes) -> _Identity | None:
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
        return _decode_identity(line)
    return None


def reject_line(index: str, reject: Reject) -> bytes:
    """Return the line of a reject: `{index, line, offset, key?, kind?, reason, detail, record}`.

    A record that is not UTF-8 is base64. Sources have a kind: in a document only their path gives it.
    """
    line: dict[str, object] = {"index": printable(index, len(index)), "line": reject.line, "offset": reject.offset}
    if reject.key is not None:
        line["key"] = reject.key
    if reject.kind == "source":
        line["kind"] = "source"
    line |= {"reason": reject.reason, "detail": reject.detail}
    try:
        line["record"] = reject.data.decode()
    except UnicodeDecodeError:
        line |= {"record": base64.b64encode(reject.data).decode(), "encoding": "base64"}
    return msgspec.json.encode(line) + b"\n"


class RejectsFile:
    """Appends rejects to a new file, readable by its owner only, or to that of the run that is resumed.

    The file of an earlier run is kept as `PATH.old`.

    Attributes:
        path: of the file, which is created with the first reject.
        report_name: its path, in reports and in the ledger.
        own_directory: whether its directory is created, too; a mistyped `--rejects` is an error instead.
        created: whether it exists.
        count: number of rejects in it.
    """

    def __init__(self, path: Path, *, own_directory: bool = False) -> None:
        self.path = path
        self.report_name = encodable(str(path))
        self.own_directory = own_directory
        self.created = False
        self.count = 0
        self._descriptor = -1
        self._unsynced = False
        self._earlier: _Lines | None = None  # of the run that is resumed

    def resume(self) -> None:
        """Continue the file of an earlier run, if it exists: remove a torn last line, and skip rejects that are in it.

        A file with more lines than can be compared is emptied: the run reads, and rejects, everything again.

        Raises:
            StorageFailed: the file cannot be read or written.
        """
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise self._failed(exc) from exc
        found = os.fstat(descriptor)
        is_ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
        # Its path comes from the ledger, which others may write: never write into any other kind of file.
        if not is_ours or not _BEGINNING.startswith(os.pread(descriptor, len(_BEGINNING), 0)):
            os.close(descriptor)
            raise self._failed(OSError(errno.EEXIST, "the existing file is no rejects file of this user's"))
        self._descriptor, self.created = descriptor, True
        self._continue_behind(_Lines(descriptor))

    def forget(self, index: str) -> None:
        """Remove the lines of an index that has changed since an earlier run.

        Raises:
            StorageFailed: the file cannot be rewritten.
        """
        name = printable(index, len(index))
        if not self.created:
            return
        kept = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            descriptor = os.open(kept, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with self.path.open("rb") as old, os.fdopen(os.dup(descriptor), "wb") as new:
                new.writelines(line for line in old if not _is_of(line, name))
            kept.replace(self.path)
            os.close(self._descriptor)
            self._descriptor, self._unsynced = descriptor, True
            self._continue_behind(_Lines(descriptor))
        except OSError as exc:
            raise self._failed(exc) from exc

    def clear(self) -> None:
        """Empty the file, if there is one.

        Raises:
            StorageFailed: it cannot be written.
        """
        self._earlier = None
        self.count = 0
        if self.created:
            try:
                os.ftruncate(self._descriptor, 0)
                os.lseek(self._descriptor, 0, os.SEEK_SET)
            except OSError as exc:
                raise self._failed(exc) from exc

    def _continue_behind(self, lines: _Lines) -> None:
        can_compare = lines.count <= _MAX_COMPARED
        self._earlier, self.count, end = (lines, lines.count, lines.end) if can_compare else (None, 0, 0)
        os.ftruncate(self._descriptor, end)
        os.lseek(self._descriptor, end, os.SEEK_SET)

    def write(self, index: str, reject: Reject) -> None:
        """Append a reject of an index.

        Raises:
            StorageFailed: the file cannot be created or written.
        """
        self.write_line(reject_line(index, reject))

    def write_line(self, line: bytes) -> None:
        """Append a line of `reject_line`, unless it is in the file of the run that is resumed.

        Raises:
            StorageFailed: the file cannot be created or written.
        """
        if self._earlier and (found := _parsed(line)) and self._earlier.has(found.hash):
            return
        try:
            if not self.created:
                self._create()
            data = memoryview(line)
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as exc:
            raise self._failed(exc) from exc
        self._unsynced = True
        self.count += 1

    def sync(self) -> None:
        """Flush it to disk.

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
        """Flush it to disk, and close it."""
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
        if self.own_directory:
            self.path.parent.mkdir(exist_ok=True, mode=0o700)
        self.keep_older()
        # O_EXCL and O_NOFOLLOW: never write into a file of another user, nor through a link.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self.path, flags, 0o600)
        self.created = True

    def keep_older(self) -> None:
        """Rename the rejects file of an earlier run, so that the same command can run again.

        A file that is not a rejects file of this user stays: creating the new one fails.
        """
        try:
            # Without O_NONBLOCK opening a pipe waits for its writer.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # none, or a link; creating the new one reports why
            return
        try:
            found = os.fstat(descriptor)
            is_ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
            first = os.pread(descriptor, _PIECE_BYTES, 0).partition(b"\n")[0] if is_ours else b""
            is_longer = len(first) == _PIECE_BYTES and first.startswith(_BEGINNING)
            if is_longer or _parsed(first):
                self.path.replace(self.path.with_name(f"{self.path.name}.old"))
        except OSError as exc:
            raise self._failed(exc) from exc
        finally:
            os.close(descriptor)
