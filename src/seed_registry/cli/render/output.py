"""The formats of results on stdout: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from seed_registry.errors import OutputClosed


def write_out(data: bytes) -> None:
    """Write to stdout, also while a session with a database is open, which takes other errors for its own.

    Raises:
        OutputClosed: its reader has closed it.
    """
    try:
        sys.stdout.buffer.write(data)
    except BrokenPipeError:
        raise OutputClosed from None


def print_output(result: Any, draw: Callable[[], None], *, output: bool) -> None:
    """Print a result as one JSON object if `output` says so, else as `draw` prints it for people.

    The JSON is in ASCII: keys and messages of an index may hold characters that control a terminal.
    """
    if not output:
        draw()
        return
    text = json.dumps(msgspec.to_builtins(result), separators=(",", ":"))
    sys.stdout.buffer.write(text.encode() + b"\n")
    sys.stdout.buffer.flush()
