"""Settings: flags over the environment over a file over defaults, where each came from, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pytest
import typer.main

from seed_registry import DatabaseUrl
from seed_registry.cli.commands import load as loading
from seed_registry.cli.config.options import commands_of, options_of, variable
from seed_registry.cli.main import app
from seed_registry.settings import FLAGS, Settings

CANARY = "c4n4ry"
SECRET_URL = f"postgresql://loader:{CANARY}@db.example.org/registry"


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what is wrong."""
        (line,) = self.err.splitlines()
        assert (self.code, self.out) == (2, ""), self
        return line.removeprefix("error: ")


Command = Callable[..., Done]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where commands run; it is a checkout, so that no file above it counts."""
    work = tmp_path / "work"
    (work / ".git").mkdir(parents=True)
    return work


@pytest.fixture
def command(directory: Path, tmp_path: Path, call_main: Callable[..., tuple[int, str, str]]) -> Command:
    """Run the command in this process, in the directory."""

    def run(*arguments: object, env: Mapping[str, str] | None = None, cwd: Path = directory) -> Done:
        known = {"SEED_REGISTRY_HOME": str(tmp_path / "home"), "LANG": "C.UTF-8", "COLUMNS": "200"}
        done = Done(*call_main(arguments, known | dict(env or {}), cwd))
        assert "Traceback" not in done.err
        return done

    return run


def settle(directory: Path, text: str, name: str = "seed-registry.toml") -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    path.chmod(0o600)
    return path


def shown(command: Command, *arguments: str, **options: Any) -> dict[str, tuple[Any, str, str | None]]:
    """What `config show` says of each option: its value, its origin, and the place."""
    done = command("config", "show", *arguments, "--json", **options)
    assert (done.code, done.err) == (0, ""), done
    settings = json.loads(done.out)["settings"]
    return {one["option"]: (one["value"], one["origin"], one["place"]) for one in settings}


# Which one counts


def test_a_flag_counts_more_than_the_environment_that_more_than_the_file_and_that_more_than_the_default(
    command: Command, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, int, int, int]] = []

    def ingest(_indexes: object, settings: Any, _audience: object) -> None:
        given.append((settings.batch_size, settings.concurrency, settings.max_sources, settings.verify_sample))
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "ingest", ingest)
    settle(directory, "batch-size = 11\nconcurrency = 11\nmax_sources = 11\n")
    env = {"SEED_REGISTRY_BATCH_SIZE": "22", "SEED_REGISTRY_CONCURRENCY": "22"}
    command("load", "--batch-size", "33", env=env)
    assert given == [(33, 22, 11, 5)]


def test_a_load_takes_its_index_its_database_and_its_flags_from_the_file(
    command: Command, directory: Path, database_url: DatabaseUrl
) -> None:
    (directory / "index.json").write_text(
        '{"sources": [{"source_key": "a.example"}], "assets": ['
        '{"asset_key": "aaaa-0001", "source_key": "a.example"}, {"asset_key": "aaaa-0002", "source_key": "b.example"}]}'
    )
    settle(
        directory,
        f'database-url = "{database_url.reveal}"\njson = true\n[load]\nindex = "index.json"\nderive-sources = true\n',
    )
    done = command("load")
    assert done.code == 0, done
    assert json.loads(done.out)["assets"]["inserted"] == 2

    async def count() -> int:
        connection = await asyncpg.connect(database_url.reveal)
        try:
            return int(await connection.fetchval("select count(*) from registry.assets"))
        finally:
            await connection.close()

    assert asyncio.run(count()) == 2


def test_a_table_of_a_command_counts_more_than_the_top_level_and_only_for_that_command(
    command: Command, directory: Path
) -> None:
    path = settle(directory, 'domain = "a.example"\n[explain]\ndomain = "b.example"\n')
    assert shown(command, "explain")["domain"] == ("b.example", "file", f"{path} [explain]")
    assert shown(command, "load")["domain"] == ("a.example", "file", str(path))


def test_a_command_of_a_group_has_a_table_of_its_own_in_that_of_the_group(command: Command, directory: Path) -> None:
    path = settle(directory, '[schema]\ncolumn = ["assets.name=a"]\n[schema.check]\ncolumn = ["assets.name=b"]\n')
    assert shown(command, "schema", "check")["column"] == (["assets.name=b"], "file", f"{path} [schema.check]")
    path = settle(directory, '[schema]\ndatabase-url = "postgresql://h/a"\n')
    assert shown(command, "schema", "apply")["database-url"] == ("postgresql://h/a", "file", f"{path} [schema]")


def test_a_plan_is_of_the_load_that_the_file_describes(command: Command, directory: Path) -> None:
    path = settle(directory, '[load]\nderive-sources = true\ndomain = "a.example"\n[plan]\ndomain = "b.example"\n')
    plan = shown(command, "plan")
    assert plan["derive-sources"] == (True, "file", f"{path} [load]")
    assert plan["domain"] == ("b.example", "file", f"{path} [plan]")
    assert shown(command, "explain")["domain"] == (None, "default", None)


def test_what_a_bench_tries_is_not_what_a_load_does(command: Command, directory: Path) -> None:
    path = settle(directory, 'batch-size = 800\ndialect = "views"\n[bench]\nconcurrency = [1, 2]\nrepeat = 5\n')
    bench = shown(command, "bench", env={"SEED_REGISTRY_CONCURRENCY": "9", "SEED_REGISTRY_BENCH_REPEAT": "7"})
    assert bench["batch-size"] == ("100,500,2000,10000", "default", None)
    assert bench["dialect"] == ("views", "file", str(path))
    assert bench["concurrency"] == ("1,2", "file", f"{path} [bench]")
    assert bench["repeat"] == ("7", "environment", "SEED_REGISTRY_BENCH_REPEAT")
    assert shown(command, "sample")["dialect"] == ("seed", "default", None)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("max-rejects = 100", "max-rejects", "100"),
        ('max-rejects = "2.5%"', "max-rejects", "2.5%"),
        ("batch-bytes = 1048576", "batch-bytes", "1048576"),
        ("retry-for = 5", "retry-for", 5),
        ("resume = false", "resume", False),
        ('column = ["assets.name=a", "assets.url=b"]', "column", ["assets.name=a", "assets.url=b"]),
        ("batch_size = 5", "batch-size", 5),
        ("[load]\nsample = 9", "sample", 9),
    ],
)
def test_a_value_is_written_as_toml_writes_it(
    command: Command, directory: Path, text: str, key: str, value: Any
) -> None:
    settle(directory, text)
    assert shown(command)[key][:2] == (value, "file")


def test_lists_and_switches_may_be_in_the_environment(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def ingest(_indexes: object, settings: Any, _audience: object) -> None:
        given.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "ingest", ingest)
    env = {
        "SEED_REGISTRY_COLUMN": "assets.name=a assets.url=b",
        "SEED_REGISTRY_RESUME": "no",
        "SEED_REGISTRY_FULL": "1",
        "SEED_REGISTRY_KEEP_GOING": "",
    }
    command("load", env=env)
    (settings,) = given
    assert settings.columns == {"assets.name": "a", "assets.url": "b"}
    assert (settings.resume, settings.full, settings.keep_going) == (False, True, False)


def test_the_variable_of_this_program_counts_more_than_the_one_that_others_know(command: Command) -> None:
    env = {"DATABASE_URL": "postgresql://h/a", "SEED_REGISTRY_DATABASE_URL": "postgresql://h/b", "INDEX_PATH": "i.json"}
    found = shown(command, env=env)
    assert found["database-url"] == ("postgresql://h/b", "environment", "SEED_REGISTRY_DATABASE_URL")
    assert found["index"] == ("i.json", "environment", "INDEX_PATH")


def test_load_has_a_flag_for_every_setting_but_the_schema() -> None:
    options = options_of(dict(commands_of(typer.main.get_command(app)))["load",])
    assert set(Settings.__struct_fields__) == {*FLAGS, "schema"}
    assert {flag.name for flag in FLAGS.values()} <= options.keys()


def test_no_two_options_of_different_types_share_a_variable() -> None:
    types: dict[str, dict[str, Any]] = {}
    for path, one in commands_of(typer.main.get_command(app)):
        for key, option in options_of(one).items():
            types.setdefault(variable(path[-1], key), {})[" ".join(path)] = option.type_descriptor.annotation
    mixed = {name: found for name, found in types.items() if len(set(found.values())) > 1}
    assert not mixed


def test_what_is_consent_cannot_be_set_once_for_all(command: Command, directory: Path) -> None:
    settle(directory, "[db.reset]\nyes = true\n")
    assert "there is no setting yes" in command("db", "status").error
    root = typer.main.get_command(app)
    reset = dict(commands_of(root))["db", "reset"]
    assert all(option.envvar is None for option in reset.params)


# Which file


def test_the_nearest_file_upwards_is_taken(command: Command, directory: Path) -> None:
    upper = settle(directory, "batch-size = 11")
    deep = directory / "a/b"
    deep.mkdir(parents=True)
    assert shown(command, cwd=deep)["batch-size"] == (11, "file", str(upper))
    nearer = settle(directory / "a", "batch-size = 22")
    assert shown(command, cwd=deep)["batch-size"] == (22, "file", str(nearer))


def test_nothing_above_a_checkout_is_looked_at(command: Command, directory: Path) -> None:
    settle(directory.parent, "batch-size = 11")
    assert shown(command)["batch-size"] == (500, "default", None)


def test_nothing_above_the_home_directory_is_looked_at(command: Command, directory: Path) -> None:
    settle(directory, "batch-size = 11")
    home = directory / "home"
    deep = home / "a"
    deep.mkdir(parents=True)
    assert shown(command, cwd=deep)["batch-size"][0] == 11
    assert shown(command, cwd=deep, env={"HOME": str(home)})["batch-size"][0] == 500
    settle(home, "batch-size = 22")
    assert shown(command, cwd=deep, env={"HOME": str(home)})["batch-size"][0] == 22


def test_a_pyproject_counts_when_it_has_the_table(command: Command, directory: Path) -> None:
    deep = directory / "a"
    upper = settle(directory, "[tool.seed-registry.load]\nbatch-size = 11", "pyproject.toml")
    settle(deep, '[project]\nname = "seed-registry-loader"\n', "pyproject.toml")
    assert shown(command, cwd=deep)["batch-size"] == (11, "file", f"{upper} [tool.seed-registry.load]")
    settle(directory, "batch-size = 22")
    assert shown(command, cwd=deep)["batch-size"][0] == 22


def test_a_pyproject_of_another_program_may_be_broken(command: Command, directory: Path) -> None:
    settle(directory, "[tool.other\n", "pyproject.toml")
    assert shown(command)["batch-size"] == (500, "default", None)


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_a_file_that_is_named_is_taken_instead(command: Command, directory: Path, by: str) -> None:
    settle(directory, "batch-size = 11")
    named = settle(directory, "batch-size = 22", "other.toml")
    if by == "flag":
        done = command("--config", named, "config", "show", "--json")
    else:
        done = command("config", "show", "--json", env={"SEED_REGISTRY_CONFIG": "other.toml"})
    found = json.loads(done.out)
    assert found["file"].endswith("other.toml")
    assert {one["option"]: one["value"] for one in found["settings"]}["batch-size"] == 22


def test_the_null_device_is_a_way_to_go_without_a_file(command: Command, directory: Path) -> None:
    settle(directory, "batch-size = 11")
    assert shown(command, env={"SEED_REGISTRY_CONFIG": os.devnull})["batch-size"] == (500, "default", None)


# What is refused


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("batchsize = 1", "FILE: there is no setting batchsize; did you mean batch-size?"),
        ("[load]\nbacth-size = 1", "FILE [load]: there is no setting bacth-size; did you mean batch-size?"),
        ("[laod]\nbatch-size = 1", "FILE: there is no setting laod; did you mean load?"),
        ("[schema.chek]\n", "FILE [schema]: there is no setting chek; did you mean check?"),
        ("[explain]\nbatch-size = 1", "FILE [explain]: there is no setting batch-size"),
        ("repeat = 3", "FILE: there is no setting repeat; it belongs into [bench]"),
        ("qqqqqq = 3", "FILE: there is no setting qqqqqq"),
        ('"a\\u001bb" = 3', "FILE: there is no setting a\\x1bb"),
        ("batch-size = 1\nbatch_size = 2", "FILE: batch-size is there twice, once as batch_size"),
        ('[load]\nbatch-size = "many"', "FILE [load]: batch-size takes a whole number, not a text"),
        ("batch-size = 1.5", "FILE: batch-size takes a whole number, not a number"),
        ("batch-size = true", "FILE: batch-size takes a whole number, not true or false"),
        ('retry-for = "5"', "FILE: retry-for takes a number, not a text"),
        ("json = 1", "FILE: json takes true or false, not a number"),
        ('column = "a=b"', 'FILE: column takes a list of texts like ["a", "b"], not a text'),
        ("column = [1]", 'FILE: column takes a list of texts like ["a", "b"], not a list'),
        ("domain = 5", "FILE: domain takes a text, not a number"),
        ("domain = 2026-01-01", "FILE: domain takes a text, not a date or time"),
        ("domain = {a = 1}", "FILE: domain takes a text, not a table"),
        ("max-rejects = [1]", "FILE: max-rejects takes a text or a number, not a list"),
        ("batch-size = ", "FILE is not TOML: "),
        ("[load", "FILE is not TOML: "),
        ("a = " + "[" * 2_000, "FILE is nested too deeply"),
        ("# " + "x" * (1 << 20), "FILE is longer than any file of settings"),
    ],
)
def test_a_file_that_cannot_be_is_told_in_one_line_with_its_name_and_the_key(
    command: Command, directory: Path, text: str, error: str
) -> None:
    path = settle(directory, text)
    assert command("load", "index.json").error.startswith(error.replace("FILE", str(path)))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("batch-size = 0", "FILE batch-size: --batch-size must be from 1 to 100,000, got 0"),
        ('[load]\ndialect = "nope"', "FILE [load] dialect: 'nope' is not one of 'seed', "),
        (
            '[load]\nbatch-bytes = "huge"',
            "FILE [load] batch-bytes: a size looks like 4MiB, 500KB or 1048576, got 'huge'",
        ),
        ('max-rejects = "lots"', "FILE max-rejects: --max-rejects takes a number like 100 or a percentage like 2.5%"),
    ],
)
def test_a_value_out_of_range_is_told_with_the_place_where_it_was_set(
    command: Command, directory: Path, text: str, error: str
) -> None:
    path = settle(directory, text)
    assert command("load", "index.json").error.startswith(error.replace("FILE", str(path)))


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("SEED_REGISTRY_BATCH_SIZE", "x", "SEED_REGISTRY_BATCH_SIZE: "),
        ("SEED_REGISTRY_BATCH_SIZE", "0", "SEED_REGISTRY_BATCH_SIZE: --batch-size must be from 1 to 100,000, got 0"),
        ("SEED_REGISTRY_DRY_RUN", "maybe", "SEED_REGISTRY_DRY_RUN: "),
        ("SEED_REGISTRY_DIALECT", "nope", "SEED_REGISTRY_DIALECT: 'nope' is not one of"),
    ],
)
def test_a_variable_that_cannot_be_is_told_by_its_name(command: Command, name: str, value: str, error: str) -> None:
    assert command("load", "index.json", env={name: value}).error.startswith(error)


def test_a_flag_that_cannot_be_is_not_blamed_on_a_file(command: Command, directory: Path) -> None:
    settle(directory, "batch-size = 5")
    done = command("load", "--batch-size", "0")
    assert done.error == "--batch-size must be from 1 to 100,000, got 0"


def test_a_broken_file_does_not_keep_anybody_from_the_help_or_the_version(command: Command, directory: Path) -> None:
    settle(directory, "nonsense")
    for arguments in (["--help"], ["load", "--help"], ["load", "-h"], ["load", "--help-all"], ["--version"]):
        assert command(*arguments).code == 0


def test_a_file_that_is_not_there_or_is_none_is_told(command: Command, directory: Path) -> None:
    assert command("--config", "nope.toml", "load").error == "nope.toml cannot be read: No such file or directory"
    assert command("--config", ".", "load").error.startswith(". ")
    settle(directory, "[project]\n", "pyproject.toml")
    assert command("--config", "pyproject.toml", "load").error == "pyproject.toml has no table [tool.seed-registry]"
    os.mkfifo(directory / "pipe")
    assert command("--config", "pipe", "load").error == "pipe is not a file of settings"
    (directory / "binary.toml").write_bytes(b"\xff\xfe")
    assert command("--config", "binary.toml", "load").error.startswith("binary.toml is not TOML")


# Secrets


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_file_with_a_password_that_others_can_read_is_refused(command: Command, directory: Path, mode: int) -> None:
    path = settle(directory, f'[load]\ndatabase-url = "{SECRET_URL}"')
    path.chmod(mode)
    for arguments in (["load"], ["config", "show"], ["--config", path, "load"]):
        error = command(*arguments).error
        assert error.startswith(f"{path} can be read by others")
        assert CANARY not in error
    path.chmod(0o600)
    assert shown(command)["database-url"][0] == "postgresql://loader@db.example.org/registry"


@pytest.mark.parametrize("url", ["postgresql://loader@db.example.org/registry", "postgresql:///registry"])
def test_a_file_that_names_a_database_without_a_secret_may_be_read_by_others(
    command: Command, directory: Path, url: str
) -> None:
    settle(directory, f'database-url = "{url}"').chmod(0o644)
    assert shown(command)["database-url"][1] == "file"


@pytest.mark.parametrize("text", [f"host=db password={CANARY}", f"postgresql://db/registry?password={CANARY}"])
def test_a_password_in_another_form_is_one_too(command: Command, directory: Path, text: str) -> None:
    settle(directory, f'database-url = "{text}"').chmod(0o644)
    assert "can be read by others" in command("load").error


def test_a_file_that_everybody_can_write_is_refused(command: Command, directory: Path) -> None:
    path = settle(directory, 'database-url = "postgresql://h/a"')
    path.chmod(0o666)
    assert command("load").error.startswith(f"{path} can be written by everybody: chmod o-w it; name it with --config")
    path.chmod(0o600)
    directory.chmod(0o777)
    assert command("load").error.startswith(f"{path} lies in a directory that everybody can write to")
    directory.chmod(0o1777)
    assert shown(command)["database-url"][0] == "postgresql://h/a"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_refused_unless_it_is_named(command: Command, directory: Path) -> None:
    path = settle(directory, 'database-url = "postgresql://h/a"')
    os.chown(path, 12345, -1)
    assert command("load").error.startswith(f"{path} belongs to another user (uid 12345); name it with --config")
    assert command("--config", path, "config", "show").code == 0


@pytest.mark.parametrize("by", ["file", "DATABASE_URL", "SEED_REGISTRY_DATABASE_URL", "SEED_REGISTRY_INDEX"])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_password_is_never_shown(command: Command, directory: Path, by: str, form: list[str]) -> None:
    if by == "file":
        settle(directory, f'database-url = "{SECRET_URL}"')
    done = command("config", "show", *form, env={} if by == "file" else {by: SECRET_URL})
    assert done.code == 0
    assert CANARY not in done.out + done.err
    assert "db.example.org" in done.out


def test_a_database_that_is_no_url_is_covered_whole(command: Command) -> None:
    assert shown(command, env={"DATABASE_URL": f"host=db password={CANARY}"})["database-url"][0] == "***"


# config show


def test_config_show_says_what_is_set_first_and_where_it_was_set(command: Command, directory: Path) -> None:
    path = settle(
        directory, '[load]\ndomain = "a.example"\ncolumn = ["assets.name=a", "assets.url=b"]\nresume = false\n'
    )
    done = command("config", "show", env={"SEED_REGISTRY_CONCURRENCY": "8"})
    first, _, _, *rows = [line.split("  ") for line in done.out.splitlines()]
    assert first == [f"file: {path}"]
    told = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert told[:4] == [
        ["concurrency", "8", "SEED_REGISTRY_CONCURRENCY"],
        ["domain", "a.example", "seed-registry.toml [load]"],
        ["column", "assets.name=a, assets.url=b", "seed-registry.toml [load]"],
        ["resume", "no", "seed-registry.toml [load]"],
    ]
    assert ["batch-size", "500", "default"] in told[4:]
    assert all(row[-1] == "default" for row in told[4:])


def test_config_show_names_every_option_of_every_command(command: Command) -> None:
    for path, one in commands_of(typer.main.get_command(app)):
        assert list(shown(command, *path)) == list(options_of(one))


def test_config_show_points_out_variables_that_nothing_reads(command: Command) -> None:
    done = command("config", "show", env={"SEED_REGISTRY_BATCHSIZE": "8"})
    assert "SEED_REGISTRY_BATCHSIZE is set, but is no setting of any command" in done.out


@pytest.mark.parametrize("arguments", [("load", "none.json"), ("plan", "none.json"), ("db", "status")])
def test_a_variable_that_nothing_reads_is_warned_of_but_not_in_a_quiet_load(
    command: Command, arguments: tuple[str, ...]
) -> None:
    environment = {"SEED_REGISTRY_BATCHSIZE": "8", "SEED_REGISTRY_BATCH_SIZE": "8", "SEED_REGISTRY_BENCH_REPEAT": "3"}
    warning = "warning: SEED_REGISTRY_BATCHSIZE is set, but is no setting of any command"
    told = command(*arguments, env=environment).err.splitlines()
    assert [line for line in told if line.startswith("warning: ")] == [warning]
    assert told[0] == warning
    if arguments[0] != "db":
        for flag in ("-q", "--quiet"):
            assert "warning" not in command(*arguments, flag, env=environment).err
    assert "warning" not in command(*arguments, env={"SEED_REGISTRY_BATCH_SIZE": "8"}).err


def test_a_variable_that_nothing_reads_cannot_write_on_the_terminal(command: Command) -> None:
    told = command("load", "none.json", env={"SEED_REGISTRY_\x1b[31m": "8"}).err.splitlines()[0]
    assert told == "warning: SEED_REGISTRY_\\x1b[31m is set, but is no setting of any command"


def test_config_show_without_a_file_says_what_it_looked_for(command: Command) -> None:
    assert command("config", "show").out.startswith("file: none found (seed-registry.toml, or pyproject.toml with [")


def test_config_show_of_no_command_is_told(command: Command) -> None:
    assert command("config", "show", "nope").error == "there is no command nope; `seed-registry --help` lists them"
