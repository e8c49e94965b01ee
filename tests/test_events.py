"""The table of events: every event of the source is in it, with its fields, and described in docs/events.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import seed_registry
from seed_registry.events import EVENTS, EVENTS_OF_DISPLAY, EVENTS_OF_RECORDS, EVENTS_OF_RESULT, EVENTS_OF_TRACE

SOURCE = Path(seed_registry.__file__).parent
PAGE = Path(__file__).parents[1] / "docs/events.md"


def told() -> Iterator[tuple[str, set[str]]]:
    """The events of `tell` calls with a literal name, and the fields that such a call names."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "tell" and len(node.args) == 2:
                event = node.args[1]
                if isinstance(event, ast.Constant):
                    yield str(event.value), {keyword.arg for keyword in node.keywords if keyword.arg}


@pytest.mark.parametrize(("event", "fields"), sorted((event, tuple(sorted(fields))) for event, fields in told()))
def test_an_event_and_its_fields_are_in_the_table(event: str, fields: tuple[str, ...]) -> None:
    assert set(fields) <= set(EVENTS[event].split())


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_is_described(event: str) -> None:
    assert f"`{event}`" in PAGE.read_text("utf-8")


def test_the_events_of_a_sink_are_in_the_table() -> None:
    assert EVENTS.keys() >= EVENTS_OF_DISPLAY | EVENTS_OF_RECORDS | EVENTS_OF_RESULT | EVENTS_OF_TRACE
