"""Amounts in words for people: bytes, times, shares, counts."""

from __future__ import annotations

from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_KIB: Final = 1024

_SPANS: Final = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def size(size_bytes: int) -> str:
    """Like `3.4 MiB`; exact below 1 KiB."""
    amount, unit = float(size_bytes), 0
    # 1023.95 would be shown as 1024.0.
    while amount >= _KIB - 0.05 and unit < len(_UNITS) - 1:
        amount, unit = amount / _KIB, unit + 1
    return f"{amount:.1f} {_UNITS[unit]}" if unit else f"{size_bytes} B"


def age(seconds: float | None) -> str:
    """Like `2 d 3 h`, by its two largest units; empty for None."""
    if seconds is None:
        return ""
    left, found = round(seconds), list[str]()
    for length, name in _SPANS:
        count, left = divmod(left, length)
        if count or found:
            found.append(f"{count} {name}" if count else "")
    return " ".join(filter(None, found[:2])) or "0 s"


def share(part: float) -> str:
    """A share from 0 to 1 in per cent; never 100 % while something is missing."""
    return f"{int(part * 1000) / 10:g} %"


def count(number: int, one: str, many: str | None = None) -> str:
    """Like `1 copy`, `2 copies`."""
    return f"{number} {one if number == 1 else many or one + 's'}"
