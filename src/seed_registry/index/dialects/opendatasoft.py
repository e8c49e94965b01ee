"""opendatasoft: the catalogue of Opendatasoft's Explore API, of all versions, and its exports as JSON and lines.

Version 2.1 (https://help.opendatasoft.com/apis/ods-explore-v2/) has datasets in `results`, its exports are arrays or
lines of them; version 2.0 puts each into a `dataset` beside its `links`, version 1 (`/api/datasets/1.0/search`,
https://docs.opendatasoft.com/api/explore/v1.html) names it `datasetid`, and its texts stand in `metas` itself. Read
from real records of version 1 (2026) and 2.0 (2016); those of 2.1 follow the documentation, with one real beginning.
What real ones taught: `metas.domain` is a name that only Opendatasoft knows, `source_domain_address` the portal that a
dataset came from, `name@portal` its id then. Only version 2.0 names the portal that answers, in its links.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from seed_registry.index.dialects.base import (
    TOTALS,
    Columns,
    Dialect,
    Fields,
    Ordinary,
    Portal,
    Sample,
    first,
    keys_at,
    keys_in,
    page,
    pages,
    self_host,
)
from seed_registry.index.json_envelope import Path
from seed_registry.index.shape import Shape


class Texts(Struct, gc=False):
    """The metadata that are read."""

    title: Any = None
    description: Any = None
    modified: Any = None


class Metas(Texts, gc=False):
    """The metadata of a dataset: in version 1 they stand here, later in a template."""

    default: Texts | None = None


class Dataset(Struct, gc=False):
    """A dataset."""

    dataset_id: Any = None
    datasetid: Any = None
    metas: Metas | None = None


class Entry(Dataset, gc=False):
    """A dataset, or what has one inside it."""

    dataset: Dataset | None = None
    links: Any = None


class _Texts(Struct, gc=False):
    """The metadata of an ordinary dataset."""

    title: str | None = None
    description: str | None = None
    modified: str | None = None


class _Metas(_Texts, gc=False):
    """The same in either place."""

    default: _Texts | None = None


class _Id(Struct, gc=False):
    """The fields for the key of an ordinary dataset."""

    dataset_id: str | None = None
    datasetid: str | None = None


class _Keys(_Id, gc=False):
    """The same of an entry."""

    dataset: _Id | None = None


class _Dataset(_Id, gc=False):
    """An ordinary dataset."""

    metas: _Metas | None = None


class _Entry(_Dataset, gc=False):
    """An ordinary entry."""

    dataset: _Dataset | None = None


_PATHS: Final[tuple[Path, ...]] = (("results",), ("datasets",), ())
_NO_METAS: Final = Metas()
_NO_TEXTS: Final = Texts()
_NO_ORDINARY_METAS: Final = _Metas()
_NO_ORDINARY_TEXTS: Final = _Texts()


def _asset(entry: Entry, portal: Portal) -> Fields:
    dataset = entry.dataset or entry
    key = first(dataset.dataset_id, dataset.datasetid)
    metas = dataset.metas or _NO_METAS
    texts = metas.default or _NO_TEXTS
    source = portal.name or self_host(entry.links) or ""
    url = page(source, "explore/dataset", key)
    return Fields(
        key,
        source,
        first(texts.title, metas.title),
        first(texts.description, metas.description),
        url and f"{url}/",
        first(texts.modified, metas.modified),
    )


def _key_columns(entries: Sequence[_Keys | _Entry], portal: Portal) -> Columns:
    datasets = [entry.dataset or entry for entry in entries]
    return [dataset.dataset_id or dataset.datasetid for dataset in datasets], [portal.name] * len(entries)


def _columns(entries: Sequence[_Entry], portal: Portal) -> Columns:
    keys, sources = _key_columns(entries, portal)
    metas = [(entry.dataset or entry).metas or _NO_ORDINARY_METAS for entry in entries]
    both = [(one.default or _NO_ORDINARY_TEXTS, one) for one in metas]
    return (
        keys,
        sources,
        [texts.title or old.title or None for texts, old in both],
        [texts.description or old.description or None for texts, old in both],
        pages(portal.name, "explore/dataset", keys, "/"),
        [texts.modified or old.modified for texts, old in both],
    )


def _fits(shape: Shape) -> bool:
    return any(
        _is_dataset(keys_at(shape, *path)) or _is_dataset(keys_in(shape, "dataset", *path)) for path in _PATHS
    ) or any(
        total in shape.keys and shape.is_empty(name)
        for name, total in (("results", "total_count"), ("datasets", "total_count"), ("datasets", "nhits"))
    )


def _is_dataset(keys: set[str]) -> bool:
    return not keys.isdisjoint({"dataset_id", "datasetid"}) and not keys.isdisjoint({"metas", "has_records"})


_SAMPLE: Final = Sample(
    record=(
        b'{"visibility": "domain", %(identity)b"dataset_uid": "da_%(key)b", "has_records": true, '
        b'"features": ["analyze", "timeserie"], "attachments": [], "data_visible": true, "fields": [%(parts)b], '
        b'"metas": {"default": {"title": "%(name)b", "description": "%(text)b", "theme": ["%(topic)b"], '
        b'"keyword": [%(tags)b], "license": "CC-BY 4.0", "language": "en", "modified": "%(updated)b", '
        b'"data_processed": "%(updated)b", "metadata_processed": "%(updated)b", "publisher": "Open Data", '
        b'"references": null, "records_count": %(views)d, "attributions": null, "federated": false}}}'
    ),
    part=(
        b'{"name": "%(field)b", "description": "%(note)b", "annotations": {}, "label": "%(name)b", "type": "%(type)b"}'
    ),
    key=b"set-%(id)b",
    identity=b'"dataset_id": "%b", ',
    before=b'{"total_count": %(records)d, "results": [\n',
    after=b"\n]}\n",
    needs_domain=frozenset({"json", "ndjson"}),
    fixed_bytes=623,
)

OPENDATASOFT: Final = Dialect(
    name="opendatasoft",
    version=1,
    arrays=dict.fromkeys(_PATHS, "asset"),
    provider="opendatasoft",
    sample=_SAMPLE,
    wire=Entry,
    asset=_asset,
    ordinary=Ordinary(_Entry, _Keys, _columns, _key_columns),
    mapping={
        "key": "dataset_id, datasetid; in version 2.0 of dataset",
        "source_key": "--domain, the host of the link to itself, of the document or the dataset",
        "name": "metas.default.title, metas.title",
        "description": "metas.default.description, metas.description",
        "url": "https://<domain>/explore/dataset/<dataset_id>/",
        "updated_at": "metas.default.modified, metas.modified",
    },
    typical=frozenset(
        {
            "dataset_id",
            "datasetid",
            "dataset_uid",
            "metas",
            "has_records",
            "data_visible",
            "features",
            "fields",
            "attachments",
            "dataset",
            "links",
        }
    ),
    fits=_fits,
    portal=lambda header: self_host(header.get("links")) or "",
    kept=frozenset({("links",)}),
    keys=frozenset({"dataset_id", "datasetid", "dataset"}),
    totals=(("nhits",), *TOTALS),
)
