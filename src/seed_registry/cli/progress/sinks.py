"""Following: who is told of a load, as the flags say: the terminal, a log file, metrics, a collector."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TextIO

from seed_registry.cli.config.options import LogFormat
from seed_registry.cli.progress.fanout import ProgressFanout
from seed_registry.cli.render.messages import print_warning
from seed_registry.errors import SeedRegistryError, StorageFailed
from seed_registry.escape import printable
from seed_registry.events import EVENTS_OF_RESULT
from seed_registry.report import Progress

if TYPE_CHECKING:
    from seed_registry.cli.progress.live import LiveProgress

# https://opentelemetry.io/docs/specs/otel/protocol/exporter/
_COLLECTORS: Final = (
    "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)  # fmt: skip


class ClosingSink(Progress, Protocol):
    """A `Progress` that writes something at the end of a load."""

    def ended(self, exit_code: int, error: str | None = None) -> None:
        """The load is over; `error` is why it failed."""


@contextmanager
def open_sinks(
    log_format: LogFormat,
    *,
    log_file: str | None = None,
    metrics_file: str | None = None,
    html: Path | None = None,
    quiet: bool = False,
    verbose: bool = False,
) -> Iterator[ProgressFanout]:
    """Everybody who wants to be told, until the block ends.

    Raises:
        StorageFailed: the log, the metrics or the page cannot be written.
    """
    with ExitStack() as stack:
        members: list[Progress] = []
        if log_file is not None:
            file = stack.enter_context(_appended(log_file))
            members.append(_logged(file, as_json=True, verbose=verbose))
        if not quiet:
            told = log_on_stderr(log_format, lambda: _live(verbose=verbose), verbose=verbose)
            members.append(stack.enter_context(told))
        closing = list(_closing_sinks(metrics_file, html))
        audience = ProgressFanout([*members, *closing])
        exit_code, error = 1, None
        try:
            yield audience
            exit_code = 0
        except SeedRegistryError as exc:
            exit_code, error = exc.exit_code, str(exc)
            raise
        finally:
            for sink in closing:
                try:
                    sink.ended(exit_code, error)
                except StorageFailed as exc:  # no reason to call a load failed
                    print_warning(str(exc))


def _closing_sinks(metrics_file: str | None, html: Path | None) -> Iterator[ClosingSink]:
    """Those that few want, and whose libraries take their time to import."""
    if html is not None:  # first: should it be refused, nobody else has begun
        from seed_registry.html.load_page import ReportPage  # noqa: PLC0415

        yield ReportPage(html)
    if metrics_file is not None:
        from seed_registry.cli.progress.metrics import TextfileMetrics  # noqa: PLC0415

        yield TextfileMetrics(metrics_file)
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true" and any(map(os.environ.get, _COLLECTORS)):
        try:
            from seed_registry.cli.progress.otel import Tracing  # noqa: PLC0415
        except ModuleNotFoundError:
            print_warning(
                "the environment names an OpenTelemetry collector: pip install 'seed-registry[otel]' to use it"
            )
        else:
            yield Tracing()


@contextmanager
def log_on_stderr(log_format: LogFormat, live: Callable[[], LiveProgress], *, verbose: bool) -> Iterator[Progress]:
    """The display that `live` makes on a terminal, JSON lines elsewhere, plain lines where they are asked for."""
    is_terminal = sys.stderr.isatty()
    if log_format is LogFormat.json or (log_format is LogFormat.auto and not is_terminal):
        yield _logged(sys.stderr, as_json=True, verbose=verbose)
    elif is_terminal and os.environ.get("TERM") != "dumb":
        with live().shown() as display:
            yield display
    else:
        yield _logged(sys.stderr, as_json=False, verbose=verbose, without=EVENTS_OF_RESULT)


def _live(*, verbose: bool) -> LiveProgress:
    from rich.console import Console  # noqa: PLC0415  # only a terminal is drawn on

    from seed_registry.cli.progress.live import LiveProgress  # noqa: PLC0415  # see above

    return LiveProgress(Console(stderr=True, highlight=False), verbose=verbose)


def _logged(file: TextIO, *, as_json: bool, verbose: bool, without: Collection[str] = ()) -> Progress:
    from seed_registry.cli.progress.logs import LogProgress, logger  # noqa: PLC0415  # structlog: a quiet load has no log

    return LogProgress(logger(file, as_json=as_json, verbose=verbose), without=without)


def _appended(path: str) -> TextIO:
    """The log file, for its owner's eyes only: it names files and keys."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StorageFailed(f"--log-file {printable(path, 500)} cannot be written: {exc.strerror}") from exc
    return os.fdopen(descriptor, "w", encoding="utf-8", buffering=1)
