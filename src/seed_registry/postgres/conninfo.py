"""Parse the parameters of a connection: hosts, login, encryption, timeouts."""

from __future__ import annotations

import ipaddress
import math
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from seed_registry.errors import DatabaseUrlInvalid
from seed_registry.escape import printable
from seed_registry.postgres.libpq import FORMAT, IGNORED, KEEPALIVES
from seed_registry.postgres.tls import Tls, choose_tls

APPLICATION_NAME: Final = "seed-registry"
_SESSION_ATTRIBUTES: Final = {"any", "read-write", "read-only", "primary", "standby", "prefer-standby"}
# libpq counts a second as two: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNECT-CONNECT-TIMEOUT
_SHORTEST_TIMEOUT_SECONDS: Final = 2


class ConnInfo:
    """The parameters of a connection. No Struct: printing one would show the password.

    Attributes:
        hosts: host or socket directory, and port, in the order in which they are tried; a host of None is wherever a
            local server listens.
        login: user, password, database, passfile, krbsrvname and gsslib, where they are given, by asyncpg's names.
        tls: the encryption.
        timeout_seconds: for a connection to one host; None where it is not given.
        server_settings: sent to the server with the login.
        session_attributes: the kind of server that is wanted, `target_session_attrs`.
        is_shuffled: whether the hosts are tried in random order.
        keepalives: options of the socket, by libpq's names.
        is_pooled: whether `pgbouncer=true` says that a pooler is in between.
        ignored: parameters without effect.
    """

    def __init__(self, given: Mapping[str, str]) -> None:
        self.hosts = _hosts(given)
        self.login = _login(given)
        self.tls: Tls = choose_tls(given, has_tcp=any(_is_tcp(host) for host, _ in self.hosts))
        self.timeout_seconds = _timeout_seconds(given)
        name = given.get("application_name") or given.get("fallback_application_name") or APPLICATION_NAME
        self.server_settings = {"application_name": name}
        if given.get("options"):
            self.server_settings["options"] = given["options"]
        self.session_attributes = given.get("target_session_attrs", "any")
        if self.session_attributes not in _SESSION_ATTRIBUTES:
            raise DatabaseUrlInvalid(f"target_session_attrs is one of {', '.join(sorted(_SESSION_ATTRIBUTES))}")
        self.is_shuffled = given.get("load_balance_hosts") == "random"
        self.keepalives = {name: _whole(name, value) for name, value in given.items() if name in KEEPALIVES}
        self.is_pooled = given.get("pgbouncer", "").lower() == "true"
        self.ignored = sorted(IGNORED & given.keys())

    @property
    def remote_hosts(self) -> list[str]:
        """The hosts that are not this machine."""
        return [host for host, _ in self.hosts if host is not None and not _is_local(host)]


def _hosts(given: Mapping[str, str]) -> list[tuple[str | None, int]]:
    if given.get("host") and given.get("hostaddr", given["host"]) != given["host"]:
        raise DatabaseUrlInvalid("host and hostaddr together are not supported; name one of them")
    hosts = (given.get("host") or given.get("hostaddr") or "").split(",")
    ports = [_port(port or "5432") for port in given.get("port", "").split(",")]
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts):
        raise DatabaseUrlInvalid(f"it has {len(hosts)} hosts, but {len(ports)} ports")
    return [(host or ("localhost" if len(hosts) > 1 else None), port) for host, port in zip(hosts, ports, strict=True)]


def _login(given: Mapping[str, str]) -> dict[str, str]:
    names = {"user": "user", "password": "password", "dbname": "database", "passfile": "passfile"}
    names |= {"krbsrvname": "krbsrvname", "gsslib": "gsslib"}
    if "passfile" in given and given["passfile"] != os.environ.get("PGPASSFILE"):
        try:
            mode = Path(given["passfile"]).stat().st_mode
        except OSError as exc:
            raise DatabaseUrlInvalid(f"passfile names {printable(given['passfile'])}: {exc.strerror}") from None
        if mode & 0o077 and os.name == "posix":
            file = printable(given["passfile"], 1_000)
            fix = f"run chmod 600 {shlex.quote(file)}"
            raise DatabaseUrlInvalid(f"passfile {file} can be read by others and is not trusted; {fix}")
    return {ours: given[name] for name, ours in names.items() if given.get(name)}


def _timeout_seconds(given: Mapping[str, str]) -> float | None:
    if not given.get("connect_timeout"):
        return None
    seconds = _whole("connect_timeout", given["connect_timeout"])
    return max(seconds, _SHORTEST_TIMEOUT_SECONDS) if seconds > 0 else math.inf


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) <= 65535:  # noqa: PLR2004  # 16 bits
        raise DatabaseUrlInvalid(f"a port is a number from 1 to 65535; {FORMAT}")
    return int(text)


def _whole(name: str, text: str) -> int:
    if not re.fullmatch(r"\s*[-+]?[0-9]{1,9}\s*", text):
        raise DatabaseUrlInvalid(f"{name} takes a whole number")
    return int(text)


def _is_tcp(host: str | None) -> bool:
    return host is None or not host.startswith("/")


def _is_local(host: str) -> bool:
    if host.startswith("/") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
