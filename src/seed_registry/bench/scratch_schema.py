"""A schema of the bench's own with the registry's tables, dropped at the end.

Its name is random and its owner holds an advisory lock on it for as long as it lives: a schema without that lock was
left by a bench that was killed.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import asyncpg

from seed_registry.errors import DatabaseRefused, SeedRegistryError
from seed_registry.postgres.connection import session
from seed_registry.postgres.identifiers import quoted
from seed_registry.registry import ddl
from seed_registry.registry.fields import ASSET_FIELDS, OPTIONAL_FIELDS
from seed_registry.settings import DatabaseUrl

PREFIX: Final = "seed_registry_bench_"
# A server that does not drop a schema within this is lost or stuck.
_DROP_SECONDS: Final = 60

_LOCK: Final = "(pg_catalog.hashtext('seed_registry.bench'), pg_catalog.hashtext($1::text))"
# Loads that were cut off hold their locks until the server notices; no other session should use our tables.
_CUT_OFF: Final = """
select pg_catalog.count(pg_catalog.pg_terminate_backend(holder.pid))
from (
  select distinct lock.pid
  from pg_catalog.pg_locks as lock
  join pg_catalog.pg_class as relation on relation.oid = lock.relation
  join pg_catalog.pg_namespace as namespace on namespace.oid = relation.relnamespace
  where namespace.nspname = $1
    and lock.database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
    and lock.pid <> pg_catalog.pg_backend_pid()
) as holder
"""
# As they were before a share of the assets changed: exactly that share, chosen by its keys, the same one every time.
_REFILL: Final = """
insert into {schema}.sources overriding system value select * from {schema}.prior_sources order by id;
insert into {schema}.assets (name, content_hash, {kept}) overriding system value
select
  case when rank <= share then pg_catalog.concat(name, ' (as it was)') else name end,
  case when rank <= share then '\\x00' else content_hash end,
  {kept}
from (
  select *,
    pg_catalog.row_number() over (order by pg_catalog.md5(asset_key)) as rank,
    pg_catalog.ceil(pg_catalog.count(*) over () * {percent}::numeric / 100) as share
  from {schema}.prior_assets
) as prior
order by id;
"""
_KEPT: Final = ", ".join(
    ("id", "created_at", *(field for field in ASSET_FIELDS if field not in ("provider", "name", "content_hash")))
)
_FINGERPRINT: Final = """
select pg_catalog.count(*)::text || ' assets, '
  || pg_catalog.coalesce(pg_catalog.sum(pg_catalog.hashtextextended(
       pg_catalog.jsonb_build_array(asset_key, {fields})::text, 0)), 0)
from {schema}.assets
""".replace("pg_catalog.coalesce", "coalesce")


class Scratch:
    """The schema `name` and its tables."""

    def __init__(self, connection: asyncpg.Connection[Any], name: str, *, is_embedded: bool) -> None:
        self.name = name
        self._is_embedded = is_embedded
        self._connection = connection
        self._schema = quoted(name)

    async def create(self) -> None:
        """Make the tables; vacuum stays away from them, which would come in the middle of some loads.

        Raises:
            DatabaseRefused: the role may not create schemas.
        """
        await self._connection.execute(f"select pg_catalog.pg_advisory_lock{_LOCK}".replace("$1", f"'{self.name}'"))
        try:
            await ddl.apply(self._connection, self.name, is_embedded=self._is_embedded)
        except asyncpg.InsufficientPrivilegeError as exc:
            raise DatabaseRefused(
                f"{exc.args[0]}\nbench works in a schema of its own: grant create on the database to this role",
                sqlstate=exc.sqlstate,
            ) from exc
        for table in ("sources", "assets"):
            await self._connection.execute(f"alter table {self._schema}.{table} set (autovacuum_enabled = off)")
        await self._connection.execute(f"alter table {self._schema}.assets set (toast.autovacuum_enabled = off)")

    async def empty(self) -> None:
        """Empty the tables."""
        await self._connection.execute(f"truncate {self._schema}.assets, {self._schema}.sources")

    async def keep(self) -> None:
        """Remember what the tables hold, for `refill`."""
        for table in ("sources", "assets"):
            await self._connection.execute(f"create table {self._schema}.prior_{table} as table {self._schema}.{table}")

    async def refill(self, percent: float) -> None:
        """Restore the tables, but `percent` of the assets with another name and content hash."""
        await self.empty()
        await self._connection.execute(_REFILL.format(schema=self._schema, percent=percent, kept=_KEPT))
        # As a registry is that was there for a while: known to the planner, nothing left to be tidied by its readers.
        for table in ("sources", "assets"):
            await self._connection.execute(f"vacuum (analyze) {self._schema}.{table}")

    async def fingerprint(self) -> str:
        """Return a hash of the values that all strategies must leave."""
        found: str = await self._connection.fetchval(
            _FINGERPRINT.format(schema=self._schema, fields=", ".join(OPTIONAL_FIELDS))
        )
        return found


@asynccontextmanager
async def scratch_schema(
    url: DatabaseUrl, connection: asyncpg.Connection[Any], tell: Callable[[str], None]
) -> AsyncIterator[Scratch]:
    """Create a scratch schema, and drop it at the end whatever happens.

    Raises:
        DatabaseRefused: the role may not create schemas.
    """
    scratch = Scratch(connection, PREFIX + secrets.token_hex(4), is_embedded=url.is_embedded)
    try:
        await scratch.create()
        yield scratch
    finally:
        # With another session: ours may be gone, or in the middle of something that was interrupted.
        with anyio.move_on_after(_DROP_SECONDS, shield=True) as scope:
            try:
                async with session(url) as dropping:
                    await dropping.fetchval(_CUT_OFF, scratch.name)
                    await dropping.execute(f"drop schema if exists {quoted(scratch.name)} cascade")
            except SeedRegistryError as exc:
                tell(f"the scratch schema could not be dropped: {exc}")
        if scope.cancelled_caught:
            tell(f'the scratch schema could not be dropped in time; run: drop schema "{scratch.name}" cascade')


async def leftovers(connection: asyncpg.Connection[Any]) -> list[str]:
    """The scratch schemas of benches that were killed."""
    names = await connection.fetch(
        "select nspname::text from pg_catalog.pg_namespace where pg_catalog.starts_with(nspname::text, $1) order by 1",
        PREFIX,
    )
    left = []
    for (name,) in names:
        if await connection.fetchval(f"select pg_catalog.pg_try_advisory_lock{_LOCK}", name):
            await connection.fetchval(f"select pg_catalog.pg_advisory_unlock{_LOCK}", name)
            left.append(name)
    return left
