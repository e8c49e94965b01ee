"""Packed lines read by shards have the records of the whole, or an error: never fewer or other ones."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from sharded import sharded, whole
from test_shards import BOM, SCALE, SOURCE, line, lines, pieces_of_lines, same, untimed

from seed_registry.index.inputs import IndexRef
from seed_registry.index.shard_plan import cut
from seed_registry.settings import Settings

pytestmark = pytest.mark.anyio

Pack = Callable[[bytes, int], bytes]


def member(data: bytes, *, says: int | None = None, level: int = 6, length: int | None = None) -> bytes:
    """A member of BGZF, which may lie about what it unpacks to and about its length."""
    packer = zlib.compressobj(level, zlib.DEFLATED, -15)
    body = packer.compress(data) + packer.flush()
    size = struct.pack("<H", (len(body) + 25 if length is None else length) & 0xFFFF)
    header = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0" + size
    return header + body + struct.pack("<II", zlib.crc32(data), len(data) if says is None else says)


def bgzf(data: bytes, block: int) -> bytes:
    return b"".join(member(data[at : at + block]) for at in range(0, len(data), block)) + member(b"")


def frames(data: bytes, block: int) -> list[bytes]:
    packer = zstandard.ZstdCompressor(level=3, write_checksum=True, write_content_size=True)
    return [packer.compress(data[at : at + block]) for at in range(0, len(data), block)]


def zstd(data: bytes, block: int) -> bytes:
    skippable = struct.pack("<II", 0x184D2A50, 3) + b"hey"
    return skippable.join(frames(data, block))


def untold(data: bytes, block: int) -> list[bytes]:
    """Frames that do not tell their size."""
    packers = [zstandard.ZstdCompressor(write_content_size=False).compressobj() for _ in range(0, len(data), block)]
    return [packer.compress(data[number * block :][:block]) + packer.flush() for number, packer in enumerate(packers)]


def seekable(data: bytes, block: int, *, wrong: int = 0) -> bytes:
    """The same with a seek table, whose first entry may be wrong by some bytes."""
    packed = untold(data, block)
    sizes = [len(data[at : at + block]) for at in range(0, len(data), block)]
    sizes[0] += wrong
    entries = b"".join(struct.pack("<II", len(frame), size) for frame, size in zip(packed, sizes, strict=True))
    table = entries + struct.pack("<IBI", len(packed), 0, 0x8F92EAB1)
    return b"".join(packed) + struct.pack("<II", 0x184D2A5E, len(table)) + table


def saved(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "x.packed"
    path.write_bytes(data)
    return path


PACKS = pytest.mark.parametrize("pack", [bgzf, zstd, seekable])


@PACKS
async def test_packed_lines_are_cut_where_blocks_begin_and_read_from_where_lines_do(tmp_path: Path, pack: Pack) -> None:
    data = BOM + lines()
    packed = pack(data, 500)
    found = await same(saved(tmp_path, packed), len(packed) // 12)
    assert len(found.shards) > 6
    assert all(data[shard.start - 1 : shard.start] == b"\n" for shard in found.shards[1:])
    assert any(shard.skip for shard in found.shards)
    assert sum(shard.last - shard.first for shard in found.shards) == len(packed)


@PACKS
async def test_a_line_may_lie_in_many_blocks(tmp_path: Path, pack: Pack) -> None:
    data = lines(20) + b"\n" + line("x", name="n" * 5000) + b"\n" + lines(20)
    found = await same(saved(tmp_path, pack(data, 60)), 300)
    assert len(found.shards) > 4


@PACKS
async def test_blocks_may_end_where_lines_do(tmp_path: Path, pack: Pack) -> None:
    data = b"\n".join(
        [SOURCE, b" " * (59 - len(SOURCE)), *(line(f"k{number:03}", name="n" * 29) for number in range(80))]
    )
    width = len(line("k000", name="n" * 29)) + 1
    for block in (width, 2 * width, width - 1, width + 1):
        found = await same(saved(tmp_path, pack(data, block)), 500)
        assert len(found.shards) > 3


@settings(untimed, max_examples=20 * SCALE)
@given(pieces_of_lines, st.integers(1, 90), st.integers(1, 400), st.sampled_from([bgzf, zstd, seekable]))
def test_any_packed_lines_are_read_alike_by_shards(
    tmp_path: Path, parts: list[bytes], block: int, shard_bytes: int, pack: Pack
) -> None:
    data = b"\n".join([SOURCE, line("first"), *parts])
    anyio.run(same, saved(tmp_path, pack(data, block)), shard_bytes)


# headers that lie


async def read_as_lied(path: Path, shard_bytes: int) -> None:
    """Whatever the headers say: the same records, or an error."""
    found, wanted = await sharded(path, shard_bytes), await whole(path)
    if found.error is None:
        assert found.seen == wanted.seen
    else:
        assert "damaged" in found.error
        assert len(found.shards) > 1 or wanted.error


@pytest.mark.parametrize("wrong", [-1, 1, 7, 70_000])
async def test_a_block_that_lies_about_what_it_unpacks_to_is_an_error(tmp_path: Path, wrong: int) -> None:
    data = lines()
    parts = [data[at : at + 500] for at in range(0, len(data), 500)]
    for liar in (0, 5, len(parts) - 1):
        blocks = [member(part, says=len(part) + (wrong if at == liar else 0)) for at, part in enumerate(parts)]
        path = saved(tmp_path, b"".join(blocks))
        await read_as_lied(path, 400)
        assert (await sharded(path, 400)).error


async def test_a_block_whose_length_leads_into_its_own_data_is_an_error(tmp_path: Path) -> None:
    # Its data are blocks, stored; the length in its header leads to the first of them, that of the last one to its end.
    fakes = [member(b"\n" + line(f"hidden{number}") + b"\n") for number in range(40)]
    before, last = b"\n" + b"".join(fakes), member(b"\n")
    stored = member(before + last, level=0)
    last = member(b"\n", length=len(stored) - stored.index(last) - 1)
    liar = member(before + last, level=0, length=stored.index(fakes[0]) - 1)
    path = saved(tmp_path, bgzf(lines(), 300).removesuffix(member(b"")) + liar)
    plan = await cut(IndexRef.of(path), Settings(), 500)
    assert plan.shards[-1].first > path.read_bytes().index(fakes[0]), "the plan believed it"
    found = await sharded(path, 500)
    assert "damaged" in str(found.error)
    assert not [record for record in found.records if str(record[1]).startswith("hidden")]


@pytest.mark.parametrize("wrong", [-5, 3])
async def test_a_seek_table_that_lies_is_an_error(tmp_path: Path, wrong: int) -> None:
    path = saved(tmp_path, seekable(lines(), 500, wrong=wrong))
    assert len((await cut(IndexRef.of(path), Settings(), 300)).shards) > 2
    assert "damaged" in str((await sharded(path, 300)).error)


@PACKS
async def test_a_damaged_or_cut_off_file_is_an_error(tmp_path: Path, pack: Pack) -> None:
    packed = pack(lines(), 500)
    for damaged in (
        packed[: len(packed) * 2 // 3],
        packed[: len(packed) // 2] + bytes(60) + packed[len(packed) // 2 + 60 :],
        packed + b"appended",
    ):
        path = saved(tmp_path, damaged)
        assert (await whole(path)).error
        found = await sharded(path, 500)
        assert found.error, "it has fewer records"
        if len(found.shards) == 1:
            assert found.seen == (await whole(path)).seen


# limits


@PACKS
async def test_the_limit_of_unpacked_bytes_holds_for_all_shards_together(tmp_path: Path, pack: Pack) -> None:
    data = lines()
    path = saved(tmp_path, pack(data, 500))
    assert (await sharded(path, 500, max_unpacked_bytes=len(data))).error is None
    assert "--max-unpacked-bytes" in str((await sharded(path, 500, max_unpacked_bytes=len(data) - 100)).error)


# what cannot be cut


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (gzip.compress(lines()), "bgzip"),
        (gzip.compress(lines()) + gzip.compress(b"\n" + line("x")), "bgzip"),
        (zstandard.compress(lines(3000)), "one piece"),
        (b"".join(untold(lines(), 500)), "do not tell"),
        (bgzf(b'{"datasets": [' + b",".join([b'{"id": "a", "domain": "d"}'] * 500) + b"]}", 100), "document"),
    ],
    ids=["gzip", "two members", "one frame", "frames of unknown size", "a document"],
)
async def test_what_cannot_be_cut_is_one_shard_with_a_command_that_helps(
    tmp_path: Path, packed: bytes, reason: str
) -> None:
    path = saved(tmp_path, packed)
    found = await cut(IndexRef.of(path), Settings(), 100)
    assert len(found.shards) == 1
    assert reason in found.reason
    await same(path, 100)
    command = found.fix.split(" && ")[0]
    await anyio.run_process(command, cwd=tmp_path)
    assert len((await cut(IndexRef.of(tmp_path / "UNPACKED"), Settings(), 100)).shards) > 1
