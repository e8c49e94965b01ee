"""The nodes of DCAT in JSON-LD: their names in all spellings, the values of their fields, and how they are joined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec import Struct, defstruct

from seed_registry.index.dialects.base import first
from seed_registry.index.text_fields import has_text

DCAT: Final = ("dcat:", "http://www.w3.org/ns/dcat#")
DCT: Final = ("dct:", "dcterms:", "http://purl.org/dc/terms/")
ADMS: Final = ("adms:", "http://www.w3.org/ns/adms#")
SKOS: Final = ("skos:", "http://www.w3.org/2004/02/skos/core#")
FOAF: Final = ("foaf:", "http://xmlns.com/foaf/0.1/")
HYDRA: Final = ("hydra:", "http://www.w3.org/ns/hydra/core#")
RDF: Final = ("rdf:", "http://www.w3.org/1999/02/22-rdf-syntax-ns#")
PLAIN: Final = ("",)  # as a context may name it


def spelled(name: str, *namespaces: tuple[str, ...]) -> tuple[str, ...]:
    """A name in each of these namespaces, with each of their prefixes."""
    return tuple(prefix + name for namespace in namespaces for prefix in namespace)


SPELLINGS: Final = {
    "identifier": spelled("identifier", DCT, PLAIN),
    "other_identifier": spelled("identifier", ADMS),
    "title": spelled("title", DCT, PLAIN),
    "description": spelled("description", DCT, PLAIN),
    "modified": spelled("modified", DCT, PLAIN),
    "landing_page": spelled("landingPage", DCAT, ("dct:",), PLAIN),  # `dct:` in templates of ArcGIS Hub
    "homepage": spelled("homepage", FOAF, PLAIN),
    "total": spelled("totalItems", HYDRA),
    "notation": spelled("notation", SKOS, PLAIN),
    "value": spelled("value", RDF),
    "page": (*spelled("page", FOAF), *spelled("Document", FOAF)),
    "part_of": spelled("isPartOf", DCT, PLAIN),
}
_NAMED: Final = {f"{key}_{number}": name for key, names in SPELLINGS.items() for number, name in enumerate(names)}
# The fields that a node, or a part of one, gives to a dataset.
_OF_DATASETS: Final = ("identifier", "other_identifier", "title", "description", "modified", "landing_page")
_OF_VALUES: Final = ("notation", "value", "page")


def _struct(name: str, keys: Iterable[str]) -> type[Struct]:
    members = [("id", Any, None), ("type", Any, None), *((key, Any, None) for key in keys)]
    return defstruct(name, members, rename={"id": "@id", "type": "@type", **_NAMED}, module=__name__, gc=False)


# The fields that are read of a dataset, and those that are read of all nodes.
Node: Final = _struct("Node", _NAMED)
Head: Final = _struct("Head", (key for key in _NAMED if not key.startswith(_OF_DATASETS)))


def _reader(key: str) -> Callable[[Any], Any]:
    """The value of a node under the first spelling that says something."""
    values = attrgetter(*(f"{key}_{number}" for number in range(len(SPELLINGS[key]))))
    return lambda node: _said(values(node))


def _said(values: Sequence[Any]) -> Any:
    found = next(filter(has_text, values), None)
    if found is None:  # a blank text is kept as it is
        found = next((value for value in values if value is not None and literal(value) != ""), None)
    return found


# From a node to the value of a field.
VALUE_OF: Final = {key: _reader(key) for key in SPELLINGS}
_REFERRING: Final = tuple(
    key for key in _NAMED if key.startswith(("identifier", "other_identifier", "title", "description", "landing_page"))
)
_referring = attrgetter(*_REFERRING)

# A series is a grouping of datasets, unless it says that it is one itself.
DATASETS: Final = {*spelled("Dataset", DCAT, PLAIN)}
CATALOGS: Final = {*spelled("Catalog", DCAT, PLAIN)}


def is_a(node: Any, types: set[str]) -> bool:
    """Whether one of a node's types is one of these."""
    type_ = node.type
    if type(type_) is list:
        return any(type(one) is str and one in types for one in type_)
    return type(type_) is str and type_ in types


def is_dataset(node: Any) -> bool:
    """Whether a node says so; a catalog is a dataset as well, but none of its own."""
    return is_a(node, DATASETS) and not (type(node.type) is list and is_a(node, CATALOGS))


def values_in(value: Any) -> list[Any]:
    """The values of a field: JSON-LD writes one with a list around it, or without."""
    return value if type(value) is list else [] if value is None else [value]


def literal(value: Any) -> Any:
    """The only value of a list, and of a literal; others as they are, for these are texts in several languages."""
    if type(value) is list and len(value) == 1:
        value = value[0]
    if type(value) is not dict:
        return value
    return value["@value"] if "@value" in value else first(*_embedded(value, "value"), value)


def _embedded(node: dict[str, Any], key: str) -> list[Any]:
    return [literal(node[name]) for name in SPELLINGS[key] if name in node]


def is_blank(name: Any) -> bool:
    """Whether a name of a node means nothing outside its file."""
    return type(name) is not str or not name.strip() or name.startswith("_:")


def plain(identifier: Any) -> Any:
    """The text or number that an identifier is: a literal, the notation of a node, or an IRI."""
    if type(identifier) is dict:
        value = first(identifier.get("@value"), *_embedded(identifier, "notation"), *_embedded(identifier, "value"))
        name = identifier.get("@id")
        identifier = None if value is None and is_blank(name) else first(value, name)
    if type(identifier) is str:
        return identifier.strip() or None
    return identifier if type(identifier) is int else None


def key_of(node: Any) -> Any:
    """The identifier; where there are several, or none, the node's name; of a blank node the first in their order.

    Nodes and lists have no order in RDF: the first that is written may be another tomorrow.
    """
    found = [key for one in values_in(VALUE_OF["identifier"](node)) if (key := plain(one)) is not None]
    if len(found) != 1 and not is_blank(node.id):
        return node.id
    found = found or [key for one in values_in(VALUE_OF["other_identifier"](node)) if (key := plain(one)) is not None]
    return min(found, key=str, default=None)


def addresses(value: Any) -> Iterator[str]:
    """The texts in a value that stands for a document; of nodes their names, or where they say the document is."""
    for one in values_in(value):
        if type(one) is str:
            yield one
        elif type(one) is dict:
            for inner in (one.get("@id"), one.get("@value"), *_embedded(one, "page"), *_embedded(one, "value")):
                yield from addresses(inner)


def page_of(name: Any, pages: Sequence[str]) -> str | None:
    """The first URL, else the node's name if it is one, else what is written, but for a blank node's name."""
    for text in (*pages, name):
        if type(text) is str and text.strip().startswith(("https://", "http://")):
            return text
    return next((page for page in pages if not is_blank(page)), None)


def is_reference(node: Any) -> bool:
    """Whether a node without a type is only the name of one that stands elsewhere."""
    return node.id is not None and all(VALUE_OF[key](node) is None for key in _OF_DATASETS)


def completes(node: Any) -> bool:
    """Whether a node that holds no dataset may give one a value: a part of it, or one that it refers to."""
    return node.type is None or any(VALUE_OF[key](node) is not None for key in _OF_VALUES)


def refers(node: Any) -> bool:
    """Whether a dataset has references in the place of values."""
    given = (
        (key, value) for key, value in zip(_REFERRING, _referring(node), strict=True) if type(value) in (list, dict)
    )
    return any(_name_in(key, one) for key, value in given for one in values_in(value))


def join(node: Any, look_up: Callable[[str], list[bytes]]) -> Any:
    """A dataset with the other parts of its node, and with the nodes in place of references to them."""
    if type(node.id) is str and (parts := look_up(node.id)):
        node = _merged([node, *map(_decode_node, parts)])
    for key in _REFERRING:
        values = values_in(getattr(node, key))
        names = [_name_in(key, one) for one in values]
        if any(names):
            joined = [_embedding(one, look_up(name)) if name else one for one, name in zip(values, names, strict=True)]
            node = msgspec.structs.replace(node, **{key: joined})
    return node


def _name_in(key: str, value: Any) -> str:
    """The name of the node that a value stands for; empty if it stands for itself, as the IRI of a page does."""
    name = value.get("@id") if type(value) is dict and "@value" not in value else None
    is_name = type(name) is str and (name.startswith("_:") or not key.startswith("landing_page"))
    return name if is_name else ""  # type: ignore[return-value]


def _embedding(reference: dict[str, Any], nodes: list[bytes]) -> dict[str, Any]:
    """A reference with the fields of its nodes."""
    for data in nodes:
        reference = {**_decode_any(data), **reference}
    return reference


def _merged(parts: Sequence[Any]) -> Any:
    """One node of its parts, whatever their order."""
    values = {}
    for key in Node.__struct_fields__[1:]:
        found = {_order(value): value for part in parts for value in values_in(getattr(part, key))}
        values[key] = [found[order] for order in sorted(found)] or None
    return Node(parts[0].id, **values)


def _order(value: Any) -> tuple[str, str]:
    """By language and text, however a literal is written."""
    is_literal = type(value) is dict and "@value" in value
    return (str(value.get("@language", "")), repr(value["@value"])) if is_literal else ("", repr(value))


_decode_node = msgspec.json.Decoder(Node).decode
_decode_any = msgspec.json.Decoder(dict[str, Any]).decode
