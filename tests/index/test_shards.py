"""An index read by shards has the records, the errors and the numbers of the index read as a whole."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sharded import Reading, sharded, whole

from seed_registry.errors import IndexUnreadable
from seed_registry.index.inputs import IndexRef
from seed_registry.index.open_shard import read_shard
from seed_registry.index.shard_plan import cut
from seed_registry.index.shards import UNKNOWN, Shard, join, rejoined
from seed_registry.settings import Settings

pytestmark = pytest.mark.anyio

# CI runs these properties on more examples than everybody's `make test` does.
SCALE = int(os.environ.get("EXAMPLES_SCALE", "1"))
untimed = settings(
    deadline=None,
    max_examples=60 * SCALE,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
SOURCE = b'{"type":"source","source_key":"d.org"}'
BOM = b"\xef\xbb\xbf"


def saved(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "x.index.json"
    path.write_bytes(data)
    return path


def line(key: str, **more: Any) -> bytes:
    return json.dumps({"type": "asset", "asset_key": key, "source_key": "d.org", **more}).encode()


def lines(count: int = 200) -> bytes:
    return b"\n".join([SOURCE, *(line(f"k{number}") for number in range(count))])


def directory(count: int = 200, **header: Any) -> dict[str, Any]:
    """A directory whose header comes last."""
    return {"datasets": [{"id": f"k{number}", "name": "n" * 50} for number in range(count)], **header}


async def same(path: Path | str, shard_bytes: int, shards: list[Shard] | None = None, **options: Any) -> Reading:
    found = await sharded(path, shard_bytes, shards or (), **options)
    wanted = await whole(path, **options)
    assert found.seen == wanted.seen
    return found


# lines


async def test_lines_are_cut_where_lines_begin(tmp_path: Path) -> None:
    data = lines()
    found = await same(saved(tmp_path, data), 1000)
    assert len(found.shards) > 10
    assert all(data[shard.start - 1 : shard.start] == b"\n" for shard in found.shards[1:])
    assert [shard.end for shard in found.shards] == [*(shard.start for shard in found.shards[1:]), UNKNOWN]
    assert sum(shard.last - shard.first for shard in found.shards) == len(data)


@pytest.mark.parametrize(
    "data",
    [
        lines(3),
        BOM + lines(3) + b"\n",
        lines(3).replace(b"\n", b"\r\n") + b"\r\n",
        b"\n\n" + lines(3).replace(b"\n", b"\n \n\n\t\r\n") + b"\n\n\n",
        lines(2) + b"\nnot JSON\n[1]\n\xff\n" + line("", name="no key") + b"\n" + line("last"),
        lines(1) + b"\n" + line("long", name="x" * 300) + b"\n" + line("last"),
        SOURCE + b"\n\n" + b" " * 40,
    ],
    ids=["no last newline", "BOM", "CRLF", "blank lines", "rejects", "a long line", "blank end"],
)
async def test_lines_may_be_cut_at_any_byte(tmp_path: Path, data: bytes) -> None:
    path = saved(tmp_path, data)
    wanted = await whole(path)
    for shard_bytes in [1, *range(25, len(data) + 1)]:
        assert (await sharded(path, shard_bytes)).seen == wanted.seen, shard_bytes


async def test_a_line_that_is_longer_than_shards_is_one_of_them(tmp_path: Path) -> None:
    found = await same(saved(tmp_path, lines(20) + b"\n" + line("x", name="n" * 5000) + b"\n" + lines(20)), 500)
    assert max(shard.end - shard.start for shard in found.shards) > 5000
    assert len(found.shards) > 5


async def test_a_record_that_is_too_long_is_rejected_in_its_shard(tmp_path: Path) -> None:
    data = lines(20) + b"\n" + line("x", name="n" * 5000) + b"\n" + line("last", name="n" * 5000)
    found = await same(saved(tmp_path, data), 500, max_record_bytes=1024)
    assert [record[0] for record in found.records].count("record_too_large") == 2


pieces_of_lines = st.lists(
    st.sampled_from(
        [SOURCE, line("a"), line("b", name="é€"), b"", b" ", b"\r", b"{", b"[]", b"\xff", b"\0", b"x" * 70]
    ),
    max_size=25,
)


@untimed
@given(pieces_of_lines, st.integers(1, 200), st.sampled_from([b"\n", b"\r\n"]), st.booleans())
def test_any_lines_are_read_alike_by_shards(
    tmp_path: Path, parts: list[bytes], shard_bytes: int, newline: bytes, ends: bool
) -> None:
    data = newline.join([SOURCE, line("first"), *parts]) + newline * ends
    anyio.run(same, saved(tmp_path, data), shard_bytes)


# documents


@pytest.mark.parametrize("indent", [None, 1])
async def test_a_document_is_cut_between_its_records(tmp_path: Path, indent: int | None) -> None:
    data = json.dumps(directory(domain="d.org", totalCount=200), indent=indent).encode()
    found = await same(saved(tmp_path, data), 1000)
    assert len(found.shards) > 10
    assert not found.joins
    assert all(data[shard.start - 1 : shard.start] == b"}" for shard in found.shards[1:])
    assert found.numbers == ([("totalCount", 200, 200)], [], {})


async def test_the_records_of_all_shards_have_the_portal_that_the_header_names_behind_them(tmp_path: Path) -> None:
    found = await same(saved(tmp_path, json.dumps(directory(domain="Data.Example.org")).encode()), 1000)
    assert {record[-1] for record in found.records} == {"data.example.org"}
    assert len(found.shards) > 10


async def test_a_total_is_compared_with_the_records_of_all_shards(tmp_path: Path) -> None:
    packages = [{"id": f"p{number}", "metadata_modified": "2020", "url": "https://d.org/x"} for number in range(90)]
    path = saved(tmp_path, json.dumps({"result": {"count": 100, "results": packages}}).encode())
    found = await same(path, 1000)
    assert len(found.shards) > 5
    assert [(total.portal, total.declared, total.read) for total in found.numbers[1]] == [("d.org", 100, 90)]


async def test_sources_and_assets_may_come_in_either_order(tmp_path: Path) -> None:
    sources = [{"source_key": f"s{number}"} for number in range(50)]
    assets = [{"asset_key": f"k{number}", "source_key": "s1"} for number in range(200)]
    for thing in ({"sources": sources, "assets": assets}, {"assets": assets, "sources": sources}):
        found = await same(saved(tmp_path, json.dumps(thing).encode()), 700)
        assert len(found.shards) > 5


async def test_records_that_are_not_read_are_counted_in_the_last_shard(tmp_path: Path) -> None:
    data = json.dumps(directory(20, other=[{"id": "a", "name": "x", "domain": "d"}] * 7, domain="d")).encode()
    found = await same(saved(tmp_path, data), 300)
    assert found.numbers[2] == {"other": 7}


async def test_arrays_inside_records_that_look_like_the_documents_are_no_places_to_cut(tmp_path: Path) -> None:
    views = [
        {"id": f"abcd-{number:04}", "columns": [{"id": column} for column in range(40)], "viewType": "tabular"}
        for number in range(100)
    ]
    found = await same(saved(tmp_path, json.dumps(views).encode()), 3000, domain="d.org")
    assert len(found.shards) > 8


async def test_a_piece_that_ends_inside_a_record_is_joined_with_the_next_one(tmp_path: Path) -> None:
    data = json.dumps(directory(domain="d.org")).encode()
    path = saved(tmp_path, data)
    shards = (await cut(IndexRef.of(path), Settings(), 1000)).shards
    wrong = data.index(b'"name"', shards[3].start)
    shards[2] = replace(shards[2], end=wrong, last=wrong)
    shards[3] = replace(shards[3], start=wrong, first=wrong)
    found = await same(path, 1000, shards)
    assert found.joins == 1
    assert len(found.shards) == len(shards) - 1


def hostile(rng: random.Random, depth: int = 3) -> Any:
    """A value with texts and arrays that look like the document's own."""
    chance = rng.random()
    if depth and chance < 0.35:
        return [
            {"id": rng.choice(["x", 'a},{"id":"b"', '}]},{"id":']), "v": hostile(rng, depth - 1)}
            for _ in range(rng.randint(1, 6))
        ]
    if depth and chance < 0.5:
        return {"id": hostile(rng, depth - 1), "more": [hostile(rng, depth - 1) for _ in range(3)]}
    return rng.choice([1, None, 'text },{"id":1} ]}', "\\", '"', "€" * 5, '\\"},{"id'])


def hostile_document(rng: random.Random) -> bytes:
    records = [{"id": f"k{n}", "domain": "d.example", "v": hostile(rng)} for n in range(rng.randint(3, 60))]
    sources = [{"id": 1, "source_key": f"s{number}", "domain": "d"} for number in range(rng.randint(1, 30))]
    shapes: list[Any] = [
        {"source": "socrata", "domain": "d.example", "datasets": records, "totalCount": len(records)},
        {"datasets": records, "kept": records[:3], "domain": "d.example", "other": records},
        {"assets": records, "sources": sources},
        {"sources": sources, "assets": records},
        {
            "assets": [{**record, "source_key": "s1"} for record in records],
            "sources": sources,
            "x": {"assets": records},
        },
        records,
    ]
    separators = rng.choice([(",", ":"), (", ", ": "), (" ,\n", " :\r\n")])
    return json.dumps(rng.choice(shapes), indent=rng.choice([None, None, 1]), separators=separators).encode()


@settings(untimed, max_examples=25 * SCALE)
@given(st.integers(0, 1 << 30), st.integers(40, 3000), st.sampled_from(["", "cut off", "broken", "twice"]))
def test_hostile_documents_are_read_alike_by_shards(tmp_path: Path, seed: int, shard_bytes: int, fault: str) -> None:
    rng = random.Random(seed)
    data = hostile_document(rng)
    if fault == "cut off":
        data = data[: rng.randrange(len(data) // 2, len(data))]
    elif fault == "broken":
        at = rng.randrange(len(data) // 2, len(data))
        data = data[:at] + rng.choice([b"", b"}", b'"', b",", b"x"]) + data[at + 1 :]
    elif fault == "twice":
        data += b"\n" + hostile_document(rng)
    anyio.run(same, saved(tmp_path, data), shard_bytes)


def real_indexes(shared_data: Path) -> list[Path]:
    return sorted([*shared_data.glob("*.json"), *(shared_data / "portals").iterdir()])


def eighth(path: Path) -> int:
    """The size of shards of which a file is eight."""
    return path.stat().st_size // 8 + 1


async def test_real_indexes_are_read_alike_by_shards(shared_data: Path) -> None:
    split = {}
    for path in real_indexes(shared_data):
        needs_domain = path.name.startswith(("view", "pod10"))
        found = await same(path, eighth(path), domain="told.example.org" if needs_domain else None)
        split[path.name] = len(found.shards)
    assert split["directory_sf.json"] > 3
    assert split["dcat_us_portal.json"] > 3
    assert sum(count > 1 for count in split.values()) > 3


# pages


def page(number: int, portal: str, where: str, total: int = 40, **more: Any) -> dict[str, Any]:
    packages = [{"id": f"p{number}-{at}", "metadata_modified": "2020", "url": f"https://x{at}.org/"} for at in range(3)]
    header = {"help": f"https://{portal}/api/3/action/help_show"}
    before, behind = (header, {}) if where == "before" else ({}, header if where == "behind" else {})
    return {**before, "result": {"count": total, "results": packages, **more}, **behind}


@pytest.mark.parametrize("where", ["before", "behind", "mixed"])
async def test_pages_are_cut_between_two_of_them(tmp_path: Path, where: str) -> None:
    wheres = ["before", "behind", "nowhere"] if where == "mixed" else [where]
    pages = [
        page(number, f"d{number // 7}.org", wheres[number % len(wheres)], 40 + number // 10) for number in range(40)
    ]
    found = await same(saved(tmp_path, "\n".join(map(json.dumps, pages)).encode()), 1500)
    assert len(found.shards) > 5
    assert not found.joins
    assert sum(total.read for total in found.numbers[1]) == 120


async def test_what_is_no_page_is_an_error_wherever_it_is(tmp_path: Path) -> None:
    pages = [json.dumps(page(number, "d.org", "behind")) for number in range(12)]
    for at in range(12):
        for wrong in (
            '{"success": false}',
            "{",
            "[]",
            "1",
            pages[0][:-1],
            pages[0] + "}",
            "",
            pages[0].replace(",", ",\n"),
        ):
            path = saved(tmp_path, "\n".join([pages[0], *pages[1:at], wrong, *pages[at + 1 :]]).encode())
            await same(path, 700)


# shards


def test_only_shards_that_follow_one_another_are_joined() -> None:
    shards = [Shard(number, at, 0, at, at + 10, at + 10) for number, at in enumerate(range(0, 100, 10))]
    assert join(shards[2], shards[3]) == Shard(2, 20, 0, 20, 40, 40)
    with pytest.raises(ValueError, match="does not follow"):
        join(shards[2], shards[4])


def test_what_does_not_end_is_joined_with_half_as_much_again_each_time() -> None:
    shards = [Shard(number, at, 0, at, at + 10, at + 10) for number, at in enumerate(range(0, 100, 10))]
    shards[-1] = Shard(9, 90, 0, 90, UNKNOWN, 100)
    ends = []
    while len(shards) > 3:
        shards = rejoined(shards, 2, "open")
        ends.append(shards[2].end)
    assert ends == [40, 50, 70, UNKNOWN]
    assert [shard.end for shard in rejoined([Shard(0, 0, 0, 0, 9, 9), Shard(1, 9, 0, 9, UNKNOWN, 20)], 0, "left")] == [
        -1
    ]


# files that are not what was cut


async def read(path: Path | str, shard: Shard, while_read: Callable[[], object] = lambda: None) -> bytes:
    """Read a shard, and return its digest."""
    async with read_shard(IndexRef.of(path), shard, Settings()) as reader:
        async for _ in reader.records():
            while_read()
        return reader.digest


async def failing(path: Path, shard: Shard, while_read: Callable[[], object] = lambda: None) -> str:
    with pytest.raises(IndexUnreadable) as caught:
        await read(path, shard, while_read)
    return str(caught.value)


async def test_a_file_that_was_changed_is_not_read(tmp_path: Path) -> None:
    path = saved(tmp_path, lines())
    shards = (await cut(IndexRef.of(path), Settings(), 1000)).shards
    path.write_bytes(lines() + b"\n")
    for shard in (shards[0], shards[5], shards[-1]):
        assert "was changed" in await failing(path, shard)


async def test_a_file_with_other_lines_or_fewer_is_noticed_where_its_time_is_the_same(tmp_path: Path) -> None:
    path = saved(tmp_path, lines())
    shard = (await cut(IndexRef.of(path), Settings(), 1000)).shards[5]
    for data, evidence in ((lines().replace(b"\n", b" "), "no line ends"), (lines()[: shard.start + 10], "it ends at")):
        path.write_bytes(data)
        other = replace(shard, size=len(data), modified=path.stat().st_mtime_ns)
        assert evidence in await failing(path, other)


async def test_a_file_that_changes_while_a_shard_is_read_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path, lines(20_000))
    shard = (await cut(IndexRef.of(path), Settings(), 500_000)).shards[1]
    assert "was changed" in await failing(path, shard, lambda: os.utime(path, ns=(1, 1)))


async def test_the_digest_of_a_shard_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = saved(tmp_path, lines())
    shards = [replace(shard, modified=UNKNOWN) for shard in (await cut(IndexRef.of(path), Settings(), 1000)).shards]
    before = [await read(path, shard) for shard in shards]
    path.write_bytes(lines().replace(b'"k150"', b'"K150"'))
    after = [await read(path, shard) for shard in shards]
    assert sum(old != new for old, new in zip(before, after, strict=True)) == 1


async def test_an_index_of_one_shard_says_why(tmp_path: Path) -> None:
    nested = [{"datasets": [{"id": f"k{number}", "permalink": "https://d.org/x"}]} for number in range(200)]
    for data, options in (
        (lines(2), dict[str, Any]()),
        (json.dumps({"groups": nested}).encode(), {"records_at": "groups[].datasets", "dialect": "directory"}),
        (b'{"datasets": []}' + b" " * 5000, {}),
    ):
        path = saved(tmp_path, data)
        found = await cut(IndexRef.of(path), Settings(**options), 1000)
        assert [(shard.start, shard.end) for shard in found.shards] == [(0, UNKNOWN)]
        assert found.reason
        await same(path, 1000, **options)


async def test_standard_input_is_one_shard() -> None:
    found = await cut(IndexRef.of("-"), Settings(), 1000)
    assert [(shard.start, shard.end) for shard in found.shards] == [(0, UNKNOWN)]
    assert "standard input" in found.reason
