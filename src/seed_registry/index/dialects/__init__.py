"""The dialects of index files, one module each; choose the one that fits an index.

To add one: a module with its wire Struct, its mapping and its detection (see `base.Dialect`), its place in `DIALECTS`
and its name in `settings.DialectName`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from seed_registry.errors import IndexNotUnderstood, SettingsInvalid
from seed_registry.escape import printable
from seed_registry.index.dialects.base import Dialect
from seed_registry.index.dialects.ckan import CKAN
from seed_registry.index.dialects.data_json import DATA_JSON
from seed_registry.index.dialects.directory import DIRECTORY
from seed_registry.index.dialects.discovery import DISCOVERY
from seed_registry.index.dialects.seed import SEED
from seed_registry.index.dialects.views import VIEWS
from seed_registry.index.json_envelope import Layout, Path
from seed_registry.index.shape import Shape
from seed_registry.settings import Settings

__all__ = ["ARRAYS", "DIALECTS", "Dialect", "choose", "layout_of", "looks_like_record", "require_domain"]

# Tried in this order, the most distinctive first. Some portals' packages have an `identifier`, too.
DIALECTS: Final = {dialect.name: dialect for dialect in (SEED, DISCOVERY, DIRECTORY, VIEWS, CKAN, DATA_JSON)}
# The keys that each knows a record by, and all the fields that it reads.
_READ: Final = [(dialect.keys, dialect.wire.__struct_encode_fields__) for dialect in DIALECTS.values()]
# Where documents of any dialect have their records.
ARRAYS: Final = frozenset(path for dialect in DIALECTS.values() for path in dialect.arrays if path)
# Enough to recognise a format by.
_KEYS_SHOWN: Final = 12


def choose(shape: Shape, settings: Settings, name: str) -> tuple[Dialect, Shape]:
    """The dialect that the settings name, or the one that fits the shape; and the shape, not `single` any more.

    Raises:
        IndexNotUnderstood: none fits; the message describes the shape and names the options.
    """
    known = [DIALECTS[settings.dialect]] if settings.dialect else list(DIALECTS.values())
    for ways in _ways(shape, settings):
        for dialect in known:
            for way in ways:
                if dialect.fits(way.looks_like) and (dialect.is_paged or not way.is_paged):
                    return dialect, way.shape
    if problem := _refusal(shape, known, name):
        raise IndexNotUnderstood(problem)
    if settings.dialect:
        return known[0], replace(shape, single=False)
    seen = shape if settings.records_at is None else next(_ways(shape, settings))[0].looks_like
    raise IndexNotUnderstood(
        f"{name} is {_described(seen)}\nname its dialect with --dialect {'|'.join(DIALECTS)}, "
        "or the path of its records with --records-at"
    )


def layout_of(dialect: Dialect, shape: Shape, settings: Settings) -> Layout:
    """The layout of a document of this dialect and shape."""
    if settings.records_at is not None:
        path, nested = _named_path(settings.records_at)
        return Layout({path: "asset"}, nested, is_sequence=dialect.is_paged)
    if shape.form == "one record":
        kind = "" if dialect.source else "asset"
        return Layout({(): kind}, singles=frozenset({()}), is_sequence=True)
    arrays, nested, is_in_array = dict(dialect.arrays), dict(dialect.nested), shape.form == "an array of documents"
    if is_in_array:
        arrays.pop((), None)
        nested[()] = ()
    singles = frozenset(dialect.singles(shape.page if is_in_array and shape.page else shape))
    return Layout(arrays, nested, singles, dialect.links, dialect.is_paged)


def require_domain(dialect: Dialect, settings: Settings, name: str) -> None:
    """Check that `--domain` is given where the dialect needs it, and not where it refuses it.

    Raises:
        IndexNotUnderstood: it is missing.
        SettingsInvalid: each record names its portal itself.
    """
    if dialect.needs_domain and not settings.domain:
        raise IndexNotUnderstood(
            f"{name}: records of the dialect {dialect.name} do not name their portal\n"
            "name it with --domain data.example.org"
        )
    if dialect.refuses_domain and settings.domain:
        raise SettingsInvalid(
            f"--domain cannot be used with {name}, an index of the dialect {dialect.name}: {dialect.refuses_domain}\n"
            "leave --domain out, and load indexes that need it by a command of their own"
        )


def looks_like_record(keys: Collection[str]) -> bool:
    """Whether an object with these keys is what some dialect reads: it has a key, and another field that is read."""
    return any(
        not dialect_keys.isdisjoint(keys) and sum(name in keys for name in fields) > 1 for dialect_keys, fields in _READ
    )


class _Way(Struct, frozen=True):
    """One way to read an index: the shape to compare with dialects, and the shape to read it by."""

    looks_like: Shape
    shape: Shape
    is_paged: bool = False


def _ways(shape: Shape, settings: Settings) -> Iterator[list[_Way]]:
    """The ways to take an index, the plainest first."""
    if settings.records_at is not None:
        document = replace((shape.lines and shape.page) or shape, lines=False, single=False)
        path, nested = _named_path(settings.records_at)
        elements: dict[Path, set[str]] = {} if nested else {(): document.arrays.get(path, set())}
        scalars: dict[Path, str] = {(): document.scalars[path]} if path in document.scalars else {}
        yield [_Way(Shape(lines=False, arrays=elements, scalars=scalars), document)]
        return
    whole, lines = replace(shape, single=False), replace(shape, lines=True, single=False)
    yield [_Way(whole, whole), _Way(lines, lines)] if shape.single else [_Way(whole, whole)]
    if shape.lines and shape.page is not None:
        yield [_Way(shape.page, replace(shape.page, form="documents, one a line"), is_paged=True)]
    elif shape.page is not None:
        yield [_Way(shape.page, replace(shape, form="an array of documents"), is_paged=True)]
    elif not shape.lines:
        yield [_Way(lines, replace(whole, form="one record"))]


def _named_path(records_at: str) -> tuple[Path, dict[Path, Path]]:
    """The path of `groups[].datasets`, and the arrays on the way to it."""
    path: Path = ()
    nested: dict[Path, Path] = {}
    for key in records_at.split("."):
        path = (*path, key.removesuffix("[]"))
        if key.endswith("[]"):
            nested[path] = path
    return path, nested


def _refusal(shape: Shape, known: Sequence[Dialect], name: str) -> str | None:
    """Describe a known kind of document without records, and where records are; None for others."""
    document = (shape.lines and shape.page) or shape
    if any(document.arrays.get(path) for dialect in known for path in dialect.arrays):
        return None
    if shape.words:
        return f"{name} is no index but an error of the portal's server\nit says: {shape.words}"
    if document.scalars.get(("result",)) == "string":
        return (
            f"{name} is a list of names, not of packages: the answer of CKAN's package_list\n"
            "package_search?rows=1000&start=0 and so on gives the packages, each call a page; load all pages together"
        )
    if document.scalars.get(()) == "string":
        return f"{name} is a list of texts, not of records\nfetch the records that they name"
    return None


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
