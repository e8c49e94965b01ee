"""Loads rejects again, after a fix of the table, of the settings, or of this program.

A record of a rejects file may be older than the rows loaded since, so only newer ones are written, see `only_newer`.
The file that is replayed is not changed, and the next load of an index writes what its portal says by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from pathlib import Path

from seed_registry.errors import SettingsInvalid
from seed_registry.index.inputs import IndexRef
from seed_registry.index.reader import IndexReader
from seed_registry.load.context import RunContext
from seed_registry.load.only_newer import OnlyNewerWriter
from seed_registry.rejects.reader import RejectsIndex
from seed_registry.rejects.replay_source import RelocatedRejects, read_rejects
from seed_registry.rejects.writer import RejectsFile
from seed_registry.report import Progress, Stages
from seed_registry.settings import Settings


@contextmanager
def replay_contexts(path: str, settings: Settings, progress: Progress) -> Iterator[Callable[[], RunContext]]:
    """What makes runs whose only index is a rejects file.

    Raises:
        IndexUnreadable: it cannot be opened, is empty, or cannot be read at any place: a pipe, a packed file.
        SettingsInvalid: it would be its own rejects file.
    """
    with RejectsIndex(path, settings.max_record_bytes) as origins:
        if settings.rejects is not None and origins.is_file(Path(settings.rejects)):
            raise SettingsInvalid("--rejects names the file that is replayed: name another, or leave it out")
        yield partial(_replay_context, origins, settings, progress)


def _replay_context(origins: RejectsIndex, settings: Settings, progress: Progress) -> RunContext:

    def open_index(
        index: IndexRef, settings: Settings, *, salt: str, stages: Stages
    ) -> AbstractAsyncContextManager[IndexReader]:
        del index
        return read_rejects(origins, settings, salt=salt, stages=stages)

    def new_rejects_file(path: Path, *, own_directory: bool = False) -> RejectsFile:
        return RelocatedRejects(RejectsFile(path, own_directory=own_directory), origins)

    return RunContext(
        [origins.index],
        settings,
        progress,
        open_index=open_index,
        new_rejects_file=new_rejects_file,
        wrap_writer=OnlyNewerWriter,
        is_replay=True,
    )
