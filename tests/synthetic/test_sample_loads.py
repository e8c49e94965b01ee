from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from seed_registry.api import ingest
from seed_registry.errors import IndexNotUnderstood
from seed_registry.index.dialects import DIALECTS
from seed_registry.index.inputs import IndexRef
from seed_registry.index.open import read_index
from seed_registry.records import Asset
from seed_registry.report import AssetCounts, Report
from seed_registry.settings import DatabaseUrl, DialectName, MaxRejects, Settings
from seed_registry.synthetic.index import Format, Workload, expected, generate

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]

WORKLOADS = [
    Workload(records=120, sources=7, dialect=cast("DialectName", name), format=form, duplicates=12, invalid=8, seed=3)
    for name, dialect in DIALECTS.items()
    for form in cast("tuple[Format, ...]", ("json", "ndjson"))
    if form == "json" or dialect.sample.has_lines
]
every_sample = pytest.mark.parametrize("workload", WORKLOADS, ids=lambda one: f"{one.dialect}-{one.format}")


def written(workload: Workload, path: Path) -> str:
    path.write_bytes(b"".join(generate(workload)))
    return str(path)


async def load(index: str, workload: Workload, url: DatabaseUrl) -> Report:
    # In one batch, so that the last record of each key is the only one that is written.
    settings = Settings(
        database_url=url, domain=workload.domain, concurrency=1, max_rejects=MaxRejects(percent=100.0), verify=False
    )
    return await ingest([index], settings)


@every_sample
@pytest.mark.sampled(11)
async def test_a_load_counts_what_is_expected_of_a_sample_and_a_second_one_changes_nothing(
    workload: Workload, emptied_url: DatabaseUrl, tmp_path: Path
) -> None:
    index, wanted = written(workload, tmp_path / "index"), expected(workload)
    first = await load(index, workload, emptied_url)
    assert (first.dialect, first.provider) == (workload.dialect, DIALECTS[workload.dialect].provider)
    assert first.sources.inserted == wanted.sources
    assert first.assets == AssetCounts(
        read=120, inserted=wanted.distinct_keys, duplicate=wanted.duplicates, rejected=wanted.invalid
    )
    assert (first.unread_records, first.dates_ignored, first.texts_ignored) == ([], 0, 0)
    again = await load(index, workload, emptied_url)
    assert again.assets == AssetCounts(
        read=120, unchanged=wanted.distinct_keys, duplicate=wanted.duplicates, rejected=wanted.invalid
    )
    assert (again.sources.inserted, again.sources.updated) == (0, 0)


@every_sample
async def test_a_sample_names_its_portals_unless_it_says_that_a_load_needs_a_domain(
    workload: Workload, tmp_path: Path
) -> None:
    index, portals = written(workload, tmp_path / "index"), set()
    try:
        async with read_index(IndexRef.of(index), Settings()) as reader:
            async for records in reader.records():
                portals |= {one.source_key for one in records if isinstance(one, Asset) and one.source_key}
    except IndexNotUnderstood as exc:
        assert "name it with --domain" in str(exc)  # noqa: PT017  # one of two ways to need it
    portals.discard("")  # where it could still come in the header
    assert len(portals) == (0 if workload.domain else expected(workload).sources)
