"""Find the cells of two benches that differ by more than their own noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from seed_registry.bench.results import Cell, CellResult, Environment, Results
from seed_registry.errors import SettingsInvalid
from seed_registry.escape import printable

# Smaller differences are no news, however small the noise: an update of the kernel makes as much.
FLOOR: Final = 0.05

Verdict = Literal["slower", "faster", "same", "only old", "only new"]


class Pair(Struct, frozen=True):
    """A cell in both benches.

    Attributes:
        old: seconds for a thousand records, the median; None where it was not measured.
        new: likewise.
        ratio: new to old; above 1 is slower.
        noise: by which part of `old` the two may differ without meaning anything; never less than `FLOOR`.
    """

    strategy: str
    batch_size: int
    concurrency: int
    changed: float | None
    index: str
    old: float | None
    new: float | None
    ratio: float | None
    noise: float | None
    verdict: Verdict


class Comparison(Struct, frozen=True):
    """Two benches; `environment` holds the facts that differ, old and new."""

    environment: dict[str, tuple[Any, Any]]
    cells: list[Pair]
    single_runs: bool

    @property
    def regressions(self) -> list[Pair]:
        """The cells that became slower."""
        return [pair for pair in self.cells if pair.verdict == "slower"]


def read_results(path: Path) -> Results:
    """What `bench --json` wrote.

    Raises:
        SettingsInvalid: it cannot be read, or is something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Results)
    except (OSError, ValueError, RecursionError) as exc:
        reason = getattr(exc, "strerror", None) or "it is no output of `seed-registry bench --json`"
        raise SettingsInvalid(f"--compare cannot use {printable(path)}: {reason}") from exc


def compare(old: Results, new: Results) -> Comparison:
    """Pair the cells by what they are, and judge each pair.

    Raises:
        SettingsInvalid: no cell was measured in both.
    """
    before, after = _measured(old), _measured(new)
    if not before.keys() & after.keys():
        raise SettingsInvalid(
            "--compare finds no cell that both files measured: strategy, batch size, concurrency, changed and the "
            "index have to be the same"
        )
    single = any(len(cells[cell].runs) < 2 for cells in (before, after) for cell in before.keys() & after.keys())  # noqa: PLR2004  # one has no spread
    pairs = [_judged(cell, before.get(cell), after.get(cell)) for cell in dict.fromkeys([*before, *after])]
    return Comparison(_differences(old.environment, new.environment), pairs, single)


def _measured(results: Results) -> dict[Cell, CellResult]:
    return {result.cell: result for result in results.cells if result.summary is not None}


def _judged(cell: Cell, before: CellResult | None, after: CellResult | None) -> Pair:
    """Slower or faster is what differs by more than the noise of both together, and by more than the floor."""
    old, old_noise = _seconds(before)
    new, new_noise = _seconds(after)
    if old is None or new is None:
        return Pair(
            **asdict(cell), old=old, new=new, ratio=None, noise=None, verdict="only new" if old is None else "only old"
        )
    noise = max((old_noise + new_noise) / old, FLOOR)
    verdict: Verdict = "same"
    if abs(new - old) > noise * old:
        verdict = "slower" if new > old else "faster"
    return Pair(**asdict(cell), old=old, new=new, ratio=new / old, noise=noise, verdict=verdict)


def _seconds(result: CellResult | None) -> tuple[float | None, float]:
    """The median for a thousand records, and half the range around it."""
    if result is None or result.summary is None:
        return None, 0.0
    thousands = max(result.summary.records, 1) / 1000
    return result.summary.seconds.median / thousands, result.summary.seconds.half_range / thousands


def _differences(old: Environment, new: Environment) -> dict[str, tuple[Any, Any]]:
    """What of the environment is not the same, apart from when it was."""
    before, after = _flat(old), _flat(new)
    return {
        name: (before.get(name), after.get(name))
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    }


def _flat(environment: Environment) -> dict[str, Any]:
    fields = {name: value for name, value in asdict(environment).items() if name not in ("started_at", "load_average")}
    del fields["packages"], fields["postgres_settings"]
    return fields | environment.packages | environment.postgres_settings
