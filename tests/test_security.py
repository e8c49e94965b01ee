"""Security: what a hostile index, name or directory can do to the terminal, the secrets and the files: nothing."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from conftest import Cli
from seed_registry import ingest
from seed_registry.embedded.home import make_home_directory
from seed_registry.errors import EmbeddedServerFailed, IndexBroken, StorageFailed
from seed_registry.escape import printable
from seed_registry.settings import DatabaseUrl, Settings

Property: TypeAlias = Callable[[str, object], None]

CANARY = "c4n4ry-0f-s3cr3t"
PAYLOADS = {
    "colour": "\x1b[35;5mcolour", "clear": "\x1b[2J\x1b[3Jcleared", "cursor": "\x1b[9Aup\x1b[9Dleft",
    "title": "\x1b]0;title\x07", "link": "\x1b]8;;http://x.example\x1b\\link", "clipboard": "\x1b]52;c;ZWNobw==\x07",
    "device control": "\x1bP$q\x1b\\", "status": "\x1b[6n", "one-byte CSI": "\x9b31meight", "bell": "bell\x07",
    "backspaces": "safe\x08\x08\x08\x08evil", "carriage return": "real\rFORGED", "line feed": "line\nFORGED 2024-01-01",
    "right to left": "exe.\u202egpj", "zero width": "a\u200bb\ufeff", "markup": "[link=http://x.example]here[/link]",
    "bad markup": "[/]unbalanced[bold", "a megabyte": "x" * 1_000_000, "nul": "nul\0byte",
    "separators": "a\u2028FORGED\u2029b\u0085FORGED",
}  # fmt: skip
# What Rich and its bar make of their own: colours, the cursor hidden and shown, a line cleared, the line above.
_RICHS_OWN = re.compile(r"\r\n|\r(?=\x1b\[(2K|1A))|\x1b\[((?!35;5m)[0-9;]*m|\?25[lh]|2K|1A)")


def document(*assets: dict[str, Any], **envelope: Any) -> bytes:
    """An index of one good record and these others."""
    plain = [{"asset_key": "aaaa-0001", "source_key": "data.example.org", "name": "plain"}]
    return json.dumps(
        {**envelope, "sources": [{"source_key": "data.example.org"}], "assets": [*plain, *assets]}
    ).encode()


def hostile_document(*payloads: str) -> bytes:
    """An index that has them wherever a text may be: keys, domains, names, dates, URLs, field names, its envelope."""
    assets: list[dict[str, Any]] = []
    for number, payload in enumerate(payloads):
        key = f"bbbb-{number}"
        if len(payload) > 10_000:
            assets.append({"asset_key": key, "source_key": payload, "name": payload})
            continue
        assets += [
            {"asset_key": key, "source_key": "data.example.org", "name": payload, "description": payload, payload: 1},
            {"asset_key": f"{key} {payload}", "source_key": "data.example.org", "updated_at": payload, "url": payload},
            {"asset_key": f"{key}c", "source_key": payload},
            {"asset_key": "k" * 1_001 + payload, "source_key": "data.example.org", "type": payload},
        ]
    told = payloads[0][:10_000]  # an envelope longer than what a dialect is detected in is refused
    return document(*assets, generator=told, **{told[:100]: told})


def unseen(text: str) -> list[str]:
    """What of a text is neither visible nor the end of a line."""
    return [character for character in text if character != "\n" and not character.isprintable()]


class Terminal:
    """Runs the command with a terminal for its stdout and stderr."""

    def __init__(self, home: Path, directory: Path) -> None:
        self._home = home
        self._directory = directory

    def run(self, *arguments: str, url: DatabaseUrl | None = None) -> tuple[int, str]:
        """Its exit code, and all that the terminal got."""
        environment = {"PATH": os.environ["PATH"], "SEED_REGISTRY_HOME": str(self._home), "LANG": "C.UTF-8"}
        environment |= {"TERM": "xterm-256color", "COLUMNS": "150", "DATABASE_URL": url.reveal if url else ""}
        leader, follower = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "seed_registry", *arguments],
            env=environment, cwd=self._directory, stdin=subprocess.DEVNULL, stdout=follower, stderr=follower,
        )  # fmt: skip
        os.close(follower)
        got: list[bytes] = []
        reader = threading.Thread(target=_read_all, args=(leader, got))
        reader.start()
        code = process.wait(timeout=120)
        reader.join(timeout=20)
        return code, b"".join(got).decode()


def _read_all(leader: int, got: list[bytes]) -> None:
    try:
        while data := os.read(leader, 65_536):
            got.append(data)
    except OSError:  # how Linux tells that the last writer is gone
        pass
    finally:
        os.close(leader)


@pytest.fixture
def terminal(home: Path, tmp_path: Path) -> Terminal:
    return Terminal(home, tmp_path)


def left_over(text: str) -> str:
    """A terminal's text without what Rich makes for a harmless index, too."""
    return _RICHS_OWN.sub(lambda match: "\n" if match[0] == "\r\n" else "", text)


# --- terminals and logs -------------------------------------------------------------------------------------------


@pytest.fixture
def hostile_index(tmp_path: Path) -> str:
    """The name of an index that is all payloads, its name included."""
    short = (payload[:12] for payload in PAYLOADS.values() if not {"/", "\0"} & set(payload[:12]))
    name = "".join(short) + ".json"
    (tmp_path / name).write_bytes(hostile_document(*PAYLOADS.values()))
    return name


def test_nothing_but_what_rich_makes_is_left_out_of_what_a_terminal_got() -> None:
    rich = "\x1b[?25l\r\x1b[2K\x1b[32m⠋\x1b[0m plain.json \x1b[38;5;237m━\x1b[0m\r\n\x1b[?25h\r\x1b[1A\x1b[2K"
    assert left_over(rich) == "⠋ plain.json ━\n"
    for payload in PAYLOADS.values():
        assert unseen(left_over(payload)) == unseen(payload)


def test_a_terminal_gets_no_control_character_of_an_index(
    terminal: Terminal, database_url: DatabaseUrl, hostile_index: str, record_property: Property
) -> None:
    record_property("cases", len(PAYLOADS))
    code, text = terminal.run("load", hostile_index, "--max-rejects", "1000", url=database_url)
    assert code == 0, text
    assert unseen(left_over(text)) == []
    assert "━" in text
    for shown in (
        "\\x1b[35;5mcolour",
        "\\x9b31meight",
        "bell\\x07",
        "exe.\\u202egpj",
        "[link=http://x",
        "[/]unbalanced",
    ):
        assert shown in left_over(text).replace("\n", "")


def test_an_option_that_there_is_not_prints_no_control_character(terminal: Terminal) -> None:
    """A file whose name begins with a hyphen becomes an option where a shell puts it in for a pattern."""
    code, text = terminal.run("load", "--\x1b[2J\x9b\u202e\u2028FORGED.json")
    assert code == 2
    assert unseen(left_over(text)) == []


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_log_gets_neither_a_control_character_nor_a_line_of_an_index(
    log_format: str, cli: Cli, database_url: DatabaseUrl, hostile_index: str, record_property: Property
) -> None:
    record_property("cases", len(PAYLOADS))
    arguments = ("--log-format", log_format, "--max-rejects", "1000", "--verbose")
    done = cli("load", hostile_index, *arguments, url=database_url)
    assert done.returncode == 0, done.stderr
    for text in (done.stdout.decode(), done.stderr.decode()):
        assert unseen(text) == []
        assert not re.search("^.{0,2}FORGED", text, re.MULTILINE)
        assert max(map(len, text.splitlines())) < 5_000
    if log_format == "json":
        assert all(json.loads(line)["event"] for line in done.stderr.splitlines())
        assert done.stderr.isascii()


def test_what_an_index_is_taken_for_is_told_without_a_control_character(cli: Cli, hostile_index: str) -> None:
    done = cli("explain", hostile_index)
    assert done.returncode == 0
    assert unseen(done.stdout.decode() + done.stderr.decode()) == []


def test_a_flood_of_combining_marks_is_no_flood_on_a_screen() -> None:
    flood = "z" + "\u0316\u0334" * 80
    assert printable(flood).startswith("z" + "\u0316\u0334" * 4 + "\\u0316")
    for text in ("e\u0301\u0323", "ก\u0e34\u0e48", "ש\u05bc\u05c1\u05b8\u0596"):
        assert printable(text) == text


# --- secrets ------------------------------------------------------------------------------------------------------


def with_canary(url: DatabaseUrl) -> DatabaseUrl:
    """The same database with a password, for which the tests' server does not ask."""
    scheme, _, rest = url.reveal.partition("://")
    user, _, place = rest.partition("@")
    return DatabaseUrl(f"{scheme}://{user}:{CANARY}@{place}")


async def held_by(url: DatabaseUrl) -> str:
    """All that the ledger, and what Postgres tells of its sessions, say."""
    connection = await asyncpg.connect(url.reveal)
    try:
        texts = [
            f"{row}"
            for table in ("seed_registry.runs", "seed_registry.checkpoints", "pg_stat_activity")
            for row in await connection.fetch(f"select * from {table}")
        ]
    finally:
        await connection.close()
    return "\n".join(texts)


def test_a_password_is_nowhere_while_a_load_runs_nor_after_it_was_killed(
    database_url: DatabaseUrl, home: Path, tmp_path: Path
) -> None:
    environment = {"PATH": os.environ["PATH"], "SEED_REGISTRY_HOME": str(home)}
    process = subprocess.Popen(
        [sys.executable, "-m", "seed_registry", "load", "-", "--verbose", "--batch-size", "1", "--rejects", "rejects",
         "--database-url", with_canary(database_url).reveal],
        env=environment, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin
    process.stdin.write(b'{"type":"source","source_key":"a"}\n{}\n' + b" " * 70_000 + b"\n")
    process.stdin.flush()
    told = ""
    for _ in range(1_000):
        told = asyncio.run(held_by(database_url))
        if "seed-registry" in told or process.poll() is not None:
            break
    seen = [told, Path(f"/proc/{process.pid}/cmdline").read_text()]
    process.kill()
    out, err = process.communicate(timeout=60)
    seen += [out.decode(), err.decode(), asyncio.run(held_by(database_url))]
    seen += [path.read_text() for path in tmp_path.iterdir()]
    assert "--database-url" in seen[1]
    assert "seed-registry" in told
    assert not [text for text in seen if CANARY in text]


# --- files --------------------------------------------------------------------------------------------------------


PRECIOUS = "precious"


def plant(kind: str, path: Path, precious: Path) -> None:
    """Lay a trap where a file is going to be written."""
    precious.write_text(PRECIOUS)
    path.unlink(missing_ok=True)
    match kind:
        case "link":
            path.symlink_to(precious)
        case "link to nothing":
            path.symlink_to(precious.with_name("new"))
        case "hard link":
            path.hardlink_to(precious)
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()


KINDS = ["link", "link to nothing", "hard link", "pipe", "directory"]


@pytest.mark.anyio
async def test_rejects_go_into_nothing_that_was_planted(
    database_url: DatabaseUrl, tmp_path: Path, record_property: Property
) -> None:
    record_property("cases", len(KINDS))
    index = tmp_path / "index.json"
    index.write_bytes(document({}))
    for kind in KINDS:
        rejects, precious = tmp_path / f"rejects {kind}", tmp_path / "precious"
        plant(kind, rejects, precious)
        with pytest.raises(StorageFailed, match="name another with --rejects"):
            await ingest([str(index)], Settings(database_url=database_url, rejects=str(rejects), resume=False))
        assert precious.read_text() == PRECIOUS
        assert not (tmp_path / "new").exists()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "kind",
    [
        "link",
        "directory",
        "hard link",
        "pipe",
    ],
)
async def test_a_run_that_is_resumed_writes_into_nothing_that_was_planted(
    kind: str, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    index, rejects, precious = tmp_path / "index.json", tmp_path / "rejects", tmp_path / "precious"
    settings = Settings(database_url=database_url, rejects=str(rejects))
    index.write_bytes(document({}) + b"x")
    with pytest.raises(IndexBroken):
        await ingest([str(index)], settings)
    plant(kind, rejects, precious)
    with pytest.raises(StorageFailed):
        await ingest([str(index)], settings)
    assert precious.read_text() == PRECIOUS


@pytest.mark.anyio
async def test_a_source_cache_goes_into_no_file_that_was_planted(
    database_url: DatabaseUrl, tmp_path: Path, record_property: Property
) -> None:
    kinds = ["link", "link to nothing", "hard link"]
    record_property("cases", len(kinds))
    index = tmp_path / "index.json"
    index.write_bytes(document())
    for kind in kinds:
        cache, precious = tmp_path / f"cache {kind}", tmp_path / "precious"
        plant(kind, cache, precious)
        await ingest([str(index)], Settings(database_url=database_url, source_cache=str(cache)))
        assert precious.read_text() == PRECIOUS
        assert not (tmp_path / "new").exists()
        assert stat.S_IMODE(cache.lstat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o722])
def test_a_home_directory_into_which_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(mode)
    with pytest.raises(EmbeddedServerFailed):
        make_home_directory(home)
