"""Moments as people write them: ISO 8601 with an offset from UTC, or a bare date, which is a day in UTC."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import typer


def beginning(written: str) -> datetime:
    """A moment; of a bare date its start. Raises: typer.BadParameter."""
    return _moment(written, timedelta())


def end(written: str) -> datetime:
    """A moment; of a bare date its end, which is the next day's start. Raises: typer.BadParameter."""
    return _moment(written, timedelta(days=1))


def _moment(written: str, of_a_day: timedelta) -> datetime:
    try:
        day = _day(written)
        if day is not None:
            return datetime.combine(day, time(), UTC) + of_a_day
        found = datetime.fromisoformat(written)
    except (ValueError, OverflowError):
        raise typer.BadParameter("a moment is written 2026-12-31 or 2026-12-31T18:00Z") from None
    if found.tzinfo is None:
        raise typer.BadParameter(
            "a time says its offset from UTC: 2026-12-31T18:00Z, …T18:00+08:00"
        )
    return found.astimezone(UTC)


def _day(written: str) -> date | None:
    try:
        return date.fromisoformat(written)
    except ValueError:
        return None
