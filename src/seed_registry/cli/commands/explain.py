"""`seed-registry explain`: the detected dialect of an index, why, and its first records as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Annotated

import anyio
import msgspec
import typer

from seed_registry.cli.config.flags import takes_settings
from seed_registry.cli.render.console import print_rows
from seed_registry.escape import printable
from seed_registry.index.choice import Evidence, weigh
from seed_registry.index.inputs import IndexRef
from seed_registry.index.open import read_index
from seed_registry.index.reader import IndexReader
from seed_registry.index.shape import Shape
from seed_registry.records import Asset, Record, Reject, Source
from seed_registry.registry.fields import OPTIONAL_FIELDS, SOURCE_FIELDS
from seed_registry.settings import Settings
from seed_registry.words import counted, listed

# Enough to see which fields are filled and how often, little enough to be instant on any index.
_RECORDS_READ = 1_000
_RECORDS_SHOWN = 3
_FIELDS_SHOWN = 6
_FIELDS = {
    "asset": ("key", "source_key", *OPTIONAL_FIELDS),
    "source": ("key", *(field for field in SOURCE_FIELDS if field in OPTIONAL_FIELDS)),
}


class _Explained(msgspec.Struct):
    """The result."""

    index: str
    dialect: str
    provider: str
    shape: str
    evidence: list[Evidence]
    mapping: Mapping[str, str]
    records: list[Record]
    facts: list[tuple[str, str]]


@takes_settings("dialect", "headers", "domain", "language", "provider", "records_at")
def explain(
    index: Annotated[str, typer.Argument(metavar="INDEX", help="A file or URL; - is stdin.")], settings: Settings
) -> None:
    """Explain which dialect an index has and why, and show its first records as they would be stored."""
    found = anyio.run(_look, index, settings)
    print_rows(
        found.index,
        ("", ""),
        [("dialect", f"{found.dialect} (provider {found.provider})"), ("because", found.shape), *found.facts],
    )
    typer.echo()
    _print_evidence(found.evidence)
    for kind, type_ in (("source", Source), ("asset", Asset)):
        records = [record for record in found.records if isinstance(record, type_)]
        if records:
            typer.echo()
            _print_fields(kind, records, found.mapping if kind == "asset" else {})
    rejects = [record for record in found.records if isinstance(record, Reject)]
    if rejects:
        typer.echo()
        rows = [(f"line {reject.line} (byte {reject.offset})", reject.reason, reject.detail) for reject in rejects[:10]]
        print_rows(f"rejected: {len(rejects)} of the first {len(found.records)}", ("where", "reason", "detail"), rows)


async def _look(index: str, settings: Settings) -> _Explained:
    records: list[Record] = []
    async with read_index(IndexRef.of(index), settings) as reader:
        async for part in reader.records():
            records.extend(islice(part, _RECORDS_READ - len(records)))
            if len(records) >= _RECORDS_READ:
                break
        dialect = reader.dialect
        why, facts = _why(reader.shape), _facts(reader)
        return _Explained(
            reader.name, dialect.name, reader.provider, why, weigh(reader.shape), dialect.mapping, records, facts
        )


def _facts(reader: IndexReader) -> list[tuple[str, str]]:
    """The arrays of records that were found, the declared total, and arrays that were not read."""
    facts = [("records at", ", ".join(reader.found()))]
    if (total := reader.total()) is not None:
        facts.append(("the portal has", counted(total, "record")))
    facts += [("not read", f"{counted(count, 'record')} at {path}") for path, count in reader.unread().items()]
    return [(name, printable(fact)) for name, fact in facts if fact]


def _why(shape: Shape) -> str:
    form = "NDJSON" if shape.lines else shape.form or "a document"
    arrays = [f"{'.'.join(path) or 'itself'} is an array" for path, keys in shape.arrays.items() if keys or not path]
    keys = f"its {'first record' if shape.lines else 'top'} has {', '.join(shape.keys)}" if shape.keys else ""
    return "; ".join(part for part in (form, *arrays, keys) if part)


def _print_evidence(evidence: Sequence[Evidence]) -> None:
    """What speaks for each dialect and against it, where there is anything."""
    rows = [
        (one.dialect, "yes" if one.fits else "no", listed(one.found, _FIELDS_SHOWN), listed(one.missing, _FIELDS_SHOWN))
        for one in evidence
        if one.fits or one.found
    ]
    print_rows("what speaks for a dialect, and against it", ("dialect", "fits", "records have", "they lack"), rows)


def _print_fields(kind: str, records: Sequence[Source | Asset], mapping: Mapping[str, str]) -> None:
    """Each field: where it comes from, how often it is filled, and its value in the first records."""
    rows = []
    for field in _FIELDS[kind]:
        values = [getattr(record, field) for record in records]
        filled = sum(value is not None for value in values) / len(values)
        shown = ["" if value is None else str(value) for value in values[:_RECORDS_SHOWN]]
        rows.append((field, mapping.get(field, field), f"{filled:.0%}", *(printable(text, 60) for text in shown)))
    header = (kind, "from", "filled", *(f"{number}." for number in range(1, min(len(records), _RECORDS_SHOWN) + 1)))
    print_rows(f"the first {len(records)} {kind}s", header, rows)
