"""Choose the dialect that fits an index, and say what speaks for each and against it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from seed_registry.errors import IndexNotUnderstood, SettingsInvalid
from seed_registry.escape import printable
from seed_registry.index.dialects import DIALECTS, Dialect
from seed_registry.index.json_envelope import Layout, Path
from seed_registry.index.other_formats import kind_of_document
from seed_registry.index.shape import Shape
from seed_registry.settings import Settings
from seed_registry.words import listed

# Enough to recognise a format by.
_KEYS_SHOWN: Final = 12


class Evidence(Struct, frozen=True):
    """What speaks for a dialect and against it.

    Attributes:
        fits: whether the index can be one of this dialect.
        found: the typical fields that its records have.
        missing: the typical fields that they lack.
    """

    dialect: str
    fits: bool
    found: list[str]
    missing: list[str]


def choose(shape: Shape, settings: Settings, name: str) -> tuple[Dialect, Shape]:
    """The dialect that the settings name, or the one that fits the shape; and the shape, not `single` any more.

    Raises:
        IndexNotUnderstood: none fits; the message describes the shape and names the options.
    """
    known = [DIALECTS[settings.dialect]] if settings.dialect else list(DIALECTS.values())
    if found := _fitting(known, shape, settings):
        return _best(found, name)
    if settings.dialect and (found := _with_records(_fitting(list(DIALECTS.values()), shape, settings))):
        raise _another(known[0], found, name)
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
    """The layout of a document of this dialect and shape; it has no arrays where the records are lines."""
    if shape.lines:
        return Layout({})
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
    document = shape.page if is_in_array and shape.page else shape
    singles = frozenset(dialect.singles(document))
    if dialect.graph is not None:
        found = {
            path for path in dialect.graph.paths if path in document.arrays or path in {*document.objects} & singles
        }
        if found:  # all its records are nodes of it
            arrays, nested = {path: arrays[path] for path in found if path in arrays}, {(): ()} if is_in_array else {}
        else:
            arrays = {path: kind for path, kind in arrays.items() if path not in dialect.graph.paths}
        singles = frozenset(path for path in singles if path in arrays)
    return Layout(arrays, nested, singles, dialect.links, dialect.is_paged, dialect.kept)


def is_graph(dialect: Dialect, layout: Layout) -> bool:
    """Whether the records in a document of this layout are some of the nodes of a graph."""
    is_record = () in layout.singles
    return dialect.graph is not None and not is_record and not dialect.graph.paths.isdisjoint(layout.arrays)


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


def weigh(shape: Shape) -> list[Evidence]:
    """What speaks for each dialect and against it, the best first."""
    evidence = []
    places = [set(shape.keys), *shape.objects.values(), *shape.arrays.values()]
    for dialect in DIALECTS.values():
        fits = dialect.fits(shape)
        # Of a dialect that does not fit, the fields count wherever they are.
        found = _typical(dialect, shape) if fits else max(({*dialect.typical} & keys for keys in places), key=len)
        evidence.append(Evidence(dialect.name, fits, sorted(found), sorted(dialect.typical - found)))
    return sorted(evidence, key=lambda one: (not one.fits, -len(one.found)))


class _Way(Struct, frozen=True):
    """One way to read an index: the shape to compare with dialects, and the shape to read it by."""

    looks_like: Shape
    shape: Shape
    is_paged: bool = False


def _fitting(known: Sequence[Dialect], shape: Shape, settings: Settings) -> list[tuple[Dialect, _Way]]:
    """The dialects that fit an index taken in the plainest way that fits any."""
    for ways in _ways(shape, settings):
        if found := [(dialect, way) for dialect in known if (way := _way_of(dialect, ways)) is not None]:
            return found
    return []


def _way_of(dialect: Dialect, ways: Sequence[_Way]) -> _Way | None:
    """The first way in which an index can be one of this dialect."""
    return next((way for way in ways if dialect.fits(way.looks_like) and (dialect.is_paged or not way.is_paged)), None)


def _with_records(found: Sequence[tuple[Dialect, _Way]]) -> list[tuple[Dialect, _Way]]:
    """Those that are known by their records, not by an envelope without any."""
    return [(dialect, way) for dialect, way in found if _typical(dialect, way.looks_like)]


def _another(named: Dialect, found: Sequence[tuple[Dialect, _Way]], name: str) -> IndexNotUnderstood:
    names = " or ".join(dialect.name for dialect, _ in found)
    fields = _listed(set().union(*(_typical(dialect, way.looks_like) for dialect, way in found)))
    return IndexNotUnderstood(
        f"{name} is an index of the dialect {names}, not of {named.name}: its records have {fields}\n"
        "leave --dialect out"
    )


def _best(fitting: Sequence[tuple[Dialect, _Way]], name: str) -> tuple[Dialect, Shape]:
    """The dialect with the most of its typical fields in the records; without records the first."""
    found = [(len(_typical(dialect, way.looks_like)), dialect, way) for dialect, way in fitting]
    most = max(count for count, *_ in found)
    best = [(dialect, way) for count, dialect, way in found if count == most]
    if most and len(best) > 1:
        names = " or ".join(dialect.name for dialect, _ in best)
        raise IndexNotUnderstood(
            f"{name} may be an index of the dialect {names}: its records fit both\n"
            "say which with --dialect; `seed-registry explain` with either shows the rows that it makes"
        )
    return best[0][0], best[0][1].shape


def _typical(dialect: Dialect, shape: Shape) -> set[str]:
    """The typical fields of a dialect that the records of a shape have, in the array that has most of them."""
    if shape.lines:
        places = [set(shape.keys)]
    else:
        places = [keys for path, keys in shape.arrays.items() if path in dialect.arrays]
        places += [set(shape.keys) if not path else shape.objects.get(path, set()) for path in dialect.singles(shape)]
    return max(({*dialect.typical} & keys for keys in places), key=len, default=set())


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
    if other := kind_of_document(document):
        return f"{name} is {other[0]}\n{other[1]}"
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
    return printable(listed(names, _KEYS_SHOWN)) if names else "no keys"
