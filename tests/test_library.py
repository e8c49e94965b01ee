"""The library as another program uses it: its public names, their types, with and without an event loop."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import seed_registry
from seed_registry import (
    IndexUnreadable,
    MaxRejects,
    Progress,
    Report,
    SeedRegistryError,
    Settings,
    TooManyRejects,
    ingest,
    ingest_sync,
)
from seed_registry.report import Tally
from seed_registry.settings import DatabaseUrl
from seed_registry.synthetic.index import Workload, generate

PUBLIC = {
    "Asset", "DatabaseRefused", "DatabaseUnavailable", "DatabaseUrl", "EmbeddedServerFailed", "IndexBroken",
    "IndexNotUnderstood", "IndexUnreadable", "IndexesFailed", "KeyPart", "MaxRejects", "Progress", "Report",
    "SchemaMismatch", "SchemaMissing", "SeedRegistryError", "Settings", "SettingsInvalid", "Source", "StorageFailed",
    "TooManyRejects", "VerificationFailed", "ingest", "ingest_sync", "undo", "upsert_assets",
    "upsert_sources",
}  # fmt: skip


class Counting:
    """A `Progress` of another program."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def began(self, tally: Tally) -> None:
        """The load begins."""
        self.tally = tally

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Something happened."""
        del level, fields
        self.events.append(event)


@pytest.fixture
def index(tmp_path: Path) -> str:
    path = tmp_path / "index.json"
    path.write_bytes(b"".join(generate(Workload(records=300))))
    return str(path)


def test_the_public_names_are_these_and_each_is_documented() -> None:
    assert set(seed_registry.__all__) == PUBLIC
    for name in PUBLIC:
        assert inspect.getdoc(getattr(seed_registry, name)), name


def test_the_package_says_that_it_is_typed() -> None:
    assert files("seed_registry").joinpath("py.typed").is_file()


@pytest.mark.parametrize("name", ["ingest", "ingest_sync", "upsert_assets", "upsert_sources"])
def test_every_parameter_and_result_of_a_public_function_has_a_type(name: str) -> None:
    function = getattr(seed_registry, name)
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(parameter.annotation is not parameter.empty for parameter in signature.parameters.values())


def test_a_load_without_an_event_loop_is_the_same_load(database_url: DatabaseUrl, index: str) -> None:
    progress: Progress = Counting()
    report = ingest_sync([index], Settings(database_url=database_url), progress)
    assert isinstance(report, Report)
    assert report.assets.inserted == 300
    assert isinstance(progress, Counting)
    assert {"run_started", "index_opened", "run_finished"} <= set(progress.events)
    assert progress.tally.assets.inserted == 300


@pytest.mark.parametrize(
    "form", [str, Path, lambda path: [Path(path)], lambda path: [path], lambda path: (Path(path), path)]
)
def test_an_index_may_be_named_alone_and_by_a_path(
    database_url: DatabaseUrl, index: str, form: Callable[[str], Any]
) -> None:
    report = ingest_sync(form(index), Settings(database_url=database_url))
    assert set(report.indexes) == {index}
    assert report.assets.inserted == 300


def test_a_text_is_one_index_and_not_one_of_each_letter(database_url: DatabaseUrl, tmp_path: Path) -> None:
    with pytest.raises(IndexUnreadable, match=r"^none\.json: no such file"):
        ingest_sync("none.json", Settings(database_url=database_url))
    with pytest.raises(IndexUnreadable, match=r"/none\.json: no such file"):
        ingest_sync(tmp_path / "none.json", Settings(database_url=database_url))


def test_too_many_rejects_come_with_the_report_of_what_was_before_them(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    path = tmp_path / "index.json"
    path.write_bytes(b"".join(generate(Workload(records=300, invalid=10))))
    settings = Settings(database_url=database_url, max_rejects=MaxRejects.parse("2"), rejects=str(tmp_path / "rejects"))
    with pytest.raises(TooManyRejects) as stopped:
        ingest_sync(path, settings)
    report = stopped.value.report
    assert report is not None
    assert (report.assets.rejected, report.rejects_file, report.verification) == (3, settings.rejects, None)


def test_what_fails_without_an_event_loop_raises_our_own_errors(database_url: DatabaseUrl, tmp_path: Path) -> None:
    with pytest.raises(SeedRegistryError, match="no such file"):
        ingest_sync([str(tmp_path / "none.json")], Settings(database_url=database_url))


@pytest.mark.anyio
async def test_within_an_event_loop_the_load_without_one_is_refused(database_url: DatabaseUrl, index: str) -> None:
    with pytest.raises(RuntimeError):
        ingest_sync([index], Settings(database_url=database_url))
    assert (await ingest([index], Settings(database_url=database_url))).assets.inserted == 300
