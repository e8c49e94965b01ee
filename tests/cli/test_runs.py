"""`seed-registry runs`: what ran here and how it ended, on a terminal of any width, and a run in full."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from conftest import Cli
from seed_registry import DatabaseUrl

A = "data.a.example"


def written(path: Path, content: Any) -> str:
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return str(path)


def document(*keys: str) -> Any:
    return {"sources": [{"source_key": A}], "assets": [{"asset_key": key, "source_key": A} for key in keys]}


def ask(url: DatabaseUrl, query: str) -> list[tuple[Any, ...]]:
    async def asked() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url.reveal)
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    return asyncio.run(asked())


def on_terminal(columns: int, *arguments: str, url: DatabaseUrl, home: Path) -> list[str]:
    """What the command draws on a terminal of so many columns, without its colours."""
    environment = {
        "PATH": os.environ["PATH"], "SEED_REGISTRY_HOME": str(home), "LANG": "C.UTF-8", "TERM": "xterm",
        "COLUMNS": str(columns), "DATABASE_URL": url.reveal,
    }  # fmt: skip
    master, slave = pty.openpty()
    with subprocess.Popen([sys.executable, "-m", "seed_registry", *arguments], env=environment, stdout=slave) as shown:
        os.close(slave)
        output = b""
        try:
            while data := os.read(master, 1 << 16):
                output += data
        except OSError:  # how Linux says that nobody has the other end
            pass
    os.close(master)
    assert shown.returncode == 0
    return [line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", output.decode()).splitlines()]


def facts(cli: Cli, url: DatabaseUrl) -> list[tuple[str, str]]:
    """The newest run in full: what a line is called, and what it says."""
    ((run_id,),) = ask(url, "select run_id from seed_registry.runs order by started_at desc limit 1")
    done = cli("runs", run_id, url=url)
    assert done.returncode == 0, done.stderr
    title, where, *lines = done.stdout.decode().splitlines()
    assert title == f"run {run_id}"
    assert where.startswith("database  ")
    indent = next(line.index("20") for line in lines if line.startswith("started "))  # where its year begins
    return [(line[:indent].strip(), line[indent:].strip()) for line in lines]


def behind_the_database(lines: list[str]) -> list[str]:
    """What follows the name of the database, which may take more than one line."""
    assert lines[0].startswith("database: ")
    return lines[lines.index("the last runs") :]


@pytest.fixture
def large(cli: Cli, database_url: DatabaseUrl, tmp_path: Path) -> str:
    """The id of a run of hundreds of millions of records whose index has a long name, in place of a small one."""
    path = written(tmp_path / "the-index-of-a-portal-with-a-long-name.json", document("aaaa-0001"))
    assert cli("load", path, url=database_url).returncode == 0
    ask(
        database_url,
        "update seed_registry.runs set outcome = 'too_many_rejects', resumed = 2, report = jsonb_set(jsonb_set(report, "
        """'{assets}', report -> 'assets' || '{"read": 987654321, "inserted": 876543210, "updated": 765432109, """
        """"rejected": 654321098}'), '{records_per_second}', '123456.0')""",
    )
    ((run_id,),) = ask(database_url, "select run_id from seed_registry.runs")
    return str(run_id)


def test_on_eighty_columns_no_number_and_no_run_is_broken(large: str, database_url: DatabaseUrl, home: Path) -> None:
    lines = behind_the_database(on_terminal(80, "runs", url=database_url, home=home))
    assert max(map(len, lines)) <= 80
    assert lines[0] == "the last runs"
    assert lines[1].split() == ["run", "outcome", "read", "inserted", "rejected", "index"]
    row = lines[2].split()
    assert row[0] == large
    assert {"987,654,321", "876,543,210", "654,321,098"} <= set(row)
    assert "…" not in "".join(lines)


@pytest.mark.parametrize("columns", [110, 200])
def test_a_wide_terminal_has_room_for_the_time_and_the_rate(
    large: str, database_url: DatabaseUrl, home: Path, columns: int
) -> None:
    lines = behind_the_database(on_terminal(columns, "runs", url=database_url, home=home))
    assert max(map(len, lines)) <= columns
    assert lines[1].split() == [
        "run", "outcome", "s", "read", "inserted", "updated", "rejected", "records/s", "index"
    ]  # fmt: skip
    row = lines[2].split()
    assert row[0] == large
    assert {"987,654,321", "876,543,210", "765,432,109", "654,321,098", "123,456"} <= set(row)
    assert "…" not in "".join(lines)


def test_a_file_has_every_column_and_a_run_a_line(large: str, cli: Cli, database_url: DatabaseUrl) -> None:
    lines = behind_the_database(cli("runs", url=database_url).stdout.decode().splitlines())
    assert len(lines) == 3
    assert "records/s" in lines[1]
    assert lines[2].startswith(f"{large}  too many rejects (2x resumed) ")
    assert lines[2].endswith(" the-index-of-a-portal-with-a-long-name.json")


def test_a_run_in_full_tells_its_dialect_its_batches_and_its_verification(
    cli: Cli, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    path = written(tmp_path / "index.json", document(*(f"aaaa-{number:04}" for number in range(10))))
    assert cli("load", path, "--batch-size", "4", "--concurrency", "1", url=database_url).returncode == 0
    told = dict(facts(cli, database_url))
    assert told["indexes"] == path
    assert (told["outcome"], told["dialect"]) == ("done", "seed")
    assert told["assets"] == "10 read, 10 inserted"
    assert told["batches"] == "3 batches, 0 retries"
    assert re.fullmatch(r"(\d+) of \1 checks passed", told["verified"])
    assert not {"error", "failed"} & told.keys()


def test_a_run_whose_verification_failed_tells_which_check(cli: Cli, database_url: DatabaseUrl, tmp_path: Path) -> None:
    content = {"source": "socrata", "domain": A, "totalCount": 7, "datasets": [{"id": "aaaa-0001"}]}
    assert cli("load", written(tmp_path / "index.json", content), url=database_url).returncode == 4
    told = dict(facts(cli, database_url))
    assert told["failed"] == "declared_totalCount: expected 7, found 1"
    passed, _, checks = told["verified"].removesuffix(" checks passed").partition(" of ")
    assert int(passed) == int(checks) - 1
    assert told["dialect"] == "directory"
    assert told["batches"] == "1 batch, 0 retries"


def test_the_error_of_a_failed_run_has_its_lines_one_below_the_other(
    cli: Cli, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    path = written(tmp_path / "index.json", json.dumps(document("aaaa-0001", "aaaa-0002")).encode()[:-9])
    assert cli("load", path, url=database_url).returncode == 1
    told = facts(cli, database_url)
    assert not [text for _, text in told if "\\n" in text]
    position = [name for name, _ in told].index("error")
    assert f"{path} is broken at byte " in told[position][1]
    assert told[position + 1] == ("", "fix or fetch the file and load it again; what came before is committed")
    assert ("dialect", "seed") in told, "it was known before the load failed"


def test_several_indexes_of_a_run_have_a_line_each(cli: Cli, database_url: DatabaseUrl, tmp_path: Path) -> None:
    paths = [written(tmp_path / f"{name}.json", document(f"{name}-0001")) for name in "abc"]
    assert cli("load", *paths, url=database_url).returncode == 0
    assert facts(cli, database_url)[:3] == [("indexes", paths[0]), ("", paths[1]), ("", paths[2])]
    assert "a.json and 2 more" in cli("runs", url=database_url).stdout.decode()


@pytest.mark.slow
def test_a_run_that_failed_tells_what_all_its_attempts_committed(
    database_url: DatabaseUrl, tmp_path: Path, cli: Cli
) -> None:
    whole = json.dumps(document(*(f"k{number:04}" for number in range(2_000))))
    path = written(tmp_path / "broken.json", whole[: len(whole) * 3 // 4].encode())
    for attempt in range(3):
        assert cli("load", path, "--batch-size", "100", url=database_url).returncode == 1
        ((rows,),) = ask(database_url, "select count(*) from registry.assets")
        assert 1_000 < rows < 2_000
        (run,) = json.loads(cli("runs", "--json", url=database_url).stdout)["runs"]
        assert (run["resumed"], run["committed"]["inserted"], run["committed"]["updated"]) == (attempt, rows, 0)
    assert (
        f"{rows:,} assets inserted, 0 updated, in all attempts together"
        in cli("runs", run["run_id"], url=database_url).stdout.decode()
    )


def test_a_report_of_an_earlier_version_is_still_shown(database_url: DatabaseUrl, tmp_path: Path, cli: Cli) -> None:
    assert cli("load", written(tmp_path / "a.json", document("k1", "k2")), url=database_url).returncode == 0
    ask(database_url, "update seed_registry.runs set report = report - '{dates_ignored,texts_ignored}'::text[]")
    ((run_id,),) = ask(database_url, "select run_id from seed_registry.runs")
    assert "2 read, 2 inserted" in cli("runs", run_id, url=database_url).stdout.decode()
