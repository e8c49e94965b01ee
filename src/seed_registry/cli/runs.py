"""`seed-registry runs`: what the ledger tells."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import anyio
import msgspec
import typer

from seed_registry.access import database
from seed_registry.cli.console import print_rows
from seed_registry.cli.options import DatabaseOption, database_of
from seed_registry.errors import SettingsInvalid
from seed_registry.registry.connecting import session
from seed_registry.registry.ledger import Run, is_usable, runs
from seed_registry.registry.pooling import READ_ONLY
from seed_registry.report import Report
from seed_registry.settings import Settings


class _Entry(msgspec.Struct):
    """A run as `--json` prints it; the report is that of `load --json`."""

    run_id: str
    indexes: list[str]
    started_at: str
    finished_at: str | None
    resumed: int
    outcome: str
    error: str | None
    rejects: str | None
    report: msgspec.Raw | None


def show_runs(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="One run, in full.")] = None,
    *,
    database_url: DatabaseOption = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many, the newest first.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """Show the loads of this database, and how each ended."""
    found = anyio.run(_find, database_url, run, limit)
    if run is not None and not found:
        raise SettingsInvalid(f"there is no run {run} in this database's ledger; `seed-registry runs` lists them")
    if as_json:
        sys.stdout.buffer.write(msgspec.json.encode([_entry(one) for one in found]) + b"\n")
        sys.stdout.buffer.flush()
    elif run is not None:
        _print_run(found[0])
    elif not found:
        typer.echo("no load has run here yet")
    else:
        header = ("run", "outcome", "s", "read", "inserted", "updated", "rejected", "records/s", "index")
        print_rows("the last runs", header, [_row(one) for one in found])


async def _find(database_url: str | None, run_id: str | None, limit: int) -> list[Run]:
    settings = Settings(database_url=database_of(database_url))
    async with database(settings) as url, session(url, READ_ONLY) as connection:
        return await runs(connection, run_id, limit) if await is_usable(connection) else []


def _entry(run: Run) -> _Entry:
    finished = run.finished_at.isoformat() if run.finished_at else None
    report = msgspec.Raw(run.report.encode()) if run.report else None
    return _Entry(
        run.run_id, run.indexes, run.started_at.isoformat(), finished, run.resumed, run.outcome, run.error,
        run.rejects, report,
    )  # fmt: skip


def _row(run: Run) -> tuple[Any, ...]:
    report = _report(run)
    facts: tuple[str, ...] = ("",) * 6
    if report:
        counts = (report.assets.read, report.assets.inserted, report.assets.updated, report.assets.rejected)
        rate = f"{report.records_per_second:,.0f}"
        facts = (f"{report.seconds:,.1f}", *(f"{count:,}" for count in counts), rate)
    what = run.indexes[0].rpartition("/")[2] + (f" and {len(run.indexes) - 1} more" if len(run.indexes) > 1 else "")
    return (
        run.run_id,
        run.outcome + (f" ({run.resumed}x resumed)" if run.resumed else ""),
        *facts,
        what,
    )


def _print_run(run: Run) -> None:
    rows = [
        ("indexes", ", ".join(run.indexes)),
        ("started", f"{run.started_at:%Y-%m-%d %H:%M:%S %Z}"),
        ("finished", f"{run.finished_at:%Y-%m-%d %H:%M:%S %Z}" if run.finished_at else "no"),
        ("outcome", run.outcome),
        ("resumed", f"{run.resumed} times" if run.resumed else "no"),
    ]
    if run.error:
        rows.append(("error", run.error))
    if report := _report(run):
        for table, counts in (("sources", report.sources), ("assets", report.assets)):
            facts = msgspec.structs.asdict(counts).items()
            rows.append((table, ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in facts if value)))
        rows.append(("speed", f"{report.seconds:,.2f} s, {report.records_per_second:,.0f} records/s"))
        if report.rejects_file:
            rows.append(("rejects file", report.rejects_file))
    print_rows(run.run_id, ("", ""), rows)


def _report(run: Run) -> Report | None:
    """The report, unless another version wrote one that this one cannot read."""
    if run.report is None:
        return None
    try:
        return msgspec.json.decode(run.report, type=Report)
    except msgspec.DecodeError:
        return None
