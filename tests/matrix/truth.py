"""Reads docs/permissions.md: the table is the truth, and knows nothing of the code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parents[2] / "docs" / "permissions.md"
NOBODY = "nobody signed in"

REFUSED = ("no", "hidden", "401")
REACH = ("yes", "own", "theirs")
CONDITIONS = ("step-up", "approval")


@dataclass(frozen=True)
class Cell:
    """What one cell says.

    Attributes:
        refusal: `no`, `hidden` or `401`; None where it is allowed to somebody.
        reach: `yes`, `own` or `theirs`.
        conditions: some of `step-up` and `approval`.
    """

    refusal: str | None
    reach: str
    conditions: frozenset[str]


@dataclass(frozen=True)
class Row:
    """One row: `method` and `path` as OpenAPI has them, what it is about, and a cell for each column."""

    method: str
    path: str
    about: str
    cells: Mapping[str, Cell]

    @property
    def name(self) -> str:
        """For people, and for the table of samples."""
        return f"{self.method} {self.path}" + (f" | {self.about}" if self.about else "")


def rows() -> tuple[Row, ...]:
    """Every row of the tables of routes."""
    found = []
    for columns, cells in _table_rows("Route"):
        method, _, path = cells[0].strip("`").partition(" ")
        by_column = dict(zip(columns[2:], map(_cell, cells[2:]), strict=True))
        found.append(Row(method, path, cells[1], by_column))
    return tuple(found)


def jobs() -> Mapping[str, tuple[str, str]]:
    """For each kind of job the route that starts it, and that route's permission."""
    rows = (cells for _, cells in _table_rows("Job"))
    return {cells[0].strip("`"): (cells[1].strip("`"), cells[2].strip("`")) for cells in rows}


def _table_rows(first_column: str) -> Iterator[tuple[list[str], list[str]]]:
    columns: list[str] = []
    for line in FILE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if not cells:
            columns = []
        elif not columns:
            columns = cells
        elif columns[0] == first_column and not set(line) <= set("|-"):
            yield columns, cells


def _cell(text: str) -> Cell:
    words = [word.strip() for word in text.split(",")]
    unknown = set(words) - {*REFUSED, *REACH, *CONDITIONS}
    assert not unknown, f"a cell says {text!r}, which the table does not explain"
    refusal = next((word for word in words if word in REFUSED), None)
    assert refusal is None or len(words) == 1, f"a cell says {text!r}, which contradicts itself"
    reach = [word for word in words if word in REACH] or ["yes"]
    assert len(reach) == 1, f"a cell says {text!r}, which contradicts itself"
    return Cell(refusal, reach[0], frozenset(words) & frozenset(CONDITIONS))
