"""Headers from flags, variables and the file of settings, where each origin has a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from seed_registry.cli.config.file import ConfigurationFile
from seed_registry.errors import SettingsInvalid
from seed_registry.headers import Header

# Of the file: [headers."https://data.example.org"] with a key for each header.
TABLE: Final = "headers"


def by_line(option: Any, ctx: Any) -> list[str] | None:
    """The value of a variable that holds a header a line: there are spaces in them."""
    text = option.resolve_envvar_value(ctx)
    return None if text is None else [line for line in text.splitlines() if line.strip()]


def of_file(file: ConfigurationFile | None) -> dict[str, list[str]]:
    """The tables of origins, as texts that `Header.parse` takes, by origin.

    Raises:
        SettingsInvalid: naming the file and the table, without any value.
    """
    tables = file.tables.get(TABLE, {}) if file is not None else {}
    if file is None or not tables:
        return {}
    texts: dict[str, list[str]] = {}
    for origin, table in tables.items() if isinstance(tables, Mapping) else [("", None)]:
        place = file.at((TABLE, f'"{origin}"'))
        if not isinstance(table, Mapping) or not all(isinstance(value, str) for value in table.values()):
            example = f'[{TABLE}."https://data.example.org"]'
            raise SettingsInvalid(f"{file.at((TABLE,))}: it takes tables like {example}, of texts")
        try:
            for name, value in table.items():
                Header(name, value, origin)
        except SettingsInvalid as exc:
            raise SettingsInvalid(f"{place}: {str(exc).removeprefix('--header: ')}") from None
        texts[origin] = [f"{origin} {name}: {value}" for name, value in table.items()]
    return texts


def secrets_of(file: ConfigurationFile) -> Iterator[str]:
    """The headers of a file whose values may be secret."""
    texts = [text for table in of_file(file).values() for text in table]
    for text in [*texts, *_listed(file.tables)]:
        with suppress(SettingsInvalid):  # reported when it is used
            if Header.parse(text).may_be_secret:
                yield text


def covered(text: str) -> str:
    """Return a header without its value."""
    try:
        return str(Header.parse(text))
    except SettingsInvalid:
        return "***"


def _listed(tables: Mapping[str, Any]) -> Iterator[str]:
    """The values of `header` in all tables of commands."""
    for name, value in tables.items():
        if name == "header" and isinstance(value, list):
            yield from (text for text in value if isinstance(text, str))
        elif isinstance(value, Mapping) and name != TABLE:
            yield from _listed(value)
