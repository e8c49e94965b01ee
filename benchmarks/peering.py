"""The peers: how each is started, and what is missing where it cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ground import Command

_PEERS = Path(__file__).with_name("peers")
_PYTHON = _PEERS.parents[1] / ".venv-peers/bin/python"
_NODE = _PEERS / "node"
_SCRIPTS = {"psycopg": "psycopg_copy.py", "adbc": "adbc_ingest.py", "dlt": "dlt_merge.py"}
_PACKAGES = {"psycopg": "psycopg", "adbc": "adbc-driver-postgresql", "dlt": "dlt"}


def command(peer: str, index: Path) -> Command:
    """What loads an index the peer's way."""
    if peer == "node":
        return ["node", _NODE / "load.mjs", index]
    return [_PYTHON, _PEERS / _SCRIPTS[peer], index]


def missing(peer: str) -> str | None:
    """What a peer lacks, None if nothing."""
    if peer == "node":
        if shutil.which("node") is None:
            return "there is no node on the PATH"
        return None if (_NODE / "node_modules/pg").is_dir() else "its packages are not installed: make bench-peers"
    return None if _PYTHON.exists() else "its packages are not installed: make bench-peers"


def version(peer: str) -> str:
    """Which version of what a peer is made of, as its requirements pin it."""
    if peer == "node":
        pinned = json.loads((_NODE / "package.json").read_text("utf-8"))["dependencies"]
        return ", ".join(f"{name} {pinned[name]}" for name in ("pg", "stream-json", "zod"))
    name = _PACKAGES[peer]
    lines = (_PEERS / "requirements.txt").read_text("utf-8").splitlines()
    return next(line.partition("==")[2] for line in lines if line.partition("==")[0].partition("[")[0] == name)
