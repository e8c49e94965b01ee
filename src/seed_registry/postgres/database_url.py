"""Choose the database, and read what its URL says."""

from __future__ import annotations

import os

from seed_registry.errors import DatabaseUrlInvalid, SettingsInvalid
from seed_registry.escape import printable
from seed_registry.postgres import libpq
from seed_registry.postgres.conninfo import ConnInfo
from seed_registry.settings import EMBEDDED, DatabaseUrl


def choose_url(url: DatabaseUrl | None) -> DatabaseUrl | None:
    """Return the URL if there is one, else DATABASE_URL, else the URL that libpq's variables name.

    This is the one place that decides it. None is the embedded server: nothing names another, or `embedded` names it.

    Raises:
        SettingsInvalid: libpq's variables name an unusable database.
    """
    if url is None and os.environ.get("DATABASE_URL"):
        url = DatabaseUrl(os.environ["DATABASE_URL"])
    if url is None:
        try:
            named = libpq.url_of_environment()
            if named is not None:
                parse_url(DatabaseUrl(named))  # here, so that its error does not blame a URL that was not given
        except DatabaseUrlInvalid as exc:
            raise libpq.environment_error(exc) from exc
        return DatabaseUrl(named) if named is not None else None
    return None if url.reveal == EMBEDDED else url


def parse_url(url: DatabaseUrl) -> ConnInfo:
    """Return the parameters of a URL, completed from its service file and the environment.

    Raises:
        DatabaseUrlInvalid: it is no URL, a file that it names cannot be read, or a parameter is not supported.
    """
    conninfo = ConnInfo(libpq.parameters(url.reveal, {} if url.is_embedded else os.environ))
    if url.is_embedded:
        # asyncpg itself would look up the others: PGPASSWORD, PGPASSFILE, PGGSSLIB, PGKRBSRVNAME.
        conninfo.login |= {"password": "", "gsslib": "gssapi", "krbsrvname": "postgres"}
    return conninfo


def unverified_host_note(url: DatabaseUrl) -> str | None:
    """Return a warning if nothing proves the identity of the server, else None.

    A unix socket and this machine's own addresses need no proof.
    """
    try:
        conninfo = parse_url(url)
    except SettingsInvalid:  # `connect` raises it
        return None
    if conninfo.tls.is_verified or not conninfo.remote_hosts:
        return None
    # In a URL whose password has a bare @ or / the host may be a piece of it.
    hosts = "the host" if str(url) == "***" else printable(", ".join(conninfo.remote_hosts))
    return (
        f"sslmode={conninfo.tls.mode} does not prove the identity of {hosts}: "
        "add sslmode=verify-full&sslrootcert=system (or sslrootcert=FILE) to the database URL"
    )
