"""The shards of a run in the ledger: what its processes share, so that each of them may be lost at any time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import asyncpg
from msgspec import Struct

from seed_registry.errors import CommitsLost
from seed_registry.ledger.checkpoints import SHARD_TABLES
from seed_registry.ledger.shard_checkpoints import REPEATS, ShardTaken
from seed_registry.ledger.shard_listed import ListedStore
from seed_registry.postgres.sql_files import statement
from seed_registry.spill import PARTS

# Workers stop when their coordinator was last at work this long ago, by the server's clock.
SECONDS_OF_ABSENCE: Final = 60
# A worker that has shown nothing for this long is taken for lost, in what people see.
SECONDS_OF_SILENCE: Final = 5
# In place of a hash: all of a part is settled.
FINISHED: Final = (1 << 63) - 1
_REJECTS_AT_ONCE: Final = 500
_BYTES_AT_ONCE: Final = 8 << 20
_BEFORE_ALL: Final = (-(1 << 63), "", -1, -1, -1)

Connection: TypeAlias = "asyncpg.Connection[Any]"


class ShardRow(Struct, frozen=True):
    """A row of `seed_registry.shards`.

    Attributes:
        index, number: the positions of the index in the run, and of the shard in the index.
        name: of the index.
        first, last: bytes of the file on disk.
        shard: what reads it; `scanned` and `loaded` what was found; all three encoded by `shards.facts`.
        line: its first one; known when all shards of the index are scanned.
        state: planned, scanned or loaded.
    """

    index: int
    number: int
    name: str
    first: int
    last: int
    shard: bytes
    line: int | None = None
    state: str = "planned"
    attempt: int = 0
    worker: str | None = None
    scanned: bytes | None = None
    loaded: bytes | None = None


class ShardProgress(Struct, frozen=True):
    """How far a shard is.

    Attributes:
        counts: those of assets, and the `position` in the shard, as JSON.
        silence: seconds since the worker that loads it was seen; None where none has begun, or it is loaded.
    """

    index: int
    number: int
    name: str
    first: int
    last: int
    state: str
    attempt: int
    worker: str | None
    counts: str | None
    silence: float | None = None

    @property
    def is_at_work(self) -> bool:
        """Whether its worker was seen within the last seconds."""
        return self.silence is not None and self.silence < SECONDS_OF_SILENCE

    @property
    def is_silent(self) -> bool:
        """Whether its worker began to load it, and has not been seen for a minute."""
        return self.silence is not None and self.silence > SECONDS_OF_ABSENCE


class ParkedAsset(Struct, frozen=True):
    """An asset whose key occurs more than once in the run; `asset` is encoded by `shards.facts`."""

    key_hash: int
    key: str
    index: int
    offset: int
    shard: int
    asset: bytes


_COLUMNS: Final = ", ".join(ShardRow.__struct_fields__)


class ShardStore:
    """The tables of one run by shards. Every method is one statement or one transaction, and may be repeated.

    Attributes:
        listed: what its shards list, with `--retire`.
    """

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.listed = ListedStore(run_id)

    async def is_usable(self, connection: Connection) -> bool:
        """Whether this role may write to these tables."""
        row = await connection.fetchrow(statement("ledger/ledger_usable"))
        return row is not None and bool(row["is_current"] and row["has_shards"])

    async def plan(self, connection: Connection, rows: Iterable[ShardRow]) -> None:
        """Enter the shards of the run; those that it has are forgotten, with all that was done for them."""
        async with connection.transaction():
            await self.forget(connection)
            # Only the last run of a key can be resumed.
            for table in SHARD_TABLES:
                await connection.execute(
                    f"delete from seed_registry.{table} as rest "
                    "using seed_registry.runs as run, seed_registry.runs as own "
                    "where rest.run_id = run.run_id and run.key = own.key and own.run_id = $1",
                    self.run_id,
                )
            await self._insert(connection, rows)

    async def _insert(self, connection: Connection, rows: Iterable[ShardRow]) -> None:
        await connection.executemany(
            "insert into seed_registry.shards (run_id, index, number, name, first, last, shard) "
            "values ($1, $2, $3, $4, $5, $6, $7)",
            [(self.run_id, row.index, row.number, row.name, row.first, row.last, row.shard) for row in rows],
        )

    async def forget(self, connection: Connection) -> None:
        """Delete all of the run."""
        for table in SHARD_TABLES:
            await connection.execute(f"delete from seed_registry.{table} where run_id = $1", self.run_id)
        await connection.execute("delete from seed_registry.checkpoints where run_id = $1 and shard <> -1", self.run_id)

    async def shards(self, connection: Connection) -> list[ShardRow]:
        """The shards of the run, in the order of their records."""
        rows = await connection.fetch(
            f"select {_COLUMNS} from seed_registry.shards where run_id = $1 order by index, number", self.run_id
        )
        return [ShardRow(**row) for row in rows]

    async def progress(self, connection: Connection) -> list[ShardProgress]:
        """How far the shards are, for people."""
        rows = await connection.fetch(
            "select index, number, name, first, last, state, attempt, worker, counts::pg_catalog.text as counts, "
            "case when state <> 'loaded' then extract(epoch from pg_catalog.now() - seen_at)::pg_catalog.float8 end "
            "as silence from seed_registry.shards where run_id = $1 order by index, number",
            self.run_id,
        )
        return [ShardProgress(**row) for row in rows]

    async def find(self, connection: Connection, place: tuple[int, int]) -> tuple[ShardRow, bytes | None]:
        """A shard (index, number), and the facts of its index.

        Raises:
            ShardTaken: the run has ended.
        """
        row = await connection.fetchrow(
            f"select {_COLUMNS} from seed_registry.shards where run_id = $1 and index = $2 and number = $3",
            self.run_id,
            *place,
        )
        if row is None:
            raise ShardTaken("this run has ended")
        return ShardRow(**row), await self.facts(connection, place[0])

    async def facts(self, connection: Connection, index: int) -> bytes | None:
        """What is known of an index, by its position."""
        found: bytes | None = await connection.fetchval(
            "select facts from seed_registry.shards where run_id = $1 and index = $2 order by number limit 1",
            self.run_id,
            index,
        )
        return found

    async def save_facts(
        self, connection: Connection, index: int, shards: Mapping[int, tuple[int, bytes]], facts: bytes
    ) -> None:
        """Save what the scan of all shards of an index found: by number the first line and what reads it; the facts."""
        async with connection.transaction():
            await connection.executemany(
                "update seed_registry.shards set line = $4, shard = $5, facts = $6 "
                "where run_id = $1 and index = $2 and number = $3",
                [
                    (self.run_id, index, number, line, shard, facts if number == min(shards) else None)
                    for number, (line, shard) in shards.items()
                ],
            )

    async def replace(self, connection: Connection, index: int, rows: Sequence[ShardRow]) -> None:
        """Replace the shards of an index: those whose `state` is planned are to be scanned again, all others stay."""
        new = [row for row in rows if row.state == "planned"]
        kept = [row.number for row in rows if row.state != "planned"]
        async with connection.transaction():
            for table, column in (("shard_keys", "shard"), ("shards", "number")):
                await connection.execute(
                    f"delete from seed_registry.{table} where run_id = $1 and index = $2 and {column} <> all ($3)",
                    self.run_id,
                    index,
                    kept,
                )
            await self._insert(connection, new)

    # Scan and sieve

    async def mark(self, connection: Connection) -> None:
        """Mark the tables that a crash of the server empties, or a change to a standby, before they are filled."""
        await connection.execute(
            "insert into seed_registry.shard_keys (run_id, part, index, shard, hashes) values ($1, -1, -1, -1, '') "
            "on conflict do nothing",
            self.run_id,
        )

    async def require_mark(self, connection: Connection) -> None:
        """Check that these tables were not emptied; in the transaction that relies on what they hold.

        Raises:
            CommitsLost: they were.
        """
        is_marked = await connection.fetchval(
            "select exists (select from seed_registry.shard_keys where run_id = $1 and part = -1)", self.run_id
        )
        if not is_marked:
            raise CommitsLost(
                "what the processes of this run share is gone: the server crashed, or a standby took over\n"
                "load again: the run goes on from what is there"
            )

    async def save_scan(
        self, connection: Connection, place: tuple[int, int], scanned: bytes, parts: Sequence[bytes]
    ) -> None:
        """Save what the scan of a shard (index, number) found, and the hashes of its keys by part."""
        async with connection.transaction():
            await connection.execute(
                "delete from seed_registry.shard_keys where run_id = $1 and index = $2 and shard = $3",
                self.run_id,
                *place,
            )
            await connection.copy_records_to_table(
                "shard_keys",
                schema_name="seed_registry",
                columns=["run_id", "index", "shard", "part", "hashes"],
                records=[(self.run_id, *place, number, part) for number, part in enumerate(parts) if part],
            )
            await connection.execute(
                "update seed_registry.shards set state = 'scanned', scanned = $4 "
                "where run_id = $1 and index = $2 and number = $3 and state <> 'loaded'",
                self.run_id,
                *place,
                scanned,
            )

    async def count_keys(self, connection: Connection) -> dict[tuple[int, int], int]:
        """How many key hashes of each shard there are: a crash of the server empties their table."""
        rows = await connection.fetch(
            "select index, shard, pg_catalog.sum(pg_catalog.length(hashes))::pg_catalog.int8 / 8 as keys "
            "from seed_registry.shard_keys where run_id = $1 group by index, shard",
            self.run_id,
        )
        return {(row["index"], row["shard"]): row["keys"] for row in rows}

    async def keys(self, connection: Connection, parts: Sequence[int]) -> list[tuple[int, int, int, bytes]]:
        """The hashes of the keys of some parts: part, index and number of the shard, hashes.

        Raises:
            CommitsLost: they are gone.
        """
        async with connection.transaction():
            rows = await connection.fetch(
                "select part, index, shard, hashes from seed_registry.shard_keys where run_id = $1 and part = any ($2) "
                "order by part",
                self.run_id,
                parts,
            )
            await self.require_mark(connection)
        return [tuple(row) for row in rows]

    async def save_repeats(self, connection: Connection, repeats: Sequence[tuple[int, int, int, bytes]]) -> None:
        """Save the hashes that occur more than once, by index, shard and part."""
        columns = [list(column) for column in zip(*repeats, strict=True)] or [[], [], [], []]
        await connection.execute(statement("ledger/shard_repeats"), self.run_id, *columns)

    async def count_repeats(self, connection: Connection) -> tuple[int, int]:
        """How many hashes of keys there are, and how many of them occur more than once."""
        row = await connection.fetchrow(
            "select pg_catalog.sum(bytes) filter (where of = 'keys') / 8, "
            "pg_catalog.sum(bytes) filter (where of = 'repeats') / 8 from ("
            "select 'keys' as of, pg_catalog.length(hashes) as bytes from seed_registry.shard_keys where run_id = $1 "
            "union all select 'repeats', pg_catalog.length(hashes) from seed_registry.shard_repeats where run_id = $1"
            ") as counted",
            self.run_id,
        )
        assert row is not None
        return int(row[0] or 0), int(row[1] or 0)

    async def repeats(self, connection: Connection, place: tuple[int, int]) -> list[bytes]:
        """The hashes of the repeated keys of a shard (index, number)."""
        async with connection.transaction():
            rows = await connection.fetch(
                "select hashes from seed_registry.shard_repeats where run_id = $1 and index = $2 and shard = $3",
                self.run_id,
                *place,
            )
            await self.require_mark(connection)
        return [row["hashes"] for row in rows]

    # Load and settle

    async def claim(self, connection: Connection, place: tuple[int, int], worker: str) -> int:
        """Begin an attempt to load a shard (index, number), in a transaction of the caller's; returns its number.

        Raises:
            ShardTaken: the run has no such shard any more.
        """
        attempt = await connection.fetchval(
            "update seed_registry.shards set attempt = attempt + 1, worker = $4, seen_at = pg_catalog.now() "
            "where run_id = $1 and index = $2 and number = $3 returning attempt",
            self.run_id,
            *place,
            worker,
        )
        if attempt is None:
            raise ShardTaken("this run has ended")
        return int(attempt)

    async def claim_parts(self, connection: Connection) -> int:
        """The number of a new attempt to settle parts."""
        return 1 + int(
            await connection.fetchval(
                "select coalesce(pg_catalog.max(attempt), 0) from seed_registry.checkpoints "
                "where run_id = $1 and shard = $2",
                self.run_id,
                REPEATS,
            )
        )

    async def show_saving(self, connection: Connection, place: tuple[int, int], attempt: int) -> None:
        """Show that an attempt saves what it found, which takes as long as it takes."""
        await connection.execute(
            "update seed_registry.shards set seen_at = pg_catalog.now() + interval '1 day' "
            "where run_id = $1 and index = $2 and number = $3 and attempt = $4",
            self.run_id,
            *place,
            attempt,
        )

    async def show_progress(
        self,
        connection: Connection,
        place: tuple[int, int],
        attempt: int,
        counts: str,
        rejects: Sequence[tuple[int, int, bytes]] = (),
    ) -> bool:
        """Show how far an attempt is, and rejects of it: number, offset, line.

        Returns:
            Whether the coordinator was seen lately.

        Raises:
            ShardTaken: another attempt has the shard.
        """
        is_led: bool | None = await connection.fetchval(
            "update seed_registry.shards as shard set counts = $5::pg_catalog.text::pg_catalog.jsonb, "
            "seen_at = pg_catalog.now() from seed_registry.runs as run "
            "where shard.run_id = $1 and shard.index = $2 and number = $3 and attempt = $4 and run.run_id = $1 "
            "returning coalesce(pg_catalog.now() - run.seen_at < pg_catalog.make_interval(secs => $6), true)",
            self.run_id,
            *place,
            attempt,
            counts,
            float(SECONDS_OF_ABSENCE),
        )
        if is_led is None:
            raise ShardTaken("another attempt has this shard")
        if rejects:
            await connection.executemany(
                'insert into seed_registry.shard_rejects (run_id, index, shard, number, "offset", line) '
                "values ($1, $2, $3, $4, $5, $6) on conflict do nothing",
                [(self.run_id, *place, *reject) for reject in rejects],
            )
        return is_led

    async def is_loaded(self, connection: Connection, place: tuple[int, int], attempt: int) -> bool:
        """Whether this attempt has loaded its shard."""
        return bool(
            await connection.fetchval(
                "select state = 'loaded' from seed_registry.shards "
                "where run_id = $1 and index = $2 and number = $3 and attempt = $4",
                self.run_id,
                *place,
                attempt,
            )
        )

    async def finish(
        self,
        connection: Connection,
        place: tuple[int, int],
        attempt: int,
        loaded: bytes,
        counts: str,
    ) -> None:
        """Note that a shard is loaded; in a transaction of the caller's.

        Raises:
            ShardTaken: another attempt has it.
        """
        done = await connection.execute(
            "update seed_registry.shards set state = 'loaded', loaded = $5, "
            "counts = $6::pg_catalog.text::pg_catalog.jsonb, seen_at = pg_catalog.now() "
            "where run_id = $1 and index = $2 and number = $3 and attempt = $4",
            self.run_id,
            *place,
            attempt,
            loaded,
            counts,
        )
        if done != "UPDATE 1":
            raise ShardTaken("another attempt has this shard")

    async def save_rejects(
        self, connection: Connection, place: tuple[int, int], rejects: Iterable[tuple[int, bytes]]
    ) -> None:
        """Save the rejects of a shard in place of those of earlier attempts: offset, line of the rejects file."""
        await connection.execute(
            "delete from seed_registry.shard_rejects where run_id = $1 and index = $2 and shard = $3",
            self.run_id,
            *place,
        )
        for batch in _divided((self.run_id, *place, number, *reject) for number, reject in enumerate(rejects)):
            await connection.copy_records_to_table(
                "shard_rejects",
                schema_name="seed_registry",
                columns=["run_id", "index", "shard", "number", "offset", "line"],
                records=batch,
            )

    async def add_rejects_of_part(
        self, connection: Connection, part: int, rejects: Iterable[tuple[int, int, bytes]]
    ) -> None:
        """Add rejects among the repeated keys of a part, unless it has them: index, offset, line."""
        async with connection.transaction():
            await connection.executemany(
                'insert into seed_registry.shard_rejects (run_id, index, shard, number, "offset", line) '
                "select $1, $2, $3, (select pg_catalog.count(*) from seed_registry.shard_rejects "
                "where run_id = $1 and index = $2 and shard = $3), $4, $5 where not exists ("
                "select from seed_registry.shard_rejects "
                'where run_id = $1 and index = $2 and shard = $3 and "offset" = $4 and line = $5)',
                [(self.run_id, index, REPEATS - part, offset, line) for index, offset, line in rejects],
            )

    async def count_rejects_of_parts(self, connection: Connection) -> dict[int, int]:
        """How many records of repeated keys were rejected when they were settled, by index."""
        rows = await connection.fetch(
            "select index, pg_catalog.count(*) as rejects from seed_registry.shard_rejects "
            "where run_id = $1 and shard <= $2 group by index",
            self.run_id,
            REPEATS,
        )
        return {row["index"]: row["rejects"] for row in rows}

    async def rejects(
        self, connection: Connection, after: tuple[int, int, int, int]
    ) -> list[tuple[tuple[int, int, int, int], bytes]]:
        """The next rejects of the run, some megabytes, in the order of their records: place, line.

        A place is index, offset, shard and number.
        """
        rows = await connection.fetch(
            'select index, "offset", shard, number, line from (select *, '
            "pg_catalog.sum(pg_catalog.octet_length(line)) over (rows unbounded preceding) "
            "- pg_catalog.octet_length(line) as before from ("
            'select index, "offset", shard, number, line from seed_registry.shard_rejects where run_id = $1 '
            'and (index, "offset", shard, number) > ($2, $3, $4, $5) '
            'order by index, "offset", shard, number limit $6) as next) as sized where before < $7 '
            'order by index, "offset", shard, number',
            self.run_id,
            *after,
            _REJECTS_AT_ONCE,
            _BYTES_AT_ONCE,
        )
        return [((index, offset, shard, number), line) for index, offset, shard, number, line in rows]

    async def park(
        self, connection: Connection, place: tuple[int, int], assets: Iterable[tuple[int, int, str, bytes]]
    ) -> None:
        """Add parked assets of a shard: key hash (signed), offset, key, asset; in a transaction of the caller's."""
        index, shard = place
        await connection.copy_records_to_table(
            "parked",
            schema_name="seed_registry",
            columns=["run_id", "part", "key_hash", "key", "index", "offset", "shard", "asset"],
            records=[
                (self.run_id, key_hash & (PARTS - 1), key_hash, key, index, offset, shard, asset)
                for key_hash, offset, key, asset in assets
            ],
        )

    async def unpark(self, connection: Connection, place: tuple[int, int]) -> None:
        """Delete what earlier attempts parked of a shard."""
        await connection.execute(
            "delete from seed_registry.parked where run_id = $1 and index = $2 and shard = $3", self.run_id, *place
        )

    async def count_parked(self, connection: Connection) -> dict[tuple[int, int], int]:
        """How many assets of each shard are parked: a crash of the server empties their table."""
        rows = await connection.fetch(
            "select index, shard, pg_catalog.count(*) as assets from seed_registry.parked where run_id = $1 "
            "group by index, shard",
            self.run_id,
        )
        return {(row["index"], row["shard"]): row["assets"] for row in rows}

    async def count_parts(self, connection: Connection) -> dict[int, int]:
        """How many assets of each part are parked, of the parts that have any."""
        rows = await connection.fetch(
            "select part, pg_catalog.count(*) as assets from seed_registry.parked where run_id = $1 "
            "group by part order by part",
            self.run_id,
        )
        return {row["part"]: row["assets"] for row in rows}

    async def parked(
        self, connection: Connection, part: int, after: ParkedAsset | None, limit: int, max_bytes: int
    ) -> list[ParkedAsset]:
        """The next parked assets of a part, those of a key together in their order.

        Not more than `limit`, and none behind the one with which they have `max_bytes`.
        """
        place = (after.key_hash, after.key, after.index, after.offset, after.shard) if after else _BEFORE_ALL
        await self.require_mark(connection)
        rows = await connection.fetch(
            'select key_hash, key, index, "offset", shard, asset from (select *, '
            "pg_catalog.sum(pg_catalog.octet_length(asset)) over (rows unbounded preceding) "
            "- pg_catalog.octet_length(asset) as before from ("
            'select key_hash, key, index, "offset", shard, asset from seed_registry.parked '
            'where run_id = $1 and part = $2 and (key_hash, key, index, "offset", shard) > ($3, $4, $5, $6, $7) '
            'order by key_hash, key, index, "offset", shard limit $8) as next) as sized where before < $9 '
            'order by key_hash, key, index, "offset", shard',
            self.run_id,
            part,
            *place,
            limit,
            max_bytes,
        )
        return [ParkedAsset(*row) for row in rows]

    async def settled_parts(self, connection: Connection) -> set[int]:
        """The parts whose repeated keys are all written."""
        rows = await connection.fetch(
            "select lane from seed_registry.checkpoints where run_id = $1 and shard = $2 "
            'group by lane having pg_catalog.min("offset") = $3',
            self.run_id,
            REPEATS,
            FINISHED,
        )
        return {row["lane"] for row in rows}

    async def finish_parts(self, connection: Connection, parts: Sequence[int], attempt: int) -> None:
        """Note that these parts are settled; in a transaction of the caller's.

        Raises:
            ShardTaken: another attempt has one.
        """
        await connection.execute(
            'update seed_registry.checkpoints set "offset" = $4 '
            "where run_id = $1 and shard = $2 and lane = any ($3) and attempt = $5",
            self.run_id,
            REPEATS,
            parts,
            FINISHED,
            attempt,
        )
        if not set(parts) <= await self.settled_parts(connection):
            raise ShardTaken("another attempt settles these keys")

    # A cluster

    async def save_job(self, connection: Connection, version: str, job: bytes) -> None:
        """Save what the workers of a cluster need to know of the run, and the version of this program."""
        await connection.execute(
            "insert into seed_registry.shard_jobs (run_id, version, job) values ($1, $2, $3) "
            "on conflict (run_id) do update set version = excluded.version, job = excluded.job",
            self.run_id,
            version,
            job,
        )

    async def job(self, connection: Connection) -> tuple[str, bytes] | None:
        """What `save_job` has saved; None when the run has ended, or is another database's."""
        if await connection.fetchval("select pg_catalog.to_regclass('seed_registry.shard_jobs') is null"):
            return None
        row = await connection.fetchrow(
            "select version, job from seed_registry.shard_jobs where run_id = $1", self.run_id
        )
        return (row["version"], row["job"]) if row is not None else None

    # The coordinator

    async def release(self, connection: Connection) -> None:
        """Forget the workers of shards that are not loaded: they were those of an earlier coordinator."""
        await connection.execute(
            "update seed_registry.shards set worker = null, seen_at = null where run_id = $1 and state <> 'loaded'",
            self.run_id,
        )

    async def announce(self, connection: Connection) -> None:
        """Show the workers that the coordinator is at work."""
        await connection.execute(
            "update seed_registry.runs set seen_at = pg_catalog.now() where run_id = $1", self.run_id
        )

    async def fence(self, connection: Connection) -> None:
        """Let no attempt commit any more that has begun by now, and no worker of a cluster begin one."""
        async with connection.transaction():
            await connection.execute("delete from seed_registry.shard_jobs where run_id = $1", self.run_id)
            await connection.execute(
                "update seed_registry.shards set attempt = attempt + 1 where run_id = $1 and state <> 'loaded'",
                self.run_id,
            )
            await connection.execute(
                "update seed_registry.checkpoints set attempt = attempt + 1 where run_id = $1 and shard <> -1",
                self.run_id,
            )

    async def set_state(self, connection: Connection, places: Sequence[tuple[int, int]], state: str) -> None:
        """Set shards back to a state: what a crash of the server has emptied is read again."""
        await connection.executemany(
            "update seed_registry.shards set state = $4 where run_id = $1 and index = $2 and number = $3",
            [(self.run_id, *place, state) for place in places],
        )


def _divided(rows: Iterable[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    """Rows, some megabytes at a time; the last value of each is its bytes."""
    batch: list[tuple[Any, ...]] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row[-1])
        if size >= _BYTES_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
