"""Recognise identifiers that are unique across portals.

Portals number their datasets ("1"), or name them ("population"), and so do others: such a key is unique in its portal
only. Identifiers that are unique everywhere are recognised by their form.
"""

from __future__ import annotations

import re
from typing import Final

_FORMS: Final = (
    # Socrata's ids, without the look-alikes 0, 1, l and o
    "[2-9a-km-np-z]{4}-[2-9a-km-np-z]{4}",
    # UUIDs (https://www.rfc-editor.org/rfc/rfc9562), in braces or not
    r"(?P<uuid>\{?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\}?",
    # ArcGIS' ids of items are UUIDs without dashes; that of an item's layer has a number behind
    "[0-9a-f]{32}(?:_[0-9]+)?)",
    # https://www.doi.org/the-identifier/resources/handbook/2_numbering
    r"(?:doi: ?)?10\.[0-9]{4,9}(?:\.[0-9]+)*/\S+",
    # https://www.rfc-editor.org/rfc/rfc8141
    r"urn:[a-z0-9][a-z0-9-]{0,30}[a-z0-9]:\S+",
)
_FORM: Final = re.compile("|".join(_FORMS))
_URL: Final = re.compile(r"https?://([^\s/?#]+)([/?#].*)", re.DOTALL)
_ADDRESS: Final = re.compile(r"\[.*|[0-9.]+")
# The nil UUID and the max UUID are placeholders.
_PLACEHOLDER: Final = re.compile(r"\{?(?:[0-]+|[f-]+)\}?(?:_[0-9]+)?")


def is_global(identifier: str) -> bool:
    """Whether an identifier is unique across portals: a Socrata id, UUID, DOI, URN or URL."""
    text = identifier.lower()
    if text.startswith("http"):
        return _is_dataset_url(text)
    form = _FORM.fullmatch(text)
    return form is not None and not (form["uuid"] and _PLACEHOLDER.fullmatch(text))


def _is_dataset_url(text: str) -> bool:
    """Whether it names more than a host, and that has a name of its own: not localhost, not a number."""
    url = _URL.fullmatch(text)
    if url is None or not url[2].strip("/?#"):
        return False
    host = url[1].rpartition("@")[2]
    name = host.partition(":")[0]
    return "." in name.strip(".") and not _ADDRESS.fullmatch(name)
