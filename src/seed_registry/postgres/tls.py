"""Make the SSL context for `sslmode` and its files, with errors that name the file.

https://www.postgresql.org/docs/current/libpq-ssl.html
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode

from msgspec import Struct

from seed_registry.errors import DatabaseUrlInvalid
from seed_registry.escape import printable

_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# asyncpg loads the certificates for these weak modes: only it can fall back to another try.
_WEAK: Final = ("allow", "prefer")
# Older ones are broken, and Python warns about them.
_VERSIONS: Final = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


class Tls(Struct, frozen=True):
    """How a connection is encrypted.

    Attributes:
        mode: libpq's `sslmode`.
        argument: the same for `asyncpg.connect(ssl=...)`.
        dsn: of a client certificate for the weak modes, for asyncpg; None without one.
        direct: whether TLS begins at once, without asking the server first.
        is_verified: whether the server has to present a trusted certificate.
    """

    mode: str
    argument: ssl.SSLContext | str | bool
    dsn: str | None
    direct: bool
    is_verified: bool


def choose_tls(given: Mapping[str, str], *, has_tcp: bool) -> Tls:
    """Return the encryption that the parameters of a URL ask for; a unix socket is never encrypted.

    Raises:
        DatabaseUrlInvalid: an unknown mode, or a file that cannot be used.
    """
    mode = given.get("sslmode") or ("verify-full" if given.get("sslrootcert") == "system" else "prefer")
    if mode not in _MODES:
        raise DatabaseUrlInvalid(f"sslmode is one of {', '.join(_MODES)}")
    negotiation = given.get("sslnegotiation") or "postgres"
    if negotiation not in ("postgres", "direct"):
        raise DatabaseUrlInvalid("sslnegotiation is postgres or direct")
    if given.get("sslrootcert") == "system" and mode != "verify-full":
        raise DatabaseUrlInvalid("sslrootcert=system requires sslmode=verify-full, as in libpq")
    direct = negotiation == "direct"
    if not has_tcp or mode == "disable":
        return Tls(mode, argument=False, dsn=None, direct=False, is_verified=not has_tcp)
    if direct and mode in _WEAK:
        raise DatabaseUrlInvalid("sslnegotiation=direct requires sslmode=require or stronger")
    context = _context(mode, given)
    if mode in _WEAK:
        files = {name: given[name] for name in ("sslcert", "sslkey", "sslpassword") if given.get(name)}
        dsn = f"postgresql://?{urlencode(files, quote_via=quote)}" if files else None
        return Tls(mode, mode, dsn, direct=False, is_verified=False)
    return Tls(mode, context, None, direct, context.verify_mode == ssl.CERT_REQUIRED)


def _context(mode: str, given: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = mode == "verify-full"
    context.minimum_version = _version(given.get("ssl_min_protocol_version") or "TLSv1.2")
    if given.get("ssl_max_protocol_version"):
        context.maximum_version = _version(given["ssl_max_protocol_version"])
    if ssl.HAS_ALPN:
        context.set_alpn_protocols(["postgresql"])
    _trust(context, mode, given)
    _load_client_certificate(context, given)
    return context


def _trust(context: ssl.SSLContext, mode: str, given: Mapping[str, str]) -> None:
    root = given.get("sslrootcert") or _existing("root.crt")
    if mode in _WEAK or (mode == "require" and not root):
        context.verify_mode = ssl.CERT_NONE
        return
    if root == "system":
        known = ssl.get_default_verify_paths()
        if known.cafile is None and known.capath is None:
            raise DatabaseUrlInvalid("sslrootcert=system: this Python knows no certificates of the system; name a file")
        context.load_default_certs()
    elif root:
        with _naming_file("sslrootcert", root):
            context.load_verify_locations(cafile=root)
    else:
        raise DatabaseUrlInvalid(
            f"sslmode={mode} requires a root certificate: add sslrootcert=system or sslrootcert=FILE "
            "(~/.postgresql/root.crt does not exist)"
        )
    if revoked := given.get("sslcrl") or _existing("root.crl"):
        with _naming_file("sslcrl", revoked):
            context.load_verify_locations(cafile=revoked)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


def _load_client_certificate(context: ssl.SSLContext, given: Mapping[str, str]) -> None:
    """Load the certificate that the server may ask for."""
    certificate = given.get("sslcert") or _existing("postgresql.crt")
    key = given.get("sslkey") or _existing("postgresql.key")
    for name, file in (("sslcert", given.get("sslcert")), ("sslkey", given.get("sslkey"))):
        if file:
            with _naming_file(name, file), Path(file).open("rb"):
                pass
    if certificate:
        with _naming_file("sslcert", certificate):
            # Without a function OpenSSL would prompt on the terminal.
            context.load_cert_chain(certificate, key, password=lambda: given.get("sslpassword", ""))


def _existing(name: str) -> str | None:
    """Return one of libpq's files under `~/.postgresql`, if it exists."""
    try:
        file = Path.home() / ".postgresql" / name
    except RuntimeError:  # no home
        return None
    return str(file) if file.exists() else None


def _version(text: str) -> ssl.TLSVersion:
    if text not in _VERSIONS:
        raise DatabaseUrlInvalid(f"ssl_min/max_protocol_version: supported TLS versions are {' and '.join(_VERSIONS)}")
    return _VERSIONS[text]


@contextmanager
def _naming_file(parameter: str, file: str) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as exc:
        what = "is wrong, or does not match its sslkey or sslpassword" if parameter == "sslcert" else "is no such file"
        reason = f"{what} ({printable(exc.reason or type(exc).__name__)})"
        raise DatabaseUrlInvalid(f"{parameter} names {printable(file)}, which {reason}") from None
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or type(exc).__name__
        raise DatabaseUrlInvalid(f"{parameter} names {printable(file)}: {reason}") from None
