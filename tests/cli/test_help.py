"""The help: a screen for each command, every option in it, examples that run, a page that is not stale, completion."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from conftest import Cli
from seed_registry.cli.config.options import commands_of, key_of, options_of
from seed_registry.cli.help import examples_of, print_help
from seed_registry.cli.main import app
from seed_registry.cli.reference import current_page

ROOT: Any = typer.main.get_command(app)
COMMANDS = {" ".join(path): command for path, command in commands_of(ROOT)}
GROUPS = {"": ROOT} | {name: one for name, one in ROOT.commands.items() if hasattr(one, "commands")}
EVERYTHING = COMMANDS | GROUPS
# A terminal as it opens is 24 lines high; nobody works with less than 40 on a screen.
LINES, COLUMNS = 40, 80
PAGE = Path(__file__).parents[2] / "docs/reference.md"
PROGRAM = shutil.which("seed-registry", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def context_of(path: str) -> Any:
    """The context of a command, as if it was called."""
    context = typer.Context(ROOT, info_name="seed-registry")
    command = ROOT
    for name in (path,) if path in getattr(ROOT, "commands", {}) else path.split():
        command = command.commands[name]
        context = typer.Context(command, info_name=name, parent=context)
    return context


def told(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, everything: bool = False,
    columns: int = COLUMNS,
) -> str:  # fmt: skip
    monkeypatch.setenv("COLUMNS", str(columns))
    capsys.readouterr()
    print_help(EVERYTHING[path], context_of(path), everything=everything)
    return capsys.readouterr().out


def spoken(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("path", EVERYTHING)
def test_the_help_of_a_command_fits_a_screen(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = told(path, capsys, monkeypatch).splitlines()
    assert len(lines) <= LINES
    assert [line for line in lines if len(line) > COLUMNS] == []


@pytest.mark.parametrize("path", EVERYTHING)
def test_a_narrow_terminal_cuts_nothing_off(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = told(path, capsys, monkeypatch, everything=True, columns=50).partition("\nExamples\n")[0].splitlines()
    assert [line for line in lines[1:] if len(line) > 60] == []
    assert "…" not in re.sub(r",…", "", "\n".join(lines))


@pytest.mark.parametrize("path", COMMANDS)
def test_every_option_is_in_the_help_and_explained_in_the_full_help_and_in_the_page(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = spoken(told(path, capsys, monkeypatch))
    full = spoken(told(path, capsys, monkeypatch, everything=True))
    section = spoken(page_section(path))
    for parameter in COMMANDS[path].params:
        assert parameter.help, f"{path} {parameter.name} has no help"
        assert spoken(parameter.help) in full
        assert spoken(parameter.help).replace("|", "\\|").replace("<", "&lt;") in section
        if parameter.param_type_name == "option":
            for name in (*parameter.opts, *parameter.secondary_opts):
                assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", screen), name
                assert name in full
                assert name in section


@pytest.mark.parametrize("path", EVERYTHING)
def test_every_command_says_what_it_does_in_its_first_line(path: str) -> None:
    text = EVERYTHING[path].help
    assert text
    assert text.split("\n\n")[0].rstrip().endswith(".")


def test_every_command_is_in_the_help_of_its_group(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, group in GROUPS.items():
        lines = told(path, capsys, monkeypatch).splitlines()
        for name in group.commands:
            if " " in name:  # the help of the command above it names it
                assert f"`{name}`" in ROOT.commands[name.partition(" ")[0]].help
                continue
            assert any(line.startswith(f"  {name} ") for line in lines), name


@pytest.mark.parametrize("path", COMMANDS)
def test_the_page_names_the_variable_of_every_option(path: str) -> None:
    section = page_section(path)
    for option in options_of(COMMANDS[path]).values():
        for name in option.envvar:
            assert f"`{name}`" in section


@pytest.mark.parametrize("path", EVERYTHING)
def test_every_command_has_examples_that_it_understands(path: str) -> None:
    examples = examples_of(path)
    assert examples
    for words in (words for example in examples for words in calls(example)):
        command, context = ROOT, typer.Context(ROOT, info_name="seed-registry")
        while hasattr(command, "commands") and words:
            name = path if path == " ".join(words[:2]) and path in command.commands else words[0]
            del words[: len(name.split())]
            command = command.commands[name]
            context = typer.Context(command, info_name=name, parent=context, **command.context_settings)
        if {"-h", "--help"}.isdisjoint(words):
            assert not hasattr(command, "commands"), examples
            rest = command.make_parser(context).parse_args(list(words))[1]
            assert not rest or command.context_settings.get("allow_extra_args"), examples


@pytest.mark.parametrize("path", COMMANDS)
def test_an_example_of_a_command_is_of_that_command(path: str) -> None:
    assert all(f"seed-registry {path}" in example for example in examples_of(path))


def test_the_page_is_what_the_command_line_says() -> None:
    assert PAGE.read_text("utf-8") == current_page(), (
        "it is stale: .venv/bin/python -m seed_registry.cli.reference > docs/reference.md"
    )


def test_the_help_that_is_called_for_is_the_one_that_is_tested(
    cli: Cli, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {"COLUMNS": "80"}
    # Called as a module the program has another name.
    name = "python -m seed_registry"
    for flag, everything in (("--help", False), ("-h", False), ("--help-all", True)):
        done = cli("load", flag, env=env)
        assert (done.returncode, done.stderr) == (0, b"")
        expected = told("load", capsys, monkeypatch, everything=everything)
        head, _, rest = done.stdout.decode().partition("\n")
        assert head.startswith(f"Usage: {name} load [OPTIONS] [INDEX]...")
        assert spoken(rest).replace(name, "seed-registry") == spoken(expected.partition("\n")[2])
    assert b"\x1b" not in done.stdout


def test_the_help_after_two_dashes_is_no_call_for_help(cli: Cli) -> None:
    done = cli("explain", "--", "--help-all")
    assert done.returncode == 1
    assert b"--help-all: no such file" in done.stderr


# Completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_comes_out(shell: str, tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = run(["--show-completion", shell], env)
    assert done.returncode == 0
    assert "_SEED_REGISTRY_COMPLETE" in done.stdout
    done = run(["--install-completion", shell], env)
    assert done.returncode == 0
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert any("_SEED_REGISTRY_COMPLETE" in text for text in written)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("sch", {"schema"}),
        ("schema ", {"apply", "upgrade", "check", "show", "grants"}),
        ("config s", {"show"}),
        ("load --dial", {"--dialect"}),
        ("load --dialect d", {"directory", "discovery", "data-json", "dataverse", "dcat-ap"}),
        ("load --batch-", {"--batch-size", "--batch-bytes"}),
    ],
)
def test_the_shell_is_answered_while_one_types(words: str, answer: set[str], tmp_path: Path) -> None:
    """Also below a broken file of settings: nobody wants to read of it in the middle of a word."""
    (tmp_path / "seed-registry.toml").write_text("nonsense")
    typed = ["seed-registry", *words.split(" ")]
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "_SEED_REGISTRY_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(typed),
        "COMP_CWORD": str(len(typed) - 1),
    }
    done = run([], env, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == answer


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    assert PROGRAM is not None
    script = (
        "source <(_SEED_REGISTRY_COMPLETE=source_bash seed-registry); COMP_WORDS=(seed-registry expl); COMP_CWORD=1; "
        '_seed_registry_completion seed-registry; echo "${COMPREPLY[@]}"'
    )
    env = {"PATH": f"{Path(PROGRAM).parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert (done.stdout, done.stderr) == ("explain\n", "")


def page_section(path: str) -> str:
    """What the page says of a command."""
    page = PAGE.read_text("utf-8")
    return page.partition(f"\n## seed-registry {path}\n")[2].partition("\n## ")[0]


def calls(example: str) -> list[list[str]]:
    """What the program is called with in a line for the shell."""
    words = shlex.split(re.sub(r"\$\((.*?)\)", r"| \1 |", example))
    found: list[list[str]] = []
    for before, word in zip(["|", *words], words, strict=False):
        if before == "|":
            found.append([])
        if word != "|":
            found[-1].append(word)
    return [call[1:] for call in found if call[:1] == ["seed-registry"]]


def run(arguments: list[str], env: dict[str, str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the installed program: completion is by its name."""
    assert PROGRAM is not None
    return subprocess.run(
        [PROGRAM, *arguments], env=env, cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


def test_every_option_has_a_long_name() -> None:
    for path, command in COMMANDS.items():
        for option in options_of(command).values():
            assert key_of(option) not in {name.lstrip("-") for name in option.opts if not name.startswith("--")}, path
