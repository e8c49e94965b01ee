"""Loads open-data portal indexes into a Postgres registry: fast, exact, repeatable.

The public door is `ingest`, or `ingest_sync` where there is no event loop; see README for their use from Python.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seed_registry.api import ingest, ingest_sync
    from seed_registry.changes.undo_run import undo
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
    from seed_registry.key_hashes import KeyPart
    from seed_registry.records import Asset, Source
    from seed_registry.registry.upsert import upsert_assets, upsert_sources
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
    "KeyPart",
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
    "undo",
    "upsert_assets",
    "upsert_sources",
]
__version__ = "0.1.0"

# The modules that define these names, those that import least first.
_HOMES = ("errors", "settings", "records", "report", "registry.upsert", "api", "changes.undo_run")


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for: the command line asks for few, and `--version` for none."""
    if name in __all__:
        for home in _HOMES:
            module = import_module(f"{__name__}.{home}")
            if hasattr(module, name):
                value = globals()[name] = getattr(module, name)
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
