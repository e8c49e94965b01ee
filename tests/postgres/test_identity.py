"""What tells one database from another."""

from __future__ import annotations

import secrets
from typing import Any

import asyncpg
import pytest

from seed_registry.postgres.identity import fingerprint
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
    assert await _of(database_url) == await _of(database_url)
    assert await _of(database_url) != await _of(bare_database_url)


async def test_a_role_that_may_not_ask_for_the_servers_identifier_has_one_without_it(
    plain_connection: asyncpg.Connection[Any],
) -> None:
    role, own = f"powerless_{secrets.token_hex(4)}", await fingerprint(plain_connection)
    await plain_connection.execute(f"create role {role}")
    await plain_connection.execute("revoke execute on function pg_control_system() from public")
    await plain_connection.execute(f"set role {role}")
    try:
        assert await fingerprint(plain_connection) == f"/{own.partition('/')[2]}"
    finally:
        await plain_connection.execute(f"reset role; drop role {role}")
