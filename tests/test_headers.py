"""Headers of requests are sent to one origin only, and their values are never shown."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_remote_file import INDEX, Server, failing, redirecting, sending, serving

from conftest import Cli
from seed_registry import DatabaseUrl, Settings
from seed_registry.errors import IndexUnreadable, SettingsInvalid
from seed_registry.headers import Header, origin, require_one_origin_each, sent_to
from seed_registry.index.byte_stream import open_index
from seed_registry.index.inputs import IndexRef
from seed_registry.settings import parse_headers

CANARY = "cAnArY"


@pytest.fixture
def portal() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def other() -> Iterator[Server]:
    """Of another origin: another port."""
    with serving() as server:
        yield server


async def read(url: str, *texts: str) -> bytes:
    async with open_index(IndexRef.of(url), headers=parse_headers(texts)) as opened:
        return b"".join([chunk async for chunk in opened.chunks()])


def received(server: Server) -> list[dict[str, str]]:
    return [headers for _, headers in server.asked]


# --- syntax -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("X-Token: a b", ("X-Token", "a b", None)),
        ("X-Token:a:b", ("X-Token", "a:b", None)),
        ("  X-Token:\t a ", ("X-Token", "a", None)),
        ("https://Data.Example.org:443 X-Token: a", ("X-Token", "a", "https://data.example.org")),
        ("http://[::1]:8080/path?x X-Token: a", ("X-Token", "a", "http://[::1]:8080")),
    ],
)
def test_a_header_is_a_name_a_value_and_perhaps_an_origin(text: str, expected: Any) -> None:
    header = Header.parse(text)
    assert (header.name, header.reveal, header.origin) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", CANARY, f": {CANARY}", f"X Token: {CANARY}", f"X-Tökén: {CANARY}", f"X-Token: {CANARY}\r\nEvil: 1",
        f"X-Token: {CANARY}\n", f"X-Token: {CANARY}\0", f"X-Token: {CANARY}é", "X-Token:", "X-Token: ",
        f"Evil: 1\r\nX-Token: {CANARY}", f"Host: {CANARY}", f"range: {CANARY}", f"Accept-Encoding: {CANARY}",
        f"ftp://data.example.org X-Token: {CANARY}", f"https:// X-Token: {CANARY}",
        f"https://data.example.org:99999 X-Token: {CANARY}",
    ],
)  # fmt: skip
@pytest.mark.sampled(6)
def test_what_is_no_header_is_refused_without_a_word_of_its_value(text: str, cli: Cli) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        Header.parse(text)
    assert CANARY not in str(caught.value)
    if "\0" not in text:
        done = cli("explain", "http://127.0.0.1:1/x.json", "--header", text)
        assert done.returncode == 2
        assert CANARY.encode() not in done.stdout + done.stderr
        assert b"--header" in done.stderr


@given(text=st.text(max_size=60))
def test_no_text_smuggles_a_line_into_a_request(text: str) -> None:
    try:
        header = Header.parse(text)
    except SettingsInvalid:
        return
    assert not set(header.name + header.reveal) & set("\r\n\0")
    assert header.reveal.isascii()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://Data.Example.org/a?b#c", "https://data.example.org"),
        ("https://user:pw@data.example.org:443/", "https://data.example.org"),
        ("http://data.example.org:443/", "http://data.example.org:443"),
        ("HTTP://data.example.org:80", "http://data.example.org"),
        ("s3://bucket/key", None),
        ("/a/path", None),
        ("-", None),
        ("https://", None),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, expected: str | None) -> None:
    assert origin(url) == expected


def test_a_header_is_shown_without_its_value_wherever_it_stands() -> None:
    header = Header.parse(f"https://data.example.org Authorization: Bearer {CANARY}")
    settings = Settings(headers=(header,))
    trace = "".join(traceback.format_exception_only(ValueError(header, settings)))
    for shown in (str(header), repr(header), f"{header}", str(settings), repr(settings), str([header]), trace):
        assert CANARY not in shown
    assert str(header) == "https://data.example.org Authorization: ***"
    with pytest.raises(SettingsInvalid, match=r"headers takes Header.parse"):
        Settings(headers=(f"A: {CANARY}",))  # type: ignore[arg-type]


def test_a_header_without_an_origin_is_refused_for_urls_of_several() -> None:
    urls = ["https://a.example.org/x.json", "https://b.example.org/y.json"]
    loose, tied = Header.parse("X-Token: a"), Header.parse("https://a.example.org X-Token: a")
    with pytest.raises(SettingsInvalid) as caught:
        require_one_origin_each([loose], urls)
    assert "say which one is meant: --header 'https://a.example.org X-Token: …'" in str(caught.value)
    require_one_origin_each([tied], urls)
    require_one_origin_each([loose], [urls[0], f"{urls[0]}?page=2", "local.json", "-"])
    assert sent_to(urls[0], [tied]) == {"X-Token": "a"}
    assert sent_to(urls[1], [tied]) == {}


# --- where it goes -------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_header_goes_to_its_url_and_a_later_one_of_the_same_name_counts(portal: Server) -> None:
    texts = (f"X-Token: {CANARY}", "x-other: 1", "User-Agent: curl/8", "X-Other: 2", "https://else.org X-Else: 3")
    assert await read(portal.url(), *texts) == INDEX
    (headers,) = received(portal)
    assert (headers["x-token"], headers["x-other"], headers["user-agent"]) == (CANARY, "2", "curl/8")
    assert "x-else" not in headers
    assert headers["accept-encoding"] == "identity"


@pytest.mark.anyio
async def test_without_one_the_agent_names_the_program(portal: Server) -> None:
    await read(portal.url())
    (headers,) = received(portal)
    assert headers["user-agent"].startswith("seed-registry/")
    assert "index" in headers["user-agent"]


@pytest.mark.anyio
async def test_a_header_is_sent_again_when_a_lost_connection_is_resumed(portal: Server) -> None:
    portal.answers = [sending(cut=len(INDEX) // 2), sending()]
    assert await read(portal.url(), f"X-Token: {CANARY}") == INDEX
    assert [headers["x-token"] for headers in received(portal)] == [CANARY] * 2
    assert "range" in received(portal)[1]


@pytest.mark.anyio
async def test_a_redirect_within_the_origin_keeps_it_and_one_elsewhere_drops_it_for_good(
    portal: Server, other: Server
) -> None:
    portal.answers = [redirecting("/next.json"), redirecting(other.url("/there.json")), sending()]
    other.answers = [redirecting(portal.url("/back.json"))]
    names = ("x-token", "authorization", "cookie")
    texts = (f"X-Token: {CANARY}", f"Authorization: Bearer {CANARY}", f"Cookie: {CANARY}", f"User-Agent: {CANARY}")
    assert await read(portal.url(), *texts) == INDEX
    first, second, back = received(portal)
    (there,) = received(other)
    for headers in (first, second):
        assert all(CANARY in headers[name] for name in (*names, "user-agent"))
    for headers in (there, back):
        assert CANARY not in str(headers)
        assert headers["user-agent"].startswith("seed-registry/")


@pytest.mark.anyio
@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_names_the_flag_and_the_origin_without_header(
    portal: Server, other: Server, status: int
) -> None:
    portal.answers = [failing(status)]
    with pytest.raises(IndexUnreadable, match=rf"answers {status} .*; a token, or another agent, is sent with"):
        await read(portal.url())
    portal.answers, other.answers = [redirecting(other.url())], [failing(status)]
    with pytest.raises(IndexUnreadable) as caught:
        await read(portal.url(), f"X-Token: {CANARY}")
    assert f"it is {origin(other.url())}, to which it redirects, and which no --header is sent to" in str(caught.value)
    assert CANARY not in str(caught.value)


# --- the command line ----------------------------------------------------------------------------------------------


def asking_for_a_token(portal: Server) -> None:
    """Send the index only for the right token."""
    give, refuse = sending(), failing(403)
    portal.answers = [lambda handler: (give if CANARY in handler.headers.get("X-Token", "") else refuse)(handler)]


@pytest.mark.parametrize("by", ["flag", "variable", "list", "table", "table of pyproject"])
@pytest.mark.slow
def test_a_token_comes_by_flag_variable_or_file_and_is_shown_nowhere(
    by: str, portal: Server, cli: Cli, database_url: DatabaseUrl, tmp_path: Path, home: Path
) -> None:
    asking_for_a_token(portal)
    token, url = f"Bearer {CANARY}", portal.url()
    arguments: list[str] = []
    env: Mapping[str, str] = {}
    (tmp_path / ".git").mkdir()
    file = tmp_path / ("pyproject.toml" if "pyproject" in by else "seed-registry.toml")
    if by == "flag":
        arguments = ["--header", f"X-Token: {token}"]
    elif by == "variable":
        env = {"SEED_REGISTRY_HEADER": f"Accept-Language: de, en\nX-Token: {token}\n"}
    elif by == "list":
        file.write_text(f'[load]\nheader = ["X-Token: {token}"]\n')
    else:
        table = ("tool.seed-registry." if "pyproject" in by else "") + "headers"
        file.write_text(f'[{table}."{origin(url)}"]\nX-Token = "{token}"\n')
    if file.exists():
        file.chmod(0o600)
    page, log = tmp_path / "page.html", tmp_path / "log"
    options = ("--html", page, "--log-file", log, "--verbose", "--json")
    loaded = cli("load", url, *arguments, *options, url=database_url, env=env)
    assert loaded.returncode == 0, loaded.stderr
    assert json.loads(loaded.stdout)["assets"]["inserted"] > 0
    shown = [loaded.stdout, loaded.stderr, page.read_bytes(), log.read_bytes()]
    for command in (("config", "show"), ("config", "show", "--json"), ("runs", "--json"), ("plan", url, *arguments)):
        done = cli(*command, url=database_url, env=env)
        assert done.returncode == 0, done.stderr
        shown.append(done.stdout + done.stderr)
        if command[0] == "config" and by != "flag":
            assert b"X-Token: ***" in done.stdout
    shown += [path.read_bytes() for path in home.rglob("*") if path.is_file() and "postgres" not in str(path)]
    portal.answers = [failing(403)]
    refused = cli("load", url, *arguments, "--verbose", url=database_url, env=env)
    assert refused.returncode == 1
    assert b"--header" in refused.stderr
    shown.append(refused.stderr)
    assert not any(CANARY.encode() in text for text in shown)
    assert (b"the value of --header can be read by others" in loaded.stderr) == (by == "flag")


def test_a_flag_goes_before_the_table_of_its_origin(portal: Server, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "seed-registry.toml").write_text(
        f'[headers."{origin(portal.url())}"]\nUser-Agent = "file"\nAccept = "application/json"\n'
    )
    assert cli("explain", portal.url(), "--header", "user-agent: flag").returncode == 0
    assert cli("explain", portal.url()).returncode == 0
    agents = [(headers["user-agent"], headers["accept"]) for headers in received(portal)]
    assert agents == [("flag", "application/json"), ("file", "application/json")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f'[headers]\nX-Token = "{CANARY}"', '[headers."https://data.example.org"]'),
        (f'[headers."https://a.org"]\nX-Token = ["{CANARY}"]', '[headers."https://data.example.org"]'),
        (f'[headers."a.org"]\nX-Token = "{CANARY}"', "a.org is no origin"),
        (f'[headers."https://a.org"]\n"X Token" = "{CANARY}"', "no valid name"),
        (f'[headers."https://a.org"]\nX-Token = "{CANARY}\\n"', "characters that no header may have"),
        (f'headers = "{CANARY}"', '[headers."https://data.example.org"]'),
    ],
)
def test_a_wrong_table_is_an_error_with_its_place_and_not_its_value(
    text: str, said: str, cli: Cli, tmp_path: Path
) -> None:
    file = tmp_path / "seed-registry.toml"
    file.write_text(text)
    file.chmod(0o600)
    done = cli("explain", "x.json")
    assert done.returncode == 2
    assert said in done.stderr.decode()
    assert "seed-registry.toml" in done.stderr.decode()
    assert CANARY not in done.stderr.decode()


@pytest.mark.parametrize(
    "text",
    [
        f'[headers."https://a.org"]\nX-Token = "{CANARY}"',
        f'header = ["X-Token: {CANARY}"]',
        f'[load]\nheader = ["X-Token: {CANARY}"]',
    ],
)
def test_a_file_with_a_secret_header_that_others_can_read_is_refused(text: str, cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "seed-registry.toml"
    file.write_text(text)
    file.chmod(0o644)
    done = cli("load", "x.json")
    assert done.returncode == 2
    assert b"chmod 600" in done.stderr
    assert CANARY.encode() not in done.stderr
    file.write_text('[headers."https://a.org"]\nUser-Agent = "me"')
    assert b"chmod" not in cli("load", "x.json").stderr
