"""What tells one database from another."""

from __future__ import annotations

import secrets
from typing import Any

import asyncpg
import pytest

from seed_registry.postgres.identity import fingerprint, is_same_database
from seed_registry.settings import DatabaseUrl

pytestmark = pytest.mark.anyio


async def _of(url: DatabaseUrl) -> str:
    connection = await asyncpg.connect(url.reveal)
    try:
        return await fingerprint(connection)
    finally:
        await connection.close()


async def test_sessions_of_one_database_have_one_fingerprint_and_those_of_another_one_have_another(
    database_url: DatabaseUrl, bare_database_url: DatabaseUrl
) -> None:
    assert is_same_database(await _of(database_url), await _of(database_url))
    assert not is_same_database(await _of(database_url), await _of(bare_database_url))
    assert not is_same_database(await _of(database_url), f"{await _of(database_url)}/standby")
    assert not is_same_database(await _of(database_url), f"1{await _of(database_url)}")


async def test_the_fingerprint_of_a_role_that_may_not_ask_for_the_servers_identifier_is_the_same(
    plain_connection: asyncpg.Connection[Any],
) -> None:
    role, own = f"powerless_{secrets.token_hex(4)}", await fingerprint(plain_connection)
    await plain_connection.execute(f"create role {role}")
    await plain_connection.execute("revoke execute on function pg_control_system() from public")
    await plain_connection.execute(f"set role {role}")
    try:
        without = await fingerprint(plain_connection)
        assert without == f"/{own.partition('/')[2]}"
        assert is_same_database(without, own)
        assert is_same_database(own, without)
    finally:
        await plain_connection.execute(f"reset role; drop role {role}")
