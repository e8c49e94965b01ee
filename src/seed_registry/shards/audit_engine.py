"""Runs the steps of an audit in processes of this machine."""

from __future__ import annotations

from collections.abc import Callable

from seed_registry.shards.audit_tasks import AuditJob, AuditTask, ShardAudited
from seed_registry.shards.audit_worker import audit_shard
from seed_registry.shards.engine import Processes


class AuditProcesses:
    """The `AuditEngine` of one machine."""

    def __init__(self, processes: int) -> None:
        self._processes = Processes(processes)

    async def audit(self, job: AuditJob, task: AuditTask, lost: Callable[[str], None]) -> ShardAudited:
        """Perform a step, see `AuditEngine`."""
        return await self._processes.call(audit_shard, job, task, lost)
