"""Read a text from a field whose value is none: a number, a text in several languages, one in a list.

Portals write languages as an object, `{"de": "Wald", "fr": "Forêt"}` (https://github.com/ckan/ckanext-fluent), as such
an object in a string, or as JSON-LD does, `{"@value": "Wald", "@language": "de"}` (https://www.w3.org/TR/json-ld11/).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import msgspec

from seed_registry.index.literal_numbers import LiteralNumber

# Preferred if no language is requested, or the requested one is missing.
DEFAULT_LANGUAGE: Final = "en"
# A language's code of ISO 639-1, with what BCP 47 lets follow (https://www.rfc-editor.org/rfc/rfc5646); codes of three
# letters are not distinguished from names like "url" and "key".
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2}(?:[-_][A-Za-z0-9]{1,8})*")
_UNTAGGED: Final = {"", "@none", "und", "default", "x-default"}
_VALUES: Final = ("@value", "value", "#text", "text")
_TAGS: Final = ("@language", "language", "xml:lang", "lang")
_ABOUT: Final = {*_TAGS, "@type", "type"}
# Where objects that stand for a document have its address: JSON-LD, DCAT-US 3's Document, Socrata's url columns.
_ADDRESSES: Final = ("@id", "accessURL", "downloadURL", "url", "href", "@value")

# What ArcGIS Hub leaves of a variable of its feed's template that an item has no value for: "{{orgContactEmail}}".
_TEMPLATE: Final = re.compile(r"\s*\{\{[^{}]*\}\}\s*")

_decode_languages = msgspec.json.Decoder(dict[str, str | None]).decode


def text_of(value: Any, languages: str = "") -> str | None:
    """The text that a value holds: of several the one in the first of these languages, in English, or else the first.

    Args:
        value: decoded JSON, with numbers as they are written.
        languages: tags of BCP 47 like "en" or "de-CH,fr"; a text of the same language without or with another region
            is the next best.

    Returns:
        None where there is no text in it.
    """
    if type(value) is str and value[:1] != "{":
        return value
    texts = list(_texts_in(value))
    for wanted in _wanted(languages):
        for tag, text in texts:
            if wanted.fullmatch(tag):
                return text
    return texts[0][1] if texts else None


def is_template(text: str) -> bool:
    """Whether a text is only a variable of a template that was not filled."""
    return text[:1] in "{ " and _TEMPLATE.fullmatch(text) is not None


def filled(value: Any) -> Any:
    """The value; or for an unfilled template an object, which is counted as a value that is no text."""
    return {"template": value} if type(value) is str and is_template(value) else value


def url_of(value: Any) -> str | None:
    """The URL that a value is, or that an object or a list holds."""
    if type(value) is str:
        return value
    if type(value) is list:
        return next((url for one in value if has_text(url := url_of(one))), None)
    if type(value) is dict:
        found = [url for name in _ADDRESSES if type(url := value.get(name)) is str and has_text(url)]
        return next((url for url in found if url.startswith(("https://", "http://"))), found[0] if found else None)
    return None


def has_text(value: Any) -> bool:
    """Whether a value has any content, be it a text or not."""
    if type(value) is str:
        return bool(value) and not value.isspace()
    if type(value) is dict:
        return any(has_text(inner) for name, inner in value.items() if name not in _ABOUT)
    if type(value) is list:
        return any(has_text(inner) for inner in value)
    return value is not None


def same_languages(languages: str | None) -> str:
    """Normalise language tags, for hashes and comparisons; empty for the default."""
    tags = [tag.strip().lower().replace("_", "-") for tag in (languages or "").split(",")]
    tags = list(dict.fromkeys(tag for tag in tags if tag))
    if tags[-1:] == [DEFAULT_LANGUAGE]:  # it is tried last anyway
        tags.pop()
    return ",".join(tags)


@lru_cache(maxsize=16)
def _wanted(languages: str) -> tuple[re.Pattern[str], ...]:
    """The tags to try, the best first (https://www.rfc-editor.org/rfc/rfc4647#section-3.4)."""
    wanted: list[str] = []
    for tag in dict.fromkeys([*filter(None, same_languages(languages).split(",")), DEFAULT_LANGUAGE]):
        parts = tag.split("-")
        wanted += [re.escape("-".join(parts[:length])) for length in range(len(parts), 0, -1)]
        wanted.append(re.escape(parts[0]) + "-.+")
    return tuple(map(re.compile, wanted))


def _texts_in(value: Any, tag: str = "") -> Iterator[tuple[str, str]]:
    """The texts in a value that are not empty, each with its language's tag."""
    if type(value) is str:
        if languages := _languages_in(value):
            yield from _texts_in(languages)
        elif value.strip():
            yield tag, value
    elif isinstance(value, LiteralNumber):
        yield tag, value.text
    elif type(value) in (int, float):
        yield tag, str(value)
    elif type(value) is list:
        for one in value:
            yield from _texts_in(one, tag)
    elif type(value) is dict:
        yield from _texts_of_object(value, tag)


def _texts_of_object(value: dict[str, Any], tag: str) -> Iterator[tuple[str, str]]:
    if inner := [value[name] for name in _VALUES if name in value]:
        tags = [value[name] for name in _TAGS if type(value.get(name)) is str]
        yield from _texts_in(inner[0], _tagged(tags[0]) if tags else tag)
    elif all(_LANGUAGE.fullmatch(name) or name in _UNTAGGED for name in value):
        for name, text in value.items():
            yield from _texts_in(text, _tagged(name))


def _languages_in(text: str) -> dict[str, str | None]:
    """The object by language that a text is as JSON; empty where it is only a text."""
    if text[:1] != "{":
        return {}
    try:
        languages = _decode_languages(text)
    except (ValueError, RecursionError):
        return {}
    return languages if all(_LANGUAGE.fullmatch(name) for name in languages) else {}


def _tagged(name: str) -> str:
    return "" if name in _UNTAGGED else name.lower().replace("_", "-")
