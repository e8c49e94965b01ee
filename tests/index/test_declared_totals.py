"""What an index is made of, from its file to the report: pages, nested catalogs, totals, and answers that are none."""

# a test may look at files: nothing else runs in its event loop
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from conftest import Cli
from seed_registry import DatabaseUrl, MaxRejects, Report, Settings, ingest
from seed_registry.errors import IndexBroken, IndexesFailed, IndexesIncomplete, IndexNotUnderstood
from seed_registry.index.reader import PIECE_BYTES
from seed_registry.report import Incomplete, Tally, UnreadRecords
from seed_registry.shortfall import Total, incomplete

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]

Json = dict[str, Any]
Write = Callable[..., str]
HELP = "https://ckan.example.org/api/3/action/help_show?name=package_search"
DCAT3 = {"@type": "Catalog", "@id": "https://open.example.gov/data.json", "conformsTo": {"title": "DCAT-US 3.0"}}


@pytest.fixture
def database_url(emptied_url: DatabaseUrl) -> DatabaseUrl:
    """The module's database, its tables made anew."""
    return emptied_url


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write an index and get its path."""

    def written(content: Any, name: str = "index.json") -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return str(path)

    return written


class Told:
    """The `Progress` of these tests: it remembers the warnings."""

    def __init__(self) -> None:
        self.warnings: list[tuple[str, Json]] = []

    def began(self, tally: Tally) -> None:
        """Ignore it."""

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Keep it."""
        if level == "warning":
            self.warnings.append((event, fields))

    def of(self, event: str) -> list[Json]:
        """The facts of one event, each time."""
        return [
            {key: fields[key] for key in fields if key != "note"} for name, fields in self.warnings if name == event
        ]


async def loaded(url: DatabaseUrl, *indexes: str, told: Told | None = None, **options: Any) -> Report:
    return await ingest(list(indexes), Settings(database_url=url, **options), told)


async def keys(url: DatabaseUrl, column: str = "asset_key") -> list[str]:
    connection = await asyncpg.connect(url.reveal)
    try:
        return [row[0] for row in await connection.fetch(f"select {column} from registry.assets order by 1")]
    finally:
        await connection.close()


def dataset(key: str, **fields: Any) -> Json:
    return {"@type": "Dataset", "identifier": key, "title": f"Title of {key}", **fields}


def result(key: str, domain: str = "data.example.org") -> Json:
    return {
        "resource": {"id": key, "name": key},
        "metadata": {"domain": domain},
        "permalink": f"https://{domain}/d/{key}",
    }


def package(key: str) -> Json:
    return {"id": key, "name": f"name-{key}", "title": key, "metadata_modified": "2024-05-01T08:00:00", "resources": []}


def search(packages: list[Json], count: int, portal: str = HELP) -> Json:
    return {"help": portal, "success": True, "result": {"count": count, "sort": "x", "results": packages}}


def four(number: int) -> str:
    """A Socrata id."""
    letters = "abcdefghijkmnpqrstuvwxyz"
    return f"{letters[number % 24]}{letters[number // 24 % 24]}{letters[number // 576 % 24]}a-2222"


# DCAT-US 3


async def test_datasets_are_read_wherever_a_catalog_of_version_3_has_them(
    database_url: DatabaseUrl, write: Write
) -> None:
    inner = {
        "title": "Bureau",
        "dataset": [dataset("bureau-1")],
        "catalog": [{"datasetSeries": [{"title": "s", "seriesMember": [dataset("deep")]}]}],
        "hasPart": {"dataset": dataset("part")},
    }
    told = Told()
    index = write({
        **DCAT3,
        "dataset": [dataset("top-1")],
        "catalog": [inner, "https://elsewhere.example.gov/catalog"],
        "datasetSeries": [
            {"seriesMember": [dataset("2023"), "https://x.gov/ref"], "first": dataset("2022"), "last": "u"}
        ],
        "service": [{"identifier": "api-1", "title": "API", "servesDataset": [dataset("served-1"), "https://x.gov/2"]}],
    })  # fmt: skip
    report = await loaded(database_url, index, told=told)
    assert (report.assets.read, report.assets.inserted, report.assets.rejected) == (7, 7, 0)
    assert await keys(database_url) == ["2022", "2023", "bureau-1", "deep", "part", "served-1", "top-1"]
    assert report.sources.inserted == 1, "all of them are of the portal that publishes the document"
    assert (report.unread_records, told.of("unread_records")) == ([], [])
    again = await loaded(database_url, index)
    assert (again.assets.unchanged, again.assets.inserted) == (7, 0)


async def test_a_dataset_that_stands_in_two_places_is_one(database_url: DatabaseUrl, write: Write) -> None:
    one = dataset("twice")
    index = write({**DCAT3, "dataset": [one], "datasetSeries": [{"seriesMember": [one, dataset("b")], "last": one}]})
    report = await loaded(database_url, index)
    assert (report.assets.read, report.assets.inserted, report.assets.duplicate) == (4, 2, 2)
    assert report.verification is not None
    assert report.verification.passed


async def test_a_catalog_may_have_no_datasets_of_its_own(database_url: DatabaseUrl, write: Write) -> None:
    things: list[Json] = [
        {"catalog": [{"dataset": [dataset("a")]}]},
        {"catalog": {"dataset": [dataset("b")]}},
        {"datasetSeries": [{"seriesMember": [dataset("c")]}]},
        {"service": [{"servesDataset": dataset("d")}]},
        {"dataset": dataset("e")},
    ]
    for number, thing in enumerate(things):
        report = await loaded(database_url, write({**DCAT3, **thing}, f"{number}.json"))
        assert (report.dialect, report.assets.inserted) == ("data-json", 1)
    assert await keys(database_url) == ["a", "b", "c", "d", "e"]


async def test_the_members_of_a_series_among_the_datasets_are_read(database_url: DatabaseUrl, write: Write) -> None:
    series = dataset("series", seriesMember=[dataset("one"), "https://x.gov/two", dataset("three")])
    index = write(
        {**DCAT3, "dataset": [dataset("zero"), {"title": "no key", "seriesMember": [dataset("four")]}, series]}
    )
    report = await loaded(database_url, index, max_rejects=MaxRejects.parse("100%"))
    assert await keys(database_url) == ["four", "one", "series", "three", "zero"]
    assert (report.assets.read, report.assets.rejected) == (6, 1)


# unread records


async def test_records_in_an_array_that_is_not_read_are_reported(
    database_url: DatabaseUrl, write: Write, cli: Cli
) -> None:
    told = Told()
    index = write(
        {"domain": "d.org", "datasets": [{"id": "aaaa-2222"}], "archive": {"old": [{"id": "k", "name": "n"}]}}
    )
    report = await loaded(database_url, index, told=told)
    expected = [UnreadRecords(index, "archive.old", 1)]
    assert report.unread_records == expected
    assert told.of("unread_records") == [{"index": index, "path": "archive.old", "count": 1}]
    printed = cli("load", index, "--database-url", database_url.reveal, "--json")
    assert json.loads(printed.stdout)["unread_records"] == [{"index": index, "path": "archive.old", "count": 1}]
    printed = cli("load", index, "--database-url", database_url.reveal)
    assert printed.returncode == 0
    assert b"not read: 1 element at archive.old look like records" in printed.stdout
    assert cli("load", index, "--database-url", database_url.reveal, "--complete").returncode == 4


async def test_unread_records_are_read_by_the_path_that_was_reported(database_url: DatabaseUrl, write: Write) -> None:
    groups = [{"name": "g", "members": [{"id": "k", "name": "n"}]}, {"more": {"deep": [{"id": "l", "name": "m"}]}}]
    index = write({"domain": "d.org", "datasets": [], "groups": groups, "old": {"ones": [{"id": "o", "name": "p"}]}})
    report = await loaded(database_url, index)
    told = {one.path for one in report.unread_records}
    assert told == {"groups[].members", "groups[].more.deep", "old.ones"}
    for path in told:
        found = await loaded(database_url, index, records_at=path, dialect="directory")
        assert (found.assets.inserted, found.assets.rejected) == (1, 0)
    assert await keys(database_url) == ["k", "l", "o"]
    assert isinstance(await error_of(database_url, index, records_at="groups[].members"), IndexNotUnderstood)


async def test_the_page_about_a_load_lists_unread_records(
    database_url: DatabaseUrl, write: Write, cli: Cli, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    index = write(search([package("p-1")], 38))
    cli("load", index, "--database-url", database_url.reveal, "--html", str(page))
    assert "the portal has 38 records, this index 1" in page.read_text()


async def test_a_line_that_is_an_envelope_among_lines_of_records_is_reported(
    database_url: DatabaseUrl, write: Write
) -> None:
    page = {"results": [result("bbbb-3333"), result("cccc-4444")]}
    lines = [result("aaaa-2222"), page, result("dddd-5555")]
    index = write("\n".join(map(json.dumps, lines)).encode())
    report = await loaded(database_url, index, max_rejects=MaxRejects.parse("100%"))
    assert (report.assets.inserted, report.assets.rejected) == (2, 1)
    assert report.unread_records == [UnreadRecords(index, "results", 2)]


# pages one after another


PAGES: dict[str, list[Json]] = {
    "discovery": [
        {"results": [result(four(0)), result(four(1))], "resultSetSize": 3, "timings": {}},
        {"results": [result(four(2))], "resultSetSize": 3},
    ],
    "ckan": [search([package("p-1"), package("p-2")], 3), search([package("p-3")], 3)],
    "data-json": [{**DCAT3, "dataset": [dataset("x"), dataset("y")]}, {**DCAT3, "dataset": [dataset("z")]}],
    "directory": [
        {"domain": "d.org", "totalCount": 2, "datasets": [{"id": "aaaa-2222"}, {"id": "bbbb-2222"}]},
        {"domain": "d.org", "totalCount": 1, "datasets": [{"id": "cccc-2222"}]},
    ],
}
LAYOUTS: dict[str, Callable[[list[Json]], str]] = {
    "one a line": lambda pages: "\n".join(map(json.dumps, pages)) + "\n",
    "without anything between them": lambda pages: "".join(map(json.dumps, pages)),
    "pretty-printed": lambda pages: "\n".join(json.dumps(page, indent=2) for page in pages),
    "an array of them": json.dumps,
    "one record a line": lambda pages: "\r\n".join(json.dumps(page).replace("[{", "[\n{") for page in pages),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dialect", PAGES)
@pytest.mark.sampled(12)
async def test_a_sequence_of_pages_is_an_index(
    database_url: DatabaseUrl, write: Write, dialect: str, layout: str
) -> None:
    index = write(LAYOUTS[layout](PAGES[dialect]).encode())
    report = await loaded(database_url, index)
    assert (report.dialect, report.assets.read, report.assets.inserted) == (dialect, 3, 3)
    assert report.incomplete == []
    assert report.verification is not None
    assert report.verification.passed


async def test_each_page_has_a_header_of_its_own_even_if_it_comes_last(database_url: DatabaseUrl, write: Write) -> None:
    """Records of a page that is longer than a chunk wait for its header, and are not taken for those of the last."""
    pages = [
        {
            "dataset": [dataset(f"{host}-{number}", text="x" * 700) for number in range(count)],
            "@id": f"https://{host}.gov/x",
        }
        for host, count in (("a", 2), ("b", 900), ("c", 1), ("d", 500), ("e", 3))
    ]
    data = "\n".join(map(json.dumps, pages)).encode()
    assert len(data) > 4 * PIECE_BYTES
    report = await loaded(database_url, write(data))
    assert (report.assets.inserted, report.assets.rejected) == (1406, 0)
    source = "(select source_key from registry.sources as source where source.id = source_id)"
    by_page = await keys(database_url, f"split_part(asset_key, '-', 1) || '.gov' || ' ' || {source}")
    assert {tuple(one.split()) for one in by_page} == {(f"{host}.gov", f"{host}.gov") for host in "abcde"}


async def test_a_broken_page_names_its_byte_and_those_before_it_are_kept(
    database_url: DatabaseUrl, write: Write
) -> None:
    first, second = (json.dumps(page) for page in PAGES["discovery"])
    for rest, offset in (
        (second[:-20], len(first) + 1 + len(second) - 20 + 1),  # behind the last newline
        (second.replace("resultSetSize", "results", 1).replace("3}", "3,}"), None),
        ('{"error": true, "message": "Too many requests"}', len(first) + 1),
        ("[]", len(first) + 1),
    ):
        index = write(f"{first}\n{rest}\n".encode())
        with pytest.raises(IndexBroken) as broken:
            await loaded(database_url, index)
        assert offset is None or broken.value.offset == offset
        assert set(await keys(database_url)) >= {four(0), four(1)}
    assert "Too many requests" in str(
        await error_of(database_url, write(f'{first}\n{{"message":"Too many requests"}}'.encode()))
    )


async def error_of(url: DatabaseUrl, index: str, **options: Any) -> Exception:
    with pytest.raises((IndexBroken, IndexNotUnderstood)) as caught:
        await loaded(url, index, **options)
    return caught.value


async def test_pages_of_an_array_named_by_hand_are_read_too(database_url: DatabaseUrl, write: Write) -> None:
    pages = [{"d": {"list": [package(f"p-{number}")]}} for number in range(3)]
    for number, layout in enumerate(("one a line", "pretty-printed")):
        index = write(LAYOUTS[layout](pages).encode(), f"{number}.json")
        report = await loaded(database_url, index, records_at="d.list", dialect="ckan", domain="d.org")
        assert report.assets.read == 3


# answers that are no index


async def test_one_package_is_an_index_of_one(database_url: DatabaseUrl, write: Write) -> None:
    answer = {"help": HELP, "success": True, "result": package("p-1")}
    for number, data in enumerate(
        (json.dumps(answer), json.dumps(answer, indent=1), json.dumps(package("p-2"), indent=1))
    ):
        report = await loaded(database_url, write(data.encode(), f"{number}.json"), domain="ckan.example.org")
        assert (report.dialect, report.assets.read) == ("ckan", 1)
    assert await keys(database_url) == ["p-1", "p-2"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"help": HELP, "success": True, "result": ["air", "bus"]}, ["package_list", "package_search"]),
        (["air", "bus"], ["a list of texts"]),
        (
            {
                "help": HELP,
                "success": False,
                "error": {"__type": "Search Query Error", "message": "\u001b[2J['limit']"},
            },
            ["error of the portal's server", r"Search Query Error: \x1b[2J['limit']"],
        ),
        ({"help": HELP, "success": False, "error": {"id": ["Missing value"], "__type": "V"}}, ["id: Missing value"]),
        ({"success": False, "error": {"message": "x"}, "result": None}, ["says: x"]),
        ({"error": True, "message": "Row or column access limited", "status": 403}, ["says: Row or column access"]),
        ({"code": "permission_denied", "error": True, "message": "You must be logged in"}, ["says: You must be"]),
        ({"code": "not_found", "message": "no such view"}, ["says: no such view"]),
        ({"error": {"code": 400, "message": "Invalid URL", "details": []}}, ["says: Invalid URL"]),
        ({"errors": [{"title": "t", "detail": "the detail"}]}, ["says: the detail"]),
        ({"type": "about:blank", "title": "Not Found", "status": 404}, ["says: Not Found"]),
        ({"message": "API rate limit exceeded"}, ["says: API rate limit"]),
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", ["is an HTML page, not an index"]),
        (b"\n<html lang=en>", ["is an HTML page, not an index"]),
        (b"<?xml version='1.0'?><rdf:RDF/>", ["is RDF/XML, not an index", "JSON-LD"]),
    ],
)
@pytest.mark.parametrize("options", [{}, {"dialect": "ckan"}])
@pytest.mark.sampled(20)
async def test_an_answer_that_is_no_index_is_an_error_that_names_its_kind(
    database_url: DatabaseUrl, write: Write, answer: Any, words: list[str], options: Json
) -> None:
    error = await error_of(database_url, write(answer), **options)
    assert isinstance(error, IndexNotUnderstood)
    for word in words:
        assert word in str(error)
    assert all(line.isprintable() for line in str(error).split("\n"))
    assert str(error).count("\n") <= 1


async def test_an_empty_answer_is_an_empty_index(database_url: DatabaseUrl, write: Write) -> None:
    for number, thing in enumerate(
        (search([], 0), {"success": True, "result": []}, {"results": [], "resultSetSize": 0}, [])
    ):
        report = await loaded(database_url, write(thing, f"{number}.json"))
        assert (report.assets.read, report.incomplete) == (0, [])


# totals


@pytest.mark.slow
async def test_a_page_of_many_is_loaded_and_reported_as_incomplete(
    database_url: DatabaseUrl, write: Write, cli: Cli
) -> None:
    for number, (thing, declared) in enumerate((
        (search([package("p-1")], 38), 38),
        ({"results": [result(four(0))], "resultSetSize": 4}, 4),
        ({**DCAT3, "dataset": [dataset("x")], "hydra:totalItems": 7}, 7),
        ({"domain": "d.org", "datasets": [{"id": "aaaa-2222"}], "meta": {"stats": {"totalCount": 9}}}, 9),
    )):  # fmt: skip
        told, index = Told(), write(thing, f"{number}.json")
        report = await loaded(database_url, index, told=told)
        assert report.incomplete == [Incomplete(index, declared, 1)]
        assert told.of("incomplete") == [{"index": index, "declared": declared, "read": 1}]
        with pytest.raises(IndexesIncomplete, match=f"the portal has {declared} records") as caught:
            await loaded(database_url, index, complete=True)
        assert caught.value.report.assets.unchanged == 1
        plan = await loaded(database_url, index, dry_run=True)
        assert plan.incomplete == report.incomplete
        printed = cli("load", index, "--database-url", database_url.reveal)
        assert printed.returncode == 0
        assert f"the portal has {declared} records, this index 1".encode() in printed.stdout
        assert json.loads(cli("load", index, "--database-url", database_url.reveal, "--json").stdout)["incomplete"]
        for command in ("load", "plan"):
            assert cli(command, index, "--database-url", database_url.reveal, "--complete").returncode == 4
        assert (
            b"the portal has " + str(declared).encode()
            in cli("plan", index, "--database-url", database_url.reveal).stdout
        )


async def test_pages_loaded_together_are_added_up(database_url: DatabaseUrl, write: Write) -> None:
    pages = [write(search([package(f"p-{3 * page + n}") for n in range(3)], 9), f"{page}.json") for page in range(3)]
    assert (await loaded(database_url, *pages, complete=True)).incomplete == []
    assert (await loaded(database_url, *pages[1:])).incomplete == [Incomplete(pages[1], 9, 6)]
    other = write(search([package("q-1")], 9, HELP.replace("ckan", "other")), "other.json")
    report = await loaded(database_url, *pages, other)
    assert report.incomplete == [Incomplete(other, 9, 1)], "another portal's"
    grown = write(search([package("p-1"), package("p-2")], 1), "grown.json")
    assert (await loaded(database_url, grown, complete=True)).incomplete == [], "more than declared is not incomplete"


async def test_a_page_loaded_twice_completes_nothing(database_url: DatabaseUrl, write: Write) -> None:
    page = search([package("p-1"), package("p-2")], 4)
    indexes = [write(page, name) for name in ("a.json", "b.json")]
    assert (await loaded(database_url, *indexes)).incomplete == [Incomplete(indexes[0], 4, 2)]


async def test_pages_without_a_portal_are_distinguished_by_their_only_source(
    database_url: DatabaseUrl, write: Write
) -> None:
    one = write({"results": [result(four(0), "a.org")], "resultSetSize": 2}, "a.json")
    other = write({"results": [result(four(1), "b.org")], "resultSetSize": 2}, "b.json")
    assert len((await loaded(database_url, one, other)).incomplete) == 2
    mixed = write({"results": [result(four(2), "a.org"), result(four(3), "c.org")], "resultSetSize": 4}, "c.json")
    rest = [write({"results": [result(four(n), "b.org")], "resultSetSize": 4}, f"{n}.json") for n in (4, 5)]
    assert (await loaded(database_url, mixed, *rest)).incomplete == [], "a search over several portals"


async def test_a_failed_page_leaves_the_others_incomplete(database_url: DatabaseUrl, write: Write) -> None:
    good = write(search([package("p-1")], 2), "good.json")
    bad = write(json.dumps(search([package("p-2")], 2))[:-5].encode(), "bad.json")
    with pytest.raises(IndexesFailed) as caught:
        await loaded(database_url, good, bad, keep_going=True, complete=True)
    assert caught.value.report.incomplete == [Incomplete(good, 2, 1)]


def test_totals_belong_together_by_dialect_portal_and_total() -> None:
    def total(portal: str, declared: int, read: int, dialect: str = "ckan") -> Total:
        return Total(dialect, portal, declared, read, f"{portal}{declared}")

    assert incomplete([total("a", 5, 2), total("a", 5, 3), total("b", 5, 5)], 0) == []
    assert incomplete([total("a", 5, 2), total("a", 6, 3)], 0) == [Incomplete("a5", 5, 2), Incomplete("a6", 6, 3)]
    assert incomplete([total("a", 5, 2), total("a", 5, 3, "discovery")], 0) == [
        Incomplete("a5", 5, 2),
        Incomplete("a5", 5, 3),
    ]
    assert incomplete([total("", 5, 2), total("a", 5, 3)], 0) == []
    assert incomplete([total("a", 5, 6)], 1) == []
    assert incomplete([total("a", 5, 6)], 2) == [Incomplete("a5", 5, 4)]


@pytest.mark.parametrize(
    ("pages", "passes"),
    [
        ([(2, 2), (1, 1)], True),
        ([(3, 2), (3, 1)], True),
        ([(2, 2), (2, 1)], False),
        ([(3, 2), (2, 3)], False),
    ],
)
async def test_a_count_of_the_document_itself_is_verified_page_by_page(
    database_url: DatabaseUrl, write: Write, pages: list[tuple[int, int]], passes: bool
) -> None:
    """Each page may declare its own count, or the count of all."""
    keys_left = iter(range(10))
    things = [
        {"domain": "d.org", "totalCount": said, "datasets": [{"id": four(next(keys_left))} for _ in range(read)]}
        for said, read in pages
    ]
    report = await loaded(database_url, write("\n".join(map(json.dumps, things)).encode()), dry_run=True)
    assert report.plan is not None
    assert (report.plan.misdeclared == []) == passes


# explain


async def test_explain_shows_where_records_are_and_which_are_not_read(write: Write, cli: Cli) -> None:
    told = cli(
        "explain", write({**DCAT3, "catalog": [{"dataset": [dataset("a")]}], "x": [dataset("b")], "totalItems": 5})
    )
    for words in (b"a document; catalog is an array", b"records at dataset", b"5 records", b"1 record at x"):
        assert words in b" ".join(told.stdout.split()), told.stdout
    pages = cli("explain", write("\n".join(map(json.dumps, PAGES["discovery"])).encode()))
    assert b"documents, one a line" in pages.stdout
