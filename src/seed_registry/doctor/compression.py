"""Check how the large columns are compressed."""

from __future__ import annotations

from typing import Any, Final

import asyncpg

from seed_registry.doctor.local import Finding, State
from seed_registry.postgres.identifiers import display_name
from seed_registry.registry.compression import Storage, change, has_lz4, storage
from seed_registry.registry.fields import LARGE_FIELDS
from seed_registry.registry.tables import Table

# Measured with records of 1.5 and 4.4 KB, see docs/operations.md.
_LZ4_GAIN: Final = "half the CPU of the server, and 5 to 16 % more disk"
_NONE_GAIN: Final = "40 to 65 % less CPU of the server, and 1.4 to 2.2 times the disk"
# Against a table of which `raw` alone is not compressed.
_WHOLE_ROWS_GAIN: Final = "up to 46 % less CPU of the server, and 1.1 to 1.3 times the disk"


async def check_compression(connection: asyncpg.Connection[Any], assets: Table, *, is_embedded: bool) -> list[Finding]:
    """Report how the large columns of the assets are compressed, and what another way for `raw` would gain and cost."""
    large = [assets.columns[field].name for field in LARGE_FIELDS if field in assets.columns]
    raw = assets.columns["raw"].name if "raw" in assets.columns else None
    has_choice = await has_lz4(connection)
    return [
        _finding(assets, now, raw, has_lz4=has_choice, is_embedded=is_embedded)
        for now in await storage(connection, assets.name, large)
    ]


def _finding(assets: Table, now: Storage, raw: str | None, *, has_lz4: bool, is_embedded: bool) -> Finding:
    title = display_name(assets.name)
    if assets.is_partitioned:
        title = f"{len(now.tables)} partitions of {title}"
    found = f"{title}: new rows have {now}"
    if "lz4" in now.methods.values():
        found += "; a standby that was built without lz4 follows, but cannot read such values, not even once promoted"
    if raw is None or now.methods[raw] == "lz4" or now.is_plain:
        return Finding("compression", "ok", found)
    if now.methods[raw] == "pglz" and has_lz4:
        fix = f"{change(now, raw, 'lz4')} for new rows, if all standbys were built with lz4: {_LZ4_GAIN}"
        return Finding("compression", "warn", found, fix)
    gain = _WHOLE_ROWS_GAIN if now.methods[raw] == "none" else _NONE_GAIN
    # On another server disk, backups and replication may cost more than CPU: see `compression.choose_method`.
    state: State = "warn" if is_embedded else "ok"
    return Finding("compression", state, found, f"{change(now, raw, 'none')} for new rows: {gain}")
