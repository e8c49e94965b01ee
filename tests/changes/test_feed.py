"""`seed-registry changes`: whole sets in the order of their ends; a reader can stop and go on, and misses nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from loads import A, B, Site, ask, asset, in_this_process, parsed, told

from conftest import Cli
from seed_registry.changes import feed
from seed_registry.changes.cursor import Cursor
from seed_registry.changes.feed import Change, FeedFilter, read_feed
from seed_registry.changes.moments import parse_duration, parse_moment
from seed_registry.changes.prune import prune
from seed_registry.cli.render.changes import change_line
from seed_registry.errors import DatabaseRefused, SettingsInvalid
from seed_registry.postgres.connection import session
from seed_registry.settings import DatabaseUrl

pytestmark = pytest.mark.usefixtures("at_home")

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


@pytest.fixture
def cli(cli: Cli, call_main: Callable[..., tuple[int, str, str]], home: Path, tmp_path: Path) -> Cli:
    return in_this_process(cli, call_main, home, tmp_path)


@pytest.fixture
def site(database_url: DatabaseUrl, tmp_path: Path) -> Site:
    return Site(database_url, tmp_path)


def test_a_feed_tells_of_a_first_load_a_change_a_retired_and_a_returned_asset(site: Site, cli: Cli) -> None:
    first = site.load(asset("k1", name="one"), asset("k2", B))
    second = site.load(asset("k1", name="uno", n=1.0))
    third = site.load(asset("k1", name="uno", n=1.0), asset("k2", B))
    found = parsed(cli("changes", "--json", url=site.url).stdout)
    assert told(found) == [
        ("inserted", A, None, []),
        ("inserted", B, None, []),
        ("inserted", None, None, []),
        ("updated", A, "k1", ["name", "raw"]),
        ("retired", B, "k2", ["retired_at"]),
        ("returned", B, "k2", ["retired_at"]),
    ]
    assert [one["run_id"] for one in found] == [first.run_id] * 3 + [second.run_id] * 2 + [third.run_id]
    assert [one["rows"] for one in found] == [1, 1, 2, 1, 1, 1]
    assert [one["relation"] for one in found] == ["sources"] * 2 + ["assets"] * 4
    assert {one["provider"] for one in found} == {"socrata", None}
    updated, retired, returned = (one["before"] for one in found[3:])
    assert updated == {"name": "one", "raw": {"type": "asset", "name": "one", "asset_key": "k1", "source_key": A}}
    assert (retired, list(returned)) == ({"retired_at": None}, ["retired_at"])
    assert [one["at"] for one in found] == sorted(one["at"] for one in found)
    assert first.changes is not None
    assert (first.changes.assets, first.changes.created) == ({"inserted": 2}, 2)
    assert second.changes is not None
    assert (second.changes.assets, second.changes.fields) == ({"updated": 1, "retired": 1}, {"name": 1, "raw": 1})
    assert [(one.source, one.kinds) for one in second.changes.per_source] == [(A, {"updated": 1}), (B, {"retired": 1})]


def test_filters_limits_and_cursors_choose_a_part_of_the_feed(site: Site, cli: Cli) -> None:
    site.load(asset("k1", name="one"), asset("k2", B))
    second = site.load(asset("k1", name="uno"))

    def run(*arguments: object) -> list[dict[str, Any]]:
        done = cli("changes", "--json", *arguments, url=site.url)
        assert done.returncode == 0, done.stderr
        return parsed(done.stdout)

    whole = run()
    assert run(second.run_id) == whole[3:]
    assert run("--kind", "retired", "--kind", "updated") == whole[3:]
    assert run("--source", B) == [whole[1], whole[2], whole[4]]  # the entry for all assets is of every source
    assert run("--since", whole[3]["at"]) == whole[3:] == run("--since", whole[0]["at"], "--limit", 9)[3:]
    assert run("--since", "1h", "--limit", 2) == whole[:2]
    assert run("--after", whole[1]["cursor"], "--limit", 2) == whole[2:4]
    assert run("--after", whole[-1]["cursor"]) == []


def test_a_table_shows_the_newest_run_and_how_to_go_on(site: Site, cli: Cli) -> None:
    first = site.load(*(asset(f"k{number}") for number in range(13)))
    second = site.load(*(asset(f"k{number}", name="x\x1b[31m\u202e") for number in range(13)), asset("e\x1b[2J", B))
    shown = cli("changes", "--limit", 10, url=site.url).stdout.decode()
    lines = shown.splitlines()
    assert f"{second.run_id}" in lines[2]
    assert "assets: 1 inserted, 13 updated" in lines[2]
    assert "assets: 13 inserted; sources: 2 inserted" in lines[3]
    assert (shown.count("  updated  "), shown.count("  inserted  ")) == (9, 1), "new keys are written first"
    assert "first load" not in shown
    cursor = lines[-1].partition("--after ")[2].partition(",")[0]
    rest = cli("changes", "--after", cursor, url=site.url).stdout.decode()
    changes = rest[rest.index("change  kind") :]
    assert (changes.count("  updated  "), changes.count("  inserted  ")) == (4, 0)
    assert "there are more" not in rest
    assert "\x1b" not in shown + rest
    assert r"e\x1b[2J" in shown
    assert "inserted 13 assets (first load)" in cli("changes", first.run_id, url=site.url).stdout.decode()


def test_nothing_to_show_is_said(site: Site, cli: Cli) -> None:
    assert cli("changes", url=site.url).stdout == b"no run with --history has ended here yet\n"
    assert cli("changes", "--json", url=site.url).stdout == b""
    site.load(asset("k1"))
    assert b"no changes\n" in cli("changes", "--kind", "retired", url=site.url).stdout


def test_a_run_that_was_killed_is_shown_once_it_was_resumed(site: Site, cli: Cli, home: Path) -> None:
    site.load(asset("k0"), retire=False)
    index = site.write(*(asset(f"k{number}") for number in range(3_000)))
    command = ["load", index, "--history", "--batch-size", "5", "--concurrency", "1", "--quiet"]
    environment = {"PATH": os.environ["PATH"], "SEED_REGISTRY_HOME": str(home), "DATABASE_URL": site.url.reveal}
    with subprocess.Popen(  # nothing else happens meanwhile
        [sys.executable, "-m", "seed_registry", *command], env=environment, stdout=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 60
        while (ask(site.url, "select count(*) from seed_registry.changes"))[0][0] < 20:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    ((run_id, made),) = ask(
        site.url, "select run_id, count(*) from seed_registry.changes where asset_key is not null group by 1"
    )
    assert 0 < made < 2_999
    assert len(parsed(cli("changes", "--json", url=site.url).stdout)) == 3, "the first load's"
    refused = cli("changes", run_id, url=site.url)
    assert refused.returncode == 2
    assert b"has not ended" in refused.stderr
    assert b"the same command resumes it" in refused.stderr
    done = cli(*command, url=site.url)
    assert done.returncode == 0, done.stderr
    found = parsed(cli("changes", run_id, "--json", url=site.url).stdout)
    assert sorted(one["asset_key"] for one in found) == sorted(f"k{number}" for number in range(1, 3_000))
    assert len({one["at"] for one in found}) == 1


def test_two_runs_that_end_at_once_have_moments_of_their_own(site: Site) -> None:
    site.load(asset("k0"), retire=False)
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda number: site.load(asset(f"k{number}"), retire=False), range(1, 4)))
    ends = ask(site.url, "select ended_at from seed_registry.change_sets")
    assert len(set(ends)) == 4
    found = read_all(site.url)
    assert found == sorted(found, key=lambda change: change.cursor)
    assert {change.asset_key for change in found} == {None, "k1", "k2", "k3"}


def read_all(url: DatabaseUrl) -> list[Change]:
    async def read() -> list[Change]:
        async with session(url) as connection:
            return [change async for change in read_feed(connection, FeedFilter())]

    return asyncio.run(read())


@pytest.fixture(scope="module")
def crowded(workshop_url: DatabaseUrl) -> DatabaseUrl:
    """Twelve sets of seven runs, whose changes were made in turn, so that no id says whose it is."""
    from seed_registry.registry import ddl  # noqa: PLC0415

    async def fill() -> None:
        connection = await asyncpg.connect(workshop_url.reveal)
        await ddl.apply(connection)
        await connection.execute(
            """
            insert into seed_registry.changes (run_id, relation, kind, key, source_key, asset_key, fields, before)
            select 'run' || number % 7, 'assets', (array['inserted', 'updated', 'retired'])[1 + number % 3],
              array['k' || number], 's' || number % 4, 'k' || number, '{}',
              case when number % 3 > 0 then jsonb_build_object('name', repeat('x', number % 11 * 100)) end
            from generate_series(1, 200) as number;
            insert into seed_registry.change_sets (run_id, first_id, last_id, ended_at)
            select 'run' || number % 7, case when number in (5, 6) or number < 5 then 1 else 101 end,
              case when number < 5 then 100 else 201 end,
              timestamptz '2026-11-28 00:00Z' + (number * 5 % 12) * interval '1 second'
            from generate_series(0, 11) as number;
            """
        )
        await connection.close()

    asyncio.run(fill())
    return workshop_url


@given(
    limits=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    source=st.none() | st.sampled_from(["s0", "s3", "other"]),
    kinds=st.sets(st.sampled_from(["inserted", "updated", "retired"])),
    since=st.none() | st.integers(-1, 13),
    rows=st.integers(1, 9),
    size=st.sampled_from([1, 700, 1 << 20]),
)
@hypothesis_settings(max_examples=30, deadline=None)
def test_whatever_the_pages_a_reader_that_stops_and_goes_on_reads_the_whole_feed(
    crowded: DatabaseUrl,
    limits: list[int],
    source: str | None,
    kinds: set[str],
    since: int | None,
    rows: int,
    size: int,
) -> None:
    start = None if since is None else datetime(2026, 11, 28, tzinfo=UTC) + timedelta(seconds=since)
    wanted = FeedFilter(since=start, source=source, kinds=tuple(kinds))

    async def read() -> tuple[list[Change], list[Change]]:
        async with session(crowded) as connection:
            whole = [change async for change in read_feed(connection, wanted)]
            parts: list[Change] = []
            while True:
                after = parts[-1].cursor if parts else None
                limit, before = limits[len(parts) % len(limits)], len(parts)
                again = FeedFilter(since=start, after=after, source=source, kinds=tuple(kinds))
                async with aclosing(read_feed(connection, again)) as changes:
                    async for change in changes:
                        parts.append(change)
                        if len(parts) - before == limit:
                            break
                if len(parts) == before:
                    return whole, parts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "_PAGE_ROWS", rows)
        patch.setattr(feed, "_PAGE_BYTES", size)
        whole, parts = asyncio.run(read())
    assert parts == whole
    assert whole == sorted(whole, key=lambda change: change.cursor)
    query = """
        select count(*) from seed_registry.changes
        where ($1::text is null or source_key = $1) and ($2::text[] is null or kind = any($2))
        """
    ((expected,),) = ask(crowded, query, source, sorted(kinds) or None)
    assert len(whole) == expected or (start is not None and len(whole) <= expected)


def test_a_page_is_limited_by_bytes_whatever_is_compressed(
    database_url: DatabaseUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(
        database_url,
        """
        insert into seed_registry.changes (run_id, relation, kind, key, asset_key, fields, before)
        select 'r', 'assets', 'updated', array['k' || n], 'k' || n, '{name}',
          pg_catalog.jsonb_build_object('name', pg_catalog.repeat('x', 1000000))
        from pg_catalog.generate_series(1, 9) as n
        """,
    )
    ask(database_url, "insert into seed_registry.change_sets values ('r', 1, 9, pg_catalog.now())")
    pages: list[int] = []
    original = feed._page

    async def counted(*arguments: Any) -> Any:
        found = await original(*arguments)
        pages.append(len(found))
        return found

    monkeypatch.setattr(feed, "_page", counted)
    assert len(read_all(database_url)) == 9
    assert pages == [5, 4, 0], "of 4 MiB; each change is small on disk"


def test_a_reader_whose_cursor_lies_before_pruned_changes_is_not_led_on(site: Site, cli: Cli) -> None:
    site.load(asset("k1"))
    cursor = parsed(cli("changes", "--json", "--limit", 1, url=site.url).stdout)[0]["cursor"]
    second = site.load(asset("k1", name="x"))
    third = site.load(asset("k1", name="y"))
    site.prune(second)
    refused = cli("changes", "--json", "--after", cursor, url=site.url)
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert f"those of run {second.run_id}" in refused.stderr.decode()
    since = refused.stderr.decode().partition("--since ")[2].split()[0]
    found = parsed(cli("changes", "--json", "--since", since, url=site.url).stdout)
    assert {one["run_id"] for one in found} == {third.run_id}
    later = cli("changes", "--json", "--after", found[-1]["cursor"], url=site.url)
    assert (later.returncode, later.stdout) == (0, b"")


def test_a_reader_whose_run_is_pruned_under_it_gets_an_error(site: Site) -> None:
    site.load(asset("k0"))
    run = site.load(*(asset(f"k{number}") for number in range(9)))

    async def read() -> None:
        async with session(site.url) as connection, session(site.url) as other:
            changes = read_feed(connection, FeedFilter(run.run_id))
            await anext(changes)
            await prune(other, run.run_id)
            async for _ in changes:
                pass

    with pytest.raises(DatabaseRefused, match="were pruned while they were read"):
        asyncio.run(read())


def test_a_run_that_has_no_changes_to_show_is_an_error_that_says_why(site: Site, cli: Cli) -> None:
    without = site.load(asset("k1"), history=False)
    pruned = site.load(asset("k2"))
    idle = site.load(asset("k2"))
    site.prune(pruned)
    for run, words in (
        ("none", "there is no run none in the ledger; `seed-registry runs` lists them"),
        (without.run_id, "it was not loaded with --history"),
        (pruned.run_id, "were deleted by `seed-registry changes prune`"),
    ):
        for flags in ((), ("--json",)):
            done = cli("changes", run, *flags, url=site.url)
            assert (done.returncode, done.stdout) == (2, b"")
            assert words in done.stderr.decode()
            if run != "none":
                assert cli("runs", run, url=site.url).returncode == 0
    assert b"no changes" in cli("changes", idle.run_id, url=site.url).stdout


def test_without_the_tables_the_error_names_the_upgrade(site: Site, cli: Cli) -> None:
    site.load(asset("k1"))
    ask(site.url, "drop table seed_registry.changes, seed_registry.created, seed_registry.change_sets")
    ask(site.url, "alter table seed_registry.runs drop column history, drop column undoes")
    for command in (("changes",), ("history", "k1"), ("diff", "a", "b"), ("changes", "prune", "--older-than", "1d")):
        done = cli(*command, url=site.url)
        assert (done.returncode, done.stdout) == (1, b""), command
        assert "`seed-registry schema upgrade`" in done.stderr.decode()
    assert cli("runs", url=site.url).returncode == 0
    assert cli("schema", "upgrade", "--yes", url=site.url).returncode == 0
    assert cli("changes", url=site.url).returncode == 0


def test_a_role_that_may_only_read_needs_two_grants(site: Site, cli: Cli) -> None:
    report = site.load(asset("k1"))
    later = site.load(asset("k1", name="x"))
    parts = site.url.reveal.partition("@")
    reader = DatabaseUrl(f"postgresql://only_reads{parts[1]}{parts[2]}")
    ask(site.url, "create role only_reads login")
    try:
        ask(site.url, "grant usage on schema registry to only_reads")
        ask(site.url, "grant select on all tables in schema registry to only_reads")
        refused = cli("changes", url=reader)
        assert (refused.returncode, refused.stdout) == (1, b"")
        for statement in refused.stderr.decode().partition("run: ")[2].strip().split(";")[:-1]:
            ask(site.url, statement)
        for command in (("changes",), ("history", "k1"), ("diff", report.run_id, later.run_id)):
            done = cli(*command, url=reader)
            assert done.returncode == 0, done.stderr
        refused = cli("changes", "prune", "--older-than", "0d", "--yes", url=reader)
        assert refused.returncode == 1
        assert b"may not delete changes" in refused.stderr
    finally:
        ask(site.url, "drop owned by only_reads")
        ask(site.url, "drop role only_reads")


def test_a_closed_pipe_ends_it_quietly(site: Site, home: Path) -> None:
    site.load(asset("k0"))
    site.load(*(asset(f"k{number}") for number in range(2_000)), batch_size=2_000)
    environment = {"PATH": os.environ["PATH"], "SEED_REGISTRY_HOME": str(home), "DATABASE_URL": site.url.reveal}
    command = f"{sys.executable} -m seed_registry changes --json | head -n 1"
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, check=False, timeout=60)
    assert len(parsed(done.stdout)) == 1
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ('{"n": 1.00, "big": 1e999, "t": "a\\u0000\u2028\U0001f600\x7f"}', None),
        ('{"a":\n\t[1,\r\n 2]}', '{"a":  [1,   2]}'),
        ("no JSON \x1b[31m", '"no JSON \\u001b[31m"'),
        ('"a" "b"', '"\\"a\\" \\"b\\""'),
        ("[" * 100_000, json.dumps("[" * 100_000)),
    ],
)
def test_a_document_is_printed_as_it_is_in_one_line_of_ascii(raw: str, shown: str | None) -> None:
    before = json.dumps({"raw": raw, "name": "\x1b", "content_hash": "ff"})
    change = Change(1, "r", "assets", "updated", 1, "p", "s\u202e", "k", ["raw"], before, NOW)
    line = change_line(change)
    assert line.isascii()
    assert line.isprintable()
    if shown is None:
        shown = '{"n": 1.00, "big": 1e999, "t": "a\\u0000\\u2028\\ud83d\\ude00\\u007f"}'
    assert f'"before":{{"raw":{shown},"name":"\\u001b"}},"at":' in line
    assert json.loads(line)["source_key"] == "s\u202e"


@given(st.datetimes(timezones=st.just(UTC), min_value=datetime(1800, 1, 1)), st.integers(0, (1 << 63) - 1))  # noqa: DTZ001
def test_a_cursor_is_read_as_it_was_printed(moment: datetime, id_: int) -> None:
    cursor = Cursor(moment, id_)
    assert Cursor.parse(str(cursor)) == cursor
    assert len(str(cursor)) < 30


@given(st.text(max_size=30) | st.integers(0, 24).map(lambda length: str(Cursor(NOW, 7))[:length]))
def test_what_is_no_cursor_is_a_usage_error(text: str) -> None:
    with pytest.raises(SettingsInvalid, match="--after takes a cursor"):
        Cursor.parse(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("24h", NOW - timedelta(hours=24)),
        (" 1.5D ", NOW - timedelta(hours=36)),
        ("2w", NOW - timedelta(weeks=2)),
        ("0s", NOW),
        ("2026-11-28", datetime(2026, 11, 28, tzinfo=UTC)),
        ("2026-11-28T08:30", datetime(2026, 11, 28, 8, 30, tzinfo=UTC)),
        ("2026-11-28T08:30Z", datetime(2026, 11, 28, 8, 30, tzinfo=UTC)),
        ("2026-11-28 08:30+02:00", datetime(2026, 11, 28, 6, 30, tzinfo=UTC)),
    ],
)
def test_since_is_a_moment_in_utc_or_a_time_ago(text: str, moment: datetime) -> None:
    assert parse_moment(text, NOW, "--since") == moment


@pytest.mark.parametrize("text", ["", "yesterday", "24", "h", "-1h", "٣h", "999999999w", "0001-01-01T00:00+14:00"])
def test_what_is_no_moment_is_a_usage_error(text: str) -> None:
    with pytest.raises(SettingsInvalid, match=r"^--since"):
        parse_moment(text, NOW, "--since")


def test_a_duration_names_its_unit() -> None:
    assert parse_duration("90d", "--older-than") == timedelta(days=90)
    with pytest.raises(SettingsInvalid, match="--older-than takes a duration"):
        parse_duration("90", "--older-than")


def test_the_settings_of_a_command_of_two_words_lie_below_those_of_the_first(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "seed-registry.toml").write_text('[changes]\npooler = "none"\n[changes.prune]\nolder-than = "9d"\n')
    found = json.loads(cli("config", "show", "changes", "prune", "--json").stdout)
    values = {one["option"]: one["value"] for one in found["settings"]}
    assert (values["pooler"], values["older-than"]) == ("none", "9d")
    found = json.loads(cli("config", "show", "changes", "--json").stdout)
    assert "older-than" not in {one["option"] for one in found["settings"]}
