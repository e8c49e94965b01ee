"""What a worker of a Dask cluster says about itself for `doctor`: what `cluster_worker` calls."""

from __future__ import annotations

from typing import Any

import asyncpg

from seed_registry.errors import SeedRegistryError
from seed_registry.postgres.connection import session
from seed_registry.postgres.identity import fingerprint
from seed_registry.postgres.process_budget import cores, free_memory
from seed_registry.registry.introspection import introspect
from seed_registry.shards.cluster_worker import software
from seed_registry.shards.context import worker_name
from seed_registry.shards.shared_job import url_of_worker


async def examine(schema: str, columns: dict[str, str], pooler: Any) -> dict[str, Any]:
    """See `cluster_worker.examine`."""
    facts = {"name": worker_name(), "software": software(), "cores": cores(), "memory": free_memory()}
    facts |= {"database": "", "fingerprint": "", "problem": ""}
    try:
        url = url_of_worker()
        facts["database"] = str(url)
        async with session(url, pooler=pooler) as connection:
            facts["fingerprint"] = await fingerprint(connection)
            await introspect(connection, columns, schema)
    except SeedRegistryError as exc:
        facts["problem"] = str(exc)
    except asyncpg.InsufficientPrivilegeError as exc:
        facts["problem"] = f"{exc.args[0]}\ngrant what the line on privileges says, to its role"
    return facts
