"""A gate in the database: one transaction of a load comes to a known place and waits there, until it is let through."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import asyncpg
from scene import Scene, eventually

from seed_registry.postgres.sql_files import statement
from seed_registry.settings import DatabaseUrl

# Each place: the trigger that stops there, and whether it takes a table that is not empty for the way to lead there.
PLACES = {
    "copy": ("create trigger gate before insert on registry.assets for each row", False),
    "upsert": ("create trigger gate before insert on registry.assets for each row", True),
    "checkpoint": ("create trigger gate before insert on seed_registry.checkpoints for each row", True),
    "commit": (
        "create constraint trigger gate after insert or update on registry.assets initially deferred for each row",
        True,
    ),
}
# What the one who comes in turn waits for. Whoever holds it may crash, and the gate is open.
_LOCK = 4242
_GATE = """
create schema gates;
create sequence gates.turn;
create function gates.wait() returns trigger language plpgsql security definer set search_path = pg_catalog as $$
begin
  if {condition} then
    perform pg_advisory_xact_lock_shared({lock});
  end if;
  return new;
end $$;
"""
_WAITING = f"""
select pid from pg_locks
where locktype = 'advisory' and not granted and objid = {_LOCK}
and database = (select oid from pg_database where datname = current_database())
"""


class Outsider:
    """Somebody else's session, open for as long as the test wants."""

    def __init__(self, url: DatabaseUrl) -> None:
        self._runner = asyncio.Runner()
        self._connection = self._runner.run(asyncpg.connect(url.reveal))
        self._begun: asyncio.Task[Any] | None = None

    def do(self, query: str) -> Any:
        """One statement, and the first value of its answer; several, and nothing."""

        async def done() -> Any:
            if ";" in query:
                return await self._connection.execute(query)
            return await self._connection.fetchval(query)

        return self._runner.run(done())

    def begin(self, query: str) -> None:
        """Send a statement that will have to wait, and do not."""

        async def begun() -> None:
            self._begun = asyncio.ensure_future(self._connection.execute(query))
            await asyncio.sleep(0.05)  # until it is sent

        self._runner.run(begun())

    def wait(self) -> None:
        """For the end of what was begun."""

        async def ended() -> None:
            assert self._begun is not None
            await self._begun

        self._runner.run(ended())

    def close(self) -> None:
        """End the session, which may have ended by itself."""

        async def closed() -> None:
            self._connection.terminate()
            await asyncio.sleep(0)

        self._runner.run(closed())
        self._runner.close()


class Gate:
    """At its place the `number`-th row to come waits; with a `key` the first one that has it."""

    def __init__(self, scene: Scene, place: str, number: int = 1, key: str = "") -> None:
        self._scene = scene
        trigger, is_not_for_straight = PLACES[place]
        if is_not_for_straight:
            occupy(scene, [scene.model.places[-1][1]])
        keep_ledger(scene)
        self._holder = Outsider(scene.url)
        has_key = f"new.asset_key = '{key}' and " if key else ""
        self._holder.do(_GATE.format(condition=f"{has_key}nextval('gates.turn') = {number}", lock=_LOCK))
        self._holder.do(f"{trigger} execute function gates.wait();")
        self._holder.do(f"select pg_advisory_lock({_LOCK});")

    def arrived(self, process: subprocess.Popen[bytes]) -> int:
        """The server process of the one who waits, once there is one."""

        def there() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"it ended before it came to the gate: {process.communicate()[1]!r}")
            return bool(self._scene.fetch(_WAITING))

        try:
            eventually(there)
        except BaseException:
            if process.poll() is None:
                process.kill()
                process.communicate()
            raise
        pid: int = self._scene.ask(_WAITING)
        return pid

    def open(self) -> None:
        """Let it through."""
        self._holder.do(f"select pg_advisory_unlock({_LOCK});")


@contextmanager
def gate(scene: Scene, place: str, number: int = 1, key: str = "") -> Iterator[Gate]:
    """A gate that is open at the end."""
    made = Gate(scene, place, number, key)
    try:
        yield made
    finally:
        made._holder.close()


@contextmanager
def outsider(url: DatabaseUrl) -> Iterator[Outsider]:
    """A session that is closed at the end."""
    made = Outsider(url)
    try:
        yield made
    finally:
        made.close()


def keep_ledger(scene: Scene) -> None:
    """Create the ledger before the load does."""
    with outsider(scene.url) as other:
        other.do(statement("ledger/ledger"))


def occupy(scene: Scene, keys: Sequence[str]) -> None:
    """Put assets of the index into the registry that differ from it: they will be updated."""
    with outsider(scene.url) as other:
        for key in keys:
            source = scene.model.rows[key][0]
            other.do(
                f"""
                insert into registry.sources (provider, source_key) values ('socrata', '{source}')
                on conflict do nothing;
                insert into registry.assets (asset_key, source_id, name)
                select '{key}', id, 'somebody else''s' from registry.sources where source_key = '{source}';
                """
            )
