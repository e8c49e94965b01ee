from __future__ import annotations

import os
from pathlib import Path

import pytest

from seed_registry.errors import IndexUnreadable
from seed_registry.index.inputs import IndexRef, read_list, require_files, resolve


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with indexes and other things, which is the current one."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "b.json",
        "a.ndjson.gz",
        "c.jsonl.zst",
        "notes.txt",
        "d.json.bak",
        "json",
        "deep/er/e.json",
        "deep/f.ndjson",
        "other/x.csv",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"[]")
    (tmp_path / "directory.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    return tmp_path


def found(names: list[str]) -> list[str]:
    """The paths of the indexes that names mean."""
    return [index.path for index in resolve(names)]


def require(names: list[str]) -> None:
    require_files([IndexRef.of(name) for name in names])


# names


@pytest.mark.parametrize(
    "name",
    [
        "b.json",
        "./b.json",
        "notes.txt",
        "missing.json",
        "-",
        "",
        "https://d.org/*.json",
        "HTTP://d.org/[a].json",
    ],
)
def test_a_path_a_url_and_a_dash_mean_themselves(place: Path, name: str) -> None:
    assert found([name]) == [name]


def test_a_directory_means_the_index_files_in_it_by_name_and_nothing_below_it(place: Path) -> None:
    assert found([str(place)]) == [str(place / name) for name in ("a.ndjson.gz", "b.json", "c.jsonl.zst")]
    assert found(["deep"]) == ["deep/f.ndjson"]
    assert found(["deep/"]) == ["deep/f.ndjson"]


def test_a_pattern_means_the_files_that_match_by_name_and_no_directories(place: Path) -> None:
    assert found(["*.txt"]) == ["notes.txt"]
    assert found(["[ab].*"]) == ["a.ndjson.gz", "b.json"]
    assert found(["?.json"]) == ["b.json"]
    assert found(["deep/**/*"]) == ["deep/er/e.json", "deep/f.ndjson"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(place: Path) -> None:
    for name in ("[ab].json", "what?.json", "*.json"):
        (place / name).write_bytes(b"[]")
        assert found([name]) == [name]


def test_what_is_named_first_comes_first_and_what_is_named_twice_comes_twice(place: Path) -> None:
    assert found(["deep", "b.json", "-", "[ab].*", "b.json"]) == [
        "deep/f.ndjson", "b.json", "-", "a.ndjson.gz", "b.json", "b.json",
    ]  # fmt: skip
    assert found([]) == []


def test_a_pattern_that_matches_nothing_is_an_error_that_names_it_and_the_place(place: Path) -> None:
    for pattern in ("nothing-*.json", "di*.json", "other/*.json"):
        with pytest.raises(IndexUnreadable) as caught:
            found(["b.json", pattern])
        assert str(caught.value) == f"{pattern} matches no file (looked in {place})"


def test_a_directory_without_indexes_is_an_error_with_the_suffixes_of_indexes(place: Path) -> None:
    with pytest.raises(IndexUnreadable) as caught:
        found(["other"])
    assert str(caught.value) == "other is a directory without index files (*.json, *.jsonl, *.ndjson)"


def test_an_unreadable_directory_is_an_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(IndexUnreadable, match=r"^the directory deep cannot be read: Permission denied$"):
        found(["deep"])


@pytest.mark.parametrize("name", ["\x1b[31m*", "a\nb*", "\u202e?"])
def test_a_hostile_pattern_is_escaped_in_its_error(place: Path, name: str) -> None:
    with pytest.raises(IndexUnreadable) as caught:
        found([name])
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000, "x" * 300 + "*"])
def test_a_name_too_long_for_any_file_is_no_crash(place: Path, name: str) -> None:
    if "*" in name:
        with pytest.raises(IndexUnreadable, match="matches no file"):
            found([name])
    else:
        assert found([name]) == [name]
        require([name])


# their names


@pytest.mark.parametrize(
    ("name", "display_name", "report_name", "ledger_name"),
    [
        ("-", "stdin", "-", "-"),
        ("deep/../b.json", "deep/../b.json", "deep/../b.json", "{place}/b.json"),
        ("a\nb.json", "a\\nb.json", "a\nb.json", "{place}/a\nb.json"),
        (os.fsdecode(b"\xff.json"), "\\udcff.json", "\\udcff.json", "{place}/\\udcff.json"),
        ("https://h.example/a.json", *["https://h.example/a.json"] * 3),
    ],
)
def test_an_index_has_a_name_for_messages_for_reports_and_for_the_ledger(
    place: Path, name: str, display_name: str, report_name: str, ledger_name: str
) -> None:
    index = IndexRef.of(name)
    assert (index.path, index.display_name, index.report_name) == (name, display_name, report_name)
    assert index.ledger_name == ledger_name.format(place=place)


@pytest.mark.parametrize("name", ["a\0b", "a\0/*", "https://d.org/a\0.json"])
def test_a_name_with_a_nul_is_no_index(place: Path, name: str) -> None:
    with pytest.raises(IndexUnreadable, match=r"a\\x00.* has a NUL in its name"):
        resolve([name])


def test_the_password_of_a_url_with_a_nul_is_in_no_error() -> None:
    with pytest.raises(IndexUnreadable) as caught:
        IndexRef.of("https://u:canary@h.example/a\0b?token=canary")
    assert str(caught.value).startswith("https://h.example/a\\x00b: ")
    assert "canary" not in str(caught.value)


def test_only_the_ledger_name_of_a_url_depends_on_its_query_and_none_on_its_password() -> None:
    index = IndexRef.of("https://u:canary@h.example/a?page=1#x")
    assert index.display_name == index.report_name == "https://h.example/a"
    assert index.ledger_name.startswith("https://h.example/a?")
    assert index.ledger_name == IndexRef.of("https://v:other@h.example/a?page=1#x").ledger_name
    assert index.ledger_name != IndexRef.of("https://u:canary@h.example/a?page=2#x").ledger_name


# whether it is there


def test_a_missing_file_is_an_error_that_names_it_and_the_place(place: Path) -> None:
    require(["b.json", "-", "https://d.org/missing.json", "directory.json", "pipe.json"])
    for missing in ("missing.json", "no/such/directory.json", "gone\x1b[31m\n.json", ""):
        with pytest.raises(IndexUnreadable) as caught:
            require(["b.json", missing, "-"])
        assert str(caught.value).endswith(f": no such file (looked in {place})")
        assert str(caught.value).isprintable()


def test_what_only_opening_can_tell_is_left_to_opening(place: Path) -> None:
    require(["b.json/below.json", "x" * 300])


def test_a_link_to_nothing_is_missing(place: Path) -> None:
    (place / "link.json").symlink_to("nowhere")
    with pytest.raises(IndexUnreadable, match=r"link\.json: no such file"):
        require(["link.json"])


# URLs


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("https://d.org/x.json", True),
        ("http://d.org", True),
        ("s3+http://bucket/x", True),
        ("x.json", False),
        ("./https://x", False),
        ("://x", False),
        ("https:/x", False),
        ("C:\\x.json", False),
        ("-", False),
        ("", False),
    ],
)
def test_a_scheme_distinguishes_a_url_from_a_path(name: str, expected: bool) -> None:
    assert (IndexRef.of(name).kind == "url") is expected


# lists


def listed(place: Path, content: bytes) -> list[str]:
    (place / "list").write_bytes(content)
    return read_list("list")


def test_a_list_names_one_index_a_line_without_blank_lines_and_comments(place: Path) -> None:
    content = b"# all of them\n\n  a.json  \r\nhttps://d.org/x#y\n#b.json\n   # c.json\n*.ndjson\na.json"
    assert listed(place, content) == ["a.json", "https://d.org/x#y", "*.ndjson", "a.json"]


def test_a_list_may_begin_with_a_byte_order_mark(place: Path) -> None:
    assert listed(place, b"\xef\xbb\xbfa.json\nb.json\n") == ["a.json", "b.json"]
    assert listed(place, b"\xef\xbb\xbf# comment\nb.json\n") == ["b.json"]


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0b", "\x1c"])
def test_only_a_newline_ends_a_line_of_a_list(place: Path, separator: str) -> None:
    assert listed(place, f"a{separator}b.json\nc.json".encode()) == [f"a{separator}b.json", "c.json"]


@pytest.mark.parametrize("content", [b"", b"\n \n", b"# nothing yet\n"])
def test_a_list_that_names_nothing_is_an_error_and_not_the_default_index(place: Path, content: bytes) -> None:
    with pytest.raises(IndexUnreadable, match=r"^the list of indexes list names none$"):
        listed(place, content)


def test_a_list_that_cannot_be_read_is_an_error_that_says_why(place: Path) -> None:
    with pytest.raises(
        IndexUnreadable, match=r"^the list of indexes missing cannot be read: No such file or directory$"
    ):
        read_list("missing")
    with pytest.raises(IndexUnreadable, match=r"^the list of indexes deep cannot be read: Is a directory$"):
        read_list("deep")
    with pytest.raises(IndexUnreadable, match=r"^the list of indexes list cannot be read: it is not UTF-8 text$"):
        listed(place, b"a\xff.json\n")
