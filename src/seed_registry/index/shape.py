"""The structure of an index, as its first bytes show it: what dialects are chosen by."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

from seed_registry.index.json_envelope import Path

Form = Literal["", "one record", "an array of documents", "documents, one a line"]


class Shape(Struct, frozen=True):
    """The structure of the beginning of an index.

    Attributes:
        lines: NDJSON if true, one document otherwise.
        keys: of the document or first record, each with its value; "array" or "object" stand for these.
        single: one object on one line: a document, or the only record of an NDJSON index.
        arrays: for each array of the document, by path, the keys of its elements; empty where it has none.
        members: the same of the objects in these elements: `("data", "attributes")` for `data[].attributes`.
        objects: the same of each object below the document's top that is in no array.
        scalars: the paths of the arrays that begin with no object or array, but with "string", "number" or the like.
        page: the shape of the first line, or of the first element of a document that is an array, as a document.
        words: the message of the portal's server, if the document is an error.
        form: how it is read, if neither as lines of records nor as one document with records.
    """

    lines: bool
    single: bool = False
    keys: dict[str, Any] = field(default_factory=dict)
    arrays: dict[Path, set[str]] = field(default_factory=dict)
    members: dict[Path, set[str]] = field(default_factory=dict)
    objects: dict[Path, set[str]] = field(default_factory=dict)
    scalars: dict[Path, str] = field(default_factory=dict)
    page: Shape | None = None
    words: str | None = None
    form: Form = ""

    def is_empty(self, *path: str) -> bool:
        """Whether there is an array at the path, without an element in the bytes examined."""
        return self.arrays.get(path) == set() and path not in self.scalars
