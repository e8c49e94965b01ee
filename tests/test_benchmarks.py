from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
WAYS = {
    "floor": "psql floor, 2 sessions",
    "limit": "psql limit, 2 sessions",
    "first": "**first load**",
    "unchanged": "**the same index again**",
    "changed": "**again, 1 % changed**",
    "document": "**first load, document**",
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
def test_the_loading_benchmark_measures_every_way_and_all_leave_the_same_rows() -> None:
    """It counts the assets after every way and fails where they differ; what it compares is told in its last line."""
    text = printed("loading.py", "--records", "500", "--repeat", "1", "--ways", ",".join(WAYS))
    table = rows(text)
    assert set(WAYS.values()) <= set(table)
    assert all(float(table[title][2]) > 0 for title in WAYS.values())
    assert "first load, of the psql floor's rate" in table
    assert re.search(r"^The same rows \(md5 [0-9a-f]{32}\): floor, limit, first, unchanged\.$", text, re.MULTILINE)


@pytest.mark.slow
def test_the_scaling_benchmark_measures_every_size_and_number_of_workers() -> None:
    table = rows(printed("scaling.py", "--records", "100,300", "--repeat", "1", "--workers", "1,2"))
    assert {"100", "300", "1", "2", "peak memory, MB", "time a record, 300 against 100"} <= set(table)
