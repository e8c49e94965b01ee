"""Secrecy: a password given on the command line is warned of, covered up, and told to nobody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Cli
from seed_registry import ingest
from seed_registry.cli.argv_secrets import cover_secrets
from seed_registry.errors import DatabaseUnavailable
from seed_registry.settings import DatabaseUrl, Settings

CANARY = "cAnArY"
SHOWN = """
import sys
from seed_registry.cli.argv_secrets import cover_secrets
list(cover_secrets(sys.argv[1:]))
sys.stdout.write(open("/proc/self/cmdline").read().replace("\\0", " "))
sys.stdout.write("|" + " ".join(sys.argv))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["load", "--database-url", f"postgresql://u:{CANARY}@h/d", "x"],
        ["load", f"--database-url=postgresql://u:{CANARY}@h/d"],
        ["load", "--database-url", f"postgresql://u@h/d?password={CANARY}&sslmode=require"],
        ["load", "--database-url", f"postgresql://u:1{CANARY}@h/d?sslpassword=2{CANARY}"],
        ["load", "--database-url", f"host=h password={CANARY}"],
        ["load", "--database-url", f"postgresql://u:{CANARY}é@h/d"],
        ["load", "--header", f"Authorization: Bearer {CANARY}", "x"],
        ["load", f"--header=X-Token:{CANARY}"],
        ["load", "--header", f"https://data.example.org X-Token: {CANARY}", "--header", f"Cookie: a={CANARY}; b"],
        ["load", "--header", f"no header at all {CANARY}"],
        ["load", "--header", f"User-Agent: {CANARY}"],
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a program cover its arguments")
def test_a_password_on_the_command_line_is_covered_in_the_list_of_processes(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", SHOWN, *arguments], capture_output=True, check=True, text=True)
    shown, _, seen = done.stdout.rpartition("|")
    assert CANARY not in shown
    assert "******" in shown
    assert CANARY in seen, "the program itself still needs it"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["load", "--database-url"],
        ["load", "--database-url", "postgresql://u@h:5432/d"],
        ["load", "--database-url", "postgresql://h/d?options=-ca%3Db"],
        ["load", "https://user:password@portal.example.org/index.json"],
        ["load", "--header", "User-Agent: me"],
        ["load", "--header"],
    ],
)
def test_arguments_without_a_password_of_a_database_are_left_alone(arguments: list[str]) -> None:
    assert list(cover_secrets(arguments)) == []


def test_a_password_on_the_command_line_is_warned_of_once_and_never_shown(cli: Cli) -> None:
    url = f"postgresql://u:{CANARY}@no.such.host.invalid/d"
    for command in (("schema", "apply"), ("load", "x", "--verbose"), ("doctor", "--json")):
        done = cli(*command, "--database-url", url)
        text = done.stderr.decode()
        assert text.count("warning: the password in --database-url") == 1
        assert "DATABASE_URL" in text
        assert CANARY not in text + done.stdout.decode()
    assert b"warning" not in cli("schema", "apply", env={"DATABASE_URL": url}).stderr


@pytest.mark.parametrize("flag", ["-q", "--quiet"])
def test_whoever_wants_quiet_is_not_warned_of_a_password(cli: Cli, flag: str) -> None:
    done = cli("load", "none.json", flag, "--database-url", f"postgresql://u:{CANARY}@no.such.host.invalid/d")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: none.json: no such file")
    assert CANARY not in line


class Recorder:
    """A progress that remembers warnings."""

    def __init__(self) -> None:
        self.warnings: list[tuple[str, str]] = []

    def began(self, tally: object) -> None:
        """Ignore it."""

    def tell(self, level: str, event: str, /, **fields: object) -> None:
        """Remember it."""
        if level == "warning":
            self.warnings.append((event, str(fields)))


@pytest.mark.anyio
async def test_a_load_warns_once_of_a_host_that_proves_nothing(tmp_path: Path) -> None:
    progress = Recorder()
    url = DatabaseUrl(f"postgresql://u:{CANARY}@no.such.host.invalid/d")
    index = tmp_path / "index.json"
    index.write_text("[]")
    with pytest.raises(DatabaseUnavailable):
        await ingest([str(index)], Settings(database_url=url), progress)
    ((event, facts),) = progress.warnings
    assert event == "tls_unverified"
    assert "no.such.host.invalid" in facts
    assert CANARY not in facts
