"""`seed-registry sample`: a synthetic index."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from seed_registry.errors import StorageFailed
from seed_registry.settings import DialectName
from seed_registry.synthetic.index import Workload, generate

# Made from the one list there is.
SampleDialect = StrEnum("SampleDialect", {name: name for name in get_args(DialectName)})  # type: ignore[misc]


def sample(
    *,
    records: Annotated[int, typer.Option(help="Assets.")] = 1000,
    sources: Annotated[int, typer.Option(help="Sources, where an index may have several.")] = 20,
    dialect: Annotated[
        SampleDialect, typer.Option(metavar="NAME", help="The shape of the index.")
    ] = SampleDialect.seed,  # type: ignore[attr-defined]
    format_: Annotated[str, typer.Option("--format", metavar="json|ndjson", help="A document, or lines.")] = "json",
    duplicates: Annotated[float, typer.Option(help="Percent of records that repeat a key.")] = 0,
    invalid: Annotated[float, typer.Option(help="Percent of records that a load rejects.")] = 0,
    changed: Annotated[float, typer.Option(help="Percent of records edited since the same sample without it.")] = 0,
    size: Annotated[int | None, typer.Option(help="Median bytes of a record [default: like real ones]")] = None,
    seed: Annotated[int, typer.Option(help="The same seed makes the same bytes.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="A file instead of stdout.")] = None,
) -> None:
    """Write a synthetic index whose records look and weigh like real ones.

    Where nothing in it names the portal, the --domain that a load needs is printed on standard error.
    """
    workload = Workload(
        records=records,
        sources=sources,
        dialect=cast("Any", dialect.value),
        format=cast("Any", format_),  # checked by Workload
        duplicates=duplicates,
        invalid=invalid,
        seed=seed,
        changed=changed,
        size=size,
    )
    if workload.domain:
        typer.echo(f"nothing in this index names its portal: load it with --domain {workload.domain}", err=True)
    try:
        if out is None:
            for chunk in generate(workload):
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            return
        with out.open("wb") as file:
            for chunk in generate(workload):
                file.write(chunk)
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise StorageFailed(f"{out or 'stdout'} cannot be written: {exc.strerror}") from exc
