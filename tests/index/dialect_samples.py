"""The synthetic records of every dialect, and what its decoder makes of one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, cast, get_args

from msgspec import Struct
from msgspec.structs import fields

from seed_registry.index.decoder import Decoder
from seed_registry.index.dialects import DIALECTS
from seed_registry.records import Asset, RawRecord, Record, Reject
from seed_registry.settings import DialectName, Settings
from seed_registry.synthetic.index import Format, Workload, generate

SOURCES = 2
HOST = b"data.albany.example"
FORMS = [
    (name, form)
    for name, dialect in DIALECTS.items()
    for form in ("json", "ndjson")
    if form == "json" or dialect.sample.has_lines
]


def workload(name: str, form: str, **options: Any) -> Workload:
    options = {"records": 4, "sources": SOURCES, "size": DIALECTS[name].sample.fixed_bytes} | options
    return Workload(dialect=cast("DialectName", name), format=cast("Format", form), **options)


def settings_of(name: str, form: str) -> Settings:
    return Settings(domain=workload(name, form).domain)


@cache
def around(name: str, form: str, count: int) -> tuple[bytes, bytes]:
    """What stands before and after the records of an index."""
    empty = b"".join(generate(workload(name, form, records=0)))
    if form == "ndjson":
        return empty, b""
    sample = DIALECTS[name].sample
    none, some = ({b"domain": HOST, b"records": number} for number in (0, count))
    before = empty.removesuffix(sample.after % none).removesuffix(sample.before % none)
    return before + sample.before % some, sample.after % some


@cache
def good_records(name: str, form: str) -> tuple[bytes, ...]:
    before, after = around(name, form, 4)
    index = b"".join(generate(workload(name, form)))
    return tuple(
        line.removesuffix(b",") for line in index.removeprefix(before).removesuffix(after).splitlines() if line
    )


def index_of(name: str, form: str, records: Sequence[bytes]) -> bytes:
    before, after = around(name, form, len(records))
    return before + (b"\n" if form == "ndjson" else b",\n").join(records) + (after or b"\n")


def page_of(name: str, records: Sequence[bytes]) -> bytes:
    """A document on one line, as an API answers."""
    return index_of(name, "json", records).replace(b"\n", b" ").strip()


def read_fields(wire: type[Struct], *above: str) -> Iterator[tuple[str, ...]]:
    """The path of every field that a wire Struct reads, also of those with fields of their own."""
    for one in fields(wire):
        yield (*above, one.encode_name)
        for type_ in (one.type, *get_args(one.type)):
            if isinstance(type_, type) and issubclass(type_, Struct):
                yield from read_fields(type_, *above, one.encode_name)


def changed(record: bytes, path: tuple[str, ...], value: Any) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(record)
    place = whole
    for key in path[:-1]:
        if not isinstance(place.get(key), dict):
            place[key] = {}
        place = place[key]
    place[path[-1]] = value
    return whole


@cache
def decoder_of(name: str, form: str) -> Decoder:
    """With a portal, of the header, `--domain` or the first records, where the form of the sample has one."""
    dialect = DIALECTS[name]
    hosts = dialect.hosts_in(b"".join(good_records(name, form)))
    decoder = Decoder(dialect, domain=settings_of(name, form).domain or "", agreed=hosts[0] if hosts else "")
    decoder.take_header(HOST.decode() if form == "json" else "", complete=True)
    return decoder


def decoded(name: str, form: str, record: bytes) -> Record | None:
    """What one record is on its own."""
    return decoder_of(name, form).decode(RawRecord(record, 1, 0, "asset" if form == "json" else ""))


def row(record: Record | None) -> Any:
    """A record without its place."""
    if isinstance(record, Asset):
        return (record.key, record.source_key, record.name, record.description, record.url, record.updated_at,
                record.raw, record.date_ignored, record.texts_ignored)  # fmt: skip
    if isinstance(record, Reject):
        return record.reason, record.data, record.key
    return record and (record.key, record.raw)
