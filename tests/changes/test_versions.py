"""`seed-registry history`: every version of an asset as it was, and what cannot be known is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loads import A, B, Site, ask, asset, in_this_process

from conftest import Cli
from seed_registry.changes import document_diff
from seed_registry.changes.document_diff import compare_documents
from seed_registry.settings import DatabaseUrl

pytestmark = pytest.mark.usefixtures("at_home")


@pytest.fixture
def cli(cli: Cli, call_main: Callable[..., tuple[int, str, str]], home: Path, tmp_path: Path) -> Cli:
    return in_this_process(cli, call_main, home, tmp_path)


@pytest.fixture
def site(database_url: DatabaseUrl, tmp_path: Path) -> Site:
    return Site(database_url, tmp_path)


def history(cli: Cli, site: Site, key: str, *arguments: object) -> Any:
    done = cli("history", key, *arguments, "--json", url=site.url)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def fields(version: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """The fields of a version but the document: what they were, and what they became."""
    return {
        one["field"]: (one.get("old", "unknown"), one.get("new", "unknown"))
        for one in version["fields"]
        if one["field"] != "raw"
    }


def test_each_version_is_told_with_old_and_new_values(site: Site, cli: Cli) -> None:
    first = site.load(asset("k1", name="a", n=1), asset("k2"))
    second = site.load(asset("k1", name="b", n=1, url="https://x.example"), asset("k2"))
    site.load(asset("k2"))
    fourth = site.load(asset("k1", name="c", n=1.0, url="https://x.example"), asset("k2"))
    found = history(cli, site, "k1")
    assert (found["exists"], found["source_key"], found["created_by"]) == (True, A, first.run_id)
    newest, returned, retired, oldest = found["versions"]
    assert [one["kind"] for one in found["versions"]] == ["updated", "returned", "retired", "updated"]
    assert all(one["is_proven"] and one["at"] for one in found["versions"])
    assert (newest["run_id"], oldest["run_id"]) == (fourth.run_id, second.run_id)
    assert fields(newest) == {"name": ("b", "c")}
    assert fields(oldest) == {"name": ("a", "b"), "url": (None, "https://x.example")}
    assert fields(returned)["retired_at"] == fields(retired)["retired_at"][::-1]
    paths = next(one["paths"]["paths"] for one in newest["fields"] if one["field"] == "raw")
    assert paths == [{"path": "n", "old": "1", "new": "1.0"}, {"path": "name", "old": '"b"', "new": '"c"'}]
    text = cli("history", "k1", url=site.url).stdout.decode()
    assert "    - b\n    + c\n" in text
    assert "    - n: 1\n    + n: 1.0\n" in text
    assert f"created by run {first.run_id}" in text


def test_an_asset_that_nothing_changed_names_the_run_that_created_it(site: Site, cli: Cli) -> None:
    first = site.load(asset("k1"))
    second = site.load(asset("k1"), asset("k2"))
    found = history(cli, site, "k1")
    assert (found["versions"], found["created_by"]) == ([], first.run_id)
    assert b"nothing has changed it since" in cli("history", "k1", url=site.url).stdout
    found = history(cli, site, "k2")
    assert (found["created_by"], [one["kind"] for one in found["versions"]]) == (second.run_id, ["inserted"])
    assert fields(found["versions"][0])["asset_key"] == (None, "k2")


def test_an_asset_from_before_the_history_has_no_creator(site: Site, cli: Cli) -> None:
    site.load(asset("k1", name="a"), history=False)
    assert b"no run with --history changed it" in cli("history", "k1", url=site.url).stdout
    site.load(asset("k1", name="b"))
    found = history(cli, site, "k1")
    assert found["created_by"] is None
    assert fields(found["versions"][0]) == {"name": ("a", "b")}
    assert b"it was there before the first run" in cli("history", "k1", url=site.url).stdout


def test_a_change_without_history_is_found_out(site: Site, cli: Cli) -> None:
    site.load(asset("k1", name="a"))
    site.load(asset("k1", name="b"))
    site.load(asset("k1", name="c"), history=False)
    found = history(cli, site, "k1")["versions"]
    assert [(one["is_proven"], fields(one)) for one in found] == [(False, {"name": ("a", "c")})]
    assert b"without history: the new values are as they are now" in cli("history", "k1", url=site.url).stdout
    site.load(asset("k1", name="d"))
    found = history(cli, site, "k1")["versions"]
    assert [(one["is_proven"], fields(one)) for one in found] == [
        (True, {"name": ("c", "d")}),
        (False, {"name": ("a", "c")}),
    ]
    assert b"those before the next change" in cli("history", "k1", url=site.url).stdout


def test_a_row_that_was_deleted_by_hand_keeps_what_its_changes_say(site: Site, cli: Cli) -> None:
    site.load(asset("k1", name="a"))
    site.load(asset("k1", name="b"))
    site.load(asset("k1", name="c"))
    ask(site.url, "delete from registry.assets")
    found = history(cli, site, "k1")
    assert not found["exists"]
    assert [fields(one) for one in found["versions"]] == [{"name": ("b", "unknown")}, {"name": ("a", "b")}]
    text = cli("history", "k1", url=site.url).stdout.decode()
    assert "no longer in the registry" in text
    assert "+ (not known)" in text


def test_what_an_undo_deleted_and_inserted_again_is_told(site: Site, cli: Cli) -> None:
    site.load(asset("k1", name="a"))
    site.load(asset("k1", name="a"), asset("k2", name="x"))
    # as an undo does it
    ask(
        site.url,
        """
        with gone as (delete from registry.assets where asset_key = 'k2' returning *),
        change as (
          insert into seed_registry.changes
            (run_id, relation, kind, key, provider, source_key, asset_key, fields, before)
          select 'undo', 'assets', 'undone', array['k2'], 'socrata', 'a.example', 'k2', '{name}',
            to_jsonb(gone) - 'content_hash' || jsonb_build_object('raw', raw::text, 'source_id', source_id::text)
            || jsonb_build_object('id', id::text)
          from gone
          returning id
        )
        insert into seed_registry.change_sets select 'undo', id, id, now() from change
        """,
    )
    deleted, inserted = history(cli, site, "k2")["versions"]
    assert (deleted["is_deleted"], deleted["is_proven"], fields(deleted)["name"]) == (True, True, ("x", None))
    assert (inserted["is_proven"], fields(inserted)["name"]) == (True, (None, "x"))
    site.load(asset("k2", name="y"), history=False)
    assert [one["is_proven"] for one in history(cli, site, "k2")["versions"]] == [False, True]
    assert b"something created it again afterwards" in cli("history", "k2", url=site.url).stdout


def test_changes_of_a_run_that_has_not_ended_are_marked(site: Site, cli: Cli) -> None:
    site.load(asset("k1", name="a"))
    site.load(asset("k1", name="b"))
    ask(site.url, "delete from seed_registry.change_sets where last_id = (select max(id) from seed_registry.changes)")
    assert history(cli, site, "k1")["versions"][0]["at"] is None
    assert b"its run has not ended" in cli("history", "k1", url=site.url).stdout


def test_of_several_sources_with_one_key_one_has_to_be_named(site: Site, cli: Cli) -> None:
    ask(site.url, "alter table registry.assets drop constraint assets_asset_key_key")
    ask(site.url, "create unique index on registry.assets (source_id, asset_key)")
    site.load(asset("1", name="a"), asset("1", B, name="b"))
    site.load(asset("1", name="a2"), asset("1", B, name="b2"))
    done = cli("history", "1", url=site.url)
    assert (done.returncode, done.stdout) == (2, b"")
    assert f"2 assets have the key 1: of {A}, {B}" in done.stderr.decode()
    assert "--source" in done.stderr.decode()
    assert fields(history(cli, site, "1", "--source", B)["versions"][0]) == {"name": ("b", "b2")}
    unknown = cli("history", "1", "--source", "c.example", url=site.url)
    assert unknown.returncode == 2
    assert b"there is no asset 1 of source c.example" in unknown.stderr


def test_an_unknown_key_is_a_usage_error_and_is_escaped(site: Site, cli: Cli) -> None:
    site.load(asset("k1"))
    done = cli("history", "K\x1b[2J", url=site.url)
    assert done.returncode == 2
    assert rb"there is no asset K\x1b[2J" in done.stderr
    assert b"`seed-registry changes` lists what changed" in done.stderr


def test_values_and_paths_are_escaped_and_cut(site: Site, cli: Cli) -> None:
    site.load(asset("k1", name="x" * 9_000, extra={"\x1b[2J key": 1}))
    site.load(asset("k1", name="y\x1b[2J\u202e", extra={"\x1b[2J key": 2}))
    shown = cli("history", "k1", url=site.url).stdout.decode()
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert max(map(len, shown.splitlines())) < 500


def test_no_more_versions_than_the_limit_are_shown(site: Site, cli: Cli) -> None:
    for number in range(4):
        site.load(asset("k1", name=f"{number}"))
    assert [history(cli, site, "k1", "--limit", n)["more"] for n in (2, 3)] == [True, False]
    assert b"there are older versions: --limit 20 shows more" in cli("history", "k1", "--limit", 2, url=site.url).stdout


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(DOCUMENTS, DOCUMENTS)
def test_documents_differ_in_some_path_unless_they_are_equal(old: Any, new: Any) -> None:
    texts = json.dumps(old), json.dumps(new)
    found = compare_documents(*texts)
    assert found is not None
    assert (found.paths == []) == (json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True))
    assert all(path.old != path.new for path in found.paths)
    back = compare_documents(*texts[::-1])
    assert back is not None
    assert sorted(path.path for path in back.paths) == sorted(path.path for path in found.paths)


def test_a_difference_is_bounded_whatever_the_documents() -> None:
    found = compare_documents(json.dumps(["x" * 9_000] * 99), json.dumps([{"k" * 900: list(range(900))}] * 99))
    assert found is not None
    assert (len(found.paths), found.more) == (50, 49)
    assert max(len(path.old or "") + len(path.new or "") for path in found.paths) < 1_100
    assert compare_documents("[" * 50_000 + "]" * 50_000, "1") is None
    assert compare_documents("no JSON", "1") is None
    assert compare_documents('"' + "x" * document_diff._MOST_BYTES + '"', "1") is None


def test_a_document_too_long_to_compare_is_named_by_its_length(site: Site, cli: Cli) -> None:
    site.load(asset("k1", text="x" * 3_000_000))
    site.load(asset("k1", text="y" * 3_000_000))
    (version,) = history(cli, site, "k1")["versions"]
    assert version["fields"][0]["field"] == "raw"
    assert min(version["fields"][0]["sizes"]) > 3_000_000
    assert b"too long to be compared" in cli("history", "k1", url=site.url).stdout
