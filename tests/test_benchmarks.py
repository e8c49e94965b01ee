from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

import pytest

import floor
import programs
import scaling
import tables
from ground import Measurement
from programs import CURRENT, Program
from seed_registry.index.dialects import DIALECTS
from seed_registry.postgres.connection import session
from seed_registry.settings import DatabaseUrl
from targets import comparisons_table, targets
from ways import Indexes, Way, chosen, ours

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
WAYS = {
    "floor": "psql floor, 2 sessions",
    "limit": "psql limit, 2 sessions",
    "first": "**first load**",
    "unchanged": "**the same index again**",
    "changed": "**again, 1 % changed**",
    "document": "**first load, document**",
    "document-unchanged": "**the same document again**",
}


def printed(script: str, *arguments: str) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(text: str) -> dict[str, list[str]]:
    """The rows of all Markdown tables by their first cell."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in lines}


@pytest.mark.slow
def test_the_decoding_benchmark_compares_every_dialect_with_seed() -> None:
    text = printed("decoding.py", "--dialects", "--megabytes", "1", "--repeat", "1", "--bytes", "2500")
    table = rows(text)
    assert set(DIALECTS) <= set(table)
    assert all(1_900 <= int(table[name][0].replace(",", "")) <= 3_100 for name in DIALECTS)  # of one weight
    assert table["seed"][2] == table["seed"][4] == "1.00"
    assert table["seed"][-1] == "yes"


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_decoding_benchmark_reads_a_sample_of_every_dialect(dialect: str) -> None:
    text = printed("decoding.py", "--dialect", dialect, "--megabytes", "1", "--repeat", "1")
    assert ("lines " in text) == DIALECTS[dialect].sample.has_lines
    assert "document, ijson" in text


@pytest.mark.slow
def test_the_loading_benchmark_measures_every_way_and_all_leave_the_same_rows() -> None:
    """It counts the assets after every way and fails where they differ; what it compares is told in its last line."""
    text = printed("loading.py", "--records", "500", "--repeat", "1", "--ways", ",".join(WAYS))
    table = rows(text)
    assert set(WAYS.values()) <= set(table)
    assert all(float(table[title][2]) > 0 for title in WAYS.values())
    assert "first load, of the psql floor's rate" in table
    for index, alike in (
        ("index.ndjson", "floor, limit, first, unchanged"),
        ("changed.ndjson", "changed"),
        ("index.json", "document, document-unchanged"),
    ):
        assert re.search(rf"^The same rows of {index} \(md5 [0-9a-f]{{32}}\): {alike}\.$", text, re.MULTILINE)


@pytest.mark.slow
def test_the_starting_benchmark_measures_the_version_and_a_small_load() -> None:
    table = rows(printed("starting.py", "--records", "20", "--repeat", "1"))
    assert float(table["--version"][0]) > 0
    assert float(table["a load of 20 records"][0]) > 0


@pytest.mark.slow
def test_the_scaling_benchmark_measures_every_size_and_number_of_workers() -> None:
    table = rows(printed("scaling.py", "--records", "100,300", "--repeat", "1", "--workers", "1,2"))
    assert {"100", "300", "1", "2", "peak memory, MB", "time a record, 300 against 100"} <= set(table)


@pytest.mark.slow
def test_the_scaling_benchmark_compares_numbers_of_processes() -> None:
    flags = ("--processes", "1,2", "--records", "400", "--repeat", "1", "--shard-bytes", "64KiB")
    table = rows(printed("scaling.py", *flags))
    assert {"1, first", "2, first", "1, again", "2, again", "64"} <= set(table)


def took(seconds: float, server_cpu: float | None = 1.0) -> Measurement:
    return Measurement(seconds, seconds, 1.0, server_cpu, 0, 0, {})


def options(**given: object) -> argparse.Namespace:
    return argparse.Namespace(**{"changed": 1.0, "existing_table": False} | given)


def test_ratios_are_of_the_rounds_that_both_took_part_in() -> None:
    """A machine that is slow for a round is slow for both: 4/2 and 30/10, but neither 4/10 nor 30/2."""
    assert tables.ratios([took(4), took(30), took(7)], [took(2), took(10)], lambda m: m.seconds) == [2, 3]


def test_ratios_leave_out_what_could_not_be_measured() -> None:
    ours, others = [took(1, 3), took(1, None), took(1, 3)], [took(1, 2), took(1, 2), took(1, 0)]
    assert tables.ratios(ours, others, lambda m: m.server_cpu) == [1.5]


def test_a_range_is_the_median_with_the_smallest_and_the_largest() -> None:
    assert tables.ranged([1.9, 1.5, 2.0]) == "1.90 [1.50 - 2.00]"
    assert tables.ranged([1.5]) == "1.50"
    assert tables.ranged([]) == "-"


@pytest.mark.parametrize(("seconds", "verdict"), [((1.0, 1.1, 1.0), "yes"), ((1.0, 1.2, 1.2), "**no**")])
def test_a_target_is_met_by_the_median_of_the_rounds(seconds: tuple[float, ...], verdict: str) -> None:
    """Against rounds of 2 s each: 2.0, 1.8 and 2.0 times as fast, or 2.0, 1.7 and 1.7."""
    results = {"first": [took(second) for second in seconds], "5c752f0/first": [took(2)] * 3}
    table = rows(comparisons_table(results, targets(options(), [Program("5c752f0", Path())])))
    assert table["first, against 5c752f0"][-2:] == [">= 1.8 times", verdict]


def test_an_existing_table_is_judged_by_the_cpu_of_the_server() -> None:
    results = {"first": [took(1, 0.5), took(1, 0.5)], "5c752f0/first": [took(1, 1.0), took(1, 0.7)]}
    table = rows(comparisons_table(results, targets(options(existing_table=True), [Program("5c752f0", Path())])))
    assert table["first, against 5c752f0"][-3:] == ["0.61 [0.50 - 0.71]", "server <= 0.6", "**no**"]


def test_nothing_is_wanted_against_a_commit_that_is_not_the_baseline() -> None:
    results = {"first": [took(1)], "8e9a8ef/first": [took(1)]}
    table = comparisons_table(results, targets(options(), [Program("8e9a8ef", Path())]))
    assert "| first, against 8e9a8ef | 1.00 | 1.00 | 1.00 | 1.00 |  |  |" in table


def test_a_reload_follows_on_the_first_load_of_its_own_commit() -> None:
    indexes = Indexes.of(Path("/indexes"), 100)
    possible: list[Way] = [*ours(CURRENT, indexes, 2, 500), *ours(Program("5c752f0", Path("/old")), indexes, 2, 500)]
    found = chosen(possible, ["changed"])
    assert [(way.name, way.after) for way in found] == [
        ("first", ""),
        ("changed", "first"),
        ("5c752f0/first", ""),
        ("5c752f0/changed", "5c752f0/first"),
    ]
    assert found[3].commands[0][:3] == [Path("/old/seed-registry"), "load", Path("/indexes/changed.ndjson")]


@pytest.mark.anyio
async def test_the_floor_gets_the_session_settings_of_a_load_but_waits_for_the_disk(database_url: DatabaseUrl) -> None:
    """Its only transaction is the last one, and a load waits for the disk once, too."""
    settings = await floor.load_settings(database_url.reveal)
    async with session(database_url) as connection:
        assert settings["work_mem"] == await connection.fetchval(
            "select setting from pg_settings where name = 'work_mem'"
        )
        assert await connection.fetchval("show synchronous_commit") == "off"
    assert "synchronous_commit" not in settings


def test_a_section_of_the_page_is_written_and_nothing_else() -> None:
    page = "# Title\n<!-- begin one -->\nold\n<!-- end one -->\ntext\n<!-- begin two -->\n<!-- end two -->\nlast\n"
    written = tables.with_section(page, "one", "| new |\n")
    assert written == page.replace("old", "\n| new |\n")
    assert tables.with_section(written, "one", "| new |") == written
    with pytest.raises(ValueError, match="begin three"):
        tables.with_section(page, "three", "text")


def test_every_section_of_the_page_is_written_by_a_target_of_make() -> None:
    makefile = (BENCHMARKS.parent / "Makefile").read_text("utf-8")
    assert set(tables.sections()) == set(re.findall(r"--write-docs ([\w-]+)", makefile))


def test_a_commit_that_is_not_there_is_refused() -> None:
    with pytest.raises(SystemExit, match="--against no-such-commit: this repository has no such commit"):
        programs.at_commit("no-such-commit")


def test_a_benchmark_that_does_not_fit_on_the_disk_is_refused_before_it_begins() -> None:
    with pytest.raises(SystemExit, match="choose a smaller --records"):
        scaling.say_disk(10**15, 700)
