"""Naming: what an index is called, in messages and in the ledger."""

from __future__ import annotations

import xxhash

from seed_registry.index.byte_stream import absolute
from seed_registry.index.inputs import is_url, redact_url


def shown_name(index: str) -> str:
    """An index as logs and reports may name it: a URL without its secrets."""
    return redact_url(index) if is_url(index) else encodable(index)


def lasting_name(index: str) -> str:
    """What an index is called in the ledger, wherever the command was run; two URLs never the same."""
    if index == "-":
        return index
    if not is_url(index):
        return absolute(index)
    scheme, _, rest = index.partition("://")
    name = shown_name(index)
    asked = f"{scheme}://{rest.rpartition('@')[2]}"  # without a password: a hash of one could be guessed at
    return name if name == asked else f"{name}?{xxhash.xxh3_64_hexdigest(asked.encode(errors='surrogateescape'))}"


def encodable(path: str) -> str:
    """A path whose bytes are not UTF-8 is told with escapes: JSON has no other way."""
    return path.encode(errors="backslashreplace").decode()
