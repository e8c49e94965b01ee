"""What other people's scripts read, and must not change without a line in CHANGELOG: `--json`, tables, events.

The files in tests/golden hold it; `UPDATE_GOLDEN=1 make test PYTEST=tests/test_golden.py` writes them anew.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

import seed_registry
from conftest import Cli
from seed_registry import DatabaseUrl

GOLDEN = Path(__file__).with_name("golden")
RECORDS = 5_000
# What another machine, server, or hour changes.
VOLATILE = re.compile(
    r"seconds|_at$|run_id|^(at|id|cursor|created_by|earlier|later)$|records_per_second|rejects_file|rejects$|^(database|server_version|role|user|host|port|name|wal"
    r"|finding|mend|server|index|path|report|size|modified|digest|stages|batches|retries|error|message|file|url|origin|version)"
)


def shape(value: Any, name: str = "") -> Any:
    """A JSON value with its keys, and of its values those that are the same on any machine."""
    if isinstance(value, dict):
        return {key: shape(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item, name) for item in value]
    return f"<{type(value).__name__}>" if VOLATILE.search(name) and value is not None else value


def check(name: str, found: str) -> None:
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(found, "utf-8")
    assert found == path.read_text("utf-8"), f"{name} differs from what tests/golden says"


def as_text(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


@pytest.fixture
def index(cli: Cli, tmp_path: Path) -> str:
    path = tmp_path / "sample.ndjson"
    done = cli("sample", "--records", RECORDS, "--duplicates", 1, "--invalid", 0.1, "--out", path)
    assert done.returncode == 0, done.stderr
    return str(path)


def result(cli: Cli, *arguments: object, url: DatabaseUrl, code: int = 0) -> Any:
    done = cli(*arguments, "--json", url=url)
    assert done.returncode == code, done.stderr
    return shape(json.loads(done.stdout))


def test_the_results_of_commands_as_json(cli: Cli, database_url: DatabaseUrl, index: str) -> None:
    check("plan.json", as_text(result(cli, "plan", index, url=database_url)))
    check("load.json", as_text(result(cli, "load", index, url=database_url)))
    check("load-again.json", as_text(result(cli, "load", index, url=database_url)))
    check("verify.json", as_text(result(cli, "verify", index, url=database_url)))
    check("runs.json", as_text(result(cli, "runs", url=database_url)))
    check("doctor.json", as_text(result(cli, "doctor", url=database_url)))
    check("schema-check.txt", cli("schema", "check", url=database_url).stdout.decode())
    check("digest.json", as_text(result(cli, "digest", url=database_url)))


def test_the_results_of_commands_on_changes_as_json(cli: Cli, database_url: DatabaseUrl, tmp_path: Path) -> None:
    runs = []
    for name in ("one", "two"):
        source = {"type": "source", "source_key": "data.example.org"}
        asset = {"type": "asset", "asset_key": "k1", "source_key": "data.example.org", "name": name}
        (tmp_path / "i.ndjson").write_text(f"{json.dumps(source)}\n{json.dumps(asset)}\n")
        report = json.loads(cli("load", "i.ndjson", "--history", "--json", url=database_url).stdout)
        runs.append(report["run_id"])
    lines = cli("changes", "--json", url=database_url).stdout.splitlines()
    check("changes.json", as_text([shape(json.loads(line)) for line in lines]))
    check("load-history.json", as_text(shape(report)["changes"]))
    check("history.json", as_text(result(cli, "history", "k1", url=database_url)))
    check("diff.json", as_text(result(cli, "diff", *runs, "--show-keys", url=database_url)))
    check("prune.json", as_text(result(cli, "changes", "prune", "--older-than", "0d", "--dry-run", url=database_url)))


def test_the_statements_that_create_the_tables(cli: Cli) -> None:
    check("schema.sql", cli("schema", "show").stdout.decode())


def test_the_settings_and_their_origins(cli: Cli) -> None:
    found = json.loads(cli("config", "show", "--json").stdout)
    check("config.json", as_text(shape(found)))


def test_the_public_names() -> None:
    check("names.txt", "\n".join(seed_registry.__all__) + "\n")


def test_the_events_of_a_load_that_breaks_and_of_the_one_that_resumes_it(
    cli: Cli, database_url: DatabaseUrl, index: str
) -> None:
    whole = Path(index).read_bytes()
    Path(index).write_bytes(whole[: len(whole) * 2 // 3])
    options = ("load", index, "--batch-size", 500, "--concurrency", 2, "--log-format", "json", "--verbose")
    events: dict[str, list[str]] = {}
    broken = cli(*options, url=database_url)
    Path(index).write_bytes(whole)
    resumed = cli(*options, url=database_url)
    assert (broken.returncode, resumed.returncode) == (1, 0), resumed.stderr
    for line in (broken.stderr + resumed.stderr).splitlines():
        if line.startswith(b"{"):
            fields = json.loads(line)
            if fields["event"] == "progress":  # every five seconds, which only a slow machine needs
                continue
            names = sorted({*events.get(fields["event"], []), *fields} - {"event", "level", "timestamp"})
            events[fields["event"]] = names
    assert {"run_started", "run_resumed", "batch_merged", "run_finished"} <= set(events)
    check("events.json", as_text(dict(sorted(events.items()))))
