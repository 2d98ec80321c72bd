"""Amounts in words: never more than there is, and never a unit that nobody reads."""

from __future__ import annotations

import pytest

from api.commands import amounts


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (8 * 2**30, "8.0 GiB"),
        (3 * 2**40, "3.0 TiB"),
        (5000 * 2**50, "5000.0 PiB"),
    ],
)
def test_a_size_has_the_unit_that_fits(size_bytes: int, words: str) -> None:
    assert amounts.size(size_bytes) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""),
        (0, "0 s"),
        (0.4, "0 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3601, "1 h"),
        (2 * 86400 + 3 * 3600 + 59, "2 d 3 h"),
    ],
)
def test_an_age_has_at_most_two_units(seconds: float | None, words: str) -> None:
    assert amounts.age(seconds) == words


@pytest.mark.parametrize(
    ("part", "words"),
    [(0.0, "0 %"), (2 / 3, "66.6 %"), (0.99999, "99.9 %"), (1.0, "100 %")],
)
def test_a_share_is_100_per_cent_only_if_nothing_is_missing(part: float, words: str) -> None:
    assert amounts.share(part) == words


def test_one_is_not_many() -> None:
    assert amounts.count(1, "copy", "copies") == "1 copy"
    assert amounts.count(2, "copy", "copies") == "2 copies"
    assert amounts.count(0, "upload") == "0 uploads"
