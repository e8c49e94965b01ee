"""URLs: where a database URL leads, and how."""

from __future__ import annotations

import ipaddress
import math
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from seed_registry.errors import SettingsInvalid
from seed_registry.escape import printable
from seed_registry.postgres import libpq, tls
from seed_registry.postgres.libpq import LOOKS_LIKE, unusable
from seed_registry.postgres.tls import Tls
from seed_registry.settings import EMBEDDED, DatabaseUrl

APPLICATION_NAME: Final = "seed-registry"
_SESSION_ATTRIBUTES: Final = {"any", "read-write", "read-only", "primary", "standby", "prefer-standby"}
# libpq counts a second as two: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNECT-CONNECT-TIMEOUT
_SHORTEST_TIMEOUT_SECONDS: Final = 2


class ConnInfo:
    """Where a URL leads, and how. No Struct: one that is printed would show the password.

    Attributes:
        hosts: host or socket directory, and port, in the order in which they are tried; a host of None is wherever a
            local server listens.
        login: user, password, database, passfile, krbsrvname and gsslib, where they are given, as asyncpg calls them.
        tls: how the connection is encrypted.
        timeout_seconds: for a connection to one host; None where the URL does not say.
        server_settings: what the server is told at the start.
        session_attributes: what kind of server is wanted, `target_session_attrs`.
        is_shuffled: whether the hosts are tried in random order.
        keepalives: what the URL says of the socket, by libpq's names.
        is_pooled: whether the URL itself says that a pooler is in between (`pgbouncer=true`).
        passed_over: parameters without effect.
    """

    def __init__(self, given: Mapping[str, str]) -> None:
        self.hosts = _hosts(given)
        self.login = _login(given)
        self.tls: Tls = tls.chosen(given, has_tcp=any(_is_tcp(host) for host, _ in self.hosts))
        self.timeout_seconds = _timeout_seconds(given)
        name = given.get("application_name") or given.get("fallback_application_name") or APPLICATION_NAME
        self.server_settings = {"application_name": name}
        if given.get("options"):
            self.server_settings["options"] = given["options"]
        self.session_attributes = given.get("target_session_attrs", "any")
        if self.session_attributes not in _SESSION_ATTRIBUTES:
            raise unusable(f"target_session_attrs is one of {', '.join(sorted(_SESSION_ATTRIBUTES))}")
        self.is_shuffled = given.get("load_balance_hosts") == "random"
        self.keepalives = {name: _whole(name, value) for name, value in given.items() if name in libpq.KEEPALIVES}
        self.is_pooled = given.get("pgbouncer", "").lower() == "true"
        self.passed_over = sorted(libpq.PASSED_OVER & given.keys())

    @property
    def remote_hosts(self) -> list[str]:
        """The hosts that are not this machine."""
        return [host for host, _ in self.hosts if host is not None and not _is_local(host)]


def chosen(url: DatabaseUrl | None) -> DatabaseUrl | None:
    """The database that is meant: the URL, else DATABASE_URL, else what libpq's variables name.

    This is the one place that decides it. None is the embedded server: nothing names another, or `embedded` it.

    Raises:
        SettingsInvalid: libpq's variables name what cannot be.
    """
    if url is None and os.environ.get("DATABASE_URL"):
        url = DatabaseUrl(os.environ["DATABASE_URL"])
    if url is None:
        try:
            named = libpq.url_of_environment()
            if named is not None:
                read(DatabaseUrl(named))  # what is wrong with it is not blamed on a URL that nobody gave
        except SettingsInvalid as exc:
            raise libpq.blamed_on_environment(exc) from exc
        return DatabaseUrl(named) if named is not None else None
    return None if url.reveal == EMBEDDED else url


def read(url: DatabaseUrl) -> ConnInfo:
    """What a URL says, completed from its service file and the environment.

    Raises:
        SettingsInvalid: it is no URL, a file that it names cannot be read, or it promises what cannot be kept.
    """
    target = ConnInfo(libpq.parameters(url.reveal, {} if url.is_embedded else os.environ))
    if url.is_embedded:
        # What is not said asyncpg itself looks up: PGPASSWORD, PGPASSFILE, PGGSSLIB, PGKRBSRVNAME.
        target.login |= {"password": "", "gsslib": "gssapi", "krbsrvname": "postgres"}
    return target


def unverified(url: DatabaseUrl) -> str | None:
    """A sentence if nothing proves that the host at the other end is the one the URL names; None if all is well.

    A unix socket and this machine's own addresses need no proof.
    """
    try:
        target = read(url)
    except SettingsInvalid:  # said when connecting
        return None
    if target.tls.is_verified or not target.remote_hosts:
        return None
    # In a URL whose password has a bare @ or / that may be a piece of it.
    hosts = "the host" if str(url) == "***" else printable(", ".join(target.remote_hosts))
    return (
        f"sslmode={target.tls.mode} does not prove that {hosts} is who answers: "
        "add sslmode=verify-full&sslrootcert=system (or sslrootcert=FILE) to the database URL"
    )


def _hosts(given: Mapping[str, str]) -> list[tuple[str | None, int]]:
    if given.get("host") and given.get("hostaddr", given["host"]) != given["host"]:
        raise unusable("host and hostaddr together cannot be had; name one of them")
    hosts = (given.get("host") or given.get("hostaddr") or "").split(",")
    ports = [_port(port or "5432") for port in given.get("port", "").split(",")]
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts):
        raise unusable(f"it has {len(hosts)} hosts, but {len(ports)} ports")
    return [(host or ("localhost" if len(hosts) > 1 else None), port) for host, port in zip(hosts, ports, strict=True)]


def _login(given: Mapping[str, str]) -> dict[str, str]:
    names = {"user": "user", "password": "password", "dbname": "database", "passfile": "passfile"}
    names |= {"krbsrvname": "krbsrvname", "gsslib": "gsslib"}
    if "passfile" in given and given["passfile"] != os.environ.get("PGPASSFILE"):
        try:
            mode = Path(given["passfile"]).stat().st_mode
        except OSError as exc:
            raise unusable(f"passfile names {printable(given['passfile'])}: {exc.strerror}") from None
        if mode & 0o077 and os.name == "posix":
            file = printable(given["passfile"], 1_000)
            fix = f"run chmod 600 {shlex.quote(file)}"
            raise unusable(f"passfile {file} can be read by others and is not trusted; {fix}")
    return {ours: given[name] for name, ours in names.items() if given.get(name)}


def _timeout_seconds(given: Mapping[str, str]) -> float | None:
    if not given.get("connect_timeout"):
        return None
    seconds = _whole("connect_timeout", given["connect_timeout"])
    return max(seconds, _SHORTEST_TIMEOUT_SECONDS) if seconds > 0 else math.inf


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) <= 65535:  # noqa: PLR2004  # 16 bits
        raise unusable(f"a port is a number from 1 to 65535; {LOOKS_LIKE}")
    return int(text)


def _whole(name: str, text: str) -> int:
    if not re.fullmatch(r"\s*[-+]?[0-9]{1,9}\s*", text):
        raise unusable(f"{name} takes a whole number")
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
