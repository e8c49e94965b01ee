from __future__ import annotations

import gzip
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import httpx
import pytest

from seed_registry.errors import IndexUnreadable
from seed_registry.index import remote_file
from seed_registry.index.byte_stream import open_index
from seed_registry.index.inputs import IndexRef, redact_url
from seed_registry.index.open import read_index
from seed_registry.index.remote_file import RemoteFile
from seed_registry.records import Record
from seed_registry.settings import Settings
from seed_registry.synthetic.index import Workload, generate

pytestmark = pytest.mark.anyio

INDEX = b"".join(generate(Workload(records=400, sources=5)))  # some MB: more than is read ahead
SECRETS = ("hunter2", "tok3n", "alice")
DEADLINE = 60  # seconds until a hang is called one; nothing here takes one

Answer = Callable[["Handler"], None]


class Server(ThreadingHTTPServer):
    """Answers each request with the next of `answers`, the last one for ever, and records the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Answer] = [whole]
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.released = threading.Event()

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is what some tests are about."""

    def url(self, path: str = "/sf.index.json", login: str = "") -> str:
        """A URL here."""
        return f"http://{login}127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    """Closes the connection after each answer."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        """Give the next answer."""
        self.server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        answers = self.server.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Tests are silent."""

    def head(self, status: int, **headers: object) -> None:
        """Send a status and headers."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


def sending(
    data: bytes = INDEX, *, cut: int | None = None, ranges: bool = True, length: int | None = None, **headers: object
) -> Answer:
    """A file, of which at most `cut` bytes come before the connection ends."""
    versions = headers or {"ETag": '"one"'}

    def answer(handler: Handler) -> None:
        asked = handler.headers.get("Range")
        matches = handler.headers.get("If-Range") in versions.values()
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and ranges and matches else 0
        part = {"Content_Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        handler.head(206 if start else 200, Content_Length=(length or len(data)) - start, **versions, **part)
        handler.wfile.write(data[start:][:cut])

    return answer


def failing(status: int, **headers: object) -> Answer:
    return lambda handler: handler.head(status, Content_Length=0, **headers)


def redirecting(to: str) -> Answer:
    return failing(302, Location=to)


def chunked(handler: Handler) -> None:
    handler.head(200, Transfer_Encoding="chunked")
    for start in range(0, len(INDEX), 50_000):
        piece = INDEX[start : start + 50_000]
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
    handler.wfile.write(b"0\r\n\r\n")


def slow(handler: Handler) -> None:
    handler.head(200, Content_Length=len(INDEX))
    for start in range(0, len(INDEX), len(INDEX) // 5):
        handler.wfile.write(INDEX[start : start + len(INDEX) // 5])
        time.sleep(0.02)


def silent(after: int) -> Answer:
    def answer(handler: Handler) -> None:
        handler.head(200, Content_Length=len(INDEX))
        handler.wfile.write(INDEX[:after])
        handler.server.released.wait(DEADLINE)

    return answer


whole = sending()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(remote_file, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(remote_file, "MAX_RETRY_AFTER_SECONDS", 0.01)
    with serving() as running:
        yield running


@contextmanager
def serving() -> Iterator[Server]:
    """A server at work."""
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


async def records(path: str) -> list[Record]:
    async with read_index(IndexRef.of(path), Settings()) as reader:
        return [record async for part in reader.records() for record in part]


async def expect_index(url: str, tmp_path: Path) -> None:
    local = tmp_path / "local.json"
    local.write_bytes(INDEX)
    expected = await records(str(local))
    assert len(expected) >= 400
    assert await records(url) == expected


async def refused(url: str) -> str:
    with pytest.raises(IndexUnreadable) as caught:
        await records(url)
    message = str(caught.value)
    assert "\n" not in message
    assert not any(secret in message for secret in SECRETS)
    return message


# reading


@pytest.mark.parametrize("answer", [whole, chunked, slow, sending(gzip.compress(INDEX))])
async def test_a_remote_index_has_the_records_of_the_same_file(server: Server, tmp_path: Path, answer: Answer) -> None:
    server.answers = [answer]
    await expect_index(server.url(), tmp_path)
    ((_, headers),) = server.asked
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"].startswith("seed-registry/")
    assert "range" not in headers


async def test_the_size_is_what_the_server_announces(server: Server) -> None:
    async with open_index(IndexRef.of(server.url("/a.json?token=tok3n", "alice:hunter2@"))) as index:
        assert (index.name, index.size) == (server.url("/a.json"), len(INDEX))
        assert b"".join([chunk async for chunk in index.chunks()]) == INDEX
        assert index.position == len(INDEX)
    assert server.asked[0][1]["authorization"].startswith("Basic ")
    server.answers = [chunked]
    async with open_index(IndexRef.of(server.url())) as index:
        assert index.size is None


@pytest.mark.parametrize("version", [{"ETag": '"one"'}, {"Last_Modified": formatdate(0, usegmt=True), "ETag": 'W/"1"'}])
async def test_a_lost_connection_is_resumed_where_it_ended(server: Server, tmp_path: Path, version: Any) -> None:
    cut = sending(cut=len(INDEX) // 9, **version)  # more often than a row of failures may be long
    server.answers = [cut] * 9 + [sending(**version)]
    await expect_index(server.url(), tmp_path)
    assert len(server.asked) == 10
    validator = version.get("Last_Modified", '"one"')
    starts = [int(headers["range"].removeprefix("bytes=").rstrip("-")) for _, headers in server.asked[1:]]
    assert starts == sorted(set(starts))
    assert {headers["if-range"] for _, headers in server.asked[1:]} == {validator}


async def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.answers = [
        failing(503, Retry_After=3600),
        failing(429, Retry_After=formatdate(usegmt=True)),
        failing(503, Retry_After="soon"),
        sending(cut=70_000),
        failing(502),
        whole,
    ]
    await expect_index(server.url(), tmp_path)
    assert len(server.asked) == 6


async def test_redirects_are_followed(server: Server, tmp_path: Path) -> None:
    server.answers = [redirecting("/b"), redirecting(server.url("/c")), redirecting("d"), whole]
    await expect_index(server.url("/a"), tmp_path)
    assert [path for path, _ in server.asked] == ["/a", "/b", "/c", "/d"]


# refused files


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([failing(404)], "the server answers 404 Not Found"),
        ([failing(500)], "the server answers 500 Internal Server Error"),
        ([failing(503, Retry_After=1)], "the server answers 503 Service Unavailable"),
        ([failing(204)], "the server answers 204"),
        ([redirecting("/again")], "redirects more than 5 times"),
        ([redirecting("ftp://127.0.0.1/x?token=tok3n")], "redirects from http to ftp"),
        ([sending(cut=100_000), sending(ranges=False)], "lost at byte 100000; the server cannot resume"),
        ([sending(cut=100_000), sending(ETag='"two"')], "lost at byte 100000; the file changed"),
        ([sending(cut=100_000), lambda handler: handler.head(206, ETag='"two"')], "the file changed"),
        ([sending(cut=100_000), lambda handler: handler.head(206, Content_Range="bytes 7-8/9")], "cannot resume"),
        ([sending(cut=100_000, Server_="x")], "no ETag or Last-Modified"),
        ([sending(cut=100_000), failing(404)], "the server answers 404"),
        ([sending(length=len(INDEX) + 5)], "cannot resume"),
        ([sending(cut=100_000), sending(cut=0)], "peer closed connection|ended early"),
    ],
)
async def test_what_cannot_be_had_is_refused_by_its_reason(server: Server, answers: list[Answer], message: str) -> None:
    server.answers = answers
    told = await refused(server.url())
    assert told.startswith(server.url())
    assert any(part in told for part in message.split("|")), told


async def test_retries_end(server: Server) -> None:
    server.answers = [failing(503)]
    await refused(server.url())
    assert len(server.asked) == 1 + remote_file.RETRIES


@pytest.mark.parametrize("answer", [failing(404), redirecting("/again"), sending(cut=90_000, Server_="x")])
async def test_no_message_shows_a_secret(server: Server, answer: Answer) -> None:
    server.answers = [answer]
    await refused(server.url("/a?token=tok3n#tok3n", "alice:hunter2@"))


async def test_a_refused_connection_is_reported_at_once(server: Server) -> None:
    url = server.url("/a?token=tok3n", "alice:hunter2@")
    server.server_close()
    assert "Connection refused" in await refused(url)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://alice:hunter2@data.org:8443/a/b.json?token=tok3n#x", "https://data.org:8443/a/b.json"),
        ("https://data.org/@city/a.json", "https://data.org/@city/a.json"),
        ("s3://alice:hunt/er2@bucket/a", "s3://***"),
        ("s3://alice:hunt?er2@bucket/a", "s3://***"),
        ("file:///tmp/a.json", "file:///tmp/a.json"),
        ("https://data.org/\x1b[2J", "https://data.org/\\x1b[2J"),
    ],
)
async def test_a_url_is_shown_without_what_is_secret(url: str, told: str) -> None:
    assert redact_url(url) == told


async def test_too_much_and_too_long_are_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_file, "MAX_BYTES", len(INDEX) - 1)
    for answer in (whole, chunked):
        server.answers = [answer]
        assert "is larger than" in await refused(server.url())
    monkeypatch.setattr(remote_file, "MAX_BYTES", len(INDEX))
    monkeypatch.setattr(remote_file, "MAX_SECONDS", 0.05)
    server.answers = [silent(10)]
    assert "not read in" in await refused(server.url())


async def test_a_redirect_never_leaves_https() -> None:
    answer = httpx.Response(302, headers={"Location": "http://data.org/a"})
    with (
        httpx.Client(transport=httpx.MockTransport(lambda _: answer)) as client,
        pytest.raises(remote_file._Refused, match="from https to http"),
    ):
        remote_file._Download("https://data.org/a", [], bool)._ask(client)


# closing

CANCELLED = """
import anyio, sys
from seed_registry.index.byte_stream import open_index
from seed_registry.index.inputs import IndexRef
async def main():
    with anyio.move_on_after(0.5) as scope:
        async with open_index(IndexRef.of(sys.argv[1])) as index:
            async for chunk in index.chunks():
                pass
    print("cancelled", scope.cancelled_caught, flush=True)
anyio.run(main)
"""


@pytest.mark.parametrize("after", [0, 10, 100_000])
async def test_waiting_for_a_silent_server_can_be_cancelled_and_the_process_ends(server: Server, after: int) -> None:
    server.answers = [silent(after)]
    done = subprocess.run(  # noqa: ASYNC221  # nothing else runs in this loop
        [sys.executable, "-c", CANCELLED, server.url()], capture_output=True, timeout=20, check=False
    )
    assert (done.stdout, done.returncode, done.stderr) == (b"cancelled True\n", 0, b"")


@pytest.mark.parametrize("answers", [[silent(0)], [failing(503, Retry_After=3600)]])
async def test_a_read_ends_when_another_thread_closes(
    server: Server, answers: list[Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_file, "MAX_RETRY_AFTER_SECONDS", DEADLINE)
    server.answers = answers
    file = RemoteFile(IndexRef.of(server.url()))
    threading.Timer(0.2, file.close).start()
    with pytest.raises(OSError, match="closed"):
        file.readinto(memoryview(bytearray(10)))


async def test_closing_ends_the_thread_that_waits_for_a_busy_server(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_file, "MAX_RETRY_AFTER_SECONDS", DEADLINE)
    server.answers = [failing(503, Retry_After=3600)]
    before = set(threading.enumerate())
    file = RemoteFile(IndexRef.of(server.url()))
    threading.Timer(0.2, file.close).start()
    with pytest.raises(OSError, match="closed"):
        file.readinto(memoryview(bytearray(10)))
    for thread in set(threading.enumerate()) - before:
        thread.join(DEADLINE / 6)
        assert not thread.is_alive()


# fsspec


async def test_other_schemes_are_read_through_fsspec(tmp_path: Path) -> None:
    with fsspec.open("memory://remote/a.json", "wb") as file:
        file.write(INDEX)
    await expect_index("memory://remote/a.json", tmp_path)
    await expect_index(f"file://{tmp_path}/local.json", tmp_path)
    async with open_index(IndexRef.of("memory://remote/a.json")) as index:
        assert index.size == len(INDEX)


@pytest.mark.parametrize(
    "url",
    [
        "memory://nothing",
        "file:///no/such",
        "nosuch://alice:hunter2@x/y?token=tok3n",
        "memory://alice:hunter2@x/y?token=tok3n",
    ],
)
async def test_what_fsspec_cannot_read_is_refused(url: str) -> None:
    assert "cannot be read" in await refused(url)


async def test_without_fsspec_the_error_names_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert "pip install 'seed-registry[remote]'" in await refused("s3://alice:hunter2@bucket/a.json")
