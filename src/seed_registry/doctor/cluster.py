"""Check a Dask cluster for `--scheduler`: its scheduler, and what each of its workers has and sees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from seed_registry.doctor.local import Finding, failed, split_message
from seed_registry.embedded.database import database
from seed_registry.errors import SeedRegistryError
from seed_registry.postgres.connection import session
from seed_registry.postgres.identity import fingerprint, is_same_database
from seed_registry.postgres.process_budget import PROCESS_BYTES, free_sessions, processes_for, sessions_of
from seed_registry.report import Silent
from seed_registry.settings import Settings
from seed_registry.shards.cluster import Cluster, differing, join_cluster, lacking
from seed_registry.shards.cluster_worker import examine
from seed_registry.shards.shared_job import require_shareable
from seed_registry.words import size


async def check_cluster(settings: Settings) -> list[Finding]:
    """Connect to the scheduler and ask all workers; where that fails, the only finding says why."""
    assert settings.scheduler is not None
    try:
        require_shareable([], settings)
        async with join_cluster(settings.scheduler, Silent(), 0.0, "doctor") as cluster:
            if not await cluster.find_workers():
                fix = f"start some: `dask worker {settings.scheduler}`, with DATABASE_URL in their environment"
                return [Finding("cluster", "fail", f"{settings.scheduler} has no worker", fix)]
            here, free = await _own_database(settings)
            scheduler, versions = await cluster.versions()
            findings = [_cluster(settings, cluster, scheduler)]
            if free is not None:
                findings.append(_sessions(settings, sum(cluster.threads.values()), free))
            answers = await cluster.run(examine, settings.schema, dict(settings.columns), settings.pooler)
            of_hosts = Counter[str]()
            for address, answer in answers.items():
                of_hosts[_host(answer)] += cluster.threads.get(address, 1)
            for address, answer in sorted(answers.items()):
                needed = of_hosts[_host(answer)] * PROCESS_BYTES
                threads, own = cluster.threads.get(address, 1), versions.get(address, "unknown")
                findings.append(_worker(address, threads, answer, own, here, needed))
            return findings
    except SeedRegistryError as exc:
        return [failed("cluster", exc)]


async def _own_database(settings: Settings) -> tuple[str | None, int | None]:
    """The fingerprint of the database of this command, and how many sessions are free there; None if it cannot tell."""
    try:
        async with database(settings) as url, session(url, pooler=settings.pooler) as connection:
            return await fingerprint(connection), await free_sessions(connection)
    except SeedRegistryError:  # a finding of its own says why
        return None, None


def _cluster(settings: Settings, cluster: Cluster, scheduler: str) -> Finding:
    own = version("distributed")
    workers, threads = len(cluster.threads), sum(cluster.threads.values())
    found = f"{settings.scheduler}: workers {workers}, threads {threads}, distributed {scheduler}, "
    found += f"dashboard {cluster.dashboard}" if cluster.dashboard else "no dashboard"
    if scheduler == own:
        return Finding("cluster", "ok", found)
    fix = f"pip install distributed=={scheduler} here"
    return Finding("cluster", "warn", f"{found}; here is distributed {own}", fix)


def _sessions(settings: Settings, threads: int, free: int) -> Finding:
    needed = sessions_of(settings, threads)
    found = f"a load by {threads} threads needs {needed} of {free} free sessions"
    if needed <= free:
        return Finding("workers", "ok", found)
    room = processes_for(settings, free)
    fix = f"raise max_connections, or the role's connection limit; until then {room} threads load at a time"
    return Finding("workers", "warn" if room else "fail", found, fix)


def _host(answer: Any) -> str:
    """The machine of a worker, from its name; empty if it has not answered."""
    return answer["name"].rpartition(":")[0] if isinstance(answer, dict) else ""


def _worker(address: str, threads: int, answer: Any, distributed: str, here: str | None, needed: int) -> Finding:
    """The finding about one worker; its name is in it, and in what to do.

    All workers of its machine together need so many bytes of memory.
    """
    if problem := lacking(answer):
        return _failed(address, problem)
    if isinstance(answer, BaseException):
        return _failed(address, f"{answer}\nlook into its log")
    name = answer["name"]
    if problem := differing(answer["software"]) or answer["problem"] or _other_database(answer, here):
        return _failed(name, problem)
    memory = answer["memory"]
    found = f"{name}: {answer['software']}, distributed {distributed}, threads {threads}, cores {answer['cores']}"
    found += f", {size(memory)} of memory free" if memory is not None else ""
    found += f"; sees the tables in {answer['database']}"
    if distributed != (own := version("distributed")):
        return Finding("worker", "warn", f"{found}; here is distributed {own}", f"pip install distributed=={own} there")
    if memory is not None and memory < needed:
        fix = f"start workers with {max(memory // PROCESS_BYTES, 1)} threads in all there, or give it more memory"
        return Finding("worker", "warn", f"{found}, of which the workers of its machine need {size(needed)}", fix)
    return Finding("worker", "ok", found)


def _other_database(answer: Mapping[str, Any], here: str | None) -> str:
    if here is None or is_same_database(answer["fingerprint"], here):
        return ""
    return (
        f"its database {answer['database']} is another one than that of this command\n"
        "start it with the DATABASE_URL of this command"
    )


def _failed(name: str, problem: str) -> Finding:
    finding, fix = split_message(problem, "\n", "; ", ": ")
    return Finding("worker", "fail", f"{name}: {finding}", f"on {name}: {fix or 'look into its log'}")
