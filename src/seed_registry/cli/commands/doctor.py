"""`seed-registry doctor`: find what is wrong with a registry, and how to fix it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import anyio
import typer
from rich.console import Console
from rich.text import Text

from seed_registry import __version__
from seed_registry.cli.config.flags import Changed, takes_settings
from seed_registry.cli.config.options import TABLE, Output
from seed_registry.cli.render.output import print_output
from seed_registry.doctor.database import check_database
from seed_registry.doctor.local import (
    Finding,
    check_disks,
    check_embedded,
    check_program,
    failed,
    place_of_rejects,
)
from seed_registry.embedded import server
from seed_registry.embedded.database import database
from seed_registry.errors import SeedRegistryError
from seed_registry.escape import printable
from seed_registry.postgres.database_url import choose_url
from seed_registry.settings import Settings

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red bold"}
# Longer than any finding: a fix must not be cut, it is a command to be copied.
_SHOWN_CHARACTERS = 4_000


@takes_settings(
    *("database_url", "columns", "pooler", "scheduler"),
    scheduler=Changed("Check this Dask cluster as well, like tcp://host:8786."),
)
def doctor(
    *,
    settings: Settings,
    output: Output = TABLE,
) -> None:
    """Find what keeps a load from working or makes it slow, each with its fix; exit 1 if something fails."""
    findings = [check_program(__version__)]
    places = {"temporary files": Path(tempfile.gettempdir())}
    try:
        places = {"rejects": place_of_rejects()} | places
        named = choose_url(settings.database_url)
        if named is None:
            findings.append(check_embedded())
            places = {"data directory": Path(server.status().data_directory)} | places
        if named is not None or server.exists():
            findings += anyio.run(_examine, settings)
        if settings.scheduler is not None:
            from seed_registry.doctor.cluster import check_cluster  # noqa: PLC0415  # others do without

            findings += anyio.run(check_cluster, settings)
    except SeedRegistryError as exc:
        findings.append(failed("embedded", exc))
    findings += check_disks(places)
    print_output({"findings": findings}, lambda: _print(findings), output=output)
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(1)


async def _examine(settings: Settings) -> list[Finding]:
    async with database(settings) as url:
        return await check_database(url, settings.columns, settings.schema, settings.pooler)


def _print(findings: list[Finding]) -> None:
    console = Console(file=sys.stdout, highlight=False)
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        line = Text(f"{finding.state:4}  ", _STYLES[finding.state]) + Text(f"{finding.name:{width}}  ")
        line.append(printable(finding.finding, _SHOWN_CHARACTERS))
        if finding.fix:
            line.append(f"  -> {printable(finding.fix, _SHOWN_CHARACTERS)}", "bold")
        console.print(line, soft_wrap=True)
