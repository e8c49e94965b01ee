"""ckan: packages of CKAN's API (https://docs.ckan.org/en/latest/api/): package_search, lists of packages, lines.

Lines are what `ckanapi dump datasets` writes, the result of package_search without its envelope is what `ckanapi
action` writes (https://github.com/ckan/ckanapi). Answers of the API name the portal in `help`, dumps of packages do
not. A package's `url` is the homepage that its author entered: often another site's, or no URL at all ("Finance
department"). It names the portal only where nothing else does, and is then the page, too: our path on a stranger's host
leads nowhere. Several languages come as objects, as objects in strings, and in `title_translated`, `notes_translated`
(https://github.com/ckan/ckanext-fluent).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    host_of,
    keys_at,
    page,
    pages,
)
from seed_registry.index.json_envelope import Path
from seed_registry.index.shape import Shape


class Package(Struct, gc=False):
    """The fields that are read of a package."""

    id: Any = None
    name: Any = None
    title: Any = None
    title_translated: Any = None
    notes: Any = None
    notes_translated: Any = None
    url: Any = None
    extras: Any = None
    metadata_modified: Any = None


class _Keys(Struct, gc=False):
    """The fields of an ordinary package, where the portal is known."""

    id: str


class _Package(_Keys, gc=False):
    """An ordinary package: its texts are in one language."""

    name: str | None = None
    title: str | None = None
    title_translated: None = None
    notes: str | None = None
    notes_translated: None = None
    url: str | None = None
    metadata_modified: str | None = None


# The last is the result alone: programs like `ckanapi action package_search` leave out what is around it.
_ARRAYS: Final[tuple[Path, ...]] = (("result", "results"), ("result",), ("results",))
# Under which keys harvested packages name their origin. Only the first is about a portal like this one; the
# others are about the dataset, wherever it is.
_EXTRAS: Final = ("portal_url", "source_url", "harvest_url", "url", "guid")


def _asset(package: Package, portal: Portal) -> Fields:
    if source := portal.name:
        url = _page(source, package) or package.url
    else:
        key, source = _host_in(package.extras)
        url = (_page(source, package) if key == _EXTRAS[0] else None) or package.url
        source = source or host_of(package.url) or ""
    return Fields(package.id, source, _title(package), _notes(package), url, package.metadata_modified)


def _key_columns(packages: Sequence[_Keys], portal: Portal) -> Columns:
    return [package.id for package in packages], [portal.name] * len(packages)


def _columns(packages: Sequence[_Package], portal: Portal) -> Columns:
    urls = pages(portal.name, "dataset", [package.name or package.id for package in packages])
    return (
        *_key_columns(packages, portal),
        [package.title or package.name or None for package in packages],
        [package.notes for package in packages],
        [url or _page(portal.name, one) or one.url for url, one in zip(urls, packages, strict=True)],
        [package.metadata_modified for package in packages],
    )


def _page(source: str, package: Package | _Package) -> str | None:
    return page(source, "dataset", package.name) or page(source, "dataset", package.id)


def _title(package: Package) -> Any:
    title = package.title
    if package.title_translated is not None or (title is not None and type(title) is not str):
        return [title, package.title_translated, package.name]  # the first that says something
    return first(title, package.name)


def _notes(package: Package) -> Any:
    translated = package.notes_translated
    return package.notes if translated is None else [package.notes, translated]


def _host_in(extras: Any) -> tuple[str, str]:
    """The first host that the extras name, and under which key.

    Extras are a list of {"key": …, "value": …}; long ago they were an object.
    """
    if isinstance(extras, list):
        pairs = [(extra.get("key"), extra.get("value")) for extra in extras if isinstance(extra, dict)]
        extras = {key: value for key, value in pairs if isinstance(key, str)}
    if isinstance(extras, dict):
        for key in _EXTRAS:
            if host := host_of(extras.get(key)):
                return key, host
    return "", ""


def _portal(header: Mapping[str, Any]) -> str:
    """Answers of the API name their own documentation: `"help": "https://<portal>/api/3/action/help_show?…"`."""
    return host_of(header.get("help")) or ""


def _fits(shape: Shape) -> bool:
    found = any(_is_package(keys_at(shape, *path)) for path in (*_ARRAYS, ()))
    says_so = shape.keys.get("success") is True or "count" in shape.keys
    is_empty = says_so and any(shape.is_empty(*path) for path in _ARRAYS)
    return found or is_empty or bool(_single(shape))


def _single(shape: Shape) -> tuple[Path, ...]:
    """The answer of `package_show` is one package."""
    return (("result",),) if _is_package(shape.objects.get(("result",), set())) else ()


def _is_package(keys: set[str]) -> bool:
    return {"id", "metadata_modified"} <= keys or {"id", "name", "resources", "title"} <= keys


_SAMPLE: Final = Sample(
    record=(
        b'{"author": null, "author_email": null, "creator_user_id": "0f9c2b1e-5d61-4c52-8a3f-6c1f0a7d9e21", '
        b'%(identity)b"isopen": true, "license_id": "cc-by", "license_title": "CC-BY 4.0", "maintainer": null, '
        b'"metadata_created": "%(created)b", "metadata_modified": "%(updated)b", "name": "%(slug)b-%(key)b", '
        b'"notes": "%(text)b", "num_resources": 1, "num_tags": 1, "organization": {"id": '
        b'"5a1d3c77-9b0e-4d3c-b0a9-1f2e3d4c5b6a", "name": "open-data", "title": "Open Data", "type": "organization", '
        b'"description": "", "image_url": "", "created": "2014-01-01T00:00:00.000000", "is_organization": true, '
        b'"approval_status": "approved", "state": "active"}, "owner_org": "5a1d3c77-9b0e-4d3c-b0a9-1f2e3d4c5b6a", '
        b'"private": false, "state": "active", "title": "%(name)b", "type": "dataset", "url": null, "version": null, '
        b'"extras": [{"key": "frequency", "value": "monthly"}, {"key": "views", "value": "%(views)d"}], '
        b'"groups": [{"name": "%(slug)b", "title": "%(topic)b"}], "resources": [%(parts)b], "tags": [%(tags)b]}'
    ),
    part=(
        b'{"cache_url": null, "created": "2019-05-04T12:31:07.124512", "description": "%(note)b", "format": "CSV", '
        b'"id": "b6f1f0a4-3c1a-4b57-9d5e-0d8d1b2c3e4f", "mimetype": "text/csv", "name": "%(name)b", "position": 0, '
        b'"size": null, "state": "active", "url": "https://files.example/%(field)b.csv", "url_type": null}'
    ),
    key=b"5eed0000-0000-4000-8000-%(code)012x",
    identity=b'"id": "%b", ',
    before=(
        b'{"help": "https://%(domain)b/api/3/action/help_show?name=package_search", "success": true, '
        b'"result": {"count": %(records)d, "facets": {}, "sort": "metadata_modified desc", "results": [\n'
    ),
    after=b'\n], "search_facets": {}}}\n',
    needs_domain=frozenset({"ndjson"}),
    fixed_bytes=1090,
)

CKAN: Final = Dialect(
    name="ckan",
    version=2,
    arrays=dict.fromkeys((*_ARRAYS, ()), "asset"),
    sample=_SAMPLE,
    wire=Package,
    asset=_asset,
    ordinary=Ordinary(_Package, _Keys, _columns, _key_columns),
    mapping={
        "key": "id",
        "source_key": "--domain, the host of the header's help, of an extra, of url",
        "name": "title, title_translated, name",
        "description": "notes, notes_translated",
        "url": "https://<domain>/dataset/<name>; url where the portal is not known",
        "updated_at": "metadata_modified",
    },
    typical=frozenset(
        {
            "id",
            "name",
            "title",
            "notes",
            "resources",
            "metadata_created",
            "metadata_modified",
            "num_resources",
            "organization",
            "owner_org",
            "state",
            "extras",
        }
    ),
    fits=_fits,
    singles=_single,
    totals=(("result", "count"), ("count",), *TOTALS),
    portal=_portal,
    provider="ckan",
)
