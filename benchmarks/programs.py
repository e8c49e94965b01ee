"""The program that is measured: this checkout's, and those of older commits, each in an environment of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from msgspec import Struct

from ground import Command

_ROOT = Path(__file__).parents[1]
_COMMITS = _ROOT / ".venv-commits"
_LABEL_DIGITS = 7


class Program(Struct, frozen=True):
    """An installed seed-registry.

    Attributes:
        label: the short hash of its commit; empty for this checkout's.
        binaries: the `bin` directory of its environment.
    """

    label: str
    binaries: Path

    def command(self, *arguments: str | Path) -> Command:
        """What a user would type."""
        return [self.binaries / "seed-registry", *arguments]


CURRENT = Program("", Path(sys.executable).parent)


def at_commit(commit: str) -> Program:
    """The program as it was at a commit, with the constraints of that commit; made once, then kept.

    It is installed as `make` installs this checkout's (editable, by the same Python), and compiled beforehand: neither
    side reads another kind of files, and neither compiles its modules while it is measured.
    """
    revision = _git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")
    if revision is None:
        sys.exit(f"--against {commit}: this repository has no such commit")
    place = _COMMITS / revision[:_LABEL_DIGITS]
    source, environment, installed = place / "source", place / "venv", place / "installed"
    if not installed.exists():
        print(f"installing {commit} into {place.relative_to(_ROOT)}", file=sys.stderr)
        shutil.rmtree(place, ignore_errors=True)
        source.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", revision], cwd=_ROOT, stdout=subprocess.PIPE, check=True)
        subprocess.run(["tar", "-x"], cwd=source, input=archive.stdout, check=True)
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        python = environment / "bin/python"
        pip = (python, "-m", "pip", "install", "-q", "--disable-pip-version-check")
        subprocess.run([*pip, "-c", "constraints.txt", "-e", "."], cwd=source, check=True)
        subprocess.run([python, "-m", "compileall", "-q", source / "src"], check=True)
        installed.touch()
    return Program(revision[:_LABEL_DIGITS], environment / "bin")


def described() -> str:
    """This checkout's commit, marked where files differ from it."""
    return _git("describe", "--always", "--abbrev=7", "--exclude=*", "--dirty=, changed") or "no commit"


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
