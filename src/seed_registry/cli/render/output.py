"""The formats of results on stdout: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import msgspec


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
