"""What a measurement found: ours beside its floor, judged by a ratio or a bound, never by a clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median
from typing import Any, Final

COLUMNS: Final = ("what", "floor", "ours", "ratio (range)", "target", "met")


class Bound(Enum):
    """Which side of a target is the good one."""

    AT_LEAST = "≥"
    AT_MOST = "≤"


@dataclass(frozen=True)
class Target:
    """What a result has to reach: its ratio, or ours itself where it has no ratio."""

    bound: Bound
    value: float

    def is_met_by(self, measured: float) -> bool:
        """Whether `measured` is on the good side."""
        if self.bound is Bound.AT_LEAST:
            return measured >= self.value
        return measured <= self.value


def at_least(value: float) -> Target:
    """More is better."""
    return Target(Bound.AT_LEAST, value)


def at_most(value: float) -> Target:
    """Less is better."""
    return Target(Bound.AT_MOST, value)


@dataclass(frozen=True)
class Result:
    """One line of the report.

    Attributes:
        floor, ours: medians, in `unit`.
        ratios: ours to floor, round by round; empty where a difference is judged, not a ratio.
        target: None: reported only.
    """

    what: str
    unit: str
    floor: float
    ours: float
    ratios: tuple[float, ...] = ()
    target: Target | None = None

    @classmethod
    def of_rounds(
        cls,
        what: str,
        unit: str,
        *,
        floor: Sequence[float],
        ours: Sequence[float],
        target: Target | None,
    ) -> Result:
        """Compare what was measured in turns, round by round: a slow minute slows both sides."""
        ratios = tuple(mine / theirs for mine, theirs in zip(ours, floor, strict=True))
        return cls(what, unit, median(floor), median(ours), ratios, target)

    @property
    def ratio(self) -> float | None:
        """The median ratio."""
        return median(self.ratios) if self.ratios else None

    @property
    def is_met(self) -> bool | None:
        """Whether the target is met; None without one."""
        measured = self.ours if self.ratio is None else self.ratio
        return self.target.is_met_by(measured) if self.target else None

    def as_row(self) -> tuple[str, ...]:
        """The cells under `COLUMNS`."""
        return (
            self.what,
            f"{self.floor:,.1f} {self.unit}",
            f"{self.ours:,.1f} {self.unit}",
            self._ratio_in_words(),
            f"{self.target.bound.value} {self.target.value:g}" if self.target else "",
            {True: "yes", False: "NO", None: ""}[self.is_met],
        )

    def as_json(self) -> dict[str, Any]:
        """The same for programs; `ratios` holds every round."""
        return {
            "what": self.what,
            "unit": self.unit,
            "floor": self.floor,
            "ours": self.ours,
            "ratio": self.ratio,
            "ratios": self.ratios,
            "target": self.target and f"{self.target.bound.value} {self.target.value:g}",
            "met": self.is_met,
        }

    def _ratio_in_words(self) -> str:
        if self.ratio is None:
            return ""
        return f"{self.ratio:.2f} ({min(self.ratios):.2f}-{max(self.ratios):.2f})"


def in_turns(rounds: int, *sides: Callable[[], float]) -> list[tuple[float, ...]]:
    """What each side measured, A B A B …; one tuple of `rounds` values for each side."""
    taken = [[side() for side in sides] for _ in range(rounds)]
    return list(zip(*taken, strict=True))


def as_table(results: Sequence[Result]) -> str:
    """The results as text in columns."""
    rows = [COLUMNS, *(result.as_row() for result in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
