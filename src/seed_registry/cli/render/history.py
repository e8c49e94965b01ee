"""The versions of an asset, drawn for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import Struct
from rich.text import Text

from seed_registry.changes.document_diff import PathChange
from seed_registry.changes.versions import FieldChange, Version
from seed_registry.cli.render.console import unbroken
from seed_registry.escape import printable

_VALUE_CHARACTERS: Final = 300
_NAME_CHARACTERS: Final = 100
# Of a document, on a screen.
_MOST_PATHS: Final = 12


class AssetHistory(Struct, frozen=True):
    """An asset and its versions, the newest first.

    Attributes:
        exists: whether it is in the registry.
        created_by: the run with history that created it; None if it was there before.
        more: whether there are older versions.
    """

    asset_key: str
    provider: str | None
    source_key: str | None
    exists: bool
    created_by: str | None
    versions: list[Version]
    more: bool


def print_history(found: AssetHistory) -> None:
    """Print each version like a difference: what was there before, and what is there since."""
    console = unbroken()
    owner = f" of {printable(found.source_key)}" if found.source_key is not None else ""
    gone = "" if found.exists else ", no longer in the registry"
    console.print(Text(f"asset {printable(found.asset_key)}{owner}{gone}", "bold"), soft_wrap=True)
    for number, version in enumerate(found.versions):
        console.print()
        for line in _lines(version, is_newest=number == 0, exists=found.exists):
            console.print(line, soft_wrap=True)
    console.print()
    console.print(Text(_end(found), "dim"), soft_wrap=True)


def _end(found: AssetHistory) -> str:
    if found.more:
        return f"there are older versions: --limit {min(len(found.versions) * 10, 1_000)} shows more"
    created = f"created by run {printable(found.created_by)}" if found.created_by else ""
    if not found.versions:
        return f"{created}; nothing has changed it since" if created else "no run with --history changed it"
    return created or "it was there before the first run with --history changed it"


def _lines(version: Version, *, is_newest: bool, exists: bool) -> Iterator[Text]:
    moment = f"{version.at:%Y-%m-%d %H:%M:%S} UTC" if version.at else "not ended"
    deleted = " (deleted)" if version.is_deleted else ""
    yield Text.assemble(
        (f"{version.kind}{deleted}", "cyan"), f"  {moment}  run {printable(version.run_id)}  ",
        (f"change {version.id}", "dim"),
    )  # fmt: skip
    if version.at is None:
        yield Text("  its run has not ended: the feed does not show it yet", "yellow")
    if not version.is_proven:
        yield Text(f"  {_doubt(version, is_newest=is_newest, exists=exists)}", "yellow")
    for field in version.fields:
        yield from _field_lines(field)


def _doubt(version: Version, *, is_newest: bool, exists: bool) -> str:
    if version.is_deleted:
        return "something created it again afterwards, without history"
    if is_newest and not exists:
        return "something deleted it afterwards, without history: the new values are not known"
    then = "as they are now" if is_newest else "those before the next change"
    return f"something changed it afterwards, without history: the new values are {then}"


def _field_lines(field: FieldChange) -> Iterator[Text]:
    yield Text(f"  {printable(field.field, _NAME_CHARACTERS)}", "bold")
    if field.sizes is not None:
        old, new = field.sizes
        yield Text(f"    {old:,} and {new:,} characters: too long to be compared, or no JSON")
        return
    if field.paths is None:
        yield from _values("", field.old, field.new)
        return
    for one in field.paths.paths[:_MOST_PATHS]:
        yield from _path_lines(one)
    if rest := len(field.paths.paths[_MOST_PATHS:]) + field.paths.more:
        yield Text(f"    and {rest:,} more places", "dim")
    if not field.paths.paths:
        yield Text("    only the way it is written", "dim")


def _path_lines(one: PathChange) -> Iterator[Text]:
    yield from _values(f"{printable(one.path, _NAME_CHARACTERS)}: ", one.old, one.new)


def _values(prefix: str, old: object, new: object) -> Iterator[Text]:
    if isinstance(old, str):
        yield Text(f"    - {prefix}{printable(old, _VALUE_CHARACTERS)}", "red")
    elif old is None and new is None:
        yield Text(f"    {prefix}null")
    if isinstance(new, str):
        yield Text(f"    + {prefix}{printable(new, _VALUE_CHARACTERS)}", "green")
    elif new is None and isinstance(old, str):
        yield Text(f"    + {prefix}(none)", "green")
    elif new is not None:
        yield Text(f"    + {prefix}(not known)", "green")
