"""`seed-registry diff`: the net effect between two runs is that of comparing the registry as it was at their ends."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
from loads import A, B, Site, ask, asset, in_this_process

from conftest import Cli
from seed_registry.changes.net import EFFECTS, find_span, net_changes
from seed_registry.postgres.connection import session
from seed_registry.registry.introspection import introspect
from seed_registry.settings import DatabaseUrl

pytestmark = pytest.mark.usefixtures("at_home")

ROWS = """
select asset_key, s.source_key, a.name, a.raw::text, retired_at is not null as retired
from registry.assets a join registry.sources s on s.id = source_id
"""
State = dict[str, tuple[Any, ...]]


@pytest.fixture
def cli(cli: Cli, call_main: Callable[..., tuple[int, str, str]], home: Path, tmp_path: Path) -> Cli:
    return in_this_process(cli, call_main, home, tmp_path)


@pytest.fixture
def site(database_url: DatabaseUrl, tmp_path: Path) -> Site:
    return Site(database_url, tmp_path)


def diff(cli: Cli, site: Site, *arguments: str) -> Any:
    done = cli("diff", *arguments, "--json", url=site.url)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr.decode()


def keys(found: Any) -> dict[str, str]:
    return {one["asset_key"]: one["effect"] for one in found["keys"] if one["relation"] == "assets"}


def test_what_happened_in_between_counts_once_by_its_net_effect(site: Site, cli: Cli) -> None:
    first = site.load(*(asset(key, name="a") for key in ("same", "changed", "back", "leaves", "twice")))
    site.load(*(asset(key, name="b") for key in ("same", "changed", "back", "twice", "new", "brief")))
    last = site.load(asset("same", name="b"), asset("changed", name="c"), asset("back", name="a"), asset("new"))
    found, errors = diff(cli, site, first.run_id, last.run_id, "--show-keys")
    assert errors == ""
    assert keys(found) == {
        "same": "changed", "changed": "changed", "back": "unchanged", "leaves": "retired", "twice": "retired",
        "new": "new", "brief": "new",
    }  # fmt: skip
    assert found["totals"]["assets"] == {
        "new": 2, "changed": 2, "retired": 2, "returned": 0, "deleted": 0, "unchanged": 1,
    }  # fmt: skip
    assert found["totals"]["sources"] == dict.fromkeys(EFFECTS, 0)
    assert [one["source"] for one in found["per_source"]] == [A]
    assert "keys" not in diff(cli, site, first.run_id, last.run_id)[0]
    shown = cli("diff", first.run_id, last.run_id, "--show-keys", url=site.url).stdout.decode()
    assert f"retired    {A}  leaves\n" in shown
    assert shown.splitlines()[-1].split()[:4] == ["assets", "in", "total", "2"]


def test_what_a_first_load_created_is_counted_once(site: Site, cli: Cli) -> None:
    before = site.load(retire=False)
    first = site.load(*(asset(f"k{number}") for number in range(5)))
    last = site.load(asset("k0", name="x"), asset("k9", B))
    found, _ = diff(cli, site, before.run_id, first.run_id)
    assert found["totals"]["assets"]["new"] == 5
    found, _ = diff(cli, site, before.run_id, last.run_id, "--show-keys")
    assert found["totals"]["assets"]["new"] == 6
    assert {(one["relation"], one["source"]): one["new"] for one in found["per_source"]} == {
        ("assets", A): 5, ("assets", B): 1
    }  # fmt: skip


def test_runs_whose_changes_are_missing_are_named(site: Site, cli: Cli) -> None:
    first = site.load(asset("k1", name="a"))
    without = site.load(asset("k1", name="b"), history=False)
    idle = site.load(asset("k1", name="b"), history=False)
    pruned = site.load(asset("k1", name="c"))
    last = site.load(asset("k1", name="d"))
    site.prune(pruned)
    found, errors = diff(cli, site, first.run_id, last.run_id)
    assert [(one["run_id"], one["history"]) for one in found["incomplete"]] == [
        (without.run_id, "none"), (pruned.run_id, "pruned")
    ]  # fmt: skip
    assert f"they ran without --history: {without.run_id}" in errors
    assert f"it was pruned: {pruned.run_id}" in errors
    assert idle.run_id not in errors
    assert diff(cli, site, pruned.run_id, last.run_id)[0]["incomplete"] == []


def test_the_order_of_the_runs_matters_and_both_have_to_have_ended(site: Site, cli: Cli) -> None:
    first = site.load(asset("k1", name="a"))
    last = site.load(asset("k1", name="b"))
    refused = cli("diff", last.run_id, first.run_id, url=site.url)
    assert (refused.returncode, refused.stdout) == (2, b"")
    command = refused.stderr.decode().partition("`seed-registry ")[2].partition("`")[0]
    assert cli(*command.split(), url=site.url).returncode == 0
    for pair, words in (
        ((first.run_id, first.run_id), "between a run and itself nothing changed"),
        ((first.run_id, "x\x1b"), r"there is no run x\x1b in the ledger"),
        (("x", first.run_id), "there is no run x in the ledger"),
    ):
        refused = cli("diff", *pair, url=site.url)
        assert refused.returncode == 2
        assert words in refused.stderr.decode()
    ask(
        site.url,
        "update seed_registry.runs set finished_at = null, outcome = 'running' where run_id = $1",
        first.run_id,
    )
    ask(site.url, "delete from seed_registry.change_sets where run_id = $1", first.run_id)
    refused = cli("diff", first.run_id, last.run_id, url=site.url)
    assert refused.returncode == 2
    assert b"has not ended" in refused.stderr


def compare_all(site: Site, seed: int, loads: int, *, first_without: bool) -> None:
    """Load at random, then compare every pair of runs with what the registry was like at their ends."""
    chosen = random.Random(seed)
    names = [f"k{number}" for number in range(6)]
    runs, states = [], [State()]
    for number in range(loads):
        some = [name for name in names if chosen.random() < 0.7]
        records = [asset(name, chosen.choice((A, A, B)), name=chosen.choice("ab")) for name in some]
        runs.append(site.load(*records, history=number > 0 or not first_without).run_id)
        states.append({key: tuple(rest) for key, *rest in ask(site.url, ROWS)})
    for one, other in combinations(range(len(runs)), 2):
        found = asyncio.run(effects(site.url, runs[one], runs[other]))
        assert found == expected(states[one + 1 : other + 2]), (seed, one, other)


async def effects(url: DatabaseUrl, earlier: str, later: str) -> dict[str | None, str]:
    async with session(url) as connection, connection.transaction():
        tables, span = await introspect(connection), await find_span(connection, earlier, later)
        changes = net_changes(connection, tables, span)
        return {change.asset_key: change.effect async for change in changes if change.relation == "assets"}


def expected(states: list[State]) -> dict[str, str]:
    """The net effects from the first of these states to the last."""
    first, last = states[0], states[-1]
    effects = {}
    for key in last:
        if all(then.get(key) == now.get(key) for then, now in pairwise(states)):
            continue
        if key not in first:
            effects[key] = "new"
        elif first[key] == last[key]:
            effects[key] = "unchanged"
        elif first[key][-1] == last[key][-1]:
            effects[key] = "changed"
        else:
            effects[key] = "retired" if last[key][-1] else "returned"
    return effects


@pytest.mark.parametrize(("seed", "first_without"), [(seed, bool(seed % 2)) for seed in range(12)])
@pytest.mark.sampled(2)
def test_all_pairs_of_runs_are_as_a_model_says(site: Site, seed: int, first_without: bool) -> None:
    compare_all(site, seed, 6, first_without=first_without)


def test_a_run_that_was_taken_back_has_no_net_effect(site: Site, cli: Cli) -> None:
    first = site.load(asset("k1", name="a"), asset("gone"))
    middle = site.load(asset("k1", name="b"), asset("k2"))
    assert cli("undo", middle.run_id, url=site.url).returncode == 0
    ((undo,),) = ask(site.url, "select run_id from seed_registry.runs where undoes is not null")
    found, _ = diff(cli, site, first.run_id, undo, "--show-keys")
    assert keys(found) == {"k1": "unchanged", "k2": "unchanged", "gone": "unchanged"}
    found, _ = diff(cli, site, middle.run_id, undo, "--show-keys")
    assert keys(found) == {"k1": "changed", "k2": "deleted", "gone": "returned"}
    versions = json.loads(cli("history", "k2", "--json", url=site.url).stdout)
    assert [(one["kind"], one["is_proven"]) for one in versions["versions"]] == [("undone", True), ("inserted", True)]
    assert f"takes back run {middle.run_id}" in cli("changes", url=site.url).stdout.decode()
    assert f"takes back  run {middle.run_id}" in cli("runs", undo, url=site.url).stdout.decode()
