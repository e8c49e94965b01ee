"""Check whether the database holds what indexes say: one pass over each index, and nothing is written.

Memory is O(1) in the length of the index: a batch, its sources, and bounded lists for the report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from seed_registry.embedded.database import database
from seed_registry.headers import require_one_origin_each
from seed_registry.index.inputs import Name, require_files, resolve
from seed_registry.postgres.connection import session
from seed_registry.postgres.identity import identify
from seed_registry.registry.introspection import introspect
from seed_registry.report import Progress, Silent
from seed_registry.settings import Settings
from seed_registry.verify.audit_report import AuditReport
from seed_registry.verify.audit_run import AuditContext, AuditRun
from seed_registry.verify.snapshot import RegistrySnapshot


async def audit(
    indexes: Name | Sequence[Name],
    settings: Settings | None = None,
    progress: Progress | None = None,
    new_run: Callable[[RegistrySnapshot, AuditContext], AuditRun] = AuditRun,
) -> AuditReport:
    """Compare the database with what it would hold had these indexes just been loaded, one after the other.

    Every asset is looked up by its key. Where the content hash of its row differs, and for a sample of at least
    `verify_sample` others, the fields are compared. All of it is one snapshot: writes of others meanwhile do not count.

    Args:
        indexes: as `ingest` takes them.
        settings: those of the load: the same dialect, domain, columns and so on.
        progress: receives the events.
        new_run: makes what reads the indexes; the default reads them in this process.

    Raises:
        SeedRegistryError: an index cannot be read to its end, or the database is not available. A difference is no
            error: it is in the report.
    """
    settings = settings or Settings()
    found = resolve(indexes)
    require_one_origin_each(settings.headers, [index.path for index in found])
    require_files(found)
    async with (
        database(settings, must_exist=True) as url,
        session(url, pooler=settings.pooler) as connection,
    ):
        tables = await introspect(connection, settings.columns, settings.schema)
        snapshot = RegistrySnapshot(
            connection,
            tables,
            full=settings.full,
            seconds=settings.io_timeout_seconds,
            provider=settings.provider,
        )
        async with snapshot.open():
            where = await identify(connection, is_embedded=url.is_embedded)
            context = AuditContext(url, where, tables, settings, progress or Silent())
            return await new_run(snapshot, context).run(found)
