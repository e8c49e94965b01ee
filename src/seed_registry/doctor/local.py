"""Check program, disks, embedded server and connection; each finding has its fix. Nothing is written."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import asyncpg
from msgspec import Struct

from seed_registry.embedded import server
from seed_registry.embedded.home import home_directory
from seed_registry.errors import EmbeddedServerFailed, SeedRegistryError
from seed_registry.postgres.conninfo import ConnInfo
from seed_registry.postgres.database_url import parse_url, unverified_host_note
from seed_registry.postgres.pooler import is_pooled
from seed_registry.settings import DatabaseUrl
from seed_registry.words import size

State = Literal["ok", "warn", "fail"]
# Rejects and the source cache are small; parked assets and the database itself are not.
_LITTLE_SPACE_BYTES = 1 << 30
_NO_SPACE_BYTES = 64 << 20


class Finding(Struct, frozen=True, rename={"fix": "mend"}):
    """The result of one check; `fix` is empty where all is well, and named `mend` in JSON."""

    name: str
    state: State
    finding: str
    fix: str = ""


def check_program(version: str) -> Finding:
    """Return the versions of this program, Python and asyncpg."""
    parts = f"seed-registry {version}, Python {platform.python_version()}, asyncpg {asyncpg.__version__}"
    return Finding("program", "ok", f"{parts}, {platform.system()} {platform.machine()}")


def check_embedded() -> Finding:
    """Return whether the embedded server runs, its version, place and size."""
    try:
        status = server.status()
        exists = server.exists()
    except EmbeddedServerFailed as exc:
        return failed("embedded", exc)
    place = f"Postgres {status.version} in {status.data_directory}"
    if not exists:
        return Finding("embedded", "warn", f"there is no database yet ({place})", "`seed-registry load` creates it")
    state = f"running as process {status.pid}" if status.running else "not running, a load starts it"
    return Finding("embedded", "ok", f"{place}, {size(status.size_bytes)}, {state}")


def place_of_rejects() -> Path:
    """Where loads write their rejects, if no other place is named.

    Raises:
        EmbeddedServerFailed: there is none.
    """
    return home_directory() / "rejects"


def check_disks(places: Mapping[str, Path]) -> list[Finding]:
    """Check the free space of these places, by what they are for; one that does not exist yet counts as its parent."""
    findings = []
    for name, place in places.items():
        existing = next((path for path in (place, *place.parents) if path.exists()), Path("/"))
        try:
            free = shutil.disk_usage(existing).free
            writable = os.access(existing, os.W_OK | os.X_OK)
        except OSError as exc:
            findings.append(Finding(name, "fail", f"{place}: {exc.strerror}", "name another place"))
            continue
        state: State = "ok"
        fix = ""
        if free < _LITTLE_SPACE_BYTES:
            state, fix = ("fail" if free < _NO_SPACE_BYTES else "warn"), "make room, or name another place"
        if not writable:
            state, fix = "fail", "make it writable for this user, or name another place"
        findings.append(Finding(name, state, f"{place}: {size(free)} free", fix))
    return findings


async def check_connection(connection: asyncpg.Connection[Any], url: DatabaseUrl) -> list[Finding]:
    """Check how the server was reached: host, encryption, poolers."""
    conninfo = parse_url(url)
    where = await connection.fetchval("select pg_catalog.host(pg_catalog.inet_server_addr())")
    at = f"{url}" + (f" (the server's address: {where})" if where else " (through a unix socket)")
    findings = [Finding("connection", "ok", at)]
    if conninfo.ignored:
        ignored = ", ".join(conninfo.ignored)
        findings.append(Finding("url", "ok", f"parameters without effect here: {ignored}"))
    findings.append(_tls(connection, url, conninfo))
    if is_pooled(connection):
        findings.append(
            Finding(
                "pooler",
                "warn",
                "there is one in between: every batch creates its own staging tables, which is slower",
                "name the server itself; or --pooler none if the pooler keeps sessions (pool_mode = session)",
            )
        )
    else:
        findings.append(Finding("pooler", "ok", "none in between"))
    return findings


def _tls(connection: asyncpg.Connection[Any], url: DatabaseUrl, conninfo: ConnInfo) -> Finding:
    encrypted: Any = connection._transport.get_extra_info("ssl_object")  # noqa: SLF001  # asyncpg has no public way
    how = f"{encrypted.version()}, {encrypted.cipher()[0]}" if encrypted is not None else "not encrypted"
    if warning := unverified_host_note(url):
        return Finding("tls", "warn", f"{how}; {warning.partition(': ')[0]}", warning.partition(": ")[2])
    if encrypted is None:
        return Finding("tls", "ok", "not encrypted, and not needed: the server is on this machine")
    proof = "the server's certificate is verified" if conninfo.tls.is_verified else "the server is on this machine"
    return Finding("tls", "ok", f"{how}; {proof}")


def failed(name: str, exc: SeedRegistryError) -> Finding:
    """Return one of our errors as a finding: their messages end with the fix."""
    finding, fix = split_message(str(exc), "\n", "; ")
    return Finding(name, "fail", finding, fix)


def split_message(message: str, *separators: str) -> tuple[str, str]:
    """Split a message at the first of these separators that it has; return both parts, each on one line."""
    head, _, tail = next((parts for s in separators if (parts := message.partition(s))[1]), (message, "", ""))
    return " ".join(head.split()), " ".join(tail.split())
