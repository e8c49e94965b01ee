"""Conversion: what the command line makes of a text is what Typer would make of it."""

from __future__ import annotations

from typing import Any

import pytest
import typer.main

from seed_registry.cli.config.conversion import convert_plainly
from seed_registry.cli.config.options import commands_of
from seed_registry.cli.main import app

TEXTS = (
    "", " ", "5", " 5 ", "5\n", "+5", "-5", "05", "5.0", ".5", "1_000", "_5", "1__0", "1,000", "0x10", "1e3", "1e999",
    "nan", "inf", "-Infinity", "9" * 5_000, "\uff11\uff12", "\u0663", "true", "None", "auto", "Auto", "json", "seed",
    "data-json", "transaction", "a b", "\u00e9", "\ud800", "\0",
)  # fmt: skip


def parameters() -> dict[str, Any]:
    """One parameter of each type that commands take, by its type."""
    found: dict[str, Any] = {}
    for _, command in commands_of(typer.main.get_command(app)):
        for parameter in command.params:
            kind = parameter.type_descriptor
            found.setdefault(f"{kind.annotation} {kind.is_ranged} {parameter.required}", (command, parameter))
    return found


def outcome(command: Any, parameter: Any, value: Any) -> str:
    """What becomes of a value: what it was converted to, or how it was refused."""
    try:
        return repr(parameter.process_value(typer.Context(command), value))
    except Exception as exc:  # noqa: BLE001  # whatever it is, both have to raise it
        return f"{type(exc).__name__}: {getattr(exc, 'message', exc)}"


@pytest.mark.skipif(not hasattr(typer.core.TyperOption, "get_runtime_param"), reason="this Typer does not use pydantic")
@pytest.mark.parametrize("kind", parameters())
def test_a_value_is_converted_or_refused_as_typer_does_it(kind: str) -> None:
    command, parameter = parameters()[kind]
    several = parameter.multiple or parameter.nargs == -1
    values = [*TEXTS] if not several else [*((text,) for text in TEXTS), TEXTS, ()]
    of_typer = {value: outcome(command, parameter, value) for value in values}
    convert_plainly([parameter])
    assert {value: outcome(command, parameter, value) for value in values} == of_typer


def test_a_default_and_a_plain_text_need_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typer.core.TyperOption, "get_runtime_param", None, raising=False)
    command = dict(commands_of(typer.main.get_command(app)))[("load",)]
    flags = ["--batch-size", "7", "--retry-for", "1.5", "--dialect", "seed", "--column", "a=b", "--no-verify"]
    with command.make_context("load", [*flags, "index.json"], parent=typer.Context(typer.main.get_command(app))) as ctx:
        given = {
            name: ctx.params[name] for name in ("batch_size", "retry_for", "column", "verify", "indexes", "domain")
        }
    assert given == {
        "batch_size": 7, "retry_for": 1.5, "column": ["a=b"], "verify": False, "indexes": ["index.json"], "domain": None
    }  # fmt: skip
    assert ctx.params["dialect"].value == "seed"
