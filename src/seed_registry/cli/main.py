"""The entry point of `seed-registry`: parse the command line, run the command, print errors, exit."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from typing import Annotated, NoReturn

import typer

from seed_registry import __version__
from seed_registry.cli.argv_secrets import cover_secrets
from seed_registry.cli.command_list import LazyGroup
from seed_registry.cli.render.messages import print_error, print_warning
from seed_registry.errors import SeedRegistryError
from seed_registry.escape import printable

app = typer.Typer(
    help="Load open-data portal indexes into a Postgres registry.",
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # its tracebacks show local variables, passwords too
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    config: Annotated[
        str | None, typer.Option(metavar="FILE", envvar="SEED_REGISTRY_CONFIG", help="The file of settings to use.")
    ] = None,
) -> None:
    del version, config  # the callback printed the version; commands find the file themselves


def main() -> NoReturn:
    """Run the command line and exit."""
    atexit.register(gc.freeze)  # the system frees what is left, without a search for cycles: 30 ms after a load
    verbose = not {"-v", "--verbose"}.isdisjoint(sys.argv[1:])
    for warning in list(cover_secrets(sys.argv[1:])):
        if {"-q", "--quiet"}.isdisjoint(sys.argv[1:]):
            print_warning(warning)
    try:
        code = app(standalone_mode=False)
    except SeedRegistryError as exc:
        if verbose and exc.__cause__ is not None:
            sys.excepthook(type(exc), exc, exc.__traceback__)
        print_error(str(exc))
        code = exc.exit_code
    except typer.Abort:
        code = 1
    except BrokenPipeError:  # the reader of our output closed it
        code = 1
    except Exception as exc:
        if hasattr(exc, "exit_code"):  # click's own: usage errors
            exc.message = printable(getattr(exc, "message", "").removeprefix("Value error, "), 2_000)  # type: ignore[attr-defined]
            exc.show()  # type: ignore[attr-defined]
            code = exc.exit_code
        elif verbose:
            raise
        else:
            print_error(f"unexpected {type(exc).__name__}: a defect; please report it with the output of --verbose")
            code = 1
    _discard_closed_output()
    sys.exit(code or 0)


def _discard_closed_output() -> None:
    """Point a closed stdout or stderr to /dev/null, else the flush at exit fails and changes the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
