"""Say where the portal of records may not be the one that was meant."""

from __future__ import annotations

from collections.abc import Sequence

from seed_registry.report import Progress

_HOSTS_TOLD = 5


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
