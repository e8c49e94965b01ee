"""Odd and large files, loaded by the real command: it ends in time, reports what it found, and needs little memory.

None of them exhausts a program that reads it: guards are tested at limits of their own, far below what others bear.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from msgspec import Struct

from seed_registry import DatabaseUrl
from seed_registry.index.json_checks import MAX_DEPTH
from seed_registry.index.sniff import MAX_LEVELS

Count = Callable[[str, int], None]
# Makes the file; returns what to load instead, if anything.
Make = Callable[[Path], object]

# Long enough for the largest file on a busy machine, short enough to notice a hang.
WATCHDOG_SECONDS = 60.0
MAX_RSS_BYTES = 250 << 20
MAX_ADDRESSES_BYTES = 1_500 << 20
MB = 1_000_000
LARGE = 400 * MB  # more than the command may keep in memory
BOM = b"\xef\xbb\xbf"
GOOD = b'{"type":"asset","id":"good-%d","domain":"d.org"}'
# A process of its own between pytest and the command: what it measures must not begin with pytest's own memory.
MEASURING = """
import os, resource, subprocess, sys
limit, rss = int(sys.argv[1]), sys.argv[2]
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
process = subprocess.Popen(sys.argv[3:])
_, status, usage = os.wait4(process.pid, 0)
with open(rss, "w") as file:
    file.write(str(usage.ru_maxrss * 1024))
code = os.waitstatus_to_exitcode(status)
os._exit(code if code >= 0 else 128 - code)
"""


class Ended(Struct, frozen=True):
    """How the command ended."""

    code: int
    rss: int
    stderr: str
    report: dict[str, Any]


class Case(Struct):
    """A file, and how a load of it must end: exit code, a part of stderr, and for exit code 0 the counts."""

    make: Make
    code: int = 0
    says: str = ""
    read: int = 0
    rejected: int = 0
    name: str = "index"
    options: tuple[str, ...] = ()
    seconds: float = WATCHDOG_SECONDS


Command = Callable[..., Ended]


@pytest.fixture
def command(database_url: DatabaseUrl, home: Path, tmp_path: Path) -> Command:
    """Load an index with the real command, within bounds of time and memory; its end is checked."""

    def run(index: object, *options: str, seconds: float = WATCHDOG_SECONDS) -> Ended:
        load = ["load", str(index), "--json", "--log-format", "json", "--rejects", str(tmp_path / "rejects"), *options]
        measuring = [sys.executable, "-c", MEASURING, str(MAX_ADDRESSES_BYTES), str(tmp_path / "rss")]
        process = subprocess.Popen(
            [*measuring, sys.executable, "-m", "seed_registry", *load],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
                "SEED_REGISTRY_HOME": str(home),
                "DATABASE_URL": database_url.reveal,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            stdout, stderr = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            stderr = process.communicate()[1]
            raise AssertionError(f"still running after {seconds} s: {stderr[-2_000:]!r}") from None
        report = json.loads(stdout) if stdout.strip() else {}
        ended = Ended(process.returncode, int((tmp_path / "rss").read_text()), stderr.decode(), report)
        check_end(ended)
        return ended

    return run


def check_end(ended: Ended) -> None:
    """Check what holds after every load: a documented exit code, no traceback, little memory, counts that add up."""
    assert ended.code in (0, 1, 3, 4), ended.stderr[-2_000:]
    assert "Traceback" not in ended.stderr
    assert "a defect" not in ended.stderr
    assert len(ended.stderr) < 20_000
    assert ended.rss < MAX_RSS_BYTES, f"{ended.rss / MB:.0f} MB"
    for table in ("assets", "sources"):
        counts = dict(ended.report.get(table, {"read": 0}))
        assert counts.pop("read") == sum(counts.values())


def check(command: Command, case: Case, directory: Path) -> Ended:
    """Make the file, load it, and check how that ended."""
    path = directory / case.name
    index = case.make(path) or path
    options = [*case.options, *(["--max-rejects", "100%"] if case.rejected else [])]
    try:
        ended = command(index, *options, seconds=case.seconds)
    finally:
        if path.is_file():
            path.unlink()  # some are large
    assert ended.code == case.code, ended.stderr[-2_000:]
    assert case.says in ended.stderr
    if case.code == 0:
        assert ended.report["assets"]["read"] == case.read
        assert ended.report["assets"]["rejected"] == case.rejected
        assert ended.report["verification"]["passed"]
    return ended


def rejects(directory: Path) -> list[dict[str, Any]]:
    path = directory / "rejects"
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


# Making files


def lines(*parts: bytes, end: bytes = b"\n") -> bytes:
    """Lines between two good ones."""
    return b"".join(part + end for part in (GOOD % 1, *parts, GOOD % 2))


def holding(data: bytes) -> Make:
    return lambda path: path.write_bytes(data) and None


def record(value: bytes, field: bytes = b"z") -> bytes:
    return b'{"type":"asset","id":"bomb","domain":"d.org","%b":%b}' % (field, value)


def nested(opening: bytes, closing: bytes) -> Make:
    """Lines that are nested deeper than the limit."""
    levels = (MAX_DEPTH, MAX_DEPTH + 1, 1_000, 2_000)
    return holding(lines(*(record(opening * number + b"1" + closing * number) for number in levels)))


def long_keys(levels: int) -> bytes:
    return b"".join(b'{"%d%b":' % (number, b"k" * 10_000) for number in range(levels)) + b"1" + b"}" * levels


def filled(before: bytes, middle: bytes, size: int, after: bytes) -> Make:
    """A file of that many bytes of something between other things."""
    block = middle * (16 * MB // len(middle))

    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.write(before)
            for _ in range(size // len(block)):
                file.write(block)
            file.write(after)

    return make


def sparse(before: bytes, size: int, after: bytes) -> Make:
    """A file with a hole of NULs in it."""

    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.write(before)
            file.seek(size, os.SEEK_CUR)
            file.write(after)
            file.truncate()

    return make


def zstd_of_runs(before: bytes, byte: bytes, blocks: int, *, window_log: int = 20) -> bytes:
    """A zstandard frame (RFC 8878) of blocks that stand for 128 KiB of one byte each, in four bytes."""
    begun = len(before) << 3
    run = (128 << 10) << 3 | 1 << 1
    return (
        b"\x28\xb5\x2f\xfd\x00"
        + bytes([window_log - 10 << 3])
        + begun.to_bytes(3, "little")
        + before
        + (run.to_bytes(3, "little") + byte) * blocks
        + b"\x01\x00\x00"
    )


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("index.json", b" " * MB)
    return file.getvalue()


def many_members() -> bytes:
    """Gzip in members, as `cat a.gz b.gz` makes it, many of them empty."""
    return b"".join(
        [gzip.compress(GOOD % 1 + b"\n"), gzip.compress(b"") * 1_000, gzip.compress((GOOD % 2)[:9]),
         gzip.compress((GOOD % 2)[9:])]
    )  # fmt: skip


def incompressible_lines(count: int) -> bytes:
    chance = random.Random(3)
    return b"\n".join(
        b'{"type":"asset","id":"k-%d","domain":"d.org","z":"%b"}' % (number, chance.randbytes(300).hex().encode())
        for number in range(count)
    )


def truncated_gzip() -> bytes:
    data = gzip.compress(incompressible_lines(2_000))
    return data[: len(data) // 2]


# Amplification: deep, wide or compressed input

LIMITED = ("--max-unpacked-bytes", str(MB))
BOMBS: dict[str, Case] = {
    "arrays deeper than the limit": Case(nested(b"[", b"]"), read=6, rejected=4),
    "objects deeper than the limit": Case(nested(b'{"a":', b"}"), read=6, rejected=4),
    "a million keys": Case(
        holding(lines(record(b"{%b}" % b",".join(b'"%d":0' % number for number in range(MB))))), read=3
    ),
    "a key of 20 MB": Case(filled(lines() + b'{"', b"k", 20 * MB, b'":1}\n'), read=3, rejected=1),
    "62 levels of long keys": Case(holding(lines(record(long_keys(62)))), read=3),
    "1,001 digits": Case(
        holding(lines(*(record(b"9" * 1_001, field) for field in (b"z", b"name", b"updated_at", b"url", b"id")))),
        read=7,
        rejected=1,  # as a key it is too long; elsewhere it is text, or no date
    ),
    "numbers that Postgres cannot hold": Case(
        holding(lines(record(b"1e131072"), record(b"-1e-16384"))), read=4, rejected=2
    ),
    "twenty of the largest number": Case(holding(lines(record(b"[" + b",".join([b"1e131071"] * 20) + b"]"))), read=3),
    "gzip of more than the limit": Case(
        holding(gzip.compress(lines() + b'{"z":"' + b"x" * MB)), 1, "--max-unpacked-bytes", options=LIMITED
    ),
    "gzip of gzip": Case(holding(gzip.compress(gzip.compress(lines()))), 1, "gzip -dc"),
    "zip": Case(holding(zipped()), 1, "zip"),
    "zstd with a window beyond the limit": Case(holding(zstd_of_runs(b"[", b" ", 9, window_log=28)), 1, "--long=31"),
    "zstd of runs": Case(holding(zstd_of_runs(b"[", b" ", 9)), 1, "--max-unpacked-bytes", options=LIMITED),
    "gzip in members": Case(holding(many_members()), read=2),
    "gzip cut off": Case(holding(truncated_gzip()), 1, "cut off"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_amplified_input_stays_within_its_limits(
    command: Command, tmp_path: Path, record_property: Count, bomb: str
) -> None:
    record_property("cases", 1)
    check(command, BOMBS[bomb], tmp_path)
    reasons = {reject["reason"] for reject in rejects(tmp_path)}
    assert len(reasons) == (BOMBS[bomb].rejected > 0)


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_a_given_limit_of_unpacked_bytes_holds(
    command: Command, tmp_path: Path, record_property: Count, packing: str
) -> None:
    record_property("cases", 3)
    data = b"".join(b'{"type":"asset","id":"k-%d","domain":"d.org"}\n' % number for number in range(9_000))
    path = tmp_path / "packed"
    path.write_bytes(gzip.compress(data) if packing == "gzip" else zstandard.compress(data))
    for limit, code in ((100_000, 1), (len(data) - 1, 1), (len(data), 0)):
        ended = command(path, "--no-resume", "--max-unpacked-bytes", str(limit))
        assert ended.code == code, ended.stderr
        assert ("--max-unpacked-bytes" in ended.stderr) == (code == 1)


# Large files, and brackets that are never closed

DOCUMENT = b'{"sources":[{"domain":"d.org"}],"assets":[' + GOOD % 1 + b","
HOSTILE: dict[str, Case] = {
    "one line": Case(filled(lines() + b'{"z":"', b"x", LARGE, b'"}\n' + GOOD % 3), read=4, rejected=1),
    "one text in a document": Case(
        filled(DOCUMENT + b'{"z":"', b"x" * 98 + b"\\n", LARGE, b'"},' + GOOD % 2 + b"]}"), read=3, rejected=1
    ),
    "one text around the records": Case(
        filled(b'{"sources":[],"z":"', b"x", LARGE, b'","assets":[]}'), 1, "outside the records"
    ),
    "nothing but NULs": Case(sparse(b"", LARGE, b""), 1, "is not JSON"),
    "NULs behind good lines": Case(sparse(lines(), LARGE, b"\n" + GOOD % 3), read=4, rejected=1),
    "numbers": Case(filled(b"[", b"1,", LARGE, b"1]"), 1, "no dialect knows"),
    "opening brackets": Case(holding(b"[" * (MAX_LEVELS + 1)), 1, "broken at byte"),
    "opening brackets in a record": Case(holding(DOCUMENT + b'{"z":' + b"[" * MAX_LEVELS), 1, "broken at byte"),
    "opening brackets in a line": Case(holding(lines() + b'{"z":' + b"[" * 2_000), read=3, rejected=1),
    "opening braces": Case(holding(b'{"assets":[],"z":' + b'{"a":' * MAX_LEVELS), 1, "deeper than 64"),
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_file_without_an_index_is_read_in_little_memory(
    command: Command, tmp_path: Path, record_property: Count, hostile: str
) -> None:
    record_property("cases", 1)
    check(command, HOSTILE[hostile], tmp_path)


# Shapes


def fed(path: Path) -> None:
    """A pipe that somebody writes to."""
    os.mkfifo(path)
    threading.Thread(target=path.write_bytes, args=[lines()], daemon=True).start()


WHOLE = b'{"sources":[{"domain":"d.org"}],"assets":[%b,%b]}' % (GOOD % 1, GOOD % 2)
SHAPES: dict[str, Case] = {
    "empty": Case(holding(b""), 1, "is empty"),
    "only spaces": Case(holding(b" \n\t " * 50_000), 1, "is empty"),
    "an empty array": Case(holding(b"[]"), read=0),
    "an empty object": Case(holding(b"{}"), 1, "--dialect"),
    "a number": Case(holding(b"42"), 1, "is not JSON"),
    "two documents": Case(holding(WHOLE + WHOLE), 1, "broken at byte"),
    "lines named json": Case(holding(lines()), read=2, name="index.json"),
    "a document named ndjson": Case(holding(WHOLE), read=2, name="index.ndjson"),
    "a byte order mark": Case(holding(BOM + lines()), read=2),
    "UTF-16, little end first": Case(holding(WHOLE.decode().encode("utf-16")), 1, "UTF-16"),
    "UTF-16, big end first": Case(holding(b"\xfe\xff" + WHOLE.decode().encode("utf-16-be")), 1, "UTF-16"),
    "CR and LF": Case(holding(lines(end=b"\r\n")), read=2),
    "CR alone": Case(holding(lines(end=b"\r")), read=2),
    "no last newline": Case(holding(lines().rstrip()), read=2),
    "blank lines": Case(holding(lines(b"", b" \t\r", b"").replace(b"\n", b"\n\n")), read=2),
    "NULs at the end": Case(holding(lines() + b"\0" * 9_000), read=3, rejected=1),
    "gzip named json": Case(holding(gzip.compress(lines())), read=2, name="index.json"),
    "a directory": Case(Path.mkdir, 1, "directory"),
    "a pipe": Case(fed, read=2),
    "a device": Case(lambda path: "/dev/zero", 1, "device"),
    "a line of 2 GB": Case(sparse(GOOD % 3 + b"\n", 2_000 * MB, b"\n" + lines()), read=4, rejected=1),
    "beyond 4 GiB": Case(sparse(GOOD % 3 + b"\n", 1 << 32, b"\n" + lines(b"late")), read=5, rejected=2),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_of_any_shape_has_its_documented_end(
    command: Command, tmp_path: Path, record_property: Count, shape: str
) -> None:
    record_property("cases", 1)
    check(command, SHAPES[shape], tmp_path)
    if shape == "beyond 4 GiB":
        assert [(reject["line"], reject["offset"]) for reject in rejects(tmp_path)] == [
            (2, len(GOOD % 3) + 1),
            (4, len(GOOD % 3 + b"\n" + b"\n" + GOOD % 1 + b"\n") + (1 << 32)),
        ]
