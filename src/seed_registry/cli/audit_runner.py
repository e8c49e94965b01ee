"""Runs the audit of `verify`, by one process or by several."""

from __future__ import annotations

from collections.abc import Sequence

from seed_registry.report import Progress
from seed_registry.settings import Settings
from seed_registry.verify.audit import audit
from seed_registry.verify.audit_report import AuditReport


async def run_audit(indexes: Sequence[str], settings: Settings, progress: Progress) -> AuditReport:
    """Compare the database with indexes.

    Raises:
        SeedRegistryError: as `audit` does.
    """
    if not settings.is_sharded:
        return await audit(indexes, settings, progress)
    from seed_registry.shards.audit import ShardedAudit  # noqa: PLC0415  # one process needs none of it

    return await audit(indexes, settings, progress, ShardedAudit)
