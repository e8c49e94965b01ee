"""The rejects file: one NDJSON line for each record that could not be loaded, created when the first one comes."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import msgspec

from seed_registry.errors import StorageFailed
from seed_registry.escaping import printable
from seed_registry.records import Reject


class RejectsFile:
    """Appends rejects to a new file, readable by its owner only.

    Attributes:
        path: where it is, or would be.
        created: whether there is one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.created = False
        self._descriptor = -1

    def write(self, index: str, reject: Reject) -> None:
        """Append one line `{index, line, offset, key?, reason, detail, record}`; a record that is not UTF-8 is base64.

        Raises:
            StorageFailed: the file cannot be made or written.
        """
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
            raise StorageFailed(
                f"the rejects file {self.path} cannot be written: {exc.strerror}; name another with --rejects"
            ) from exc

    def close(self) -> None:
        """Bring it to disk."""
        if self._descriptor >= 0:
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _create(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # O_EXCL and O_NOFOLLOW: never into somebody else's file, nor through a link that was laid there.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self.path, flags, 0o600)
        self.created = True
