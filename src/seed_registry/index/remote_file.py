"""Read the file at a URL: HTTP with resuming (RFC 9110, 13.1.5 and 14), other schemes through fsspec."""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from threading import Event
from time import monotonic

import httpx
from msgspec import Struct

from seed_registry.errors import IndexUnreadable
from seed_registry.escape import printable
from seed_registry.headers import Header, origin, sent_to
from seed_registry.index.inputs import IndexRef

# Hundreds of times the largest index known, against a server that never stops.
MAX_BYTES = 1 << 40
# From the first read to the last, a slow database included: the longest that a nightly load may take.
MAX_SECONDS = 24 * 3600.0
# A host that is down should be noticed soon; a portal may need most of a minute for an answer.
TIMEOUT = httpx.Timeout(60, connect=30)
MAX_REDIRECTS = 5
# In a row, without a byte between; with doubling waits half a minute: a server's restart.
RETRIES = 5
BACKOFF_SECONDS = 1.0
MAX_RETRY_AFTER_SECONDS = 60.0
# A few of the reader's chunks: the network goes on while records are decoded.
READ_AHEAD_BYTES = 1 << 20
# Some servers refuse requests without a description of the client; `--header` can override it.
_AGENT = f"seed-registry/{version('seed-registry')} (loads open-data portal indexes; python-httpx/{httpx.__version__})"


class RemoteFile:
    """A raw file that a thread of its own fetches ahead: that thread may hang in the network, a reader never does."""

    def __init__(
        self, index: IndexRef, headers: Sequence[Header] = (), *, first: int = 0, version: Version | None = None
    ) -> None:
        """Prepare for reading.

        Args:
            index: its URL.
            headers: sent to the origin of the URL only.
            first: the byte where reading begins; only with HTTP.
            version: that has to be there; required where `first` is not 0.
        """
        self.size: int | None = version.size if version else None  # None until the server has sent it
        self.etag = version.etag if version else ""  # empty until the server has sent it, and if it is weak
        self._first = first
        self._wanted = version
        self.modified: int | None = None
        self.closed = False
        self._index = index
        self._headers = headers
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._ahead = bytearray()
        self._ended = False
        self._failure: Exception | None = None
        self._deadline: float | None = None

    def readinto(self, buffer: memoryview, /) -> int:
        """Wait for bytes and take them; 0 is the end. The first call connects.

        Raises:
            IndexUnreadable: the file cannot be had, or not to its end.
            OSError: it was closed, perhaps by another thread while this one waited.
        """
        with self._changed:
            if self._deadline is None:
                self._deadline = monotonic() + MAX_SECONDS
                # a daemon: nothing wakes it from a name lookup, and no process should stay for it
                threading.Thread(target=self._fetch, daemon=True).start()
            left = self._deadline - monotonic()
            if not self._changed.wait_for(lambda: self._ahead or self._ended or self.closed, left):
                raise IndexUnreadable(
                    f"{self._index.display_name}: not read in {MAX_SECONDS / 3600:g} hours; fetch it to a file"
                )
            if self.closed:
                raise OSError(errno.EBADF, "closed")
            if self._failure and not self._ahead:
                raise self._failure
            count = min(len(buffer), len(self._ahead))
            buffer[:count] = self._ahead[:count]
            del self._ahead[:count]
            self._changed.notify_all()
            return count

    def has_changed(self) -> bool:
        """Whether it was changed meanwhile: continued requests see to that themselves."""
        return False

    def close(self) -> None:
        """End all reading; the fetching thread ends at its next byte, or when the server's silence times out."""
        with self._changed:
            self.closed = True
            self._closing.set()
            self._changed.notify_all()

    def _fetch(self) -> None:
        received = self._first
        url = self._index.path
        download = _Download(url, self._headers, self._closing.wait, first=self._first, version=self._wanted)
        pieces = download.pieces() if is_http(self._index) else _fsspec(url)
        try:
            for self.size, piece in pieces:
                self.etag = download.etag
                received += len(piece)
                if max(received, self.size or 0) > MAX_BYTES:
                    raise _Refused(f"it is larger than {MAX_BYTES >> 30:,} GiB: no index is")  # noqa: TRY301  # said as the rest
                with self._changed:
                    self._changed.wait_for(lambda: len(self._ahead) < READ_AHEAD_BYTES or self.closed)
                    if self.closed:
                        return
                    self._ahead += piece
                    self._changed.notify_all()
            if received < (self.size or 0):
                raise _Refused(f"it ended at byte {received} of {self.size}")  # noqa: TRY301  # said as the rest
        except Exception as exc:  # noqa: BLE001  # every file system of fsspec has errors of its own
            self._failure = IndexUnreadable(f"{self._index.display_name} cannot be read: {_reason(exc, self._index)}")
            self._failure.__cause__ = exc
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class Version(Struct, frozen=True):
    """One version of a file on a server.

    Attributes:
        etag: strong.
        size: in bytes.
    """

    etag: str
    size: int


def is_http(index: IndexRef) -> bool:
    """Whether an index is read from an HTTP server."""
    return index.kind == "url" and index.path.lower().startswith(("http://", "https://"))


def read_range(index: IndexRef, headers: Sequence[Header], version: Version, position: int, count: int) -> bytes | None:
    """Some bytes of a file on a server from a position on, at most `count`, none behind the end; this blocks.

    None if the server does not answer with a part of this version.

    Raises:
        IndexUnreadable: it does not answer.
    """
    end = min(position + count, version.size)
    if position >= end:
        return b""
    download = _Download(index.path, headers, Event().wait, first=position, version=version, end=end)
    found = bytearray()
    try:
        for _, piece in download.pieces():
            found += piece
            if len(found) >= count:
                break
    except _NoRange:
        return None
    except Exception as exc:
        raise IndexUnreadable(f"{index.display_name} cannot be read: {_reason(exc, index)}") from exc
    return bytes(found[:count])


class _Refused(Exception):
    """Said in our own words, which hold no secret."""


class _NoRange(_Refused):
    """The server does not answer with the part that was asked for."""


class _Busy(httpx.TransportError):
    """The server asks to come back later."""


_QUOTES_NO_URL = (_Refused, _Busy, httpx.NetworkError, httpx.TimeoutException, ImportError)


class _Download:
    """One file over as many connections as it takes."""

    def __init__(
        self,
        url: str,
        headers: Sequence[Header],
        wait_unless_closed: Callable[[float], bool],
        *,
        first: int = 0,
        version: Version | None = None,
        end: int | None = None,
    ) -> None:
        self._url, self._wait_unless_closed = url, wait_unless_closed
        self._headers = sent_to(url, headers)
        self._elsewhere: str | None = None  # the origin that it redirects to, where our headers are not sent
        self._position = first
        self._end = end
        self._size: int | None = version.size if version else None
        self._wait = 0.0  # seconds that the server asked for
        # ETag and Last-Modified; None: no answer yet
        self._version: tuple[str, str] | None = (version.etag, "") if version else None

    @property
    def etag(self) -> str:
        """Of the file, if it is strong: a weak one does not promise the same bytes."""
        etag = self._version[0] if self._version else ""
        return etag if etag.startswith('"') else ""

    def pieces(self) -> Iterator[tuple[int | None, bytes]]:
        failures = 0
        with httpx.Client(timeout=TIMEOUT, headers={"User-Agent": _AGENT, "Accept-Encoding": "identity"}) as client:
            while True:
                try:
                    with closing(self._ask(client)) as response:
                        self._check(response)
                        for piece in response.iter_raw():
                            self._position += len(piece)
                            failures = 0
                            yield self._size, piece
                    if self._position >= (self._end or self._size or 0):
                        return
                    raise httpx.ReadError("the answer ended early")
                except httpx.TransportError as exc:
                    failures += 1
                    # A host that never answered has a wrong name more often than a transient failure.
                    if failures > RETRIES or not (self._version or isinstance(exc, _Busy)):
                        raise
                    if self._wait_unless_closed(max(self._wait, BACKOFF_SECONDS * 2 ** (failures - 1))):
                        return

    def _ask(self, client: httpx.Client) -> httpx.Response:
        self._elsewhere = None
        request = client.build_request("GET", self._url, headers=self._range() | self._headers)
        for _ in range(MAX_REDIRECTS + 1):
            response = client.send(request, stream=True)
            if response.next_request is None:
                return response
            response.close()
            came_from, request = request.url.scheme, response.next_request
            if request.url.scheme not in {"https", came_from}:
                raise _Refused(f"it redirects from {came_from} to {printable(request.url.scheme)}")
            request = self._redirected(client, request)
        raise _Refused(f"it redirects more than {MAX_REDIRECTS} times")

    def _redirected(self, client: httpx.Client, request: httpx.Request) -> httpx.Request:
        """A request that a redirect asks for, without our headers from where it leaves their origin on."""
        to = origin(str(request.url))
        if self._elsewhere is None and to != origin(self._url):
            self._elsewhere = to or "elsewhere"
        if not self._headers:
            return request
        own = self._headers if self._elsewhere is None else {}
        return client.build_request("GET", request.url, headers=self._range() | own)

    def _range(self) -> dict[str, str]:
        if not self._position:
            return {}
        validator = self.etag or (self._version or ("", ""))[1]
        if not validator:
            raise _Refused(f"lost at byte {self._position}; the server gives no ETag or Last-Modified to resume by")
        last = "" if self._end is None else self._end - 1
        return {"Range": f"bytes={self._position}-{last}", "If-Range": validator}

    def _check(self, response: httpx.Response) -> None:
        status, headers = response.status_code, response.headers
        self._wait = _seconds(headers.get("retry-after", ""))
        said = f"the server answers {status} {printable(response.reason_phrase)}"
        if status in {429, 503} or (status >= 500 and self._version):  # noqa: PLR2004  # a server's own errors pass
            raise _Busy(said)
        if status in {401, 403}:
            raise _Refused(f"{said}{self._hint()}")
        if status != 200 and not (status == 206 and self._position):  # noqa: PLR2004  # their names say no more
            raise _Refused(said)
        found = headers.get("etag", ""), headers.get("last-modified", "")
        if not self._position or not self._version:
            self._version = found
            self._size = int("transfer-encoding" not in headers and headers.get("content-length", 0)) or None
            return
        if any(old and new and old != new for old, new in zip(self._version, found, strict=True)):
            raise _NoRange(f"lost at byte {self._position}; the file changed on the server meanwhile: load it anew")
        part = re.fullmatch(rf"bytes {self._position}-[0-9]+/([0-9]+|\*)", headers.get("content-range", ""))
        if status == 200 or not part or (self._size and part[1] not in {"*", str(self._size)}):  # noqa: PLR2004
            raise _NoRange(f"lost at byte {self._position}; the server cannot resume, or the file changed")

    def _hint(self) -> str:
        if self._elsewhere is not None and self._headers:
            return f"; it is {printable(self._elsewhere, 80)}, to which it redirects, and which no --header is sent to"
        return "; a token, or another agent, is sent with --header 'Name: value'"


def _seconds(retry_after: str) -> float:
    try:
        until = None if retry_after.isdecimal() else parsedate_to_datetime(retry_after) - datetime.now(UTC)
    except (ValueError, TypeError):
        return 0
    return min(float(retry_after) if until is None else until.total_seconds(), MAX_RETRY_AFTER_SECONDS)


def _fsspec(url: str) -> Iterator[tuple[int | None, bytes]]:
    try:
        import fsspec  # noqa: PLC0415  # an extra
    except ImportError as exc:
        raise _Refused("that takes fsspec: pip install 'seed-registry[remote]'") from exc
    with fsspec.open(url, "rb") as file:
        size = getattr(file, "size", None)
        while piece := file.read(READ_AHEAD_BYTES):
            yield size if isinstance(size, int) else None, piece


def _reason(exc: Exception, index: IndexRef) -> str:
    """The reason. Messages of others may quote the URL, and are shown only if it has no secrets."""
    is_safe = index.display_name == index.path or isinstance(exc, _QUOTES_NO_URL)
    return printable((getattr(exc, "strerror", None) or exc) if is_safe and str(exc) else type(exc).__name__)
