"""The job of a run as the workers of a cluster get it: without a secret, through the ledger or the scheduler.

Each worker adds what is secret from its own environment: the URL of the database, and the headers of requests.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from seed_registry import __version__
from seed_registry.errors import ClusterUnavailable, SettingsInvalid
from seed_registry.headers import Header, origin, require_one_origin_each
from seed_registry.index.inputs import IndexRef
from seed_registry.ledger.run_sources import Begin
from seed_registry.postgres.connection import session
from seed_registry.postgres.database_url import choose_url
from seed_registry.postgres.identity import fingerprint, is_same_database
from seed_registry.settings import DatabaseUrl, PoolerName, Settings, parse_headers
from seed_registry.shards.facts import decoded, encoded
from seed_registry.shards.tasks import Job

_URL_VARIABLE: Final = "SEED_REGISTRY_DATABASE_URL"
_HEADER_VARIABLE: Final = "SEED_REGISTRY_HEADER"


class SharedJob(Struct, frozen=True):
    """A `Job` without its secrets.

    Attributes:
        settings: without the URL of the database, headers, and what only the coordinator needs.
        indexes: without their paths.
        paths: of the indexes, absolute; in bytes, for a path need not be a text.
        origins: of all indexes of the run that are URLs, see `headers.origin`.
        first: see `Job`.
    """

    settings: Settings
    indexes: list[IndexRef]
    paths: list[bytes]
    is_empty: bool
    salt: str
    begin: Begin | None
    origins: list[str]
    first: int = 0


class StepJobs:
    """The job of one run as the steps get it that read one index each: of many thousand indexes they know their own."""

    def __init__(self) -> None:
        self._shared: SharedJob | None = None

    def encoded(self, job: Job, number: int) -> bytes:
        """The job with the index at a position, an encoded `SharedJob`; `job` is the same for all steps."""
        if self._shared is None:
            self._shared = share(job)
        shared, one = self._shared, slice(number, number + 1)
        return encoded(replace(shared, indexes=shared.indexes[one], paths=shared.paths[one], first=number))


def require_shareable(indexes: Iterable[IndexRef], settings: Settings) -> None:
    """Check that there is Dask, and that its workers can get all they need without a secret on its way.

    Raises:
        SettingsInvalid: a URL may hold one, or the database is that of this machine.
    """
    if find_spec("distributed") is None:
        raise SettingsInvalid("--scheduler needs Dask, which is not installed\npip install 'seed-registry[dask]'")
    for index in indexes:
        if index.kind == "url" and index.path != index.ledger_name:
            raise SettingsInvalid(
                f"{index.display_name}: its URL has a password or a query, which may be a signature, and --scheduler "
                "sends no secret to workers\ngive the workers the secret in their environment "
                "(SEED_REGISTRY_HEADER='Authorization: …', or what its file system reads there), or use --processes"
            )
    if choose_url(settings.database_url) is None:
        raise SettingsInvalid(
            "the workers of a cluster cannot reach the embedded server\n"
            "name a database with --database-url or DATABASE_URL, here and in the environment of each worker"
        )


def share(job: Job) -> SharedJob:
    """The job for the workers of a cluster."""
    own = Settings()
    settings = replace(
        job.settings,
        database_url=own.database_url,
        headers=own.headers,
        scheduler=own.scheduler,
        rejects=own.rejects,
        source_cache=own.source_cache,
        concurrency=job.settings.workers,
    )
    indexes = [replace(index, path="") for index in job.indexes]
    paths = [os.fsencode(_absolute(index)) for index in job.indexes]
    origins = sorted({found for index in job.indexes if (found := origin(index.path))})
    return SharedJob(settings, indexes, paths, job.is_empty, job.salt, job.begin, origins)


def job_of_worker(run_id: str, shared: bytes, worker: str) -> Job:
    """The job as a worker performs it, completed from its environment.

    Raises:
        ClusterUnavailable: there is no database in its environment.
        SettingsInvalid: what is there is malformed.
    """
    job = decoded(shared, SharedJob)
    indexes = [replace(index, path=os.fsdecode(path)) for index, path in zip(job.indexes, job.paths, strict=True)]
    headers = headers_of_worker()
    require_one_origin_each(headers, job.origins)
    return Job(
        run_id=run_id,
        settings=replace(job.settings, headers=headers),
        indexes=indexes,
        url=url_of_worker(),
        is_empty=job.is_empty,
        salt=job.salt,
        parent=0,
        begin=job.begin,
        worker=worker,
        first=job.first,
    )


def url_of_worker() -> DatabaseUrl:
    """The URL of the database in the environment of this worker.

    Raises:
        ClusterUnavailable: there is none.
        SettingsInvalid: it is malformed.
    """
    named = os.environ.get(_URL_VARIABLE)
    url = choose_url(DatabaseUrl(named) if named else None)
    if url is None:
        raise ClusterUnavailable(
            "there is no database in its environment\n"
            "start the workers with DATABASE_URL, or with PGHOST, PGDATABASE and so on"
        )
    return url


async def require_same(url: DatabaseUrl, wanted: str, pooler: PoolerName = "auto") -> None:
    """Check that the database of this worker is that of the command, by their fingerprints.

    Raises:
        ClusterUnavailable: it is not.
        DatabaseUnavailable: there is no connection.
    """
    async with session(url, pooler=pooler) as connection:
        found = await fingerprint(connection)
    if not is_same_database(found, wanted):
        raise ClusterUnavailable(
            f"its database {url} is another one than that of this command\n"
            "start the workers with the DATABASE_URL of this command"
        )


def require_version(version: str) -> None:
    """Check that a run is one of this version of the program.

    Raises:
        ClusterUnavailable: it is not.
    """
    if version != __version__:
        raise ClusterUnavailable(
            f"this worker has seed-registry {__version__}, and the run is one of {version}\n"
            f"pip install 'seed-registry[dask]=={version}' there"
        )


def headers_of_worker() -> tuple[Header, ...]:
    """The headers in the environment of this worker.

    Raises:
        SettingsInvalid: one is malformed.
    """
    return parse_headers(line for line in os.environ.get(_HEADER_VARIABLE, "").splitlines() if line.strip())


def _absolute(index: IndexRef) -> str:
    return os.path.abspath(index.path) if index.kind == "file" else index.path  # noqa: PTH100  # no link is followed
