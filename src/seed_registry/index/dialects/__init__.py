"""The dialects of index files, one module each.

To add one: a module whose name is the dialect's, with underscores, and that defines it under that name in capitals (see
`base.Dialect`), and its name in `settings.DialectName`. docs/formats.md shows the steps.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from typing import Final, get_args

from seed_registry.index.dialects.base import Dialect
from seed_registry.settings import DialectName

__all__ = ["ARRAYS", "DIALECTS", "Dialect", "looks_like_record"]


def _module(name: str) -> str:
    return name.replace("-", "_")


# In the order of the settings: where indexes have no records, the first that fits is taken.
DIALECTS: Final[dict[str, Dialect]] = {
    name: getattr(import_module(f"{__name__}.{_module(name)}"), _module(name).upper()) for name in get_args(DialectName)
}
# The keys that each knows a record by, and all the fields that it reads.
_READ: Final = [(dialect.keys, dialect.wire.__struct_encode_fields__) for dialect in DIALECTS.values()]
# Where documents of any dialect have their records.
ARRAYS: Final = frozenset(path for dialect in DIALECTS.values() for path in dialect.arrays if path)


def looks_like_record(keys: Collection[str]) -> bool:
    """Whether an object with these keys is what some dialect reads: it has a key, and another field that is read."""
    return any(
        not dialect_keys.isdisjoint(keys) and sum(name in keys for name in fields) > 1 for dialect_keys, fields in _READ
    )
