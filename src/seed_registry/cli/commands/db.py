"""`seed-registry db`: start, stop, inspect and reset the embedded server."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Annotated

import typer

from seed_registry.cli.config.options import TABLE, Output
from seed_registry.cli.render.output import print_output
from seed_registry.embedded import server
from seed_registry.errors import EmbeddedServerFailed
from seed_registry.postgres.libpq import VARIABLES
from seed_registry.words import size

app = typer.Typer(help="The embedded Postgres server: the database when none is named.", no_args_is_help=True)


@app.command()
def start() -> None:
    """Start the server and leave it running; prints its URL."""
    typer.echo(server.start_and_keep())


@app.command()
def stop() -> None:
    """Stop the server."""
    typer.echo("stopped" if server.stop() else "it was not running")


@app.command()
def status(*, output: Output = TABLE) -> None:
    """Show whether the server runs, where, and how large its database is."""
    found = server.status()
    print_output(found, lambda: _print(found), output=output)


def _print(found: server.Status) -> None:
    state = "not running"
    if found.running:
        state = f"running as process {found.pid}, " + ("until db stop" if found.kept else "until its last user ends")
    typer.echo(f"Postgres {found.version}  {state}")
    typer.echo(f"data         {found.data_directory.encode('unicode_escape').decode()}")
    typer.echo(f"size         {size(found.size_bytes)}")
    if found.url:
        typer.echo(f"url          {found.url}")


@app.command()
def url() -> None:
    """Print the URL of the running server, for other programs."""
    found = server.status().url
    if found is None:
        raise EmbeddedServerFailed("the embedded server is not running; start it with `seed-registry db start`")
    typer.echo(found)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def psql(context: typer.Context) -> None:
    """Open psql on the database, started if need be; what follows is passed on (psql -c 'select 1')."""
    program = server.psql_path()
    with server.running() as database:
        signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for psql: it cancels the query, we wait
        # libpq's variables may name another database, or options that this server lacks.
        environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        done = subprocess.run([program, database, *context.args], env=environment, check=False)  # noqa: S603  # the user's own arguments
    raise typer.Exit(done.returncode)


@app.command()
def reset(*, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Stop the server and delete its database."""
    if not yes:
        typer.confirm("Delete the embedded database with everything in it?", abort=True)
    server.reset()
    typer.echo("deleted")
