"""Answers of portals' servers that are no index: errors, lists of names, pages for people.

The text of a server is escaped here, before it gets into a message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from seed_registry.escape import printable

# Where servers put the words of an error, the plainest first: CKAN, Socrata and ArcGIS `message`, RFC 9457 `detail` and
# `title`, others `error_description` or just `error`.
_WORDS: Final = ("message", "error_message", "error_description", "detail", "title", "error", "reason", "name")
# A document that has one of these beside its words is an error; `success` has to be false.
_SIGNS: Final = ("error", "errors", "code", "errorCode", "status", "statusCode", "success")

HTML: Final = "an HTML page"


def portal_error_text(document: Mapping[str, Any]) -> str | None:
    """The message of a server in a document that is only an error, escaped; None for other documents.

    CKAN answers `{"success": false, "error": {"message": …, "__type": …}}`, Socrata `{"error": true, "message": …}` or
    `{"code": …, "message": …}`, ArcGIS `{"error": {"code": …, "message": …}}`.
    """
    has_sign = any(document.get(sign) not in (None, []) for sign in _SIGNS) or set(document) <= {"message", "detail"}
    if document.get("success") is True or not has_sign:
        return None
    for part in (document.get("error"), document.get("errors"), document):
        found = _words_in(part[0] if isinstance(part, list) and part else part)
        if found:
            return printable(found)
    return _fields_in(document.get("error")) if document.get("success") is False else None


def _words_in(part: Any) -> str | None:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        return None
    words = next((part[key] for key in _WORDS if isinstance(part.get(key), str) and part[key]), None)
    kind = part.get("__type")
    return f"{kind}: {words}" if words and isinstance(kind, str) else words


def _fields_in(error: Any) -> str:
    """CKAN's validation errors name fields: {"name_or_id": ["Missing value"], "__type": "Validation Error"}."""
    if not isinstance(error, Mapping):
        return "success: false"
    facts = [
        f"{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}" for key, value in error.items()
    ]
    return printable("; ".join(facts) or "success: false")


def page_for_people(text: bytes) -> str | None:
    """The kind of a file of mark-up, from its beginning; None for others."""
    beginning = text[:200].lstrip().lower()
    if beginning.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<title", b"<script")):
        return HTML
    if beginning.startswith(b"<?xml"):
        return HTML if b"<html" in text[:2_000].lower() else "an XML document"
    return "a page of mark-up" if beginning.startswith((b"<!--", b"<")) else None
