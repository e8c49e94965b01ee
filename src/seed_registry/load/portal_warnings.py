"""Say where the portal of records may not be the one that was meant, or an index not the newest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from seed_registry.report import Counts, Progress

_HOSTS_TOLD: Final = 5
# Of fewer changes it says nothing about an index that some are older than their rows.
_FEWEST_CHANGES: Final = 20


def warn_of_portals(progress: Progress, index: str, hosts: Sequence[str], *, names_portals: bool) -> None:
    """Warn about an index.

    Args:
        progress: where to.
        index: its name in reports.
        hosts: those that the first records name as their portal's, where they disagree.
        names_portals: whether `--domain` is given, and the records name their portal themselves.
    """
    if names_portals:
        note = "records name their portal themselves; --domain is only for those that do not"
        progress.tell("warning", "domain_not_used", index=index, note=note)
    if hosts:
        note = "each record goes to the portal of its own page; name one for all with --domain"
        progress.tell("warning", "portals_disagree", index=index, hosts=list(hosts[:_HOSTS_TOLD]), note=note)


def warn_of_older(progress: Progress, assets: Counts, *, dry_run: bool) -> None:
    """Warn where most changes of a run, counted in `assets`, replaced newer rows: its indexes are old ones."""
    older = min(assets.updated_by_older, assets.updated)
    if assets.updated < _FEWEST_CHANGES or 2 * older <= assets.updated:
        return
    would = "would replace" if dry_run else "replaced"
    note = f"most changes {would} what the portal updated later; --only-newer leaves such rows as they are"
    progress.tell("warning", "index_is_older", changed=assets.updated, older=older, note=note)
