"""What the workers of a Dask cluster run: the steps of a run, and a look at whether they can.

Dask calls these functions by name, in its threads and in its loop. Their arguments and results are plain values, which
anyone on the network may read: settings come from the ledger, or from the scheduler (see `published`), the URL of the
database and headers from the environment of the worker.

This module imports no other one of ours, and then all of it in one thread: Dask calls in several from the first moment,
and a worker whose loop imported while a thread did so has hung.
"""

from __future__ import annotations

import asyncio
import platform
import threading
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from seed_registry import __version__

if TYPE_CHECKING:
    from seed_registry.shards.audit_tasks import AuditFound
    from seed_registry.shards.dry_run_tasks import PlanFound
    from seed_registry.shards.tasks import Result, Step

_importing: Final = threading.Lock()


def perform_step(
    run_id: str, step: Step, index: int, number: int, parts: tuple[int, ...], keeps_sessions: bool
) -> Result:
    """Perform a step of a load, in a thread of Dask's; a failure that is one of ours is a result.

    With `keeps_sessions` those that it opened stay for the next step, else they are closed.
    """
    result: Result = _imported("cluster_load").perform_step(run_id, step, index, number, parts, keeps_sessions)
    return result


def perform_plan_step(run_id: str, step: str, index: int, number: int) -> PlanFound:
    """Perform a step of a dry run, as above; what it needs to know is published."""
    found: PlanFound = _imported("dry_run_worker").perform_published(run_id, step, index, number)
    return found


def perform_audit_step(run_id: str, step: str, index: int, number: int) -> AuditFound:
    """Perform a step of an audit, as above."""
    found: AuditFound = _imported("audit_cluster_worker").perform_published(run_id, step, index, number)
    return found


async def probe(database: str | None) -> dict[str, Any]:
    """Whether this worker can perform steps of a run, in plain values, for it may be of another version.

    Args:
        database: the `fingerprint` that its database should have, see `postgres.identity`; None if none is compared.

    Returns:
        The worker's `name`, its `software`, the `headers` that it has, without their values, and its `problem`.
    """
    load = await asyncio.to_thread(_imported, "cluster_load")
    found: dict[str, Any] = await load.probe(database)
    return found


async def examine(schema: str, columns: dict[str, str], pooler: str) -> dict[str, Any]:
    """What this worker is, has and sees, in plain values, as above; the arguments are settings.

    Returns:
        Its `name`, `software`, `cores` and free `memory` in bytes; of its database the name, the `fingerprint`, and
        the `problem` with it, which ends with what to do.
    """
    facts = await asyncio.to_thread(_imported, "cluster_facts")
    found: dict[str, Any] = await facts.examine(schema, columns, pooler)
    return found


async def end_run(run_id: str) -> None:
    """End the steps of a run in this worker, and its sessions."""
    slots = await asyncio.to_thread(_imported, "cluster_slots")
    await slots.end_run(run_id)


def software() -> str:
    """What all processes of a run must have alike: hashes, messages and encodings depend on it."""
    python = ".".join(platform.python_version_tuple()[:2])
    return f"seed-registry {__version__}, Python {python}, msgspec {version('msgspec')}"


def _imported(module: str) -> Any:
    """The module that does it, imported by one thread at a time."""
    with _importing:
        return import_module(f"seed_registry.shards.{module}")
