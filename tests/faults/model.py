"""The oracle: what a registry must hold of an index, and what must have been rejected, worked out without our code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import Any

# A row: source, name, description, url, moment, record.
Row = tuple[Any, ...]


@dataclass
class Model:
    """Rows by key, the last valid record of a key having won; where in the index each key came, and what is no asset.

    Attributes:
        places: of every valid asset in file order: offset, key.
        rejected: offsets.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    places: list[tuple[int, str]] = field(default_factory=list)
    rejected: list[int] = field(default_factory=list)

    @property
    def read(self) -> int:
        """How many assets the index has, those included that are none."""
        return len(self.places) + len(self.rejected)


def model(data: bytes) -> Model:
    """The model of a synthetic index: seed or discovery, a document or lines."""
    result = Model()
    for offset, raw in _records(data):
        record = _parsed(raw)
        if isinstance(record, dict) and record.get("type") == "source" and "resource" not in record:
            continue
        row = _row(record)
        if row is None:
            result.rejected.append(offset)
            continue
        key, (source, name, description, url, moment) = row
        previous = result.rows.get(key)
        latest = max(filter(None, (moment, previous and previous[4])), default=None)
        result.rows[key] = (source, name, description, url, latest, record)
        result.places.append((offset, key))
    return result


def _row(record: Any) -> tuple[str, Row] | None:
    if not isinstance(record, dict):
        return None
    asset = record.get("resource", record)
    key = asset.get("asset_key", asset.get("id"))
    if not isinstance(key, str) or not key.strip() or "\0" in key or len(key.encode()) > 1000:
        return None
    source = record["metadata"]["domain"] if "resource" in record else record["source_key"]
    url = record["permalink"] if "resource" in record else record["url"]
    moment = datetime.fromisoformat(asset.get("updated_at", asset.get("updatedAt")))
    return key.strip(), (source, asset["name"], asset["description"], url, moment)


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of every record: of a document those of its array of assets, else the lines."""
    array = re.match(rb'\{"(?:results|sources)"', data) and re.search(rb'"(?:results|assets)": \[', data)
    if not array:
        offset = 0
        for line in data.splitlines(keepends=True):
            if line.strip():
                yield offset, line
            offset += len(line)
        return
    # One character for each byte: what the decoder says of positions is true of bytes.
    text, decode, at = data.decode("latin-1"), json.JSONDecoder().raw_decode, array.end()
    for _ in count():
        while text[at] in " ,\n":
            at += 1
        if text[at] == "]":
            return
        start = at
        _, at = decode(text, start)
        yield start, data[start:at]
