"""How `raw` is compressed depends on what the server can do."""

from __future__ import annotations

import pytest

from seed_registry.registry import schema
from seed_registry.registry.connecting import session
from seed_registry.settings import DatabaseUrl

pytestmark = pytest.mark.anyio

COMPRESSION = """
select attcompression::text from pg_attribute where attrelid = 'registry.assets'::regclass and attname = 'raw'
"""


async def test_raw_is_compressed_with_lz4_exactly_where_the_server_has_it(bare_database_url: DatabaseUrl) -> None:
    async with session(bare_database_url) as connection:
        await schema.apply(connection)
        choices = await connection.fetchval("select enumvals from pg_settings where name = 'default_toast_compression'")
        assert await connection.fetchval(COMPRESSION) == ("l" if "lz4" in (choices or []) else "")


async def test_a_column_that_is_there_already_keeps_its_compression(bare_database_url: DatabaseUrl) -> None:
    async with session(bare_database_url) as connection:
        await connection.execute(schema.definition())
        await schema.apply(connection)
        assert await connection.fetchval(COMPRESSION) == ""
