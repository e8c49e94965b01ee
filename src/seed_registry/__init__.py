"""Loads open-data portal indexes into a Postgres registry: fast, exact, repeatable.

The public door is `ingest`, or `ingest_sync` where there is no event loop; see README for their use from Python.
"""

from __future__ import annotations

from seed_registry.errors import (
    DatabaseRefused,
    DatabaseUnavailable,
    EmbeddedServerFailed,
    IndexBroken,
    IndexesFailed,
    IndexNotUnderstood,
    IndexUnreadable,
    SchemaMismatch,
    SchemaMissing,
    SeedRegistryError,
    SettingsInvalid,
    StorageFailed,
    TooManyRejects,
    VerificationFailed,
)
from seed_registry.ingesting import ingest, ingest_sync
from seed_registry.records import Asset, Source
from seed_registry.registry.merging import upsert_assets, upsert_sources
from seed_registry.report import Progress, Report
from seed_registry.settings import DatabaseUrl, MaxRejects, Settings

__all__ = [
    "Asset",
    "DatabaseRefused",
    "DatabaseUnavailable",
    "DatabaseUrl",
    "EmbeddedServerFailed",
    "IndexBroken",
    "IndexNotUnderstood",
    "IndexUnreadable",
    "IndexesFailed",
    "MaxRejects",
    "Progress",
    "Report",
    "SchemaMismatch",
    "SchemaMissing",
    "SeedRegistryError",
    "Settings",
    "SettingsInvalid",
    "Source",
    "StorageFailed",
    "TooManyRejects",
    "VerificationFailed",
    "ingest",
    "ingest_sync",
    "upsert_assets",
    "upsert_sources",
]
__version__ = "0.1.0"
