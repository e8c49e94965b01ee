"""Steps of a dry run or an audit by a cluster: what they need to know lies at the scheduler while they are performed.

Neither writes to the database, so there is no ledger that their workers could read. There is no secret in it; see
`shared_job` for what workers have of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from seed_registry import __version__
from seed_registry.shards.facts import encoded

if TYPE_CHECKING:
    from msgspec import Struct

    from seed_registry.shards.cluster import Cluster
    from seed_registry.shards.tasks import Place


async def perform_published(
    cluster: Cluster,
    function: Callable[[str, str, int, int], Any],
    step: tuple[str, str, Place],
    fact: Struct,
    lost: Callable[[str], None],
) -> Any:
    """Perform a step on a worker, which finds a fact at the scheduler; see `published_worker`.

    Args:
        cluster: that performs it.
        function: called with the id of the run, the step, the position of the index and the number of the shard.
        step: the id of the run, the step, its shard.
        fact: what the step needs to know, without a secret.
        lost: see `Cluster.call`.

    Raises:
        WorkersLost, ClusterUnavailable: see `Cluster.call`.
    """
    run_id, kind, place = step
    name = step_name(run_id, kind, *place)
    try:
        await cluster.publish(name, (__version__, encoded(fact)))
        return await cluster.call(function, run_id, kind, *place, name=f"{kind}-{place[0]}-{place[1]}", lost=lost)
    finally:
        await cluster.withdraw(name)


def step_name(run_id: str, step: str, index: int, number: int) -> str:
    """The name under which a step is published."""
    return f"seed-registry-{run_id}-{step}-{index}-{number}"
