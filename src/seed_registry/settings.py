"""Settings: everything a load can be told, checked when made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from msgspec import Struct, field

from seed_registry.errors import SettingsInvalid
from seed_registry.headers import Header

# Real records average 4 KB; 500 of them or 4 MiB measured best, and more spills Postgres' 8 MB of temp_buffers.
BATCH_SIZE = 500
BATCH_BYTES = 4 << 20
# Above this a "record" is an attack or a mistake: the longest real one measures 195 KB.
MAX_RECORD_BYTES = 16 << 20
# The map source_key -> id lives in memory; all the world's portals are some thousands.
MAX_SOURCES = 200_000
# A percentage of rejects does not stop a run before this many records were read; at its end any number counts.
PERCENTAGE_AFTER_RECORDS = 1_000

PoolerName = Literal["auto", "none", "transaction"]
DialectName = Literal["seed", "directory", "discovery", "views", "data-json", "ckan"]


_HOST = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(:[0-9]*)?")
# Instead of a URL: the embedded server, whatever the environment names.
EMBEDDED = "embedded"


class DatabaseUrl:
    """A database URL that does not print its password; `embedded` stands for the embedded server.

    Attributes:
        reveal: the URL.
        is_embedded: whether it is the embedded server's own: libpq's variables do not complete it.
    """

    __slots__ = ("is_embedded", "reveal")

    def __init__(self, url: str, *, is_embedded: bool = False) -> None:
        self.reveal = url
        self.is_embedded = is_embedded

    def __repr__(self) -> str:
        return f"DatabaseUrl({self})"

    def __str__(self) -> str:
        """The URL without user secrets: scheme, user, host, port and database only, no query."""
        if self.reveal == EMBEDDED:
            return EMBEDDED
        try:
            parts = urlsplit(self.reveal)
            host = parts.netloc.rpartition("@")[2]
            user = parts.username
            # A password with a bare "/", "?" or "#" ends the host too early; key=value pairs are no URL at all.
            behind = f"{parts.path}?{parts.query}#{parts.fragment}"
            # So does one with a bare "@", and what is behind that is no port.
            if not parts.scheme or "@" in behind or not all(map(_HOST.fullmatch, host.split(","))):
                return "***"
        except ValueError:
            return "***"
        text = urlunsplit((parts.scheme, f"{user}@{host}" if user else host, parts.path, "", ""))
        return text if parts.netloc else text.replace(":/", ":///", 1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DatabaseUrl) and other.reveal == self.reveal

    def __hash__(self) -> int:
        return hash(self.reveal)


def parse_bytes(text: str) -> int:
    """Read a size like `4MiB`, `500KB`, `1048576`.

    Raises:
        SettingsInvalid: it is none.
    """
    match = re.fullmatch(r"\s*(\d{1,18})\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if match is None:
        raise SettingsInvalid(f"a size looks like 4MiB, 500KB or 1048576, got {text!r}")
    power = " KMGT".index(match[2].upper() or " ")
    base = 1024 if match[3] else 1000
    size = int(match[1])
    for _ in range(power):
        size *= base
    return size


class MaxRejects(Struct, frozen=True):
    """How many rejects end a run: a number of records, or a percentage of those read."""

    records: int | None = None
    percent: float | None = 10.0

    @classmethod
    def parse(cls, text: str) -> MaxRejects:
        """Read `100` or `2.5%`.

        Raises:
            SettingsInvalid: it is neither.
        """
        match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d+)?)\s*(%?)\s*", text)
        if match and match[2] and float(match[1]) <= 100:  # noqa: PLR2004  # a hundred percent
            return cls(percent=float(match[1]))
        if match and not match[2] and match[1].isdigit():
            return cls(records=int(match[1]), percent=None)
        raise SettingsInvalid(f"--max-rejects takes a number like 100 or a percentage like 2.5%, got {text!r}")

    def exceeded(self, rejected: int, read: int, *, at_end: bool = False) -> bool:
        """Whether `rejected` of `read` records are too many; `at_end` if there are no more to come."""
        if self.records is not None:
            return rejected > self.records
        assert self.percent is not None
        return (at_end or read >= PERCENTAGE_AFTER_RECORDS) and rejected * 100 > read * self.percent

    def __str__(self) -> str:
        return str(self.records) if self.records is not None else f"{self.percent:g}%"


class Settings(Struct, frozen=True, kw_only=True):
    """What a load is told. Every field has a default that suits a first try.

    Raises:
        SettingsInvalid: a value is out of range; the message names the flag.
    """

    # None: DATABASE_URL, else what PGHOST, PGHOSTADDR, PGSERVICE or PGDATABASE name, else the embedded server
    database_url: DatabaseUrl | None = None
    pooler: PoolerName = "auto"  # what stands between us and the database
    batch_size: int = BATCH_SIZE  # records
    batch_bytes: int = BATCH_BYTES
    concurrency: int = 4  # workers, one connection each
    dry_run: bool = False
    dialect: DialectName | None = None  # None: detected
    domain: str | None = None  # the portal of records that name none
    language: str | None = None  # of texts that come in several, e.g. "en"; None: English, then the portal's first
    provider: str | None = None  # the portal software of sources that are created; None: what the dialect says
    records_at: str | None = None  # dotted path of the records' array, e.g. "result.results"
    derive_sources: bool = False
    schema: str = "registry"  # of the tables
    columns: Mapping[str, str] = field(default_factory=dict)  # {"assets.asset_key": "external_id"}
    full: bool = False  # compare values instead of trusting content hashes
    rejects: str | None = None  # path; None: a file of this run's in the home directory
    max_rejects: MaxRejects = MaxRejects()
    max_record_bytes: int = MAX_RECORD_BYTES
    max_unpacked_bytes: int | None = None  # of one index; None: 1 GiB and 400 times what was read of it
    max_sources: int = MAX_SOURCES
    resume: bool = True  # go on where a run of the same command ended early
    retry_for_seconds: float = 300.0  # how long what may pass is tried again, e.g. a lost connection
    io_timeout_seconds: float = 300.0  # the longest that the database may take for one statement of a batch
    complete: bool = False  # fail where a portal declares more records than the indexes hold
    headers: tuple[Header, ...] = ()  # sent with requests for URLs
    digest: bool = False  # of the registry, after the load
    verify: bool = True
    verify_sample: int = 5  # assets compared field by field after a load
    source_cache: str | None = None  # path
    keep_going: bool = False  # a bad index among several does not stop the others

    def __post_init__(self) -> None:
        _between("--batch-size", self.batch_size, 1, 100_000)
        _between("--batch-bytes", self.batch_bytes, 1 << 10, 256 << 20)
        _between("--concurrency", self.concurrency, 1, 256)
        # 255 MiB is where jsonb itself ends: https://www.postgresql.org/docs/current/datatype-json.html
        _between("--max-record-bytes", self.max_record_bytes, 1 << 10, 255 << 20)
        _between("--max-sources", self.max_sources, 1, 100_000_000)
        _between("--retry-for", self.retry_for_seconds, 0, 86_400)
        _between("--io-timeout", self.io_timeout_seconds, 1, 86_400)
        if self.max_unpacked_bytes is not None:
            _between("--max-unpacked-bytes", self.max_unpacked_bytes, 1 << 10, 1 << 60)
        _between("--sample", self.verify_sample, 0, 10_000)
        if not isinstance(self.max_rejects, MaxRejects):
            raise SettingsInvalid(f"max_rejects takes MaxRejects.parse({str(self.max_rejects)!r})")
        if not isinstance(self.database_url, DatabaseUrl | None):
            raise SettingsInvalid("database_url takes a DatabaseUrl, which does not print its password")
        if not all(isinstance(header, Header) for header in self.headers):
            raise SettingsInvalid("headers takes Header.parse('Name: value'), which does not print its value")
        if self.domain is not None and not re.fullmatch(r"[^\s/]{1,253}", self.domain):
            raise SettingsInvalid(f"--domain takes a host name like data.example.org, got {self.domain!r}")
        if self.language is not None and not re.fullmatch(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8}){0,9}", self.language):
            raise SettingsInvalid(f"--language takes a code like en or de-CH, got {self.language!r}")
        if self.records_at is not None and not all(self.records_at.split(".")):
            raise SettingsInvalid(f"--records-at takes a path like result.results, got {self.records_at!r}")
        for name in self.columns:
            if not re.fullmatch(r"(sources|assets)\.[a-z_]+", name):
                raise SettingsInvalid(
                    f"--column takes TABLE.FIELD=COLUMN like assets.asset_key=external_id, got {name!r}"
                )


def _between(flag: str, value: float, low: int, high: int) -> None:
    if not isinstance(value, int | float):
        raise SettingsInvalid(f"{flag} takes a number, got {value!r}")
    if not low <= value <= high:
        raise SettingsInvalid(f"{flag} must be from {low:,} to {high:,}, got {value:,}")
