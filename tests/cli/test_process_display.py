"""What an operator sees of a load by several processes: report, metrics, page, log, `runs`; who refuses them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from conftest import Cli
from seed_registry import Settings, SettingsInvalid
from seed_registry.api import replay
from seed_registry.ledger.checkpoints import SHARD_TABLES
from seed_registry.settings import DatabaseUrl
from seed_registry.synthetic.index import Workload, generate

_TWO = ("--processes", "2", "--shard-bytes", "512KiB", "--concurrency", "1")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    path = tmp_path / "index.ndjson"
    path.write_bytes(b"".join(generate(Workload(records=600, duplicates=2, format="ndjson"))))
    return path


def shards_of(cli: Cli, url: DatabaseUrl) -> tuple[dict[str, Any], str]:
    """The newest run as JSON, and its page."""
    (run, *_) = json.loads(cli("runs", "--json", url=url).stdout)["runs"]
    (whole,) = json.loads(cli("runs", run["run_id"], "--json", url=url).stdout)["runs"]
    return whole, cli("runs", run["run_id"], url=url).stdout.decode()


def test_report_metrics_page_log_and_runs_tell_of_the_shards(
    cli: Cli, database_url: DatabaseUrl, index: Path, tmp_path: Path
) -> None:
    metrics, page, log = (tmp_path / name for name in ("load.prom", "load.html", "load.log"))
    files = ("--metrics-file", metrics, "--html", page, "--log-file", log, "--verbose")
    done = cli("load", index, *_TWO, *files, url=database_url)
    assert done.returncode == 0, done.stderr

    run, shown = shards_of(cli, database_url)
    shards, workers = run["shards"], {one["worker"] for one in run["shards"]}
    assert len(shards) > 2
    assert [one["number"] for one in shards] == list(range(len(shards)))
    assert (shards[0]["first"], shards[-1]["last"]) == (0, index.stat().st_size)
    assert {(one["state"], one["attempts"]) for one in shards} == {("loaded", 1)}
    in_shards = sum(one["assets"]["inserted"] for one in shards)
    assert 0 < in_shards < run["report"]["assets"]["inserted"]  # the repeated keys are settled
    assert f"{len(shards)} shards, {len(shards)} loaded" in shown
    assert shown.count(" loaded ") == len(shards)

    slowest = max(run["report"]["shards"], key=lambda one: one["seconds"])
    of_report = f"{len(shards)} shards, the slowest: shard {slowest['number']} with"
    assert of_report in done.stdout.decode()
    assert done.stdout.decode().count("the slowest") == 1

    found = {
        (one.name, one.labels.get("state")): one.value
        for family in text_string_to_metric_families(metrics.read_text())
        for one in family.samples
    }
    for state in ("planned", "scanned", "loaded"):
        assert found["seed_registry_shards_total", state] == len(shards)
    assert found["seed_registry_processes", None] == 2
    assert found["seed_registry_read_bytes_total", None] == index.stat().st_size

    html = page.read_text()
    assert f"{len(shards)} shards, loaded by {len(workers)} process" in html
    assert all(worker in html for worker in workers)

    events = [json.loads(line) for line in log.read_text().splitlines()]
    counted = [event for event in events if event["event"] == "shards_counted"]
    assert [*dict.fromkeys(event["step"] for event in counted)] == ["scanning", "comparing keys", "loading", "settling"]
    assert all(event["planned"] >= event["scanned"] >= event["loaded"] for event in counted)


@pytest.mark.slow
def test_the_shards_of_a_run_that_failed_come_from_the_ledger(
    cli: Cli, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    whole = b"".join(generate(Workload(records=600)))
    path = tmp_path / "broken.json"
    path.write_bytes(whole[: len(whole) * 2 // 3])
    assert cli("load", path, *_TWO, url=database_url).returncode == 1
    run, shown = shards_of(cli, database_url)
    states = [one["state"] for one in run["shards"]]
    assert run["outcome"] == "failed"
    assert states[0] == "loaded"
    assert run["shards"][0]["assets"]["inserted"] > 0
    assert f"{len(states)} shards, {states.count('loaded')} loaded" in shown


@pytest.mark.slow
def test_a_ledger_without_shards_and_a_load_by_one_process_have_none(
    cli: Cli, database_url: DatabaseUrl, index: Path
) -> None:
    assert cli("load", index, url=database_url).returncode == 0

    async def forget() -> None:
        connection = await asyncpg.connect(database_url.reveal)
        await connection.execute(f"drop table {', '.join(f'seed_registry.{table}' for table in SHARD_TABLES)}")
        await connection.close()

    asyncio.run(forget())
    run, shown = shards_of(cli, database_url)
    assert run["shards"] == []
    assert " loaded" not in shown


def test_what_cannot_be_split_says_so_once(cli: Cli, database_url: DatabaseUrl, index: Path) -> None:
    small = cli("load", index, "--processes", "2", "--log-format", "console", url=database_url)
    assert small.stderr.count(b"one_shard") == 1
    assert b"too small to be divided" in small.stderr
    piped = cli("load", "-", "--processes", "2", "--log-format", "json", url=database_url, input=index.read_bytes())
    assert piped.stderr.count(b"not_splittable") == 1
    assert b"one_shard" not in piped.stderr


@pytest.mark.parametrize("command", [("plan",), ("load", "--dry-run")])
def test_a_dry_run_takes_the_flag(command: tuple[str, ...], cli: Cli, database_url: DatabaseUrl, index: Path) -> None:
    planned = cli(*command, index, "--processes", "2", "--log-format", "console", url=database_url)
    assert planned.returncode == 0
    assert b"one_shard" in planned.stderr


def test_a_command_of_one_process_refuses_the_flag(cli: Cli, index: Path) -> None:
    refused = cli("bench", index, "--processes", "2")
    assert refused.returncode == 2
    assert b"No such option: --processes" in refused.stderr


def test_the_library_refuses_processes_of_a_replay(index: Path) -> None:
    with pytest.raises(SettingsInvalid, match="a replay is one process: leave out --processes"):
        anyio.run(replay, str(index), Settings(processes=2))
