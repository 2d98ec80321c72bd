"""Which sites answer: learnt from calls, settled by checks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.process import wait_until
from vault.objects.health import SiteHealth
from vault.objects.store import ObjectLocked, ObjectMissing, StoreUnavailable


class Store:
    """A store that answers as told."""

    def __init__(self, site: str) -> None:
        self.site = site
        self.is_away = False
        self.hangs = threading.Event()
        self.hangs.set()
        self.checks = 0

    def check(self) -> None:
        self.checks += 1
        self.hangs.wait(10)
        if self.is_away:
            raise StoreUnavailable(self.site, "away")

    def size(self, key: str) -> int:
        if key == "missing":
            raise ObjectMissing(self.site, "no such object")
        if key == "locked":
            raise ObjectLocked(self.site, None)
        if self.is_away or key == "odd":
            raise StoreUnavailable(self.site, "away")
        return 1

    def list(self, prefix: str = "", start_after: str = "") -> Iterator[Any]:
        yield "one"
        if self.is_away:
            raise StoreUnavailable(self.site, "away")


@pytest.fixture
def stores() -> dict[str, Store]:
    return {site: Store(site) for site in "ab"}


@pytest.fixture
def health(stores: dict[str, Store]) -> SiteHealth:
    """Not started: nothing is checked unless a test does."""
    return SiteHealth(stores)  # type: ignore[arg-type]


@pytest.fixture
def started(health: SiteHealth) -> Iterator[SiteHealth]:
    health.start()
    yield health
    health.stop()


def fails(health: SiteHealth, key: str = "x") -> None:
    with pytest.raises((StoreUnavailable, ObjectMissing, ObjectLocked)):
        health.stores["b"].size(key)


def test_a_site_that_fails_a_call_and_a_check_is_away_and_comes_back(
    started: SiteHealth, stores: dict[str, Store]
) -> None:
    told: list[str] = []
    started.on_return(told.append)
    assert started.up() == ["a", "b"]
    stores["b"].is_away = True
    fails(started)
    assert wait_until(lambda: not started.is_up("b"), 3)
    assert started.up() == ["a"]
    stores["b"].is_away = False
    assert wait_until(lambda: started.is_up("b"), 3)
    assert told == ["b"]


def test_one_odd_failure_is_a_doubt_that_the_next_check_ends(health: SiteHealth) -> None:
    fails(health, "odd")
    assert (health.is_up("b"), health.is_doubted("b")) == (True, True)
    assert health.confirm("b")
    assert not health.is_doubted("b")


@pytest.mark.parametrize("key", ["missing", "locked"])
def test_an_answer_that_names_an_object_is_no_doubt_of_the_site(
    health: SiteHealth, key: str
) -> None:
    fails(health, key)
    assert not health.is_doubted("b")


def test_a_listing_that_breaks_off_is_a_doubt(health: SiteHealth, stores: dict[str, Store]) -> None:
    stores["b"].is_away = True
    with pytest.raises(StoreUnavailable):
        list(health.stores["b"].list())
    assert health.is_doubted("b")


def test_a_site_is_doubted_until_a_check_that_hangs_has_ended(
    health: SiteHealth, stores: dict[str, Store]
) -> None:
    fails(health, "odd")
    stores["b"].hangs.clear()
    checking = threading.Thread(target=health.confirm, args=("b",))
    checking.start()
    assert wait_until(lambda: stores["b"].checks == 1, 3)
    assert health.is_doubted("b")
    stores["b"].hangs.set()
    checking.join(5)
    assert not health.is_doubted("b")


def test_callers_that_come_while_one_checks_share_its_answer(
    health: SiteHealth, stores: dict[str, Store]
) -> None:
    stores["b"].hangs.clear()
    threads = [threading.Thread(target=health.confirm, args=("b",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert wait_until(lambda: stores["b"].checks == 1, 3)
    time.sleep(0.05)
    stores["b"].hangs.set()
    for thread in threads:
        thread.join(5)
    assert stores["b"].checks == 1


def test_one_site_that_hangs_does_not_hold_up_the_news_of_the_other_for_long(
    started: SiteHealth, stores: dict[str, Store]
) -> None:
    stores["b"].is_away = True
    assert wait_until(lambda: not started.is_up("b"), 10)
    assert started.is_up("a")


def test_a_site_that_stays_away_is_told_of_once(
    started: SiteHealth, stores: dict[str, Store], caplog: pytest.LogCaptureFixture
) -> None:
    stores["b"].is_away = True
    fails(started)
    assert wait_until(lambda: stores["b"].checks > 3, 8)
    assert [r.message for r in caplog.records].count("a site is away: site b: away") == 1


def test_a_defect_in_a_check_does_not_end_the_checks(
    started: SiteHealth, stores: dict[str, Store]
) -> None:
    def broken(_site: str) -> None:
        raise ValueError("a defect")

    started.on_return(broken)
    for _ in range(2):
        stores["b"].is_away = True
        fails(started)
        assert wait_until(lambda: not started.is_up("b"), 3)
        stores["b"].is_away = False
        assert wait_until(lambda: started.is_up("b"), 3)
