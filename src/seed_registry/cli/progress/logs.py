"""Log the events of a load as lines: JSON for machines, plain text for people without a terminal."""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import suppress
from time import monotonic
from typing import Any, Final, TextIO

import structlog

from seed_registry.escape import printable
from seed_registry.report import Tally

# Often enough to show progress, seldom enough for the log of a ten-hour load.
_PROGRESS_SECONDS: Final = 5.0
# Room for a path or a reason.
_SHOWN_CHARACTERS: Final = 500


def logger(file: TextIO, *, as_json: bool, verbose: bool) -> structlog.typing.FilteringBoundLogger:
    """A logger to a file; debug events only if `verbose`. All texts are escaped."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=False, pad_event_to=24, sort_keys=False)
    )
    wrapped: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(file),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _escape,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.INFO),
    )
    return wrapped


class LogProgress:
    """The `Progress` that logs events, and a line on the progress every few seconds."""

    def __init__(self, log: structlog.typing.FilteringBoundLogger, *, without: Collection[str] = ()) -> None:
        """`without` are events that are not logged."""
        self._log = log
        self._without = without
        self._tally = Tally()
        self._started = self._logged = monotonic()

    def began(self, tally: Tally) -> None:
        """The load begins."""
        self._tally = tally
        self._started = self._logged = monotonic()

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Log an event; a closed pipe does not stop the load."""
        with suppress(OSError):
            self._log_event(level, event, fields)

    def _log_event(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if event not in self._without:
            self._log.log(getattr(logging, level.upper()), event, **fields)
        now = monotonic()
        if now - self._logged >= _PROGRESS_SECONDS:
            self._logged = now
            tally = self._tally
            self._log.info(
                "progress",
                index=tally.index,
                **({"step": tally.step} if tally.step else {}),
                position=tally.index_position,
                bytes=tally.index_bytes,
                read=tally.read,
                inserted=tally.assets.inserted,
                updated=tally.assets.updated,
                unchanged=tally.assets.unchanged,
                rejected=tally.rejected,
                records_per_second=round(tally.read / (now - self._started), 1),
            )


def _escape(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {key: _escaped(value) for key, value in event.items()}


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value, _SHOWN_CHARACTERS)
    if isinstance(value, dict):
        return {printable(key): _escaped(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_escaped(item) for item in value]
    return value
