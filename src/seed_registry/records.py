"""What an index holds and what becomes of it: frozen Structs, nothing else.

`raw` is always the record's own bytes (JSON, UTF-8), `line` counts from 1 and `offset` counts bytes of the unpacked
index from 0; together with the index's name they are a record's location.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct


class Location(Struct, frozen=True):
    """Where a record begins."""

    index: str
    line: int
    offset: int

    def __str__(self) -> str:
        return f"{self.index}: line {self.line} (byte {self.offset})"


class RawRecord(Struct, frozen=True, gc=False):
    """One JSON value cut out of an index, not decoded yet.

    `kind` is "source" or "asset" where its place in the document says so, otherwise "". Of a value longer than the
    limit only the beginning is kept, and `excess` is its full length in bytes. `repaired` tells it of an asset
    that was parked.
    """

    data: bytes
    line: int
    offset: int
    kind: str = ""
    excess: int = 0
    repaired: bool = False


class Source(Struct, frozen=True, gc=False):
    """A portal that publishes; the row of `registry.sources` with this provider and key."""

    key: str
    provider: str
    name: str | None = None
    url: str | None = None
    raw: bytes = b"{}"
    content_hash: bytes | None = None
    line: int = 0
    offset: int = 0
    texts_ignored: tuple[str, ...] = ()


class SourceRow(Struct, frozen=True, gc=False):
    """A row of `registry.sources`.

    Attributes:
        id: an int or a UUID; None in a dry run of a source that does not exist yet.
        provider: the row's own, which is also that of its assets; None where the table has no column for it.
    """

    id: Any
    provider: str | None


class Asset(Struct, frozen=True, gc=False):
    """One thing published; the row of `registry.assets` with this key.

    An empty `source_key` means that only the rest of the document can tell it (a header that comes after the records).
    `texts_ignored` names the fields that are null although the record has something there: it is no text.
    `was_committed` is set of what lies before a checkpoint of the run that is resumed.
    `own_key` says that the key is its portal's own ("1", "population"), which another may give to something else: it
    never takes a row from another source.
    """

    key: str
    source_key: str
    name: str | None = None
    description: str | None = None
    url: str | None = None
    updated_at: datetime | None = None
    raw: bytes = b"{}"
    content_hash: bytes | None = None
    line: int = 0
    offset: int = 0
    repaired: bool = False
    date_ignored: bool = False
    texts_ignored: tuple[str, ...] = ()
    was_committed: bool = False
    own_key: bool = False


class Reject(Struct, frozen=True, gc=False):
    """A record that cannot be loaded, and why.

    `reason` is one of a fixed set of codes (see `index.decoding.REASONS`), `detail` a sentence; both are safe to print
    except where `detail` says otherwise through the escaping of the reader.
    """

    reason: str
    detail: str
    data: bytes
    line: int
    offset: int
    kind: str = "asset"
    key: str | None = None


Record = Source | Asset | Reject
