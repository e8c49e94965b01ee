"""Additional headers of requests for URLs, each sent to one origin only; their values are never printed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import urlsplit

from seed_registry.errors import SettingsInvalid
from seed_registry.escape import printable

# https://www.rfc-editor.org/rfc/rfc9110#name-fields : a token, and visible characters with spaces and tabs between.
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")
_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")
_OF_ORIGIN: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://\S*)\s+(.*)", re.DOTALL)
# Ours, or the connection's: another value would break resuming, unpacking or the request itself.
_OURS: Final = {
    "accept-encoding", "connection", "content-length", "expect", "host", "if-range", "keep-alive", "range", "te",
    "trailer", "transfer-encoding", "upgrade",
}  # fmt: skip
# Any other header may hold a secret.
_OPEN: Final = {"accept", "accept-language", "user-agent"}
_PORTS: Final = {"http": 80, "https": 443}
_LOOKS_LIKE: Final = "a header looks like 'Name: value' or 'https://data.example.org Name: value'"


class Header:
    """A header of requests, which does not print its value.

    Attributes:
        name: as it is sent.
        reveal: its value.
        origin: where it may be sent to, as `origin` has it; None for the origin of the URL that is loaded.
    """

    __slots__ = ("name", "origin", "reveal")

    def __init__(self, name: str, value: str, origin_: str | None = None) -> None:
        """Check and store a header.

        Raises:
            SettingsInvalid: one of the three is malformed; the message does not hold the value.
        """
        if not _NAME.fullmatch(name):
            raise SettingsInvalid(f"--header: {_LOOKS_LIKE}; this one has no valid name")
        if name.lower() in _OURS:
            raise SettingsInvalid(f"--header: {name} is set by the program itself; leave it out")
        if not _VALUE.fullmatch(value):
            raise SettingsInvalid(
                f"--header: the value of {name} is empty or has characters that no header may have, like line breaks"
            )
        if origin_ is not None and origin(origin_) is None:
            raise SettingsInvalid(
                f"--header: {printable(origin_)} is no origin; one looks like https://data.example.org"
            )
        self.name = name
        self.reveal = value
        self.origin = origin(origin_) if origin_ is not None else None

    @classmethod
    def parse(cls, text: str) -> Header:
        """Read `Name: value`, or `https://data.example.org Name: value`.

        Raises:
            SettingsInvalid: it is neither; the message does not hold the value.
        """
        of_origin = _OF_ORIGIN.fullmatch(text.strip(" \t"))
        name, colon, value = (of_origin[2] if of_origin else text).partition(":")
        if not colon:
            raise SettingsInvalid(f"--header: {_LOOKS_LIKE}")
        return cls(name.strip(" \t"), value.strip(" \t"), of_origin[1] if of_origin else None)

    @property
    def may_be_secret(self) -> bool:
        """Whether its value must not be shown."""
        return self.name.lower() not in _OPEN

    def __str__(self) -> str:
        """The header without its value."""
        return f"{self.origin} {self.name}: ***" if self.origin else f"{self.name}: ***"

    def __repr__(self) -> str:
        return f"Header({self})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Header) and other._all == self._all

    def __hash__(self) -> int:
        return hash(self._all)

    @property
    def _all(self) -> tuple[str, str, str | None]:
        return self.name.lower(), self.reveal, self.origin


def origin(url: str) -> str | None:
    """Return scheme, host and port of an http(s) URL, normalised (RFC 6454); None for any other URL."""
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
    except ValueError:
        return None
    if scheme not in _PORTS or not host:
        return None
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}" if port in (None, _PORTS[scheme]) else f"{scheme}://{host}:{port}"


def sent_to(url: str, headers: Iterable[Header]) -> dict[str, str]:
    """Return the headers to send with a request for a URL; of several with one name, the last."""
    own = origin(url)
    chosen = {header.name.lower(): header for header in headers if own and header.origin in (None, own)}
    return {header.name: header.reveal for header in chosen.values()}


def require_one_origin_each(headers: Sequence[Header], names: Iterable[str]) -> None:
    """Check that no header would be sent to several origins, for each could read the secret of the other.

    Raises:
        SettingsInvalid: one would be.
    """
    loose = next((header.name for header in headers if header.origin is None), None)
    origins = sorted({found for name in names if (found := origin(name))})
    if loose is not None and len(origins) > 1:
        raise SettingsInvalid(
            f"--header {loose} would be sent to {len(origins)} origins; "
            f"say which one is meant: --header '{printable(origins[0])} {loose}: …'"
        )
