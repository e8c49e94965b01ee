"""Performs a step that is published at the scheduler, in a worker of a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from msgspec import Struct

from seed_registry.errors import ClusterUnavailable
from seed_registry.shards.cluster_slots import ENDED, perform_in_slot
from seed_registry.shards.facts import decoded
from seed_registry.shards.packed_files import PackedFile, pack
from seed_registry.shards.published import step_name
from seed_registry.shards.shared_files import private_directory, unusable
from seed_registry.shards.shared_job import require_version

S = TypeVar("S", bound=Struct)
R = TypeVar("R")


def perform_step(
    step: tuple[str, str, int, int], kind: type[S], work: Callable[[S, str], Coroutine[Any, Any, R]]
) -> tuple[R, list[PackedFile]]:
    """Perform a step, in a thread of Dask's; return its result, and the files that it wrote.

    Args:
        step: the id of the run, the step, the position of the index and the number of the shard.
        kind: of the fact that was published.
        work: performs it, with the fact and a directory for its files.

    Raises:
        ClusterUnavailable: the run has ended, or is one of another version of this program.
        SeedRegistryError: as `work` does.
    """
    from distributed import get_worker  # noqa: PLC0415  # this is a worker, so it is there

    # Dask clears it after a worker that was killed.
    place: str = get_worker().local_directory
    fact = _find(step_name(*step), kind)
    try:
        with private_directory(place) as directory:
            result = perform_in_slot(step[0], lambda _: work(fact, directory))
            return result, pack(directory)
    except OSError as exc:  # those of an index are errors of ours
        raise unusable(place, exc) from exc


def _find(name: str, kind: type[S]) -> S:
    from distributed import get_client  # noqa: PLC0415  # see above

    try:
        version, data = get_client().get_dataset(name)
    except (KeyError, OSError) as exc:
        raise ClusterUnavailable(ENDED) from exc
    require_version(version)
    return decoded(data, kind)
