"""Loads open-data portal indexes into a Postgres registry: fast, exact, repeatable.

The public door is `ingest`; see README for its use from Python.
"""

from __future__ import annotations

from seed_registry.errors import SeedRegistryError
from seed_registry.ingesting import ingest
from seed_registry.records import Asset, Source
from seed_registry.registry.merging import upsert_assets, upsert_sources
from seed_registry.report import Progress, Report
from seed_registry.settings import DatabaseUrl, MaxRejects, Settings

__all__ = [
    "Asset",
    "DatabaseUrl",
    "MaxRejects",
    "Progress",
    "Report",
    "SeedRegistryError",
    "Settings",
    "Source",
    "ingest",
    "upsert_assets",
    "upsert_sources",
]
__version__ = "0.1.0"
