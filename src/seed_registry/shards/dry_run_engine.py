"""Runs the steps of a dry run in processes of this machine."""

from __future__ import annotations

from seed_registry.shards.dry_run_worker import perform
from seed_registry.shards.engine import Processes


class DryRunProcesses(Processes):
    """The `Engine` of a dry run on one machine."""

    def __init__(self, processes: int) -> None:
        super().__init__(processes, entry=perform)
