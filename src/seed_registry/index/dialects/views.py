"""views: the metadata of Socrata's views (https://dev.socrata.com/docs/other/metadata), an array, lines or one view.

That is what `/api/views` and `/api/views/<id>` answer. Real ones name no portal, and count seconds since 1970,
not the milliseconds of other interfaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from seed_registry.index.dialects.base import (
    Columns,
    Dialect,
    Fields,
    Ordinary,
    Portal,
    Sample,
    by_record,
    first,
    keys_at,
    moment,
    page,
)
from seed_registry.index.shape import Shape


class View(Struct, gc=False):
    """The fields that are read of a view; it does not name its portal."""

    id: Any = None
    name: Any = None
    description: Any = None
    rowsUpdatedAt: Any = None  # noqa: N815  # a field of the format
    viewLastModified: Any = None  # noqa: N815  # a field of the format


class _Keys(Struct, gc=False):
    """The fields of an ordinary view."""

    id: str


class _View(_Keys, gc=False):
    """An ordinary view."""

    name: str | None = None
    description: str | None = None
    rowsUpdatedAt: int | None = None  # noqa: N815  # a field of the format
    viewLastModified: int | None = None  # noqa: N815  # a field of the format


def _key_columns(views: Sequence[_Keys], portal: Portal) -> Columns:
    return [view.id for view in views], [portal.domain] * len(views)


def _asset(view: View | _View, portal: Portal) -> Fields:
    return Fields(
        view.id,
        portal.domain,
        view.name,
        view.description,
        page(portal.domain, "d", view.id),
        moment(first(view.rowsUpdatedAt, view.viewLastModified)),
    )


def _is_view(keys: set[str]) -> bool:
    return "id" in keys and not {"viewType", "columns", "rowsUpdatedAt", "viewLastModified"}.isdisjoint(keys)


def _whole(shape: Shape) -> bool:
    """Whether a document is one view, as `/api/views/<id>` answers."""
    return not shape.lines and _is_view(set(shape.keys))


_SAMPLE: Final = Sample(
    record=(
        b'{%(identity)b"name": "%(name)b", "assetType": "dataset", "averageRating": 0, "category": "%(topic)b", '
        b'"createdAt": %(created_seconds)d, "description": "%(text)b", "displayType": "table", '
        b'"downloadCount": %(views)d, "hideFromCatalog": false, "newBackend": true, "numberOfComments": 0, '
        b'"oid": 41836912, "provenance": "official", '
        b'"publicationStage": "published", "rowsUpdatedAt": %(updated_seconds)d, "rowsUpdatedBy": "wuc5-gu64", '
        b'"tableId": 17424951, "totalTimesRated": 0, "viewCount": %(views)d, "viewLastModified": %(updated_seconds)d, '
        b'"viewType": "tabular", "columns": [%(parts)b], "grants": [{"inherited": false, "type": "viewer", '
        b'"flags": ["public"]}], "owner": {"id": "wuc5-gu64", "displayName": "Open Data"}, "tags": [%(tags)b]}'
    ),
    part=(
        b'{"id": 290593742, "name": "%(name)b", "dataTypeName": "%(type)b", "description": "%(note)b", '
        b'"fieldName": "%(field)b", "position": 1, "renderTypeName": "text", "format": {}}'
    ),
    identity=b'"id": "%b", ',
    before=b"[\n",
    after=b"\n]\n",
    needs_domain=frozenset({"json", "ndjson"}),
    fixed_bytes=707,
)

VIEWS: Final = Dialect(
    name="views",
    version=1,
    arrays={(): "asset"},
    provider="socrata",
    is_global=None,  # Socrata's ids
    sample=_SAMPLE,
    wire=View,
    asset=_asset,
    ordinary=Ordinary(_View, _Keys, by_record(_asset), _key_columns),
    mapping={
        "key": "id",
        "source_key": "--domain",
        "name": "name",
        "description": "description",
        "url": "https://<domain>/d/<id>",
        "updated_at": "rowsUpdatedAt, viewLastModified (seconds since 1970)",
    },
    typical=frozenset(
        {"id", "name", "viewType", "displayType", "columns", "rowsUpdatedAt", "viewLastModified", "tableId"}
    ),
    fits=lambda shape: _is_view(keys_at(shape)) or _whole(shape),
    singles=lambda shape: ((),) if _whole(shape) else (),
    needs_domain=True,
)
