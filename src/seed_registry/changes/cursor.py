"""The place of a reader in the feed of changes, as a short text."""

from __future__ import annotations

import base64
import binascii
import struct
from datetime import UTC, datetime, timedelta
from typing import Final, Self

import xxhash
from msgspec import Struct

from seed_registry.errors import SettingsInvalid
from seed_registry.escape import quote_text

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
# No text begins with a dash: it would look like a flag.
_START: Final = "c"
_NUMBERS: Final = struct.Struct(">qQ")
_CHECK_BYTES: Final = 2


class Cursor(Struct, frozen=True, order=True):
    """Behind which change a reader is: when its set ended, and its id."""

    ended_at: datetime
    id: int

    def __str__(self) -> str:
        """The cursor as a text of letters, digits, `-` and `_`."""
        numbers = _NUMBERS.pack((self.ended_at - _EPOCH) // _MICROSECOND, self.id)
        return _START + base64.urlsafe_b64encode(numbers + _check(numbers)).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a cursor.

        Raises:
            SettingsInvalid: it is none, or a part of one.
        """
        try:
            data = base64.b64decode(text.removeprefix(_START) + "==", b"-_", validate=True)
            numbers, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
            microseconds, id_ = _NUMBERS.unpack(numbers)
            found = cls(_EPOCH + microseconds * _MICROSECOND, id_)
        except (ValueError, OverflowError, binascii.Error, struct.error):
            found = None
        if found is None or not text.startswith(_START) or check != _check(numbers):
            raise SettingsInvalid(
                f"--after takes a cursor as `seed-registry changes --json` prints it with each change, got "
                f"{quote_text(text)}"
            )
        return found


def _check(numbers: bytes) -> bytes:
    """A part of a cursor is another place: with this it is an error."""
    return xxhash.xxh32_digest(numbers)[:_CHECK_BYTES]
