"""data-json: catalogues of DCAT-US 1.1 (https://resources.data.gov/resources/dcat-us/) and the bare array before it."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from seed_registry.index.dialects.declaring import Dialect, Fields, Portal, first, host_of, keys_at, socrata_id


class Dataset(Struct, gc=False):
    """What is read of a dataset."""

    identifier: Any = None
    title: Any = None
    description: Any = None
    modified: Any = None
    landingPage: Any = None  # noqa: N815  # a field of the format


def _asset(dataset: Dataset, portal: Portal) -> Fields | None:
    identifier = _plain(dataset.identifier)
    if isinstance(identifier, str) and identifier.strip().rstrip("/").endswith("/data.json"):
        return None  # the catalogue's own row
    return Fields(
        first(socrata_id(identifier), socrata_id(dataset.landingPage), identifier),
        # In a federated catalogue identifiers are of other hosts: the portal that publishes them all is the source.
        first(portal.header, host_of(dataset.landingPage), host_of(identifier), portal.domain),
        dataset.title,
        dataset.description,
        dataset.landingPage,
        dataset.modified,
    )


def _plain(identifier: Any) -> Any:
    """Some catalogues wrap their identifiers: {"@value": …}, {"$oid": …}."""
    if isinstance(identifier, dict):
        return first(*(identifier.get(key) for key in ("@value", "@id", "value", "id", "$oid")))
    return identifier


DATA_JSON: Final = Dialect(
    name="data-json",
    version=1,
    arrays={("dataset",): "asset", (): "asset"},
    provider="socrata",
    wire=Dataset,
    asset=_asset,
    mapping={
        "key": "the 4x4 id in identifier or landingPage, identifier",
        "source_key": "the host of the header's @id, of landingPage, of identifier, --domain",
        "name": "title",
        "description": "description",
        "url": "landingPage",
        "updated_at": "modified",
    },
    fits=lambda shape: (
        (not shape.lines and shape.keys.get("dataset") == "array")
        or {"identifier", "title"} <= keys_at(shape)
        or {"accessLevel", "title"} <= keys_at(shape)
    ),
    portal=lambda header: host_of(header.get("@id")) or "",
)
