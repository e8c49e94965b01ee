"""Load an index by a rival of this program's own way to write.

All strategies are fed by the pipeline of a load: the same reading, decoding, routing by key, batches and sessions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from seed_registry.bench.rivals import RIVALS, InsertWriter
from seed_registry.index.inputs import IndexRef
from seed_registry.index.open import read_index
from seed_registry.load import pipeline
from seed_registry.load.outcomes import OutcomeRecorder
from seed_registry.load.sources import SourceResolver
from seed_registry.postgres.connection import flush, session
from seed_registry.registry.introspection import introspect
from seed_registry.rejects.writer import RejectsFile
from seed_registry.report import Progress, Tally
from seed_registry.settings import Settings


async def load_by_rival(strategy: str, index: str, settings: Settings, progress: Progress) -> None:
    """Load an index by one of `RIVALS`, into the schema and database that the settings name.

    Raises:
        CellImpossible: the strategy cannot load this index.
        SeedRegistryError: as for `ingest`.
    """
    assert settings.database_url is not None
    assert settings.rejects is not None
    rejects = RejectsFile(Path(settings.rejects))
    tally = Tally()
    progress.began(tally)
    async with session(settings.database_url) as connection:
        tables = await introspect(connection, schema=settings.schema)

        @asynccontextmanager
        async def open_writer() -> AsyncIterator[InsertWriter]:
            assert settings.database_url is not None
            async with session(settings.database_url) as connection:
                writer = RIVALS[strategy](connection, tables, settings.schema, tally.stages)
                await writer.prepare()
                yield writer

        async with (
            open_writer() as writer,
            read_index(IndexRef.of(index), settings, salt=tables.salt, stages=tally.stages) as reader,
        ):
            # As little is checked for them as for this program.
            reader.checks.is_strict = connection.get_settings().server_encoding != "UTF8"
            recorder = OutcomeRecorder(settings, tally, progress, rejects)
            recorder.start_index(reader.name, reader.former_key)
            resolver = SourceResolver(
                writer, tally, reader.provider, index=reader.name, max_sources=settings.max_sources
            )
            try:
                await pipeline.run(reader, settings, recorder, resolver, open_writer)
            finally:
                recorder.close()
                recorder.listed_keys.close()
        await flush(connection)
