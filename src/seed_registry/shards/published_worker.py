"""Performs a step that is published at the scheduler, in a worker of a Dask cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

from msgspec import Struct

from seed_registry.errors import ClusterUnavailable
from seed_registry.report import Tally
from seed_registry.shards.cluster_slots import ENDED, perform_in_slot
from seed_registry.shards.context import worker_name
from seed_registry.shards.facts import decoded
from seed_registry.shards.packed_files import PackedFile, pack
from seed_registry.shards.published import step_name
from seed_registry.shards.shared_files import private_directory, unusable
from seed_registry.shards.shared_job import require_version

S = TypeVar("S", bound=Struct)
R = TypeVar("R")
_SECONDS_BETWEEN_NOTES: Final = 1.0


def perform_step(
    step: tuple[str, str, int, int], kind: type[S], work: Callable[[S, str, Tally], Coroutine[Any, Any, R]]
) -> tuple[R, list[PackedFile]]:
    """Perform a step, in a thread of Dask's; return its result, and the files that it wrote.

    Args:
        step: the id of the run, the step, the position of the index and the number of the shard.
        kind: of the fact that was published.
        work: performs it, with the fact, a directory for its files and what it counts in.

    Raises:
        ClusterUnavailable: the run has ended, or is one of another version of this program.
        SeedRegistryError: as `work` does.
    """
    from distributed import get_worker  # noqa: PLC0415  # this is a worker, so it is there

    # Dask clears it after a worker that was killed.
    place: str = get_worker().local_directory
    tally = Tally()
    fact = _find(step_name(*step), kind)
    try:
        with private_directory(place) as directory, _noted(step, tally):
            result = perform_in_slot(step[0], lambda _: work(fact, directory, tally))
            return result, pack(directory)
    except OSError as exc:  # those of an index are errors of ours
        raise unusable(place, exc) from exc


@contextmanager
def _noted(step: tuple[str, str, int, int], tally: Tally) -> Iterator[None]:
    """Let the command see how far a step is, while the body performs it; see `Cluster.notes`."""
    from distributed import get_client, get_worker  # noqa: PLC0415  # see above

    client: Any = get_client()
    key, name, ended = get_worker().get_current_task(), worker_name(), threading.Event()

    def note() -> None:
        with suppress(OSError):  # the scheduler is gone, and the step will fail
            while not ended.wait(_SECONDS_BETWEEN_NOTES):
                client.set_metadata([key], [name, *step[2:], tally.index_position, tally.read])

    thread = threading.Thread(target=note, name="seed-registry-notes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_SECONDS_BETWEEN_NOTES)


def _find(name: str, kind: type[S]) -> S:
    from distributed import get_client  # noqa: PLC0415  # see above

    try:
        version, data = get_client().get_dataset(name)
    except (KeyError, OSError) as exc:
        raise ClusterUnavailable(ENDED) from exc
    require_version(version)
    return decoded(data, kind)
