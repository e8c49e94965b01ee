"""ckan: packages of CKAN's API (https://docs.ckan.org/en/latest/api/): package_search, lists of packages, lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from seed_registry.index.detecting import Shape
from seed_registry.index.dialects.declaring import Dialect, Fields, Portal, first, host_of, keys_at, page


class Package(Struct, gc=False):
    """What is read of a package."""

    id: Any = None
    name: Any = None
    title: Any = None
    notes: Any = None
    url: Any = None
    extras: Any = None
    metadata_modified: Any = None


# Under which keys harvested packages tell where they come from.
_EXTRAS: Final = ("portal_url", "source_url", "harvest_url", "url", "guid")


def _asset(package: Package, portal: Portal) -> Fields:
    source = first(portal.header, host_of(package.url), _host_in(package.extras), portal.domain)
    return Fields(
        package.id,
        source,
        first(package.title, package.name),
        package.notes,
        page(source, "dataset", first(package.name, package.id)) or package.url,
        package.metadata_modified,
    )


def _host_in(extras: Any) -> Any:
    """The first host that the extras name; they are a list of {"key": …, "value": …}, long ago an object."""
    if isinstance(extras, list):
        pairs = [(extra.get("key"), extra.get("value")) for extra in extras if isinstance(extra, dict)]
        extras = {key: value for key, value in pairs if isinstance(key, str)}
    if not isinstance(extras, dict):
        return None
    return first(*(host_of(extras.get(key)) for key in _EXTRAS))


def _portal(header: Mapping[str, Any]) -> str:
    """Answers of the API name their own documentation: `"help": "https://<portal>/api/3/action/help_show?…"`."""
    return host_of(header.get("help")) or ""


def _fits(shape: Shape) -> bool:
    found = ("result", "results")
    nothing_found = shape.keys.get("success") is True and shape.arrays.get(found) == set()
    return nothing_found or any(_is_package(keys_at(shape, *path)) for path in (found, ("result",), ()))


def _is_package(keys: set[str]) -> bool:
    return {"id", "metadata_modified"} <= keys or {"id", "name", "resources", "title"} <= keys


CKAN: Final = Dialect(
    name="ckan",
    version=1,
    arrays={("result", "results"): "asset", ("result",): "asset", (): "asset"},
    wire=Package,
    asset=_asset,
    mapping={
        "key": "id",
        "source_key": "the host of the header's help, of url, of an extra, --domain",
        "name": "title, name",
        "description": "notes",
        "url": "https://<domain>/dataset/<name>, url",
        "updated_at": "metadata_modified",
    },
    fits=_fits,
    portal=_portal,
    provider="ckan",
)
