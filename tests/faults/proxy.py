"""A TCP proxy before the server that knows how far each session's talk with it is, and harms one there.

Messages: https://www.postgresql.org/docs/current/protocol-message-formats.html. The harms have the names that Toxiproxy
gave them (https://github.com/Shopify/toxiproxy#toxics); each is done once, to what goes in one direction. Three more:
`gone` is down for good, `mute` says nothing to anybody any more, `late` delivers a message whose sender has hung up.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import quote

from seed_registry.postgres.database_url import parse_url
from seed_registry.settings import DatabaseUrl

DIRECTIONS: Final = ("up", "down")  # to the server, to the client
PHASES: Final = ("connect", "COPY", "COMMIT")
SLOW: Final = ("latency", "bandwidth", "slicer")  # everything arrives
LOST: Final = ("down", "slow_close", "timeout", "reset_peer", "limit_data")  # the connection does not come back

PAUSE_SECONDS: Final = 0.6
LATE_SECONDS: Final = 2.5  # by then the load has come back: it waits little more than a second before it does
_CANCEL: Final = struct.pack("!i", 80877102)
_RESET: Final = struct.pack("ii", 1, 0)  # of SO_LINGER: closing drops what is unsent, and sends RST


@dataclass(frozen=True)
class Fault:
    """A harm and its place: the first message of a phase once so many batches, and one of each worker, are `committed`.

    A phase that is none of `PHASES` is a text: what is harmed is the first message to the server that holds it.
    To harm a connect, a session is cut off there, in the middle of a batch; the next one to come is harmed.
    """

    toxic: str
    phase: str
    direction: str
    committed: int = 3
    workers: int = 3


@dataclass(eq=False)
class _Link:
    """A client and its session.

    Attributes:
        writers: to where each direction leads.
        poisoned: the direction that is harmed.
        free: unset while one side is kept open though the other is closed.
    """

    writers: dict[str, asyncio.StreamWriter]
    is_target: bool
    is_ready: bool = False
    is_copying: bool = False  # assets, nothing else counts
    has_copied: bool = False
    phases: dict[str, str] = field(default_factory=lambda: dict.fromkeys(DIRECTIONS, "connect"))
    poisoned: str = ""
    struck_at: float = 0.0
    free: asyncio.Event = field(default_factory=asyncio.Event)

    def follow(self, direction: str, message: bytes) -> None:
        """Take note of how far the talk is with this message."""
        kind, body = message[:1], message[5:]
        if not self.is_ready:
            self.is_ready = direction == "down" and kind == b"Z"
            return
        if direction == "down" and kind == b"Z":
            return  # it ends what the message before was about
        phase = ""
        if kind == b"Q":
            self.is_copying = body.startswith(b"COPY") and b"assets" in body
            self.has_copied = self.has_copied and not body.startswith(b"BEGIN")
            phase = "COMMIT" if self.has_copied and body.endswith(b"COMMIT\0") else ""
        elif self.is_copying and (kind in b"dc" if direction == "up" else body.startswith(b"COPY")):
            self.has_copied = True
            phase = "COPY"
        elif self.has_copied and direction == "down" and kind == b"C" and body.startswith(b"COMMIT"):
            phase = "COMMIT"
        self.phases[direction] = phase

    def close(self, *directions: str, reset: bool = False) -> None:
        """Close the sides to which these lead."""
        for direction in directions:
            transport = self.writers[direction].transport
            if reset and direction == "down" and not transport.is_closing():
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()


class Proxy:
    """The proxy, in a thread of its own for as long as it is entered.

    Attributes:
        struck: how often harm was done.
        ended_seconds: after the harm was done, the harmed session ended.
        committed: batches of assets, as far as their client was told.
        links: sessions that came.
    """

    def __init__(self, url: DatabaseUrl, fault: Fault | None = None) -> None:
        target = parse_url(url)
        ((self._host, self._server_port),) = target.hosts
        self._login = f"{quote(target.login['user'])}:{quote(target.login.get('password', ''), safe='')}"
        self._database = target.login["database"]
        self._fault = fault
        self._open: set[_Link] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._committers: set[_Link] = set()
        self._has_cut = self._next_is_target = self._is_mute = False
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.port = self.struck = self.committed = self.links = 0
        self.ended_seconds = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def url(self, *others: Proxy, connect_seconds: int = 2) -> DatabaseUrl:
        """The database by this proxy, and where it is not there by the others."""
        hosts = ",".join(f"127.0.0.1:{proxy.port}" for proxy in (self, *others))
        options = f"sslmode=disable&connect_timeout={connect_seconds}"
        return DatabaseUrl(f"postgresql://{self._login}@{hosts}/{self._database}?{options}")

    # Relaying

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._leave()
        if self._serving:
            await asyncio.wait(self._serving)
        self._leave()  # who was down may have come back meanwhile

    def _leave(self) -> None:
        assert self._server is not None
        self._server.close()
        for link in self._open:
            link.close("up", "down")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        is_target, self._next_is_target = self._next_is_target, False
        if self._host and self._host.startswith("/"):
            from_server, to_server = await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._server_port}")
        else:
            from_server, to_server = await asyncio.open_connection(self._host, self._server_port)
        link = _Link({"up": to_server, "down": writer}, is_target)
        link.free.set()
        self._open.add(link)
        self.links += 1
        relays = [
            asyncio.ensure_future(self._relay(link, "up", reader)),
            asyncio.ensure_future(self._relay(link, "down", from_server)),
        ]
        await asyncio.wait(relays, return_when=asyncio.FIRST_COMPLETED)
        if link.struck_at:
            self.ended_seconds = time.monotonic() - link.struck_at
        link.close("up", "down")
        self._open.discard(link)
        await asyncio.wait(relays)

    async def _relay(self, link: _Link, direction: str, reader: asyncio.StreamReader) -> None:
        buffer, has_kind = bytearray(), direction == "down"
        try:
            while chunk := await reader.read(1 << 16):
                buffer += chunk
                while message := _taken(buffer, has_kind=has_kind):
                    has_kind = True
                    await self._pass_on(link, direction, message)
        except ConnectionError:
            pass
        await link.free.wait()

    async def _pass_on(self, link: _Link, direction: str, message: bytes) -> None:
        if self._is_mute:
            return
        before = link.phases[direction]
        link.follow(direction, message)
        phase = link.phases[direction]
        if link.poisoned == direction and phase != before and self._fault and self._fault.toxic in SLOW:
            link.poisoned = ""
        if self._is_due(link, phase, direction, message):
            self.struck += 1
            link.poisoned, link.struck_at = direction, time.monotonic()
            await self._harm(link, direction, message, is_first=True)
        elif link.poisoned == direction:
            await self._harm(link, direction, message, is_first=False)
        else:
            _write(link, direction, message)
            if phase == "COMMIT" and direction == "down" and message[:1] == b"C":
                self.committed += 1
                self._committers.add(link)

    # Harming

    def _is_due(self, link: _Link, phase: str, direction: str, message: bytes) -> bool:
        fault = self._fault
        if fault is not None and not self.struck and fault.phase not in PHASES:
            return direction == "up" and fault.phase.encode() in message
        if fault is None or self.struck or self.committed < fault.committed or len(self._committers) < fault.workers:
            return False
        if fault.phase != "connect":
            return (phase, direction) == (fault.phase, fault.direction)
        if link.is_target:
            return (phase, direction) == ("connect", fault.direction) and message[4:8] != _CANCEL
        if phase == "COMMIT" and direction == "up" and not self._has_cut:
            self._has_cut = self._next_is_target = True
            link.close("up", "down")
        return False

    async def _harm(self, link: _Link, direction: str, message: bytes, *, is_first: bool) -> None:
        assert self._fault is not None
        toxic = self._fault.toxic
        if toxic in SLOW:
            await _delay(toxic, link, direction, message, is_first=is_first)
        elif not is_first:
            pass  # what follows is lost as well
        elif toxic == "mute":
            self._is_mute = True
        elif toxic in ("down", "gone"):
            self._leave()
            if toxic == "down":
                await asyncio.sleep(PAUSE_SECONDS)
                await self._listen()
        else:
            await _cut(toxic, link, direction, message)


async def _delay(toxic: str, link: _Link, direction: str, message: bytes, *, is_first: bool) -> None:
    if toxic == "latency":
        await asyncio.sleep(PAUSE_SECONDS if is_first else 0)
        size, rest = len(message), 0.0
    elif toxic == "bandwidth":
        size, rest = max(40, len(message) // 10), 0.06
    else:
        size, rest = max(1, len(message) // 100), 0.001
    for start in range(0, len(message), size):
        _write(link, direction, message[start : start + size])
        await asyncio.sleep(rest)


async def _cut(toxic: str, link: _Link, direction: str, message: bytes) -> None:
    """What becomes of the connection; `timeout` does nothing to it, but no message arrives any more."""
    if toxic == "limit_data":
        _write(link, direction, message[: len(message) // 2])
        await link.writers[direction].drain()
        for writer in link.writers.values():
            writer.close()
    elif toxic == "reset_peer":
        link.close("up", "down", reset=True)
    elif toxic == "slow_close":
        # The end of where the message came from is not yet known to where it leads.
        link.free.clear()
        link.close("down" if direction == "up" else "up")
        await asyncio.sleep(PAUSE_SECONDS)
        link.free.set()
    elif toxic == "late":
        link.free.clear()
        link.close("down" if direction == "up" else "up")
        await asyncio.sleep(LATE_SECONDS)
        _write(link, direction, message)
        await asyncio.sleep(PAUSE_SECONDS)
        link.free.set()


def _taken(buffer: bytearray, *, has_kind: bool) -> bytes:
    """The first message of the buffer, out of which it is taken; nothing if it is not complete."""
    start = 1 if has_kind else 0
    if len(buffer) < start + 4:
        return b""
    size: int = start + struct.unpack_from("!i", buffer, start)[0]
    if len(buffer) < size:
        return b""
    message = bytes(buffer[:size])
    del buffer[:size]
    return message


def _write(link: _Link, direction: str, data: bytes) -> None:
    if not link.writers[direction].transport.is_closing():
        link.writers[direction].write(data)
