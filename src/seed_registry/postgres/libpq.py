"""Read the parameters of a connection as libpq does: from a URL, a service file and the environment.

https://www.postgresql.org/docs/current/libpq-connect.html, with its precedence: the URL, then the service file, then
the environment. A parameter that asyncpg does not support is an error if it promises safety, and ignored if not. No
message quotes a value that could hold a password.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from seed_registry.errors import DatabaseUrlInvalid
from seed_registry.escape import printable

VARIABLES: Final = {
    "PGHOST": "host", "PGHOSTADDR": "hostaddr", "PGPORT": "port", "PGDATABASE": "dbname", "PGUSER": "user",
    "PGPASSWORD": "password", "PGPASSFILE": "passfile", "PGSERVICE": "service", "PGSERVICEFILE": "servicefile",
    "PGOPTIONS": "options", "PGAPPNAME": "application_name", "PGCONNECT_TIMEOUT": "connect_timeout",
    "PGCHANNELBINDING": "channel_binding", "PGREQUIREAUTH": "require_auth", "PGREQUIREPEER": "requirepeer",
    "PGSSLMODE": "sslmode", "PGSSLNEGOTIATION": "sslnegotiation", "PGSSLROOTCERT": "sslrootcert",
    "PGSSLCERT": "sslcert", "PGSSLKEY": "sslkey", "PGSSLCRL": "sslcrl", "PGSSLCRLDIR": "sslcrldir",
    "PGSSLMINPROTOCOLVERSION": "ssl_min_protocol_version", "PGSSLMAXPROTOCOLVERSION": "ssl_max_protocol_version",
    "PGSSLCERTMODE": "sslcertmode", "PGGSSENCMODE": "gssencmode", "PGKRBSRVNAME": "krbsrvname",
    "PGGSSLIB": "gsslib", "PGTARGETSESSIONATTRS": "target_session_attrs", "PGLOADBALANCEHOSTS": "load_balance_hosts",
}  # fmt: skip
KEEPALIVES: Final = {
    "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
}  # fmt: skip
_KNOWN: Final = {
    *VARIABLES.values(), *KEEPALIVES, "database", "fallback_application_name", "sslpassword", "ssl", "pgbouncer",
    "replication",
}  # fmt: skip
# Without effect here: asyncpg uses UTF-8 and TLS with SNI, and these pools are of other programs.
IGNORED: Final = {
    "client_encoding", "sslcompression", "sslsni", "gssdelegation", "min_protocol_version", "max_protocol_version",
    "connection_limit", "pool_timeout", "statement_cache_size", "prepared_statement_cache_size", "uselibpqcompat",
    "supa",
}  # fmt: skip
# Promises that asyncpg cannot keep, unless the parameter has one of these values.
_UNSUPPORTED: Final[Mapping[str, tuple[set[str], str]]] = {
    "channel_binding": (
        {"disable", "prefer"},
        "channel_binding=require is not supported; sslmode=verify-full&sslrootcert=system proves the server instead",
    ),
    "gssencmode": ({"disable", "prefer"}, "gssencmode=require is not supported; encrypt with sslmode=verify-full"),
    "require_auth": (set(), "require_auth is not supported; sslmode=verify-full proves the server"),
    "requirepeer": (set(), "requirepeer is not supported; leave it out"),
    "sslcertmode": ({"disable", "allow"}, "sslcertmode=require is not supported; leave it out"),
    "sslcrldir": (set(), "sslcrldir is not supported; name one file with sslcrl"),
    "replication": ({"false", "off", "no", "0"}, "a replication connection is not supported"),
}
FORMAT: Final = "it looks like postgresql://user:password@host:5432/database"
# These name a server or a database; the others are about the login.
PLACES: Final = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE")


def parameters(url: str, variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the parameters of a URL, completed from its service file and the environment's `variables`.

    Raises:
        DatabaseUrlInvalid: it is no URL, its service does not exist, or it has an unsupported parameter.
    """
    given = _parse_url(url.strip())
    environment = {name: variables[variable] for variable, name in VARIABLES.items() if variables.get(variable)}
    service = given.get("service") or environment.get("service")
    if service:
        given = _read_service(service, given.get("servicefile") or environment.get("servicefile")) | given
    given = environment | given
    if any("\0" in value for value in given.values()):
        raise DatabaseUrlInvalid("it holds a NUL")
    for name, (harmless, reason) in _UNSUPPORTED.items():
        if given.get(name) and given[name] not in harmless:
            raise DatabaseUrlInvalid(reason)
    return given


def url_of_environment() -> str | None:
    """Return the URL that the environment's variables name, without a password; None if none of them names a place.

    Raises:
        DatabaseUrlInvalid: it is unusable.
    """
    if not any(os.environ.get(variable) for variable in PLACES):
        return None
    given = parameters("postgresql://")
    hosts = (given.get("host") or given.get("hostaddr") or "").split(",")
    ports = given.get("port", "").split(",")
    ports = ports if len(ports) == len(hosts) else ports[:1] * len(hosts)
    names = [f"[{quote(host, safe=':')}]" if ":" in host else quote(host, safe="") for host in hosts]
    places = ",".join(f"{name}:{port}" if port else name for name, port in zip(names, ports, strict=True))
    user = quote(given["user"], safe="") + "@" if given.get("user") else ""
    return f"postgresql://{user}{places}/{quote(given.get('dbname', ''), safe='')}"


def environment_error(exc: DatabaseUrlInvalid) -> DatabaseUrlInvalid:
    """Return the same error where the environment's variables, and not a URL, name the database."""
    names = ", ".join(name for name in VARIABLES if os.environ.get(name))
    return DatabaseUrlInvalid(exc.reason, f"the database that {names} name")


def _parse_url(text: str) -> dict[str, str]:
    scheme, is_url, rest = text.removeprefix("jdbc:").partition("://")
    if not is_url and "=" in text:
        raise DatabaseUrlInvalid(_as_url(text))
    if not is_url or not re.fullmatch(r"postgres(ql)?(\+\w+)?", scheme.lower()):
        raise DatabaseUrlInvalid(FORMAT)
    # As in libpq a # is nothing special, and the host ends at the first / or ?.
    match = re.fullmatch(r"([^/?]*)(?:/([^?]*))?(?:\?(.*))?", rest, re.DOTALL)
    assert match is not None, "every text fits"
    userinfo, _, hosts = match[1].rpartition("@")
    user, _, password = userinfo.partition(":")
    given = {"user": _unquoted(user), "password": _unquoted(password), "dbname": _unquoted(match[2] or "")}
    given |= _parse_hosts(hosts)
    given = {name: value for name, value in given.items() if value}
    return given | _parse_query(match[3] or "")


def _parse_hosts(text: str) -> dict[str, str]:
    hosts, ports = [], []
    for part in text.split(","):
        match = re.fullmatch(r"(?:\[([^\]]*)\]|([^:\[\]]*))(?::(.*))?", part)
        if match is None:
            raise DatabaseUrlInvalid(FORMAT)
        hosts.append(_unquoted(match[1] or match[2] or ""))
        ports.append(_unquoted(match[3] or ""))
    return {"host": ",".join(hosts).strip(","), "port": ",".join(ports) if any(ports) else ""}


def _parse_query(text: str) -> dict[str, str]:
    given = {}
    for pair in filter(None, text.split("&")):
        name, equals, value = pair.partition("=")
        name = _unquoted(name)
        if name not in _KNOWN | IGNORED:
            # The end of a password with a bare ? is parsed as a parameter: quote none of it.
            if not equals or "@" in text or not re.fullmatch(r"\w{1,63}", name, re.ASCII):
                raise DatabaseUrlInvalid(FORMAT)
            raise DatabaseUrlInvalid(f'unknown parameter "{name}"; settings of the server are given as options=-c...')
        given[name] = _unquoted(value)
    if "database" in given:
        given["dbname"] = given.pop("database")
    if given.pop("ssl", "").lower() == "true":  # as drivers for Java write it, and as libpq reads it
        given.setdefault("sslmode", "require")
    return given


def _read_service(name: str, chosen: str | None) -> dict[str, str]:
    """Return the parameters of a service (https://www.postgresql.org/docs/current/libpq-pgservice.html)."""
    if chosen:
        files = [Path(chosen)]
    else:
        files = [
            *_home_service_files(),
            Path(os.environ.get("PGSYSCONFDIR", "/etc/postgresql-common"), "pg_service.conf"),
        ]
    parser = configparser.RawConfigParser(delimiters="=", comment_prefixes="#", strict=False, default_section="")
    for file in files:
        try:
            parser.read_string(file.read_text("utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError, configparser.Error) as exc:
            problem = f"the service file {printable(file)} cannot be read: {type(exc).__name__}"
            raise DatabaseUrlInvalid(problem) from None  # a line that is quoted there may hold a password
        if parser.has_section(name):
            known = {key: value for key, value in parser.items(name) if key in _KNOWN and key != "service"}
            if "database" in known:
                known["dbname"] = known.pop("database")
            return known
    places = ", ".join(printable(file) for file in files)
    raise DatabaseUrlInvalid(f"there is no service [{printable(name)}] in {places}")


def _home_service_files() -> list[Path]:
    try:
        return [Path("~/.pg_service.conf").expanduser()]
    except RuntimeError:  # no home
        return []


def _as_url(pairs: str) -> str:
    """Return the hint for `host=... dbname=...`: the same as a URL, without its password."""
    advice = "key=value pairs are not supported; "
    pair = r"\s*(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|[^\s']*)\s*"
    if not re.fullmatch(f"({pair})+", pairs):
        return advice + FORMAT
    given = {name: re.sub(r"\\(.)", r"\1", value.strip("'")) for name, value in re.findall(pair, pairs)}
    host, query = given.get("host", ""), ""
    if host.startswith("/"):
        host, query = "", f"?host={quote(host, safe='/')}"
    host = f"[{host}]" if ":" in host else quote(host, safe=",")
    user = quote(given["user"], safe="") + "@" if given.get("user") else ""
    port = f":{given['port']}" if given.get("port", "").isdigit() else ""
    written = f"postgresql://{user}{host}{port}/{quote(given.get('dbname', ''), safe='')}{query}"
    return f"{advice}write {printable(written, 1_000)} (and the password to PGPASSWORD or ~/.pgpass)"


def _unquoted(text: str) -> str:
    try:
        return unquote(text, errors="strict")  # as in libpq a plus is no space
    except UnicodeDecodeError:
        raise DatabaseUrlInvalid("it holds %-escapes that are no UTF-8") from None
