from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from seed_registry.errors import IndexNotUnderstood, IndexUnreadable, SeedRegistryError
from seed_registry.index import byte_stream
from seed_registry.index.byte_stream import CHUNK_BYTES, HEAD_BYTES, open_index
from seed_registry.index.inputs import IndexRef
from seed_registry.index.local_file import LocalFile

pytestmark = pytest.mark.anyio

TEXT = b"".join(b'{"id":"%d"}\n' % number for number in range(60_000))  # several chunks
NOISE = random.Random(3).randbytes(40_000)
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip"
BOM = b"\xef\xbb\xbf"
DEADLINE = 60  # seconds until a hang is called one; nothing here takes one


def zstd(data: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(data)


def gzip_members(data: bytes) -> bytes:
    return b"".join(gzip.compress(data[start : start + 100_000], mtime=0) for start in range(0, len(data), 100_000))


def zstd_frames(data: bytes) -> bytes:
    between = zstd(b"") + SKIPPABLE
    frames = [zstd(data[start : start + 100_000]) for start in range(0, len(data), 100_000)]
    return between.join(frames) + between


def skippable(length: int, number: int = 15) -> bytes:
    return bytes([0x50 + number]) + b"\x2a\x4d\x18" + length.to_bytes(4, "little") + bytes(length)


def pzstd(data: bytes) -> bytes:
    """As pzstd writes it: before each frame a skippable one that holds its length."""
    frames = [zstd(data[start : start + 100_000]) for start in range(0, len(data), 100_000)]
    return b"".join(SKIPPABLE[:8] + len(frame).to_bytes(4, "little") + frame for frame in frames)


def zstd_streamed(data: bytes) -> bytes:
    compressor = zstandard.ZstdCompressor(write_checksum=True).compressobj()  # a frame without its size
    return compressor.compress(data) + compressor.flush()


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "gzip members": gzip_members,
    "gzip with zeros behind": lambda data: gzip.compress(data) + bytes(512),
    "zstd": zstd,
    "zstd frames": zstd_frames,
    "zstd behind a skippable frame": lambda data: SKIPPABLE + zstd(data),
    "zstd of pzstd": pzstd,
    "zstd behind a long skippable frame": lambda data: skippable(200_000) + zstd(data),
    "zstd behind many skippable frames": lambda data: skippable(0) * 500 + SKIPPABLE + zstd(data),
    "zstd before empty frames": lambda data: zstd(data) + zstd(b"") * 3 + skippable(0),
    "gzip with empty members": lambda data: gzip.compress(b"") * 2 + gzip.compress(data) + gzip.compress(b""),
    "zstd streamed": zstd_streamed,
    "zstd with a checksum": lambda data: zstd(data, write_checksum=True),
}


async def read(path: Path | str) -> bytes:
    async with open_index(IndexRef.of(path)) as index:
        return b"".join([chunk async for chunk in index.chunks()])


def saved(tmp_path: Path, data: bytes, name: str = "index.json") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


# reading


@pytest.mark.parametrize("packed", PACKED.values(), ids=PACKED)
@pytest.mark.parametrize("name", ["index.json", "index.json.gz", "index.zst", "index"])
async def test_an_index_unpacks_to_its_bytes_whatever_its_name(tmp_path: Path, packed: Any, name: str) -> None:
    assert await read(saved(tmp_path, packed(TEXT), name)) == TEXT


@pytest.mark.parametrize("packed", PACKED.values(), ids=PACKED)
async def test_what_does_not_compress_unpacks_too(tmp_path: Path, packed: Any) -> None:
    data = json.dumps(NOISE.hex() * 9).encode()
    assert await read(saved(tmp_path, packed(data))) == data


@pytest.mark.parametrize("packed", PACKED.values(), ids=PACKED)
async def test_one_byte_order_mark_is_dropped(tmp_path: Path, packed: Any) -> None:
    async with open_index(IndexRef.of(saved(tmp_path, packed(BOM + b"[1]")))) as index:
        assert (index.head, index.head_offset) == (b"[1]", 3)
        assert [chunk async for chunk in index.chunks()] == [b"[1]"]
    assert await read(saved(tmp_path, packed(BOM + BOM + b"[1]"))) == BOM + b"[1]"


async def test_the_head_is_the_beginning_and_chunks_are_bounded(tmp_path: Path) -> None:
    path = saved(tmp_path, gzip.compress(TEXT))
    async with open_index(IndexRef.of(path)) as index:
        assert HEAD_BYTES <= len(index.head) <= HEAD_BYTES + CHUNK_BYTES
        assert TEXT.startswith(index.head)
        assert (index.name, index.size) == (str(path), path.stat().st_size)
        assert 0 < index.position <= path.stat().st_size
        assert all([0 < len(chunk) <= HEAD_BYTES + CHUNK_BYTES async for chunk in index.chunks()])
        assert index.position == path.stat().st_size


@pytest.mark.parametrize("packed", PACKED.values(), ids=PACKED)
@pytest.mark.parametrize("step", [1, 3])
async def test_a_file_that_comes_in_crumbs_is_recognised_all_the_same(
    tmp_path: Path, packed: Any, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crumbs(io.FileIO):  # a pipe may hand over one byte at a time
        def readinto(self, buffer: Any, /) -> int:
            return super().readinto(memoryview(buffer).cast("B")[:step])

    monkeypatch.setattr(io, "FileIO", Crumbs)
    assert await read(saved(tmp_path, packed(TEXT[:3000]))) == TEXT[:3000]


async def test_a_single_byte_is_an_index_that_ends_there(tmp_path: Path) -> None:
    assert await read(saved(tmp_path, b"[")) == b"["


# refused files


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" \n\t\r\n",
        BOM,
        BOM + b"\n",
        gzip.compress(b"", mtime=0),
        gzip.compress(b"\n", mtime=0),
        zstd(b""),
        b"\n" * 99_999,
    ],
)
async def test_nothing_and_white_space_alone_are_empty(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(IndexNotUnderstood, match="is empty"):
        await read(saved(tmp_path, data))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n" + NOISE, "a PNG image"),
        (b"%PDF-1.7 ", "a PDF document"),
        (b"PK\x03\x04" + NOISE, "a zip archive"),
        (b"BZh91AY", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
        ('{"a":1}'.encode("utf-16"), "UTF-16"),
        (b"\xfe\xff" + '{"a":1}'.encode("utf-16-be"), "UTF-16"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"PAR1", "a Parquet file"),
        (b"\x7fELF\2", "a program"),
        (gzip.compress(b"\x89PNG\r\n", mtime=0), "a PNG image"),
        (zstd(b"PK\x03\x04"), "a zip archive"),
    ],
)
async def test_another_kind_of_file_is_refused_by_its_kind(tmp_path: Path, data: bytes, kind: str) -> None:
    with pytest.raises(IndexNotUnderstood, match=f"is not an index but {kind}"):
        await read(saved(tmp_path, data))


async def refused(path: Path | str) -> str:
    with pytest.raises(IndexUnreadable) as caught:
        await read(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


async def test_a_missing_file_is_an_error_with_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert await refused("no.json") == f"no.json: no such file (looked in {tmp_path})"


async def test_what_is_no_file_is_refused_by_what_it_is(tmp_path: Path) -> None:
    assert await refused(tmp_path) == f"{tmp_path} is a directory, not an index file"
    assert await refused("/dev/zero") == "/dev/zero is a device, not an index file"
    assert await refused("/dev/null") == "/dev/null is a device, not an index file"
    assert "cannot be opened" in await refused(saved(tmp_path, b"") / "below")
    assert "has a NUL in its name" in await refused("a\0b")
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot be opened" in await refused(tmp_path / "loop")
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        assert "cannot be opened" in await refused(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, b"[]")
    path.chmod(0)
    assert "permission denied" in await refused(path)


async def test_a_closed_stdin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert await refused("-") == "stdin is closed"


@pytest.mark.parametrize(
    "name", ["gzip", "gzip members", "zstd", "zstd frames", "zstd streamed", "zstd with a checksum"]
)
async def test_compressed_data_that_is_cut_off_is_noticed(tmp_path: Path, name: str) -> None:
    data = PACKED[name](TEXT[:2000] + NOISE)
    whole = len(data) - len(zstd(b"") + SKIPPABLE) if name == "zstd frames" else len(data)
    for length in [*range(5, 30), *range(30, whole, 997), *range(whole - 30, whole)]:
        message = await refused(saved(tmp_path, data[:length]))
        assert "damaged or cut off" in message
        assert "byte" in message


@pytest.mark.parametrize("name", ["gzip", "zstd with a checksum"])
async def test_corrupted_compressed_data_never_passes_for_good(tmp_path: Path, name: str) -> None:
    text = TEXT[:3000] + NOISE[:3000].hex().encode()
    data = PACKED[name](text)
    rng = random.Random(11)
    noticed = 0
    for _ in range(150):
        place = rng.randrange(4, len(data))
        path = saved(tmp_path, data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :])
        try:
            assert await read(path) == text  # some bits of a header mean nothing
        except SeedRegistryError:
            noticed += 1
    assert noticed > 120


@pytest.mark.parametrize("packed", [gzip.compress, zstd, pzstd])
@pytest.mark.parametrize("behind", [b"garbage", b"g", b"}\n" + NOISE])
async def test_garbage_behind_compressed_data_is_reported_as_such(tmp_path: Path, packed: Any, behind: bytes) -> None:
    assert "ends in bytes that are no " in await refused(saved(tmp_path, packed(TEXT) + behind))


@pytest.mark.parametrize("cut", [5, 7, 8, 11])
async def test_a_skippable_frame_that_is_cut_off_is_noticed(tmp_path: Path, cut: int) -> None:
    for before in (b"", zstd(TEXT)):
        assert "damaged or cut off" in await refused(saved(tmp_path, before + SKIPPABLE[:cut]))


async def test_skippable_frames_alone_are_an_empty_index(tmp_path: Path) -> None:
    with pytest.raises(IndexNotUnderstood, match="is empty"):
        await read(saved(tmp_path, SKIPPABLE * 3))


async def test_what_came_before_the_damage_is_read_first(tmp_path: Path) -> None:
    data = gzip.compress(TEXT + NOISE)
    chunks: list[bytes] = []

    async def collect() -> None:
        async with open_index(IndexRef.of(saved(tmp_path, data[: len(data) // 2]))) as index:
            async for chunk in index.chunks():
                chunks.append(chunk)  # noqa: PERF401  # a comprehension would lose them all

    with pytest.raises(IndexUnreadable):
        await collect()
    assert TEXT.startswith(b"".join(chunks)[: len(TEXT)])
    assert len(b"".join(chunks)) >= HEAD_BYTES


# complete files that are not unpacked here


def with_window(log: int) -> bytes:
    return b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([(log - 10) << 3]) + b"\x01\x00\x00"


@pytest.mark.parametrize("before", [b"", SKIPPABLE])
async def test_a_window_beyond_the_limit_is_an_error_with_a_command_that_unpacks_it(
    tmp_path: Path, before: bytes
) -> None:
    path = saved(tmp_path, before + with_window(31))
    with pytest.raises(IndexUnreadable) as caught:
        await read(path)
    first, second = str(caught.value).splitlines()
    assert "a window of 2,048 MiB, and 128 MiB is the most" in first
    assert "damaged" not in first
    assert second == f"unpack it: zstd -d --long=31 -c {path} | seed-registry load -"


async def test_the_largest_window_that_is_allowed_is_unpacked(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = compressor.compress(TEXT) + compressor.flush()
    assert zstandard.get_frame_parameters(data).window_size == 128 << 20
    assert await read(saved(tmp_path, data)) == TEXT


async def test_a_missing_dictionary_is_reported(tmp_path: Path) -> None:
    samples: list[Any] = [b'{"id":"%d","name":"the name of %d"}' % (number, number * 7) for number in range(2_000)]
    dictionary = zstandard.train_dictionary(4_000, samples)
    path = saved(tmp_path, zstd(TEXT, dict_data=dictionary))
    with pytest.raises(IndexUnreadable, match=r"needs its dictionary \(id \d+\)\nunpack it: zstd -d -D DICTIONARY -c"):
        await read(path)


TOLD_BY_NAME = {
    "bzip2": (b"BZh91AY", "index.json", "bzip2 -dc {}"),
    "xz": (b"\xfd7zXZ\0", "index.json", "xz -dc {}"),
    "lzma": (b"\x5d\x00\x00\x80\x00" + NOISE, "index.json", "xz -dc --format=lzma {}"),
    "lz4": (b"\x04\x22\x4d\x18" + NOISE, "an index.json", "lz4 -dc '{}'"),
    "lz4 behind a skippable frame": (SKIPPABLE + b"\x04\x22\x4d\x18" + NOISE, "index.json", "lz4 -dc {}"),
    "brotli": (b"\x1b\xff\xff\xff" + NOISE, "index.json.br", "brotli -dc {}"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + NOISE, "index.7z", "7z x -so {}"),
    "zip": (b"PK\x03\x04" + NOISE, "index.zip", "unzip -p {}"),
    "tar": (b"index.json".ljust(257, b"\0") + b"ustar\0" + NOISE, "index.tar", "tar -xOf {}"),
    "tar in gzip": (gzip.compress(b"index.json".ljust(257, b"\0") + b"ustar\0" + NOISE), "a.tgz", "tar -xOf {}"),
    "gzip in zstd": (zstd(gzip.compress(TEXT)), "index.json", "zstd -dc {} | gzip -dc"),
    "zstd in gzip": (gzip.compress(zstd(TEXT)), "index.json", "gzip -dc {} | zstd -dc"),
    "xz in gzip": (gzip.compress(b"\xfd7zXZ\0"), "index.json", "gzip -dc {} | xz -dc"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TOLD_BY_NAME)
async def test_other_compressions_and_archives_are_errors_with_a_command_that_unpacks_them(
    tmp_path: Path, kind: str
) -> None:
    data, name, command = TOLD_BY_NAME[kind]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(SeedRegistryError) as caught:
        await read(path)
    first, second = str(caught.value).splitlines()
    assert kind.partition(" ")[0].replace("zstd", "zstandard") in first
    assert second == f"unpack it: {command.format(path)} | seed-registry load -"


async def test_an_index_whose_name_says_brotli_is_read_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "index.json.br"
    path.write_bytes(b" \n" + TEXT)
    assert await read(path) == b" \n" + TEXT


# pipes


async def test_a_named_pipe_is_read_when_somebody_writes_to_it(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(gzip.compress(TEXT)))
    writer.start()
    assert await read(path) == TEXT
    writer.join()


async def test_a_pipe_has_no_size(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(TEXT))
    writer.start()
    async with open_index(IndexRef.of(path)) as index:
        assert index.size is None
        assert b"".join([chunk async for chunk in index.chunks()]) == TEXT
        assert index.position == len(TEXT)
    writer.join()


def run(script: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, timeout=DEADLINE, check=False, **options
    )


READ_STDIN = """
import anyio, hashlib
from seed_registry.index.byte_stream import open_index
from seed_registry.index.inputs import IndexRef
async def main():
    digest = hashlib.sha256()
    async with open_index(IndexRef.of("-")) as index:
        async for chunk in index.chunks():
            digest.update(chunk)
        print(index.name, index.size, index.position, digest.hexdigest())
anyio.run(main)
"""


WITHOUT_STDIN = """
import os, sys
os.close(0)
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""


@pytest.mark.parametrize("packed", PACKED.values(), ids=PACKED)
@pytest.mark.sampled(5)
async def test_stdin_may_be_a_pipe(packed: Any) -> None:
    data = packed(TEXT)
    done = run(READ_STDIN, input=data)
    assert done.stdout.decode().split() == ["stdin", "None", str(len(data)), hashlib.sha256(TEXT).hexdigest()], (
        done.stderr
    )


async def test_stdin_may_be_a_file(tmp_path: Path) -> None:
    with saved(tmp_path, TEXT).open("rb") as file:
        done = run(READ_STDIN, stdin=file)
    assert done.stdout.split()[:3] == [b"stdin", str(len(TEXT)).encode(), str(len(TEXT)).encode()]


async def test_stdin_may_be_empty_or_closed() -> None:
    assert b"IndexNotUnderstood: stdin is empty" in run(READ_STDIN, stdin=subprocess.DEVNULL).stderr
    closed = run(WITHOUT_STDIN, READ_STDIN)
    assert b"IndexUnreadable: stdin is closed" in closed.stderr


CANCELLED = """
import anyio, sys
from seed_registry.index.byte_stream import open_index
from seed_registry.index.inputs import IndexRef
async def main():
    with anyio.move_on_after(0.2) as scope:
        async with open_index(IndexRef.of(sys.argv[1])) as index:
            async for chunk in index.chunks():
                pass
    print("cancelled", scope.cancelled_caught, flush=True)
anyio.run(main)
"""


@pytest.mark.parametrize(
    "written", [b"", b"[1,", b" " * HEAD_BYTES + b"[1,", b"\x1f", gzip.compress(TEXT, mtime=0)[:20]]
)
async def test_waiting_for_a_silent_pipe_can_be_cancelled_and_the_process_ends(written: bytes) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        os.write(writing, written[: 60 << 10])
        done = run(CANCELLED, "-", stdin=reading)  # the pipe stays open: its end would be news
    finally:
        os.close(writing)
        os.close(reading)
    assert done.stdout == b"cancelled True\n", done.stderr
    assert (done.returncode, done.stderr) == (0, b"")


async def test_waiting_for_somebody_to_write_to_a_named_pipe_can_be_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    done = run(CANCELLED, str(path))
    assert done.stdout == b"cancelled True\n", done.stderr
    assert (done.returncode, done.stderr) == (0, b"")


# high compression

MEASURED = """
import anyio, resource, sys
from seed_registry.index.byte_stream import open_index
from seed_registry.index.inputs import IndexRef
async def main():
    total = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with open_index(IndexRef.of(sys.argv[1])) as index:
        async for chunk in index.chunks():
            total += len(chunk)
    print(total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
anyio.run(main)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory is counted in other units")
@pytest.mark.parametrize("kind", ["gzip", "zstd", "zstd in one frame", "zstd of pzstd"])
async def test_a_file_that_compresses_well_unpacks_in_bounded_memory(tmp_path: Path, kind: str) -> None:
    zeros, times = bytes(10 << 20), 20
    if kind == "zstd in one frame":
        compressor = zstandard.ZstdCompressor().compressobj()
        data = b"".join(compressor.compress(zeros) for _ in range(times)) + compressor.flush()
    else:
        before = SKIPPABLE if kind == "zstd of pzstd" else b""
        data = before + (gzip.compress(zeros, 6) if kind == "gzip" else before + zstd(zeros)) * times
    path = saved(tmp_path, data)
    assert len(data) < 300_000
    done = run(MEASURED, str(path))
    total, grown_kib = map(int, done.stdout.split())
    assert total == len(zeros) * times
    assert grown_kib < 128 << 10, "a piece of zstandard may unpack to 32 MiB, and be copied"


@pytest.mark.parametrize("packed", [gzip.compress, zstandard.compress])
async def test_an_index_may_unpack_to_a_minimum_and_a_multiple_of_its_size(
    tmp_path: Path, packed: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byte_stream, "_UNSUSPECTED_BYTES", 1 << 20)
    monkeypatch.setattr(byte_stream, "_UNSUSPECTED_RATIO", 2)
    size = len(packed(b"[" + bytes(1 << 20)))
    for content, is_accepted in (
        (bytes((1 << 20) - 1 + size), True),
        (bytes((1 << 20) + 3 * size), False),
        (random.Random(1).randbytes(2 << 20), True),
    ):
        path = saved(tmp_path, packed(b"[" + content))
        with contextlib.nullcontext() if is_accepted else pytest.raises(IndexUnreadable, match="--max-unpacked-bytes"):
            async with open_index(IndexRef.of(path)) as index:
                assert b"".join([chunk async for chunk in index.chunks()]) == b"[" + content


async def test_an_index_is_closed_when_it_is_left(tmp_path: Path) -> None:
    path = saved(tmp_path, TEXT)
    async with open_index(IndexRef.of(path)) as index:
        packed = index._packed
    assert packed.closed
    assert packed._file.closed


def test_a_file_is_not_closed_under_a_read_in_another_thread(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    raw = io.FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    writer = os.open(path, os.O_WRONLY)
    file = LocalFile(raw)
    reader = threading.Thread(target=file.readinto, args=(memoryview(bytearray(9)),))
    reader.start()
    time.sleep(0.05)
    file.close()
    assert not raw.closed, "the number of its descriptor could be another file's"
    reader.join(10)
    assert raw.closed
    os.close(writer)
