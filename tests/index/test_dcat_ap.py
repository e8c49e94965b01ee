"""The dialect dcat-ap: its spellings, graphs in any order, references, languages, pages, and what is hostile."""

# ruff: noqa: ASYNC240  # nothing else runs in the event loop of a test
from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sharded import sharded, whole

from seed_registry import DatabaseUrl, MaxRejects, Report, Settings, ingest
from seed_registry.errors import IndexBroken, IndexNotUnderstood
from seed_registry.index.decoder import Decoder
from seed_registry.index.dialects.dcat_ap import DCAT_AP
from seed_registry.index.inputs import IndexRef
from seed_registry.index.key_scan import scan_keys
from seed_registry.index.open import read_index
from seed_registry.index.shard_plan import cut
from seed_registry.key_hashes import hash_key
from seed_registry.records import Asset, RawBlock, RawRecord, Record, Reject
from seed_registry.shortfall import Total

pytestmark = pytest.mark.anyio

Json = dict[str, Any]
relaxed = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CATALOG = {"@id": "https://data.example.org/catalog", "@type": "dcat:Catalog", "dct:title": "Catalog"}
DATASET = {
    "@id": "https://data.example.org/set/1",
    "@type": "dcat:Dataset",
    "dct:identifier": "one",
    "dct:title": "One",
    "dct:description": "The first",
    "dct:modified": "2024-05-06T07:08:09Z",
    "dcat:landingPage": {"@id": "https://data.example.org/page/1"},
}
PERSON = {"@id": "https://data.example.org/us", "@type": "foaf:Organization", "dct:title": "No dataset"}
NAMESPACES = {
    "dct:": "http://purl.org/dc/terms/",
    "dcat:": "http://www.w3.org/ns/dcat#",
    "foaf:": "http://xmlns.com/foaf/0.1/",
    "adms:": "http://www.w3.org/ns/adms#",
    "skos:": "http://www.w3.org/2004/02/skos/core#",
    "hydra:": "http://www.w3.org/ns/hydra/core#",
}


def full(name: str) -> str:
    """A prefixed name as an IRI."""
    return next(
        (iri + name.removeprefix(prefix) for prefix, iri in NAMESPACES.items() if name.startswith(prefix)), name
    )


def expanded(node: Json) -> Json:
    """A node as the expanded form of JSON-LD has it: full IRIs, and a list around each value."""

    def value(one: Any) -> Any:
        return expanded(one) if isinstance(one, dict) else {"@value": one}

    written: Json = {}
    for name, found in node.items():
        values = found if isinstance(found, list) else [found]
        if name == "@type":
            written[name] = [full(one) for one in values]
        elif name.startswith("@"):
            written[name] = found
        else:
            written[full(name)] = [value(one) for one in values]
    return written


def renamed(node: Any, to: str) -> Any:
    """A node with another prefix of DCMI's terms, or none."""
    if isinstance(node, list):
        return [renamed(one, to) for one in node]
    if not isinstance(node, dict):
        return node
    return {name.replace("dct:", to, 1): renamed(value, to) for name, value in node.items()}


def aliased(node: Json) -> Json:
    """A node with names that a context explains."""
    bare = {name.removeprefix("dct:").removeprefix("dcat:"): value for name, value in node.items()}
    type_ = node.get("@type")
    return bare | ({"@type": type_.removeprefix("dcat:")} if isinstance(type_, str) else {})


async def read(path: Path, content: Any, **options: Any) -> list[Record]:
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    async with read_index(IndexRef.of(path), Settings(**options)) as reader:
        assert reader.dialect.name == "dcat-ap"
        return [record async for records in reader.records() for record in records]


async def assets(path: Path, content: Any, **options: Any) -> list[Asset]:
    found = await read(path, content, **options)
    assert all(isinstance(record, Asset) for record in found), found
    return [record for record in found if isinstance(record, Asset)]


def row(asset: Asset) -> tuple[Any, ...]:
    """What is stored of an asset, without the record."""
    return asset.key, asset.source_key, asset.name, asset.description, asset.url, asset.updated_at


def graph(*nodes: Json) -> Json:
    return {"@context": {"dcat": "http://www.w3.org/ns/dcat#"}, "@graph": list(nodes)}


FIRST = (
    "one",
    "data.example.org",
    "One",
    "The first",
    "https://data.example.org/page/1",
    datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC),
)
FORMS = {
    "nested": {**CATALOG, "dcat:dataset": [DATASET]},
    "nested, the header last": {"dcat:dataset": [DATASET], **CATALOG},
    "nested, one that is no array": {**CATALOG, "dcat:dataset": DATASET},
    "nested, another prefix": {**CATALOG, "dcat:dataset": [renamed(DATASET, "dcterms:")]},
    "nested, full IRIs": {**CATALOG, full("dcat:dataset"): [expanded(DATASET)]},
    "nested, a catalog in a catalog": {**CATALOG, "dcat:catalog": [{"@id": "x", "dcat:dataset": [DATASET]}]},
    "nested, at a service": {**CATALOG, "dcat:dataset": [], "dcat:service": [{"dcat:servesDataset": DATASET}]},
    "nested, with references": {**CATALOG, "dcat:dataset": ["https://x.org/1", {"@id": "https://x.org/2"}, DATASET]},
    "a graph": graph(CATALOG, PERSON, DATASET),
    "a graph, the catalog last": graph(DATASET, PERSON, CATALOG),
    "a graph, another prefix": graph(DATASET, PERSON, renamed(CATALOG, "dcterms:")),
    "a graph, names of a context": {
        "@context": "https://data.example.org/context.jsonld",
        "@graph": [aliased(DATASET), aliased(PERSON), aliased(CATALOG) | {"dataset": [{"@id": DATASET["@id"]}]}],
    },
    "a graph, one node": {"@context": {"dcat": "x"}, "@graph": {**CATALOG, "dcat:dataset": [DATASET]}},
    "a graph, datasets in the catalog": graph(PERSON, {**CATALOG, "dcat:dataset": [{"@id": "_:x"}, DATASET]}),
    "an array of nodes": [expanded(DATASET), expanded(PERSON), expanded(CATALOG)],
    "an array of nodes, datasets in the catalog": [expanded({**CATALOG, "dcat:dataset": [DATASET]})],
}


@pytest.mark.parametrize("content", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("indent", [None, 2])
async def test_every_form_has_the_same_asset(tmp_path: Path, content: Any, indent: int | None) -> None:
    found = await assets(tmp_path / "index.json", json.dumps(content, indent=indent).encode())
    assert [row(asset) for asset in found] == [FIRST]


@pytest.mark.parametrize("content", FORMS.values(), ids=FORMS)
async def test_a_scan_finds_the_keys_of_the_assets(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "index.json"
    path.write_text(json.dumps(content))
    async with read_index(IndexRef.of(path), Settings()) as reader:
        assert {found for chunk in [chunk async for chunk in scan_keys(reader)] for found in chunk.hashes} == {
            hash_key("one")
        }


async def test_lines_and_a_single_dataset_need_a_domain(tmp_path: Path) -> None:
    lines = b"\n".join(json.dumps(one).encode() for one in (DATASET, PERSON, {**DATASET, "dct:identifier": "two"}))
    found = await assets(tmp_path / "lines", lines, domain="data.example.org")
    assert [asset.key for asset in found] == ["one", "two"]
    (alone,) = await assets(tmp_path / "one", json.dumps(DATASET, indent=1).encode(), domain="data.example.org")
    assert row(alone) == FIRST
    (reject,) = await read(tmp_path / "one", json.dumps(DATASET).encode())
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.key) == ("no_source", "one")


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"dct:identifier": "a"}, "a"),
        ({"dct:identifier": 12}, "12"),
        ({"dct:identifier": ["a"]}, "a"),
        ({"dct:identifier": {"@value": "a", "@type": "xsd:anyURI"}}, "a"),
        ({"dct:identifier": [{"@value": 7}]}, "7"),
        ({"dct:identifier": {"@id": "https://doi.org/10.1234/x"}}, "https://doi.org/10.1234/x"),
        ({"dct:identifier": {"@type": "adms:Identifier", "skos:notation": {"@value": "n"}}}, "n"),
        ({"dct:identifier": ["b", "a"]}, "https://data.example.org/set/1"),
        ({"dct:identifier": ["b", "a"], "@id": "_:x"}, "a"),
        ({"dct:identifier": " "}, "https://data.example.org/set/1"),
        ({}, "https://data.example.org/set/1"),
        ({"adms:identifier": {"skos:notation": "n"}}, "https://data.example.org/set/1"),
        ({"adms:identifier": {"skos:notation": "n"}, "@id": "_:x"}, "n"),
        ({"@id": "_:x"}, None),
        ({"dct:identifier": True, "@id": None}, None),
        ({"dct:identifier": {"@id": "_:y"}, "@id": "_:x"}, None),
    ],
)
async def test_the_key_is_the_identifier_or_the_name_of_the_node(tmp_path: Path, fields: Json, key: str | None) -> None:
    node = {"@id": DATASET["@id"], "@type": "dcat:Dataset", "dct:title": "t", **fields}
    for content in ({**CATALOG, "dcat:dataset": [node]}, graph(CATALOG, node)):
        (found,) = await read(tmp_path / "index.json", content)
        assert (found.key if isinstance(found, Asset) else None) == key
        assert isinstance(found, Asset) or (isinstance(found, Reject) and found.reason == "no_key")


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"dcat:landingPage": "https://p.org/1"}, "https://p.org/1"),
        ({"dcat:landingPage": [{"@id": "https://p.org/1"}]}, "https://p.org/1"),
        ({"dcat:landingPage": [{"@value": "https://p.org/1"}]}, "https://p.org/1"),
        ({"dcat:landingPage": ["about it", {"@id": "https://p.org/1"}]}, "https://p.org/1"),
        ({"dcat:landingPage": {"foaf:Document": "https://p.org/1"}}, "https://p.org/1"),
        ({"dcat:landingPage": "hello"}, "https://data.example.org/set/1"),
        ({"dcat:landingPage": {"@id": "_:p"}}, "https://data.example.org/set/1"),
        ({}, "https://data.example.org/set/1"),
        ({"@id": "_:x"}, None),
        ({"@id": "urn:x:1"}, None),
        ({"@id": "_:x", "dcat:landingPage": "_:x"}, None),
        ({"@id": "_:x", "dcat:landingPage": "hello"}, "hello"),
    ],
)
async def test_the_page_is_the_landing_page_or_the_name_of_the_node(
    tmp_path: Path, fields: Json, url: str | None
) -> None:
    node = {"@id": DATASET["@id"], "@type": "dcat:Dataset", "dct:identifier": "k", **fields}
    (found,) = await assets(tmp_path / "index.json", {**CATALOG, "dcat:dataset": [node]})
    assert (found.url, found.texts_ignored) == (url, ())


@pytest.mark.parametrize(
    ("catalog", "domain", "source"),
    [
        ({"@id": "https://Data.example.org/catalog"}, None, "data.example.org"),
        ({"@id": "_:c", "foaf:homepage": "https://home.org/"}, None, "home.org"),
        ({"@id": "_:c", "foaf:homepage": {"@id": "https://home.org/"}}, None, "home.org"),
        ({"@id": "_:c", "foaf:homepage": [{"@value": "https://home.org/"}]}, None, "home.org"),
        ({"@id": "_:c", "foaf:homepage": {"foaf:Document": "https://home.org/"}}, None, "home.org"),
        ({"@id": "_:c", "foaf:homepage": "home.org"}, None, "home.org"),
        ({"foaf:homepage": "https://home.org/"}, None, "home.org"),
        ({"@id": "https://a.org/c", "foaf:homepage": "https://home.org/"}, None, "a.org"),
        ({"@id": "https://www.arcgis.com/home/item.html?id=1", "foaf:homepage": "https://home.org"}, None, "home.org"),
        ({"@id": "https://a.org/c"}, "told.org", "told.org"),
        ({"@id": "_:c"}, "told.org", "told.org"),
        ({"@id": "_:c"}, None, None),
        ({"@id": 5, "foaf:homepage": [7, None, {"@id": []}]}, None, None),
    ],
)
async def test_the_source_is_the_catalogs_host_or_its_homepages_or_the_domain(
    tmp_path: Path, catalog: Json, domain: str | None, source: str | None
) -> None:
    catalog = {"@type": "dcat:Catalog", **catalog}
    nested = [{**catalog, "dcat:dataset": [DATASET]}, {"dcat:dataset": [DATASET], **catalog}]
    for content in (nested[0], graph(catalog, DATASET), graph(DATASET, catalog)):
        (found,) = await read(tmp_path / "index.json", content, domain=domain)
        assert (found.source_key if isinstance(found, Asset) else None) == source
        assert isinstance(found, Asset) or (isinstance(found, Reject) and found.reason == "no_source")


async def test_catalogs_of_several_portals_name_none_but_for_the_datasets_in_them(tmp_path: Path) -> None:
    catalogs = [
        {"@id": f"https://{host}/c", "@type": "dcat:Catalog", "dcat:dataset": [{**DATASET, "dct:identifier": host}]}
        for host in ("a.org", "b.org")
    ]
    found = await read(tmp_path / "index.json", graph(catalogs[0], DATASET, catalogs[1]))
    seen = [(one.key, one.source_key if isinstance(one, Asset) else None) for one in found]
    assert seen == [("a.org", "a.org"), ("one", None), ("b.org", "b.org")]
    part = {**catalogs[1], "dct:isPartOf": {"@id": "https://a.org/c"}}
    found = await read(tmp_path / "index.json", graph(catalogs[0], DATASET, part))
    assert [one.source_key for one in found if isinstance(one, Asset)] == ["a.org", "a.org", "b.org"]


@pytest.mark.parametrize(("language", "name"), [(None, "Forest"), ("de", "Wald"), ("fr-CH", "Forêt"), ("it", "Forest")])
@pytest.mark.parametrize("is_expanded", [False, True])
async def test_of_several_languages_one_is_taken(
    tmp_path: Path, language: str | None, name: str, is_expanded: bool
) -> None:
    texts = [{"@value": text, "@language": tag} for tag, text in (("de", "Wald"), ("en", "Forest"), ("fr", "Forêt"))]
    node = {**DATASET, "dct:title": texts, "dct:description": texts[:1]}
    content: Any = [expanded(CATALOG), expanded(node)] if is_expanded else {**CATALOG, "dcat:dataset": [node]}
    (found,) = await assets(tmp_path / "index.json", content, language=language)
    assert (found.name, found.description) == (name, "Wald")


async def test_a_dataset_with_datasets_in_it_is_read_alike_strictly_and_not(tmp_path: Path) -> None:
    outer = {**DATASET, "dcat:dataset": [{**DATASET, "@id": "https://other.org/2", "dct:identifier": "two"}]}
    path = tmp_path / "index.json"
    for content in ({**CATALOG, "dcat:dataset": [outer] * 3}, graph(CATALOG, outer)):
        path.write_text(json.dumps(content))
        for is_strict in (False, True):
            async with read_index(IndexRef.of(path), Settings()) as reader:
                reader.checks.is_strict = is_strict
                found = [one for records in [r async for r in reader.records()] for one in records]
            assert {(one.key, one.source_key) for one in found if isinstance(one, Asset)} == {
                ("one", "data.example.org"),
                ("two", "data.example.org"),
            }


@pytest.mark.parametrize("field", ["identifier", "title", "description", "modified"])
async def test_of_several_spellings_the_first_that_says_something_is_taken(field: str) -> None:
    spelled = [f"{prefix}{field}" for prefix in ("dct:", "dcterms:", NAMESPACES["dct:"])]
    for values in product(
        (None, "", {"@value": ""}, [{"@value": ""}], "2024-05-06", {"@value": "2024-05-07"}), repeat=3
    ):
        fields = {name: value for name, value in zip(spelled, values, strict=True) if value is not None}
        data = json.dumps({"@type": "dcat:Dataset", "@id": "https://d.org/1", **fields}).encode()
        decoder = Decoder(DCAT_AP, domain="d.org")
        alone = decoder.decode(RawRecord(data, 1, 0, "asset"))
        (ordinary,), _ = decoder.decode_ordinary(RawBlock([data], [1], [0], "asset"))
        assert isinstance(alone, Asset)
        assert (*row(ordinary), ordinary.content_hash) == (*row(alone), alone.content_hash)


async def test_numbers_keep_their_spelling_and_what_is_no_text_is_counted(tmp_path: Path) -> None:
    node = (
        b'{"@type":"dcat:Dataset","dct:identifier":"k","dct:title":[{"@value":1.50}],"dct:description":{"@id":"_:t"}}'
    )
    content = b'{"@graph":[%s,{"@id":"https://a.org","@type":"dcat:Catalog"}]}' % node
    (found,) = await assets(tmp_path / "index.json", content)
    assert (found.name, found.description, found.texts_ignored) == ("1.50", None, ("description",))


async def test_the_date_may_be_typed_and_of_several_the_first_is_taken(tmp_path: Path) -> None:
    typed = {"@type": "xsd:dateTime", "@value": "2024-05-06T07:08:09Z"}
    for modified, ignored in ((typed, False), ([typed], False), ([typed, "2020-01-01"], False), ("soon", True)):
        (found,) = await assets(tmp_path / "index.json", graph(CATALOG, {**DATASET, "dct:modified": modified}))
        assert (found.updated_at, found.date_ignored) == (None if ignored else FIRST[5], ignored)


# --- references and parts --------------------------------------------------------------------------------------------

IDENTIFIER = {"@id": "_:i", "@type": "adms:Identifier", "skos:notation": {"@value": "N-1", "@type": "xsd:token"}}
PAGE = {"@id": "_:p", "@type": "foaf:Document", "foaf:page": {"@id": "https://data.example.org/page/1"}}
REFERRING = {
    "@id": "_:d",
    "@type": "dcat:Dataset",
    "dct:identifier": {"@id": "_:i"},
    "dcat:landingPage": {"@id": "_:p"},
}


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("form", [lambda node: node, expanded])
async def test_references_are_followed_to_nodes_before_and_behind(tmp_path: Path, is_first: bool, form: Any) -> None:
    others = [IDENTIFIER, PAGE, CATALOG]
    nodes = [REFERRING, *others] if is_first else [*others, REFERRING]
    (found,) = await assets(tmp_path / "index.json", graph(*map(form, nodes)))
    assert (found.key, found.url) == ("N-1", "https://data.example.org/page/1")
    assert json.loads(found.raw) == form(REFERRING)


async def test_a_reference_to_no_node_is_a_reject_or_an_iri(tmp_path: Path) -> None:
    (found,) = await read(tmp_path / "index.json", graph(CATALOG, REFERRING, {**IDENTIFIER, "@id": "_:other"}))
    assert isinstance(found, Reject)
    assert found.reason == "no_key"
    node = {**REFERRING, "dct:identifier": {"@id": "https://id.org/1"}}
    (asset,) = await assets(tmp_path / "index.json", graph(CATALOG, node))
    assert asset.key == "https://id.org/1"
    named = {**IDENTIFIER, "@id": "https://id.org/1"}
    (asset,) = await assets(tmp_path / "index.json", graph(CATALOG, node, named))
    assert asset.key == "N-1"


async def test_nodes_that_refer_to_one_another_end(tmp_path: Path) -> None:
    circle = {"@id": "_:i", "skos:notation": {"@id": "_:i"}, "dct:identifier": {"@id": "_:i"}}
    found = await read(tmp_path / "index.json", graph(CATALOG, REFERRING, circle))
    assert [type(one) for one in found] == [Reject]


async def test_a_change_of_a_joined_node_alone_changes_the_hash(tmp_path: Path) -> None:
    def content(notation: str, *more: Json) -> Json:
        identifier = {**IDENTIFIER, "skos:notation": "N-1", "skos:note": notation}
        return graph(CATALOG, REFERRING, identifier, *more)

    (one,) = await assets(tmp_path / "index.json", content("a"))
    (same,) = await assets(tmp_path / "index.json", content("a", PERSON))
    (other,) = await assets(tmp_path / "index.json", content("b"))
    assert one.content_hash == same.content_hash != other.content_hash
    assert row(one) == row(other)


@pytest.mark.parametrize("parts", [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]])
async def test_node_objects_of_one_name_are_one_dataset(tmp_path: Path, parts: list[int]) -> None:
    name = {"@id": DATASET["@id"]}
    nodes = [
        {**name, "@type": "dcat:Dataset", "dct:identifier": "one", "dct:title": "One"},
        {**name, "@type": "dcat:Dataset", "dct:description": "The first", "dct:modified": DATASET["dct:modified"]},
        {**name, "dcat:landingPage": DATASET["dcat:landingPage"]},
    ]
    found = await assets(tmp_path / "index.json", graph(CATALOG, *(nodes[part] for part in parts), PERSON))
    assert [row(asset) for asset in found] == [FIRST, FIRST]  # of two records with one key the last wins


async def test_blank_nodes_of_two_documents_have_nothing_to_do_with_each_other(tmp_path: Path) -> None:
    pages = [
        graph(
            {**CATALOG, "@id": f"https://{host}/"},
            {**REFERRING, "dct:title": host},
            {**IDENTIFIER, "skos:notation": host},
        )
        for host in ("a.org", "b.org")
    ]
    for content in ("\n".join(map(json.dumps, pages)), json.dumps(pages), json.dumps(pages, indent=1)):
        found = await assets(tmp_path / "index.json", content.encode())
        assert [(one.key, one.source_key, one.name) for one in found] == [
            (host, host, host) for host in ("a.org", "b.org")
        ]


@pytest.mark.slow
async def test_a_million_parts_of_a_node_do_not_take_forever(tmp_path: Path) -> None:
    parts = [{"@id": "_:d", "@type": "dcat:Dataset", "dct:title": f"{number}"} for number in range(1_500)]
    found = await read(tmp_path / "index.json", graph(CATALOG, *parts))
    assert len(found) == 1_500
    assert all(isinstance(one, Reject) and one.reason == "no_key" for one in found)


# --- any graph -------------------------------------------------------------------------------------------------------

texts = st.sampled_from(["a", "b", "Wald", "x y", "7"])
names = st.sampled_from(["_:n0", "_:n1", "https://d.org/1", "https://d.org/2", "urn:x:3"])
references = st.builds(lambda name: {"@id": name}, names)
literals = st.builds(lambda text, tag: {"@value": text, "@language": tag}, texts, st.sampled_from(["de", "en", "fr"]))
dates = st.sampled_from(["2024-05-06", "soon"])


@st.composite
def nodes_of_graphs(draw: st.DrawFn) -> list[Json]:
    """The catalog, datasets with different keys, identifiers that they may refer to, and others."""
    nodes: list[Json] = [CATALOG]
    for number in range(draw(st.integers(0, 4))):
        node: Json = {
            "@type": "dcat:Dataset",
            "@id": draw(st.sampled_from([f"_:d{number}", f"https://d.org/s/{number}"])),
        }
        node["dct:identifier"] = draw(st.sampled_from([f"k{number}", number, {"@id": f"_:i{number}"}]))
        for field, values in (("dct:title", texts | st.lists(literals, max_size=2)), ("dct:description", texts),
                              ("dct:modified", dates), ("dcat:landingPage", references)):  # fmt: skip
            if draw(st.booleans()):
                node[field] = draw(values)
        nodes.append(node)
        if draw(st.booleans()):
            nodes.append({"@id": f"_:i{number}", "@type": "adms:Identifier", "skos:notation": f"n{number}"})
        if draw(st.booleans()):
            nodes.append({"@id": node["@id"], "dct:title": {"@value": "part", "@language": "it"}})
    others = draw(st.lists(names, max_size=3, unique=True))
    page = {"@type": "foaf:Document", "foaf:page": {"@id": "https://p.org"}, "dct:title": "no"}
    return nodes + [{"@id": name, **page} for name in others]


@given(nodes_of_graphs(), st.integers(0, 10_000), st.integers(1, 400))
@example([CATALOG, REFERRING, IDENTIFIER, PAGE], 1, 50)
@relaxed
async def test_assets_do_not_depend_on_the_order_of_nodes_or_on_their_spelling(
    tmp_path: Path, nodes: list[Json], seed: int, step: int
) -> None:
    seen: list[Any] = []
    random = Random(seed)
    for form in (lambda node: node, lambda node: renamed(node, "dcterms:"), expanded):
        for _ in range(2):
            random.shuffle(nodes)
            found = await read(tmp_path / "index.json", json.dumps(graph(*map(form, nodes)), indent=step % 2).encode())
            seen.append(sorted(map(repr, (row(one) if isinstance(one, Asset) else one.key for one in found))))
    assert all(one == seen[0] for one in seen)


# --- pages -----------------------------------------------------------------------------------------------------------


def hydra_page(number: int, total: Any, *, at_catalog: bool) -> list[Json]:
    view = {
        "@id": f"https://data.example.org/c?page={number}",
        "@type": "hydra:PagedCollection",
        "hydra:totalItems": total,
    }
    if at_catalog:
        return [{**CATALOG, "hydra:totalItems": total}, {**DATASET, "dct:identifier": f"k{number}"}]
    return [{**DATASET, "dct:identifier": f"k{number}"}, CATALOG, view]


@pytest.mark.parametrize("total", [2, "2", {"@value": 2}, [{"@value": "2"}]])
@pytest.mark.parametrize("at_catalog", [False, True])
async def test_the_total_of_pages_is_compared_with_the_datasets_read(
    tmp_path: Path, total: Any, at_catalog: bool
) -> None:
    path = tmp_path / "index.json"
    pages = [graph(*hydra_page(number, total, at_catalog=at_catalog)) for number in (1, 2)]
    for content, read_ in ((pages[:1], 1), (pages, 2)):
        path.write_text("\n".join(map(json.dumps, content)))
        async with read_index(IndexRef.of(path), Settings()) as reader:
            assert len([one async for records in reader.records() for one in records]) == read_
            assert reader.totals() == [Total("dcat-ap", "data.example.org", 2, read_)]
            assert reader.total() == 2


async def test_a_page_without_datasets_is_read_and_a_graph_of_other_things_is_refused(tmp_path: Path) -> None:
    assert await read(tmp_path / "index.json", graph(CATALOG, PERSON)) == []
    assert await read(tmp_path / "index.json", graph()) == []
    with pytest.raises(IndexNotUnderstood, match="no node that is a record of dcat-ap"):
        await read(tmp_path / "index.json", [{"id": "abcd-2345", "name": "x"}], dialect="dcat-ap")


# --- what is broken or hostile ---------------------------------------------------------------------------------------

REJECTED = {
    b'"a text"': "not_an_object",
    b"7": "not_an_object",
    b'{"@type":"dcat:Dataset","dct:title":"\\ud800"}': "bad_unicode",
    b'{"@type":"dcat:Dataset","dct:title":"\xff"}': "bad_utf8",
    b'{"@type":"dcat:Dataset","dct:identifier":"k\\u0000"}': "nul_in_key",
    b'{"@type":"dcat:Dataset","dct:identifier":"%s"}' % (b"k" * 1_001): "key_too_long",
    b'{"@type":"dcat:Dataset","dct:identifier":"k","x":%s}' % (b"[" * 600 + b"]" * 600): "too_deep",
    b'{"@type":"dcat:Dataset","dct:identifier":"k","x":"%s"}' % (b"x" * 100_000): "record_too_large",
}


@pytest.mark.parametrize("data", REJECTED, ids=REJECTED.values())
async def test_a_bad_node_is_a_reject_in_its_place(tmp_path: Path, data: bytes) -> None:
    nodes = [
        json.dumps(DATASET).encode(),
        data,
        json.dumps({**DATASET, "@id": "_:2", "dct:identifier": "two"}).encode(),
    ]
    content = b'{"@graph":[' + b",\n".join([*nodes, json.dumps(CATALOG).encode()]) + b"]}"
    found = await read(tmp_path / "index.json", content, max_record_bytes=70_000)
    assert [one.reason if isinstance(one, Reject) else one.key for one in found] == ["one", REJECTED[data], "two"]
    assert [one.line for one in found] == [1, 2, 3]
    assert [content[one.offset :][:1] for one in found] == [node[:1] for node in nodes]


async def test_other_nodes_may_be_anything(tmp_path: Path) -> None:
    others = [
        b'{"@id":"_:a","skos:notation":1e400}',
        b'{"@id":"_:b","@type":7,"hydra:totalItems":-1}',
        b'{"@id":[],"@type":{"@id":"dcat:Dataset"},"hydra:totalItems":"1e3"}',
        b'{"@id":"","@type":["dcat:Catalog",null],"foaf:homepage":"http://[x"}',
        b'{"@id":"_:c","skos:notation":"\xff"}',
        b"{}",
        b'{"@id":"_:i","skos:notation":"a\\u0000b"}',
    ]
    nodes = [json.dumps(REFERRING).encode(), *others, json.dumps(CATALOG).encode()]
    found = await read(tmp_path / "index.json", b'{"@graph":[' + b",".join(nodes) + b"]}")
    assert [one.reason for one in found if isinstance(one, Reject)] == ["nul_in_key", "bad_utf8"]
    assert len(found) == 2  # what a node is that cannot be read is not known


@pytest.mark.parametrize("name", ["@type", "@id", "dct:title", "dcat:landingPage", "dct:modified", "hydra:totalItems"])
@pytest.mark.parametrize("inner", ["", "@value", "rdf:value", "foaf:page", "foaf:homepage", "en"])
async def test_a_value_of_hundreds_of_levels_is_no_crash(tmp_path: Path, name: str, inner: str) -> None:
    value = f'{{"{inner}":' * 490 + "1" + "}" * 490 if inner else "[" * 490 + "]" * 490
    for node in ('{"@type":"dcat:Dataset","dct:identifier":"k",%s}', '{"@type":"dcat:Catalog",%s}'):
        nodes = [json.dumps(CATALOG), node % f'"{name}":{value}', json.dumps(DATASET)]
        found = await read(tmp_path / "index.json", f'{{"@graph":[{",".join(nodes)}]}}'.encode())
        assert [one.key for one in found if isinstance(one, Asset)][-1:] == ["one"]
        assert all(one.reason == "too_deep" for one in found if isinstance(one, Reject))


async def test_nothing_of_a_graph_that_is_cut_off_is_loaded(tmp_path: Path) -> None:
    data = json.dumps(graph(DATASET, CATALOG)).encode()
    for end in range(data.index(b"]"), len(data) - 1, 7):
        with pytest.raises(IndexBroken, match="no record of the document was written"):
            await read(tmp_path / "index.json", data[:end])
    with pytest.raises(IndexBroken):
        await read(tmp_path / "index.json", data.replace(b'"One"', b"One"))


SCHEMA_ORG = "https://schema.org/"
OTHERS: dict[str, Any] = {
    "data-json": {
        "@type": "dcat:Catalog",
        "conformsTo": "https://project-open-data.cio.gov/v1.1/schema",
        "dataset": [{"@type": "dcat:Dataset", "identifier": "1", "title": "t"}],
    },
    "data-json, bare": [{"@type": "dcat:Dataset", "identifier": "1", "title": "t", "accessLevel": "public"}],
    "schema.org": {
        "@context": SCHEMA_ORG,
        "@graph": [{"@type": "Dataset", "@id": "x", "name": "n", "distribution": []}],
    },
    "schema.org, a catalog": {"@context": SCHEMA_ORG, "@type": "DataCatalog", "dataset": [{"name": "n"}]},
    "other linked data": {"@graph": [{"@id": "x", "@type": "skos:Concept", "skos:prefLabel": "n", "title": "t"}]},
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
async def test_other_json_is_not_taken_for_it(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "index.json"
    path.write_text(json.dumps(content))
    try:
        async with read_index(IndexRef.of(path), Settings()) as reader:
            assert reader.dialect.name == "data-json"
    except IndexNotUnderstood as exc:
        assert "no dialect knows" in str(exc) or "schema.org" in str(exc)  # noqa: PT017  # both are right


# --- shards ----------------------------------------------------------------------------------------------------------


def many(count: int) -> list[Json]:
    text = {"dct:description": "x" * 300}
    return [{**DATASET, "@id": f"https://d.org/{n}", "dct:identifier": f"k{n}", **text} for n in range(count)]


async def test_datasets_in_a_catalog_are_cut_and_a_graph_is_not(tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    at_home = {"@type": ["dcat:Catalog"], "foaf:homepage": [{"@value": "https://home.org"}], "dcat:dataset": many(400)}
    for content in ({**CATALOG, "dcat:dataset": many(400)}, {"dcat:dataset": many(400), **CATALOG}, at_home):
        path.write_text(json.dumps(content))
        one, parts = await whole(path), await sharded(path, 40_000)
        assert len(parts.shards) > 2
        assert parts.seen == one.seen
        assert len(one.records) == 400
    path.write_text(json.dumps(graph(*many(400), CATALOG)))
    found = await cut(IndexRef.of(path), Settings(), 40_000)
    assert (len(found.shards), found.reason) == (1, "it is a graph, whose nodes may refer to any others")
    one, parts = await whole(path), await sharded(path, 40_000)
    assert parts.seen == one.seen
    assert len(one.records) == 400


# --- loads -----------------------------------------------------------------------------------------------------------


async def load(url: DatabaseUrl, path: Path, **options: Any) -> Report:
    some = Settings(database_url=url, max_rejects=MaxRejects(records=10**9, percent=None), **options)
    report = await ingest([str(path)], some)
    assert some.dry_run or (report.verification and report.verification.passed)
    return report


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("processes", [1, 2])
async def test_a_second_load_changes_nothing_and_a_change_of_a_joined_node_is_seen(
    emptied_url: DatabaseUrl, tmp_path: Path, processes: int
) -> None:
    path = tmp_path / "index.json"
    options: dict[str, Any] = {"processes": processes, "shard_bytes": 1 << 16}

    def write(title: str) -> None:
        part = {"@id": "_:d", "dct:title": title}
        parts = many(300)[:-1]
        path.write_text(json.dumps(graph(REFERRING, *parts, IDENTIFIER, PERSON, part, PAGE, {**parts[0]}, CATALOG)))

    write("first")
    counts = (await load(emptied_url, path, **options)).assets
    assert (counts.read, counts.inserted, counts.duplicate) == (301, 300, 1)
    counts = (await load(emptied_url, path, **options)).assets
    assert (counts.unchanged, counts.duplicate, counts.updated, counts.inserted) == (300, 1, 0, 0)
    write("second")
    counts = (await load(emptied_url, path, **options)).assets
    assert (counts.unchanged, counts.duplicate, counts.updated) == (299, 1, 1)
    counts = (await load(emptied_url, path, dry_run=True)).assets
    assert (counts.unchanged, counts.duplicate, counts.updated) == (300, 1, 0)
