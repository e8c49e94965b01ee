"""Choose, read and change how the server compresses the large values of a table.

Postgres compresses values of rows longer than 2 KB; with pglz that is a third to a half of the server's work in a load.
Values that are still too long are moved out of line, which costs as well.
https://www.postgresql.org/docs/current/storage-toast.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, Literal

import asyncpg
from msgspec import Struct
from msgspec.structs import replace

from seed_registry.errors import SettingsInvalid
from seed_registry.postgres.identifiers import quoted
from seed_registry.postgres.sql_files import statement

# What an operator can choose: `auto` leaves it to `choose_method`, `none` stores values as they are, in whole rows.
Compression = Literal["auto", "lz4", "pglz", "none"]
# What a column is created with; `default` names none, so that `default_toast_compression` decides.
Method = Literal["default", "lz4", "pglz", "none"]

# What follows the type of a column in CREATE TABLE; STORAGE may only stand there from Postgres 16 on.
CLAUSES: Final[dict[Method, str]] = {"default": "", "lz4": " compression lz4", "pglz": " compression pglz", "none": ""}


class Storage(Struct, frozen=True):
    """How a table, or some of its partitions, store new rows.

    Attributes:
        tables: the schema-qualified, quoted names.
        methods: how values are compressed, lz4, pglz or none, by column.
        target_bytes: toast_tuple_target: longer rows are compressed and moved out of line until they fit.
        largest_target_bytes: the largest one that the server accepts.
    """

    tables: list[str]
    methods: Mapping[str, str]
    target_bytes: int
    largest_target_bytes: int

    @property
    def keeps_rows_whole(self) -> bool:
        """Whether a row that fits a page is neither compressed nor moved out of line."""
        return self.target_bytes >= self.largest_target_bytes

    @property
    def is_plain(self) -> bool:
        """Whether it is as `none` creates it: no value is compressed, and rows are kept whole."""
        return self.keeps_rows_whole and set(self.methods.values()) == {"none"}

    def __str__(self) -> str:
        methods = ", ".join(f"{name} {how}" for name, how in self.methods.items())
        return f"{methods}, toast_tuple_target {self.target_bytes}"


async def choose_method(connection: asyncpg.Connection[Any], wanted: Compression, *, is_embedded: bool) -> Method:
    """Return how a new table stores `raw`.

    `auto` is lz4 where the server has it, unless `default_toast_compression` is set to something else. Without lz4 it
    is `none` on the embedded server, which has no backups and standbys, and else the server's default: there larger
    tables also cost backups, write-ahead log and replication, so their operator has to choose `none`.

    Raises:
        SettingsInvalid: lz4 is chosen, and the server was built without it.
    """
    server = await _offered(connection)
    if wanted == "lz4" and not server["has_lz4"]:
        raise SettingsInvalid(
            "--compression lz4: this server was built without lz4\n"
            "take --compression none (more disk, less CPU) or --compression pglz (less disk, more CPU)"
        )
    if wanted == "auto":
        if server["has_lz4"]:
            return "default" if server["is_set_otherwise"] else "lz4"
        return "none" if is_embedded else "default"
    if wanted == "pglz" and not server["has_choice"]:
        return "default"  # the only one there
    return wanted


async def has_lz4(connection: asyncpg.Connection[Any]) -> bool:
    """Whether the server was built with lz4."""
    return bool((await _offered(connection))["has_lz4"])


async def _offered(connection: asyncpg.Connection[Any]) -> asyncpg.Record:
    server = await connection.fetchrow(statement("registry/compression_offered"))
    assert server is not None
    return server


async def storage(connection: asyncpg.Connection[Any], table: str, columns: Sequence[str]) -> list[Storage]:
    """Return how values that this session writes to these columns are stored, nothing if the table has none of them.

    It is one way, but for a table whose partitions differ.

    Args:
        connection: any session; its settings count.
        table: the schema-qualified, quoted name.
        columns: the names of columns, as the catalog has them.
    """
    rows = await connection.fetch(statement("registry/compression_used"), table, list(columns))
    found: list[Storage] = []
    for name, group in groupby(rows, itemgetter("table_name")):
        of_columns = list(group)
        methods = {row["column_name"]: row["method"] for row in of_columns}
        one = Storage([name], methods, of_columns[0]["target_bytes"], of_columns[0]["largest_target_bytes"])
        same = next((other for other in found if replace(other, tables=one.tables) == one), None)
        if same is None:
            found.append(one)
        else:
            same.tables.append(name)
    return found


def change(now: Storage, raw: str, method: Method) -> str:
    """Return the statement that changes how new rows are stored, one for each partition.

    `none` changes the whole table, as does the way back; other methods change one column.

    Args:
        now: how the large columns are stored so far.
        raw: the name of the column that gets the method.
        method: the new one.
    """
    if method == "none":
        actions = [
            f"alter column {quoted(name)} set storage external" for name, how in now.methods.items() if how != "none"
        ]
        if not now.keeps_rows_whole:
            actions.append(f"set (toast_tuple_target = {now.largest_target_bytes})")
    else:
        actions = [f"alter column {quoted(raw)} set compression {method}"]
        if now.methods[raw] == "none":
            plain = [name for name, how in now.methods.items() if how == "none"]
            actions += [f"alter column {quoted(name)} set storage extended" for name in plain]
            # with it, rows of less than a page stay uncompressed
            actions += ["reset (toast_tuple_target)"] if now.keeps_rows_whole else []
    return " ".join(f"alter table {table} {', '.join(actions)};" for table in now.tables)
