from __future__ import annotations

import base64
import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from seed_registry.errors import StorageFailed
from seed_registry.records import Reject
from seed_registry.rejects.writer import RejectsFile

REJECT = Reject("no_key", "asset: the record has no key", b'{"a": "\xc3\xa9"}', 12, 345, "asset", None)


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_no_reject_no_file(tmp_path: Path) -> None:
    rejects = RejectsFile(tmp_path / "rejects")
    rejects.close()
    assert not rejects.created
    assert list(tmp_path.iterdir()) == []


def test_a_reject_is_a_line_that_says_where_what_and_why(tmp_path: Path) -> None:
    rejects = RejectsFile(tmp_path / "rejects")
    rejects.write("sf.index.json", REJECT)
    rejects.write("sf.index.json", Reject("no_source", "d", b"{}", 1, 0, "asset", "k\0\n"))
    rejects.close()
    assert rejects.created
    first = {
        "index": "sf.index.json",
        "line": 12,
        "offset": 345,
        "reason": "no_key",
        "detail": "asset: the record has no key",
        "record": '{"a": "é"}',
    }
    assert written(rejects.path)[0] == first
    assert written(rejects.path)[1]["key"] == "k\0\n"


@pytest.mark.parametrize("data", [b"\xff\xfe", b'{"id":"\xed\xa0\x80"}', b"\x80" * 1000])
def test_bytes_that_are_no_utf8_come_back_from_base64(tmp_path: Path, data: bytes) -> None:
    rejects = RejectsFile(tmp_path / "rejects")
    rejects.write("x", Reject("bad_utf8", "not UTF-8 text", data, 1, 0))
    (line,) = written(rejects.path)
    assert line["encoding"] == "base64"
    assert base64.b64decode(line["record"], validate=True) == data
    rejects.close()


def test_any_text_stays_on_its_line(tmp_path: Path) -> None:
    rejects = RejectsFile(tmp_path / "rejects")
    text = '\n\r\u2028\0\x1b[2J\\"'
    rejects.write("x", Reject("not_json", text, text.encode(), 1, 0, "asset", text))
    rejects.write("x", REJECT)
    rejects.close()
    assert rejects.path.read_bytes().count(b"\n") == 2
    assert [written(rejects.path)[0][name] for name in ("detail", "key", "record")] == [text] * 3


def test_the_name_of_an_index_need_not_be_utf8(tmp_path: Path) -> None:
    rejects = RejectsFile(tmp_path / "rejects")
    rejects.write(os.fsdecode(b"caf\xe9.json"), REJECT)
    rejects.write("long" * 200, REJECT)
    rejects.close()
    assert [line["index"] for line in written(rejects.path)] == [r"caf\udce9.json", "long" * 200]


def test_the_file_is_its_owners_alone_and_so_is_its_own_directory(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        rejects = RejectsFile(tmp_path / "private" / "rejects", own_directory=True)
        rejects.write("x", REJECT)
    finally:
        os.umask(before)
    rejects.close()
    assert stat.S_IMODE(rejects.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(rejects.path.parent.stat().st_mode) == 0o700


def test_a_directory_that_is_not_its_own_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(
        StorageFailed, match=r"/mistyped/rejects cannot be written: No such file or directory; name ano"
    ):
        RejectsFile(tmp_path / "mistyped" / "rejects").write("x", REJECT)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_or_link_is_not_written_into(tmp_path: Path) -> None:
    path, target = tmp_path / "rejects", tmp_path / "target"
    path.write_text("mine")
    with pytest.raises(StorageFailed, match=r"File exists; name another with --rejects"):
        RejectsFile(path).write("x", REJECT)
    assert path.read_text() == "mine"
    path.unlink()
    path.symlink_to(target)
    with pytest.raises(StorageFailed):
        RejectsFile(path).write("x", REJECT)
    assert not target.exists()


def test_the_rejects_of_the_run_before_are_kept_beside_the_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "rejects"
    for run in "abc":
        rejects = RejectsFile(path)
        rejects.write(run, REJECT)
        rejects.close()
    assert [line["index"] for line in written(path)] == ["c"]
    assert [line["index"] for line in written(tmp_path / "rejects.old")] == ["b"]


@pytest.mark.slow
@pytest.mark.parametrize("size", [100, 3_000, 6_000_000])
def test_a_resumed_run_writes_no_reject_twice_and_drops_a_torn_line(tmp_path: Path, size: int) -> None:
    path, count = tmp_path / "rejects", 18_000_000 // size
    told = [Reject("not_json", "detail", b"x" * size, number, number * size) for number in range(count)]
    rejects = RejectsFile(path)
    for reject in told:
        rejects.write("index", reject)
    rejects.close()
    before = path.read_bytes()
    path.write_bytes(before[:-1])  # as of a process that was killed

    resumed = RejectsFile(path)
    resumed.resume()
    for reject in told:
        resumed.write("index", reject)
    resumed.write("another", told[0])
    resumed.close()
    lines = path.read_bytes().splitlines(keepends=True)
    assert b"".join(lines[:-1]) == before
    assert json.loads(lines[-1])["index"] == "another"


def test_a_file_of_a_run_that_is_resumed_may_be_nothing_but_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "rejects"
    path.write_bytes(b'{"index":"x","line":1,"off')
    rejects = RejectsFile(path)
    rejects.resume()
    rejects.write("x", REJECT)
    rejects.close()
    assert [line["offset"] for line in written(path)] == [345]


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailed, match="/file/rejects cannot be written: "):
        RejectsFile(tmp_path / "file" / "rejects").write("x", REJECT)
    rejects = RejectsFile(Path("/dev/full"))
    rejects.created, rejects._descriptor = True, os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(StorageFailed, match=os.strerror(errno.ENOSPC)):
        rejects.write("x", REJECT)
    os.close(rejects._descriptor)


def test_a_write_that_takes_half_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rejects = RejectsFile(tmp_path / "rejects")
    whole = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: whole(descriptor, data[:7]))
    rejects.write("x", REJECT)
    monkeypatch.undo()
    rejects.close()
    assert written(rejects.path)[0]["reason"] == "no_key"


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    rejects = RejectsFile(tmp_path / "rejects")
    rejects.write("x", REJECT)
    rejects.close()
    rejects.close()
    assert len(written(rejects.path)) == 1
