"""The events of a load and of `verify`: their names, their fields, and which sinks take which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_RECORD: Final = "index line offset key reason"
_COUNTS: Final = "processed inserted updated skipped seconds"
# All events by name, with the fields of each. Names and fields are stable: docs/events.md describes them.
EVENTS: Final[Mapping[str, str]] = {
    "run_started": "run_id indexes dry_run database",
    "run_resumed": "run_id ended error",
    "run_restarted": "reason",
    "connected": "host port name user server embedded",
    "no_database": "reason note",
    "no_ledger": "note",
    "pooler_found": "note",
    "tls_unverified": "note",
    "columns_left_out": "table fields",
    "unlogged_tables": "table note",
    "row_security": "table note",
    "triggers": "table note",
    "values_required": "table note",
    "no_default_partition": "table note",
    "source_cache_read": "path cached trusted",
    "indexes_dropped": "table indexes note",
    "indexes_kept": "reason note",
    "building_indexes": "table indexes dropped_by",
    "indexes_built": "table indexes seconds",
    "indexes_missing": "table indexes note",
    "index_opened": "index dialect bytes",
    "index_resumed": "index committed",
    "index_changed": "index note",
    "index_failed": "index reason",
    "index_finished": "index sources assets",
    "domain_not_used": "index note",
    "portals_disagree": "index hosts note",
    "batch_merged": "index records seconds",
    "batch_compared": "index records",
    "sources_merged": "index records seconds",
    "record_rejected": f"{_RECORD} detail",
    "source_missing": f"{_RECORD} source",
    "date_ignored": _RECORD,
    "text_ignored": f"{_RECORD} field",
    "warnings_end": "reason note",
    "retrying": "reason blocked_by",
    "waiting_for_standby": "note",
    "fewer_workers": "workers wanted reason",
    "waiting_for_workers": "scheduler",
    "cluster_joined": "scheduler workers threads dashboard",
    "progress": "index step position bytes read inserted updated unchanged rejected records_per_second",
    "loading_parked": "index assets",
    "keys_scanned": "records seconds",
    "writing_held": "assets",
    "shards_planned": "index shards bytes",
    "not_splittable": "index reason note",
    "one_shard": "note",
    "shards_counted": "step planned scanned loaded",
    "shard_scanned": "index shard seconds",
    "shard_loaded": "index shard seconds",
    "shard_retried": "index shard step reason",
    "keys_sieved": "keys repeated",
    "settling": "records",
    "incomplete": "index declared read note",
    "index_is_older": "changed older note",
    "unread_records": "index path count note",
    "retiring": "",
    "batch_retired": "assets",
    "undo_started": "run_id undoes",
    "batch_undone": "table rows conflicts",
    "undo_finished": "run_id undoes seconds",
    "not_retired": "source run_id note",
    "planning": "",
    "verifying": "",
    "digesting": "",
    "sample_differs": "key fields line",
    "more_in_registry": "assets note",
    "sources_loaded": _COUNTS,
    "assets_loaded": _COUNTS,
    "run_finished": "",  # the fields of the report
    "verify_finished": "passed",  # and counts
}
# The result on stdout has them.
EVENTS_OF_RESULT: Final = {"run_finished", "verify_finished", "sources_loaded", "assets_loaded"}
# The live display or the result has them.
EVENTS_OF_DISPLAY: Final = {
    "run_started", "run_finished", "sources_loaded", "assets_loaded", "index_opened", "index_finished", "verifying",
    "loading_parked", "writing_held", "shard_loaded", "shards_planned", "keys_sieved", "settling",
}  # fmt: skip
# Rare, and of interest long after the load: they become events of the trace.
EVENTS_OF_TRACE: Final = {
    "retrying", "run_resumed", "run_restarted", "index_resumed", "index_changed", "fewer_workers", "no_ledger",
    "warnings_end", "sample_differs", "index_failed", "shard_retried",
}  # fmt: skip
# A record that was rejected or changed.
EVENTS_OF_RECORDS: Final = {"record_rejected", "source_missing", "date_ignored", "text_ignored"}
