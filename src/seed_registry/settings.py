"""The settings of a load: defaults, ranges, and the flags that set them. Values are checked when they are made."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from msgspec import Struct, field
from msgspec.structs import replace

from seed_registry.errors import SettingsInvalid
from seed_registry.headers import Header
from seed_registry.key_hashes import KeyPart

# Real records average 4 KB; 500 of them or 4 MiB measured best, and more spills Postgres' 8 MB of temp_buffers.
BATCH_SIZE = 500
BATCH_BYTES = 4 << 20
# Above this a "record" is an attack or a mistake: the longest real one measures 195 KB.
MAX_RECORD_BYTES = 16 << 20
# Sessions of a load by one process, and in each of several.
_WORKERS, _WORKERS_OF_A_PROCESS = 4, 2
# The map source_key -> id lives in memory; all the world's portals are some thousands.
MAX_SOURCES = 200_000
# A percentage of rejects does not stop a run before this many records were read; at its end any number counts.
PERCENTAGE_AFTER_RECORDS = 1_000
# Of fewer assets a percentage says nothing: then this many may be retired.
PERCENTAGE_FROM_ASSETS = 20
MOST_RETIRED_OF_FEW = 5

# As many processes as there are cores.
AUTO = 0

PoolerName = Literal["auto", "none", "transaction"]
# A tag of BCP 47 (https://www.rfc-editor.org/rfc/rfc5646).
_LANGUAGE: Final = "[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{1,8}){0,9}"
DialectName = Literal[
    "seed",
    "directory",
    "discovery",
    "views",
    "data-json",
    "ckan",
    "arcgis-hub",
    "opendatasoft",
    "udata",
    "dataverse",
    "dcat-ap",
]

# The sections of the help.
INPUT: Final = "What to load"
DATABASE: Final = "Database"
THROUGHPUT: Final = "Throughput"
LIMITS: Final = "Bad records and limits"
SAFETY: Final = "Safety"
OUTPUT: Final = "Output"

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
        SettingsInvalid: the text is not a size.
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


def format_bytes(size: int) -> str:
    """Write a size as `parse_bytes` reads it: in MiB where that is exact."""
    return f"{size >> 20}MiB" if size % (1 << 20) == 0 else str(size)


def parse_processes(text: str) -> int:
    """Read a number of processes; `auto` is 0, which stands for all cores.

    Raises:
        SettingsInvalid: it is neither.
    """
    if text.strip().lower() == "auto":
        return AUTO
    if not re.fullmatch(r"\s*\d{1,6}\s*", text):
        raise SettingsInvalid(f"--processes takes a number like 8, or auto, got {text!r}")
    return int(text)


class MaxRejects(Struct, frozen=True):
    """How many rejects end a run: a number of records, or a percentage of those read."""

    records: int | None = None
    percent: float | None = 10.0

    @classmethod
    def parse(cls, text: str) -> Self:
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


class MaxRetire(Struct, frozen=True):
    """How many assets a run may retire, of one source and in total: a number, or a percentage of those held."""

    assets: int | None = None
    percent: float | None = 10.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `100` or `2.5%`.

        Raises:
            SettingsInvalid: it is neither.
        """
        try:
            limit = MaxRejects.parse(text)
        except SettingsInvalid:
            raise SettingsInvalid(
                f"--max-retire takes a number like 100 or a percentage like 2.5%, got {text!r}"
            ) from None
        return cls(limit.records, limit.percent)

    def exceeded(self, unlisted: int, held: int) -> bool:
        """Whether `unlisted` of the assets `held` are too many; of all of them 100% never is."""
        if self.assets is not None:
            return unlisted > self.assets
        assert self.percent is not None
        if self.percent >= 100:  # noqa: PLR2004  # a hundred percent
            return False
        if held < PERCENTAGE_FROM_ASSETS:
            return unlisted > MOST_RETIRED_OF_FEW
        return unlisted * 100 > held * self.percent

    def __str__(self) -> str:
        return str(self.assets) if self.assets is not None else f"{self.percent:g}%"


def parse_columns(texts: Iterable[str]) -> dict[str, str]:
    """Read texts like `assets.asset_key=external_id`.

    Raises:
        SettingsInvalid: one has no `=`.
    """
    columns = {}
    for text in texts:
        field_, equals, column = text.partition("=")
        if not (equals and column):
            raise SettingsInvalid(f"--column takes TABLE.FIELD=COLUMN like assets.asset_key=external_id, got {text!r}")
        columns[field_] = column
    return columns


def parse_headers(texts: Iterable[str]) -> tuple[Header, ...]:
    """Read texts as `Header.parse` does."""
    return tuple(map(Header.parse, texts))


class Flag(Struct, frozen=True):
    """How a field of `Settings` is set on the command line, and the range of its values.

    Attributes:
        help: the text of `--help`.
        panel: the section of `--help` it is in.
        name: of the flag, without its dashes; empty if it is the field's.
        metavar: how `--help` calls the value.
        range: the lowest and the highest value, both allowed.
        parse: makes the value from a text, or from several where the flag `is_repeated`.
        variable: an environment variable besides SEED_REGISTRY_<NAME>.
        is_rare: whether the help on one screen only names the flag.
    """

    help: str
    panel: str
    metavar: str | None = None
    name: str = ""
    range: tuple[int, int] | None = None
    parse: Callable[[Any], Any] | None = None
    is_repeated: bool = False
    variable: str | None = None
    is_rare: bool = False


class Settings(Struct, frozen=True, kw_only=True):
    """The options of a load. Every field has a default that suits a first try.

    Raises:
        SettingsInvalid: a value is out of range; the message names the flag.
    """

    database_url: Annotated[
        DatabaseUrl | None,
        Flag(
            "URL or embedded [default: PG* variables, else embedded]",
            DATABASE,
            "URL",
            parse=DatabaseUrl,
            variable="DATABASE_URL",
        ),
    ] = None
    pooler: Annotated[
        PoolerName,
        Flag(
            "Pooler in front of the database: auto, none (direct or session pooling) or transaction.",
            DATABASE,
            "KIND",
            is_rare=True,
        ),
    ] = "auto"
    batch_size: Annotated[int, Flag("Records per batch.", THROUGHPUT, range=(1, 100_000))] = BATCH_SIZE
    batch_bytes: Annotated[
        int, Flag("Bytes per batch.", THROUGHPUT, "SIZE", range=(1 << 10, 256 << 20), parse=parse_bytes, is_rare=True)
    ] = BATCH_BYTES
    # None: `workers`
    concurrency: Annotated[
        int | None,
        Flag("Sessions that write [default: 4, or 2 a process]", THROUGHPUT, range=(1, 256)),
    ] = None
    # 0: as many as there are cores, or half of them where the server is on this machine
    processes: Annotated[
        int,
        Flag(
            "Processes that load; auto: one for each core.",
            THROUGHPUT,
            "N|auto",
            range=(0, 1_024),
            parse=parse_processes,
        ),
    ] = 1
    # tcp://HOST:PORT or tls://HOST:PORT
    scheduler: Annotated[
        str | None,
        Flag("Of the Dask cluster that loads, like tcp://host:8786.", THROUGHPUT, "URL", is_rare=True),
    ] = None
    shard_bytes: Annotated[
        int,
        Flag(
            "Of an index that several processes load, what one takes at a time.",
            THROUGHPUT,
            "SIZE",
            range=(64 << 10, 1 << 40),
            parse=parse_bytes,
            is_rare=True,
        ),
    ] = 256 << 20
    defer_indexes: Annotated[
        bool,
        Flag("Of a first load: build indexes and check keys after the data.", THROUGHPUT, is_rare=True),
    ] = False
    dry_run: Annotated[bool, Flag("Write nothing; print what a load would do.", SAFETY)] = False
    # None: detected
    dialect: Annotated[DialectName | None, Flag("The shape of the index, if detection fails.", INPUT, "NAME")] = None
    headers: Annotated[
        tuple[Header, ...],
        Flag(
            "Sent with requests for URLs; repeat it for more.",
            INPUT,
            "'NAME: VALUE'",
            name="header",
            parse=parse_headers,
            is_repeated=True,
            is_rare=True,
        ),
    ] = ()
    domain: Annotated[str | None, Flag("Host of the portal; overrides what the records suggest.", INPUT, "HOST")] = None
    # None: English, then the portal's first
    language: Annotated[
        str | None,
        Flag("Of texts in several languages: the first that there is, like de-CH,fr.", INPUT, "CODES", is_rare=True),
    ] = None
    # Of sources that are created; None: the dialect's
    provider: Annotated[
        str | None, Flag("The portal software, if the dialect does not imply it.", INPUT, "NAME", is_rare=True)
    ] = None
    records_at: Annotated[
        str | None,
        Flag("Path of the array of records, like result.results or groups[].datasets.", INPUT, "PATH", is_rare=True),
    ] = None
    keys: Annotated[
        KeyPart,
        Flag("Only the assets of one part of the keys, like 3/8.", INPUT, "K/N", parse=KeyPart.parse, is_rare=True),
    ] = KeyPart()
    derive_sources: Annotated[bool, Flag("Create sources that the index does not list.", INPUT, is_rare=True)] = False
    schema: str = "registry"  # of the tables
    # By the field, like assets.asset_key
    columns: Annotated[
        Mapping[str, str],
        Flag(
            "The column of a field in a table of yours; repeat it for more.",
            DATABASE,
            "TABLE.FIELD=COLUMN",
            name="column",
            parse=parse_columns,
            is_repeated=True,
            is_rare=True,
        ),
    ] = field(default_factory=dict)
    full: Annotated[bool, Flag("Compare values, not content hashes.", INPUT, is_rare=True)] = False
    # None: a file of this run's in the home directory
    rejects: Annotated[
        str | None, Flag("The file for rejected records [default: a new one]", LIMITS, "FILE", is_rare=True)
    ] = None
    complete: Annotated[bool, Flag("Exit with 4 if an index is known to be incomplete.", SAFETY, is_rare=True)] = False
    max_rejects: Annotated[MaxRejects, Flag("Exit with 3 above this.", LIMITS, "N|P%", parse=MaxRejects.parse)] = (
        MaxRejects()
    )
    # 255 MiB is where jsonb itself ends: https://www.postgresql.org/docs/current/datatype-json.html
    max_record_bytes: Annotated[
        int, Flag("Reject longer records.", LIMITS, "SIZE", range=(1 << 10, 255 << 20), parse=parse_bytes, is_rare=True)
    ] = MAX_RECORD_BYTES
    max_unpacked_bytes: Annotated[
        int | None,
        Flag(
            "Stop when a compressed index holds more [default: 1 GiB and 400 times its size]",
            LIMITS,
            "SIZE",
            range=(1 << 10, 1 << 60),
            parse=parse_bytes,
            is_rare=True,
        ),
    ] = None
    max_sources: Annotated[
        int, Flag("Stop when there are more sources.", LIMITS, range=(1, 100_000_000), is_rare=True)
    ] = MAX_SOURCES
    resume: Annotated[bool, Flag("Continue a run of the same command that ended early.", SAFETY)] = True
    retry_for_seconds: Annotated[
        float,
        Flag(
            "Retry transient failures (lost connection, deadlock) for up to SECONDS.",
            SAFETY,
            "SECONDS",
            name="retry-for",
            range=(0, 86_400),
            is_rare=True,
        ),
    ] = 300.0
    io_timeout_seconds: Annotated[
        float,
        Flag(
            "The longest that one statement of a batch may take.",
            SAFETY,
            "SECONDS",
            name="io-timeout",
            range=(1, 86_400),
            is_rare=True,
        ),
    ] = 300.0
    verify: Annotated[bool, Flag("Check the database afterwards.", SAFETY)] = True
    verify_sample: Annotated[
        int,
        Flag("Assets to compare field by field after a load.", SAFETY, name="sample", range=(0, 10_000), is_rare=True),
    ] = 5
    source_cache: Annotated[
        str | None, Flag("File that keeps the sources' ids between runs.", SAFETY, "FILE", is_rare=True)
    ] = None
    keep_going: Annotated[bool, Flag("Load the others when an index is bad.", INPUT, is_rare=True)] = False
    only_newer: Annotated[
        bool, Flag("Leave rows that the portal updated later than their records.", SAFETY, is_rare=True)
    ] = False
    retire: Annotated[bool, Flag("Mark assets that their portals no longer list.", SAFETY)] = False
    max_retire: Annotated[
        MaxRetire,
        Flag(
            "With --retire: retire nothing, and exit with 3, above this, of one source or in total.",
            SAFETY,
            "N|P%",
            parse=MaxRetire.parse,
            is_rare=True,
        ),
    ] = MaxRetire()
    retire_despite_rejects: Annotated[
        bool, Flag("With --retire: also where the key of a rejected record is not known.", SAFETY, is_rare=True)
    ] = False
    history: Annotated[bool, Flag("Record what changes, for changes and undo.", SAFETY)] = False
    digest: Annotated[bool, Flag("Print the digest of the registry afterwards.", OUTPUT, is_rare=True)] = False

    @property
    def workers(self) -> int:
        """How many sessions write at the same time, in one process."""
        return self.concurrency or (_WORKERS_OF_A_PROCESS if self.is_sharded else _WORKERS)

    @property
    def is_sharded(self) -> bool:
        """Whether several processes load, of this machine or of a cluster."""
        return self.processes != 1 or self.scheduler is not None

    def __post_init__(self) -> None:
        _check_ranges(self)
        _check_limits(self)
        _check_shards(self)
        if not isinstance(self.database_url, DatabaseUrl | None):
            raise SettingsInvalid("database_url takes a DatabaseUrl, which does not print its password")
        if not all(isinstance(header, Header) for header in self.headers):
            raise SettingsInvalid("headers takes Header.parse('Name: value'), which does not print its value")
        if self.domain is not None and not re.fullmatch(r"[^\s/]{1,253}", self.domain):
            raise SettingsInvalid(f"--domain takes a host name like data.example.org, got {self.domain!r}")
        if self.language is not None and not re.fullmatch(rf"{_LANGUAGE}(, ?{_LANGUAGE}){{0,19}}", self.language):
            raise SettingsInvalid(f"--language takes codes like en or de-CH,fr, got {self.language!r}")
        if self.records_at is not None and not all(self.records_at.split(".")):
            raise SettingsInvalid(f"--records-at takes a path like result.results, got {self.records_at!r}")
        for name in self.columns:
            if not re.fullmatch(r"(sources|assets)\.[a-z_]+", name):
                raise SettingsInvalid(
                    f"--column takes TABLE.FIELD=COLUMN like assets.asset_key=external_id, got {name!r}"
                )


def _check_limits(settings: Settings) -> None:
    if not isinstance(settings.max_rejects, MaxRejects):
        raise SettingsInvalid(f"max_rejects takes MaxRejects.parse({str(settings.max_rejects)!r})")
    if not isinstance(settings.max_retire, MaxRetire):
        raise SettingsInvalid(f"max_retire takes MaxRetire.parse({str(settings.max_retire)!r})")
    if not isinstance(settings.keys, KeyPart):
        raise SettingsInvalid(f"keys takes KeyPart.parse({str(settings.keys)!r})")


def _check_shards(settings: Settings) -> None:
    if settings.defer_indexes and settings.is_sharded:
        flag = "--processes" if settings.scheduler is None else "--scheduler"
        raise SettingsInvalid(
            f"--defer-indexes needs one process, which compares all keys: leave out {flag} or --defer-indexes"
        )
    if settings.scheduler is None:
        return
    # No user, password or query: this URL is printed.
    if not re.fullmatch(r"(tcp|tls)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}", settings.scheduler):
        raise SettingsInvalid(
            "--scheduler takes the address that `dask scheduler` prints, like tcp://scheduler.example.org:8786 or "
            "tls://scheduler.example.org:8786"
        )
    if settings.processes != 1:
        raise SettingsInvalid(
            "--scheduler and --processes exclude each other: the cluster has its own workers\n"
            "leave one of them out: give --processes 1, or unset SEED_REGISTRY_SCHEDULER"
        )


def _check_ranges(settings: Settings) -> None:
    for name, flag in FLAGS.items():
        value = getattr(settings, name)
        if flag.range is None or (value is None and _DEFAULTS[name] is None):
            continue
        low, high = flag.range
        if not isinstance(value, int | float):
            raise SettingsInvalid(f"--{flag.name} takes a number, got {value!r}")
        if not low <= value <= high:
            raise SettingsInvalid(f"--{flag.name} must be from {low:,} to {high:,}, got {value:,}")


# The type of each field with its `Flag`, which is why this module does not postpone its annotations.
TYPES: Final[Mapping[str, Any]] = Settings.__annotations__
FLAGS: Final[Mapping[str, Flag]] = {
    name: replace(flag, name=flag.name or name.replace("_", "-"))
    for name, hint in TYPES.items()
    for flag in getattr(hint, "__metadata__", ())
}
_DEFAULTS: Final = dict(zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True))
