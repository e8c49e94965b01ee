from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seed_registry.escape import SHOWN_CHARACTERS, printable

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine fails no test
PAYLOADS = {
    "colour": "\x1b[31mred\x1b[0m",
    "clear the screen": "\x1b[2J\x1b[H",
    "window title": "\x1b]0;owned\x07",
    "hyperlink": "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;ZWNobw==\x07",
    "device status": "\x1b[6n",
    "device control": "\x1bP$q\x1b\\",
    "one-byte CSI": "\x9b31m",
    "one-byte OSC": "\x9d0;owned\x9c",
    "bell": "\x07",
    "backspaces": "safe\x08\x08\x08\x08evil",
    "carriage return": "real line\rfake line",
    "line feed": "entry\n2024-01-01 ERROR forged",
    "tab and vertical tab": "a\tb\vc\fd",
    "nul and delete": "a\0b\x7fc",
    "right-to-left override": "exe.\u202egpj",
    "isolates": "\u2066\u2067\u2068x\u2069",
    "zero width": "a\u200bb\u200cc\u200dd\ufeff",
    "line separators": "a\u2028b\u2029c\x85d",
    "tag characters": "a\U000e0041\U000e007f",
    "lone surrogates": "a\ud800b\udcff",
    "private use and unassigned": "\ue000\U0010ffff\u0378",
    "shift out": "\x0e\x0f",
    "soft hyphen and odd spaces": "a\u00adb\u00a0c\u3000d",
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_what_could_move_hide_or_forge_is_escaped(payload: str) -> None:
    shown = printable(payload)
    assert shown.isprintable()
    assert not any(char in shown for char in payload if not char.isprintable())
    assert "\\" in shown


@pytest.mark.parametrize("text", ["", "plain text", "Zürich, 東京 😀", "a\\b", "$(rm -rf /)", "שלום", "[bold]x[/bold]"])
def test_visible_text_is_left_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\x1b", r"\x1b"), ("\n", r"\n"), ("\u202e", r"\u202e"), ("\ud800", r"\ud800"), ("\U000e0041", r"\U000e0041")],
)
def test_escapes_read_as_in_python(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_long_text_is_cut_and_says_so() -> None:
    assert printable("x" * SHOWN_CHARACTERS) == "x" * SHOWN_CHARACTERS
    assert printable("x" * (SHOWN_CHARACTERS + 1)) == "x" * SHOWN_CHARACTERS + "…"
    assert printable("abcdef", 3) == "abc…"
    assert len(printable("\n" * 10_000)) == 2 * SHOWN_CHARACTERS + 1


def test_what_is_no_text_is_shown_as_one() -> None:
    assert printable(7) == "7"
    assert printable(ValueError("bad\nthing")) == r"bad\nthing"


@given(st.text(st.characters(), max_size=30))
@untimed
def test_whatever_comes_out_is_printable_and_encodable(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()
    assert (shown == text) == text.isprintable()
