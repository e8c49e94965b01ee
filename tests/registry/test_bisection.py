"""Whose fault it is that the database refuses a record: its own, or that of a table that refuses every record."""
# ruff: noqa: ASYNC240  # small files, and nothing else waits

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seed_registry import DatabaseUrl, Report, Settings, ingest
from seed_registry.errors import DatabaseRefused
from seed_registry.registry.batch import Blame
from seed_registry.registry.bisection import Bisection, merge_bisecting
from seed_registry.registry.probe import ended, lengthened, replaced
from seed_registry.settings import MaxRejects

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]

Connection: TypeAlias = "asyncpg.Connection[Any]"


@pytest.fixture
async def database_url(emptied_url: DatabaseUrl) -> DatabaseUrl:
    """A database with the registry's tables, empty."""
    return emptied_url


def asset(number: int, **fields: Any) -> dict[str, Any]:
    """One of two portals, in turns."""
    key = f"aaaa-{number:04}"
    source = f"data.{'ab'[number % 2]}.org"
    url = f"https://{source}/d/{key}"
    return {"type": "asset", "asset_key": key, "source_key": source, "name": f"N{number}", "url": url, **fields}


def write(directory: Path, *assets: dict[str, Any]) -> str:
    path = directory / "index.ndjson"
    path.write_text("".join(json.dumps(one) + "\n" for one in assets))
    return str(path)


async def load(url: DatabaseUrl, path: str, **options: Any) -> Report:
    usual = {"concurrency": 1, "derive_sources": True, "resume": False, "max_rejects": MaxRejects.parse("99%")}
    options = {**usual, "rejects": f"{path}.rejects", **options}
    return await ingest([path], Settings(database_url=url, **options))


def rejected(path: str) -> dict[str, str]:
    """The SQLSTATE of each reject, by key."""
    lines = [json.loads(line) for line in Path(f"{path}.rejects").read_text().splitlines()]
    return {line["key"]: re.findall(r"SQLSTATE (\w+)", line["detail"])[0] for line in lines}


# What makes a table refuse the one record, and this record; a made-up one is refused, too, by some of them.
FAULTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "a second unique index": (
        "create unique index by_url on registry.assets (url)",
        {"url": "https://data.a.org/d/aaaa-0000"},
        "23505",
    ),
    "a second unique index, by a name": (
        "create unique index by_name on registry.assets (name)",
        {"name": "N0"},
        "23505",
    ),
    "a partial unique index": (
        "create unique index by_url on registry.assets (url) where name is not null",
        {"url": "https://data.a.org/d/aaaa-0000"},
        "23505",
    ),
    "a unique index on an expression": (
        "create unique index by_name on registry.assets (lower(name))",
        {"name": "n0"},
        "23505",
    ),
    "a short text": ("alter table registry.assets alter name type varchar(8)", {"name": "far too long"}, "22001"),
    "a missing text": ("alter table registry.assets alter name set not null", {"name": None}, "23502"),
    "a check over several columns": (
        """alter table registry.assets add check (asset_key ~ '^[a-z0-9]{4}-[a-z0-9]{4}$' and length(name) < 8
           and url like 'https://data.%')""",
        {"name": "far too long"},
        "23514",
    ),
    "a trigger": (
        """create function registry.refuse() returns trigger language plpgsql as $$ begin
             if new.name !~ '^N[0-9]+$' then raise exception 'no such name' using errcode = '22023'; end if;
             return new; end $$;
           create trigger refusing before insert or update on registry.assets
           for each row execute function registry.refuse()""",
        {"name": "another"},
        "22023",
    ),
    "a deferred trigger": (
        """create function registry.refuse() returns trigger language plpgsql as $$ begin
             if new.name !~ '^N[0-9]+$' then raise exception 'no such name' using errcode = '22023'; end if;
             return new; end $$;
           create constraint trigger refusing after insert or update on registry.assets initially deferred
           for each row execute function registry.refuse()""",
        {"name": "another"},
        "22023",
    ),
    "a key of another table": (
        """create table registry.names (name text primary key);
           insert into registry.names select 'N' || number from generate_series(0, 99) as number;
           alter table registry.assets add foreign key (name) references registry.names""",
        {"name": "another"},
        "23503",
    ),
}


@pytest.mark.parametrize(
    "position",
    [1, pytest.param(0, marks=pytest.mark.slow), pytest.param(11, marks=pytest.mark.slow)],
    ids=["second", "first", "last"],
)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.sampled(4)
async def test_a_record_that_a_table_refuses_for_its_own_sake_is_rejected_and_the_others_are_loaded(
    fault: str, position: int, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    ddl, fields, state = FAULTS[fault]
    await execute(database_url, ddl)
    assets = [asset(number) for number in range(11)]
    path = write(tmp_path, *assets[:position], asset(77, **fields), *assets[position:])
    is_race = "unique" in fault and position == 0  # of two the one that comes first is taken
    ways: list[dict[str, Any]] = [{"batch_size": 1}, {"batch_size": 4, "concurrency": 3}, {"batch_size": 500}]
    for options in ways:
        await execute(database_url, "truncate registry.sources cascade")
        report = await load(database_url, path, **options)
        assert (report.assets.inserted, report.assets.rejected) == (11, 1), options
        found = rejected(path)
        assert list(found.values()) == [state]
        assert is_race or options.get("concurrency", 1) > 1 or list(found) == ["aaaa-0077"]
        report = await load(database_url, path, **options)
        assert (report.assets.unchanged, report.assets.rejected) == (11, 1), options


async def test_an_update_that_a_table_refuses_is_rejected_alone(database_url: DatabaseUrl, tmp_path: Path) -> None:
    await execute(database_url, "create unique index by_url on registry.assets (url)")
    await load(database_url, write(tmp_path, *(asset(number) for number in range(6))))
    changed = [asset(number, name="changed") for number in range(5)]
    path = write(tmp_path, asset(5, url="https://data.b.org/d/aaaa-0001"), *changed)
    report = await load(database_url, path)
    assert (report.assets.updated, report.assets.rejected) == (5, 1)
    assert rejected(path) == {"aaaa-0005": "23505"}


RAISE = """create function registry.refuse() returns trigger language plpgsql as
$$ begin raise exception 'not today' using errcode = '22023'; end $$;
create """
ON_ASSETS = " on registry.assets for each row execute function registry.refuse()"
SICKNESSES = {
    "before insert": f"{RAISE} trigger refusing before insert{ON_ASSETS}",
    "after insert": f"{RAISE} trigger refusing after insert{ON_ASSETS}",
    "at the end": f"{RAISE} constraint trigger refusing after insert{ON_ASSETS}".replace(
        " for each", " initially deferred for each"
    ),
    "silently": """create function registry.refuse() returns trigger language plpgsql as 'begin return null; end';
        create trigger refusing before insert"""
    + ON_ASSETS,
    "a check": "alter table registry.assets add check (asset_key is null) not valid",
    "ids that are taken": "alter table registry.assets alter id set generated by default; "
    "alter table registry.assets alter id restart with 1",
    "a table of a trigger": """create table registry.log (number int primary key); insert into registry.log values (1);
        create function registry.note() returns trigger language plpgsql as
        'begin insert into registry.log values (1); return new; end';
        create trigger note after insert or update on registry.assets
        for each row execute function registry.note()""",
}


@pytest.mark.parametrize("has_rows", [pytest.param(False, marks=pytest.mark.slow), True], ids=["empty", "with rows"])
@pytest.mark.parametrize("sickness", SICKNESSES)
@pytest.mark.sampled(3)
async def test_a_table_that_refuses_every_record_stops_the_load_and_rejects_none(
    sickness: str, has_rows: bool, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    if has_rows:
        # more ids than there will be attempts
        await load(database_url, write(tmp_path, *(asset(number) for number in range(5000, 7000))))
    elif sickness == "ids that are taken":
        pytest.skip("there is none")
    await execute(database_url, SICKNESSES[sickness])
    path = write(tmp_path, *(asset(number) for number in range(60)))
    for options in ({"batch_size": 1}, {"batch_size": 25, "concurrency": 3}):
        with pytest.raises(DatabaseRefused, match="refuses every record"):
            await load(database_url, path, **options)
        assert not Path(f"{path}.rejects").exists()


@pytest.mark.parametrize("timing", ["before", "after"])
async def test_a_table_that_refuses_every_update_stops_the_load_and_rejects_none(
    timing: str, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    await load(database_url, write(tmp_path, *(asset(number) for number in range(30))))
    await execute(database_url, f"{RAISE} trigger refusing {timing} update{ON_ASSETS}")
    path = write(tmp_path, *(asset(number, name="changed") for number in range(30)))
    with pytest.raises(DatabaseRefused, match="refuses every record: not today"):
        await load(database_url, path)
    assert not Path(f"{path}.rejects").exists()


async def test_a_few_records_that_an_empty_table_refuses_like_any_made_up_one_are_not_rejected(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    """Nothing tells that it would take any other."""
    await execute(database_url, "alter table registry.assets add check (asset_key ~ '^x')")
    path = write(tmp_path, asset(1), asset(2))
    with pytest.raises(DatabaseRefused, match="refuses every record"):
        await load(database_url, path)
    await execute(database_url, "alter table registry.assets alter name type varchar(1)")
    assert not Path(f"{path}.rejects").exists()


async def test_other_records_of_a_small_index_tell_that_the_table_takes_some(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    """Each is alone in its lane, and the bad ones may well come first."""
    await execute(database_url, "alter table registry.assets add check (asset_key ~ '^x')")
    good = [asset(number, asset_key=f"x{number}") for number in range(2)]
    path = write(tmp_path, *(asset(number) for number in range(8)), *good)
    for _ in range(2):
        report = await load(database_url, path, concurrency=8)
        assert (report.assets.inserted + report.assets.unchanged, report.assets.rejected) == (2, 8)


async def test_a_source_that_is_refused_among_listed_ones_is_rejected_alone(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    await execute(database_url, "create unique index by_url on registry.sources (url)")
    sources = [{"type": "source", "source_key": f"{letter}.org", "url": "https://x.org"} for letter in "ab"]
    path = write(tmp_path, *sources, {"type": "source", "source_key": "c.org"})
    report = await load(database_url, path)
    assert (report.sources.inserted, report.sources.rejected) == (2, 1)


async def execute(url: DatabaseUrl, statements: str) -> None:
    connection = await asyncpg.connect(url.reveal)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()


# --- without a database -------------------------------------------------------------------------------------------


NO = asyncpg.CheckViolationError("no")


class Table:
    """Takes numbers that are not in `bad`."""

    def __init__(self, *bad: int, blame: Blame = Blame.DATABASE_PERHAPS) -> None:
        self.bad, self.blame = set(bad), blame
        self.taken: list[int] = []
        self.rejected: list[int] = []

    async def merge(self, numbers: list[int]) -> bool:
        """All of them or none."""
        if self.bad & set(numbers):
            raise asyncpg.CheckViolationError("no")
        self.taken += numbers
        return True

    def refused(self, number: int, detail: str) -> None:
        """It is this one's fault."""
        assert detail == "no (SQLSTATE 23514)"
        self.rejected.append(number)

    async def probe(self, number: int, reason: Exception) -> Blame:
        """Always the same."""
        assert number in self.bad
        assert isinstance(reason, asyncpg.CheckViolationError)
        return self.blame


@given(bad=st.sets(st.integers(0, 39)))
async def test_every_record_that_is_taken_acquits_the_table_of_those_refused_before(bad: set[int]) -> None:
    table = Table(*bad)
    numbers = list(range(40))
    expected = None
    try:
        await merge_bisecting(numbers, table.merge, table.refused, table.probe)
    except DatabaseRefused as exc:
        expected = exc
    last_taken = max(set(numbers) - bad, default=-1)
    runs = "".join("b" if number in bad else "g" for number in numbers)
    is_suspicious = last_taken < numbers[-1] or "b" * 20 in runs
    assert (expected is not None) is is_suspicious
    if expected is None:
        assert table.rejected == sorted(bad)
        assert table.taken == sorted(set(numbers) - bad)


async def test_twenty_refused_in_turn_are_enough() -> None:
    table = Table(*range(1000))
    with pytest.raises(DatabaseRefused):
        await merge_bisecting(list(range(1000)), table.merge, table.refused, table.probe)
    assert table.rejected == []


async def test_those_of_which_nothing_is_known_are_rejected_at_the_end_if_each_has_its_own_reason() -> None:
    table = Table(1, 2, blame=Blame.RECORD_PERHAPS)
    bisection = Bisection(table.probe, table.refused)
    first, second = await bisection.split([1, 2], NO)
    assert [await bisection.split(first, NO), await bisection.split(second, NO)] == [[], []]
    assert table.rejected == []
    await bisection.settle()
    assert table.rejected == [1, 2]


@pytest.mark.parametrize("disguise", [replaced, ended, lengthened])
@given(text=st.text(max_size=40) | st.from_regex(r"[a-z0-9]{4}-[a-z0-9]{4}", fullmatch=True))
def test_a_disguise_is_of_the_form_of_what_it_hides(disguise: Callable[[str], str], text: str) -> None:
    def form(text: str) -> str:
        return re.sub("[0-9]", "0", re.sub("[a-z]", "a", re.sub("[A-Z]", "A", text)))

    hidden = disguise(text)
    assert form(hidden).startswith(form(text))
    assert len(hidden) - len(text) == (8 if disguise is lengthened else 0)


def test_a_disguise_leaves_the_scheme_of_a_url() -> None:
    assert all(disguise("https://a").startswith("https://") for disguise in (replaced, ended, lengthened))
