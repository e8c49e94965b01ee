"""The shortfall: what was not loaded, and the most likely fix, in one line."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace

from seed_registry.index.decoder import REASONS
from seed_registry.report import AssetCounts, Report, SourceCounts
from seed_registry.shortfall import FIXES, empty_handed, shortfall


def report(sources: SourceCounts | None = None, **assets: int) -> Report:
    return Report(
        run_id="", indexes=[], dialect="", provider="", dry_run=False, seconds=0, bytes_read=0, records_per_second=0,
        batches=0, retries=0, repaired=0, dates_ignored=0, texts_ignored=0, sources=sources or SourceCounts(),
        assets=AssetCounts(read=sum(assets.values()), **assets), rejects_file=None, verification=None,
    )  # fmt: skip


def test_every_reason_has_a_fix() -> None:
    assert set(FIXES) == set(REASONS)


def test_where_everything_was_loaded_there_is_nothing_to_say() -> None:
    assert shortfall(report(), {}) == ""
    assert shortfall(report(inserted=2, updated=1, unchanged=1, duplicate=1, resumed=1, older=1), {}) == ""


@pytest.mark.parametrize("kept", ["inserted", "updated", "unchanged", "resumed", "older"])
def test_whatever_is_in_the_registry_was_not_lost(kept: str) -> None:
    counts: dict[str, Any] = {"rejected": 5, "missing_source": 3}
    assert empty_handed(report(**counts)) is not None
    assert empty_handed(report(**(counts | {kept: 1}))) is None


def test_the_more_frequent_cause_comes_first_and_gives_the_fix() -> None:
    found = report(SourceCounts(read=1, inserted=1), inserted=1, rejected=1_234, missing_source=3)
    assert shortfall(found, Counter(no_source=1_233, no_key=1)) == (
        "1,237 of 1,239 records were not loaded: 1,234 rejected (most often no_source), "
        "3 of sources that are not listed: name the portal with --domain"
    )
    found = report(inserted=1, rejected=1, missing_source=3)
    assert shortfall(found, {"no_key": 1}).endswith("create their sources with --derive-sources")


def test_what_was_read_before_a_run_stopped_was_not_loaded_either() -> None:
    assert shortfall(report(inserted=1, rejected=2, not_written=3), {"no_key": 2}) == (
        "5 of 6 records were not loaded: 3 not written before the run stopped, 2 rejected (no_key): "
        "is --dialect right, and --records-at?"
    )


def test_of_a_dry_run_it_tells_what_would_be() -> None:
    found = replace(report(rejected=2), dry_run=True)
    assert shortfall(found, {"no_source": 2}) == (
        "nothing would be loaded: 2 of 2 assets rejected (no_source): name the portal with --domain"
    )


def test_a_reason_of_another_version_needs_no_fix() -> None:
    assert (
        shortfall(report(inserted=1, rejected=1), {"other": 1}) == "1 of 2 records was not loaded: 1 rejected (other)"
    )
    assert shortfall(report(inserted=1, rejected=1), {}) == "1 of 2 records was not loaded: 1 rejected"
