"""An index at a URL is read by shards where its server sends parts of one version of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import pytest
from sharded import sharded
from test_remote_file import SECRETS, Answer, Handler, Server, serving
from test_shards import directory, lines, read, same

from seed_registry.errors import IndexUnreadable
from seed_registry.headers import Header
from seed_registry.index import remote_file
from seed_registry.index.inputs import IndexRef
from seed_registry.index.shard_plan import cut
from seed_registry.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(remote_file, "BACKOFF_SECONDS", 0.001)
    with serving() as running:
        yield running


def ranged(data: bytes, etag: str | Callable[[], str] = '"one"', *, status: int = 206) -> Answer:
    """A server of files that knows ranges, or answers them with another status."""

    def answer(handler: Handler) -> None:
        tag = etag if isinstance(etag, str) else etag()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
        matches = handler.headers.get("If-Range") == tag
        if not asked or not matches or status == 200:
            handler.head(200, Content_Length=len(data), ETag=tag)
            handler.wfile.write(data)
            return
        start, end = int(asked[1]), int(asked[2] or len(data) - 1)
        part = f"bytes {start}-{end}/{len(data)}"
        handler.head(status, Content_Length=end + 1 - start, ETag=tag, Content_Range=part)
        handler.wfile.write(data[start : end + 1])

    return answer


@pytest.mark.parametrize("data", [lines(800), json.dumps(directory(800, domain="d.org")).encode()])
async def test_shards_are_read_by_ranges_of_the_version_that_was_cut(files: Server, data: bytes) -> None:
    files.answers = [ranged(data)]
    found = await same(files.url(), 12_000)
    assert len(found.shards) > 3
    parts = [headers for _, headers in files.asked if "range" in headers]
    assert {headers["if-range"] for headers in parts} == {'"one"'}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ranged(lines(800), 'W/"weak"'), "strong ETag"),
        (ranged(lines(800), ""), "strong ETag"),
        (ranged(lines(800), status=200), "parts"),
    ],
)
async def test_what_a_server_does_not_send_in_parts_is_one_shard(files: Server, answer: Answer, reason: str) -> None:
    files.answers = [answer]
    found = await cut(IndexRef.of(files.url()), Settings(), 12_000)
    assert len(found.shards) == 1
    assert reason in found.reason
    await same(files.url(), 12_000)


async def test_a_file_that_changes_on_the_server_is_not_read_on(files: Server) -> None:
    data, version = lines(800), ['"one"']
    files.answers = [ranged(data, lambda: version[0])]
    index = IndexRef.of(files.url())
    shards = (await cut(index, Settings(), 12_000)).shards
    version[0] = '"two"'
    for shard in (shards[0], shards[2]):
        assert "another version" in str((await sharded(files.url(), 12_000, [shard])).error)


async def test_a_file_that_changes_between_its_head_and_the_shard_is_not_read(files: Server) -> None:
    data = lines(800)
    files.answers = [ranged(data)]
    shard = (await cut(IndexRef.of(files.url()), Settings(), 12_000)).shards[2]
    files.answers = [ranged(data), ranged(data, '"two"')]
    with pytest.raises(IndexUnreadable, match="changed on the server"):
        await read(files.url(), shard)


async def test_headers_are_sent_with_each_range_and_are_in_no_message(files: Server) -> None:
    files.answers = [ranged(lines(800))]
    settings = Settings(headers=(Header.parse(f"X-Token: {SECRETS[0]}"),))
    shards = (await cut(IndexRef.of(files.url()), settings, 12_000)).shards
    assert {headers.get("x-token") for _, headers in files.asked} == {SECRETS[0]}
    assert SECRETS[0] not in repr(shards)
