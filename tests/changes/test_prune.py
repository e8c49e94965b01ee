"""`seed-registry changes prune`: whole old runs go, in batches, and nothing that a run at work or a resume needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loads import Site, ask, asset, in_this_process, parsed

from conftest import Cli
from seed_registry.changes import prune as module
from seed_registry.settings import DatabaseUrl

pytestmark = pytest.mark.usefixtures("at_home")


@pytest.fixture
def cli(cli: Cli, call_main: Callable[..., tuple[int, str, str]], home: Path, tmp_path: Path) -> Cli:
    return in_this_process(cli, call_main, home, tmp_path)


@pytest.fixture
def site(database_url: DatabaseUrl, tmp_path: Path) -> Site:
    return Site(database_url, tmp_path)


def counts(site: Site) -> dict[str, int]:
    tables = ("changes", "created", "change_sets")
    return {table: (ask(site.url, f"select count(*) from seed_registry.{table}"))[0][0] for table in tables}


def make_older(site: Site, run_id: str, days: int) -> None:
    ask(
        site.url,
        "update seed_registry.change_sets set ended_at = ended_at - $2 * interval '1 day' where run_id = $1",
        run_id,
        days,
    )


def test_the_changes_of_old_runs_are_deleted_and_the_runs_stay(
    site: Site, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH_ROWS", 3)
    first = site.load(*(asset(f"k{number}") for number in range(8)), batch_size=2)
    second = site.load(*(asset(f"k{number}", name="x") for number in range(8)))
    third = site.load(asset("k1", name="y"))
    make_older(site, first.run_id, 100)
    make_older(site, second.run_id, 80)
    asked = cli("changes", "prune", "--older-than", "90d", url=site.url, input=b"n\n")
    assert asked.returncode == 1
    assert first.run_id in asked.stdout.decode()
    assert second.run_id not in asked.stdout.decode()
    dry = cli("changes", "prune", "--older-than", "90d", "--dry-run", url=site.url)
    assert b"would delete 3 changes of 1 run" in dry.stdout
    assert (counts(site))["changes"] > 10
    done = cli("changes", "prune", "--older-than", "90d", "--yes", url=site.url)
    assert done.returncode == 0, done.stderr
    assert b"deleted 3 changes of 1 run\n" in done.stdout
    ((histories,),) = ask(site.url, "select array_agg(history order by started_at) from seed_registry.runs")
    assert histories == ["pruned", "kept", "kept"]
    left = {run for (run,) in ask(site.url, "select distinct run_id from seed_registry.changes")}
    assert left == {second.run_id, third.run_id}
    assert (counts(site))["created"] == 0
    assert b"history   pruned" in cli("runs", first.run_id, url=site.url).stdout
    assert cli("changes", "prune", "--older-than", "90d", "-y", url=site.url).stdout == b"nothing to delete\n"
    assert site.prune(second) == 8
    assert {one["run_id"] for one in parsed(cli("changes", "--json", url=site.url).stdout)} == {third.run_id}


def test_a_run_that_can_be_resumed_or_is_being_taken_back_is_kept(site: Site, cli: Cli) -> None:
    def old() -> Any:
        done = cli("changes", "prune", "--older-than", "0d", "--dry-run", "--json", url=site.url)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        return [one["run_id"] for one in found["runs"]], {one["run_id"]: one["obstacle"] for one in found["kept"]}

    first = site.load(asset("k1"), name="a.ndjson")
    second = site.load(asset("k1", name="x"), name="a.ndjson")
    for outcome in ("running", "failed", "interrupted"):
        ask(site.url, "update seed_registry.runs set outcome = $1", outcome)
        # the first one is not resumed any more: its command made the second
        assert old() == ([first.run_id], {second.run_id: "it can be resumed"})
    ask(site.url, "update seed_registry.runs set outcome = 'done'")
    undo = "insert into seed_registry.runs (run_id, key, indexes, undoes, history) values ('u', 'u', '{}', $1, 'kept')"
    ask(site.url, undo, first.run_id)
    assert old() == ([second.run_id], {first.run_id: "a run that takes it back has not ended"})


def test_what_a_stopped_prune_left_is_deleted_by_the_next(site: Site, cli: Cli) -> None:
    run = site.load(asset("k1"), asset("k2"))
    ask(site.url, "update seed_registry.runs set history = 'pruned'")
    ask(site.url, "delete from seed_registry.change_sets")
    assert cli("changes", "--json", url=site.url).stdout == b""
    done = cli("changes", "prune", "--older-than", "90d", "--yes", url=site.url)
    assert run.run_id in done.stdout.decode()
    assert counts(site) == {"changes": 0, "created": 0, "change_sets": 0}


def test_what_is_no_age_is_a_usage_error(site: Site, cli: Cli) -> None:
    for arguments in ((), ("--older-than", "90"), ("--older-than", "-1d")):
        done = cli("changes", "prune", *arguments, "--yes", url=site.url)
        assert (done.returncode, done.stdout) == (2, b"")
