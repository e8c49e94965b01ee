"""The command line: what it prints where, with which exit code, and what never reaches a terminal."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pytest

from conftest import Cli
from seed_registry import DatabaseUrl
from seed_registry.synthetic.index import Workload, expected

A, B = "data.a.example", "data.b.example"
CANARY = "c4n4ry"
UNREACHABLE = DatabaseUrl(f"postgresql://loader:{CANARY}@127.0.0.1:1/registry")
REPORT = {
    "": "run_id indexes dialect provider dry_run seconds bytes_read records_per_second batches retries repaired "
    "dates_ignored texts_ignored sources assets rejects_file verification database",
    "sources": "read inserted updated unchanged duplicate rejected not_written",
    "assets": "read inserted updated unchanged duplicate rejected not_written missing_source resumed older "
    "retired returned other_parts",
    "verification": "passed checks",
    "check": "name passed expected actual",
}


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def command(home: Path, tmp_path: Path, call_main: Callable[..., tuple[int, str, str]]) -> Command:
    """Run the command in this process."""

    def run(*arguments: object, url: DatabaseUrl | None = None, env: Mapping[str, str] | None = None) -> Done:
        environment = {"SEED_REGISTRY_HOME": str(home), "LANG": "C.UTF-8", "PATH": os.environ["PATH"]}
        if url is not None:
            environment["DATABASE_URL"] = url.reveal
        done = Done(*call_main(arguments, environment | dict(env or {}), tmp_path))
        assert "Traceback" not in done.err or "--verbose" in arguments
        return done

    return run


@pytest.fixture
def index(tmp_path: Path) -> str:
    return written(tmp_path / "index.json", document("aaaa-0001", "aaaa-0002"))


def document(*keys: str, **fields: Any) -> Any:
    assets = [{"asset_key": key, "source_key": A, "name": f"Asset {key}", **fields} for key in keys]
    return {"sources": [{"source_key": A}], "assets": assets}


def written(path: Path, content: Any) -> str:
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return str(path)


def ask(url: DatabaseUrl, query: str) -> list[tuple[Any, ...]]:
    async def asked() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url.reveal)
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    return asyncio.run(asked())


def counts(url: DatabaseUrl) -> tuple[int, int]:
    ((sources, assets),) = ask(
        url, "select (select count(*) from registry.sources), (select count(*) from registry.assets)"
    )
    return sources, assets


def failed(done: Done, code: int = 1) -> list[str]:
    """The lines of the error, the logs before it left out; there are one or two."""
    assert done.code == code, done
    assert done.out == ""
    lines = [line for line in done.err.splitlines() if not line.startswith("{")]
    assert lines[0].startswith("error: "), done.err
    assert len(lines) <= 2, done.err
    return lines


def errors(done: Done) -> list[str]:
    """The lines on stderr that are no logs."""
    return [line for line in done.err.splitlines() if not line.startswith("{")]


# The report


def test_the_report_in_json_is_one_line_on_stdout_with_the_promised_fields_in_their_order(
    command: Command, database_url: DatabaseUrl, index: str
) -> None:
    done = command("load", index, "--json", url=database_url)
    assert done.code == 0
    assert done.out.count("\n") == 1
    report = json.loads(done.out)
    assert list(report) == REPORT[""].split()
    for part in ("sources", "assets", "verification"):
        assert list(report[part]) == REPORT[part].split()
    for check in report["verification"]["checks"]:
        assert list(check) == REPORT["check"].split()
    assert (report["indexes"], report["dialect"], report["provider"]) == ([index], "seed", "socrata")
    assert report["assets"] == {**dict.fromkeys(REPORT["assets"].split(), 0), "read": 2, "inserted": 2}
    assert (report["dry_run"], report["rejects_file"], report["verification"]["passed"]) == (False, None, True)
    assert report["bytes_read"] == Path(index).stat().st_size


def test_without_json_the_report_is_a_table_for_people(
    command: Command, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    content = document("aaaa-0001", "aaaa-0002", "aaaa-0002", updated_at="never")
    content["assets"] += [{}, {"asset_key": "x", "source_key": B}]
    done = command("load", written(tmp_path / "index.json", content), "--max-rejects", "1", url=database_url)
    assert done.code == 0
    rows = {line.split()[0]: line.split()[1:] for line in done.out.splitlines() if line.split()}
    assert rows["sources"] == ["1", "1", "0", "0", "0", "0"]
    assert rows["assets"] == ["5", "2", "0", "0", "1", "1", "1"]
    told = "2 of 6 records were not loaded: 1 rejected (no_key), 1 of sources that are not listed: "
    assert done.out.startswith(told)
    assert "3 dates left out" in done.out
    rejects = next(line for line in done.out.splitlines() if line.startswith("rejects file: "))
    assert json.loads(Path(rejects.removeprefix("rejects file: ")).read_bytes())["reason"] == "no_key"
    assert rows["verified:"][-2:] == ["checks", "passed"]


def test_logs_are_json_lines_on_stderr_and_tell_the_whole_load(
    command: Command, database_url: DatabaseUrl, index: str
) -> None:
    done = command("load", index, url=database_url)
    logs = [json.loads(line) for line in done.err.splitlines()]
    assert all({"event", "level", "timestamp"} <= set(log) for log in logs)
    events = [log["event"] for log in logs]
    assert events == [
        "run_started", "connected", "index_opened", "index_finished", "verifying", "sources_loaded", "assets_loaded",
        "run_finished",
    ]  # fmt: skip
    assert (logs[3]["index"], logs[3]["assets"]["inserted"], logs[3]["sources"]["inserted"]) == (index, 2, 1)
    assert (logs[6]["processed"], logs[6]["inserted"], logs[6]["updated"], logs[6]["skipped"]) == (2, 2, 0, 0)
    verbose = command("load", index, "--verbose", url=database_url)
    assert {"batch_merged", "sources_merged"} <= {json.loads(line)["event"] for line in verbose.err.splitlines()}


def test_a_log_for_people_is_no_json(command: Command, database_url: DatabaseUrl, index: str) -> None:
    done = command("load", index, "--log-format", "console", url=database_url)
    assert done.code == 0
    assert "index_opened" in done.err
    assert not [line for line in done.err.splitlines() if line.startswith("{")]


def test_a_log_for_people_does_not_tell_again_what_the_report_says(
    command: Command, database_url: DatabaseUrl, index: str
) -> None:
    endings = {"load": ["sources_loaded", "assets_loaded", "run_finished"], "verify": ["verify_finished"]}
    for name, events in endings.items():
        for form in ([], ["--verbose"]):
            done = command(name, index, "--log-format", "console", *form, url=database_url)
            assert done.code == 0
            assert "verifying" in done.err
            assert not [event for event in events if event in done.err]
        logs = command(name, index, "--log-format", "json", url=database_url).err
        assert [json.loads(line)["event"] for line in logs.splitlines()][-len(events) :] == events


@pytest.mark.parametrize("form", [["--json"], [], ["--log-format", "console"], ["--verbose"]])
def test_no_control_character_of_an_index_or_its_name_reaches_a_terminal_or_a_log(
    command: Command, database_url: DatabaseUrl, tmp_path: Path, form: list[str]
) -> None:
    nasty = "\x1b[31m\n\r\t\x07\x9b\u202e\u2028[red]bold\x7f"
    content = document("aaaa-0001", nasty, "k" * 2_000 + nasty, updated_at=nasty)
    content["assets"] += [{"asset_key": f"missing {nasty}", "source_key": nasty}]
    name = f"{nasty}.json"
    written(tmp_path / name, content)
    done = command("load", name, *form, "--max-rejects", "100%", url=database_url)
    assert done.code == 0, done.err
    for text in (done.out, done.err):
        visible = text.replace("\n", "")
        assert all(character >= " " for character in visible)
        if "--json" not in form or text is done.err:  # JSON itself is for machines
            assert visible.isprintable(), [character for character in visible if not character.isprintable()]
    if form == ["--json"]:
        assert json.loads(done.out)["indexes"] == [name], "the machine gets the name as it is"
    elif form == []:
        assert "\\x1b[31m\\n\\r\\t\\x07\\x9b\\u202e\\u2028[red]bold" in done.out.replace("\n", "")
    if "console" not in form:
        warnings = [json.loads(line) for line in done.err.splitlines() if '"warning"' in line]
        assert {log["reason"] for log in warnings} == {"date_ignored", "missing_source", "key_too_long"}


@pytest.mark.parametrize("name", ["missing\x1b[31m\n\u202e.json", "missing[red].json"])
def test_a_nasty_name_in_an_error_is_escaped_and_adds_no_line(
    command: Command, database_url: DatabaseUrl, name: str
) -> None:
    done = command("load", name, url=database_url)
    (line,) = failed(done)
    assert line.isprintable()
    assert name.replace("\x1b", "\\x1b").replace("\n", "\\n").replace("\u202e", "\\u202e") in line


def test_an_index_whose_name_is_not_utf8_is_loaded_and_reported(
    cli: Cli, database_url: DatabaseUrl, index: str, tmp_path: Path
) -> None:
    name = os.fsdecode(b"\xff.json")
    Path(index).rename(tmp_path / name)
    for form in ("--json", "--no-verify"):
        done = cli("load", name, form, url=database_url)
        assert done.returncode == 0, done.stderr
        assert b"dcff" in done.stdout
    assert counts(database_url) == (1, 2)


# Several indexes


def several(tmp_path: Path) -> list[str]:
    return [written(tmp_path / f"{name}.json", document(f"{name}-0001", f"{name}-0002")) for name in "abc"]


def test_several_indexes_are_told_one_by_one_in_json(
    command: Command, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    paths = several(tmp_path)
    done = command("load", "--json", *paths, url=database_url)
    assert done.code == 0
    report = json.loads(done.out)
    assert list(report) == [*REPORT[""].split()[:-1], "per_index", "database"]
    for part, path in zip(report["per_index"], paths, strict=True):
        assert list(part) == ["index", "dialect", "provider", "bytes_read", "sources", "assets", "error"]
        assert (part["index"], part["error"], part["assets"]["inserted"]) == (path, None, 2)
        assert list(part["assets"]) == REPORT["assets"].split()
    finished = [json.loads(line) for line in done.err.splitlines() if "index_finished" in line]
    assert [log["index"] for log in finished] == paths


def test_a_list_names_indexes_patterns_and_directories_behind_those_of_the_arguments(
    command: Command, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    several(tmp_path)
    (tmp_path / "directory").mkdir()
    written(tmp_path / "directory/d.ndjson", document("d-0001"))
    (tmp_path / "list.txt").write_text("# the rest\n\n[b-y].json\n  directory\n")
    done = command("load", "a.json", "--indexes-from", "list.txt", "--json", url=database_url)
    assert done.code == 0, done.err
    assert json.loads(done.out)["indexes"] == ["a.json", "b.json", "c.json", "directory/d.ndjson"]
    assert counts(database_url) == (1, 7)
    done = command("load", "--indexes-from", "list.txt", "--json", url=database_url, env={"INDEX_PATH": "a.json"})
    assert json.loads(done.out)["indexes"] == ["b.json", "c.json", "directory/d.ndjson"]


def test_a_list_that_is_missing_or_names_nothing_is_an_error_and_the_default_index_is_let_alone(
    command: Command, database_url: DatabaseUrl, tmp_path: Path, index: str
) -> None:
    (line,) = failed(command("load", "--indexes-from", "list.txt", url=database_url, env={"INDEX_PATH": index}))
    assert line == "error: the list of indexes list.txt cannot be read: No such file or directory"
    (tmp_path / "list.txt").write_text("# nothing\n")
    (line,) = failed(command("load", "--indexes-from", "list.txt", url=database_url, env={"INDEX_PATH": index}))
    assert line == "error: the list of indexes list.txt names none"
    assert counts(database_url) == (0, 0)


@pytest.mark.parametrize("form", [["--json"], []])
def test_keep_going_loads_the_others_prints_the_report_and_exits_with_1(
    command: Command, database_url: DatabaseUrl, tmp_path: Path, form: list[str]
) -> None:
    first, second, third = several(tmp_path)
    Path(second).write_bytes(b"no index")
    done = command("load", first, second, "missing.json", third, "--keep-going", *form, url=database_url)
    assert done.code == 1
    errors = [line for line in done.err.splitlines() if not line.startswith("{")]
    assert errors == [f"error: 2 of 4 indexes failed: {second}, missing.json; the others are loaded"]
    logs = [json.loads(line) for line in done.err.splitlines() if line.startswith("{")]
    bad = [log for log in logs if log["event"] == "index_failed"]
    assert [(log["index"], log["level"]) for log in bad] == [(second, "error"), ("missing.json", "error")]
    assert "is not JSON at all" in bad[0]["reason"]
    assert counts(database_url) == (1, 4)
    if form:
        report = json.loads(done.out)
        assert [bool(part["error"]) for part in report["per_index"]] == [False, True, True, False]
        assert (report["assets"]["inserted"], report["verification"]["passed"]) == (4, True)
    else:
        rows = {line.split()[0]: line.split()[1:] for line in done.out.splitlines() if line.split()}
        assert rows["assets"][:2] == ["4", "4"]


def test_without_keep_going_the_first_bad_index_ends_the_load(
    command: Command, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    first, second, third = several(tmp_path)
    Path(second).write_bytes(b"no index")
    (line,) = failed(command("load", first, second, third, url=database_url))
    assert line.startswith(f"error: {second} is not JSON at all")
    assert counts(database_url) == (1, 2)


def test_one_bad_index_is_an_error_also_with_keep_going(
    command: Command, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    path = written(tmp_path / "bad.json", b"no index")
    (line,) = failed(command("load", path, "--keep-going", url=database_url))
    assert line.startswith(f"error: {path} is not JSON at all")


def test_an_index_that_does_not_tell_its_portal_is_an_error_that_says_how_to_name_it(
    command: Command, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    path = written(tmp_path / "views.json", [{"id": "abcd-2345", "columns": []}])
    lines = failed(command("load", path, url=database_url))
    assert lines == [
        f"error: {path}: records of the dialect views do not name their portal",
        "       name it with --domain data.example.org",
    ]
    assert counts(database_url) == (0, 0)
    assert command("load", path, "--domain", A, url=database_url).code == 0
    assert counts(database_url) == (1, 1)


# What goes wrong


def test_a_file_that_is_no_index_is_named_with_the_reason_and_nothing_is_written(
    command: Command, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    (tmp_path / "directory").mkdir()
    cases: list[tuple[bytes | None, str]] = [
        (None, "no such file"),
        (b"", "is empty: was its export interrupted?"),
        (b" \n\n", "is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is not an index but a PNG image"),
        (b"PK\x03\x04....", "is not an index but a zip archive"),
        (b"<html><body>404</body></html>", "is an HTML page, not an index"),
        (b'{"features": [{"geometry": 1}]}', "a shape that no dialect knows; it has features"),
        (b'"text"', "is not JSON at all"),
        (b"\x1f\x8b\x08\x00 no gzip", "the compressed data is damaged or cut off"),
    ]
    for content, said in cases:
        path = tmp_path / "index.json"
        if content is not None:
            path.write_bytes(content)
        lines = failed(command("load", path, url=database_url))
        assert str(path) in lines[0]
        assert said in lines[0]
    (line,) = failed(command("load", tmp_path / "directory", url=database_url))
    assert line == f"error: {tmp_path / 'directory'} is a directory without index files (*.json, *.jsonl, *.ndjson)"
    (line,) = failed(command("load", tmp_path / "*.txt", url=database_url))
    assert line == f"error: {tmp_path / '*.txt'} matches no file (looked in {tmp_path})"
    for name in ("x" * 300, tmp_path / "index.json" / "below"):
        (line,) = failed(command("load", name, url=database_url))
        assert line.startswith(f"error: {name}")
    assert counts(database_url) == (0, 0)


def test_a_missing_default_index_is_named_with_the_directory_that_was_looked_in(
    command: Command, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    (line,) = failed(command("load", url=database_url))
    assert line == f"error: ./data/registry/socrata/sf.index.json: no such file (looked in {tmp_path})"


def test_the_index_comes_from_the_argument_else_the_option_else_the_environment_else_the_default(
    command: Command, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    default = tmp_path / "data/registry/socrata"
    default.mkdir(parents=True)
    paths = [written(tmp_path / f"{name}.json", document("aaaa-0001")) for name in ("argument", "option", "env")]
    written(default / "sf.index.json", document("aaaa-0001"))
    argument, option, env = paths
    calls: list[tuple[list[str], dict[str, str], str]] = [
        ([argument, "--index", option], {"INDEX_PATH": env}, argument),
        (["--index", option], {"INDEX_PATH": env}, option),
        ([], {"INDEX_PATH": env}, env),
        ([], {}, "./data/registry/socrata/sf.index.json"),
    ]
    for arguments, environment, wanted in calls:
        done = command("load", "--json", *arguments, url=database_url, env=environment)
        assert json.loads(done.out)["indexes"] == [wanted]


def test_the_database_comes_from_the_option_before_the_environment(
    command: Command, database_url: DatabaseUrl, index: str
) -> None:
    assert command("load", index, "--database-url", database_url.reveal, url=UNREACHABLE).code == 0
    assert command("load", index, "--database-url", UNREACHABLE.reveal, url=database_url).code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["load", "--batch-size", "0"],
        ["load", "--batch-size", "many"],
        ["load", "--batch-bytes", "lots"],
        ["load", "--concurrency", "1000"],
        ["load", "--max-rejects", "some"],
        ["load", "--max-rejects", "101%"],
        ["load", "--max-record-bytes", "1"],
        ["load", "--dialect", "esperanto"],
        ["load", "--domain", "https://data.a.example"],
        ["load", "--column", "nothing"],
        ["load", "--unheard-of"],
        ["load", "--database-url", f"mysql://root:{CANARY}@host/name"],
        ["load", "--database-url", f"postgresql://root:{CANARY}@host:port/name", "--verbose"],
        ["plan", "--dry-run"],
        ["sample", "--records", "-1"],
        ["schema", "grants"],
        ["unheard-of"],
    ],
)
def test_a_mistake_in_the_arguments_is_exit_code_2(
    command: Command, tmp_path: Path, home: Path, arguments: list[str]
) -> None:
    index = [written(tmp_path / "index.json", document("aaaa-0001"))] if arguments[0] in ("load", "plan") else []
    done = command(arguments[0], *index, *arguments[1:])
    assert (done.code, done.out) == (2, "")
    assert done.err
    assert "Value error" not in done.err, "a word of a library, not of ours"
    assert CANARY not in done.err
    assert not list(home.glob("postgres*"))


@pytest.mark.parametrize("verbose", [[], ["--verbose"]])
def test_an_unreachable_database_is_exit_code_1_and_its_password_is_nowhere(
    cli: Cli, index: str, verbose: list[str]
) -> None:
    done = cli("load", index, *verbose, url=UNREACHABLE)
    assert (done.returncode, done.stdout) == (1, b"")
    last = [line for line in done.stderr.splitlines() if line.startswith(b"error: ")]
    assert len(last) == 1
    assert b"cannot connect to postgresql://loader@127.0.0.1:1/registry" in last[0]
    assert CANARY.encode() not in done.stderr
    assert (b"Traceback" in done.stderr) == bool(verbose)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://loader@127.0.0.1:1/registry?password={CANARY}",
        f"postgresql://loader:{CANARY}/x@127.0.0.1:1/registry",
        f"postgresql://loader:#{CANARY}@127.0.0.1:1/registry",
        f"postgresql://loader:?{CANARY}@127.0.0.1:1/registry",
        f"postgresql://loader:[{CANARY}@127.0.0.1:1/registry",
        f"postgresql://loader:{CANARY}@127.0.0.1:1:{CANARY}/registry",
        f"host=127.0.0.1 port=1 user=loader password={CANARY}",
    ],
)
def test_a_password_in_an_odd_place_is_printed_nowhere_either(command: Command, index: str, url: str) -> None:
    done = command("load", index, "--verbose", url=DatabaseUrl(url))
    assert done.code in (1, 2)
    assert CANARY not in done.out + done.err
    assert CANARY not in command("plan", index, "--json", "--verbose", url=DatabaseUrl(url)).err


def test_missing_tables_on_a_named_server_are_an_error_that_names_the_command(
    command: Command, bare_database_url: DatabaseUrl, index: str
) -> None:
    (line,) = failed(command("load", index, url=bare_database_url))
    assert "there is no table registry.sources: create it with `seed-registry schema apply`" in line
    assert command("schema", "apply", url=bare_database_url).code == 0
    assert command("load", index, url=bare_database_url).code == 0
    assert counts(bare_database_url) == (1, 2)


def test_too_many_rejects_are_exit_code_3_with_the_report_all_the_same(
    command: Command, database_url: DatabaseUrl, tmp_path: Path, home: Path
) -> None:
    path = written(tmp_path / "index.json", {"sources": [], "assets": [{}] * 4})
    done = command("load", path, "--max-rejects", "3", url=database_url)
    assert done.code == 3
    (rejects,) = home.glob("rejects/*.ndjson")
    assert errors(done) == [
        "error: 4 of 4 records rejected, more than --max-rejects 3 allows; most often: no_key",
        f"       is --dialect right, and --records-at?; look at them with `seed-registry rejects show {rejects}`",
    ]
    first, title, *lines = done.out.splitlines()
    assert first == "nothing was loaded: 4 of 4 assets rejected (no_key): is --dialect right, and --records-at?"
    assert title.startswith(f"stopped loading {path} (seed, run ")
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.split()}
    assert rows["assets"] == ["4", "0", "0", "0", "0", "4"]
    assert f"rejects file: {rejects}" in lines
    assert "verified" not in done.out
    assert command("rejects", "show", rejects).out.count("no_key") >= 1
    assert command("load", path, "--max-rejects", "4", url=database_url).code == 3, (
        "it is not stopped, but loads nothing"
    )


def test_too_many_rejects_are_an_object_in_json_all_the_same(
    command: Command, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    path = written(tmp_path / "index.json", {"sources": [], "assets": [{}] * 4})
    done = command("load", path, "--max-rejects", "3", "--json", url=database_url)
    assert done.code == 3
    report = json.loads(done.out)
    assert list(report) == REPORT[""].split()
    assert (report["assets"]["rejected"], report["verification"], report["dialect"]) == (4, None, "seed")
    assert len(Path(report["rejects_file"]).read_bytes().splitlines()) == 4


def test_the_report_of_a_load_that_stopped_stands_above_its_error(
    database_url: DatabaseUrl, home: Path, tmp_path: Path
) -> None:
    path = written(tmp_path / "index.json", {"sources": [], "assets": [{}] * 4})
    done = subprocess.run(
        [sys.executable, "-m", "seed_registry", "load", path, "--max-rejects", "3", "--quiet"],
        env={"PATH": os.environ["PATH"], "SEED_REGISTRY_HOME": str(home), "DATABASE_URL": database_url.reveal},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
    )
    assert done.returncode == 3
    lines = done.stdout.splitlines()
    assert lines[1].startswith("stopped loading ")
    assert lines[-2].startswith("error: 4 of 4 records rejected")
    assert "look at them with" in lines[-1]


@pytest.mark.parametrize("arguments", [["plan"], ["plan", "--detailed-exitcode"], ["load", "--dry-run"]])
def test_a_plan_of_too_many_rejects_reads_to_the_end_and_is_exit_code_3_all_the_same(
    command: Command, database_url: DatabaseUrl, tmp_path: Path, home: Path, arguments: list[str]
) -> None:
    content = document(*(f"aaaa-{number:04}" for number in range(40)))
    content["assets"][5:5] = [{}] * 30
    path = written(tmp_path / "index.json", content)
    done = command(*arguments, path, "--max-rejects", "3", "--batch-size", "1", url=database_url)
    assert done.code == 3
    assert errors(done) == [
        "error: 30 of 71 records rejected, more than --max-rejects 3 allows; most often: no_key",
        "       is --dialect right, and --records-at?",
    ]
    first, title = done.out.splitlines()[:2]
    assert first.startswith("30 of 71 records would not be loaded: 30 rejected (no_key): ")
    assert title == f"would load {path} (seed)"
    rows = {line.split()[0]: line.split()[1:] for line in reversed(done.out.splitlines()) if line.split()}
    assert (rows["rejected"], rows["no_key"][0]) == (["30"], "30")
    at = Path(path).read_bytes().index(b"{}")
    assert " ".join(rows["no_key"][1:]).startswith(f"line 1 (byte {at}), line 1 (byte ")
    assert "A load would create 1 source and insert 40 assets." in done.out
    assert "Nothing was written. Read: 71 records, " in done.out
    report = json.loads(command(*arguments, path, "--max-rejects", "3", "--json", url=database_url).out)
    assert (report["plan"]["assets"]["new"], report["plan"]["assets"]["rejected"]) == (40, 30)
    assert (counts(database_url), list(home.iterdir())) == ((0, 0), [])
    assert command(*arguments, path, "--max-rejects", "30", url=database_url).code in (0, 2)


def test_a_plan_of_several_indexes_with_too_many_rejects_reads_all_of_them(
    command: Command, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    content = document("aaaa-0001")
    content["assets"] += [{}] * 4
    paths = [written(tmp_path / "bad.json", content), written(tmp_path / "good.json", document("aaaa-0002"))]
    done = command("plan", *paths, "--max-rejects", "3", url=database_url)
    assert done.code == 3
    assert "insert 2 assets" in done.out


def test_a_rejects_file_in_a_directory_that_is_not_there_is_an_error_and_makes_none(
    command: Command, database_url: DatabaseUrl, tmp_path: Path, home: Path
) -> None:
    path = written(tmp_path / "index.json", {"sources": [], "assets": [{}]})
    rejects = tmp_path / "mistyped" / "rejects.ndjson"
    (line,) = failed(command("load", path, "--rejects", rejects, url=database_url))
    assert line == (
        f"error: the rejects file {rejects} cannot be written: No such file or directory; name another with --rejects"
    )
    assert not rejects.parent.exists()
    assert list(home.glob("rejects/*")) == []
    rejects.parent.mkdir()
    assert command("load", path, "--rejects", rejects, url=database_url).code == 3
    assert len(rejects.read_bytes().splitlines()) == 1


@pytest.mark.parametrize("form", [["--json"], []])
def test_a_failed_verification_is_exit_code_4_with_the_report_all_the_same(
    command: Command, database_url: DatabaseUrl, tmp_path: Path, form: list[str]
) -> None:
    content = {"source": "socrata", "domain": A, "totalCount": 7, "datasets": [{"id": "aaaa-0001"}]}
    path = written(tmp_path / "index.json", content)
    done = command("load", path, *form, url=database_url)
    assert done.code == 4
    assert "error: verification failed: declared_totalCount: expected 7, found 1" in done.err
    if form:
        report = json.loads(done.out)
        assert report["verification"]["passed"] is False
        assert [check["name"] for check in report["verification"]["checks"] if not check["passed"]] == [
            "declared_totalCount"
        ]
    else:
        assert "declared_totalCount: expected 7, found 1 FAILED" in done.out
    unverified = command("load", path, "--json", "--no-verify", url=database_url)
    assert (unverified.code, json.loads(unverified.out)["verification"]) == (0, None)


def test_a_document_that_is_cut_off_is_exit_code_1_with_the_byte(
    command: Command, database_url: DatabaseUrl, index: str
) -> None:
    whole = Path(index).read_bytes()
    Path(index).write_bytes(whole[:-20])
    lines = failed(command("load", index, url=database_url))
    assert f"{index} is broken at byte {len(whole) - 20}: " in lines[0]
    assert "what came before is committed" in lines[1]
    assert counts(database_url) == (1, 1)


@pytest.mark.parametrize("arguments", [["plan"], ["load", "--dry-run"]])
def test_a_plan_of_a_document_that_is_cut_off_does_not_claim_that_anything_is_committed(
    command: Command, database_url: DatabaseUrl, index: str, arguments: list[str]
) -> None:
    whole = Path(index).read_bytes()
    Path(index).write_bytes(whole[:-20])
    lines = failed(command(*arguments, index, url=database_url))
    assert f"{index} is broken at byte {len(whole) - 20}: " in lines[0]
    assert lines[1] == "       fix or fetch the file and load it again; nothing was written"
    assert counts(database_url) == (0, 0)


# Several indexes, dry runs


def test_several_indexes_are_one_run(command: Command, database_url: DatabaseUrl, tmp_path: Path, index: str) -> None:
    other = written(tmp_path / "other.json", document("aaaa-0002", "aaaa-0003"))
    done = command("load", index, other, "--json", url=database_url)
    report = json.loads(done.out)
    assert report["indexes"] == [index, other]
    assert (report["assets"]["read"], report["assets"]["inserted"], report["assets"]["duplicate"]) == (4, 3, 1)


@pytest.mark.parametrize("arguments", [["plan"], ["load", "--dry-run"]])
def test_a_dry_run_writes_nothing_and_says_what_it_would_do(
    command: Command, database_url: DatabaseUrl, index: str, arguments: list[str], home: Path
) -> None:
    done = command(*arguments, index, url=database_url)
    assert done.code == 0
    assert done.out.startswith("would load ")
    assert counts(database_url) == (0, 0)
    assert list(home.iterdir()) == []
    report = json.loads(command(*arguments, index, "--json", url=database_url).out)
    assert (report["dry_run"], report["assets"]["inserted"]) == (True, 2)


@pytest.mark.parametrize(
    ("database", "because"),
    [
        ("embedded", "there is no embedded database yet"),
        ("bare", "the database has no registry tables yet, see `seed-registry schema apply`"),
    ],
)
def test_a_dry_run_works_without_a_database_or_tables_makes_none_and_says_so(
    command: Command, index: str, home: Path, bare_database_url: DatabaseUrl, database: str, because: str
) -> None:
    url = bare_database_url if database == "bare" else None
    done = command("plan", index, url=url)
    assert done.code == 0
    assert done.out.splitlines()[1] == f"compared with an empty registry: {because}"
    assert "compared with an empty registry" in done.err
    assert because in done.err
    report = json.loads(command("plan", index, "--json", url=url).out)
    assert (report["assets"]["inserted"], report["plan"]["empty_because"]) == (2, because)
    assert report["plan"]["missing_upstream"] is None
    assert list(home.iterdir()) == []
    if url is not None:
        assert ask(url, "select to_regnamespace('registry'), to_regnamespace('seed_registry')") == [(None, None)]


@pytest.mark.parametrize("form", [["--json"], []])
def test_a_dry_run_against_a_database_that_cannot_be_reached_is_an_error(
    command: Command, index: str, home: Path, form: list[str]
) -> None:
    for arguments in (["plan"], ["load", "--dry-run"]):
        done = command(*arguments, index, "--retry-for", "0", *form, url=UNREACHABLE)
        assert failed(done)[0].startswith("error: cannot connect to postgresql://loader@127.0.0.1:1/registry: ")
        assert "empty registry" not in done.err
        assert CANARY not in done.err
    assert list(home.iterdir()) == []


# What is odd, though nothing failed


@pytest.mark.parametrize("command_name", ["load", "plan"])
@pytest.mark.parametrize("limit", ["1%", "100%", "100"])
def test_an_index_of_which_nothing_is_loaded_is_exit_code_3_with_the_most_likely_fix(
    command: Command, database_url: DatabaseUrl, tmp_path: Path, command_name: str, limit: str
) -> None:
    content = [{"title": "Parks", "identifier": "p-1", "modified": "2026-01-01", "accessLevel": "public"}] * 2
    path = written(tmp_path / "data.json", content)
    done = command(command_name, path, "--max-rejects", limit, url=database_url)
    would = "would be" if command_name == "plan" else "was"
    told = f"nothing {would} loaded: 2 of 2 assets rejected (no_source): name the portal with --domain"
    assert (done.code, done.out.splitlines()[0], errors(done)[0]) == (3, told, f"error: {told}")
    assert counts(database_url) == (0, 0)
    fixed = command(command_name, path, "--domain", "data.example.org", "--max-rejects", limit, url=database_url)
    assert (fixed.code, "rejected (" in fixed.out) == (0, False)


@pytest.mark.parametrize("command_name", ["load", "plan"])
def test_an_index_all_of_whose_assets_miss_their_source_is_exit_code_4_with_the_flag_that_takes_them(
    command: Command, database_url: DatabaseUrl, tmp_path: Path, command_name: str
) -> None:
    content = document()
    content["assets"] = [{"asset_key": f"bbbb-000{number}", "source_key": B} for number in range(3)]
    path = written(tmp_path / "index.json", content)
    arguments = ["--max-rejects", "100", "--no-verify"]
    done = command(command_name, path, *arguments, url=database_url)
    assert done.code == 4
    told = "loaded: 3 of 3 assets of sources that are not listed: create their sources with --derive-sources"
    assert told in done.out.splitlines()[0]
    assert told in errors(done)[0]
    assert command(command_name, path, *arguments, "--derive-sources", url=database_url).code == 0


def test_a_few_small_indexes_are_judged_together(command: Command, database_url: DatabaseUrl, tmp_path: Path) -> None:
    bad, good = written(tmp_path / "bad.json", document()), written(tmp_path / "good.json", document("aaaa-0001"))
    Path(bad).write_text(json.dumps({"sources": [], "assets": [{}]}))
    assert command("load", bad, "--max-rejects", "1", url=database_url).code == 3
    assert command("load", bad, good, "--max-rejects", "1", url=database_url).code == 0
    assert command("load", bad, good, url=database_url).code == 3, "a third is more than 10 %"


def test_too_many_rejects_at_the_end_come_with_the_indexes_that_failed(
    command: Command, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    broken = written(tmp_path / "broken.json", b'{"sources": [], "assets": [{"asset_key": "a", "source_')
    content = document("aaaa-0001")
    content["assets"] += [{}]
    done = command("load", "--keep-going", broken, written(tmp_path / "index.json", content), url=database_url)
    assert done.code == 3
    lines = errors(done)
    assert lines[0] == "error: 1 of 3 records rejected, more than --max-rejects 10% allows; most often: no_key"
    assert "1 of 2 indexes failed: " in lines[-1]
    assert "FAILED broken.json" in done.out


def test_a_run_with_too_many_rejects_at_its_end_is_whole_in_the_ledger_and_not_taken_up(
    command: Command, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    content = document("aaaa-0001")
    content["assets"] += [{}]
    path = written(tmp_path / "index.json", content)
    done = command("load", path, "--json", url=database_url)
    report = json.loads(done.out)
    assert (done.code, report["assets"]["inserted"], report["verification"]["passed"]) == (3, 1, True)
    ((outcome, kept),) = ask(database_url, "select outcome, report->'verification'->>'passed' from seed_registry.runs")
    assert (outcome, kept) == ("too_many_rejects", "true")
    again = json.loads(command("load", path, "--json", url=database_url).out)
    assert again["run_id"] != report["run_id"]
    assert (again["assets"]["unchanged"], again["assets"]["resumed"]) == (1, 0)


def test_a_plan_fails_where_a_load_would_have_stopped_though_the_rest_makes_up_for_it(
    command: Command, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    content = document(*(f"key-{number}" for number in range(4_000)))
    content["assets"][800:800] = [{}] * 400
    path = written(tmp_path / "index.json", content)
    assert command("load", path, "--quiet", url=database_url).code == 3
    done = command("plan", path, "--quiet", url=database_url)
    assert done.code == 3
    assert errors(done)[0].startswith("error: 199 of 1,000 records rejected")


def test_what_verify_cannot_find_is_pointed_out_with_the_reason(
    command: Command, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    content = document("k" * 2_000)
    content["assets"] += [{"name": "no key"}] * 2
    done = command("verify", written(tmp_path / "index.json", content), url=database_url)
    assert hints(done, "every asset was rejected, most often since it has no key") == 1
    content = document("aaaa-0001")
    content["assets"] += [{"asset_key": "bbbb-0001", "source_key": B}]
    path = written(tmp_path / "some.json", content)
    command("load", path, url=database_url)
    told = "1 asset of sources that are not listed: --derive-sources creates them"
    assert hints(command("verify", path, url=database_url), told) == 1


@pytest.mark.parametrize("command_name", ["load", "plan"])
def test_assets_of_sources_that_are_not_listed_are_pointed_out_with_the_flag_that_takes_them(
    command: Command, database_url: DatabaseUrl, tmp_path: Path, command_name: str
) -> None:
    content = document("aaaa-0001")
    content["assets"] += [{"asset_key": f"bbbb-000{number}", "source_key": B} for number in range(2)]
    path = written(tmp_path / "index.json", content)
    done = command(command_name, path, url=database_url)
    assert done.code == 0
    would = "would not be" if command_name == "plan" else "were not"
    told = (
        f"2 of 4 records {would} loaded: 2 of sources that are not listed: create their sources with --derive-sources"
    )
    assert done.out.splitlines()[0] == told
    derived = command(command_name, path, "--derive-sources", url=database_url)
    assert "not listed" not in derived.out


def hints(done: Done, text: str) -> int:
    """How many lines of the result say that, be it as a sentence of a plan."""
    lines = [line.removesuffix(".") for line in done.out.splitlines()]
    return sum(text in line[:1].lower() + line[1:] for line in lines)


# The other commands


def test_schema_apply_creates_the_tables_and_changes_nothing_the_second_time(
    command: Command, bare_database_url: DatabaseUrl
) -> None:
    (line,) = failed(command("schema", "check", url=bare_database_url))
    assert "seed-registry schema apply" in line
    described = """
        select relname::text, attnum, attname::text, atttypid::regtype::text
        from pg_attribute join pg_class on pg_class.oid = attrelid
        where attnum > 0 and relnamespace = 'registry'::regnamespace order by 1, 2
    """
    for _ in range(2):
        done = command("schema", "apply", url=bare_database_url)
        assert (done.code, done.err) == (0, "")
    before = ask(bare_database_url, described)
    assert {row[0] for row in before} >= {"sources", "assets"}
    done = command("schema", "check", url=bare_database_url)
    assert done.code == 0
    assert [row for row in done.out.splitlines() if "asset_key" in row and "key" in row.split()]
    assert done.out.endswith("a load can write to them\n")
    assert ask(bare_database_url, described) == before


def test_schema_show_prints_what_apply_runs(command: Command, bare_database_url: DatabaseUrl) -> None:
    shown = command("schema", "show")
    assert shown.code == 0

    async def execute() -> None:
        connection = await asyncpg.connect(bare_database_url.reveal)
        await connection.execute(shown.out)
        await connection.close()

    asyncio.run(execute())
    assert command("schema", "check", url=bare_database_url).code == 0


def test_schema_check_names_what_a_load_cannot_write_to(command: Command, database_url: DatabaseUrl) -> None:
    ask(database_url, "alter table registry.assets add column owner text not null")
    (line,) = failed(command("schema", "check", url=database_url))
    assert "registry.assets.owner is NOT NULL without a default" in line


def test_schema_grants_quotes_the_role(command: Command) -> None:
    done = command("schema", "grants", 'lo"ader; drop')
    assert done.code == 0
    assert all(line.endswith((' to "lo""ader; drop";', ' from "lo""ader; drop";')) for line in done.out.splitlines())


def test_help_and_version_are_on_stdout(command: Command) -> None:
    for arguments in (["--help"], ["load", "-h"], ["plan", "--help"], ["schema", "--help"]):
        done = command(*arguments)
        assert (done.code, done.err) == (0, "")
        assert "Usage" in done.out
    assert command("--version").out == "0.1.0\n"


# Samples, through a real pipe


def test_a_sample_that_does_not_name_its_portal_tells_the_domain_that_a_load_needs(cli: Cli) -> None:
    told = b"nothing in this index names its portal: load it with --domain data.albany.example\n"
    assert cli("sample", "--records", 1, "--dialect", "views").stderr == told
    assert cli("sample", "--records", 1, "--dialect", "ckan", "--format", "ndjson").stderr == told
    assert cli("sample", "--records", 1, "--dialect", "ckan").stderr == b""


@pytest.mark.parametrize(
    ("dialect", "form"),
    [
        ("seed", "json"),
        ("discovery", "ndjson"),
        *(
            pytest.param(*form, marks=pytest.mark.slow)
            for form in (("seed", "ndjson"), ("directory", "json"), ("discovery", "json"))
        ),
    ],
)
def test_a_sample_piped_into_load_becomes_exactly_what_it_says(
    database_url: DatabaseUrl, home: Path, dialect: Any, form: Any
) -> None:
    workload = Workload(records=2_500, sources=30, dialect=dialect, format=form, duplicates=12, invalid=4, seed=5)
    program = f"{sys.executable} -m seed_registry"
    flags = "--records 2500 --sources 30 --duplicates 12 --invalid 4 --seed 5"
    done = subprocess.run(
        f"{program} sample {flags} --dialect {dialect} --format {form} | {program} load - --json",
        shell=True,
        env={"PATH": os.environ["PATH"], "SEED_REGISTRY_HOME": str(home), "DATABASE_URL": database_url.reveal},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report, wanted = json.loads(done.stdout), expected(workload)
    assert (report["dialect"], report["indexes"]) == (dialect, ["-"])
    assert report["sources"]["inserted"] == wanted.sources
    found = report["assets"]
    assert (found["read"], found["inserted"], found["rejected"]) == (
        wanted.assets,
        wanted.distinct_keys,
        wanted.invalid,
    )
    assert found["duplicate"] + found["unchanged"] + found["updated"] == wanted.duplicates
    assert counts(database_url) == (wanted.sources, wanted.distinct_keys)
    assert len(Path(report["rejects_file"]).read_bytes().splitlines()) == wanted.invalid
