"""Dialects: the shapes of index files that are known, one module each.

To add one: a module with its wire Struct, its mapping and its detection (`declaring.Dialect` says what is what), its
place in `DIALECTS` and its name in `settings.DialectName`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from seed_registry.errors import IndexNotUnderstood, SettingsInvalid
from seed_registry.escaping import printable
from seed_registry.index.detecting import Shape
from seed_registry.index.dialects.ckan import CKAN
from seed_registry.index.dialects.data_json import DATA_JSON
from seed_registry.index.dialects.declaring import Dialect
from seed_registry.index.dialects.directory import DIRECTORY
from seed_registry.index.dialects.discovery import DISCOVERY
from seed_registry.index.dialects.seed import SEED
from seed_registry.index.dialects.views import VIEWS
from seed_registry.settings import Settings

# Asked in this order: what tells itself most surely comes first. Some portals' packages have an `identifier`, too.
DIALECTS: Final = {dialect.name: dialect for dialect in (SEED, DISCOVERY, DIRECTORY, VIEWS, CKAN, DATA_JSON)}
# Enough to recognise a format by.
_KEYS_SHOWN: Final = 12


def choose(shape: Shape, settings: Settings, name: str) -> tuple[Dialect, Shape]:
    """The dialect that the settings name, or the one that fits the shape; and the shape, not `single` any more.

    Raises:
        IndexNotUnderstood: none fits; the message names what was seen and how to point it.
    """
    if settings.records_at is not None:
        elements = shape.arrays.get(tuple(settings.records_at.split(".")), set())
        shape = Shape(lines=False, arrays={(): elements})
    known = [DIALECTS[settings.dialect]] if settings.dialect else list(DIALECTS.values())
    ways = [shape, replace(shape, lines=True)] if shape.single else [shape]
    for dialect in known:
        for way in ways:
            if dialect.fits(way):
                return dialect, way
    if settings.dialect:
        return known[0], shape
    raise IndexNotUnderstood(
        f"{name} is {_described(shape)}\nname its dialect with --dialect {'|'.join(DIALECTS)}, "
        "or the path of its records with --records-at"
    )


def see_that_domain_fits(dialect: Dialect, settings: Settings, name: str) -> None:
    """See that `--domain` is there where it is needed, and only where it can be meant.

    Raises:
        IndexNotUnderstood: nothing else tells the portal.
        SettingsInvalid: the index says of every record whose it is.
    """
    if dialect.needs_domain and not settings.domain:
        raise IndexNotUnderstood(
            f"{name}: records of the dialect {dialect.name} do not tell their portal\n"
            "name it with --domain data.example.org"
        )
    if dialect.refuses_domain and settings.domain:
        raise SettingsInvalid(
            f"--domain cannot be used with {name}, an index of the dialect {dialect.name}: {dialect.refuses_domain}\n"
            "leave --domain out, and load indexes that need it by a command of their own"
        )


def _described(shape: Shape) -> str:
    seen = _listed(shape.keys)
    if shape.lines:
        return f"NDJSON of a shape that no dialect knows; its first record has {seen}"
    arrays = "; ".join(
        f"{'.'.join(path) or 'the array'} of {_listed(keys)}" for path, keys in shape.arrays.items() if keys
    )
    return f"a document of a shape that no dialect knows; it has {seen}; {printable(arrays or 'no array of objects')}"


def _listed(keys: Iterable[str]) -> str:
    names = sorted(keys)
    more = f" and {len(names) - _KEYS_SHOWN} more" if len(names) > _KEYS_SHOWN else ""
    return printable(", ".join(names[:_KEYS_SHOWN]) + more) if names else "no keys"
