"""The frame of every page: one HTML file without script that needs no other file.

Texts from outside (names of indexes, messages, settings) are escaped. Should that ever fail, the page's
Content-Security-Policy lets nothing run and nothing be fetched.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Final

from seed_registry.escape import printable
from seed_registry.report import Stages

STAGE_WORDS: Final = {
    "reading": "reading the index",
    "decoding": "framing, decoding, routing",
    "sending": "waiting for a worker",
    "waiting": "waiting for a batch",
    "filtering": "asking what is there already",
    "copying": "COPY",
    "merging": "INSERT or upsert",
    "committing": "COMMIT",
}
# Longer texts are cut: a page is to be read.
_SHOWN_CHARACTERS: Final = 1_000


def document(title: str, body: Iterable[str], *sheets: str) -> str:
    """A whole page.

    Args:
        title: plain text.
        body: markup.
        sheets: names of style sheets of this package, beside the common one.
    """
    style = "\n" + "".join(_sheet(name) for name in ("page.css", *sheets))
    digest = b64encode(sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{html_text(title)}</title><style>{style}</style></head><body>",
    ]
    return "\n".join([*head, *body, "</body></html>"]) + "\n"


def html_text(value: object) -> str:
    """Escape a text from outside for any place of a page: no markup, no invisible characters."""
    return escape(printable(value, _SHOWN_CHARACTERS))


def swatch(name: str, words: str) -> str:
    """An entry of a legend: the colour of a class of the style sheet, and what it stands for."""
    square = f'<svg width="12" height="12"><rect class="{name}" width="12" height="12"/></svg>'
    return f"<span>{square}{html_text(words)}</span>"


def stage_legend() -> str:
    """The colours of `stage_bars`."""
    worked = (*Stages.PRODUCER[:2], *Stages.WORKER[1:])
    swatches = [*(swatch(name, STAGE_WORDS[name]) for name in worked), swatch("waiting", "waiting")]
    return f'<p class="legend">{"".join(swatches)}</p>'


def stage_bars(stages: Stages, workers: int, seconds: float, label: str, readers: int = 1) -> str:
    """How a reader, above, and a worker on average, below, spent the `seconds` of a load."""
    parts = [
        f'<svg viewBox="0 0 1000 24" preserveAspectRatio="none" role="img" aria-label="stages of {html_text(label)}">'
    ]
    for y, names, sharers in ((0, Stages.PRODUCER, readers), (13, Stages.WORKER, workers)):
        x = 0.0
        for name in names:
            share = getattr(stages, name) / sharers / seconds
            width = min(share * 1000, 1000 - x)
            title = f"<title>{html_text(STAGE_WORDS[name])}: {share:.0%}</title>"
            parts.append(f'<rect class="{name}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="11">{title}</rect>')
            x += width
    return "".join([*parts, "</svg>"])


def _sheet(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")
