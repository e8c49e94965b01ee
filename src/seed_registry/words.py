"""Numbers, sizes and durations in words."""

from __future__ import annotations

from collections.abc import Sequence


def counted(count: int, what: str, several: str = "") -> str:
    """A number of things: "1 record", "2,000 records"."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {several or what + 's'}"


def listed(names: Sequence[str], most: int) -> str:
    """Names, no more than so many of them: "a, b and 3 more"."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def size(count: float) -> str:
    """A number of bytes in decimal units: "1 byte", "4.0 MB"."""
    from rich.filesize import decimal  # noqa: PLC0415  # a quiet load does without rich

    return decimal(round(count))


def duration(seconds: float) -> str:
    """A time in three digits: "4.1 ms", "12.3 s", "2 min 05 s", "1 h 30 min"."""
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms" if seconds >= 0.01 else f"{seconds * 1e3:.1f} ms"  # noqa: PLR2004  # 10 ms
    if seconds < 100:  # noqa: PLR2004  # from there on minutes are easier to grasp
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"  # noqa: PLR2004  # three digits
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def guessed_size(count: float) -> str:
    """A size in two digits: "4 MB"."""
    return size(_two_digits(count)).replace(".0 ", " ")


def guessed_duration(seconds: float) -> str:
    """A time in two digits, a second at least: "5 s", "2 min 10 s"."""
    seconds = max(_two_digits(seconds), 1)
    return f"{seconds:g} s" if seconds < 100 else duration(seconds)  # noqa: PLR2004  # see above


def _two_digits(number: float) -> float:
    return float(f"{number:.2g}")
