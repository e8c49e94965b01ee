"""Estimates how long a load would take, and how much write-ahead log it would write, from earlier runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import msgspec

from seed_registry.ledger.history import RunRecord, list_runs
from seed_registry.report import Estimate, Report

# Older runs say little about the server as it is now.
_RUNS: Final = 20
# A run much smaller than the load to come spends its time on starting and ending; beyond this size none does.
_SMALLEST_SHARE: Final = 0.1
_LARGE_ENOUGH: Final = 1_000
# A run is like the load to come if it wrote about the same share of its records.
_LIKENESS: Final = 0.25
# Measured with pg_current_wal_insert_lsn around loads into tables as `schema apply` makes them, on Postgres 18, right
# after a checkpoint, in bytes a row: records of 749 bytes 1,218; 1,506 bytes 1,931; 4,159 bytes (real ones) 3,374;
# 6,095 bytes 4,553; 24,283 bytes 13,132. All of them updated: 1.83 to 2.00 times as much.
_WAL_BYTES_A_ROW: Final = 750
_WAL_BYTES_A_BYTE: Final = 0.6
_WAL_OF_AN_UPDATE: Final = 2


def wal_bytes(new: int, changed: int, bytes_a_row: float) -> int:
    """Estimate the bytes of write-ahead log of these numbers of assets, by the average length of their records."""
    return round((new + _WAL_OF_AN_UPDATE * changed) * (_WAL_BYTES_A_ROW + _WAL_BYTES_A_BYTE * bytes_a_row))


def unguessed(wal: int) -> Estimate:
    """An estimate where there is no run to go by."""
    return Estimate(seconds=None, records_per_second=None, runs=0, wal_bytes=wal)


async def estimate(connection: asyncpg.Connection[Any], read: int, rows: int, wal: int) -> Estimate:
    """Estimate the time of a load from the numbers of records that it reads and of rows that it writes; reads only."""
    likes = _likes(await _reports(connection), read, rows)
    seconds = sum(report.seconds for report in likes)
    if not seconds:
        return unguessed(wal)
    rate = sum(_read(report) for report in likes) / seconds
    return Estimate(round(read / rate, 1), round(rate, 1), len(likes), wal)


def _likes(reports: Sequence[Report], read: int, rows: int) -> list[Report]:
    """The runs to go by: those that are large enough, and of these, if there are any, those that wrote as much."""
    enough = max(1, min(_LARGE_ENOUGH, read * _SMALLEST_SHARE))
    # A run that rejected what it read tells how fast rejecting is.
    large = [report for report in reports if _read(report) - report.assets.rejected >= enough]
    share = rows / max(read, 1)
    likes = [report for report in large if abs(_written(report) / _read(report) - share) <= _LIKENESS]
    return likes or large


async def _reports(connection: asyncpg.Connection[Any]) -> list[Report]:
    """Of the last runs that went through in one go; none where there is no ledger, or none for this role to read."""
    try:
        found = await list_runs(connection, limit=_RUNS)
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError, asyncpg.InsufficientPrivilegeError):
        return []
    return [report for run in found if (report := _report(run)) is not None]


def _report(run: RunRecord) -> Report | None:
    if run.outcome != "done" or run.resumed or run.report is None:
        return None
    try:
        return msgspec.json.decode(run.report, type=Report)
    except msgspec.DecodeError:  # another version's
        return None


def _read(report: Report) -> int:
    return report.sources.read + report.assets.read


def _written(report: Report) -> int:
    return report.assets.inserted + report.assets.updated
