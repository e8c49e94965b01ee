"""Open the sinks of a load's events that the flags name: terminal, log file, metrics, page, collector."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TextIO

from seed_registry.cli.config.options import LogFormat
from seed_registry.cli.progress.fanout import ProgressFanout
from seed_registry.cli.render.messages import print_warning
from seed_registry.errors import SeedRegistryError, StorageFailed
from seed_registry.escape import printable
from seed_registry.events import EVENTS_OF_RESULT
from seed_registry.report import Progress, Silent

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
    """Open the sinks for the duration of the block.

    Raises:
        StorageFailed: the log, the metrics or the page cannot be written.
    """
    with ExitStack() as stack:
        members: list[Progress] = []
        if log_file is not None:
            file = stack.enter_context(_appended(log_file))
            members.append(_logged(file, as_json=True, verbose=verbose))
        if not quiet:
            display = partial(_display, verbose=verbose)
            members.append(stack.enter_context(_log_on_stderr(log_format, display, verbose=verbose)))
        closing = list(_closing_sinks(metrics_file, html))
        progress = ProgressFanout([*members, *closing])
        exit_code, error = 1, None
        try:
            yield progress
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
    """The sinks that few want, and whose libraries take their time to import."""
    if html is not None:  # first: if it is refused, no other sink has begun
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
def open_audit_sink(log_format: LogFormat, *, indexes: int, quiet: bool, verbose: bool) -> Iterator[Progress]:
    """Log an audit of this many indexes on stderr, unless it is to be quiet."""
    if quiet:
        yield Silent()
        return
    display = partial(_audit_display, indexes=indexes, verbose=verbose)
    with _log_on_stderr(log_format, display, verbose=verbose) as progress:
        yield progress


@contextmanager
def _log_on_stderr(log_format: LogFormat, display: Callable[[], LiveProgress], *, verbose: bool) -> Iterator[Progress]:
    """Draw `display` on a terminal, else log JSON lines, or plain lines if the format is console."""
    is_terminal = sys.stderr.isatty()
    if log_format is LogFormat.json or (log_format is LogFormat.auto and not is_terminal):
        yield _logged(sys.stderr, as_json=True, verbose=verbose)
    elif is_terminal and os.environ.get("TERM") != "dumb":
        with display().shown() as progress:
            yield progress
    else:
        yield _logged(sys.stderr, as_json=False, verbose=verbose, without=EVENTS_OF_RESULT)


def _display(*, verbose: bool) -> LiveProgress:
    from rich.console import Console  # noqa: PLC0415  # only a terminal is drawn on

    from seed_registry.cli.progress.live import LiveProgress  # noqa: PLC0415  # see above

    return LiveProgress(Console(stderr=True, highlight=False), verbose=verbose)


def _audit_display(*, verbose: bool, indexes: int) -> LiveProgress:
    from rich.console import Console  # noqa: PLC0415  # see above

    from seed_registry.cli.progress.live import AuditProgress  # noqa: PLC0415  # see above

    return AuditProgress(Console(stderr=True, highlight=False), verbose=verbose, indexes=indexes)


def _logged(file: TextIO, *, as_json: bool, verbose: bool, without: Collection[str] = ()) -> Progress:
    from seed_registry.cli.progress.logs import LogProgress, logger  # noqa: PLC0415  # structlog: a quiet load has no log

    return LogProgress(logger(file, as_json=as_json, verbose=verbose), without=without)


def _appended(path: str) -> TextIO:
    """Open the log file, readable by its owner only: it names files and keys."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StorageFailed(f"--log-file {printable(path, 500)} cannot be written: {exc.strerror}") from exc
    return os.fdopen(descriptor, "w", encoding="utf-8", buffering=1)
