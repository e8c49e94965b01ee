"""Steps of a dry run or an audit by a cluster: what they need to know lies at the scheduler while they are performed.

Neither writes to the database, so there is no ledger that their workers could read. There is no secret in it; see
`shared_job` for what workers have of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from seed_registry import __version__
from seed_registry.report import WorkerProgress
from seed_registry.shards.facts import encoded

if TYPE_CHECKING:
    from msgspec import Struct

    from seed_registry.index.inputs import IndexRef
    from seed_registry.index.shards import Shard
    from seed_registry.report import Tally
    from seed_registry.shards.cluster import Cluster
    from seed_registry.shards.tasks import Place


class PublishedSteps:
    """Performs steps of one run on a cluster; its workers find a fact for each at the scheduler."""

    def __init__(self, cluster: Cluster, run_id: str, tally: Tally, indexes: Sequence[IndexRef]) -> None:
        """`tally` is told what the workers are at."""
        self._cluster = cluster
        self._run_id = run_id
        self._tally = tally
        self._indexes = indexes
        self._sizes: dict[Place, int] = {}

    async def perform(
        self, function: Callable[[str, str, int, int], Any], step: str, shard: tuple[int, Shard], fact: Struct,
        lost: Callable[[str], None],
    ) -> Any:  # fmt: skip
        """Perform a step on a worker, see `published_worker`.

        Args:
            function: called with the id of the run, the step, the position of the index and the number of the shard.
            step: its name.
            shard: the position of its index, and the shard.
            fact: what the step needs to know, without a secret.
            lost: see `Cluster.call`.

        Raises:
            WorkersLost, ClusterUnavailable: see `Cluster.call`.
        """
        cluster, place = self._cluster, (shard[0], shard[1].number)
        self._sizes[place] = shard[1].last - shard[1].first
        name = step_name(self._run_id, step, *place)
        try:
            await cluster.publish(name, (__version__, encoded(fact)))
            key = "-".join(map(str, (step, *place)))
            return await cluster.call(function, self._run_id, step, *place, name=key, lost=lost)
        finally:
            await cluster.withdraw(name)

    async def show(self) -> None:
        """Tell the tally what the workers are at.

        Raises:
            ClusterUnavailable: the scheduler was lost.
        """
        self._tally.worker_progress = sorted(
            (
                WorkerProgress(
                    worker, self._indexes[index].report_name, number, position, self._sizes[index, number], read
                )
                for worker, index, number, position, read in await self._cluster.notes()
            ),
            key=lambda one: one.worker,
        )


def step_name(run_id: str, step: str, index: int, number: int) -> str:
    """The name under which a step is published."""
    return f"seed-registry-{run_id}-{step}-{index}-{number}"
